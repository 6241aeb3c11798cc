"""The recipes of a comparison: the same recipe with another fusion, one input alone, another seed, learning rate or width.

All of it is done on a recipe as plain data (`Recipe.model_dump`), so that each result is checked as any other recipe is.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chiasm.components import find
from chiasm.fusion.base import Options as FusionOptions
from chiasm.recipe import Recipe, load_recipe
from chiasm.recipe_check import check_components
from chiasm.recipe_errors import RecipeProblems
from chiasm.recipe_override import apply_overrides
from chiasm.recipe_yaml import Document, parse_value
from chiasm.tasks.template import FIELD
from chiasm.types import RecipeError

DEFAULT = ("early", "gated_cross_attention", "late")
Data = dict[str, Any]  # a recipe as plain data


@dataclass(frozen=True, slots=True)
class Strategy:
    """A fusion to compare: the row's name, the component, the options that were asked for, and other keys of the recipe (`--vary`)."""

    name: str
    type: str
    options: dict[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] = ()  # key=value, as on a command line


def parse_strategies(given: str | Sequence[str | Mapping[str, Any]]) -> list[Strategy]:
    """`early,late:combine=tensor`, or a list of such names or of mappings as in a recipe's `fusion:`. RecipeError names the nearest."""
    parts = split_outside(given, ",") if isinstance(given, str) else list(given)
    found = [_strategy(part) for part in parts]
    if not found:
        raise RecipeError(f"--fusion names no strategy; write e.g. --fusion {','.join(DEFAULT)}")
    names = [strategy.name for strategy in found]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"--fusion names '{name}' twice; give each strategy once, or with different options")
    return found


def varied(strategies: Sequence[Strategy], vary: Sequence[str]) -> list[Strategy]:
    """Every strategy with every value of every `key=value,value` of `vary`; the rows are called `early [modality_dropout=0.3]`."""
    for given in vary:
        key, equals, values = given.partition("=")
        chosen = split_outside(values, ",")
        if not equals or len(chosen) < 2:
            raise RecipeError(f"--vary {given}: write key=value,value, e.g. train.modality_dropout=0,0.3")
        if key.startswith("fusion."):
            raise RecipeError(f"--vary {given}: options of a fusion stand with its name, e.g. --fusion late:combine=sum")
        short = key.rpartition(".")[2]
        strategies = [
            Strategy(f"{strategy.name} [{short}={value}]", strategy.type, strategy.options, (*strategy.settings, f"{key}={value}"))
            for strategy in strategies
            for value in chosen
        ]
    return list(strategies)


def _strategy(given: str | Mapping[str, Any]) -> Strategy:
    if isinstance(given, Mapping):
        options = {key: value for key, value in given.items() if key != "type"}
        name = ":".join([str(given.get("type", "early")), *(f"{key}={value}" for key, value in options.items())])
        strategy = Strategy(name, str(given.get("type", "early")), options)
    else:
        name, *settings = split_outside(given.strip(), ":")
        if settings and "." in name and "=" not in settings[0]:  # package.module:Class
            name = f"{name}:{settings.pop(0)}"
        options = {}
        for setting in settings:
            key, equals, value = setting.partition("=")
            if not equals or not key.strip():
                raise RecipeError(f"--fusion {given}: '{setting}' is no option; write name:key=value, e.g. late:combine=tensor")
            options[key.strip()] = parse_value(value, f"--fusion {given}")
        strategy = Strategy(given.strip(), name, options)
    kind = find("fusion", strategy.type)
    if not kind.reads_streams:
        raise RecipeError(f"--fusion {strategy.name}: it lets no input meet the backbone, so there is nothing to compare; leave it out")
    return strategy


def split_outside(text: str, mark: str) -> list[str]:
    """The pieces of `text` between marks that stand outside brackets."""
    pieces, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == mark and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += letter
    return [piece.strip() for piece in pieces if piece.strip()]


def with_fusion(data: Data, strategy: Strategy) -> Data:
    """The recipe with another fusion, and other settings. How inputs are placed (inputs, positions, normalize) stays; so does all of the
    same strategy."""
    before = data["fusion"]
    same = before["type"] == strategy.type
    kept = {key: value for key, value in before.items() if same or key in FusionOptions.model_fields}
    data = {**copy.deepcopy(data), "fusion": {**kept, "type": strategy.type, **strategy.options}}
    if strategy.settings:
        apply_overrides(Document(data, "a comparison"), strategy.settings, Recipe)
    return data


def alone(data: Data, name: str, *, fixed: bool) -> Data:
    """The recipe reduced to one input: other inputs, their encoders, their places in prompts and the tasks that need them are gone.

    fixed: the input has a fixed number of tokens, which then join the backbone's sequence (`early`); else the backbone reads them by
    `cross_attention`. Text that the backbone reads itself needs no fusion.
    """
    data = copy.deepcopy(data)
    gone = [other for other in data["inputs"] if other != name]
    modality = data["inputs"][name]["modality"]
    encoder = encoder_of(data, name)
    data["encoders"] = {name: encoder} if encoder else {}
    data["tasks"] = {key: _reduced(spec, gone, data) for key, spec in data["tasks"].items() if _remains(spec, name, gone, data)}
    data["inputs"] = {name: data["inputs"][name]}
    kept = {key: value for key, value in data["fusion"].items() if key in FusionOptions.model_fields and key != "inputs"}
    text = modality == "text"
    data["fusion"] = {"type": "none"} if text else {"type": "early" if fixed else "cross_attention", **kept}
    dropout = data["train"].get("modality_dropout")
    if isinstance(dropout, dict):
        data["train"]["modality_dropout"] = {key: p for key, p in dropout.items() if key == name}
    data["train"] |= {"bad_samples": "quarantine"}  # rows that lack this one input are left out of its training
    data["train"].pop("max_bad", None)
    if (best := data["train"].get("best")) and best.split()[-1].partition(".")[0] not in data["tasks"]:
        data["train"].pop("best")
    data["stages"] = _stages(data, lambda part: _is_there(part, name, streams=not text))
    return data


def _remains(task: Data, name: str, gone: Sequence[str], data: Data) -> bool:
    """Whether a task can still be learned: a contrast of two sides needs both that have encoders, and the input itself."""
    sides = task.get("between")
    if sides is None:
        return True
    return name in sides and not any(side in gone and data["inputs"][side]["modality"] != "text" for side in sides)


def _reduced(task: Data, gone: Sequence[str], data: Data) -> Data:
    """A task whose prompt no longer names what is gone."""
    prompt = task.get("prompt")
    if prompt is None:
        return task
    kept = FIELD.sub(lambda match: "" if match[1] in gone else match[0], prompt)
    return {**task, "prompt": re.sub(r"\s+", " ", kept).strip()} if kept != prompt else task


def _is_there(part: str, name: str, *, streams: bool) -> bool:
    """Whether a name of `stages.N.train` still means something with one input alone."""
    head, _, rest = part.partition(".")
    if head == "encoders":
        return streams and rest.split(".")[0] in ("", name)
    return streams or head != "fusion"


def _stages(data: Data, keep: Any) -> list[Data]:
    """Stages without tasks and parts that are gone; one with nothing left to learn or to train is left out."""
    stages = []
    for stage in data["stages"]:
        tasks, parts = stage.get("tasks"), stage.get("train")
        stage = dict(stage)
        if tasks is not None:
            stage["tasks"] = [task for task in tasks if task in data["tasks"]]
        if parts is not None:
            stage["train"] = [part for part in parts if keep(part) and (not part.startswith("tasks.") or part[6:] in data["tasks"])]
        if stage.get("tasks") != [] and stage.get("train") != []:
            stages.append(stage)
    if not stages:
        raise RecipeError("no stage of the recipe is left for it")
    return stages


def fitted(data: Data, model: Any) -> Data:
    """The recipe without names in `stages.N.train` that have no parameters in this model (early fusion without positions, say)."""
    having = [part for part, module in model.parts().items() if any(True for _ in module.parameters())]
    data = copy.deepcopy(data)
    data["stages"] = _stages(data, lambda name: any(part == name or part.startswith(f"{name}.") for part in having))
    return data


def with_seed(data: Data, seed: int) -> Data:
    return {**data, "train": {**data["train"], "seed": seed}}


def with_rate(data: Data, factor: float) -> Data:
    """Every stage's learning rate times `factor`."""
    return {**data, "stages": [{**stage, "learning_rate": stage["learning_rate"] * factor} for stage in data["stages"]]}


def with_width(data: Data, width: int) -> Data:
    """The fusion with another inner width."""
    return {**data, "fusion": {**data["fusion"], "width": width}}


def with_connectors(data: Data, hidden: int, streams: Iterable[str]) -> Data:
    """Every stream's connector an mlp of inner width `hidden`."""
    encoders = dict(data["encoders"])
    for name in streams:
        encoders[name] = {**encoder_of(data, name), "connector": {"type": "mlp", "hidden": hidden}}
    return {**data, "encoders": encoders}


def encoder_of(data: Data, name: str) -> Data:
    """The encoder's section of input `name`: its own, else its modality's, else an empty one."""
    return data["encoders"].get(name) or data["encoders"].get(data["inputs"][name]["modality"]) or {}


def connector_of(data: Data, name: str) -> Data:
    """The connector's section of input `name`, with its type."""
    return {"type": "linear", **encoder_of(data, name).get("connector", {})}


def checked(data: Data, what: str) -> Recipe:
    """Data -> Recipe; what is wrong is told in one line that begins with `what`."""
    try:
        recipe = load_recipe(data)
        check_components(recipe)
    except RecipeProblems as error:
        raise RecipeError(f"{what}: {error.problems[0].removeprefix('recipe: ')}") from None
    return recipe
