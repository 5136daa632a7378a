"""Markov chains and hidden Markov models that can replace a `TableLanguage`: the same members, and `to_table()` while V^L is small."""

import torch
from oracles.tables import TableLanguage

from arche_mdlm.studies.error_rates import languages
from arche_mdlm.studies.error_rates.languages import _cycle, random_rows

LARGEST_TABLE = 1 << 16


class Enumerable:
    """What a language of few sequences has besides."""

    @property
    def sequences(self) -> torch.Tensor:
        """All V^L sequences (V^L, L), in the order of `TableLanguage`; ValueError if they are too many."""
        if self.vocab_size**self.length > LARGEST_TABLE:
            raise ValueError(f"{self.vocab_size}^{self.length} sequences are too many to enumerate")
        return torch.cartesian_prod(*[torch.arange(self.vocab_size)] * self.length).view(-1, self.length)

    def to_table(self) -> TableLanguage:
        """The same language enumerated."""
        return TableLanguage(self.log_prob(self.sequences).exp().view([self.vocab_size] * self.length))

    @property
    def entropy(self) -> float:
        """Nats a sequence, by enumeration, as a closed form does not exist. For a long one average `-log_prob` of samples."""
        return self.to_table().entropy


class HiddenMarkovModel(Enumerable, languages.HiddenMarkovModel):
    """Enumerable."""


class NGramLanguage(Enumerable, languages.NGramLanguage):
    """Enumerable."""


class MarkovChain(HiddenMarkovModel):
    """Sequences of L tokens, each drawn given the one before: a hidden Markov model whose states are its tokens.

    Args:
        initial: (V,) distribution of the first token.
        transition: (V, V), each row the distribution of the next token.
        length: L.
    """

    def __init__(self, initial: torch.Tensor, transition: torch.Tensor, length: int):
        super().__init__(initial, transition, torch.eye(len(initial)), length)

    @classmethod
    def random(
        cls, vocab_size: int = 4, length: int = 4, *, seed: int = 0, sharpness: float = 1.5, sparsity: float = 0.0
    ) -> "MarkovChain":
        """Softmax of normal logits, a share `sparsity` of each token's transitions forbidden.

        From every token every other can be reached.
        """
        generator = torch.Generator().manual_seed(seed)
        return cls(
            random_rows(torch.zeros(1, vocab_size, dtype=torch.bool), generator, sharpness, 0.0)[0],
            random_rows(_cycle(vocab_size), generator, sharpness, sparsity),
            length,
        )

    @property
    def entropy(self) -> float:
        """Nats a sequence: the first token's, and each next one's given the one before."""
        nats = torch.special.entr(self.initial).sum()
        marginal, next_nats = self.initial, torch.special.entr(self.transition).sum(-1)
        for _ in range(self.length - 1):
            nats += marginal @ next_nats
            marginal = marginal @ self.transition
        return float(nats)
