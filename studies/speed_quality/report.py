"""The report of the speed-quality study: a table, a picture, and all figures as JSON."""

from pathlib import Path

from arche_mdlm.studies.engine.markdown import table
from arche_mdlm.studies.engine.plots import NO_PICTURES, can_draw
from arche_mdlm.training.own_files import OutputFolder

FILES = ("report.md", "report.json", "frontier.png")
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
_MARKERS = "osD^vPX<>h"
_LINES = ("-", "--", ":")


def write_report(report: dict, output: Path) -> Path:
    """Write report.md, report.json and, with matplotlib, frontier.png into `output`; returns report.md."""
    folder = OutputFolder(output, FILES)
    drawn = can_draw()
    if drawn:
        folder.write("frontier.png", lambda path: _draw(report, path))
    folder.write_json("report.json", report)
    return folder.write_text("report.md", _markdown(report, drawn))


def _markdown(report: dict, drawn: bool) -> str:
    chosen, judge = report["settings"], report["judge"]
    picture = "![Speed against quality](frontier.png)" if drawn else NO_PICTURES
    parts = [
        "# Speed against quality, by sampler and steps",
        f"`{report['command']}`",
        f"{chosen['num_samples']} unprompted stories a row; temperature {chosen['temperature']}, no truncation; seed "
        f"{chosen['seed']}; {report['machine']['device']}, {report['machine']['threads']} thread(s); torch "
        f"{report['versions']['torch']}, transformers {report['versions']['transformers']}.",
        f"Judge: {judge['id']} ({judge['dtype']}, first token `{judge['first_token']}`)." if judge else "No judge.",
        picture,
        _rows(report),
        "Stories/s: median of the calls (lowest to highest, where there are several), whole calls of `generate`. Forwards: of the model, a story; "
        "AR's are one a token. Tokens a forward: of the story, its EOS counted, the tail of MDLM's canvas not. Generative "
        "perplexity: exp of the judge's nats a token, with a 95 % bootstrap interval over stories; lower is better only while "
        "the unigram entropy (nats, of a story's own tokens, averaged over stories) stays near the reference: a story that "
        "repeats itself has a fine perplexity. Distinct-n depends on the number of texts and is compared at equal numbers.",
        "All texts are in `report.json`, under `cells`.",
    ]
    return "\n\n".join(parts) + "\n"


def _rows(report: dict) -> str:
    sizes = [str(size) for size in report["settings"]["batch_sizes"]]
    header = ["", "steps", *(f"stories/s, batch {size}" for size in sizes), "forwards", "tokens a forward",
              "gen. perplexity", "entropy", "Distinct-1", "Distinct-2", "Distinct-4", "words"]  # fmt: skip
    lines = []
    for row in report["rows"]:
        speeds = [_speed(row["stories_per_second"][size]) for size in sizes]
        cost = [f"{row['num_forwards']:.1f}", f"{row['tokens_per_forward']:.2f}"]
        lines.append([row["label"], str(row["steps"] or "–"), *speeds, *cost, *_quality(row)])
    if report["reference"]:
        lines.append(["held-out stories", *["–"] * (len(sizes) + 3), *_quality(report["reference"])])
    return table(header, lines)


def _speed(rate: dict) -> str:
    if rate["calls"] == 1:
        return f"{rate['median']:.3g}"
    return f"{rate['median']:.3g} ({rate['low']:.3g} to {rate['high']:.3g})"


def _quality(figures: dict) -> list[str]:
    perplexity = _number(figures["generative_perplexity"], ".1f")
    if figures["generative_perplexity_ci"] and figures["generative_perplexity"] is not None:
        low, high = figures["generative_perplexity_ci"]
        perplexity += f" ({low:.1f} to {high:.1f})"
    keys = {"distinct_1": ".3f", "distinct_2": ".3f", "distinct_4": ".3f", "mean_words": ".0f"}
    return [perplexity, f"{figures['unigram_entropy_nats']:.3f}", *(_number(figures[k], f) for k, f in keys.items())]


def _number(value: float | None, style: str) -> str:
    return "–" if value is None else format(value, style)


def _draw(report: dict, path: Path) -> None:
    import matplotlib.pyplot as plt

    size = str(max(report["settings"]["batch_sizes"]))
    panels = {"generative_perplexity": "generative perplexity", "unigram_entropy_nats": "unigram entropy, nats"}
    if report["judge"] is None:
        del panels["generative_perplexity"]
    figure, axes = plt.subplots(1, len(panels), figsize=(1.5 + 6 * len(panels), 5), layout="constrained", squeeze=False)
    for axis, (key, label) in zip(axes[0], panels.items(), strict=True):
        _panel(axis, report, key, size)
        axis.set(xscale="log", xlabel=f"stories/s, batch {size}", ylabel=label)
        axis.grid(alpha=0.25, which="both")
        axis.spines[["top", "right"]].set_visible(False)
        if key == "generative_perplexity":
            axis.set_yscale("log")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    figure.suptitle(
        "a marker for each number of steps, fewer steps to the right; lines between them only guide the eye"
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _panel(axis, report: dict, key: str, size: str) -> None:
    """A line a sampler, AR as a star, held-out stories dashed."""
    for number, label in enumerate(dict.fromkeys(row["label"] for row in report["rows"])):
        rows = [row for row in report["rows"] if row["label"] == label and row[key] is not None]
        x = [row["stories_per_second"][size]["median"] for row in rows]
        y = [row[key] for row in rows]
        if all(row["steps"] is None for row in rows):
            axis.plot(x, y, "*", ms=18, color="black", label=label, zorder=5)
            continue
        style = {"marker": _MARKERS[number % len(_MARKERS)], "ls": _LINES[number // len(_COLOURS) % len(_LINES)]}
        axis.plot(x, y, color=_COLOURS[number % len(_COLOURS)], ms=6, lw=1.4, label=label, **style)
    if report["reference"] and report["reference"][key] is not None:
        axis.axhline(report["reference"][key], ls="--", color="0.3", lw=1.2, label="held-out stories")
