"""Predictions as a file: jsonl as they are; csv and parquet with the columns of COLUMNS, empty where a row has none of it.

In csv and parquet an output that is no text or number (vectors) and probabilities are JSON.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = ("id", "task", "output", "score", "probabilities", "reason", "error", "input", "line")
GROUP = 10_000  # rows of a parquet file that are written together


def write_all(parts: Sequence[Path], output: Path) -> None:
    """Write the lines of `parts` (jsonl) into one file, whole or not at all."""
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        ENDINGS[output.suffix](parts, temporary)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


def _write_jsonl(parts: Sequence[Path], path: Path) -> None:
    with path.open("wb") as file:
        for part in parts:
            with part.open("rb") as lines:
                shutil.copyfileobj(lines, file)


def _write_csv(parts: Sequence[Path], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for line in lines_of(parts):
            writer.writerow([_cell(line.get(column)) for column in COLUMNS])


def _write_parquet(parts: Sequence[Path], path: Path) -> None:
    """The column `output` holds numbers where all outputs are, else texts."""
    numbers = all(isinstance(line.get("output"), int | float | None) for line in lines_of(parts))
    kinds = {"score": pa.float64(), "line": pa.int64(), "output": pa.float64() if numbers else pa.string()}
    schema = pa.schema([(column, kinds.get(column, pa.string())) for column in COLUMNS])
    lines = lines_of(parts)
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(islice(lines, GROUP)):
            columns = [[_value(line.get(field.name), field.type) for line in group] for field in schema]
            writer.write_table(pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema))


ENDINGS: dict[str, Callable[[Sequence[Path], Path], None]] = {
    ".jsonl": _write_jsonl,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}


def lines_of(parts: Sequence[Path]) -> Iterator[Mapping[str, Any]]:
    for part in parts:
        with part.open("rb") as file:
            yield from map(json.loads, file)


def _value(value: Any, kind: pa.DataType) -> Any:
    return _cell(value) if kind == pa.string() and value is not None else value


def _cell(value: Any) -> Any:
    """What stands in a cell: nothing for null, JSON for what is no text or number."""
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | bool) else str(value)
