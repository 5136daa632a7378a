"""Likelihoods of decoding policies against enumeration: every order, every sequence, exact and wrong denoisers."""

import itertools
import math

import pytest
import torch
from exact_model import ExactModel
from likelihood_rows import BOS, MASK, PAD, pad_rows, random_stories
from oracles.laws import entropy, margin, scored_law
from oracles.tables import TableLanguage
from seeds import seeded

from arche_mdlm.metrics import policy_likelihood
from arche_mdlm.metrics.likelihood import nelbo
from arche_mdlm.metrics.policy_likelihood import POLICIES, corpus_policy_nll, policy_nll

# The policies as scores of the oracle's samplers; those see the tokens, so the score must not depend on them.
SCORES = {
    "left_to_right": torch.zeros_like,
    "confidence": lambda p: p.amax(-1, keepdim=True).expand(p.shape),
    "margin": margin,
    "entropy": entropy,
}


class WrongDenoiser(TableLanguage):
    """A language whose predictions fit no joint distribution: random ones for each canvas."""

    def posterior(self, tokens, known):
        size = self.vocab_size
        table = torch.randn([size + 1] * self.length + [self.length, size], generator=seeded(5), dtype=torch.float64)
        canvas = torch.where(known, tokens, size)
        return (1.5 * table[tuple(canvas.T)]).softmax(-1)


@pytest.fixture(scope="module")
def exact():
    return ExactModel(TableLanguage.random(vocab_size=3, length=4))


@pytest.fixture(scope="module")
def wrong():
    return ExactModel(WrongDenoiser(TableLanguage.random(vocab_size=3, length=4).table))


def all_rows(model):
    sequences = model.language.sequences
    return torch.cat([model.bos(len(sequences)), sequences], dim=1)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_probabilities_of_a_policy_are_the_law_of_its_sampler(wrong, policy):
    law = scored_law(wrong.language, [1] * wrong.language.length, SCORES[policy])

    probabilities = (-policy_nll(wrong, all_rows(wrong), policy=policy).nats).exp()

    torch.testing.assert_close(probabilities, law, rtol=0, atol=1e-12)
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-12)


def test_the_laws_of_the_policies_differ(wrong):
    laws = [(-policy_nll(wrong, all_rows(wrong), policy=policy).nats).exp() for policy in POLICIES]

    assert all((one - other).abs().sum() > 0.05 for one, other in itertools.combinations(laws, 2))


@pytest.mark.parametrize("block_length", [None, 1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_with_the_exact_posterior_every_policy_is_the_language(exact, policy, block_length):
    rows = all_rows(exact)

    nats = policy_nll(exact, rows, policy=policy, block_length=block_length).nats

    torch.testing.assert_close(nats, -exact.language.log_prob(rows[:, 1:]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_blocks_of_one_are_left_to_right(wrong, policy):
    expected = policy_nll(wrong, all_rows(wrong))
    torch.testing.assert_close(policy_nll(wrong, all_rows(wrong), policy=policy, block_length=1), expected)


@pytest.mark.parametrize("policy", POLICIES)
def test_blocks_are_filled_from_left_to_right_and_make_a_distribution(wrong, policy):
    result = policy_nll(wrong, all_rows(wrong), policy=policy, block_length=2)

    assert float((-result.nats).exp().sum()) == pytest.approx(1, abs=1e-12)
    assert (result.order[:, 1:3].amax(-1) < result.order[:, 3:].amin(-1)).all()
    assert (result.order[:, 1:].sort(-1).values == torch.arange(4)).all()
    assert (result.order[:, 0] == -1).all()


def any_order_nll(model, rows):
    """-log of the mean over all orders of the probability (S,): the model's own likelihood under ancestral sampling."""
    length, likelihoods = model.language.length, []
    for order in itertools.permutations(range(length)):
        total = torch.zeros(len(rows), dtype=torch.float64)
        known = torch.zeros(len(rows), length, dtype=torch.bool)
        for place in order:
            posterior = model.language.posterior(rows[:, 1:], known)[:, place]
            total += posterior.gather(-1, rows[:, 1 + place, None])[:, 0].log()
            known[:, place] = True
        likelihoods.append(total)
    return math.log(len(likelihoods)) - torch.stack(likelihoods).logsumexp(0)


def test_the_nelbo_is_not_below_the_exact_nll_of_a_wrong_denoiser(wrong):
    rows = all_rows(wrong)
    exact_nll = any_order_nll(wrong, rows)

    estimate = nelbo(wrong, rows, num_samples=256, generator=seeded(), batch_size=4096)

    assert float((-exact_nll).exp().sum()) == pytest.approx(1, abs=1e-12)
    assert (estimate.nats > exact_nll - 4 * estimate.standard_error).all()
    assert ((estimate.nats - exact_nll) / estimate.standard_error).mean() > 2, "the bound has a gap here"


@pytest.mark.parametrize("sampler", POLICIES[1:])
def test_greedy_decoding_goes_in_the_order_of_the_policy(diffusion_model, sampler):
    written = diffusion_model.generate(
        torch.tensor([[BOS], [BOS]]), max_new_tokens=9, num_diffusion_steps=9, sampler=sampler, do_sample=False,
        output_history=True, return_dict_in_generate=True, eos_token_id=None, pad_token_id=MASK,
    )  # fmt: skip
    masked = (written.history == MASK).sum(0)  # (B, L): how many steps each position stayed masked

    result = policy_nll(diffusion_model, written.sequences, policy=sampler)

    assert torch.equal(result.order[:, 1:], masked[:, 1:])
    greedy = (
        diffusion_model(written.sequences.clone().index_fill_(1, torch.arange(1, 10), MASK)).logits.softmax(-1).amax(-1)
    )
    first = result.order == 0
    torch.testing.assert_close((-result.token_nats[first]).exp(), greedy[first].double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_neither_padding_nor_batch_nor_chunks_change_anything(diffusion_model, monkeypatch, policy, side):
    rows = random_stories()
    alone = torch.cat([policy_nll(diffusion_model, torch.tensor([row]), policy=policy).nats for row in rows])

    padded = [
        policy_nll(diffusion_model, *pad_rows(rows, 12, side), policy=policy, batch_size=size) for size in (2, 64)
    ]
    monkeypatch.setitem(policy_likelihood._LOGIT_BYTES, "cpu", 4 * 12 * 3)
    chunked = policy_nll(diffusion_model, *pad_rows(rows, 12, side), policy=policy)

    for result in (*padded, chunked):
        torch.testing.assert_close(result.nats, alone, rtol=1e-5, atol=1e-4)
        assert torch.equal(result.order, chunked.order)


def one_by_one(diffusion_model, row, width, steps):
    """Left to right on a canvas of `width`, the softmax written out."""
    canvas, total = torch.full((1, width), MASK), 0.0
    canvas[0, 0] = BOS
    row = [*row, *[PAD] * (width - len(row))]
    for place in range(1, steps):
        with torch.no_grad():
            logits = diffusion_model(canvas).logits[0, place].double()
        total -= float(logits[row[place]] - logits.logsumexp(-1))
        canvas[0, place] = row[place]
    return total


@pytest.mark.parametrize("stop_at_eos", [False, True])
def test_a_corpus_left_to_right(diffusion_model, stop_at_eos):
    rows, num_bytes = random_stories(), [10, 20, 30, 40, 50]

    score = corpus_policy_nll(
        diffusion_model,
        rows,
        canvas_length=12,
        pad_token_id=PAD,
        num_bytes=num_bytes,
        stop_at_eos=stop_at_eos,
        batch_size=2,
    )

    expected = [one_by_one(diffusion_model, row, 12, len(row) if stop_at_eos else 12) for row in rows]
    assert score.nats == pytest.approx(expected, rel=1e-5)
    assert score.nats_per_token == pytest.approx(sum(expected) / sum(len(row) - 1 for row in rows), rel=1e-5)
    assert score.bits_per_byte == pytest.approx(sum(expected) / math.log(2) / 150, rel=1e-5)
    assert score.standard_error == 0


def test_texts_that_end_at_eos_make_a_distribution(wrong, monkeypatch):
    monkeypatch.setattr(wrong.config, "eos_token_id", 1)
    rows = all_rows(wrong)
    behind = ((rows == 1).cumsum(-1) - (rows == 1).long()) > 0
    rows = rows.masked_fill(behind, 0).unique(dim=0)  # one row for each text

    left_to_right = policy_nll(wrong, rows, stop_at_eos=True)
    assert float((-left_to_right.nats).exp().sum()) == pytest.approx(1, abs=1e-12)
    ends_early = rows[:, 1] == 1
    assert (left_to_right.order[ends_early, 2:] == -1).all()
    for policy in POLICIES:
        assert (
            policy_nll(wrong, rows, policy=policy, stop_at_eos=True).nats <= policy_nll(wrong, rows, policy=policy).nats
        ).all()
        assert float((-policy_nll(wrong, rows, policy=policy, stop_at_eos=True).nats).exp().sum()) < 1 + 1e-12


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_time_conditioned_model_is_told_the_time_of_its_masks(wrong, monkeypatch, schedule):
    monkeypatch.setattr(wrong.config, "time_conditioning", "additive")
    monkeypatch.setattr(wrong.config, "noise_schedule", schedule)
    forward, seen = wrong.model.forward, []

    def spy(input_ids, timesteps=None, **kwargs):
        t = timesteps.double()
        alpha = 1 - t if schedule == "linear" else torch.cos(math.pi / 2 * t) ** 2
        seen.append(float((1 - alpha - (input_ids == wrong.config.mask_token_id).sum(-1) / 4).abs().max()))
        return forward(input_ids, **kwargs)

    monkeypatch.setattr(wrong.model, "forward", spy)
    policy_nll(wrong, all_rows(wrong)[:3], policy="entropy")

    assert len(seen) == 4
    assert max(seen) < 1e-5


def test_bad_input(exact):
    rows = all_rows(exact)[:2]
    with pytest.raises(ValueError, match="policy='random' is not one of left_to_right, confidence, margin, entropy"):
        policy_nll(exact, rows, policy="random")
    with pytest.raises(ValueError, match="block_length=0"):
        policy_nll(exact, rows, block_length=0)
    with pytest.raises(ValueError, match="stop_at_eos=True"):
        policy_nll(exact, rows, stop_at_eos=True)
    with pytest.raises(ValueError, match="batch_size=0"):
        policy_nll(exact, rows, batch_size=0)
    with pytest.raises(ValueError, match="row 1 of input_ids holds mask_token_id=4"):
        policy_nll(exact, torch.tensor([[0, 1], [4, 2]]))
    with pytest.raises(ValueError, match="canvas_length=3"):
        corpus_policy_nll(exact, rows.tolist(), canvas_length=3, pad_token_id=5)
