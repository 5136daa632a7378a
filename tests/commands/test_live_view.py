"""The live view: how it shows a canvas, and that it is silent without a terminal."""

import io
import sys

import pytest
import torch

pytest.importorskip("rich")
from rich.console import Console

from arche_mdlm.commands import live_view
from arche_mdlm.commands.live_view import END, MASK, LiveCanvases

M = 3  # the mask


@pytest.fixture
def canvases(tokenizer):
    """Start, two steps and the final sequences of two rows with the prompt "The"."""
    the = tokenizer("The")["input_ids"]
    cat, sat = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (" cat", " sat"))
    rows = [
        [[*the, M, M, M], [*the, M, M, M]],
        [[*the, cat, M, M], [*the, M, M, M]],
        [[*the, cat, sat, 1], [*the, M, sat, M]],
        [[*the, cat, sat, 1], [*the, cat, sat, 1]],
    ]
    return [torch.tensor(canvas) for canvas in rows]


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=80, height=30, color_system="truecolor")


def shown(view, width: int = 80) -> str:
    plain = Console(file=io.StringIO(), width=width, color_system=None)
    plain.print(view.render())
    return plain.file.getvalue()


def test_rows_with_their_masks_and_their_progress(tokenizer, canvases):
    view = LiveCanvases(tokenizer, console(False))
    view.put_canvas(canvases[0])
    assert shown(view).splitlines()[:3] == ["step 0", "text 1: 0 of 3 filled, 0%", "The" + MASK * 3]
    view.put_canvas(canvases[1])
    view.put_canvas(canvases[2])
    lines = shown(view).splitlines()
    assert lines == ["step 2", "text 1: 3 of 3 filled, 100%", f"The cat sat{END}", "text 2: 1 of 3 filled, 33%",
                     f"The{MASK} sat{MASK}"]  # fmt: skip


def test_without_masks_it_tells_how_many_tokens_have_changed(tokenizer, canvases):
    """Uniform noise: every position holds a token from the start."""
    view = LiveCanvases(tokenizer, console(True), fps=1e9)
    noise = canvases[3].clone()
    noise[0, -2] = noise[0, -3]
    view.put_canvas(noise)
    view.last = canvases[3]
    lines = shown(view).splitlines()
    assert lines[1] == f"text 1: 1 of {noise.shape[1]} tokens changed"
    assert lines[3] == f"text 2: 0 of {noise.shape[1]} tokens changed"
    assert [span.style for span in view._line(canvases[3][0].tolist(), noise[0].tolist()).spans].count(
        "bold green"
    ) == 1
    view.end()


def test_what_is_new_is_highlighted(tokenizer, canvases):
    view = LiveCanvases(tokenizer, console(True), fps=1e9)
    view.put_canvas(canvases[0])
    view.put_canvas(canvases[1])
    (line,) = [part for part in (view._line(r, o) for r, o in zip(canvases[1].tolist(), canvases[0].tolist(),
                                                                  strict=True)) if "cat" in part.plain]  # fmt: skip
    assert [(line.plain[span.start : span.end], span.style) for span in line.spans if span.style == "bold green"] == [
        (" cat", "bold green")
    ]
    view.end()


def test_without_a_terminal_only_the_finished_texts_are_printed(tokenizer, canvases):
    view = LiveCanvases(tokenizer, console(False))
    for canvas in canvases:
        view.put_canvas(canvas)
    view.end()
    assert view.console.file.getvalue().split() == ["The", "cat", "sat", "The", "cat", "sat"]


def test_a_terminal_sees_at_most_so_many_pictures_a_second(tokenizer, canvases):
    view = LiveCanvases(tokenizer, console(True), fps=0.001)
    for _ in range(200):
        view.put_canvas(canvases[1])
    view.put_canvas(canvases[3])
    view.end()
    written = view.console.file.getvalue()
    assert written.count("step") <= 2, "the first canvas, and once more when it is taken away"
    assert "The cat sat" in written


def test_without_rich_it_says_what_to_install(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(ValueError, match=r"pip install \"arche-mdlm\[live\]\""):
        LiveCanvases(tokenizer)


def test_which_streamer(tokenizer, monkeypatch):
    assert isinstance(live_view.make_streamer(tokenizer, 2, True), LiveCanvases)
    assert type(live_view.make_streamer(tokenizer, 1, False)) is live_view.TextStreamer
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert type(live_view.make_streamer(tokenizer, 1, True)) is live_view.DraftStreamer


def test_drafts_show_masks_as_blocks(tokenizer, canvases, capsys):
    streamer = live_view.DraftStreamer(tokenizer, skip_special_tokens=True)
    streamer.put_draft(canvases[2][1])
    assert f"The{MASK} sat{MASK}" in capsys.readouterr().out
    streamer.put(canvases[3][1])
    streamer.end()
    out = capsys.readouterr().out
    assert "The cat sat" in out
    assert "<|" not in out


def test_generate_feeds_it(build_mdlm, tokenizer):
    model = build_mdlm(vocab_size=300)
    view = LiveCanvases(tokenizer, console(False))
    inputs = tokenizer(["The", "The"], return_tensors="pt")
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    out = model.generate(**inputs, max_length=12, num_diffusion_steps=4, generator=generators, streamer=view)
    assert torch.equal(view.last, out.cpu())
    assert view.first_masks.tolist() == [12 - inputs["input_ids"].shape[1]] * 2
    printed = "".join(view.console.file.getvalue().split())
    for row in out:
        assert "".join(tokenizer.decode(row, skip_special_tokens=True).split()) in printed
