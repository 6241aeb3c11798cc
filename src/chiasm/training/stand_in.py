"""Rows for a process that has none of a task, where the others wait for it inside that task's loss (training/distributed.py)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from chiasm.types import ChiasmError, StepBatches


class StandIns:
    """One usable row per task, for the processes that have none of it while others wait for them."""

    def __init__(self, split: Any, collator: Any):
        self.split, self.collator = split, collator
        self._found: dict[str, StepBatches] = {}

    def __call__(self, task: str) -> StepBatches:
        if task not in self._found:
            found = next((step for index in range(len(self.split)) if (step := self._of(task, index)) is not None), None)
            if found is None:
                raise ChiasmError(
                    f"tasks.{task}: no row has only finite numbers, so that a process without rows of it has none to stand in"
                )
            self._found[task] = found
        return self._found[task]

    def _of(self, task: str, index: int) -> StepBatches | None:
        step = self.collator([self.split.open(index)])
        batches = [b for b in step.batches if b.task == task and float(b.targets["weight"])]
        tensors = [t for name, of in step.pool.items() for t in of.values() if any(f"{name}_index" in b.inputs for b in batches)]
        tensors += [t for b in batches for t in (*b.inputs.values(), *b.targets.values()) if isinstance(t, Tensor)]
        return StepBatches(step.pool, batches) if batches and all(bool(t.isfinite().all()) for t in tensors) else None
