"""`python -m benchmarks.parallel`: predicted memory and MFU on 1 to 64 H100 GPUs, in Markdown; computed from a
model, not measured.

The tables of docs/several_gpus.md. Formulas and assumptions: benchmarks/parallel/model.py.
"""

import argparse
import dataclasses
import sys

import torch

from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.training.command_line import exit_status
from arche_mdlm.training.models.build import build_model
from benchmarks.parallel.model import H100, STRATEGIES, Assumptions, Batch, ModelSize, predict, recommend

ARMS = {"mdlm": "MDLM", "ar": "AR"}
_NAMES = {"ddp": "DDP", "fsdp2": "FSDP2"}
# Changes of the preset `controlled`, and rows of a GPU's micro-batch.
SIZES = {
    "124M": ({}, 32),
    "350M": ({"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24, "num_attention_heads": 16,
              "max_position_embeddings": 1024}, 16),
    "1.3B": ({"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 24, "num_attention_heads": 16,
              "max_position_embeddings": 2048}, 4),
    "7B": ({"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
            "max_position_embeddings": 2048, "tie_word_embeddings": False}, 2),
}  # fmt: skip


def size_of(name: str, arm: str, rows: int | None = None) -> tuple[ModelSize, Batch]:
    """One of SIZES with rows as long as its context; so many of them in place of its own."""
    changes, usual = SIZES[name]
    config = {f"model.config.{key}": value for key, value in changes.items()}
    settings = load_preset(f"controlled-{arm}", config).model
    with torch.device("meta"):
        size = ModelSize.of(build_model(settings))
    length = settings.config["max_position_embeddings"]
    return size, Batch(rows or usual, length, supervised=0.5 if arm == "mdlm" else (length - 1) / length)


def table(gpus: list[int], assumptions: Assumptions, checkpointing: bool = False, rows: int | None = None) -> str:
    """MFU and memory of a GPU by model, strategy and number of GPUs; the recommended strategy in bold."""
    lines = [
        "| parameters | arm | tokens a GPU | strategy | " + " | ".join(_count(number) for number in gpus) + " |",
        "| --- | --- | --- | --- |" + " --- |" * len(gpus),
    ]
    for name in SIZES:
        for arm, label in ARMS.items():
            size, batch = size_of(name, arm, rows)
            batch = dataclasses.replace(batch, checkpointing=checkpointing)
            by_strategy = {strategy: [] for strategy in STRATEGIES}
            for number in gpus:
                both = _both(size, batch, number, arm, assumptions)
                best, cells = recommend(both), {p.strategy: p for p in both}
                for strategy in STRATEGIES:
                    found = cells.get(strategy)
                    by_strategy[strategy].append("-" if found is None else _cell(found, found is best))
            shape = f"{size.parameters:,} | {label} | {batch.rows} x {batch.length}"
            lines += [
                f"| {shape} | {_NAMES[strategy]} | " + " | ".join(cells) + " |"
                for strategy, cells in by_strategy.items()
            ]
    return "\n".join(lines)


def _both(size: ModelSize, batch: Batch, gpus: int, arm: str, assumptions: Assumptions) -> list:
    """Of one GPU, which has nothing to cut, the first alone."""
    selects = arm == "mdlm" and not batch.checkpointing
    strategies = STRATEGIES if gpus > 1 else STRATEGIES[:1]
    return [predict(size, batch, gpus, s, assumptions=assumptions, selects=selects) for s in strategies]


def _count(gpus: int) -> str:
    nodes = -(-gpus // H100.gpus_a_node)
    return f"{gpus} GPU{'s' * (gpus > 1)}" + (f", {nodes} nodes" if nodes > 1 else "")


def _cell(prediction, best: bool) -> str:
    held = f"{prediction.memory.total / 1e9:.0f} GB"
    if not prediction.fits:
        return f"does not fit: {held}"
    text = f"{prediction.mfu:.0%}, {held}"
    return f"**{text}**" if best else text


def sensitivity(gpus: int, assumptions: Assumptions) -> str:
    """MFU of the recommended strategy with other assumptions."""
    variants = {
        "as above": {},
        "products at 0.5 of the peak": {"attainable": 0.5},
        "10 passes through memory": {"passes": 10.0},
        "links at 0.4 of theirs": {"links": 0.4},
        "no overlap": {"overlap": 0.0},
    }
    lines = [f"| {gpus} GPUs | arm | " + " | ".join(variants) + " |", "| --- | --- |" + " --- |" * len(variants)]
    for name in SIZES:
        for arm, label in ARMS.items():
            size, batch = size_of(name, arm)
            cells = []
            for changes in variants.values():
                best = recommend(_both(size, batch, gpus, arm, dataclasses.replace(assumptions, **changes)))
                cells.append("does not fit" if best is None else f"{best.mfu:.0%} {_NAMES[best.strategy]}")
            lines.append(f"| {name} | {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.parallel", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--gpus", nargs="+", type=int, default=[1, 8, 16, 32, 64], help=f"numbers of GPUs, {H100.gpus_a_node} per node"
    )
    parser.add_argument("--checkpointing", action="store_true", help="recompute layers in the backward pass")
    parser.add_argument("--rows", type=int, help="rows per micro-batch of a GPU (default: depends on the model size)")
    for field in dataclasses.fields(Assumptions):
        parser.add_argument(f"--{field.name}", type=float, default=field.default, help="assumption of the model")
    args = parser.parse_args(argv)
    assumptions = Assumptions(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Assumptions)})
    print(table(args.gpus, assumptions, args.checkpointing, args.rows))
    if not (args.checkpointing or args.rows):
        print()
        print(sensitivity(max(args.gpus), assumptions))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
