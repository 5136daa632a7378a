"""Uniform noise against enumeration: losses, gradients, bounds, and the laws of its samplers, for exact and wrong denoisers."""

import pytest
import torch
from goodness_of_fit import chi_square_p
from oracles.tables import TableLanguage
from torch.nn.functional import one_hot
from transformers import AutoModelForCausalLM
from uniform_model import (
    UniformModel,
    exact_bound,
    leave_one_out,
    likelihoods,
    posterior_of,
    sampler_law,
    udlm_terms,
)

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.corruption_mdlm import Uniform
from arche_mdlm.family_mdlm import family_of
from arche_mdlm.metrics.likelihood import nelbo
from arche_mdlm.metrics.policy_likelihood import policy_nll
from arche_mdlm.token_loss_mdlm import UniformBound

LANGUAGE = TableLanguage.random(vocab_size=3, length=2, seed=4)
RATES = (1e-4, 0.01, 0.3, 0.5, 0.9, 0.999)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the loss of a token ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("same", [True, False])
def test_the_loss_is_the_term_of_the_bound(rate, same):
    logits = torch.randn(6, 8, generator=seeded(), dtype=torch.float64)  # the last is the mask
    noisy = torch.tensor([0, 1, 2, 3, 4, 6])
    clean = noisy if same else (noisy + 1) % 7
    rates = torch.full((6,), rate, dtype=torch.float64)
    expected = udlm_terms(logits[:, :7].softmax(-1), noisy, clean, rates)
    loss = UniformBound(clean, 7, 7, noisy, rates)
    torch.testing.assert_close(loss.plain(logits), expected, rtol=1e-8, atol=1e-10)
    assert bool((expected >= 0).all())
    coefficients = torch.rand(6, generator=seeded(1), dtype=torch.float64) + 0.5
    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((loss.plain(leaf) * coefficients).sum(), leaf)
    overwritten = logits.clone()
    torch.testing.assert_close(loss.in_place(overwritten, coefficients), expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(overwritten, gradient, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 0.1, 0.5, 0.99, 0.9999])
def test_float32_is_enough(rate):
    logits = 3 * torch.randn(20, 4097, generator=seeded(2), dtype=torch.float64)
    noisy, clean = torch.randint(0, 4096, (2, 20), generator=seeded(3))
    clean[:10] = noisy[:10]
    loss = UniformBound(clean, 4096, 4096, noisy, torch.full((20,), rate, dtype=torch.float64))
    exact, exact_gradient = loss.plain(logits), logits.clone()
    loss.in_place(exact_gradient, torch.ones(20))
    own = logits.float()
    found = loss.in_place(own, torch.ones(20))
    largest = torch.maximum(exact.abs(), torch.tensor(4096 / rate * 1e-3))  # about the largest of the terms that cancel
    assert float(((found - exact).abs() / largest).max()) < 1e-5
    scale = exact_gradient.abs().amax(-1, keepdim=True)
    assert float(((own - exact_gradient).abs() / scale).max()) < 1e-4


def test_positions_that_count_for_nothing_are_not_nan():
    """At t = 0, where a compiled batch has spare positions, with a coefficient of 0."""
    logits = torch.randn(2, 5, generator=seeded())
    loss = UniformBound(torch.tensor([1, 1]), 4, 4, torch.tensor([1, 2]), torch.zeros(2))
    assert bool((loss.in_place(logits, torch.zeros(2)) >= 0).all())
    assert float(logits.abs().max()) == 0


def test_the_mask_is_no_token():
    corruption = Uniform(4, 2)
    drawn = corruption.replacements((4000,), seeded())
    counts = torch.bincount(drawn, minlength=5)
    assert int(counts[2]) == 0
    assert chi_square_p(counts[[0, 1, 3, 4]], torch.ones(4) / 4) > 1e-3
    config = MDLMConfig(vocab_size=7, mask_token_id=2, diffusion="uniform", time_conditioning="log_snr")
    assert family_of(config).corruption.num_tokens == 6


# --- objectives ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["nelbo", "converted", "resampled"])
@pytest.mark.parametrize("denoiser", ["leave_one_out", "full"])
def test_the_exact_denoiser_is_where_the_objective_has_no_gradient(objective, denoiser):
    """The sum over all clean and noisy sequences of the loss's gradient in the logits is 0 there, and nowhere near."""
    corruption, rate = Uniform(3, 3, sees_own_token=denoiser == "full"), 0.4
    sequences, length = LANGUAGE.sequences, LANGUAGE.length
    rates = torch.full((len(sequences), length), rate, dtype=torch.float64)
    exact = leave_one_out(LANGUAGE, sequences, rates, denoiser == "full").log()
    total = torch.zeros(2, *exact.shape, dtype=torch.float64)
    for which, logits in enumerate((exact, exact + 0.1 * torch.arange(3))):
        for clean, chance in zip(sequences, LANGUAGE.probabilities, strict=True):
            for i in range(length):
                leaf = torch.cat([logits[:, i], torch.zeros(len(sequences), 1)], -1).requires_grad_()
                likely = likelihoods(sequences, rates, 3).gather(-1, clean.expand_as(sequences)[..., None])[..., 0]
                weight = chance * likely.prod(-1)
                if objective == "resampled":  # only where the token was drawn anew: with the rate / V of it
                    weight = weight * (rate / 3) / likely[:, i]
                loss = corruption.token_loss(clean[i].expand(len(sequences)), sequences[:, i], rates[:, i], objective)
                (gradient,) = torch.autograd.grad((loss.plain(leaf) * weight).sum(), leaf)
                total[which, :, i] += gradient[:, :3]
    assert float(total[0].abs().max()) < 1e-12
    assert float(total[1].abs().max()) > 1e-4


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("wrong", [0.0, 0.4])
def test_the_training_loss_is_the_bound_in_expectation(schedule, wrong):
    model = UniformModel(LANGUAGE, wrong, noise_schedule=schedule)
    row = LANGUAGE.sequences[5]
    clean = torch.cat([model.bos(40_000), row.expand(40_000, -1)], dim=1)
    batch = family_of(model).corrupt(clean, clean != model.config.bos_token_id, "nelbo", seeded(3))
    assert batch.loss_weights is None
    inputs = batch.inputs()
    losses = model(**inputs, skip_logits=False, num_items_in_batch=1).loss
    rows = model(**inputs, skip_logits=False).token_nll.view(-1, 2).double()
    weights = family_of(model).schedule.slope(batch.timesteps[:, 1].double())
    each = rows.sum(-1) * weights
    error = float(each.std()) / len(each) ** 0.5
    assert abs(float(each.mean()) - exact_bound(model, row)) < 4 * error
    assert float(losses) / len(each) == pytest.approx(float(each.mean()), rel=1e-4)


# --- the bound ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("antithetic", ["none", "counts", "complement"])
@pytest.mark.parametrize("wrong", [0.0, 0.4])
def test_the_bound_is_that_of_all_noise(wrong, antithetic):
    model = UniformModel(LANGUAGE, wrong)
    rows = torch.cat([model.bos(9), LANGUAGE.sequences], dim=1)
    found = nelbo(model, rows, num_samples=2000, antithetic=antithetic, generator=seeded(1))
    expected = torch.tensor([exact_bound(model, row) for row in LANGUAGE.sequences])
    assert bool(((found.nats - expected).abs() < 4 * found.standard_error + 1e-3).all())
    assert float(found.standard_error.max()) < 0.3
    if wrong == 0:
        mean = float((expected * LANGUAGE.probabilities).sum())
        assert mean == pytest.approx(LANGUAGE.entropy, abs=1e-4), "tight for the exact denoiser"


def test_the_bound_of_a_token_that_no_noise_is_seen_for_is_its_own_likelihood():
    """One position, a denoiser that looks at neither token nor time: exactly -log x, for any x."""
    x = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    nodes = torch.linspace(0.5, 9999.5, 10_000, dtype=torch.float64) / 10_000
    times = nodes**2
    for clean in range(3):
        total = 0.0
        for noisy in range(3):
            loss = UniformBound(torch.full((10_000,), clean), None, 3, torch.full((10_000,), noisy), times)
            chance = (1 - times) * (noisy == clean) + times / 3
            total += float((chance * loss.plain(x.log().expand(10_000, -1)) * 2 * nodes).mean())
        assert total == pytest.approx(-float(x[clean].log()), abs=1e-5)


# --- samplers -----------------------------------------------------------------------------------------------------------------


def psi_law(kappa: float):
    def law(x, noisy, alpha_t, alpha_s):
        denoised = posterior_of(x, noisy, alpha_t, 1.0)
        return kappa * posterior_of(x, noisy, alpha_t, alpha_s) + (1 - kappa) * (
            alpha_s * denoised + (1 - alpha_s) / x.shape[-1]
        )

    return law


def greedy_tail_law(x, noisy, alpha_t, alpha_s):
    law = posterior_of(x, noisy, alpha_t, alpha_s)
    return one_hot(law.argmax(-1), x.shape[-1]).double() if alpha_s == 1 else law


def gibbs_correction(model: UniformModel, times: int):
    """(S, S): a random position is drawn anew from alpha x + (1 - alpha) / V, so many times."""

    def matrix(alpha: float) -> torch.Tensor:
        sequences, size = model.language.sequences, model.language.vocab_size
        x = model.model.law(sequences, torch.full(sequences.shape, 1 - alpha, dtype=torch.float64))
        new = alpha * x + (1 - alpha) / size  # (S, L, V)
        total = torch.zeros(len(sequences), len(sequences), dtype=torch.float64)
        for i in range(sequences.shape[1]):
            others = torch.ones(len(sequences), len(sequences), dtype=torch.bool)
            for j in range(sequences.shape[1]):
                others &= (sequences[:, None, j] == sequences[None, :, j]) | (i == j)
            total += others * new[:, i].gather(-1, sequences[:, i].expand(len(sequences), -1)) / sequences.shape[1]
        return torch.linalg.matrix_power(total, times)

    return matrix


def written(model, steps: int, rows: int = 12_000, **settings) -> torch.Tensor:
    sequences = model.generate(
        model.bos(rows), max_new_tokens=model.language.length, num_diffusion_steps=steps, do_sample=True, generator=seeded(7), **settings
    )  # fmt: skip
    return model.counts(sequences)


@pytest.mark.parametrize("steps", [1, 3, 8])
@pytest.mark.parametrize("wrong", [0.0, 0.5])
@pytest.mark.parametrize(
    ("settings", "law"),
    [
        ({}, posterior_of),
        ({"sampler": "psi", "kappa": 0.5}, psi_law(0.5)),
        ({"sampler": "psi", "kappa": 0.0}, psi_law(0.0)),
        ({"greedy_tail": True}, greedy_tail_law),
        ({"sampler": "gibbs", "corrector_steps": 2}, "gibbs"),
    ],
    ids=["ancestral", "psi", "psi-0", "greedy_tail", "gibbs"],
)
def test_the_law_of_what_is_written(settings, law, wrong, steps):
    model = UniformModel(LANGUAGE, wrong)
    if law == "gibbs":
        expected = sampler_law(model, steps, after=gibbs_correction(model, 2))
    else:
        expected = sampler_law(model, steps, law)
    counts = written(model, steps, **settings)
    assert int(counts[expected < 1e-12].sum()) == 0
    if float(expected.max()) < 1 - 1e-9:
        assert chi_square_p(counts, expected) > 1e-3


@pytest.mark.parametrize("steps", [2, 6])
@pytest.mark.parametrize(
    ("family", "settings"),
    [({}, {"block_length": 1}), ({"diffusion": "uniform_block", "attention_block_length": 1}, {})],
    ids=["uniform", "uniform_block"],
)
def test_blocks_of_one_token_are_written_by_the_exact_conditionals(family, settings, steps):
    """A block is told its level, the finished ones before it are clean: with the exact denoiser the language itself."""
    counts = written(UniformModel(LANGUAGE, **family), steps, **settings)
    assert chi_square_p(counts, LANGUAGE.probabilities) > 1e-3


@pytest.mark.parametrize("wrong", [0.0, 0.5])
def test_the_law_of_blocks_of_two(wrong):
    """Each block of four tokens' first and second half by its own steps, given the finished one before it."""
    language = TableLanguage.random(vocab_size=2, length=4, seed=2)
    model = UniformModel(language, wrong, diffusion="uniform_block", attention_block_length=2)
    steps, size, sequences = 2, 2, language.sequences  # a step for each of BOS and a token | two tokens | a token
    law = torch.full((16,), 1 / 16, dtype=torch.float64)
    for block in ([0], [1, 2], [3]):
        for step in range(steps):
            alpha_t, alpha_s = step / steps, (step + 1) / steps
            level = torch.zeros(16, 4, dtype=torch.float64)
            level[:, block] = 1 - alpha_t
            level[:, block[-1] + 1 :] = 1.0
            new = posterior_of(model.model.law(sequences, level), sequences, alpha_t, alpha_s)
            kept = one_hot(sequences, size).double()
            inside = torch.zeros(4, dtype=torch.bool)
            inside[block] = True
            new = torch.where(inside[None, :, None], new, kept)[:, None].expand(-1, 16, -1, -1)
            law = law @ new.gather(-1, sequences[None, ..., None].expand(16, -1, -1, 1))[..., 0].prod(-1)
    assert chi_square_p(written(model, 3 * steps), law) > 1e-3


def test_a_denoiser_that_sees_its_own_token_is_converted():
    model = UniformModel(LANGUAGE, denoiser="full")
    assert chi_square_p(written(model, 4), sampler_law(UniformModel(LANGUAGE), 4)) > 1e-3
    rows = torch.cat([model.bos(9), LANGUAGE.sequences], dim=1)
    both = [nelbo(m, rows, num_samples=8, generator=seeded()).nats for m in (model, UniformModel(LANGUAGE))]
    torch.testing.assert_close(*both, rtol=1e-5, atol=1e-5)


def test_kappa_1_is_ancestral_and_many_steps_are_the_language():
    model = UniformModel(LANGUAGE)
    generate = lambda **own: model.generate(  # noqa: E731
        model.bos(64), max_new_tokens=2, num_diffusion_steps=4, do_sample=True, generator=seeded(), **own
    )
    assert torch.equal(generate(), generate(sampler="psi", kappa=1.0))
    assert torch.equal(generate(), generate(sampler="gibbs", corrector_steps=0))
    distance = [float((sampler_law(model, steps) - LANGUAGE.probabilities).abs().sum()) for steps in (16, 64)]
    assert distance[0] / distance[1] == pytest.approx(4, rel=0.1)


def test_given_positions_stay_and_condition_the_rest():
    """A mask in the prompt is an open position in every family; told the levels, the exact denoiser writes the exact conditional."""
    model = UniformModel(LANGUAGE)
    prompt = torch.cat([model.bos(12_000), torch.full((12_000, 1), 3), torch.full((12_000, 1), 2)], dim=1)
    filled = model.generate(prompt, max_new_tokens=0, num_diffusion_steps=2, do_sample=True, generator=seeded(5))
    assert bool((filled[:, 2] == 2).all())
    conditional = LANGUAGE.table[:, 2] / LANGUAGE.table[:, 2].sum()
    assert chi_square_p(torch.bincount(filled[:, 1], minlength=3), conditional) > 1e-3


# --- a network ----------------------------------------------------------------------------------------------------------------

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
BOS, PAD, MASK = 3, 4, 5


def network(diffusion: str = "uniform", **changes) -> MDLMForMaskedDiffusion:
    torch.manual_seed(0)
    own = {"attention_block_length": 3} if diffusion == "uniform_block" else {}
    config = MDLMConfig(
        vocab_size=6, mask_token_id=MASK, bos_token_id=BOS, pad_token_id=PAD, max_position_embeddings=16, diffusion=diffusion,
        time_conditioning="log_snr", initializer_range=0.6, **SIZES, **own | changes,
    )  # fmt: skip
    return MDLMForMaskedDiffusion(config).eval()


@pytest.mark.parametrize("diffusion", ["uniform", "uniform_block"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("options", [
    {"sampler": "ancestral"}, {"sampler": "psi"}, {"sampler": "gibbs"},
    {"sampler": "ancestral", "greedy_tail": True},
    {"sampler": "psi", "kappa": 0.3, "greedy_tail": True},  # in blocks, one row ends where the other goes on
    {"sampler": "gibbs", "greedy_tail": True},
])  # fmt: skip
def test_a_row_alone_is_what_it_is_in_a_padded_batch(diffusion, side, options):
    model = network(diffusion)
    own = {"max_new_tokens": 6, "num_diffusion_steps": 6, "do_sample": True, **options}
    prompts = [[BOS, 1, 2], [BOS]]
    alone = [
        model.generate(torch.tensor([prompt]), generator=[seeded(i)], **own)[0, len(prompt) :]
        for i, prompt in enumerate(prompts)
    ]
    padded = torch.tensor([[BOS, 1, 2], [PAD, PAD, BOS] if side == "left" else [BOS, PAD, PAD]])
    mask = (padded != PAD).long()
    both = model.generate(padded, attention_mask=mask, generator=[seeded(0), seeded(1)], **own)
    assert torch.equal(both[0, 3:], alone[0])
    assert torch.equal(both[1, 3:], alone[1])
    assert not bool((both == MASK).any())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("diffusion", ["uniform", "uniform_block"])
def test_padding_changes_no_bound(diffusion, side):
    model, rows, pad = network(diffusion), torch.tensor([[BOS, 0, 1, 2, 1], [BOS, 2, 2, 0, 1]]), torch.full((2, 2), PAD)
    parts, masks = [pad, rows], [torch.zeros_like(pad), torch.ones_like(rows)]
    if side == "right":
        parts, masks = parts[::-1], masks[::-1]
    alone = nelbo(model, rows, num_samples=6, generator=seeded())
    padded = nelbo(model, torch.cat(parts, 1), torch.cat(masks, 1), num_samples=6, generator=seeded())
    torch.testing.assert_close(alone.nats, padded.nats, atol=1e-4, rtol=1e-5)


def test_uniform_noise_in_blocks_is_that_of_each_block_given_the_clean_ones_before_it():
    """Against whole-canvas passes over [clean blocks ; noisy block], integrated over t and all noise."""
    model, row = network("uniform_block"), torch.tensor([BOS, 0, 2, 1])  # blocks: BOS 0 2 | 1
    corruption, times = family_of(model).corruption, (torch.arange(400) + 0.5) / 400
    times = times**2
    expected = torch.zeros(400, dtype=torch.float64)
    for block in ([1, 2], [3]):
        for noisy in torch.cartesian_prod(*[torch.arange(5)] * len(block)).view(-1, len(block)):
            canvas = row.expand(400, -1).clone()
            canvas[:, block] = noisy
            told = torch.zeros(400, 4)
            told[:, block] = times[:, None]
            with torch.no_grad():
                logits = model(canvas, timesteps=told).logits[:, block].double()
            chance = torch.where(noisy == row[block], 1 - 0.8 * times[:, None], times[:, None] / 5).prod(-1)
            for i, position in enumerate(block):
                loss = corruption.token_loss(row[position].expand(400), noisy[i].expand(400), times.double())
                expected += chance * loss.plain(logits[:, i])
    bound = float((expected * 2 * times.sqrt()).mean())
    found = nelbo(model, row[None].expand(8, -1), num_samples=1500, generator=seeded(2))
    error = float(found.standard_error.mean()) / 8**0.5
    assert error < 0.1
    assert abs(float(found.nats.mean()) - bound) < 4 * error + 0.01


def test_the_cache_of_clean_blocks_is_exact():
    model = network("uniform_block")
    prompt = torch.tensor([[BOS, 1]] * 3)
    own = {"max_new_tokens": 10, "num_diffusion_steps": 12, "do_sample": True}
    plain = model.generate(prompt, generator=seeded(1), **own)
    assert torch.equal(plain, model.generate(prompt, generator=seeded(1), prefix_cache=True, **own))


def test_the_chunked_loss_is_the_plain_one():
    model = network()
    clean = torch.randint(0, 3, (4, 6), generator=seeded())
    for objective in family_of(model).corruption.objectives:
        batch = family_of(model).corrupt(clean, clean >= 0, objective, seeded(1)).inputs() | {"objective": objective}
        results = []
        for skip in (True, False):
            model.zero_grad()
            loss = model(**batch, skip_logits=skip).loss
            loss.backward()
            results.append(
                (loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
            )
        torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-3, atol=1e-4)


def test_all_that_a_network_is_told_is_the_noise_level():
    """One model serves every schedule: the same levels, the same logits."""
    linear, cosine = network(), network(noise_schedule="cosine")
    canvas, level = torch.tensor([[BOS, 1, 2]]), torch.tensor([[0.0, 0.3, 0.3]])
    told = family_of(cosine).schedule.time_at(level)
    torch.testing.assert_close(linear(canvas, timesteps=level).logits, cosine(canvas, timesteps=told).logits)
    assert not torch.allclose(linear(canvas, timesteps=level).logits, linear(canvas, timesteps=level / 2).logits)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: m.generate(x, sampler="confidence"), "sampler='confidence' is for masked noise; a model of uniform noise takes "
         "ancestral, gibbs, psi"),
        (lambda m, x: m.generate(x, sampler="psi", corrector_steps=2), "corrector_steps=2 does not work with sampler='psi': it is an "
         r"option of gibbs \(uniform noise\)"),
        (lambda m, x: m.generate(x, sampler="psi", kappa=1.5), "kappa=1.5 must be in 0 to 1"),
        (lambda m, x: m.generate(x, guidance_scale=2.0), "guidance_scale=2.0 is for masked noise"),
        (lambda m, x: policy_nll(m, x), "has uniform noise"),
        (lambda m, x: m(x, labels=x), "timesteps=None"),
        (lambda m, x: m(x), "timesteps=None, but this model has time_conditioning='log_snr'"),
        (lambda m, x: m(x, labels=x, timesteps=torch.ones(1), objective="elbo"), "objective='elbo' is not one of nelbo, converted"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_uniform_noise_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(network(), torch.tensor([[BOS, 1, 2]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time_conditioning": "none"}, "time_conditioning='none' does not work with diffusion='uniform'"),
        ({"denoiser": "half"}, "denoiser='half' is not one of leave_one_out, full"),
        ({"parameterization": "score"}, "parameterization='score' is for masked noise"),
        ({"diffusion": "masked", "denoiser": "full"}, "denoiser='full' is for uniform noise"),
        ({"diffusion": "uniform_block", "attention_block_length": None}, "needs attention_block_length"),
    ],
)
def test_fields_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        MDLMConfig(**{"diffusion": "uniform", "time_conditioning": "log_snr", "vocab_size": 8} | changes)


def test_a_sampler_of_uniform_noise_is_refused_by_a_masked_model():
    torch.manual_seed(0)
    model = MDLMForMaskedDiffusion(MDLMConfig(vocab_size=6, mask_token_id=MASK, bos_token_id=BOS, **SIZES))
    with pytest.raises(
        ValueError, match="sampler='psi' is for uniform noise; a model of masked noise takes ancestral, arche"
    ):
        model.generate(torch.tensor([[BOS]]), sampler="psi")


def test_a_checkpoint_without_the_embedding_of_noise_is_refused(tmp_path):
    model = network()
    model.save_pretrained(tmp_path)
    assert MDLMForMaskedDiffusion.from_pretrained(tmp_path).config.diffusion == "uniform"
    torch.manual_seed(0)
    masked = MDLMForMaskedDiffusion(MDLMConfig(**SIZES, vocab_size=6, mask_token_id=MASK, bos_token_id=BOS))
    masked.save_pretrained(tmp_path / "masked")
    for kind in (MDLMForMaskedDiffusion, AutoModelForCausalLM):
        with pytest.raises(
            ValueError, match="time_conditioning='log_snr' but not its weights, model.time_embedding.inner"
        ):
            kind.from_pretrained(tmp_path / "masked", diffusion="uniform", time_conditioning="log_snr")
