"""Checkpoints that survive anything: written aside, checked by sha256, put in place by one rename, pruned only after that.

A checkpoint is `step-00000123/{MANIFEST.json, model.safetensors, optimizer.safetensors, state.json}`. Nothing is pickled.
Writing is: temporary folder, files, fsync, MANIFEST.json (bytes and sha256), fsync, rename, fsync of the parent.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from torch.optim import Optimizer

from chiasm.model_files import sha256
from chiasm.types import ChiasmError

MODEL, OPTIMIZER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"
ASIDE, REPLACED = ".saving-", ".replaced-"  # prefixes of what a killed save leaves behind
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
MEGABYTE = 1_000_000


class CheckpointError(ChiasmError):
    """A checkpoint that cannot be written or used."""


def save(
    folder: Path,
    step: int,
    *,
    model: nn.Module,
    optimizer: Optimizer | None,
    state: dict[str, Any],
    weights: Mapping[str, Tensor] | None = None,
    moments: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write `folder/step-XXXXXXXX` completely or not at all; CheckpointError names the space that is missing on a full disk.

    `optimizer` is None between two stages: each begins with a fresh one. `weights` and `moments` are the tensors of both where model and
    optimizer hold only this process's parts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, aside = folder / _name(step), folder / f"{ASIDE}{_name(step)}"
    _remove(aside)
    try:
        aside.mkdir()
        save_model(model if weights is None else _Weights(weights), str(aside / MODEL))
        save_file(dict(optimizer_tensors(model, optimizer) if moments is None else moments), str(aside / OPTIMIZER))
        (aside / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        for name in (MODEL, OPTIMIZER, STATE):
            _fsync(aside / name)
        (aside / MANIFEST).write_text(_manifest(step, aside), encoding="utf-8")
        _fsync(aside / MANIFEST)
        _fsync(aside)
        _put_in_place(aside, target)
    except (OSError, SafetensorError) as error:
        _remove(aside)
        raise _explained(error, folder, step, need=estimate(model)) from None
    return target


def verify(path: Path) -> str | None:
    """None where every file is as the manifest says; else one line that names the bad file and what is wrong with it."""
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
        manifest = json.loads(text)
        files = manifest["files"]
        if text != _rendered(manifest["step"], files) or path.name != _name(manifest["step"]):
            return f"{MANIFEST} was altered"
        for name in (MODEL, OPTIMIZER, STATE):
            if name not in files:
                return f"{MANIFEST} does not list {name}"
            size = (path / name).stat().st_size
            if size != files[name]["bytes"]:
                return f"{name} has {size} bytes, {files[name]['bytes']} were written"
            if sha256(path / name) != files[name]["sha256"]:
                return f"{name} was altered (its sha256 is not the one in {MANIFEST})"
    except OSError as error:
        return f"{Path(error.filename).name if error.filename else MANIFEST}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is not readable JSON"
    return None


def newest_valid(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that verifies, or None; each newer one that does not costs one warning line."""
    for path in reversed(_all(folder)):
        reason = verify(path)
        if reason is None:
            return path
        warn(f"WARNING: checkpoint {path} is damaged and was passed over: {reason}")
    return None


def prune(folder: Path, *, keep_last: int, protect: Collection[int], warn: Callable[[str], None]) -> None:
    """Delete all but the newest `keep_last` checkpoints and the protected steps, and nothing unless the newest verifies."""
    paths = _all(folder)
    if not paths or (reason := verify(paths[-1])):
        if paths:
            warn(f"WARNING: checkpoint {paths[-1]} does not verify ({reason}); older ones are kept")
        return
    keep = {_name(step) for step in protect}
    for path in paths[: -max(keep_last, 1)]:
        if path.name not in keep:
            try:
                _remove(path)
            except OSError as error:
                warn(f"WARNING: old checkpoint {path} could not be deleted ({error.strerror}); training goes on")


def clean(folder: Path) -> None:
    """Remove what a killed save left; call with the run's lock held."""
    for path in folder.glob(f"{REPLACED}*"):
        target = folder / path.name.removeprefix(REPLACED)
        if os.path.lexists(target):
            _remove(path)
        else:
            path.rename(target)  # killed between the two renames: the old one is the newest that is whole
    for path in folder.glob(f"{ASIDE}*"):
        _remove(path)


def read_state(path: Path) -> dict[str, Any]:
    """The `state` that was saved."""
    return json.loads((path / STATE).read_text(encoding="utf-8"))


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def path_of(folder: Path, step: int) -> Path:
    return folder / _name(step)


def load_weights(path: Path, model: nn.Module, weights: Mapping[str, Tensor] | None = None) -> None:
    """Put the saved weights into `model`, bit for bit; every name must match. Into `weights` instead, where they are given."""
    if weights is not None:
        for name, tensor in load_file(str(path / MODEL)).items():
            weights[name].copy_(tensor)
        return
    try:
        load_model(model, str(path / MODEL))
    except RuntimeError as error:
        raise CheckpointError(f"{path / MODEL} does not fit this model: {' '.join(str(error).split())}") from None


def load_optimizer(
    path: Path, model: nn.Module, optimizer: Optimizer, part_of: Callable[[Tensor, Tensor], Tensor] = lambda parameter, whole: whole
) -> None:
    """Put the saved state into `optimizer`; parameters are matched by name. `part_of(parameter, tensor)`: what this process keeps of it."""
    saved: dict[str, dict[str, Any]] = {}
    for key, tensor in load_file(str(path / OPTIMIZER)).items():
        kind, _, name = key.partition("/")
        saved.setdefault(name, {})[kind] = tensor
    names = _names(model)
    parameters = {names[id(p)]: p for group in optimizer.param_groups for p in group["params"]}
    order = list(parameters)
    if strange := sorted(set(saved) - set(order)):
        raise CheckpointError(
            f"{path / OPTIMIZER} has state for {strange[0]}, which this stage does not train; start anew in another --output"
        )
    saved = {n: {kind: part_of(parameters[n], tensor) for kind, tensor in state.items()} for n, state in saved.items()}
    current = optimizer.state_dict()
    optimizer.load_state_dict({"state": {i: saved[n] for i, n in enumerate(order) if n in saved}, "param_groups": current["param_groups"]})


def estimate(model: nn.Module) -> int:
    """Bytes of one checkpoint: all weights, and two moments of what trains."""
    weights = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    return weights + 2 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad) + MEGABYTE // 10


def require_space(folder: Path, model: nn.Module) -> None:
    """Before step 1: CheckpointError where the disk cannot hold two checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    need, free = 2 * estimate(model), shutil.disk_usage(folder).free
    if free < need:
        raise CheckpointError(
            f"not enough disk space at {folder}: two checkpoints need {_megabytes(need)}, free {_megabytes(free)}; "
            f"make room, or choose another --output"
        )


class _Weights(nn.Module):
    """A model as far as `save_model` looks at it."""

    def __init__(self, weights: Mapping[str, Tensor]):
        super().__init__()
        self.weights = weights

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return dict(self.weights)


def optimizer_tensors(model: nn.Module, optimizer: Optimizer | None) -> dict[str, Any]:
    """Its state by kind and name of the parameter."""
    if optimizer is None:
        return {}
    names = _names(model)
    return {f"{kind}/{names[id(p)]}": tensor.contiguous() for p, state in optimizer.state.items() for kind, tensor in state.items()}


def _names(model: nn.Module) -> dict[int, str]:
    return {id(p): name for name, p in model.named_parameters()}


def _all(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-*") if p.name[5:].isdigit())


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _manifest(step: int, folder: Path) -> str:
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in (MODEL, OPTIMIZER, STATE)}
    return _rendered(step, files)


def _rendered(step: int, files: dict[str, Any]) -> str:
    return json.dumps({"step": step, "files": files}, indent=1, sort_keys=True) + "\n"


def _put_in_place(aside: Path, target: Path) -> None:
    if os.path.lexists(target):  # the same step again, e.g. after an evaluation that a signal had put off
        replaced = target.with_name(REPLACED + target.name)
        _remove(replaced)
        target.rename(replaced)
        aside.rename(target)
        _fsync(target.parent)
        _remove(replaced)
    else:
        aside.rename(target)
        _fsync(target.parent)


def _explained(error: Exception, folder: Path, step: int, *, need: int) -> CheckpointError:
    code = error.errno if isinstance(error, OSError) else int((re.search(r"os error (\d+)", str(error)) or [0, 0])[1])
    last = newest_valid(folder, lambda line: None)
    tail = f"last good checkpoint: {last or 'none'}"
    if code in FULL:
        free = shutil.disk_usage(folder).free
        return CheckpointError(f"disk full while saving step {step} at {folder}, need {_megabytes(need)}, free {_megabytes(free)}; {tail}")
    return CheckpointError(f"cannot save step {step} at {folder}: {error}; {tail}")


def _megabytes(count: int) -> str:
    return f"{count / MEGABYTE:.1f} MB"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
