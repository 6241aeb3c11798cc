"""Tables in text: comma- or tab-separated, with a header line, UTF-8 (with or without a byte-order mark), LF or CRLF.

Records are found once by their offsets and read from the file when asked for. A cell that is empty is absent; any other is
text as written (tables, labels and regression read numbers from text). A record with another number of cells than the header, with a
quote that is never closed, or not in UTF-8 is a bad sample; reading goes on at the next line.
"""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from chiasm.data.sources.base import FileSource
from chiasm.types import BadInput, ChiasmError, Sample

BOM = b"\xef\xbb\xbf"
LONGEST_CELL = 10_000_000  # characters
LONGEST_RECORD = 1000  # lines; a quote that is open for longer was never closed


class CsvTable(FileSource):
    """A .csv or .tsv file.

    image,text,label
    cat.jpg,"a ""quoted"", comma",1
    """

    extensions = (".csv", ".tsv")

    def __init__(self, path: str | Path, *, label: str | None = None, root: str | Path | None = None):
        super().__init__(path, label=label, root=root)
        self._delimiter = "\t" if self.path.suffix.lower() == ".tsv" else ","
        self._offsets, self._sizes, self._lines = array("Q"), array("Q"), array("L")
        csv.field_size_limit(LONGEST_CELL)
        with self.path.open("rb") as file:
            start, line = self._read_header(file)
            self._scan(file, start, line)

    def __len__(self) -> int:
        return len(self._offsets)

    def number(self, index: int) -> int:
        return self._lines[index]

    @property
    def columns(self) -> list[str]:
        return self._columns

    def read(self, index: int) -> Sample:
        with self.path.open("rb") as file:
            file.seek(self._offsets[index])
            raw = file.read(self._sizes[index])
        where = f"{self.path}:{self._lines[index]}"
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadInput("bad_encoding", f"{where}: not UTF-8 (byte 0x{raw[error.start]:02x}); save the file as UTF-8") from None
        try:
            cells = next(csv.reader(io.StringIO(text, newline="\n"), delimiter=self._delimiter, strict=True))
        except csv.Error as error:
            raise BadInput("bad_csv", f"{where}: {error}; a quote inside a quoted cell is written twice") from None
        if len(cells) != len(self._columns):
            raise BadInput(
                "wrong_columns",
                f"{where}: {len(cells)} cells, but the header has {len(self._columns)} columns; put a cell with a delimiter in quotes",
            )
        return self.sample(index, {name: cell or None for name, cell in zip(self._columns, cells, strict=True)})

    def _read_header(self, file: BinaryIO) -> tuple[int, int]:
        """Sets the columns; returns where the records start (offset, line)."""
        start = len(BOM) if file.read(3) == BOM else 0
        records = _Records(file, start, 1, self._delimiter)
        found = next(iter(records), None)
        cells = found[3] if found else None
        if not cells:
            raise ChiasmError(f"{self.path}: no header line; the first line names the columns")
        try:
            names = [c.encode("latin-1").decode("utf-8").strip() for c in cells]
        except UnicodeDecodeError:
            raise ChiasmError(f"{self.path}: the header is not UTF-8; save the file as UTF-8") from None
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice or "" in names:
            raise ChiasmError(
                f"{self.path}: "
                + (f"column '{twice[0]}' is named twice" if twice and twice[0] else "a column has no name")
                + " in the header; name each once"
            )
        self._columns = names
        return records.position, records.line

    def _scan(self, file: BinaryIO, start: int, line: int) -> None:
        for offset, size, at, cells in _Records(file, start, line, self._delimiter):
            if cells is None or cells:  # else a blank line
                self._offsets.append(offset)
                self._sizes.append(size)
                self._lines.append(at)


class _Records:
    """Iterates over (offset, size, line, cells as latin-1 | None where the record is broken); broken ones are one line long."""

    def __init__(self, file: BinaryIO, position: int, line: int, delimiter: str):
        self.file, self.position, self.line, self.delimiter = file, position, line, delimiter

    def __iter__(self) -> Iterator[tuple[int, int, int, list[str] | None]]:
        self.file.seek(self.position)
        reader = csv.reader(self._read_lines(), delimiter=self.delimiter, strict=True)
        while True:
            start, line = self.position, self.line
            self._until = line + LONGEST_RECORD
            try:
                cells = next(reader, None)
            except csv.Error:
                yield self._skip_line(start, line)
                reader = csv.reader(self._read_lines(), delimiter=self.delimiter, strict=True)
                continue
            if cells is None:
                return
            yield start, self.position - start, line, cells

    def _read_lines(self) -> Iterator[str]:
        while self.line < self._until and (text := self.file.readline()):
            self.position += len(text)
            self.line += 1
            yield text.decode("latin-1")

    def _skip_line(self, start: int, line: int) -> tuple[int, int, int, None]:
        self.file.seek(start)
        size = len(self.file.readline())
        self.position, self.line = start + size, line + 1
        return start, size, line, None
