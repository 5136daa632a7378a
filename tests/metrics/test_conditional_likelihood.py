"""Likelihoods of an answer given a prompt against enumeration: each family, exact and wrong denoisers, and what is refused."""

import itertools
import math

import pytest
import torch
from esoteric_model import build as build_eso
from esoteric_model import in_order
from exact_model import ExactModel
from oracles.tables import OracleDenoiser, TableLanguage
from seeds import seeded
from transformers import LlamaConfig, LlamaForCausalLM
from uniform_model import UniformModel, likelihoods, udlm_terms

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.family_mdlm import family_of
from arche_mdlm.family_parts_mdlm import FAMILY_PARTS
from arche_mdlm.metrics.ar_likelihood import nll_and_greedy
from arche_mdlm.metrics.likelihood import nelbo, nll
from arche_mdlm.metrics.order_likelihood import order_nll
from arche_mdlm.metrics.policy_likelihood import POLICIES, policy_nll

BOS, PAD, MASK, LENGTH = 3, 4, 5, 4  # tokens 0 to 2; rows of a BOS and four tokens
ROWS = torch.tensor([[BOS, 0, 1, 2, 1], [BOS, 2, 2, 0, 1], [BOS, 1, 0, 0, 0]])
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SPECIAL = {
    "vocab_size": 6,
    "bos_token_id": BOS,
    "pad_token_id": PAD,
    "initializer_range": 0.6,
    "max_position_embeddings": 16,
}
OWN = {
    "masked": {}, "uniform": {"time_conditioning": "log_snr"}, "block": {"attention_block_length": 3},
    "uniform_block": {"time_conditioning": "log_snr", "attention_block_length": 3}, "eso": {"alpha_0": 0.5},
}  # fmt: skip


def network(diffusion: str, **changes) -> MDLMForMaskedDiffusion:
    """Random weights: a wrong denoiser."""
    torch.manual_seed(0)
    own = {"mask_token_id": MASK, "diffusion": diffusion} | OWN[diffusion] | changes
    return MDLMForMaskedDiffusion(MDLMConfig(**SIZES, **SPECIAL, **own)).eval()


def causal() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, **SPECIAL)).eval()


def given(answer: list[int], rows: torch.Tensor = ROWS) -> torch.Tensor:
    """condition_mask of rows of which the positions in `answer` are scored."""
    mask = torch.ones(rows.shape, dtype=torch.bool)
    mask[:, answer] = False
    return mask


def check(found, expected, most: float) -> None:
    assert float(found.standard_error.max()) < most
    away = (found.nats - torch.as_tensor(expected, dtype=torch.float64)).abs()
    assert bool((away < 4 * found.standard_error + 1e-3).all()), (found, expected)


def check_mean(found, expected: float, most: float) -> None:
    """Of equal rows with draws of their own."""
    error = float(found.standard_error.square().sum().sqrt()) / len(found.nats)
    assert error < most
    assert abs(float(found.nats.mean()) - expected) < 4 * error + 1e-3


def subsets(positions):
    return [some for k in range(1, len(positions) + 1) for some in itertools.combinations(positions, k)]


# --- masked noise -----------------------------------------------------------------------------------------------------

LANGUAGE = TableLanguage.random(vocab_size=3, length=LENGTH)


class WrongDenoiser(TableLanguage):
    """A language whose predictions fit no joint distribution: random ones for each canvas."""

    def posterior(self, tokens, known):
        size = self.vocab_size
        table = torch.randn([size + 1] * self.length + [self.length, size], generator=seeded(5), dtype=torch.float64)
        canvas = torch.where(known, tokens, size)
        return (1.5 * table[tuple(canvas.T)]).softmax(-1)


def table_bound(language: TableLanguage, answer: list[int]) -> torch.Tensor:
    """(S,) of every sequence: the mean over k, and over sets of k of the answer's positions (from 0), of n / k cross-entropies."""
    total = torch.zeros(len(language.sequences), dtype=torch.float64)
    for masked in subsets(answer):
        known = torch.ones(language.length, dtype=torch.bool)
        known[list(masked)] = False
        law = language.posterior(language.sequences, known.expand(language.sequences.shape))
        nats = -law.gather(-1, language.sequences[..., None])[..., 0].log()
        total += nats[:, ~known].sum(-1) / len(masked) / math.comb(len(answer), len(masked))
    return total


def conditional_nats(language: TableLanguage, answer: list[int]) -> torch.Tensor:
    """(S,) the exact -log p(answer | the other tokens)."""
    same = (language.sequences[:, None] == language.sequences[None])[..., [i for i in range(LENGTH) if i not in answer]]
    prompts = (same.all(-1) * language.probabilities).sum(-1)
    return prompts.log() - language.probabilities.log()


def all_rows(language, bos):
    return torch.cat([torch.full((len(language.sequences), 1), bos), language.sequences], dim=1)


@pytest.mark.parametrize(
    ("answer", "antithetic"),
    [([2, 3], "none"), ([2, 3], "counts"), ([2, 3], "complement"), ([0, 2, 3], "complement"), ([1], "counts")], ids=str
)  # fmt: skip
@pytest.mark.parametrize("kind", [TableLanguage, WrongDenoiser])
def test_the_masked_bound_is_that_of_all_masks_of_the_answer(kind, answer, antithetic):
    language = kind(LANGUAGE.table)
    rows = all_rows(language, language.vocab_size)
    mask = given([place + 1 for place in answer], rows)
    model = OracleDenoiser(language)
    found = nelbo(
        model, rows, condition_mask=mask, num_samples=200, antithetic=antithetic, generator=seeded(1), batch_size=4096
    )
    expected = table_bound(language, answer)
    away = (found.nats - expected).abs() / (found.standard_error + 1e-9)
    assert float(away.max()) < 4.5 or len(answer) == 1, "81 sequences"
    if len(answer) == 1:
        torch.testing.assert_close(found.nats, expected, rtol=0, atol=1e-5)
    if kind is TableLanguage:
        # Of the exact posterior, the bound averaged over the language is the conditional entropy.
        entropy = float(language.probabilities @ conditional_nats(language, answer))
        assert float(language.probabilities @ expected) == pytest.approx(entropy, abs=1e-9)


def test_the_prompt_is_clean_in_every_draw():
    model, canvases = OracleDenoiser(LANGUAGE), []
    forward = model.forward
    model.forward = lambda input_ids, **kwargs: canvases.append(input_ids) or forward(input_ids, **kwargs)
    rows = all_rows(LANGUAGE, 3)[:7]
    nelbo(model, rows, condition_mask=given([2, 4], rows), num_samples=8, generator=seeded(), batch_size=999)
    masked = torch.cat(canvases) == model.config.mask_token_id
    assert not bool(masked[:, [0, 1, 3]].any())
    assert masked.sum(-1).view(7, 8).sort(-1).values.tolist() == [[1] * 4 + [2] * 4] * 7, "strata of the answer alone"


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_time_conditioned_model_is_told_the_time_of_the_answer(schedule):
    model = OracleDenoiser(LANGUAGE, time_conditioning="additive", noise_schedule=schedule)
    forward, away = model.forward, []

    def spy(input_ids, timesteps=None, **kwargs):
        t = timesteps.double()
        alpha = 1 - t if schedule == "linear" else torch.cos(math.pi / 2 * t) ** 2
        away.append(float((1 - alpha - (input_ids == model.config.mask_token_id).sum(-1) / 2).abs().max()))
        return forward(input_ids, timesteps=timesteps, **kwargs)

    model.forward = spy
    rows = all_rows(LANGUAGE, 3)
    nelbo(model, rows, condition_mask=given([3, 4], rows), num_samples=4, generator=seeded())
    assert max(away) < 1e-5


# --- networks: masked noise and blocks --------------------------------------------------------------------------------


@torch.no_grad()
def enumerated(model, row: torch.Tensor, answer: list[int], length: int) -> float:
    """By all masks of the answer's positions in each block of so many; what lies in later blocks is masked."""
    total = 0.0
    for start in range(0, len(row), length):
        block = [place for place in answer if start <= place < start + length]
        for masked in subsets(block):
            canvas = row.clone()
            canvas[[*masked, *range(start + length, len(row))]] = MASK
            nats = -model(canvas[None]).logits[0].log_softmax(-1)[list(masked), row[list(masked)]]
            total += float(nats.sum()) / (len(masked) * math.comb(len(block), len(masked)))
    return total


@pytest.mark.parametrize(
    ("length", "answer"), [(None, [3, 4]), (None, [1, 4]), (2, [3, 4]), (2, [2, 3, 4]), (3, [2, 3, 4]), (3, [1, 3, 4]), (3, [3])]
)  # fmt: skip
def test_the_bound_of_a_network_is_that_of_all_masks_of_the_answer(length, answer):
    model = network("masked") if length is None else network("block", attention_block_length=length)
    found = nelbo(model, ROWS, condition_mask=given(answer), num_samples=400, generator=seeded(1))
    check(found, [enumerated(model, row, answer, length or len(row)) for row in ROWS], most=0.3)


# --- uniform noise ----------------------------------------------------------------------------------------------------


def integral(terms) -> float:
    """Of terms(times (T, 1)) (T,) over t from 0 to 1, by t = u^2."""
    import numpy

    u, weight = numpy.polynomial.legendre.leggauss(200)
    u, weight = torch.tensor((u + 1) / 2), torch.tensor(weight / 2)
    return float((terms(u[:, None] ** 2) * weight * 2 * u).sum())


@pytest.mark.parametrize("wrong", [0.0, 0.4])
@pytest.mark.parametrize("answer", [[1, 2], [0, 2], [1]], ids=str)
def test_the_uniform_bound_is_that_of_all_noise_at_the_answer(wrong, answer):
    language = TableLanguage.random(vocab_size=3, length=3, seed=4)
    model = UniformModel(language, wrong)
    row = torch.tensor([0, 2, 1])

    def terms(times):
        total = torch.zeros(len(times), dtype=torch.float64)
        for noisy in itertools.product(range(3), repeat=len(answer)):
            z = row.clone()
            z[answer] = torch.tensor(noisy)
            z = z.expand(len(times), -1)
            rate = torch.zeros(z.shape, dtype=torch.float64)
            rate[:, answer] = times
            law = model.model.law(z, rate)[:, answer]
            clean = row.expand(len(times), -1)
            chance = likelihoods(z, rate, 3).gather(-1, clean[..., None])[..., 0].prod(-1)
            total += chance * udlm_terms(law, z[:, answer], clean[:, answer], times).sum(-1)
        return total

    rows = torch.cat([model.bos(6), row.expand(6, -1)], dim=1)
    mask = given([place + 1 for place in answer], rows)
    found = nelbo(model, rows, condition_mask=mask, num_samples=400, generator=seeded(2))
    check_mean(found, integral(terms), most=0.2)


@pytest.mark.parametrize("diffusion", ["uniform", "uniform_block"])
@pytest.mark.parametrize("answer", [[2, 3], [3, 4]], ids=str)
def test_the_bound_of_a_network_of_uniform_noise_is_that_of_all_noise_at_the_answer(diffusion, answer):
    if diffusion == "uniform_block" and answer == [2, 3]:
        answer = [2, 3, 4]
    model, row = network(diffusion), ROWS[0]  # blocks: BOS 0 1 | 2 1
    corruption = family_of(model).corruption
    length = 3 if diffusion == "uniform_block" else len(row)

    @torch.no_grad()
    def terms(times):
        total = torch.zeros(len(times), dtype=torch.float64)
        for start in range(0, len(row), length):
            block = [place for place in answer if start <= place < start + length]
            for noisy in itertools.product(range(5), repeat=len(block)) if block else ():
                noisy = torch.tensor(noisy)
                canvas, told = row.expand(len(times), -1).clone(), torch.zeros(len(times), len(row))
                canvas[:, block], told[:, block] = noisy, times.float()
                logits = model(canvas, timesteps=told).logits[:, block].double()
                chance = torch.where(noisy == row[block], 1 - 0.8 * times, times / 5).prod(-1)
                for i, place in enumerate(block):
                    loss = corruption.token_loss(
                        row[place].expand(len(times)), noisy[i].expand(len(times)), times[:, 0]
                    )
                    total += chance * loss.plain(logits[:, i])
        return total

    rows = row.expand(4, -1)
    found = nelbo(model, rows, condition_mask=given(answer, rows), num_samples=600, generator=seeded(2))
    check_mean(found, integral(terms), most=0.2)


# --- Eso-LM -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def along(model, row: torch.Tensor, known: tuple[int, ...], rest: tuple[int, ...], at_once: bool) -> float:
    """Nats of the rest, read behind the known tokens: all of them masked, or each with the tokens before it."""
    total = 0.0
    for number in range(1 if at_once else len(rest)):
        places = [0, *known, *(rest if at_once else rest[: number + 1])]
        tokens = row[places].clone()
        hidden = range(1 + len(known), len(places)) if at_once else [len(places) - 1]
        tokens[list(hidden)] = MASK
        law = in_order(model, tokens[None], torch.tensor([places]))[0]
        total -= sum(float(law[place, row[places[place]]]) for place in hidden)
    return total


def eso_bound(model, alpha_0: float, row: torch.Tensor, prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
    """Given tokens are read first, from left to right; masks and orders of the answer are all enumerated."""
    total, grid = 0.0, (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000 * alpha_0
    for masked in subsets(answer):
        clean, k = [place for place in answer if place not in masked], len(masked)
        firsts, lasts = list(itertools.permutations(clean)), list(itertools.permutations(masked))
        pairs = [(prompt + first, last) for first in firsts for last in lasts]
        diffused = sum(along(model, row, known, last, True) for known, last in pairs) / len(pairs)
        share = float((grid ** len(clean) * (1 - grid) ** (k - 1)).mean()) * alpha_0
        left = sum(along(model, row, prompt + first, masked, False) for first in firsts) / len(firsts)
        total += share * diffused + alpha_0 ** len(clean) * (1 - alpha_0) ** k * left
    return total


@pytest.mark.parametrize(
    ("alpha_0", "prompt", "answer"),
    [(0.0, (1,), (2, 3)), (0.5, (1,), (2, 3)), (0.5, (2,), (1, 3)), (1.0, (1, 3), (2,)), (1.0, (2,), (1, 3))], ids=str
)  # fmt: skip
def test_the_bound_of_eso_is_that_of_all_masks_and_orders_of_the_answer(alpha_0, prompt, answer):
    model, rows = build_eso(alpha_0), ROWS[:2, :4]
    found = nelbo(model, rows, condition_mask=given(list(answer), rows), num_samples=400, generator=seeded(1))
    check(found, [eso_bound(model, alpha_0, row, prompt, answer) for row in rows], most=0.25)


def test_orders_of_writing_behind_a_prompt():
    model, rows = build_eso(0.0), ROWS[:2, :4]
    found = order_nll(model, rows, condition_mask=given([2, 3], rows), num_orders=1)
    expected = [along(model, row, (1,), (2, 3), False) for row in rows]
    torch.testing.assert_close(found.nats.tolist(), expected, atol=1e-4, rtol=1e-5)

    model, num_orders = build_eso(0.5), 400
    found = order_nll(model, rows, condition_mask=given([2, 3], rows), num_orders=num_orders, generator=seeded())
    for row, nats in zip(rows, found.nats.tolist(), strict=True):
        # Both first and in this order, or the left one first, or none: 1/8 + 1/4 + 1/4.
        one, other = along(model, row, (1,), (2, 3), False), along(model, row, (1,), (3, 2), False)
        error = abs(one - other) * (0.625 * 0.375 / num_orders) ** 0.5
        assert abs(nats - 0.625 * one - 0.375 * other) < 4 * error + 1e-4
        assert error > 1e-3


# --- policies, and the AR arm -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("answer", [[3, 4], [1, 3]], ids=str)
def test_policies_give_the_conditional_law(policy, answer):
    exact, wrong = (ExactModel(kind(LANGUAGE.table)) for kind in (TableLanguage, WrongDenoiser))
    rows = all_rows(LANGUAGE, 3)
    mask = given(answer, rows)
    found = policy_nll(exact, rows, condition_mask=mask, policy=policy)
    expected = conditional_nats(LANGUAGE, [place - 1 for place in answer])
    torch.testing.assert_close(found.nats, expected, rtol=0, atol=1e-12)
    assert bool((found.order[:, answer] >= 0).all())
    assert bool((found.order[mask] == -1).all())

    probabilities = (-policy_nll(wrong, rows, condition_mask=mask, policy=policy).nats).exp()
    prompts = rows.masked_fill(~mask, 0).unique(dim=0, return_inverse=True)[1]
    sums = torch.zeros(9, dtype=torch.float64).index_add_(0, prompts, probabilities)
    torch.testing.assert_close(sums, torch.ones(9, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_ar_likelihood_of_an_answer_is_the_product_of_its_conditionals():
    model = causal()
    whole, prompt = nll(model, ROWS), nll(model, ROWS[:, :3])
    found = nll(model, ROWS, condition_mask=given([3, 4]))
    torch.testing.assert_close(found, whole - prompt, atol=1e-5, rtol=1e-5)
    every = torch.tensor([[BOS, 1, x, y] for x in range(6) for y in range(6)])
    assert float((-nll(model, every, condition_mask=given([2, 3], every))).exp().sum()) == pytest.approx(1, abs=1e-5)


def test_greedy_rows_of_the_ar_arm_are_those_that_greedy_decoding_writes():
    model = causal()
    prompt = torch.tensor([[BOS, 1]])
    written = model.generate(prompt, max_new_tokens=2, do_sample=False, eos_token_id=None)
    every = torch.tensor([[BOS, 1, x, y] for x in range(6) for y in range(6)])
    found = nll_and_greedy(model, every, condition_mask=given([2, 3], every))
    assert every[found.greedy].tolist() == written.tolist()
    torch.testing.assert_close(found.nats, nll(model, every, condition_mask=given([2, 3], every)), rtol=0, atol=0)


# --- all of them ------------------------------------------------------------------------------------------------------


def likelihoods_of(diffusion):
    if diffusion == "ar":
        return lambda *rows, **own: nll(causal(), *rows, **own)
    model = network(diffusion)
    return lambda *rows, **own: nelbo(model, *rows, num_samples=6, generator=seeded(), **own).nats


KINDS = [*FAMILY_PARTS, "ar"]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind, side):
    score = likelihoods_of(kind)
    pad, zeros = torch.full((3, 2), PAD), torch.zeros(3, 2, dtype=torch.long)
    parts = [(pad, zeros, zeros.bool()), (ROWS, torch.ones_like(ROWS), given([3, 4]))]
    rows, mask, condition = (
        torch.cat(part, 1) for part in zip(*(parts if side == "left" else parts[::-1]), strict=True)
    )
    alone = score(ROWS, condition_mask=given([3, 4]))
    torch.testing.assert_close(score(rows, mask, condition_mask=condition), alone, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_that_gives_nothing_changes_nothing(kind):
    score = likelihoods_of(kind)
    nothing = torch.zeros(ROWS.shape, dtype=torch.bool)
    torch.testing.assert_close(score(ROWS, condition_mask=nothing), score(ROWS), rtol=0, atol=0)
    nothing[:, 0] = True  # a BOS is given in any case
    torch.testing.assert_close(score(ROWS, condition_mask=nothing), score(ROWS), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_masks_are_refused(kind):
    score = likelihoods_of(kind)
    with pytest.raises(ValueError, match=r"condition_mask is torch.int64; give a bool tensor"):
        score(ROWS, condition_mask=torch.ones_like(ROWS))
    with pytest.raises(ValueError, match=r"condition_mask is list; give a bool tensor"):
        score(ROWS, condition_mask=[[True] * 5] * 3)
    with pytest.raises(ValueError, match=r"condition_mask of shape \(3, 4\) must be \(3, 5\)"):
        score(ROWS, condition_mask=given([1])[:, :4])
    mask = given([3, 4])
    mask[1] = True
    with pytest.raises(ValueError, match="condition_mask gives all tokens of row 1; leave at least one to score"):
        score(ROWS, condition_mask=mask)


@pytest.mark.parametrize("kind", ["block", "uniform_block", "ar"])
def test_what_a_model_does_not_condition_on_is_refused(kind):
    mask = torch.stack([given([3, 4])[0], given([1, 2])[0], given([2, 3, 4])[0]])
    why = "sees what stands before a token only" if kind == "ar" else "a block of 3 tokens sees no later one"
    with pytest.raises(ValueError, match=f"condition_mask gives tokens of row 1 after scored tokens.*{why}"):
        likelihoods_of(kind)(ROWS, condition_mask=mask)


def test_a_policy_of_a_block_model_refuses_what_its_blocks_do_not_see():
    with pytest.raises(ValueError, match="sees no later one"):
        policy_nll(network("block"), ROWS, condition_mask=given([1]))


def test_a_shifted_model_reads_the_first_scored_token_from_a_given_one():
    model = network("masked", prediction_offset=1)
    rows = ROWS[:, 1:]
    with pytest.raises(ValueError, match="prediction_offset=1"):
        nelbo(model, rows, num_samples=2)
    assert bool(nelbo(model, rows, condition_mask=given([2, 3], rows), num_samples=2).nats.isfinite().all())
