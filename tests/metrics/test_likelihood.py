"""NELBO and NLL against enumeration: tiny tables with the exact posterior, and a hand-written softmax."""

import copy
import math

import pytest
import torch
from oracles.tables import OracleDenoiser, TableLanguage
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion, head_loss_mdlm
from arche_mdlm.metrics import batch_sizes
from arche_mdlm.metrics.corpus_likelihood import corpus_nelbo, corpus_nll
from arche_mdlm.metrics.likelihood import ANTITHETIC, nelbo, nll
from arche_mdlm.schedule_mdlm import get_schedule

BOS, EOS, PAD, MASK = 0, 1, 2, 3


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def language():
    return TableLanguage.random(vocab_size=3, length=3)


@pytest.fixture(scope="module")
def oracle(language):
    return OracleDenoiser(language)


def with_bos(language, sequences):
    return torch.cat([torch.full((len(sequences), 1), language.vocab_size), sequences], dim=1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 12}
SPECIAL = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}


@pytest.fixture(scope="module")
def diffusion_model():
    torch.manual_seed(0)
    config = MDLMConfig(**TINY, **SPECIAL, mask_token_id=MASK, max_position_embeddings=16, initializer_range=1.0)
    return MDLMForMaskedDiffusion(config).eval()


@pytest.fixture(scope="module")
def ar_model():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**TINY, **SPECIAL, max_position_embeddings=16, initializer_range=1.0)).eval()


def random_stories(num_stories=5, longest=9, seed=0):
    lengths = torch.randint(2, longest - 1, (num_stories,), generator=seeded(seed)).tolist()
    return [[BOS, *torch.randint(4, 12, (n,), generator=seeded(n)).tolist(), EOS] for n in lengths]


def pad_rows(rows, width, side):
    ids, mask = torch.full((len(rows), width), PAD), torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        part = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[index, part], mask[index, part] = torch.tensor(row), 1
    return ids, mask


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


# --- NLL --------------------------------------------------------------------------------------------------------------


def manual_nll(model, row):
    """One token at a time, each with a forward of its own and the softmax written out."""
    total = 0.0
    for end in range(1, len(row)):
        with torch.no_grad():
            logits = model(torch.tensor([row[:end]])).logits[0, -1].double()
        total -= math.log(float(logits[row[end]].exp() / logits.exp().sum()))
    return total


@pytest.mark.parametrize("side", ["left", "right"])
def test_nll_is_the_product_of_conditionals_whatever_the_padding(ar_model, side):
    rows = random_stories()

    nats = nll(ar_model, *pad_rows(rows, 12, side), batch_size=2)

    expected = torch.tensor([manual_nll(ar_model, row) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(nats, expected, rtol=1e-5, atol=1e-5)


def test_nll_without_a_mask_scores_every_token_but_the_first(ar_model):
    row = [BOS, 5, 7, EOS]
    assert float(nll(ar_model, torch.tensor([row]))[0]) == pytest.approx(manual_nll(ar_model, row), rel=1e-5)


def test_nll_of_all_sequences_sums_to_one(ar_model):
    tokens = torch.cartesian_prod(torch.arange(12), torch.arange(12))
    rows = torch.cat([torch.full((len(tokens), 1), BOS), tokens], dim=1)

    assert float((-nll(ar_model, rows)).exp().sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("place", ["config", "generation_config"])
def test_the_mask_token_has_no_probability_in_the_ar_arm(ar_model, monkeypatch, place):
    name, value = ("mask_token_id", MASK) if place == "config" else ("suppress_tokens", [MASK])
    monkeypatch.setattr(getattr(ar_model, place), name, value, raising=False)
    others = [token for token in range(12) if token != MASK]

    nats = nll(ar_model, torch.tensor([[BOS, token] for token in others]))

    assert float((-nats).exp().sum()) == pytest.approx(1, abs=1e-5)


def test_bad_input_of_nll(ar_model):
    with pytest.raises(ValueError, match="fewer than two tokens"):
        nll(ar_model, torch.tensor([[BOS]]))
    with pytest.raises(ValueError, match=r"input_ids of shape \(3,\)"):
        nll(ar_model, torch.tensor([BOS, 5, EOS]))


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


def test_chunks_change_no_nll(ar_model, monkeypatch):
    rows = pad_rows(random_stories(), 12, "left")
    whole = nll(ar_model, *rows)
    seen = []
    monkeypatch.setitem(batch_sizes._CHUNK_BYTES, "cpu", 7 * 12 * 4)
    with ar_model.lm_head.register_forward_hook(lambda module, given, out: seen.append(out.shape[:-1].numel())):
        chunked = nll(ar_model, *rows)

    torch.testing.assert_close(chunked, whole, rtol=1e-6, atol=1e-6)
    assert max(seen[2:]) == 7, "the first two are the probe's"
    assert sum(seen[2:]) == sum(len(row) - 1 for row in random_stories())


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


def family(name):
    torch.manual_seed(0)
    gpt2 = {"vocab_size": 12, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16, "initializer_range": 1.0}
    small = {**TINY, **SPECIAL, "max_position_embeddings": 16, "initializer_range": 1.0}
    if name == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**gpt2))
    if name == "a scale behind the head":
        return CohereForCausalLM(CohereConfig(**small, logit_scale=0.5))
    if name == "a cap on the logits":
        extra = {"head_dim": 8, "num_key_value_heads": 2, "final_logit_softcapping": 3.0}
        return Gemma2ForCausalLM(Gemma2Config(**small, **extra))
    model = LlamaForCausalLM(LlamaConfig(**small))
    model.lm_head = torch.nn.Linear(16, 12)  # with a bias
    return model


@pytest.mark.parametrize(
    ("name", "in_chunks"),
    [("gpt2", True), ("a bias", True), ("a scale behind the head", False), ("a cap on the logits", False)],
)
@pytest.mark.parametrize("suppressed", [[], [MASK], [MASK, 7]])
def test_nll_of_any_family_is_what_its_own_logits_say(name, in_chunks, suppressed, monkeypatch):
    model = family(name).eval()
    model.generation_config.suppress_tokens = suppressed
    monkeypatch.setitem(batch_sizes._CHUNK_BYTES, "cpu", 7 * 12 * 4)
    rows = torch.tensor([[BOS, 5, 6, 9, 10, 11, EOS], [BOS, 8, 8, 8, 5, 4, EOS]])
    sizes = []
    with model.get_output_embeddings().register_forward_hook(lambda m, given, out: sizes.append(out.numel() // 12)):
        nats = nll(model, rows)

    with torch.no_grad():
        logits = model(rows).logits[:, :-1]
    logits[..., suppressed] = -torch.inf
    expected = F.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none").sum(-1)
    torch.testing.assert_close(nats.float(), expected, rtol=1e-5, atol=1e-5)
    assert sizes[2:] == ([7, 5] if in_chunks else [14])


# --- corpora ----------------------------------------------------------------------------------------------------------


def test_corpus_nll_totals(ar_model):
    rows = random_stories()
    num_bytes = [3 * len(row) for row in rows]

    score = corpus_nll(ar_model, rows, pad_token_id=PAD, num_bytes=num_bytes, batch_size=2)

    total = sum(manual_nll(ar_model, row) for row in rows)
    assert score.nats_per_token == pytest.approx(total / sum(len(row) - 1 for row in rows), rel=1e-5)
    assert score.nats_per_story == pytest.approx(total / len(rows), rel=1e-5)
    assert score.bits_per_byte == pytest.approx(total / math.log(2) / sum(num_bytes), rel=1e-5)
    assert score.standard_error == score.nats_per_story_standard_error == score.bits_per_byte_standard_error == 0
    assert score.perplexity == pytest.approx(math.exp(score.nats_per_token))
    assert (score.num_stories, score.num_tokens) == (len(rows), sum(len(row) - 1 for row in rows))


def test_corpus_nelbo_scores_the_tail_and_divides_by_the_real_tokens(diffusion_model):
    rows = random_stories()
    canvases, _ = pad_rows(rows, 12, "right")  # the tail is attended

    score = corpus_nelbo(
        diffusion_model, rows, canvas_length=12, pad_token_id=PAD, num_samples=4, generator=seeded(), batch_size=8
    )

    expected = nelbo(diffusion_model, canvases, num_samples=4, generator=seeded())
    num_tokens = sum(len(row) - 1 for row in rows)
    assert score.nats_per_token == pytest.approx(float(expected.nats.sum()) / num_tokens, rel=1e-5)
    assert score.nats_per_story == pytest.approx(float(expected.nats.mean()), rel=1e-5)
    assert score.nats_per_story_standard_error == pytest.approx(score.standard_error * num_tokens / len(rows))
    assert score.bits_per_byte is score.bits_per_byte_standard_error is None


@pytest.mark.parametrize("num_samples", [2, 4])
def test_the_standard_error_of_a_corpus_is_that_of_repeated_estimates(diffusion_model, num_samples):
    rows = random_stories(num_stories=24)
    arguments = {"canvas_length": 12, "pad_token_id": PAD, "num_samples": num_samples, "batch_size": 256}

    scores = [corpus_nelbo(diffusion_model, rows, **arguments, generator=seeded(seed)) for seed in range(60)]

    actual = float(torch.tensor([score.nats_per_token for score in scores]).std())
    reported = sum(score.standard_error for score in scores) / len(scores)
    assert 0.75 * actual < reported < 2 * actual


def test_a_story_longer_than_the_canvas_is_an_error(diffusion_model):
    with pytest.raises(ValueError, match="canvas_length=3"):
        corpus_nelbo(diffusion_model, [[BOS, 5, 6, EOS]], canvas_length=3, pad_token_id=PAD)


def test_bad_input_of_corpora(ar_model):
    with pytest.raises(ValueError, match="rows is empty"):
        corpus_nll(ar_model, [], pad_token_id=PAD)
    with pytest.raises(ValueError, match="num_bytes has 1 entries for 2 rows"):
        corpus_nll(ar_model, random_stories(2), pad_token_id=PAD, num_bytes=[3])
