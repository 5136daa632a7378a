"""Diversity against hand counts and NLTK, and as an `evaluate` module loaded by path."""

import math
import time
import warnings
from collections import Counter

import numpy as np
import pytest
from diverse_texts import CHINESE, NAMES, SIX, stories
from nltk.translate.bleu_score import sentence_bleu

from arche_mdlm.metrics.diversity import (
    diversity,
    diversity_differences,
    diversity_of_draws,
    per_story_self_bleu,
    unsplit_share,
)
from arche_mdlm.metrics.judge import unigram_entropy
from arche_mdlm.metrics.memorisation import memorisation

NAMES += ["self_bleu", "vocabulary_size", "distinct_first_words", "distinct_openings", "repetition_4", "mean_words"]


pytestmark = pytest.mark.filterwarnings("ignore:data has .* texts:UserWarning")


def nltk_self_bleu(texts):
    words = [text.lower().split() for text in texts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array([sentence_bleu(words[:i] + words[i + 1 :], words[i]) for i in range(len(words))])


# --- Self-BLEU --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_self_bleu_is_nltks(seed):
    texts = stories(60, seed=seed)
    expected = nltk_self_bleu(texts)

    assert np.abs(per_story_self_bleu(texts) - expected).max() < 1e-9
    assert 0.2 < expected.mean() < 0.99, "a corpus on which there is something to see"


@pytest.mark.parametrize(
    "texts",
    [
        SIX,
        ["a b c d e"] * 3,  # all alike
        ["a a a a a a", "a a a a a", "a a a a"],  # clipping, each holder of the highest count against the second
        ["a b c d", "a b c d e f", "a b c d e f g h"],  # two lengths as close: the shorter counts
        ["a b c", "a b c", "x y z"],  # no four-grams
        ["A b c D e", "a B C d E"],
        ["", "", "a b c d e"],
    ],
)
def test_self_bleu_is_nltks_in_corner_cases(texts):
    np.testing.assert_allclose(per_story_self_bleu(texts), nltk_self_bleu(texts), rtol=0, atol=1e-9)


def test_self_bleu_of_a_thousand_stories_takes_seconds():
    rng = np.random.default_rng(0)
    numbers = np.minimum(rng.zipf(1.3, size=(1000, 170)), 9000)
    texts = [" ".join(map(str, row)) for row in numbers]

    started = time.process_time()
    per_story_self_bleu(texts)

    assert time.process_time() - started < 2


# --- the other figures ------------------------------------------------------------------------------------------------


def test_figures_by_hand():
    result = diversity(["a b a b a b", "A b c d", "x", ""])

    assert result["distinct_1"] == 5 / 11
    assert result["distinct_2"] == 4 / 8  # ab, ba, bc, cd
    assert result["distinct_3"] == 4 / 6  # aba, bab, abc, bcd
    assert result["distinct_4"] == 3 / 4  # abab, baba, abcd
    assert result["vocabulary_size"] == 5
    assert result["distinct_first_words"] == 2 / 4
    assert result["distinct_openings"] == 3 / 4
    assert result["repetition_4"] == pytest.approx((1 - 2 / 3) / 4)  # abab, baba, abab; nothing to repeat elsewhere
    assert result["mean_words"] == 11 / 4


def test_keys():
    texts = stories(20)
    expected = [key for name in NAMES for key in (name, f"{name}_ci")]

    assert list(diversity(texts)) == expected
    references = {f"{name}_reference{end}" for name in NAMES for end in ("", "_ci")}
    assert set(diversity(texts, texts)) == {*expected, *references}


def test_references_are_measured_at_equal_n():
    texts, references = stories(40), stories(40, seed=1)
    result = diversity(texts, references)
    alone = diversity(references)

    assert [result[f"{name}_reference"] for name in NAMES] == pytest.approx([alone[name] for name in NAMES])
    many = diversity(texts, stories(400, seed=1))
    assert many["distinct_openings_reference"] > 1.5 * diversity(stories(400, seed=1))["distinct_openings"]


def expected_distinct(things, number):
    """Of draws without replacement: a thing that k of N texts have is missed with the probability C(N - k, n) / C(N, n)."""
    size = len(things)
    missed = [math.comb(size - k, number) / math.comb(size, number) for k in Counter(things).values()]
    return sum(1 - share for share in missed)


def test_figures_of_draws_are_means_over_all_draws():
    texts = stories(120, seed=3)
    found = diversity_of_draws(texts, 30)
    words = [text.split() for text in texts]
    firsts, openings = [w[0] for w in words], [tuple(w[:5]) for w in words]
    assert found["distinct_first_words"] == pytest.approx(expected_distinct(firsts, 30) / 30, abs=0.005)
    assert found["distinct_openings"] == pytest.approx(expected_distinct(openings, 30) / 30, abs=0.008)
    assert found["mean_words"] == pytest.approx(np.mean([len(w) for w in words]))
    rng = np.random.default_rng(5)
    drawn = [per_story_self_bleu([texts[i] for i in rng.choice(120, 30, replace=False)]).mean() for _ in range(200)]
    assert found["self_bleu"] == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / math.sqrt(100))
    for name in NAMES:
        low, high = found[f"{name}_ci"]
        assert low < found[name] < high, name


def test_all_texts_are_one_draw():
    texts = stories(50)
    found, whole = diversity_of_draws(texts, 50), diversity(texts)
    assert [found[name] for name in NAMES] == pytest.approx([whole[name] for name in NAMES])
    assert found["distinct_openings_ci"][0] < found["distinct_openings"] < found["distinct_openings_ci"][1]
    for number in (1, 51, 2.5):
        with pytest.raises(ValueError, match="must be an integer from 2 to the number of texts, 50"):
            diversity_of_draws(texts, number)


def test_the_spread_of_draws_is_that_of_fresh_sets():
    """Also where a draw is a large part of the pool, and draws have most texts in common."""
    rng = np.random.default_rng(1)

    def fresh(number):
        return [f"w{n} tail" for n in rng.zipf(1.5, size=number)]

    spread = 2 * 1.96 * np.std([len(set(fresh(100))) / 100 for _ in range(1000)])
    for size in (1000, 210, 120):
        widths = [np.ptp(diversity_of_draws(fresh(size), 100)["distinct_openings_ci"]) for _ in range(4)]
        assert 0.75 * spread < np.mean(widths) < 1.3 * spread, size


def test_texts_without_spaces_need_a_tokenizer():
    with pytest.warns(UserWarning, match="white space does not separate the words of 100% of the texts.*tokenizer="):
        assert diversity(CHINESE * 30)["mean_words"] < 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = diversity(CHINESE * 30, tokenizer="characters")
        assert found == diversity(CHINESE * 30, tokenizer=lambda text: list(text.replace(" ", "")))
        assert found["mean_words"] == np.mean([len(text.replace(" ", "")) for text in CHINESE])
        assert per_story_self_bleu(CHINESE, tokenizer="characters")[1] > 0.5
        assert diversity_differences(CHINESE, CHINESE, tokenizer="characters")["self_bleu"]["estimate"] == 0


def test_a_tokenizer_of_transformers(tokenizer):
    texts = stories(100)
    words = [" ".join(tokenizer.tokenize(text)) for text in texts]
    assert diversity(texts, tokenizer=tokenizer.tokenize)["vocabulary_size"] == len(
        {w for t in words for w in t.split()}
    )
    with pytest.raises(
        ValueError, match="not a list of tokens; of a Hugging Face tokenizer, pass its method `tokenize`"
    ):
        diversity(texts, tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("texts", "share"),
    [
        (CHINESE, 1), (["これはペンです。"], 1), (["ฉันรักภาษาไทย"], 1), (["acgt" * 20], 1),
        (["The cat sat."], 0), (["Donaudampfschifffahrtsgesellschaft war groß."], 0), (["나는 학교에 갑니다."], 0),
        (["", "  ", "123 !?"], 0), (["他 said hello to everyone in the room"], 0), (["The cat.", "小猫"], 0.5),
    ],
)  # fmt: skip
def test_which_texts_are_not_split_by_white_space(texts, share):
    assert unsplit_share(texts) == share


def test_other_figures_of_words_warn_too():
    with pytest.warns(UserWarning, match="white space does not separate"):
        unigram_entropy(CHINESE)
    with pytest.warns(UserWarning, match="white space does not separate"):
        memorisation(CHINESE, CHINESE)


# --- the arche protocol -----------------------------------------------------------------------------------------------


def arche_bleu(candidate, references):
    """As docs/formulas.md words it: unsmoothed, four-gram, brevity against the mean length, zero without a match."""
    logs = 0.0
    for n in range(1, 5):
        grams = [Counter(zip(*(text[i:] for i in range(n)), strict=False)) for text in [candidate, *references]]
        highest = Counter()
        for counts in grams[1:]:
            highest |= counts
        matches = sum((grams[0] & highest).values())
        if matches == 0:
            return 0.0
        logs += math.log(matches / sum(grams[0].values())) / 4
    mean_length = sum(map(len, references)) / len(references)
    return math.exp(logs + min(0.0, 1 - mean_length / len(candidate)))


def test_arche_self_bleu_of_a_small_corpus_is_against_all_others():
    texts = stories(30)  # fewer than 200 and 51: no random choice
    words = [text.split() for text in texts]
    expected = np.mean([arche_bleu(words[i], words[:i] + words[i + 1 :]) for i in range(len(words))])

    assert diversity(texts, protocol="arche")["self_bleu"] == pytest.approx(expected, abs=1e-12)


def test_arche_self_bleu_is_below_the_exact_one_and_the_rest_is_equal():
    texts = stories(300)
    exact, arche = diversity(texts), diversity(texts, protocol="arche")

    assert arche["self_bleu"] < exact["self_bleu"], "50 references match less than 299"
    assert all(exact[name] == arche[name] for name in NAMES if name != "self_bleu")
