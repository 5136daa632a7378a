"""Discrete consistency distillation: the law of its pairs, the divergence with its gradient, and the loss by enumeration."""

import itertools
from copy import deepcopy

import pytest
import torch
from goodness_of_fit import chi_square_p
from seeds import seeded
from torch import nn

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.configuration.checks import DIVERGENCES
from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.family_mdlm import family_of
from arche_mdlm.gaussian_mdlm import GaussianLatents
from arche_mdlm.training.batches.consistency import Divergence, consistency_batch, teacher_loss

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
WINDOW, DISTANCE = (0.1, 0.95), 0.3


def network(seed: int = 0, **changes) -> MDLMForMaskedDiffusion:
    """Tokens 0, 1, 3, 4; the mask is 2."""
    torch.manual_seed(seed)
    own = {"diffusion": "uniform", "time_conditioning": "log_snr", "initializer_range": 0.5}
    config = MDLMConfig(vocab_size=5, mask_token_id=2, bos_token_id=4, **SIZES, **own | changes)
    return MDLMForMaskedDiffusion(config).eval()


def test_both_ends_are_the_argmax_of_the_same_latents():
    """The joint law at two gammas against all V latents drawn; V = 5."""
    size, rows, latents = 5, 40_000, GaussianLatents(5)
    gammas = [torch.tensor(value, dtype=torch.float64) for value in (-1.5, 0.3)]
    own, other, largest = latents.decisive(torch.zeros(rows, dtype=torch.long), seeded())
    ends = [torch.where(latents.keeps(gamma.expand(rows), own, largest), 0, other) for gamma in gammas]
    noise = torch.randn(rows, size, generator=seeded(1), dtype=torch.float64)
    shift = torch.zeros(size, dtype=torch.float64)
    forced = []
    for gamma in gammas:
        shift[0] = torch.exp(-gamma / 2)
        forced.append((noise + shift).argmax(-1))
    counts = [torch.bincount(size * pair[0] + pair[1], minlength=size**2).double() for pair in (ends, forced)]
    possible = counts[0] + counts[1] > 0
    difference = (counts[0] - counts[1])[possible] / (counts[0] + counts[1])[possible].sqrt()
    assert float(difference.abs().max()) < 4.5
    lost = ends[0] != 0
    assert bool((ends[1][lost] == ends[0][lost]).all()), "what is lost at s stays what it is at t"
    for end, gamma in zip(ends, gammas, strict=True):
        alpha = float(latents.alpha(gamma))
        law = torch.full((size,), (1 - alpha) / size)
        law[0] += alpha
        assert chi_square_p(torch.bincount(end, minlength=size), law) > 1e-3


def test_a_batch_keeps_what_is_given_and_its_distance():
    family, tokens = family_of(network()), torch.tensor([[4, 0, 1, 3]]).expand(2000, -1)
    open = (torch.arange(4) > 1).expand(2000, -1)
    late, early = consistency_batch(tokens, open, family, DISTANCE, WINDOW, seeded())
    for end in (late, early):
        assert torch.equal(end.input_ids[:, :2], tokens[:, :2])
        assert bool((end.timesteps[:, :2] == 0).all())
        assert bool((end.input_ids != 2).all()), "noise is never the mask"
        assert bool((end.labels[:, 2:] == tokens[:, 2:]).all())
        assert bool((end.labels[:, :2] == -100).all())
    latents = GaussianLatents(4)
    first, last = latents.gamma_at(WINDOW[1]), latents.gamma_at(WINDOW[0])
    levels = latents.alpha(torch.linspace(first, last, 2001, dtype=torch.float64))
    times = [(levels[:, None] > (1 - end.timesteps[:, 2])[None]).double().mean(0) for end in (late, early)]
    torch.testing.assert_close(
        times[0] - times[1], torch.full((2000,), DISTANCE, dtype=torch.float64), atol=2e-3, rtol=0
    )
    assert float(times[0].max()) < 1 + 1e-3
    assert float((times[0] > 1 - 2e-3).double().mean()) == pytest.approx(DISTANCE, abs=0.01), "the rest is at the end"


@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("forbidden", [None, 2, 9])
def test_the_divergence_and_its_gradient(backward, forbidden):
    torch.manual_seed(0)
    head, states, logits = nn.Linear(3, 5, bias=False), torch.randn(7, 3), torch.randn(7, 5, requires_grad=True)
    loss = Divergence(torch.zeros(7, dtype=torch.long), forbidden, states, head, backward)
    kept = [token for token in range(5) if token != forbidden]
    student, teacher = logits[:, kept].log_softmax(-1), head(states)[:, kept].log_softmax(-1).detach()
    first, second = (student, teacher) if backward else (teacher, student)
    expected = (first.exp() * (first - second)).sum(-1)
    factors = torch.rand(7)
    (gradient,) = torch.autograd.grad((expected * factors).sum(), logits)
    (found,) = torch.autograd.grad((loss.plain(logits) * factors).sum(), logits)
    torch.testing.assert_close(found, gradient, atol=1e-6, rtol=1e-5)
    overwritten = logits.detach().clone()
    for values in (
        loss.in_place(overwritten, factors),
        loss.plain(logits),
        loss.in_place(logits.detach().clone(), None),
    ):
        torch.testing.assert_close(values, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(overwritten, gradient, atol=1e-6, rtol=1e-5)
    part = slice(2, 5)
    torch.testing.assert_close(loss.part(part).plain(logits[part]), expected[part], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_loss_of_a_batch_is_its_mean_over_all_pairs(divergence):
    """One clean row of two open tokens; both ends of a token: kept twice, lost between, or lost at both to one of three others."""
    student, teacher, row = network(0), network(1), torch.tensor([4, 0, 3])
    rows, backward, kept = 12_000, divergence == "backward", [0, 1, 3, 4]
    open = (torch.arange(3) > 0).expand(rows, -1)
    late, early = consistency_batch(row.expand(rows, -1), open, family_of(student), DISTANCE, WINDOW, seeded(3))
    own = {"input_ids": early.input_ids, "timesteps": early.timesteps}
    loss = teacher_loss(teacher, backward, open, **own)
    with torch.no_grad():
        output = student(**late.inputs(), objective=loss, num_items_in_batch=rows)
    losses = output.token_nll.view(rows, 2).sum(-1).double()
    torch.testing.assert_close(float(output.loss), float(losses.mean()), rtol=1e-4, atol=0)

    latents, grid = GaussianLatents(4), 60
    first, last = latents.gamma_at(WINDOW[1]), latents.gamma_at(WINDOW[0])
    t = ((torch.arange(grid, dtype=torch.float64) + 0.5) / grid + DISTANCE).clamp(max=1.0)
    alphas = [latents.alpha(first + (last - first) * time) for time in (t, t - DISTANCE)]
    keep = [alpha + (1 - alpha) / 4 for alpha in alphas]  # at t and at s
    total = torch.zeros(grid, dtype=torch.float64)
    clean = [kept.index(token) for token in row[1:].tolist()]
    ends = [[(c, c)] + [(o, e) for o in range(4) if o != c for e in (c, o)] for c in clean]  # (at t, at s)
    for pair in itertools.product(*ends):
        chance = torch.ones(grid, dtype=torch.float64)
        for c, (at_t, at_s) in zip(clean, pair, strict=True):
            chance *= keep[0] if at_t == c else (keep[1] - keep[0]) / 3 if at_s == c else (1 - keep[1]) / 3
        laws = []
        for model, end, alpha in ((student, 0, alphas[0]), (teacher, 1, alphas[1])):
            canvas = torch.tensor([[4] + [kept[position[end]] for position in pair]]).expand(grid, -1)
            told = torch.cat([torch.zeros(grid, 1), (1 - alpha)[:, None].expand(-1, 2).float()], 1)
            with torch.no_grad():
                laws.append(model(canvas, timesteps=told).logits[:, 1:, kept].double().log_softmax(-1))
        one, two = laws if backward else laws[::-1]
        total += chance * (one.exp() * (one - two)).sum((-1, -2))
    error = float(losses.std()) / rows**0.5
    assert abs(float(losses.mean()) - float(total.mean())) < 4 * error + 1e-3 * float(total.mean())
    assert error < 0.05 * float(total.mean())


def test_a_student_that_reads_what_its_teacher_reads_has_nothing_to_learn():
    model, ids, told = network(), torch.tensor([[4, 0, 1]]), torch.tensor([[0.0, 0.4, 0.4]])
    loss = teacher_loss(deepcopy(model), True, ids >= 0, input_ids=ids, timesteps=told)
    output = model.train()(ids, labels=ids, timesteps=told, objective=loss)
    output.loss.backward()
    assert float(output.loss) == pytest.approx(0, abs=1e-6)
    assert max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None) < 1e-6


def test_what_cannot_be_is_refused():
    tokens = torch.tensor([[4, 0]])
    for distance in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"distance={distance} must be above 0 and at most 1"):
            consistency_batch(tokens, tokens == 0, family_of(network()), distance, WINDOW, seeded())
    masked = family_of(MDLMConfig(vocab_size=5, mask_token_id=2))
    with pytest.raises(ValueError, match="masked noise has no Gaussian latents"):
        consistency_batch(tokens, tokens == 0, masked, 0.1, WINDOW, seeded())


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("mini-mdlm", {}, "needs model.config.diffusion='uniform' and denoiser='leave_one_out', not 'masked'"),
        ("mini-uniform", {"model.config.denoiser": "full"}, "not 'uniform' and 'full'"),
        ("mini-uniform_block", {}, "not 'uniform_block'"),
        ("mini-ar", {}, "needs model.architecture='mdlm', not 'llama'"),
        ("mini-uniform", {"training.curriculum_steps": 3}, "does not work with training.curriculum_steps=3"),
        ("mini-uniform", {"training.attention_annealing_steps": 3}, "does not work with training.attention_annealing_steps=3"),
        ("mini-uniform", {"training.stop_past_best": 3.0}, "does not work with training.stop_past_best=3.0"),
        ("mini-uniform", {"training.time_window": [0.1, 0.9]}, "does not work with training.time_window"),
        ("mini-uniform", {"training.distillation_steps": 5}, "to .* in training.max_steps=100 steps; the maximum is 1"),
        ("mini-uniform", {"training.distillation_distance": 1.5}, "training.distillation_distance=1.5 must be above 0 and at most 1"),
        ("mini-uniform", {"training.distillation_alpha": [0.9, 0.1]}, "training.distillation_alpha=.* 0 < low < high < 1"),
        ("mini-uniform", {"training.distillation_divergence": "jensen"}, "'jensen' is not one of backward, forward"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(preset, changes, message):
    own = {"training.distillation_steps": 50, "training.max_steps": 100}
    assert load_preset("mini-uniform", own).training.teacher_distance(99) == 2 / 512
    with pytest.raises(ValueError, match=message):
        load_preset(preset, own | changes)
