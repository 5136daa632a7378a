"""`python -m benchmarks`: one run of all comparisons, a table, and `benchmarks/results/latest.json`.

On a CPU the shape is a trunk of 10M parameters with GPT-2's vocabulary, 16 rows of 256 tokens; on a GPU it is that of the
preset, 12 layers of width 768 and 32 rows of 512. About 20 minutes on two cores.
"""

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path

from arche_mdlm.compiling_mdlm import can_compile
from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.training.command_line import exit_status
from arche_mdlm.training.loop.provenance import portable
from benchmarks import suites
from benchmarks.options import add_run_options, begin, check_rounds
from benchmarks.report import Report, write
from benchmarks.train_step import Shape, fastest_dtype

RESULTS = Path(__file__).parent / "results" / "latest.json"
_CPU_SHAPE = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6}
_CPU_SIZES = {"batch_size": 16, "length": 256, "sample_batch_size": 32}
_GPU_SIZES = {"batch_size": 32, "length": 512, "sample_batch_size": 1000}
_QUICK = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64,
          "batch_size": 4, "length": 16, "sample_batch_size": 2, "sample_length": 8, "sample_steps": 4, "few_steps": 2,
          "texts": 20}  # fmt: skip


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--only", nargs="+", choices=list(suites.ALL), default=list(suites.ALL), help="what to measure")
    add("--preset", default="controlled", help="preset family; both arms are measured: controlled, mini, arche-paper")
    for name, value in _CPU_SHAPE.items():
        add(f"--{name}", type=int, help=f"overrides the preset (on a CPU: {value})")
    add("--vocab_size", type=int, help="overrides the preset")
    add("--batch_size", type=int, help="rows per training step (CPU: 16, GPU: 32)")
    add("--length", type=int, help="canvas length of a training step in tokens (CPU: 256, GPU: 512)")
    add("--sample_batch_size", type=int, help="texts per batch of our sampler (CPU: 32, GPU: 1000)")
    add("--sample_length", type=int, default=128, help="tokens per sampled text (default: as in the paper)")
    add("--sample_steps", type=int, default=100, help="denoising steps (default: as in the paper)")
    add("--few_steps", type=int, default=16, help="denoising steps in the comparison with AR and its KV cache")
    add("--texts", type=int, default=1000, help="texts for the metrics")
    add(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="dtype of our steps; auto: the faster one",
    )
    add("--compile", choices=("auto", "yes", "no"), default="auto", help="measure our compiled layers too; auto: if there is "
        "a compiler and without --quick")  # fmt: skip
    add(
        "--quick",
        action="store_true",
        help="tiny sizes, only to check that everything runs; the figures are meaningless",
    )
    add_run_options(parser, RESULTS)
    args = parser.parse_args(argv)
    check_rounds(parser, args)
    fill = _GPU_SIZES if args.device.startswith("cuda") else _CPU_SIZES | _CPU_SHAPE
    for name, value in ({**fill, **_QUICK} if args.quick else fill).items():
        if args.quick or getattr(args, name) is None:
            setattr(args, name, value)
    return args


def make_shape(args: argparse.Namespace) -> Shape:
    changes = {f"model.config.{name}": getattr(args, name) for name in (*_CPU_SHAPE, "vocab_size")}
    mdlm, ar = (load_preset(f"{args.preset}-{arm}", changes) for arm in ("mdlm", "ar"))
    context = mdlm.model.config["max_position_embeddings"]
    for name in ("length", "sample_length"):
        if not 4 <= getattr(args, name) <= context:
            raise SystemExit(
                f"error: --{name} {getattr(args, name)} is not in 4 to {context}, the context of {args.preset}"
            )
    if args.vocab_size and mdlm.model.config.get("output_vocab_size"):
        raise SystemExit(f"error: --vocab_size {args.vocab_size} does not fit {args.preset}, which has a narrow head")
    return Shape(mdlm, ar, args.batch_size, args.length)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    (device, machine), shape = begin(args), make_shape(args)
    report = Report(shlex.join(["python", "-m", "benchmarks", *portable(sys.argv[1:] if argv is None else argv)]))
    dtype, trials = args.dtype, None
    compiles = args.compile == "yes" or (args.compile == "auto" and not args.quick and can_compile(device))
    if dtype == "auto" and {"training", "memory"} & set(args.only):
        dtype, trials = fastest_dtype(shape, device)
    for name in args.only:
        suites.ALL[name](suites.Run(args, report, shape, "float32" if dtype == "auto" else dtype, device, compiles))
    settings = {
        "preset": args.preset,
        "model": dataclasses.asdict(shape.mdlm.model),
        **{
            name: getattr(args, name)
            for name in ("batch_size", "length", "sample_batch_size", "sample_length", "rounds")
        },
        "layout": shape.layout,
        "compiled_too": compiles,
        "quick": args.quick,
        "dtype_of_ours": dtype,
        "seconds_a_step_by_dtype": trials,
    }
    write(args.output, report, machine, settings)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
