"""Score entropy as a parameterisation of the head: the NELBO and an excess, by enumeration."""

import math

import pytest
import torch
from exact_model import ExactModel
from oracles.tables import TableLanguage
from torch.nn import functional as F

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.family_mdlm import family_of
from arche_mdlm.metrics.likelihood import nelbo
from arche_mdlm.token_loss_mdlm import ScoreEntropy

LANGUAGE = TableLanguage.random(3, 3, seed=5)


class ExactScores(ExactModel):
    """Scores `scale` times those of the exact posterior."""

    def __init__(self, scale: float):
        super().__init__(LANGUAGE)
        self.config.parameterization = "score"
        self.shift = math.log(scale * family_of(self).corruption.scores)

    def subs_logits(self, states):
        return states + self.shift


def bound(model) -> torch.Tensor:
    rows = torch.cat([model.bos(len(LANGUAGE.sequences)), LANGUAGE.sequences], dim=1)
    model.train = lambda mode=True: model  # the head is called through `subs_logits` in evaluation only
    model.lm_head = torch.nn.Module()
    model.lm_head.forward = model.subs_logits
    return nelbo(model, rows, num_samples=64, generator=torch.Generator().manual_seed(0)).nats


def test_the_bound_of_normalised_scores_is_the_nelbo_and_of_others_more():
    subs = ExactModel(LANGUAGE)
    rows = torch.cat([subs.bos(len(LANGUAGE.sequences)), LANGUAGE.sequences], dim=1)
    expected = nelbo(subs, rows, num_samples=64, generator=torch.Generator().manual_seed(0)).nats
    torch.testing.assert_close(bound(ExactScores(1.0)), expected, rtol=1e-5, atol=1e-5)
    # w(t) integrated over the masks of a row is its length.
    excess = LANGUAGE.length * (1.3 - 1 - math.log(1.3))
    torch.testing.assert_close(bound(ExactScores(1.3)), expected + excess, rtol=1e-5, atol=1e-5)


def test_the_gradient_is_that_of_the_formula():
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets, coefficients = torch.tensor([0, 1, 2, 3, 4]), torch.rand(5, dtype=torch.float64)
    loss = ScoreEntropy(targets, 8, 8)
    leaf = logits.clone().requires_grad_()
    total = leaf[:, :8].exp().sum(-1) / 8
    plain = F.cross_entropy(leaf[:, :8], targets, reduction="none") + total - 1 - total.log()
    torch.testing.assert_close(loss.plain(leaf), plain)
    (gradient,) = torch.autograd.grad((plain * coefficients).sum(), leaf)
    own = logits.clone()
    torch.testing.assert_close(loss.in_place(own, coefficients), plain.detach())
    torch.testing.assert_close(own, gradient)
    assert bool((plain >= F.cross_entropy(logits[:, :8], targets, reduction="none") - 1e-12).all())


def test_texts_are_those_of_the_normalised_scores():
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 12,
    }
    subs = MDLMForMaskedDiffusion(MDLMConfig(**sizes, mask_token_id=11, bos_token_id=0)).eval()
    score = MDLMForMaskedDiffusion(
        MDLMConfig(**sizes, mask_token_id=11, bos_token_id=0, parameterization="score")
    ).eval()
    score.load_state_dict(subs.state_dict())
    own = {"max_new_tokens": 9, "num_diffusion_steps": 5, "do_sample": True}
    written = [
        m.generate(torch.tensor([[0]]), generator=torch.Generator().manual_seed(2), **own) for m in (subs, score)
    ]
    assert torch.equal(*written)


def test_score_entropy_goes_with_masked_noise_only():
    with pytest.raises(ValueError, match="parameterization='score' is for masked noise"):
        MDLMConfig(diffusion="uniform", time_conditioning="log_snr", parameterization="score")
