"""The report of the comparison of families: one table, one picture, and sentences where an interval decides."""

from pathlib import Path

from arche_mdlm.studies.engine import report as engine
from arche_mdlm.studies.engine.figures import FIGURES
from arche_mdlm.studies.engine.frontier import draw
from arche_mdlm.studies.engine.markdown import failures, few_judged, figure_cell, number, quoted, table, with_captions
from arche_mdlm.studies.engine.readings.decisions import decide, note
from arche_mdlm.studies.engine.readings.floors import MARK
from arche_mdlm.studies.engine.readings.floors import note as floor_note
from arche_mdlm.studies.engine.readings.intervals import ratio_interval
from arche_mdlm.studies.engine.readings.references import SPREAD_NOTE
from arche_mdlm.studies.families.comparisons import Key, looked_at

FILES = ("report.md", "report.json", "frontier.png")
_DIVERSITY = ("distinct_openings", "distinct_2", "self_bleu")


def write_report(report: dict, settings: dict, failed: dict[str, str], output: Path) -> Path:
    """Write report.md, report.json and, with matplotlib, frontier.png into `output`; returns report.md."""
    return engine.write_report(output, FILES, {"settings": settings, **report}, failed, draw, _sections)


def summary_lines(report: dict) -> list[str]:
    """What the figures decide, a sentence each."""
    signs = decide(looked_at(report))
    lines = [
        sentence
        for part in (_likelihood_sentences, _quality_sentences, _speed_sentences)
        for sentence in part(report, signs)
    ]
    return [f"- {line}" for line in lines] or ["- These stories decide nothing: take more of them (`--num_samples`)."]


def _sections(report: dict, pictures: dict[str, str]) -> list[str]:
    return [
        "# Diffusion families beside one autoregressive twin",
        f"`{report['command']}`",
        *_about(report),
        "## What the figures decide",
        "\n".join(summary_lines(report)),
        f"{note(decide(looked_at(report)))} One training a model is behind each row, so another seed of the "
        "training may decide otherwise.",
        "## Quality against speed",
        *with_captions(pictures),
        "## All figures",
        _table(report),
        *_notes(report),
        "## One story of each",
        *_stories(report),
        "All texts are in `report.json`, under `cells`, by job.",
        *failures(report["failed"]),
    ]


def _about(report: dict) -> list[str]:
    chosen, versions, judge = report["settings"], report["versions"], report["judge"]
    read = "No judge."
    if judge:
        name = (
            f"the AR twin itself ({judge['id']}), which reads a text up to its context"
            if report["judged_by_twin"]
            else judge["id"]
        )
        read = f"Judge: {name} ({judge['dtype']}, first token `{judge['first_token']}`)."
    return [
        f"{chosen['num_samples']} unprompted stories a row, temperature {chosen['temperature']}, no truncation, seed "
        f"{chosen['seed']}; each diffusion model by its checkpoint's own sampler, AR with its KV cache, models of causal blocks with "
        f"theirs. {read}",
        f"{report['machine']['device']}, {report['machine']['threads']} thread(s); torch {versions['torch']}, transformers "
        f"{versions['transformers']}. Parameters: "
        + ", ".join(f"{label} {own['parameters']:,}" for label, own in report["models"].items())
        + ".",
    ]


def _table(report: dict) -> str:
    sizes = [str(size) for size in report["settings"]["batch_sizes"]]
    header = ["", "family", "training, TFLOP", "NLL, nats a token", "bits a byte", "exact likelihood, nats a token", "steps",
              *(f"stories/s, batch {size}" for size in sizes), "forwards", "gen. perplexity", "entropy",
              *(FIGURES[key].short for key in _DIVERSITY), "words", "cut"]  # fmt: skip
    lines, last = [], None
    for row in report["rows"]:
        label = row["label"]
        own = _model_cells(report["models"][label]) if label != last else [""] * 5
        speeds = [_speed(row["stories_per_second"].get(size)) for size in sizes]
        steps = str(row["steps"] or "–")
        lines.append(
            [
                label + (f" {MARK}" if row.get("poor") else ""),
                *own,
                steps,
                *speeds,
                number(row.get("num_forwards"), ".1f"),
                *_quality(row),
            ]
        )
        last = label
    if report.get("bigram"):
        floor = f"{report['bigram']['nats_per_token']:.4f}"
        lines.append(["bigram", "interpolated bigram", "–", floor, *["–"] * (len(header) - 4)])
    if report["reference"]:
        lines.append(["real stories", *["–"] * (7 + len(sizes)), *_quality(report["reference"])])
    return table(header, lines, (0, 1))


def _model_cells(own: dict) -> list[str]:
    """Family, cost, likelihood twice, exact likelihood."""
    score, sign = own["likelihood"], "≤ " if own["is_bound"] else ""
    named = [own["family"], _cost(own["cost"])]
    if score is None:
        return [*named, "–", "–", "–"]
    error = f" ± {score['standard_error']:.4f}" if own["is_bound"] else ""
    if len(score["nats"]) > 1:
        _, low, high = ratio_interval(score["nats"], score["tokens"])
        error += f" ({low:.4f} to {high:.4f})"
    bits = number(score["bits_per_byte"], ".4f")
    exact = _exact_cell(own["exact"]) if own["exact"] else ("–" if own["has_exact"] else "bound only")
    if not own["is_bound"]:
        exact = "its NLL"
    return [*named, f"{sign}{score['nats_per_token']:.4f}{error}", f"{sign}{bits}", exact]


def _cost(cost: dict | None) -> str:
    """Of the model's own training, and of those that its start has had."""
    if cost is None:
        return "–"
    before = cost["before"]
    return f"{cost['tflop']:,.0f}" + ("" if before is None else f" (+ {before['tflop']:,.0f} before)")


def _exact_cell(found: dict) -> str:
    """From some of many orders it is a bound."""
    return f"{'' if found['num_orders'] is None else '≤ '}{found['nats_per_token']:.4f}"


def _speed(rate: dict | None) -> str:
    if rate is None:
        return "–"
    return number(rate["median"], ".3g", None if rate["calls"] == 1 else (rate["low"], rate["high"]))


def _quality(figures: dict) -> list[str]:
    cells = [
        figure_cell(figures, "generative_perplexity", ".1f"),
        figure_cell(figures, "unigram_entropy_nats", ".2f"),
    ]
    cells += [figure_cell(figures, key, FIGURES[key].style) for key in _DIVERSITY]
    return [*cells, number(figures.get("mean_words"), ".0f"), number(figures.get("cut_texts"), ".0%")]


def _notes(report: dict) -> list[str]:
    chosen, scores = report["settings"], [own["likelihood"] for own in report["models"].values() if own["likelihood"]]
    exact = [own["exact"] for own in report["models"].values() if own["exact"]]
    notes = []
    if poor := {f"{row['label']}, {row['steps'] or 'AR'}": row["poor"] for row in report["rows"] if row.get("poor")}:
        notes.append(floor_note(poor))
    if report.get("bigram"):
        notes.append(
            f"**Bigram**: {report['bigram']['what']}; a model above it has learnt less than which words follow each other."
        )
    if scores:
        notes.append(
            f"**NLL** of {scores[0]['stories']} stories of {report['corpus']}: exact for AR; for a diffusion model an upper bound "
            f"(NELBO), {chosen['likelihood_samples']} draws a story, seed {chosen['seed']}, ± its Monte Carlo error (of the masks alone); in brackets: 95 % over stories, which holds that "
            "error too. A diffusion model "
            "also pays for the padded tail of its canvas, by which it says how long the story is."
        )
    if exact:
        twins = [own["likelihood"] for own in report["models"].values() if not own["is_bound"] and own["likelihood"]]
        count = exact[0]["stories"]
        of_twin = f"; AR on the same: {_per_token(twins[0], count):.4f}" if twins else ""
        notes.append(
            f"**Exact likelihood** of the first {count} of these stories up to their end: of text that the model writes a token a step, "
            f"from left to right{of_twin}. That is another way to write than the bound is of, so either may be the lower one. *Bound "
            "only*: a family whose tokens are never settled has no such likelihood."
        )
        orders = [one["num_orders"] for one in exact if one["num_orders"] is not None]
        if orders:
            notes.append(
                f"**≤** in that column: of a model that writes in random orders, from {orders[0]} of them a story, seed {chosen['seed']}: a "
                "bound on the likelihood of writing a token at a time, which falls to it with more orders; the canvas's tail is counted."
            )
    if any(own["cost"] for own in report["models"].values()):
        notes.append(
            "**Training**: matrix products of all steps, counted from the shapes, by the checkpoint's log; *before*: of the model that it was "
            "started from, such as an AR model whose attention was opened."
        )
    notes.append(
        "**Cut**: texts that had tokens behind their first EOS or pad, as few steps write them; `generate` cuts these tokens off. "
        "**Stories/s**: median of the calls (slowest to fastest, where there are several), whole calls of `generate`. **Forwards**: of the "
        "model, a story. **Generative perplexity**: exp of the judge's nats a token; lower is better only while the **entropy** (nats, of "
        "a story's own tokens, averaged over stories) stays near that of real stories."
        + (
            " Of AR's own texts the twin says only how sure it was."
            if report["judged_by_twin"] and report["judge"]
            else ""
        )
        + " In brackets: 95 % intervals over stories. A block model takes at least one step a block."
        + few_judged(report),
    )
    if report["reference"]:
        real = report["reference"]
        notes.append(
            f"**Real stories**: {real['source']} (sha256 `{real['sha256'][:16]}`), {SPREAD_NOTE}; the judge read "
            "one draw. The aim of every column."
        )
    else:
        notes.append("No row of real stories: give `--references FILE`.")
    return notes


def _per_token(score: dict, count: int) -> float:
    return sum(score["nats"][:count]) / sum(score["tokens"][:count])


def _stories(report: dict) -> list[str]:
    """The first story of each model's last row."""
    last = {row["label"]: row for row in report["rows"]}
    parts = []
    for label, row in last.items():
        if row["story"] is not None:
            steps = f", {row['steps']} steps" if row["steps"] else ""
            parts.append(f"**{label}**{steps}\n\n{quoted('', row['story']) or '> (empty)'}")
    return parts


def _span(found: dict, style: str = ".3f") -> str:
    return f"{abs(found['estimate']):{style}} ({_bounds(found, style)})"


def _bounds(found: dict, style: str) -> str:
    low, high = sorted((abs(found["low"]), abs(found["high"])))
    return f"{low:{style}} to {high:{style}}"


def _likelihood_sentences(report: dict, signs: dict[Key, int]) -> list[str]:
    found = report["comparisons"]
    lines = []
    lowest = found["bounds"]["lowest"]
    above = {
        label: one for label, one in found["bounds"]["above"].items() if signs.get(("bound", label, lowest), 0) > 0
    }
    if above:
        others = ", ".join(f"{label}'s by {_span(one)}" for label, one in above.items())
        stories = next(iter(above.values()))["stories"]
        lines.append(f"**Bounds** ({stories} stories): above that of {lowest}, in nats a token: {others}.")
    decided = {label: one for label, one in found["exact"].items() if signs.get(("exact", label, ""))}
    if decided:
        parts = [
            f"{label} needs {_span(one)} {'more' if one['estimate'] > 0 else 'less'}" for label, one in decided.items()
        ]
        stories = next(iter(decided.values()))["stories"]
        lines.append(
            f"**Written from left to right, a token a step** ({stories} stories), beside AR, in nats a token: {', '.join(parts)}."
        )
    own = {label: one for label, one in found["own"].items() if signs.get(("own", label, ""))}
    if own:
        parts = [
            f"{label}'s by {_span(one)} {'above' if one['estimate'] > 0 else 'below'}" for label, one in own.items()
        ]
        lines.append(
            f"**The same beside the model's own bound**, which also pays for the canvas's tail, in nats a token: {', '.join(parts)}."
        )
    return lines


def _quality_sentences(report: dict, signs: dict[Key, int]) -> list[str]:
    """At each model's most steps."""
    last = {row["label"]: row for row in report["rows"]}
    lines, real, parts = _perplexity_sentences(last, signs), report["reference"], []
    for label, row in last.items():
        if sign := signs.get(("openings", label, "")):
            parts.append(f"{label} ({figure_cell(row, 'distinct_openings', '.1%')}) {'above' if sign > 0 else 'below'}")
    if parts:
        lines.append(
            f"**Different openings** beside real stories ({figure_cell(real, 'distinct_openings', '.1%')}): {', '.join(parts)} them."
        )
    return lines


def _perplexity_sentences(last: dict[str, dict], signs: dict[Key, int]) -> list[str]:
    """Of the model with the lowest perplexity, which others are above it."""
    pairs = [(one, other) for (question, one, other), sign in signs.items() if question == "perplexity" and sign > 0]
    if not pairs:
        return []
    key = "generative_perplexity"
    best = min((other for _, other in pairs), key=lambda label: last[label][key])
    worse = [one for one, other in pairs if other == best]
    return [
        f"**Texts as the judge reads them**, each model at its most steps: perplexity above that of {best} "
        f"({figure_cell(last[best], key, '.1f')} at an entropy of {figure_cell(last[best], 'unigram_entropy_nats', '.2f')}): "
        + ", ".join(
            f"{label} {figure_cell(last[label], key, '.1f')} at {figure_cell(last[label], 'unigram_entropy_nats', '.2f')}"
            for label in worse
        )
        + "."
    ]


def _speed_sentences(report: dict, signs: dict[Key, int]) -> list[str]:
    lines = []
    for size in map(str, report["settings"]["batch_sizes"]):
        own = [one for one in report["comparisons"]["faster"] if one["batch_size"] == size]
        for word, wanted in (("faster", 1), ("slower", -1)):
            chosen = [one for one in own if signs.get(("speed", one["label"], f"{one['steps']}/{size}")) == wanted]
            if chosen:
                parts = ", ".join(f"{one['label']} in {one['steps']} steps ({one['estimate']:.2g})" for one in chosen)
                lines.append(
                    f"**{word.capitalize()} than AR** at batch {size}, stories a second as a multiple of AR's: {parts}."
                )
    return lines
