"""The arms: which is which, and what each asks of `generate`."""

import logging

import pytest
import torch

from arche_mdlm.corruption_mdlm import Masked
from arche_mdlm.metrics.likelihood import nelbo
from arche_mdlm.training.models.arms import ARMS, AUTOREGRESSIVE, DIFFUSION, arm_of, arm_of_architecture


def test_every_architecture_has_an_arm(tiny_mdlm, tiny_ar):
    assert arm_of(tiny_mdlm) is arm_of(tiny_mdlm.config) is arm_of_architecture("mdlm") is DIFFUSION
    assert arm_of(tiny_ar) is arm_of_architecture("gpt2") is AUTOREGRESSIVE
    assert ARMS == {"mdlm": DIFFUSION, "ar": AUTOREGRESSIVE}


def test_a_length_in_new_tokens_does_not_warn_and_writes_the_same(tiny_ar):
    """transformers warns of both lengths where a checkpoint has a `max_length`, in the middle of a progress bar."""
    tiny_ar.generation_config.max_length = 20
    inputs = {"input_ids": torch.tensor([[0, 5, 6]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    torch.manual_seed(4)
    expected = tiny_ar.generate(**inputs, max_new_tokens=5, do_sample=True)
    seen: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = seen.append
    logging.getLogger("transformers").addHandler(handler)
    try:
        written = AUTOREGRESSIVE.generate(tiny_ar, inputs, [4], {"max_new_tokens": 5, "do_sample": True})
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert torch.equal(written.sequences, expected)
    assert [record.getMessage() for record in seen] == []


@pytest.mark.parametrize("arm", ARMS.values(), ids=lambda arm: arm.name)
def test_a_text_depends_on_its_seed(arm, tiny_mdlm, tiny_ar):
    model = {"mdlm": tiny_mdlm, "ar": tiny_ar}[arm.name]
    inputs = {"input_ids": torch.tensor([[0, 5]] * 2), "attention_mask": torch.ones(2, 2, dtype=torch.long)}
    options = {"max_new_tokens": 8, "do_sample": True, **arm.step_options(4)}
    texts = [arm.generate(model, inputs, seeds, options).sequences for seeds in ([1, 2], [1, 2], [1, 3])]
    assert torch.equal(texts[0], texts[1])
    assert torch.equal(texts[0][0], texts[2][0]), "the first seed is the same"


FAMILIES = {
    "masked": {},
    "uniform": {"time_conditioning": "log_snr"},
    "block": {"attention_block_length": 4},
    "uniform_block": {"attention_block_length": 4, "time_conditioning": "log_snr"},
    "eso": {"alpha_0": 0.5},
    "eso of order": {"alpha_0": 0.0},
    "eso of diffusion": {"alpha_0": 1.0},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_cost_of_a_bound_is_what_the_model_reads(build_mdlm, name, monkeypatch):
    """Positions read for a row, over its length."""
    model = build_mdlm(diffusion=name.split()[0], **FAMILIES[name])
    read, forward = [], model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda *a, **k: read.append(k["input_ids"].numel()) or forward(*a, **k))
    nelbo(model, torch.randint(4, 30, (1, 8)), num_samples=3)
    assert sum(read) == 8 * DIFFUSION.forwards_of_score(3, model.config)


def test_what_a_family_is_called_and_which_cache_changes_nothing(build_mdlm, tiny_ar):
    block = build_mdlm(attention_block_length=4, diffusion="block")
    masked, told = build_mdlm(), build_mdlm(attention_block_length=4, time_conditioning="additive")
    assert [DIFFUSION.family(model.config) for model in (masked, block)] == ["masked", "block of 4"]
    assert [DIFFUSION.cache_options(model.config) for model in (masked, told, block)] == [
        {},
        {},
        {"prefix_cache": True},
    ]
    assert AUTOREGRESSIVE.cache_options(tiny_ar.config) == {"use_cache": True}
    assert DIFFUSION.has_exact_policy(block.config)
    assert not AUTOREGRESSIVE.has_exact_policy(tiny_ar.config)


def test_a_family_without_an_order_has_no_exact_policy(build_mdlm, monkeypatch):
    monkeypatch.setattr(Masked, "has_order", False)
    assert not DIFFUSION.has_exact_policy(build_mdlm().config)
