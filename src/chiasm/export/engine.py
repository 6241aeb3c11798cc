"""`chiasm.export`: write a run's model into a new folder, for another tool; what was written was loaded again and compared."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiasm.components import did_you_mean
from chiasm.run import Run, load
from chiasm.types import ChiasmError

TARGETS = ("transformers", "onnx", "hub")


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote, for a person (`lines`, and what to type `next`) and for a program (`facts`)."""

    folder: Path
    lines: list[str]
    facts: dict[str, Any] = field(default_factory=dict)
    next: list[str] = field(default_factory=list)


def export(run: Run | str | Path, *, to: str, output: str | Path) -> Exported:
    """Write a run for `to` (transformers, onnx or hub) into the new folder `output`, all of it or nothing.

    Raises ChiasmError where the target cannot hold the model, with the reason, or where what it computes is not what the run computes.
    """
    if to not in TARGETS:
        raise ChiasmError(f"--to {to}: no such target{did_you_mean(to, TARGETS)}")
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ChiasmError(f"{folder} is there already and is not empty; name a new folder")
    opened = run if isinstance(run, Run) else load(run)
    write = importlib.import_module(f"chiasm.export.{to}").write
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as parent:
        made = Path(parent) / folder.name
        made.mkdir()
        lines, facts, following = write(opened, made, folder)
        if folder.exists():
            folder.rmdir()
        shutil.move(made, folder)
    return Exported(folder, lines, {"output": str(folder), "to": to, **facts}, following)
