"""Draws over seeds and items: width, coverage, pairing, clusters, p-values, and metrics that are no means."""

import numpy as np
import pytest

from chiasm.compare.bootstrap import Sampler

SEEDS = (0, 1, 2, 3, 4)


def answered(random, *, seeds=5, items=300, sd=0.0, accuracy=0.75, difficulty=None):
    """[S, N] right or wrong: items of different difficulty, seeds of different accuracy (sd, on the scale of accuracy)."""
    difficulty = random.normal(size=items) if difficulty is None else difficulty
    skill = np.log(accuracy / (1 - accuracy)) + sd * random.normal(size=(seeds, 1)) / (accuracy * (1 - accuracy))
    return (random.random((seeds, items)) < 1 / (1 + np.exp(-skill - difficulty))).astype(float)


def quantity(scores, seeds=SEEDS, clusters=None, resamples=2000):
    return Sampler(clusters or range(scores.shape[1]), resamples=resamples).of_means([(seeds[: len(scores)], scores)])[0]


def test_one_seed_gives_the_interval_of_the_items_alone():
    scores = np.array([[1.0] * 75 + [0.0] * 25] * 1)
    found = quantity(scores, resamples=10_000)
    low, high = found.interval()
    assert found.value == 0.75
    assert high - low == pytest.approx(2 * 1.96 * (0.75 * 0.25 / 100) ** 0.5, rel=0.06)
    assert found.error == pytest.approx((0.75 * 0.25 / 100) ** 0.5, rel=0.03)


def test_seeds_alone_give_the_interval_of_students_t():
    scores = np.repeat([[0.70], [0.72], [0.74], [0.76], [0.78]], 50, axis=1)  # every item alike: only the seeds vary
    found = quantity(scores, resamples=20_000)
    sd = np.std([0.70, 0.72, 0.74, 0.76, 0.78], ddof=1)
    low, high = found.interval()
    assert high - low == pytest.approx(2 * 2.776 * sd / 5**0.5, rel=0.08)  # t of 4 degrees of freedom
    assert found.error == pytest.approx(sd / 5**0.5)


def test_p_values_are_those_of_students_t():
    spread = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    mean = 2.776 * np.std(spread, ddof=1) / 5**0.5  # p = .05 with 4 degrees of freedom
    assert quantity(np.repeat((spread + mean)[:, None], 40, axis=1), resamples=20_000).p_value() == pytest.approx(0.05, abs=0.012)
    assert quantity(np.repeat(spread[:, None], 40, axis=1)).p_value() > 0.9
    assert quantity(np.repeat((spread + 100 * mean)[:, None], 40, axis=1)).p_value() < 0.005


def test_about_95_of_100_intervals_hold_the_truth_with_few_seeds():
    random = np.random.default_rng(0)
    for seeds, sd in ((3, 0.03), (5, 0.03), (5, 0.0)):
        truth = answered(random, seeds=2000, items=400, sd=sd).mean()
        found = [quantity(answered(random, seeds=seeds, items=150, sd=sd), resamples=600).interval() for _ in range(100)]
        assert sum(low <= truth <= high for low, high in found) >= 91, (seeds, sd)


def test_paired_tests_of_equal_rows_find_what_they_may():
    random = np.random.default_rng(6)
    for seeds, sd in ((3, 0.03), (5, 0.0)):
        p_values = []
        for _ in range(150):
            difficulty = random.normal(size=150)
            pair = [(SEEDS[:seeds], answered(random, seeds=seeds, items=150, sd=sd, difficulty=difficulty)) for _ in range(2)]
            a, b = Sampler(range(150), resamples=600).of_means(pair)
            p_values.append((a - b).p_value())
        assert np.mean(np.array(p_values) < 0.05) <= 0.09, (seeds, sd)
        assert np.mean(np.array(p_values) < 0.5) == pytest.approx(0.5, abs=0.2)


def test_differences_are_paired_over_items_and_seeds():
    random = np.random.default_rng(1)
    real = answered(random, sd=0.05)
    worse = real * (np.arange(300) % 10 != 0)  # the same models, wrong on every tenth item
    a, b = Sampler(range(300), resamples=2000).of_means([(SEEDS, real), (SEEDS, worse)])
    low, high = (b - a).interval()
    assert (b - a).value == pytest.approx(worse.mean() - real.mean())
    assert low < (b - a).value < high < 0
    alone = b.interval()
    assert high - low < 0.6 * (alone[1] - alone[0])


def test_other_seeds_are_independent():
    random = np.random.default_rng(2)
    scores = np.repeat(0.5 + 0.1 * random.normal(size=(5, 1)), 60, axis=1)
    same, other = Sampler(range(60), resamples=4000).of_means([(SEEDS, scores), ((7, 8, 9, 10, 11), scores)])
    assert (same - same).error == pytest.approx(0.0)
    assert (same - other).error == pytest.approx(same.error * 2**0.5)
    assert np.corrcoef(same.draws(), other.draws())[0, 1] == pytest.approx(0.0, abs=0.06)


def test_equal_rows_do_not_differ():
    scores = answered(np.random.default_rng(3))
    a, b = Sampler(range(300), resamples=1000).of_means([(SEEDS, scores), (SEEDS, scores.copy())])
    assert (a - b).p_value() == 1.0
    assert (a - b).interval() == pytest.approx((0.0, 0.0))


def test_items_of_one_picture_are_drawn_together():
    scores = np.repeat(np.arange(100) % 2 == 0, 9).astype(float)[None]
    apart, together = quantity(scores), quantity(scores, clusters=np.repeat(np.arange(100), 9).tolist())
    assert together.error == pytest.approx(3 * apart.error, rel=0.1)
    assert np.sqrt((Sampler(np.repeat(np.arange(100), 9).tolist()).moves(scores) ** 2).sum()) == pytest.approx(together.error, rel=0.1)


def test_items_without_a_score_are_left_out():
    scores = np.array([[1.0, np.nan, 0.0, 1.0], [1.0, np.nan, np.nan, 1.0]])
    found = quantity(scores, resamples=500)
    assert found.value == pytest.approx((2 / 3 + 1) / 2)
    assert np.isfinite(found.draws()).all()


def test_few_draws_become_many_with_the_same_spread_together():
    random = np.random.default_rng(4)
    sampler = Sampler(range(200), resamples=8000)
    scores = random.normal(size=(2, 200)) + random.normal(size=200)  # two correlated rows, one seed each
    direct = sampler.of_means([((0,), line[None]) for line in scores])
    by_draw = [sampler.of_draws((0,), np.array([line.mean()]), np.array([[line[r].mean()] for r in sampler.rows])) for line in scores]
    for one, other in zip(direct, by_draw, strict=True):
        assert other.value == one.value
        assert other.error == pytest.approx(one.error, rel=0.15)
    assert (by_draw[0] - by_draw[1]).error == pytest.approx((direct[0] - direct[1]).error, rel=0.15)


def test_draws_are_the_same_every_time():
    scores = answered(np.random.default_rng(5), sd=0.02)
    assert (quantity(scores).draws() == quantity(scores).draws()).all()
