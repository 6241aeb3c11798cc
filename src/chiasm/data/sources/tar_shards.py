"""Tar shards: members of one folder and stem are one sample. Members are read by offset; nothing is ever unpacked to disk.

`0001.jpg`, `0001.json`, `0001.left.png` give the parts `image`, those of the JSON object, and `left`. The column is the middle
name where there is one, else what the ending stands for (COLUMNS), else the ending itself. Links and devices are refused, never followed.
"""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from chiasm.data.sources.base import FileSource
from chiasm.types import BadInput, ChiasmError, Sample

COLUMNS = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"), "image"),
    **dict.fromkeys(("wav", "flac", "ogg", "mp3", "opus"), "audio"),
    **dict.fromkeys(("mp4", "webm", "mkv", "avi", "mov"), "video"),
    **dict.fromkeys(("txt", "text"), "text"),
    "cls": "label",
    "npy": "features",
}


@dataclass(slots=True)
class _Record:
    stem: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)  # name without the stem -> (offset, bytes)
    refused: str = ""  # a member that is no plain file


class TarShards(FileSource):
    """A .tar file (several: give a pattern such as `shards/train-*.tar`).

    0001.jpg  0001.txt  0001.cls  0002.jpg  0002.txt  0002.cls
    """

    extensions = (".tar",)

    def __init__(self, path: str | Path, *, label: str | None = None, root: str | Path | None = None):
        super().__init__(path, label=label, root=root)
        self._bytes = self.path.stat().st_size
        records: dict[str, _Record] = {}
        try:
            with tarfile.open(self.path, "r:") as tar:
                for member in tar:
                    _add(records, member)
        except tarfile.ReadError as error:
            if not records:
                raise ChiasmError(f"{self.path}: not a plain tar file ({error}); a compressed one must be unpacked to .tar first") from None
        self._records = list(records.values())

    def __len__(self) -> int:
        return len(self._records)

    def origin(self, index: int) -> tuple[str, str, int | None]:
        return f"{self.label}:{self._records[index].stem}", str(self.path), None

    def read(self, index: int) -> Sample:
        record = self._records[index]
        where = f"{self.path}:{record.stem}"
        if record.refused:
            raise BadInput("not_a_file", f"{where}: member '{record.refused}' is a link or a device; a shard holds plain files only")
        parts: dict[str, Any] = {}
        with self.path.open("rb") as file:
            for ending, (offset, size) in record.members.items():
                if offset + size > self._bytes:
                    raise BadInput("truncated", f"{where}.{ending}: the tar file ends inside this member; copy it again")
                file.seek(offset)
                parts.update(_parts(f"{where}.{ending}", ending, file.read(size)))
        return self.sample(index, parts)

    @cached_property
    def columns(self) -> list[str]:
        found: dict[str, None] = {}
        for index, record in enumerate(self._records):
            if any(ending.rpartition(".")[2].lower() == "json" for ending in record.members):
                found.update(dict.fromkeys(self._keys(index)))
            else:
                found.update(dict.fromkeys(_column(ending) for ending in record.members))
        return list(found)

    def _keys(self, index: int) -> list[str]:
        try:
            return list(self.read(index).parts)
        except BadInput:
            return []


def _add(records: dict[str, _Record], member: tarfile.TarInfo) -> None:
    if member.isdir():
        return
    folder, _, name = member.name.rpartition("/")
    stem, dot, ending = name.partition(".")
    if not dot or not stem:  # hidden files, and files without an ending such as LICENSE
        return
    record = records.setdefault(f"{folder}/{stem}", _Record(f"{folder}/{stem}".lstrip("/")))
    if member.isreg():
        record.members[ending] = (member.offset_data, member.size)
    else:
        record.refused = record.refused or member.name


def _column(ending: str) -> str:
    name, _, kind = ending.lower().rpartition(".")
    return name or COLUMNS.get(kind, kind)


def _parts(where: str, ending: str, value: bytes) -> dict[str, Any]:
    column, kind = _column(ending), ending.lower().rpartition(".")[2]
    try:
        if kind == "json":
            record = json.loads(value)
            return record if isinstance(record, dict) and column == "json" else {column: record}
        if kind in ("txt", "text"):
            return {column: value.decode("utf-8").strip()}
        if kind == "cls":
            return {column: int(value)}
        if kind == "npy":
            return {column: np.load(io.BytesIO(value), allow_pickle=False)}
    except UnicodeDecodeError:
        raise BadInput("bad_encoding", f"{where}: not UTF-8", input=column) from None
    except (ValueError, RecursionError, EOFError) as error:
        raise BadInput(f"bad_{kind}", f"{where}: {error}", input=column) from None
    return {column: value}
