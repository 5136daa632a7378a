"""Hidden Markov models and n-gram languages: sequences of any length whose posterior is exact without enumeration.

The posterior of every position, given the tokens known so far, comes from the forward-backward algorithm (Rabiner 1989).
"""

from typing import Self

import torch

# Probability of a forbidden transition where the known tokens can only be explained by one. What matters is that one
# such transition outweighs two, and that the product of a few does not underflow in float64.
VIOLATION = 1e-40


class HiddenMarkovModel:
    """Sequences of L tokens emitted by a Markov chain of S hidden states.

    Args:
        initial: (S,) distribution of the first state.
        transition: (S, S), each row the distribution of the next state.
        emission: (S, V), each row the distribution of a state's token. Every token is emitted by some state.
        length: L.
    """

    dtype = torch.float64  # of `posterior` where the known tokens can occur together

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
    ) -> Self:
        """Softmax of normal logits, a share `sparsity` of the transitions and of the emissions of each state forbidden.

        From every state every other can be reached, and every token is emitted by some state.
        """
        generator = torch.Generator().manual_seed(seed)
        return cls(
            random_rows(torch.zeros(1, num_states, dtype=torch.bool), generator, sharpness, 0.0)[0],
            random_rows(_cycle(num_states), generator, sharpness, sparsity),
            random_rows(_cover(num_states, vocab_size), generator, sharpness, sparsity),
            length,
        )

    def log_prob(self, sequences: torch.Tensor) -> torch.Tensor:
        """Nats (B,) of sequences (B, L); -inf for those the language cannot produce."""
        _, scales = _forward(self.initial, self.transition, self._evidence(), sequences)
        return torch.stack(scales, dim=1).log().sum(-1)

    def forbids(self, sequences: torch.Tensor) -> torch.Tensor:
        """(B,) bool: which sequences (B, L) the language cannot produce."""
        return self.log_prob(sequences).isneginf()

    def smoothed(self, share: float) -> "HiddenMarkovModel":
        """The language with a share of each row's probability spread evenly, so that it forbids nothing."""

        def even(rows: torch.Tensor) -> torch.Tensor:
            return (1 - share) * rows + share / rows.shape[-1]

        return HiddenMarkovModel(even(self.initial), even(self.transition), even(self.emission), self.length)

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
        transition goes to 0, the one explanation with the fewest errors.
        """
        ids = tokens.masked_fill(~known, self.vocab_size)
        found, impossible = self._smoothed_tokens(ids, self.initial, self.transition, self.dtype)
        if impossible.any():
            parts = (_without_zeros(self.initial), _without_zeros(self.transition))
            limit, _ = self._smoothed_tokens(ids[impossible], *parts, torch.float64)
            found[impossible] = limit.to(found.dtype)
        given = torch.zeros_like(found).scatter_(-1, tokens.masked_fill(~known, 0)[..., None], 1.0)
        return torch.where(known[..., None], given, found)

    def _smoothed_tokens(
        self, ids: torch.Tensor, initial: torch.Tensor, transition: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(distributions (B, L, V), whether the tokens cannot occur together (B,)); ids (B, L) are V where not known."""
        initial, transition, evidence = initial.to(dtype), transition.to(dtype), self._evidence().to(dtype)
        filtered, scales = _forward(initial, transition, evidence, ids)
        states = _smooth(transition, evidence, filtered, ids)
        found = torch.stack([part @ self.emission.to(dtype) for part in states], dim=1)
        impossible = (torch.stack(scales, dim=1) == 0).any(-1) | (found.sum(-1) == 0).any(-1)
        return normalised(found), impossible

    def _evidence(self) -> torch.Tensor:
        """(V + 1, S): probability of each token in each state, 1 in the last row, which is that of an unknown one."""
        return torch.cat([self.emission.T, torch.ones_like(self.emission.T[:1])])


class NGramLanguage(HiddenMarkovModel):
    """Sequences of L tokens, each drawn given the k before: a hidden Markov model whose states are runs of k tokens.

    Args:
        initial: (V^k,) distribution of the k tokens before the sequence, which are not part of it, the latest last.
        conditional: (V^k, V), each row the distribution of the token after such a run.
        length: L.
    """

    def __init__(self, initial: torch.Tensor, conditional: torch.Tensor, length: int):
        size = conditional.shape[1]
        runs = torch.arange(len(conditional))
        following = (runs[:, None] * size + torch.arange(size)) % len(conditional)  # the run after each next token
        transition = torch.zeros(len(conditional), len(conditional), dtype=torch.float64)
        transition.scatter_(1, following, conditional.double())
        self.before, self.conditional = initial.double(), conditional.double()
        super().__init__(self.before @ transition, transition, torch.eye(size).repeat(len(runs) // size, 1), length)

    @classmethod
    def random_order(
        cls, order: int, vocab_size: int, length: int, *, seed: int = 0, sharpness: float = 1.5, sparsity: float = 0.0
    ) -> "NGramLanguage":
        """Softmax of normal logits given the `order` tokens before, a share `sparsity` of each run's next tokens forbidden.

        It begins as from its stationary law, and every run can be followed by the first token of the next one in a cycle,
        so none is a dead end.
        """
        generator = torch.Generator().manual_seed(seed)
        runs = vocab_size**order
        kept = torch.zeros(runs, vocab_size, dtype=torch.bool)
        kept[torch.arange(runs), (torch.arange(runs) + 1) % vocab_size] = True
        conditional = random_rows(kept, generator, sharpness, sparsity)
        language = cls(torch.full((runs,), 1 / runs), conditional, length)
        law = language.initial
        for _ in range(1000):
            law = law @ language.transition
        return cls(law, conditional, length)

    def smoothed(self, share: float) -> "NGramLanguage":
        """As `HiddenMarkovModel.smoothed`: the next token's distribution after each run, and that of the run before all."""
        size, runs = self.vocab_size, len(self.before)
        conditional = (1 - share) * self.conditional + share / size
        return NGramLanguage((1 - share) * self.before + share / runs, conditional, self.length)


def _forward(
    initial: torch.Tensor, transition: torch.Tensor, evidence: torch.Tensor, ids: torch.Tensor
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """For each of L positions the states (B, S) given the tokens up to it, and the likelihood (B,) of its token.

    The likelihood is given what is before it; it is 0 from the first position on that cannot be.
    """
    filtered, scales = [], []
    predicted = initial.expand(len(ids), -1)
    for position in range(ids.shape[1]):
        joint = predicted * evidence[ids[:, position]]
        scales.append(joint.sum(-1))
        filtered.append(joint.div_(scales[-1][:, None].clamp(min=torch.finfo(joint.dtype).tiny)))
        predicted = filtered[-1] @ transition
    return filtered, scales


def _smooth(
    transition: torch.Tensor, evidence: torch.Tensor, filtered: list[torch.Tensor], ids: torch.Tensor
) -> list[torch.Tensor]:
    """For each position the states (B, S) given all the tokens, up to a factor, from those given the tokens up to it."""
    behind = torch.ones_like(filtered[-1])  # likelihood of the tokens behind a position, up to a factor
    smoothed = [filtered[-1]]
    back = transition.T.contiguous()
    for position in range(ids.shape[1] - 2, -1, -1):
        behind = normalised((evidence[ids[:, position + 1]] * behind) @ back)
        smoothed.append(normalised(filtered[position] * behind))
    return smoothed[::-1]


def normalised(weights: torch.Tensor) -> torch.Tensor:
    """Sum of 1 over the last axis; zeros stay zeros."""
    return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


def _without_zeros(rows: torch.Tensor) -> torch.Tensor:
    return rows.masked_fill(rows == 0, VIOLATION)


def random_rows(kept: torch.Tensor, generator: torch.Generator, sharpness: float, sparsity: float) -> torch.Tensor:
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
