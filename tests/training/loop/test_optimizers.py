"""Which optimiser gets which weights, the schedules of the rate."""

import pytest
import torch
from torch import nn

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.configuration.settings import TrainingSettings
from arche_mdlm.training.loop.optimizers import build_optimizers, learning_rate

SHAPE = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def names_of(optimizer, model: nn.Module) -> set[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]}


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has Muon from 2.9 on")
@pytest.mark.parametrize("tied", [True, False])
def test_muon_has_the_matrices_of_the_layers_and_adamw_the_rest(tied):
    config = MDLMConfig(**SHAPE, mask_token_id=63, tie_word_embeddings=tied, attention_bias=True)
    model = MDLMForMaskedDiffusion(config)
    adamw, muon = build_optimizers(model, TrainingSettings(optimizer="muon", muon_learning_rate=0.5))
    matrices = {name for name, p in model.named_parameters() if "layers" in name and p.dim() == 2}
    assert names_of(muon, model) == matrices
    assert len(matrices) == 2 * 7
    assert names_of(adamw, model) == {name for name, _ in model.named_parameters()} - matrices
    assert {group["peak"] for group in muon.param_groups} == {0.5}


def test_adamw_alone_has_everything_once():
    model = MDLMForMaskedDiffusion(MDLMConfig(**SHAPE, mask_token_id=63))
    (adamw,) = build_optimizers(model, TrainingSettings())
    assert names_of(adamw, model) == {name for name, _ in model.named_parameters()}


def test_without_muon_in_pytorch_it_is_refused(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(ValueError, match="'muon' needs PyTorch 2.9 or newer"):
        build_optimizers(nn.Linear(2, 2), TrainingSettings(optimizer="muon"))


def test_warmup_stable_decay():
    settings = TrainingSettings(
        schedule="warmup_stable_decay",
        learning_rate=1.0,
        warmup_steps=4,
        max_steps=100,
        decay_share=0.2,
        min_lr_ratio=0.0,
    )
    rates = [learning_rate(step, settings) for step in range(101)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert set(rates[4:81]) == {1.0}
    assert rates[90] == pytest.approx(0.5)
    assert rates[100] == 0
    assert learning_rate(90, settings, peak=3.0) == pytest.approx(1.5)


def test_cosine_ends_at_the_least_rate():
    settings = TrainingSettings(learning_rate=2.0, warmup_steps=0, max_steps=10, min_lr_ratio=0.1)
    assert learning_rate(5, settings) == pytest.approx(2 * (0.1 + 0.9 / 2))
    assert learning_rate(10, settings) == pytest.approx(0.2)
