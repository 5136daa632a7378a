"""The report of the study of error rates: verdicts, pictures, tables, and all figures as JSON."""

import math
from pathlib import Path

from arche_mdlm.studies.engine import report as engine
from arche_mdlm.studies.engine.markdown import failures, number, table, with_captions
from arche_mdlm.studies.error_rates.plots import PICTURES, draw
from arche_mdlm.studies.error_rates.thresholds import FLAT, HALF, TOLERANCE

FILES = ("report.md", "report.json", *PICTURES)
LABELS = {"ngram": "n-gram language", "hmm": "hidden Markov model"}
DENOISERS = {"oracle": "exact posterior", "trained": "trained model"}


def write_report(report: dict, settings: dict, failed: dict[str, str], output: Path) -> Path:
    """Write report.md, report.json and, with matplotlib, pictures into `output`; returns report.md."""
    return engine.write_report(output, FILES, {"settings": settings, **report}, failed, draw, _sections)


def _sections(report: dict, pictures: dict[str, str]) -> list[str]:
    return [
        "# Error rates of masked samplers by steps and length",
        _what(report),
        *failures(report["failed"]),
        *([f"Not done yet: {len(report['missing'])} jobs (`report.json`)."] if report["missing"] else []),
        "## What can be said",
        "\n".join(f"- {line}" for line in sentences(report)) or "Nothing: no interval decides it.",
        *with_captions(pictures),
        "## Steps needed for a low token error",
        _steps(report, "token"),
        f"Steps from which on token perplexity stays within {TOLERANCE:.0%} of its value at one step a token, interpolated on a "
        "logarithmic scale between the numbers of steps that were run. Exponent: b of steps = a L^b.",
        "## Steps needed for a low sequence error",
        _steps(report, "sequence"),
        f"Steps from which on at most {HALF:.0%} of the sequences are ones that the language cannot produce. "
        "*> n*: not even with n steps, one a token; an exponent is then not given.",
        f"Verdicts: *flat*, the interval of the exponent is inside ±{FLAT}; *grows*, it is above {FLAT}; else *not decided*.",
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
    """What intervals decide, a sentence a language and denoiser and claim, the samplers by verdict."""
    lines = []
    for kind in LABELS:
        for denoiser, name in DENOISERS.items():
            groups = [g for g in report["groups"] if (g["language"], g["denoiser"]) == (kind, denoiser)]
            where = f"{LABELS[kind]}, {name}"
            for measure, claim in (("token", "a low token error"), ("sequence", "a low sequence error")):
                for verdict, says in (
                    ("flat", "does not grow with L"),
                    ("grows", "grows with L"),
                    ("falls", "falls with L"),
                ):
                    own = [g for g in groups if g[measure]["verdict"] == verdict]
                    if own:
                        lines.append(f"{where}: the number of steps for {claim} {says} with {_listed(own, measure)}.")
    return lines


def _listed(groups: list[dict], measure: str) -> str:
    found = [
        f"{g['sampler']} (exponent {number(g[measure]['exponent'], '.2f', (g[measure]['low'], g[measure]['high']))})"
        for g in groups
    ]
    return ", ".join(found)


def _steps(report: dict, measure: str) -> str:
    lengths = [str(length) for length in report["settings"]["lengths"]]
    rows = []
    for group in report["groups"]:
        own = group[measure]
        cells = [_needed(own["steps"].get(length)) for length in lengths]
        exponent = "–" if own["not_reached"] else number(own["exponent"], ".2f", (own["low"], own["high"]))
        label = f"{LABELS[group['language']]}, {DENOISERS[group['denoiser']]}"
        rows.append([label, group["sampler"], *cells, exponent, own["verdict"]])
    return table(["", "sampler", *(f"L = {length}" for length in lengths), "exponent", "verdict"], rows, (0, 1, -1))


def _needed(entry: dict | None) -> str:
    if entry is None:
        return "–"
    if entry["bound"] == "more than" and entry.get("seeds") is None:
        return f"> {entry['estimate']:.0f}"
    if entry["bound"] == "at most" and entry["low"] == entry["high"]:
        return f"≤ {entry['estimate']:.0f}"
    sign = {"": "", "at most": "≤ ", "more than": "> "}[entry["bound"]]
    low = None if entry["low"] is None else max(0.0, entry["low"])
    return sign + number(entry["estimate"], ".1f", (low, entry["high"]))


def _most_steps(report: dict, kind: str) -> list[str]:
    """With one step a token: perplexity and share of impossible sequences."""
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
    return [f"## One step a token: {LABELS[kind]}", table(header, rows, (0, 1))]


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
