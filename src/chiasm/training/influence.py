"""The first duty, before step 0: every declared input that a task reads changes its output, and every part that trains gets a gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chiasm.data.randomness import some_of
from chiasm.recipe import StageSpec
from chiasm.training.stages import set_modes, without_gradient
from chiasm.training.step import whole_weights
from chiasm.types import Batch, ChiasmError, Opened, Streams

ROWS = (16, 64, 256)  # rows looked at; more only where the fewer could not decide
NOISE = 1e-6  # of the largest output: what two passes may differ by without any influence


class InfluenceError(ChiasmError):
    """A declared input, or a part that trains, has no path to the output or the loss."""


@dataclass(slots=True)
class Influence:
    """What the check found beside errors."""

    unreached: list[str] = field(default_factory=list)  # names of parameters that would train but that no task reaches
    notes: list[str] = field(default_factory=list)


def check_influence(
    model: Any, tasks: Mapping[str, Any], weights: Mapping[str, float], split: Any, collator: Callable[..., Any], *, stage: StageSpec
) -> Influence:
    """Swap each input for another sample's and look at each task's output, and at what it writes; then send every loss back once.

    Weights stay as they are.
    """
    found = Influence()
    open_questions = {(name, input) for name, task in tasks.items() for input in task.inputs}
    learned = idle = {name for name in tasks if not weights[name]}  # nothing to learn there
    model.eval()
    try:
        with _gates_open(model):
            for rows in ROWS:
                opened = _some_rows(split, rows)
                settled = learned - {name for name, _ in open_questions} | idle  # rows so far had every input of these
                open_questions -= _swaps(model, tasks, opened, collator, open_questions)
                if settled != set(tasks):
                    learned = learned | _backward(model, tasks, weights, opened, collator, settled)
                if (not open_questions and learned == set(tasks)) or rows >= len(split):
                    break
            unlearned = sorted(set(tasks) - learned)
            if not open_questions and not unlearned:
                _judge_gradients(model, stage, tasks, found)
    finally:
        for parameter in model.parameters():
            parameter.grad = None
        set_modes(model)
    for name, input in sorted(open_questions):
        found.notes.append(f"influence of {input} on task {name} not checked: none of {len(opened)} rows for it has another {input}")
    for name in unlearned:
        found.notes.append(f"gradients of task {name} not checked: none of {len(opened)} rows has a label for it")
    return found


def _swaps(
    model: Any, tasks: Mapping[str, Any], opened: list[Opened], collator: Callable[..., Any], asked: set[tuple[str, str]]
) -> set[tuple[str, str]]:
    """The (task, input) pairs that could be decided on these rows; InfluenceError where an input turned out to have no influence."""
    decided = set()
    real = collator(opened).to(model.device)
    with torch.no_grad():
        streams = model.encode(real.pool)
        for input in sorted({input for _, input in asked}):
            swapped = collator(opened, control=(input, "shuffled")).to(model.device)
            swapped_streams = model.encode(swapped.pool)
            others = {batch.task: batch for batch in swapped.batches}
            for batch in real.batches:
                other = others.get(batch.task)
                if (batch.task, input) not in asked or other is None or not _differs(batch, other, real.pool, swapped.pool, input):
                    continue
                task, both = tasks[batch.task], ((batch, streams), (other, swapped_streams))
                if not _changes(model, task.outputs, *both):
                    raise InfluenceError(
                        f"input '{input}' does not reach the output of task '{batch.task}': another sample's {input} changes nothing; "
                        f"see that fusion.inputs and the encoder take it in, or remove it from `inputs`"
                    )
                written = getattr(task, "first_written", None)  # of a task that writes
                if written is not None and not _changes(model, written, *both):
                    raise InfluenceError(
                        f"input '{input}' reaches the loss of task '{batch.task}' but not what it writes: `generate` loses it; "
                        f"see that the backbone takes it in when it generates, or remove it from `inputs`"
                    )
                decided.add((batch.task, input))
    return decided


def _differs(batch: Batch, other: Batch, pool: Mapping[str, Any], other_pool: Mapping[str, Any], input: str) -> bool:
    """Whether the swap changed what the model is given at all (all rows may hold the same picture)."""
    index = f"{input}_index"
    if index in batch.inputs and input in pool and input in other_pool:
        return any(
            not torch.equal(tensor[batch.inputs[index].clamp_min(0)], other_pool[input][name][other.inputs[index].clamp_min(0)])
            if len(tensor) and tensor.shape[1:] == other_pool[input][name].shape[1:]
            else len(tensor) > 0
            for name, tensor in pool[input].items()
        )
    return any(isinstance(value, Tensor) and not _same(value, other.inputs.get(key)) for key, value in batch.inputs.items())


def _changes(model: Any, look: Callable[..., Tensor], real: tuple[Batch, Streams], swapped: tuple[Batch, Streams]) -> bool:
    before, after = look(model, *real).float(), look(model, *swapped).float()
    if before.shape != after.shape:
        return True
    change = (before - after).flatten(1).abs().amax(1)  # [R]
    change = change[change.isfinite()]  # a sample with NaN is the step's business
    return not len(change) or bool(change.max() > NOISE * before[before.isfinite()].abs().max())


def _same(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and a.shape == b.shape and torch.equal(a, b)


def _backward(
    model: Any, tasks: Mapping[str, Any], weights: Mapping[str, float], opened: list[Opened], collator: Callable[..., Any], done: set[str]
) -> set[str]:
    """Add the gradients of every task's loss but those that are `done`; returns the tasks for which these rows have one."""
    step = collator(opened).to(model.device)
    totals = whole_weights([step])
    batches = [b for b in step.batches if totals[b.task] and b.task not in done]
    if batches:
        streams = model.encode(step.pool)
        loss = torch.stack([tasks[b.task].loss(model, b, streams).total * (weights[b.task] / totals[b.task]) for b in batches]).sum()
        if loss.requires_grad:  # not where no row has the only input that trains
            loss.backward()
    return {b.task for b in batches}


def _judge_gradients(model: Any, stage: StageSpec, tasks: Mapping[str, Any], found: Influence) -> None:
    dead_parts, found.unreached = without_gradient(model)
    named = [part for part in dead_parts if stage.train is not None]
    if named:
        raise InfluenceError(
            f"stages.{stage.name}.train: {named[0]} gets no gradient: none of its tasks ({', '.join(tasks)}) reaches it; "
            f"take it out of `train`, or add a task that uses it to stages.{stage.name}.tasks"
        )


def _some_rows(split: Any, rows: int) -> list[Opened]:
    """Some rows that can be opened, without augmentation."""
    places = np.array(some_of(len(split), rows))
    opened = [split.open(int(place), seed=0, epoch=0, augment=False) for place in places]
    good = [o for o in opened if isinstance(o, Opened)]
    if not good:
        raise InfluenceError(
            f"none of {len(opened)} training samples could be read; the first: {opened[0].message if opened else 'the split is empty'}"
        )
    return good


def _gates_open(model: Any) -> contextlib.AbstractContextManager[None]:
    fusion = getattr(model, "fusion", None)
    return contextlib.nullcontext() if fusion is None else fusion.gates_open()
