"""The report of a comparison: Markdown, JSON and pictures."""

from functools import partial
from pathlib import Path

from arche_mdlm.studies.engine import report as engine
from arche_mdlm.studies.engine.figures import FIGURES
from arche_mdlm.studies.engine.markdown import figure_cell, number, quoted, table, with_captions
from arche_mdlm.studies.quickstart.plan import training_log
from arche_mdlm.studies.quickstart.plots import draw

FILES = ("report.md", "report.json", "diversity.png", "lengths.png", "training.png")

_UNSPLIT_SHARE = 0.05  # of an arm's texts
_ROWS = ("distinct_1", "distinct_2", "distinct_3", "distinct_4", "self_bleu", "vocabulary_size", "distinct_first_words",
         "distinct_openings", "repetition_4", "mean_words")  # fmt: skip


def write_report(report: dict, settings: dict, failed: dict[str, str], output: Path) -> Path:
    """Write report.md, report.json and pictures into the folder `output`, and only these; returns report.md."""
    logs = {name: training_log(settings[key]) for name, key in (("MDLM", "mdlm"), ("AR", "ar"))}
    histories = {name: log["history"] for name, log in logs.items() if log}
    report = {"settings": settings, **report}
    return engine.write_report(output, FILES, report, failed, partial(draw, histories=histories), _sections)


def _sections(report: dict, pictures: dict[str, str]) -> list[str]:
    settings = report["settings"]
    counts = {name: arm["parameters"] for name, arm in report["arms"].items()}
    equal = "equal" if len(set(counts.values())) == 1 else "NOT equal"
    return [
        "# MDLM and AR, side by side",
        f"{settings['num_samples']} unprompted stories an arm, each from a BOS; temperature {settings['temperature']}, no "
        f"truncation, no penalty; MDLM: ancestral sampling in {settings['num_diffusion_steps']} steps. "
        f"Parameters: {', '.join(f'{name} {count:,}' for name, count in counts.items())} ({equal}). "
        f"Seed {settings['seed']}; {report['machine']}; torch {report['versions']['torch']}, transformers "
        f"{report['versions']['transformers']}; {report['seconds']:.0f} s in all.",
        "## Likelihood",
        _likelihood_table(report),
        "AR: exact NLL. MDLM: NELBO, an upper bound on its NLL, so the two differ by the bound's gap as well as by the "
        "models. Nats divided by the story's tokens (EOS counted, BOS not); MDLM also pays for the padded tail of its "
        "canvas, by which it says how long the story is.",
        "## Diversity",
        _diversity_table(report),
        _reference_note(report),
        _counting_note(report),
        *with_captions(pictures),
        "## Speed and length of the stories above",
        _speed_table(report),
        "## Prompted stories",
        *_stories(report, "prompted", 4),
        "## Unprompted stories",
        *_stories(report, "unprompted", 3),
        "All stories, with their seeds, are in `report.json`.",
    ]


def _likelihood_table(report: dict) -> str:
    corpora = list(dict.fromkeys(c for arm in report["arms"].values() for c in arm["likelihood"]))
    rows = []
    for corpus in corpora:
        for name, arm in report["arms"].items():
            score = arm["likelihood"].get(corpus)
            if score is not None:
                error = f" ± {score['standard_error']:.4f}" if score["standard_error"] else ""
                kind = "NELBO ≤" if name == "MDLM" else "NLL ="
                rows.append(
                    [
                        f"{corpus}: {name}",
                        f"{kind} {score['nats_per_token']:.4f}{error}",
                        number(score["bits_per_byte"], ".4f"),
                    ]
                )
    return table(["corpus: arm", "NLL, nats a token", "NLL, bits a byte"], rows)


def _diversity_table(report: dict) -> str:
    names = list(report["arms"])
    reference = report["reference"]
    rows = []
    for key in _ROWS:
        label, _, style = FIGURES[key]
        columns = [report["arms"][name]["diversity"] for name in names] + ([reference["figures"]] if reference else [])
        rows.append([label, *(figure_cell(figures, key, style) for figures in columns)])
    return table(["", *names, *(["held-out stories"] if reference else [])], rows)


def _reference_note(report: dict) -> str:
    reference = report["reference"]
    if reference is None:
        return (
            "In brackets: 95 % intervals. No reference row: figures of held-out stories are committed for n = 200 and 1,000 only; give "
            "`--references FILE` to compute them for this number."
        )
    return (
        f"In brackets: 95 % intervals. Held-out stories: {reference['source']} (sha256 `{reference['sha256'][:16]}`), as "
        "many as an arm wrote. An arm does well where it is close to that column, not where it is far above it."
    )


def _counting_note(report: dict) -> str:
    if report["settings"]["count"] != "words":
        return f"Counted in {report['settings']['count']}, wherever the table says words."
    names = [name for name, arm in report["arms"].items() if arm["unsplit_share"] >= _UNSPLIT_SHARE]
    if not names:
        return ""
    return (
        f"White space does not separate the words of texts of {' and '.join(names)}: the figures above are of whole "
        "sentences. Give `--count characters`."
    )


def _speed_table(report: dict) -> str:
    rows = [
        [name, f"{a['stories_per_second']:.2f}", f"{a['tokens_per_second']:,.0f}", f"{a['mean_tokens']:.0f}",
         f"{a['ended_by_eos']:.1%}"]
        for name, a in report["arms"].items()
    ]  # fmt: skip
    return table(["", "stories/s", "tokens/s", "tokens a story", "ended by EOS"], rows)


def _stories(report: dict, kind: str, number: int) -> list[str]:
    parts = []
    for index in range(min(number, *(len(arm[kind]) for arm in report["arms"].values()))):
        for name, arm in report["arms"].items():
            story = arm[kind][index]
            parts.append(f"**{name}**, seed {story['seed']}\n\n{quoted(story['prompt'], story['text'])}")
    return parts
