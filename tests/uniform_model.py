"""Uniform noise on a tiny enumerated language: the exact denoiser, or a wrong one, behind the product's own model class."""

import itertools

import torch
from oracles.tables import TableLanguage
from torch import nn
from torch.nn.functional import one_hot
from transformers.modeling_outputs import BaseModelOutput

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.corruption_mdlm import Uniform
from arche_mdlm.schedule_mdlm import get_schedule


def likelihoods(noisy: torch.Tensor, rate: torch.Tensor, size: int) -> torch.Tensor:
    """q(z | x) (..., L, V) of noisy tokens (..., L) for each clean x, at noise levels (..., L)."""
    return (1 - rate)[..., None] * one_hot(noisy, size) + rate[..., None] / size


def leave_one_out(language: TableLanguage, noisy: torch.Tensor, rate: torch.Tensor, full: bool = False) -> torch.Tensor:
    """p(x_i | z without z_i), or with `full` p(x_i | z), (B, L, V) for z (B, L) at levels (B, L); float64."""
    likely = likelihoods(noisy, rate.double(), language.vocab_size)
    own = likely.gather(-1, language.sequences.T[None].expand(len(noisy), -1, -1))  # (B, L, S)
    result = []
    for i in range(language.length):
        others = torch.cat([own[:, :i], own[:, i + 1 :]], dim=1) if not full else own
        weights = others.prod(1) * language.probabilities
        table = one_hot(language.sequences[:, i], language.vocab_size).double()
        result.append((weights / weights.sum(-1, keepdim=True)) @ table)
    return torch.stack(result, dim=1)


class UniformTrunk(nn.Module):
    """Logarithms of the denoiser's law in place of hidden states; `wrong` mixes a fixed law of its own in."""

    def __init__(self, language: TableLanguage, config: MDLMConfig, wrong: float):
        super().__init__()
        self.language, self.config, self.wrong = language, config, wrong
        self.nothing = nn.Parameter(torch.zeros(0))
        size, length = language.vocab_size, language.length
        self.other = torch.rand(length, size, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        self.other /= self.other.sum(-1, keepdim=True)

    def law(self, noisy: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
        """(B, L, V)."""
        exact = leave_one_out(self.language, noisy, rate, self.config.denoiser == "full")
        return (1 - self.wrong) * exact + self.wrong * self.other

    def forward(self, input_ids, positions=None, timesteps=None, attention_mask=None, **kwargs):
        length, size = self.language.length, self.language.vocab_size
        attended = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        inside = attended.bool() & (attended.cumsum(-1) > 1)  # all but the BOS
        levels = get_schedule(self.config.noise_schedule).mask_rate(timesteps)
        noisy, rate = (x[inside].view(-1, length) for x in (input_ids, levels))
        logits = torch.full((*input_ids.shape, self.config.vocab_size), -torch.inf, dtype=torch.float64)
        logits[..., 0] = 0.0
        logits[inside] = -torch.inf
        logits[..., :size][inside] = self.law(noisy, rate).log().flatten(0, 1)
        if positions is None:
            return BaseModelOutput(last_hidden_state=logits)
        states = logits[positions] if positions.dtype == torch.bool else logits.flatten(0, 1)[positions]
        return BaseModelOutput(last_hidden_state=states)


class UniformModel(MDLMForMaskedDiffusion):
    """Ids: tokens 0..V-1, mask = V, BOS = V + 1, pad = V + 2; the head ends with the mask, so that only the V tokens are noise."""

    def __init__(self, language: TableLanguage, wrong: float = 0.0, **changes):
        size = language.vocab_size
        config = MDLMConfig(
            diffusion="uniform", time_conditioning="log_snr", vocab_size=size + 3, output_vocab_size=size + 1, mask_token_id=size,
            bos_token_id=size + 1, eos_token_id=None, pad_token_id=size + 2, hidden_size=8, intermediate_size=8,
            num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=language.length + 1, **changes,
        )  # fmt: skip
        super().__init__(config)
        self.eval()
        self.language = language
        self.model, self.lm_head = UniformTrunk(language, config, wrong), nn.Identity()
        self.generation_config.bos_token_id, self.generation_config.pad_token_id = size + 1, size + 2

    def subs_logits(self, states):
        return states

    def bos(self, num_rows: int) -> torch.Tensor:
        return torch.full((num_rows, 1), self.config.bos_token_id)

    def counts(self, sequences: torch.Tensor) -> torch.Tensor:
        """How often each of the language's sequences occurs in generated rows (B, 1 + L)."""
        powers = self.language.vocab_size ** torch.arange(self.language.length - 1, -1, -1)
        return torch.bincount((sequences[:, 1:] * powers).sum(-1), minlength=len(self.language.sequences))


def posterior_of(x: torch.Tensor, noisy: torch.Tensor, alpha_t: float, alpha_s: float) -> torch.Tensor:
    """The law of z_s (..., V) at a position with leave-one-out denoiser x (..., V) and token z_t (...): the formula in full."""
    size = x.shape[-1]
    z, a_ts = one_hot(noisy, size).double(), alpha_t / alpha_s
    top = size * alpha_t * x * z + (a_ts - alpha_t) * z + (alpha_s - alpha_t) * x + (1 - a_ts) * (1 - alpha_s) / size
    return top / (size * alpha_t * x.gather(-1, noisy[..., None]) + 1 - alpha_t)


def step_matrix(model: UniformModel, alpha_t: float, alpha_s: float, position_law=posterior_of) -> torch.Tensor:
    """(S, S) transition probabilities of a step in which positions are independent."""
    sequences = model.language.sequences
    rate = torch.full(sequences.shape, 1 - alpha_t, dtype=torch.float64)
    x = model.model.law(sequences, rate)
    if model.config.denoiser == "full":
        x = x / (
            1
            + Uniform(model.language.vocab_size, 99).num_tokens
            * alpha_t
            / (1 - alpha_t)
            * one_hot(sequences, x.shape[-1])
        )
        x = x / x.sum(-1, keepdim=True)
    law = position_law(x, sequences, alpha_t, alpha_s)  # (S, L, V)
    law = law[:, None].expand(-1, len(sequences), -1, -1)
    picked = law.gather(-1, sequences[None, ..., None].expand(len(sequences), -1, -1, 1))
    return picked[..., 0].prod(-1)


def sampler_law(model: UniformModel, steps: int, position_law=posterior_of, after=None) -> torch.Tensor:
    """(S,) the law of what a sampler of so many steps writes; `after(alpha)` (S, S): what it does behind each step but the last."""
    size = len(model.language.sequences)
    law = torch.full((size,), 1 / size, dtype=torch.float64)
    for step in range(steps):
        alpha_t, alpha_s = step / steps, (step + 1) / steps
        law = law @ step_matrix(model, alpha_t, alpha_s, position_law)
        if after is not None and step + 1 < steps:
            law = law @ after(alpha_s)
    return law


def exact_bound(model: UniformModel, row: torch.Tensor, nodes: int = 300) -> float:
    """The NELBO of a sequence (L,) in nats: all noisy sequences, and an integral over t = u^2."""
    import numpy

    u, weight = numpy.polynomial.legendre.leggauss(nodes)
    u, weight = torch.tensor((u + 1) / 2), torch.tensor(weight / 2)
    times, size = u**2, model.language.vocab_size
    total = torch.zeros(nodes, dtype=torch.float64)
    for noisy in itertools.product(range(size), repeat=model.language.length):
        z = torch.tensor(noisy).expand(nodes, -1)
        rate = times[:, None].expand(z.shape)
        law = model.model.law(z, rate)
        chance = likelihoods(z, rate, size).gather(-1, row.expand(nodes, -1)[..., None])[..., 0].prod(-1)
        total += chance * udlm_terms(law, z, row.expand(nodes, -1), times[:, None]).sum(-1)
    return float((total * weight * 2 * u).sum())


def udlm_terms(x: torch.Tensor, noisy: torch.Tensor, clean: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
    """The NELBO's terms (..., L) over -alpha', as Schiff et al. 2024 write them."""
    size, alpha = x.shape[-1], 1 - rate
    y = size * alpha[..., None] * one_hot(clean, size) + rate[..., None]
    y_theta = size * alpha[..., None] * x + rate[..., None]
    at = lambda values: values.gather(-1, noisy[..., None])  # noqa: E731
    inner = size / at(y) - size / at(y_theta)
    logs = (y / at(y) * torch.log(at(y_theta) * y / (y_theta * at(y)))).sum(-1, keepdim=True)
    return -((inner - logs)[..., 0]) / (size * alpha)
