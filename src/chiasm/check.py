"""`check`: everything that can be known of a recipe or of data before anything is spent: problems, what would train, memory and time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from chiasm.data.collate import Collator
from chiasm.data.inspect import inspect_data
from chiasm.data.opening import open_file, split_names
from chiasm.data.order import plan_epoch
from chiasm.data.randomness import some_of
from chiasm.evaluation.result import plain
from chiasm.quantized import count_parameters
from chiasm.recipe import Recipe, load_recipe
from chiasm.recipe_check import check_components
from chiasm.recipe_errors import RecipeProblems
from chiasm.training.materials import Materials, assemble
from chiasm.training.stages import apply_stage
from chiasm.types import BadSample, ChiasmError

SAMPLED_ROWS = 200  # opened to see whether they can be used
TIMED_STEPS, TIMED_SECONDS = 5, 5.0  # steps that are timed at most, and seconds after which no further one begins
STEP_STATES = 4  # fp32 weights, gradient, and AdamW's two moments


@dataclass(slots=True)
class Check:
    """What was found: lines to read, problems to mend, and the same as data."""

    is_recipe: bool
    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return plain({"problems": self.problems, **self.facts})


def check(target: str | Path, *, overrides: Sequence[str] = ()) -> Check:
    """Check a recipe (file or shipped name) or data (a table or folder)."""
    path = Path(target)
    if path.exists() and path.suffix not in (".yaml", ".yml"):
        return check_data(path)
    found = Check(is_recipe=True)
    try:
        recipe = load_recipe(str(target), overrides)
        check_components(recipe)
        materials = assemble(recipe)
    except RecipeProblems as error:
        found.problems += [str(problem) for problem in error.problems]
        return found
    except ChiasmError as error:
        found.problems.append(str(error))
        return found
    check_splits(recipe, materials, found)
    if not found.problems:
        check_stages(recipe, materials, found)
    return found


def check_data(path: Path) -> Check:
    """Rows, columns, gaps, duplicates and leaks of a table or folder."""
    report = inspect_data({path.name: open_file(path)})
    found = Check(is_recipe=False, problems=list(report.get("problems", [])), facts={"data": report})
    for name, split in report["splits"].items():
        found.lines.append(f"{name}: {split['rows']:,} rows")
        for column, facts in split["columns"].items():
            counted = [f"{key} {value}" for key, value in facts.items() if key not in ("kind", "why") and isinstance(value, int | float)]
            about = ", ".join([*filter(None, [facts.get("why")]), *counted])
            found.lines.append(f"  {column}: {facts.get('kind', '')}" + (f" ({about})" if about else ""))
    return found


def check_splits(recipe: Recipe, materials: Materials, found: Check) -> None:
    """Open some rows of every split and let the tasks judge them."""
    tasks = list(materials.tasks.values())
    collator = Collator(tasks, materials.processor)
    facts: dict[str, Any] = {}
    used_in = {stage.data for stage in recipe.stages}
    for name in split_names(recipe.data):
        if name not in used_in and name not in ("validation", "test"):
            continue
        try:
            split = materials.split(name)
            step = split.open_rows(some_of(len(split), SAMPLED_ROWS))
            batches = collator(step)
        except ChiasmError as error:
            found.problems.append(f"{name}: {error}")
            continue
        bad = batches.bad
        facts[name] = {"rows": len(split), "opened": len(step), "bad": len(bad), "no task wants": batches.filtered}
        found.lines.append(f"{name}: {len(split):,} rows; of {len(step)} opened, {len(bad)} bad, {batches.filtered} for no task")
        found.lines += [f"  bad: {line(b)}" for b in bad[:5]]
        if name in used_in and batches.filtered + len(bad) == len(step):
            columns = ", ".join(sorted(split.source.columns))
            needs = "; ".join(f"{t.name} needs {', '.join(t.targets)}" for t in tasks)
            found.problems.append(f"{name}: no task can use any of its rows; its columns are {columns}; {needs}")
    found.facts["splits"] = facts


def check_stages(recipe: Recipe, materials: Materials, found: Check) -> None:
    """What each stage would train, how much memory it takes, and how long it lasts by one measured step."""
    model = materials.model
    total = count_parameters(model)
    held = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    found.facts |= {"parameters": total, "stages": {}}
    for stage in recipe.stages:
        rows = apply_stage(model, recipe, stage)
        split = materials.split(stage.data)
        plan = plan_epoch(
            split, seed=recipe.train.seed, epoch=0, batch_size=stage.batch_size, group_rows=recipe.train.group_rows, shuffle=True
        )
        trainable = sum(row.trainable for row in rows)
        steps = stage.steps or (stage.epochs or 1) * -(-len(plan) // stage.accumulate)
        seconds = timed_step(materials, split.open_rows(plan[0]), stage.tasks)
        megabytes = (held + trainable * 4 * (STEP_STATES - 1)) / 2**20
        minutes = steps * seconds * stage.accumulate / 60
        length = f"about {minutes:.1f} min" if stage.max_minutes is None else f"at most {stage.max_minutes:g} min"
        found.lines.append(
            f"stage {stage.name}: {trainable:,} of {total:,} parameters train, {steps:,} steps of "
            f"{stage.batch_size * stage.accumulate} rows, {length} here; weights and optimizer {megabytes:.0f} MB, and activations"
        )
        found.lines += [f"  {row.part}: {row.trainable:,} of {row.parameters:,}" for row in rows]
        found.facts["stages"][stage.name] = {"trainable": trainable, "steps": steps, "seconds_per_step": seconds, "megabytes": megabytes}


def timed_step(materials: Materials, opened: Sequence[Any], tasks: Sequence[str] | None) -> float:
    """Seconds of one forward and backward pass over some opened rows: the median of a few, after one to warm up. No weight changes."""
    chosen = [task for name, task in materials.tasks.items() if tasks is None or name in tasks]
    step = Collator(chosen, materials.processor)(opened).to(materials.model.device)
    spent: list[float] = []
    while len(spent) < TIMED_STEPS + 1 and (len(spent) < 2 or sum(spent) < TIMED_SECONDS):
        start = time.perf_counter()
        streams = materials.model.encode(step.pool)
        losses = [task.loss(materials.model, batch, streams).total for batch in step.batches for task in [materials.tasks[batch.task]]]
        total = torch.stack(losses).sum()
        if total.requires_grad:
            total.backward()
        spent.append(time.perf_counter() - start)
        materials.model.zero_grad(set_to_none=True)
    return median(spent[1:])


def line(bad: BadSample) -> str:
    """One bad sample in a line."""
    where = f"{bad.file}:{bad.line}" if bad.line else bad.file or bad.id
    return f"{where} {bad.input}: {bad.message} ({bad.reason})"
