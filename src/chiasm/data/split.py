"""A split: a source's records, opened. Bad data never raises here; it comes back as a BadSample with a reason code.

- Every input's raw value stands in the record's parts under the input's name, whatever column it was read from; texts are cleaned.
- A picture or clip that several rows share (equal identity) is decoded once per call of `open_rows` and augmented alike, so that the
  rows can share its tokens: draws are f(seed, epoch, input, path or identity), or f(seed, epoch, input, sample id) where it has neither.
- A list of pictures is several items of one input: `values[input]` is then a list, and `keys[input]` a tuple.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from chiasm.data.randomness import generator, some_of
from chiasm.data.sources.base import Source
from chiasm.media.base import Modality
from chiasm.types import BadInput, BadSample, Drawn, Film, Opened, Sample, Sound

SAMPLED = (str, bytes, os.PathLike, np.ndarray, Drawn, Sound, Film)  # what one item of a list of pictures or clips may be


@dataclass(frozen=True, slots=True)
class Outline:
    """What an order needs to know of every row, without decoding anything."""

    lengths: np.ndarray  # [rows] characters of text
    groups: np.ndarray  # [rows] equal numbers share a picture or clip


class Split:
    """A source with the inputs that are read from it.

    `modalities`: the non-text inputs; `text_inputs`: input name -> its text modality; `text_columns`: further columns that tasks read
    as text (targets), whose length counts, nothing else. `root` overrides the folder that media paths start from. `gather` puts what a
    row holds elsewhere (a picture in a record of a list) under its input's column first.
    """

    def __init__(
        self,
        source: Source,
        modalities: Mapping[str, Modality],
        *,
        text_inputs: Mapping[str, Modality] | None = None,
        text_columns: Iterable[str] = (),
        root: str | None = None,
        gather: Callable[[Sample], Sample] | None = None,
    ):
        self.source, self.root, self.gather = source, root, gather
        self.modalities = dict(modalities)
        self.text_inputs = dict(text_inputs or {})
        self.text_columns = tuple(c for c in text_columns if c not in self.text_inputs and c not in self.modalities)
        self._outline: Outline | None = None

    def __len__(self) -> int:
        return len(self.source)

    def open(self, index: int, *, seed: int = 0, epoch: int = 0, augment: bool = False) -> Opened | BadSample:
        return self.open_rows([index], seed=seed, epoch=epoch, augment=augment)[0]

    def open_rows(self, indices: Iterable[int], *, seed: int = 0, epoch: int = 0, augment: bool = False) -> list[Opened | BadSample]:
        """The rows at `indices`; what they share is decoded once."""
        opening = _Opening(self, seed, epoch, augment)
        return [opening.row(index) for index in indices]

    def read(self, index: int) -> Sample:
        """The record with its inputs under their names and nothing decoded. Raises BadInput."""
        return self.prepared(self.source.read(index))[0]

    def bad(self, index: int, error: BadInput) -> BadSample:
        name, file, line = self.source.origin(index)
        return BadSample(id=name, file=file, line=line, input=error.input, reason=error.reason, message=str(error), item=error.item)

    def outline(self) -> Outline:
        """Lengths and shared pictures of all rows; every record is read once, on the first call."""
        if self._outline is None:
            self._outline = _outline(self)
            if (rounds := self.source.rounds()) is not None:  # a record that is read again goes elsewhere, not twice into one batch
                groups = self._outline.groups
                self._outline = Outline(self._outline.lengths, groups + np.asarray(rounds) * (int(groups.max()) + 1))
        return self._outline

    def prepared(self, sample: Sample) -> tuple[Sample, list[str]]:
        """The record with every input's raw value under the input's name, texts cleaned; and notes. Raises BadInput."""
        sample = sample if self.gather is None else self.gather(sample)
        parts, notes = dict(sample.parts), []
        for name, modality in self.modalities.items():
            parts[name] = modality.raw(sample.parts, name)
        for name, modality in self.text_inputs.items():
            with _naming(name):
                raw = modality.raw(sample.parts, name)
                parts[name], found = (None, ()) if raw is None else modality.open(raw)
            notes += [f"{name}: {note}" for note in found]
        return dataclasses.replace(sample, parts=parts, root=self.root or sample.root), notes


class _Opening:
    """Opens the rows of one batch."""

    def __init__(self, split: Split, seed: int, epoch: int, augment: bool):
        self.split, self.seed, self.epoch, self.augment = split, seed, epoch, augment
        self.opened: dict[tuple[str, str], tuple[Any, tuple[str, ...]] | BadInput] = {}

    def row(self, index: int) -> Opened | BadSample:
        try:
            sample, notes = self.split.prepared(self.split.source.read(index))
            values: dict[str, Any] = {}
            keys: dict[str, str | tuple[str, ...]] = {}
            for name, modality in self.split.modalities.items():
                with _naming(name):
                    raw = sample.parts[name]
                    several = items_of(raw)
                    if raw is None or several == []:
                        continue
                    made = [self.item(name, modality, item, sample, number, several) for number, item in enumerate(several or [raw])]
                values[name] = [value for _, value, _ in made] if several else made[0][1]
                keys[name] = tuple(key for key, _, _ in made) if several else made[0][0]
                notes += [f"{name}: {note}" for _, _, found in made for note in found]
            return Opened(sample=sample, values=values, keys=keys, notes=tuple(notes))
        except BadInput as error:
            return self.split.bad(index, error)

    def item(
        self, name: str, modality: Modality, raw: Any, sample: Sample, number: int, several: list[Any] | None
    ) -> tuple[str, Any, tuple[str, ...]]:
        """(identity, value, notes) of one of a row's pictures or clips; BadInput says which one where there are several."""
        identity = modality.identity(raw, root=sample.root)
        key = identity if identity is not None else f"{sample.id}#{number}"
        if (name, key) not in self.opened:
            self.opened[name, key] = self._open(name, modality, raw, sample.root, key)
        found = self.opened[name, key]
        if isinstance(found, BadInput):
            which = f"item {number + 1} of {len(several)}: " if several else ""
            raise BadInput(found.reason, f"{which}{found}", input=found.input, item=number if several else None)
        return key, *found

    def _open(self, name: str, modality: Modality, raw: Any, root: str | None, key: str) -> tuple[Any, tuple[str, ...]] | BadInput:
        try:
            if self.augment and type(modality).augment is not Modality.augment:  # a generator costs more than to open a vector
                stable = os.fspath(raw) if isinstance(raw, (str, os.PathLike)) else key  # a file's key has its time of change in it
                return modality.open_varied(raw, generator(self.seed, self.epoch, name, stable), root=root)
            return modality.open(raw, root=root)
        except BadInput as error:
            return error


@contextmanager
def _naming(name: str) -> Generator[None]:
    """A BadInput from inside that names no input gets this one."""
    try:
        yield
    except BadInput as error:
        error.input = error.input or name
        raise


def items_of(raw: Any) -> list[Any] | None:
    """The items of a list of pictures or clips; None where `raw` is one thing (a list of numbers is one vector)."""
    if not isinstance(raw, (list, tuple)):
        return None
    items = [item for item in raw if item is not None]
    if len(items) < len(raw):
        raise BadInput("bad_type", f"item {next(i for i, item in enumerate(raw) if item is None) + 1} of the list is null")
    if items and not all(isinstance(item, SAMPLED) or (isinstance(item, Mapping) and item.keys() <= {"bytes", "path"}) for item in items):
        return None
    return items


def fit_modalities(split: Split, modalities: Mapping[str, Modality], *, limit: int = 100_000) -> None:
    """Let every modality that learns from training values (a table's means, ...) learn from at most `limit` rows."""
    learners = {name: m for name, m in modalities.items() if type(m).fit is not Modality.fit}
    if not learners:
        return
    raws: dict[str, list[Any]] = {name: [] for name in learners}
    for index in some_of(len(split), limit):
        try:
            sample = split.read(index)
        except BadInput:
            continue
        for name, modality in learners.items():
            if (raw := sample.parts[name] if name in split.modalities else modality.raw(sample.parts, name)) is not None:
                raws[name].append(raw)
    for name, modality in learners.items():
        modality.fit(raws[name])


def _outline(split: Split) -> Outline:
    if (known := split.source.outline()) is not None:
        return Outline(*(np.asarray(column, dtype=np.int64) for column in known))
    lengths = np.zeros(len(split), dtype=np.int64)
    keys: dict[str, list[str | None]] = {name: [] for name in split.modalities}
    columns = [*split.text_inputs, *split.text_columns]
    for index in range(len(split)):
        try:
            sample = split.read(index)
        except BadInput:
            sample = None
        for name in keys:
            keys[name].append(_identity(split.modalities[name], name, sample))
        if sample is not None:
            lengths[index] = sum(len(v) for column in columns if isinstance(v := sample.parts.get(column), str))
    return Outline(lengths, _groups(list(keys.values()), len(split)))


def _identity(modality: Modality, name: str, sample: Sample | None) -> str | None:
    if sample is None:
        return None
    try:
        items = items_of(sample.parts[name])
        first = sample.parts[name] if items is None else (items or [None])[0]
        return None if first is None else modality.identity(first, root=sample.root)
    except BadInput:
        return None


def _groups(keys: list[list[str | None]], rows: int) -> np.ndarray:
    """Numbers of groups by the input that is shared most; a row without one is a group of its own."""
    shared = max(
        keys, key=lambda column: sum(k is not None for k in column) - len({k for k in column if k is not None}), default=[None] * rows
    )
    numbers: dict[str, int] = {}
    return np.array([index if key is None else numbers.setdefault(key, index) for index, key in enumerate(shared)], dtype=np.int64)
