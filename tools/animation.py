"""A moving picture of both arms at work, for the top of the README: a story out of masks, and one from left to right.

`python -m tools.animation --mdlm checkpoints/mdlm-tinystories-mini --ar checkpoints/ar-tinystories-mini`

A function of the checkpoints and the options only. Needs Pillow and matplotlib (for its font): the extra `plot`.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch

from arche_mdlm.studies.engine.pair import check_pair
from arche_mdlm.training.command_line import (
    SEED,
    TEMPERATURE,
    ArgumentParser,
    checkpoint,
    count,
    exit_status,
    output_file,
)
from arche_mdlm.training.files.own_files import OutputFolder
from tools.text_layout import font_of, lay_out, pieces_of

SIZE = (900, 380)
MARGIN, TOP = 20, 52  # of a panel: around the text; above it, for the title
MAX_BYTES = 2_000_000
PAPER, INK, GIVEN, NEW, MASK, LINE = "#ffffff", "#1f2328", "#7d8590", "#0969da", "#d0d7de", "#d8dee4"
BOX = " ▒▒"  # a mask in the text of a canvas


@dataclass(frozen=True)
class Track:
    """One arm's way to its text.

    `states` (N, L) are the ids after each forward, the first one before any; where `written` (N, L) is False there is
    nothing yet. Positions behind the `pieces` end as padding, which shows as nothing.
    """

    title: str
    pieces: list[str]  # of the final text, one a position
    num_given: int  # positions of the prompt
    states: torch.Tensor
    written: torch.Tensor
    is_canvas: bool = True  # unfilled positions are shown as masks; else text grows at its end

    @property
    def num_forwards(self) -> int:
        return len(self.states) - 1


def mdlm_track(model, tokenizer, prompt: str, seed: int, **generate_kwargs) -> Track:
    """Every canvas of a text by the diffusion arm; steps that changed nothing, and so cost nothing, are left out.

    Where a sampler masks tokens again, a step that only does this is counted as a forward though it does not need one.
    """
    inputs = tokenizer(prompt, return_tensors="pt")
    out = model.generate(
        **inputs,
        generator=torch.Generator().manual_seed(seed),
        return_dict_in_generate=True,
        output_history=True,
        **generate_kwargs,
    )
    given = inputs["input_ids"]
    final, history = out.sequences[0].cpu(), out.history[:, 0].cpu()
    start = torch.full_like(history[:1], tokenizer.mask_token_id)
    start[0, : given.shape[1]] = given[0]
    states = torch.cat([start, history])
    length = _text_length(final, given.shape[1], tokenizer)
    last = states[-1].clone()
    last[:length] = final[:length]  # what the loop filled after its last step, if anything
    states = torch.cat([states, last[None]])
    changed = (states[1:] != states[:-1]).any(-1)
    states = torch.cat([states[:1], states[1:][changed]])
    written = states != tokenizer.mask_token_id
    written[-1] = True
    pieces = pieces_of(tokenizer, final[:length].tolist())
    return Track("masked diffusion", pieces, given.shape[1], states, written)


def ar_track(model, tokenizer, prompt: str, seed: int, **generate_kwargs) -> Track:
    """The autoregressive arm's text, a token a forward."""
    inputs = tokenizer(prompt, return_tensors="pt")
    torch.manual_seed(seed)
    final = model.generate(**inputs, **generate_kwargs)[0].cpu()
    num_given = inputs["input_ids"].shape[1]
    length = _text_length(final, num_given, tokenizer)
    count = length - num_given + int(length < len(final))  # the EOS is a forward too
    written = torch.arange(length) < num_given + torch.arange(count + 1)[:, None]
    states = final[:length].expand(count + 1, -1)
    pieces = pieces_of(tokenizer, final[:length].tolist())
    return Track("autoregressive", pieces, num_given, states, written, is_canvas=False)


def _text_length(final: torch.Tensor, num_given: int, tokenizer) -> int:
    """Positions before the EOS."""
    ends = (final[num_given:] == tokenizer.eos_token_id).nonzero()
    return num_given + int(ends[0]) if len(ends) else len(final)


class Panel:
    """Draws one track, in a box of its own; the text fits it.

    A canvas is laid out anew at each forward, and every mask is a box of one size: how long a word will be, or where the text
    ends, is not known before it is written.
    """

    def __init__(self, track: Track, tokenizer, left: int, width: int, font_size: int):
        self.track, self.tokenizer, self.left, self.width = track, tokenizer, left, width
        self.font = font_of(font_size)
        self.cell = (self.font.getlength("m"), round(font_size * 1.42))
        self.columns = int((width - 2 * MARGIN) / self.cell[0])
        self.rows = (SIZE[1] - TOP - MARGIN // 2) // self.cell[1]
        self._decoded: dict[int, str] = {}

    @property
    def fits(self) -> bool:
        """Whether the text does; masks may go on below the panel."""
        return lay_out(self.track.pieces, self.columns).num_lines <= self.rows

    def pieces(self, now: int) -> list[str]:
        """What stands at each position after `now` forwards; a box for a mask."""
        track, found = self.track, []
        for position, (token, there) in enumerate(
            zip(track.states[now].tolist(), track.written[now].tolist(), strict=True)
        ):
            if not there:
                found.append(BOX if track.is_canvas else "")
            elif position < len(track.pieces) and token == track.states[-1, position]:
                found.append(track.pieces[position])
            else:
                found.append(self._text_of(token))
        return found

    def _text_of(self, token: int) -> str:
        """Of a token alone: one that is taken back later, or behind the text's end."""
        if token not in self._decoded:
            self._decoded[token] = self.tokenizer.decode([token], skip_special_tokens=True)
        return self._decoded[token]

    def draw(self, draw, frame: int) -> None:
        """The state after `frame` forwards, or the last one."""
        track, now = self.track, min(frame, self.track.num_forwards)
        x = self.left + MARGIN
        draw.text((x, 16), track.title, font=font_of(15, bold=True), fill=INK)
        unit = "forward" if now == 1 else "forwards"
        draw.text((self.left + self.width - MARGIN, 17), f"{now:3d} {unit}", font=font_of(14), fill=NEW, anchor="ra")
        for position, cells in enumerate(lay_out(self.pieces(now), self.columns).cells):
            cells = [cell for cell in cells if cell[0] < self.rows]
            if track.written[now, position]:
                self._text(draw, cells, self._colour(now, position))
            else:
                self._box(draw, cells)

    def _colour(self, now: int, position: int) -> str:
        if position < self.track.num_given:
            return GIVEN
        fresh = now > 0 and not self.track.written[now - 1, position] and now < self.track.num_forwards
        return NEW if fresh else INK

    def _text(self, draw, cells, colour: str) -> None:
        for line, column, letter in cells:
            if letter.strip():
                draw.text(self._place(line, column), letter, font=self.font, fill=colour)

    def _box(self, draw, cells) -> None:
        solid = [(line, column) for line, column, letter in cells if letter.strip()]
        if solid:
            left, top = self._place(*solid[0])
            right, _ = self._place(solid[0][0], solid[-1][1] + 1)
            draw.rectangle((left + 1, top + 3, right - 2, top + self.cell[1] - 3), fill=MASK)

    def _place(self, line: int, column: int) -> tuple[float, float]:
        return round(self.left + MARGIN + column * self.cell[0]), TOP + line * self.cell[1]


def draw_frames(tracks: list[tuple[Track, object]], every: int = 1) -> list:
    """One picture for each `every` forwards, the same number in all panels; `tracks` come with their tokenizers."""
    panels = _panels(tracks)
    last = max(track.num_forwards for track, _ in tracks)
    return [_frame(panels, now) for now in [*range(0, last, every), last]]


def _panels(tracks) -> list[Panel]:
    """In the largest letters in which all texts fit, or the smallest that can be read."""
    width = SIZE[0] // len(tracks)
    for font_size in range(15, 8, -1):
        panels = [Panel(track, tokenizer, i * width, width, font_size) for i, (track, tokenizer) in enumerate(tracks)]
        if all(panel.fits for panel in panels):
            break
    return panels


def _frame(panels: list[Panel], now: int):
    from PIL import Image, ImageDraw

    image = Image.new("RGB", SIZE, PAPER)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, SIZE[0] - 1, SIZE[1] - 1), outline=LINE)
    for panel in panels:
        if panel.left:
            draw.line((panel.left, 14, panel.left, SIZE[1] - 14), fill=LINE)
        panel.draw(draw, now)
    return image


def _palette(shades: int):
    """The colours we draw with, and each colour of letters in so many steps from the paper to itself."""
    from PIL import Image, ImageColor

    paper = ImageColor.getrgb(PAPER)
    colours = [paper, *(ImageColor.getrgb(name) for name in (MASK, LINE))]
    for name in (INK, GIVEN, NEW):
        letters = ImageColor.getrgb(name)
        for step in range(1, shades + 1):
            colours.append(tuple(round(a + (b - a) * step / shades) for a, b in zip(paper, letters, strict=True)))
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for colour in colours for value in colour])
    return palette


def write_gif(frames: list, path: Path, frame_ms: int, hold_ms: int, max_bytes: int = MAX_BYTES) -> int:
    """Save the frames in few colours, fewer of each where the file would be too large; returns the number of frames.

    The first one stays for a moment and the last one for `hold_ms`. ValueError if even a handful of frames is too much.
    """
    from PIL import Image

    folder = OutputFolder(path.parent, [path.name])
    for shades, every in ((5, 1), (3, 1), (3, 2), (3, 4), (2, 8)):
        palette = _palette(shades)
        chosen = [*frames[:-1:every], frames[-1]]
        pictures = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in chosen]
        times = [frame_ms * every] * len(chosen)
        times[0], times[-1] = max(800, frame_ms), hold_ms
        content = BytesIO()
        pictures[0].save(
            content, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0, optimize=True
        )
        size = content.getbuffer().nbytes
        if size < max_bytes:
            folder.write(path.name, lambda aside, content=content: aside.write_bytes(content.getvalue()))
            return len(chosen)
    raise ValueError(f"{path} has {size} bytes, not below {max_bytes}, even with {len(chosen)} frames")


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--mdlm", type=checkpoint, required=True)
    add("--ar", type=checkpoint, required=True)
    add("--output", type=output_file, default=Path("docs/images/writing.gif"))
    add("--prompt", default="Once upon a time, there was a little")
    add("--seed", type=SEED, default=0)
    add("--num_diffusion_steps", type=count(), default=64)
    add("--sampler", help="sampler (default: from the checkpoint)")
    add("--temperature", type=TEMPERATURE, default=1.0, help="temperature of both arms")
    add("--frame_ms", type=count(1, 60_000), default=60, help="duration of a frame")
    add("--hold_ms", type=count(1, 600_000), default=5000, help="duration of the last frame")
    args = parser.parse_args(argv)
    OutputFolder(args.output.parent, [args.output.name]).check()
    (mdlm, tokenizer), (ar, ar_tokenizer) = (arm.load() for arm in check_pair(args.mdlm, args.ar).values())
    sampling = {"do_sample": True, "temperature": args.temperature}
    options = {"num_diffusion_steps": args.num_diffusion_steps, **sampling}
    options |= {} if args.sampler is None else {"sampler": args.sampler}
    tracks = [
        (mdlm_track(mdlm, tokenizer, args.prompt, args.seed, **options), tokenizer),
        (ar_track(ar, ar_tokenizer, args.prompt, args.seed, **sampling), ar_tokenizer),
    ]
    frames = draw_frames(tracks)
    number = write_gif(frames, args.output, args.frame_ms, args.hold_ms)
    print(f"{args.output}: {number} frames, {args.output.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_status(main))
