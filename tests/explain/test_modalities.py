"""EX6 and EX8 on games whose values are known: Shapley values add up, and interactions have the right size and sign."""

from __future__ import annotations

from itertools import combinations, permutations
from statistics import mean

import numpy as np
import pytest

from chiasm.explain.modalities import interactions, shapley

GAMES = {
    "xor": {(): 0.0, ("a",): 0.0, ("b",): 0.0, ("a", "b"): 1.0},
    "redundant": {(): 0.0, ("a",): 1.0, ("b",): 1.0, ("a", "b"): 1.0},
    "additive": {(): 0.5, ("a",): 1.5, ("b",): -1.5, ("a", "b"): -0.5},
}


def game(name: str) -> dict[frozenset[str], float]:
    return {frozenset(group): value for group, value in GAMES[name].items()}


@pytest.mark.parametrize(("name", "joint"), [("xor", 1.0), ("redundant", -1.0), ("additive", 0.0)])
def test_what_two_inputs_do_together(name: str, joint: float):
    assert interactions(game(name))["a", "b"] == pytest.approx(joint)
    assert sum(shapley(game(name)).values()) == pytest.approx(game(name)[frozenset("ab")] - game(name)[frozenset()])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_shapley_values_are_means_over_all_orders(count: int):
    draws, players = np.random.default_rng(count), "abcde"[:count]
    values = {frozenset(g): float(draws.normal()) for size in range(count + 1) for g in combinations(players, size)}
    found = shapley(values)
    for player in players:
        added = [
            values[frozenset((*order[: order.index(player)], player))] - values[frozenset(order[: order.index(player)])]
            for order in permutations(players)
        ]
        assert found[player] == pytest.approx(mean(added), abs=1e-12)
    assert sum(found.values()) == pytest.approx(values[frozenset(players)] - values[frozenset()], abs=1e-12)


def test_the_pair_index_averages_over_what_joined_before():
    """Three players of which two count only together with the third: half of the orders have it there."""
    values = {frozenset(g): float(set(g) >= {"a", "b", "c"}) for size in range(4) for g in combinations("abc", size)}
    assert interactions(values)["a", "b"] == pytest.approx(0.5)
