"""Which test items a comparison is about, and what its controls do to them; the same for every row, whatever it is made of."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chiasm.data.collate import Collator, exchange
from chiasm.data.randomness import generator
from chiasm.types import BadSample, ChiasmError, Opened

CHUNK = 128  # rows that are opened and encoded together
CONTROLLED = 500  # items that the controls are run on, at most
BLOCK = 100  # items whose inputs are exchanged among each other
FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the items that lack an input, in its curve
MOST_COALITIONS = 5  # inputs, at most, whose every combination is tried

Sources = dict[str, list[int | None]]  # input -> for each row, the row whose part it gets; None: none


@dataclass(frozen=True, slots=True)
class Items:
    """Rows of the reported split that every row of the table answers. `controlled`: places in `ids`, in a drawn order."""

    split: str
    places: list[int]  # row numbers in the split
    ids: list[str]
    controlled: list[int]
    clusters: list[str] = field(default_factory=list)  # what each item shares with others and is drawn with: a picture, clip or group

    def blocks(self) -> list[list[int]]:
        """The controlled items, some at a time: inputs are exchanged within a block."""
        return [self.controlled[i : i + BLOCK] for i in range(0, len(self.controlled), BLOCK)]


def find_items(split: Any, name: str, task: Any, processor: Any, group_by: str | None = None) -> Items:
    """The rows that can be read and that have a target for `task`; rows with one value of the column `group_by` are of one cluster."""
    collator = Collator([task], processor)
    places, ids, media, groups = [], [], [], []
    for start in range(0, len(split), CHUNK):
        chunk = range(start, min(start + CHUNK, len(split)))
        opened = split.open_rows(chunk)
        usable = set(collator.gathered(opened).ids)
        for place, row in zip(chunk, opened, strict=True):
            if isinstance(row, Opened) and row.sample.id in usable:
                places.append(place)
                ids.append(row.sample.id)
                media.append(row.keys)
                groups.append(row.sample.parts.get(group_by) if group_by else None)
    if not ids:
        raise ChiasmError(f"the split '{name}' has no row for task {task.name}; it needs the columns {', '.join(task.targets)}")
    order = generator("controlled", len(ids)).permutation(len(ids))[:CONTROLLED]
    return Items(name, places, ids, order.tolist(), clusters_of(ids, media, groups))


def clusters_of(ids: Sequence[str], media: Sequence[Mapping[str, Any]], groups: Sequence[Any]) -> list[str]:
    """The cluster of each item: its group where there are groups, else the picture or clip of the input that is shared most; empty where
    each item is its own."""
    if any(group is not None for group in groups):
        found = [item if group is None else f"group {group}" for item, group in zip(ids, groups, strict=True)]
    else:
        columns = [[keys.get(name) for keys in media] for name in sorted({name for keys in media for name in keys})]
        shared = min(columns, key=lambda column: len(set(column)), default=[None] * len(ids))
        found = [item if key is None else f"media {key}" for item, key in zip(ids, shared, strict=True)]
    return found if len(set(found)) < len(found) else []


def open_items(split: Any, places: Sequence[int]) -> list[Opened]:
    """The rows at `places` of a split; ChiasmError where one cannot be read any more."""
    opened = split.open_rows(places)
    for row in opened:
        if isinstance(row, BadSample):
            raise ChiasmError(f"{row.id}: {row.input}: {row.message} ({row.reason}); it could be read when the comparison began")
    return opened


def shuffled(opened: Sequence[Opened], name: str) -> Sources:
    """Every row that has the input gets another value of it; where all have the same one, they keep it."""
    having = [place for place, row in enumerate(opened) if has(row, name)]
    own = [opened[place].keys.get(name) or opened[place].sample.parts[name] for place in having]
    taken = exchange(own, generator("shuffled", name, *(opened[place].sample.id for place in having))) or range(len(having))
    sources: list[int | None] = list(range(len(opened)))
    for place, other in zip(having, taken, strict=True):
        sources[place] = having[other]
    return {name: sources}


def missing(opened: Sequence[Opened], name: str, fraction: float) -> Sources:
    """A fraction of the rows lack the input: drawn per row, and a row that lacks it at one fraction lacks it at all larger ones."""
    draws = [generator("missing", name, row.sample.id).random() for row in opened]
    return {name: [None if draw < fraction else place for place, draw in enumerate(draws)]}


def only(opened: Sequence[Opened], inputs: Sequence[str], present: Sequence[str]) -> Sources:
    """Only the inputs `present` are there."""
    return {name: [None] * len(opened) for name in inputs if name not in present}


def coalitions(inputs: Sequence[str]) -> list[tuple[str, ...]]:
    """Every combination of the inputs, from none to all; none at all where there would be too many."""
    if len(inputs) > MOST_COALITIONS:
        return []
    return [chosen for size in range(len(inputs) + 1) for chosen in itertools.combinations(inputs, size)]


def has(row: Opened, name: str) -> bool:
    """Whether an opened row has an input: decoded media, or a text that is not empty."""
    part = row.sample.parts.get(name)
    return name in row.values or (isinstance(part, str) and part != "")
