"""An index in plain files, memory-mapped: SIDE.vectors.npy, SIDE.codes.npy and SIDE.grid.safetensors (see scan.py) for each side,
SIDE.rows.npy with the row of rows.jsonl that each vector belongs to, and rows.npy with where each row of it begins."""

from __future__ import annotations

import dataclasses
import json
import mmap
from array import array
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import numpy as np
from safetensors.numpy import load_file, save_file

from chiasm.retrieval.scan import Grid, Scan, encode
from chiasm.retrieval.store import Near, Record, Store, Writer
from chiasm.types import ChiasmError

COPIED = 1 << 16  # vectors at once


class Exact(Store):
    """Reads codes and rows from the folder as they are needed; `search_many` is the fast way for many queries."""

    def __init__(self, folder: Path, sides: Sequence[str]):
        self.folder = folder
        self.scans = {side: open_scan(folder, side) for side in sides}
        self.rows = {side: _mapped(file_of(folder, side, "rows.npy")) for side in sides}
        self.starts = _mapped(folder / "rows.npy")

    def count(self, side: str) -> int:
        return len(self.scans[side])

    def search(self, query: np.ndarray, k: int, sides: Sequence[str], where: str | None = None) -> list[Near]:
        if where is not None:
            raise ChiasmError("this index cannot filter; make it with chiasm index ... --backend lancedb")
        best: list[tuple[float, str, int]] = []
        for side in sides:
            found = self.scans[side].search(query[None], k)
            best += [(float(score), side, int(row)) for score, row in zip(found.scores[0], found.rows[0], strict=True)]
        best.sort(key=lambda near: -near[0])
        return [Near(score, side, self.record(int(self.rows[side][row]))) for score, side, row in best[:k]]

    def record(self, number: int) -> Record:
        with (self.folder / "rows.jsonl").open("rb") as file:
            file.seek(int(self.starts[number]))
            return json.loads(file.readline())


class ExactWriter(Writer):
    """Vectors go to disk as they come; codes are made at the end, when the range of the vectors is known."""

    def __init__(self, folder: Path):
        self.folder, self.starts = folder, array("q")
        self.records = (folder / "rows.jsonl").open("wb")
        self.raw: dict[str, BinaryIO] = {}
        self.rows: dict[str, array[int]] = {}
        self.width = 0

    def add(self, records: Sequence[Record], vectors: Mapping[str, tuple[Sequence[int], np.ndarray]]) -> None:
        first = len(self.starts)
        for record in records:
            self.starts.append(self.records.tell())
            self.records.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        for side, (places, values) in vectors.items():
            if side not in self.raw:
                self.raw[side], self.rows[side] = (file_of(self.folder, side, "raw")).open("wb"), array("q")
            self.width = values.shape[1]
            self.raw[side].write(np.ascontiguousarray(values, dtype=np.float32).tobytes())
            self.rows[side].extend(first + place for place in places)

    def finish(self) -> None:
        self.records.close()
        np.save(self.folder / "rows.npy", np.array(self.starts, dtype=np.int64))
        for side, file in self.raw.items():
            file.close()
            np.save(file_of(self.folder, side, "rows.npy"), np.array(self.rows[side], dtype=np.int64))
            shape = (len(self.rows[side]), self.width)
            raw = np.memmap(file.name, np.float32, "r", shape=shape)
            vectors = np.lib.format.open_memmap(file_of(self.folder, side, "vectors.npy"), "w+", np.float32, shape)
            for start in range(0, len(raw), COPIED):
                vectors[start : start + COPIED] = raw[start : start + COPIED]
            write_codes(self.folder, side, vectors)
            Path(file.name).unlink()


def file_of(folder: Path, side: str, what: str) -> Path:
    """A side may be any column's name; its files are called so that every file system has them."""
    return folder / f"{quote(side, safe=' ')}.{what}"


def write_codes(folder: Path, side: str, vectors: np.ndarray) -> None:
    """SIDE.codes.npy and SIDE.grid.safetensors of vectors float32 [N, d]."""
    codes = np.lib.format.open_memmap(file_of(folder, side, "codes.npy"), "w+", np.int8, vectors.shape)
    grid = encode(vectors, codes)
    codes.flush()
    save_file({name: np.asarray(value) for name, value in dataclasses.asdict(grid).items()}, file_of(folder, side, "grid.safetensors"))


def open_scan(folder: Path, side: str) -> Scan:
    arrays = load_file(file_of(folder, side, "grid.safetensors"))
    shift, rotation = arrays.pop("shift"), arrays.pop("rotation")
    grid = Grid(shift, rotation, **{name: float(value) for name, value in arrays.items()})
    vectors = _mapped(file_of(folder, side, "vectors.npy"))
    file = vectors.base
    release = partial(file.madvise, mmap.MADV_DONTNEED) if isinstance(file, mmap.mmap) else None
    return Scan(_mapped(file_of(folder, side, "codes.npy")), vectors, grid, release=release)


def _mapped(path: Path) -> np.ndarray:
    """Copy-on-write, since torch wants memory that may be written; nothing ever is."""
    return np.load(path, mmap_mode="c", allow_pickle=False)
