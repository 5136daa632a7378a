"""The law of the first token: enumerated languages, analytic values, and what the models write."""

import itertools
import math

import numpy as np
import pytest
import torch
from exact_model import ExactModel
from oracles.tables import TableLanguage
from transformers import LlamaConfig, LlamaForCausalLM

from arche_mdlm.metrics.policy_likelihood import policy_nll
from arche_mdlm.metrics.tokens.first_token import FirstTokenLaw, first_token_law


def test_the_exact_denoiser_has_the_languages_own_law():
    language = TableLanguage.random(3, 3)
    model = ExactModel(language)
    expected = torch.zeros(3, dtype=torch.float64)
    expected.index_add_(0, language.sequences[:, 0], language.probabilities)
    law = first_token_law(model)
    np.testing.assert_allclose(law.probabilities[:3], expected, atol=1e-12)
    assert law.probabilities.sum() == pytest.approx(1)
    assert law.entropy == pytest.approx(-(expected * expected.log()).sum().item())


def test_it_is_the_first_factor_of_the_left_to_right_likelihood(build_mdlm):
    model = build_mdlm(vocab_size=12)
    law = first_token_law(model, canvas_length=6)
    config = model.config
    tokens = [v for v in range(12) if v not in (config.mask_token_id, config.bos_token_id)]
    rows = torch.tensor([[config.bos_token_id, v, *tokens[:4]] for v in tokens])
    nats = policy_nll(model, rows).token_nats[:, 1]
    np.testing.assert_allclose(law.probabilities[tokens], (-nats).exp(), rtol=1e-5)
    assert law.probabilities[config.mask_token_id] == 0


def test_an_autoregressive_model_is_read_at_its_bos():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
                         bos_token_id=7)  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        expected = model(torch.tensor([[7]])).logits[0, 0].softmax(-1)
    np.testing.assert_allclose(first_token_law(model).probabilities, expected, rtol=1e-5)
    model.generation_config.suppress_tokens = [2]
    law = first_token_law(model)
    assert law.probabilities[2] == 0
    assert law.probabilities.sum() == pytest.approx(1)


def test_expected_distinct_is_that_of_all_outcomes():
    shares = np.array([0.5, 0.3, 0.2, 0.0])
    outcomes = itertools.product(range(4), repeat=3)
    expected = sum(math.prod(shares[list(o)]) * len(set(o)) for o in outcomes)
    assert FirstTokenLaw(shares).expected_distinct(3) == pytest.approx(expected)
    assert FirstTokenLaw(np.array([1.0, 0.0])).expected_distinct(50) == pytest.approx(1)


def test_counted_texts_are_drawn_without_replacement():
    ids = [0, 0, 0, 1, 1, 2]
    law = FirstTokenLaw.of_texts(ids, 5)
    draws = list(itertools.combinations(ids, 3))
    assert law.expected_distinct(3) == pytest.approx(np.mean([len(set(draw)) for draw in draws]))
    assert law.expected_distinct(6) == pytest.approx(3)
    with pytest.raises(ValueError, match="from 0 to 4"):
        FirstTokenLaw.of_texts([5], 5)
    with pytest.raises(ValueError, match="number=0"):
        law.expected_distinct(0)


def test_the_correction_takes_most_of_the_bias_of_counted_entropies():
    rng = np.random.default_rng(0)
    shares = np.full(20, 1 / 20)
    samples = [FirstTokenLaw.of_texts(rng.choice(20, size=100, p=shares), 20) for _ in range(400)]
    corrected = np.mean([law.entropy for law in samples])
    plug_in = np.mean([FirstTokenLaw(law.probabilities).entropy for law in samples])
    assert plug_in < math.log(20) - 0.08
    assert corrected == pytest.approx(math.log(20), abs=0.02)


def test_families_without_such_a_law_say_so(build_mdlm):
    with pytest.raises(ValueError, match="every token can change until the end"):
        first_token_law(build_mdlm(diffusion="uniform", time_conditioning="log_snr"))
    with pytest.raises(ValueError, match="order of generation is random"):
        first_token_law(build_mdlm(diffusion="eso", alpha_0=0.5))
    with pytest.raises(ValueError, match="canvas_length=1"):
        first_token_law(build_mdlm(), canvas_length=1)
