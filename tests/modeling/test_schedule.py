"""Noise schedules: their definitions, and that the NELBO does not depend on which one is used."""

import itertools
import math

import pytest
import torch
from oracles.tables import TableLanguage

from arche_mdlm.schedule_mdlm import SCHEDULES, get_schedule

TIMES = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
pytestmark = pytest.mark.parametrize("name", ["linear", "cosine"])


def test_alpha_is_the_formula_and_falls_from_one_to_zero(name):
    alpha = get_schedule(name).alpha
    expected = {"linear": 1 - TIMES, "cosine": torch.cos(math.pi * TIMES / 2) ** 2}[name]
    torch.testing.assert_close(alpha(TIMES), expected)
    ends = alpha(torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([1.0, 0.0], dtype=torch.float64), atol=1e-12, rtol=0)


def test_weight_is_minus_the_derivative_over_the_mask_rate(name):
    schedule, times = get_schedule(name), TIMES.clone().requires_grad_()
    (slope,) = torch.autograd.grad(schedule.alpha(times).sum(), times)
    torch.testing.assert_close(schedule.weight(TIMES), -slope / (1 - schedule.alpha(TIMES)))


def test_time_at_inverts_the_mask_rate(name):
    schedule = get_schedule(name)
    torch.testing.assert_close(schedule.time_at(schedule.mask_rate(TIMES)), TIMES)
    torch.testing.assert_close(schedule.mask_rate(schedule.time_at(TIMES)), TIMES)


def test_mask_rate_is_exact_near_zero(name):
    tiny = torch.tensor(1e-6)
    expected = {"linear": 1e-6, "cosine": (math.pi / 2 * 1e-6) ** 2}[name]
    assert math.isclose(get_schedule(name).mask_rate(tiny).item(), expected, rel_tol=1e-5)


def test_nelbo_of_the_exact_posterior_is_the_entropy(name):
    """Enumerated over every string and every set of masked positions; the integral over t by the midpoint rule."""
    language, length = TableLanguage.random(3, 3, seed=3), 3
    # cost[m]: expected cross-entropy over the strings, summed over the masked positions, for all sets of m positions.
    cost = torch.zeros(length + 1, dtype=torch.float64)
    for masked in itertools.product([False, True], repeat=length):
        masked = torch.tensor(masked)
        posterior = language.posterior(language.sequences, (~masked).expand(language.sequences.shape))
        nats = -posterior.gather(-1, language.sequences[..., None])[..., 0].log()
        cost[int(masked.sum())] += (language.probabilities * (nats * masked).sum(-1)).sum()
    schedule = get_schedule(name)
    times = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    rate, weight = schedule.mask_rate(times), schedule.weight(times)

    nelbo = sum((weight * rate**m * (1 - rate) ** (length - m)).mean() * cost[m] for m in range(1, length + 1))

    assert math.isclose(nelbo, language.entropy, abs_tol=1e-5)


def test_an_unknown_schedule_is_an_error(name):
    assert set(SCHEDULES) == {"linear", "cosine"}
    with pytest.raises(ValueError, match=f"noise_schedule='{name}r' is not one of linear, cosine"):
        get_schedule(name + "r")
