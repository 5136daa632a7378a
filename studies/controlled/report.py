"""The report of the controlled comparison: tables, pictures, and all figures as JSON."""

from pathlib import Path
from statistics import median

from arche_mdlm.studies.controlled.conclusions import MAIN, comparisons, conclusions
from arche_mdlm.studies.controlled.matched import note as matched_note
from arche_mdlm.studies.controlled.plots import draw
from arche_mdlm.studies.controlled.summary import CUT_FIGURES, LOGARITHMIC, sample_key
from arche_mdlm.studies.engine import report as engine
from arche_mdlm.studies.engine.figures import FIGURES, MAUVE_RANKS_BELOW
from arche_mdlm.studies.engine.markdown import failures, figure_cell, number, quoted, table, with_captions
from arche_mdlm.studies.engine.readings.decisions import decide
from arche_mdlm.studies.engine.readings.first_tokens import PICTURE, section
from arche_mdlm.studies.engine.readings.floors import MARK
from arche_mdlm.studies.engine.readings.floors import note as floor_note
from arche_mdlm.studies.engine.readings.references import SPREAD_NOTE

PICTURES = ("training.png", "frontier.png", "intervals.png", PICTURE)
FILES = ("report.md", "report.json", *PICTURES)
_GIVEN = ("distinct_first_words", "distinct_openings")  # by the prompt "opening"
_ROWS = [name for name in FIGURES if name != "distinct_3"]


def write_report(report: dict, settings: dict, failed: dict[str, str], output: Path) -> Path:
    """Write report.md, report.json and, with matplotlib, pictures into `output`; returns report.md."""
    report = {"settings": settings, **report}
    report["conclusions"] = conclusions(report)
    return engine.write_report(output, FILES, report, failed, draw, _sections)


def _sections(report: dict, pictures: dict[str, str]) -> list[str]:
    return [
        f"# The controlled comparison: {report['scale']}",
        _what(report),
        *failures(report["failed"]),
        "## What can be said",
        "\n".join(f"- {line}" for line in report["conclusions"]) or "Nothing: no figures.",
        *with_captions(pictures),
        "## Training",
        _training(report),
        "AR at equal tokens seen, and at equal tokens supervised (`ar-supervised`: trained, with a schedule of its own, for as "
        "many steps as give AR as many supervised real tokens as MDLM's masks give it). Supervised counts here include the "
        "canvas's tail, where MDLM says that the story is over. Tokens/s: median of the log's entries, other jobs beside it; "
        "MFU and peak memory are measured on GPUs whose peak is known.",
        matched_note(report["arms"]),
        "## Likelihood on the held-out stories",
        _likelihood(report),
        "AR: exact NLL. MDLM: NELBO, an upper bound on its NLL; nats divided by the story's tokens, EOS counted. "
        "*Masks*: Monte Carlo error of the bound, one standard error; *stories*: half of the 95 % interval over stories, which holds "
        "that of the masks; both are means over seeds. " + _of_left_to_right(report),
        floor_note(report["poor"]),
        *section(report["first_tokens"]),
        *_all_samples(report),
        f"## Differences from AR at equal tokens seen: {_prompt('bos')}, temperature 1.0, best checkpoint",
        _differences(report),
        f"{'One seed: no interval over seeds' if _one_seed(report) else 'Over seeds'}, each seed's difference paired by "
        "prompt; the intervals over prompts, of each seed and for all sets of samples, are in `report.json` under "
        "`differences`.",
        *_equal_fit(report),
        "## Distance to the held-out stories",
        _distances(report),
        f"Absolute distances, mean over seeds; Distinct-n, Self-BLEU and vocabulary of the first "
        f"{report['settings']['cut_tokens']} tokens. "
        + (
            "One seed: no interval says which arm is closer."
            if _one_seed(report)
            else "*closer*, *farther*: than AR at equal tokens seen, where that is decided (see above) at the mean of held-out "
            "stories and at both ends of their spread."
        ),
        "## Examples",
        *_examples(report),
        *_made(report),
    ]


def _what(report: dict) -> str:
    settings = report["settings"]
    count = f"{report['parameters']:,}" if report["parameters"] else "not known"
    judge = report.get("judge")
    judged = "No judge." if not judge else (
        f"Judge: {judge['id']} ({judge['dtype']}), "
        + (f"the first {settings['judge_samples']} texts of a set." if settings["judge_samples"] else "all texts.")
    )  # fmt: skip
    brackets = (
        "One seed: there are no intervals over seeds; those of held-out stories, in brackets, are over stories (95 %)."
        if _one_seed(report)
        else "In brackets: 95 % intervals over seeds (Student's t; of perplexities on a log scale), which hold the noise of the stories and "
        "of the bounds' masks too."
    )
    return (
        f"Parameters: {count} in both arms. Seeds of training: {', '.join(map(str, report['seeds']))}. "
        f"{settings['num_samples']} stories a checkpoint, prompt and temperature; no truncation, no penalty, the training "
        f"length; MDLM: ancestral sampling in {settings['num_diffusion_steps']} steps. {judged} {brackets} "
        "Validation chose the best checkpoints, on the same held-out stories as are scored below."
    )


def _one_seed(report: dict) -> bool:
    return len(report["seeds"]) == 1


def _best_is_last(report: dict) -> bool:
    """In every run."""
    runs = [run for arm in report["arms"].values() for run in arm["training"].values()]
    return bool(runs) and all(run["best_step"] == run["steps"] for run in runs)


def _all_samples(report: dict) -> list[str]:
    """A section a checkpoint and prompt; the last checkpoints' are left out where all are the best ones."""
    same, parts = _best_is_last(report), []
    for checkpoint in ("best",) if same else ("best", "last"):
        for prompt in report["settings"]["prompts"]:
            key = sample_key({"checkpoint": checkpoint, "prompt": prompt, "temperature": 1.0})
            if any(key in arm["samples"] for arm in report["arms"].values()):
                parts += [
                    f"## Samples: {checkpoint} checkpoint, {_prompt(prompt)}, temperature 1.0",
                    _samples(report, key),
                    _reference_note(report, prompt),
                ]
    return [*parts, "In every run the best checkpoint is the last one."] if same else parts


def _reference_note(report: dict, prompt: str) -> str:
    given = "First words and openings are given by the prompts, and so left out. " if prompt == "opening" else ""
    if not report["reference"]:
        return given
    return (
        f"{given}Held-out stories: {SPREAD_NOTE}; generative perplexity (its interval is over stories), MAUVE and n-grams of training "
        "are of one draw."
    )


def _prompt(kind: str) -> str:
    return {"bos": "no prompt (a BOS)", "opening": "the first 8 tokens of held-out stories"}[kind]


def _training(report: dict) -> str:
    rows, measured = [], ("tokens_per_second", "mfu", "peak_memory_gib")
    for name, arm in report["arms"].items():
        for seed, run in arm["training"].items():
            pace = {
                key: median(values) if (values := [e[key] for e in run["history"] if key in e]) else None
                for key in measured
            }
            rows.append([f"{name}, seed {seed}", f"{run['steps']:,}", f"{run['best_step']:,}", f"{run['tokens']:,}",
                         f"{run['supervised']:,}", f"{run['seconds'] / 60:.1f}", number(pace["tokens_per_second"], ",.0f"),
                         number(pace["mfu"], ".1%"), number(pace["peak_memory_gib"], ".1f")])  # fmt: skip
    header = ["arm", "steps", "best at", "tokens seen", "supervised", "minutes", "tokens/s", "MFU", "peak GiB"]
    return table(header, rows)


def _likelihood(report: dict) -> str:
    rows = []
    for name, arm in report["arms"].items():
        for checkpoint, group in arm["likelihood"].items():
            if checkpoint == "last" and _best_is_last(report):
                continue
            at_most = "≤ " if any(entry["bound"] for entry in group["seeds"].values()) else ""
            mean = group["mean"]
            masks, stories = _noises(group)
            by_seed = ", ".join(f"{entry['nats_per_token']:.4f}" for entry in group["seeds"].values())
            exact = arm.get("exact") if checkpoint == "best" else None
            rows.append([f"{_marked(report, name)}, {checkpoint}", at_most + _estimate(mean["nats_per_token"], ".4f"),
                         at_most + _estimate(mean["bits_per_byte"], ".4f"), masks, stories, by_seed,
                         _estimate(exact and exact["mean"]["nats_per_token"], ".4f"),
                         _estimate(report["differences"].get(name, {}).get("exact", {}).get("mean") if exact else None, "+.4f")])  # fmt: skip
    if report["bigram"]:
        bigram = report["bigram"]
        rows.append(
            [
                "interpolated bigram",
                f"{bigram['nats_per_token']:.4f}",
                *["–"] * 4,
                f"{bigram['nats_per_token_exact']:.4f}",
                "–",
            ]
        )
    header = [
        "arm, checkpoint",
        "nats a token",
        "bits a byte",
        "± masks",
        "± stories",
        "nats a token, by seed",
        "left to right",
        "minus AR",
    ]
    return table(header, rows)


def _of_left_to_right(report: dict) -> str:
    counts = [own["exact"]["stories"] for own in report["differences"].values() if "exact" in own]
    if not counts:
        return ""
    return (
        f"*Left to right*: the exact NLL of MDLM's best checkpoint writing a token a step in that order, on the first {counts[0]} held-out stories; "
        "*minus AR*: the difference from ar-seen's NLL of the same stories, its interval over seeds or over these stories, whichever is wider."
    )


def _marked(report: dict, name: str) -> str:
    return name + (f" {MARK}" if name in report["poor"] else "")


def _noises(group: dict) -> tuple[str, str]:
    """Of a bound's masks (none for an exact value) and of the stories, nats a token, means over seeds."""
    entries = list(group["seeds"].values())
    masks = sum(entry["standard_error"] for entry in entries) / len(entries)
    stories = sum(e["nats_per_token_ci"][1] - e["nats_per_token_ci"][0] for e in entries) / len(entries) / 2
    return number(masks if any(entry["bound"] for entry in entries) else None, ".4f"), f"{stories:.4f}"


def _samples(report: dict, key: str) -> str:
    reference = report["reference"]
    header = ["", *(_marked(report, name) for name in report["arms"]), *(["held-out stories"] if reference else [])]
    rows = []
    for group, suffix in (("mean", ""), ("mean_cut", f", first {report['settings']['cut_tokens']} tokens")):
        for figure in _ROWS:
            label, _, style, _ = FIGURES[figure]
            if figure == "mauve" and report["settings"]["num_samples"] < MAUVE_RANKS_BELOW:
                label += f" (below {MAUVE_RANKS_BELOW} texts it only ranks)"
            if (suffix and figure not in CUT_FIGURES) or (figure in _GIVEN and ", opening, " in key):
                continue
            cells = [arm["samples"].get(key, {}).get(group, {}).get(figure) for arm in report["arms"].values()]
            if not any(cells):
                continue
            line = [label + suffix, *(_estimate(_in_range(cell, style), style) for cell in cells)]
            if reference:
                line.append(figure_cell(reference["cut" if suffix else "figures"], figure, style))
            rows.append(line)
    return table(header, rows)


def _estimate(value: dict | None, style: str) -> str:
    """A mean over seeds with its interval."""
    if value is None:
        return number(None, style)
    return number(value["estimate"], style, (value["low"], value["high"]))


def _in_range(value: dict | None, style: str) -> dict | None:
    """Student's interval knows nothing of ranges: none of these figures is negative, no share above 1."""
    if value is None or value["low"] is None:
        return value
    high = min(1.0, value["high"]) if style.endswith("%") else value["high"]
    return value | {"low": max(0.0, value["low"]), "high": high}


def _differences(report: dict) -> str:
    """A line a figure, a column an arm."""
    columns = list(report["differences"])
    rows = []
    for checkpoint in ("best",) if _best_is_last(report) else ("best", "last"):
        cells = [report["differences"][c]["likelihood"].get(checkpoint, {}).get("mean") for c in columns]
        if any(cells):
            rows.append([f"nats a token, {checkpoint}", *(_estimate(cell, "+.4f") for cell in cells)])
    found = [report["differences"][column]["samples"].get(MAIN, {}) for column in columns]
    for figure in dict.fromkeys(name for figures in found for name in figures):
        cells = [figures.get(figure, {}).get("mean") for figures in found]
        rows.append(
            [
                FIGURES[figure].short if figure in FIGURES else figure,
                *(_estimate(cell, "+,.0f" if figure == "vocabulary_size" else "+.4f") for cell in cells),
            ]
        )
    return table(["", *columns], rows)


def _equal_fit(report: dict) -> list[str]:
    """MDLM minus AR at MDLM's likelihoods, a line a figure."""
    equal = report["at_equal_fit"]
    if not equal:
        return []
    found = {base: own["differences"] for base, own in equal.items()}
    sets = [own["samples"].get(MAIN, {}) for own in found.values()]
    rows = [
        [
            "nats a token, best",
            *(_estimate(own["likelihood"].get("best", {}).get("mean"), "+.4f") for own in found.values()),
        ]
    ]
    for figure in dict.fromkeys(name for own in sets for name in own):
        style = "+,.0f" if figure == "vocabulary_size" else "+.4f"
        label = FIGURES[figure].short if figure in FIGURES else figure
        rows.append([label, *(_estimate(own.get(figure, {}).get("mean"), style) for own in sets)])
    column = next(iter(equal.values()))["column"]
    return [
        f"## At equal fit: {column} minus AR at its likelihood, {_prompt('bos')}, temperature 1.0, best checkpoint",
        table(["", *(f"minus {base}" for base in equal)], rows),
        "MDLM's bound may be loose, its left-to-right NLL is exact; AR at the bound fits at most as well as MDLM does, AR at the left-to-right NLL as well as "
        "MDLM where that writes in this order.",
    ]


def _distances(report: dict) -> str:
    if "distances" not in report:
        return "There is no reference row."
    columns, rows = list(report["distances"]), []
    found = [report["distances"][column].get(MAIN, {}) for column in columns]
    signs = decide(comparisons(report))
    for figure in dict.fromkeys(name for figures in found for name in figures):
        style = ".2f" if figure in LOGARITHMIC else FIGURES[figure].style
        one = next(figures[figure] for figures in found if figure in figures)
        cells = [
            _distance(figures.get(figure), style, signs.get(("closeness", column, figure), 0))
            for column, figures in zip(columns, found, strict=True)
        ]
        rows.append(
            [
                FIGURES[figure].short + (", log" if figure in LOGARITHMIC else ""),
                number(one["reference"], style, one["reference_ci"]),
                *cells,
            ]
        )
    return table(["", "held-out stories", *columns], rows)


def _distance(entry: dict | None, style: str, sign: int) -> str:
    if entry is None:
        return "–"
    word = {-1: ", *closer*", 0: "", 1: ", *farther*"}[sign]
    return format(entry["distance"]["estimate"], style) + word


def _examples(report: dict) -> list[str]:
    """The first stories of every arm, from its first seed."""
    parts = []
    for prompt in report["settings"]["prompts"]:
        key = sample_key({"checkpoint": "best", "prompt": prompt, "temperature": 1.0})
        for name, arm in report["arms"].items():
            seeds = arm["samples"].get(key, {}).get("seeds", {})
            for seed, entry in list(seeds.items())[:1]:
                for story in entry["examples"][:1]:
                    parts.append(
                        f"**{name}**, seed {seed}, {_prompt(prompt)}{' (not shown)' if 'prompt_sha256' in story else ''}\n\n"
                        + quoted("", story["text"])
                    )
    return parts


def _made(report: dict) -> list[str]:
    runs = [run for arm in report["arms"].values() for run in arm["training"].values()]
    lines = [
        f"- {split}: {summary['stories']:,} stories, {summary['tokens']:,} tokens, sha256 `{summary['sha256'][:16]}`"
        for split, summary in (report["data"] or {}).items()
    ]
    if report.get("judge"):
        about = {key: report["judge"][key] for key in ("id", "package", "revision", "sha256") if key in report["judge"]}
        lines.append(f"- judge: {', '.join(f'{key} {value}' for key, value in about.items())}")
    return engine.how_trained(report, runs, tuple(lines))
