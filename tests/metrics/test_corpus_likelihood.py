"""Likelihoods of corpora: totals, standard errors, and errors that name what is wrong."""

import math

import pytest
import torch
from likelihood_rows import BOS, EOS, PAD, manual_nll, pad_rows, random_stories
from seeds import seeded

from arche_mdlm.metrics.corpus_likelihood import corpus_nelbo, corpus_nll
from arche_mdlm.metrics.likelihood import nelbo


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
