"""Presets: they load, they are the protocols they claim to be, and a mistake is named."""

import pytest

from arche_mdlm.configuration.presets import available_presets, load_preset


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
        ("mini-mdlm", {"training.objective": "next_token"}, "does not fit"),
        ("mini-ar", {"training.objective": "nelbo"}, "does not fit"),
        ("mini-mdlm", {"training.learning_rat": 1}, "did you mean 'learning_rate'"),
        ("mini-mdlm", {"training.max_steps": 0}, "training.max_steps=0"),
        ("mini-mdlm", {"training.learning_rate": -1.0}, "training.learning_rate=-1.0"),
        ("mini-mdlm", {"data.layout": "heaps"}, "data.layout='heaps'"),
        ("missing.yaml", {}, "is no file"),
        ("mini-mdlm", {"training.learning_rate": "abc"}, "training.learning_rate='abc' must be a float"),
        ("mini-mdlm", {"training.max_steps": 2.5}, "training.max_steps=2.5 must be a int"),
        ("mini-mdlm", {"training.compile": "yes"}, "training.compile='yes' must be a bool"),
    ],
)
def test_mistakes_are_named(name, overrides, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        load_preset(name, overrides)


def test_overrides_apply_and_none_changes_nothing():
    preset = load_preset("mini", {"training.max_steps": 7, "model.config.hidden_size": 64, "training.seed": None})
    assert preset.name == "mini-mdlm"
    assert preset.training.max_steps == 7
    assert preset.model.config["hidden_size"] == 64
    assert preset.training.seed == 0
