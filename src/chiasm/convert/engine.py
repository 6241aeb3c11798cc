"""A checkpoint of transformers -> a run folder: a recipe, the model built fresh from it, and the checkpoint's weights in it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

import chiasm.convert as systems_folder
from chiasm.assemble import build, copy_rows
from chiasm.components import did_you_mean
from chiasm.convert.base import System, Weights
from chiasm.loading import from_checkpoint
from chiasm.model_files import save_model
from chiasm.recipe import load_recipe
from chiasm.types import ChiasmError

CLOSE = 1e-4  # more than this between float32 outputs is a mistake, not rounding
ROUNDED = 5e-2  # relative, where the checkpoint's weights are of 16 bits


@dataclass(frozen=True, slots=True)
class Converted:
    """What `convert` did: the largest difference of each output on a random input, and which weights went nowhere or came from nowhere."""

    folder: Path
    system: str
    parameters: int
    differences: dict[str, float]
    dropped: dict[str, str] = field(default_factory=dict)  # weight -> why
    fresh: dict[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()


def systems() -> list[str]:
    """The model types that can be converted."""
    return sorted(m.name for m in pkgutil.iter_modules(systems_folder.__path__) if m.name not in ("base", "engine", "towers"))


def find_system(model_type: str, where: str) -> type[System]:
    """The System of a model type; ChiasmError names those that there are."""
    name = model_type.replace("-", "_")
    if name not in (known := systems()):
        near = did_you_mean(name, known, cutoff=0.8)
        raise ChiasmError(f"{where}: a {model_type} cannot be converted{near if '?' in near else '; these can: ' + ', '.join(known)}")
    module = importlib.import_module(f"{systems_folder.__name__}.{name}")
    return next(c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__ and issubclass(c, System))


def convert(checkpoint: str | Path, output: str | Path, *, tokenizer: str | None = None) -> Converted:
    """A transformers checkpoint (a folder or a Hub name) -> the run folder `output`, whose model gives the same outputs.

    tokenizer: a name or folder, where the checkpoint brings none. Raises ChiasmError for what cannot be converted, naming the config's key,
    and where the outputs differ.
    """
    where, folder = str(checkpoint), Path(output)
    if folder.exists() and any(folder.iterdir()):
        raise ChiasmError(f"{folder}: not empty; name a new folder for the run")
    config = from_checkpoint(AutoConfig, where, "checkpoint")
    system = find_system(config.model_type, where)(where, config, tokenizer)
    recipe = load_recipe({"name": run_name(folder), **system.recipe()})
    model, processor = build(recipe, system.rows())
    model.to(system.model.dtype).eval()
    weights = moved(system, model)
    differences = compared(system, model, processor)
    aside = folder.with_name(f".saving-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    save_model(model, processor, aside / "model")
    (aside / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    if folder.exists():
        folder.rmdir()
    aside.rename(folder)
    count = sum(p.numel() for p in model.parameters())
    return Converted(folder, type(system).__name__, count, differences, weights.dropped, weights.fresh, tuple(recipe.inputs))


def run_name(folder: Path) -> str:
    name = "".join(c if c.isalnum() or c in "_.-" else "_" for c in folder.resolve().name)
    return name if name[:1].isalnum() else f"run_{name}"


def moved(system: System, model: Any) -> Weights:
    """Every weight of the checkpoint in its place; ChiasmError where one has no place, or one of ours is not filled."""
    weights = Weights(system.model.state_dict())
    system.move(weights, model)
    own = model.state_dict()
    lost = [*weights.left, *(f"{name} (for {key})" for key, name in unplaced(weights, own).items())]
    if lost:
        raise ChiasmError(f"{system.where}: {len(lost)} weight(s) have no place in the converted model: {', '.join(lost[:5])}")
    empty = [key for key in own if key not in weights.target and key not in weights.fresh and own[key].numel()]
    if empty:
        raise ChiasmError(f"{system.where}: {len(empty)} weight(s) of the converted model stay empty: {', '.join(empty[:5])}")
    words = {name for name, p in model.named_parameters(remove_duplicate=False) if p is model.get_input_embeddings().weight}
    for key, value in weights.target.items():
        if value.shape != own[key].shape and not key.startswith((*words, "lm_head.")):
            raise ChiasmError(f"{system.where}: {key} is {tuple(value.shape)} in the checkpoint and {tuple(own[key].shape)} in the model")
        copy_rows(own[key], value)
        if len(value.shape) and len(own[key]) > len(value):
            weights.fresh[key] = f"{len(own[key]) - len(value)} row(s) for placeholders, as the mean of the others"
    return weights


def unplaced(weights: Weights, own: Mapping[str, Tensor]) -> dict[str, str]:
    """Targets that the model does not have, and what was to go there."""
    names = {id(tensor): name for name, tensor in weights.source.items()}
    return {key: names.get(id(tensor), "a weight") for key, tensor in weights.target.items() if key not in own}


def compared(system: System, model: Any, processor: Any) -> dict[str, float]:
    """The largest difference of each output on a random input; ChiasmError where it is more than rounding."""
    found = {}
    for name, (theirs, ours) in system.compare(model, processor).items():
        found[name] = float((theirs.float() - ours.float()).abs().max())
        most = CLOSE if system.model.dtype == torch.float32 else ROUNDED * max(1.0, float(theirs.float().abs().max()))
        if not found[name] <= most:
            raise ChiasmError(
                f"{system.where}: {name} of the converted model differ by {found[name]:.2g} from transformers'; nothing was written"
            )
    return found
