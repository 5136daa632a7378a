"""Samplers of uniform noise: each follows its enumerated distribution, for an exact and for a wrong denoiser."""

import pytest
import torch
from goodness_of_fit import chi_square_p
from oracles.tables import TableLanguage
from seeds import seeded
from torch.nn.functional import one_hot
from uniform_cases import LANGUAGE
from uniform_model import (
    UniformModel,
    posterior_of,
    sampler_law,
)

from arche_mdlm.metrics.likelihood import nelbo


def psi_law(kappa: float):
    def law(x, noisy, alpha_t, alpha_s):
        denoised = posterior_of(x, noisy, alpha_t, 1.0)
        return kappa * posterior_of(x, noisy, alpha_t, alpha_s) + (1 - kappa) * (
            alpha_s * denoised + (1 - alpha_s) / x.shape[-1]
        )

    return law


def greedy_tail_law(x, noisy, alpha_t, alpha_s):
    law = posterior_of(x, noisy, alpha_t, alpha_s)
    return one_hot(law.argmax(-1), x.shape[-1]).double() if alpha_s == 1 else law


def gibbs_correction(model: UniformModel, times: int):
    """(S, S): a random position is drawn anew from alpha x + (1 - alpha) / V, so many times."""

    def matrix(alpha: float) -> torch.Tensor:
        sequences, size = model.language.sequences, model.language.vocab_size
        x = model.model.law(sequences, torch.full(sequences.shape, 1 - alpha, dtype=torch.float64))
        new = alpha * x + (1 - alpha) / size  # (S, L, V)
        total = torch.zeros(len(sequences), len(sequences), dtype=torch.float64)
        for i in range(sequences.shape[1]):
            others = torch.ones(len(sequences), len(sequences), dtype=torch.bool)
            for j in range(sequences.shape[1]):
                others &= (sequences[:, None, j] == sequences[None, :, j]) | (i == j)
            total += others * new[:, i].gather(-1, sequences[:, i].expand(len(sequences), -1)) / sequences.shape[1]
        return torch.linalg.matrix_power(total, times)

    return matrix


def written(model, steps: int, rows: int = 12_000, **settings) -> torch.Tensor:
    sequences = model.generate(
        model.bos(rows), max_new_tokens=model.language.length, num_diffusion_steps=steps, do_sample=True, generator=seeded(7), **settings
    )  # fmt: skip
    return model.counts(sequences)


@pytest.mark.parametrize("steps", [1, 3, 8])
@pytest.mark.parametrize("wrong", [0.0, 0.5])
@pytest.mark.parametrize(
    ("settings", "law"),
    [
        ({}, posterior_of),
        ({"sampler": "psi", "kappa": 0.5}, psi_law(0.5)),
        ({"sampler": "psi", "kappa": 0.0}, psi_law(0.0)),
        ({"greedy_tail": True}, greedy_tail_law),
        ({"sampler": "gibbs", "corrector_steps": 2}, "gibbs"),
    ],
    ids=["ancestral", "psi", "psi-0", "greedy_tail", "gibbs"],
)
def test_the_law_of_what_is_written(settings, law, wrong, steps):
    model = UniformModel(LANGUAGE, wrong)
    if law == "gibbs":
        expected = sampler_law(model, steps, after=gibbs_correction(model, 2))
    else:
        expected = sampler_law(model, steps, law)
    counts = written(model, steps, **settings)
    assert int(counts[expected < 1e-12].sum()) == 0
    if float(expected.max()) < 1 - 1e-9:
        assert chi_square_p(counts, expected) > 1e-3


@pytest.mark.parametrize("steps", [2, 6])
@pytest.mark.parametrize(
    ("family", "settings"),
    [({}, {"block_length": 1}), ({"diffusion": "uniform_block", "attention_block_length": 1}, {})],
    ids=["uniform", "uniform_block"],
)
def test_blocks_of_one_token_are_written_by_the_exact_conditionals(family, settings, steps):
    """A block is told its level, the finished ones before it are clean: with the exact denoiser the language itself."""
    counts = written(UniformModel(LANGUAGE, **family), steps, **settings)
    assert chi_square_p(counts, LANGUAGE.probabilities) > 1e-3


@pytest.mark.parametrize("wrong", [0.0, 0.5])
def test_the_law_of_blocks_of_two(wrong):
    """Each block of four tokens' first and second half by its own steps, given the finished one before it."""
    language = TableLanguage.random(vocab_size=2, length=4, seed=2)
    model = UniformModel(language, wrong, diffusion="uniform_block", attention_block_length=2)
    steps, size, sequences = 2, 2, language.sequences  # a step for each of BOS and a token | two tokens | a token
    law = torch.full((16,), 1 / 16, dtype=torch.float64)
    for block in ([0], [1, 2], [3]):
        for step in range(steps):
            alpha_t, alpha_s = step / steps, (step + 1) / steps
            level = torch.zeros(16, 4, dtype=torch.float64)
            level[:, block] = 1 - alpha_t
            level[:, block[-1] + 1 :] = 1.0
            new = posterior_of(model.model.law(sequences, level), sequences, alpha_t, alpha_s)
            kept = one_hot(sequences, size).double()
            inside = torch.zeros(4, dtype=torch.bool)
            inside[block] = True
            new = torch.where(inside[None, :, None], new, kept)[:, None].expand(-1, 16, -1, -1)
            law = law @ new.gather(-1, sequences[None, ..., None].expand(16, -1, -1, 1))[..., 0].prod(-1)
    assert chi_square_p(written(model, 3 * steps), law) > 1e-3


def test_a_denoiser_that_sees_its_own_token_is_converted():
    model = UniformModel(LANGUAGE, denoiser="full")
    assert chi_square_p(written(model, 4), sampler_law(UniformModel(LANGUAGE), 4)) > 1e-3
    rows = torch.cat([model.bos(9), LANGUAGE.sequences], dim=1)
    both = [nelbo(m, rows, num_samples=8, generator=seeded()).nats for m in (model, UniformModel(LANGUAGE))]
    torch.testing.assert_close(*both, rtol=1e-5, atol=1e-5)


def test_kappa_1_is_ancestral_and_many_steps_are_the_language():
    model = UniformModel(LANGUAGE)
    generate = lambda **own: model.generate(  # noqa: E731
        model.bos(64), max_new_tokens=2, num_diffusion_steps=4, do_sample=True, generator=seeded(), **own
    )
    assert torch.equal(generate(), generate(sampler="psi", kappa=1.0))
    assert torch.equal(generate(), generate(sampler="gibbs", corrector_steps=0))
    distance = [float((sampler_law(model, steps) - LANGUAGE.probabilities).abs().sum()) for steps in (16, 64)]
    assert distance[0] / distance[1] == pytest.approx(4, rel=0.1)


def test_given_positions_stay_and_condition_the_rest():
    """A mask in the prompt is an open position in every family; told the levels, the exact denoiser writes the exact conditional."""
    model = UniformModel(LANGUAGE)
    prompt = torch.cat([model.bos(12_000), torch.full((12_000, 1), 3), torch.full((12_000, 1), 2)], dim=1)
    filled = model.generate(prompt, max_new_tokens=0, num_diffusion_steps=2, do_sample=True, generator=seeded(5))
    assert bool((filled[:, 2] == 2).all())
    conditional = LANGUAGE.table[:, 2] / LANGUAGE.table[:, 2].sum()
    assert chi_square_p(torch.bincount(filled[:, 1], minlength=3), conditional) > 1e-3
