"""The report of the paper's protocol: our rows beside the paper's, and the factor table."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

from arche_mdlm.studies.arche.effects import contrasts, effects, sentences
from arche_mdlm.studies.arche.factors import LABELS, NAMES, PAPER, VARIANTS
from arche_mdlm.studies.arche.plots import draw
from arche_mdlm.studies.engine import report as engine
from arche_mdlm.studies.engine.figures import FIGURES
from arche_mdlm.studies.engine.markdown import failures, figure_cell, interval_cell, number, table, with_captions
from arche_mdlm.studies.engine.readings.floors import MARK
from arche_mdlm.studies.engine.readings.floors import note as floor_note

FILES = ("report.md", "report.json", "factors.png")

_DIVERSITY = {name: (FIGURES[name].short, FIGURES[name].style) for name in (
    "distinct_1", "distinct_2", "distinct_3", "distinct_4", "self_bleu", "distinct_first_words", "distinct_openings",
    "vocabulary_size", "mean_words")}  # fmt: skip
_RUN = {
    "parameters": ("parameters", ",.0f"),
    "validation_loss_best": ("validation loss, best", ".3f"),
    "best_step": ("at step", ",.0f"),
    "validation_loss_last": ("last", ".3f"),
    "tokens_per_second": ("tokens/s", ",.0f"),
    "minutes": ("minutes", ".1f"),
}


def write_report(report: dict, settings: dict, failed: dict[str, str], output: Path) -> Path:
    """Write report.md and report.json into `output`; returns report.md."""
    paper = json.loads(PAPER.read_text(encoding="utf-8"))
    found = {arm: {f: effects(report["cells"], arm, f) for f in ("distinct_openings", "self_bleu")} for arm in VARIANTS}
    report = {
        "settings": settings,
        "paper": paper,
        **report,
        "effects": found,
        "contrasts": contrasts(report["cells"], "distinct_openings"),
        "seeds": sorted({seed for cell in report["cells"] for seed in cell["seeds"]}, key=int),
    }
    return engine.write_report(output, FILES, report, failed, draw, _sections)


def _sections(report: dict, pictures: dict[str, str]) -> list[str]:
    settings = report["settings"]
    return [
        "# The paper's protocol, and its confounds one at a time",
        f"Preset `{settings['preset']}`, {_seeds(report)}; {settings['num_samples']} samples a cell, temperature "
        f"{settings['temperature']}; MDLM in {settings['num_diffusion_steps']} steps of the sampler `arche`.",
        *failures(report["failed"]),
        "## Which choices make the paper's contrast",
        "\n".join(f"- {line}" for line in sentences(report["cells"])) or "Nothing: each arm has a missing or a marked cell.",
        "Paper: 93.4 % distinct openings of MDLM, 3.3 % of AR. Its AR arm is the only one that is forced to begin with "
        '"Once", its MDLM arm the only one whose repetitions are penalised.',
        "MDLM minus AR, distinct openings, as the paper treats the two arms, and with both treated alike (a free start, no penalty):",
        _contrasts(report),
        floor_note(report["poor"]),
        _scale(report) + " Distinct openings say nothing of quality: Self-BLEU, vocabulary and words of each "
        "cell are below, and show where a model repeats itself or hardly writes.",
        *with_captions(pictures),
        "## Fit",
        _fit(report),
        "Nats a token of the best checkpoint on held-out rows or windows, their first token given: AR's is exact, MDLM's the bound. The bigram is an "
        "interpolated one of the training rows or windows. An arm with a marked cell is in no sentence.",
        "## Training",
        _beside(report, _RUN, _our_run),
        "The losses are the paper's: nats a token of AR, the masked mean at one draw of MDLM, on 50 batches of held-out "
        "windows. They are not comparable with each other.",
        "## Diversity, as the paper's code measures it",
        _beside(report, _DIVERSITY, _our_figures),
        f"Paper: {report['paper']['source']}. AR's forced \"Once\" is counted, so its first words are "
        "1 / samples whatever the model does.",
        *(part for arm in VARIANTS for part in (f"## Factors: {NAMES[arm]}", _factors(report, arm))),
        f"In brackets: 95 % intervals over {'seeds (Student)' if len(report['seeds']) > 1 else 'texts'}. A free start is a BOS with rows, and the first token of a random training "
        "window with windows. Rows end at EOS, so they have texts of unequal length: distinct figures fall with the number "
        "of words, which stands beside them.",
        *engine.how_trained(report, list(report["training"].values())),
    ]  # fmt: skip


def _contrasts(report: dict) -> str:
    header = [
        "layout, length",
        '"Once" and penalty: MDLM',
        "AR",
        "difference",
        "treated alike: MDLM",
        "AR",
        "difference",
    ]
    rows = []
    for entry in report["contrasts"]:
        cells = []
        for name in ("paper", "alike"):
            found = entry[name] or {}
            cells += [
                number(found.get(key), style) for key, style in (("mdlm", ".1%"), ("ar", ".1%"), ("difference", "+.1%"))
            ]
        own = [c for c in report["cells"] if (c["layout"], c["length"]) == (entry["layout"], entry["length"])]
        mark = f" {MARK}" if any(c["poor"] for c in own) else ""
        rows.append([f"{LABELS[entry['layout']]}, {LABELS[entry['length']]}{mark}", *cells])
    return table(header, rows)


def _beside(report: dict, figures: dict, ours: Callable[[dict, str], dict]) -> str:
    header, rows = ["", *(label for label, _ in figures.values())], []
    for arm, name in NAMES.items():
        for label, values in (
            (f"{name}, the paper", report["paper"]["arms"][arm]),
            (f"{name}, ours", ours(report, arm)),
        ):
            rows.append([label, *(number(values.get(key), style) for key, (_, style) in figures.items())])
    return table(header, rows)


def _our_run(report: dict, arm: str) -> dict:
    """Means over seeds."""
    runs, losses = (
        [own for name, own in report[kind].items() if name.startswith(f"{arm}-windows-")]
        for kind in ("training", "validation")
    )
    if not runs:
        return {}
    found = {name: fmean(run[name] for run in runs) for name in ("parameters", "best_step", "seconds", "tokens")}
    found |= {"minutes": found["seconds"] / 60, "tokens_per_second": found["tokens"] / max(found["seconds"], 1e-9)}
    if losses:
        found |= {f"validation_{name}": fmean(own[name] for own in losses) for name in ("loss_best", "loss_last")}
    return found


def _our_figures(report: dict, arm: str) -> dict:
    wanted = {"arm": arm, "layout": "windows", "length": "short", "variant": VARIANTS[arm][0]}
    return next((c["figures"] or {} for c in report["cells"] if all(c[k] == v for k, v in wanted.items())), {})


def _factors(report: dict, arm: str) -> str:
    header = ["layout", "length", "start" if arm == "ar" else "penalty", *(label for label, _ in _DIVERSITY.values())]
    rows = []
    for cell in report["cells"]:
        if cell["arm"] == arm:
            values = [figure_cell(cell["figures"], key, style) for key, (_, style) in _DIVERSITY.items()]
            rows.append(
                [cell["layout"] + (f" {MARK}" if cell["poor"] else ""), cell["length"], cell["variant"], *values]
            )
    return table(header, rows)


def _seeds(report: dict) -> str:
    seeds = report["seeds"]
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(seeds)} (figures are means over them)"


def _scale(report: dict) -> str:
    count = len(report["seeds"])
    return f"{'One seed' if count == 1 else f'{count} seeds'}, at the scale of the preset."


def _fit(report: dict) -> str:
    rows = [
        [
            LABELS[layout],
            interval_cell(own["ar"], ".4f"),
            interval_cell(own["mdlm"], ".4f"),
            number(own["bigram"], ".4f"),
        ]
        for layout, own in report["fit"].items()
    ]
    return table(["", "AR", "MDLM, bound", "interpolated bigram"], rows)
