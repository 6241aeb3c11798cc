"""A recipe's tasks: made, checked against backbone, fusion and one another, and fitted on the training rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chiasm import components
from chiasm.recipe import Recipe
from chiasm.types import RecipeError, Sample


def make_tasks(recipe: Recipe) -> dict[str, Any]:
    """The recipe's tasks, not yet fitted."""
    declared = {name: spec.modality for name, spec in recipe.inputs.items()}
    kinds = {name: components.find("task", spec.type) for name, spec in recipe.tasks.items()}
    tasks = {name: kind(name, kind.Options(**recipe.tasks[name].options), declared) for name, kind in kinds.items()}
    for task in tasks.values():
        task.meet(tasks)
    return tasks


def check_tasks(recipe: Recipe, backbone: str, fusion: Any, inside: Sequence[str] = ()) -> None:
    """RecipeError where a task asks of the backbone, or of the fusion, what that kind cannot do.

    inside: inputs that the backbone reads itself, without an encoder.
    """
    kind = components.find("backbone", backbone)
    for name, task in make_tasks(recipe).items():
        if task.view == "fused" and recipe.backbone.options.get("latents") == 0:
            raise RecipeError(
                f"tasks.{name}: nothing reads its inputs together (backbone.latents: 0); give a backbone, or use type: contrast"
            )
        if (reason := task.suits(backbone, kind)) is not None:
            raise RecipeError(f"tasks.{name}: {reason}")
        if task.texts and not kind.reads_text:
            raise RecipeError(
                f"tasks.{name}: a {backbone} backbone reads no text, such as '{task.texts[0]}'; take one that does (arch: bert), "
                "or give the input an encoder"
            )
        seen = [read for read in task.reads if read in inside]
        if seen and task.view == "towers":
            raise RecipeError(f"tasks.{name}: the backbone reads '{seen[0]}' itself, so it has no tower; give encoders.{seen[0]} a model")
        if seen and task.draws:
            raise RecipeError(
                f"tasks.{name}: the backbone reads '{seen[0]}' itself, each beside its own text only; give encoders.{seen[0]} a model"
            )
        apart = [read for read in task.reads if recipe.inputs[read].modality != "text" and read not in inside]
        if task.view == "fused" and apart and not fusion.reads_streams:
            raise RecipeError(
                f"fusion.type: {recipe.fusion.type} never brings '{apart[0]}' to the backbone, and tasks.{name} reads it; "
                "take another fusion (late, cross_attention, ...)"
            )


def declare_tasks(recipe: Recipe, samples: Sequence[Sample]) -> dict[str, Any]:
    """The config's `tasks`, each fitted on the training rows."""
    tasks = {}
    for name, task in make_tasks(recipe).items():
        task.fit(samples)
        spec, options = recipe.tasks[name], task.options.model_dump(mode="json")
        tasks[name] = {"type": spec.type, "weight": spec.weight, "options": options, "state": task.state(), "place": len(tasks)}
    return tasks
