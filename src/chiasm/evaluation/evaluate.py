"""Run a model over a split: once as it is, and once more with each input shuffled and with each input missing.

    Loader -> opened rows -> Collator (as they are | control) -> model.encode -> task.predict -> Answers -> scoring -> Evaluation

A control sees the same rows as the real pass, so every difference is paired. What a control leaves untouched is not encoded again.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from chiasm.data.collate import Collator
from chiasm.data.loader import Loader
from chiasm.data.randomness import some_of
from chiasm.evaluation.baselines import Baseline
from chiasm.evaluation.result import Evaluation
from chiasm.evaluation.scoring import Answers, is_finite, score
from chiasm.types import BadSample, Opened, Prediction, StepBatches, Streams

CONTROLS = ("shuffled", "missing")
Baselines = Mapping[str, Sequence[Baseline]]
RUN = 16  # neighbouring rows that stay in one batch
ROWS_READ = 16  # rows at once where the backbone reads pictures itself: as it wants them they may take many megabytes each


def evaluate(
    model: Any,
    processor: Any,
    split: Any,
    tasks: Mapping[str, Any] | Iterable[Any],
    *,
    controls: bool | int = True,
    batch_size: int = 512,
    limit: int | None = None,
    group_columns: Sequence[str] = ("kind",),
    baselines: Baselines | None = None,
    num_workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Score `tasks` on `split`.

    `controls`: True for all rows, False for none, a number for about so many rows (they cost a pass per input and control).
    `limit` takes that many rows, evenly spaced. `baselines`: task name -> what blind answerers would say. `progress(done, total)`
    counts rows.
    """
    tasks = list(tasks.values()) if isinstance(tasks, Mapping) else list(tasks)
    batch_size = min(batch_size, ROWS_READ) if getattr(processor, "reads", ()) else batch_size
    plan = _plan(len(split), batch_size, limit, seed)
    run = _Run(model, Collator(tasks, processor), {t.name: t for t in tasks}, group_columns, baselines or {})
    controlled = _controlled_steps(controls, plan)
    done, total = 0, sum(map(len, plan))
    with _evaluating(model):
        for number, opened in enumerate(Loader(split, plan, None, num_workers=num_workers, seed=seed, epoch=0, augment=False)):
            run.step(opened, plan[number], controls=number in controlled)
            done += len(opened)
            if progress is not None:
                progress(done, total)
    return run.finish(seed)


def _plan(rows: int, batch_size: int, limit: int | None, seed: int) -> list[list[int]]:
    """Row indices in batches. Short runs of neighbours stay together (they may share a picture) but runs are shuffled: in a file that
    is sorted by class, shuffling an input within a batch would otherwise swap like for like."""
    chosen = np.array(some_of(rows, rows if limit is None else limit), dtype=int)
    run = max(1, min(RUN, batch_size // 4))
    runs = [chosen[i : i + run] for i in range(0, len(chosen), run)]
    order = [index for run in np.random.default_rng(seed).permutation(len(runs)) for index in runs[run].tolist()]
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def _controlled_steps(controls: bool | int, plan: Sequence[Sequence[int]]) -> set[int]:
    if controls is True or controls is False or not plan:
        return set(range(len(plan))) if controls else set()
    steps = min(-(-controls // len(plan[0])), len(plan))
    return set(np.linspace(0, len(plan) - 1, steps).round().astype(int).tolist())


@contextmanager
def _evaluating(model: Any) -> Generator[None]:
    """No gradients and no dropout; the model's mode is put back, whatever happens."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


class _Run:
    """What accumulates while batches pass by."""

    def __init__(self, model: Any, collator: Any, tasks: dict[str, Any], group_columns: Sequence[str], baselines: Baselines):
        self.model, self.collator, self.tasks = model, collator, tasks
        self.group_columns, self.baselines = group_columns, baselines
        self.answers = {name: Answers(name, task.metrics) for name, task in tasks.items()}
        self.counts = Counter(read=0, used=0, quarantined=0, filtered=0)
        self.notes: Counter[str] = Counter()
        self.nonfinite: Counter[str] = Counter()
        self.pairs: set[tuple[Any, ...]] = set()
        self.place: dict[str, int] = {}  # row id -> its index in the split

    def step(self, opened: Sequence[Opened | BadSample], indices: Sequence[int], *, controls: bool) -> None:
        """Predict one batch of rows as they are and under every control."""
        self.place.update((o.sample.id, index) for o, index in zip(opened, indices, strict=True) if isinstance(o, Opened))
        rows = {o.sample.id: o for o in opened if isinstance(o, Opened)}
        batches = self.collator(opened)
        self.counts.update(read=batches.read, quarantined=len(batches.bad), filtered=batches.filtered)
        self.counts["used"] += batches.read - len(batches.bad) - batches.filtered
        self.notes.update(batches.notes)
        batches = batches.to(self.model.device)
        streams = self.model.encode(batches.pool)
        kept = {name: self._keep(name, found, rows) for name, found in self._predict(batches, streams).items()}
        if not controls:
            return
        for input in dict.fromkeys(i for task in self.tasks.values() for i in task.inputs):
            for how in CONTROLS:
                real = {n: kept[n] for n, t in self.tasks.items() if n in kept and input in t.inputs}
                if how == "missing":
                    real = {n: found for n, found in real.items() if self.tasks[n].view != "towers"}
                self._control(input, how, real, rows, batches, streams)

    def _control(
        self, input: str, how: str, real: dict[str, list[Prediction]], rows: Mapping[str, Opened], batches: StepBatches, streams: Streams
    ) -> None:
        """Predict again the rows that have the input; the others answer as they did."""
        having = {name: self.answers[name].present.get(input, set()) for name in real}
        having_rows = {p.row for name, predictions in real.items() for p in predictions if p.id in having[name]}
        opened = [o for i, o in rows.items() if i in having_rows]
        found: dict[str, list[Prediction]] = {}
        if opened:
            changed = self.collator(opened, control=(input, how)).to(self.model.device)
            self.notes.update({code: times for code, times in changed.notes.items() if code not in batches.notes})
            found = self._predict(changed, self._encode_changed(changed, batches, streams), real)
        for name, predictions in real.items():
            again = {p.id: p for p in found.get(name, ())}
            chosen = [again.get(p.id) if p.id in having[name] else p for p in predictions]
            control = self.answers[name].controls.setdefault((input, how), [])
            control += self._described(name, [p for p in chosen if p is not None], rows)

    def _predict(self, batches: StepBatches, streams: Streams, only: Iterable[str] | None = None) -> dict[str, list[Prediction]]:
        """Task name -> predictions with finite numbers; an answer from non-finite ones counts as wrong, a number or vector is left out."""
        found: dict[str, list[Prediction]] = {}
        for batch in batches.batches:
            if only is not None and batch.task not in only:
                continue
            predictions = found.setdefault(batch.task, [])
            for p in self.tasks[batch.task].predict(self.model, batch, streams):
                if is_finite(p.output) and is_finite(p.score) and is_finite(p.probabilities):
                    predictions.append(p)
                    continue
                self.nonfinite[batch.task] += 1
                if is_finite(p.output):
                    predictions.append(dataclasses.replace(p, output=None, score=None, probabilities=None))
        return found

    def _encode_changed(self, changed: StepBatches, real: StepBatches, streams: Streams) -> Streams:
        """Streams of a control's pool; what is equal to the real pool is not encoded again."""
        same = {name for name, tensors in changed.pool.items() if name in streams and _equal(tensors, real.pool[name])}
        fresh = {name: tensors for name, tensors in changed.pool.items() if name not in same}
        return {name: streams[name] for name in same} | (self.model.encode(fresh) if fresh else {})

    def _keep(self, name: str, predictions: list[Prediction], rows: Mapping[str, Opened]) -> list[Prediction]:
        """Add real predictions of one task to its answers, with all that is known about their rows; returns those that were kept."""
        answers, task = self.answers[name], self.tasks[name]
        self._described(name, predictions, rows)
        if task.view == "towers":  # embeddings are large, and a pair that occurs again adds nothing
            predictions = [p for p in predictions if self._is_new_pair(name, p)]
        answers.real += predictions
        for p in predictions:
            opened = rows[p.row]
            for input in task.inputs:
                if input in opened.values or opened.sample.parts.get(input) not in (None, ""):
                    answers.present.setdefault(input, set()).add(p.id)
            for input, media in opened.keys.items():
                answers.media.setdefault(input, {})[p.id] = media
        for baseline in self.baselines.get(name, ()):
            said = answers.references.setdefault(baseline.name, [])
            for p in predictions:
                blind = baseline.answer(rows[p.row].sample.parts)
                said.append(dataclasses.replace(p, output=blind, score=None, probabilities=None, surprise=None))
        return predictions

    def _is_new_pair(self, name: str, prediction: Prediction) -> bool:
        pair = (name, *prediction.target.values()) if isinstance(prediction.target, dict) else (name, prediction.id)
        is_new = pair not in self.pairs
        self.pairs.add(pair)
        return is_new

    def _described(self, name: str, predictions: list[Prediction], rows: Mapping[str, Opened]) -> list[Prediction]:
        """Add the row's groups, and to the two sides of a contrast what they are (equal keys are the same picture or text)."""
        for p in predictions:
            opened = rows[p.row]
            parts = opened.sample.parts
            p.groups = {**{c: str(parts[c]) for c in self.group_columns if parts.get(c) is not None}, **p.groups}
            if self.tasks[name].view == "towers" and p.target is None and isinstance(p.output, dict):
                p.target = {side: opened.keys.get(side) or str(parts.get(side)) for side in p.output}
        return predictions

    def finish(self, seed: int) -> Evaluation:
        """The figures of all that was seen."""
        found = Evaluation(counts=dict(self.counts))
        found.notes += [f"{code}: {times} times" for code, times in sorted(self.notes.items())]
        for name, times in self.nonfinite.items():
            said = "answers count as wrong, numbers and vectors are left out"
            found.notes.append(f"{name}: {times} predictions had NaN or Inf (controls included): {said}")
        for answers in self.answers.values():
            answers.real.sort(key=lambda p: self.place[p.row])
            score(answers, found, seed=seed)
            found.predictions += answers.real
        return found


def _equal(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
