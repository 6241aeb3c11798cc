"""One optimizer step: micro-batches summed to exactly the gradient of the big batch, and no NaN that reaches a weight."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from chiasm.training import branch_losses
from chiasm.training.balance import Alone, Balance, sums_of
from chiasm.training.distributed import OneProcess
from chiasm.training.loss_weights import LossWeights
from chiasm.training.precision import Precision
from chiasm.training.stages import set_modes
from chiasm.types import Batch, StepBatches, Streams

CAUSES = ("nonfinite_input", "nonfinite_loss", "nonfinite_grad")  # from the first that can be seen to the last


@dataclass(slots=True)
class StepResult:
    """What one step did. `skipped` is None, or why the optimizer did not move: empty, nonfinite_input, nonfinite_loss, nonfinite_grad."""

    loss: float
    losses: dict[str, float]  # task -> mean loss; with train.balance also `TASK[INPUT alone]`, of a hybrid with votes `TASK[each branch]`
    grad_norm: float
    rows: int
    skipped: str | None = None
    ids: list[str] = field(default_factory=list)  # samples of the batches where a non-finite value was first seen
    unlabelled: int = 0  # batches in which nothing was to be predicted
    shortened: dict[str, float] = field(default_factory=dict)  # input -> what its own step was multiplied by, where less than 1
    loss_weights: dict[str, float] = field(default_factory=dict)  # task -> what its loss counted in this step, where that is learned


class Stepper:
    """Trains `model` on one stage's tasks. Every random draw of a forward pass comes from f(seed, step, micro-batch, process).

    `stand_in` gives a batch of a task for a process that has none where the others wait for it; it adds nothing to the step.
    """

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
        processes: OneProcess | None = None,
        stand_in: Callable[[str], StepBatches] | None = None,
    ):
        self.processes, self.stand_in = processes or OneProcess(), stand_in
        self.learned: LossWeights | None = getattr(model, "loss_weights", None)
        self.model, self.tasks, self.optimizer, self.balance = model, tasks, optimizer, balance
        self.weights = {**weights, **(balance.weights(weights) if balance is not None else {})}
        self.weights |= {branch_losses.named(task): weight for task, weight in weights.items()}
        self.precision, self.seed, self.clip = precision, seed, clip
        self.device = next(model.parameters()).device
        self.trainable = [p for group in optimizer.param_groups for p in group["params"]]
        self.statistics = [b for m in model.modules() if m.training for b in m.buffers(recurse=False)]  # e.g. of batch norms

    def __call__(self, micro: Sequence[StepBatches], *, step: int, learning_rate: float) -> StepResult:
        """Forward and backward over the micro-batches, then one optimizer step unless something is not finite."""
        weights = [_added(of_all) for of_all in zip(*self.processes.gather([whole_weights([m]) for m in micro]), strict=True)]
        totals = _added(weights)
        rows = sum(self.processes.gather(sum(len(batch) for m in micro for batch in m.batches)))
        unlabelled = sum(not weight for of_micro in weights for weight in of_micro.values())
        if not any(totals.values()):
            return StepResult(0.0, {}, 0.0, rows, skipped="empty", unlabelled=unlabelled)
        kept = [b.clone() for b in self.statistics]
        sums = [part for k, m in enumerate(micro) for part in self._backward(m, totals, step, k, {n for n, w in weights[k].items() if w})]
        factors, penalty = self._learn_weights([task for task, total in totals.items() if total])
        self.processes.sum_gradients(self.trainable)
        self.processes.merge_statistics(self.statistics, kept)
        norm = self.processes.clip(self.trainable, math.inf if self.clip is None else self.clip)
        *values, grad_norm = torch.stack([*(part.total.float() for part in sums), norm.float().to(self.device)]).tolist()
        losses: dict[str, float] = {}
        for part, value in zip(sums, values, strict=True):
            losses[part.name] = losses.get(part.name, 0.0) + value / totals[part.batch.task]
        losses = _added(self.processes.gather(losses))
        learned = {**factors, **{branch_losses.named(task): factor for task, factor in factors.items()}}
        loss = penalty + sum(self.weights[name] * learned.get(name, 1.0) * value for name, value in losses.items())
        result = StepResult(loss, losses, grad_norm, rows, unlabelled=unlabelled, loss_weights=factors)
        if math.isfinite(loss) and math.isfinite(grad_norm):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            with self._balanced(sums, result, step):
                self.optimizer.step()
        else:
            cause = _cause(micro, [(part.batch, value) for part, value in zip(sums, values, strict=True)])
            result.skipped, result.ids = _first_cause(self.processes.gather(cause))
            for buffer, before in zip(self.statistics, kept, strict=True):
                buffer.copy_(before)
        self.optimizer.zero_grad(set_to_none=True)
        return result

    def _backward(self, micro: StepBatches, totals: Mapping[str, float], step: int, index: int, present: Collection[str]) -> list[_Part]:
        """Gradients of one micro-batch; returns the summed losses of its batches. `present`: the tasks that any process has in it."""
        labelled = {b.task: b for b in micro.batches if float(b.targets["weight"])}
        called = [name for name in self.tasks if name in labelled or (name in present and self.processes.needs(self.tasks[name]))]
        if not called:
            return []
        torch.manual_seed(seed_of(self.seed, step, index, *([self.processes.rank] if self.processes.rank else [])))
        moved = StepBatches(micro.pool, list(labelled.values())).to(self.device)
        sums: list[_Part] = []

        def forward() -> Tensor:
            with self.precision.autocast():
                streams = self.model.encode(moved.pool) if labelled else {}
                labelled.update((batch.task, batch) for batch in moved.batches)
                for name in called:
                    sums.extend(self._losses(labelled[name], streams) if name in labelled else [self._stood_in(name)])
            return torch.stack([self._weighed(part, totals) for part in sums]).sum()

        whole = self.processes.forward(forward)
        if whole.requires_grad:  # not where only an input's connector trains and no row has that input
            whole.backward()
        for part in sums:
            part.total = part.total.detach()
        return sums

    def _weighed(self, part: _Part, totals: Mapping[str, float]) -> Tensor:
        """What a part adds to the step's loss."""
        loss = part.total * (self.weights[part.name] / totals[part.batch.task])
        return loss if self.learned is None or part.alone is not None else loss * self.learned.factor(part.batch.task)

    def _learn_weights(self, labelled: Sequence[str]) -> tuple[dict[str, float], float]:
        """(the learned weights as they were in this step, what they add to its loss), with the gradient of the latter."""
        if self.learned is None:
            return {}, 0.0
        penalty = self.learned.penalty(labelled)
        (penalty / self.processes.world).backward()
        return {task: float(self.learned.factor(task).detach()) for task in labelled}, float(penalty.detach())

    def _losses(self, batch: Batch, streams: Streams) -> list[_Part]:
        """A batch's own summed loss, that of its branches where they have one, and those of its inputs alone."""
        task = self.tasks[batch.task]
        mixed, each = branch_losses.losses(self.model, task, batch, streams)
        branches = [] if each is None else [_Part(batch, branch_losses.named(task.name), each)]
        alone = [] if self.balance is None else self.balance.losses(self.model, task, batch, streams)
        return [_Part(batch, task.name, mixed), *branches, *(_Part(batch, one.name, one.loss, one) for one in alone)]

    def _stood_in(self, name: str) -> _Part:
        """The loss of a task that only other processes have rows of: nothing, but with the same exchanges on the way."""
        assert self.stand_in is not None
        step, task = self.stand_in(name).to(self.device), self.tasks[name]
        batch = dataclasses.replace(step.batches[0], targets={**step.batches[0].targets, "weight": 0.0})
        self.model.eval()  # its statistics are not those of the step
        total = task.loss(self.model, batch, self.model.encode(step.pool)).total
        set_modes(self.model)
        return _Part(batch, name, total * 0 if task.additive else total)

    def _balanced(self, sums: Sequence[_Part], result: StepResult, step: int) -> contextlib.AbstractContextManager[None]:
        """Around the optimizer's step: shorter where train.balance says so; notes in `result` by how much. Its noise comes first."""
        if self.balance is None:
            return contextlib.nullcontext()
        found = self.processes.gather(sums_of(p.alone for p in sums if p.alone is not None and self.balance.spec.modulate))
        coefficients = self.balance.coefficients(found)
        self.balance.disturb(self.model, coefficients, seed_of(self.seed, step, "noise"))
        result.shortened = {name: k for name, k in coefficients.items() if k < 1}
        return self.balance.shortened(self.model, result.shortened)


@dataclass(slots=True)
class _Part:
    """One summed loss of a batch: the task's own, that of its branches, or that of an input alone."""

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


def _added(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Sums by name."""
    sums: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def _first_cause(causes: Sequence[tuple[str, list[str]]]) -> tuple[str, list[str]]:
    """What several processes saw, as one: the earliest kind of cause, and the samples of those that saw it."""
    kind = min((cause for cause, _ in causes), key=CAUSES.index)
    return kind, sorted({id for cause, ids in causes if cause == kind for id in ids})


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
