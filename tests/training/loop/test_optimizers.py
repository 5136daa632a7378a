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


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has Muon from 2.9 on")
class TestFloat32Muon:
    @staticmethod
    def after(kind: type[torch.optim.Optimizer], steps: int = 3) -> tuple[list[torch.Tensor], dict]:
        generator = torch.Generator().manual_seed(0)
        matrices = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((8, 24), (24, 8), (16, 16))]
        optimizer = kind(matrices, lr=0.1, weight_decay=0.2)
        for _ in range(steps):
            for matrix in matrices:
                matrix.grad = torch.randn(matrix.shape, generator=generator)
            optimizer.step()
        return matrices, optimizer.state_dict()

    def test_does_what_pytorch_s_does(self):
        """Up to the rounding of bfloat16, of which each step has about 1 % of the update's norm."""
        from arche_mdlm.training.loop.muon import Float32Muon

        (own, state), (theirs, their_state) = self.after(Float32Muon), self.after(torch.optim.Muon)
        start, _ = self.after(torch.optim.Muon, 0)
        for ours, other, first in zip(own, theirs, start, strict=True):
            assert (ours - other).norm() < 0.03 * (other - first).norm()
        assert state["param_groups"] == their_state["param_groups"]
        for index in state["state"]:
            torch.testing.assert_close(state["state"][index], their_state["state"][index])

    def test_its_singular_values_are_near_1(self):
        from arche_mdlm.training.loop.muon import orthogonalised

        matrix = torch.randn(12, 40, generator=torch.Generator().manual_seed(1))
        values = torch.linalg.svdvals(orthogonalised(matrix, (3.4445, -4.775, 2.0315), 5, 1e-7))
        assert values.min() > 0.6
        assert values.max() < 1.3

    @pytest.mark.parametrize(
        ("precision", "device", "float32"),
        [("no", None, True), ("no", "cpu", True), ("bf16", "cpu", False), ("no", "cuda", False)],
    )
    def test_is_for_float32_on_a_cpu(self, precision, device, float32):
        model = MDLMForMaskedDiffusion(MDLMConfig(**SHAPE, mask_token_id=63))
        settings = TrainingSettings(optimizer="muon", mixed_precision=precision)
        _, muon = build_optimizers(model, settings, device and torch.device(device))
        assert (type(muon) is not torch.optim.Muon) == float32


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
