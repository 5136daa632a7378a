"""The checkpoints that ship with the library: models of one shape, one tokenizer and the same stories, 5 MB each."""

from pathlib import Path

FOLDER = Path(__file__).parent
# By name; another checkpoint is a folder and a line here: `arche-mdlm compare --families` then compares it with the others.
SHIPPED = {
    "mdlm": "mdlm-tinystories-mini",
    "ar": "ar-tinystories-mini",
    "uniform": "uniform-tinystories-mini",
    "block": "block-tinystories-mini",
    "mdlm-from-ar": "mdlm-from-ar-tinystories-mini",
}
PAIR = ("mdlm", "ar")  # the two that are compared by default: masked diffusion and its autoregressive twin


def shipped(name: str) -> Path:
    """The folder of a shipped checkpoint, such as `"mdlm"` or `"ar"`; ValueError for a name that is none."""
    if name not in SHIPPED:
        raise ValueError(f"name={name!r} must be one of {', '.join(SHIPPED)}")
    return FOLDER / SHIPPED[name]


def resolve(source: str) -> str:
    """A checkpoint's folder or repository; the folder of a shipped one that is named (also as `checkpoints/NAME`) where no
    folder of that name is at hand."""
    path = Path(source)
    if path.name in SHIPPED.values() and str(path.parent) in (".", "checkpoints") and not path.exists():
        return str(FOLDER / path.name)
    return source
