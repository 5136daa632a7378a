"""NELBO and NLL against enumeration: tiny tables with the exact posterior, and a hand-written softmax."""

import copy
import math

import pytest
import torch
from likelihood_rows import MASK, SPECIAL, TINY, pad_rows, random_stories
from oracles.tables import OracleDenoiser, TableLanguage
from seeds import seeded
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
)

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion, head_loss_mdlm
from arche_mdlm.metrics import batch_sizes
from arche_mdlm.metrics.likelihood import ANTITHETIC, nelbo, nll
from arche_mdlm.schedule_mdlm import get_schedule


@pytest.fixture(scope="module")
def language():
    return TableLanguage.random(vocab_size=3, length=3)


@pytest.fixture(scope="module")
def oracle(language):
    return OracleDenoiser(language)


def with_bos(language, sequences):
    return torch.cat([torch.full((len(sequences), 1), language.vocab_size), sequences], dim=1)


# --- NELBO ------------------------------------------------------------------------------------------------------------


def test_the_enumerated_nelbo_of_the_exact_posterior_is_the_entropy(language):
    assert float(language.probabilities @ language.nelbo()) == pytest.approx(language.entropy, abs=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_integral_over_time_is_the_enumerated_nelbo_for_every_schedule(language, schedule):
    schedule = get_schedule(schedule)
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:-1] + 0.5 / 20_000  # midpoints
    rate, weight = schedule.mask_rate(t), schedule.weight(t)
    total = torch.zeros(len(language.sequences), dtype=torch.float64)
    for bits in torch.cartesian_prod(*[torch.tensor([False, True])] * 3)[1:]:
        k = int(bits.sum())
        share = (rate**k * (1 - rate) ** (3 - k) * weight).mean()
        posterior = language.posterior(language.sequences, (~bits).expand(language.sequences.shape))
        nats = -posterior.gather(-1, language.sequences[..., None])[..., 0].log()
        total += share * nats[:, bits].sum(-1)

    torch.testing.assert_close(total, language.nelbo(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("antithetic", ANTITHETIC)
def test_nelbo_meets_the_enumerated_one_of_each_sequence(language, oracle, antithetic):
    estimate = nelbo(
        oracle, with_bos(language, language.sequences), num_samples=400, antithetic=antithetic, generator=seeded(),
        batch_size=4096,
    )  # fmt: skip

    away = (estimate.nats - language.nelbo()) / estimate.standard_error
    assert away.abs().max() < 4.5, "27 sequences"
    assert estimate.nats.shape == estimate.standard_error.shape == (len(language.sequences),)


def test_nelbo_averaged_over_the_language_is_the_entropy(language, oracle):
    estimate = nelbo(
        oracle, with_bos(language, language.sequences), num_samples=400, generator=seeded(1), batch_size=4096
    )

    average = float(language.probabilities @ estimate.nats)
    error = float((language.probabilities**2 @ estimate.standard_error**2).sqrt())
    assert abs(average - language.entropy) < 4 * error
    assert error < 0.02


def test_a_row_without_bos_has_all_its_positions_scored(language, oracle):
    estimate = nelbo(oracle, language.sequences, num_samples=400, generator=seeded(2), batch_size=4096)

    assert float(language.probabilities @ estimate.nats) == pytest.approx(language.entropy, abs=0.05)


@pytest.mark.parametrize(
    ("num_samples", "antithetic"),
    [(2, "counts"), (4, "counts"), (8, "counts"), (16, "counts"), (4, "none"), (4, "complement"), (16, "complement")],
)
def test_the_standard_error_of_the_nelbo_is_that_of_repeated_estimates(language, oracle, num_samples, antithetic):
    rows = with_bos(language, language.sequences[[5]]).expand(600, -1)

    repeated = nelbo(
        oracle, rows, num_samples=num_samples, antithetic=antithetic, generator=seeded(3), batch_size=16384
    )

    actual = float(repeated.nats.std())
    reported = float(repeated.standard_error.square().mean().sqrt())
    assert 0.85 * actual < reported < 2 * actual, "honest, at most conservative"


def test_complementary_masks_share_one_position_of_each_pair(language):
    model = OracleDenoiser(language)
    canvases = []
    forward = model.forward
    model.forward = lambda input_ids, **kwargs: canvases.append(input_ids) or forward(input_ids, **kwargs)
    rows = with_bos(language, language.sequences[[5]]).expand(50, -1)

    nelbo(model, rows, num_samples=4, antithetic="complement", generator=seeded(), batch_size=16384)

    first, second = (torch.cat(canvases) == model.config.mask_token_id).view(-1, 2, 4).unbind(1)
    assert ((first & second).sum(-1) == 1).all()
    assert ((first | second).sum(-1) == 3).all()
    assert (first.sum(0)[1:] > 0).all()


def test_a_batch_size_changes_no_nelbo(language, oracle):
    rows = with_bos(language, language.sample(5, seeded()))

    large = nelbo(oracle, rows, num_samples=6, generator=seeded(), batch_size=64)
    small = nelbo(oracle, rows, num_samples=6, generator=seeded(), batch_size=4)

    torch.testing.assert_close(large, small, rtol=0, atol=1e-12)


def test_neighbours_change_no_nelbo(language, oracle):
    rows = with_bos(language, language.sample(6, seeded()))

    together = nelbo(oracle, rows, num_samples=6, generator=seeded())
    generator = seeded()
    first, second = (nelbo(oracle, part, num_samples=6, generator=generator) for part in (rows[:2], rows[2:]))

    torch.testing.assert_close(torch.cat([first.nats, second.nats]), together.nats, rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_nelbo(diffusion_model, side):
    rows = random_stories()
    generator = seeded()
    alone = [nelbo(diffusion_model, torch.tensor([row]), num_samples=4, generator=generator).nats for row in rows]

    padded = nelbo(diffusion_model, *pad_rows(rows, 12, side), num_samples=4, generator=seeded())

    torch.testing.assert_close(padded.nats, torch.cat(alone), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_time_conditioned_model_is_told_the_time_of_its_masks(language, schedule):
    model = OracleDenoiser(language, time_conditioning="additive", noise_schedule=schedule)
    alphas = []
    forward = model.forward

    def spy(input_ids, timesteps=None, **kwargs):
        t = timesteps.double()
        alpha = 1 - t if schedule == "linear" else torch.cos(math.pi / 2 * t) ** 2
        share = (input_ids == model.config.mask_token_id).sum(-1) / language.length
        alphas.append((1 - alpha - share).abs().max())
        return forward(input_ids, timesteps=timesteps, **kwargs)

    model.forward = spy
    nelbo(model, with_bos(language, language.sequences), num_samples=4, generator=seeded())

    assert max(alphas) < 1e-5


def test_the_mode_of_the_model_is_restored(language):
    model = OracleDenoiser(language).train()
    nelbo(model, with_bos(language, language.sequences[:1]), num_samples=2, generator=seeded())
    assert model.training


def test_bad_input_of_nelbo(language, oracle):
    with pytest.raises(ValueError, match="num_samples=0"):
        nelbo(oracle, with_bos(language, language.sequences), num_samples=0)
    with pytest.raises(ValueError, match="antithetic='orders' is not one of none, counts, complement"):
        nelbo(oracle, with_bos(language, language.sequences), antithetic="orders")
    for odd in (2, 7):
        with pytest.raises(ValueError, match=f"num_samples={odd} must be even and at least 4"):
            nelbo(oracle, with_bos(language, language.sequences), num_samples=odd, antithetic="complement")
    with pytest.raises(ValueError, match="row 0 of input_ids"):
        nelbo(oracle, torch.tensor([[language.vocab_size]]))
    with pytest.raises(ValueError, match="row 1 of input_ids holds mask_token_id=4"):
        nelbo(oracle, torch.tensor([[0, 1, 2], [0, 4, 2]]))
    with pytest.raises(ValueError, match="attention_mask of shape"):
        nelbo(oracle, torch.tensor([[0, 1, 2]]), torch.ones(1, 2))
    with pytest.raises(ValueError, match="batch_size=0"):
        nelbo(oracle, torch.tensor([[0, 1, 2]]), batch_size=0)


# --- logits a chunk at a time -----------------------------------------------------------------------------------------

LARGE = {**TINY, "vocab_size": 500}


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that an operation returns inside the context."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        if isinstance(result, torch.Tensor):
            self.numel = max(self.numel, result.numel())
        return result


@pytest.fixture
def small_chunks(monkeypatch):
    """20 positions of the vocabulary of 500."""
    monkeypatch.setitem(batch_sizes._CHUNK_BYTES, "cpu", 20 * 500 * 4)
    monkeypatch.setitem(head_loss_mdlm._CHUNK_LOGITS, "cpu", 20 * 500)


def test_the_logits_of_a_batch_never_exist(small_chunks):
    torch.manual_seed(0)
    mdlm = MDLMForMaskedDiffusion(MDLMConfig(**LARGE, **SPECIAL, mask_token_id=MASK, max_position_embeddings=16))
    ar = LlamaForCausalLM(LlamaConfig(**LARGE, **SPECIAL, max_position_embeddings=16))
    rows = torch.randint(4, 500, (12, 16), generator=seeded())

    with Largest() as plain:
        ar.eval()(rows)
    assert plain.numel == 12 * 16 * 500
    with Largest() as chunked:
        nll(ar, rows)
        nelbo(mdlm, rows, num_samples=4, generator=seeded(), batch_size=12)
    assert chunked.numel == 20 * 500


def test_the_nelbo_is_what_all_logits_give(diffusion_model, monkeypatch):
    rows = pad_rows(random_stories(), 12, "right")
    chunked = nelbo(diffusion_model, *rows, num_samples=4, generator=seeded())
    monkeypatch.setattr("arche_mdlm.metrics.likelihood.gives_token_nll", lambda model: False)
    calls = []
    with diffusion_model.lm_head.register_forward_hook(lambda *_: calls.append(1)):
        plain = nelbo(diffusion_model, *rows, num_samples=4, generator=seeded())

    torch.testing.assert_close(chunked.nats, plain.nats, rtol=1e-6, atol=1e-6)
    assert calls, "the plain way has run"


def test_an_adapter_on_the_head_of_an_mdlm_counts(diffusion_model):
    class Adapted(torch.nn.Linear):
        def forward(self, states):
            return 2 * super().forward(states)

    rows, _ = pad_rows(random_stories(), 12, "right")
    before = nelbo(diffusion_model, rows, num_samples=4, generator=seeded()).nats
    head = Adapted(16, 12, bias=False)
    head.weight = diffusion_model.lm_head.weight
    adapted = copy.deepcopy(diffusion_model)
    adapted.lm_head = head

    assert (nelbo(adapted, rows, num_samples=4, generator=seeded()).nats - before).abs().min() > 0.1
