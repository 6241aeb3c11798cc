"""What is measured of one model on the test items: answers, controls, curves, coalitions, the additive projection, and its latency.

Everything goes through one question to an `Answerer`: what does it say of these rows, if this input of each came from that other row, or
were not there? So a network, an ensemble's member and trees are measured alike, on the same rows with the same exchanges.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from chiasm.compare.additive import additive, items_for
from chiasm.compare.items import CHUNK, FRACTIONS, Items, coalitions, missing, only, open_items, shuffled
from chiasm.compare.result import Cell
from chiasm.components import find
from chiasm.data.collate import Collator
from chiasm.data.randomness import some_of
from chiasm.evaluation.scoring import is_finite
from chiasm.metrics.base import Metric
from chiasm.types import BadSample, ChiasmError, Opened, Prediction

BATCH = 256  # rows of one pass
LATENCY_ROWS = 50
WARM_UP = 5
VALIDATION_ROWS = 5_000  # rows that a choice between models is made on, at most
NUMBER = "value"  # a number stands under this key where others have label -> probability

Belief = dict[str, float]  # label -> probability, or {"value": number}
Places = Sequence[int]
Exchange = Mapping[str, Sequence[int | None]]


class Block(Protocol):
    """Usable rows that are encoded once and may then be asked about many times."""

    def __len__(self) -> int: ...

    def answer(self, asked: Places, sources: Exchange) -> list[Prediction]: ...


class Answerer(Protocol):
    """Something that answers the task. `inputs`: what it looks at."""

    inputs: list[str]

    def block(self, opened: Sequence[Opened]) -> Block: ...


@dataclass(slots=True)
class Measured:
    """A Cell, and what ensembles of it need: the probabilities under every control, and the targets."""

    cell: Cell
    targets: list[Any]
    beliefs: dict[str, list[Belief]] = field(default_factory=dict)


class Network:
    """A trained model as an Answerer."""

    def __init__(self, model: Any, processor: Any, task: Any):
        self.model, self.task = model.eval(), task
        self.collator = Collator([task], processor, unlabelled=True, empty=True)
        self.inputs = [name for name in task.declared if name in task.reads]

    def block(self, opened: Sequence[Opened]) -> NetworkBlock:
        return NetworkBlock(self, opened)


class NetworkBlock:
    """Rows whose pictures and clips are encoded once."""

    def __init__(self, network: Network, opened: Sequence[Opened]):
        self.network = network
        self.gathered = network.collator.gathered(opened)
        with torch.no_grad():
            self.streams = network.model.encode(network.collator.exchanged(self.gathered, [], {}).to(network.model.device).pool)

    def __len__(self) -> int:
        return len(self.gathered.rows)

    def answer(self, asked: Places, sources: Exchange) -> list[Prediction]:
        network, found = self.network, []
        for start in range(0, len(asked), BATCH):
            chunk = {name: taken[start : start + BATCH] for name, taken in sources.items() if name in network.inputs}
            step = network.collator.exchanged(self.gathered, asked[start : start + BATCH], chunk)
            batch = step.batches[0].to(network.model.device)
            found += network.task.predict(network.model, batch, self.streams)
        return found


def measure(answerer: Answerer, split: Any, items: Items, *, seed: int, interactions: bool) -> Measured:
    """Everything of one model. `interactions`: also EMAP, where it looks at two inputs or more."""
    real = [p for opened in chunks(split, items) for p in whole(answerer, opened)]
    cell = Cell(seed=seed, outputs=[output(p) for p in real], probabilities=probabilities(real))
    found = Measured(cell, [p.target for p in real])
    believes = beliefs(real[:1]) is not None
    for number, block in enumerate(items.blocks()):
        opened = open_items(split, [items.places[i] for i in block])
        _controls(answerer, opened, found)
        if believes:
            _coalitions(answerer, opened, cell)
        if believes and interactions and number == 0 and len(answerer.inputs) > 1:
            cell.additive = projected(answerer, opened)
    cell.latency = latency(answerer, open_items(split, [items.places[i] for i in some_of(len(items.places), LATENCY_ROWS)]))
    return found


def chunks(split: Any, items: Items) -> Iterator[list[Opened]]:
    """All items, opened, some at a time."""
    for start in range(0, len(items.places), CHUNK):
        yield open_items(split, items.places[start : start + CHUNK])


def whole(answerer: Answerer, opened: Sequence[Opened]) -> list[Prediction]:
    """Answers to rows as they are, all of which must be usable."""
    block = answerer.block(opened)
    if len(block) != len(opened):
        raise ChiasmError(f"{len(opened) - len(block)} of the rows from {opened[0].sample.id} on cannot be used any more")
    return block.answer(range(len(opened)), {})


def _controls(answerer: Answerer, opened: Sequence[Opened], found: Measured) -> None:
    """Add one block of controlled items: each input shuffled, and each missing more and more often."""
    block = answerer.block(opened)
    asked: dict[str, Exchange] = {}
    for name in answerer.inputs:
        asked[f"{name} shuffled"] = shuffled(opened, name)
        asked |= {f"{name} missing {fraction:g}": missing(opened, name, fraction) for fraction in FRACTIONS}
    for control, sources in asked.items():
        said = block.answer(range(len(opened)), sources)
        found.cell.controls.setdefault(control, []).extend(map(output, said))
        if (told := beliefs(said)) is not None:
            found.beliefs.setdefault(control, []).extend(told)


def _coalitions(answerer: Answerer, opened: Sequence[Opened], cell: Cell) -> None:
    """Add one block of controlled items with only some of the inputs there, for every combination."""
    block = answerer.block(opened)
    for present in coalitions(answerer.inputs):
        told = beliefs(block.answer(range(len(opened)), only(opened, answerer.inputs, present)))
        cell.coalitions.setdefault("+".join(present), []).extend(told or [])


def projected(answerer: Answerer, opened: Sequence[Opened]) -> list[Belief]:
    """EMAP's projection at the first items of a block."""
    count = items_for(len(answerer.inputs), len(opened))
    block = answerer.block(opened[:count])
    keys = list((beliefs(block.answer([0], {})) or [{}])[0])

    def numbers(asked: Places, sources: Exchange) -> np.ndarray:
        return np.array([[belief[key] for key in keys] for belief in beliefs(block.answer(asked, sources)) or ()])

    values = additive(numbers, answerer.inputs, count)
    return [dict(zip(keys, map(rounded, row), strict=True)) for row in values.tolist()]


def latency(answerer: Answerer, opened: Sequence[Opened]) -> dict[str, float]:
    """Milliseconds from an opened row to its answer, one row at a time: the median and the 99th percentile."""
    times = []
    for row in [*[opened[0]] * WARM_UP, *opened]:
        start = time.perf_counter()
        whole(answerer, [row])
        times.append(1000 * (time.perf_counter() - start))
    p50, p99 = np.percentile(times[WARM_UP:], [50, 99]).tolist()
    return {"p50": round(p50, 3), "p99": round(p99, 3)}


def validate(answerer: Answerer, split: Any, task: Any, metric: str) -> float:
    """The figure on (at most 5,000 rows of) a split that choices are made by; rows without a target, or unreadable, are left out."""
    places, predictions = some_of(len(split), VALIDATION_ROWS), []
    for start in range(0, len(places), CHUNK):
        opened = [row for row in split.open_rows(places[start : start + CHUNK]) if not isinstance(row, BadSample)]
        block = answerer.block([row for row in opened if task.wants(row.sample)])
        predictions += block.answer(range(len(block)), {})
    return main_figure(find("metric", metric)(), predictions)


def main_figure(metric: Metric, predictions: Sequence[Prediction]) -> float:
    """The metric's first variant; NaN where it is undefined."""
    usable = [p for p in predictions if p.target is not None and is_finite(p.output)]
    return next(iter(metric.compute(usable).values()), float("nan")) if usable else float("nan")


def output(prediction: Prediction) -> Any:
    """An answer as it is kept; one from numbers that are not finite counts as none."""
    return rounded(prediction.output) if is_finite(prediction.output) and is_finite(prediction.probabilities) else None


def beliefs(predictions: Sequence[Prediction]) -> list[Belief] | None:
    """What each prediction holds for likely; None for texts."""
    if (found := probabilities(predictions)) is not None:
        return found
    if all(isinstance(p.output, int | float) for p in predictions):
        return [{NUMBER: rounded(p.output)} for p in predictions]
    return None


def probabilities(predictions: Sequence[Prediction]) -> list[Belief] | None:
    """Label -> probability of each, in six digits; None where the task has none."""
    found = [p.probabilities for p in predictions]
    if any(each is None for each in found):
        return None
    return [{label: rounded(p) for label, p in each.items()} for each in found if each is not None]


def rounded(value: Any) -> Any:
    """A number in six digits, which keeps the file of a comparison small; anything else as it is."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
