"""From finished cells to the Comparison: the rows that train nothing, and everything in the table's order."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from subprocess import run as run_command
from typing import Any

import numpy as np

from chiasm.compare.blind import commonest, ensemble
from chiasm.compare.cell import Work, note, peak_memory, rank, save, saved, slug, trial_note, validation_of, works
from chiasm.compare.measure import Measured, measure
from chiasm.compare.plan import Plan, PlannedRow
from chiasm.compare.planning import MEMBERS
from chiasm.compare.result import Cell, Comparison, Row
from chiasm.compare.trees import Trees
from chiasm.evaluation.result import read_json
from chiasm.run import BASELINE_ROWS, Run, load
from chiasm.training.materials import rows_of


def collect(folder: Path, plan: Plan, command: str) -> Comparison:
    """All rows of a comparison whose cells are made."""
    own = {row.name: [saved(folder / "cells" / Work(row.name, seed).name) for seed in plan.seeds] for row in plan.trained}
    rows = [row_of(folder, plan, row, own) for row in plan.rows]
    first = own[plan.trained[0].name][0]
    return Comparison(
        recipe=plan.request["recipe"],
        command=command,
        commit=commit(),
        task=plan.task,
        metric=plan.metric,
        higher_is_better=plan.higher_is_better,
        split=plan.items.split,
        seeds=plan.seeds,
        ids=plan.items.ids,
        targets=first.targets,
        controlled=plan.items.controlled,
        rows=rows,
        match=plan.request["match"],
        trials=plan.trials,
        encoder_cache=plan.encoder_cache,
        notes=[*plan.notes, *memory_note(folder, plan)],
        clusters=plan.items.clusters,
    )


def memory_note(folder: Path, plan: Plan) -> list[str]:
    """Where the system cannot tell one cell's memory from that of the cells before it in the same process."""
    memory = [read_json(folder / "cells" / work.name / "memory.json")["of"] for work in works(plan)]
    shared = [of for of in memory if of != "this cell"]
    return [f"peak memory is that of {shared[0]}, on this system"] if shared else []


def row_of(folder: Path, plan: Plan, row: PlannedRow, own: dict[str, list[Measured]]) -> Row:
    """One line of the table, its cells in the order of the seeds."""
    facts: dict[str, Any] = {"parameters": row.parameters, "trainable": row.trainable, "macs": row.macs}
    inputs, remark = row.inputs, row.note
    if row.name in own:
        cells = [found.cell for found in own[row.name]]
        remark = "; ".join(filter(None, [row.note, trial_note(folder, plan, row)]))
    elif row.name == f"{MEMBERS}x best unimodal":
        best = best_single(folder, plan)
        inputs, remark = best.inputs, f"{best.name} on {plan.selection}"
        facts = {key: None if (value := getattr(best, key)) is None else MEMBERS * value for key in facts}
        cells = [mean_cell(plan, [own[best.name][i] for i in chosen], [best.inputs] * MEMBERS, seed) for seed, chosen in thirds(plan.seeds)]
    elif row.kind == "ensemble":
        single = [other for other in plan.rows if other.kind == "unimodal"]
        cells = [
            mean_cell(plan, [own[other.name][i] for other in single], [other.inputs for other in single], seed)
            for i, seed in enumerate(plan.seeds)
        ]
    else:
        cells = [untrained(folder, plan, row)]
    return Row(row.name, row.kind, inputs, cells, **facts, runs_on=row.runs_on, note=remark)


def mean_cell(plan: Plan, members: list[Measured], inputs: list[list[str]], seed: int) -> Cell:
    return ensemble(members, inputs, plan.items, plan.answers, seed).cell


def thirds(seeds: list[int]) -> list[tuple[int, list[int]]]:
    """(first seed, places of three seeds in a row, going round): one ensemble of three for three seeds, n for n > 3."""
    count = len(seeds)
    return [(seeds[i], [(i + k) % count for k in range(MEMBERS)]) for i in range(count if count > MEMBERS else 1)]


def best_single(folder: Path, plan: Plan) -> PlannedRow:
    """The input whose models are best on the selection split, by the mean over seeds; test items decide nothing."""

    def figure(row: PlannedRow) -> float:
        return float(np.mean([validation_of(folder, Work(row.name, seed)) for seed in plan.seeds]))

    return min((row for row in plan.rows if row.kind == "unimodal"), key=lambda row: rank(figure(row), plan.higher_is_better))


def untrained(folder: Path, plan: Plan, row: PlannedRow) -> Cell:
    """The commonest answer, or trees; made once and kept like any other cell."""
    path = folder / "cells" / slug(row.name)
    if not (path / "cell.json").is_file():
        run = load(folder / "cells" / Work(plan.trained[0].name, plan.seeds[0]).name)
        maker: Callable[..., Measured] = make_trees if row.kind == "trees" else make_majority
        note(folder, "test split opened", cell=slug(row.name), split=plan.items.split)
        save(path, maker(plan, run))
    return saved(path).cell


def make_majority(plan: Plan, run: Run) -> Measured:
    samples = rows_of(run.split(run.recipe.stages[-1].data), BASELINE_ROWS)
    return Measured(commonest(run.tasks[plan.task], plan.answers, samples, plan.items, plan.seeds[0]), [])


def make_trees(plan: Plan, run: Run) -> Measured:
    """Fit on the training split, measure like a network."""
    start = time.perf_counter()
    with peak_memory() as peak:
        trees = Trees(run.model, run.processor, run.tasks[plan.task], run.recipe, plan.answers, seed=plan.seeds[0])
        trees.fit(run.split(run.recipe.stages[-1].data))
    seconds = round(time.perf_counter() - start, 3)
    found = measure(trees, run.split(plan.items.split), plan.items, seed=plan.seeds[0], interactions=True)
    found.cell.train_seconds, found.cell.peak_memory = seconds, peak["bytes"]
    return found


def commit() -> str:
    """The commit that this code is of, with a plus where files differ from it; the version where it is installed without git."""
    here = Path(__file__).parent
    said = run_command(
        ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    tracked = run_command(["git", "-C", str(here), "ls-files", "--error-unmatch", "__init__.py"], capture_output=True, check=False)
    return said.stdout.strip() if said.returncode == tracked.returncode == 0 else f"version {version('chiasm')}"
