"""Pictures of a comparison."""

from functools import partial
from pathlib import Path

from arche_mdlm.studies.engine.colours import ARMS
from arche_mdlm.studies.engine.figures import FIGURES
from arche_mdlm.studies.engine.plots import REFERENCE, finish, save, subplots
from arche_mdlm.studies.engine.readings.first_tokens import CAPTION, DATA, PICTURE, picture
from arche_mdlm.training.files.own_files import OutputFolder

_PANELS = ("distinct_2", "distinct_4", "self_bleu", "distinct_first_words", "distinct_openings", "repetition_4")


def draw(report: dict, output: OutputFolder, histories: dict[str, list[dict]]) -> dict[str, str]:
    """Write the pictures there is data for; captions by file name. `histories`: the arms' training logs."""
    pictures = {
        "diversity.png": "Diversity of both arms"
        + ("; dashed: real held-out stories, grey: where 95 % of draws of as many lie" if report["reference"] else ""),
        "lengths.png": "How long the unprompted stories are"
        + ("; dashed: the mean of real held-out stories" if report["reference"] else ""),
    }
    output.write("diversity.png", lambda path: plot_diversity(report, path))
    output.write("lengths.png", lambda path: plot_lengths(report, path))
    laws = picture(report["first_tokens"], ARMS | {DATA: "0.6"})
    if laws is not None:
        output.write(PICTURE, partial(save, laws))
        pictures[PICTURE] = CAPTION
    if histories:
        output.write("training.png", lambda path: plot_training(histories, path))
        pictures["training.png"] = "Training of the two arms on the same batches"
    return pictures


def plot_diversity(report: dict, path: Path) -> None:
    """Each figure with its interval, one panel a figure, the reference as a dashed line with its own interval."""
    figure, axes = subplots(1, len(_PANELS), size=(12, 3.6))
    for axis, key in zip(axes, _PANELS, strict=True):
        for x, (name, arm) in enumerate(report["arms"].items()):
            if arm["diversity"] is None:  # every text is empty
                continue
            value = arm["diversity"][key]
            low, high = arm["diversity"][f"{key}_ci"]
            axis.errorbar(x, value, [[value - low], [high - value]], fmt="o", ms=8, capsize=6, color=ARMS[name])
        if report["reference"]:
            figures = report["reference"]["figures"]
            axis.axhline(figures[key], **REFERENCE)
            axis.axhspan(*figures[f"{key}_ci"], color="0.85", zorder=0)
        axis.set_title(FIGURES[key].short, fontsize=11)
        axis.set_xticks(range(len(report["arms"])), report["arms"])
        axis.set_xlim(-0.6, len(report["arms"]) - 0.4)
        finish(axis)
    compared = "; dashed and grey: real held-out stories" if report["reference"] else ""
    figure.suptitle(f"{report['settings']['num_samples']} stories an arm{compared}", fontsize=12)
    save(figure, path)


def plot_lengths(report: dict, path: Path) -> None:
    """Histogram of words a story."""
    figure, axis = subplots(size=(7, 3.6))
    for name, arm in report["arms"].items():
        words = [len(story["text"].split()) for story in arm["unprompted"]]
        axis.hist(words, bins=range(0, max(260, *words) + 10, 10), histtype="step", lw=2, label=name, color=ARMS[name])
    if report["reference"]:
        axis.axvline(report["reference"]["figures"]["mean_words"], **REFERENCE, label="held-out mean")
    axis.set(xlabel="words a story", ylabel="stories")
    finish(axis, legend=True)
    save(figure, path)


def plot_training(logs: dict[str, list[dict]], path: Path) -> None:
    """Training loss (left; the arms' objectives differ, so only each curve's shape counts) and validation (right)."""
    figure, (left, right) = subplots(1, 2, size=(11, 3.8))
    for name, history in logs.items():
        losses = [(e["step"], e["loss"]) for e in history if "loss" in e]
        left.plot(*zip(*losses, strict=True), color=ARMS[name], lw=1.2, label=name)
        scores = [e for e in history if "validation_bits_per_byte" in e]
        steps = [e["step"] for e in scores]
        label = f"{name} ({'NELBO' if name == 'MDLM' else 'NLL'})"
        right.plot(steps, [e["validation_bits_per_byte"] for e in scores], "o-", color=ARMS[name], label=label)
        trained = [(e["step"], bits) for e in scores if (bits := e.get("train_bits_per_byte")) is not None]
        if trained:
            right.plot(*zip(*trained, strict=True), "--", color=ARMS[name], label=f"{label}, training rows")
    left.set(xlabel="step", ylabel="training objective, nats", title="training (objectives are not comparable)")
    right.set(xlabel="step", ylabel="bits a byte", title="validation")
    for axis in (left, right):
        finish(axis, legend=True)
    save(figure, path)
