"""The positions of a text's letters, token by token, with line breaks fixed in advance."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

Cell = tuple[int, int, str]  # line, column, letter


@dataclass(frozen=True)
class Layout:
    """The cells of each piece of a text, and the place behind the last one."""

    cells: list[list[Cell]]
    end: tuple[int, int]

    @property
    def num_lines(self) -> int:
        return self.end[0] + 1


def font_of(size: int, bold: bool = False):
    """A font of letters of one width (matplotlib's), for Pillow."""
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSansMono-Bold.ttf" if bold else "DejaVuSansMono.ttf"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def lay_out(pieces: Sequence[str], columns: int) -> Layout:
    """Wrap the text that the pieces make together at words, in lines of `columns` letters of one width.

    A space at a line break does not get a cell; a word longer than a line is broken inside.
    """
    text = "".join(pieces)
    places: list[tuple[int, int] | None] = []
    line = column = 0
    i = 0
    while i < len(text):
        if text[i].isspace():
            if text[i] == "\n":
                places.append(None)
                line, column = line + 1, 0
            else:
                places.append((line, column) if 0 < column < columns else None)
                column += column > 0
            i += 1
            continue
        word = text[i:].split(None, 1)[0]
        if column and column + len(word) > columns:
            line, column = line + 1, 0
        for _ in word:
            if column >= columns:
                line, column = line + 1, 0
            places.append((line, column))
            column += 1
        i += len(word)
    cells, start = [], 0
    for piece in pieces:
        here = zip(places[start : start + len(piece)], piece, strict=True)
        cells.append([(*place, letter) for place, letter in here if place is not None])
        start += len(piece)
    return Layout(cells, (line, column))


def pieces_of(tokenizer, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; a letter of several bytes belongs to the token with its last byte."""
    pieces, length = [], 0
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    for i in range(len(ids)):
        so_far = tokenizer.decode(ids[: i + 1], skip_special_tokens=True)
        end = len(whole) if i + 1 == len(ids) else max(length, len(so_far.rstrip("\N{REPLACEMENT CHARACTER}")))
        pieces.append(whole[length:end])
        length = end
    return pieces
