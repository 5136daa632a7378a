"""`python -m benchmarks.variants`: attention backends and modes of `torch.compile`, side by side, for a training step of an arm.

On a GPU it says what `model.config.attn_implementation` and `training.compile_mode` should be. A variant that cannot run here is named
with its error. In the shape of `python -m benchmarks`, whose options for it this takes.
"""

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import torch

from arche_mdlm.compiling_mdlm import can_compile
from arche_mdlm.configuration.checks import COMPILE_MODES
from arche_mdlm.training.command_line import exit_status
from arche_mdlm.training.loop.provenance import portable
from benchmarks.__main__ import make_shape, parse
from benchmarks.report import Report, describe_machine, note, write
from benchmarks.timing import side_by_side
from benchmarks.train_step import Shape, our_step

RESULTS = Path(__file__).parent / "results" / "variants.json"
ATTENTIONS = ("sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3")
REFERENCE = "sdpa"  # not compiled


def with_attention(shape: Shape, attention: str) -> Shape:
    def change(preset):
        config = preset.model.config | {"attn_implementation": attention}
        return replace(preset, model=replace(preset.model, config=config))

    return replace(shape, mdlm=change(shape.mdlm), ar=change(shape.ar))


def contestants(shape: Shape, arm: str, attentions, modes, dtype: str, device) -> tuple[dict, dict[str, str]]:
    """(steps that run, why others do not); each runs once here, which is when a compiler works."""
    made, failed = {}, {}
    for attention in attentions:
        for mode in (None, *modes):
            name = attention if mode is None else f"{attention}, {mode}"
            note(f"{arm}: {name}")
            options = {} if mode is None else {"mode": mode}
            try:
                made[name] = our_step(with_attention(shape, attention), arm, dtype, device, mode is not None, **options)
                made[name][0]()
            except Exception as error:  # backends raise many kinds of errors where they are unsupported
                made.pop(name, None)
                failed[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    return made, failed


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.variants", add_help=False)
    parser.add_argument("--arms", nargs="+", choices=("mdlm", "ar"), default=["mdlm", "ar"])
    parser.add_argument(
        "--attentions", nargs="+", choices=ATTENTIONS, default=["sdpa", "flex_attention", "flash_attention_2"]
    )
    parser.add_argument("--modes", nargs="*", choices=COMPILE_MODES, default=["default", "max-autotune-no-cudagraphs"])
    given = sys.argv[1:] if argv is None else argv
    own, rest = parser.parse_known_args(given)
    args = parse(rest)
    device = torch.device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    dtype = "bfloat16" if args.dtype == "bfloat16" or (args.dtype == "auto" and device.type == "cuda") else "float32"
    modes = own.modes if can_compile(device) else []
    report = Report(shlex.join(["python", "-m", "benchmarks.variants", *portable(given)]))
    machine, shape, failures = describe_machine(device), make_shape(args), {}
    for arm in own.arms:
        attentions = [REFERENCE, *(one for one in own.attentions if one != REFERENCE)]
        steps, failures[arm] = contestants(shape, arm, attentions, modes, dtype, device)
        speed = side_by_side(steps, args.rounds, device)
        for name, per_second in speed.items():
            report.add(f"{arm}: {name}", per_second, speed[REFERENCE], "tokens/s", f"over {REFERENCE}, not compiled")
    for arm, found in failures.items():
        for name, error in found.items():
            print(f"{arm}: {name} does not run here: {error}")
    write(args.output if args.output.name != "latest.json" else RESULTS, report, machine,
          {"preset": args.preset, "batch_size": args.batch_size, "length": args.length, "rounds": args.rounds,
           "dtype_of_ours": dtype, "failed": failures})  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
