"""What a run folder holds, read for a report. A file that is not there yet is simply empty."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from chiasm.evaluation.result import read_json
from chiasm.recipe_yaml import read_document
from chiasm.types import ChiasmError


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The figures and texts of one run folder."""

    folder: Path
    recipe_text: str
    recipe: dict[str, Any]
    metrics: dict[str, dict[str, float | None]]  # split -> key -> figure
    details: dict[str, dict[str, Any]]  # split -> intervals, differences, verdicts, counts, notes
    log: list[dict[str, Any]]
    data: dict[str, dict[str, Any]]  # split -> read, used, quarantined, filtered
    quarantine: list[dict[str, Any]]

    @property
    def name(self) -> str:
        return str(self.recipe.get("name") or self.folder.resolve().name)

    @property
    def when(self) -> str:
        """When the newest of its figures were written, local time."""
        files = [p for name in ("metrics.json", "log.jsonl", "recipe.yaml") if (p := self.folder / name).exists()]
        newest = max((p.stat().st_mtime for p in files), default=0.0)
        return datetime.fromtimestamp(newest).strftime("%Y-%m-%d %H:%M") if newest else ""

    @property
    def steps(self) -> int:
        return max((int(line["step"]) for line in self.log if "event" not in line and "step" in line), default=0)

    @property
    def seconds(self) -> float:
        """Time spent on optimizer steps."""
        return max((float(line["seconds"]) for line in self.log if "seconds" in line and "event" not in line), default=0.0)

    def reasons(self, split: str) -> list[tuple[str, int]]:
        """(reason code, how often) of the quarantined samples of a split, commonest first."""
        return Counter(
            f"{line.get('input') or 'record'}: {line['reason']}" for line in self.quarantine if line.get("split") == split
        ).most_common()


def read_run(folder: str | Path) -> RunFiles:
    """Read a run folder. Raises ChiasmError where it is none."""
    folder = Path(folder)
    path = folder / "recipe.yaml"
    if not path.exists():
        raise ChiasmError(f"{folder}: not a run (it has no recipe.yaml); name the folder that `chiasm train RECIPE --output RUN` filled")
    return RunFiles(
        folder,
        path.read_text(encoding="utf-8"),
        read_document(path).data,
        read_json(folder / "metrics.json"),
        read_json(folder / "evaluation.json"),
        _lines(folder / "log.jsonl"),
        read_json(folder / "data.json"),
        _lines(folder / "quarantine.jsonl"),
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    """Records of a jsonl file; a last line that was cut short is left out."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.strip()]
