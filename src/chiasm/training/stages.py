"""What trains in a stage: parts by name, at most what each part's own `train:` allows; everything else is frozen and stays in eval mode."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from chiasm.components import did_you_mean
from chiasm.recipe import LoraTrain, Recipe, StageSpec
from chiasm.types import RecipeError


@dataclass(frozen=True, slots=True)
class PartRow:
    """One line of the table of what trains."""

    part: str
    parameters: int
    trainable: int


def apply_stage(model: Any, recipe: Recipe, stage: StageSpec, *, unreached: Collection[str] = ()) -> list[PartRow]:
    """Freeze and unfreeze the parts of `model` as the stage says, put frozen ones in eval mode, and return the table.

    `unreached` names parameters that no task of the stage reaches; they are frozen too, so that the table tells what really trains.
    """
    parts = model.parts()
    for name in stage.train or ():
        if not any(_covers(name, part) for part in parts):
            raise RecipeError(f"stages.{stage.name}.train: no part '{name}'{did_you_mean(name, _prefixes(parts))}")
    rows = []
    dead = {id(p) for name, p in model.named_parameters() if name in unreached}
    for part in parts:
        own = list(_own_parameters(parts, part))
        selected = stage.train is None or any(_covers(name, part) for name in stage.train)
        allowed = _allowed(parts[part], own, most_of(recipe, part), part) if selected else set()
        for _, parameter in own:
            parameter.requires_grad_(id(parameter) in allowed - dead)
        rows.append(PartRow(part, sum(p.numel() for _, p in own), sum(p.numel() for _, p in own if p.requires_grad)))
    for name in stage.train or ():
        if not any(row.trainable for row in rows if _covers(name, row.part)):
            raise RecipeError(
                f"stages.{stage.name}.train: '{name}' has nothing that may train; its own `train:` is none, or it has no parameters"
            )
    if not any(row.trainable for row in rows):
        raise RecipeError(f"stages.{stage.name}: nothing trains; name parts with parameters in stages.{stage.name}.train")
    set_modes(model)
    return rows


def set_modes(model: nn.Module) -> None:
    """Train mode where something trains; a frozen module (its dropout and batch statistics too) stays in eval mode."""
    _set_mode(model, True)


def _set_mode(module: nn.Module, inherited: bool) -> None:
    own = [p.requires_grad for p in module.parameters()]
    module.training = any(own) if own else inherited  # a module without parameters (dropout) goes with the one around it
    for child in module.children():
        _set_mode(child, module.training)


def most_of(recipe: Recipe, part: str) -> Any:
    """The most of a part that may train: "all", "none", the last n layers, or LoRA adapters."""
    kind, _, rest = part.partition(".")
    if kind == "backbone":
        return recipe.backbone.options.get("vision", "none") if rest else recipe.backbone.train
    if kind == "encoders" and "." not in rest:
        spec = recipe.encoder_for(rest) if rest in recipe.inputs else recipe.encoders.get(rest)
        return spec.train if spec else "all"
    return "all"


def parameter_groups(model: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups over what trains: weight matrices decay; norms, biases, embeddings and raw parameters do not."""
    decayed, plain, seen = [], [], set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                matrix = parameter.ndim >= 2 and name.endswith("weight") and not isinstance(module, nn.Embedding)
                (decayed if matrix else plain).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def without_gradient(model: Any) -> tuple[list[str], list[str]]:
    """After a backward: (parts that should train but got no gradient anywhere, names of all parameters that should and did not)."""
    parts, dead_parts = model.parts(), []
    for part in parts:
        trainable = [p for _, p in _own_parameters(parts, part) if p.requires_grad]
        if trainable and not any(p.grad is not None and bool(p.grad.count_nonzero()) for p in trainable):
            dead_parts.append(part)
    inside = {id(p) for part in parts.values() for p in part.parameters()}  # not the heads of train.balance, which no task's loss reaches
    return dead_parts, [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None and id(p) in inside]


def _own_parameters(parts: dict[str, nn.Module], part: str) -> Iterable[tuple[str, nn.Parameter]]:
    """A part's parameters without those of longer-named parts inside it, and without those an earlier part shares with it."""
    claimed = {id(p) for other in parts if other != part and _covers(part, other) for p in parts[other].parameters()}
    for other in parts:
        if other == part:
            break
        if not _covers(part, other) and not _covers(other, part):
            claimed |= {id(p) for p in parts[other].parameters()}
    return [(name, p) for name, p in parts[part].named_parameters() if id(p) not in claimed]


def _allowed(module: nn.Module, own: list[tuple[str, nn.Parameter]], most: Any, part: str) -> set[int]:
    if most == "all":
        return {id(p) for _, p in own}
    if most == "none":
        return set()
    if isinstance(most, LoraTrain):
        adapters = {id(p) for name, p in own if "lora_" in name or "modules_to_save" in name}
        if not adapters:
            raise RecipeError(f"{part}.train: lora, but the part has no adapters; it needs linear layers to adapt")
        return adapters
    ids = {id(p) for _, p in own}
    lists = {name: m for name, m in module.named_modules() if m is not module and isinstance(m, nn.ModuleList)}
    lists = {name: m for name, m in lists.items() if all(id(p) in ids for p in m.parameters())}  # not those of a part inside it
    writing = next((m for name, m in lists.items() if "decoder" in name.split(".")), None)  # an encoder-decoder's last layers write
    layers = writing or max(lists.values(), key=len, default=[])
    if most > len(layers):
        raise RecipeError(f"{part}.train: {most} layers are more than its {len(layers)}; give a smaller number, or all")
    last = {id(p) for layer in list(layers)[-most:] for p in layer.parameters()}
    return {id(p) for _, p in own if id(p) in last}


def _covers(prefix: str, part: str) -> bool:
    return part == prefix or part.startswith(prefix + ".")


def _prefixes(parts: Iterable[str]) -> set[str]:
    return {".".join(words[: n + 1]) for words in (part.split(".") for part in parts) for n in range(len(words))}
