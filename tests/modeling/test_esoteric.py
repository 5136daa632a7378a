"""Eso-LM against enumeration, on a network with random weights: a wrong denoiser, which hides no wrong weight.

What is expected comes from short rows in the order of writing under a plain causal mask: no ranks, no clean half.
"""

import itertools
import math
from functools import cache

import numpy as np
import pytest
import torch
from esoteric_model import BOS, LENGTH, MASK, PAD, build, in_order, table_model
from torch.nn import functional as F

from arche_mdlm.esoteric_mdlm import Esoteric, ranks_of
from arche_mdlm.family_mdlm import family_of
from arche_mdlm.metrics.likelihood import nelbo
from arche_mdlm.metrics.order_likelihood import order_nll
from arche_mdlm.metrics.policy_likelihood import policy_nll
from arche_mdlm.sight_mdlm import Sight

ROWS = torch.tensor([[BOS, 0, 1, 2], [BOS, 2, 2, 0], [BOS, 1, 0, 0]])
SHARES = [0.0, 0.25, 0.5, 1.0]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def subsets() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(masked, clean) positions, BOS aside."""
    every = range(1, LENGTH + 1)
    chosen = [some for k in range(LENGTH + 1) for some in itertools.combinations(every, k)]
    return [(some, tuple(place for place in every if place not in some)) for some in chosen]


@cache
@torch.no_grad()
def masked_nats(row: tuple[int, ...]) -> dict[tuple[int, ...], float]:
    """The masked ones' cross-entropy when all are predicted at once, by what is masked; the mean over ranks."""
    keys, places, known = [], [], []
    for masked, clean in subsets():
        for first, last in itertools.product(itertools.permutations(clean), itertools.permutations(masked)):
            keys.append(masked)
            places.append([0, *first, *last])
            known.append(1 + len(clean))
    places, tokens = torch.tensor(places), torch.tensor(row)[torch.tensor(places)]
    hidden = torch.arange(LENGTH + 1) >= torch.tensor(known)[:, None]
    laws = in_order(build(0.5), tokens.masked_fill(hidden, MASK), places)
    nats = -(laws.gather(-1, tokens[..., None])[..., 0] * hidden).sum(-1)
    found = {masked: [] for masked in keys}
    for masked, value in zip(keys, nats.tolist(), strict=True):
        found[masked].append(value)
    return {masked: sum(values) / len(values) for masked, values in found.items()}


@cache
@torch.no_grad()
def next_nats(row: tuple[int, ...], places: tuple[int, ...]) -> float:
    """Nats of the token at the last of the places, which are read in this order, the last one being masked."""
    tokens = torch.tensor([row[place] for place in places[:-1]] + [MASK])
    return -float(in_order(build(0.5), tokens[None], torch.tensor([places]))[0, -1, row[places[-1]]])


def one_by_one(row: torch.Tensor, known: tuple[int, ...], rest: tuple[int, ...]) -> float:
    """Nats of the rest, each given the tokens in `known` and those of the rest before it, read in that order."""
    read = [(0, *known, *rest[: number + 1]) for number in range(len(rest))]
    return sum(next_nats(tuple(row.tolist()), places) for places in read)


def diffused(alpha_0: float, row: torch.Tensor) -> float:
    """Integral over alpha from 0 to alpha_0 of 1 / (1 - alpha) times the cross-entropy, over all masks."""
    total, points = 0.0, (np.arange(200_000) + 0.5) / 200_000 * alpha_0
    for masked, nats in masked_nats(tuple(row.tolist())).items():
        if masked:
            k = len(masked)
            total += float((points ** (LENGTH - k) * (1 - points) ** (k - 1)).mean()) * alpha_0 * nats
    return total


def left_to_right(alpha_0: float, row: torch.Tensor) -> float:
    """The second part of the bound: over what is masked at t = 0 and orders of the rest."""
    total = 0.0
    for masked, clean in subsets():
        nats = [one_by_one(row, known, masked) for known in itertools.permutations(clean)]
        total += alpha_0 ** len(clean) * (1 - alpha_0) ** len(masked) * sum(nats) / len(nats)
    return total


def enumerated(alpha_0: float, row: torch.Tensor) -> float:
    """The bound of the network of `build`."""
    return diffused(alpha_0, row) + left_to_right(alpha_0, row)


@pytest.mark.parametrize("antithetic", ["none", "counts", "complement"])
@pytest.mark.parametrize("alpha_0", SHARES)
def test_the_bound_is_that_of_all_masks_and_orders(alpha_0, antithetic):
    model = build(alpha_0)
    found = nelbo(model, ROWS, num_samples=2000, antithetic=antithetic, generator=generator(2))
    for row, nats, error in zip(ROWS, *found, strict=True):
        assert float(error) < 0.25
        assert abs(float(nats) - enumerated(alpha_0, row)) < 4 * float(error) + 1e-4


def test_without_diffusion_it_is_an_autoregressive_likelihood():
    model = build(0.0)
    found = nelbo(model, ROWS, num_samples=2)
    assert float(found.standard_error.max()) < 1e-6
    expected = torch.tensor([one_by_one(row, (), (1, 2, 3)) for row in ROWS], dtype=torch.float64)
    torch.testing.assert_close(found.nats, expected, atol=1e-4, rtol=1e-5)
    for nats in order_nll(model, ROWS, num_orders=1):
        torch.testing.assert_close(nats, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("antithetic", ["none", "counts", "complement"])
def test_with_diffusion_alone_it_is_the_bound_of_masked_diffusion(antithetic, monkeypatch):
    monkeypatch.setattr("arche_mdlm.metrics.likelihood.gives_token_nll", lambda model: False)
    given = {"num_samples": 1500, "antithetic": antithetic}
    eso = nelbo(table_model(), ROWS, generator=generator(2), **given)
    masked = nelbo(table_model(diffusion="masked"), ROWS, generator=generator(3), **given)
    error = (eso.standard_error**2 + masked.standard_error**2).sqrt()
    assert float(error.max()) < 0.15
    assert bool(((eso.nats - masked.nats).abs() < 4 * error).all())


def weighted(model, batch) -> torch.Tensor:
    """(B,) float64, each row's part of a training batch's loss."""
    inputs = batch.inputs()
    weights = inputs.pop("loss_weights")
    with torch.no_grad():
        logits = model(**{name: value for name, value in inputs.items() if name != "labels"}).logits
        total = model(**inputs, loss_weights=weights, num_items_in_batch=1).loss
    rows = (F.cross_entropy(logits.transpose(1, 2), batch.labels, reduction="none").sum(-1) * weights).double()
    assert float(total) == pytest.approx(float(rows.sum()), rel=1e-3)
    return rows


@pytest.mark.parametrize("alpha_0", SHARES)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_training_loss_is_the_bound_in_expectation(alpha_0, schedule):
    model = build(alpha_0, noise_schedule=schedule)
    clean = ROWS[:1].expand(6_000, -1)
    batch = family_of(model).corrupt(clean, clean != BOS, "nelbo", generator(3))
    assert batch.timesteps is None
    rows = weighted(model, batch)
    error = float(rows.std()) / len(rows) ** 0.5
    assert error < 0.25
    assert abs(float(rows.mean()) - enumerated(alpha_0, ROWS[0])) < 4 * error + 1e-4
    if alpha_0 == 0:
        assert error < 1e-4, "no variance"


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_small_batches_have_the_same_expectation(rows):
    """Of rows whose loss depends on their length, as in a batch that is sorted by it."""
    model = build(0.5)
    expected = sum(enumerated(0.5, row) for row in ROWS[:rows])
    sums = []
    for seed in range(800):
        batch = family_of(model).corrupt(ROWS[:rows], ROWS[:rows] != BOS, "nelbo", generator(seed))
        sums.append(batch)
    together = type(sums[0])(*(None if part[0] is None else torch.cat(part) for part in zip(*sums, strict=True)))
    found = weighted(model, together).view(-1, rows).sum(-1)
    error = float(found.std()) / len(found) ** 0.5
    assert abs(float(found.mean()) - expected) < 4 * error + 1e-4


def test_half_of_the_rows_at_random_are_written_from_left_to_right():
    clean = torch.zeros(64, 8, dtype=torch.long)
    share = torch.zeros(64)
    for seed in range(50):
        batch = family_of(build(0.5)).corrupt(clean, clean == 0, "nelbo", generator(seed))
        second = batch.sight[:, 1, 0] == 16  # what is noisy is seen by nobody else
        assert int(second.sum()) == 32
        assert batch.loss_weights[second].tolist() == [2.0] * 32
        rates = 1 / batch.loss_weights[~second]  # 1 - alpha over alpha_0 = .5, times a half: 1 - .5 (1 - t)
        strata = (((1 - rates.double()) * 2) * 32 + 1e-3).floor().long() % 32
        assert sorted(strata.tolist()) == list(range(32))
        share += second.float() / 50
    assert float((share - 0.5).abs().max()) < 4 * 0.5 / 50**0.5


def test_objectives_differ_by_their_weights():
    clean = ROWS.repeat(100, 1)
    low = family_of(build(0.5)).corrupt(clean, clean != BOS, "low_variance", generator(0))
    bound = family_of(build(0.5)).corrupt(clean, clean != BOS, "nelbo", generator(0))
    assert torch.equal(low.input_ids, bound.input_ids)
    assert low.loss_weights.unique().tolist() == [2.0]
    assert float(bound.loss_weights.max()) > float(bound.loss_weights.min())
    whole = family_of(build(1.0)).corrupt(clean, clean != BOS, "low_variance", generator(0))
    assert whole.input_ids.shape == clean.shape, "one pass needs no clean half"


def seen(sight: torch.Tensor) -> torch.Tensor:
    """(B, N, N) bool, query by key, of a sight (B, 4, N)."""
    columns = torch.arange(sight.shape[-1]).expand(len(sight), -1)
    return Sight(*(part.contiguous() for part in sight.unbind(1))).window(columns)


@pytest.mark.parametrize("alpha_0", [0.0, 0.5, 1.0])
def test_who_sees_whom(alpha_0):
    """The rules of the two passes written out, for ranks of a batch: what is given first, then clean, then masked."""
    tokens = torch.randint(0, 3, (40, 6), generator=generator(0))
    open = torch.ones_like(tokens, dtype=torch.bool)
    open[:, :2] = False
    batch = family_of(build(alpha_0)).corrupt(tokens, open, "nelbo", generator(1))
    masked, sees = batch.input_ids[:, :6] == MASK, seen(batch.sight)
    orders = set()
    for row in range(40):
        second = alpha_0 == 0 or (alpha_0 < 1 and int(batch.sight[row, 1, 0]) == 12)
        rank = batch.sight[row, 3, :6]  # a noisy position's group
        assert sorted(rank.tolist()) == list(range(6))
        assert rank[:2].tolist() == [0, 1], "what is given is ranked first"
        clean = open[row] & ~masked[row]
        assert not clean.any() or not masked[row].any() or rank[clean].max() < rank[masked[row]].min()
        if second:
            assert rank[masked[row]].diff().gt(0).all(), "left to right"
        elif int(masked[row].sum()) == 4:
            orders.add(tuple(rank.tolist()))
        below, equal = rank[None, :] < rank[:, None], torch.eye(6, dtype=torch.bool)
        none, parts = torch.zeros(6, 6, dtype=torch.bool), sees[row]
        if not second:
            assert torch.equal(parts[:6, :6], below | equal)
        else:
            assert torch.equal(parts[:6], torch.cat([equal, below], 1))
            assert torch.equal(parts[6:], torch.cat([none, below | equal], 1))
        if not second and alpha_0 < 1:
            assert torch.equal(parts[:, 6:], torch.cat([none, equal])), "nobody sees the half that is not used"
    assert alpha_0 == 0 or len(orders) > 1, "masked ones in random order"


@pytest.mark.parametrize("alpha_0", [0.0, 0.5, 1.0])
@torch.no_grad()
def test_a_changed_token_moves_the_outputs_that_see_it_and_no_other(alpha_0):
    model = build(alpha_0)
    tokens = torch.randint(0, 3, (4, 6), generator=generator(4))
    batch = family_of(model).corrupt(tokens, torch.ones_like(tokens, dtype=torch.bool), "nelbo", generator(5))
    inputs = {name: value for name, value in batch.inputs().items() if name not in ("labels", "loss_weights")}
    before, sees = model(**inputs).logits, seen(batch.sight)
    reach = sees.clone()  # through two layers
    for _ in range(2):
        reach |= (reach.float() @ sees.float()) > 0
    assert bool((reach == sees).all(1).any()), "more layers reach no further"
    for place in range(inputs["input_ids"].shape[1]):
        changed = inputs["input_ids"].clone()
        changed[:, place] = (changed[:, place] + 1) % 3
        moved = (model(**inputs | {"input_ids": changed}).logits - before)[..., :3].abs().amax(-1) > 1e-6
        assert torch.equal(moved, reach[:, :, place])


@pytest.mark.parametrize("alpha_0", SHARES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_likelihood(alpha_0, side):
    model, pad = build(alpha_0), torch.full((3, 2), PAD)
    rows, mask = [pad, ROWS], [torch.zeros_like(pad), torch.ones_like(ROWS)]
    if side == "right":
        rows, mask = rows[::-1], mask[::-1]
    padded = {"input_ids": torch.cat(rows, 1), "attention_mask": torch.cat(mask, 1)}
    for score, number in ((nelbo, "num_samples"), (order_nll, "num_orders")):
        alone, beside = (
            score(model, **inputs, generator=generator(4), **{number: 6})[0] for inputs in ({"input_ids": ROWS}, padded)
        )
        assert bool(beside.isfinite().all())
        torch.testing.assert_close(alone, beside, atol=1e-4, rtol=1e-5)
    plain = model(ROWS.masked_fill(ROWS == 2, MASK)).logits
    canvas = padded["input_ids"].masked_fill(padded["input_ids"] == 2, MASK)
    found = model(canvas, attention_mask=padded["attention_mask"]).logits[padded["attention_mask"].bool()]
    torch.testing.assert_close(found, plain.flatten(0, 1))


@pytest.mark.parametrize("alpha_0", [0.0, 0.5, 1.0])
@torch.no_grad()
def test_attention_backends_agree(alpha_0):
    batch = family_of(build(alpha_0)).corrupt(ROWS, ROWS != BOS, "nelbo", generator(6))
    inputs = {name: value for name, value in batch.inputs().items() if name not in ("labels", "loss_weights")}
    one, other = (build(alpha_0, attn_implementation=name)(**inputs).logits for name in ("sdpa", "eager"))
    torch.testing.assert_close(one, other)


@torch.no_grad()
def test_without_a_sight_given_tokens_come_first_and_then_masked_ones():
    model, canvas = build(0.5), torch.tensor([[BOS, MASK, 1, MASK]])
    places = torch.tensor([[0, 2, 1, 3]])
    expected = in_order(model, canvas[:, places[0]], places)
    torch.testing.assert_close(model(canvas).logits[:, places[0]].log_softmax(-1), expected)
    with pytest.raises(ValueError, match="inputs_embeds without sight"):
        model(inputs_embeds=torch.zeros(1, 3, 16))


def orders_of(alpha_0: float) -> list[tuple[float, tuple[int, ...]]]:
    """(probability, order) of every order of writing."""
    found = []
    for last, first in subsets():
        weight = alpha_0 ** len(first) * (1 - alpha_0) ** len(last)
        every = list(itertools.permutations(first))
        found += [(weight / len(every), (*known, *last)) for known in every]
    return found


@pytest.mark.parametrize("alpha_0", [0.25, 0.5, 1.0])
def test_the_likelihood_along_orders_is_that_of_all_orders(alpha_0):
    model = build(alpha_0)
    found = order_nll(model, ROWS, num_orders=600, generator=generator(7))
    for row, mean, importance in zip(ROWS, *found, strict=True):
        law = [(weight, one_by_one(row, (), order)) for weight, order in orders_of(alpha_0)]
        expected = sum(weight * nats for weight, nats in law)
        deviation = math.sqrt(sum(weight * (nats - expected) ** 2 for weight, nats in law) / 600)
        assert abs(float(mean) - expected) < 4 * deviation + 1e-4
        likelihoods = [(weight, math.exp(-nats)) for weight, nats in law]
        total = sum(weight * p for weight, p in likelihoods)
        deviation = math.sqrt(sum(weight * (p - total) ** 2 for weight, p in likelihoods) / 600)
        assert abs(math.exp(-float(importance)) - total) < 4 * deviation + 1e-6
        assert float(importance) < float(mean)


def test_more_orders_give_a_tighter_bound():
    model = build(1.0)
    rows = ROWS[:1].expand(100, -1)
    one, four, many = (
        order_nll(model, rows, num_orders=k, generator=generator(8)).importance_weighted for k in (1, 4, 16)
    )
    assert float(one.mean()) > float(four.mean()) > float(many.mean())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha_0": 1.5}, "alpha_0=1.5 is not in 0 to 1"),
        ({"diffusion": "masked"}, "alpha_0=0.5 is for diffusion='eso', not for diffusion='masked'"),
        ({"time_conditioning": "additive"}, "time_conditioning='additive' does not work with diffusion='eso'"),
        ({"attention_block_length": 4}, "attention_block_length=4 does not work with diffusion='eso'"),
        ({"prediction_offset": 1}, "prediction_offset=1 does not work with diffusion='eso'"),
        ({"parameterization": "score"}, "parameterization='score' does not work with diffusion='eso'"),
        ({"denoiser": "full"}, "denoiser='full' is for uniform noise"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**{"alpha_0": 0.5} | changes)


def test_likelihoods_of_other_models_are_named():
    with pytest.raises(ValueError, match=r"order_nll is for diffusion='eso'.*diffusion='masked'.*nelbo"):
        order_nll(build(1.0, diffusion="masked"), ROWS)
    with pytest.raises(ValueError, match=r"policy_nll.*diffusion='eso'.*order_nll"):
        policy_nll(build(0.5), ROWS)
    with pytest.raises(ValueError, match="num_orders=0 must be at least 1"):
        order_nll(build(0.5), ROWS, num_orders=0)
    with pytest.raises(ValueError, match="sight=None"):
        Esoteric(0.5).inputs(ROWS, ROWS, ROWS >= 0)


def test_ranks_are_drawn_within_each_part():
    masked = torch.tensor([[False, False, True, True]]).expand(24_000, -1)
    uniform = torch.rand(masked.shape, generator=generator(9), dtype=torch.float64)
    open = torch.tensor([False, True, True, True])
    found = ranks_of(open, masked & open, torch.zeros(len(masked), dtype=torch.bool), uniform)
    assert set(map(tuple, found.tolist())) == {(0, 1, 2, 3), (0, 1, 3, 2)}
    assert abs(float((found[:, 2] == 2).double().mean()) - 0.5) < 4 * 0.5 / 24_000**0.5
