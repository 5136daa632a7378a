"""The report of a comparison: Markdown, JSON and pictures."""

from pathlib import Path

from arche_mdlm.studies.engine.markdown import quoted, table
from arche_mdlm.studies.engine.plots import NO_PICTURES, can_draw
from arche_mdlm.training.own_files import OutputFolder

PICTURES = ("diversity.png", "lengths.png", "training.png")
FILES = ("report.md", "report.json", *PICTURES)

_UNSPLIT_SHARE = 0.05  # of an arm's texts
_FIGURES = {  # key: (label, format)
    "distinct_1": ("Distinct-1", "{:.3f}"),
    "distinct_2": ("Distinct-2", "{:.3f}"),
    "distinct_3": ("Distinct-3", "{:.3f}"),
    "distinct_4": ("Distinct-4", "{:.3f}"),
    "self_bleu": ("Self-BLEU", "{:.3f}"),
    "vocabulary_size": ("vocabulary", "{:,.0f}"),
    "distinct_first_words": ("distinct first words", "{:.1%}"),
    "distinct_openings": ("distinct five-word openings", "{:.1%}"),
    "repetition_4": ("repetition within a story", "{:.4f}"),
    "mean_words": ("words a story", "{:.1f}"),
}


def write_report(report: dict, output: Path) -> Path:
    """Write report.md, report.json and pictures into the folder `output`, and nothing else there; returns report.md.

    Without matplotlib (extra `plot`) the pictures are left out, and the report says so. ValueError where one of these
    files is there already and not ours.
    """
    arms, folder = report.pop("_arms"), OutputFolder(output, FILES)
    pictures = _draw(report, arms, folder)
    folder.write_json("report.json", report)
    return folder.write_text("report.md", _markdown(report, pictures))


def _draw(report: dict, arms: list, folder: OutputFolder) -> list[tuple[str, str]]:
    if not can_draw():
        return []
    from arche_mdlm.studies.quickstart.plots import plot_diversity, plot_lengths, plot_training

    pictures = [("diversity.png", "Diversity of both arms; the dashed line is real held-out stories")]
    folder.write("diversity.png", lambda path: plot_diversity(report, path))
    folder.write("lengths.png", lambda path: plot_lengths(report, path))
    pictures.append(("lengths.png", "How long the unprompted stories are"))
    logs = {arm.name: arm.card["history"] for arm in arms if arm.card}
    if logs:
        folder.write("training.png", lambda path: plot_training(logs, path))
        pictures.append(("training.png", "Training of the two arms on the same batches"))
    return pictures


def _markdown(report: dict, pictures: list[tuple[str, str]]) -> str:
    settings = report["settings"]
    counts = {name: arm["parameters"] for name, arm in report["arms"].items()}
    equal = "equal" if len(set(counts.values())) == 1 else "NOT equal"
    parts = [
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
        *(f"![{caption}]({name})\n\n*{caption}.*" for name, caption in pictures),
        *([] if pictures else [NO_PICTURES]),
        "## Speed and length of the stories above",
        _speed_table(report),
        "## Prompted stories",
        *_stories(report, "prompted", 4),
        "## Unprompted stories",
        *_stories(report, "unprompted", 3),
        "All stories, with their seeds, are in `report.json`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


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
                        "–" if score["bits_per_byte"] is None else f"{score['bits_per_byte']:.4f}",
                    ]
                )
    return table(["corpus: arm", "NLL, nats a token", "NLL, bits a byte"], rows)


def _diversity_table(report: dict) -> str:
    names = list(report["arms"])
    reference = report["reference"]
    rows = []
    for key, (label, style) in _FIGURES.items():
        row = [label]
        for name in names:
            row.append(_with_interval(report["arms"][name]["diversity"], key, style))
        if reference:
            row.append(_with_interval(reference["figures"], key, style))
        rows.append(row)
    return table(["", *names, *(["held-out stories"] if reference else [])], rows)


def _with_interval(figures: dict | None, key: str, style: str) -> str:
    if figures is None:  # every text is empty
        return "–"
    low, high = figures[f"{key}_ci"]
    return f"{style.format(figures[key])} ({style.format(low)} to {style.format(high)})"


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
