"""Pictures of what each diffusion family does to a text, and of how it writes one, for docs/families.md.

`python -m tools.family_pictures` draws those of the families that this version has, and of the checkpoints that ship;
`--models block=FOLDER` takes another checkpoint for a family's writing. Needs Pillow and matplotlib (for its font): the extra `plot`.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from arche_mdlm import MDLMConfig
from arche_mdlm.checkpoints import SHIPPED, shipped
from arche_mdlm.family_mdlm import family_of
from arche_mdlm.training.command_line import SEED, ArgumentParser, checkpoint, exit_status
from arche_mdlm.training.data.corpus import SAMPLE_CORPUS
from arche_mdlm.training.files.own_files import OutputFolder
from arche_mdlm.training.models.loading import load_arm
from tools.text_layout import font_of

# By family: fields of its configuration for the picture of the corruption.
FAMILIES: dict[str, dict[str, Any]] = {
    "masked": {},
    "uniform": {"time_conditioning": "log_snr"},
    "block": {"attention_block_length": 8},
    "uniform_block": {"attention_block_length": 8, "time_conditioning": "log_snr"},
    "eso": {"alpha_0": 0.5},
}
TOKENS, EXAMPLES = 24, 4  # of the picture of the corruption
CANVAS, STEPS, STAGES = 48, 48, (1 / 6, 1 / 2, 5 / 6, 1)  # of the picture of the writing
TEMPERATURE = 0.7
PAPER, INK, DIM, MASK, LINE = "#ffffff", "#1f2328", "#57606a", "#c3cad2", "#8c959f"
KINDS = {  # of a cell: colour of the letters, of the ground, what it is
    "clean": (INK, None, "clean"),
    "written": (INK, None, "written"),
    "mask": (MASK, MASK, "mask"),
    "noise": ("#8a3b00", "#ffe2cc", "random token"),
    "new": ("#0550ae", "#ddf4ff", "written since the step above"),
    "changing": ("#8a3b00", "#ffe2cc", "still to change"),
}
WIDTH, MARGIN, LABEL, FONT, HEIGHT, GAP, PAD = 1400, 24, 150, 19, 34, 8, 5  # pixels


@dataclass(frozen=True)
class Strip:
    """A text at one moment: a cell a position, (letters, kind)."""

    label: str
    cells: list[tuple[str, str]]


@dataclass(frozen=True)
class Picture:
    """`starts`: the positions at which a block begins, which a line marks."""

    strips: list[Strip]
    starts: set[int] = field(default_factory=set)


def corruption(family: str, tokenizer: Any, ids: Sequence[int], seed: int) -> Picture:
    """A clean text and training examples of it with rising noise, as `Family.corrupt` makes them.

    Raises ValueError for a family that this version has not.
    """
    config = MDLMConfig(vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id, diffusion=family,
                        max_position_embeddings=256, **FAMILIES[family])  # fmt: skip
    clean = torch.tensor([list(ids)] * EXAMPLES)
    open = (clean != tokenizer.bos_token_id).cumsum(-1).bool()
    own = family_of(config)
    generator = torch.Generator().manual_seed(seed)
    made = own.corrupt(clean, open, own.corruption.objectives[0], generator)
    noisy = made.input_ids[:, : clean.shape[1]].tolist()  # behind it, some families read the clean text
    times = [_time_of(made.timesteps, open, row) for row in range(EXAMPLES)]
    strips = [Strip("text", [_cell(tokenizer, token, "clean") for token in ids])]
    rows = sorted(zip(noisy, times, strict=True), key=lambda row: sum(map(int.__ne__, row[0], ids)))
    for number, (row, time) in enumerate(rows, 1):
        kinds = ["noise" if token != true else "clean" for token, true in zip(row, ids, strict=True)]
        cells = [_cell(tokenizer, token, kind) for token, kind in zip(row, kinds, strict=True)]
        strips.append(Strip(f"example {number}" if time is None else f"t = {time:.2f}", cells))
    return Picture(strips, _starts(config, len(ids)))


def _time_of(timesteps: torch.Tensor | None, open: torch.Tensor, row: int) -> float | None:
    """The time of a row of the batch; None where its positions have several."""
    if timesteps is None:
        return None
    own = timesteps[row].flatten()
    own = own if len(own) == 1 else own[: open.shape[1]][open[row]]
    return float(own[0]) if bool((own == own[0]).all()) else None


def writing(model: Any, tokenizer: Any, seed: int) -> Picture:
    """The canvas at a few of its denoising steps, as `generate(output_history=True)` gives it."""
    out = model.generate(
        max_length=CANVAS, num_diffusion_steps=STEPS, do_sample=True, temperature=TEMPERATURE, output_history=True,
        return_dict_in_generate=True, generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    final, history = out.sequences[0].tolist(), out.history[:, 0].tolist()
    width = min(len(final), len(history[0]))
    strips: list[Strip] = []
    before = [tokenizer.bos_token_id, *[None] * (width - 1)]
    for stage in STAGES:
        step = max(1, round(len(history) * stage))
        now = final[:width] if stage == 1 else history[step - 1][:width]
        cells = []
        for token, earlier, last in zip(now, before, final, strict=False):
            kind = "written" if token == earlier else "new"
            cells.append(_cell(tokenizer, token, kind if token == last else "changing"))
        strips.append(Strip(f"step {step}", cells))
        before = now
    return Picture(strips, _starts(model.config, width))


def _cell(tokenizer: Any, token: int, kind: str) -> tuple[str, str]:
    """(letters, kind) of a token; a mask is always shown as one."""
    if token == tokenizer.mask_token_id:
        return "", "mask"
    names = {tokenizer.bos_token_id: "BOS", tokenizer.eos_token_id: "EOS", tokenizer.pad_token_id: "pad"}
    # A token may be a part of a letter.
    letters = names.get(token, tokenizer.decode([token]).replace("\N{REPLACEMENT CHARACTER}", "·"))
    return letters.strip() or "↵" * ("\n" in letters) or "␣", kind


def _starts(config: Any, width: int) -> set[int]:
    length = config.attention_block_length
    return set(range(length, width, length)) if length else set()


def draw(picture: Picture) -> Any:
    """A Pillow image: the strips under each other, wrapped alike, so that a position is at one place in each."""
    from PIL import Image, ImageDraw

    font = font_of(FONT)
    widths = [
        max(max(font.getlength(strip.cells[i][0]) for strip in picture.strips), font.getlength("mm")) + 2 * PAD
        for i in range(len(picture.strips[0].cells))
    ]
    places = _places(widths, picture.starts)
    lines = places[-1][0] + 1
    block = lines * (HEIGHT + GAP) + 2 * GAP
    kinds = list(
        dict.fromkeys(kind for kind in KINDS for strip in picture.strips if any(c[1] == kind for c in strip.cells))
    )
    image = Image.new("RGB", (WIDTH, 2 * MARGIN + block * len(picture.strips) + HEIGHT), PAPER)
    paint = ImageDraw.Draw(image)
    for number, strip in enumerate(picture.strips):
        top = MARGIN + number * block
        paint.text((MARGIN, top + HEIGHT / 2), strip.label, font=font_of(FONT, bold=True), fill=DIM, anchor="lm")
        for position, (cell, width, (line, left)) in enumerate(zip(strip.cells, widths, places, strict=True)):
            y = top + line * (HEIGHT + GAP)
            if position in picture.starts:
                paint.line((left - GAP, y - 2, left - GAP, y + HEIGHT + 2), fill=LINE, width=3)
            _draw_cell(paint, cell, left, y, width, font)
    _legend(paint, kinds, bool(picture.starts), MARGIN + block * len(picture.strips), font)
    return image


def _places(widths: list[float], starts: set[int]) -> list[tuple[int, float]]:
    """(line, left edge) of each position; a block's first one has room for its mark."""
    line, left, found = 0, float(LABEL), []
    for position, width in enumerate(widths):
        left += 2 * GAP if position in starts else 0
        if left + width > WIDTH - MARGIN:
            line, left = line + 1, float(LABEL)
            left += 2 * GAP if position in starts else 0
        found.append((line, left))
        left += width + GAP
    return found


def _draw_cell(paint: Any, cell: tuple[str, str], left: float, top: float, width: float, font: Any) -> None:
    letters, kind = cell
    ink, ground, _ = KINDS[kind]
    if ground:
        paint.rounded_rectangle((left, top, left + width, top + HEIGHT), radius=5, fill=ground)
    paint.text((left + width / 2, top + HEIGHT / 2), letters, font=font, fill=ink, anchor="mm")


def _legend(paint: Any, kinds: list[str], blocks: bool, top: float, font: Any) -> None:
    left = float(LABEL)
    for kind in kinds:
        ink, ground, text = KINDS[kind]
        _draw_cell(paint, ("" if kind == "mask" else "token", kind), left, top, 70, font)
        paint.text((left + 80, top + HEIGHT / 2), text, font=font, fill=DIM, anchor="lm")
        left += 80 + font.getlength(text) + 40
    if blocks:
        paint.line((left, top, left, top + HEIGHT), fill=LINE, width=3)
        paint.text((left + 12, top + HEIGHT / 2), "a block begins", font=font, fill=DIM, anchor="lm")


def sample_text(tokenizer: Any) -> list[int]:
    """The first tokens of the sample corpus's first story, which our own model has written; with their BOS."""
    with SAMPLE_CORPUS.open(encoding="utf-8") as lines:
        text = json.loads(next(iter(lines)))["text"]
    return tokenizer(text)["input_ids"][:TOKENS]


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--only", nargs="+", choices=tuple(FAMILIES), default=list(FAMILIES))
    add(
        "--models",
        type=_own,
        nargs="+",
        default=[],
        metavar="FAMILY=FOLDER",
        help="checkpoints to use instead of the shipped ones",
    )
    add("--output", type=Path, default=Path("docs/images/families"))
    add("--seed", type=SEED, default=5)
    args = parser.parse_args(argv)
    folder = OutputFolder(
        args.output, [f"{name}-{what}.png" for name in args.only for what in ("corruption", "writing")]
    )
    folder.check()
    tokenizer = AutoTokenizer.from_pretrained(shipped("mdlm"))
    ids = sample_text(tokenizer)
    models = {"masked": str(shipped("mdlm"))}
    models |= {name: str(shipped(name)) for name in FAMILIES if name in SHIPPED} | dict(args.models)
    for name in args.only:
        _save(folder, f"{name}-corruption.png", lambda name=name: corruption(name, tokenizer, ids, args.seed))
        if name in models:
            _save(folder, f"{name}-writing.png", lambda name=name: writing(*load_arm(models[name]), args.seed))
        else:
            print(
                f"{name}-writing.png: skipped, because no checkpoint of this family is included: use --models {name}=FOLDER"
            )
    return 0


def _save(folder: OutputFolder, name: str, make: Any) -> None:
    """Write a picture; say why where this version cannot make it."""
    try:
        image = draw(make())
    except ValueError as error:
        print(f"{name}: skipped: {error}")
        return
    print(folder.write(name, lambda path: image.save(path, "PNG", optimize=True)))


def _own(text: str) -> tuple[str, str]:
    name, separator, source = text.partition("=")
    if name not in FAMILIES or not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not FAMILY=FOLDER with one of {', '.join(FAMILIES)}")
    return name, checkpoint(source)


if __name__ == "__main__":
    raise SystemExit(exit_status(main))
