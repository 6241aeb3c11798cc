"""What an evaluation found, and the files of a run folder that keep it.

RUN/metrics.json            {"test": {"answer.exact_match": 0.947, "answer.exact_match[image shuffled]": 0.19, ...}}
RUN/evaluation.json         {"test": {"intervals": ..., "differences": ..., "verdicts": [...], "counts": ..., "notes": [...]}}
RUN/predictions/test.jsonl  one prediction a line (embeddings are left out)
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiasm.types import ChiasmError, Prediction


@dataclass(slots=True)
class Evaluation:
    """All figures of one split. Keys are task, metric, and in brackets the group, control or direction."""

    metrics: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)  # key -> 95 % interval of that figure
    differences: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # control key -> {"real", "control", "difference", "interval", ...}
    verdicts: list[str] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)  # read = used + quarantined + filtered
    notes: list[str] = field(default_factory=list)

    def to_json(self, *, predictions: bool = False) -> dict[str, Any]:
        """Plain JSON values; NaN and Inf become null. Predictions (embeddings make them large) only where asked for."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "predictions"}
        if predictions:
            fields["predictions"] = [dataclasses.asdict(p) for p in self.predictions]
        return plain(fields)

    def write(self, run: str | Path, split: str) -> None:
        """Put the figures of `split` into the run's files; other splits stay as they are."""
        run, found = Path(run), self.to_json()
        merge_json(run / "evaluation.json", {split: {k: v for k, v in found.items() if k != "metrics"}})
        rows = (plain(dataclasses.asdict(p)) for p in self.predictions if not isinstance(p.output, dict))
        write_text(run / "predictions" / f"{split}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        merge_json(run / "metrics.json", {split: found["metrics"]})


def plain(value: Any) -> Any:
    """`value` with only what JSON has: NaN and Inf as null, numpy numbers as numbers, tuples as lists."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def merge_json(path: Path, new: dict[str, Any]) -> None:
    """Replace the top-level keys of `new` in a JSON file, all at once or not at all."""
    write_text(path, json.dumps(read_json(path) | new, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is no file."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ChiasmError(f"{path}: not JSON ({error}); delete it or restore it") from None
    if not isinstance(found, dict):
        raise ChiasmError(f"{path}: expected an object with a key per split, found a {type(found).__name__}; delete it or restore it")
    return found


def write_text(path: Path, text: str) -> None:
    """Write a whole file, or leave the old one untouched: temporary file, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
