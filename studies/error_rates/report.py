"""The report of the study of error rates: verdicts, pictures, tables, and all figures as JSON."""

import math
from pathlib import Path

from arche_mdlm.studies.engine import report as engine
from arche_mdlm.studies.engine.markdown import failures, number, table, with_captions
from arche_mdlm.studies.engine.readings.decisions import note
from arche_mdlm.studies.error_rates.plots import PICTURES, draw
from arche_mdlm.studies.error_rates.summary import EXACT_IN_THE_LIMIT
from arche_mdlm.studies.error_rates.thresholds import FLAT, HALF, TOLERANCE
from arche_mdlm.studies.error_rates.verdicts import with_verdicts

FILES = ("report.md", "report.json", *PICTURES)
LABELS = {"ngram": "n-gram language", "hmm": "hidden Markov model"}
DENOISERS = {"oracle": "exact posterior", "trained": "trained model"}


def write_report(report: dict, settings: dict, failed: dict[str, str], output: Path) -> Path:
    """Write report.md, report.json and, with matplotlib, pictures into `output`; returns report.md."""
    groups, signs = with_verdicts(report["groups"])
    report = {"settings": settings, **report, "groups": groups, "decided": note(signs)}
    return engine.write_report(output, FILES, report, failed, draw, _sections)


def _sections(report: dict, pictures: dict[str, str]) -> list[str]:
    return [
        "# Error rates of masked samplers by steps and length",
        _what(report),
        *failures(report["failed"]),
        *([f"Not done yet: {len(report['missing'])} jobs (`report.json`)."] if report["missing"] else []),
        "## What can be said",
        "\n".join(f"- {line}" for line in sentences(report)) or "Nothing: no interval decides it.",
        report["decided"],
        *with_captions(pictures),
        "## Steps needed for a low token error",
        _steps(report, "token"),
        f"Steps from which on token perplexity stays within {TOLERANCE:.0%} of its limit, interpolated on a logarithmic scale between "
        "the numbers of steps that were run. The limit is the language's own perplexity for the exact posterior with "
        f"{', '.join(EXACT_IN_THE_LIMIT)}, whose law tends to the language's, and else the value at the most steps. Exponent: b of "
        "steps = a L^b, over all lengths and over the longest two: with short texts the number of steps is limited by L itself.",
        "## Steps needed for a low sequence error",
        _steps(report, "sequence"),
        f"Steps from which on at most {HALF:.0%} of the sequences are ones that the language cannot produce. "
        "*> n*: not even with n steps, the most that were run; an exponent is then not given.",
        f"Verdicts, after Holm's correction for all of them: *flat*, the exponent is between -{FLAT} and {FLAT}; *grows*, it is above "
        f"{FLAT}; else *not decided*.",
        *(part for kind in report["settings"]["languages"] for part in _most_steps(report, kind)),
        *_trained(report),
        *_made(report),
    ]


def _what(report: dict) -> str:
    own = report["settings"]
    parts = []
    if "ngram" in own["languages"]:
        parts.append(f"an n-gram language of {own['ngram_vocab_size']} tokens, each drawn given the {own['order']} before, half of "
                     "whose transitions are forbidden")  # fmt: skip
    if "hmm" in own["languages"]:
        parts.append(f"a hidden Markov model of {own['hmm_states']} states and {own['hmm_vocab_size']} tokens, three quarters of whose "
                     "transitions and emissions are forbidden")  # fmt: skip
    seeds = len(own["seeds"])
    trained = (
        f" Trained models: {seeds} seed(s), {own['positions']:,} positions each, "
        f"{own['trained_samples']} texts a model, sampler and number of steps; "
        + ("in brackets 95 % intervals over seeds (Student's t)." if seeds > 1 else "one seed, so no interval.")
        if own["trained_languages"] else ""
    )  # fmt: skip
    return (
        f"Languages: {'; '.join(parts)}. Claims of Feng et al. 2025 (arXiv 2502.09622): a low token error takes a number of steps "
        "that does not grow with the length L, a low sequence error takes one that grows with L. *Exact posterior*: the "
        "denoiser is the language's own posterior (forward-backward), so that all error is the sampler's; "
        f"{own['num_samples']:,} texts a sampler and number of steps, in brackets 95 % intervals by a bootstrap over texts.{trained} "
        f"Token perplexity is under the language with {own['smoothing']:.0%} of each distribution spread evenly: a forbidden token would "
        "make it infinite. Where a sampler has already written what cannot occur, the exact posterior is that of the one "
        "explanation with the fewest forbidden transitions."
    )


def sentences(report: dict) -> list[str]:
    """What intervals decide, a sentence a language, denoiser, claim and range of lengths, the samplers by verdict."""
    lines = []
    for kind in LABELS:
        for denoiser, name in DENOISERS.items():
            groups = [g for g in report["groups"] if (g["language"], g["denoiser"]) == (kind, denoiser)]
            for measure in ("token", "sequence"):
                for part in ("all", "longest"):
                    said = [text for verdict in SAYS if (text := _sentence(groups, measure, part, verdict))]
                    lines += [f"{LABELS[kind]}, {name}: {text}" for text in said]
    return lines


SAYS = {"flat": "does not grow with L", "grows": "grows with L", "falls": "falls with L"}


def _sentence(groups: list[dict], measure: str, part: str, verdict: str) -> str:
    """Of the samplers with a verdict; empty for none. The longest two lengths are only told apart where there are others."""
    own = [g for g in groups if g[measure][part]["verdict"] == verdict]
    if part == "longest":
        own = [g for g in own if len(g[measure]["all"]["lengths"]) > 2]
    if not own:
        return ""
    by_lengths: dict[tuple[int, ...], list[dict]] = {}
    for group in own:
        by_lengths.setdefault(tuple(group[measure][part]["lengths"]), []).append(group)
    parts = [
        f"from L = {lengths[0]} to {lengths[-1]} with "
        + ", ".join(f"{g['sampler']} (exponent {_exponent(g[measure][part])})" for g in some)
        for lengths, some in by_lengths.items()
    ]
    return f"the number of steps for a low {measure} error {SAYS[verdict]} " + "; ".join(parts) + "."


def _exponent(own: dict) -> str:
    return number(own["exponent"], ".2f", (own["low"], own["high"]))


def _steps(report: dict, measure: str) -> str:
    lengths = [str(length) for length in report["settings"]["lengths"]]
    rows = []
    for group in report["groups"]:
        own = group[measure]
        cells = [_needed(own["steps"].get(length)) for length in lengths]
        exponents = [part for key in ("all", "longest") for part in _judged(own[key])]
        label = f"{LABELS[group['language']]}, {DENOISERS[group['denoiser']]}"
        rows.append([label, group["sampler"], *cells, *exponents])
    header = ["", "sampler", *(f"L = {length}" for length in lengths), "exponent", "verdict", "longest two", "verdict"]
    return table(header, rows, (0, 1, -1, -3))


def _judged(own: dict) -> list[str]:
    """The exponent and its verdict."""
    return ["–" if own["not_reached"] else _exponent(own), own["verdict"]]


def _needed(entry: dict | None) -> str:
    if entry is None:
        return "–"
    if entry["bound"] == "more than" and (entry.get("seeds") is None or entry["low"] == entry["high"]):
        return f"> {entry['estimate']:.0f}"
    if entry["bound"] == "at most" and entry["low"] == entry["high"]:
        return f"≤ {entry['estimate']:.0f}"
    sign = {"": "", "at most": "≤ ", "more than": "> "}[entry["bound"]]
    low = None if entry["low"] is None else max(0.0, entry["low"])
    return sign + number(entry["estimate"], ".1f", (low, entry["high"]))


def _most_steps(report: dict, kind: str) -> list[str]:
    """With the most steps: perplexity and share of impossible sequences."""
    rows = []
    for group in report["groups"]:
        if group["language"] != kind:
            continue
        for length, points in group["curves"].items():
            last = points[-1]
            rows.append([DENOISERS[group["denoiser"]], group["sampler"], length,
                         _estimate(last["perplexity"], ".3f"), _estimate(last["impossible"], ".1%"),
                         f"{last['forwards']:.0f}", f"{last['texts']:,}"])  # fmt: skip
    for own in report["references"].values():
        if own["language"] == kind:
            rows.append(["the language itself", "–", str(own["length"]), f"{math.exp(own['nats']):.3f}",
                         f"{own['forbidden'] / own['sequences']:.1%}", "–", f"{own['sequences']:,}"])  # fmt: skip
    if not rows:
        return []
    header = ["", "sampler", "L", "token perplexity", "impossible sequences", "forwards", "texts"]
    return [f"## Most steps: {LABELS[kind]}", table(header, rows, (0, 1))]


def _estimate(value: dict, style: str) -> str:
    low, high = value["low"], value["high"]
    if low is not None and style.endswith("%"):
        low, high = max(0.0, low), min(1.0, high)
    return number(value["estimate"], style, (low, high))


def _trained(report: dict) -> list[str]:
    rows = []
    for own in report["trainings"].values():
        rows.append([LABELS[own["language"]], str(own["length"]), str(own["seed"]), f"{own['parameters']:,}",
                     f"{own['steps']:,}", f"{own['tokens']:,}", f"{own['bound']:.4f}", f"{own['entropy']:.4f}",
                     f"{own['seconds'] / 60:.1f}"])  # fmt: skip
    if not rows:
        return []
    header = ["", "L", "seed", "parameters", "steps", "positions", "bound", "entropy", "minutes"]
    return [
        "## Trained models",
        table(header, rows),
        "Bound: NELBO of held-out sequences, nats a token; entropy: the language's own nats a token on the same sequences, which no "
        "model can be below but by chance. Every sequence of training is seen once.",
    ]


def _made(report: dict) -> list[str]:
    runs = list(report["trainings"].values())
    if runs:
        return engine.how_trained(report, runs)
    return ["## How it was made", f"- `{report['command']}`"]
