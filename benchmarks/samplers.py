"""`python -m benchmarks.samplers`: every sampler against the paper's own loop, and 16 steps against AR with its KV cache.

By default GPT-2's vocabulary, a trunk of 10M parameters, 32 texts of 128 tokens in 100 steps; about 20 minutes on two cores. The
exact sampler, the paper's loop and AR are timed over several rounds, in turn with what they are compared to; the other samplers,
which take minutes a call, once each.
"""

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path

import torch

from arche_mdlm import available_samplers
from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.training.loop.provenance import portable
from benchmarks import sampling
from benchmarks.options import add_run_options, begin, check_rounds
from benchmarks.report import Report, note, write
from benchmarks.timing import side_by_side

RESULTS = Path(__file__).parent / "results" / "samplers.json"
EXACT = "ancestral"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.samplers", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--vocab_size", type=int, default=50_258)
    add("--hidden_size", type=int, default=384)
    add("--intermediate_size", type=int, default=1024)
    add("--num_hidden_layers", type=int, default=6)
    add("--num_attention_heads", type=int, default=6)
    add("--batch_size", type=int, default=32)
    add("--length", type=int, default=128, help="tokens per text")
    add("--steps", type=int, default=100)
    add("--few_steps", type=int, default=16, help="denoising steps in the comparison with AR")
    add("--samplers", nargs="+", choices=available_samplers(), default=available_samplers())
    add_run_options(parser, RESULTS, " of the exact sampler and of AR")
    args = parser.parse_args(argv)
    check_rounds(parser, args)
    return args


def make_models(args: argparse.Namespace, device: torch.device) -> tuple:
    """Both arms of the preset `controlled` in the given shape: equal parameters."""
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    changes = {f"model.config.{name}": getattr(args, name) for name in names}
    changes["model.config.max_position_embeddings"] = args.length
    settings = [load_preset(f"controlled-{arm}", changes).model for arm in ("mdlm", "ar")]
    return [sampling.random_model(one, device) for one in settings], settings


def timed(contestants: dict[str, sampling.Contestant], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """`side_by_side`, with its progress printed. A call takes long: the median needs no warm-up."""
    note(" and ".join(contestants))
    return side_by_side(contestants, rounds, device, warm_up=False)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device, machine = begin(args)
    (mdlm, ar), settings = make_models(args, device)
    report = Report(
        shlex.join(["python", "-m", "benchmarks.samplers", *portable(sys.argv[1:] if argv is None else argv)])
    )
    size = f"{args.batch_size} texts of {args.length} tokens"

    def ours(sampler, steps):
        return sampling.ours(mdlm, sampler, args.length, steps, args.batch_size)

    few = f"{EXACT}, {args.few_steps} steps"
    ar_speed = timed(
        {few: ours(EXACT, args.few_steps), "AR": sampling.autoregressive(ar, args.length, args.batch_size)},
        args.rounds, device)  # fmt: skip
    report.add(f"sampling_{args.few_steps}_steps_vs_ar_cached", ar_speed[few], ar_speed["AR"], "stories/s",
               f"{size}, {args.few_steps} steps over AR of equal size with its KV cache")  # fmt: skip
    what = f"{size} in {args.steps} steps, over the paper's loop, one text at a time"
    speed = timed(
        {EXACT: ours(EXACT, args.steps), "paper": sampling.paper(mdlm, args.length, args.steps)}, args.rounds, device
    )
    report.add(f"{EXACT}_vs_naive", speed[EXACT], speed["paper"], "stories/s", what)
    for sampler in args.samplers:
        if sampler != EXACT:
            once = timed({sampler: ours(sampler, args.steps)}, 1, device)[sampler]
            report.add(f"{sampler}_vs_naive", once * args.rounds, speed["paper"], "stories/s", what + "; timed once")
    described = {
        "model": dataclasses.asdict(settings[0]),
        "parameters": sum(p.numel() for p in mdlm.parameters()),
        "trunk_parameters": sum(p.numel() for p in mdlm.model.layers.parameters()),
        "rounds": {EXACT: args.rounds, "others": 1},
    }
    write(args.output, report, machine, described)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
