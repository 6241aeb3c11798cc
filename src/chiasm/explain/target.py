"""Which number is explained: how likely the model finds one answer, how alike it finds two sides, or the number that it gives."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chiasm.components import did_you_mean
from chiasm.tasks.classify import Classify
from chiasm.tasks.contrast import Contrast
from chiasm.tasks.generate import Generate
from chiasm.tasks.match import LABELS, Match
from chiasm.tasks.regress import Regress
from chiasm.tasks.template import Template
from chiasm.types import Batch, ChiasmError, Prediction, Streams

GIVEN = "the answer that is explained"  # the column that it stands in, which no data has


@dataclass(frozen=True, slots=True)
class Target:
    """`values(model, batch, streams)` [R] is the number of every row; `quantity` says in words what it is of which `answer`."""

    task: Any
    answer: str | None
    quantity: str
    values: Callable[[Any, Batch, Streams], Tensor]
    parts: Mapping[str, Any] = field(default_factory=dict)  # columns that every row is given
    texts: tuple[str, ...] = ()  # columns that the task reads besides its inputs
    logarithmic: bool = True  # the values are logarithms of probabilities

    def plain(self, values: np.ndarray) -> np.ndarray:
        """Probabilities where the values are their logarithms, else the values; curves are compared in these."""
        return np.exp(np.minimum(values, 0.0)) if self.logarithmic else values


def target_of(task: Any, wanted: str | None, predict: Callable[[], Prediction]) -> Target:
    """What is explained of `task`: the answer `wanted`, or the one that the model gives. ChiasmError for what has no such number."""
    if isinstance(task, Generate):
        return _written(task, str(predict().output) if wanted is None else wanted)
    if isinstance(task, Classify):
        multi = task.options.multi_label
        return _label(task, task.labels, wanted, predict, Tensor.sigmoid if multi else None)
    if isinstance(task, Match):
        return replace(_label(task, LABELS, wanted, predict, None), texts=task.columns)
    if wanted is not None:
        raise ChiasmError(f"task {task.name} gives no answer to choose from; leave the target out")
    if isinstance(task, Regress):
        return Target(task, None, "the number that is predicted", _number(task), logarithmic=False)
    if isinstance(task, Contrast):
        return Target(task, None, f"the similarity of {' and '.join(task.sides)}", _similarity(task), texts=task.columns, logarithmic=False)
    raise ChiasmError(
        f"task {task.name}: cannot say of a {type(task).__name__.lower()} task which number to explain; "
        "choose one of type generate, classify, match, contrast or regress"
    )


def _written(task: Any, answer: str) -> Target:
    """The log-probability of writing `answer`, its end included, every token given the ones before it."""
    asked = copy.copy(task)
    asked.target = Template(f"{{{GIVEN}}}", f"tasks.{task.name}.target", {}, extra=(GIVEN,))

    def values(model: Any, batch: Batch, streams: Streams) -> Tensor:
        found = asked.surprises(model, batch, streams)
        return torch.tensor([math.nan if surprise is None else -surprise[0] for surprise in found], dtype=torch.float64)

    return Target(asked, answer, f"log-probability of writing “{answer}”", values, {GIVEN: answer or " "})


def _label(
    task: Any, labels: tuple[str, ...], wanted: str | None, predict: Callable[[], Prediction], each: Callable[[Tensor], Tensor] | None
) -> Target:
    """The log-probability of one label; `each`: what turns logits into probabilities label by label, softmax if None."""
    if wanted is not None and wanted not in labels:
        raise ChiasmError(f"task {task.name} has no label '{wanted}'{did_you_mean(wanted, labels)}")
    if wanted is None:
        chances = predict().probabilities or {}
        wanted = max(labels, key=lambda label: chances[label])
    place = labels.index(wanted)

    def values(model: Any, batch: Batch, streams: Streams) -> Tensor:
        logits = task.outputs(model, batch, streams).double()
        return (logits.log_softmax(-1) if each is None else each(logits).log())[:, place]

    return Target(task, wanted, f"log-probability of “{wanted}”", values)


def _number(task: Any) -> Callable[[Any, Batch, Streams], Tensor]:
    def values(model: Any, batch: Batch, streams: Streams) -> Tensor:
        return task.outputs(model, batch, streams).double().squeeze(1) * task.std + task.mean

    return values


def _similarity(task: Any) -> Callable[[Any, Batch, Streams], Tensor]:
    def values(model: Any, batch: Batch, streams: Streams) -> Tensor:
        left, right = (vectors[index].double() for vectors, index in (task.side(model, batch, streams, side) for side in task.sides))
        return (left * right).sum(1)

    return values
