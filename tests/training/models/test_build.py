"""Building models from presets: properties of the initialisations."""

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.configuration.settings import ModelSettings
from arche_mdlm.training.data.tokenizers_io import gpt2_tokenizer
from arche_mdlm.training.models.build import build_model

SHAPE = {
    "vocab_size": 50, "hidden_size": 96, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 3,
    "max_position_embeddings": 64, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.mark.parametrize("architecture", ["mdlm", "llama"])
def test_local_initialisation_looks_at_the_neighbours(architecture):
    """A query without content (its bias alone) gives each head's highest attention to its own offset."""
    model = build_model(ModelSettings(architecture, {**SHAPE, "attention_bias": True}, "local"))
    position_ids = torch.arange(64)[None]
    for layer in model.model.layers:
        attention = layer.self_attn
        heads = (1, 3, 64, 32)
        query, key = (p.bias.view(1, 3, 1, 32).expand(heads) for p in (attention.q_proj, attention.k_proj))
        cos, sin = model.model.rotary_emb(torch.zeros(1, 64, 96), position_ids)
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        scores = (query @ key.transpose(-1, -2))[0] / 32**0.5
        for head, offset in enumerate((-1, 1, -2)):
            assert int(scores[head, 30].argmax()) == 30 + offset
            assert scores[head, 30].max().item() == pytest.approx(8.0, abs=1e-3)


def test_local_initialisation_needs_biases():
    with pytest.raises(ValueError, match="attention_bias=true"):
        build_model(ModelSettings("mdlm", SHAPE, "local"))


def test_the_papers_initialisation_is_pytorchs():
    torch.manual_seed(0)
    shape = {**SHAPE, "vocab_size": 3000, "tie_word_embeddings": False}
    model = build_model(ModelSettings("mdlm", shape, "pytorch"))
    assert model.get_input_embeddings().weight.std().item() == pytest.approx(1.0, abs=0.02)
    bound = 96**-0.5  # Kaiming-uniform with a = sqrt(5): +- 1 / sqrt(fan in)
    for weight in (model.lm_head.weight, model.model.layers[0].self_attn.q_proj.weight):
        assert weight.abs().max().item() == pytest.approx(bound, rel=0.02)
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    tied = build_model(ModelSettings("llama", {**shape, "tie_word_embeddings": True}, "pytorch"))
    assert tied.lm_head.weight is tied.get_input_embeddings().weight
    assert tied.lm_head.weight.std().item() == pytest.approx(1.0, abs=0.02)


def test_gpt2_is_a_second_baseline():
    model = build_model(load_preset("mini-gpt2").model)
    assert model.config.model_type == "gpt2"
    assert (model.config.n_layer, model.config.n_head, model.config.n_embd, model.config.n_inner) == (4, 6, 192, 512)
    assert model.config.n_positions == 256


def test_a_vocabulary_too_small_for_the_tokenizer(tokenizer):
    with pytest.raises(ValueError, match="more than model.config.vocab_size=50"):
        build_model(ModelSettings("mdlm", SHAPE), tokenizer)


def test_an_ar_model_needs_no_row_for_a_mask_at_the_end(tmp_path):
    """As in the paper's AR arm: 50,257 rows, and `[MASK]` as id 50,257 of the tokenizer."""
    import json

    letters = ["<|endoftext|>", *"abc"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(letters)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = gpt2_tokenizer(tmp_path)
    assert tokenizer.mask_token_id == len(letters) == len(tokenizer) - 1
    assert build_model(ModelSettings("llama", {**SHAPE, "vocab_size": len(letters)}), tokenizer).vocab_size == len(
        letters
    )
    with pytest.raises(ValueError, match="has 5 entries, more than model.config.vocab_size=4"):
        build_model(ModelSettings("mdlm", {**SHAPE, "vocab_size": len(letters)}), tokenizer)
