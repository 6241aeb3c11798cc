"""Parquet files, read by row groups; binary columns (media) are bytes, nested ones lists and dicts."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chiasm.data.sources.base import FileSource
from chiasm.data.values import plain
from chiasm.types import ChiasmError, Sample

MOST_BYTES = 1 << 30  # of row groups kept open at once; a larger file is read again and again where rows are drawn at random
PANDAS_INDEX = "__index_level_"


class Parquet(FileSource):
    """A .parquet file.

    {"image_id": 17, "png": b"\\x89PNG...", "question": "is there a circle?", "answer": "yes"}
    """

    extensions = (".parquet", ".pq")

    def __init__(self, path: str | Path, *, label: str | None = None, root: str | Path | None = None):
        super().__init__(path, label=label, root=root)
        try:
            with pq.ParquetFile(self.path) as file:
                names, metadata = file.schema_arrow.names, file.metadata
        except pa.ArrowInvalid as error:
            raise ChiasmError(f"{self.path}: not a readable parquet file: {str(error).splitlines()[0]}") from None
        self._columns = [n for n in names if not n.startswith(PANDAS_INDEX)]
        self._starts = [0]  # first row of every row group, then the number of rows
        for group in range(metadata.num_row_groups):
            self._starts.append(self._starts[-1] + metadata.row_group(group).num_rows)
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_groups": OrderedDict()}

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def columns(self) -> list[str]:
        return self._columns

    def read(self, index: int) -> Sample:
        group = bisect_right(self._starts, index) - 1
        row = self._group(group).slice(index - self._starts[group], 1)
        return self.sample(index, {name: plain(row.column(i)[0].as_py()) for i, name in enumerate(self._columns)})

    def column(self, name: str) -> list[Any]:
        if name not in self._columns:
            return [None] * len(self)
        return plain(pq.read_table(self.path, columns=[name]).column(0).to_pylist())

    def _group(self, group: int) -> pa.Table:
        if group in self._groups:
            self._groups.move_to_end(group)
            return self._groups[group]
        try:
            with pq.ParquetFile(self.path) as file:
                table = file.read_row_group(group, columns=self._columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise ChiasmError(f"{self.path}: row group {group} cannot be read: {str(error).splitlines()[0]}") from None
        self._groups[group] = table.select(self._columns)
        while len(self._groups) > 1 and sum(t.nbytes for t in self._groups.values()) > MOST_BYTES:
            self._groups.popitem(last=False)
        return self._groups[group]
