"""Bootstrap intervals: coverage, clusters, pairing, and the sentences."""

import numpy as np
import pytest

from chiasm.components import find
from chiasm.evaluation.intervals import Difference, Resampler, bootstrap, number, paired, percentile_interval, verdict
from chiasm.types import Prediction

EXACT = find("metric", "exact_match")()


def answers(right, *, prefix="r"):
    return [Prediction(f"{prefix}{i}", "t", "a" if ok else "b", "a") for i, ok in enumerate(right)]


def test_the_interval_is_as_wide_as_theory_says_and_is_seeded():
    right = np.arange(400) % 4 != 0
    rows = answers(right)
    low, high = bootstrap(EXACT, rows, range(400))[""]
    width = 2 * 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert low < 0.75 < high
    assert high - low == pytest.approx(width, rel=0.1)
    assert bootstrap(EXACT, rows, range(400))[""] == (low, high)
    assert bootstrap(EXACT, rows, range(400), seed=1)[""] != (low, high)


def test_rows_of_one_picture_are_drawn_together():
    right = np.repeat(np.arange(100) % 2 == 0, 9)  # 100 pictures, 9 questions each, all right or all wrong
    clustered = bootstrap(EXACT, answers(right), np.repeat(np.arange(100), 9).tolist())[""]
    naive = bootstrap(EXACT, answers(right), range(900))[""]
    assert clustered[1] - clustered[0] == pytest.approx(3 * (naive[1] - naive[0]), rel=0.15)


def test_about_95_of_100_intervals_hold_the_truth():
    random = np.random.default_rng(0)
    held = 0
    for seed in range(100):
        scores = (random.random((200, 1)) < 0.7).astype(float)
        low, high = percentile_interval(Resampler(range(200), resamples=500, seed=seed).means(scores)[:, 0])
        held += low <= 0.7 <= high
    assert 89 <= held <= 99


def test_sums_rows_and_means_agree():
    values = np.random.default_rng(2).normal(size=(30, 1))
    resampler = Resampler([i // 3 for i in range(30)], seed=3)
    by_rows = np.array([values[rows].mean() for rows in resampler.rows()])
    assert by_rows == pytest.approx(Resampler([i // 3 for i in range(30)], resamples=len(by_rows), seed=3).means(values)[:, 0])


def test_scores_that_are_not_there_are_left_out():
    means = Resampler(range(3), resamples=200).means(np.array([[1.0], [np.nan], [1.0]]))
    assert np.nanmin(means) == np.nanmax(means) == 1.0
    assert np.isnan(means).any()  # the draw of three times the middle row


def test_paired_is_narrower_than_unpaired():
    real, other = answers([i % 2 == 0 for i in range(300)]), answers([i % 2 == 0 and i % 10 != 0 for i in range(300)])
    difference = paired(EXACT, real, other, range(300))[""]
    assert (difference.real, difference.other, difference.difference) == (0.5, 0.4, pytest.approx(-0.1))
    low, high = difference.interval
    assert -0.14 < low < -0.1 < high < -0.06
    alone = bootstrap(EXACT, real, range(300))[""]
    assert high - low < (alone[1] - alone[0])


def test_paired_needs_the_same_rows():
    with pytest.raises(AssertionError):
        paired(EXACT, answers([1, 1]), answers([1, 1], prefix="s"), range(2))


@pytest.mark.parametrize("name", ["bleu", "f1", "recall"])
def test_metrics_that_are_no_plain_means(name):
    if name == "recall":
        vectors = np.random.default_rng(0).normal(size=(60, 4))
        captions = vectors + 0.5 * np.roll(vectors, 1, axis=0)
        rows = [Prediction(f"r{i}", "t", {"image": v.tolist(), "caption": captions[i].tolist()}) for i, v in enumerate(vectors)]
    else:
        texts = ["a red sun above a cloud", "two green cups on the left"]
        rows = [Prediction(f"r{i}", "t", texts[i % 2], texts[i % 3 == 0]) for i in range(60)]
    metric = find("metric", name)()
    found, intervals = metric.compute(rows), bootstrap(metric, rows, range(60))
    assert found.keys() == intervals.keys()
    assert all(low <= found[v] <= high for v, (low, high) in intervals.items())


def difference(real, other, low, high, clusters=500):
    return Difference(real, other, (low, high), clusters, clusters)


def test_verdicts():
    assert verdict("image", "exact_match", difference(0.94, 0.19, -0.78, -0.72)) == (
        "uses `image`: exact_match falls from 0.94 to 0.19 when shuffled [-0.78, -0.72]"
    )
    assert verdict("audio", "exact_match", difference(0.5, 0.5, -0.01, 0.012)) == (
        "no measurable use of `audio`: exact_match goes from 0.50 to 0.50 when shuffled [-0.010, +0.012]"
    )
    assert verdict("audio", "f1", difference(0.5, 0.6, 0.05, 0.15), how="missing").startswith("`audio` does harm: f1 rises")
    assert verdict("x", "error", difference(1, 3, 1, 3), higher_is_better=False).startswith("uses `x`: error rises")
    too_few = "too few samples to say whether `x` is used (5 independent, 20 needed)"
    assert verdict("x", "f1", difference(1, 0, -1, -1, clusters=5)) == too_few


def test_numbers_for_people():
    assert [number(0.943), number(0.0123), number(-0.5, sign=True), number(123.45)] == ["0.94", "0.012", "-0.50", "123.5"]
