"""Parts of a report in Markdown."""

import html


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def quoted(prompt: str, text: str) -> str:
    """A story as a quotation in Markdown, its prompt (which it begins with) in bold."""
    prompt, text = (html.escape(part, quote=False) for part in (prompt, text))
    if prompt:
        text = f"**{prompt}**" + text[len(prompt) :]
    return "\n>\n".join("> " + line for line in text.split("\n") if line.strip())
