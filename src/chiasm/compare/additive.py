"""EMAP: the nearest function to a model that lets no inputs interact (empirical multimodally-additive projection, Hessel and Lee, 2020).

    f_additive(x) = sum over inputs m of E[f(x_m, X_others)] - (M - 1) E[f]

Expectations are means over the items themselves, each input taken from another one. With two inputs that is every pair of items (n * n
passes); with more, each item's input meets n draws of the others, each of which comes from its own permutation of the items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from chiasm.data.randomness import generator

MOST_PASSES = 10_000  # so many pairings at most decide how many items are projected
MOST_ITEMS = 100

Answer = Callable[[Sequence[int], Mapping[str, Sequence[int | None]]], np.ndarray]  # (items, input -> item it is taken from) -> [Q, K]


def items_for(inputs: int, available: int) -> int:
    """How many items are projected: at most 100, fewer where more than two inputs would need too many passes."""
    passes = 1 if inputs <= 2 else inputs
    return min(available, MOST_ITEMS, int((MOST_PASSES / passes) ** 0.5))


def additive(answer: Answer, inputs: Sequence[str], count: int) -> np.ndarray:
    """[count, K] the projection at each of the items 0..count-1; `answer` gives a model's K numbers where inputs are of other items."""
    items = np.arange(count)
    asked, other = np.repeat(items, count), np.tile(items, count)  # every pair, the first item's partners together
    if len(inputs) == 2:
        both = answer(asked.tolist(), {inputs[1]: other.tolist()}).reshape(count, count, -1)
        return both.mean(1) + both.mean(0) - both.mean((0, 1))
    met = []
    for name in inputs:
        drawn = {rest: generator("additive", name, rest, count).permutation(count)[other].tolist() for rest in inputs if rest != name}
        met.append(answer(asked.tolist(), drawn).reshape(count, count, -1))
    means = np.stack(met)  # [M, count, count, K]
    return means.mean(2).sum(0) - (len(inputs) - 1) * means.mean((0, 1, 2))
