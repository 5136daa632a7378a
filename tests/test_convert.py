"""`arche-mdlm convert`: the trunk of an AR checkpoint becomes bidirectional and keeps all its weights."""

import argparse
import json

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from arche_mdlm.commands import convert
from arche_mdlm.commands import main as cli
from arche_mdlm.training import train
from arche_mdlm.training.data.tokenizers_io import train_bpe
from arche_mdlm.training.models.cost import LOG, cost_of

TEXT = "Once upon a time there was a little girl."


def plain_tokenizer(**specials):
    """A byte-level BPE as AR models have it: neither mask nor pad."""
    backend = train_bpe([TEXT] * 4, vocab_size=280).backend_tokenizer
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **({"bos_token": "<|bos|>", "eos_token": "<|eos|>"} | specials)
    )


def save_llama(folder, tokenizer, dtype=torch.float32, **changes):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "initializer_range": 0.2}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}
    config = LlamaConfig(**shape | ids | rope | {"vocab_size": len(tokenizer)} | changes)
    model = LlamaForCausalLM(config).to(dtype).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


AR_TYPES = {
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None, "head_dim": 16}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16}),
    "qwen3 with biases": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16, "attention_bias": True}),
}


def save_ar(folder, kind, tokenizer, **changes):
    """A model of another type than Llama, with biases and norms that are not the initial zeros and ones."""
    torch.manual_seed(0)
    config_class, model_class, own = AR_TYPES[kind]
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "max_position_embeddings": 64, "initializer_range": 0.2, "vocab_size": len(tokenizer), "tie_word_embeddings": False,
             "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
             "bos_token_id": 0, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}  # fmt: skip
    model = model_class(config_class(**shape | own | changes)).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                value.add_(torch.randn_like(value) * 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def causal_mask(length, dtype=torch.float32):
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    return torch.zeros(length, length, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[None, None]


def run(source, destination, **options):
    values = {"noise_schedule": None, "context_length": None, "diffusion": "masked", "block_length": None}
    values |= {"shift": False, "revision": None} | options
    return convert.run(argparse.Namespace(source=str(source), destination=destination, **values))


@pytest.mark.parametrize(
    ("tied", "dtype"), [(True, torch.float32), (False, torch.float32), (True, torch.bfloat16), (False, torch.bfloat16)]
)
def test_under_a_causal_mask_it_predicts_what_the_source_predicts(tmp_path, tied, dtype):
    tokenizer = plain_tokenizer()
    vocab_size = len(tokenizer)
    source = save_llama(tmp_path / "ar", tokenizer, dtype, tie_word_embeddings=tied)

    assert run(tmp_path / "ar", tmp_path / "mdlm", noise_schedule="cosine") == 0

    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "mdlm", output_loading_info=True)
    assert not any(info.values())
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    weights = model.state_dict()
    for name, weight in source.state_dict().items():
        assert torch.equal(weights[name][: len(weight)], weight), name

    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = source(ids).logits
        as_source = model.eval()(ids, attention_mask=causal_mask(ids.shape[1], dtype)).logits
        both_ways = model(ids).logits
    known = [i for i in range(vocab_size) if i != model.config.mask_token_id]
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2 * expected.abs().max().item()
    torch.testing.assert_close(as_source[..., known], expected[..., known], atol=tolerance, rtol=1e-5)
    assert (as_source[..., model.config.mask_token_id] == -torch.inf).all()
    assert (both_ways[..., known] - expected[..., known]).abs().max() > 0.1, "it should look ahead"


@torch.no_grad()
@pytest.mark.parametrize("kind", AR_TYPES)
def test_other_types_predict_under_a_causal_mask_what_they_did(tmp_path, kind):
    tokenizer = plain_tokenizer()
    source = save_ar(tmp_path / "ar", kind, tokenizer)
    assert run(tmp_path / "ar", tmp_path / "mdlm") == 0

    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "mdlm", output_loading_info=True)
    assert not any(info.values())
    layer = model.eval().model.layers[0].self_attn
    assert (layer.o_proj.bias is None) == ("biases" not in kind)
    assert (layer.q_proj.bias is None) == (kind in ("mistral", "qwen3"))
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    known = [i for i in range(len(tokenizer)) if i != model.config.mask_token_id]
    mask, expected = causal_mask(ids.shape[1]), source(ids).logits[..., known]
    torch.testing.assert_close(model(ids, attention_mask=mask).logits[..., known], expected, atol=1e-5, rtol=1e-5)
    # The short way through the last layer, with bools and with indices.
    wanted = torch.zeros_like(ids, dtype=torch.bool)
    wanted[0, [2, 5, 11]] = True
    for positions in (wanted, wanted.flatten().nonzero()[:, 0]):
        found = model(ids, attention_mask=mask, positions=positions).logits
        torch.testing.assert_close(found[:, known], expected[wanted], atol=1e-5, rtol=1e-5)
    model.set_attn_implementation("eager")
    assert [tuple(each.shape) for each in model(ids, output_attentions=True).attentions] == [
        (1, 4, *mask.shape[2:])
    ] * 2
    config = AutoConfig.from_pretrained(tmp_path / "mdlm")
    assert not hasattr(config, "layer_types")
    assert not hasattr(config, "sliding_window")


def test_a_window_of_attention_bounds_the_context(tmp_path):
    save_ar(tmp_path / "ar", "mistral", plain_tokenizer(), sliding_window=32)
    with pytest.raises(ValueError, match="has sliding_window=32.*context_length=64 must be at most 32"):
        run(tmp_path / "ar", tmp_path / "mdlm")
    assert run(tmp_path / "ar", tmp_path / "mdlm", context_length=32) == 0


def test_a_tokenizer_without_bos_gets_the_one_of_the_config(tmp_path):
    save_ar(tmp_path / "ar", "qwen2", plain_tokenizer(bos_token=None))
    model, tokenizer, _ = convert.convert(tmp_path / "ar")
    assert (tokenizer.bos_token, model.config.bos_token_id) == ("<|bos|>", 0)


def test_tokens_the_vocabulary_has_already_keep_their_rows(tmp_path):
    # `plain_tokenizer` knows [MASK] and <|pad|>, as some checkpoints do, but as nothing special.
    tokenizer = plain_tokenizer()
    source = save_llama(tmp_path / "ar", tokenizer)

    model, converted, added = convert.convert(tmp_path / "ar")

    assert added == ["[MASK]", "<|pad|>"]
    assert (converted.mask_token, converted.pad_token) == ("[MASK]", "<|pad|>")
    assert (model.config.mask_token_id, model.config.pad_token_id) == (3, 2)
    assert model.config.vocab_size == len(converted) == len(tokenizer)
    assert torch.equal(model.model.embed_tokens.weight, source.model.embed_tokens.weight)
    assert converted("a [MASK] girl")["input_ids"].count(3) == 1
    assert converted.padding_side == "left"


@pytest.mark.parametrize("spare", [0, 1, 6])
def test_rows_are_appended_where_none_are_spare(tmp_path, spare):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<s>", "</s>", "once", "upon", "a", "time"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<s>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    source = save_llama(tmp_path / "ar", tokenizer, vocab_size=6 + spare, tie_word_embeddings=False)

    model, converted, added = convert.convert(tmp_path / "ar")

    assert len(added) == 2
    assert (converted.mask_token_id, converted.pad_token_id) == (6, 7)
    assert model.config.vocab_size == max(8, 6 + spare)
    for old, new in (
        (source.model.embed_tokens.weight, model.model.embed_tokens.weight),
        (source.lm_head.weight, model.lm_head.weight),
    ):
        assert new.shape == (model.config.vocab_size, 32)
        assert torch.equal(new[:6], old[:6])
        assert torch.equal(new[8:], old[8:])
        torch.testing.assert_close(new[6:8], old[:6].mean(0).expand(2, -1))


def test_the_result_keeps_the_shape_and_loads_by_every_auto_class(tmp_path):
    tokenizer = plain_tokenizer()
    source = save_llama(tmp_path / "ar", tokenizer, attention_bias=True)
    run(tmp_path / "ar", tmp_path / "mdlm", noise_schedule="cosine", context_length=32)

    config = AutoConfig.from_pretrained(tmp_path / "mdlm")
    assert (config.model_type, config.noise_schedule, config.max_position_embeddings) == ("mdlm", "cosine", 32)
    for name in ("hidden_size", "intermediate_size", "num_key_value_heads", "rms_norm_eps", "rope_parameters",
                 "attention_bias", "tie_word_embeddings", "head_dim"):  # fmt: skip
        assert getattr(config, name) == getattr(source.config, name), name
    names = [type(auto.from_pretrained(tmp_path / "mdlm")).__name__ for auto in (AutoModel, AutoModelForMaskedLM)]
    assert names == ["MDLMModel", "MDLMForMaskedDiffusion"]
    assert (tmp_path / "mdlm" / "modeling_mdlm.py").is_file()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "mdlm").eval()
    defaults = model.generation_config
    assert (defaults.do_sample, defaults.temperature, defaults.top_k, defaults.max_length) == (True, 1.0, 0, 32)
    inputs = AutoTokenizer.from_pretrained(tmp_path / "mdlm")("Once upon a [MASK]", return_tensors="pt")
    filled = model.generate(**inputs, max_new_tokens=0, num_diffusion_steps=2)
    assert not (filled == config.mask_token_id).any()


@torch.no_grad()
def test_an_mdlm_becomes_block_diffusion_with_its_weights(tmp_path):
    """With one block for the whole text it predicts what it did; with more it is trained on."""
    save_llama(tmp_path / "ar", plain_tokenizer())
    run(tmp_path / "ar", tmp_path / "mdlm", noise_schedule="cosine")
    for length in (64, 8):
        run(tmp_path / "mdlm", tmp_path / f"block-{length}", diffusion="block", block_length=length)
    before, whole, blocks = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("mdlm", "block-64", "block-8")
    )
    for model, length in ((whole, 64), (blocks, 8)):
        config = model.config
        assert (config.diffusion, config.attention_block_length, config.noise_schedule) == ("block", length, "cosine")
        for name, weight in before.state_dict().items():
            assert torch.equal(weight, model.state_dict()[name]), name
    canvas = torch.tensor([[0, 5, before.config.mask_token_id, 9, *[before.config.mask_token_id] * 12]])
    assert torch.equal(before(canvas).logits, whole(canvas).logits)
    assert not torch.allclose(before(canvas).logits[:, :8], blocks(canvas).logits[:, :8])


@torch.no_grad()
@pytest.mark.parametrize("source", ["ar", "mdlm"])
def test_it_becomes_a_model_of_uniform_noise_with_its_weights(tmp_path, source):
    """What it is told about the noise adds nothing at first, so that it starts from what the source computes."""
    save_llama(tmp_path / "ar", plain_tokenizer())
    run(tmp_path / "ar", tmp_path / "mdlm")
    run(tmp_path / source, tmp_path / "uniform", diffusion="uniform")
    run(tmp_path / source, tmp_path / "blocks", diffusion="uniform_block", block_length=8)
    before, uniform, blocks = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name).eval() for name in ("mdlm", "uniform", "blocks")
    )
    assert (uniform.config.diffusion, uniform.config.time_conditioning) == ("uniform", "log_snr")
    assert (blocks.config.diffusion, blocks.config.attention_block_length) == ("uniform_block", 8)
    canvas = torch.tensor([[0, 5, 7, 9, 11, 6]])
    assert torch.equal(uniform(canvas, timesteps=torch.tensor([0.3])).logits, before(canvas).logits)
    assert uniform.generate(canvas, max_new_tokens=4, num_diffusion_steps=2).shape == (1, 10)


@torch.no_grad()
def test_shifted_it_predicts_what_the_source_predicts_on_a_canvas_written_from_left_to_right(tmp_path, capsys):
    tokenizer = plain_tokenizer()
    source = save_llama(tmp_path / "ar", tokenizer)
    assert run(tmp_path / "ar", tmp_path / "mdlm", shift=True) == 0
    assert "training.attention_annealing_steps=N" in capsys.readouterr().out

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "mdlm").eval()
    assert model.config.prediction_offset == 1
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    length = ids.shape[1]
    index = torch.arange(length)[None]
    causal = torch.stack([torch.zeros_like(index), index, index, index], dim=1)  # (1, 4, L), as `Sight`
    known = [i for i in range(len(tokenizer)) if i != model.config.mask_token_id]
    for given in range(1, length):
        canvas = ids.masked_fill(index >= given, model.config.mask_token_id)
        found = model(canvas, sight=causal).logits[0, given]
        torch.testing.assert_close(found[known], source(ids[:, :given]).logits[0, -1, known], atol=1e-4, rtol=1e-5)
    inputs = AutoTokenizer.from_pretrained(tmp_path / "mdlm")("Once upon a [MASK]", return_tensors="pt")
    filled = model.generate(**inputs, max_new_tokens=3, num_diffusion_steps=3)
    assert not (filled == model.config.mask_token_id).any()


def test_a_shifted_model_is_trained(tmp_path, monkeypatch):
    """From the weights of an AR model, while its attention opens; the first token behind the BOS is learnt, too."""
    monkeypatch.setenv("ARCHE_MDLM_CACHE", str(tmp_path / "cache"))
    save_llama(tmp_path / "ar", plain_tokenizer())
    run(tmp_path / "ar", tmp_path / "start", shift=True)
    texts = [f"{name} {verb} {where}." for name in ("Tim", "Sue", "Ann") for verb in ("ran", "sat", "hid")
             for where in ("home", "to me", "red")]  # fmt: skip
    (tmp_path / "stories.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    settings = {"data.context_length": 64, "data.validation_fraction": 0.3, "training.max_steps": 2, "training.batch_size": 4,
                "training.eval_every": 2, "training.attention_annealing_steps": 2}  # fmt: skip
    line = [
        "--preset",
        "quickstart-mdlm",
        "--data",
        str(tmp_path / "stories.jsonl"),
        "--init_from",
        str(tmp_path / "start"),
    ]
    line += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    assert train.main([*line, "--output_dir", str(tmp_path / "run")]) == 0
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "final")
    assert trained.config.prediction_offset == 1
    assert not torch.equal(
        trained.lm_head.weight, AutoModelForCausalLM.from_pretrained(tmp_path / "start").lm_head.weight
    )
    assert train.main([*line, "--layout", "windows", "--output_dir", str(tmp_path / "windows")]) == 2
    assert not (tmp_path / "windows").exists()


def test_what_cannot_be_converted_is_refused(tmp_path):
    tokenizer = plain_tokenizer()
    save_llama(tmp_path / "ar", tokenizer)
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path / "gpt2")
    (tmp_path / "empty").mkdir()
    run(tmp_path / "ar", tmp_path / "mdlm")
    run(tmp_path / "ar", tmp_path / "shifted", shift=True)
    run(tmp_path / "ar", tmp_path / "block", diffusion="block", block_length=4)
    save_llama(tmp_path / "no-bos", plain_tokenizer(bos_token=None, eos_token="<|eos|>"), bos_token_id=None)

    for source, options, message in (
        (
            "gpt2",
            {},
            "is of type 'gpt2'; only types 'llama', 'mistral', 'qwen2', 'qwen3' can .* it has learned positions",
        ),
        ("ar", {"shift": True, "diffusion": "block", "block_length": 4}, "shift=True with diffusion='block'"),
        ("shifted", {"diffusion": "block", "block_length": 4}, "has prediction_offset=1; only diffusion models"),
        ("mdlm", {}, "is already a masked diffusion model"),
        ("empty", {}, "not a checkpoint: config.json is missing"),
        ("nowhere/at/all", {}, "does not exist"),
        ("no-bos", {}, "has no bos_token"),
        ("ar", {"noise_schedule": "sine"}, "noise_schedule='sine' is not one of linear, cosine"),
        ("ar", {"context_length": 65}, "context_length=65 is not in 1 to 64"),
        (
            "ar",
            {"diffusion": "block"},
            "block_length=None with diffusion='block': only 'block' and 'uniform_block' have it, and they need it",
        ),
        ("ar", {"block_length": 4}, "block_length=4 with diffusion='masked'"),
        ("block", {}, "is already a masked diffusion model"),
        (
            "block",
            {"diffusion": "block", "block_length": 2},
            "has diffusion='block' and time_conditioning='none'; only diffusion='masked'",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            run(tmp_path / source, tmp_path / "new", **options)
        assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="there already and not empty"):
        run(tmp_path / "ar", tmp_path / "mdlm")


def test_a_missing_weight_is_an_error(tmp_path):
    from safetensors.torch import load_file, save_file

    save_llama(tmp_path / "ar", plain_tokenizer())
    path = tmp_path / "ar" / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})

    with pytest.raises(ValueError, match=r"incomplete: it lacks weights for model\.layers\.1\.mlp\.up_proj\.weight"):
        run(tmp_path / "ar", tmp_path / "new")


def test_what_the_weights_have_cost_goes_with_them(tmp_path):
    """A training that starts from the new folder adds its own."""
    save_llama(tmp_path / "ar", plain_tokenizer())
    steps = {"step": 20, "tokens": 100, "seconds": 2.0, "tflop_per_second": 3.0}
    (tmp_path / "ar" / LOG).write_text(json.dumps({"run": {}, "history": [steps]}), encoding="utf-8")
    assert cli.main(["convert", str(tmp_path / "ar"), str(tmp_path / "new")]) == 0
    assert cost_of(tmp_path / "new")["before"] == {"steps": 20, "tokens": 100, "tflop": 6.0}
