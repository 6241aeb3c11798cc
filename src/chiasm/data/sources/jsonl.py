"""JSON lines: one object a line. Only the lines' offsets are kept in memory."""

from __future__ import annotations

import json
from array import array
from functools import cached_property
from pathlib import Path
from typing import Any

from chiasm.data.sources.base import FileSource
from chiasm.types import BadInput, Sample

BOM = b"\xef\xbb\xbf"
LONGEST_LINE = 10_000_000  # bytes; refused before it is read
LOOKED_AT = 10_000  # records that `columns` is collected from, evenly spaced


class JsonLines(FileSource):
    """A .jsonl file. Blank lines are no records; a line that is not one JSON object in UTF-8 is a bad sample with its line number.

    {"image": "pictures/0001.png", "question": "what colour is the sun?", "answer": "red"}
    """

    extensions = (".jsonl", ".ndjson")

    def __init__(self, path: str | Path, *, label: str | None = None, root: str | Path | None = None):
        super().__init__(path, label=label, root=root)
        self._offsets, self._sizes, self._lines = array("Q"), array("Q"), array("L")
        position = 0
        with self.path.open("rb") as file:
            for line, text in enumerate(file, start=1):
                if text.strip() and text.strip() != BOM:
                    self._offsets.append(position)
                    self._sizes.append(len(text))
                    self._lines.append(line)
                position += len(text)

    def __len__(self) -> int:
        return len(self._offsets)

    def number(self, index: int) -> int:
        return self._lines[index]

    def read(self, index: int) -> Sample:
        if self._sizes[index] > LONGEST_LINE:
            raise BadInput(
                "too_long",
                f"{self._where(index)}: the line has {self._sizes[index]:,} bytes, at most {LONGEST_LINE:,} are read; put it in a file",
            )
        with self.path.open("rb") as file:
            file.seek(self._offsets[index])
            return self.sample(index, self._parse(index, file.read(self._sizes[index])))

    def _parse(self, index: int, line: bytes) -> dict[str, Any]:
        try:
            text = line.removeprefix(BOM).decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadInput(
                "bad_encoding", f"{self._where(index)}: not UTF-8 (byte {error.start} is 0x{line[error.start]:02x}); save the file as UTF-8"
            ) from None
        try:
            record = json.loads(text.strip())
        except json.JSONDecodeError as error:
            raise BadInput(
                "bad_json", f"{self._where(index)}: not JSON: {error.msg} at column {error.colno}; a line is one object"
            ) from None
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; nesting without end
            raise BadInput("bad_json", f"{self._where(index)}: not usable JSON: {error}; a line is one object") from None
        if not isinstance(record, dict):
            raise BadInput(
                "not_an_object", f'{self._where(index)}: a {type(record).__name__}; write a record as an object: {{"column": value, ...}}'
            )
        if "\\u" in text and _has_lone_surrogate(record):
            raise BadInput("lone_surrogate", f"{self._where(index)}: half of a \\u surrogate pair; write the character itself in UTF-8")
        return record

    def _where(self, index: int) -> str:
        return f"{self.path}:{self._lines[index]}"

    @cached_property
    def columns(self) -> list[str]:
        step = max(1, len(self) // LOOKED_AT)
        found: dict[str, None] = {}
        for index in range(0, len(self), step):
            try:
                found.update(dict.fromkeys(self.read(index).parts))
            except BadInput:
                continue
        return list(found)


def _has_lone_surrogate(record: dict[str, Any]) -> bool:
    try:
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
