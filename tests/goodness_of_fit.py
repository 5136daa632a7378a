"""p-values of goodness-of-fit tests of draws that are tensors."""

import torch
from scipy import stats


def chi_square_p(counts, probabilities) -> float:
    """p-value of Pearson's test of counts against probabilities; a count where the probability is 0 gives 0.

    Cells of fewer than 5 expected draws are pooled.
    """
    counts = torch.as_tensor(counts).detach().double().flatten()
    probabilities = torch.as_tensor(probabilities).detach().double().flatten()
    possible = probabilities > 0
    if counts[~possible].any():
        return 0.0
    expected, counts = probabilities[possible] / probabilities.sum() * counts.sum(), counts[possible]
    rare = expected < 5
    if rare.any():
        expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
        counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    return float(stats.chisquare(counts.numpy(), expected.numpy()).pvalue)


def uniform_ks_p(draws) -> float:
    """Asymptotic p-value of Kolmogorov-Smirnov's test that `draws` are uniform on [0, 1]."""
    return float(stats.kstest(torch.as_tensor(draws).double().flatten().numpy(), "uniform", method="asymp").pvalue)
