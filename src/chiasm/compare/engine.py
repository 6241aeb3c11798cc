"""`compare`: which fusion, if any, is worth its cost on this data? Only the fusion varies; single inputs and blind answers stand beside it.

    plan -> cells (trained, then measured once on the test items) -> Comparison -> statistics, page, table

COMPARISON/plan.json, cells/, log.jsonl, comparison.json (what was measured, and the statistics beside it), comparison.html.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from chiasm.compare import jobs as cells
from chiasm.compare.cell import choose_rates, is_done, note, trial_works, works
from chiasm.compare.collect import collect
from chiasm.compare.plan import Plan, check_same, request_of
from chiasm.compare.planning import make_plan
from chiasm.compare.recipes import DEFAULT, parse_strategies, varied
from chiasm.compare.result import Comparison
from chiasm.evaluation.result import plain, write_text
from chiasm.recipe import Recipe, load_recipe
from chiasm.recipe_check import check_components
from chiasm.training.display import Display
from chiasm.training.lock import run_lock
from chiasm.types import ChiasmError, RecipeError


@dataclass(frozen=True, slots=True)
class Reporting:
    """The other half of `compare`: from what was measured to what is said of it."""

    summarise: Callable[[Comparison], dict[str, Any]]
    write_page: Callable[[dict[str, Any], Path], Any]
    lines: Callable[[dict[str, Any]], Iterable[str]]


def reporting() -> Reporting:
    """The library's own statistics, page and table; imported when they are needed, since they load what draws."""
    own = ("summary", "summarise"), ("page", "write_page"), ("table", "lines")
    return Reporting(*(getattr(import_module(f"chiasm.compare.{module}"), name) for module, name in own))


@dataclass(frozen=True, slots=True)
class Compared:
    """A finished comparison: its folder, what was measured, the statistics, and the table as lines."""

    folder: Path
    comparison: Comparison
    summary: dict[str, Any]
    lines: list[str]


def compare(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    fusions: str | Sequence[str | Mapping[str, Any]] | None = None,
    vary: Sequence[str] = (),
    seeds: int = 3,
    match: str | None = None,
    trials: int = 1,
    task: str | None = None,
    output: str | Path | None = None,
    jobs: int = 1,
    overrides: Sequence[str] = (),
    progress: bool = True,
    report: Reporting | None = None,
) -> Compared:
    """Train every fusion, every input alone and what stands beside them, and compare them on the test items.

    `fusions`: names, `name:key=value`, or mappings as in a recipe; early, gated_cross_attention and late where not given. `vary`: keys of
    the recipe that every fusion is trained with each value of, e.g. "train.modality_dropout=0,0.3". `match` brings all to one budget of
    parameters or MACs. `trials`: learning rates per row, chosen on validation. The folder is runs/compare-NAME where
    `output` is not given; the same call goes on where an earlier one stopped. Raises RecipeError for what cannot be compared as it stands.
    """
    resolved = load_recipe(recipe, overrides)
    check_components(resolved)
    for name, value in (("seeds", seeds), ("trials", trials), ("jobs", jobs)):
        if value < 1:
            raise RecipeError(f"--{name} {value}: give a whole number from 1 on")
    if match not in (None, "params", "macs"):
        raise RecipeError(f"--match {match}: write params or macs")
    folder = Path(output) if output is not None else Path("runs") / f"compare-{resolved.name}"
    display = Display(progress)
    with run_lock(folder, display.warn):
        plan = planned(resolved, folder, fusions, vary, seeds=seeds, match=match, trials=trials, task=task, display=display)
        announce(plan, folder, display, jobs)
        cells.run(folder, plan, trial_works(folder, plan), jobs=jobs, progress=progress)
        choose_rates(folder, plan)
        cells.run(folder, plan, works(plan), jobs=jobs, progress=progress)
        display.line("measuring what trains no network")
        comparison = collect(folder, plan, command_line(recipe, overrides, plan.request, seeds))
        return finish(folder, comparison, report or reporting())


def planned(
    recipe: Recipe,
    folder: Path,
    fusions: str | Sequence[str | Mapping[str, Any]] | None,
    vary: Sequence[str],
    *,
    seeds: int,
    match: str | None,
    trials: int,
    task: str | None,
    display: Display,
) -> Plan:
    """The plan that the folder has, where it is the same; else a new one that goes on with the cells that are there."""
    chosen = parse_strategies(fusions if fusions is not None else DEFAULT)
    strategies = varied(chosen, vary)
    data = recipe.model_dump(mode="json", exclude_none=True)
    asked = None if fusions is None else [{"name": s.name, "type": s.type, "options": s.options} for s in chosen]
    request = request_of(data, asked, vary, task=task, match=match, trials=trials)
    numbers = [recipe.train.seed + i for i in range(seeds)]
    before = Plan.load(folder)
    if before is not None:
        check_same(folder, before.request, request)
    if before is None or before.request != request or len(before.seeds) != seeds:
        display.line("building every row once, to see what it costs")
        precision = before.precision if before is not None else None
        before = make_plan(recipe, request, strategies, optional=fusions is None, seeds=numbers, precision=precision)
        before.save(folder)
        note(folder, "test items listed", split=before.items.split, items=len(before.items.ids))
    return before


def announce(plan: Plan, folder: Path, display: Display, jobs: int) -> None:
    """Say what will be done, and about how long it takes."""
    items = plan.items
    rows = f"{len(items.ids):,} rows of {items.split} (controls on {len(items.controlled)})"
    display.line(f"{plan.name}: task {plan.task}, {plan.metric} on {rows}, seeds {', '.join(map(str, plan.seeds))}")
    width = max(len(row.name) for row in plan.rows)
    for row in plan.rows:
        size = f"{row.trainable:>12,} train  {row.macs or 0:>14,} MACs" if row.trainable is not None else " " * 38
        models = f"{len(plan.seeds)} model{'s' * (len(plan.seeds) > 1)}" if row.recipe else ""
        display.line(f"  {row.name:<{width}}  {size}  {models:<9}  {row.note}".rstrip())
    for line in plan.notes + ([f"latency is measured while up to {jobs} cells run at once"] if jobs > 1 else []):
        display.line(f"note: {line}")
    for name, digest in plan.encoder_cache.items():
        display.line(f"features of {name} are the same for all cells: sha256 {digest}")
    trials = trial_works(folder, plan)
    todo = [*trials, *(work for work in works(plan) if not is_done(folder, work))]
    seconds = sum(cells.cost_of(plan, work) for work in todo) / max(1, min(jobs, len(todo)))
    size = sum((row.parameters or 0) * 4 * len(plan.seeds) for row in plan.trained) / 2**20
    done = len(works(plan)) - len(todo) + len(trials)
    display.line(
        f"{len(todo)} cells to make ({done} are done), about {duration(seconds)} here by a timed step; about {size:,.0f} MB in {folder}"
    )


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def finish(folder: Path, comparison: Comparison, report: Reporting) -> Compared:
    """Say what was measured, and keep it; comparison.json holds what the statistics were made of."""
    measured = json.loads(json.dumps(plain(comparison.to_json())))  # exactly what a replay will read
    found = told(folder, Comparison.from_json(measured), report)
    write_text(folder / "comparison.json", json.dumps({"comparison": measured, "summary": found.summary}, ensure_ascii=False) + "\n")
    return found


def told(folder: Path, comparison: Comparison, report: Reporting) -> Compared:
    """Statistics, page and table of what was measured."""
    summary = plain(report.summarise(comparison))
    report.write_page(summary, folder / "comparison.html")
    return Compared(folder, comparison, summary, list(report.lines(summary)))


def replay(folder: str | Path, *, report: Reporting | None = None) -> Compared:
    """The statistics, page and table again from COMPARISON/comparison.json, without training or testing anything."""
    folder = Path(folder)
    file = folder / "comparison.json"
    if not file.is_file():
        more = "; go on with the same `chiasm compare` command" if (folder / "plan.json").is_file() else ""
        raise ChiasmError(f"{folder}: not a finished comparison (it has no comparison.json){more}")
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        comparison = Comparison.from_json(stored["comparison"])
    except (ValueError, KeyError, TypeError) as error:
        raise ChiasmError(f"{file}: cannot be read as a comparison ({type(error).__name__}: {error}); make it again") from None
    return told(folder, comparison, report or reporting())


def command_line(recipe: Any, overrides: Sequence[str], request: Mapping[str, Any], seeds: int) -> str:
    """The command that does the same; a recipe that was given as data is called RECIPE."""
    words = ["chiasm", "compare", str(recipe) if isinstance(recipe, str | Path) else "RECIPE", *overrides]
    if request["fusions"] is not None:
        words += ["--fusion", ",".join(fusion["name"] for fusion in request["fusions"])]
    for given in request["vary"]:
        words += ["--vary", given]
    for option, value in (("--seeds", seeds), ("--match", request["match"]), ("--trials", request["trials"]), ("--task", request["task"])):
        words += [option, str(value)] if value is not None else []
    return shlex.join(words)
