"""Gaussian latents under uniform noise: alpha(gamma), the draw of the largest latents, and the loss of the curriculum."""

import itertools

import pytest
import torch
from goodness_of_fit import chi_square_p
from seeds import seeded
from uniform_model import likelihoods, udlm_terms

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.configuration import checks
from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.family_mdlm import family_of
from arche_mdlm.gaussian_mdlm import LARGEST_TEMPERATURE, GaussianLatents, relaxed_batch

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
WINDOW = (0.2, 0.9)


def network(**changes) -> MDLMForMaskedDiffusion:
    """Tokens 0, 1, 3, 4; the mask is 2."""
    torch.manual_seed(0)
    config = MDLMConfig(vocab_size=5, mask_token_id=2, bos_token_id=4, diffusion="uniform", time_conditioning="log_snr",
                        initializer_range=0.5, **SIZES | changes)  # fmt: skip
    return MDLMForMaskedDiffusion(config).eval()


def brute_force(size: int, gamma: torch.Tensor, rows: int, generator: torch.Generator) -> torch.Tensor:
    """All latents (rows, V); token 0 is the clean one."""
    latents = torch.sigmoid(gamma).sqrt() * torch.randn(rows, size, generator=generator, dtype=torch.float64)
    latents[:, 0] += torch.sigmoid(-gamma).sqrt()
    return latents


@pytest.mark.parametrize("size", [2, 7, 300])
@pytest.mark.parametrize("gamma", [-4.0, -2.0, 0.5])
def test_alpha_is_that_of_simulated_latents(size, gamma):
    gamma = torch.tensor(gamma, dtype=torch.float64)
    kept = (brute_force(size, gamma, 20_000, seeded()).argmax(-1) == 0).double()
    alpha = float(GaussianLatents(size).alpha(gamma))
    expected = alpha + (1 - alpha) / size
    assert abs(float(kept.mean()) - expected) < 4 * (expected * (1 - expected) / 20_000) ** 0.5


@pytest.mark.parametrize("size", [2, 7, 4096])
def test_the_slope_is_that_of_alpha_and_gamma_at_its_inverse(size):
    latents, gamma = GaussianLatents(size), torch.linspace(-6, 2, 9, dtype=torch.float64)
    difference = (latents.alpha(gamma + 1e-4) - latents.alpha(gamma - 1e-4)) / 2e-4
    torch.testing.assert_close(latents.slope(gamma), difference, rtol=1e-6, atol=1e-9)
    for alpha in (0.049, 0.5, 0.945):
        found = latents.alpha(torch.tensor(latents.gamma_at(alpha), dtype=torch.float64))
        assert abs(float(found) - alpha) < 1e-12


def test_the_published_window_is_found_again():
    """Duo's gamma in [-3.55, -1.85] for 50,257 tokens."""
    alpha = GaussianLatents(50_257).alpha(torch.tensor([-3.55, -1.85], dtype=torch.float64))
    torch.testing.assert_close(alpha, torch.tensor([0.945, 0.049], dtype=torch.float64), atol=1e-3, rtol=0)


@pytest.mark.parametrize("gamma", [-3.0, -1.0])
def test_the_largest_latents_have_the_law_of_all_latents(gamma):
    """V = 30, 4 others: values, who is largest, and the weights of the softmax."""
    size, rows, gamma = 30, 20_000, torch.tensor(gamma, dtype=torch.float64)
    tokens, values = GaussianLatents(size).largest(
        torch.zeros(rows, dtype=torch.long), gamma.expand(rows), 4, seeded(1)
    )
    everything = brute_force(size, gamma, rows, seeded(2))
    top = torch.cat([everything[:, :1], everything[:, 1:].topk(4).values], 1)
    weights = [(x / 0.1).softmax(-1) for x in (values, top)]
    for mine, theirs in [(values, top), weights, (values**2, top**2), ((values[:, :1] * values), top[:, :1] * top)]:
        error = ((mine.var(0) + theirs.var(0)) / rows).sqrt()
        assert bool(((mine.mean(0) - theirs.mean(0)).abs() < 4 * error + 1e-12).all())
    assert bool((tokens.sort(1).values.diff(dim=1) > 0).all()), "no token twice"
    alpha = float(GaussianLatents(size).alpha(gamma))
    law = torch.full((size,), (1 - alpha) / size)
    law[0] += alpha
    argmax = tokens.gather(1, values.argmax(1, keepdim=True))[:, 0]
    assert chi_square_p(torch.bincount(argmax, minlength=size), law) > 1e-3
    for j in range(1, 5):
        assert chi_square_p(torch.bincount(tokens[:, j], minlength=size)[1:], torch.ones(29) / 29) > 1e-3


def test_a_batch_is_uniform_noise_with_means_of_embeddings():
    family = family_of(network())
    tokens = torch.tensor([[4, 0, 1, 3]]).expand(4000, -1)
    open = (torch.arange(4) > 0).expand(4000, -1)
    batch = relaxed_batch(tokens, open, family, 0.02, WINDOW, seeded())
    assert bool((batch.mixture_ids != 2).all()), "noise is never the mask"
    assert bool((batch.mixture_ids[:, 0, 0] == 4).all())
    assert bool((batch.mixture_weights[:, 0, 0] == 1).all())
    assert bool((batch.timesteps[:, 0] == 0).all())
    torch.testing.assert_close(batch.mixture_weights.sum(-1), torch.ones(4000, 4))
    heaviest = batch.mixture_ids.gather(-1, batch.mixture_weights.argmax(-1, keepdim=True))[..., 0]
    assert float((heaviest == batch.input_ids).float().mean()) > 0.999  # the rest is equal to float32
    alpha = 1 - batch.timesteps[:, 1:]
    assert float(alpha.min()) > WINDOW[0] - 1e-6
    assert float(alpha.max()) < WINDOW[1] + 1e-6
    kept, expected = (batch.input_ids == tokens)[:, 1:].double().mean(0), (alpha + (1 - alpha) / 4).mean(0)
    assert bool(((kept - expected).abs() < 4 * (0.25 / 4000) ** 0.5).all())
    assert abs(float(batch.loss_weights.mean()) - (WINDOW[1] - WINDOW[0])) < 1e-2, "the integral of -alpha'"


def bound_in_window(model: MDLMForMaskedDiffusion, row: torch.Tensor) -> float:
    """The NELBO's integral over alpha in the window, at all positions but the first, over all noisy rows."""
    import numpy

    u, weight = numpy.polynomial.legendre.leggauss(30)
    rate = torch.tensor(1 - (WINDOW[0] + (WINDOW[1] - WINDOW[0]) * (u + 1) / 2))
    weight = torch.tensor(weight / 2 * (WINDOW[1] - WINDOW[0]))
    index, kept = family_of(model).corruption.index_of(row), [0, 1, 3, 4]
    total = torch.zeros(30, dtype=torch.float64)
    for noisy in itertools.product(range(4), repeat=len(row) - 1):
        z = torch.tensor(noisy).expand(30, -1)
        canvas = torch.cat([row[:1].expand(30, 1), torch.tensor(kept)[z]], 1)
        told = torch.cat([torch.zeros(30, 1), rate[:, None].expand(z.shape)], 1).float()
        with torch.no_grad():
            law = model(canvas, timesteps=told).logits[:, 1:, kept].double().softmax(-1)
        clean, levels = index[1:].expand(30, -1), rate[:, None].expand(z.shape)
        chance = likelihoods(z, levels, 4).gather(-1, clean[..., None])[..., 0].prod(-1)
        total += chance * udlm_terms(law, z, clean, levels).sum(-1)
    return float((total * weight).sum())


@pytest.mark.parametrize("changes", [{}, {"noise_schedule": "cosine"}])
def test_at_a_low_temperature_the_loss_is_the_bound_in_the_window(changes):
    model, row, rows = network(**changes), torch.tensor([4, 0, 3]), 12_000
    open = (torch.arange(3) > 0).expand(rows, -1)
    batch = relaxed_batch(row.expand(rows, -1), open, family_of(model), 1e-6, WINDOW, seeded(3))
    with torch.no_grad():
        output = model(**batch.inputs(), num_items_in_batch=rows)
        losses = output.token_nll.view(rows, 2).sum(-1) * batch.loss_weights
    expected, error = bound_in_window(model, row), float(losses.std()) / rows**0.5
    assert abs(float(output.loss) - float(losses.mean())) < 1e-3 * expected
    assert error < 0.02 * expected
    assert abs(float(losses.mean()) - expected) < 4 * error
    exchanged = batch._replace(mixture_ids=None, mixture_weights=None)
    with torch.no_grad():
        torch.testing.assert_close(model(**exchanged.inputs(), num_items_in_batch=rows).loss, output.loss, rtol=1e-3, atol=0)  # fmt: skip


def test_means_of_embeddings_are_read_in_place_of_tokens():
    model, ids = network(), torch.tensor([[4, 0, 1]])
    told, mixed = torch.tensor([[0.0, 0.5, 0.5]]), torch.tensor([[[4, 4], [0, 3], [1, 3]]])
    weights = torch.tensor([[[1.0, 0.0], [0.7, 0.3], [0.4, 0.6]]])
    means = (weights[..., None] * model.model.embed_tokens(mixed)).sum(2)
    found = model(ids, timesteps=told, mixture_ids=mixed, mixture_weights=weights).logits
    torch.testing.assert_close(found, model(inputs_embeds=means, timesteps=told).logits)
    assert not torch.allclose(found, model(ids, timesteps=told).logits)
    found[..., [0, 1]].sum().backward()
    assert float(model.model.embed_tokens.weight.grad[3].abs().sum()) > 0, "also of tokens that are not in input_ids"
    for wrong in ({"mixture_ids": mixed}, {"mixture_ids": mixed[:, :2], "mixture_weights": weights[:, :2]}):
        with pytest.raises(ValueError, match="mixture_ids of shape"):
            model(ids, timesteps=told, **wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.config.diffusion": "masked", "model.config.time_conditioning": "none"}, "needs model.config.diffusion='uniform'"),
        ({"model.config.diffusion": "uniform_block", "model.config.attention_block_length": 4}, "not 'uniform_block' and 'nelbo'"),
        ({"training.objective": "converted"}, "not 'uniform' and 'converted'"),
        ({"training.curriculum_tau": [0.1, 0.001]}, "training.curriculum_tau=0.1 must be above 0 and at most 0.02"),
        ({"training.curriculum_tau": [0.01, 0.0]}, "training.curriculum_tau=0.0 must be above 0"),
        ({"training.curriculum_alpha": [0.5, 0.2]}, "0 < low < high < 1"),
        ({"training.curriculum_steps": 0}, "training.curriculum_steps=0 must be at least 1"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(changes, message):
    own = {"model.config.diffusion": "uniform", "model.config.time_conditioning": "log_snr", "training.objective": "nelbo",
           "training.curriculum_steps": 5}  # fmt: skip
    load_preset("mini-mdlm", own)
    with pytest.raises(ValueError, match=message):
        load_preset("mini-mdlm", own | changes)


def test_the_temperature_is_a_function_of_the_step():
    training = load_preset("mini-mdlm", {
        "model.config.diffusion": "uniform", "model.config.time_conditioning": "log_snr", "training.objective": "nelbo",
        "training.curriculum_steps": 3, "training.curriculum_tau": [0.016, 0.001]}).training  # fmt: skip
    assert [training.curriculum_temperature(step) for step in range(2)] == pytest.approx([0.016, 0.004])
    assert training.curriculum_temperature(2) == pytest.approx(0.001)
    assert training.curriculum_temperature(3) is None
    assert checks.LARGEST_TEMPERATURE == LARGEST_TEMPERATURE
