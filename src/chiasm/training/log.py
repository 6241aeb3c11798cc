"""RUN/log.jsonl: one line per optimizer step and per event, which a resumed run cuts back to its checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class RunLog:
    """Append-only JSON lines. Losses are written as they are: a NaN stays `NaN`, and Python's float text is exact."""

    def __init__(self, path: Path, *, keep_bytes: int | None = None):
        """`keep_bytes`: how much of an existing log belongs to the past of this run; None starts a new one."""
        self._file = path.open("ab" if keep_bytes is not None else "wb", buffering=0)
        if keep_bytes is not None and path.stat().st_size > keep_bytes:
            self._file.truncate(keep_bytes)

    def write(self, **record: Any) -> None:
        self._file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())

    def sync(self) -> int:
        """Force it to disk; returns its length in bytes."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        self._file.close()


class NoLog(RunLog):
    """Of a process that leaves writing to another."""

    def __init__(self) -> None:
        return

    def write(self, **record: Any) -> None:
        return

    def sync(self) -> int:
        return 0

    def close(self) -> None:
        return


def read_log(path: Path) -> list[dict[str, Any]]:
    """All records; a last line that a kill cut short is left out."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
