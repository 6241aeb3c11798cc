"""RUN/model: written with the sha256 of each of its files, and read only where all of them, and every weight, are as they were."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForMultimodalLM, AutoProcessor

from chiasm.components import did_you_mean
from chiasm.config import ChiasmConfig
from chiasm.framing import note_format
from chiasm.loading import WEIGHTS, check_folder, listed, more_layers, reason_of
from chiasm.model import without_bars
from chiasm.types import ChiasmError, RecipeError

MANIFEST = "MANIFEST.json"
UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, SafetensorError, StrictDataclassError, ValidationError)


def save_model(model: Any, processor: Any, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write model, processor and MANIFEST.json into `folder`. The same model gives the same bytes. `weights`: of one that holds a part."""
    note_format(model.config, model.dtype)
    for where_from in ("is_local", "local_files_only"):  # which loading notes down
        processor.tokenizer.init_kwargs.pop(where_from, None)
    with without_bars():
        model.save_pretrained(folder, **({} if weights is None else {"state_dict": weights}))
    processor.save_pretrained(folder)
    write_manifest(folder)


def write_manifest(folder: Path) -> None:
    """Note size and sha256 of the folder's files; not of README.md, which people go on writing."""
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name not in (MANIFEST, "README.md")]
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths}
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load_model(folder: Path) -> tuple[Any, Any]:
    """(model, processor) of a folder that `save_model` wrote; ChiasmError in one line names what is not as it was.

    A folder without a manifest (written by save_pretrained alone) is read too; its weights must still be all there, and finite.
    """
    verify(folder)
    check_folder(str(folder), folder, weights=True)
    check_config(folder)
    try:
        with without_bars():
            model, info = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=False, **WEIGHTS)
        processor: Any = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except RecipeError as error:
        raise ChiasmError(f"{folder}: {error}") from None
    except UNREADABLE as error:
        raise ChiasmError(f"{folder}: config.json or a file beside it cannot be used: {reason_of(error)}") from None
    for kind, says in (("missing_keys", "are not in the file"), ("unexpected_keys", "are nowhere in the model")):
        if keys := sorted(info[kind]):
            others = sorted(info["unexpected_keys" if kind == "missing_keys" else "missing_keys"])
            more = "" if kind != "missing_keys" else more_layers(keys, model.state_dict(), model.config.get_text_config().to_dict())
            raise ChiasmError(f"{folder}: {len(keys)} weight(s) {says}: {listed(keys)}{did_you_mean(keys[0], others)}{more}")
    for key, have, want in sorted(info["mismatched_keys"]):
        raise ChiasmError(f"{folder}: weight '{key}' is {tuple(have)} in the file and {tuple(want)} as config.json has it")
    if (bad := not_finite(model)) is not None:
        raise ChiasmError(f"{folder}: weight '{bad}' has NaN or Inf")
    model.processor, processor.longest = processor, model.model.max_length
    return model, processor


def verify(folder: Path) -> None:
    """ChiasmError names the file that is not as MANIFEST.json has it."""
    path = folder / MANIFEST
    if not path.is_file():
        return
    try:
        files = json.loads(path.read_text("utf-8"))["files"]
        wanted = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ChiasmError(f"{path}: damaged; copy the folder again from where it is whole") from None
    for name, (size, digest) in wanted.items():
        file = folder / Path(name).name
        if not file.is_file():
            raise ChiasmError(f"{file}: missing; copy the folder again from where it is whole")
        if file.stat().st_size != size or sha256(file) != digest:
            raise ChiasmError(
                f"{file}: not as it was written (another sha256); copy it again, or, where you changed it on purpose, delete {MANIFEST}"
            )


def identity(folder: Path) -> str:
    """One sha256 for a model: of the names and sha256 of its files, as MANIFEST.json has them."""
    if (path := folder / MANIFEST).is_file():
        files = {name: entry["sha256"] for name, entry in json.loads(path.read_text("utf-8"))["files"].items()}
    else:
        files = {file.name: sha256(file) for file in folder.iterdir() if file.is_file() and file.name != "README.md"}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def check_config(folder: Path) -> None:
    """ChiasmError where config.json has a key that no Chiasm model has, or names a component in a module that lies in the folder."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    if config.get("model_type") != ChiasmConfig.model_type:
        raise ChiasmError(f"{folder}: config.json is of a {config.get('model_type')}, not of a Chiasm model (`chiasm convert` makes one)")
    known = {*ChiasmConfig().to_dict(), "dtype", "torch_dtype", "decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id"}
    for key in config:
        if key not in known and key != "auto_map":
            raise ChiasmError(f"{folder}: config.json has no key '{key}'{did_you_mean(key, known)}")
    for name in outside(config):
        module = name.partition(":")[0].partition(".")[0]
        if (folder / f"{module}.py").exists() or (folder / module).is_dir():
            raise ChiasmError(f"{folder}: config.json names '{name}', whose code lies in the folder itself; that is never run")


def outside(value: Any) -> list[str]:
    """The components of a config that come from modules outside Chiasm, as `package.module:Class`."""
    if isinstance(value, dict):
        own = [v for k, v in value.items() if k in ("type", "modality", "kind") and isinstance(v, str) and ":" in v]
        return own + [name for inner in value.values() for name in outside(inner)]
    return [name for inner in value for name in outside(inner)] if isinstance(value, list) else []


def not_finite(model: Any) -> str | None:
    """The first weight with NaN or Inf in it."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def input_identity(source: Path) -> str:
    """sha256 of a file, or of the names and sizes of a folder's files."""
    if not source.is_dir():
        return sha256(source)
    files = sorted((path.relative_to(source).as_posix(), path.stat().st_size) for path in source.rglob("*") if path.is_file())
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()
