"""One optimizer step: micro-batches summed to exactly the gradient of the big batch, and no NaN that reaches a weight."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from chiasm.training.balance import Alone, Balance
from chiasm.training.loss_weights import LossWeights
from chiasm.training.precision import Precision
from chiasm.types import Batch, StepBatches


@dataclass(slots=True)
class StepResult:
    """What one step did. `skipped` is None, or why the optimizer did not move: empty, nonfinite_input, nonfinite_loss, nonfinite_grad."""

    loss: float
    losses: dict[str, float]  # task -> mean loss; with train.balance also `TASK[INPUT alone]`
    grad_norm: float
    rows: int
    skipped: str | None = None
    ids: list[str] = field(default_factory=list)  # samples of the batches where a non-finite value was first seen
    unlabelled: int = 0  # batches in which nothing was to be predicted
    shortened: dict[str, float] = field(default_factory=dict)  # input -> what its own step was multiplied by, where less than 1
    loss_weights: dict[str, float] = field(default_factory=dict)  # task -> what its loss counted in this step, where that is learned


class Stepper:
    """Trains `model` on one stage's tasks. Every random draw of a forward pass comes from f(seed, step, micro-batch)."""

    def __init__(
        self,
        model: Any,
        tasks: Mapping[str, Any],
        weights: Mapping[str, float],
        optimizer: Optimizer,
        *,
        precision: Precision,
        seed: int,
        clip: float | None,
        balance: Balance | None = None,
    ):
        self.model, self.tasks, self.optimizer, self.balance = model, tasks, optimizer, balance
        self.learned: LossWeights | None = getattr(model, "loss_weights", None)
        self.weights = {**weights, **(balance.weights(weights) if balance is not None else {})}
        self.precision, self.seed, self.clip = precision, seed, clip
        self.device = next(model.parameters()).device
        self.trainable = [p for group in optimizer.param_groups for p in group["params"]]
        self.statistics = [b for m in model.modules() if m.training for b in m.buffers(recurse=False)]  # e.g. of batch norms

    def __call__(self, micro: Sequence[StepBatches], *, step: int, learning_rate: float) -> StepResult:
        """Forward and backward over the micro-batches, then one optimizer step unless something is not finite."""
        totals = whole_weights(micro)
        rows = sum(len(batch) for m in micro for batch in m.batches)
        unlabelled = sum(not float(batch.targets["weight"]) for m in micro for batch in m.batches)
        if not any(totals.values()):
            return StepResult(0.0, {}, 0.0, rows, skipped="empty", unlabelled=unlabelled)
        kept = [b.clone() for b in self.statistics]
        sums = [part for k, m in enumerate(micro) for part in self._backward(m, totals, step, k)]
        labelled = [task for task, total in totals.items() if total]
        factors = {} if self.learned is None else {task: float(self.learned.factor(task).detach()) for task in labelled}
        penalty = 0.0
        if self.learned is not None:
            (summed := self.learned.penalty(labelled)).backward()
            penalty = float(summed.detach())
        norm = nn.utils.clip_grad_norm_(self.trainable, math.inf if self.clip is None else self.clip)
        *values, grad_norm = torch.stack([*(part.total.float() for part in sums), norm.float().to(self.device)]).tolist()
        losses: dict[str, float] = {}
        for part, value in zip(sums, values, strict=True):
            losses[part.name] = losses.get(part.name, 0.0) + value / totals[part.batch.task]
        loss = penalty + sum(self.weights[name] * factors.get(name, 1.0) * value for name, value in losses.items())
        result = StepResult(loss, losses, grad_norm, rows, unlabelled=unlabelled, loss_weights=factors)
        if math.isfinite(loss) and math.isfinite(grad_norm):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            with self._balanced(sums, result, step):
                self.optimizer.step()
        else:
            result.skipped, result.ids = _cause(micro, [(part.batch, value) for part, value in zip(sums, values, strict=True)])
            for buffer, before in zip(self.statistics, kept, strict=True):
                buffer.copy_(before)
        self.optimizer.zero_grad(set_to_none=True)
        return result

    def _backward(self, micro: StepBatches, totals: Mapping[str, float], step: int, index: int) -> list[_Part]:
        """Gradients of one micro-batch; returns the summed losses of each of its batches."""
        labelled = [b for b in micro.batches if float(b.targets["weight"])]
        if not labelled:
            return []
        torch.manual_seed(seed_of(self.seed, step, index))
        moved = StepBatches(micro.pool, labelled).to(self.device)
        sums = []
        with self.precision.autocast():
            streams = self.model.encode(moved.pool)
            for batch in moved.batches:
                task = self.tasks[batch.task]
                sums.append(_Part(batch, batch.task, task.loss(self.model, batch, streams).total))
                if self.balance is not None:
                    sums += [_Part(batch, one.name, one.loss, one) for one in self.balance.losses(self.model, task, batch, streams)]
        scaled = [part.total * (self.weights[part.name] / totals[part.batch.task]) for part in sums]
        if self.learned is not None:
            scaled = [
                loss if part.alone is not None else loss * self.learned.factor(part.name) for loss, part in zip(scaled, sums, strict=True)
            ]
        whole = torch.stack(scaled).sum()
        if whole.requires_grad:  # not where only an input's connector trains and no row has that input
            whole.backward()
        for part in sums:
            part.total = part.total.detach()
        return sums

    def _balanced(self, sums: Sequence[_Part], result: StepResult, step: int) -> contextlib.AbstractContextManager[None]:
        """Around the optimizer's step: shorter where train.balance says so; notes in `result` by how much. Its noise comes first."""
        if self.balance is None:
            return contextlib.nullcontext()
        coefficients = self.balance.coefficients(part.alone for part in sums if part.alone is not None)
        self.balance.disturb(self.model, coefficients, seed_of(self.seed, step, "noise"))
        result.shortened = {name: k for name, k in coefficients.items() if k < 1}
        return self.balance.shortened(self.model, result.shortened)


@dataclass(slots=True)
class _Part:
    """One summed loss of a batch: the task's own, or that of an input alone."""

    batch: Batch
    name: str
    total: Tensor
    alone: Alone | None = None


def whole_weights(micro: Sequence[StepBatches]) -> dict[str, float]:
    """Task -> what its summed loss is divided by: the weight of all its rows in the step."""
    totals: dict[str, float] = {}
    for m in micro:
        for batch in m.batches:
            totals[batch.task] = totals.get(batch.task, 0.0) + float(batch.targets["weight"])
    return totals


def seed_of(*parts: object) -> int:
    """A 63-bit seed that is a pure function of its arguments."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


def _cause(micro: Sequence[StepBatches], values: Sequence[tuple[Batch, float]]) -> tuple[str, list[str]]:
    """Where a non-finite value was first seen, and in which samples."""
    if ids := [id for m in micro for id in _nonfinite_inputs(m)]:
        return "nonfinite_input", sorted(set(ids))
    bad = [batch for batch, value in values if not math.isfinite(value)]
    name, batches = ("nonfinite_loss", bad) if bad else ("nonfinite_grad", [batch for batch, _ in values])
    return name, sorted({id for batch in batches for id in batch.ids})


def _nonfinite_inputs(micro: StepBatches) -> list[str]:
    """Ids of the rows that read a unit with a NaN or Inf in its tensors, or have one in their own."""
    found = []
    for batch in micro.batches:
        bad = torch.zeros(len(batch), dtype=torch.bool)
        for value in (*batch.inputs.values(), *batch.targets.values()):
            if isinstance(value, Tensor) and value.is_floating_point() and value.ndim and len(value) == len(batch):
                bad |= ~value.isfinite().reshape(len(batch), -1).all(1)
        for name, tensors in micro.pool.items():
            index = batch.inputs.get(f"{name}_index")
            for tensor in tensors.values():
                if index is not None and tensor.is_floating_point() and len(tensor):
                    unit = ~tensor.isfinite().reshape(len(tensor), -1).all(1)  # [U]
                    bad |= (unit[index.clamp_min(0)] & (index >= 0)).reshape(len(batch), -1).any(1)
        found += [id for id, is_bad in zip(batch.ids, bad.tolist(), strict=True) if is_bad]
    return found
