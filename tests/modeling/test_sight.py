"""The rule of four numbers against every mask by enumeration, in the model, and in its cache."""

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from arche_mdlm import MDLMConfig, MDLMModel
from arche_mdlm.checks_mdlm import check_attention
from arche_mdlm.sight_mdlm import Sight, documents_of, sight_of

LENGTH = 12
SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
POSITIONS = {
    "one document": torch.arange(LENGTH)[None],
    "three documents": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1, 2]]),
    "padded on the left": torch.tensor([[0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]]),
}


def pairs(sight: Sight) -> torch.Tensor:
    """(B, L, L) bool: what the mask function says for every query and key."""
    rows, length = sight.document.shape
    index = torch.meshgrid(torch.arange(rows), torch.arange(length), torch.arange(length), indexing="ij")
    return sight.mask_function()(index[0], 0, index[1], index[2])


def by_hand(position_ids: torch.Tensor, packed: bool, block_length: int | None) -> torch.Tensor:
    documents, found = documents_of(position_ids), torch.zeros(1, LENGTH, LENGTH, dtype=torch.bool)
    for query in range(LENGTH):
        for key in range(LENGTH):
            together = not packed or documents[0, query] == documents[0, key]
            before = block_length is None or (
                position_ids[0, key] // block_length <= position_ids[0, query] // block_length
            )
            found[0, query, key] = bool(together and before)
    return found


@pytest.mark.parametrize("block_length", [None, 1, 3, 5, 12])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", POSITIONS)
def test_the_rule_makes_every_mask_of_today(name, packed, block_length):
    sight = sight_of(POSITIONS[name], packed, block_length)
    if sight is None:
        assert not packed
        assert block_length is None
        return
    assert torch.equal(pairs(sight), by_hand(POSITIONS[name], packed, block_length))
    columns = torch.tensor([[7, 2, 2, 11]])
    assert torch.equal(sight.window(columns), pairs(sight)[:, columns[0]])


def doubled(length: int, block_length: int) -> tuple[Sight, torch.Tensor]:
    """The sight of [z ; x] for training in blocks, and the same by hand: (1, 2L, 2L)."""
    block, clean = torch.arange(length).repeat(2) // block_length, torch.arange(2 * length) >= length
    # Clean positions write their block and read up to their own; noisy ones read the blocks before, and their own group.
    write = torch.where(clean, block, 2 * length)
    read = torch.where(clean, block, block - 1)
    group = torch.where(clean, -1 - torch.arange(2 * length), block)
    q, k = torch.meshgrid(torch.arange(2 * length), torch.arange(2 * length), indexing="ij")
    same, before = block[k] == block[q], block[k] < block[q]
    expected = torch.where(clean[q], clean[k] & (same | before), torch.where(clean[k], before, same))
    zeros = torch.zeros(1, 2 * length, dtype=torch.long)
    return Sight(zeros, write[None], read[None], group[None]), expected[None]


@pytest.mark.parametrize("block_length", [1, 2, 3, 6])
def test_the_rule_makes_the_mask_of_block_training(block_length):
    sight, expected = doubled(6, block_length)
    assert torch.equal(pairs(sight), expected)


RANKS = torch.tensor([3, 0, 5, 1, 4, 2])  # an order in which six positions become clean


def eso_diffusion(ranks: torch.Tensor) -> tuple[Sight, torch.Tensor]:
    """Of Eso-LM's diffusion pass: a position sees those of its rank and below."""
    alone = -1 - torch.arange(len(ranks))
    return Sight(torch.zeros_like(ranks)[None], ranks[None], ranks[None], alone[None]), (ranks <= ranks[:, None])[None]


def eso_sequential(ranks: torch.Tensor) -> tuple[Sight, torch.Tensor]:
    """Of Eso-LM's sequential pass over [z ; x]: z sees itself and x of lower ranks, x sees x up to its own rank."""
    length, both = len(ranks), ranks.repeat(2)
    clean = torch.arange(2 * length) >= length
    write, read = torch.where(clean, both, 2 * length), torch.where(clean, both, both - 1)
    group = torch.arange(2 * length)
    q, k = torch.meshgrid(torch.arange(2 * length), torch.arange(2 * length), indexing="ij")
    expected = torch.where(clean[q], clean[k] & (both[k] <= both[q]), torch.where(clean[k], both[k] < both[q], q == k))
    return Sight(*(values[None] for values in (torch.zeros_like(both), write, read, group))), expected[None]


def causal(length: int) -> tuple[Sight, torch.Tensor]:
    index = torch.arange(length)
    return Sight(torch.zeros_like(index)[None], index[None], index[None], index[None]), (index <= index[:, None])[None]


FAMILIES = {
    "blocks": (lambda: doubled(6, 2), torch.arange(6).repeat(2)),
    "eso, diffusion": (lambda: eso_diffusion(RANKS), torch.arange(6)),
    "eso, sequential": (lambda: eso_sequential(RANKS), torch.arange(6).repeat(2)),
    "causal": (lambda: causal(6), torch.arange(6)),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_rule_makes_the_masks_of_the_other_families(name):
    sight, expected = FAMILIES[name][0]()
    assert torch.equal(pairs(sight), expected)
    columns = torch.tensor([[5, 0, 0, 3]])
    assert torch.equal(sight.window(columns), expected[:, columns[0]])


def trunk(attention: str, block_length: int | None = None) -> MDLMModel:
    torch.manual_seed(0)
    config = MDLMConfig(vocab_size=32, mask_token_id=31, attention_block_length=block_length, **SIZES)
    config._attn_implementation = attention
    return MDLMModel(config).eval()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_positions_that_repeat_are_two_documents_only_where_no_sight_is_given(attention):
    """A doubled input [z ; x] repeats its positions; read as packed documents its halves would not see each other."""
    model = trunk(attention)
    ids, changed = torch.randint(0, 31, (1, 12)), None
    position_ids, (sight, _) = torch.arange(6).repeat(2)[None], doubled(6, 2)
    changed = ids.clone()
    changed[0, 6] += 1 if ids[0, 6] < 30 else -1  # the first clean token: block 0
    for given, reached in ((None, []), (sight, [2, 3, 4, 5])):
        before, after = (
            model(row, position_ids=position_ids, sight=given).last_hidden_state[0] for row in (ids, changed)
        )
        moved = ((before - after).abs().amax(-1) > 1e-6).nonzero()[:, 0].tolist()
        assert [position for position in moved if position < 6] == reached


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_no_position_learns_what_it_does_not_see(attention):
    """One token is changed; exactly the positions that see it, by any number of layers, move."""
    model, (sight, expected) = trunk(attention), doubled(6, 2)
    ids, position_ids = torch.randint(0, 31, (1, 12)), torch.arange(6).repeat(2)[None]
    reach = (expected[0].float() @ expected[0].float()) > 0  # two layers
    before = model(ids, position_ids=position_ids, sight=sight).last_hidden_state[0]
    for key in range(12):
        changed = ids.clone()
        changed[0, key] = (ids[0, key] + 1) % 31
        after = model(changed, position_ids=position_ids, sight=sight).last_hidden_state[0]
        assert torch.equal((before - after).abs().amax(-1) > 1e-7, reach[:, key])


@pytest.mark.parametrize("attention", ["eager", "flex_attention"])
@torch.no_grad()
def test_every_backend_sees_the_same(attention):
    """Of all families in one batch: rows of one call may have sights of different kinds."""
    sights, ids, positions = [], torch.randint(0, 31, (len(FAMILIES), 12)), []
    for make, _ in FAMILIES.values():
        (sight, _), length = make(), 12
        # A sight of six positions stands twice beside each other, as two documents.
        twice = len(sight.document[0]) < length
        sights.append([torch.cat([v, v], 1) if twice else v for v in sight[:4]])
        if twice:
            sights[-1][0] = torch.arange(2).repeat_interleave(6)[None]
        positions.append(torch.arange(6).repeat(2))
    sight = Sight(*(torch.cat(values).contiguous() for values in zip(*sights, strict=True)))
    inputs = {"position_ids": torch.stack(positions), "sight": sight}
    expected = trunk("sdpa")(ids, **inputs).last_hidden_state
    torch.testing.assert_close(trunk(attention)(ids, **inputs).last_hidden_state, expected, atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_the_given_sight_is_that_of_the_config():
    model, ids = trunk("sdpa", 4), torch.randint(0, 31, (2, 12))
    sight = sight_of(torch.arange(12).expand(2, -1), False, 4)
    assert torch.equal(model(ids).last_hidden_state, model(ids, sight=sight).last_hidden_state)


@torch.no_grad()
def test_seeing_only_what_is_before_makes_a_llama_of_it():
    """With the causal sight and a Llama's weights the trunk computes what transformers' own causal model computes."""
    model = trunk("sdpa")
    own = {key: value for key, value in model.config.to_dict().items() if key in LlamaConfig().to_dict()}
    llama = LlamaModel(LlamaConfig(**own | {"pad_token_id": None})).eval()
    llama.load_state_dict(model.state_dict())
    ids = torch.randint(0, 31, (2, 6))
    sight = Sight(*(values.expand(2, -1).contiguous() for values in causal(6)[0][:4]))
    torch.testing.assert_close(model(ids, sight=sight).last_hidden_state, llama(ids).last_hidden_state)


@pytest.mark.parametrize("backend", ["flash_attention_2", "flash_attention_3", "kernels-community/vllm-flash-attn3"])
@pytest.mark.parametrize(
    ("changes", "inputs", "kind"),
    [
        ({"diffusion": "block", "attention_block_length": 4}, {}, "the mask of diffusion='block'"),
        ({"diffusion": "eso"}, {}, "the mask of diffusion='eso'"),
        ({}, {"sight": torch.ones(1, 12, 12, dtype=torch.bool).tril()}, "the mask of diffusion='masked'"),
        ({}, {"position_ids": POSITIONS["three documents"].expand(2, -1)}, "the documents of 2 packed rows"),
    ],
    ids=["block", "eso", "pairs", "packed"],
)
def test_flash_attention_which_would_leave_the_mask_out_is_refused(backend, changes, inputs, kind):
    model = MDLMModel(MDLMConfig(vocab_size=32, mask_token_id=31, **SIZES, **changes))
    model(torch.randint(0, 31, (2, 12)), **inputs)
    model.config._attn_implementation = backend
    with pytest.raises(ValueError, match=f"attn_implementation='{backend}' cannot keep {kind}"):
        model(torch.randint(0, 31, (2, 12)), **inputs)


def test_flash_attention_keeps_the_documents_of_one_row():
    """transformers reads them off the positions of a single row."""
    sight = sight_of(POSITIONS["three documents"], True, None)
    config = MDLMConfig(vocab_size=32, mask_token_id=31)
    config._attn_implementation = "flash_attention_2"
    check_attention(config, sight, 1, True)
    check_attention(config, None, 2, False)
    with pytest.raises(ValueError, match="documents of 2 packed rows"):
        check_attention(config, sight, 2, True)
