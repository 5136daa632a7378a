"""The report of the controlled comparison: tables, pictures, and all figures as JSON."""

from pathlib import Path
from statistics import median

from arche_mdlm.studies.controlled.conclusions import MAIN, NAMES, conclusions, sign
from arche_mdlm.studies.controlled.summary import CUT_FIGURES, sample_key
from arche_mdlm.studies.engine.markdown import quoted, table
from arche_mdlm.studies.engine.plots import NO_PICTURES, can_draw
from arche_mdlm.studies.engine.provenance import provenance
from arche_mdlm.studies.engine.runner import without_path
from arche_mdlm.training.own_files import OutputFolder
from arche_mdlm.training.provenance import portable

PICTURES = ("training.png", "frontier.png", "intervals.png")
FILES = ("report.md", "report.json", *PICTURES)

_ROWS = {  # figure: (label, format)
    "distinct_1": ("Distinct-1", ".3f"),
    "distinct_2": ("Distinct-2", ".3f"),
    "distinct_4": ("Distinct-4", ".3f"),
    "self_bleu": ("Self-BLEU", ".3f"),
    "vocabulary_size": ("vocabulary", ",.0f"),
    "distinct_first_words": ("distinct first words", ".1%"),
    "distinct_openings": ("distinct five-word openings", ".1%"),
    "repetition_4": ("repetition within a story", ".4f"),
    "unigram_entropy": ("unigram entropy, nats", ".3f"),
    "generative_perplexity": ("generative perplexity", ".1f"),
    "mauve": ("MAUVE", ".3f"),
    "longest_copy": ("longest n-gram of training, words", ".1f"),
    "copied_13_grams": ("13-grams of training", ".2%"),
    "mean_words": ("words a story", ".1f"),
    "ended_by_eos": ("ended by EOS", ".1%"),
}


def write_report(report: dict, settings: dict, failed: dict[str, str], output: Path) -> Path:
    """Write report.md, report.json and, with matplotlib, pictures into `output`; returns report.md."""
    output, folder = Path(output), OutputFolder(output, FILES)
    report = {"settings": settings, **report, "failed": without_path(failed, output), **provenance(output)}
    report = portable(report)
    report["conclusions"] = conclusions(report)
    pictures = _draw(report, folder)
    folder.write_json("report.json", report)
    return folder.write_text("report.md", _markdown(report, pictures))


def _draw(report: dict, folder: OutputFolder) -> dict[str, str]:
    if not can_draw():
        return {}
    from arche_mdlm.studies.controlled.plots import draw

    return draw(report, folder)


def _markdown(report: dict, pictures: dict[str, str]) -> str:
    parts = [
        f"# The controlled comparison: {report['scale']}",
        _what(report),
        *([] if not report["failed"] else ["## What is missing", _failures(report["failed"])]),
        "## What can be said",
        "\n".join(f"- {line}" for line in report["conclusions"]) or "Nothing: no figures.",
        *(f"![{caption}]({name})\n\n*{caption}.*" for name, caption in pictures.items()),
        *([] if pictures else [NO_PICTURES]),
        "## Training",
        _training(report),
        "AR at equal tokens seen, and at equal tokens supervised (`ar-supervised`: trained, with a schedule of its own, for as "
        "many steps as give AR as many supervised real tokens as MDLM's masks give it). Supervised counts here include the "
        "canvas's tail, where MDLM says that the story is over. Tokens/s: median of the log's entries, other jobs beside it; "
        "MFU and peak memory are measured on GPUs whose peak is known.",
        "## Likelihood on the held-out stories",
        _likelihood(report),
        "AR: exact NLL. MDLM: NELBO, an upper bound on its NLL; nats divided by the story's tokens, EOS counted.",
        *_all_samples(report),
        f"## Differences from AR at equal tokens seen: {_prompt('bos')}, temperature 1.0, best checkpoint",
        _differences(report),
        f"{'One seed: no interval over seeds' if _one_seed(report) else 'Over seeds'}, each seed's difference paired by "
        "prompt; the intervals over prompts, of each seed and for all sets of samples, are in `report.json` under "
        "`differences`.",
        "## Distance to the held-out stories",
        _distances(report),
        f"Absolute distances, mean over seeds; Distinct-n, Self-BLEU and vocabulary of the first "
        f"{report['settings']['cut_tokens']} tokens. "
        + (
            "One seed: no interval says which arm is closer."
            if _one_seed(report)
            else "*closer*, *farther*: than AR at equal tokens seen, the interval over seeds without zero."
        ),
        "## Examples",
        *_examples(report),
        "## How it was made",
        _made(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


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
        else "In brackets: 95 % intervals over seeds (Student's t), which hold the noise of the stories too."
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
                ]
    return [*parts, "In every run the best checkpoint is the last one."] if same else parts


def _prompt(kind: str) -> str:
    return {"bos": "no prompt (a BOS)", "opening": "the first 8 tokens of held-out stories"}[kind]


def _failures(failed: dict[str, str]) -> str:
    """What failed by itself, and how many jobs were skipped for it."""
    own = {name: reason for name, reason in failed.items() if not reason.startswith("skipped")}
    lines = [f"- `{name}`: {reason}" for name, reason in own.items()]
    if len(own) < len(failed):
        lines.append(f"- skipped, because they need these: {len(failed) - len(own)} jobs (listed in `report.json`)")
    return "\n".join(lines)


def number(value: dict | None, style: str) -> str:
    """An estimate with its interval."""
    if value is None or value["estimate"] is None:
        return "–"
    text = format(value["estimate"], style)
    return text if value["low"] is None else f"{text} ({value['low']:{style}} to {value['high']:{style}})"


def _training(report: dict) -> str:
    rows, measured = [], ("tokens_per_second", "mfu", "peak_memory_gib")
    for name, arm in report["arms"].items():
        for seed, run in arm["training"].items():
            pace = {
                key: median(values) if (values := [e[key] for e in run["history"] if key in e]) else None
                for key in measured
            }
            rows.append([f"{name}, seed {seed}", f"{run['steps']:,}", f"{run['best_step']:,}", f"{run['tokens']:,}",
                         f"{run['supervised']:,}", f"{run['seconds'] / 60:.1f}", plain(pace["tokens_per_second"], ",.0f"),
                         plain(pace["mfu"], ".1%"), plain(pace["peak_memory_gib"], ".1f")])  # fmt: skip
    header = ["arm", "steps", "best at", "tokens seen", "supervised", "minutes", "tokens/s", "MFU", "peak GiB"]
    return table(header, rows)


def plain(value: float | None, style: str) -> str:
    return "–" if value is None else format(value, style)


def _likelihood(report: dict) -> str:
    rows = []
    for name, arm in report["arms"].items():
        for checkpoint, group in arm["likelihood"].items():
            if checkpoint == "last" and _best_is_last(report):
                continue
            at_most = "≤ " if any(entry["bound"] for entry in group["seeds"].values()) else ""
            mean = group["mean"]
            by_seed = ", ".join(f"{entry['nats_per_token']:.4f}" for entry in group["seeds"].values())
            rows.append([f"{name}, {checkpoint}", at_most + number(mean["nats_per_token"], ".4f"),
                         at_most + number(mean["bits_per_byte"], ".4f"), by_seed])  # fmt: skip
    return table(["arm, checkpoint", "nats a token", "bits a byte", "nats a token, by seed"], rows)


def _samples(report: dict, key: str) -> str:
    reference = report["reference"]
    header = ["", *report["arms"], *(["held-out stories"] if reference else [])]
    rows = []
    for group, suffix in (("mean", ""), ("mean_cut", f", first {report['settings']['cut_tokens']} tokens")):
        for figure, (label, style) in _ROWS.items():
            if suffix and figure not in CUT_FIGURES:
                continue
            cells = [arm["samples"].get(key, {}).get(group, {}).get(figure) for arm in report["arms"].values()]
            if not any(cells):
                continue
            line = [label + suffix, *(number(_in_range(cell, style), style) for cell in cells)]
            if reference:
                line.append(_reference(reference["cut" if suffix else "figures"], figure, style))
            rows.append(line)
    return table(header, rows)


def _in_range(value: dict | None, style: str) -> dict | None:
    """Student's interval knows nothing of ranges: none of these figures is negative, no share above 1."""
    if value is None or value["low"] is None:
        return value
    high = min(1.0, value["high"]) if style.endswith("%") else value["high"]
    return value | {"low": max(0.0, value["low"]), "high": high}


def _reference(figures: dict, name: str, style: str) -> str:
    """Of held-out stories, with the interval over stories."""
    if figures.get(name) is None:
        return "–"
    low, high = figures.get(f"{name}_ci", (None, None))
    return number({"estimate": figures[name], "low": low, "high": high}, style)


def _differences(report: dict) -> str:
    """A line a figure, a column an arm."""
    columns = list(report["differences"])
    rows = []
    for checkpoint in ("best",) if _best_is_last(report) else ("best", "last"):
        cells = [report["differences"][c]["likelihood"].get(checkpoint, {}).get("mean") for c in columns]
        if any(cells):
            rows.append([f"nats a token, {checkpoint}", *(number(cell, "+.4f") for cell in cells)])
    found = [report["differences"][column]["samples"].get(MAIN, {}) for column in columns]
    for figure in dict.fromkeys(name for figures in found for name in figures):
        cells = [figures.get(figure, {}).get("mean") for figures in found]
        rows.append(
            [
                NAMES.get(figure, figure),
                *(number(cell, "+,.0f" if figure == "vocabulary_size" else "+.4f") for cell in cells),
            ]
        )
    return table(["", *columns], rows)


def _distances(report: dict) -> str:
    if "distances" not in report:
        return "There is no reference row."
    columns, rows = list(report["distances"]), []
    found = [report["distances"][column].get(MAIN, {}) for column in columns]
    for figure in dict.fromkeys(name for figures in found for name in figures):
        style = _ROWS[figure][1]
        reference = next(figures[figure]["reference"] for figures in found if figure in figures)
        cells = [_distance(figures.get(figure), style) for figures in found]
        rows.append([NAMES[figure], format(reference, style), *cells])
    return table(["", "held-out stories", *columns], rows)


def _distance(entry: dict | None, style: str) -> str:
    if entry is None:
        return "–"
    word = {-1: ", *closer*", 0: "", 1: ", *farther*"}[sign(entry["than_base"])]
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
                        f"**{name}**, seed {seed}, {_prompt(prompt)}\n\n{quoted(story['prompt'], story['text'])}"
                    )
    return parts


def _made(report: dict) -> str:
    runs = [run for arm in report["arms"].values() for run in arm["training"].values()]
    devices = ", ".join(sorted({run["device"] for run in runs}))
    versions = sorted({f"{name} {version}" for run in runs for name, version in run["versions"].items()})
    lines = [
        f"- `{report['command']}`",
        f"- trained on: {devices}; {', '.join(versions)}",
        f"- data: hash `{report['data_hash']}`",
    ]
    for split, summary in (report["data"] or {}).items():
        lines.append(
            f"- {split}: {summary['stories']:,} stories, {summary['tokens']:,} tokens, sha256 `{summary['sha256'][:16]}`"
        )
    if report.get("judge"):
        about = {key: report["judge"][key] for key in ("id", "package", "revision", "sha256") if key in report["judge"]}
        lines.append(f"- judge: {', '.join(f'{key} {value}' for key, value in about.items())}")
    lines.append("- every training's command, and every job's key (a hash of its settings, data and what it needs), is in "
                 "`report.json` under `training_commands` and `jobs`")  # fmt: skip
    return "\n".join(lines)
