"""The model against hand-made answers: counts, padding, attention backends, the head, the loss, checkpoints."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, LlamaForCausalLM

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion, MDLMModel
from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.training.models.build import build_model

MASK, PAD = 3, 2


@pytest.fixture
def canvas():
    """(2, 10) tokens, a third of them masked."""
    tokens = torch.randint(4, 40, (2, 10))
    return tokens.masked_fill(torch.rand(2, 10) < 0.35, MASK)


def parameters(preset: str) -> int:
    settings = replace(load_preset(preset).model, initialisation="default")  # values cannot be set on the meta device
    with torch.device("meta"):
        model = build_model(settings)
    return sum(parameter.numel() for parameter in model.parameters())


# --- size -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("arche-paper-ar", 123_551_232),
        ("arche-paper-mdlm", 162_739_968),
        ("controlled-mdlm", 123_552_000),
        ("controlled-ar", 123_552_000),
    ],
)
def test_parameter_counts(preset, count):
    assert parameters(preset) == count


@pytest.mark.parametrize("family", ["mini", "quickstart"])
def test_the_arms_of_a_pair_have_equal_counts(family):
    assert parameters(f"{family}-mdlm") == parameters(f"{family}-ar")


# --- trunk ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(build_mdlm, canvas, side, attention):
    model = build_mdlm(attn_implementation=attention)
    padded = F.pad(canvas, (4, 0) if side == "left" else (0, 4), value=PAD)
    mask = F.pad(torch.ones_like(canvas), (4, 0) if side == "left" else (0, 4))
    own = slice(4, None) if side == "left" else slice(0, 10)

    with torch.no_grad():
        alone = model(canvas).logits
        beside = model(padded, attention_mask=mask).logits[:, own]

    torch.testing.assert_close(beside, alone, atol=1e-5, rtol=0)


def test_every_position_sees_both_ways(tiny_mdlm, canvas):
    changed = canvas.clone()
    changed[:, [0, -1]] = 5 + canvas[:, [0, -1]] % 30

    with torch.no_grad():
        difference = (tiny_mdlm(canvas).logits - tiny_mdlm(changed).logits)[..., 4:].abs().amax(-1)

    assert bool((difference > 1e-4).all())


@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
def test_attention_backends_agree_with_eager(build_mdlm, canvas, attention):
    mask = torch.ones_like(canvas)
    mask[0, :3] = 0
    eager, other = build_mdlm(attn_implementation="eager"), build_mdlm(attn_implementation=attention)
    assert other.config._attn_implementation == attention

    with torch.no_grad():
        expected, actual = eager(canvas, attention_mask=mask).logits, other(canvas, attention_mask=mask).logits

    real = mask.bool()
    torch.testing.assert_close(actual[real], expected[real], atol=1e-5, rtol=1e-5)


@pytest.mark.long
def test_flex_attention_on_a_cpu_is_right_at_every_length_and_is_not_compiled(build_mdlm, compiler):
    """Heads of 8 values: what torch compiles for a CPU has wrong numbers in one of ten calls, and does not build for the second length."""
    eager, flex = build_mdlm(attn_implementation="eager"), build_mdlm(attn_implementation="flex_attention")
    with torch.no_grad():
        for length in (24, 17, *[24] * 40, *[72] * 40):
            ids = torch.randint(4, 40, (3, length))
            torch.testing.assert_close(flex(ids).logits, eager(ids).logits, atol=1e-5, rtol=1e-5)
        with pytest.raises(Exception, match="'flex_attention' in a compiled model on a CPU.*use 'sdpa'"):
            torch.compile(flex, fullgraph=True)(ids)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_gradient_checkpointing_gives_the_same_gradients(build_mdlm, canvas):
    labels = torch.randint(4, 40, canvas.shape).masked_fill(canvas != MASK, -100)

    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        model = build_mdlm().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        model(canvas, labels=labels).loss.backward()
        return [parameter.grad for parameter in model.parameters()]

    for plain, checkpointed in zip(gradients(False), gradients(True), strict=True):
        assert plain.abs().sum() > 0
        torch.testing.assert_close(checkpointed, plain)


def test_additive_time_conditioning(build_mdlm, canvas):
    model = build_mdlm(time_conditioning="additive")

    with torch.no_grad():
        early = model(canvas, timesteps=torch.tensor([0.1, 0.1])).logits[..., 4:]
        late = model(canvas, timesteps=torch.tensor([0.1, 0.9])).logits[..., 4:]

    torch.testing.assert_close(early[0], late[0])
    assert (early[1] - late[1]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="timesteps=None.*additive"):
        model(canvas)


def test_without_time_conditioning_timesteps_change_no_logits(tiny_mdlm, canvas):
    with torch.no_grad():
        torch.testing.assert_close(tiny_mdlm(canvas, timesteps=torch.rand(2)).logits, tiny_mdlm(canvas).logits)


# --- head -------------------------------------------------------------------------------------------------------------


def test_the_mask_is_never_predicted_and_positions_agree_with_full_logits(tiny_mdlm, canvas):
    positions = canvas == MASK

    with torch.no_grad():
        full = tiny_mdlm(canvas).logits
        asked = tiny_mdlm(canvas, positions=positions).logits

    assert full.shape == (2, 10, 40)
    assert bool((full[..., MASK] == -torch.inf).all())
    assert bool(full[..., [i for i in range(40) if i != MASK]].isfinite().all())
    torch.testing.assert_close(asked, full[positions])


def test_a_narrow_head_appends_impossible_columns(build_mdlm, canvas):
    model = build_mdlm(tie_word_embeddings=False, output_vocab_size=36, mask_token_id=39)

    with torch.no_grad():
        logits = model(canvas).logits

    assert model.lm_head.weight.shape == (36, 32)
    assert logits.shape[-1] == 40
    assert bool((logits[..., 36:] == -torch.inf).all())
    assert bool(logits[..., :36].isfinite().all())


@pytest.mark.parametrize("how", ["positions", "labels"])
def test_the_head_runs_only_where_it_is_asked(tiny_mdlm, canvas, how):
    rows = []
    tiny_mdlm.lm_head.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].shape[:-1].numel()))
    asked = canvas == MASK

    if how == "positions":
        tiny_mdlm(canvas, positions=asked)
    else:
        tiny_mdlm(canvas, labels=torch.full_like(canvas, 7).masked_fill(~asked, -100), skip_logits=True)
    tiny_mdlm(canvas)

    assert 0 < int(asked.sum()) < canvas.numel()
    assert rows == [int(asked.sum()), canvas.numel()]


def test_nothing_asked_is_no_error(tiny_mdlm, canvas):
    nowhere = torch.zeros_like(canvas, dtype=torch.bool)
    assert tiny_mdlm(canvas, positions=nowhere).logits.shape == (0, 40)
    assert tiny_mdlm(canvas, labels=torch.full_like(canvas, -100)).loss == 0


# --- loss -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def labelled(tiny_mdlm, canvas):
    """(labels, cross-entropies (2, 10), 0 without a label)."""
    labels = torch.randint(4, 40, canvas.shape).masked_fill(canvas != MASK, -100)
    with torch.no_grad():
        logits = tiny_mdlm(canvas).logits
    return labels, F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=-100)


def test_loss_without_times_is_a_mean_over_the_labels(tiny_mdlm, canvas, labelled):
    labels, nats = labelled
    output = tiny_mdlm(canvas, labels=labels)
    torch.testing.assert_close(output.loss, nats.sum() / (labels != -100).sum())
    torch.testing.assert_close(output.token_nll, nats[labels != -100])


def test_loss_with_times_is_the_nelbo_over_all_tokens(build_mdlm, canvas, labelled):
    labels, nats = labelled
    times = torch.tensor([0.25, 0.8])
    linear = nats[0].sum() / 0.25 + nats[1].sum() / 0.8
    torch.testing.assert_close(build_mdlm()(canvas, labels=labels, timesteps=times).loss, linear / 20)
    torch.testing.assert_close(
        build_mdlm()(canvas, labels=labels, timesteps=times, num_items_in_batch=7).loss, linear / 7
    )
    cosine = torch.pi / torch.tan(torch.pi / 2 * times)
    torch.testing.assert_close(
        build_mdlm(noise_schedule="cosine")(canvas, labels=labels, timesteps=times).loss,
        (nats.sum(-1) * cosine).sum() / 20,
    )


def test_padding_is_not_counted_in_the_nelbo(tiny_mdlm, canvas, labelled):
    labels, _ = labelled
    times = torch.tensor([0.25, 0.8])
    padded = F.pad(canvas, (0, 5), value=PAD)
    mask, wide = F.pad(torch.ones_like(canvas), (0, 5)), F.pad(labels, (0, 5), value=-100)
    torch.testing.assert_close(
        tiny_mdlm(padded, attention_mask=mask, labels=wide, timesteps=times).loss,
        tiny_mdlm(canvas, labels=labels, timesteps=times).loss,
    )


@pytest.mark.parametrize("per_token", [False, True])
def test_loss_weights_replace_the_schedule(tiny_mdlm, canvas, labelled, per_token):
    labels, nats = labelled
    weights = torch.rand(2, 10) if per_token else torch.tensor([2.0, 0.5])
    expected = (nats * (weights if per_token else weights[:, None])).sum() / 20
    output = tiny_mdlm(canvas, labels=labels, timesteps=torch.tensor([0.3, 0.4]), loss_weights=weights)
    torch.testing.assert_close(output.loss, expected)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time_conditioning": "film"}, "time_conditioning='film' is not one of none, additive"),
        ({"noise_schedule": "cubic"}, "noise_schedule='cubic' is not one of linear, cosine"),
        ({"mask_token_id": 40}, "mask_token_id=40 is not in the vocabulary"),
        ({"mask_token_id": -1}, "mask_token_id=-1 is not in the vocabulary"),
        ({"output_vocab_size": 41, "tie_word_embeddings": False}, "output_vocab_size=41 is not in 1 to vocab_size=40"),
        ({"output_vocab_size": 39}, "output_vocab_size=39 needs tie_word_embeddings=False"),
        ({"num_diffusion_steps": 0}, "num_diffusion_steps=0 must be at least 1"),
    ],
)
def test_configuration_errors_name_argument_and_value(tiny_config, changes, message):
    with pytest.raises(ValueError, match=message):
        MDLMConfig(**{**tiny_config, "mask_token_id": 3, **changes})


def test_forward_errors(tiny_mdlm, canvas):
    with pytest.raises(ValueError, match=r"\(2, 9\) do not fit"):
        tiny_mdlm(canvas, positions=torch.ones(2, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        tiny_mdlm()


def test_labels_where_nothing_is_masked_are_refused(tiny_mdlm, canvas):
    """A collator for causal language models makes such batches; training on them would be meaningless."""
    given = canvas.masked_fill(canvas == MASK, 7)
    for mode in (tiny_mdlm.train(), tiny_mdlm.eval()):
        with pytest.raises(ValueError, match=r"no labelled position of input_ids holds the mask token \(id 3\)"):
            mode(given, labels=given)
        assert mode(given, labels=torch.full_like(given, -100)).loss == 0  # a time so early that nothing was masked
        assert mode(canvas, labels=canvas.masked_fill(canvas == MASK, 7)).loss.isfinite()  # BERT labels others as well


def test_weights_without_labels_are_refused(tiny_mdlm, canvas):
    """The Trainer's label smoothing takes the labels away and works on the logits, which are -inf at the mask."""
    tiny_mdlm.train()
    for name in ("timesteps", "loss_weights"):
        with pytest.raises(ValueError, match=f"{name} need labels.*label_smoothing_factor"):
            tiny_mdlm(canvas, **{name: torch.ones(len(canvas))})


def test_all_logits_come_with_labels_in_evaluation(tiny_mdlm, canvas):
    """As of every model of transformers, so that a Trainer's `compute_metrics` finds logits of the labels' shape."""
    labels = torch.full_like(canvas, 7).masked_fill(canvas != MASK, -100)
    out = tiny_mdlm(canvas, labels=labels)
    assert out.logits.shape == (*labels.shape, tiny_mdlm.config.vocab_size)
    torch.testing.assert_close(out.logits, tiny_mdlm(canvas).logits)
    some = tiny_mdlm(canvas, labels=labels, skip_logits=True)
    assert some.logits is None
    torch.testing.assert_close(some.loss, out.loss)
    torch.testing.assert_close(some.token_nll, out.token_nll)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_reload_is_bit_equal(build_mdlm, canvas, tmp_path, dtype):
    model = build_mdlm(time_conditioning="additive", tie_word_embeddings=False, output_vocab_size=39, mask_token_id=39)
    model.save_pretrained(tmp_path / "first")
    # Not `.to(dtype)`: that would round the rotary frequencies as well, which are not stored in a checkpoint.
    model = MDLMForMaskedDiffusion.from_pretrained(tmp_path / "first", dtype=dtype)
    model.save_pretrained(tmp_path / "second")

    again = MDLMForMaskedDiffusion.from_pretrained(tmp_path / "second", dtype="auto")

    assert again.dtype == dtype
    assert again.config.to_diff_dict() == model.config.to_diff_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    times = torch.tensor([0.2, 0.7])
    with torch.no_grad():
        assert torch.equal(again(canvas, timesteps=times).logits, model(canvas, timesteps=times).logits)


def test_the_auto_classes_load_a_checkpoint(tiny_mdlm, tmp_path):
    tiny_mdlm.save_pretrained(tmp_path)
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path), MDLMForMaskedDiffusion)
    assert isinstance(AutoModelForMaskedLM.from_pretrained(tmp_path), MDLMForMaskedDiffusion)
    trunk = AutoModel.from_pretrained(tmp_path)
    assert isinstance(trunk, MDLMModel)
    assert torch.equal(trunk.embed_tokens.weight, tiny_mdlm.model.embed_tokens.weight)


def test_weights_of_a_llama_load(tiny_ar, tiny_mdlm, tmp_path):
    missing, unexpected = tiny_mdlm.load_state_dict(tiny_ar.state_dict())
    assert missing == unexpected == []

    tiny_ar.save_pretrained(tmp_path)
    config = MDLMConfig(**{**tiny_ar.config.to_dict(), "mask_token_id": 3})
    _, info = MDLMForMaskedDiffusion.from_pretrained(tmp_path, config=config, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert isinstance(tiny_ar, LlamaForCausalLM)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "changes", [{}, {"num_key_value_heads": 2}, {"attention_bias": True, "time_conditioning": "additive"}], ids=str
)
@pytest.mark.parametrize("padded", [False, True])
def test_the_last_layer_at_some_positions_is_the_whole_layer_there(build_mdlm, attention, changes, padded):
    model = build_mdlm(attn_implementation=attention, **changes).model
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(4, 40, (5, 17), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    if padded:
        attention_mask[0, :4] = attention_mask[1, -6:] = 0
    # One row with a single position, one with none, one with all.
    positions = (torch.rand(5, 17, generator=generator) < 0.3) & attention_mask.bool()
    positions[2], positions[3], positions[4] = False, torch.arange(17) == 9, True
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask if padded else None, "timesteps": torch.rand(5)}
    with torch.no_grad():
        whole = model(**inputs).last_hidden_state[positions]
        queries = []
        model.layers[-1].mlp.register_forward_hook(lambda module, args, output: queries.append(args[0].shape[0]))
        some = model(**inputs, positions=positions).last_hidden_state
    torch.testing.assert_close(some, whole, rtol=1e-5, atol=1e-5)
    assert queries == [int(positions.sum())], "the MLP runs where it is asked to"


def test_positions_where_the_last_layer_is_looked_into(build_mdlm):
    """With attentions or hidden states asked for, or in training, the whole layer runs, and the states are picked after it."""
    model = build_mdlm(attn_implementation="eager").model
    input_ids = torch.randint(4, 40, (2, 9))
    positions = torch.rand(2, 9) < 0.5
    with torch.no_grad():
        plain = model(input_ids=input_ids, positions=positions).last_hidden_state
        for settings in ({"output_hidden_states": True}, {"output_attentions": True}):
            output = model(input_ids=input_ids, positions=positions, **settings)
            torch.testing.assert_close(output.last_hidden_state, plain, rtol=1e-5, atol=1e-5)
            assert len(output.hidden_states or output.attentions) == (3 if "output_hidden_states" in settings else 2)
    model.train()
    torch.testing.assert_close(
        model(input_ids=input_ids, positions=positions).last_hidden_state, plain, rtol=1e-5, atol=1e-5
    )
