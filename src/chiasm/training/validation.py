"""Validation while training: when it is due, which result is the best so far, and when to stop early."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chiasm.components import did_you_mean, find
from chiasm.recipe import Recipe
from chiasm.training.state import TrainState
from chiasm.types import RecipeError

CONTROL_ROWS = 256  # rows that are also scored with each input shuffled and missing


@dataclass(frozen=True, slots=True)
class Best:
    """`train.best`, read: a split, a key of its metrics, and which way is better."""

    split: str
    key: str
    higher: bool

    def improves(self, value: float, best: float | None) -> bool:
        return value == value and (best is None or (value > best if self.higher else value < best))  # NaN never improves


def read_best(recipe: Recipe) -> Best | None:
    """`validation answer.exact_match` -> Best; RecipeError where it names no such task or metric."""
    if recipe.train.best is None:
        if recipe.train.early_stopping is not None:
            raise RecipeError('train.early_stopping needs train.best, e.g. best: "validation answer.exact_match"')
        return None
    split, _, key = recipe.train.best.strip().rpartition(" ")
    task, _, metric = key.partition(".")
    if task not in recipe.tasks or not metric:
        raise RecipeError(f"train.best: '{recipe.train.best}' is not 'SPLIT TASK.METRIC'{did_you_mean(task, recipe.tasks)}")
    higher = find("metric", metric.partition("[")[0].partition("@")[0]).higher_is_better
    return Best(split or "validation", key, higher)


def note_result(state: TrainState, best: Best | None, metrics: Mapping[str, float]) -> bool:
    """Record a validation; True where it is the best so far."""
    state.evaluated = state.step
    if best is None or not any(key.startswith(best.key.partition(".")[0] + ".") for key in metrics):
        return False  # the task is not learned in this stage
    if best.key not in metrics:
        raise RecipeError(f"train.best: validation has no '{best.key}'{did_you_mean(best.key, metrics)}")
    if best.improves(metrics[best.key], state.best):
        state.best, state.best_step, state.since_best = metrics[best.key], state.step, 0
        return True
    state.since_best += 1
    return False


def run_validation(
    evaluate: Callable[..., Any],
    model: Any,
    processor: Any,
    split: Any,
    tasks: Mapping[str, Any],
    *,
    num_workers: int,
    poll: Callable[[], None],
) -> Any:
    """An Evaluation of `tasks`; `poll` is called between batches and may raise."""
    return evaluate(model, processor, split, tasks, controls=CONTROL_ROWS, num_workers=num_workers, progress=lambda done, total: poll())


def summary(metrics: Mapping[str, float], tasks: Mapping[str, Any]) -> str:
    """Per task its primary figure, and in brackets what a blind answerer and a shuffled input reach: `answer.f1 0.912 (majority 0.300)`."""
    shown = []
    for name, task in tasks.items():
        primary = f"{name}.{next(iter(task.metrics), None)}"
        main = next((key for key in metrics if key.partition("[")[0].partition("@")[0] == primary), None)
        if main is None:
            continue
        stem = main.removesuffix("]") + (", " if main.endswith("]") else "[")
        beside = ["question only" if f"{stem}question only]" in metrics else "majority", *(f"{input} shuffled" for input in task.inputs)]
        figures = [f"{label} {metrics[f'{stem}{label}]']:.3f}" for label in beside if f"{stem}{label}]" in metrics]
        shown.append(f"{main} {metrics[main]:.3f}" + (f" ({', '.join(figures)})" if figures else ""))
    return "; ".join(shown) or "nothing to report"
