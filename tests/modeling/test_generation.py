"""`generate`: the law of every sampler on languages that can be enumerated, and each promise of its docstring."""

import pytest
import torch
from exact_model import ExactModel
from generation_prompts import BOS, EOS, MASK, PAD, PROMPTS, padded, write
from goodness_of_fit import chi_square_p
from oracles.tables import TableLanguage
from seeds import generators

from arche_mdlm import Sampler, available_samplers, register_sampler, samplers_mdlm
from arche_mdlm.schedule_mdlm import get_schedule

# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_ancestral_one_token_at_a_time_reproduces_the_language(schedule):
    model = ExactModel(TableLanguage.random(3, 3, seed=1), schedule)

    rows = write(model, model.bos(5000), max_new_tokens=3, num_diffusion_steps=250, generator=generators(0)[0])

    assert chi_square_p(model.counts(rows), model.language.probabilities) > 1e-3


def test_ancestral_infilling_reproduces_the_conditional_law():
    model = ExactModel(TableLanguage.random(3, 3, seed=2))
    mask = model.config.mask_token_id
    prompts = torch.tensor([[3, mask, 1, mask]]).expand(3000, -1)

    rows = write(model, prompts, max_new_tokens=0, num_diffusion_steps=250, generator=generators(1)[0])

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

    rows = write(model, model.bos(8000), max_new_tokens=2, num_diffusion_steps=steps, generator=generators(2)[0])

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
    alone = [write(tiny_mdlm, [p], generator=generators(i), **settings)[0] for i, p in enumerate(PROMPTS)]

    for side in ("left", "right"):
        batch = padded(side)
        together = tiny_mdlm.generate(**batch, num_diffusion_steps=5, generator=generators(0, 1, 2), **settings)
        for i, prompt in enumerate(PROMPTS):
            start = 5 - len(prompt) if side == "left" else 0
            row = torch.cat([together[i, start : start + len(prompt)], together[i, 5:]])
            assert row[: len(alone[i])].tolist() == alone[i].tolist(), (side, i)
            assert set(row[len(alone[i]) :].tolist()) <= {PAD}
    assert len({tuple(row[-5:].tolist()) for row in alone}) > 1


def test_one_generator_draws_one_seed_a_row(tiny_mdlm):
    generator = generators(7)[0]
    one_by_one = [write(tiny_mdlm, [[BOS, 5]], max_new_tokens=8, generator=generator)[0] for _ in range(4)]
    together = write(tiny_mdlm, [[BOS, 5]] * 4, max_new_tokens=8, generator=generators(7)[0])
    assert torch.equal(together, torch.stack(one_by_one))
    assert len(together.unique(dim=0)) == 4


def test_num_return_sequences(tiny_mdlm):
    prompts = [[BOS, 5], [BOS, 6]]
    rows = write(tiny_mdlm, prompts, max_new_tokens=8, num_return_sequences=2, generator=generators(0, 1, 2, 3))
    assert rows[:, 1].tolist() == [5, 5, 6, 6]
    for i, row in enumerate(rows):
        assert torch.equal(write(tiny_mdlm, [prompts[i // 2]], max_new_tokens=8, generator=generators(i))[0], row)
    with pytest.raises(ValueError, match="a list of 2, but there are 4 rows"):
        write(tiny_mdlm, prompts, max_new_tokens=8, num_return_sequences=2, generator=generators(0, 1))


def test_two_calls_differ_with_and_without_a_generator(tiny_mdlm):
    generator = generators(0)[0]
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
    rows = tiny_mdlm.generate(max_new_tokens=6, do_sample=True, generator=generators(3))
    assert rows.shape == (1, 7)
    assert torch.equal(rows, tiny_mdlm.generate(torch.tensor([[BOS]]), max_new_tokens=6, do_sample=True,
                                                generator=generators(3)))  # fmt: skip


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_pads_follow_the_first_eos_and_rows_retire(tiny_mdlm):
    """Token 0 is EOS, and half of the strings start with it: such a row is done as soon as that token is there."""
    table = torch.ones(2, 2, 2, 2) / 16
    model = ExactModel(TableLanguage(table))
    model.generation_config.eos_token_id = 0
    pad = model.generation_config.pad_token_id
    output = write(model, model.bos(200), max_new_tokens=4, num_diffusion_steps=200, generator=generators(0)[0],
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


@pytest.mark.parametrize("sampler", available_samplers())
def test_float32_and_float64_write_the_same_text(tiny_mdlm, sampler):
    """The noise does not depend on the dtype. In bfloat16 the predictions themselves are rounded, and texts differ."""
    settings = {"max_new_tokens": 9, "sampler": sampler}
    single = write(tiny_mdlm, [[BOS, 5]] * 3, generator=generators(0)[0], **settings)
    double = write(tiny_mdlm.double(), [[BOS, 5]] * 3, generator=generators(0)[0], **settings)
    assert torch.equal(single, double)


def test_a_prompt_that_is_all_masks_is_filled(tiny_mdlm):
    rows = write(tiny_mdlm, [[MASK] * 6], max_new_tokens=2, suppress_tokens=[EOS])
    assert rows.shape == (1, 8)
    assert not bool((rows == MASK).any())
