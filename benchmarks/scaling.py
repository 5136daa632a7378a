"""`python -m benchmarks.scaling`: tokens/s and peak memory of a training step against batch, length, width and vocabulary.

Our MDLM and AR steps and the paper's MDLM step, each point in a process of its own; one axis is varied at a time, the others stay
at the centre. About ten minutes on two cores.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.studies.engine.plots import can_draw
from arche_mdlm.training.command_line import exit_status
from arche_mdlm.training.loop.provenance import portable
from benchmarks.memory import measure
from benchmarks.report import current_commit, describe_machine, describe_versions, destination, note
from benchmarks.train_step import Shape

RESULTS = Path(__file__).parent / "results" / "scaling.json"
_LINES = {"MDLM, ours": ("mdlm", "ours"), "AR, ours": ("ar", "ours"), "MDLM, the paper's way": ("mdlm", "paper")}
_COLOURS = ("#D55E00", "#0072B2", "#CC79A7")  # Okabe and Ito
_AXES = {
    "cpu": {"batch_size": [2, 4, 8, 16], "length": [64, 128, 256, 512], "hidden_size": [128, 256, 384, 512],
            "vocab_size": [1024, 4096, 16384, 50258]},
    "cuda": {"batch_size": [8, 16, 32, 64], "length": [128, 256, 512, 1024], "hidden_size": [384, 512, 768, 1024],
             "vocab_size": [4096, 16384, 50258, 131072]},
}  # fmt: skip
_CENTRES = {
    "cpu": {"batch_size": 4, "length": 128, "hidden_size": 256, "vocab_size": 16384, "num_hidden_layers": 6},
    "cuda": {"batch_size": 32, "length": 512, "hidden_size": 768, "vocab_size": 50258, "num_hidden_layers": 12},
}
_LABELS = {"batch_size": "rows", "length": "tokens a row", "hidden_size": "width", "vocab_size": "vocabulary"}


def shape_of(point: dict) -> Shape:
    """Of the preset `controlled`, with an inner width of about 8/3 of the width and heads of 64 (at least 2)."""
    width = point["hidden_size"]
    config = {"hidden_size": width, "intermediate_size": -(-8 * width // 3 // 32) * 32, "vocab_size": point["vocab_size"],
              "num_attention_heads": max(2, width // 64), "num_hidden_layers": point["num_hidden_layers"],
              "max_position_embeddings": point["length"]}  # fmt: skip
    changes = {f"model.config.{key}": value for key, value in config.items()} | {"data.context_length": point["length"]}
    return Shape(
        *(load_preset(f"controlled-{arm}", changes) for arm in ("mdlm", "ar")), point["batch_size"], point["length"]
    )


def draw(document: dict, path: Path) -> None:
    import matplotlib.pyplot as plt

    axes_of = document["axes"]
    figure, axes = plt.subplots(2, len(axes_of), figsize=(3.4 * len(axes_of), 6), layout="constrained", squeeze=False)
    for column, (name, points) in enumerate(axes_of.items()):
        for (label, values), colour in zip(points["lines"].items(), _COLOURS, strict=True):
            axes[0][column].plot(
                points["at"], [v["tokens_per_second"] for v in values], "o-", color=colour, label=label
            )
            axes[1][column].plot(
                points["at"], [v["peak_bytes"] / 2**30 for v in values], "o-", color=colour, label=label
            )
        for row, title in enumerate(("tokens/s", "peak memory, GiB")):
            axis = axes[row][column]
            axis.set(xscale="log", ylim=(0, None), xlabel=_LABELS[name], ylabel=title if not column else None)
            axis.set_xticks(points["at"], points["at"])
            axis.minorticks_off()
            axis.yaxis.set_major_formatter("{x:,.0f}" if not row else "{x:.1f}")
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.scaling", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--axes", nargs="+", choices=list(_LABELS), default=list(_LABELS))
    parser.add_argument("--points", type=int, default=4, help="points per axis, the smallest first")
    parser.add_argument("--steps", type=int, default=3, help="timed steps per point; the median is reported")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    picture = args.output.with_suffix(".png")
    folder = destination(args.output, picture.name)
    device = torch.device(args.device)
    centre, dtype = _CENTRES[device.type], "bfloat16" if device.type == "cuda" else "float32"
    machine, axes = describe_machine(device), {}
    for name in args.axes:
        at = _AXES[device.type][name][: args.points]
        lines: dict[str, list] = {label: [] for label in _LINES}
        for value in at:
            note(f"{_LABELS[name]} {value}")
            for label, (arm, way) in _LINES.items():
                lines[label].append(measure(shape_of(centre | {name: value}), arm, way, dtype, device, args.steps))
        axes[name] = {"at": at, "lines": lines}
    document = {"command": " ".join(["python -m benchmarks.scaling", *portable(argv or sys.argv[1:])]), "machine": machine,
                "versions": describe_versions(), "commit": current_commit(), "centre": centre, "dtype_of_ours": dtype,
                "model": dataclasses.asdict(shape_of(centre).mdlm.model), "axes": axes}  # fmt: skip
    folder.write_json(args.output.name, document)
    if can_draw():
        folder.write(picture.name, lambda path: draw(document, path))
    print(f"written to {args.output}" + (f" and {picture}" if can_draw() else "; no picture without matplotlib"))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
