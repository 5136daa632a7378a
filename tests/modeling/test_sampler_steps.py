"""Steps of samplers: how many positions they fill, by which scores, and in how many forwards."""

import pytest
import torch
from goodness_of_fit import chi_square_p
from sampler_cases import BOS, CASES, ENOUGH, EOS, MASK, PAD, make_draft, predict_from, times
from seeds import generators

from arche_mdlm.noise_mdlm import RowNoise
from arche_mdlm.ordered_samplers_mdlm import ArcheSampler, ConfidenceSampler, ThresholdSampler
from arche_mdlm.prediction_mdlm import Predictor
from arche_mdlm.samplers_mdlm import AncestralSampler, FirstHittingSampler, get_sampler
from arche_mdlm.schedule_mdlm import get_schedule


@pytest.mark.parametrize("steps", [1, 3, 4, 7, 48])
@pytest.mark.parametrize(
    ("kind", "share"),
    [
        (ConfidenceSampler, lambda n, left: -(-n // left)),
        (FirstHittingSampler, lambda n, left: -(-n // left)),
        (ThresholdSampler, lambda n, left: -(-n // left)),
        (ArcheSampler, lambda n, left: max(n // left, 1)),
    ],
)
def test_how_many_positions_are_filled_at_each_step(kind, share, steps):
    """Rows with 0 to 40 masks: the masks are shared out from above, by arche from below and at least one."""
    sampler = kind(get_schedule("linear"))
    masked = torch.arange(40) < torch.arange(41)[:, None]
    draft = make_draft(torch.where(masked, MASK, 5))
    flat = predict_from(lambda where: torch.zeros(int(where.sum()), 40).index_fill(1, torch.tensor([MASK]), -1e9))
    left = masked.sum(-1).tolist()
    for step in range(steps):
        noise = RowNoise(torch.arange(41), torch.arange(40).expand(41, 40), step)
        after = sampler.step(flat, draft, *times(1 - step / steps, 1 - (step + 1) / steps, 41), noise)
        assert bool((after.tokens == draft.tokens)[~draft.masked].all())
        assert torch.equal(after.masked, after.tokens == MASK)
        draft = after
        left = [n - min(n, share(n, steps - step)) for n in left]
        assert draft.masked.sum(-1).tolist() == left
    assert left == [0] * 41


def test_arche_penalty_and_temperature_to_the_letter(monkeypatch):
    """Every logit of a token placed c times is divided by min(1.3^c, 5): a negative one rises."""
    tokens = torch.tensor([[4, 5, 5, 6, 6, 6, 6, 6, 6, 6, MASK, MASK]])
    logits = torch.tensor(
        [[0.0, 1.0, 2.0, -torch.inf, 2.6, -3.0, 10.0, -7.0], [1, 1, 1, -torch.inf, -1.3, 1.69, -10, 0]]
    )
    penalised = torch.tensor(
        [[0.0, 1.0, 2.0, -torch.inf, 2.0, -3.0 / 1.69, 2.0, -7.0], [1, 1, 1, -torch.inf, -1.0, 1.0, -2.0, 0]]
    )
    assert penalised[0, 5] > logits[0, 5]
    law = (penalised / (0.8 * (0.4 + 0.6 * 0.75))).softmax(-1)
    rows = 4000
    noise = RowNoise(torch.arange(rows), torch.arange(12).expand(rows, 12), 0)
    sampler = ArcheSampler(get_schedule("cosine"), temperature=0.8)

    # From t = 1/4 to 0 both positions are filled; the temperature is that of t, so t is moved and s with it.
    both = sampler.step(predict_from(lambda where: logits.repeat(rows, 1)), make_draft(tokens.expand(rows, -1)),
                        *times(0.75, 0.0, rows), noise)  # fmt: skip

    for position in (0, 1):
        assert chi_square_p(torch.bincount(both.tokens[:, 10 + position], minlength=8), law[position]) > ENOUGH


def test_scores_come_from_the_model_not_from_the_truncated_distribution(tiny_mdlm):
    """With top_k = 1 every position would be equally sure, and the order left to right."""
    prompt = torch.tensor([[BOS, MASK, 9, MASK, MASK]])
    with torch.no_grad():
        probability, token = tiny_mdlm(prompt).logits.softmax(-1).max(-1)
    first = int((probability[0] * (prompt[0] == MASK)).argmax())
    assert first != 1, "the test lacks power"
    history = tiny_mdlm.generate(prompt, sampler="confidence", max_new_tokens=0, num_diffusion_steps=3, do_sample=True,
                                 top_k=1, return_dict_in_generate=True, output_history=True).history  # fmt: skip
    assert [(canvas == MASK).sum().item() for canvas in history] == [2, 1, 0]
    assert history[0, 0, first] == token[0, first]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("settings", [{}, {"block_length": 4}, {"do_sample": False}], ids=str)
def test_the_head_runs_on_masked_positions_of_open_rows_only(tiny_mdlm, case, settings, monkeypatch):
    asked, run = [], Predictor.logits

    def spy(self, rows, block, t, where, times):
        asked.append(bool((self.canvas.masked[rows] | ~where).all()))
        before = self.canvas.num_forwards.clone()
        yield from run(self, rows, block, t, where, times)
        assert torch.equal(
            self.canvas.num_forwards - before, torch.zeros_like(before).index_add(0, rows, where.any(-1).long())
        )

    monkeypatch.setattr(Predictor, "logits", spy)
    tiny_mdlm.generate(torch.tensor([[BOS]] * 5), **{"do_sample": True, "max_new_tokens": 12, "num_diffusion_steps": 6,
                                                     "sampler": case.sampler, "generator": generators(0)[0]}
                       | case.settings | settings)  # fmt: skip
    assert asked
    assert all(asked)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_more_steps_than_masks_finish_early(tiny_mdlm, case):
    output = tiny_mdlm.generate(torch.tensor([[BOS, 5]] * 4), max_new_tokens=6, num_diffusion_steps=500, do_sample=True,
                                sampler=case.sampler, generator=generators(0)[0], return_dict_in_generate=True,
                                suppress_tokens=[EOS], **case.settings)  # fmt: skip
    assert not bool((output.sequences == MASK).any())
    if not get_sampler(case.sampler).remasks:
        assert int(output.num_forward_passes.max()) <= 6 + get_sampler(case.sampler).draws_length
        torch.testing.assert_close(output.tokens_per_forward, 6 / output.num_forward_passes)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_never_more_forwards_than_steps(tiny_mdlm, case):
    output = tiny_mdlm.generate(torch.tensor([[BOS, 5]] * 4), max_new_tokens=20, num_diffusion_steps=5, do_sample=True,
                                sampler=case.sampler, generator=generators(0)[0], return_dict_in_generate=True,
                                **case.settings)  # fmt: skip
    assert int(output.num_forward_passes.min()) >= 1
    assert int(output.num_forward_passes.max()) <= 5 + get_sampler(case.sampler).draws_length


@pytest.mark.parametrize("case", CASES, ids=str)
def test_blocks_are_filled_left_to_right(tiny_mdlm, case):
    prompts = torch.tensor([[BOS, 5, MASK, 6], [BOS, 7, 8, 9]])  # 11 and 10 positions: blocks 4, 4, 3 and 4, 4, 2
    history = tiny_mdlm.generate(prompts, max_new_tokens=10, block_length=4, num_diffusion_steps=12, do_sample=True,
                                 sampler=case.sampler, generator=generators(0)[0], return_dict_in_generate=True,
                                 output_history=True, suppress_tokens=[EOS], **case.settings).history  # fmt: skip
    assert len(history) >= 3
    for row, fillable in enumerate((prompts == MASK).tolist()):
        places = torch.tensor([i for i, is_open in enumerate([*fillable, *[True] * 10]) if is_open])
        for canvas in history[:, row]:
            blocks = (canvas[places] == MASK).split(4)
            for before, behind in zip(blocks[:-1], blocks[1:], strict=True):
                assert not bool(before.any()) or bool(behind.all())
        done = [[not bool((canvas[places] == MASK).split(4)[b].any()) for canvas in history[:, row]] for b in range(3)]
        first = [states.index(True) for states in done]
        assert first == sorted(set(first)), "blocks are finished one after the other"
        # The first of three blocks has four of the twelve steps, and is not touched behind them.
        final = history[min(3, len(history) - 1), row][places][:4]
        assert all(torch.equal(canvas[places][:4], final) for canvas in history[4:, row])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_history_ends_with_the_text(tiny_mdlm, case):
    prompt = torch.tensor([[BOS, 5, MASK, 6]] * 3)
    settings = {"max_new_tokens": 8, "num_diffusion_steps": 4, "do_sample": True, "sampler": case.sampler,
                "suppress_tokens": [EOS, PAD], **case.settings}  # fmt: skip
    output = tiny_mdlm.generate(prompt, generator=generators(4)[0], return_dict_in_generate=True, output_history=True,
                                **settings)  # fmt: skip
    assert output.history.shape[1:] == output.sequences.shape
    assert torch.equal(output.history[-1], output.sequences)
    assert torch.equal(output.history[..., [0, 1, 3]], prompt[:, [0, 1, 3]].expand(len(output.history), -1, -1))
    assert torch.equal(output.sequences, tiny_mdlm.generate(prompt, generator=generators(4)[0], **settings))


def test_ancestral_sampling_without_remasking_is_remdm_of_rate_zero(tiny_mdlm):
    settings = {"max_new_tokens": 20, "num_diffusion_steps": 10, "do_sample": True}
    plain = tiny_mdlm.generate(torch.tensor([[BOS]]), generator=generators(3), **settings)
    rate_zero = tiny_mdlm.generate(
        torch.tensor([[BOS]]), generator=generators(3), sampler="remdm", remasking_rate=0.0, **settings
    )
    assert torch.equal(plain, rate_zero)
    assert isinstance(AncestralSampler(get_schedule("linear")), get_sampler("ancestral"))
