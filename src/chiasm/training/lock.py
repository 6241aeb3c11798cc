"""One run per folder: a lock file that names its holder, and a stale one explained and taken over.

The file holds pid, host and start time rather than an flock, which data workers would inherit and keep after their parent's death.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from chiasm.types import ChiasmError


class Locked(ChiasmError):
    """Another process trains into this folder."""


@contextmanager
def run_lock(folder: Path, warn: Callable[[str], None]) -> Generator[None]:
    """Hold `folder/lock` for the time of the block; Locked names the process that has it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    with _alone(folder):
        if path.exists():
            _refuse_unless_stale(path, warn)
        path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid())}), encoding="utf-8")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """No other process is between looking at the lock and taking it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _refuse_unless_stale(path: Path, warn: Callable[[str], None]) -> None:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        pid, host, started = int(holder["pid"]), str(holder["host"]), holder["started"]
    except (ValueError, KeyError, TypeError):
        warn(f"WARNING: {path} is left from a process that ended while writing it; taking it over")
        return
    if host != socket.gethostname():
        raise Locked(
            f"{path} is held by process {pid} on host {host}; wait for it, choose another --output, "
            f"or delete the file if that run has ended"
        )
    if _started(pid) == started:
        raise Locked(f"{path} is held by process {pid} on this host; wait for it, or choose another --output")
    warn(f"WARNING: {path} is left from process {pid}, which ended without releasing it; taking it over")


def _started(pid: int) -> str | None:
    """When a process began (a reused pid is not the old holder); None where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except FileNotFoundError:
        return None if Path("/proc/self").exists() else _answers(pid)


def _answers(pid: int) -> str | None:
    """The same without /proc: only whether the process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "running"
    return "running"
