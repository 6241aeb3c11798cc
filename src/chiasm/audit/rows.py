"""The rows that a model is asked: any file that a recipe reads, in plain columns or in chat form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiasm.components import did_you_mean
from chiasm.data.opening import open_file
from chiasm.data.randomness import some_of
from chiasm.media import files
from chiasm.tasks.template import is_missing
from chiasm.types import BadInput, ChiasmError, Sample

QUESTIONS = ("question", "prompt", "instruction", "text")
ANSWERS = ("answer", "answers", "label", "target", "output", "caption")
MEDIA = ("image", "audio")


@dataclass(frozen=True, slots=True)
class Asked:
    """`parts`: input -> its raw value, paths whole; an input that the row lacks is not among them."""

    id: str
    parts: Mapping[str, Any]
    target: Any


def column(columns: Sequence[str], wanted: str | None, usual: Sequence[str], what: str) -> str:
    """The column that holds the question or the answer; ChiasmError where there is none."""
    if wanted is not None and wanted not in columns:
        raise ChiasmError(f"the data have no column '{wanted}'{did_you_mean(wanted, columns)}")
    found = wanted or next((name for name in usual if name in columns), None)
    if found is None:
        raise ChiasmError(f"the data have no column for the {what} (looked for {', '.join(usual)}); name it: --{what} COLUMN")
    return found


def read(data: str | Path, limit: int | None, make: Callable[[Sample], Asked | None]) -> tuple[list[Asked], list[str]]:
    """(rows that `make` could make, drawn evenly where only `limit` are wanted; what was wrong with others)."""
    source = open_file(data)
    rows: list[Asked] = []
    refused: list[str] = []
    unanswered = 0
    for index in some_of(len(source), len(source) if limit is None else limit):
        try:
            made = make(source.read(index))
        except BadInput as error:
            refused.append(f"{source.origin(index)[0]}: {error}")
            continue
        if made is None:
            unanswered += 1
            refused.append(f"{source.origin(index)[0]}: no answer")
        else:
            rows.append(made)
    if refused and unanswered == len(refused) and not rows:
        columns = ", ".join(source.columns)
        raise ChiasmError(f"{data}: no row has an answer; its columns are {columns}; name the one that holds it: --answer COLUMN")
    if not rows:
        raise ChiasmError(f"{data}: no row can be used" + (f" ({refused[0]})" if refused else ""))
    return rows, refused


def whole_paths(value: Any, root: str | None) -> Any:
    """Paths of a part as real paths below the data's folder, so that they can be opened from anywhere."""
    if isinstance(value, list | tuple):
        return [whole_paths(item, root) for item in value]
    return files.resolve(value, root=root)[0] if isinstance(value, str) else value


def there(parts: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    """Which of `names` a record has."""
    return (name for name in names if not (is_missing(value) if isinstance(value := parts.get(name), str | float) else value is None))
