"""Sources made of sources: several files as one, some rows of one, a second table joined to one, chat-form records as parts."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Any

from chiasm.components import did_you_mean
from chiasm.data.chat import MADE, MEDIA, chat_columns, from_messages
from chiasm.data.sources.base import Source
from chiasm.types import BadInput, RecipeError, Sample


class Together(Source):
    """The records of several sources, one after the other."""

    def __init__(self, sources: Sequence[Source]):
        self._sources = list(sources)
        self._starts = [0]
        for source in self._sources:
            self._starts.append(self._starts[-1] + len(source))

    def __len__(self) -> int:
        return self._starts[-1]

    def _at(self, index: int) -> tuple[Source, int]:
        number = bisect_right(self._starts, index) - 1
        return self._sources[number], index - self._starts[number]

    def read(self, index: int) -> Sample:
        source, inner = self._at(index)
        return source.read(inner)

    def origin(self, index: int) -> tuple[str, str, int | None]:
        source, inner = self._at(index)
        return source.origin(inner)

    def outline(self) -> tuple[Sequence[int], Sequence[int]] | None:
        lengths: list[int] = []
        groups: list[int] = []
        for source in self._sources:
            if (known := source.outline()) is None:
                return None
            first = max(groups, default=-1) + 1
            lengths += known[0]
            groups += [first + group for group in known[1]]
        return lengths, groups

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for source in self._sources for name in source.columns))

    def column(self, name: str) -> list[Any]:
        return [value for source in self._sources for value in source.column(name)]


class Rows(Source):
    """Some records of a source, in the order given."""

    def __init__(self, source: Source, rows: Sequence[int], *, notes: tuple[str, ...] = ()):
        self._source, self._rows, self.notes = source, list(rows), (*source.notes, *notes)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> Sample:
        return self._source.read(self._rows[index])

    def origin(self, index: int) -> tuple[str, str, int | None]:
        return self._source.origin(self._rows[index])

    def outline(self) -> tuple[Sequence[int], Sequence[int]] | None:
        known = self._source.outline()
        return None if known is None else ([known[0][row] for row in self._rows], [known[1][row] for row in self._rows])

    def rounds(self) -> Sequence[int] | None:
        inner, seen = self._source.rounds(), Counter[int]()
        found = []
        for row in self._rows:
            found.append(seen[row] if inner is None else inner[row])
            seen[row] += 1
        return found if any(found) else None

    @property
    def columns(self) -> list[str]:
        return list(self._source.columns)

    def column(self, name: str) -> list[Any]:
        values = self._source.column(name)
        return [values[row] for row in self._rows]


def mixed(sources: Sequence[Source], shares: Sequence[float]) -> Source:
    """Records in the proportion of `shares`: of the source that is largest for its share every one once, the others' again and again."""
    times = max(len(source) / share for source, share in zip(sources, shares, strict=True))
    rows, start = [], 0
    for source, share in zip(sources, shares, strict=True):
        rows += [start + i % len(source) for i in range(round(share * times))]
        start += len(source)
    return Rows(Together(sources), rows)


class Joined(Source):
    """A source whose records get the columns of the record with the same key in a second table; their own columns win.

    Media paths of both start from the first table's folder (or `data.root`).
    """

    def __init__(self, source: Source, table: Source, key: str):
        self._source, self._table, self._key = source, table, key
        for side in (source, table):
            if key not in side.columns:
                name = side.origin(0)[1] if len(side) else "an empty table"
                raise RecipeError(f"data.join: {name} has no column '{key}'{did_you_mean(key, side.columns)}")
        self._row: dict[str, int] = {}
        for row, value in enumerate(table.column(key)):
            if value is None:
                continue
            if str(value) in self._row:
                both = " and ".join(table.origin(r)[0] for r in (self._row[str(value)], row))
                raise RecipeError(f"data.join: {key} {value!r} occurs twice in the second table ({both}); a key must be unique there")
            self._row[str(value)] = row
        self.notes = (*source.notes, *table.notes)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, index: int) -> Sample:
        sample = self._source.read(index)
        value = sample.parts.get(self._key)
        row = None if value is None else self._row.get(str(value))
        if row is None:
            raise BadInput("no_match", f"{sample.id}: {self._key} {value!r} is not in the joined table", input=self._key)
        return dataclasses.replace(sample, parts={**self._table.read(row).parts, **sample.parts})

    def origin(self, index: int) -> tuple[str, str, int | None]:
        return self._source.origin(index)

    def rounds(self) -> Sequence[int] | None:
        return self._source.rounds()

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys([*self._source.columns, *self._table.columns]))

    def column(self, name: str) -> list[Any]:
        if name in self._source.columns or name not in self._table.columns:
            return self._source.column(name)
        values = self._table.column(name)
        rows = (None if key is None else self._row.get(str(key)) for key in self._source.column(self._key))
        return [None if row is None else values[row] for row in rows]


class Chat(Source):
    """Records with `messages`, as parts with a prompt, an answer and media (see chat.py)."""

    def __init__(self, source: Source):
        self._source, self.notes = source, source.notes

    def __len__(self) -> int:
        return len(self._source)

    def read(self, index: int) -> Sample:
        sample = self._source.read(index)
        try:
            return dataclasses.replace(sample, parts=from_messages(sample.parts))
        except BadInput as error:
            raise BadInput(error.reason, f"{sample.id}: {error}", input=error.input) from None

    def origin(self, index: int) -> tuple[str, str, int | None]:
        return self._source.origin(index)

    @property
    def columns(self) -> list[str]:
        return chat_columns(list(self._source.columns))

    def column(self, name: str) -> list[Any]:
        made = (*MADE, *MEDIA.values())
        return super().column(name) if name in made else self._source.column(name)
