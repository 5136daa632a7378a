"""Shared by all tests: one thread, no progress bars, and tiny models of both arms."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import datasets
import pytest
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.training.data.tokenizers_io import train_bpe

torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
torch.set_num_threads(1)  # two threads on contended cores are many times slower
transformers.utils.logging.disable_progress_bar()
datasets.disable_progress_bars()

SENTENCES = [
    "Once upon a time a little cat sat on a red mat.",
    "The dog saw the cat and ran to the big tree.",
    "Tim and Sue play in the sun. The sun is hot.",
    "A bird sat in the tree. It sang to the little cat.",
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def compiler():
    """Skips the test without the requirements of `torch.compile` on a CPU, such as a C++ compiler."""
    try:
        torch.compile(lambda x: x + 1)(torch.ones(2))
    except Exception as error:  # of many kinds, as many things can be missing
        pytest.skip(f"torch.compile does not work here: {type(error).__name__}")


@pytest.fixture(scope="session")
def tokenizer():
    """Byte-level BPE: ids 0 to 3 are BOS, EOS, pad and mask."""
    return train_bpe(SENTENCES, vocab_size=300)


@pytest.fixture(scope="session")
def tiny_config() -> dict:
    """Fields of a small Llama. Weights are drawn wide, so that its predictions are far from uniform."""
    return {
        "vocab_size": 40,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 48,
        "initializer_range": 0.3,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }


@pytest.fixture(scope="session")
def build_mdlm(tiny_config):
    """Make a seeded tiny MDLM in evaluation mode; keyword arguments change its configuration."""

    def build(**changes) -> MDLMForMaskedDiffusion:
        torch.manual_seed(1)
        model = MDLMForMaskedDiffusion(MDLMConfig(**{**tiny_config, "mask_token_id": 3, **changes})).eval()
        config = model.generation_config
        config.bos_token_id, config.eos_token_id, config.pad_token_id = 0, 1, 2
        return model

    return build


@pytest.fixture
def tiny_mdlm(build_mdlm):
    return build_mdlm()


@pytest.fixture
def tiny_ar(tiny_config):
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(**tiny_config)).eval()
