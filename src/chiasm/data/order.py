"""The order of an epoch: a list of batches, known before the first row is read, and the same for any number of workers.

Rows that share a picture or clip are kept together (it is then encoded once for all of them), at most `group_rows` in one place; places
of similar text length share a batch, so that little is padded. Which rows, places and batches follow which is f(seed, epoch).
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from chiasm.data.randomness import generator
from chiasm.data.split import Outline, Split

WINDOW = 50  # batches that are sorted by length together; more means less padding and less mixing
SHORT = 48  # characters; shorter texts count as alike, else a batch would hold only labels of equal length and nothing to contrast


def plan_epoch(split: Split, *, seed: int, epoch: int, batch_size: int, group_rows: int = 8, shuffle: bool = True) -> list[list[int]]:
    """Batches of row indices, every row exactly once; all have `batch_size` rows but one. Without `shuffle`: the order of the source."""
    if not shuffle:
        return _cut(np.arange(len(split)), batch_size)
    draws = generator(seed, epoch, "order")
    places = _places(split.outline(), group_rows, draws)
    batches = _cut(_by_length(places, split.outline().lengths, WINDOW * batch_size), batch_size)
    return [batches[i] for i in draws.permutation(len(batches))]


def _places(outline: Outline, group_rows: int, draws: Generator) -> list[np.ndarray]:
    """Rows that stay together, in random order."""
    mixed = draws.permutation(len(outline.groups))
    mixed = mixed[np.argsort(outline.groups[mixed], kind="stable")]  # grouped, in random order within a group
    edges = np.flatnonzero(np.diff(outline.groups[mixed])) + 1
    places = [group[i : i + group_rows] for group in np.split(mixed, edges) for i in range(0, len(group), group_rows)]
    return [places[i] for i in draws.permutation(len(places))]


def _by_length(places: list[np.ndarray], lengths: np.ndarray, window: int) -> np.ndarray:
    """All rows; within windows of about `window` rows, places follow by their longest text, every other window from long to short."""
    if not places:
        return np.arange(0)
    longest = np.array([max(SHORT, lengths[place].max()) for place in places])
    windows = np.cumsum([len(place) for place in places]) // window
    longest = np.where(windows % 2 == 0, longest, -longest)  # the next window goes on where the last one ended
    return np.concatenate([places[i] for i in np.lexsort((longest, windows))])


def _cut(rows: np.ndarray, batch_size: int) -> list[list[int]]:
    return [rows[i : i + batch_size].tolist() for i in range(0, len(rows), batch_size)]
