"""One row of one task, and the number that is explained of it for any change to its inputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from chiasm.data.collate import Collator
from chiasm.explain.target import Target
from chiasm.types import ChiasmError, Opened

ROWS = 64  # variants in one pass


class _Absent:
    """Stands for an input that a variant does not have."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Any = _Absent()
Variant = Mapping[str, Any]  # input -> what it is instead: as `open` of its modality gives it, a text, a list of items, or ABSENT


class Subject:
    """`values` answers what the number is; `passes` counts the rows that went through the model for it."""

    def __init__(self, run: Any, target: Target, opened: Opened, *, progress: Callable[[int], None] | None = None):
        self.model, self.target, self.progress = run.model, target, progress
        self.opened = self._asked(opened)
        self.collator = Collator([target.task], run.processor, unlabelled=True, empty=True)
        self.media = run.processor.modalities
        self.at_once = min(ROWS, run.rows_at_once)
        self.passes = 0
        self._whole: float | None = None
        self._numbers = itertools.count()

    @property
    def whole(self) -> float:
        """The number for the row as it is."""
        if self._whole is None:
            self._whole = float(self._values([self.opened])[0])
        return self._whole

    @property
    def inputs(self) -> list[str]:
        """The inputs, and other texts, that the task reads and the row has."""
        parts = self.opened.sample.parts
        return [
            n
            for n in dict.fromkeys((*self.target.task.inputs, *self.target.texts))
            if (n in self.opened.values if n in self.media else parts.get(n) not in (None, ""))
        ]

    def items(self, name: str) -> list[Any]:
        """What an input holds, as it was opened: one text, picture or clip, or several."""
        if name not in self.media:
            return [str(self.opened.sample.parts[name])]
        return list(self.opened.values[name]) if isinstance(self.opened.keys[name], tuple) else [self.opened.values[name]]

    def raw(self, name: str, item: int) -> Any:
        """One of an input's items as the row gave it."""
        part: Any = self.opened.sample.parts.get(name)
        return part[item] if name in self.media and isinstance(self.opened.keys[name], tuple) else part

    def upright(self, name: str, item: int) -> np.ndarray:
        """[height, width, 3] the pixels of a picture as it is shown, EXIF orientation applied."""
        return self.media[name].upright(self.raw(name, item), root=self.opened.sample.root)

    def joined(self, name: str, items: Sequence[Any]) -> Any:
        """Items in the form in which the row has them, without those that are ABSENT; ABSENT where none is left."""
        left = [item for item in items if item is not ABSENT]
        several = name in self.media and isinstance(self.opened.keys[name], tuple)
        return ABSENT if not left else left if several else left[0]

    def values(self, variants: Sequence[Variant]) -> np.ndarray:
        """[len(variants)] the number for every variant.

        The row as it is goes along in every pass and differences are taken within one, so that what a change does not reach is exactly 0
        whatever a batch's size does to the last bits.
        """
        found = []
        step = max(1, self.at_once - 1)
        for start in range(0, len(variants), step):
            rows = [self.opened, *map(self.changed, variants[start : start + step])]
            values = self._values(rows)
            self._whole = float(values[0]) if self._whole is None else self._whole
            found.append(self._whole + (values[1:] - values[0]))
        return np.concatenate(found) if found else np.zeros(0)

    def prior(self, rows: Sequence[Opened]) -> float:
        """The number on average over other rows: of probabilities their mean, as its logarithm."""
        given = [self._asked(row) for row in rows]
        found = np.concatenate([self._values(given[i : i + self.at_once]) for i in range(0, len(given), self.at_once)])
        return float(np.logaddexp.reduce(found) - np.log(len(found)) if self.target.logarithmic else found.mean())

    def changed(self, variant: Variant) -> Opened:
        """The row with other inputs."""
        parts, values, keys = dict(self.opened.sample.parts), dict(self.opened.values), dict(self.opened.keys)
        for name, value in variant.items():
            if name not in self.media:
                parts[name] = "" if value is ABSENT else value
            elif value is ABSENT:
                parts[name] = None
                values.pop(name), keys.pop(name)
            else:
                values[name], keys[name] = value, self._keys(name, value)
                if isinstance(keys[name], tuple):
                    parts[name] = parts[name][: len(value)]  # as many places in the prompt as there are items
        sample = replace(self.opened.sample, id=f"variant {next(self._numbers)}", parts=parts)
        return replace(self.opened, sample=sample, values=values, keys=keys)

    def _asked(self, row: Opened) -> Opened:
        """A row with the columns that the target gives it."""
        return replace(row, sample=replace(row.sample, parts={**row.sample.parts, **self.target.parts}))

    def _keys(self, name: str, value: Any) -> str | tuple[str, ...]:
        """Fresh identities for what differs from the row's own, so that what does not is encoded once."""
        if not isinstance(self.opened.keys[name], tuple):
            return f"changed {next(self._numbers)}"
        own = {id(item): key for item, key in zip(self.opened.values[name], self.opened.keys[name], strict=True)}
        return tuple(own.get(id(item)) or f"changed {next(self._numbers)}" for item in value)

    @torch.no_grad()
    def _values(self, rows: Sequence[Opened]) -> np.ndarray:
        step = self.collator(rows)
        if step.bad:
            raise ChiasmError(f"{step.bad[0].input or 'input'}: {step.bad[0].message} ({step.bad[0].reason})")
        step = step.to(self.model.device)
        values = self.target.values(self.model, step.batches[0], self.model.encode(step.pool)).double().cpu().numpy()
        if not np.isfinite(values).all():
            raise ChiasmError(f"task {self.target.task.name}: {self.target.quantity} is NaN or infinite, so there is nothing to explain")
        self.passes += len(rows)
        if self.progress is not None:
            self.progress(len(rows))
        return values
