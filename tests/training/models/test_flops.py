"""The count of operations against PyTorch's own counter, which watches the products as they run."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.family_mdlm import family_of
from arche_mdlm.order_mdlm import Blocks
from arche_mdlm.sight_mdlm import Sight
from arche_mdlm.training.models.flops import StepFlops, peak_flops
from arche_mdlm.training.models.fused_head import fuse_head

SHAPE = {"vocab_size": 50, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "attn_implementation": "eager"}  # fmt: skip


def make(arm):
    if arm == "mdlm":
        return MDLMForMaskedDiffusion(MDLMConfig(mask_token_id=49, **SHAPE))
    if arm == "llama":
        return LlamaForCausalLM(LlamaConfig(**SHAPE))
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=50, n_embd=24, n_layer=3, n_head=4, attn_implementation="eager", bos_token_id=0, eos_token_id=1
        )
    )


@pytest.mark.parametrize("arm", ["mdlm", "llama", "gpt2"])
def test_equal_to_the_counter(arm):
    torch.manual_seed(0)
    model = make(arm).train()
    ids = torch.randint(0, 48, (3, 10))
    labels = ids.clone()
    if arm == "mdlm":  # as many in each row: so that the selected layer's attention lacks padded queries
        labels[:, 4:] = -100
        ids[:, :4] = 49
        supervised = 12
    else:
        fuse_head(model)
        labels[0, 7:] = -100
        supervised = int((labels[:, 1:] != -100).sum())
    extra = {} if arm == "mdlm" else {"use_cache": False}
    # PyTorch's counter does not know the product that adds in place.
    in_place = {torch.ops.aten.addmm_: lambda added, a, b, **_: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        model(input_ids=ids, labels=labels, **extra).loss.backward()
    flops = StepFlops.of(model.config, "most" if arm == "mdlm" else "nothing")
    # The eager attention of a causal model computes what it may not see, too.
    assert flops.count(3, 10, supervised, causal_halving=False) == counter.get_total_flops()
    assert (flops.count(3, 10, supervised) < counter.get_total_flops()) == (arm != "mdlm")


def test_causal_halving_is_the_share_of_pairs():
    flops = StepFlops.of(LlamaConfig(**SHAPE))
    pairs = sum(range(1, 11)) / 100
    difference = flops.count(3, 10, 0, causal_halving=False) - flops.count(3, 10, 0)
    assert difference == pytest.approx(3 * 3 * 4 * 3 * 10 * 10 * 24 * (1 - pairs))


def test_the_whole_last_layer_where_it_is_not_selected():
    config = MDLMConfig(mask_token_id=49, **SHAPE)
    whole, selected = StepFlops.of(config), StepFlops.of(config, "most")
    assert whole.count(3, 10, 30) == selected.count(3, 10, 30)
    assert whole.count(3, 10, 12) > selected.count(3, 10, 12)


def test_the_peak_of_a_known_gpu(monkeypatch):
    assert peak_flops(torch.device("cpu")) is None
    for name, peak in (("NVIDIA H100 80GB HBM3", 989.4e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA Unknown", None)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_flops(torch.device("cuda")) == peak


def test_a_doubled_row_counts_the_pairs_that_its_blocks_see():
    """L^2 + L L' of the 4 L^2 pairs of [z ; x], counted from the mask itself."""
    length, block = 12, 3
    inputs = Blocks(block).inputs(
        *[torch.ones(1, length, dtype=torch.long)] * 2, torch.ones(1, length, dtype=torch.bool)
    )
    index = torch.arange(2 * length)
    q, k = torch.meshgrid(index, index, indexing="ij")
    seen = int(Sight(*inputs["sight"].unbind(1)).mask_function()(torch.zeros_like(q), 0, q, k).sum())
    assert seen == length**2 + length * block
    sizes = SHAPE | {"mask_token_id": 49, "attention_block_length": block}
    whole, blocks = (StepFlops.of(MDLMConfig(**sizes, diffusion=name)) for name in ("masked", "block"))
    all_pairs = whole.count(2, 2 * length, 5)
    difference = all_pairs - blocks.count(2, 2 * length, 5)
    per_pair = 3 * 4 * 2 * whole.heads * whole.head_dim * whole.layers  # of two rows
    assert difference == per_pair * ((2 * length) ** 2 - seen)


@pytest.mark.parametrize("alpha_0", [0.0, 0.5, 1.0])
def test_rows_in_order_of_writing_count_the_pairs_that_they_see(alpha_0):
    """Counted from the masks of a batch."""
    length, config = 12, MDLMConfig(**SHAPE, mask_token_id=49, diffusion="eso", alpha_0=alpha_0)
    clean = torch.ones(2, length, dtype=torch.long)
    batch = family_of(config).corrupt(clean, clean > 0, "nelbo", torch.Generator().manual_seed(0))
    width = batch.input_ids.shape[1]
    columns = torch.arange(width).expand(2, -1)
    seen = int(Sight(*(part.contiguous() for part in batch.sight.unbind(1))).window(columns).sum())
    flops = StepFlops.of(config)
    difference = flops.count(2, width, 5, causal_halving=False) - flops.count(2, width, 5)
    assert difference == 3 * 4 * flops.heads * flops.head_dim * flops.layers * (2 * width**2 - seen)
