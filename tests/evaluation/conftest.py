"""A small checkpoint of every kind for the tests of evaluation."""

from pathlib import Path

import pytest
import torch
from kinds_of_models import CONTEXT, KINDS

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.configuration.settings import ModelSettings
from arche_mdlm.training.models.build import build_model
from arche_mdlm.training.models.loading import save_arm, set_generation_defaults


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer) -> dict[str, Path]:
    root, found = tmp_path_factory.mktemp("checkpoints"), {}
    shape = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
             "max_position_embeddings": CONTEXT}  # fmt: skip
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for kind, own in KINDS.items():
        torch.manual_seed(0)
        if kind == "ar":
            model = build_model(ModelSettings("llama", shape), tokenizer)
        else:
            mask = {"mask_token_id": tokenizer.mask_token_id, "initializer_range": 0.4}
            model = MDLMForMaskedDiffusion(MDLMConfig(diffusion=kind, **shape, **special, **mask, **own))
        set_generation_defaults(model, tokenizer, CONTEXT)
        save_arm(model, tokenizer, root / kind)
        found[kind] = root / kind
    return found
