"""Presets: they load, match their protocols, and mistakes are reported by name."""

import pytest

from arche_mdlm.configuration.checks import check_fit
from arche_mdlm.configuration.model_config import known_keys, make_config
from arche_mdlm.configuration.presets import NULL, available_presets, load_preset, preset_from_dict


def test_every_preset_loads_and_validates():
    names = available_presets()
    assert {"mini-mdlm", "mini-ar", "mini-gpt2", "controlled-mdlm", "controlled-ar", "arche-paper-mdlm"} <= set(names)
    for name in names:
        assert load_preset(name).name == name


def test_the_papers_protocol():
    ar, mdlm = load_preset("arche-paper-ar"), load_preset("arche-paper")
    for preset in (ar, mdlm):
        t, d = preset.training, preset.data
        assert (t.max_steps, t.batch_size, t.learning_rate, t.weight_decay) == (20_000, 32, 3e-4, 0.01)
        assert (t.betas, t.clip_norm, t.warmup_steps, t.min_lr_ratio) == ((0.9, 0.999), 1.0, 500, 0.05)
        assert (t.decay_all, t.mixed_precision, t.time_sampling, t.eval_every) == (True, "no", "uniform", 2000)
        assert (d.layout, d.context_length, d.max_tokens, d.min_characters) == ("windows", 512, 50_000_000, 51)
        assert (d.tokenizer, d.validation_fraction, preset.model.initialisation) == ("gpt2", 0.05, "pytorch")
    assert ar.training.objective == "next_token"
    assert mdlm.training.objective == "masked_mean"
    assert mdlm.model.config["noise_schedule"] == "cosine"
    assert mdlm.model.config["time_conditioning"] == "additive"


def test_the_controlled_arms_differ_in_the_paradigm_only():
    ar, mdlm = load_preset("controlled-ar"), load_preset("controlled-mdlm")
    assert ar.data == mdlm.data
    shared = {k: v for k, v in mdlm.model.config.items() if k != "noise_schedule"}
    assert shared == ar.model.config
    a, m = vars(ar.training), vars(mdlm.training)
    assert {k for k in a if a[k] != m[k]} == {"objective"}


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("mini-mdml", {}, "did you mean 'mini-mdlm'"),
        ("nothing", {}, "preset='nothing' is not one of"),
        ("mini-mdlm", {"training.objective": "nelb"}, "did you mean 'nelbo'"),
        ("mini-mdlm", {"training.objective": "next_token"}, "does not work with"),
        ("mini-ar", {"training.objective": "nelbo"}, "does not work with"),
        ("mini-mdlm", {"training.learning_rat": 1}, "did you mean 'learning_rate'"),
        ("mini-mdlm", {"training.max_steps": 0}, "training.max_steps=0"),
        ("mini-mdlm", {"training.learning_rate": -1.0}, "training.learning_rate=-1.0"),
        ("mini-mdlm", {"data.layout": "heaps"}, "data.layout='heaps'"),
        ("missing.yaml", {}, "is not a file"),
        ("mini-eso", {"data.layout": "packed"}, "data.layout='packed' does not work with model.config.diffusion='eso'"),
        (
            "mini-eso",
            {"training.objective": "converted"},
            "'converted' does not work with model.config.diffusion='eso'",
        ),
        ("mini-mdlm", {"training.learning_rate": "abc"}, "training.learning_rate='abc' must be a float"),
        ("mini-mdlm", {"training.max_steps": 2.5}, "training.max_steps=2.5 must be a int"),
        ("mini-mdlm", {"training.max_steps": NULL}, "training.max_steps=None must be a int"),
        ("mini-mdlm", {"data.max_tokens": "many"}, "data.max_tokens='many' must be a int | None"),
        ("mini-mdlm", {"training.betas": [0.9]}, r"training.betas=\[0.9\] must be"),
        ("mini-mdlm", {"training.learning_rate": float("nan")}, "training.learning_rate=nan must be above 0"),
        ("mini-mdlm", {"training.keep_checkpoints": 0}, "training.keep_checkpoints=0 must be at least 1"),
        ("mini-mdlm", {"training.stop_past_best": 1.0}, "training.stop_past_best=1.0 must be above 1"),
        ("mini-mdlm", {"training.ema_decay": 1.0}, "training.ema_decay=1.0 must be above 0 and below 1"),
        ("mini-mdlm", {"data.validation_fraction": 1.5}, "data.validation_fraction=1.5 must be above 0 and below 1"),
        ("mini-mdlm", {"data.long_documents": "chunk", "data.layout": "packed"}, "needs data.layout='rows'"),
        ("mini-mdlm", {"training.branches": [10]}, "branches needs training.schedule=warmup_stable_decay"),
        ("mini-mdlm", {"training.branches": ["x"]}, "training.branches=.* must be"),
        # Keys that do not exist, at every level.
        ("mini-mdlm", {"foo.bar": 1}, "foo.bar is not a setting"),
        ("mini-mdlm", {"max_steps": 1}, "did you mean 'training.max_steps'"),
        ("mini-mdlm", {"trainin.max_steps": 1}, "did you mean 'training.max_steps'"),
        ("mini-mdlm", {"training": 1}, "training is not a setting"),
        ("mini-mdlm", {"training.max_steps.more": 1}, "training.max_steps is a single value"),
        ("mini-mdlm", {"model.config": 3}, "model.config=3 must be a dict"),
        ("mini-mdlm", {"model.config.hidden_sizes": 3}, "did you mean 'hidden_size'"),
        ("mini-ar", {"model.config.hidden_sizes": 3}, "did you mean 'hidden_size'"),
        ("mini-gpt2", {"model.config.hidden_sizes": 3}, "did you mean 'hidden_size'"),
        ("mini-ar", {"model.config.noise_schedule": "linear"}, "model.config.noise_schedule does not exist"),
        ("mini-gpt2", {"model.config.rms_norm_eps": 1e-6}, "model.config.rms_norm_eps does not exist"),
        ("mini-gpt2", {"model.config.rope_theta": 1}, "model.config.rope_theta does not exist"),
        ("mini-gpt2", {"model.config.attention_bias": False}, "GPT-2 always has these biases"),
        ("mini-gpt2", {"model.config.n_embd": 96}, "n_embd are the same setting"),
        ("mini-mdlm", {"model.config.mask_token_id": 3}, "mask_token_id comes from the tokenizer"),
        ("mini-mdlm", {"model.config.dtype": "bfloat16"}, "model.config.dtype does not exist"),
        # Values of which no model can be built, or none that runs.
        ("mini-mdlm", {"model.config.hidden_size": 97}, r"hidden_size=97.*not a multiple of the number of attention"),
        ("mini-ar", {"model.config.hidden_size": 97}, r"hidden_size=97.*not a multiple of the number of attention"),
        ("mini-gpt2", {"model.config.hidden_size": 97}, r"hidden_size=97.*must be divisible"),
        ("mini-mdlm", {"model.config.num_key_value_heads": 4}, "num_key_value_heads=4.* gives no model"),
        ("mini-mdlm", {"model.config.hidden_act": "foo"}, r"hidden_act='foo'\) gives no model: 'foo' is unknown"),
        ("mini-mdlm", {"model.config.num_hidden_layers": 0}, "num_hidden_layers=0 must be a whole number"),
        ("mini-mdlm", {"model.config.hidden_size": "abc"}, "hidden_size='abc' must be a whole number"),
        ("mini-mdlm", {"model.config.noise_schedule": "sine"}, "noise_schedule='sine' is not one of linear, cosine"),
        ("mini-mdlm", {"model.config.attention_dropout": 2.0}, "attention_dropout=2.0 must be at least 0 and below 1"),
        ("mini-mdlm", {"model.config.rope_theta": "x"}, "model.config.rope_theta='x' must be a number"),
        ("mini-mdlm", {"model.config.rope_parameters": {"rope_type": "foo"}}, "rope_parameters=.*'foo' is unknown"),
        ("mini-mdlm", {"model.config.attn_implementation": "foo"}, "attn_implementation='foo'"),
        ("mini-mdlm", {"model.config.attention_bias": False}, "initialisation='local' needs"),
        ("mini-mdlm", {"training.compile": "yes"}, "training.compile='yes' must be a bool"),
    ],
)
def test_mistakes_are_named(name, overrides, message):
    with pytest.raises(ValueError, match=message) as error:
        load_preset(name, overrides)
    assert "\n" not in str(error.value)


def test_overrides_apply_and_none_changes_nothing():
    preset = load_preset("mini", {"training.max_steps": 7, "model.config.hidden_size": 96, "training.seed": None})
    assert preset.name == "mini-mdlm"
    assert preset.training.max_steps == 7
    assert preset.model.config["hidden_size"] == 96
    assert preset.training.seed == 0


def test_null_asked_for_by_name_counts():
    preset = load_preset("quickstart", {"data.validation_fraction": NULL, "model.config.head_dim": NULL})
    assert preset.data.validation_fraction is None
    assert make_config("mdlm", preset.model.config).head_dim == 24


def test_a_preset_comes_back_from_its_dict():
    for name in available_presets():
        preset = load_preset(name)
        assert preset_from_dict(preset.to_dict()) == preset
    assert preset_from_dict(preset.to_dict(), {"training.seed": 5}).training.seed == 5


@pytest.mark.parametrize("architecture", ["mdlm", "llama", "gpt2"])
def test_every_known_key_reaches_the_configuration(architecture):
    """Each accepted key has an effect: changing it must change the configuration."""
    values = {"hidden_size": 48, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 3,
              "max_position_embeddings": 8, "vocab_size": 50}  # fmt: skip
    if architecture == "gpt2":
        values = {}
    changes = {
        "hidden_size": 24, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 6, "vocab_size": 60,
        "max_position_embeddings": 4, "num_key_value_heads": 1, "head_dim": 8, "hidden_act": "gelu", "rope_theta": 5,
        "initializer_range": 0.5, "rms_norm_eps": 1e-3, "tie_word_embeddings": True, "attention_bias": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}, "attention_dropout": 0.5, "mlp_bias": True,
        "output_vocab_size": 40, "attention_block_length": 2, "time_conditioning": "additive",
        "noise_schedule": "cosine", "num_diffusion_steps": 3, "parameterization": "score",
        "prediction_offset": 1, "attn_implementation": "eager", "attention_output_bias": False, "qk_norm": True,
        "n_embd": 24, "n_inner": 8, "n_layer": 2, "n_head": 6, "n_positions": 4, "activation_function": "relu",
        "resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5, "layer_norm_epsilon": 1e-3,
        "scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True,
    }  # fmt: skip
    if architecture == "gpt2":
        changes |= {"tie_word_embeddings": False}

    def described(config) -> dict:
        return config.to_dict() | {"attention": config._attn_implementation}

    before = described(make_config(architecture, values))
    for key in known_keys(architecture):
        if key in ("diffusion", "denoiser", "alpha_0") or (architecture == "gpt2" and key == "attention_bias"):
            continue  # these go with others only
        after = described(make_config(architecture, values | {key: changes[key]}))
        assert after != before, key


def test_data_that_does_not_fit_the_model():
    for name in available_presets():
        check_fit(load_preset(name))
    with pytest.raises(ValueError, match="=512 is more than model.config.max_position_embeddings=256"):
        check_fit(load_preset("mini-mdlm", {"data.context_length": 512}))
    with pytest.raises(ValueError, match="data.vocab_size=5000 is more than model.config.vocab_size=4096"):
        check_fit(load_preset("mini-ar", {"data.vocab_size": 5000}))


def test_rope_theta_is_the_models():
    for architecture in ("mdlm", "llama"):
        config = make_config(architecture, {"rope_theta": 5, "hidden_size": 48, "num_attention_heads": 3})
        assert config.rope_parameters == {"rope_type": "default", "rope_theta": 5.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arms: {mdlm: {}}\ntraning: {}", "did you mean 'training'"),
        ("arms: {mdlm: {modell: {}}}", "did you mean 'model'"),
        ("arms: {mdlm: {training: {max_step: 3}}}", "did you mean 'max_steps'"),
        ("arms: {mdlm: {model: {config: {hidden_sizes: 3}}}}", "did you mean 'hidden_size'"),
        ("training: {}", "must be a mapping with the key 'arms'"),
        ("- 1", "must be a mapping"),
        ("arms: [mdlm", "is not valid YAML"),
        ("arms: {mdlm: 3}", "arms.mdlm must be a mapping"),
        ("training: 3\narms: {mdlm: {}}", "must be a mapping"),
        ("arms: {ar: {}, gpt2: {}}", "has no arm 'mdlm', only ar, gpt2"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_preset(str(path))
    assert "\n" not in str(error.value)


def test_a_file_with_one_arm_is_that_arm(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("arms: {ar: {model: {architecture: llama}, training: {objective: next_token}}}")
    assert load_preset(str(path)).name == "mine-ar"


@pytest.mark.parametrize("preset", ["mini-mdlm", "mini-ar", "mini-gpt2"])
@pytest.mark.parametrize("attention", ["sdpa", "eager", "flex_attention"])
def test_a_preset_takes_every_attention_of_torch(preset, attention):
    """Flex attention does not run where a model is checked, on the meta device."""
    config = load_preset(preset, {"model.config.attn_implementation": attention}).model.config
    assert config["attn_implementation"] == attention
