"""Block diffusion against enumeration, on a network with random weights: a wrong denoiser, which hides no wrong weight."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.family_mdlm import family_of
from arche_mdlm.metrics.likelihood import nelbo
from arche_mdlm.metrics.policy_likelihood import policy_nll
from arche_mdlm.order_mdlm import Blocks
from arche_mdlm.sight_mdlm import Sight

BOS, PAD, MASK, LENGTH = 3, 4, 5, 5  # tokens 0 to 2; rows of a BOS and four tokens
ROWS = torch.tensor([[BOS, 0, 1, 2, 1], [BOS, 2, 2, 0, 1], [BOS, 1, 0, 0, 0]])


def build(block_length: int | None, **changes) -> MDLMForMaskedDiffusion:
    """The same weights for every family and length of blocks."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    family = {"diffusion": "masked" if block_length is None else "block", "attention_block_length": block_length}
    config = MDLMConfig(
        vocab_size=6, mask_token_id=MASK, bos_token_id=BOS, pad_token_id=PAD, initializer_range=0.6,
        **sizes | {"max_position_embeddings": 16} | family | changes,
    )  # fmt: skip
    return MDLMForMaskedDiffusion(config).eval()


@torch.no_grad()
def enumerated(model: MDLMForMaskedDiffusion, row: torch.Tensor) -> float:
    """The bound of a row by all masks of each block, its clean blocks before it and masks behind it, without a doubled input."""
    length, total = model.config.attention_block_length, 0.0
    blocks = [[p for p in range(start, min(start + length, LENGTH)) if p > 0] for start in range(0, LENGTH, length)]
    for block in filter(None, blocks):
        for bits in itertools.product([False, True], repeat=len(block)):
            masked = [position for position, bit in zip(block, bits, strict=True) if bit]
            if masked:
                canvas = row.clone()
                canvas[masked] = MASK
                canvas[block[-1] + 1 :] = MASK
                nats = -model(canvas[None]).logits[0].log_softmax(-1)[masked, row[masked]]
                total += float(nats.sum()) / (len(masked) * math.comb(len(block), len(masked)))
    return total


@pytest.mark.parametrize("antithetic", ["none", "counts", "complement"])
@pytest.mark.parametrize("block_length", [2, 3, 4])
def test_the_bound_is_that_of_all_masks(block_length, antithetic):
    model = build(block_length)
    found = nelbo(model, ROWS, num_samples=4000, antithetic=antithetic, generator=torch.Generator().manual_seed(1))
    for row, nats, error in zip(ROWS, *found, strict=True):
        assert float(error) < 0.12
        assert abs(float(nats) - enumerated(model, row)) < 4 * float(error) + 1e-4


def test_blocks_of_one_token_are_an_autoregressive_likelihood():
    """Each token given those before it: exactly, in every draw."""
    model = build(1)
    found = nelbo(model, ROWS, num_samples=2)
    assert float(found.standard_error.max()) < 1e-6
    expected = torch.tensor([enumerated(model, row) for row in ROWS])
    torch.testing.assert_close(found.nats.float(), expected)
    exact = policy_nll(model, ROWS, policy="left_to_right", block_length=1).nats
    torch.testing.assert_close(found.nats, exact, atol=1e-4, rtol=1e-5)


def test_one_block_for_all_is_masked_diffusion():
    seed = lambda: torch.Generator().manual_seed(2)  # noqa: E731
    whole, one = (nelbo(build(length), ROWS, num_samples=8, generator=seed()) for length in (None, LENGTH))
    torch.testing.assert_close(whole.nats, one.nats, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("block_length", [1, 2, 3, LENGTH])
@torch.no_grad()
def test_the_doubled_pass_is_the_pass_of_sampling(block_length):
    """A noisy block sees itself and clean blocks before it, as when it is written."""
    model, order = build(block_length), Blocks(block_length)
    noisy = torch.tensor([[BOS, MASK, 1, MASK, MASK], [BOS, 2, MASK, 0, MASK]])
    inputs = order.inputs(noisy, ROWS[:2], torch.ones_like(noisy).bool())
    outputs = model(**inputs).logits[:, :LENGTH]
    for start in range(0, LENGTH, block_length):
        part = slice(start, start + block_length)
        canvas = ROWS[:2].clone()
        canvas[:, part] = noisy[:, part]
        canvas[:, start + block_length :] = MASK
        torch.testing.assert_close(outputs[:, part], model(canvas).logits[:, part])


def test_who_sees_whom():
    """[z ; x]: noisy sees its own noisy block and clean blocks before it; clean sees clean blocks up to its own."""
    inputs = Blocks(2).inputs(ROWS[:1], ROWS[:1], torch.ones(1, LENGTH, dtype=torch.bool))
    sight = Sight(*inputs["sight"].unbind(1))
    index = torch.arange(2 * LENGTH)
    q, k = torch.meshgrid(index, index, indexing="ij")
    block, clean = index % LENGTH // 2, index >= LENGTH
    expected = (
        (clean[q] & clean[k] & (block[k] <= block[q]))
        | (~clean[q] & ~clean[k] & (block[k] == block[q]))
        | (~clean[q] & clean[k] & (block[k] < block[q]))
    )
    assert torch.equal(sight.mask_function()(torch.zeros_like(q), 0, q, k), expected)
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4] * 2]


@pytest.mark.parametrize("block_length", [1, 2, 3])
@torch.no_grad()
def test_the_training_loss_is_the_bound_in_expectation(block_length):
    model = build(block_length)
    clean = ROWS[:1].expand(20_000, -1)
    batch = family_of(model).corrupt(clean, clean != BOS, "nelbo", torch.Generator().manual_seed(3))
    assert batch.timesteps is None
    inputs = batch.inputs()
    weights = inputs.pop("loss_weights")
    nats = F.cross_entropy(
        model(**{k: v for k, v in inputs.items() if k != "labels"}).logits.transpose(1, 2),
        batch.labels,
        reduction="none",
    )
    rows = (nats * weights).sum(-1).double()
    error = float(rows.std()) / len(rows) ** 0.5
    assert abs(float(rows.mean()) - enumerated(model, ROWS[0])) < 4 * error + 1e-4
    loss = model(**inputs, loss_weights=weights, num_items_in_batch=1).loss
    assert float(loss) / len(rows) == pytest.approx(float(rows.mean()), rel=1e-3)
    if block_length == 1:
        assert error < 1e-3, "blocks of one token: no variance"


def test_times_of_a_row_s_blocks_are_stratified_over_the_batch_in_random_order():
    clean = torch.zeros(64, 12, dtype=torch.long)
    mean = torch.zeros(4)
    for seed in range(50):
        batch = family_of(build(3)).corrupt(clean, clean == 0, "nelbo", torch.Generator().manual_seed(seed))
        times = 1 / batch.loss_weights[:, :12:3]  # (64, 4): one a row and block
        strata = ((1 - times.double()) * 256 + 1e-3).floor().long() % 256
        assert sorted(strata.flatten().tolist()) == list(range(256))
        mean += times.mean(0) / 50
    assert float((mean - 0.5).abs().max()) < 0.03, "no block always has the same time"


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_bound(side):
    model, pad = build(2), torch.full((3, 2), PAD)
    rows, mask = [pad, ROWS], [torch.zeros_like(pad), torch.ones_like(ROWS)]
    if side == "right":
        rows, mask = rows[::-1], mask[::-1]
    seed = lambda: torch.Generator().manual_seed(4)  # noqa: E731
    alone = nelbo(model, ROWS, num_samples=6, generator=seed())
    padded = nelbo(model, torch.cat(rows, 1), torch.cat(mask, 1), num_samples=6, generator=seed())
    torch.testing.assert_close(alone.nats, padded.nats, atol=1e-4, rtol=1e-5)


def test_text_is_written_in_the_model_s_blocks():
    own = {"max_new_tokens": 6, "num_diffusion_steps": 6, "do_sample": True, "suppress_tokens": [BOS, PAD]}
    prompt = torch.tensor([[BOS, 1]] * 4)

    def write(model, **more):
        return model.generate(prompt, generator=torch.Generator().manual_seed(5), **own, **more)

    expected = write(build(3, diffusion="masked"), block_length=3)
    assert torch.equal(write(build(3)), expected)
    assert torch.equal(write(build(3), prefix_cache=True), expected), "the cache is exact"
    assert not torch.equal(write(build(3, diffusion="masked")), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_block_length": None}, "diffusion='block' needs attention_block_length"),
        ({"time_conditioning": "additive"}, "time_conditioning='additive' does not work with diffusion='block'"),
        ({"diffusion": "blocks"}, "diffusion='blocks' is not one of masked, uniform, block"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        build(2, **changes)


def test_text_longer_than_the_context():
    """The window slides by blocks: nothing further back than the context is seen, and the cache stays exact."""
    model = build(2, max_position_embeddings=8, num_hidden_layers=1)
    own = {"max_new_tokens": 25, "num_diffusion_steps": 25, "do_sample": True, "suppress_tokens": [BOS, PAD]}
    prompt = torch.tensor([[BOS, 1, 2], [BOS, 0, 0]])
    plain = model.generate(prompt, generator=torch.Generator().manual_seed(1), **own)
    assert plain.shape == (2, 28)
    assert not bool((plain == MASK).any())
    assert torch.equal(
        plain, model.generate(prompt, generator=torch.Generator().manual_seed(1), prefix_cache=True, **own)
    )
    with torch.no_grad():
        # One layer sees the last four blocks only: the same from these alone, at other positions (RoPE is relative).
        whole, part = model(plain).logits[:, -2:], model(plain[:, -8:]).logits[:, -2:]
        torch.testing.assert_close(whole, part, rtol=1e-4, atol=1e-4)
        other = plain.clone()
        other[:, 18:20] = (other[:, 18:20] + 1) % 3
        assert torch.equal(model(other).logits[:, -2:], whole)
    with pytest.raises(ValueError, match="max_new_tokens=25 does not fit"):
        build(None, max_position_embeddings=8).generate(prompt, **own)
