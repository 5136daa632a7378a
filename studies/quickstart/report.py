"""The report of a comparison: Markdown, JSON and pictures."""

import itertools
from functools import partial
from pathlib import Path

from arche_mdlm.studies.engine import report as engine
from arche_mdlm.studies.engine.figures import FIGURES
from arche_mdlm.studies.engine.markdown import figure_cell, number, quoted, table, with_captions
from arche_mdlm.studies.engine.readings.decisions import Comparison, apart, decide, note
from arche_mdlm.studies.engine.readings.first_tokens import PICTURE, section
from arche_mdlm.studies.engine.readings.floors import MARK
from arche_mdlm.studies.engine.readings.floors import note as floor_note
from arche_mdlm.studies.engine.readings.references import SPREAD_NOTE, committed_numbers
from arche_mdlm.studies.quickstart.first_look import HOLE
from arche_mdlm.studies.quickstart.plots import draw
from arche_mdlm.training.loop.provenance import portable
from arche_mdlm.training.models.arms import ARMS
from arche_mdlm.training.models.cost import training_log

FILES = ("report.md", "report.json", "diversity.png", "lengths.png", "training.png", PICTURE)

_UNSPLIT_SHARE = 0.05  # of an arm's texts
_VARIETY = ("distinct_openings", "distinct_2")  # what the report says a sentence about
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
    return [
        "# MDLM and AR, side by side",
        *_what(report),
        "## Is it good?",
        _verdict(report),
        "## What next?",
        _next_steps(settings["mdlm"], report["temperatures"][-1]["temperature"]),
        "## Stories",
        f"Both arms got the same beginnings (bold); temperature {report['temperatures'][-1]['temperature']}.",
        *_stories(report, "prompted", 3),
        "## Gaps filled by MDLM",
        table(
            ["before", "after"],
            [[text.replace("[MASK]", HOLE), filled] for text, filled in report["gaps"].items()],
            (0, 1),
        ),
        "AR cannot do this: it writes from left to right only.",
        "## Temperature: better text for less variety",
        _temperature_table(report),
        _temperature_note(report),
        "## Likelihood",
        _likelihood_table(report),
        "How well a model predicts text that it has not seen; lower is better. AR: exact NLL. MDLM: NELBO, an upper bound on its "
        "NLL, so the two differ by the bound's gap as well as by the models. Nats divided by the story's tokens (EOS counted, "
        "BOS not); MDLM also pays for the padded tail of its canvas, by which it says how long the story is. ±: the bound's Monte Carlo error, of its masks alone; in brackets: 95 % over stories.",
        "## Diversity",
        f"{settings['num_samples']} stories an arm without a prompt, at temperature {settings['temperature']}, where each arm "
        "writes what it has learnt: no truncation, no penalty.",
        _diversity_table(report),
        floor_note({name: arm["poor"] for name, arm in report["arms"].items() if arm.get("poor")}),
        _reference_note(report),
        _counting_note(report),
        *with_captions(pictures),
        *section(report["first_tokens"]),
        "## Speed and length of these stories",
        _speed_table(report),
        *_stories(report, "unprompted", 2),
        "All stories, with their seeds, are in `report.json`.",
        "## Words used here",
        _TERMS,
    ]


_TERMS = """- **AR**: autoregressive; writes one token after another, each given those before it. **MDLM**: masked diffusion language
  model; starts from masks and fills some of them at each of its **denoising steps**, in any order.
- **Token**: a word or a piece of one. **BOS**, **EOS**: the tokens that begin and end a text. **Canvas**: all positions that MDLM fills.
- **NLL**, in **nats a token** or **bits a byte** (of text): the negative log-likelihood, how surprised a model is by a text. **NELBO**: what can
  be computed of it for MDLM, an upper bound.
- **Temperature**: below 1, probable tokens become more probable.
- In brackets: intervals that hold the figure of many more stories of the same model with a probability of about 95 %."""


def _what(report: dict) -> list[str]:
    settings = report["settings"]
    counts = {name: arm["parameters"] for name, arm in report["arms"].items()}
    equal = "equal" if len(set(counts.values())) == 1 else "NOT equal"
    return [
        "**What have I got?** Two small language models with the same tokenizer: MDLM fills masks in any order, AR, its twin, writes "
        f"from left to right. Parameters: {', '.join(f'{name} {count:,}' for name, count in counts.items())} ({equal}). This report "
        "shows what they write and measures it.",
        f"MDLM: ancestral sampling in {settings['num_diffusion_steps']} steps. Seed {settings['seed']}; {report['machine']}; torch "
        f"{report['versions']['torch']}, transformers {report['versions']['transformers']}; {report['seconds']:.0f} s in all.",
    ]


def _verdict(report: dict) -> str:
    """What the figures say, without a judgement that they do not decide."""
    arms, settings = report["arms"], report["settings"]
    lines = []
    corpus = next(iter(arms["MDLM"]["likelihood"]))
    scores = {name: arm["likelihood"].get(corpus) for name, arm in arms.items()}
    if all(scores.values()):
        unit, key = (
            ("bits a byte", "bits_per_byte") if scores["AR"]["bits_per_byte"] else ("nats a token", "nats_per_token")
        )
        lines.append(
            f"**Prediction** ({corpus}): AR needs {scores['AR'][key]:.3f} {unit}, MDLM at most {scores['MDLM'][key]:.3f}; lower is "
            "better. Judge the texts below yourself."
        )
    signs = decide(comparisons(report))
    for key in _VARIETY:
        label, style = FIGURES[key].label, FIGURES[key].style
        found = {name: figure_cell(arm["diversity"], key, style) for name, arm in arms.items()}
        real = report["reference"]
        compared = f"; real stories {figure_cell(real['figures'], key, style)}" if real else ""
        said = [f"{first} lies {'above' if sign > 0 else 'below'} {second}"
                for (figure, first, second), sign in signs.items() if figure == key and sign]  # fmt: skip
        lines.append(
            f"**Variety**, {label}: "
            + ", ".join(f"{name} {cell}" for name, cell in found.items())
            + compared
            + ". "
            + (f"Decided: {', '.join(said)}." if said else "Which is higher is not decided.")
        )
    rates = ", ".join(f"{name} {arm['stories_per_second']:.2f}" for name, arm in arms.items())
    lines.append(
        f"**Speed**, stories a second in batches of {settings['batch_size']} on this machine: {rates}. MDLM takes less time with "
        "fewer steps (`--num_diffusion_steps`); `arche-mdlm compare --families` measures what that costs."
    )
    lines.append(
        "Texts that vary more are not better for it: a worse model varies more, too. The aim is the column of real stories. "
        + note(signs)
    )
    return "\n".join(f"- {line}" for line in lines)


def comparisons(report: dict) -> dict[tuple[str, str, str], Comparison]:
    """The arms with each other and with real stories, by figure."""
    sets = {name: arm["diversity"] or {} for name, arm in report["arms"].items() if not arm.get("poor")}
    if report["reference"]:
        sets["real stories"] = report["reference"]["figures"]
    return {(key, first, second): apart(sets[first], sets[second], key)
            for key in _VARIETY for first, second in itertools.combinations(sets, 2)}  # fmt: skip


def _next_steps(mdlm: str, cooler: float) -> str:
    mdlm = portable(mdlm)
    commands = {
        "write stories": f'arche-mdlm generate {mdlm} --prompt "One day, a cat" --temperature {cooler} --num_samples 3',
        "fill gaps": f'arche-mdlm generate {mdlm} --prompt "The cat [MASK] [MASK] and ran home." --max_new_tokens 0',
        "teach it your own text (a text file or JSON lines)": f"arche-mdlm train --init_from {mdlm} --data YOUR_FILE.txt "
        "--max_steps 200 --output_dir runs/mine",
    }
    return "\n".join(f"- {what}: `{command}`" for what, command in commands.items())


def _temperature_table(report: dict) -> str:
    keys = ("distinct_2", "self_bleu", "distinct_first_words", "distinct_openings")
    rows = [
        [f"{row['arm']} at {row['temperature']}", number(row["twin_nats"], ".3f"),
         *(figure_cell(row["diversity"], key, FIGURES[key].style) for key in keys)]
        for row in report["temperatures"]
    ]  # fmt: skip
    return table(["", "AR's NLL of it, nats a token", *(FIGURES[key].short for key in keys)], rows)


def _temperature_note(report: dict) -> str:
    count = report["temperatures"][0]["texts"]
    return (
        f"{count} stories a line (so these figures are not those of the table of diversity, which has more). AR's NLL says how odd "
        "the text is to the twin, lower is more usual; of its own text it says only how sure it was. To read, use the lower "
        "temperature (`--temperature`); to measure what a model has learnt, 1."
    )


def _likelihood_table(report: dict) -> str:
    bounds = {arm.label: arm.is_bound for arm in ARMS.values()}
    corpora = list(dict.fromkeys(c for arm in report["arms"].values() for c in arm["likelihood"]))
    rows = []
    for corpus in corpora:
        for name, arm in report["arms"].items():
            score = arm["likelihood"].get(corpus)
            if score is not None:
                error = f" ± {score['standard_error']:.4f}" if score["standard_error"] else ""
                if interval := score.get("nats_per_token_ci"):
                    error += f" ({interval[0]:.4f} to {interval[1]:.4f})"
                kind = "NELBO ≤" if bounds[name] else "NLL ="
                rows.append(
                    [
                        f"{corpus}: {name}",
                        f"{kind} {score['nats_per_token']:.4f}{error}",
                        number(score["bits_per_byte"], ".4f"),
                    ]
                )
    if bigram := report.get("bigram"):
        rows.append([bigram["what"], f"NLL = {bigram['nats_per_token']:.4f}", "–"])
    return table(["corpus: arm", "NLL, nats a token", "NLL, bits a byte"], rows)


def _diversity_table(report: dict) -> str:
    names = list(report["arms"])
    reference = report["reference"]
    rows = []
    for key in _ROWS:
        label, _, style, meaning = FIGURES[key]
        columns = [report["arms"][name]["diversity"] for name in names] + ([reference["figures"]] if reference else [])
        rows.append([label, *(figure_cell(figures, key, style) for figures in columns), meaning])
    names = [name + (f" {MARK}" if report["arms"][name].get("poor") else "") for name in names]
    return table(["", *names, *(["real stories"] if reference else []), "what it is"], rows, words=(0, -1))


def _reference_note(report: dict) -> str:
    reference = report["reference"]
    if reference is None:
        return (
            "In brackets: 95 % intervals. No reference row: figures of held-out stories are committed for "
            f"n = {', '.join(f'{number:,}' for number in committed_numbers())} only; give `--references FILE` to compute them for this "
            "number."
        )
    return (
        f"In brackets: 95 % intervals. Real stories: {reference['source']} (sha256 `{reference['sha256'][:16]}`), {SPREAD_NOTE}. "
        "An arm does well where it is close to that column, not where it is far above it."
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
