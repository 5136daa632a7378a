"""The exact NLL of autoregressive models: padding, masks, chunks, and other families of transformers."""

import pytest
import torch
from likelihood_rows import BOS, EOS, MASK, SPECIAL, TINY, manual_nll, pad_rows, random_stories
from torch.nn import functional as F
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

from arche_mdlm.metrics import batch_sizes
from arche_mdlm.metrics.likelihood import nll


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
