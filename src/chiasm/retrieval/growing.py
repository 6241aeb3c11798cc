"""Files of a folder that only grow, and a journal of how long all of them were when they were last good together: after a kill at any
moment what is longer is cut off, and writing goes on from there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

JOURNAL, LOCK = "journal.jsonl", "lock"


class Growing:
    """`plan` says what is being written: a folder begun for another is emptied. `state` is what was noted last, {} at the beginning."""

    def __init__(self, folder: Path, plan: Mapping[str, Any]):
        self.folder = folder
        self.files: dict[str, BinaryIO] = {}
        self.state = self._left(plan)
        if not self.state:
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.iterdir():
                if old.is_dir():
                    shutil.rmtree(old)
                elif old.name != LOCK:
                    old.unlink()
            self.append(JOURNAL, json.dumps(plan).encode() + b"\n")

    def append(self, name: str, data: bytes) -> None:
        if name not in self.files:
            self.files[name] = (self.folder / name).open("ab")
        self.files[name].write(data)

    def size(self, name: str) -> int:
        """Bytes so far."""
        if name in self.files:
            return self.files[name].tell()
        return (self.folder / name).stat().st_size if (self.folder / name).exists() else 0

    def note(self, **state: Any) -> None:
        """What has been written so far is good, and belongs to this state."""
        self.flush()
        sizes = {name: self.size(name) for name in self.files if name != JOURNAL}
        self.state = {**state, "files": {**self.state.get("files", {}), **sizes}}
        self.append(JOURNAL, json.dumps(self.state).encode() + b"\n")
        self.flush()

    def flush(self) -> None:
        for file in self.files.values():
            file.flush()

    def done(self, *passing: str) -> None:
        """The files are whole; the journal goes, and those that only served the way."""
        self.__exit__()
        for name in (JOURNAL, *passing):
            (self.folder / name).unlink(missing_ok=True)

    def __enter__(self) -> Growing:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.files.values():
            file.close()

    def _left(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """The newest state that was noted and that the files still hold, with what came after it cut off."""
        path = self.folder / JOURNAL
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        if not lines or json.loads(lines[0]) != json.loads(json.dumps(plan)):
            return {}
        for number in range(len(lines) - 1, 0, -1):
            state = json.loads(lines[number])
            if all(self.size(name) >= size for name, size in state["files"].items()):
                for file in self._beside(state["files"]):
                    file.unlink()
                for name, size in state["files"].items():
                    os.truncate(self.folder / name, size)
                path.write_bytes(b"".join(line + b"\n" for line in lines[: number + 1]))
                return state
        return {}

    def _beside(self, names: Mapping[str, int]) -> Iterator[Path]:
        """Files that no state knows of: begun after it."""
        return (file for file in self.folder.iterdir() if file.is_file() and file.name not in (*names, JOURNAL, LOCK))
