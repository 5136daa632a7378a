"""`python -m benchmarks.profile`: where the time of a training step goes, by PyTorch's profiler, as a table in Markdown.

In the shape of `python -m benchmarks`, whose options for it this takes.
"""

import sys
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from arche_mdlm.compiling_mdlm import can_compile
from arche_mdlm.training.command_line import exit_status
from arche_mdlm.training.loop.provenance import portable
from benchmarks.__main__ import make_shape, parse
from benchmarks.report import current_commit, describe_machine, describe_versions, destination
from benchmarks.train_step import our_step, paper_step

_STEPS, _ROWS = 5, 15
RESULTS = Path(__file__).parent / "results" / "profile.md"


def table(step, device: torch.device) -> str:
    """Self time of the most expensive operations, milliseconds a step and share."""
    step(), step()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as watched:
        for _ in range(_STEPS):
            step()
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = sorted(watched.key_averages(), key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in events)
    lines = ["| operation | ms a step | share | calls a step |", "|---|---:|---:|---:|"]
    for event in events[:_ROWS]:
        own = getattr(event, key)
        lines.append(
            f"| `{event.key[:60]}` | {own / _STEPS / 1e3:,.1f} | {own / total:.1%} | {event.count / _STEPS:g} |"
        )
    return "\n".join([*lines, f"| all | {total / _STEPS / 1e3:,.1f} | | |"])


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    output = args.output if args.output.suffix == ".md" else RESULTS
    folder = destination(output)
    device = torch.device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    shape, machine, versions = make_shape(args), describe_machine(device), describe_versions()
    dtype = "bfloat16" if args.dtype == "bfloat16" or (args.dtype == "auto" and device.type == "cuda") else "float32"
    where = machine["device"] if device.type == "cuda" else f"{machine['cpu']}, {machine['threads']} thread(s)"
    parts = [
        "# Where a training step's time goes",
        f"{where}; torch {versions['torch']}; ours in {dtype}, the paper's way in float32; {shape.batch_size} rows of "
        f"{shape.length} tokens; commit {current_commit()}; `python -m benchmarks.profile {' '.join(portable(argv or sys.argv[1:]))}`.",
    ]
    made = {
        "MDLM, ours": our_step(shape, "mdlm", dtype, device),
        "MDLM, the paper's way": paper_step(shape, "mdlm", device),
        "AR, ours": our_step(shape, "ar", dtype, device),
    }
    if args.compile != "no" and not args.quick and can_compile(device):
        made["MDLM, ours, compiled"] = our_step(shape, "mdlm", dtype, device, compiled=True)
    for name, (step, tokens) in made.items():
        print(name, "...", file=sys.stderr, flush=True)
        parts += [f"## {name}", f"{tokens:,} tokens a step.", table(step, device)]
    folder.write_text(output.name, "\n\n".join(parts) + "\n")
    print(f"written to {output}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
