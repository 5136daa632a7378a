"""p-values of goodness-of-fit tests, without scipy."""

import math

import torch


def chi_square_p(counts, probabilities) -> float:
    """p-value of Pearson's test of counts against probabilities; a count where the probability is 0 gives 0.

    Cells of fewer than 5 expected draws are pooled.
    """
    counts = torch.as_tensor(counts, dtype=torch.float64).flatten()
    probabilities = torch.as_tensor(probabilities, dtype=torch.float64).flatten()
    possible = probabilities > 0
    if counts[~possible].any():
        return 0.0
    expected, counts = probabilities[possible] / probabilities.sum() * counts.sum(), counts[possible]
    rare = expected < 5
    if rare.any():
        expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
        counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = torch.tensor((len(expected) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, statistic.detach() / 2))


def uniform_ks_p(draws) -> float:
    """Asymptotic p-value of Kolmogorov-Smirnov's test that `draws` are uniform on [0, 1]."""
    draws = torch.as_tensor(draws, dtype=torch.float64).flatten().sort().values
    n = len(draws)
    grid = torch.arange(n + 1, dtype=torch.float64) / n
    distance = max((grid[1:] - draws).max().item(), (draws - grid[:-1]).max().item())
    x = distance * math.sqrt(n)
    return min(1.0, 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 101)))
