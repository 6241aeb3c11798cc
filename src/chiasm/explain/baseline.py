"""What stands for an input, or a part of it, that is taken away. Every one has a name, which is printed: another one gives other shares."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

from chiasm.data.randomness import some_of
from chiasm.explain.subject import ABSENT, Subject
from chiasm.media.table import Row
from chiasm.types import BadSample, ChiasmError, Film, Opened, Sound

ROWS = 32  # data rows that a mean is taken over
FILLS = {
    "left_out": "left out",
    "silence": "silence",
    "gaps": "gaps",
    "zeros": "zeros",
    "picture_colour": "the picture's mean colour",
    "video_colour": "the video's mean colour",
    "mean_picture": "the mean of {rows} pictures of the data",
    "mean_row": "the mean of {rows} rows of the data",
    "mean_trained": "the mean of the training data",
}

_rows: weakref.WeakKeyDictionary[Any, list[Opened]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Fill:
    """What a part becomes that is taken away: `code` (of FILLS) for a program, `str` for a person; `rows`: that a mean is taken over."""

    code: str
    rows: int = 0

    def __str__(self) -> str:
        return FILLS[self.code].format(rows=self.rows)


LEFT_OUT = Fill("left_out")


@dataclass(frozen=True, slots=True)
class Baseline:
    """`absent`: in place of the whole input, called `name`; `fills`: in place of parts of each of its items, called `fill`."""

    absent: Any
    name: str
    fills: tuple[Any, ...] = ()
    fill: Fill = LEFT_OUT
    learned: bool = False  # a state that training taught, though never that of all inputs at once


def baselines(run: Any, subject: Subject) -> dict[str, Baseline]:
    """Input -> its baseline: the state that modality dropout taught the model, else the mean of data rows or something like it."""
    found = {}
    for name in subject.inputs:
        if name not in subject.media:
            found[name] = Baseline(ABSENT, str(LEFT_OUT))
            continue
        kind = run.recipe.inputs[name].modality
        made = [_fill(run, name, kind, item) for item in subject.items(name)]
        fills, fill = tuple(made_of for made_of, _ in made), made[0][1]
        rate = _dropout(run, name) if subject.target.task.view == "fused" else 0.0
        if rate:
            found[name] = Baseline(ABSENT, f"missing, as in modality dropout ({rate:g})", fills, fill, learned=True)
        elif name in run.processor.reads or kind == "tokens":
            found[name] = Baseline(ABSENT, str(LEFT_OUT), fills, fill)
        else:
            found[name] = Baseline(subject.joined(name, fills), str(fill), fills, fill)
    return found


def _dropout(run: Any, name: str) -> float:
    rate = run.recipe.train.modality_dropout
    return float(rate.get(name, 0.0) if isinstance(rate, dict) else rate)


def _fill(run: Any, name: str, kind: str, item: Any) -> tuple[Any, Fill]:
    """(an item of the same shape with nothing in it, what it is)."""
    if isinstance(item, Sound):
        return Sound(np.zeros_like(item.samples), item.rate), Fill("silence")
    if isinstance(item, Film):
        colour = item.frames.reshape(-1, 3).mean(0)
        return Film(np.broadcast_to(np.rint(colour).astype(np.uint8), item.frames.shape).copy(), item.times), Fill("video_colour")
    if isinstance(item, Row):
        return Row(tuple(np.nan for _ in item.numbers), tuple(None for _ in item.categories)), Fill("gaps")
    if kind == "tokens":
        return ABSENT, LEFT_OUT
    if kind == "image":
        same = [value for value in _data(run, name) if value.shape == item.shape]
        if same:
            return np.rint(np.mean(same, axis=0)).astype(np.uint8), Fill("mean_picture", len(same))
        colour = np.rint(item.reshape(-1, 3).mean(0)).astype(np.uint8)
        return np.broadcast_to(colour, item.shape).copy(), Fill("picture_colour")
    vectors = [value for value in _data(run, name) if value.shape[1] == item.shape[1]]
    mean = np.concatenate(vectors).mean(0) if vectors else getattr(run.processor.modalities[name], "means", np.zeros(0))
    mean = mean if len(mean) else np.zeros(item.shape[1])
    fill = Fill("mean_row", len(vectors)) if vectors else Fill("mean_trained" if mean.any() else "zeros")
    return np.broadcast_to(mean.astype(np.float32), item.shape).copy(), fill


def _data(run: Any, name: str) -> list[Any]:
    """An input's decoded items in those rows."""
    found = [row.values[name] for row in data_rows(run) if name in row.values]
    return [item for value in found for item in (value if isinstance(value, list) else [value])]


def data_rows(run: Any) -> list[Opened]:
    """A few rows of the run's own data, opened; none where that is not on this machine."""
    if run not in _rows:
        _rows[run] = _opened(run)
    return _rows[run]


def _opened(run: Any) -> list[Opened]:
    for split in ("train", *run.test_splits()):
        try:
            data = run.split(split)
        except (ChiasmError, OSError):
            continue  # its files are elsewhere
        rows = data.open_rows(some_of(len(data), ROWS))
        return [row for row in rows if not isinstance(row, BadSample)]
    return []
