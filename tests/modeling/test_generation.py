"""`generate`: the law of every sampler on languages that can be enumerated, and each promise of its docstring."""

from functools import partial

import pytest
import torch
from exact_model import ExactModel
from goodness_of_fit import chi_square_p
from oracles.tables import TableLanguage
from transformers import GenerationConfig, TextStreamer
from transformers.generation import TextDiffusionStreamer

from arche_mdlm import MDLMGenerationConfig, Sampler, available_samplers, register_sampler, samplers_mdlm
from arche_mdlm.samplers_mdlm import get_sampler
from arche_mdlm.schedule_mdlm import get_schedule

BOS, EOS, PAD, MASK = range(4)
PROMPTS = [[BOS, 5, 6], [BOS, 7], [BOS, 8, MASK, 9, 10]]


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def write(model, prompts, **settings):
    return model.generate(torch.as_tensor(prompts), **{"do_sample": True, "num_diffusion_steps": 5, **settings})


def padded(side: str) -> dict[str, torch.Tensor]:
    """PROMPTS as a batch."""
    width = max(len(prompt) for prompt in PROMPTS)
    rows = [([PAD] * (width - len(p)), p, [0] * (width - len(p)), [1] * len(p)) for p in PROMPTS]
    left = side == "left"
    return {
        "input_ids": torch.tensor([pad + p if left else p + pad for pad, p, _, _ in rows]),
        "attention_mask": torch.tensor([off + on if left else on + off for _, _, off, on in rows]),
    }


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_ancestral_one_token_at_a_time_reproduces_the_language(schedule):
    model = ExactModel(TableLanguage.random(3, 3, seed=1), schedule)

    rows = write(model, model.bos(5000), max_new_tokens=3, num_diffusion_steps=250, generator=seeded(0)[0])

    assert chi_square_p(model.counts(rows), model.language.probabilities) > 1e-3


def test_ancestral_infilling_reproduces_the_conditional_law():
    model = ExactModel(TableLanguage.random(3, 3, seed=2))
    mask = model.config.mask_token_id
    prompts = torch.tensor([[3, mask, 1, mask]]).expand(3000, -1)

    rows = write(model, prompts, max_new_tokens=0, num_diffusion_steps=250, generator=seeded(1)[0])

    law = model.language.probabilities * (model.language.sequences[:, 1] == 1)
    assert chi_square_p(model.counts(rows), law) > 1e-3


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_ancestral_with_few_steps_follows_its_enumerated_law(schedule, steps):
    """Two positions filled in one step are drawn independently; in two steps, from the joint law."""
    model = ExactModel(TableLanguage.random(3, 2, seed=1, sharpness=2.0), schedule)
    joint = model.language.table
    product = joint.sum(1)[:, None] * joint.sum(0)[None]
    rates = [float(get_schedule(schedule).mask_rate(1 - step / steps)) for step in range(steps + 1)]
    together = sum((high - low) ** 2 for high, low in zip(rates[:-1], rates[1:], strict=True))

    rows = write(model, model.bos(8000), max_new_tokens=2, num_diffusion_steps=steps, generator=seeded(2)[0])

    counts = model.counts(rows)
    assert chi_square_p(counts, together * product + (1 - together) * joint) > 1e-3
    assert chi_square_p(counts, joint) < 1e-6, "the test lacks power"


def test_confidence_fills_the_most_probable_first(tiny_mdlm):
    prompt = torch.tensor([[BOS, MASK, 9, MASK, MASK]])
    with torch.no_grad():
        probability, token = tiny_mdlm(prompt).logits.softmax(-1).max(-1)
    first = int((probability[0] * (prompt[0] == MASK)).argmax())
    drafts = []

    def record(tokens, scores):
        drafts.append(tokens[0].tolist())
        return torch.zeros(len(tokens), dtype=torch.bool)

    write(tiny_mdlm, prompt, sampler="confidence", max_new_tokens=0, num_diffusion_steps=3, do_sample=False,
          stopping_criteria=record)  # fmt: skip

    assert [draft.count(MASK) for draft in drafts] == [2, 1, 0]
    assert drafts[0][first] == token[0, first]


# --- randomness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", available_samplers())
@pytest.mark.parametrize("do_sample", [True, False])
@pytest.mark.parametrize("length", [{"max_new_tokens": 9}, {"max_length": 16}])
def test_a_row_does_not_depend_on_its_batch_or_padding(tiny_mdlm, sampler, do_sample, length):
    settings = {"sampler": sampler, "do_sample": do_sample, **length}
    alone = [write(tiny_mdlm, [p], generator=seeded(i), **settings)[0] for i, p in enumerate(PROMPTS)]

    for side in ("left", "right"):
        batch = padded(side)
        together = tiny_mdlm.generate(**batch, num_diffusion_steps=5, generator=seeded(0, 1, 2), **settings)
        for i, prompt in enumerate(PROMPTS):
            start = 5 - len(prompt) if side == "left" else 0
            row = torch.cat([together[i, start : start + len(prompt)], together[i, 5:]])
            assert row[: len(alone[i])].tolist() == alone[i].tolist(), (side, i)
            assert set(row[len(alone[i]) :].tolist()) <= {PAD}
    assert len({tuple(row[-5:].tolist()) for row in alone}) > 1


def test_one_generator_draws_one_seed_a_row(tiny_mdlm):
    generator = seeded(7)[0]
    one_by_one = [write(tiny_mdlm, [[BOS, 5]], max_new_tokens=8, generator=generator)[0] for _ in range(4)]
    together = write(tiny_mdlm, [[BOS, 5]] * 4, max_new_tokens=8, generator=seeded(7)[0])
    assert torch.equal(together, torch.stack(one_by_one))
    assert len(together.unique(dim=0)) == 4


def test_num_return_sequences(tiny_mdlm):
    prompts = [[BOS, 5], [BOS, 6]]
    rows = write(tiny_mdlm, prompts, max_new_tokens=8, num_return_sequences=2, generator=seeded(0, 1, 2, 3))
    assert rows[:, 1].tolist() == [5, 5, 6, 6]
    for i, row in enumerate(rows):
        assert torch.equal(write(tiny_mdlm, [prompts[i // 2]], max_new_tokens=8, generator=seeded(i))[0], row)
    with pytest.raises(ValueError, match="a list of 2, but there are 4 rows"):
        write(tiny_mdlm, prompts, max_new_tokens=8, num_return_sequences=2, generator=seeded(0, 1))


def test_two_calls_differ_with_and_without_a_generator(tiny_mdlm):
    generator = seeded(0)[0]
    for settings in ({}, {"generator": generator}):
        first, second = (write(tiny_mdlm, [[BOS]], max_new_tokens=20, **settings) for _ in range(2))
        assert not torch.equal(first, second)


@pytest.mark.parametrize("sampler", available_samplers())
def test_without_sampling_the_result_is_deterministic(tiny_mdlm, sampler):
    settings = {"sampler": sampler, "max_new_tokens": 20, "do_sample": False}
    first = write(tiny_mdlm, [[BOS, 5]], **settings)
    torch.manual_seed(123)
    assert torch.equal(write(tiny_mdlm, [[BOS, 5]], **settings), first)


# --- prompts and lengths ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", available_samplers())
@pytest.mark.parametrize("new", [0, 4])
def test_infilling_keeps_what_is_known(tiny_mdlm, sampler, new):
    prompt = torch.tensor([[BOS, 5, MASK, 6, MASK, MASK, 7]])
    rows = write(tiny_mdlm, prompt, sampler=sampler, max_new_tokens=new)
    assert rows.shape == (1, 7 + new)
    assert torch.equal(rows[:, :7][prompt != MASK], prompt[prompt != MASK])
    assert not (rows == MASK).any()


def test_an_eos_before_the_last_given_token_ends_nothing(tiny_mdlm):
    only_eos = [i for i in range(40) if i not in (EOS, MASK)]
    rows = write(tiny_mdlm, [[BOS, MASK, 6, MASK]], max_new_tokens=2, suppress_tokens=only_eos)
    assert rows.tolist() == [[BOS, EOS, 6, EOS, PAD, PAD]]


def test_no_new_tokens_and_no_mask_gives_the_prompt_back(tiny_mdlm):
    output = write(tiny_mdlm, [[BOS, 5, 6]], max_new_tokens=0, return_dict_in_generate=True)
    assert output.sequences.tolist() == [[BOS, 5, 6]]
    assert output.num_forward_passes.tolist() == [0]
    assert output.tokens_per_forward.tolist() == [0]


def test_the_empty_prompt_is_a_bos(tiny_mdlm):
    rows = tiny_mdlm.generate(max_new_tokens=6, do_sample=True, generator=seeded(3))
    assert rows.shape == (1, 7)
    assert torch.equal(rows, tiny_mdlm.generate(torch.tensor([[BOS]]), max_new_tokens=6, do_sample=True,
                                                generator=seeded(3)))  # fmt: skip


def test_default_lengths_are_clipped_and_explicit_ones_are_not(tiny_mdlm):
    assert write(tiny_mdlm, [[BOS]]).shape == (1, 48)
    tiny_mdlm.generation_config.max_length = 100
    assert write(tiny_mdlm, [[BOS, 5]]).shape == (1, 48)
    tiny_mdlm.generation_config.max_new_tokens = 47
    assert write(tiny_mdlm, [[BOS, 5, 6]]).shape == (1, 48)
    assert write(tiny_mdlm, [[BOS, 5]], max_length=20).shape == (1, 20), "an explicit max_length beats the default"
    assert write(tiny_mdlm, [[BOS, 5]], max_new_tokens=3).shape == (1, 5)
    with pytest.raises(ValueError, match="max_new_tokens=47 does not fit after a prompt of 2 tokens.*48"):
        write(tiny_mdlm, [[BOS, 5]], max_new_tokens=47)


@pytest.mark.parametrize("kind", [GenerationConfig, MDLMGenerationConfig])
def test_a_generation_config_is_taken_and_left_alone(tiny_mdlm, kind):
    config = kind(max_new_tokens=5, do_sample=True, pad_token_id=PAD, eos_token_id=EOS)
    before = config.to_dict()
    rows = tiny_mdlm.generate(torch.tensor([[BOS]]), generation_config=config)
    assert rows.shape == (1, 6)
    assert config.to_dict() == before


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_pads_follow_the_first_eos_and_rows_retire(tiny_mdlm):
    """Token 0 is EOS, and half of the strings start with it: such a row is done as soon as that token is there."""
    table = torch.ones(2, 2, 2, 2) / 16
    model = ExactModel(TableLanguage(table))
    model.generation_config.eos_token_id = 0
    pad = model.generation_config.pad_token_id
    output = write(model, model.bos(200), max_new_tokens=4, num_diffusion_steps=200, generator=seeded(0)[0],
                   return_dict_in_generate=True)  # fmt: skip
    text = output.sequences[:, 1:]
    behind = ((text == 0).long().cumsum(-1) - (text == 0).long()) > 0
    assert bool((text[behind] == pad).all())
    assert bool((text[~behind] != pad).all())
    whole = ~(text == 0).any(-1)
    assert output.num_forward_passes[whole].float().mean() > 3.8
    assert output.num_forward_passes[text[:, 0] == 0].float().mean() < 3.0


def test_forwards_are_counted_and_idle_rows_are_not_run(tiny_mdlm):
    rows_run = []
    tiny_mdlm.model.register_forward_hook(
        lambda module, args, kwargs, output: rows_run.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    output = write(tiny_mdlm, [[BOS]] * 3, max_new_tokens=4, num_diffusion_steps=100, suppress_tokens=[EOS],
                   return_dict_in_generate=True)  # fmt: skip
    assert output.num_forward_passes.shape == (3,)
    assert int(output.num_forward_passes.sum()) == sum(rows_run) <= 12
    assert min(rows_run) > 0
    torch.testing.assert_close(output.tokens_per_forward, 4 / output.num_forward_passes)


def test_a_sampler_that_leaves_masks_open_is_finished_by_the_loop(tiny_mdlm, monkeypatch):
    monkeypatch.setattr(samplers_mdlm, "_SAMPLERS", {k: dict(v) for k, v in samplers_mdlm._SAMPLERS.items()})

    @register_sampler("idle")
    class IdleSampler(Sampler):
        def step(self, predict, draft, t, s, noise):
            return draft

    output = write(tiny_mdlm, [[BOS, 5]], sampler="idle", max_new_tokens=4, return_dict_in_generate=True)

    assert "idle" in available_samplers()
    with torch.no_grad():
        best = tiny_mdlm(torch.tensor([[BOS, 5] + [MASK] * 4])).logits.argmax(-1)[0, 2:].tolist()
    end = best.index(EOS) + 1 if EOS in best else 4
    assert output.sequences[0, 2:].tolist() == best[:end] + [PAD] * (4 - end)
    assert output.num_forward_passes.tolist() == [1]


def test_the_model_is_given_the_times(build_mdlm):
    model, times = build_mdlm(time_conditioning="additive"), []
    model.model.register_forward_hook(
        lambda module, args, kwargs, output: times.append(kwargs["timesteps"].tolist()), with_kwargs=True
    )
    settings = {"sampler": "confidence", "max_new_tokens": 8, "num_diffusion_steps": 4, "suppress_tokens": [EOS]}
    expected = [[1.0] * 2, [0.75] * 2, [0.5] * 2, [0.25] * 2]
    write(model, [[BOS]] * 2, **settings, draw_length=False)
    torch.testing.assert_close(torch.tensor(times), torch.tensor(expected))
    times.clear()
    write(model, [[BOS]] * 2, **settings)
    torch.testing.assert_close(
        torch.tensor(times), torch.tensor([[1.0] * 2, *expected])
    )  # the length, of the empty canvas


def test_stopping_criteria_leave_a_row_as_it_is(tiny_mdlm):
    def first_row_stops(tokens, scores):
        return torch.tensor([len(tokens) == 2] + [False] * (len(tokens) - 1))

    rows = write(tiny_mdlm, [[BOS], [BOS]], sampler="confidence", max_new_tokens=10, stopping_criteria=first_row_stops,
                 suppress_tokens=[EOS, PAD])  # fmt: skip
    assert int((rows[0] == PAD).sum()) == 8
    assert int((rows[1] == PAD).sum()) == 0


# --- streamers --------------------------------------------------------------------------------------------------------


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
    row = writer(streamer=streamer, generator=seeded(seed))[0]
    start = len(tokenizer("The cat").input_ids) if skip_prompt else 0
    assert capsys.readouterr().out == tokenizer.decode(row[start:], skip_special_tokens=True) + "\n"
    assert torch.equal(row, writer(generator=seeded(seed))[0]), "a streamer changes nothing"


def test_text_diffusion_streamer_shows_drafts_and_ends_with_the_text(writer, tokenizer, capsys):
    streamer = TextDiffusionStreamer(tokenizer, skip_special_tokens=True)
    row = writer(streamer=streamer, generator=seeded(0))[0]
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


# --- logits processors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", available_samplers())
@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-6}])
def test_the_narrowest_distribution_is_the_most_probable_token(tiny_mdlm, sampler, settings):
    """In one step: over several, an order by confidence would see ties."""
    common = {"sampler": sampler, "max_new_tokens": 12, "num_diffusion_steps": 1}
    drawn = write(tiny_mdlm, [[BOS, 5]], **common, **settings)
    best = write(tiny_mdlm, [[BOS, 5]], **common, do_sample=False)
    assert torch.equal(drawn, best)


@pytest.mark.parametrize("settings", [{"suppress_tokens": list(range(4, 22))},
                                      {"bad_words_ids": [[i] for i in range(4, 22)]}])  # fmt: skip
def test_forbidden_tokens_are_never_written(tiny_mdlm, settings):
    prompts = [[BOS]] * 8
    assert bool(torch.isin(write(tiny_mdlm, prompts, max_new_tokens=20)[:, 1:], torch.arange(4, 22)).any())
    rows = write(tiny_mdlm, prompts, max_new_tokens=20, **settings)
    assert not torch.isin(rows[:, 1:], torch.arange(4, 22)).any()


def test_repetition_penalty_sees_the_row_s_own_canvas(tiny_mdlm):
    prompts = [[BOS, 5], [BOS, 6]]
    settings = {"max_new_tokens": 10, "do_sample": False, "num_diffusion_steps": 10, "suppress_tokens": [EOS]}
    settings["sampler"] = "confidence"  # one token a step
    free = write(tiny_mdlm, prompts, **settings)
    assert any(len(row.unique()) < 12 for row in free)
    for row in write(tiny_mdlm, prompts, repetition_penalty=1e6, **settings):
        assert len(row.unique()) == 12


def test_a_logits_processor_of_the_caller_is_used(tiny_mdlm):
    def only_nine(input_ids, scores):
        assert input_ids.shape[0] == scores.shape[0]
        return scores.masked_fill(torch.arange(40) != 9, -torch.inf)

    rows = write(tiny_mdlm, [[BOS]] * 2, max_new_tokens=3, logits_processor=[only_nine])
    assert rows.tolist() == [[BOS, 9, 9, 9]] * 2


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_diffusion_steps": 0}, "num_diffusion_steps=0 must be a whole number of at least 1"),
        ({"num_diffusion_steps": "many"}, "num_diffusion_steps='many' must be a whole number of at least 1"),
        ({"num_diffusion_steps": -3}, "num_diffusion_steps=-3 must be a whole number of at least 1"),
        ({"num_diffusion_steps": 2.5}, r"num_diffusion_steps=2\.5 must be a whole number of at least 1"),
        ({"sampler": "ancestrel"}, "sampler='ancestrel' is not one of .*; did you mean 'ancestral'?"),
        ({"max_new_tokens": 47}, "max_new_tokens=47 does not fit after a prompt of 2 tokens: the context is 48"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1 must be a whole number of at least 0"),
        ({"max_new_tokens": 2.5}, r"max_new_tokens=2\.5 must be a whole number of at least 0"),
        ({"max_length": float("nan"), "max_new_tokens": None}, "max_length=nan must be a whole number"),
        ({"max_length": 49, "max_new_tokens": None}, "max_length=49 is more than the model's context of 48"),
        ({"max_length": 2, "max_new_tokens": None}, "max_length=2 leaves no room after a prompt of 2 tokens"),
        ({"temperature": -1}, "temperature=-1 must be a number of at least 1e-06, or 0 for the most probable tokens"),
        ({"temperature": float("nan"), "sampler": "arche"}, "temperature=nan must be a number of at least 1e-06"),
        ({"temperature": 1e-300}, "temperature=1e-300 must be a number of at least 1e-06"),
        ({"temperature": float("inf")}, "temperature=inf must be a number"),
        ({"top_p": 1.5}, r"top_p=1\.5 must be above 0 and at most 1"),
        ({"top_p": 0}, "top_p=0 must be above 0 and at most 1"),
        ({"top_p": -0.1, "do_sample": False}, r"top_p=-0\.1 must be above 0"),
        ({"num_beams": 2}, "num_beams=2 is not supported"),
        ({"guidance_scale": -1.5}, r"guidance_scale=-1\.5 must be at least 0"),
        ({"temperature_end": 0}, "temperature_end=0 must be a number of at least 1e-06"),
        ({"temperature_end": 0.5, "sampler": "arche"}, "sampler=.arche. has its own temperature schedule"),
        ({"output_history": True}, "output_history=True needs return_dict_in_generate=True"),
        ({"threshold": 0.5}, "threshold=0.5 does not work with sampler=.ancestral.: it is an option of threshold"),
        ({"threshold": 1.5, "sampler": "threshold"}, "threshold=1.5 must be a probability"),
        ({"threshold_factor": 0, "sampler": "threshold"}, "threshold_factor=0 must be above 0"),
        ({"entropy_bound": -1, "sampler": "entropy_bound"}, "entropy_bound=-1 must be a number of nats"),
        ({"remasking": "capp", "sampler": "remdm"}, "remasking=.capp. is not one of cap, rescale, conf, loop"),
        ({"remasking_rate": 2, "sampler": "remdm"}, "remasking_rate=2 must be in 0 to 1"),
        ({"min_new_tokens": 47}, "min_new_tokens=47 is more than the 4 new tokens of a row"),
        ({"min_length": 47}, "min_length=47 is more than the 6 tokens of a row"),
        ({"min_new_tokens": -1}, "min_new_tokens=-1 must be a whole number of at least 0"),
        ({"num_return_sequences": 0}, "num_return_sequences=0 must be a whole number of at least 1"),
        ({"num_diffusion_steps": float("inf")}, "num_diffusion_steps=inf must be a whole number"),
        ({"max_time": 0}, "max_time=0 must be a number of seconds above 0"),
        ({"max_time": -1.0}, r"max_time=-1\.0 must be a number of seconds above 0"),
        ({"bad_words_ids": [[5, 6]]}, "bad_words_ids of several tokens"),
        ({"num_difusion_steps": 3}, "num_difusion_steps"),
        ({"generator": [torch.Generator()] * 2}, "a list of 2, but there are 1 rows"),
    ],
)
def test_bad_settings_are_named(tiny_mdlm, settings, message):
    with pytest.raises(ValueError, match=message):
        write(tiny_mdlm, [[BOS, 5]], **{"max_new_tokens": 4, **settings})


def test_a_prompt_longer_than_the_context_is_an_error(tiny_mdlm):
    with pytest.raises(ValueError, match="the longest prompt has 49 tokens, more than the model's context of 48"):
        write(tiny_mdlm, [[BOS] + [5] * 48], max_new_tokens=1)


def test_an_unknown_sampler_lists_those_there_are():
    with pytest.raises(ValueError, match="sampler='zzz' is not one of ancestral, .*arche, .*confidence"):
        get_sampler("zzz")


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
    output = tiny_mdlm.generate(**batch, max_new_tokens=9, num_diffusion_steps=5, sampler=sampler, generator=seeded(3)[0],
                                streamer=recorder, return_dict_in_generate=True, output_history=True)  # fmt: skip
    assert recorder.ended
    assert torch.equal(torch.stack(recorder.canvases[1:-1]), output.history)
    assert torch.equal(recorder.canvases[-1], output.sequences)
    first = recorder.canvases[0]
    assert torch.equal(first[:, :5], batch["input_ids"]), "padding is shown as pads"
    assert bool((first[:, 5:] == MASK).all())


@pytest.mark.parametrize("sampler", available_samplers())
def test_text_streamer_prints_each_token_once_whatever_is_taken_back(writer, tokenizer, capsys, sampler):
    row = writer(streamer=TextStreamer(tokenizer, skip_special_tokens=True), generator=seeded(1), sampler=sampler)[0]
    assert capsys.readouterr().out == tokenizer.decode(row, skip_special_tokens=True) + "\n"


@pytest.mark.parametrize("sampler", available_samplers())
def test_float32_and_float64_write_the_same_text(tiny_mdlm, sampler):
    """The noise does not depend on the dtype. In bfloat16 the predictions themselves are rounded, and texts differ."""
    settings = {"max_new_tokens": 9, "sampler": sampler}
    single = write(tiny_mdlm, [[BOS, 5]] * 3, generator=seeded(0)[0], **settings)
    double = write(tiny_mdlm.double(), [[BOS, 5]] * 3, generator=seeded(0)[0], **settings)
    assert torch.equal(single, double)


def test_a_prompt_that_is_all_masks_is_filled(tiny_mdlm):
    rows = write(tiny_mdlm, [[MASK] * 6], max_new_tokens=2, suppress_tokens=[EOS])
    assert rows.shape == (1, 8)
    assert not bool((rows == MASK).any())


def test_more_masks_than_the_context_are_refused(tiny_mdlm):
    with pytest.raises(ValueError, match="the longest prompt has 60 tokens, more than the model's context of 48"):
        write(tiny_mdlm, [[MASK] * 60], max_new_tokens=0)


def test_a_checkpoint_s_defaults_may_belong_to_another_sampler(tiny_mdlm):
    tiny_mdlm.generation_config.sampler, tiny_mdlm.generation_config.threshold = "threshold", 0.2
    by_default = write(tiny_mdlm, [[BOS, 5]], max_new_tokens=8, generator=seeded(1)[0])
    tiny_mdlm.generation_config.sampler, tiny_mdlm.generation_config.threshold = "ancestral", None
    asked = write(tiny_mdlm, [[BOS, 5]], max_new_tokens=8, generator=seeded(1)[0], sampler="threshold", threshold=0.2)
    assert torch.equal(by_default, asked)
    tiny_mdlm.generation_config.threshold = 0.2
    assert write(tiny_mdlm, [[BOS, 5]], max_new_tokens=8, sampler="remdm").shape == (1, 10)
