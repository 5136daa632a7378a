"""Generation with compiled layers: the same text, few shapes."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from transformers import CompileConfig

from arche_mdlm import available_samplers


def write(model, prompts, sampler, **settings):
    return model.generate(
        prompts, attention_mask=torch.ones_like(prompts), generator=torch.Generator().manual_seed(5), sampler=sampler,
        max_new_tokens=14, num_diffusion_steps=7, do_sample=True, top_k=0, **settings,
    )  # fmt: skip


@pytest.mark.parametrize("conditioning", ["none", "additive"])
def test_the_same_text_from_few_shapes(build_mdlm, conditioning):
    torch._dynamo.reset()
    model = build_mdlm(initializer_range=0.3, time_conditioning=conditioning)
    prompts = torch.randint(4, 40, (18, 2), generator=torch.Generator().manual_seed(1))
    plain = {sampler: write(model, prompts, sampler) for sampler in available_samplers()}
    counter = CompileCounter()
    for sampler, text in plain.items():
        assert torch.equal(
            write(model, prompts, sampler, compile_config=CompileConfig(backend=counter, mode=None)), text
        ), sampler
    # Rows come in twos, canvases have one length: nine graphs at most, however many rows are open.
    assert 1 <= counter.frame_count <= 9


def test_the_real_compiler_writes_the_same(compiler, build_mdlm):
    torch._dynamo.reset()
    model = build_mdlm(initializer_range=0.3)
    prompts = torch.randint(4, 40, (4, 2), generator=torch.Generator().manual_seed(1))
    plain = write(model, prompts, "confidence")
    assert torch.equal(write(model, prompts, "confidence", compile_config=CompileConfig(mode="default")), plain)
