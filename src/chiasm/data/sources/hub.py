"""Data sets of the Hugging Face Hub, by name. Media are never decoded here: columns of pictures and sounds give bytes."""

from __future__ import annotations

from typing import Any

from chiasm.data.sources.base import Source
from chiasm.data.values import plain
from chiasm.types import ChiasmError, Sample


class Hub(Source):
    """`owner/name:split`, or `owner/name/configuration:split`.

    {"image": b"\\xff\\xd8...", "label": "cat"}
    """

    def __init__(self, name: str, *, split: str = "train"):
        import datasets  # a second of import that no local file needs
        from datasets.exceptions import DatasetsError

        dataset, split = name.partition(":")[0], name.partition(":")[2] or split
        owner, _, rest = dataset.partition("/")
        title, _, configuration = rest.partition("/")
        try:
            rows = datasets.load_dataset(f"{owner}/{title}", configuration or None, split=split)
        except (OSError, ValueError, DatasetsError) as error:  # offline is a ConnectionError, an OSError
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ChiasmError(f"'{name}' is no file here, and the Hub data set cannot be loaded: {reason}") from None
        self.label = name
        self._classes = {n: f.names for n, f in rows.features.items() if isinstance(f, datasets.ClassLabel)}
        self._rows = rows.with_format("arrow")  # storage as it is: nothing is decoded
        self._columns = list(rows.column_names)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def columns(self) -> list[str]:
        return self._columns

    def origin(self, index: int) -> tuple[str, str, int | None]:
        return f"{self.label}:{index + 1}", self.label, index + 1

    def read(self, index: int) -> Sample:
        row = self._rows[index]
        parts = {name: self._value(name, row.column(name)[0].as_py()) for name in self._columns}
        name, file, line = self.origin(index)
        return Sample(id=name, parts=parts, file=file, line=line)

    def column(self, name: str) -> list[Any]:
        if name not in self._columns:
            return [None] * len(self)
        return [self._value(name, v) for v in self._rows.select_columns([name])[:].column(0).to_pylist()]

    def _value(self, name: str, value: Any) -> Any:
        if name in self._classes and isinstance(value, int):
            return self._classes[name][value] if value >= 0 else None
        return plain(value)
