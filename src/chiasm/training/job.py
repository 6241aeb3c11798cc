"""A training in progress: what the loop holds, how it begins or resumes, saves, validates and ends."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chiasm.data.account import Accounting
from chiasm.evaluation.evaluate import evaluate
from chiasm.model_files import save_model
from chiasm.recipe import Recipe, StageSpec
from chiasm.training import checkpoint
from chiasm.training.display import Display
from chiasm.training.distributed import OneProcess
from chiasm.training.log import NoLog, RunLog
from chiasm.training.materials import Materials
from chiasm.training.precision import Precision, guard_threads, pick_precision
from chiasm.training.signals import Stopped, StopRequest
from chiasm.training.stages import set_modes
from chiasm.training.state import TrainState, check_unchanged
from chiasm.training.validation import note_result, read_best, run_validation, summary
from chiasm.types import ChiasmError

SAVE_SECONDS = 60.0  # between checkpoints, where save_every is not given, ...
SAVE_SHARE = 20  # ... or so many times what a save took


@dataclass(slots=True)
class Job:
    """All of one run. `resumed_from` is the checkpoint it goes on from, for the optimizer of its stage."""

    recipe: Recipe
    folder: Path
    materials: Materials
    state: TrainState
    log: RunLog
    display: Display
    stop: StopRequest
    precision: Precision
    accounting: Accounting
    build: Callable[[Recipe], Materials]
    processes: OneProcess
    resumed_from: Path | None = None
    optimizer: Any = None
    saved_at: float = 0.0
    save_cost: float = 0.0

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def event(self, name: str, **facts: Any) -> None:
        self.log.write(event=name, step=self.state.step, **facts)

    def warn(self, text: str) -> None:
        self.display.warn(text)
        self.event("warning", text=text)

    def save(self) -> Path:
        """Write a checkpoint of this moment, then prune the older ones."""
        start = time.monotonic()
        model, optimizer, parts = self.materials.model, self.optimizer, {}
        if self.processes.shards:
            parts["weights"] = self.processes.whole(model.state_dict(keep_vars=True))
            parts["moments"] = self.processes.whole(checkpoint.optimizer_tensors(model, optimizer))

        def write() -> str:
            self.state.log_bytes = self.log.sync()
            self.state.accounting = self.accounting.state()
            self.accounting.write(self.folder)
            state = self.state.to_json()
            path = checkpoint.save(self.checkpoints, self.state.step, model=model, optimizer=optimizer, state=state, **parts)
            protect = [] if self.state.best_step is None else [self.state.best_step]
            checkpoint.prune(self.checkpoints, keep_last=self.recipe.train.keep_last, protect=protect, warn=self.warn)
            return str(path)

        path = self.processes.on_main(write)
        self.saved_at = time.monotonic()
        self.save_cost = self.saved_at - start
        return Path(path)

    def save_is_due(self) -> bool:
        every = self.recipe.train.save_every
        if every is not None:
            return self.state.step % every == 0
        return self.processes.shared(time.monotonic() - self.saved_at > max(SAVE_SECONDS, SAVE_SHARE * self.save_cost))

    def poll(self) -> None:
        """Stop here with a checkpoint, where a signal asked any process for it."""
        asked = next((number for number in self.processes.gather(self.stop.asked) if number is not None), None)
        if asked is not None:
            path = self.save()
            name = {2: "SIGINT", 15: "SIGTERM"}[asked]
            again = f"chiasm train {self.folder}/recipe.yaml --output {self.folder} --resume"
            raise Stopped(asked, f"stopped by {name} after step {self.state.step}; checkpoint {path.name}; go on with {again}")

    def validate(self, tasks: Mapping[str, Any]) -> None:
        """Score the validation split, once per step at most; the best weights so far are kept in a checkpoint."""
        best, state = read_best(self.recipe), self.state
        name = best.split if best else "validation"
        if state.evaluated == state.step or not self.materials.has(name):
            return
        columns = set(self.materials.split(name).source.columns) | set(self.recipe.inputs)
        tasks = {name: task for name, task in tasks.items() if {*task.targets, *task.lists} <= columns}
        if not tasks:
            return  # this stage learns from columns that the split does not have
        model, workers = self.materials.model, self.recipe.train.num_workers
        found = self.processes.evaluate(
            lambda: run_validation(
                evaluate, model, self.materials.processor, self.materials.split(name), tasks, num_workers=workers, poll=self.poll
            )
        )
        set_modes(model)
        metrics = self.processes.shared(found.metrics)
        self.event("evaluation", split=name, metrics=metrics)
        self.display.line(f"{name} after step {state.step}: {summary(metrics, tasks)}")
        if note_result(state, best, metrics):
            self.save()

    def validate_if_due(self, tasks: Mapping[str, Any]) -> None:
        every = self.recipe.train.evaluate_every
        if every is not None and self.state.stage_step and self.state.step % every == 0:
            self.validate(tasks)

    def next_stage(self) -> None:
        """The stage is done and saved. Parts that were split over processes become whole again, since another stage trains other parts."""
        self.state.next_stage()
        self.optimizer = None
        path = self.save()
        if self.processes.shards and self.state.stage < len(self.recipe.stages):
            self.materials = self.build(self.recipe)
            checkpoint.load_weights(path, self.materials.model)

    def stops_early(self) -> bool:
        patience = self.recipe.train.early_stopping
        return patience is not None and self.state.since_best >= patience


def begin(
    build: Callable[[Recipe], Materials],
    recipe: Recipe,
    folder: Path,
    display: Display,
    stop: StopRequest,
    processes: OneProcess,
    *,
    resume: bool,
    allow_changed: bool,
) -> Job:
    """A fresh Job, or one that goes on from the newest checkpoint that verifies. Call with the run's lock held."""
    checkpoints = folder / "checkpoints"
    device = processes.device(recipe.train.device)

    def look() -> list[Any]:
        path = _checkpoint_of(folder, display, resume=resume)
        resumed = path is not None
        state = _resumed_state(path, recipe, display, allow_changed=allow_changed) if resumed else _fresh_state(recipe, device, display)
        _note_processes(state, processes, display, resumed=resumed)
        return [str(path) if resumed else None, state.to_json()]

    found, saved = processes.on_main(look)
    path, state = Path(found) if found else None, TrainState(**saved)
    precision = Precision(state.precision, device.type, "")
    torch.set_num_threads(state.threads)
    torch.manual_seed(recipe.train.seed)
    materials = build(recipe)
    if path is not None:
        checkpoint.load_weights(path, materials.model)
    processes.equalise(materials.model)
    if not processes.shards:  # else each part goes there when it is cut
        materials.model.to(device)
    for note in materials.notes:
        display.line(f"note: {note}")
    accounting = Accounting(bad_samples=recipe.train.bad_samples, max_bad=recipe.train.max_bad)
    if path is not None:
        accounting.load_state(state.accounting)

    def prepare() -> None:
        if path is None:
            checkpoint.require_space(checkpoints, materials.model)
        (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")

    processes.on_main(prepare)
    log = RunLog(folder / "log.jsonl", keep_bytes=state.log_bytes if path is not None else None) if processes.is_main else NoLog()
    job = Job(recipe, folder, materials, state, log, display, stop, precision, accounting, build, processes, resumed_from=path)
    job.saved_at = time.monotonic()
    return job


def _checkpoint_of(folder: Path, display: Display, *, resume: bool) -> Path | None:
    """Where to go on from; ChiasmError where a run that is not to be resumed is there already."""
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    checkpoint.clean(checkpoints)
    if not resume and any(checkpoints.iterdir()):
        raise ChiasmError(f"{folder} holds a run already; go on with --resume, or choose another --output")
    path = checkpoint.newest_valid(checkpoints, display.warn) if resume else None
    if resume and path is None:
        display.line(f"{folder} has no checkpoint to resume from; starting at step 0")
    return path


def _note_processes(state: TrainState, processes: OneProcess, display: Display, *, resumed: bool) -> None:
    if resumed and state.processes != processes.world:
        display.line(
            f"note: this run was trained by {state.processes} process(es) and goes on with {processes.world}: the rows of a step are the "
            "same, but draws of dropout differ, sums are rounded in another order, and batch norms see other rows: not equal to the bit"
        )
    if processes.world > 1:
        how = "the backbone is split over them" if processes.shards else "each has the whole model"
        display.line(f"{processes.world} processes; {how}")
    state.processes = processes.world


def _fresh_state(recipe: Recipe, device: torch.device, display: Display) -> TrainState:
    if line := guard_threads(recipe.train.num_workers if device.type == "cpu" else 0):
        display.line(line)
    precision = pick_precision(recipe.train.precision, device)
    display.line(f"precision: {precision.name} on {device} ({precision.reason})")
    return TrainState(recipe=recipe.model_dump(mode="json", exclude_none=True), precision=precision.name, threads=torch.get_num_threads())


def _resumed_state(path: Path, recipe: Recipe, display: Display, *, allow_changed: bool) -> TrainState:
    state = TrainState(**checkpoint.read_state(path))
    for line in check_unchanged(state.recipe, recipe, allow_changed=allow_changed):
        display.line(f"changed since this run began: {line}")
    state.recipe = recipe.model_dump(mode="json", exclude_none=True)
    display.line(f"resuming from {path}")
    return state


def finish(job: Job) -> None:
    """The kept weights (the best, else the last) and the processor, ready to load, in RUN/model."""
    model = job.materials.model
    weights = job.processes.whole(model.state_dict(keep_vars=True)) if job.processes.shards else None
    job.processes.on_main(lambda: _keep(job, weights))


def _keep(job: Job, weights: Mapping[str, Any] | None) -> None:
    """`weights`: those of the model, where it holds only a part of them."""
    state, model = job.state, job.materials.model
    if state.best_step is not None:
        path = checkpoint.path_of(job.checkpoints, state.best_step)
        if reason := checkpoint.verify(path):
            job.warn(f"WARNING: the best checkpoint {path} is damaged ({reason}); the last weights are kept instead")
        else:
            checkpoint.load_weights(path, model, weights)
    model.balance = model.loss_weights = None  # they are for training only
    model.eval()
    target, aside = job.folder / "model", job.folder / ".saving-model"
    shutil.rmtree(aside, ignore_errors=True)
    save_model(model, job.materials.processor, aside, weights)
    shutil.rmtree(target, ignore_errors=True)
    os.rename(aside, target)
    kept = state.step if state.best_step is None else state.best_step
    job.event("finished", kept=kept, counters=state.counters)
    job.display.line(f"done after {state.step} steps; the weights of step {kept} are in {target}")


def stage_tasks(job: Job, stage: StageSpec) -> dict[str, Any]:
    """The tasks that a stage learns."""
    return {name: task for name, task in job.materials.tasks.items() if stage.tasks is None or name in stage.tasks}
