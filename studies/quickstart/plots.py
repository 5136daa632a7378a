"""Pictures of a comparison."""

from pathlib import Path

import matplotlib.pyplot as plt

COLOURS = {"MDLM": "#c2571a", "AR": "#1f5f8b"}
_PANELS = {
    "distinct_2": "Distinct-2",
    "distinct_4": "Distinct-4",
    "self_bleu": "Self-BLEU",
    "distinct_first_words": "first words",
    "distinct_openings": "openings",
    "repetition_4": "repetition",
}


def plot_diversity(report: dict, path: Path) -> None:
    """Each figure with its interval, one panel a figure, the reference as a dashed line with its own interval."""
    figure, axes = plt.subplots(1, len(_PANELS), figsize=(12, 3.6), layout="constrained")
    for axis, (key, label) in zip(axes, _PANELS.items(), strict=True):
        for x, (name, arm) in enumerate(report["arms"].items()):
            if arm["diversity"] is None:  # every text is empty
                continue
            value = arm["diversity"][key]
            low, high = arm["diversity"][f"{key}_ci"]
            axis.errorbar(x, value, [[value - low], [high - value]], fmt="o", ms=8, capsize=6, color=COLOURS[name])
        if report["reference"]:
            figures = report["reference"]["figures"]
            axis.axhline(figures[key], ls="--", color="0.3", lw=1.2)
            axis.axhspan(*figures[f"{key}_ci"], color="0.85", zorder=0)
        axis.set_title(label, fontsize=11)
        axis.set_xticks(range(len(report["arms"])), report["arms"])
        axis.set_xlim(-0.6, len(report["arms"]) - 0.4)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{report['settings']['num_samples']} stories an arm; grey: real held-out stories", fontsize=12)
    _save(figure, path)


def plot_lengths(report: dict, path: Path) -> None:
    """Histogram of words a story."""
    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for name, arm in report["arms"].items():
        words = [len(story["text"].split()) for story in arm["unprompted"]]
        axis.hist(
            words, bins=range(0, max(260, *words) + 10, 10), histtype="step", lw=2, label=name, color=COLOURS[name]
        )
    if report["reference"]:
        axis.axvline(report["reference"]["figures"]["mean_words"], ls="--", color="0.3", label="held-out mean")
    axis.set(xlabel="words a story", ylabel="stories")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def plot_training(logs: dict[str, list[dict]], path: Path) -> None:
    """Training loss (left; the arms' objectives differ, so only each curve's shape counts) and validation (right)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
    for name, history in logs.items():
        losses = [(e["step"], e["loss"]) for e in history if "loss" in e]
        left.plot(*zip(*losses, strict=True), color=COLOURS[name], lw=1.2, label=name)
        scores = [e for e in history if "validation_bits_per_byte" in e]
        steps = [e["step"] for e in scores]
        label = f"{name} ({'NELBO' if name == 'MDLM' else 'NLL'})"
        right.plot(steps, [e["validation_bits_per_byte"] for e in scores], "o-", color=COLOURS[name], label=label)
    left.set(xlabel="step", ylabel="training objective, nats", title="training (objectives are not comparable)")
    right.set(xlabel="step", ylabel="bits a byte", title="validation")
    for axis in (left, right):
        axis.legend(frameon=False)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _save(figure, path: Path) -> None:
    figure.savefig(path, dpi=120)
    plt.close(figure)
