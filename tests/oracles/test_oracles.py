"""The exact languages against enumeration; the exact laws of samplers against theory and simulation."""

import math
from itertools import pairwise

import pytest
import torch
from goodness_of_fit import chi_square_p
from oracles.chains import HiddenMarkovModel, MarkovChain
from oracles.laws import (
    ancestral_law,
    confidence,
    entropy,
    fill_counts_law,
    margin,
    parallel_law,
    remasking_law,
    scored_law,
    total_variation,
)
from oracles.tables import TableLanguage
from seeds import seeded

CHAINS = {
    "markov": MarkovChain.random(3, 4, seed=1),
    "sparse markov": MarkovChain.random(4, 4, seed=2, sparsity=0.5),
    "one position": MarkovChain.random(3, 1, seed=3),
    "hidden": HiddenMarkovModel.random(3, 4, 4, seed=4),
    "sparse hidden": HiddenMarkovModel.random(4, 3, 4, seed=5, sparsity=0.5),
    "few states": HiddenMarkovModel.random(2, 4, 3, seed=6, sparsity=0.5),
}


@pytest.fixture(params=CHAINS)
def chain(request):
    return CHAINS[request.param]


@pytest.fixture(scope="module")
def language():
    return TableLanguage.random(3, 3, seed=1)


@pytest.fixture(scope="module")
def independent():
    marginals = torch.randn(3, 3, generator=seeded(), dtype=torch.float64).softmax(-1)
    return TableLanguage(torch.einsum("a,b,c->abc", *marginals))


def even_grid(num_steps):
    return [1 - k / num_steps for k in range(num_steps + 1)]


def all_canvases(language):
    """Every sequence with every set of its positions known, the others an id outside the language."""
    bits = torch.cartesian_prod(*[torch.tensor([False, True])] * language.length).view(-1, language.length)
    known = bits.repeat(len(language.sequences), 1)
    tokens = language.sequences.repeat_interleave(len(bits), 0)
    return tokens.masked_fill(~known, language.vocab_size + 1), known


# --- chains -----------------------------------------------------------------------------------------------------------


def test_a_chain_is_its_table(chain):
    table = chain.to_table()

    assert torch.equal(chain.sequences, table.sequences)
    assert float(table.probabilities.sum()) == pytest.approx(1, abs=1e-12)
    assert chain.entropy == pytest.approx(table.entropy, abs=1e-12)
    assert torch.equal(chain.forbids(chain.sequences), table.probabilities == 0)


def test_log_probabilities_are_products_of_transitions():
    chain = CHAINS["markov"]
    a, b, c, d = 0, 2, 1, 1

    by_hand = chain.initial[a] * chain.transition[a, b] * chain.transition[b, c] * chain.transition[c, d]

    assert float(chain.log_prob(torch.tensor([[a, b, c, d]]))) == pytest.approx(math.log(by_hand), abs=1e-12)


def test_log_probabilities_of_a_hidden_chain_are_sums_over_its_paths():
    chain = CHAINS["hidden"]
    tokens = torch.tensor([3, 0, 0, 2])

    by_hand = 0.0
    for path in torch.cartesian_prod(*[torch.arange(3)] * 4):
        moves = math.prod(float(chain.transition[before, after]) for before, after in pairwise(path))
        by_hand += float(chain.initial[path[0]]) * moves * float(chain.emission[path, tokens].prod())

    assert float(chain.log_prob(tokens[None])) == pytest.approx(math.log(by_hand), abs=1e-12)


def test_posteriors_are_those_of_the_table(chain):
    tokens, known = all_canvases(chain)
    expected = chain.to_table().posterior(tokens, known)
    possible = ~expected.isnan().any(-1).any(-1)

    posterior = chain.posterior(tokens, known)

    torch.testing.assert_close(posterior[possible], expected[possible], rtol=0, atol=1e-12)
    torch.testing.assert_close(posterior.sum(-1), torch.ones_like(posterior[..., 0]), rtol=0, atol=1e-12)


def test_samples_follow_the_chain(chain):
    drawn = chain.sample(20_000, seeded())

    places = (drawn * chain.vocab_size ** torch.arange(chain.length - 1, -1, -1)).sum(-1)
    counts = torch.bincount(places, minlength=len(chain.sequences))
    assert chi_square_p(counts, chain.to_table().probabilities) > 1e-3
    assert not chain.forbids(drawn).any()


@pytest.mark.parametrize("kind", [MarkovChain, HiddenMarkovModel])
def test_a_long_sparse_chain(kind):
    chain = kind.random(vocab_size=8, length=64, sparsity=0.5)
    drawn = chain.sample(200, seeded())
    nats = -chain.log_prob(drawn)
    known = torch.rand(drawn.shape, generator=seeded(1)) < 0.3

    posterior = chain.posterior(drawn, known)

    torch.testing.assert_close(posterior.sum(-1), torch.ones_like(posterior[..., 0]), rtol=0, atol=1e-12)
    # A calibrated prediction's mean surprise is its mean entropy.
    surprise = -posterior.gather(-1, drawn[..., None])[..., 0].log()
    gap = (surprise - torch.special.entr(posterior).sum(-1)).sum(-1)
    assert float(gap.mean().abs() / gap.std() * len(gap) ** 0.5) < 4
    # One token at a time, left to right, adds up to the log-probability.
    everything = torch.ones_like(known)
    steps = [chain.posterior(drawn, everything.tril(-1)[i].expand(len(drawn), -1)) for i in range(chain.length)]
    one_by_one = torch.stack([step[:, i].gather(-1, drawn[:, i, None])[:, 0] for i, step in enumerate(steps)])
    torch.testing.assert_close(-one_by_one.log().sum(0), nats, rtol=0, atol=1e-9)
    if kind is MarkovChain:
        assert float((nats.mean() - chain.entropy).abs() / nats.std() * len(nats) ** 0.5) < 4
    else:
        with pytest.raises(ValueError, match="too many to enumerate"):
            _ = chain.entropy
    noise = torch.randint(chain.vocab_size, drawn.shape, generator=seeded(2))
    assert chain.forbids(noise).double().mean() > 0.9
    assert not chain.forbids(drawn).any()


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("sizes", [(3, 8), (8, 3), (4, 4)])
def test_sparsity_is_the_share_of_zeros_and_cuts_nothing_off(sizes, sparsity):
    chain = HiddenMarkovModel.random(*sizes, 5, sparsity=sparsity)

    reached = torch.linalg.matrix_power((chain.transition > 0).double() + torch.eye(sizes[0]), sizes[0])
    assert (reached > 0).all(), "every state from every other"
    assert (chain.emission.sum(0) > 0).all()
    for rows in [chain.initial[None], chain.transition, chain.emission]:
        torch.testing.assert_close(rows.sum(-1), torch.ones(len(rows), dtype=torch.float64))
    zeros = (chain.transition == 0).double().mean()
    assert float(zeros) == pytest.approx(min(sparsity, 1 - 1 / sizes[0]), abs=0.5 / sizes[0])


def test_after_an_error_the_posterior_is_that_of_the_fewest_errors():
    cycle = MarkovChain(torch.full((4,), 0.25), torch.eye(4).roll(1, dims=1), 9)  # 0 1 2 3 0 1 2 3 ...
    tokens = torch.tensor([[9, 1, 3, 9, 9, 2, 9, 3, 9]])  # the errors: 1 3, and 2 ? 3

    posterior = cycle.posterior(tokens, tokens < 4)[0]

    expected = torch.eye(4, dtype=torch.float64)[[0, 1, 3, 0, 1, 2, 2, 3, 0]]
    expected[6] = torch.tensor([0, 0, 0.5, 0.5])  # 2 2 3 or 2 3 3
    torch.testing.assert_close(posterior, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["sparse markov", "sparse hidden"])
def test_the_posterior_after_an_error_is_the_limit_of_softer_languages(name):
    chain = CHAINS[name]
    tokens, known = all_canvases(chain)
    impossible = chain.to_table().posterior(tokens, known).isnan().any(-1).any(-1)
    soft = [rows.masked_fill(rows == 0, 1e-9) for rows in (chain.initial, chain.transition)]
    softer = HiddenMarkovModel(*[rows / rows.sum(-1, keepdim=True) for rows in soft], chain.emission, chain.length)

    limit = chain.posterior(tokens[impossible], known[impossible])

    assert impossible.sum() > 10
    expected = softer.to_table().posterior(tokens[impossible], known[impossible])
    torch.testing.assert_close(limit, expected, rtol=0, atol=1e-5)


# --- laws -------------------------------------------------------------------------------------------------------------


LAWS = {
    "ancestral": lambda language: ancestral_law(language, [1, 0.7, 0.2, 0]),
    "remasking": lambda language: remasking_law(language, 4, lambda k: [0.6, 0.5, 0.7, 1][k], lambda k: 0.3 * (k < 3)),
    "parallel": lambda language: parallel_law(language, [2, 1]),
    "confidence": lambda language: scored_law(language, [1, 2], confidence),
    "margin": lambda language: scored_law(language, [2, 1], margin),
    "entropy": lambda language: scored_law(language, [1, 1, 1], entropy, temperature=0.7),
}


def simulate(language, num_rows, steps):
    """Rows of masks, sent through `steps`: functions of the canvas, where it is masked, and the posterior."""
    canvas = torch.full((num_rows, language.length), language.vocab_size)
    for step in steps:
        masked = canvas == language.vocab_size
        canvas = step(canvas, masked, language.posterior(canvas, ~masked))
    powers = language.vocab_size ** torch.arange(language.length - 1, -1, -1)
    return torch.bincount((canvas * powers).sum(-1), minlength=language.vocab_size**language.length)


def draw(probabilities, generator):
    return torch.multinomial(probabilities.flatten(0, 1), 1, generator=generator).view(probabilities.shape[:2])


def independent_step(fill, remask, generator):
    def step(canvas, masked, posterior):
        coin = torch.rand(canvas.shape, generator=generator)
        filled = torch.where(coin < fill, draw(posterior, generator), canvas)
        return torch.where(masked, filled, canvas.masked_fill(coin < remask, posterior.shape[-1]))

    return step


def best_step(size, score, generator, temperature=1.0):
    """Keep the `size` drawn tokens with the highest score(posterior (B, L, V), tokens (B, L))."""

    def step(canvas, masked, posterior):
        drawn = draw(posterior ** (1 / temperature), generator)
        best = score(posterior, drawn).masked_fill(~masked, -torch.inf).topk(size).indices
        return canvas.scatter(1, best, drawn.gather(1, best))

    return step


def steps_of(name, generator):
    if name == "ancestral":
        return [independent_step(fill, 0, generator) for fill in (0.3, 5 / 7, 1)]
    if name == "remasking":
        return [independent_step(*rates, generator) for rates in ((0.6, 0.3), (0.5, 0.3), (0.7, 0.3), (1, 0))]
    if name == "parallel":
        return [best_step(n, lambda p, x: torch.rand(x.shape, generator=generator), generator) for n in (2, 1)]
    if name == "confidence":
        return [best_step(n, lambda p, x: p.gather(-1, x[..., None])[..., 0], generator) for n in (1, 2)]
    if name == "margin":
        return [best_step(n, lambda p, x: p.sort().values.diff()[..., -1], generator) for n in (2, 1)]
    return [best_step(1, lambda p, x: (p * p.log()).nansum(-1), generator, temperature=0.7)] * 3


@pytest.mark.parametrize("name", LAWS)
def test_laws_are_those_of_simulated_samplers(language, name):
    law = LAWS[name](language)

    counts = simulate(language, 6000, steps_of(name, seeded()))

    assert float(law.sum()) == pytest.approx(1, abs=1e-12)
    assert law.shape == language.probabilities.shape
    assert chi_square_p(counts, law) > 1e-3
    assert chi_square_p(counts, language.probabilities) < 1e-3, "the test tells them apart"


@pytest.mark.parametrize("name", LAWS)
def test_samplers_that_fill_several_positions_at_once_write_what_the_language_forbids(name):
    chain = MarkovChain.random(4, 3, sparsity=0.5)
    law = LAWS[name](chain)

    one_at_a_time = name == "entropy"
    assert float(law.sum()) == pytest.approx(1, abs=1e-12)
    assert (float(law[chain.forbids(chain.sequences)].sum()) < 1e-12) == one_at_a_time


def test_one_position_at_a_time_is_exact(language):
    assert total_variation(parallel_law(language, [1, 1, 1]), language.probabilities) < 1e-12


def test_a_score_that_does_not_see_the_token_is_exact_one_at_a_time(language):
    for score in (margin, entropy):
        assert total_variation(scored_law(language, [1, 1, 1], score), language.probabilities) < 1e-12
    assert total_variation(scored_law(language, [1, 1, 1], confidence), language.probabilities) > 0.01


def test_one_step_is_the_product_of_the_marginals(language):
    known = torch.zeros(1, 3, dtype=torch.bool)
    marginals = language.posterior(torch.zeros(1, 3, dtype=torch.long), known)[0]
    product = torch.einsum("a,b,c->abc", *marginals).flatten()

    for law in (
        ancestral_law(language, [1, 0]),
        parallel_law(language, [3]),
        scored_law(language, [3], confidence),
    ):
        torch.testing.assert_close(law, product, rtol=0, atol=1e-12)


def test_ancestral_sampling_tends_to_the_language(language):
    distances = [total_variation(ancestral_law(language, even_grid(n)), language.probabilities) for n in (1, 4, 16, 64)]

    assert all(later < 0.5 * before for before, later in pairwise(distances))
    assert distances[0] > 0.1
    assert distances[-1] < 0.01


def test_parallel_filling_is_exact_only_where_positions_are_independent(language, independent):
    for name in ("ancestral", "remasking", "parallel"):
        assert total_variation(LAWS[name](language), language.probabilities) > 0.01
        assert total_variation(LAWS[name](independent), independent.probabilities) < 1e-12


def test_remasking_nothing_is_ancestral_sampling(language):
    rates = [1, 0.9, 0.35, 0.3, 0]
    law = remasking_law(language, 4, lambda k: 1 - rates[k + 1] / rates[k], lambda k: 0.0)

    assert torch.equal(law, ancestral_law(language, rates))


def remdm_law(language, num_steps, cap):
    """ReMDM with capped remasking under a linear schedule."""

    def sigma(k):
        alpha_t, alpha_s = k / num_steps, (k + 1) / num_steps
        return min(cap, (1 - alpha_s) / alpha_t) if k > 0 else cap  # nothing is there to be masked at k = 0

    def fill(k):
        alpha_t, alpha_s = k / num_steps, (k + 1) / num_steps
        return (alpha_s - (1 - sigma(k)) * alpha_t) / (1 - alpha_t)

    return remasking_law(language, num_steps, fill, sigma)


@pytest.mark.parametrize("cap", [0.02, 0.3])
def test_remasking_diffusion_tends_to_the_language(language, cap):
    distances = [total_variation(remdm_law(language, n, cap), language.probabilities) for n in (4, 16, 64, 256)]
    assert all(later < before for before, later in pairwise(distances))


def test_the_temperature_bears_on_the_draws_and_not_on_the_scores(language):
    cold = scored_law(language, [1, 1, 1], margin, temperature=0.01)
    canvas, known = torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 3, dtype=torch.bool)
    for _ in range(3):
        posterior = language.posterior(canvas, known)
        place = int(margin(posterior)[..., 0].masked_fill(known, -1).argmax())
        canvas[0, place], known[0, place] = posterior[0, place].argmax(), True

    best = (language.sequences == canvas).all(-1)
    assert float(cold[best]) == pytest.approx(1, abs=1e-3)


def test_ties_go_to_the_left(language):
    first = language.table.sum((1, 2))
    by_hand = torch.einsum("ab,ac,a->abc", language.table.sum(2), language.table.sum(1), 1 / first)

    law = scored_law(language, [1, 2], torch.zeros_like)

    torch.testing.assert_close(law, by_hand.flatten(), rtol=0, atol=1e-12)


def test_counts_of_filled_positions_are_those_of_thinning():
    rates, length = [1, 0.8, 0.3, 0.25, 0], 5
    law = fill_counts_law(length, rates)

    masked = torch.zeros(length + 1, dtype=torch.float64)
    masked[length] = 1
    for step, (before, after) in enumerate(pairwise(rates)):
        fill = 1 - after / before
        filled, left = torch.zeros_like(masked), torch.zeros_like(masked)
        for m in range(length + 1):
            for n in range(m + 1):
                weight = masked[m] * math.comb(m, n) * fill**n * (1 - fill) ** (m - n)
                filled[n] += weight
                left[m - n] += weight
        torch.testing.assert_close(law[step], filled, rtol=0, atol=1e-12)
        masked = left


def test_what_makes_no_law_is_refused(language):
    with pytest.raises(ValueError, match="fall from 1 to 0"):
        ancestral_law(language, [1, 0.5, 0.5, 0])
    with pytest.raises(ValueError, match="do not make up 3"):
        parallel_law(language, [2, 2])
    with pytest.raises(ValueError, match="must fill every masked position"):
        remasking_law(language, 2, lambda k: 0.5, lambda k: 0.0)
    with pytest.raises(ValueError, match="cannot occur together"):
        parallel_law(MarkovChain.random(4, 3, sparsity=0.5).to_table(), [2, 1])
