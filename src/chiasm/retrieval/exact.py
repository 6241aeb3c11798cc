"""An index in plain files, memory-mapped: SIDE.vectors.npy, SIDE.codes.npy and SIDE.grid.safetensors (see scan.py) for each side,
SIDE.rows.npy with the row of rows.jsonl that each vector belongs to, and rows.npy with where each row of it begins."""

from __future__ import annotations

import dataclasses
import json
import mmap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from safetensors.numpy import load_file, save_file

from chiasm.retrieval.growing import Growing
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

    def __init__(self, growing: Growing):
        self.growing, self.folder = growing, growing.folder
        self.count, self.width = growing.state.get("records", 0), growing.state.get("width", 0)

    def add(self, records: Sequence[Record], vectors: Mapping[str, tuple[Sequence[int], np.ndarray]]) -> None:
        for record in records:
            self.growing.append("rows.jsonl", json.dumps(record, ensure_ascii=False).encode() + b"\n")
        for side, (places, values) in vectors.items():
            self.width = values.shape[1]
            self.growing.append(raw(side, "vectors"), np.ascontiguousarray(values, dtype=np.float32).tobytes())
            self.growing.append(raw(side, "rows"), (np.asarray(places, dtype=np.int64) + self.count).tobytes())
        self.count += len(records)

    def noted(self) -> dict[str, Any]:
        return {"records": self.count, "width": self.width}

    def finish(self, sides: Sequence[str]) -> None:
        self.growing.flush()
        with (self.folder / "rows.jsonl").open("rb") as file:
            lengths = np.fromiter(map(len, file), np.int64, self.count)
        np.save(self.folder / "rows.npy", np.cumsum(lengths) - lengths)
        for side in sides:
            np.save(file_of(self.folder, side, "rows.npy"), np.fromfile(self.folder / raw(side, "rows"), np.int64))
            grown = np.memmap(self.folder / raw(side, "vectors"), np.float32, "r").reshape(-1, self.width)
            vectors = np.lib.format.open_memmap(file_of(self.folder, side, "vectors.npy"), "w+", np.float32, grown.shape)
            for start in range(0, len(grown), COPIED):
                vectors[start : start + COPIED] = grown[start : start + COPIED]
            write_codes(self.folder, side, vectors)
        for side in sides:  # last, so that a kill before it costs no vector
            for what in ("vectors", "rows"):
                (self.folder / raw(side, what)).unlink()


def raw(side: str, what: str) -> str:
    """The name of what grows."""
    return file_of(Path(), side, f"{what}.raw").name


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
