"""Makes the plan of a comparison: builds every row once, counts what it costs, brings budgets together, and times a few real steps."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chiasm.check import Check, check_stages
from chiasm.compare.additive import items_for
from chiasm.compare.blind import answers_of, pick_task, require_short
from chiasm.compare.cost import Built, match
from chiasm.compare.items import FRACTIONS, MOST_COALITIONS, Items, find_items, open_items
from chiasm.compare.measure import Network, whole
from chiasm.compare.plan import Plan, PlannedRow
from chiasm.compare.recipes import Data, Strategy, alone, checked, fitted, with_fusion
from chiasm.compare.trees import unusable
from chiasm.components import find
from chiasm.data.opening import split_names
from chiasm.recipe import Recipe
from chiasm.run import reported_splits
from chiasm.tasks.generate import Generate
from chiasm.training.feature_cache import NotCached, cacheable_inputs, with_features
from chiasm.training.materials import Materials, assemble, rows_of
from chiasm.training.precision import Precision, pick_device, pick_precision
from chiasm.training.stages import apply_stage
from chiasm.types import ChiasmError, RecipeError

MEMBERS = 3  # models of one input in an ensemble
TEXTS = 1_000  # training texts whose length is looked at
TIMED = 64  # rows whose answers are timed


def make_plan(
    recipe: Recipe, request: dict[str, Any], strategies: Sequence[Strategy], *, optional: bool, seeds: list[int], precision: str | None
) -> Plan:
    """`optional`: a strategy that this recipe cannot build is left out with a note; else it is an error. precision: as an earlier plan
    of the same comparison has it."""
    device = pick_device(recipe.train.device)
    exact = Precision(precision or pick_precision(recipe.train.precision, device).name, device.type, "")
    base: Data = recipe.model_dump(mode="json", exclude_none=True)
    base["train"]["precision"] = exact.name  # a probe might decide differently for each cell
    plan, notes, fixed = None, [], {}
    budgets: dict[str, int] = {}
    for strategy in strategies:
        data = with_fusion(base, strategy)
        start = time.perf_counter()
        try:
            materials = assemble(checked(data, f"fusion {strategy.name}"))
        except RecipeError as error:
            if not optional:
                raise RecipeError(f"fusion {strategy.name}: {str(error).removeprefix(f'fusion {strategy.name}: ')}") from None
            notes.append(f"{strategy.name} is left out: {error}")
            continue
        materials.model.to(device)
        data = fitted(data, materials.model)
        if plan is None:
            building = time.perf_counter() - start
            plan = begin(checked(data, strategy.name), request, materials, seeds, exact)
            plan.seconds["training"] += 2 * building  # a cell's model is built to be trained, and loaded to be measured
            fixed = {name: shape.num_tokens is not None for name, shape in materials.model.model.shapes.items()}
        built = Built(data, materials, plan.task)
        plan.rows.append(planned(strategy.name, "fusion", inputs_of(built), built))
        budgets[strategy.name] = built.budget(request["match"]) if request["match"] else 0
        del materials, built
    if plan is None:
        raise RecipeError(f"no fusion can be built with this recipe; {'; '.join(notes)}")
    plan.notes[:0] = notes
    if request["match"]:
        bring_together(plan, strategies, budgets, request["match"], device)
    add_single_inputs(plan, base, fixed, device)
    add_untrained(plan, recipe)
    return plan


def begin(recipe: Recipe, request: dict[str, Any], materials: Materials, seeds: list[int], exact: Precision) -> Plan:
    """What is the same for every row: the task and its metric, the test items, the frozen encoders' features, the time of a step."""
    name = pick_task(recipe, materials.tasks, request["task"])
    task, last = materials.tasks[name], recipe.stages[-1].data
    answers = answers_of(name, task)
    if len(task.reads) < 2:
        raise RecipeError(f"task {name} reads only {', '.join(task.reads)}; a comparison of fusions needs two inputs or more")
    if answers == "text":
        require_short(name, [task.target.render(s.parts) for s in rows_of(materials.split(last), TEXTS) if task.wants(s)])
    splits = reported_splits(recipe)
    if not splits:
        raise RecipeError("data: compare needs a split called test or validation to report on")
    metric = "exact_match" if answers == "text" else task.metrics[0]
    items = find_items(materials.split(splits[0]), splits[0], task, materials.processor, recipe.data.group_by)
    plan = Plan(
        request=request,
        name=recipe.name,
        task=name,
        answers=answers,
        metric=metric,
        higher_is_better=find("metric", metric).higher_is_better,
        selection="validation" if "validation" in split_names(recipe.data) else last,
        precision=exact.name,
        seeds=seeds,
        items=items,
        rows=[],
    )
    if plan.selection == items.split:
        plan.notes.append(f"there is no test split: the figures are on {items.split}, by which the best single input is chosen too")
    plan.seconds = {
        kind: time_of_a_row(materials, task, items) * passes(items, n, believes=answers != "text")
        for kind, n in (("fusion", len(task.reads)), ("unimodal", 1))
    }
    plan.encoder_cache, materials = cached(recipe, materials, exact, plan.notes)
    plan.seconds["training"] = time_of_training(recipe, materials)
    return plan


def inputs_of(built: Built) -> list[str]:
    return [name for name in built.task.declared if name in built.task.reads]


def planned(name: str, kind: Any, inputs: list[str], built: Built, note: str = "") -> PlannedRow:
    cost = built.cost()
    return PlannedRow(name, kind, inputs, built.data, cost.parameters, cost.trainable, cost.macs, note, runs_on(built))


def runs_on(built: Built) -> dict[str, str]:
    """Where a row's model can run: "yes", or why not. vLLM serves language models whose inputs all stand in the sequence."""
    fusion, task = built.model.fusion, built.task
    within = set(type(fusion).scatters(fusion.options, built.streams))
    if not fusion.backbone.causal or not isinstance(task, Generate):
        vllm = "no: it does not write with a causal language model"
    elif between := [name for name in built.streams if name not in within]:
        vllm = f"no: {', '.join(between)} meet the backbone between or after its layers, not in its sequence"
    else:
        vllm = "not yet: all inputs stand in the sequence, as vLLM needs it, but nothing exports the model"
    return {"here": "yes", "ONNX": "not yet: nothing exports the model", "vLLM": vllm}


def bring_together(plan: Plan, strategies: Sequence[Strategy], budgets: dict[str, int], unit: str, device: Any) -> None:
    """Make every strategy as wide as the most expensive one costs."""
    target = max(budgets.values())
    for strategy in strategies:
        if strategy.name not in budgets:
            continue
        row = plan.row(strategy.name)
        assert row.recipe is not None
        materials = assemble(checked(row.recipe, strategy.name))
        materials.model.to(device)
        built = Built(row.recipe, materials, plan.task)
        built.data, note = match(built, strategy, target, unit)
        plan.rows[plan.rows.index(row)] = planned(row.name, "fusion", row.inputs, built, note)


def add_single_inputs(plan: Plan, base: Data, fixed: dict[str, bool], device: Any) -> None:
    """One row for each input alone."""
    for name in plan.rows[0].inputs:
        title = f"{name} alone"
        try:
            data = alone(base, name, fixed=fixed.get(name, False))
            materials = assemble(checked(data, title))
            materials.model.to(device)
            built = Built(fitted(data, materials.model), materials, plan.task)
        except ChiasmError as error:  # no stage of the recipe, or no row with a target, is left for it
            plan.notes.append(f"{title} is left out: {error}")
            continue
        plan.rows.append(planned(title, "unimodal", [name], built))


def add_untrained(plan: Plan, recipe: Recipe) -> None:
    """Rows that are made of others, or of no network: ensembles, trees, the commonest answer."""
    inputs, single = plan.rows[0].inputs, [row for row in plan.rows if row.kind == "unimodal"]
    if plan.answers == "text":
        plan.notes.append("answers are texts: no ensembles, trees, coalitions or additive projection, which need probabilities")
    elif len(single) < 2:
        plan.notes.append("ensemble of unimodal is left out: fewer than two inputs can be learned from alone")
    else:
        members = {key: sum(getattr(row, key) or 0 for row in single) for key in ("parameters", "trainable", "macs")}
        plan.rows.append(PlannedRow("ensemble of unimodal", "ensemble", [row.inputs[0] for row in single], **members))
    if plan.answers != "text" and single:
        if len(plan.seeds) >= MEMBERS:
            plan.rows.append(PlannedRow(f"{MEMBERS}x best unimodal", "ensemble", []))
        else:
            plan.notes.append(f"{MEMBERS}x best unimodal is left out: it needs {MEMBERS} seeds")
    if plan.answers in ("label", "number"):
        if hidden := unusable(recipe):
            plan.notes.append(f"trees on frozen embeddings are left out: the encoder of {', '.join(hidden)} trains")
        else:
            plan.rows.append(PlannedRow("trees on frozen embeddings", "trees", inputs))
    elif plan.answers == "labels":
        plan.notes.append("trees on frozen embeddings are left out: the task has several labels per row")
    plan.rows.append(PlannedRow("majority", "majority", [], note="the mean of the training rows" if plan.answers == "number" else ""))


def cached(recipe: Recipe, materials: Materials, exact: Precision, notes: list[str]) -> tuple[dict[str, str], Materials]:
    """(input -> sha256 of its frozen features, materials that read them), where training would otherwise compute them again and again.

    They are computed here, once for all cells.
    """
    stage, model = recipe.stages[-1], materials.model
    apply_stage(model, recipe, stage)
    found: dict[str, str] = {}
    processor, split = materials.processor, materials.split(stage.data)
    for name in cacheable_inputs(model, processor, list(recipe.inputs)):
        encoder = recipe.encoder_for(name)
        if encoder is not None and encoder.model is None:
            notes.append(f"the encoder of {name} is fresh and frozen: every seed has another one")
        elif stage.epochs is None or stage.epochs > 1:
            try:
                processor, split, store = with_features(model, processor, split, name, precision=exact, workers=recipe.train.num_workers)
            except NotCached as reason:
                notes.append(f"features of {name} are computed anew by every cell: {reason}")
                continue
            found[name] = digest(store.folder)
    if len({stage.data for stage in recipe.stages}) == 1:
        materials = dataclasses.replace(materials, processor=processor, split=lambda name: split)
    return found, materials


def digest(store: Path) -> str:
    """The sha256 of a feature store's values and masks."""
    found = hashlib.sha256()
    for file in ("values.bin", "mask.bin"):
        with (store / file).open("rb") as opened:
            while part := opened.read(1 << 20):
                found.update(part)
    return found.hexdigest()


def time_of_training(recipe: Recipe, materials: Materials) -> float:
    """Seconds of training one cell, from a measured step of every stage."""
    found, total = Check(is_recipe=True), 0.0
    check_stages(recipe, materials, found)
    for stage in recipe.stages:
        facts = found.facts["stages"][stage.name]
        seconds = facts["steps"] * facts["seconds_per_step"] * stage.accumulate
        total += min(seconds, 60 * stage.max_minutes) if stage.max_minutes else seconds
    return total


def time_of_a_row(materials: Materials, task: Any, items: Items) -> float:
    """Seconds of answering one test item, from a measured pass over a few."""
    opened = open_items(materials.split(items.split), items.places[:TIMED])
    start = time.perf_counter()
    whole(Network(materials.model, materials.processor, task), opened)
    return (time.perf_counter() - start) / len(opened)


def passes(items: Items, inputs: int, *, believes: bool) -> int:
    """How many answers measuring one cell takes. `believes`: with probabilities or numbers, which coalitions and pairs are measured by."""
    controls = inputs * (1 + len(FRACTIONS)) + (2**inputs if believes and inputs <= MOST_COALITIONS else 0)
    pairs = 0 if inputs < 2 or not believes else items_for(inputs, len(items.controlled)) ** 2 * (1 if inputs == 2 else inputs)
    return len(items.ids) + controls * len(items.controlled) + pairs
