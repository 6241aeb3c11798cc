"""Anything that a run's contrast tasks compare -> unit vectors of one space.

A contrast task has two sides, such as image and caption. Tasks with `project: false` compare in the backbone's own embedding space, so
that all of them share one: a run that learned image-text and audio-text there finds sounds by pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from chiasm.components import did_you_mean
from chiasm.data.collate import Collator
from chiasm.notes import Note, known_notes, text_notes
from chiasm.run import Run
from chiasm.types import BadSample, ChiasmError, Opened

TEXTS = ("text", "tokens")


def embed(run: Run, rows: Iterable[Mapping[str, Any]], task: str | None = None) -> np.ndarray:
    """Vectors float32 [R, d] of length 1, one per row; a row holds one thing: `{"image": "cat.png"}`, `{"text": "a cat"}`.

    Keys are a side of the task, a modality, or an input's columns; media are paths, bytes, arrays or PIL images. `task`: which contrast
    task, the run's first where not given. Raises ChiasmError for the first row that cannot be used.
    """
    return Space(run, task).embed(rows)


class Space:
    """What one run can compare. `sides`: name -> modality (text, image, audio, video, table, features)."""

    def __init__(self, run: Run, task: str | None = None):
        towers = {name: found for name, found in run.tasks.items() if found.view == "towers"}
        if not towers:
            raise ChiasmError(f"{run.folder}: no task of this run compares things (type: contrast), which index, search and classify need")
        if task is not None and task not in towers:
            raise ChiasmError(f"this run has no contrast task '{task}'{did_you_mean(task, towers)}")
        first = towers[task] if task is not None else next(iter(towers.values()))
        alike = [t for t in towers.values() if not (t.options.project or first.options.project) and t.options.text == first.options.text]
        self.run, self.tasks = run, list(dict.fromkeys([first, *alike]))
        self.owners = {side: owner for owner in reversed(self.tasks) for side in owner.sides}
        self.sides = {side: kind(owner.declared.get(side, "text")) for owner in self.tasks for side in owner.sides}

    @property
    def task(self) -> str:
        return self.tasks[0].name

    def side_of(self, key: str) -> str:
        """The side that a key of a row means: its name, or the first of that modality."""
        if key in self.sides:
            return key
        return next((side for side, modality in self.sides.items() if modality == key), key)

    def embed(self, rows: Iterable[Mapping[str, Any]]) -> np.ndarray:
        """`embed`, of this space."""
        opened = self.run.open([{self.side_of(key): value for key, value in row.items() if value is not None} for row in rows])
        size = self.run.rows_at_once
        parts = [self._each(opened[start : start + size]) for start in range(0, len(opened), size)]
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)

    def _each(self, opened: Sequence[Opened]) -> np.ndarray:
        found, bad = self.vectors(opened)
        if bad:
            raise ChiasmError(f"{bad[0].input or 'input'}: {bad[0].message} ({bad[0].reason})")
        places = [place for rows, _ in found.values() for place in rows]
        if sorted(places) != list(range(len(opened))):
            raise ChiasmError(f"a row is one thing to find by, or to be found: one of {', '.join(self.sides)}")
        return np.concatenate([vectors for _, vectors in found.values()])[np.argsort(places)]

    def notes(self, row: Mapping[str, Any]) -> list[Note]:
        """Which words of a row's text the model does not know."""
        return [note for key, value in row.items() for note in text_notes(self.run, self.side_of(key), value)]

    def known(self, key: str, texts: Iterable[Any], where: str) -> list[Note]:
        """`notes` of texts to go by; BadInput for those of which it knows no word."""
        return known_notes(self.run, self.side_of(key), texts, where)

    def vectors(self, opened: Sequence[Opened | BadSample]) -> tuple[dict[str, tuple[list[int], np.ndarray]], list[BadSample]]:
        """({side: (places of the rows that have it, their vectors float32 [n, d])}, rows that cannot be used)."""
        step = Collator(self.tasks, self.run.processor, unlabelled=True, empty=True)(opened)
        places = {row.sample.id: place for place, row in enumerate(opened) if isinstance(row, Opened)}
        found: dict[str, tuple[list[int], np.ndarray]] = {}
        step = step.to(self.run.model.device)
        with torch.no_grad():
            streams = self.run.model.encode(step.pool)
            for batch in step.batches:
                task = self.run.tasks[batch.task]
                for side in (side for side in task.sides if self.owners[side] is task):
                    rows = [row for row, there in enumerate(task.has(batch, side)) if there]
                    if rows:
                        units, index = task.side(self.run.model, batch, streams, side)
                        found[side] = [places[batch.ids[row]] for row in rows], units[index[rows]].float().cpu().numpy()
        used = {place for rows, _ in found.values() for place in rows} | {places[bad.id] for bad in step.bad if bad.id in places}
        return found, step.bad + [self._nothing(row) for place, row in enumerate(opened) if isinstance(row, Opened) and place not in used]

    def _nothing(self, row: Opened) -> BadSample:
        message = f"{row.sample.id}: has none of {', '.join(self.sides)}"
        return BadSample(row.sample.id, row.sample.file, row.sample.line, "", "all_missing", message)


def kind(modality: str) -> str:
    """What a person calls it: a text with an encoder of its own is a text too."""
    return "text" if modality in TEXTS else modality
