"""Families: the law of times and noise, weights and denominators, and the losses in expectation, by enumeration."""

import itertools
import math

import pytest
import torch
from exact_model import ExactModel
from goodness_of_fit import uniform_ks_p
from oracles.tables import TableLanguage

from arche_mdlm import MDLMConfig, order_mdlm
from arche_mdlm.corruption_mdlm import Masked
from arche_mdlm.family_mdlm import CORRUPTIONS, ORDERS, Family, family_of
from arche_mdlm.family_parts_mdlm import FAMILY_PARTS, OBJECTIVES
from arche_mdlm.order_mdlm import Whole, sample_timesteps
from arche_mdlm.schedule_mdlm import get_schedule
from arche_mdlm.training.models.arms import AUTOREGRESSIVE, DIFFUSION
from arche_mdlm.training.models.model_card import FAMILY_WORDS

MASK = 9


def masked(schedule: str, mask: int = MASK) -> Family:
    return Family(Masked(mask), Whole(), get_schedule(schedule))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("num_rows", [1, 7, 64])
def test_stratified_times_fall_into_each_stratum_once(num_rows):
    for seed in range(20):
        times = sample_timesteps(num_rows, generator(seed))
        assert times.min() > 0
        assert times.max() <= 1
        strata = ((1 - times.double()) * num_rows + 1e-5).floor().long() % num_rows
        assert sorted(strata.tolist()) == list(range(num_rows))


def test_times_are_uniform():
    many = torch.cat([sample_timesteps(4, generator(seed)) for seed in range(2000)])
    assert uniform_ks_p(many) > 1e-3
    assert uniform_ks_p(many[::4]) > 1e-3  # one row of the batch: any stratum
    assert uniform_ks_p((1 - many.double()[::4]) * 4 % 1) > 1e-3  # and anywhere in it
    assert uniform_ks_p(sample_timesteps(20_000, generator(), stratified=False)) > 1e-3
    independent = sample_timesteps(64, generator(), stratified=False)
    assert len(((1 - independent) * 64).floor().unique()) < 64


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_token_is_masked_with_probability_one_minus_alpha(name, monkeypatch):
    times = torch.tensor([0.05, 0.3, 0.5, 0.9, 1.0])
    monkeypatch.setattr(order_mdlm, "sample_timesteps", lambda *args: times)
    tokens = torch.randint(0, 9, (5, 20_000))
    canvas, labels, *_ = masked(name).corrupt(tokens, torch.ones_like(tokens, dtype=torch.bool), "nelbo", generator())
    changed = canvas == MASK
    rate = {"linear": times, "cosine": torch.sin(math.pi / 2 * times) ** 2}[name]
    error = (rate * (1 - rate) / 20_000).sqrt()
    assert bool(((changed.float().mean(-1) - rate).abs() <= 4 * error + 1e-6).all())
    assert torch.equal(canvas[~changed], tokens[~changed])
    assert torch.equal(labels[changed], tokens[changed])
    assert bool((labels[~changed] == -100).all())


def test_only_maskable_positions_are_masked(monkeypatch):
    tokens = torch.randint(0, 9, (6, 30))
    maskable = torch.rand(6, 30) < 0.7
    monkeypatch.setattr(order_mdlm, "sample_timesteps", lambda *args: torch.ones(6))
    canvas, labels, *_ = masked("linear").corrupt(tokens, maskable, "nelbo", generator())
    assert torch.equal(canvas == MASK, maskable)
    assert torch.equal(labels != -100, maskable)


def test_weights_and_denominators():
    times = torch.tensor([0.25, 0.5])
    assert Masked(MASK).loss_weights("nelbo", times) is None  # the model's own
    assert Masked(MASK).loss_weights("low_variance", times).tolist() == [1.0, 1.0]
    assert Masked(MASK).loss_weights("masked_mean", times).tolist() == [1.0, 1.0]
    labels = torch.tensor([[-100, 3, 4, -100]])
    names = ("nelbo", "low_variance", "masked_mean")
    assert [DIFFUSION.loss_denominator(name, 17, labels != -100) for name in names] == [17, 17, 2]
    assert DIFFUSION.loss_denominator("masked_mean", 17, torch.zeros(1, 4, dtype=torch.bool)) == 1
    assert AUTOREGRESSIVE.loss_denominator("next_token", 17, labels != -100) == 2
    with pytest.raises(ValueError, match="objective='elbo' is not one of nelbo, low_variance, masked_mean"):
        Masked(MASK).loss_weights("elbo", times)


@pytest.fixture(scope="module")
def model():
    return ExactModel(TableLanguage.random(3, 3, seed=5))


def objective_of(model, objective: str, schedule: str, num_rows: int) -> torch.Tensor:
    """The summed loss (num_rows,) of each row under the exact posterior."""
    strings = model.language.sample(num_rows, generator(1))
    rows = torch.cat([model.bos(num_rows), strings], dim=1)
    maskable = torch.ones_like(rows, dtype=torch.bool)
    maskable[:, 0] = False
    batch = masked(schedule, model.config.mask_token_id).corrupt(rows, maskable, objective, generator(2))
    assert torch.equal(batch.input_ids[:, :1], rows[:, :1]), "BOS is never masked"
    positions = batch.labels != -100
    logits = model(batch.input_ids, positions=positions).logits
    nats = torch.nn.functional.cross_entropy(logits, batch.labels[positions], reduction="none")
    weights = batch.loss_weights
    if weights is None:  # the model's own
        weights = get_schedule(schedule).weight(batch.timesteps)
    weighted = nats * weights[positions.nonzero()[:, 0]]
    return torch.zeros(num_rows, dtype=torch.float64).index_add_(0, positions.nonzero()[:, 0], weighted)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_nelbo_objective_is_the_entropy_in_expectation(model, schedule):
    loss = objective_of(model, "nelbo", schedule, 40_000)
    error = loss.std() / len(loss) ** 0.5
    assert error < 0.03
    assert abs(loss.mean() - model.language.entropy) < 4 * error


def test_the_low_variance_objective_is_its_enumeration_in_expectation(model):
    """Under the linear schedule a given set of m of L positions is masked with probability m! (L - m)! / (L + 1)!."""
    language, length = model.language, 3
    expected = 0.0
    for masked in itertools.product([False, True], repeat=length):
        masked = torch.tensor(masked)
        m = int(masked.sum())
        posterior = language.posterior(language.sequences, (~masked).expand(language.sequences.shape))
        nats = -posterior.gather(-1, language.sequences[..., None])[..., 0].log()
        share = math.factorial(m) * math.factorial(length - m) / math.factorial(length + 1)
        expected += share * float((language.probabilities * (nats * masked).sum(-1)).sum())
    loss = objective_of(model, "low_variance", "linear", 40_000)
    assert abs(loss.mean() - expected) < 4 * loss.std() / len(loss) ** 0.5


def test_no_row_of_a_batch_always_gets_the_same_time():
    """Rows of a batch are in order of length: if times were, too, long stories would never be masked much."""
    noise = generator()
    times = torch.stack([sample_timesteps(16, noise) for _ in range(2000)])
    ranks = torch.arange(16.0).expand(2000, 16)
    correlation = torch.corrcoef(torch.stack([ranks.flatten(), times.flatten()]))[0, 1].item()
    assert abs(correlation) < 4 / (2000 * 16) ** 0.5


def config_of(name: str) -> MDLMConfig:
    told = {"time_conditioning": "log_snr"} if FAMILY_PARTS[name].noise == "uniform" else {}
    length = 4 if FAMILY_PARTS[name].order == "blocks" else None
    return MDLMConfig(vocab_size=32, mask_token_id=31, diffusion=name, attention_block_length=length, **told)


def test_the_parts_of_every_family_are_there():
    assert {parts.noise for parts in FAMILY_PARTS.values()} == set(CORRUPTIONS) == set(OBJECTIVES)
    assert {parts.order for parts in FAMILY_PARTS.values()} == set(ORDERS)
    for name, parts in FAMILY_PARTS.items():
        family = family_of(config_of(name))
        assert isinstance(family, Family)
        assert (family.corruption.name, family.corruption.objectives) == (parts.noise, OBJECTIVES[parts.noise])


def test_every_family_has_a_name_for_its_cards():
    assert set(FAMILY_WORDS) == set(FAMILY_PARTS)
