"""Diversity against hand counts and NLTK, and as an `evaluate` module loaded by path."""

import math
import os
import random
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import evaluate
import numpy as np
import pytest
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

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "metrics" / "diversity"
NAMES = [f"distinct_{n}" for n in range(1, 5)]
NAMES += ["self_bleu", "vocabulary_size", "distinct_first_words", "distinct_openings", "repetition_4", "mean_words"]
SIX = [
    "The cat sat on the mat. The cat sat on the rug.",
    "the cat sat on the mat. the cat sat on the mat. the dog ran",
    "A dog ran home",
    "the cat sat on the mat",
    "one two",
    "",
]

pytestmark = pytest.mark.filterwarnings("ignore:data has .* texts:UserWarning")


def stories(count, *, words=40, seed=0, vocabulary=60):
    """Texts of a skewed vocabulary and many lengths, with phrases that come back."""
    rng = random.Random(seed)
    phrases = [
        " ".join(f"w{min(rng.randrange(vocabulary), rng.randrange(vocabulary))}" for _ in range(6)) for _ in range(20)
    ]
    texts = []
    for _ in range(count):
        text = " ".join(rng.choice(phrases) for _ in range(rng.randint(1, words // 6))).split()
        texts.append(" ".join(text[: rng.randint(1, len(text))]))
    return texts


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


def test_equal_seeds_give_equal_results():
    texts, references = stories(120), stories(300, seed=1)
    first, again, other = (diversity(texts, references, protocol="arche", seed=seed) for seed in (0, 0, 1))

    assert first == again
    assert first["self_bleu_ci"] != other["self_bleu_ci"]
    assert first["distinct_2_reference"] != other["distinct_2_reference"]
    assert first["distinct_2"] == other["distinct_2"]


# --- intervals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 101, 200])
@pytest.mark.parametrize("protocol", ["exact", "arche"])
def test_intervals_hold_their_estimates_within_the_valid_range(count, protocol):
    result = diversity(stories(count, words=24), protocol=protocol)

    for name in NAMES:
        low, high = result[f"{name}_ci"]
        assert 0 <= low <= result[name] <= high, name
        assert name in ("vocabulary_size", "mean_words") or high <= 1, name


def test_an_interval_of_distinct_things_has_the_width_of_fresh_samples():
    """Openings drawn from a Zipf law: the spread over fresh samples against the one that half-samples tell."""
    rng = np.random.default_rng(0)

    def sample():
        return [f"w{number} tail" for number in rng.zipf(1.5, size=400)]

    fresh = np.std([len(set(sample())) / 400 for _ in range(400)])
    widths = []
    for seed in range(12):
        low, high = diversity(sample(), seed=seed)["distinct_openings_ci"]
        widths.append((high - low) / 2 / 1.96)

    assert 0.8 * fresh < np.mean(widths) < 1.25 * fresh


def markov_texts(rng, count):
    """Texts of a skewed Markov language: phrases come back in other texts, as in stories."""
    texts = []
    for _ in range(count):
        words = [min(int(rng.zipf(1.6)), 40)]
        for step in np.minimum(rng.zipf(1.7, size=rng.integers(10, 40)), 30):
            words.append((words[-1] * 7 + int(step)) % 50)
        texts.append(" ".join(map(str, words)))
    return texts


def test_the_interval_of_self_bleu_covers_fresh_sets_about_as_often_as_it_says():
    """95 %, between 90 and 100 % over 100 sets (a bootstrap of the texts' values: 89 %, and 0.86 of the spread)."""
    rng = np.random.default_rng(0)
    found = [diversity(markov_texts(rng, 60), seed=seed) for seed in range(100)]
    mean = np.mean([one["self_bleu"] for one in found])
    held = [one["self_bleu_ci"][0] <= mean <= one["self_bleu_ci"][1] for one in found]
    assert np.mean(held) >= 0.90
    half = np.mean([np.ptp(one["self_bleu_ci"]) for one in found]) / 2
    spread = np.std([one["self_bleu"] for one in found], ddof=1)
    assert 1.96 * spread * 0.95 < half < 1.96 * spread * 1.6


def test_differences_are_those_of_the_figures():
    first, second = stories(60), stories(60, seed=1, vocabulary=20)
    one, other = diversity(first), diversity(second)
    found = diversity_differences(first, second)
    assert list(found) == NAMES
    for name, interval in found.items():
        assert interval["estimate"] == pytest.approx(one[name] - other[name]), name
        assert interval["low"] <= interval["estimate"] <= interval["high"], name
    assert found["distinct_2"]["low"] > 0  # the second has a third of the words
    assert all(set(same.values()) == {0.0} for same in diversity_differences(first, first).values())
    with pytest.raises(ValueError, match="first has 60 texts and second 59"):
        diversity_differences(first, second[1:])


def test_an_interval_of_a_paired_difference_has_the_width_of_fresh_pairs():
    """Openings of two arms that have most of their prompt in common: pairing takes the prompts' noise out."""
    rng = np.random.default_rng(0)

    def sample():
        own = rng.zipf(1.5, size=400)
        changed = np.where(rng.random(400) < 0.2, rng.zipf(1.5, size=400), own)
        return [[f"w{number} tail" for number in numbers] for numbers in (own, changed)]

    def difference(first, second):
        return (len(set(first)) - len(set(second))) / 400

    fresh = np.std([difference(*sample()) for _ in range(400)])
    alone = np.std([len(set(sample()[0])) / 400 for _ in range(400)])
    widths = []
    for seed in range(12):
        found = diversity_differences(*sample(), seed=seed)["distinct_openings"]
        widths.append((found["high"] - found["low"]) / 2 / 1.96)
    assert 0.8 * fresh < np.mean(widths) < 1.25 * fresh
    assert np.mean(widths) < alone


def test_few_texts_give_a_warning():
    with pytest.warns(UserWarning, match="data has 99 texts.*rough"):
        diversity(stories(99))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        diversity(stories(100))


CHINESE = ["今天天气很好，我们去公园玩。", "小猫坐在红色的垫子上。", "小狗坐在红色的垫子上。", "他们 都 很 高兴"]


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


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    return evaluate.load(str(FOLDER), cache_dir=str(tmp_path_factory.mktemp("evaluate")))


BAD_INPUT = [
    ({"data": []}, r"data=\[\] has 0 texts; at least 2"),
    ({"data": ["one"]}, "has 1 texts; at least 2"),
    ({"data": ["", "  "]}, "data has 2 texts and all are empty"),
    ({"data": ["a", 3]}, r"data\[1\]=3 is of type int"),
    ({"data": ["a", None]}, r"data\[1\]=None"),
    ({"data": "a story"}, "data='a story' must be a list"),
    ({"data": None}, "data=None"),
    ({"data": ["a", "b"], "references": ["a"]}, "references.*has 1 texts"),
    ({"data": ["a", "b", "c"], "references": ["a", "b"]}, "references has 2 texts and data 3"),
    ({"data": ["a", "b"], "references": ["a", 1.5]}, r"references\[1\]=1.5"),
    ({"data": ["a", "b"], "protocol": "paper"}, "protocol='paper' is not one of exact, arche"),
    ({"data": ["a", "b"], "seed": -1}, "seed=-1 must be an integer"),
    ({"data": ["a", "b"], "seed": "x"}, "seed='x' must be an integer"),
    ({"data": ["a", "b"], "tokenizer": "letters"}, "tokenizer='letters' must be one of words, characters"),
    ({"data": ["a", "b"], "tokenizer": None}, "tokenizer=None must be one of"),
    ({"data": ["a", "b"], "tokenizer": str.lower}, "tokenizer gives str for a text, not a list"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT)
def test_bad_input(module, arguments, message):
    with pytest.raises(ValueError, match=message):
        diversity(**arguments)
    with pytest.raises(ValueError, match=message):
        module.compute(**arguments)


# --- evaluate ---------------------------------------------------------------------------------------------------------


def test_the_module_gives_what_the_function_gives(module):
    texts, references = SIX * 3, stories(40)

    assert module.compute(data=texts, references=references, seed=5) == diversity(texts, references, seed=5)
    assert module.compute(data=texts, protocol="arche") == diversity(texts, protocol="arche")
    assert module.module_type == "measurement"


def test_the_module_takes_texts_in_parts(module):
    texts = stories(20)
    for text in texts[:10]:
        module.add(data=text)
    module.add_batch(data=texts[10:])

    assert module.compute() == diversity(texts)


@pytest.mark.parametrize("name", ["data", "predictions"])
def test_the_module_can_be_combined(module, name):
    texts, references = SIX * 3, stories(40)
    both = evaluate.combine({"ours": module, "again": evaluate.load(str(FOLDER))})
    found = both.compute(**{name: texts}, references=references, seed=5)
    expected = diversity(texts, references, seed=5)
    assert found == {f"{label}_{key}": value for label in ("ours", "again") for key, value in expected.items()}
    both.add_batch(data=CHINESE)
    assert (
        both.compute(tokenizer="characters")["ours_vocabulary_size"]
        == diversity(CHINESE, tokenizer="characters")["vocabulary_size"]
    )
    with pytest.raises(TypeError, match="protocl"):
        module.compute(data=texts, protocl="arche")


def run_offline(code, cwd, cache):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_module_loads_by_path_offline_from_a_checkout(tmp_path):
    code = (
        "import evaluate\n"
        "result = evaluate.load('metrics/diversity').compute(data=['a b c'] * 60 + ['a d'] * 60)\n"
        "print(result['distinct_first_words'] == 1 / 120)\n"
    )
    assert run_offline(code, REPOSITORY, tmp_path).strip() == "True"


def test_the_space_starts_from_any_folder(tmp_path):
    space = tmp_path / "app"
    space.mkdir()
    for name in ("app.py", "diversity.py", "corpus.py", "intervals.py", "words.py", "README.md"):
        (space / name).write_bytes((FOLDER / name).read_bytes())
    code = (
        "import evaluate.utils\n"
        "evaluate.utils.launch_gradio_widget = lambda module: print(module.name, list(module.features))\n"
        "import runpy; runpy.run_path('app.py')\n"
    )
    assert run_offline(code, space, tmp_path / "cache").strip() == "diversity ['data']"


def test_the_card_is_that_of_a_space():
    import yaml

    _, front, _ = (FOLDER / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(front)
    assert (card["sdk"], card["app_file"], card["tags"]) == ("gradio", "app.py", ["evaluate", "measurement"])
