"""Recall@k both ways, against figures worked out by hand."""

import numpy as np
import pytest

from chiasm.metrics.recall import Recall
from chiasm.types import Prediction


def pair(number, image, caption, target=None):
    return Prediction(f"row{number}", "align", {"image": list(image), "caption": list(caption)}, target)


def test_ranks_by_hand():
    # captions are the three axes; picture 1 lies nearest to caption 0, so it is second, the others are first
    axes = np.eye(3)
    predictions = [pair(0, [1, 0.1, 0], axes[0]), pair(1, [0.9, 0.5, 0], axes[1]), pair(2, [0, 0.1, 1], axes[2])]
    found = Recall().compute(predictions)
    assert found["1[image->caption]"] == pytest.approx(2 / 3)
    assert found["5[image->caption]"] == 1.0
    assert found["1[caption->image]"] == 1.0  # caption 1's nearest picture is picture 1 (0.49 against 0.10)


def test_candidates_come_in_blocks_and_the_note_says_how_many():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(250, 16))
    predictions = [pair(i, v, v) for i, v in enumerate(vectors)]
    scores = Recall().scores_by_variant(predictions)["1[image->caption]"]
    assert np.isfinite(scores).sum() == 200
    assert Recall().compute(predictions)["1[caption->image]"] == 1.0
    assert Recall().notes(predictions) == ["Recall@k is among 100 candidates (2 x 100 different pairs; 50 left over pairs are not in it)"]


def test_random_vectors_are_at_chance():
    random = np.random.default_rng(1)
    predictions = [pair(i, random.normal(size=8), random.normal(size=8)) for i in range(2000)]
    found = Recall().compute(predictions)
    assert found["1[image->caption]"] == pytest.approx(0.01, abs=0.008)
    assert found["10[caption->image]"] == pytest.approx(0.10, abs=0.03)


def test_a_collapsed_model_scores_nothing():
    predictions = [pair(i, [1, 0], [1, 0], {"image": f"p{i}", "caption": f"c{i}"}) for i in range(50)]
    assert set(Recall().compute(predictions).values()) == {0.0}


def test_equal_captions_are_hits_for_each_others_pictures():
    sun = {"caption": "a sun"}
    predictions = [
        pair(0, [1, 0], [0, 1], {"image": "p0", **sun}),
        pair(1, [0, 1], [0, 1], {"image": "p1", **sun}),
        pair(2, [-1, 0], [-1, -1], {"image": "p2", "caption": "a cup"}),
    ]
    found = Recall().compute(predictions)
    assert found["1[caption->image]"] == 1.0  # row 0's caption finds picture 1, which has the same caption
    # row 0's picture: the two "a sun" captions (0) come before "a cup" (-0.7)
    assert found["1[image->caption]"] == 1.0


def test_a_pair_that_occurs_twice_counts_once():
    target = {"image": "p", "caption": "c"}
    other = pair(2, [0, 1], [1, 0.1], {"image": "q", "caption": "d"})
    predictions = [pair(0, [1, 0], [1, 0], target), pair(1, [1, 0], [1, 0], target), other]
    scores = Recall().scores_by_variant(predictions)["1[image->caption]"]
    assert np.isfinite(scores).sum() == 2
