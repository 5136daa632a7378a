"""A tiny masked diffusion model with a tokenizer, in memory and as a saved checkpoint."""

from pathlib import Path

import pytest
import torch

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.training.data.tokenizers_io import train_bpe
from arche_mdlm.training.models.loading import save_arm, set_generation_defaults

CONTEXT = 48
CORPUS = ["Once upon a time there was a little girl.", "She was happy, and the dog was happy too."] * 4


@pytest.fixture(scope="session")
def tokenizer():
    return train_bpe(CORPUS, vocab_size=300, model_max_length=CONTEXT)


@pytest.fixture(scope="session")
def model(tokenizer):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = MDLMConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.5,
        tie_word_embeddings=True,
        num_diffusion_steps=4,
        **{
            name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id")
        },
    )
    model = MDLMForMaskedDiffusion(config).eval()
    set_generation_defaults(model, tokenizer, CONTEXT)
    return model


@pytest.fixture(scope="session")
def checkpoint(model, tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny-mdlm"
    save_arm(model, tokenizer, folder)
    return folder
