"""What a source is: a split's records, read one at a time, with nothing decoded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from chiasm.types import BadInput, Sample


class Source:
    """A fixed list of samples. A subclass is one file; its docstring shows one real record."""

    extensions: ClassVar[tuple[str, ...]] = ()  # file endings this source reads, e.g. (".jsonl",)
    splits: ClassVar[tuple[str, ...]] = ()  # the splits of a built-in set, which is made by `Set(split=..., seed=...)`
    variants: ClassVar[tuple[str, ...]] = ()  # its forms, where it has several; then it takes `variant=...` too
    notes: tuple[str, ...] = ()  # what was decided while opening, in words, for the user

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, index: int) -> Sample:
        """Sample `index`, parts raw. Raises BadInput where the record itself is broken (a JSON line that does not parse)."""
        raise NotImplementedError

    def origin(self, index: int) -> tuple[str, str, int | None]:
        """(id, file, line) of a record, also of one that `read` refuses."""
        raise NotImplementedError

    @property
    def columns(self) -> Iterable[str]:
        """Every column that some record has."""
        raise NotImplementedError

    def outline(self) -> tuple[Sequence[int], Sequence[int]] | None:
        """(length of the text, number of the picture) of every row, where the source knows them without reading; else None."""
        return None

    def rounds(self) -> Sequence[int] | None:
        """For the how many-th time (from 0) each row's record is read, where some are read several times; else None."""
        return None

    def column(self, name: str) -> list[Any]:
        """One raw value per record, None where it is absent or the record is broken."""
        return [self._part(index, name) for index in range(len(self))]

    def _part(self, index: int, name: str) -> Any:
        try:
            return self.read(index).parts.get(name)
        except BadInput:
            return None


class FileSource(Source):
    """A source that is one file: made by `Subclass(path, label=..., root=...)`; ids are `label:number`.

    `label` names the file in ids and messages (its name where not given); `root` is the folder that media paths start from
    and may not leave (the file's folder where not given).
    """

    def __init__(self, path: str | Path, *, label: str | None = None, root: str | Path | None = None):
        self.path = Path(path)
        self.label = label or self.path.name
        self.root = str(root if root is not None else self.path.parent)

    def number(self, index: int) -> int:
        """What a record is called by in its file: a line where the file has lines, else 1-based."""
        return index + 1

    def origin(self, index: int) -> tuple[str, str, int | None]:
        number = self.number(index)
        return f"{self.label}:{number}", str(self.path), number

    def sample(self, index: int, parts: dict[str, Any]) -> Sample:
        name, file, line = self.origin(index)
        return Sample(id=name, parts=parts, file=file, line=line, root=self.root)
