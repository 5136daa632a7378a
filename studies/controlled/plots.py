"""Pictures of the controlled comparison: validation curves, the sweep of temperatures, intervals."""

from functools import partial
from typing import Any

from arche_mdlm.studies.engine.colours import SERIES
from arche_mdlm.studies.engine.figures import FIGURES
from arche_mdlm.studies.engine.plots import REFERENCE, finish, save, subplots
from arche_mdlm.studies.engine.readings.first_tokens import CAPTION, DATA, PICTURE, picture
from arche_mdlm.training.files.own_files import OutputFolder

_PANELS = ("distinct_2", "distinct_4", "self_bleu", "distinct_openings", "unigram_entropy", "mean_words")


def draw(report: dict, output: OutputFolder) -> dict[str, str]:
    """Write the pictures there is data for; captions by file name."""
    colours = dict(zip(report["arms"], SERIES, strict=False))
    pictures = {}
    for name, caption, plot in (
        (
            "training.png",
            "Likelihood during training, a line a seed: solid held-out stories, dashed training rows",
            _curves,
        ),
        (
            "frontier.png",
            "Quality and diversity by temperature, a marker each from the lowest to the highest, mean over seeds; dashed: held-out stories",
            _frontier,
        ),
        (
            "intervals.png",
            "Figures at temperature 1.0 "
            + ("of one seed, which has no interval" if len(report["seeds"]) == 1 else "with 95 % intervals over seeds")
            + "; dashed: held-out stories, grey: where 95 % of draws of as many lie",
            _intervals,
        ),
        (PICTURE, CAPTION, _first_tokens),
    ):
        figure = plot(report, colours)
        if figure is not None:
            output.write(name, partial(save, figure))
            pictures[name] = caption
    return pictures


def _first_tokens(report: dict, colours: dict) -> Any:
    return picture(report["first_tokens"], colours | {DATA: "0.6"})


def _curves(report: dict, colours: dict) -> Any:
    figure, axis = subplots(size=(8, 4.5))
    for name, arm in report["arms"].items():
        for number, run in enumerate(arm["training"].values()):
            scores = [(e["tokens"] / 1e6, e["nats"]) for e in _validation(run["history"])]
            if scores:
                axis.plot(
                    *zip(*scores, strict=True), "o-", ms=3, color=colours[name], label=name if not number else None
                )
            trained = [(e["tokens"] / 1e6, e["train"]) for e in _validation(run["history"]) if "train" in e]
            if trained:
                axis.plot(*zip(*trained, strict=True), "--", color=colours[name], lw=1)
    axis.set(xlabel="million tokens seen", ylabel="nats a token (MDLM: NELBO)")
    finish(axis, legend=True)
    return figure


def _validation(history: list[dict]) -> list[dict]:
    """Nats a token of held-out stories, and of training rows where they were scored (`train`), by the tokens seen until then."""
    tokens, found = 0, []
    for entry in history:
        tokens += entry.get("tokens", 0)
        if "validation_nats" in entry:
            found.append({"tokens": tokens, "nats": entry["validation_nats"]})
            if "train_nats" in entry:
                found[-1]["train"] = entry["train_nats"]
    return found


def _frontier(report: dict, colours: dict) -> Any:
    """Against Self-BLEU: generative perplexity where there is a judge, else the unigram entropy."""
    groups = {name: _sweep(arm["samples"]) for name, arm in report["arms"].items()}
    judged = any(g["mean"].get("generative_perplexity") for found in groups.values() for _, g in found)
    key, label = (
        ("generative_perplexity", "generative perplexity") if judged else ("unigram_entropy", "unigram entropy")
    )
    if not any(len(found) > 1 for found in groups.values()):
        return None
    figure, axis = subplots(size=(8, 5))
    for name, found in groups.items():
        pairs = [(g["mean"]["self_bleu"], g["mean"][key]) for _, g in found]
        points = [(x["estimate"], y["estimate"]) for x, y in pairs if x and y]
        if points:
            axis.plot([p[0] for p in points], [p[1] for p in points], "o-", color=colours[name], label=name)
    reference = report["reference"]
    if reference and reference["figures"] and reference["figures"].get(key) is not None:
        axis.axvline(reference["figures"]["self_bleu"], **REFERENCE, label="held-out stories")
        axis.axhline(reference["figures"][key], **REFERENCE)
    temperatures = sorted({temperature for found in groups.values() for temperature, _ in found})
    axis.set_title(
        f"a marker a temperature, from {temperatures[-1]:g} (left) to {temperatures[0]:g} (right)", fontsize=10
    )
    axis.set(xlabel="Self-BLEU (lower is more diverse)", ylabel=label)
    if judged:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
    finish(axis, legend=True)
    return figure


def _sweep(samples: dict) -> list[tuple[float, dict]]:
    """Temperature and samples of the best checkpoint, unprompted."""
    split = [(key.split(", "), group) for key, group in samples.items()]
    return sorted(((float(t), group) for (which, prompt, t), group in split if (which, prompt) == ("best", "bos")),
                  key=lambda pair: pair[0])  # fmt: skip


def _intervals(report: dict, colours: dict) -> Any:
    figure, axes = subplots(2, 3, size=(11, 6))
    for axis, key in zip(axes.flat, _PANELS, strict=True):
        for x, (name, arm) in enumerate(report["arms"].items()):
            value = arm["samples"].get("best, bos, 1.0", {}).get("mean", {}).get(key)
            if not value:
                continue
            middle, low, high = value["estimate"], value["low"], value["high"]
            error = None if low is None else [[middle - low], [high - middle]]  # no interval with one seed
            axis.errorbar(x, middle, error, fmt="o", capsize=5, color=colours[name])
        if report["reference"] and report["reference"]["figures"]:
            figures = report["reference"]["figures"]
            axis.axhline(figures[key], **REFERENCE)
            axis.axhspan(*figures[f"{key}_ci"], color="0.85", zorder=0)
        axis.set_title(FIGURES[key].short, fontsize=10)
        axis.set_xticks(range(len(report["arms"])), report["arms"], rotation=30, ha="right", fontsize=7)
        finish(axis)
    return figure
