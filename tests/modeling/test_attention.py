"""`qk_norm` and `attention_output_bias`: what they add, that it goes every way through the model, and that other models stay as they are.
Against transformers' own models: tests/test_convert.py."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

from arche_mdlm import MDLMForMaskedDiffusion

KINDS = {
    "normed": {"qk_norm": True},
    "qkv biases": {"attention_bias": True, "attention_output_bias": False},
    "output bias": {"attention_output_bias": True},
    "all": {"qk_norm": True, "attention_bias": True, "attention_output_bias": False},
}


@pytest.fixture
def build(build_mdlm):
    """A model whose norms and biases are not the initial ones and zeros."""

    def make(kind, **changes):
        model = build_mdlm(**KINDS[kind], **changes)
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name.endswith("bias") or "_norm" in name:
                    value.add_(torch.randn_like(value) * 0.5)
        return model

    return make


def canvas(model, rows=3, length=14):
    ids = torch.randint(4, 40, (rows, length))
    return ids.masked_fill(torch.rand(ids.shape) < 0.5, model.config.mask_token_id)


def test_a_model_without_them_is_a_llama(build_mdlm, tiny_config):
    for bias in (False, True):
        model = build_mdlm(attention_bias=bias)
        assert {type(layer.self_attn) for layer in model.model.layers} == {LlamaAttention}
        twin = LlamaForCausalLM(LlamaConfig(**tiny_config, attention_bias=bias))
        assert model.state_dict().keys() == twin.state_dict().keys()


def test_the_parameters_are_those_that_are_named(build):
    def names(kind):
        return {
            name.removeprefix("model.layers.1.self_attn.")
            for name in build(kind).state_dict()
            if ".1.self_attn" in name
        }

    weights = {f"{one}_proj.weight" for one in "qkvo"}
    biases = {f"{one}_proj.bias" for one in "qkv"}
    norms = {"q_norm.weight", "k_norm.weight"}
    found = {kind: names(kind) - weights for kind in KINDS}
    assert found == {"normed": norms, "qkv biases": biases, "output bias": {"o_proj.bias"}, "all": norms | biases}


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_some_positions_are_those_of_all(build, kind, attention):
    model = build(kind)
    model.set_attn_implementation(attention)
    ids = canvas(model)
    attended = torch.ones_like(ids)
    attended[1, :3] = 0
    everywhere = model(ids, attention_mask=attended).logits
    wanted = (ids == model.config.mask_token_id) & attended.bool()
    for positions in (wanted, wanted.flatten().nonzero()[:, 0]):
        found = model(ids, attention_mask=attended, positions=positions).logits
        torch.testing.assert_close(found, everywhere[wanted], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(build, kind):
    model = build(kind).train()
    clean = torch.randint(4, 40, (3, 14))
    ids = clean.masked_fill(torch.rand(clean.shape) < 0.5, model.config.mask_token_id)
    labels = clean.masked_fill(ids != model.config.mask_token_id, -100)
    model(ids, labels=labels, timesteps=torch.full((3,), 0.5)).loss.backward()
    # A key's bias adds the same to all scores of a query, but for rotation.
    still = [name for name, value in model.named_parameters() if value.grad is None or not bool(value.grad.any())]
    assert still == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_of_blocks_is_exact(build, kind):
    model = build(kind, diffusion="block", attention_block_length=4)
    prompt = torch.tensor([[0, 9, 11, 7]])
    options = {"max_new_tokens": 16, "num_diffusion_steps": 8, "eos_token_id": None, "do_sample": False}
    written = [model.generate(prompt, prefix_cache=cached, **options) for cached in (False, True)]
    assert torch.equal(*written)


@torch.no_grad()
def test_a_saved_model_is_the_same(build, tmp_path):
    model = build("all")
    model.save_pretrained(tmp_path)
    loaded, info = MDLMForMaskedDiffusion.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    ids = canvas(model)
    assert torch.equal(model(ids).logits, loaded(ids).logits)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["qk_norm"], saved["attention_output_bias"]) == (True, False)
    assert "base_model_tp_plan" not in saved
    assert "layers.*.self_attn.q_norm" in loaded.config.base_model_tp_plan
    assert (tmp_path / "attention_mdlm.py").is_file()
