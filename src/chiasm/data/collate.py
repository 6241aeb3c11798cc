"""Opened rows -> what one step gets: the pool of distinct pictures and clips, one batch per task, and what was refused.

A control hides or exchanges one input, to measure what it is worth: ("image", "missing"), ("image", "shuffled"). Shuffled, every row gets
another unit than its own (another text, for a text input); where a batch has only one, its rows keep it and a note counts them.
`gathered` and `exchanged` do the same for any combination of inputs, with a pool that is made (and so encoded) only once.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from chiasm.components import did_you_mean
from chiasm.data.randomness import generator, key_of
from chiasm.types import BadInput, BadSample, Batch, Film, Occasion, Opened, RecipeError, Sample, Shown, StepBatches

Control = tuple[str, str]  # (input, "shuffled" | "missing")
CONTROLS = ("shuffled", "missing")
USED, FILTERED, QUARANTINED = "used", "filtered", "quarantined"


@dataclass(slots=True)
class _Row:
    opened: Opened
    tasks: list[int]  # numbers of the tasks that want it
    units: dict[str, tuple[int, ...]] = field(default_factory=dict)  # input -> its units of the pool
    changed: dict[str, Any] = field(default_factory=dict)  # input -> the part that a control puts in place of its own
    hidden: dict[int, list[str]] = field(default_factory=dict)  # task number -> inputs that modality dropout takes from it
    shown: Mapping[str, list[Any]] = field(default_factory=dict)  # input that the backbone reads itself -> its units, decoded

    def part(self, name: str) -> Any:
        return self.opened.sample.parts.get(name)


@dataclass(slots=True)
class Gathered:
    """Usable rows with the pool of all their units; `Collator.exchanged` makes batches of them. `ids` are theirs, in order."""

    pool: dict[str, dict[str, Tensor]]
    rows: list[_Row]
    bad: list[BadSample]

    @property
    def ids(self) -> list[str]:
        return [row.opened.sample.id for row in self.rows]


class Collator:
    """`tasks` and `processor` as the model has them; `modality_dropout`: how often an input is hidden, for all media or {input: p}.

    Dropout hides whole inputs of a row from the tasks that fuse them, never the last one that a task has of it unless its p is 1.
    `unlabelled` keeps rows without a target too (to predict them); else a row that no task wants is filtered. `empty` keeps rows that have
    none of the inputs; else they are refused.
    """

    def __init__(
        self,
        tasks: Sequence[Any],
        processor: Any,
        *,
        modality_dropout: float | Mapping[str, float] = 0.0,
        unlabelled: bool = False,
        empty: bool = False,
    ):
        self.tasks, self.processor, self.unlabelled, self.empty = list(tasks), processor, unlabelled, empty
        self.reads: tuple[str, ...] = getattr(processor, "reads", ())  # inputs that the backbone takes in itself
        self.longest: int | None = getattr(processor, "longest", None)  # tokens that the model has positions for
        self.media = [name for name in processor.modalities if any(name in task.inputs for task in self.tasks)]
        self.inputs = list(dict.fromkeys([*self.media, *(name for task in self.tasks for name in task.inputs)]))
        same = not isinstance(modality_dropout, Mapping)
        self.dropout = {name: float(modality_dropout) for name in self.media} if same else dict(modality_dropout)

    def __call__(
        self,
        rows: Sequence[Opened | BadSample],
        control: Control | None = None,
        *,
        seed: int = 0,
        epoch: int = 0,
        dropout: bool = False,
    ) -> StepBatches:
        """`dropout`: whether modality dropout is on (training); its draws, and those of tasks, are then f(seed, epoch, sample id)."""
        kept, bad, outcomes = self._sort(rows)
        notes = Counter(note for row in kept for note in row.opened.notes)
        pool = self._pool(kept)
        if control is not None:
            self._apply(control, kept, notes)
        if dropout and any(self.dropout.values()):
            for row in kept:
                row.hidden = self._hide(row, seed, epoch)
                notes.update({f"{name}: hidden by modality dropout" for hides in row.hidden.values() for name in hides})
        key = (seed, epoch) if dropout else None
        batches = self._batches(kept, key)
        if long := self._too_long(batches):
            return self(_replaced(rows, long), control, seed=seed, epoch=epoch, dropout=dropout)
        return StepBatches(pool, batches, bad, len(rows), outcomes.count(FILTERED), dict(notes), outcomes=outcomes)

    def gathered(self, rows: Sequence[Opened | BadSample]) -> Gathered:
        """The usable rows and their pool, for `exchanged`."""
        kept, bad, _ = self._sort(rows)
        found = Gathered(self._pool(kept), kept, bad)
        long = self._too_long(self._batches(kept))
        return self.gathered(_replaced(rows, long)) if long else found

    def exchanged(self, gathered: Gathered, asked: Sequence[int], sources: Mapping[str, Sequence[int | None]]) -> StepBatches:
        """Batches of the rows `asked` (their places in `gathered`, repeats allowed), each with inputs of other rows.

        sources: input -> for each row asked, the place of the row whose part it gets, None for no part at all; an input that is not
        named stays each row's own. Targets stay the row's own.
        """
        for name in sources:
            if name not in self.inputs:
                raise RecipeError(f"control: no task reads an input '{name}'{did_you_mean(name, self.inputs)}")
        rows = []
        for number, place in enumerate(asked):
            own = gathered.rows[place]
            row = _Row(own.opened, own.tasks, dict(own.units), shown=own.shown)
            for name, taken in sources.items():
                source = None if (other := taken[number]) is None else gathered.rows[other]
                row.units[name] = () if source is None else source.units.get(name, ())
                row.changed[name] = self._nothing(name) if source is None else source.part(name)
            rows.append(row)
        return StepBatches(gathered.pool, self._batches(rows), gathered.bad, len(rows))

    def _sort(self, rows: Sequence[Opened | BadSample]) -> tuple[list[_Row], list[BadSample], list[str]]:
        """Rows that are used, samples that are refused, and what became of every row."""
        kept: list[_Row] = []
        bad: list[BadSample] = []
        outcomes: list[str] = []
        for row in rows:
            found = row if isinstance(row, BadSample) else self._judge(row)
            if isinstance(found, BadSample):
                bad.append(found)
            elif found.tasks:
                kept.append(found)
            outcomes.append(QUARANTINED if isinstance(found, BadSample) else USED if found.tasks else FILTERED)
        return kept, bad, outcomes

    def _judge(self, opened: Opened) -> _Row | BadSample:
        sample = opened.sample
        try:
            wanted = [number for number, task in enumerate(self.tasks) if task.wants(sample)]
            taken = list(range(len(self.tasks))) if self.unlabelled else wanted
            needs_input = self.inputs and all(self.tasks[number].inputs for number in taken)
            texts = {text for number in wanted for text in self.tasks[number].texts}  # a column of its own that a task reads is enough
            has_input = any(self._present(opened, name) for name in self.inputs) or any(sample.parts.get(text) for text in texts)
            if not self.empty and needs_input and not has_input:
                raise BadInput("all_missing", f"{sample.id}: has none of the inputs {', '.join(self.inputs)}; give one of them")
            for number in taken:
                self.tasks[number].check_prompt(sample)
            for number in wanted:
                self.tasks[number].check(sample)
        except BadInput as error:
            return BadSample(sample.id, sample.file, sample.line, error.input, error.reason, str(error))
        return _Row(opened, taken)

    def _present(self, opened: Opened, name: str) -> bool:
        return name in opened.values if name in self.processor.modalities else opened.sample.parts.get(name) is not None

    def _pool(self, kept: list[_Row]) -> dict[str, dict[str, Tensor]]:
        """The distinct units of every input that some row has; fills each row's `units`. What the backbone reads itself stays decoded."""
        pool: dict[str, dict[str, Tensor]] = {}
        shown: dict[str, list[Any]] = {}
        for name in self.media:
            values: list[Any] = []
            numbers: dict[str, int] = {}
            for row in kept:
                items = _items(row.opened, name)
                for key, value in items:
                    if key not in numbers:
                        numbers[key] = len(values)
                        values.append(value)
                row.units[name] = tuple(numbers[key] for key, _ in items)
            if name in self.reads:
                shown[name] = values
            elif values:
                pool[name] = self.processor.modalities[name].collate(values)
        for row in kept:
            row.shown = shown
        return pool

    def _batches(self, kept: list[_Row], key: tuple[int, int] | None = None) -> list[Batch]:
        return [batch for number in range(len(self.tasks)) if (batch := self._batch(number, kept, key))]

    def _too_long(self, batches: Sequence[Batch]) -> dict[str, BadSample]:
        """By its id, every row whose text the model has no positions for: cut short it would lose its end, or its pictures."""
        if self.longest is None:
            return {}
        found: dict[str, BadSample] = {}
        tasks = {task.name: task for task in self.tasks}
        for batch in batches:
            task = tasks[batch.task]
            most = self.longest - (self.unlabelled and task.writes)  # what is written needs a place
            for sample, tokens in zip(batch.samples, task.lengths(batch, prompts=self.unlabelled), strict=True):
                if tokens > most:
                    texts = {name: len(text) for name in task.columns if isinstance(text := sample.parts.get(name), str)}
                    column = max(texts, key=texts.__getitem__, default="")
                    message = f"{tokens} tokens are longer than the {most} that the model has positions for (max_length)"
                    message += "; shorten the text or give fewer pictures: nothing is cut off"
                    found[sample.id] = BadSample(sample.id, sample.file, sample.line, column, "too_long", message)
        return found

    def _batch(self, number: int, kept: list[_Row], key: tuple[int, int] | None = None) -> Batch | None:
        task = self.tasks[number]
        rows = [row for row in kept if number in row.tasks]
        if not rows:
            return None
        hidden = [row.hidden.get(number, []) for row in rows]
        samples = [self._sample(row, task, hides) for row, hides in zip(rows, hidden, strict=True)]
        units = {
            name: [() if name in hides else row.units[name] for row, hides in zip(rows, hidden, strict=True)]
            for name in self.media
            if name in task.inputs
        }
        drawn = {"occasion": Occasion(units, key, scored=not self.unlabelled)} if getattr(task, "draws", False) else {}
        read = task.order([name for name in self.reads if name in units]) if self.reads else []
        samples, tensors = self._shown(rows, samples, {name: units[name] for name in read})
        inputs, targets = task.collate(samples, self.processor, **drawn)
        inputs |= tensors | {f"{name}_index": _index(of_rows) for name, of_rows in units.items() if name not in read}
        if not getattr(task, "additive", True):
            keys = targets.setdefault("keys", {})
            for name in units:
                keys[name] = torch.tensor([key_of(first[0][0]) if (first := _items(row.opened, name)) else -1 for row in rows])
        return Batch(task.name, [s.id for s in samples], inputs, targets, [_light(s) for s in samples])

    def _shown(
        self, rows: Sequence[_Row], samples: list[Sample], units: Mapping[str, list[tuple[int, ...]]]
    ) -> tuple[list[Sample], dict[str, Tensor]]:
        """(samples, the model's arguments) for inputs that the backbone reads itself; a sample holds what its prompt says for each."""
        if not units:
            return samples, {}
        pictures = [[row.shown[name][unit] for name, own in units.items() for unit in own[number]] for number, row in enumerate(rows)]
        tensors, texts = self.processor.reader.see(pictures)
        made = []
        for number, (sample, found) in enumerate(zip(samples, map(iter, texts), strict=True)):
            parts = {name: Shown(next(found) for _ in own[number]) for name, own in units.items()}
            made.append(dataclasses.replace(sample, parts={**sample.parts, **parts}))
        return made, tensors

    def _sample(self, row: _Row, task: Any, hides: Sequence[str]) -> Sample:
        """The record as the task is to see it: with what a control put in, without what is hidden."""
        changed = {name: part for name, part in row.changed.items() if name in task.inputs}
        changed |= {name: self._nothing(name) for name in hides}
        return dataclasses.replace(row.opened.sample, parts={**row.opened.sample.parts, **changed}) if changed else row.opened.sample

    def _nothing(self, name: str) -> str | None:
        return None if name in self.processor.modalities else ""

    def _hide(self, row: _Row, seed: int, epoch: int) -> dict[int, list[str]]:
        """What modality dropout takes from each of the row's tasks; one draw per input, the same for all of them."""
        present = [n for n in self.inputs if self._present(row.opened, n) and (n in self.processor.modalities or row.part(n) != "")]
        draws = generator(seed, epoch, row.opened.sample.id, "modality dropout")
        drawn = {name for name, chance in zip(present, draws.random(len(present)), strict=True) if chance < self.dropout.get(name, 0.0)}
        which = draws.random()  # of those that could be spared
        hidden = {}
        for number in row.tasks:
            task = self.tasks[number]
            if getattr(task, "view", "fused") == "fused":
                has = [name for name in present if name in task.inputs]
                hides = [name for name in has if name in drawn]
                spared = [name for name in hides if self.dropout[name] < 1]
                if len(hides) == len(has) and spared:
                    hides.remove(spared[int(which * len(spared))])
                hidden[number] = hides
        return hidden

    def _apply(self, control: Control, kept: list[_Row], notes: Counter[str]) -> None:
        name, kind = control
        if name not in self.inputs:
            raise RecipeError(f"control: no task reads an input '{name}'{did_you_mean(name, self.inputs)}")
        if kind not in CONTROLS:
            raise RecipeError(f"control: unknown kind '{kind}'{did_you_mean(kind, CONTROLS)}")
        if kind == "missing":
            for row in kept:
                row.units[name], row.changed[name] = (), self._nothing(name)
            return
        having = [row for row in kept if self._present(row.opened, name)]
        own = [row.units[name] if name in self.media else row.part(name) for row in having]
        sources = exchange(own, generator("shuffled", *(row.opened.sample.id for row in having)))
        if sources is None:
            notes[f"{name}: not shuffled, the only one of its batch"] += len(having)
            return
        taken = [(having[source].units.get(name, ()), having[source].part(name)) for source in sources]
        for row, (units, part) in zip(having, taken, strict=True):
            row.units[name], row.changed[name] = units, part


def exchange(own: Sequence[Hashable], draws: Generator) -> list[int] | None:
    """For every position one that holds another value, equal values taking the same one; None where all are equal."""
    first = {value: position for position, value in reversed(list(enumerate(own)))}
    distinct = list(first)
    if len(distinct) < 2:
        return None
    order = draws.permutation(len(distinct))
    following = {distinct[a]: distinct[b] for a, b in zip(order, np.roll(order, -1), strict=True)}  # one cycle: nothing maps to itself
    return [first[following[value]] for value in own]


def _replaced(rows: Sequence[Opened | BadSample], refused: Mapping[str, BadSample]) -> list[Opened | BadSample]:
    """The rows with those refused by their id."""
    return [row if isinstance(row, BadSample) else refused.get(row.sample.id, row) for row in rows]


def _items(opened: Opened, name: str) -> list[tuple[str, Any]]:
    """(identity, value) of each picture or clip that a row has."""
    if name not in opened.values:
        return []
    key, value = opened.keys[name], opened.values[name]
    return list(zip(key, value, strict=True)) if isinstance(key, tuple) else [(key, value)]


def _index(units: list[tuple[int, ...]]) -> Tensor:
    """[R, K] units of every row, -1 where it has fewer."""
    width = max([1, *(len(row) for row in units)])
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in units], dtype=torch.long)


def _light(sample: Sample) -> Sample:
    """Without encoded media and arrays, which would only be copied between processes; paths stay."""
    return dataclasses.replace(sample, parts={name: part for name, part in sample.parts.items() if not _is_heavy(part)})


def _is_heavy(part: Any) -> bool:
    return isinstance(part, (bytes, bytearray, np.ndarray, Film)) or (isinstance(part, list) and any(_is_heavy(item) for item in part))
