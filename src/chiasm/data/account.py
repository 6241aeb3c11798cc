"""The account of a run's data: read = used + quarantined + filtered, per split, every sample counted once at first sight.

Equal for any number of workers and after a resume, since it goes by the rows' numbers and its state is saved with the checkpoint.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from chiasm.types import BadSample, ChiasmError, StepBatches

UNSEEN, FILTERED, USED, QUARANTINED = range(4)  # a sample's state only ever grows
STATES = {"filtered": FILTERED, "used": USED, "quarantined": QUARANTINED}
ENOUGH = 200  # rows before `max_bad` is judged, unless the split is smaller


@dataclasses.dataclass(slots=True)
class _Ledger:
    states: np.ndarray  # [rows] uint8
    bad: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)  # sample id -> its line of quarantine.jsonl
    notes: Counter[str] = dataclasses.field(default_factory=Counter)


class Accounting:
    """`bad_samples="error"` stops at the first bad sample, `max_bad` above that fraction of what was read."""

    def __init__(self, *, bad_samples: str = "quarantine", max_bad: float | None = None):
        self._stop_at_first, self._max_bad = bad_samples == "error", max_bad
        self._ledgers: dict[str, _Ledger] = {}

    def add(self, split: str, size: int, step: StepBatches, *, epoch: int = 0) -> None:
        """Count one step of `split`, which has `size` samples. Raises ChiasmError where there are more bad ones than allowed."""
        ledger = self._ledgers.setdefault(split, _Ledger(np.zeros(size, dtype=np.uint8)))
        assert len(step.rows) == len(step.outcomes), "only a Loader's steps can be counted"
        rows = np.array(step.rows, dtype=np.int64)
        before = ledger.states[rows]
        ledger.states[rows] = np.maximum(before, np.array([STATES[o] for o in step.outcomes], dtype=np.uint8))
        if (before == UNSEEN).all():
            ledger.notes.update(step.notes)
        for bad in step.bad:
            ledger.bad.setdefault(bad.id, {"split": split, **dataclasses.asdict(bad), "epoch": epoch})
        if step.bad:
            self._judge(split, ledger, step.bad[0])

    def counts(self) -> dict[str, dict[str, int]]:
        """Per split: read, used, quarantined, filtered."""
        return {split: _counts(ledger) for split, ledger in self._ledgers.items()}

    def notes(self) -> dict[str, dict[str, int]]:
        """Per split: what was fixed or cut -> how often."""
        return {split: dict(sorted(ledger.notes.items())) for split, ledger in self._ledgers.items()}

    def quarantined(self) -> list[dict[str, Any]]:
        """One dict per bad sample, in order of split, file and line."""
        found = [line for ledger in self._ledgers.values() for line in ledger.bad.values()]
        return sorted(found, key=lambda line: (line["split"], line["file"], line["line"] or 0, line["id"]))

    def write(self, folder: str | Path) -> None:
        """data.json and quarantine.jsonl, each replaced as a whole."""
        folder = Path(folder)
        notes = self.notes()
        data = {split: {**counts, "notes": notes[split]} if notes[split] else counts for split, counts in self.counts().items()}
        _replace(folder / "data.json", json.dumps(data, indent=2, ensure_ascii=False) + "\n")
        _replace(folder / "quarantine.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self.quarantined()))

    def state(self) -> dict[str, Any]:
        """For the checkpoint; JSON."""
        packed = {
            split: base64.b64encode(zlib.compress(ledger.states.tobytes())).decode("ascii") for split, ledger in self._ledgers.items()
        }
        return {
            split: {"states": packed[split], "bad": list(ledger.bad.values()), "notes": dict(ledger.notes)}
            for split, ledger in self._ledgers.items()
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self._ledgers = {}
        for split, saved in state.items():
            states = np.frombuffer(zlib.decompress(base64.b64decode(saved["states"])), dtype=np.uint8).copy()
            self._ledgers[split] = _Ledger(states, {line["id"]: line for line in saved["bad"]}, Counter(saved["notes"]))

    def _judge(self, split: str, ledger: _Ledger, first: BadSample) -> None:
        if self._stop_at_first:
            raise ChiasmError(f"bad sample {first.id}: {first.reason}: {first.message} (train.bad_samples=quarantine goes on without it)")
        counts = _counts(ledger)
        enough = counts["read"] >= min(ENOUGH, len(ledger.states))
        if self._max_bad is not None and enough and counts["quarantined"] > self._max_bad * counts["read"]:
            share = f"{counts['quarantined']} of {counts['read']} samples are bad ({counts['quarantined'] / counts['read']:.1%})"
            raise ChiasmError(
                f"{split}: {share}, more than train.max_bad={self._max_bad:g}; the last: {first.id}: {first.reason}: {first.message}"
            )


def _counts(ledger: _Ledger) -> dict[str, int]:
    number = np.bincount(ledger.states, minlength=4)
    read = int(number[USED] + number[QUARANTINED] + number[FILTERED])
    return {"read": read, "used": int(number[USED]), "quarantined": int(number[QUARANTINED]), "filtered": int(number[FILTERED])}


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
