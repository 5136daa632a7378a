"""Generation in blocks with a key-value cache: the same text where it is exact, and close to it elsewhere."""

import logging

import pytest
import torch
from transformers import CompileConfig

from arche_mdlm import available_samplers

MASK = 3
BLOCK = 4


@pytest.fixture
def block_causal(build_mdlm):
    def build(**changes):
        return build_mdlm(attention_block_length=BLOCK, initializer_range=0.3, **changes)

    return build


def write(model, prompts, attention_mask=None, **settings):
    defaults = {"block_length": BLOCK, "max_new_tokens": 13, "num_diffusion_steps": 12, "do_sample": True, "top_k": 0}
    return model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts) if attention_mask is None else attention_mask,
        generator=torch.Generator().manual_seed(5),
        return_dict_in_generate=True,
        **{**defaults, **settings},
    )


def prompts(rows=5, width=6):
    return torch.randint(4, 40, (rows, width), generator=torch.Generator().manual_seed(1))


def test_a_block_does_not_see_the_next_ones(block_causal):
    model, ids = block_causal(), prompts(2, 12)
    changed = ids.clone()
    changed[:, 8:] = 7
    with torch.no_grad():
        one, other = model(ids).logits, model(changed).logits
    torch.testing.assert_close(one[:, :8], other[:, :8])
    assert not torch.allclose(one[:, 8:], other[:, 8:])
    with torch.no_grad():  # inside its block a position sees what comes after it
        changed = ids.clone()
        changed[:, 7] = 7
        assert not torch.allclose(model(changed).logits[:, 4], one[:, 4])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("sampler", available_samplers())
def test_block_causal_text_is_the_same_with_the_cache(block_causal, sampler, attention):
    model = block_causal(attn_implementation=attention)
    plain = write(model, prompts(), sampler=sampler)
    cached = write(model, prompts(), sampler=sampler, prefix_cache=True)
    assert torch.equal(plain.sequences, cached.sequences)
    assert torch.equal(plain.num_forward_passes, cached.num_forward_passes)


@pytest.mark.parametrize("side", ["left", "right"])
def test_with_padding_and_prompts_of_unlike_lengths(block_causal, side):
    model, ids = block_causal(), prompts()
    attention_mask = torch.ones_like(ids)
    for row, padding in enumerate((0, 1, 2, 3, 5)):
        if padding:
            attention_mask[row, slice(0, padding) if side == "left" else slice(-padding, None)] = 0
    settings = {"max_new_tokens": None, "max_length": 20}
    plain = write(model, ids, attention_mask, **settings).sequences
    assert torch.equal(plain, write(model, ids, attention_mask, prefix_cache=True, **settings).sequences)


def test_masks_in_the_prompt(block_causal):
    model, ids = block_causal(), prompts(3, 17)
    ids[:, 5:12] = MASK
    ids[1, 3] = ids[2, 15] = MASK
    plain = write(model, ids, max_new_tokens=0).sequences
    assert torch.equal(plain, write(model, ids, max_new_tokens=0, prefix_cache=True).sequences)
    assert torch.equal(plain[ids != MASK], ids[ids != MASK])


def test_a_step_runs_the_block_alone(block_causal):
    model, ids = block_causal(), prompts(3, 8)
    widths = []
    model.model.layers[0].register_forward_hook(lambda module, args, output: widths.append(args[0].shape[1]))
    write(model, ids, max_new_tokens=8, sampler="first_hitting", prefix_cache=True)
    assert widths == [16, 4, 4, 4] * 2


def test_an_approximation_says_so_and_starts_from_the_same_forward(build_mdlm, caplog):
    model, ids = build_mdlm(initializer_range=0.3), prompts(4, 6)
    with caplog.at_level(logging.WARNING):
        cached = write(model, ids, max_new_tokens=8, prefix_cache=True, output_history=True, sampler="first_hitting")
    plain = write(model, ids, max_new_tokens=8, output_history=True, sampler="first_hitting")
    assert torch.equal(cached.history[0], plain.history[0]), "the first step of a block is a whole forward"
    assert not torch.equal(cached.sequences, plain.sequences)
    assert not (cached.sequences == MASK).any()


def test_guidance_goes_with_the_cache(block_causal):
    model = block_causal()
    plain = write(model, prompts(), guidance_scale=2.0).sequences
    assert torch.equal(plain, write(model, prompts(), guidance_scale=2.0, prefix_cache=True).sequences)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_length": None}, "prefix_cache=True needs block_length"),
        ({"block_length": 6}, "block_length=6 is not a multiple of this model's attention_block_length=4"),
        ({"compile_config": CompileConfig(backend="eager")}, "prefix_cache=True cannot be used with compiled layers"),
    ],
)
def test_what_does_not_go_together_is_an_error(block_causal, settings, message):
    with pytest.raises(ValueError, match=message):
        write(block_causal(), prompts(), prefix_cache=True, **settings)


def test_other_attention_is_an_error(block_causal):
    with pytest.raises(ValueError, match="needs attn_implementation 'sdpa' or 'eager', not 'flex_attention'"):
        write(block_causal(attn_implementation="flex_attention"), prompts(), prefix_cache=True)


def test_a_block_length_of_nothing_is_an_error(build_mdlm):
    with pytest.raises(ValueError, match="attention_block_length=0 must be at least 1, or None"):
        build_mdlm(attention_block_length=0)
