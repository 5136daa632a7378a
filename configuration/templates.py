"""Fields of a row of data: one column by its name, or several by a template such as "{title}\\n{text}"."""

from string import Formatter

_ESCAPES = {"\\n": "\n", "\\t": "\t"}  # as a shell hands them on


def parts_of(setting: str, value: str) -> list[tuple[str, str | None]]:
    """(text, column behind it) pairs of a template; of a name without braces the column alone. `{{` and `}}` are braces.

    Args:
        setting: named in errors, such as "data.template".

    Raises:
        ValueError: for braces that do not close, and for a name in braces that is empty or has a format (`{a:3}`, `{a!r}`).
    """
    if "{" not in value and "}" not in value:
        return [("", value)]
    for written, meant in _ESCAPES.items():
        value = value.replace(written, meant)
    try:
        found = [(text, name, spec, conversion) for text, name, spec, conversion in Formatter().parse(value)]
    except ValueError as error:
        raise ValueError(f"{setting}={value!r} is not a template such as '{{title}}\\n{{text}}': {error}") from None
    for _, name, spec, conversion in found:
        if name is not None and (not name or spec or conversion):
            raise ValueError(f"{setting}={value!r}: braces may contain only the name of a column")
    if not any(name for _, name, _, _ in found):
        raise ValueError(f"{setting}={value!r} names no column: give one in braces, as in '{{text}}'")
    return [(text, name) for text, name, _, _ in found]
