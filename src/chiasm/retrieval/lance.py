"""An index in LanceDB: filters on columns, updates, object stores. Searched exactly too: no approximate index is made of it.

One table `vectors`: _key (side and id), _side, _vector, _record (JSON), and every column that can be shown, a number or a text by what the
first rows have. Needs the extra `retrieval`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from chiasm.retrieval.store import Near, Record, Store, Writer
from chiasm.types import ChiasmError

TABLE = "vectors"
ADDED = 4096  # rows of one write: each is a file of its own


class Lance(Store):
    """`uri`: a folder or an object store, as lancedb.connect takes it."""

    def __init__(self, uri: str):
        try:
            self.table = connect(uri).open_table(TABLE)
        except (ValueError, OSError, RuntimeError) as error:
            raise ChiasmError(f"{uri}: no LanceDB index can be opened there: {first_line(error)}") from None

    def count(self, side: str) -> int:
        return self.table.count_rows(_one_of([side]))

    def search(self, query: np.ndarray, k: int, sides: Sequence[str], where: str | None = None) -> list[Near]:
        wanted = _one_of(sides) + (f" AND ({where})" if where else "")
        try:
            asked = self.table.search(query, vector_column_name="_vector").distance_type("dot").where(wanted, prefilter=True)
            rows = asked.select(["_side", "_record", "_distance"]).limit(k).to_arrow().to_pylist()
        except (ValueError, RuntimeError) as error:
            raise ChiasmError(f"where: {where}: {first_line(error)}") from None
        return [Near(1 - row["_distance"], row["_side"], json.loads(row["_record"])) for row in rows]


class LanceWriter(Writer):
    """A row that is there already, by side and id, is replaced where `update` is given; else the table must be new."""

    def __init__(self, uri: str, *, update: bool = False):
        self.database, self.uri, self.table = connect(uri), uri, None
        self.waiting: list[dict[str, Any]] = []
        if update:
            self.table = Lance(uri).table
        elif TABLE in self.database.list_tables().tables:
            raise ChiasmError(f"{uri}: holds an index already; give another --store, or change that one with --update")

    def add(self, records: Sequence[Record], vectors: Mapping[str, tuple[Sequence[int], np.ndarray]]) -> None:
        for side, (places, values) in vectors.items():
            for place, vector in zip(places, values, strict=True):
                record = records[place]
                own = {
                    "_key": f"{side}:{record['id']}",
                    "_side": side,
                    "_vector": vector,
                    "_record": json.dumps(record, ensure_ascii=False),
                }
                self.waiting.append({**{_field(name): value for name, value in record["columns"].items()}, **own})
        if len(self.waiting) >= ADDED:
            self._write()

    def finish(self, sides: Sequence[str]) -> None:
        if self.waiting:
            self._write()

    def _write(self) -> None:
        if self.table is None:
            self.table = self.database.create_table(TABLE, schema=_schema(self.waiting))
        rows = pa.table([_column(self.waiting, field) for field in self.table.schema], schema=self.table.schema)
        self.table.merge_insert("_key").when_matched_update_all().when_not_matched_insert_all().execute(rows)
        self.waiting = []


def connect(uri: str) -> Any:
    try:
        import lancedb
    except ModuleNotFoundError:
        raise ChiasmError("the lancedb backend needs the package lancedb: pip install 'chiasm[retrieval]'") from None
    return lancedb.connect(uri)


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _schema(rows: Sequence[Mapping[str, Any]]) -> pa.Schema:
    own = [
        ("_key", pa.string()),
        ("_side", pa.string()),
        ("_vector", pa.list_(pa.float32(), len(rows[0]["_vector"]))),
        ("_record", pa.string()),
    ]
    columns = dict.fromkeys(name for row in rows for name in row if not name.startswith("_"))
    numbers = {name for name in columns if all(isinstance(row[name], int | float) for row in rows if row.get(name) is not None)}
    return pa.schema([*own, *((name, pa.float64() if name in numbers else pa.string()) for name in columns)])


def _column(rows: Sequence[Mapping[str, Any]], field: pa.Field) -> pa.Array:
    if field.name == "_vector":
        flat = np.concatenate([row["_vector"] for row in rows]).astype(np.float32)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), field.type.list_size)
    values = [row.get(field.name) for row in rows]
    if pa.types.is_floating(field.type):
        return pa.array([float(value) if isinstance(value, int | float) else None for value in values], field.type)
    return pa.array([None if value is None else str(value) for value in values], field.type)


def _field(column: str) -> str:
    """A column's name in the table, where a leading underscore is ours and a dot means something nested."""
    return column.lstrip("_").replace(".", "_") or "column"


def _one_of(sides: Sequence[str]) -> str:
    return "_side IN (" + ", ".join("'" + side.replace("'", "''") + "'" for side in sides) + ")"
