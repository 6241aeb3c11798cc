"""Holm's correction, ties with the best, what seeds and items can show, and Shapley values."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.compare.bootstrap import Sampler
from chiasm.compare.shapley import coalition_values, shapley
from chiasm.compare.statistics import detectable_difference, half_width, holm, ties_with_best


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_as_it_is_written(p_values):
    given_p = dict(enumerate(p_values))
    found = holm(given_p)
    ordered = sorted(p_values)
    for name, p in given_p.items():
        places = [k for k, other in enumerate(ordered, 1) if other <= p]
        steps = [min((len(ordered) - k + 1) * ordered[k - 1], 1.0) for k in places]
        assert found[name] == pytest.approx(max(steps))
    assert list(found) == list(given_p)


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == {"a": pytest.approx(0.03), "b": pytest.approx(0.06), "c": pytest.approx(0.06)}
    assert holm({}) == {}


def rows(random, means, *, seeds=5, items=300, sd=0.01):
    """Row name -> quantity, all on the same items."""
    hard = random.normal(size=items)
    scores = [(hard + random.normal(size=(seeds, items)) + m + sd * random.normal(size=(seeds, 1))) for m in means]
    sampler = Sampler(range(items), resamples=1000)
    return dict(zip("abcdefgh", sampler.of_means([(tuple(range(seeds)), s) for s in scores]), strict=False))


def test_the_best_and_what_ties_with_it():
    found = ties_with_best(rows(np.random.default_rng(0), [1.0, 1.0, 0.0, 0.99]))
    assert {name for name, p in found.items() if p >= 0.05} == {"a", "b", "d"}
    assert max(found.values()) == 1.0
    upside_down = ties_with_best(rows(np.random.default_rng(0), [1.0, 1.0, 0.0, 0.99]), higher_is_better=False)
    assert {name for name, p in upside_down.items() if p >= 0.05} == {"c"}
    assert ties_with_best(rows(np.random.default_rng(0), [1.0])) == {"a": 1.0}


def test_the_truly_best_row_is_rarely_left_out_of_the_top_group():
    random = np.random.default_rng(1)
    left_out = [ties_with_best(rows(random, [0.0] * 6, seeds=3, items=120, sd=0.1))["a"] < 0.05 for _ in range(100)]
    assert sum(left_out) <= 8  # five are allowed, and this is chance too


def test_the_number_of_seeds_that_one_point_takes():
    for sd, seeds in ((0.4, 3), (0.7, 8), (1.0, 16)):
        assert detectable_difference([(sd, seeds)] * 2) <= 1.0 < detectable_difference([(sd, seeds - 1)] * 2)


def test_power_by_simulation():
    random = np.random.default_rng(2)
    difference = detectable_difference([(1.0, 16)] * 2)
    arms = random.normal(size=(4000, 2, 16)) + np.array([[0.0], [difference]])
    z = (arms[:, 1].mean(1) - arms[:, 0].mean(1)) / (2 / 16) ** 0.5
    assert (np.abs(z) > 1.96).mean() == pytest.approx(0.8, abs=0.02)


def test_what_752_items_leave_open():
    assert half_width((0.76 * 0.24 / 752) ** 0.5) == pytest.approx(0.0305, abs=0.0005)


def games(players, random):
    subsets = [frozenset(c) for size in range(players + 1) for c in itertools.combinations("abcd"[:players], size)]
    return {group: random.random(6) for group in subsets}


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(0, 1000))
def test_shapley_is_the_mean_over_all_orders(players, seed):
    values = games(players, np.random.default_rng(seed))
    found = shapley(values)
    everyone, orders = frozenset("abcd"[:players]), list(itertools.permutations("abcd"[:players]))
    for player in everyone:
        joined = [frozenset(order[: order.index(player)]) for order in orders]
        assert found[player] == pytest.approx(np.mean([values[g | {player}] - values[g] for g in joined], axis=0))
    assert sum(found.values()) == pytest.approx(values[everyone] - values[frozenset()])
    assert len(orders) == math.factorial(players)


def test_equal_inputs_share_equally_and_a_useless_one_gets_nothing():
    worth = {"": 0.25, "a": 0.5, "b": 0.5, "a+b": 0.9}
    values = {frozenset(k.split("+")) - {""}: np.array([v]) for k, v in worth.items()}
    with_useless = values | {group | {"c"}: v for group, v in values.items()}
    assert shapley(values) == {"a": pytest.approx(0.325), "b": pytest.approx(0.325)}
    assert shapley(with_useless)["c"] == pytest.approx(0.0)


def test_shapley_needs_every_coalition():
    values = games(3, np.random.default_rng(0))
    del values[frozenset("ab")]
    assert shapley(values) is None


def test_the_value_of_a_coalition_is_the_probability_of_the_true_label():
    told = {"": [{"x": 0.5, "1": 0.5}] * 2, "image": [{"x": 0.9, "1": 0.1}, {"x": 0.2, "1": 0.8}]}
    found = coalition_values(told, ["x", 1])
    assert found[frozenset({"image"})].tolist() == [0.9, 0.8]
    del told[""]  # taken to be the mean answer: x .55, 1 .45
    assert coalition_values(told, ["x", 1])[frozenset()] == pytest.approx([0.55, 0.45])
    several = coalition_values({"": [{"x": 0.5, "y": 0.1, "z": 0.7}]}, [["x", "z"]])
    assert several[frozenset()] == pytest.approx([0.6])
