"""Matches with the training text against a search of every n-gram."""

import math
import random

import numpy as np
import pytest

from arche_mdlm.metrics.memorisation import TrainingIndex, memorisation, suffix_array, words

TRAINING = ["The cat sat on the mat.", "", "The dog sat on the cat and the cat ran", "a a a a"]


def found(gram, training_rows):
    return any(gram == row[i : i + len(gram)] for row in training_rows for i in range(len(row) - len(gram) + 1))


def by_search(text_row, training_rows, order):
    """(longest, share) by looking each n-gram up in each training text."""
    size = len(text_row)
    longest = max(
        (j - i for i in range(size) for j in range(i + 1, size + 1) if found(text_row[i:j], training_rows)), default=0
    )
    grams = [text_row[i : i + order] for i in range(size - order + 1)]
    return longest, sum(found(gram, training_rows) for gram in grams) / len(grams) if grams else None


def random_texts(num_texts, letters, seed, longest=14):
    draw = random.Random(seed)
    return [" ".join(draw.choices(letters, k=draw.randint(0, longest))) for _ in range(num_texts)]


def test_by_hand():
    result = memorisation(["the CAT sat on the cat", "mat. The dog", "zebra", "", "a a a a"], TRAINING, order=3)

    # "sat on the cat" is in the second, "the cat sat on the" in the first; "mat. the dog" reaches over two texts.
    assert result.longest == [5, 2, 0, 0, 4]
    assert result.share == [1.0, 0.0, None, None, 1.0]
    assert result.lengths == [6, 3, 1, 0, 4]
    assert result.mean_longest == pytest.approx(11 / 5)
    assert result.mean_share == pytest.approx(2 / 3)
    assert result.copied == pytest.approx(1 / 4)


@pytest.mark.parametrize(("letters", "seed"), [("ab", 0), ("abcd", 1), ("abcdefghij", 2)])
@pytest.mark.parametrize("order", [1, 3, 13])
def test_against_a_search_of_every_n_gram(letters, seed, order):
    training, texts = random_texts(12, letters, seed), random_texts(30, letters + "z", seed + 100)
    rows = [words(text) for text in training]

    result = memorisation(texts, training, order=order, chunk=7)

    expected = [by_search(words(text), rows, order) for text in texts]
    assert list(zip(result.longest, result.share, strict=True)) == expected


def test_tokens(tokenizer):
    texts, training = ["The cat sat in the sun.", "Sue and Tim"], ["The little cat sat in the tree.", "Tim and Sue"]
    rows = tokenizer(training, add_special_tokens=False)["input_ids"]

    result = memorisation(texts, training, order=2, tokenizer=tokenizer)

    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert list(zip(result.longest, result.share, strict=True)) == [by_search(row, rows, 2) for row in ids]


def test_references_and_an_index_made_before():
    index = TrainingIndex(TRAINING)

    result = memorisation(["the dog sat on a mat."], index, ["a cat sat"], order=2)

    assert result.longest == [4]
    assert result.reference.longest == [2]
    assert result.reference.share == [0.5]
    assert result == memorisation(["the dog sat on a mat."], TRAINING, ["a cat sat"], order=2)


@pytest.mark.parametrize("corpus", [[0], [0, 0, 0, 0, 0], [3, 1, 2, 1, 2, 0, 3, 1, 2], list(range(9, -1, -1))])
def test_suffixes_are_sorted(corpus):
    expected = sorted(range(len(corpus)), key=lambda start: corpus[start:])
    assert suffix_array(np.array(corpus)).tolist() == expected


def test_texts_without_words():
    result = memorisation([""], [""])
    assert (result.longest, result.share) == ([0], [None])
    assert math.isnan(result.mean_share)
    assert math.isnan(result.copied)


def test_bad_input():
    with pytest.raises(ValueError, match="texts='one text' must be a list"):
        memorisation("one text", TRAINING)
    with pytest.raises(ValueError, match="training=\\[\\]"):
        memorisation(["a"], [])
    with pytest.raises(ValueError, match="references=\\[1\\]"):
        memorisation(["a"], TRAINING, [1])
    with pytest.raises(ValueError, match="order=0"):
        memorisation(["a"], TRAINING, order=0)
    with pytest.raises(ValueError, match="tokenizer cannot be set here: set it in the TrainingIndex"):
        memorisation(["a"], TrainingIndex(TRAINING), tokenizer=object())
