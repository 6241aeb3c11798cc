"""The training loop, read from top to bottom, with the promises that stock loops do not make.

Exact resume (every draw is a function of seed, step and sample), atomic checkpoints, no hidden NaN, quarantine with accounting, several
tasks in one step, frozen means frozen, and an influence check before step 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from chiasm.data.collate import Collator
from chiasm.data.loader import Loader
from chiasm.data.order import plan_epoch
from chiasm.recipe import Recipe, StageSpec
from chiasm.training import checkpoint
from chiasm.training.display import Display
from chiasm.training.feature_cache import NotCached, cacheable_inputs, scan, with_features
from chiasm.training.influence import check_influence
from chiasm.training.job import Job, begin, finish, stage_tasks
from chiasm.training.lock import run_lock
from chiasm.training.materials import Materials, assemble
from chiasm.training.schedule import StageClock, learning_rate
from chiasm.training.signals import StopRequest
from chiasm.training.stages import apply_stage, parameter_groups
from chiasm.training.step import Stepper, StepResult, seed_of
from chiasm.types import NonFiniteError, RecipeError, StepBatches

NONFINITE_LIMIT = 3  # steps in a row


def train(
    recipe: Recipe,
    *,
    output: str | Path,
    resume: bool = False,
    allow_changed: bool = False,
    progress: bool = True,
    build: Callable[[Recipe], Materials] = assemble,
) -> None:
    """Train `recipe` into the run folder `output`: recipe.yaml, checkpoints/, log.jsonl, data.json, quarantine.jsonl and model/.

    `resume` goes on from the newest checkpoint that verifies, bit for bit as if nothing had happened. Raises NonFiniteError after three
    steps in a row with NaN or Inf, and Stopped where SIGTERM or SIGINT asked for it; both after writing a checkpoint.
    """
    display, folder = Display(progress), Path(output)
    with run_lock(folder, display.warn), StopRequest() as stop:
        job = begin(build, recipe, folder, display, stop, resume=resume, allow_changed=allow_changed)
        try:
            while job.state.stage < len(recipe.stages):
                train_stage(job, recipe.stages[job.state.stage])
            finish(job)
        finally:
            display.end()
            job.log.close()


def train_stage(job: Job, stage: StageSpec) -> None:
    """One stage from where it stands: set up, epochs of steps, a checkpoint at its end."""
    # ---- what trains, on what
    state, settings, materials = job.state, job.recipe.train, job.materials
    model, tasks, split = materials.model, stage_tasks(job, stage), materials.split(stage.data)
    if not len(split):
        raise RecipeError(f"stages.{stage.name}: the split '{stage.data}' has no rows")
    weights = {name: job.recipe.tasks[name].weight for name in tasks}
    collator = Collator(list(tasks.values()), materials.processor, modality_dropout=settings.modality_dropout)
    rows = apply_stage(model, job.recipe, stage, unreached=state.unreached)
    if not state.checked:
        rows = _check_influence(job, stage, tasks, weights, split, collator) or rows
    job.display.table(f"stage {stage.name}", rows)
    job.event("stage", stage=stage.name, parts=[[row.part, row.parameters, row.trainable] for row in rows])
    if stage.accumulate > 1 and (joint := [name for name, task in tasks.items() if not task.additive]):
        job.display.line(f"note: {', '.join(joint)} compares the rows of each micro-batch of {stage.batch_size}, not of the whole step")

    # ---- optimizer
    groups = parameter_groups(model, weight_decay=settings.weight_decay)
    job.optimizer = torch.optim.AdamW(groups, lr=stage.learning_rate, betas=(settings.betas[0], settings.betas[1]))
    if job.resumed_from is not None:
        checkpoint.load_optimizer(job.resumed_from, model, job.optimizer)
        job.resumed_from = None
    balance = getattr(model, "balance", None)
    if balance is not None:
        count = sum(p.numel() for p in balance.parameters())
        job.display.line(f"balance: {count:,} parameters in heads for each input alone; they are not part of the finished model")
    stepper = Stepper(
        model, tasks, weights, job.optimizer, precision=job.precision, seed=settings.seed, clip=settings.clip, balance=balance
    )

    # ---- epochs
    seed = seed_of(settings.seed, state.stage)
    plan_of = partial(plan_epoch, split, seed=seed, batch_size=stage.batch_size, group_rows=settings.group_rows)
    plan = plan_of(epoch=state.epoch)
    clock = StageClock(state, stage, steps_per_epoch=math.ceil(len(plan) / stage.accumulate))
    if clock.passes > 1:
        split, collator = _cache_features(job, tasks, split, collator)
    job.display.begin(f"stage {stage.name}", clock.done())
    while clock.done() < 1 and not job.stops_early():
        plan = plan_of(epoch=state.epoch)
        loader = Loader(
            split, plan, collator, num_workers=settings.num_workers, start=state.batch, seed=seed, epoch=state.epoch, augment=True
        )
        _epoch(job, stage, tasks, stepper, loader, clock)
        if not job.accounting.counts()[stage.data]["used"]:
            raise RecipeError(f"data.{stage.data}: no sample can be used by {', '.join(tasks)}; see {job.folder / 'quarantine.jsonl'}")
        if state.batch == len(plan):
            if settings.evaluate_every is None:
                job.validate(tasks)
            state.epoch, state.batch = state.epoch + 1, 0

    # ---- end
    job.display.end()
    job.validate(tasks)
    state.next_stage()
    job.optimizer = None
    job.save()


def _epoch(
    job: Job, stage: StageSpec, tasks: Mapping[str, Any], stepper: Stepper, loader: Iterable[StepBatches], clock: StageClock
) -> None:
    """Steps until the epoch's or the stage's end."""
    state, settings, size = job.state, job.recipe.train, len(job.materials.split(stage.data))
    job.validate_if_due(tasks)  # where a signal came in the middle of it
    if job.stops_early():
        return
    for micro in _grouped(loader, stage.accumulate):
        for part in micro:
            job.accounting.add(stage.data, size, part, epoch=state.epoch)
        rate = learning_rate(
            clock.done(0.5),
            peak=stage.learning_rate,
            warmup=settings.warmup if stage.warmup is None else stage.warmup,
            kind=settings.schedule,
        )
        result = stepper(micro, step=state.step, learning_rate=rate)
        state.batch, state.step, state.stage_step = state.batch + len(micro), state.step + 1, state.stage_step + 1
        _record(job, stage, result, rate, clock.done())
        job.validate_if_due(tasks)
        if job.save_is_due():
            job.save()
        job.poll()
        if clock.done() >= 1 or job.stops_early():
            return


def _record(job: Job, stage: StageSpec, result: StepResult, rate: float, done: float) -> None:
    """Log one step as it was; stop after too many that were not finite."""
    state = job.state
    noted = {key: value for key in ("skipped", "shortened", "loss_weights") if (value := getattr(result, key))}
    facts = {"loss": result.loss, "losses": result.losses, "learning_rate": rate, "grad_norm": result.grad_norm, "rows": result.rows}
    job.log.write(step=state.step, stage=stage.name, epoch=state.epoch, **facts, seconds=round(state.seconds, 3), **noted)
    job.display.step(step=state.step, loss=result.loss, rows=result.rows, done=done)
    state.count("unlabelled_batches", result.unlabelled)
    if result.skipped is None:
        state.nonfinite_in_a_row = 0
        return
    state.count(result.skipped)
    if result.skipped == "empty":
        return
    state.nonfinite_in_a_row += 1
    job.event(result.skipped, ids=result.ids)
    shown = ", ".join(result.ids[:5]) + (" ..." if len(result.ids) > 5 else "")
    job.warn(
        f"WARNING: step {state.step} was skipped: {result.skipped} (loss {result.loss}, gradient norm {result.grad_norm}); samples: {shown}"
    )
    if state.nonfinite_in_a_row >= NONFINITE_LIMIT:
        state.nonfinite_in_a_row = 0
        path = job.save()
        raise NonFiniteError(
            f"{NONFINITE_LIMIT} steps in a row had NaN or Inf (the last: {result.skipped}, samples: {shown}); the last finite weights are "
            f"in {path}; look at those samples, or lower stages.{stage.name}.learning_rate"
        )


def _grouped(loader: Iterable[StepBatches], count: int) -> Iterator[list[StepBatches]]:
    batches = iter(loader)
    while group := list(itertools.islice(batches, count)):
        yield group


def _cache_features(job: Job, tasks: Mapping[str, Any], split: Any, collator: Collator) -> tuple[Any, Collator]:
    """Where media would be encoded again and again by a frozen encoder: a split and a collator that read stored features instead."""
    model, processor = job.materials.model, job.materials.processor
    read = dict.fromkeys(name for task in tasks.values() for name in task.inputs)
    names = cacheable_inputs(model, processor, list(read))
    scanned = scan(split, {name: processor.modalities[name] for name in names}) if names else {}
    for name in names:
        try:
            processor, split, store = with_features(
                model, processor, split, name, precision=job.precision, workers=job.recipe.train.num_workers, scanned=scanned
            )
            job.display.line(f"features of {name} ({len(store.places)} distinct) are read from {store.folder}")
        except NotCached as reason:
            job.display.line(f"note: features of {name} are computed anew in every epoch: {reason}")
    return split, Collator(list(tasks.values()), processor, modality_dropout=job.recipe.train.modality_dropout)


def _check_influence(
    job: Job, stage: StageSpec, tasks: Mapping[str, Any], weights: Mapping[str, float], split: Any, collator: Any
) -> list[Any] | None:
    """The check before step 0; returns a new table where parameters that no task reaches were frozen."""
    found = check_influence(job.materials.model, tasks, weights, split, collator, stage=stage)
    for note in found.notes:
        job.display.line(f"note: {note}")
    job.state.checked, job.state.unreached = True, found.unreached
    return apply_stage(job.materials.model, job.recipe, stage, unreached=found.unreached) if found.unreached else None
