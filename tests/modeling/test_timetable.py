"""Blocks and times of each row, and the temperature that follows them."""

import pytest
import torch
from transformers.generation import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper

from arche_mdlm.canvas_mdlm import Timetable
from arche_mdlm.processors_mdlm import AnnealedTemperature, anneal

BOS, EOS, PAD, MASK = range(4)


def course(steps: int, num_blocks: int) -> list[tuple[int, float, float]]:
    plan = Timetable(torch.tensor([steps]), torch.tensor([num_blocks]))
    rows = [plan.at(step) for step in range(plan.total)]
    return [(int(block), round(float(t), 6), round(float(s), 6)) for block, t, s in rows]


@pytest.mark.parametrize(("steps", "num_blocks"), [(1, 1), (7, 1), (7, 3), (3, 3), (2, 5), (64, 10)])
def test_each_block_goes_from_one_to_zero_and_all_steps_are_used(steps, num_blocks):
    rows = course(steps, num_blocks)
    assert len(rows) == max(steps, num_blocks)
    sizes = [sum(block == number for block, _, _ in rows) for number in range(num_blocks)]
    assert max(sizes) - min(sizes) <= 1
    for number in range(num_blocks):
        times = [(t, s) for block, t, s in rows if block == number]
        grid = [round(1 - i / len(times), 6) for i in range(len(times) + 1)]
        assert times == list(zip(grid[:-1], grid[1:], strict=True))
    assert [block for block, _, _ in rows] == sorted(block for block, _, _ in rows)


def test_a_row_s_times_do_not_depend_on_the_others():
    plan = Timetable(torch.tensor([6, 6, 4]), torch.tensor([1, 4, 2]))
    for row, (steps, blocks) in enumerate([(6, 1), (6, 4), (4, 2)]):
        alone = course(steps, blocks)
        for step, (block, t, s) in enumerate(alone):
            together = plan.at(step)
            assert (int(together[0][row]), round(float(together[1][row]), 6), round(float(together[2][row]), 6)) == (
                block, t, s)  # fmt: skip
    assert int(plan.at(4)[0][2]) == 2, "through"


def test_blocks_of_a_long_text_end_at_the_end_of_text(tiny_mdlm):
    """Positions behind an EOS in a finished block are not written, which saves their forwards."""
    prompt = torch.tensor([[BOS]] * 20)
    output = tiny_mdlm.generate(prompt, max_new_tokens=40, block_length=5, num_diffusion_steps=40, do_sample=True,
                                generator=torch.Generator().manual_seed(0), return_dict_in_generate=True,
                                output_history=True)  # fmt: skip
    text = output.sequences[:, 1:]
    ended = [row.index(EOS) for row in text.tolist() if EOS in row]
    assert len(ended) > 3, "the test lacks power"
    for row, ids in enumerate(text.tolist()):
        if EOS in ids:
            blocks = -(-(ids.index(EOS) + 1) // 5)
            assert bool((output.history[-1, row, 1 + 5 * blocks :] == MASK).all())
            assert int(output.num_forward_passes[row]) <= 5 * blocks
            assert set(ids[ids.index(EOS) + 1 :]) <= {PAD}


@pytest.mark.parametrize(
    ("block_length", "message"),
    [
        (0, "block_length=0 must be a whole number of at least 1"),
        (-3, "block_length=-3 must be a whole number"),
        (2.5, r"block_length=2\.5 must be a whole number"),
        (9, "block_length=9 is longer than the 8 positions to fill"),
    ],
)
def test_bad_block_lengths_are_named(tiny_mdlm, block_length, message):
    with pytest.raises(ValueError, match=message):
        tiny_mdlm.generate(torch.tensor([[BOS, 5]]), max_new_tokens=8, block_length=block_length)


def test_one_block_as_long_as_the_text_is_no_block(tiny_mdlm):
    texts = [tiny_mdlm.generate(torch.tensor([[BOS, 5]]), max_new_tokens=8, do_sample=True,
                                generator=torch.Generator().manual_seed(2), **settings)
             for settings in ({}, {"block_length": 8})]  # fmt: skip
    assert torch.equal(*texts)


def test_a_conditioned_model_is_told_how_much_of_the_canvas_is_masked(build_mdlm):
    model, times = build_mdlm(time_conditioning="additive", noise_schedule="cosine"), []
    model.model.register_forward_hook(
        lambda module, args, kwargs, output: times.append(kwargs["timesteps"].tolist()), with_kwargs=True
    )
    model.generate(torch.tensor([[BOS]]), max_new_tokens=8, block_length=4, num_diffusion_steps=4, sampler="confidence",
                   suppress_tokens=[EOS], draw_length=False)  # fmt: skip
    rates = torch.sin(torch.pi / 2 * torch.tensor(times)[:, 0]) ** 2
    # In each block t is 1, then 1/2, where a cosine schedule has masked a half of the block.
    torch.testing.assert_close(rates, torch.tensor([1.0, 0.75, 0.5, 0.25]))


# --- temperature ------------------------------------------------------------------------------------------------------


def test_the_annealed_temperature_stands_where_the_constant_one_does():
    def penalty(ids, scores):
        return scores

    for before in ([penalty, TemperatureLogitsWarper(0.7), TopKLogitsWarper(3)], [penalty, TopKLogitsWarper(3)]):
        kinds = [type(p).__name__ for p in anneal(LogitsProcessorList(before), 0.7, 0.1)]
        assert kinds == ["function", "AnnealedTemperature", "TopKLogitsWarper"]


@pytest.mark.parametrize("start", [1.0, 0.9])
def test_the_temperature_goes_from_start_to_end(tiny_mdlm, monkeypatch, start):
    seen, call = [], AnnealedTemperature.__call__

    def spy(self, input_ids, scores):
        result = call(self, input_ids, scores)
        finite = scores.isfinite() & (scores != 0)
        seen.append(round(float((scores[finite] / result[finite]).mean()), 4))
        return result

    monkeypatch.setattr(AnnealedTemperature, "__call__", spy)
    tiny_mdlm.generate(torch.tensor([[BOS]]), max_new_tokens=8, num_diffusion_steps=4, sampler="confidence",
                       do_sample=True, temperature=start, temperature_end=0.1, top_k=5, suppress_tokens=[EOS])  # fmt: skip
    assert seen == [round(0.1 + (start - 0.1) * t, 4) for t in (1, 0.75, 0.5, 0.25)]
