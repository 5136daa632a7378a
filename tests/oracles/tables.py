"""Tiny languages given as a table of all their sequences, so that every quantity can be enumerated.

A table over V tokens and L positions has V^L entries: keep V and L at 4 or below.
"""

import itertools
import math
from types import SimpleNamespace

import torch
from torch import nn


class TableLanguage:
    """All V^L sequences of V tokens and L positions with their probabilities, float64.

    Args:
        probabilities: one axis a position, each of size V; sums to 1.
    """

    def __init__(self, probabilities: torch.Tensor):
        self.table = probabilities.double()
        self.vocab_size, self.length = probabilities.shape[0], probabilities.dim()
        self.sequences = torch.cartesian_prod(*[torch.arange(self.vocab_size)] * self.length).view(-1, self.length)
        self.probabilities = self.table.flatten()  # (S,) of the sequences (S, L)

    @classmethod
    def random(cls, vocab_size: int = 3, length: int = 4, *, seed: int = 0, sharpness: float = 1.5) -> "TableLanguage":
        """Softmax of normal logits; a larger `sharpness` makes tokens depend more on each other."""
        logits = torch.randn([vocab_size] * length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return cls((sharpness * logits).flatten().softmax(0).view(logits.shape))

    @property
    def entropy(self) -> float:
        """Nats a sequence."""
        return float(torch.special.entr(self.probabilities).sum())

    def log_prob(self, sequences: torch.Tensor) -> torch.Tensor:
        """Nats (B,) of sequences (B, L)."""
        return self.table[tuple(sequences.T)].log()

    def sample(self, num_sequences: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Sequences (num_sequences, L)."""
        drawn = torch.multinomial(self.probabilities, num_sequences, replacement=True, generator=generator)
        return self.sequences[drawn]

    def posterior(self, tokens: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Each position's distribution (B, L, V) given the tokens (B, L) where `known` (B, L) is True."""
        agrees = (self.sequences == tokens[:, None]) | ~known[:, None]
        weights = agrees.all(-1) * self.probabilities
        one_hot = nn.functional.one_hot(self.sequences, self.vocab_size).double()
        return torch.einsum("bs,slv->blv", weights / weights.sum(-1, keepdim=True), one_hot)

    def nelbo(self) -> torch.Tensor:
        """NELBO (S,) in nats of every sequence under the exact posterior, by enumeration of all 2^L - 1 masks.

        E over k uniform in 1..L and masks of size k, of L / k times the cross-entropy at the masked positions.
        """
        total = torch.zeros(len(self.sequences), dtype=torch.float64)
        for bits in itertools.product([False, True], repeat=self.length):
            masked = torch.tensor(bits)
            k = int(masked.sum())
            if k == 0:
                continue
            posterior = self.posterior(self.sequences, (~masked).expand(self.sequences.shape))
            nats = -posterior.gather(-1, self.sequences[..., None])[..., 0].log()
            total += nats[:, masked].sum(-1) / k / math.comb(self.length, k)
        return total


class OracleDenoiser(nn.Module):
    """The exact posterior behind the interface of `MDLMForMaskedDiffusion`; the best denoiser there is.

    Ids: the language's tokens 0..V-1, then BOS = V, MASK = V + 1, PAD = V + 2. A row is an optional BOS and the
    L positions of the language, padded on either side. The timesteps of the last call are kept in `seen_timesteps`.
    """

    def __init__(self, language: TableLanguage, *, time_conditioning: str = "none", noise_schedule: str = "linear"):
        super().__init__()
        self.language = language
        size = language.vocab_size
        self.config = SimpleNamespace(
            diffusion="masked",
            vocab_size=size + 3,
            bos_token_id=size,
            mask_token_id=size + 1,
            pad_token_id=size + 2,
            time_conditioning=time_conditioning,
            noise_schedule=noise_schedule,
        )
        self.device = torch.device("cpu")
        self.num_forwards = 0
        self.seen_timesteps = None

    def forward(self, input_ids, attention_mask=None, positions=None, timesteps=None, **kwargs):
        """Logits (B, T, vocab_size), or (N, vocab_size) at the True `positions`, row-major; -inf outside the language."""
        self.num_forwards += 1
        self.seen_timesteps = timesteps
        attended = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        canvas = attended.bool() & (input_ids != self.config.bos_token_id)
        tokens = input_ids[canvas].view(len(input_ids), self.language.length)
        posterior = self.language.posterior(tokens, tokens != self.config.mask_token_id)
        logits = torch.full((*input_ids.shape, self.config.vocab_size), -torch.inf, dtype=torch.float64)
        logits[..., : self.language.vocab_size][canvas] = posterior.log().flatten(0, 1)
        return SimpleNamespace(logits=logits if positions is None else logits[positions])
