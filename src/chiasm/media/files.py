"""Open a raw media value safely: a path below its root, or bytes. The only place where a path of a data set is opened.

- A path may not leave `root`, by `..`, as an absolute path, or through a link.
- What is not a regular file is never opened: a FIFO would hang.
- Sizes are checked before anything is read.
- Besides str, Path and bytes, the `{"bytes": ..., "path": ...}` of `datasets` with `decode=False` is understood.
"""

from __future__ import annotations

import functools
import hashlib
import io
import operator
import os
import re
import stat
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from chiasm.types import BadInput, Drawn, Film, Sound

MEGABYTE = 1 << 20
DIGITS = re.compile(r"(\d+)")


def is_file(value: Any) -> bool:
    """Whether a raw value is a path, bytes, or the dict of both that `datasets` hands out."""
    if isinstance(value, Mapping):
        return "bytes" in value or "path" in value
    return isinstance(value, (str, os.PathLike, bytes, bytearray, memoryview))


def describe(value: Any) -> str:
    """How a message names a raw value: its path, or what it is."""
    value = _contents(value)
    if isinstance(value, (str, os.PathLike)):
        name = os.fspath(value)
        return repr(name if len(name) <= 200 else f"{name[:200]}...")
    if isinstance(value, bytes):
        return f"{len(value)} bytes of data"
    return f"the {type(value).__name__}"


def read_bytes(value: Any, *, root: str | None, limit: int) -> bytes:
    """The contents of a path below `root`, or the bytes themselves; at most `limit` bytes."""
    with open_binary(value, root=root, limit=limit) as file:
        data = file.read()
    if len(data) > limit:  # the file grew meanwhile
        raise _too_large(value, len(data), limit)
    return data


def open_binary(value: Any, *, root: str | None, limit: int | None = None) -> BinaryIO:
    """An open file of at least one and at most `limit` bytes."""
    contents = _contents(value)
    if isinstance(contents, bytes):
        size, file = len(contents), io.BytesIO(contents)
    elif isinstance(contents, (str, os.PathLike)):
        path, size = resolve(contents, root=root)
        if limit is not None and size > limit:
            raise _too_large(value, size, limit)
        file = _open_regular(path)
    else:
        raise BadInput("bad_type", f"expected a path or bytes, found {describe(value)}")
    if size == 0:
        file.close()
        raise BadInput("empty", f"{describe(value)} is empty (0 bytes); give a file with something in it")
    if limit is not None and size > limit:
        raise _too_large(value, size, limit)
    return file


def resolve(path: str | os.PathLike[str], *, root: str | None) -> tuple[str, int]:
    """(real path, bytes) of a regular file below `root`."""
    real = _inside(path, root)
    try:
        found = os.stat(real)
    except (OSError, ValueError) as error:
        where = "" if os.path.isabs(path) else f" in {root}"
        if isinstance(error, FileNotFoundError):
            advice = "check its name, or set data.root to its folder" if where else "check its name"
            raise BadInput("not_found", f"{describe(path)} was not found{where}; {advice}") from None
        problem = getattr(error, "strerror", None) or error
        raise BadInput("not_found", f"{describe(path)} cannot be read{where}: {problem}; check its name and rights") from None
    if stat.S_ISDIR(found.st_mode):
        raise BadInput("not_found", f"{describe(path)} is a folder; name a file in it")
    if not stat.S_ISREG(found.st_mode):
        raise BadInput("outside_root", f"{describe(path)} is a device, pipe or socket; give a regular file")
    return real, found.st_size


def pictures_in(path: Any, *, root: str | None) -> list[str] | None:
    """The files in a folder below `root`, 2.png ahead of 10.png, hidden ones left out; None where `path` names no folder."""
    if not isinstance(path, (str, os.PathLike)) or root is None:
        return None
    real = _inside(path, root)
    if not os.path.isdir(real):
        return None
    found = [name for name in os.listdir(real) if not name.startswith(".") and os.path.isfile(os.path.join(real, name))]
    ordered = sorted(found, key=lambda name: [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in DIGITS.split(name)])
    return [os.path.join(real, name) for name in ordered]


def identity(value: Any, *, root: str | None) -> str | None:
    """A key equal for equal pictures or clips, found without decoding: path + size + time, a hash of bytes, or what a built-in set says."""
    if isinstance(value, Drawn):
        return f"drawn:{value.key}"
    if isinstance(value, Sound):
        return f"sound:{value.rate}:{hashed(np.ascontiguousarray(value.samples))}"
    if isinstance(value, Film):
        return f"film:{hashed(np.ascontiguousarray(value.times))}:{value.frames.shape}:{hashed(np.ascontiguousarray(value.frames))}"
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"array:{value.dtype}:{value.shape}:{hashed(np.ascontiguousarray(value))}"
    contents = _contents(value)
    if isinstance(contents, bytes):
        return f"bytes:{hashed(contents)}"
    if isinstance(contents, (str, os.PathLike)):
        try:
            real = _inside(contents, root)
            found = os.stat(real)
        except (BadInput, OSError, ValueError):
            return None  # opening it will say why
        return f"file:{real}:{found.st_size}:{found.st_mtime_ns}"
    return None


def _contents(value: Any) -> Any:
    """Bytes or a path out of what a source may hand over."""
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    return bytes(value) if isinstance(value, (bytearray, memoryview)) else value


def _inside(path: str | os.PathLike[str], root: str | None) -> str:
    """The real path, links followed; BadInput where it is not below `root`."""
    name = os.fspath(path)
    if root is None:
        raise BadInput("outside_root", f"{describe(path)}: paths are not allowed here; give the bytes, or name a folder as data.root")
    if "\0" in str(name) or "://" in str(name):
        raise BadInput("outside_root", f"{describe(path)} is not a path below {root}; give the file itself, from that folder")
    base = os.path.realpath(root)
    try:
        real = os.path.realpath(os.path.join(base, os.fsdecode(name)))
    except (OSError, ValueError) as error:
        raise BadInput("not_found", f"{describe(path)} is not a usable path: {error}") from None
    if os.path.commonpath([base, real]) != base:
        raise BadInput("outside_root", f"{describe(path)} leads out of {root}; set data.root to a folder that holds it")
    return real


def _open_regular(path: str) -> BinaryIO:
    """Open without ever waiting: should the file have been swapped for a pipe since it was looked at, that is refused too."""
    flags = (getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"))  # not every system has all
    try:
        handle = os.open(path, functools.reduce(operator.or_, flags, os.O_RDONLY))
    except OSError as error:
        raise BadInput("not_found", f"{path} cannot be opened: {error.strerror}; check its rights") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise BadInput("outside_root", f"{path} is a device, pipe or socket; give a regular file")
    return open(handle, "rb")


def _too_large(value: Any, size: int, limit: int) -> BadInput:
    return BadInput(
        "too_large",
        f"{describe(value)}: {size / MEGABYTE:.1f} MB, more than the limit of {limit / MEGABYTE:g} MB; make it smaller, or raise max_bytes",
    )


def hashed(data: Any) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
