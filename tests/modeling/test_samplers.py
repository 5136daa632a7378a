"""Every sampler goes through the same tests: `CASES` must name each one in the registry, with the law it has to follow.

The denoiser is the exact posterior of a tiny language, so a sampler's law can be enumerated (`tests/oracles/laws.py`).
"""

import math
from dataclasses import dataclass, field

import pytest
import torch
from exact_model import ExactModel
from goodness_of_fit import chi_square_p
from oracles import laws
from oracles.chains import HiddenMarkovModel, MarkovChain
from oracles.tables import TableLanguage
from transformers.generation import TopPLogitsWarper

from arche_mdlm import available_samplers
from arche_mdlm.canvas_mdlm import Draft
from arche_mdlm.noise_mdlm import RowNoise
from arche_mdlm.ordered_samplers_mdlm import ArcheSampler, ConfidenceSampler, ThresholdSampler
from arche_mdlm.prediction_mdlm import Prediction, Predictor
from arche_mdlm.remasking_mdlm import RemaskingSampler
from arche_mdlm.samplers_mdlm import AncestralSampler, FirstHittingSampler, get_sampler
from arche_mdlm.schedule_mdlm import get_schedule
from benchmarks import naive

BOS, EOS, PAD, MASK = range(4)
ENOUGH = 1e-3
NUM_DRAWS = 6000


@dataclass(frozen=True)
class Case:
    """A sampler with settings, and its exact law over a language's sequences at a number of steps (None: see `sets_own_pace`)."""

    sampler: str
    law: object
    steps: tuple = (1, 2, 3)
    settings: dict = field(default_factory=dict)

    def __str__(self):
        return "-".join([self.sampler, *map(str, self.settings.values())])


def even_shares(length: int, steps: int | None) -> list[int]:
    """How many positions each step fills, shared out from above; those that fill none are left out."""
    shares, left = [], length
    for step in range(steps or length):
        share = -(-left // ((steps or length) - step))
        shares, left = [*shares, share], left - share
    return [share for share in shares if share]


def in_shares(score):
    return lambda language, steps: laws.scored_law(language, even_shares(language.length, steps), score)


def ancestral_law(language, steps):
    return laws.ancestral_law(language, [1 - step / steps for step in range(steps + 1)])


def random_groups(language, steps):
    return laws.parallel_law(language, even_shares(language.length, steps))


def remasking(sigma, alpha=lambda t: 1 - t):
    """The law of ReMDM with the same sigma for all tokens, from its definition."""

    def law(language, steps):
        grid = [1 - step / steps for step in range(steps + 1)]

        def rates(k):
            a, b = alpha(grid[k]), alpha(grid[k + 1])
            most = min(1.0, (1 - b) / a) if a > 0 else 1.0
            remask = sigma(most, grid[k])
            return (b - (1 - remask) * a) / (1 - a), remask if k else 0.0

        return laws.remasking_law(language, steps, lambda k: rates(k)[0], lambda k: rates(k)[1])

    return law


def loop_alpha(t):
    return 0.9 * (1 - t) / 0.45 if t > 0.55 else 0.9 if t > 0.05 else 1 - 0.1 * t / 0.05


def at_least(threshold):
    def law(language, steps):
        shares = even_shares(language.length, steps)
        return laws.scored_law(language, [lambda ranked, n=n: (ranked >= threshold).sum(-1).clamp(min=n) for n in shares],
                               laws.confidence)  # fmt: skip

    return law


def factor(f):
    def count(ranked):
        n = torch.arange(1, ranked.shape[-1] + 1)
        return ((n + 1) * (1 - ranked) < f).sum(-1).clamp(min=1)

    return lambda language, steps: laws.scored_law(language, [count] * language.length, laws.confidence)


def entropies_within(bound):
    def count(ranked):
        entropies = -ranked
        return torch.stack([(entropies[:, : n + 1].sum(-1) - entropies[:, n] <= bound) & entropies[:, n].isfinite()
                            for n in range(ranked.shape[-1])], -1).sum(-1)  # fmt: skip

    return lambda language, steps: laws.scored_law(language, [count] * language.length, laws.entropy)


CASES = [
    Case("ancestral", ancestral_law, steps=(1, 2, 3, 8)),
    Case("first_hitting", random_groups, steps=(1, 2, 3, 9, None)),
    Case("confidence", in_shares(laws.confidence), steps=(1, 2, 3, 9)),
    Case("margin", in_shares(laws.margin), steps=(1, 2, 3, 9)),
    Case("entropy", in_shares(laws.entropy), steps=(1, 2, 3, 9)),
    Case("threshold", at_least(0.6), steps=(1, 2, 3, None), settings={"threshold": 0.6}),
    Case("threshold", factor(1.2), steps=(3, None), settings={"threshold_factor": 1.2}),
    Case("entropy_bound", entropies_within(0.9), steps=(3, None), settings={"entropy_bound": 0.9}),
    Case("remdm", remasking(lambda most, t: min(0.3, most)), (1, 2, 4, 8), {"remasking": "cap", "remasking_rate": 0.3}),
    Case("remdm", remasking(lambda most, t: 0.5 * most), (2, 8), {"remasking": "rescale", "remasking_rate": 0.5}),
    Case(
        "remdm",
        remasking(lambda most, t: min(0.4, most) if 0.05 < t <= 0.55 else 0.0, loop_alpha),
        (2, 8),
        {"remasking": "loop", "remasking_rate": 0.4},
    ),
    # Only the language itself, with one position: its own tests are below.
    Case("remdm", None, (), {"remasking": "conf"}),
    Case("arche", None, ()),
]
LAWS = [(case, steps) for case in CASES for steps in case.steps]


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw(model: ExactModel, case: Case, steps: int | None, num_rows: int = NUM_DRAWS, **settings):
    length = model.language.length
    settings = {"max_new_tokens": length, "do_sample": True, "generator": seeded(11)[0]} | case.settings | settings
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
    generator, bos = seeded(5)[0], model.config.bos_token_id
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


def times(t: float, s: float, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((rows, 1), t, dtype=torch.float64), torch.full((rows, 1), s, dtype=torch.float64)


def make_draft(tokens, confidence=None, fillable=None):
    masked = tokens == MASK
    fillable = masked if fillable is None else fillable.expand(tokens.shape)
    confidence = torch.zeros(tokens.shape, dtype=torch.float64) if confidence is None else confidence
    return Draft(tokens, masked, fillable, confidence, MASK)


class FixedPredictor:
    """A predictor that runs no model: `logits_of(where)` (N, V) of the asked positions, in two parts."""

    def __init__(self, logits_of):
        self.logits_of = logits_of

    def logits(self, rows, block, t, where, times):
        logits = self.logits_of(where)
        half = (len(logits) + 1) // 2
        parts = [slice(0, half), slice(half, len(logits))]
        return [(logits[part], logits[part], part) for part in parts if part.start < part.stop]


def predict_from(logits_of) -> Prediction:
    return Prediction(FixedPredictor(logits_of), None, None, None)


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


# --- what every sampler promises --------------------------------------------------------------------------------------


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
                                                     "sampler": case.sampler, "generator": seeded(0)[0]}
                       | case.settings | settings)  # fmt: skip
    assert asked
    assert all(asked)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_more_steps_than_masks_finish_early(tiny_mdlm, case):
    output = tiny_mdlm.generate(torch.tensor([[BOS, 5]] * 4), max_new_tokens=6, num_diffusion_steps=500, do_sample=True,
                                sampler=case.sampler, generator=seeded(0)[0], return_dict_in_generate=True,
                                suppress_tokens=[EOS], **case.settings)  # fmt: skip
    assert not bool((output.sequences == MASK).any())
    if not get_sampler(case.sampler).remasks:
        assert int(output.num_forward_passes.max()) <= 6 + get_sampler(case.sampler).draws_length
        torch.testing.assert_close(output.tokens_per_forward, 6 / output.num_forward_passes)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_never_more_forwards_than_steps(tiny_mdlm, case):
    output = tiny_mdlm.generate(torch.tensor([[BOS, 5]] * 4), max_new_tokens=20, num_diffusion_steps=5, do_sample=True,
                                sampler=case.sampler, generator=seeded(0)[0], return_dict_in_generate=True,
                                **case.settings)  # fmt: skip
    assert int(output.num_forward_passes.min()) >= 1
    assert int(output.num_forward_passes.max()) <= 5 + get_sampler(case.sampler).draws_length


@pytest.mark.parametrize("case", CASES, ids=str)
def test_blocks_are_filled_left_to_right(tiny_mdlm, case):
    prompts = torch.tensor([[BOS, 5, MASK, 6], [BOS, 7, 8, 9]])  # 11 and 10 positions: blocks 4, 4, 3 and 4, 4, 2
    history = tiny_mdlm.generate(prompts, max_new_tokens=10, block_length=4, num_diffusion_steps=12, do_sample=True,
                                 sampler=case.sampler, generator=seeded(0)[0], return_dict_in_generate=True,
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
    output = tiny_mdlm.generate(prompt, generator=seeded(4)[0], return_dict_in_generate=True, output_history=True,
                                **settings)  # fmt: skip
    assert output.history.shape[1:] == output.sequences.shape
    assert torch.equal(output.history[-1], output.sequences)
    assert torch.equal(output.history[..., [0, 1, 3]], prompt[:, [0, 1, 3]].expand(len(output.history), -1, -1))
    assert torch.equal(output.sequences, tiny_mdlm.generate(prompt, generator=seeded(4)[0], **settings))


def test_ancestral_sampling_without_remasking_is_remdm_of_rate_zero(tiny_mdlm):
    settings = {"max_new_tokens": 20, "num_diffusion_steps": 10, "do_sample": True}
    plain = tiny_mdlm.generate(torch.tensor([[BOS]]), generator=seeded(3), **settings)
    rate_zero = tiny_mdlm.generate(
        torch.tensor([[BOS]]), generator=seeded(3), sampler="remdm", remasking_rate=0.0, **settings
    )
    assert torch.equal(plain, rate_zero)
    assert isinstance(AncestralSampler(get_schedule("linear")), get_sampler("ancestral"))
