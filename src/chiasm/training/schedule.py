"""The learning rate as a pure function of how much of a stage is done, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from chiasm.recipe import StageSpec
from chiasm.training.state import TrainState


def learning_rate(done: float, *, peak: float, warmup: float, kind: str) -> float:
    """The rate at `done` (0..1): linear warm-up over the fraction `warmup`, then `cosine` or `linear` to zero, or `constant`."""
    if done < warmup:
        return peak * done / warmup
    rest = min((done - warmup) / max(1 - warmup, 1e-9), 1.0)
    match kind:
        case "constant":
            return peak
        case "linear":
            return peak * (1 - rest)
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * rest))
    raise AssertionError(kind)


class StageClock:
    """How much of a stage is done, by whichever of epochs, steps and minutes is nearest to its end. Counts wall time into `state`.

    `shared` gives every one of several processes the time of one of them.
    """

    def __init__(
        self, state: TrainState, stage: StageSpec, *, steps_per_epoch: int, shared: Callable[[float], float] = lambda seconds: seconds
    ):
        counts = [stage.steps, stage.epochs and stage.epochs * steps_per_epoch]
        self._steps = min((count for count in counts if count), default=None)
        self._seconds = stage.max_minutes and stage.max_minutes * 60
        self._state, self._before, self._start = state, state.seconds, time.monotonic()
        self._shared = shared if self._seconds else lambda seconds: seconds
        self.passes = (self._steps or math.inf) / steps_per_epoch  # over the data, at most

    def done(self, ahead: float = 0.0) -> float:
        """0..1; `ahead`: as if so many more steps were done."""
        self._state.seconds = self._shared(self._before + time.monotonic() - self._start)
        by_steps = (self._state.stage_step + ahead) / self._steps if self._steps else 0.0
        return min(max(by_steps, self._state.seconds / self._seconds if self._seconds else 0.0), 1.0)
