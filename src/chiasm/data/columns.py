"""What each column of a table is, told from its values: the ground that `inspect` and `draft` stand on.

kind      told by
image     bytes or paths with the marks of a picture; audio, video alike (a GIF counts as a picture)
features  lists of numbers, all of one length
number    numbers with many values, or whole numbers that count or rate
category  few values, or truth values
text      anything else that is written
id        a value of its own for (nearly) every row, or a name that says so: nothing to learn from
split     names a split in every row
constant  one value, or none
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chiasm.data.sources.base import Source
from chiasm.types import BadInput

PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
SOUNDS = (b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"\xff\xf3")
ENDINGS = {
    "image": re.compile(r".+\.(jpe?g|png|webp|gif|bmp|tiff?)$", re.IGNORECASE),
    "audio": re.compile(r".+\.(wav|flac|ogg|mp3|opus)$", re.IGNORECASE),
    "video": re.compile(r".+\.(mp4|webm|mkv|avi|mov)$", re.IGNORECASE),
}
MEDIA = tuple(ENDINGS)
ID_NAME = re.compile(r"(^|[_\s\-.])(id|ids|uuid|guid|index|idx|key|hash|sha256|md5|url)$|(?<=[a-z])(ID|Id)$", re.IGNORECASE)
SPLIT_NAME = re.compile(r"^(split|fold|partition|subset)$", re.IGNORECASE)
SPLIT_VALUES = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "eval"})
NUMBER = re.compile(r"[-+]?(0|[1-9]\d{0,17})(\.\d+)?([eE][-+]?\d{1,3})?")  # "007" is a name
MOST_CATEGORIES = 50
SHORT = 40  # characters that a category has at most, on average


@dataclass(slots=True)
class Column:
    """One column: its kind and why, how many rows lack it, and its values where they are few."""

    name: str
    kind: str
    why: str
    rows: int
    missing: int
    distinct: int  # 0 for media and features
    counts: Counter[str] = field(default_factory=Counter)  # value -> rows, for categories and numbers of few values
    width: int = 0  # of features


def values_of(source: Source) -> tuple[dict[str, list[Any]], int]:
    """Column -> one value per readable record, bytes as their first kilobyte; and how many records are broken."""
    columns: dict[str, list[Any]] = {name: [] for name in source.columns}
    broken = rows = 0
    for index in range(len(source)):
        try:
            parts = source.read(index).parts
        except BadInput:
            broken += 1
            continue
        for name in parts.keys() - columns.keys():
            columns[name] = [None] * rows
        for name, values in columns.items():
            part = parts.get(name)
            values.append(part[:1024] if isinstance(part, bytes) else part)
        rows += 1
    return columns, broken


def describe(name: str, values: Sequence[Any]) -> Column:
    """What a column is."""
    present = [v for v in values if not is_missing(v)]
    kind, why, extra = next(found for found in _guesses(name, present) if found)
    column = Column(name, kind, why, rows=len(values), missing=len(values) - len(present), distinct=0, **extra)
    if kind not in (*MEDIA, "features", "unknown"):
        counts = Counter(str(v) for v in present)
        column.distinct = len(counts)
        if len(counts) <= MOST_CATEGORIES:
            column.counts = counts
    return column


def is_missing(value: Any) -> bool:
    """None, NaN, blank text or an empty list."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, (str, list)) and not (value.strip() if isinstance(value, str) else value))


_Guess = tuple[str, str, dict[str, Any]] | None


def _guesses(name: str, present: list[Any]) -> Iterator[_Guess]:
    """Guesses from the surest to the vaguest; the first that is not None holds."""
    if not present:
        yield "constant", "always missing", {}
    yield _media(present)
    yield _features(present)
    scalar = all(isinstance(v, (str, int, float, bool)) for v in present)
    if not scalar:
        yield "unknown", f"values of type {type(present[0]).__name__}", {}
    yield _scalar(name, present)


def _media(present: list[Any]) -> _Guess:
    first = [v[0] if isinstance(v, list) and v else v for v in present]
    if all(isinstance(v, bytes) for v in first):
        for kind, found in (("image", _is_picture), ("audio", _is_sound), ("video", _is_video)):
            if sum(found(v) for v in first) > 0.5 * len(first):
                return kind, "bytes of files", {}
        return "unknown", "bytes of an unknown kind", {}
    if all(isinstance(v, str) for v in first):
        for kind, ending in ENDINGS.items():
            if sum(ending.match(v) is not None for v in first) > 0.5 * len(first):
                return kind, "paths of files", {}
    return None


def _is_picture(data: bytes) -> bool:
    return data.startswith(PICTURES) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def _is_sound(data: bytes) -> bool:
    return data.startswith(SOUNDS) or (data[:4] == b"RIFF" and data[8:12] == b"WAVE")


def _is_video(data: bytes) -> bool:
    return data[4:8] in (b"ftyp", b"moov") or data.startswith(b"\x1aE\xdf\xa3") or (data[:4] == b"RIFF" and data[8:12] == b"AVI ")


def _features(present: list[Any]) -> _Guess:
    vectors = [v.tolist() if hasattr(v, "tolist") else v for v in present]
    if not all(isinstance(v, list) and v and all(isinstance(x, (int, float)) for x in v) for v in vectors):
        return None
    lengths = {len(v) for v in vectors}
    if len(lengths) > 1:
        return "unknown", f"lists of {min(lengths)} to {max(lengths)} numbers", {}
    return "features", f"{len(vectors[0])} numbers a row", {"width": len(vectors[0])}


def _scalar(name: str, present: list[Any]) -> _Guess:
    present = [_number(v) for v in present]
    distinct = len({str(v) for v in present})
    numeric = all(isinstance(v, (int, float)) for v in present)
    words = not numeric and sum(" " in str(v).strip() or _is_wide(str(v)) for v in present) > 0.2 * len(present)
    if SPLIT_NAME.match(name) and {str(v).lower() for v in present} <= SPLIT_VALUES:
        return "split", "says which split a row is of", {}
    if distinct == 1:
        return "constant", f"always {str(present[0])[:SHORT]!r}", {}
    if all(isinstance(v, bool) for v in present):
        return "category", "true or false", {}
    if ID_NAME.search(name) and not words and distinct > 10:
        return "id", f"named like an id; {distinct} values", {}
    whole = all(isinstance(v, int) or (isinstance(v, float) and v.is_integer()) for v in present) if numeric else False
    if distinct == len(present) > 20 and not words and (whole or not numeric):
        return "id", "another value in every row", {}
    if numeric:
        return "number", f"{distinct} values", {}
    short = sum(len(str(v)) for v in present) <= SHORT * len(present)
    if short and distinct <= MOST_CATEGORIES and distinct <= max(2, len(present) // 5) and distinct < len(present):
        return "category", f"{distinct} values", {}
    return "text", f"{distinct} different texts", {}


def _number(value: Any) -> Any:
    """A number that is written as text, as a number."""
    if not isinstance(value, str) or not NUMBER.fullmatch(value.strip()):
        return value
    return float(value) if set(value) & set(".eE") else int(value)


def _is_wide(text: str) -> bool:
    """Whether it is in a script that puts no spaces between words."""
    return any("\u3040" <= c <= "\u9fff" or "\u0e00" <= c <= "\u0eff" for c in text)


def dominance(column: Sequence[Any], target: Sequence[Any]) -> tuple[float, float]:
    """(how often the target is guessed from this column alone, how often without it), by the commonest target of each value."""
    pairs = [(str(a), str(b)) for a, b in zip(column, target, strict=True) if not is_missing(b)]
    together: Mapping[str, Counter[str]] = {a: Counter() for a, _ in pairs}
    for a, b in pairs:
        together[a][b] += 1
    alone = Counter(b for _, b in pairs).most_common(1)
    return sum(max(c.values()) for c in together.values()) / max(1, len(pairs)), (alone[0][1] if alone else 0) / max(1, len(pairs))
