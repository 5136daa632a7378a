"""Models for the tests of metrics, on one thread."""

import pytest
import torch
from likelihood_rows import MASK, SPECIAL, TINY
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
)

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def diffusion_model():
    torch.manual_seed(0)
    config = MDLMConfig(**TINY, **SPECIAL, mask_token_id=MASK, max_position_embeddings=16, initializer_range=1.0)
    return MDLMForMaskedDiffusion(config).eval()


@pytest.fixture(scope="module")
def ar_model():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**TINY, **SPECIAL, max_position_embeddings=16, initializer_range=1.0)).eval()
