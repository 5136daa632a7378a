"""Every sampler goes through the same tests: `CASES` must name each one in the registry, with the law it has to follow.

The denoiser is the exact posterior of a tiny language, so a sampler's law can be enumerated (`tests/oracles/laws.py`).
"""

import math

import pytest
import torch
from exact_model import ExactModel
from goodness_of_fit import chi_square_p
from oracles import laws
from oracles.chains import HiddenMarkovModel, MarkovChain
from oracles.tables import TableLanguage
from sampler_cases import (
    BOS,
    CASES,
    ENOUGH,
    MASK,
    Case,
    make_draft,
    predict_from,
    times,
)
from seeds import generators
from transformers.generation import TopPLogitsWarper

from arche_mdlm import available_samplers
from arche_mdlm.noise_mdlm import RowNoise
from arche_mdlm.remasking_mdlm import RemaskingSampler
from arche_mdlm.schedule_mdlm import get_schedule
from benchmarks import naive

NUM_DRAWS = 6000


LAWS = [(case, steps) for case in CASES for steps in case.steps]


def draw(model: ExactModel, case: Case, steps: int | None, num_rows: int = NUM_DRAWS, **settings):
    length = model.language.length
    settings = {"max_new_tokens": length, "do_sample": True, "generator": generators(11)[0]} | case.settings | settings
    if steps is not None:
        settings["num_diffusion_steps"] = steps
    return model.generate(model.bos(num_rows), sampler=case.sampler, **settings)


def test_every_sampler_is_in_the_table():
    assert {case.sampler for case in CASES} == set(available_samplers())


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "steps"), LAWS, ids=str)
def test_the_law_is_the_enumerated_one(case, steps):
    """Three positions that depend on each other: as far from the language as the enumeration says, and no further."""
    model = ExactModel(TableLanguage.random(3, 3, seed=1, sharpness=2.0))

    counts = model.counts(draw(model, case, steps))

    assert chi_square_p(counts, case.law(model.language, steps)) > ENOUGH


@pytest.mark.parametrize("sampler", ["ancestral", "first_hitting"])
@pytest.mark.parametrize(
    "language",
    [
        TableLanguage.random(5, 3, seed=3),
        MarkovChain.random(3, 5, seed=4),
        HiddenMarkovModel.random(2, 3, 4, seed=5),
    ],
    ids=["table", "chain", "hidden"],
)
def test_one_token_at_a_time_reproduces_the_language(sampler, language):
    """Ancestral sampling of 1,000 steps fills two positions together with a probability of L^2 / 2,000."""
    model = ExactModel(language)
    steps = {"ancestral": 1000, "first_hitting": None}[sampler]

    counts = model.counts(draw(model, Case(sampler, None), steps))

    law = language.log_prob(language.sequences).exp()
    assert chi_square_p(counts, law) > ENOUGH
    # Half the expected absolute deviation of multinomial counts, and four standard deviations of it.
    expected = (2 / math.pi * law * (1 - law) / NUM_DRAWS).sqrt().sum() / 2
    distance = laws.total_variation(counts / NUM_DRAWS, law)
    assert distance < float(expected) + 4 * 0.5 / NUM_DRAWS**0.5


@pytest.mark.parametrize("case", [case for case in CASES if 1 in case.steps], ids=str)
def test_filling_all_at_once_misses_the_language_by_what_the_enumeration_predicts(case):
    model = ExactModel(TableLanguage.random(3, 3, seed=1, sharpness=2.0))
    language = model.language.probabilities
    predicted = laws.total_variation(case.law(model.language, 1), language)

    counts = model.counts(draw(model, case, 1))

    assert predicted > 0.1
    assert laws.total_variation(counts / NUM_DRAWS, language) == pytest.approx(predicted, abs=0.03)
    assert chi_square_p(counts, language) < 1e-6


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_position_is_drawn_from_the_distribution(case):
    """With one position the order does not matter: every sampler draws from the posterior, remasking or not."""
    model = ExactModel(TableLanguage.random(4, 1, seed=2))
    counts = model.counts(draw(model, case, 4))
    assert chi_square_p(counts, model.language.probabilities) > ENOUGH


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_tempers(case, temperature):
    model = ExactModel(TableLanguage.random(4, 1, seed=2))
    counts = model.counts(draw(model, case, 1, temperature=temperature))
    law = model.language.probabilities ** (1 / temperature)
    assert chi_square_p(counts, law / law.sum()) > ENOUGH
    assert chi_square_p(counts, model.language.probabilities) < 1e-6


@pytest.mark.parametrize("case", CASES, ids=str)
def test_top_p_keeps_the_crossing_token(case):
    model = ExactModel(TableLanguage(torch.tensor([0.5, 0.3, 0.15, 0.05])))
    counts = model.counts(draw(model, case, 1, top_p=0.6))
    kept = TopPLogitsWarper(0.6)(None, model.language.probabilities.log()[None])[0].softmax(-1)
    assert (kept > 0).tolist() == [True, True, False, False]
    assert chi_square_p(counts, kept) > ENOUGH


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_how_many_positions_ancestral_sampling_fills_at_each_step(schedule):
    model = ExactModel(TableLanguage.random(2, 4, seed=1), schedule)
    history = draw(model, CASES[0], 4, return_dict_in_generate=True, output_history=True).history
    masks = (torch.cat([torch.full_like(history[:1], model.config.mask_token_id), history])[..., 1:]
             == model.config.mask_token_id).sum(-1)  # fmt: skip
    rates = [float(get_schedule(schedule).mask_rate(torch.tensor(1 - step / 4).double())) for step in range(5)]
    for filled, law in zip(masks[:-1] - masks[1:], laws.fill_counts_law(4, rates), strict=True):
        assert chi_square_p(torch.bincount(filled, minlength=5), law) > ENOUGH


def test_arche_follows_the_paper_s_own_loop():
    """Draws of `generate(sampler="arche")` and of the released loop written out: one law."""
    model = ExactModel(TableLanguage.random(3, 3, seed=1, sharpness=2.0))
    ours = model.counts(draw(model, Case("arche", None), 2, temperature=0.8))
    generator, bos = generators(5)[0], model.config.bos_token_id
    rows = torch.tensor([naive.sample(model, [bos], 4, 2, temperature=0.8, generator=generator) for _ in range(2000)])
    theirs = model.counts(rows)
    assert chi_square_p(theirs, ours + 0.5) > 1e-4  # ours has three times the draws, but is a sample, too
    assert chi_square_p(theirs, model.language.probabilities) < 1e-6


def test_remasking_by_confidence_takes_the_least_sure_token_back_most_often():
    """Shares are a softmax of minus the confidence, over the written positions of a row."""
    sampler = RemaskingSampler(get_schedule("linear"), remasking="conf")
    rows = 4000
    tokens = torch.tensor([[BOS, 5, 6, 7, MASK]]).expand(rows, -1)
    confidence = torch.tensor([[0.0, 0.9, 0.1, 0.5, 0.0]], dtype=torch.float64).expand(rows, -1)
    draft = make_draft(tokens, confidence=confidence, fillable=torch.tensor([[False, True, True, True, True]]))
    noise = RowNoise(torch.arange(rows), torch.arange(5).expand(rows, 5), 1)

    after = sampler.step(
        predict_from(lambda where: torch.zeros(0, 8)), draft, *times(0.5, 0.4, rows), SilentPositions(noise)
    )

    share = torch.softmax(torch.tensor([-0.9, -0.1, -0.5]), 0) * (1 - 0.6) / 0.5
    counts = (after.tokens[:, 1:4] == MASK).sum(0)
    for count, probability in zip(counts, share, strict=True):
        assert chi_square_p(torch.stack([count, rows - count]), torch.stack([probability, 1 - probability])) > ENOUGH
    assert bool((after.tokens[:, 0] == BOS).all())


# --- one step at a time -----------------------------------------------------------------------------------------------


class SilentPositions:
    """A step's noise with which no masked position is filled."""

    def __init__(self, noise: RowNoise):
        self.noise = noise

    def uniform(self, purpose: int) -> torch.Tensor:
        numbers = self.noise.uniform(purpose)
        return torch.ones_like(numbers) if purpose == 0 else numbers
