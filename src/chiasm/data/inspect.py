"""What is in the data, for `chiasm check`: rows, columns, kinds, missing values, classes, duplicates, and what stands in two splits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from chiasm.data.columns import MEDIA, Column, describe, values_of
from chiasm.data.opening import shared_groups
from chiasm.data.sources.base import Source
from chiasm.media import files
from chiasm.types import BadInput, Sample

MOST_BYTES = 1 << 28  # of a file that is compared
SHOWN = 20  # broken records that are listed


def inspect_data(sources: Mapping[str, Source], *, target: str | None = None, group_by: str | None = None) -> dict[str, Any]:
    """A report as JSON-ready dicts.

    {"splits": {split: {"rows", "bad", "columns": {name: {"kind", "why", "missing", "distinct", "values"}}, "duplicates", "classes"}},
     "leaks": [{"splits": [a, b], "what": column or "records", "count", "example"}], "problems": [sentence, ...]}
    """
    report: dict[str, Any] = {"splits": {}, "leaks": [], "problems": []}
    prints: dict[str, dict[str, dict[str, str]]] = {}  # split -> what -> fingerprint -> sample id
    for split, source in sources.items():
        report["splits"][split], prints[split] = _inspect_split(source, target)
        report["problems"] += [f"{split}: {problem}" for problem in _problems(report["splits"][split], target)]
        report["problems"] += [f"{split}: {note}" for note in source.notes]
    report["leaks"] = _leaks(prints)
    if group_by is not None:
        for (a, b), shared in shared_groups(sources, group_by).items():
            report["leaks"].append({"splits": [a, b], "what": group_by, "count": len(shared), "example": shared[0]})
    for leak in report["leaks"]:
        a, b = leak["splits"]
        report["problems"].append(f"{leak['count']} {leak['what']} stand in both {a} and {b}, e.g. {leak['example']}")
    return report


def _inspect_split(source: Source, target: str | None) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    values, _ = values_of(source)
    columns = {name: describe(name, column) for name, column in values.items()}
    prints, duplicates, bad = _fingerprints(source, columns)
    found = {
        "rows": len(source),
        "bad": bad,
        "columns": {name: _column(column) for name, column in columns.items()},
        "duplicates": duplicates,
    }
    if target in columns and columns[target].counts:
        found["classes"] = dict(columns[target].counts.most_common())
    return found, prints


def _column(column: Column) -> dict[str, Any]:
    found = {"kind": column.kind, "why": column.why, "missing": column.missing}
    if column.distinct:
        found["distinct"] = column.distinct
    if column.counts:
        found["values"] = dict(column.counts.most_common(SHOWN))
    return found


def _fingerprints(source: Source, columns: Mapping[str, Column]) -> tuple[dict[str, dict[str, str]], dict[str, int], list[dict[str, Any]]]:
    """Per media column and for whole records: fingerprint -> first id; how many repeat an earlier one; and what cannot be read."""
    media = [name for name, column in columns.items() if column.kind in MEDIA]
    compared = [name for name, column in columns.items() if column.kind not in ("id", "split", "constant", *MEDIA)]
    prints: dict[str, dict[str, str]] = {what: {} for what in [*media, "records"]}
    repeats, bad = Counter(dict.fromkeys(prints, 0)), []
    for index in range(len(source)):
        try:
            sample = source.read(index)
        except BadInput as error:
            name, _, line = source.origin(index)
            bad.append({"id": name, "line": line, "reason": error.reason, "message": str(error)})
            continue
        marks = {name: mark for name in media if (mark := _fingerprint(sample, name))}
        rest = json.dumps([sample.parts.get(name) for name in compared], default=str, ensure_ascii=False)
        marks["records"] = _hash("\x1f".join([rest, *marks.values()]).encode("utf-8", "surrogatepass"))
        for what, mark in marks.items():
            repeats[what] += mark in prints[what]
            prints[what].setdefault(mark, sample.id)
    return prints, {what: count for what, count in repeats.items() if count}, bad


def _fingerprint(sample: Sample, name: str) -> str | None:
    """Equal for media of equal content; None where there is none or it cannot be opened (training says why)."""
    value = sample.parts.get(name)
    if value is None:
        return None
    try:
        items = value if isinstance(value, list) else [value]
        return _hash(b"".join(_hash(files.read_bytes(item, root=sample.root, limit=MOST_BYTES)).encode() for item in items))
    except BadInput:
        return None


def _hash(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


def _leaks(prints: Mapping[str, Mapping[str, Mapping[str, str]]]) -> list[dict[str, Any]]:
    found = []
    splits = list(prints)
    for number, a in enumerate(splits):
        for b in splits[number + 1 :]:
            for what in prints[a].keys() & prints[b].keys():
                shared = prints[a][what].keys() & prints[b][what].keys()
                if shared:
                    example = min(prints[a][what][mark] for mark in shared)
                    found.append({"splits": [a, b], "what": what, "count": len(shared), "example": example})
    return sorted(found, key=lambda leak: (leak["splits"], leak["what"]))


def _problems(found: Mapping[str, Any], target: str | None) -> list[str]:
    problems = []
    if not found["rows"]:
        problems.append("no records")
    if found["bad"]:
        first = found["bad"][0]
        problems.append(f"{len(found['bad'])} records cannot be read, the first: {first['message']}")
    if target is not None and target not in found["columns"]:
        problems.append(f"no column '{target}'")
    elif target is not None and found["columns"][target]["missing"]:
        problems.append(f"{found['columns'][target]['missing']} records lack the target '{target}'")
    if found["duplicates"].get("records"):
        problems.append(f"{found['duplicates']['records']} records repeat an earlier one")
    return problems
