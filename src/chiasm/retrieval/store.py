"""Where an index keeps its vectors: as plain files that are searched exactly, or in a LanceDB database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Record = dict[str, Any]  # {"id", "file", "line", "columns": {column: value}, "media": {side: path}} of one row of the data


class Near(NamedTuple):
    """One result: how alike, which side it was found on, and the row that it belongs to."""

    score: float
    side: str
    record: Record


class Store:
    """Opened for searching. `facts` is what `Writer.finish` returned."""

    def count(self, side: str) -> int:
        raise NotImplementedError

    def search(self, query: np.ndarray, k: int, sides: Sequence[str], where: str | None = None) -> list[Near]:
        """The k nearest to `query` [d] among some sides, the nearest first. ChiasmError where the store cannot filter."""
        raise NotImplementedError


class Writer:
    """Takes an index in, batch by batch."""

    def add(self, records: Sequence[Record], vectors: Mapping[str, tuple[Sequence[int], np.ndarray]]) -> None:
        """`vectors`: side -> (places in `records`, float32 [n, d])."""
        raise NotImplementedError

    def noted(self) -> dict[str, Any]:
        """What it must know to go on after a kill; nothing where it cannot."""
        return {}

    def finish(self, sides: Sequence[str]) -> None:
        """Write what is left; `sides` have vectors."""
        raise NotImplementedError
