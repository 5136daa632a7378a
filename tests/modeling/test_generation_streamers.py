"""Streamers of `generate`: finished text, drafts, and canvases of all rows."""

from functools import partial

import pytest
import torch
from generation_prompts import BOS, EOS, MASK, padded, write
from seeds import generators
from transformers import TextStreamer
from transformers.generation import TextDiffusionStreamer

from arche_mdlm import available_samplers


@pytest.fixture
def writer(build_mdlm, tokenizer):
    """generate on a model with the tokenizer's vocabulary, restricted to text that decodes piece by piece."""
    model = build_mdlm(vocab_size=len(tokenizer))
    odd = [i for i in range(len(tokenizer)) if i != EOS and not tokenizer.decode([i]).isascii()]
    odd += [i for i in range(4) if i != EOS]
    settings = {"max_new_tokens": 20, "do_sample": True, "num_diffusion_steps": 10, "suppress_tokens": odd}
    return partial(model.generate, **tokenizer("The cat", return_tensors="pt"), **settings)


@pytest.mark.parametrize("skip_prompt", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_text_streamer_prints_the_final_text(writer, tokenizer, capsys, seed, skip_prompt):
    streamer = TextStreamer(tokenizer, skip_prompt=skip_prompt, skip_special_tokens=True)
    row = writer(streamer=streamer, generator=generators(seed))[0]
    start = len(tokenizer("The cat").input_ids) if skip_prompt else 0
    assert capsys.readouterr().out == tokenizer.decode(row[start:], skip_special_tokens=True) + "\n"
    assert torch.equal(row, writer(generator=generators(seed))[0]), "a streamer changes nothing"


def test_text_diffusion_streamer_shows_drafts_and_ends_with_the_text(writer, tokenizer, capsys):
    streamer = TextDiffusionStreamer(tokenizer, skip_special_tokens=True)
    row = writer(streamer=streamer, generator=generators(0))[0]
    printed = capsys.readouterr().out
    prompt = "The cat"
    assert printed.count("\033[33m") > 3
    text = tokenizer.decode(row, skip_special_tokens=True)
    final = printed.rpartition("\033[J")[2]
    assert text == prompt + final.removesuffix("\n") or text.endswith(final.removesuffix("\n"))
    assert len(final) > 5


def test_a_streamer_shows_one_row(tiny_mdlm, tokenizer):
    with pytest.raises(ValueError, match="one row, but there are 2"):
        write(tiny_mdlm, [[BOS], [BOS]], max_new_tokens=2, streamer=TextStreamer(tokenizer))


class Recorder:
    """A streamer that shows all rows."""

    def __init__(self):
        self.canvases, self.ended = [], False

    def put_canvas(self, tokens):
        assert not self.ended
        self.canvases.append(tokens.clone())

    def end(self):
        self.ended = True


@pytest.mark.parametrize("sampler", ["ancestral", "remdm"])
def test_a_streamer_of_canvases_gets_all_rows_at_every_step(tiny_mdlm, sampler):
    batch, recorder = padded("left"), Recorder()
    output = tiny_mdlm.generate(**batch, max_new_tokens=9, num_diffusion_steps=5, sampler=sampler, generator=generators(3)[0],
                                streamer=recorder, return_dict_in_generate=True, output_history=True)  # fmt: skip
    assert recorder.ended
    assert torch.equal(torch.stack(recorder.canvases[1:-1]), output.history)
    assert torch.equal(recorder.canvases[-1], output.sequences)
    first = recorder.canvases[0]
    assert torch.equal(first[:, :5], batch["input_ids"]), "padding is shown as pads"
    assert bool((first[:, 5:] == MASK).all())


@pytest.mark.parametrize("sampler", available_samplers())
def test_text_streamer_prints_each_token_once_whatever_is_taken_back(writer, tokenizer, capsys, sampler):
    row = writer(streamer=TextStreamer(tokenizer, skip_special_tokens=True), generator=generators(1), sampler=sampler)[
        0
    ]
    assert capsys.readouterr().out == tokenizer.decode(row, skip_special_tokens=True) + "\n"
