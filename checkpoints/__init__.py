"""The trained pair that ships with the library: an MDLM and its autoregressive twin, 5 MB each."""

from pathlib import Path

FOLDER = Path(__file__).parent
SHIPPED = {"mdlm": "mdlm-tinystories-mini", "ar": "ar-tinystories-mini"}


def shipped(arm: str) -> Path:
    """The checkpoint folder of an arm, `"mdlm"` or `"ar"`; ValueError for any other name."""
    if arm not in SHIPPED:
        raise ValueError(f"arm={arm!r} must be one of {', '.join(SHIPPED)}")
    return FOLDER / SHIPPED[arm]


def resolve(source: str) -> str:
    """A checkpoint's folder or repository; the folder of a shipped one that is named (also as `checkpoints/NAME`) where no
    folder of that name is at hand."""
    path = Path(source)
    if path.name in SHIPPED.values() and str(path.parent) in (".", "checkpoints") and not path.exists():
        return str(FOLDER / path.name)
    return source
