"""One cell of a comparison: a row's model with one seed, trained in a run folder of its own, then measured. Whatever is done stays done.

COMPARISON/cells/NAME-seedN/   a run folder; cell.json says what was measured, and is written last
COMPARISON/cells/NAME-trialK/  one learning rate of --trials: trained and validated, never tested
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
import shutil
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chiasm.compare.measure import Measured, Network, measure, validate
from chiasm.compare.plan import Plan, PlannedRow, rates
from chiasm.compare.recipes import checked, with_rate, with_seed
from chiasm.compare.result import Cell
from chiasm.evaluation.result import plain, read_json, write_text
from chiasm.recipe import Recipe, load_recipe
from chiasm.run import Run, load
from chiasm.training.log import RunLog, read_log
from chiasm.training.loop import train as run_training
from chiasm.training.materials import assemble
from chiasm.training.signals import Stopped
from chiasm.training.state import FREE, differences
from chiasm.types import RecipeError

TEST_OPENED = "test split opened"  # the event of log.jsonl: once per cell


@dataclass(frozen=True, slots=True)
class Work:
    """A cell to make (or, with `trial`, one of a row's learning rates to try)."""

    row: str
    seed: int
    trial: int | None = None

    @property
    def name(self) -> str:
        return f"{slug(self.row)}-{f'seed{self.seed}' if self.trial is None else f'trial{self.trial}'}"


def slug(name: str) -> str:
    """A row's name as a folder's."""
    return re.sub(r"[^A-Za-z0-9_.=]+", "-", name).strip("-")


def is_done(folder: Path, work: Work) -> bool:
    return (folder / "cells" / work.name / ("cell.json" if work.trial is None else "trial.json")).is_file()


def recipe_of(folder: Path, plan: Plan, work: Work) -> Recipe:
    """The recipe that a cell is trained with."""
    data = plan.row(work.row).recipe
    assert data is not None, f"{work.row} is not trained"
    chosen = work.trial if work.trial is not None else read_json(folder / "trials.json").get(work.row, {}).get("best", 0)
    return checked(with_rate(with_seed(data, work.seed), rates(plan.trials)[chosen]), work.name)


def make(folder: Path, plan: Plan, work: Work) -> None:
    """Train a cell from where it stands, and measure it (of a trial: validate it). RecipeError where it was trained otherwise."""
    path, recipe = folder / "cells" / work.name, recipe_of(folder, plan, work)
    check_unchanged(path, recipe)
    if is_done(folder, work):
        return
    train_cell(path, recipe)
    run = load(path)
    if not (path / "trial.json").is_file():
        figure = validate(network(run, plan), run.split(plan.selection), run.tasks[plan.task], plan.metric)
        write_text(path / "trial.json", json.dumps(plain({"validation": figure})) + "\n")
    if work.trial is None:
        note(folder, TEST_OPENED, cell=work.name, split=plan.items.split)
        row = plan.row(work.row)
        found = measure(network(run, plan), run.split(plan.items.split), plan.items, seed=work.seed, interactions=row.kind == "fusion")
        found.cell.train_seconds = train_seconds(path)
        found.cell.peak_memory = read_json(path / "memory.json")["bytes"]
        save(path, found)
    shutil.rmtree(path / "checkpoints", ignore_errors=True)  # the model is kept; what only a resume needs is not


def network(run: Run, plan: Plan) -> Network:
    return Network(run.model, run.processor, run.tasks[plan.task])


def check_unchanged(path: Path, recipe: Recipe) -> None:
    if (path / "recipe.yaml").is_file():
        before = load_recipe(path / "recipe.yaml").model_dump(mode="json", exclude_none=True)
        now = recipe.model_dump(mode="json", exclude_none=True)
        if changed := [line for key, line in differences(before, now).items() if key not in FREE]:
            raise RecipeError(f"{path} was trained with another recipe ({'; '.join(changed)}); delete it, or choose another --output")


def train_cell(path: Path, recipe: Recipe) -> None:
    """Train into `path`, from its newest checkpoint where there is one; nothing where it has been trained."""
    if (path / "model" / "config.json").is_file() and (path / "memory.json").is_file():
        return
    with peak_memory() as peak:
        try:
            run_training(recipe, output=path, resume=(path / "checkpoints").is_dir(), progress=False, build=assemble)
        except Stopped as error:
            raise Stopped(error.exit_code - 128, f"stopped while training {path.name}; the same command goes on from there") from None
    write_text(path / "memory.json", json.dumps(peak) + "\n")


@contextmanager
def peak_memory() -> Generator[dict[str, Any]]:
    """Fills {"bytes", "of"} with the largest resident memory in the block; where the system cannot tell, of the process so far."""
    found: dict[str, Any] = {}
    gc.collect()  # what an earlier cell left in this process must not count
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    counter, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    try:
        counter.write_text("5")  # Linux: the high-water mark starts anew
        own = True
    except OSError:
        own = False
    yield found
    if own:
        kilobytes = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        found |= {"bytes": kilobytes * 1024, "of": "this cell"}
    else:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        found |= {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "of": "the process so far"}


def train_seconds(path: Path) -> float:
    """Wall time of the steps of all stages, over every session."""
    seconds: dict[str, float] = {}
    for record in read_log(path / "log.jsonl"):
        if "seconds" in record:
            seconds[record["stage"]] = record["seconds"]
    return round(sum(seconds.values()), 3)


def save(path: Path, found: Measured) -> None:
    """Write cell.json, all at once or not at all."""
    found_here = {"cell": asdict(found.cell), "targets": found.targets, "beliefs": found.beliefs}
    write_text(path / "cell.json", json.dumps(plain(found_here), ensure_ascii=False) + "\n")


def saved(path: Path) -> Measured:
    """What cell.json holds."""
    data = read_json(path / "cell.json")
    return Measured(Cell(**data["cell"]), data["targets"], data["beliefs"])


def validation_of(folder: Path, work: Work) -> float:
    """The figure that choices are made by; NaN where it was undefined."""
    value = read_json(folder / "cells" / work.name / "trial.json")["validation"]
    return float("nan") if value is None else value


def note(folder: Path, event: str, **facts: Any) -> None:
    """One line of COMPARISON/log.jsonl."""
    log = RunLog(folder / "log.jsonl", keep_bytes=sys.maxsize)
    log.write(event=event, time=time.strftime("%Y-%m-%dT%H:%M:%S%z"), **facts)
    log.close()


def works(plan: Plan) -> list[Work]:
    """Every cell, the first seed of all rows first."""
    return [Work(row.name, seed) for seed in plan.seeds for row in plan.trained]


def trial_works(folder: Path, plan: Plan) -> list[Work]:
    """Every learning rate of every row that has none chosen yet, with the first seed; none where only the recipe's own is tried."""
    chosen = read_json(folder / "trials.json")
    undecided = [row for row in plan.trained if row.name not in chosen] if plan.trials > 1 else []
    return [Work(row.name, plan.seeds[0], trial) for row in undecided for trial in range(plan.trials)]


def choose_rates(folder: Path, plan: Plan) -> None:
    """The best learning rate of every row, on the selection split; its trial becomes the first seed's cell, the others' models go."""
    chosen = read_json(folder / "trials.json")
    for row in plan.trained if plan.trials > 1 else ():
        trials = [Work(row.name, plan.seeds[0], trial) for trial in range(plan.trials)]
        if row.name not in chosen:
            scores = [validation_of(folder, work) for work in trials]
            ranked = sorted(range(len(scores)), key=lambda k: rank(scores[k], plan.higher_is_better))
            chosen[row.name] = {
                "rates": rates(plan.trials),
                "scores": scores,
                "best": ranked[0],
                "median": scores[ranked[len(ranked) // 2]],
            }
            write_text(folder / "trials.json", json.dumps(plain(chosen), indent=2) + "\n")
        winner = folder / "cells" / trials[chosen[row.name]["best"]].name
        cell = folder / "cells" / Work(row.name, plan.seeds[0]).name
        if winner.is_dir() and not cell.exists():
            winner.rename(cell)
        for work in trials:
            shutil.rmtree(folder / "cells" / work.name / "model", ignore_errors=True)


def rank(figure: float, higher_is_better: bool) -> tuple[bool, float]:
    """Sorts the best figure first, and one that is not a number last."""
    return figure != figure, -figure if higher_is_better else figure


def trial_note(folder: Path, plan: Plan, row: PlannedRow) -> str:
    """What --trials found for a row, in words; empty where nothing was tried."""
    found = read_json(folder / "trials.json").get(row.name)
    if found is None:
        return ""
    best, median = (float("nan") if value is None else value for value in (found["scores"][found["best"]], found["median"]))
    factor, figures = found["rates"][found["best"]], f"{plan.metric} {best:.3g} on {plan.selection} (median {median:.3g})"
    return f"best of {plan.trials} learning rates: {factor:g} x the recipe's, {figures}"
