"""Uniform noise: the loss and the bound, by enumeration."""

import pytest
import torch
from goodness_of_fit import chi_square_p
from seeds import seeded
from uniform_cases import LANGUAGE
from uniform_model import (
    UniformModel,
    exact_bound,
    leave_one_out,
    likelihoods,
    udlm_terms,
)

from arche_mdlm import MDLMConfig
from arche_mdlm.corruption_mdlm import Uniform
from arche_mdlm.family_mdlm import family_of
from arche_mdlm.metrics.likelihood import nelbo
from arche_mdlm.token_loss_mdlm import UniformBound

RATES = (1e-4, 0.01, 0.3, 0.5, 0.9, 0.999)


# --- the loss of a token ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("same", [True, False])
def test_the_loss_is_the_term_of_the_bound(rate, same):
    logits = torch.randn(6, 8, generator=seeded(), dtype=torch.float64)  # the last is the mask
    noisy = torch.tensor([0, 1, 2, 3, 4, 6])
    clean = noisy if same else (noisy + 1) % 7
    rates = torch.full((6,), rate, dtype=torch.float64)
    expected = udlm_terms(logits[:, :7].softmax(-1), noisy, clean, rates)
    loss = UniformBound(clean, 7, 7, noisy, rates)
    torch.testing.assert_close(loss.plain(logits), expected, rtol=1e-8, atol=1e-10)
    assert bool((expected >= 0).all())
    coefficients = torch.rand(6, generator=seeded(1), dtype=torch.float64) + 0.5
    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((loss.plain(leaf) * coefficients).sum(), leaf)
    overwritten = logits.clone()
    torch.testing.assert_close(loss.in_place(overwritten, coefficients), expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(overwritten, gradient, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 0.1, 0.5, 0.99, 0.9999])
def test_float32_is_enough(rate):
    logits = 3 * torch.randn(20, 4097, generator=seeded(2), dtype=torch.float64)
    noisy, clean = torch.randint(0, 4096, (2, 20), generator=seeded(3))
    clean[:10] = noisy[:10]
    loss = UniformBound(clean, 4096, 4096, noisy, torch.full((20,), rate, dtype=torch.float64))
    exact, exact_gradient = loss.plain(logits), logits.clone()
    loss.in_place(exact_gradient, torch.ones(20))
    own = logits.float()
    found = loss.in_place(own, torch.ones(20))
    largest = torch.maximum(exact.abs(), torch.tensor(4096 / rate * 1e-3))  # about the largest of the terms that cancel
    assert float(((found - exact).abs() / largest).max()) < 1e-5
    scale = exact_gradient.abs().amax(-1, keepdim=True)
    assert float(((own - exact_gradient).abs() / scale).max()) < 1e-4


def test_positions_that_count_for_nothing_are_not_nan():
    """At t = 0, where a compiled batch has spare positions, with a coefficient of 0."""
    logits = torch.randn(2, 5, generator=seeded())
    loss = UniformBound(torch.tensor([1, 1]), 4, 4, torch.tensor([1, 2]), torch.zeros(2))
    assert bool((loss.in_place(logits, torch.zeros(2)) >= 0).all())
    assert float(logits.abs().max()) == 0


def test_the_mask_is_no_token():
    corruption = Uniform(4, 2)
    drawn = corruption.replacements((4000,), seeded())
    counts = torch.bincount(drawn, minlength=5)
    assert int(counts[2]) == 0
    assert chi_square_p(counts[[0, 1, 3, 4]], torch.ones(4) / 4) > 1e-3
    config = MDLMConfig(vocab_size=7, mask_token_id=2, diffusion="uniform", time_conditioning="log_snr")
    assert family_of(config).corruption.num_tokens == 6


# --- objectives ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["nelbo", "converted", "resampled"])
@pytest.mark.parametrize("denoiser", ["leave_one_out", "full"])
def test_the_exact_denoiser_is_where_the_objective_has_no_gradient(objective, denoiser):
    """The sum over all clean and noisy sequences of the loss's gradient in the logits is 0 there, and nowhere near."""
    corruption, rate = Uniform(3, 3, sees_own_token=denoiser == "full"), 0.4
    sequences, length = LANGUAGE.sequences, LANGUAGE.length
    rates = torch.full((len(sequences), length), rate, dtype=torch.float64)
    exact = leave_one_out(LANGUAGE, sequences, rates, denoiser == "full").log()
    total = torch.zeros(2, *exact.shape, dtype=torch.float64)
    for which, logits in enumerate((exact, exact + 0.1 * torch.arange(3))):
        for clean, chance in zip(sequences, LANGUAGE.probabilities, strict=True):
            for i in range(length):
                leaf = torch.cat([logits[:, i], torch.zeros(len(sequences), 1)], -1).requires_grad_()
                likely = likelihoods(sequences, rates, 3).gather(-1, clean.expand_as(sequences)[..., None])[..., 0]
                weight = chance * likely.prod(-1)
                if objective == "resampled":  # only where the token was drawn anew: with the rate / V of it
                    weight = weight * (rate / 3) / likely[:, i]
                loss = corruption.token_loss(clean[i].expand(len(sequences)), sequences[:, i], rates[:, i], objective)
                (gradient,) = torch.autograd.grad((loss.plain(leaf) * weight).sum(), leaf)
                total[which, :, i] += gradient[:, :3]
    assert float(total[0].abs().max()) < 1e-12
    assert float(total[1].abs().max()) > 1e-4


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("wrong", [0.0, 0.4])
def test_the_training_loss_is_the_bound_in_expectation(schedule, wrong):
    model = UniformModel(LANGUAGE, wrong, noise_schedule=schedule)
    row = LANGUAGE.sequences[5]
    clean = torch.cat([model.bos(40_000), row.expand(40_000, -1)], dim=1)
    batch = family_of(model).corrupt(clean, clean != model.config.bos_token_id, "nelbo", seeded(3))
    assert batch.loss_weights is None
    inputs = batch.inputs()
    losses = model(**inputs, skip_logits=False, num_items_in_batch=1).loss
    rows = model(**inputs, skip_logits=False).token_nll.view(-1, 2).double()
    weights = family_of(model).schedule.slope(batch.timesteps[:, 1].double())
    each = rows.sum(-1) * weights
    error = float(each.std()) / len(each) ** 0.5
    assert abs(float(each.mean()) - exact_bound(model, row)) < 4 * error
    assert float(losses) / len(each) == pytest.approx(float(each.mean()), rel=1e-4)


# --- the bound ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("antithetic", ["none", "counts", "complement"])
@pytest.mark.parametrize("wrong", [0.0, 0.4])
def test_the_bound_is_that_of_all_noise(wrong, antithetic):
    model = UniformModel(LANGUAGE, wrong)
    rows = torch.cat([model.bos(9), LANGUAGE.sequences], dim=1)
    found = nelbo(model, rows, num_samples=2000, antithetic=antithetic, generator=seeded(1))
    expected = torch.tensor([exact_bound(model, row) for row in LANGUAGE.sequences])
    assert bool(((found.nats - expected).abs() < 4 * found.standard_error + 1e-3).all())
    assert float(found.standard_error.max()) < 0.3
    if wrong == 0:
        mean = float((expected * LANGUAGE.probabilities).sum())
        assert mean == pytest.approx(LANGUAGE.entropy, abs=1e-4), "tight for the exact denoiser"


def test_the_bound_of_a_token_that_no_noise_is_seen_for_is_its_own_likelihood():
    """One position, a denoiser that looks at neither token nor time: exactly -log x, for any x."""
    x = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    nodes = torch.linspace(0.5, 9999.5, 10_000, dtype=torch.float64) / 10_000
    times = nodes**2
    for clean in range(3):
        total = 0.0
        for noisy in range(3):
            loss = UniformBound(torch.full((10_000,), clean), None, 3, torch.full((10_000,), noisy), times)
            chance = (1 - times) * (noisy == clean) + times / 3
            total += float((chance * loss.plain(x.log().expand(10_000, -1)) * 2 * nodes).mean())
        assert total == pytest.approx(-float(x[clean].log()), abs=1e-5)
