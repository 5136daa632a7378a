"""The report of the speed-quality study: a table, a picture, and all figures as JSON."""

from pathlib import Path

from arche_mdlm.studies.engine import report as engine
from arche_mdlm.studies.engine.frontier import draw
from arche_mdlm.studies.engine.markdown import few_judged, number, table, with_captions
from arche_mdlm.studies.engine.readings.floors import MARK, why_poor
from arche_mdlm.studies.engine.readings.floors import note as floor_note
from arche_mdlm.studies.engine.readings.references import SPREAD_NOTE

FILES = ("report.md", "report.json", "frontier.png")


def write_report(report: dict, settings: dict, failed: dict[str, str], output: Path) -> Path:
    """Write report.md, report.json and, with matplotlib, frontier.png into `output`; returns report.md."""
    return engine.write_report(output, FILES, {"settings": settings, **report}, failed, draw, _sections)


def _sections(report: dict, pictures: dict[str, str]) -> list[str]:
    chosen, judge = report["settings"], report["judge"]
    return [
        "# Speed against quality, by sampler and steps",
        f"`{report['command']}`",
        f"{chosen['num_samples']} unprompted stories a row; temperature {chosen['temperature']}, no truncation; seed "
        f"{chosen['seed']}; {report['machine']['device']}, {report['machine']['threads']} thread(s); torch "
        f"{report['versions']['torch']}, transformers {report['versions']['transformers']}.",
        f"Judge: {judge['id']} ({judge['dtype']}, first token `{judge['first_token']}`)." if judge else "No judge.",
        *with_captions(pictures),
        _rows(report),
        floor_note({f"{row['label']}, {row['steps'] or 'AR'}": why for row in report["rows"] if (why := _poor(row))}),
        "Stories/s: median of the calls (lowest to highest, where there are several), whole calls of `generate`. Forwards: of the model, a story; "
        "AR's are one a token. Tokens a forward: of the story, its EOS counted, the tail of MDLM's canvas not. Generative "
        "perplexity: exp of the judge's nats a token, with a 95 % bootstrap interval over stories; lower is better only while "
        "the unigram entropy (nats, of a story's own tokens, averaged over stories) stays near the reference: a story that "
        "repeats itself has a fine perplexity. Distinct-n depends on the number of texts and is compared at equal numbers."
        + few_judged(report),
        f"Held-out stories: {SPREAD_NOTE}; the judge read one draw." if report["reference"] else "",
        "**Cut**: texts that had tokens behind their first EOS or pad, as few steps write them; `generate` cuts these tokens off.",
        "All texts are in `report.json`, under `cells`, by job.",
    ]


def _poor(row: dict) -> str | None:
    """Why the figures of a row's texts mean little; None where they do not."""
    return why_poor(row.get("median_words"), None, None)


def _rows(report: dict) -> str:
    sizes = [str(size) for size in report["settings"]["batch_sizes"]]
    header = ["", "steps", *(f"stories/s, batch {size}" for size in sizes), "forwards", "tokens a forward",
              "gen. perplexity", "entropy", "Distinct-1", "Distinct-2", "Distinct-4", "words", "cut"]  # fmt: skip
    lines = []
    for row in report["rows"]:
        speeds = [_speed(row["stories_per_second"][size]) for size in sizes]
        cost = [f"{row['num_forwards']:.1f}", f"{row['tokens_per_forward']:.2f}"]
        lines.append(
            [
                row["label"] + (f" {MARK}" if _poor(row) else ""),
                str(row["steps"] or "–"),
                *speeds,
                *cost,
                *_quality(row),
            ]
        )
    if report["reference"]:
        lines.append(["held-out stories", *["–"] * (len(sizes) + 3), *_quality(report["reference"])])
    return table(header, lines)


def _speed(rate: dict) -> str:
    return number(rate["median"], ".3g", None if rate["calls"] == 1 else (rate["low"], rate["high"]))


def _quality(figures: dict) -> list[str]:
    perplexity = number(figures["generative_perplexity"], ".1f", figures["generative_perplexity_ci"])
    keys = {"distinct_1": ".3f", "distinct_2": ".3f", "distinct_4": ".3f", "mean_words": ".0f", "cut_texts": ".0%"}
    return [perplexity, f"{figures['unigram_entropy_nats']:.3f}", *(number(figures.get(k), f) for k, f in keys.items())]
