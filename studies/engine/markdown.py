"""Parts of a report in Markdown."""

import html
from collections.abc import Mapping, Sequence

from arche_mdlm.studies.engine.figures import FEW_JUDGED
from arche_mdlm.studies.engine.plots import NO_PICTURES


def table(header: list[str], rows: list[list[str]], words: tuple[int, ...] = (0,)) -> str:
    """A table whose columns hold numbers, but for those at `words`."""
    columns = {index % len(header) for index in words}
    lines = [header, ["---" if index in columns else "---:" for index in range(len(header))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float | None, style: str, interval: Sequence[float | None] | None = None) -> str:
    """A number in a style of `format`, its interval in brackets where it has one; "–" for None."""
    if value is None:
        return "–"
    text = format(value, style)
    if interval is None or None in interval:
        return text
    low, high = interval
    return f"{text} ({low:{style}} to {high:{style}})"


def figure_cell(figures: Mapping | None, name: str, style: str) -> str:
    """One of a set of figures, with `NAME_ci`; "–" without figures, as when every text is empty."""
    return number((figures or {}).get(name), style, (figures or {}).get(f"{name}_ci"))


def interval_cell(value: Mapping | None, style: str) -> str:
    """`estimate` with `low` and `high`; "–" for None."""
    return number(None, style) if value is None else number(value["estimate"], style, (value["low"], value["high"]))


def few_judged(report: dict) -> str:
    """A warning, behind a sentence, where a table's judge has read few texts a row."""
    count = report["settings"]["num_samples"]
    if not report["judge"] or count >= FEW_JUDGED:
        return ""
    return f" The judge has read {count} texts a row: below {FEW_JUDGED} its perplexities are rough."


def with_captions(pictures: dict[str, str]) -> list[str]:
    """Pictures, captions by file name; or the reason why they are missing."""
    return [f"![{caption}]({name})\n\n*{caption}.*" for name, caption in pictures.items()] or [NO_PICTURES]


def failures(failed: dict[str, str]) -> list[str]:
    """A section on failed jobs and the number of jobs skipped because of them; empty without failures."""
    if not failed:
        return []
    own = {name: reason for name, reason in failed.items() if not reason.startswith("skipped")}
    lines = [f"- `{name}`: {reason}" for name, reason in own.items()]
    if len(own) < len(failed):
        lines.append(f"- skipped, because they need these: {len(failed) - len(own)} jobs (listed in `report.json`)")
    return ["## What is missing", "\n".join(lines)]


def quoted(prompt: str, text: str) -> str:
    """A story as a quotation in Markdown, its prompt (which it begins with) in bold."""
    prompt, text = (html.escape(part, quote=False) for part in (prompt, text))
    if prompt:
        text = f"**{prompt}**" + text[len(prompt) :]
    return "\n>\n".join("> " + line for line in text.split("\n") if line.strip())
