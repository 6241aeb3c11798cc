"""What each input adds to the probability of the true label: exact Shapley values over the inputs, with their sign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import factorial
from typing import Any

import numpy as np

from chiasm.metrics.base import accepted, label

Coalition = frozenset[str]
Values = dict[Coalition, np.ndarray]  # which inputs are there -> [N] value of each item


def coalition_values(coalitions: Mapping[str, Sequence[Mapping[str, float]]], targets: Sequence[Any]) -> Values:
    """Probability of the true label under each coalition; `coalitions` are probabilities by names such as "image+text" ("" is none).

    Where the model was not run without any input, it is taken to answer the mean of what it answers with all of them.
    """
    found = {frozenset(name.split("+")) - {""}: rows for name, rows in coalitions.items()}
    if frozenset() not in found:
        rows = found[max(found, key=len)]
        labels = list(dict.fromkeys(name for row in rows for name in row))
        found[frozenset()] = [{name: float(np.mean([row.get(name, 0.0) for row in rows])) for name in labels}] * len(targets)
    return {inputs: np.array([_of_truth(p, t) for p, t in zip(rows, targets, strict=True)]) for inputs, rows in found.items()}


def _of_truth(probabilities: Mapping[str, float], target: Any) -> float:
    """Probability of the true label; of several true ones, the mean."""
    known = {label(name): p for name, p in probabilities.items()}
    return float(np.mean([known.get(label(t), 0.0) for t in accepted(target)] or [0.0]))


def shapley(values: Values) -> dict[str, np.ndarray] | None:
    """Input -> [N] what it adds when it joins, averaged over all orders of joining; None where a coalition is missing.

    The parts sum to values[all] - values[none] (L. S. Shapley, "A value for n-person games", 1953).
    """
    players = sorted(frozenset().union(*values))
    count = len(players)
    if len(values) != 2**count:
        return None
    found = {}
    for player in players:
        total = np.zeros_like(values[frozenset()])
        for size in range(count):
            weight = factorial(size) * factorial(count - size - 1) / factorial(count)
            for group in map(frozenset, combinations([p for p in players if p != player], size)):
                total = total + weight * (values[group | {player}] - values[group])
        found[player] = total
    return found
