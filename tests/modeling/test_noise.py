"""The rows' random streams: uniform, independent of each other, and exact where they draw tokens."""

import math

import pytest
import torch
from goodness_of_fit import chi_square_p, uniform_ks_p

from arche_mdlm.noise_mdlm import RowNoise, draw_seeds

ENOUGH = 1e-3


def noise(num_rows=1000, length=100, step=0, seed=0) -> RowNoise:
    seeds = draw_seeds(torch.Generator().manual_seed(seed), num_rows)
    return RowNoise(seeds, torch.arange(length).expand(num_rows, length), step)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """In standard deviations of the correlation of independent draws."""
    return abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()) * a.numel() ** 0.5


def test_draws_are_uniform():
    draws = noise().uniform(0)
    assert draws.dtype == torch.float64
    assert draws.numel() == 100_000
    assert draws.min() >= 0
    assert draws.max() < 1
    assert uniform_ks_p(draws) > ENOUGH
    assert chi_square_p(torch.histc(draws, 100, 0, 1), torch.ones(100)) > ENOUGH
    low_bits = (draws * 2**53).long() % 256
    assert chi_square_p(torch.bincount(low_bits.flatten(), minlength=256), torch.ones(256)) > ENOUGH


def test_draws_of_consecutive_seeds_are_uniform_too():
    draws = RowNoise(torch.arange(10_000), torch.arange(10).expand(10_000, 10)).uniform(1)
    assert uniform_ks_p(draws) > ENOUGH
    assert uniform_ks_p(draws[:, 0]) > ENOUGH
    assert correlation(draws[1:], draws[:-1]) < 4


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: noise(seed=1).uniform(0), id="seed"),
        pytest.param(lambda: noise(step=1).uniform(0), id="step"),
        pytest.param(lambda: noise().uniform(1), id="purpose"),
        pytest.param(lambda: noise().uniform(0).roll(1, dims=1), id="position"),
        pytest.param(lambda: noise().uniform(0).roll(1, dims=0), id="row"),
    ],
)
def test_streams_are_independent(other):
    a, b = noise().uniform(0), other()
    assert not (a == b).any()
    assert correlation(a, b) < 4
    pairs = (a * 10).long() * 10 + (b * 10).long()
    assert chi_square_p(torch.bincount(pairs.flatten(), minlength=100), torch.ones(100)) > ENOUGH


def test_no_two_numbers_of_many_steps_are_equal():
    seeds, positions = torch.tensor([5]), torch.arange(50)[None]
    draws = torch.cat([RowNoise(seeds, positions, step).uniform(purpose) for step in range(100) for purpose in (0, 1)])
    assert len(draws.unique()) == draws.numel()


def test_the_number_belongs_to_seed_step_purpose_and_position():
    whole = noise(length=8).uniform(0)
    assert torch.equal(whole, noise(length=8).uniform(0))
    some = RowNoise(noise(length=8).seeds[3:5], torch.tensor([[0, 0, 0, 1, 2], [6, 7, 0, 1, 2]])).uniform(0)
    assert torch.equal(some[0, 2:], whole[3, :3])
    assert torch.equal(some[1], whole[4, [6, 7, 0, 1, 2]])


def test_categorical_draws_the_given_distribution():
    probabilities = torch.tensor([0.0, 0.05, 0.3, 0.0, 0.15, 0.5, 0.0])
    streams = noise(num_rows=500)
    where = torch.rand(500, 100, generator=torch.Generator().manual_seed(1)) < 0.8
    logits = (probabilities.log() + 3.0).expand(int(where.sum()), -1)

    drawn = streams.categorical(logits, where, 1)

    assert drawn.shape == (int(where.sum()),)
    assert chi_square_p(torch.bincount(drawn, minlength=7), probabilities) > ENOUGH


def test_categorical_keeps_the_tail(monkeypatch):
    """A token of probability 1e-12 has its share of the unit interval: float32 noise would never draw it."""
    logits = torch.tensor([[0.0, -12 * math.log(10)]], dtype=torch.float64)
    where = torch.ones(1, 1, dtype=torch.bool)
    for u, token in ((1 - 2e-12, 0), (1 - 5e-13, 1)):
        monkeypatch.setattr(RowNoise, "uniform", lambda self, purpose, u=u: torch.full((1, 1), u, dtype=torch.float64))
        assert noise(1, 1).categorical(logits, where, 0).tolist() == [token]


@pytest.mark.parametrize("edge", [0.0, 1 - 2.0**-53])
def test_categorical_never_draws_an_impossible_token(monkeypatch, edge):
    monkeypatch.setattr(RowNoise, "uniform", lambda self, purpose: torch.full((1, 2), edge, dtype=torch.float64))
    logits = torch.tensor([[-torch.inf, 0.3, 0.1, -torch.inf], [-torch.inf, -torch.inf, 2.0, -torch.inf]])
    drawn = noise(1, 2).categorical(logits, torch.ones(1, 2, dtype=torch.bool), 0)
    assert drawn.tolist() == [1 if edge == 0 else 2, 2]


def test_one_generator_gives_each_row_one_seed_in_row_order():
    generator = torch.Generator().manual_seed(4)
    seeds = draw_seeds(generator, 5)
    again = torch.Generator().manual_seed(4)
    assert seeds.tolist() == [draw_seeds(again, 1).item() for _ in range(5)]
    assert len(seeds.unique()) == 5
    assert torch.equal(generator.get_state(), again.get_state())


def test_a_list_of_generators_gives_one_seed_each():
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2, 3)]
    expected = [draw_seeds(torch.Generator().manual_seed(seed), 1).item() for seed in (1, 2, 3)]
    assert draw_seeds(generators, 3).tolist() == expected
    with pytest.raises(ValueError, match="a list of 3, but there are 4 rows"):
        draw_seeds(generators, 4)


def test_without_a_generator_torch_s_global_one_is_used():
    torch.manual_seed(9)
    first = draw_seeds(None, 3)
    torch.manual_seed(9)
    assert torch.equal(draw_seeds(None, 3), first)
    assert not torch.equal(draw_seeds(None, 3), first)
