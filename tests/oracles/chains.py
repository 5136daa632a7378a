"""Markov chains and hidden Markov models: languages of any length whose posterior is exact without enumeration.

They can replace a `TableLanguage`: the same members, float64, and `to_table()` while V^L is small.
"""

import torch
from oracles.tables import TableLanguage
from torch import nn

LARGEST_TABLE = 1 << 16
# Probability of a forbidden transition where the known tokens can only be explained by one. What matters is that one
# such transition outweighs two, and that the product of a few does not underflow.
VIOLATION = 1e-40


class HiddenMarkovModel:
    """Sequences of L tokens emitted by a Markov chain of S hidden states.

    Args:
        initial: (S,) distribution of the first state.
        transition: (S, S), each row the distribution of the next state.
        emission: (S, V), each row the distribution of a state's token. Every token is emitted by some state.
        length: L.
    """

    def __init__(self, initial: torch.Tensor, transition: torch.Tensor, emission: torch.Tensor, length: int):
        self.initial, self.transition, self.emission = initial.double(), transition.double(), emission.double()
        self.vocab_size, self.length = emission.shape[1], length

    @classmethod
    def random(
        cls,
        num_states: int = 3,
        vocab_size: int = 4,
        length: int = 4,
        *,
        seed: int = 0,
        sharpness: float = 1.5,
        sparsity: float = 0.0,
    ) -> "HiddenMarkovModel":
        """Softmax of normal logits, a share `sparsity` of the transitions and of the emissions of each state forbidden.

        From every state every other can be reached, and every token is emitted by some state.
        """
        generator = torch.Generator().manual_seed(seed)
        return cls(
            _random_rows(torch.zeros(1, num_states, dtype=torch.bool), generator, sharpness, 0.0)[0],
            _random_rows(_cycle(num_states), generator, sharpness, sparsity),
            _random_rows(_cover(num_states, vocab_size), generator, sharpness, sparsity),
            length,
        )

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

    def log_prob(self, sequences: torch.Tensor) -> torch.Tensor:
        """Nats (B,) of sequences (B, L); -inf for those the language cannot produce."""
        evidence = self._evidence(sequences, torch.ones_like(sequences, dtype=torch.bool))
        return _forward(self.initial, self.transition, evidence)[1].log().sum(-1)

    def forbids(self, sequences: torch.Tensor) -> torch.Tensor:
        """(B,) bool: which sequences (B, L) the language cannot produce."""
        return self.log_prob(sequences).isneginf()

    def sample(self, num_sequences: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Sequences (num_sequences, L)."""
        states = torch.multinomial(self.initial, num_sequences, replacement=True, generator=generator)
        tokens = []
        for position in range(self.length):
            if position > 0:
                states = torch.multinomial(self.transition[states], 1, generator=generator)[:, 0]
            tokens.append(torch.multinomial(self.emission[states], 1, generator=generator))
        return torch.cat(tokens, dim=1)

    def posterior(self, tokens: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Each position's distribution (B, L, V) given the tokens (B, L) where `known` (B, L) is True.

        If the known tokens cannot occur together, the posterior is undefined. A sampler that has made such an error goes
        on, and so must its predictions: there it is the limit of the posteriors as the probability of each forbidden
        transition goes to 0, the one explanation with the fewest errors. `TableLanguage` gives nan instead.
        """
        evidence = self._evidence(tokens, known)
        filtered, scales = _forward(self.initial, self.transition, evidence)
        states = _smooth(self.transition, evidence, filtered)
        impossible = (scales == 0).any(-1)
        if impossible.any():
            initial, transition = _without_zeros(self.initial), _without_zeros(self.transition)
            filtered, _ = _forward(initial, transition, evidence[impossible])
            states[impossible] = _smooth(transition, evidence[impossible], filtered)
        given = nn.functional.one_hot(tokens.masked_fill(~known, 0), self.vocab_size).double()
        return torch.where(known[..., None], given, states @ self.emission)

    def _evidence(self, tokens: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """(B, L, S): probability of the known token in each state, 1 where it is not known."""
        emitted = self.emission.T[tokens.masked_fill(~known, 0)]  # an unknown token may be any id, the mask's too
        return emitted.masked_fill(~known[..., None], 1.0)


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
            _random_rows(torch.zeros(1, vocab_size, dtype=torch.bool), generator, sharpness, 0.0)[0],
            _random_rows(_cycle(vocab_size), generator, sharpness, sparsity),
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


def _forward(initial, transition, evidence) -> tuple[torch.Tensor, torch.Tensor]:
    """States (B, L, S) given the evidence (B, L, S) up to each position, and the likelihood (B, L) of each position's.

    The likelihood is given what is before it; it is 0 from the first position on that cannot be.
    """
    filtered, scales = [], []
    predicted = initial.expand(len(evidence), -1)
    for position in range(evidence.shape[1]):
        joint = predicted * evidence[:, position]
        scales.append(joint.sum(-1))
        filtered.append(_normalised(joint))
        predicted = filtered[-1] @ transition
    return torch.stack(filtered, dim=1), torch.stack(scales, dim=1)


def _smooth(transition, evidence, filtered) -> torch.Tensor:
    """States (B, L, S) given all the evidence, from those given the evidence up to each position."""
    behind = torch.ones_like(evidence[:, -1])  # likelihood of the evidence behind a position, up to a factor
    smoothed = [filtered[:, -1]]
    for position in range(evidence.shape[1] - 2, -1, -1):
        behind = _normalised((evidence[:, position + 1] * behind) @ transition.T)
        smoothed.append(_normalised(filtered[:, position] * behind))
    return torch.stack(smoothed[::-1], dim=1)


def _normalised(weights: torch.Tensor) -> torch.Tensor:
    """Sum of 1 over the last axis; zeros stay zeros."""
    return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


def _without_zeros(rows: torch.Tensor) -> torch.Tensor:
    return rows.masked_fill(rows == 0, VIOLATION)


def _random_rows(kept: torch.Tensor, generator: torch.Generator, sharpness: float, sparsity: float) -> torch.Tensor:
    """Random distributions of kept's shape (R, C), a share of each row 0, but never where `kept` is True."""
    logits = sharpness * torch.randn(kept.shape, generator=generator, dtype=torch.float64)
    order = torch.rand(kept.shape, generator=generator).masked_fill(kept, 2.0).argsort(-1)
    num_forbidden = round(sparsity * kept.shape[1])
    forbidden = torch.zeros_like(kept).scatter_(1, order[:, :num_forbidden], True) & ~kept
    return logits.masked_fill(forbidden, -torch.inf).softmax(-1)


def _cycle(size: int) -> torch.Tensor:
    """(size, size) bool: the transitions from each state to the one after it, and from the last to the first."""
    return torch.eye(size, dtype=torch.bool).roll(1, dims=1)


def _cover(num_states: int, vocab_size: int) -> torch.Tensor:
    """(num_states, vocab_size) bool, True at least once in each row and each column."""
    apart = torch.arange(vocab_size) - torch.arange(num_states)[:, None]
    return apart % min(num_states, vocab_size) == 0
