"""The scan of int8 codes finds exactly what full fp32 search finds."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.retrieval import scan
from chiasm.retrieval.scan import Scan, encode


def made(vectors: np.ndarray) -> Scan:
    codes = np.zeros(vectors.shape, np.int8)
    return Scan(codes, vectors, encode(vectors, codes))


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def rows(kind: str, count: int, width: int, seed: int = 0) -> np.ndarray:
    draws = np.random.default_rng(seed)
    vectors = draws.standard_normal((count, width))
    if kind == "cone":  # all about the same direction, as contrastive embeddings are
        vectors = 0.1 * vectors + 3
    elif kind == "outlier":  # one column says almost everything
        vectors[:, 0] *= 40
    elif kind == "clusters":  # many nearly equal ones
        vectors = vectors[draws.integers(0, min(count, 20), count)] + 1e-4 * vectors
    return unit(vectors)


@pytest.mark.parametrize("kind", ["normal", "cone", "outlier", "clusters"])
@pytest.mark.parametrize(("count", "width", "queries", "k"), [(5000, 48, 3, 10), (3001, 33, 70, 5), (130, 16, 8, 100), (20, 8, 2, 50)])
def test_nothing_is_missed(kind: str, count: int, width: int, queries: int, k: int):
    vectors, asked = rows(kind, count, width), rows(kind, queries, width, seed=1)
    found = made(vectors).search(asked, k)
    scores = asked.astype(np.float64) @ vectors.T.astype(np.float64)
    best = -np.sort(-scores, axis=1)[:, : min(k, count)]
    assert found.rows.shape == best.shape
    np.testing.assert_allclose(np.take_along_axis(scores, found.rows, 1), best, atol=1e-6)  # equal ones may change places
    np.testing.assert_allclose(found.scores, best, atol=1e-6)
    assert all(len(set(row)) == len(row) for row in found.rows.tolist())


def test_few_are_scored_again():
    vectors = rows("normal", 50_000, 64)
    found = made(vectors).search(rows("normal", 4, 64, seed=1), 10)
    assert (found.rescored >= 10).all() and found.rescored.max() < 500


def test_equal_vectors_come_in_their_order():
    vectors = np.repeat(rows("normal", 3, 16), 100, axis=0)
    assert made(vectors).search(vectors[150:151], 7).rows.tolist() == [[100, 101, 102, 103, 104, 105, 106]]


def test_the_bound_holds_for_every_vector():
    """What the module's docstring claims: twice the margin is never exceeded, measured in float64."""
    vectors, asked = rows("outlier", 2000, 32), rows("normal", 5, 32, seed=1)
    codes = np.zeros(vectors.shape, np.int8)
    grid = encode(vectors, codes)
    rebuilt = grid.shift + grid.step * codes.astype(np.float64) @ grid.rotation
    off = np.linalg.norm(vectors - rebuilt, axis=1)
    assert off.max() <= grid.residual * (1 + 1e-4)
    assert (np.abs(asked @ vectors.T - asked @ rebuilt.T) <= np.linalg.norm(asked, axis=1)[:, None] * grid.residual * (1 + 1e-4)).all()
    assert np.linalg.norm(grid.step * codes.astype(np.float64), axis=1).max() <= grid.reach * (1 + 1e-4)


def test_a_processor_whose_int8_product_saturates_takes_the_slow_way(monkeypatch: pytest.MonkeyPatch):
    vectors, asked = rows("normal", 1000, 24), rows("normal", 9, 24, seed=1)
    quick = made(vectors).search(asked, 5)
    monkeypatch.setattr(scan, "multiplies_exactly", lambda: False)
    slow = made(vectors).search(asked, 5)
    assert (quick.rows == slow.rows).all() and (quick.scores == slow.scores).all()


def test_none_of_nothing():
    scan = made(np.zeros((0, 8), np.float32))
    assert scan.search(rows("normal", 2, 8), 3).rows.shape == (2, 0)
    assert made(rows("normal", 4, 8)).search(np.zeros((0, 8), np.float32), 3).rows.shape == (0, 3)
    assert made(rows("normal", 4, 8)).search(np.zeros((1, 8), np.float32), 2).rows.tolist() == [[0, 1]]
