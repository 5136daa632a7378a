"""Adding tokens: embeddings and head are resized, the model still generates, and can be saved and loaded."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion, MDLMModel


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": False},
                                     {"tie_word_embeddings": False, "output_vocab_size": 39, "mask_token_id": 39}])  # fmt: skip
@pytest.mark.parametrize("size", [43, 40])
def test_a_resized_model_is_saved_and_loaded(build_mdlm, tmp_path, options, size):
    model = build_mdlm(**options)
    ids = torch.tensor([[0, 5, model.config.mask_token_id, 7]])
    before = model(ids).logits
    model.resize_token_embeddings(size, mean_resizing=False)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.vocab_size == size
    logits = again(ids).logits
    assert logits.shape[-1] == size
    known = min(before.shape[-1], model.config.output_vocab_size) if size == 40 else 39
    torch.testing.assert_close(logits[..., :known], before[..., :known])
    assert bool((logits[..., model.config.mask_token_id] == -torch.inf).all())
    assert again.generate(ids, max_new_tokens=4, num_diffusion_steps=2).shape == (1, 8)


def test_a_trunk_alone_is_resized(build_mdlm, tmp_path):
    trunk = build_mdlm(tie_word_embeddings=False).model
    trunk.resize_token_embeddings(50)
    trunk.save_pretrained(tmp_path)
    assert MDLMModel.from_pretrained(tmp_path).embed_tokens.weight.shape[0] == 50


def test_padding_to_a_multiple(build_mdlm):
    model = build_mdlm()
    model.resize_token_embeddings(pad_to_multiple_of=64)
    assert model.config.vocab_size == model.config.output_vocab_size == model.lm_head.out_features == 64


def test_the_mask_is_not_cut_off(build_mdlm):
    model = build_mdlm(mask_token_id=39)
    kept = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="new_num_tokens=39 cuts off the mask token, id 39"):
        model.resize_token_embeddings(39)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_a_token_is_added_to_tokenizer_and_model(tokenizer, tmp_path):
    tokenizer = copy.deepcopy(tokenizer)
    config = MDLMConfig(vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id, hidden_size=16, intermediate_size=16,
                        num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=32)  # fmt: skip
    model = MDLMForMaskedDiffusion(config)
    tokenizer.add_tokens(["<name>"])
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    inputs = tokenizer("The <name> sat", return_tensors="pt")
    assert tokenizer.convert_tokens_to_ids("<name>") in inputs["input_ids"][0]
    assert (
        model.generate(**inputs, max_new_tokens=4, num_diffusion_steps=2).shape[1] == inputs["input_ids"].shape[1] + 4
    )


@pytest.mark.parametrize("given", [{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}, {}])
def test_a_model_made_from_a_config_knows_its_special_tokens(tiny_config, given, tmp_path):
    """Those that were given, and none that were not: Llama's 1 and 2 are its own tokenizer's."""
    rest = {key: value for key, value in tiny_config.items() if not key.endswith("token_id")}
    model = MDLMForMaskedDiffusion(MDLMConfig(**rest, mask_token_id=3, **given))
    for source in (model.generation_config, model.config):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            assert getattr(source, name) == given.get(name)
    if given:
        rows = model.generate(num_return_sequences=30, do_sample=True, max_new_tokens=12, num_diffusion_steps=4)
        assert bool((rows[:, 0] == 0).all())
        for row in rows:
            ends = (row == 1).nonzero().flatten().tolist()
            assert not ends or bool((row[ends[0] + 1 :] == 2).all())
        assert bool((rows == 1).any())
    model.save_pretrained(tmp_path)
    loaded = MDLMForMaskedDiffusion.from_pretrained(tmp_path)
    assert loaded.generation_config.eos_token_id == given.get("eos_token_id")
