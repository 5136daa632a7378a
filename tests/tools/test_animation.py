"""The moving picture shows what the canvases held, in a file of bounded size."""

import pytest
import torch
from PIL import Image, ImageColor

from arche_mdlm.training.models.loading import save_arm
from tools import animation
from tools.text_layout import lay_out, pieces_of

PROMPT = "Tim and"


@pytest.fixture
def pair(build_mdlm, tiny_config, tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    ar = LlamaForCausalLM(LlamaConfig(**tiny_config | {"vocab_size": 300})).eval()
    ar.generation_config.suppress_tokens = [tokenizer.mask_token_id]
    ar.generation_config.max_length = 48
    ar.generation_config.do_sample = True
    return build_mdlm(vocab_size=300), ar


def tracks(pair, tokenizer, **options):
    mdlm, ar = pair
    left = animation.mdlm_track(mdlm, tokenizer, PROMPT, 0, num_diffusion_steps=6, max_length=40, **options)
    return left, animation.ar_track(ar, tokenizer, PROMPT, 0, max_length=20)


@pytest.mark.parametrize("sampler", ["ancestral", "margin"])
def test_the_canvases_are_those_of_generate(pair, tokenizer, sampler):
    left, _ = tracks(pair, tokenizer, sampler=sampler)
    out = pair[0].generate(
        **tokenizer(PROMPT, return_tensors="pt"), generator=torch.Generator().manual_seed(0), num_diffusion_steps=6,
        max_length=40, sampler=sampler, return_dict_in_generate=True, output_history=True,
    )  # fmt: skip
    length = len(left.pieces)
    assert left.num_forwards == int(out.num_forward_passes[0])
    assert torch.equal(left.states[-1, :length], out.sequences[0, :length])
    assert "".join(left.pieces) == tokenizer.decode(out.sequences[0, :length], skip_special_tokens=True)
    assert int((~left.written[0]).sum()) == 40 - left.num_given
    canvases = {tuple(canvas) for canvas in out.history[:, 0].tolist()}
    assert all(tuple(state) in canvases for state in left.states[1:-1].tolist())
    assert left.written[-1].all()


def test_each_frame_shows_the_masks_of_its_canvas_as_boxes_of_one_size(pair, tokenizer):
    left, right = tracks(pair, tokenizer)
    both = [(left, tokenizer), (right, tokenizer)]
    frames, panel = animation.draw_frames(both), animation._panels(both)[0]
    assert len(frames) == max(left.num_forwards, right.num_forwards) + 1
    mask = ImageColor.getrgb(animation.MASK)
    seen = 0
    for now, frame in enumerate(frames):
        at = min(now, left.num_forwards)
        pieces = panel.pieces(at)
        assert {piece for piece, there in zip(pieces, left.written[at], strict=True) if not there} <= {animation.BOX}
        for position, cells in enumerate(lay_out(pieces, panel.columns).cells):
            solid = [cell for cell in cells if cell[2].strip() and cell[0] < panel.rows]
            if not solid:
                continue
            x, y = panel._place(*solid[0][:2])
            is_mask = not left.written[at, position]
            assert (frame.getpixel((x + 3, y + 4)) == mask) == is_mask, (now, position)
            seen += is_mask
        # Text that grows at its end has nothing to show there yet.
        colours = {value for _, value in frame.crop((451, 50, 890, 370)).getcolors(1 << 16)}
        assert mask not in colours
    assert seen > 20
    assert "".join(panel.pieces(left.num_forwards)) == "".join(left.pieces), "padding shows as nothing"


def test_a_token_that_is_taken_back_is_shown_while_it_is_there(pair, tokenizer):
    left, _ = tracks(pair, tokenizer, sampler="remdm", remasking_rate=0.5)
    taken_back = left.written[:-1] & ~left.written[1:]
    assert taken_back.any()
    assert len(animation.draw_frames([(left, tokenizer)])) == left.num_forwards + 1
    panel = animation._panels([(left, tokenizer)])[0]
    for now, position in taken_back.nonzero().tolist():
        shown = panel.pieces(now)[position]
        assert shown in (tokenizer.decode([int(left.states[now, position])], skip_special_tokens=True), *left.pieces)
        assert panel.pieces(now + 1)[position] == animation.BOX


def test_the_file(pair, tokenizer, tmp_path):
    frames = animation.draw_frames([(track, tokenizer) for track in tracks(pair, tokenizer)])
    count = animation.write_gif(frames, tmp_path / "a.gif", 60, 4000)
    size = (tmp_path / "a.gif").stat().st_size
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.size, image.n_frames, count) == (animation.SIZE, len(frames), len(frames))
        assert image.convert("RGB").getpixel((5, 5)) == (255, 255, 255)
        image.seek(image.n_frames - 1)
        assert image.info["duration"] == 4000
        assert image.info["loop"] == 0
    fewer = animation.write_gif(frames, tmp_path / "b.gif", 60, 4000, max_bytes=size * 2 // 3)
    assert fewer < count
    assert (tmp_path / "b.gif").stat().st_size < size * 2 // 3
    with pytest.raises(ValueError, match="not below 100"):
        animation.write_gif(frames, tmp_path / "c.gif", 60, 4000, max_bytes=100)


def test_the_command_is_a_function_of_its_options(pair, tokenizer, tmp_path):
    for name, model in zip(("mdlm", "ar"), pair, strict=True):
        save_arm(model, tokenizer, tmp_path / name)
    words = ["--prompt", PROMPT, "--num_diffusion_steps", "4", "--sampler", "confidence"]
    files = [tmp_path / "pictures" / name for name in ("a.gif", "b.gif")]
    for file in files:
        folders = ["--mdlm", str(tmp_path / "mdlm"), "--ar", str(tmp_path / "ar")]
        assert animation.main([*folders, "--output", str(file), *words]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    with pytest.raises(ValueError, match="swapped"):
        animation.main(["--mdlm", str(tmp_path / "ar"), "--ar", str(tmp_path / "mdlm"), "--output", str(files[0])])


def test_layout_wraps_at_words_and_keeps_every_letter():
    pieces = ["On", "ce", " up", "on a", "\n", "time", ",", " abcdefghijkl", " z"]
    layout = lay_out(pieces, columns=6)
    rows: dict[int, str] = {}
    for line, column, letter in (cell for cells in layout.cells for cell in cells):
        rows[line] = rows.get(line, "").ljust(column) + letter
    assert [rows[line].rstrip() for line in sorted(rows)] == ["Once", "upon a", "time,", "abcdef", "ghijkl", "z"]
    assert layout.num_lines == 6
    assert [[letter for _, _, letter in cells] for cells in layout.cells][:2] == [["O", "n"], ["c", "e"]]


def test_pieces_make_the_text(tokenizer):
    text = "The cat — größer — 日本."  # most of these letters are several tokens
    ids = tokenizer(text)["input_ids"]
    pieces = pieces_of(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text
