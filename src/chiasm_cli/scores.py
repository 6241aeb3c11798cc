"""Metrics as a table: one row a score, and beside it what is left of it with an input shuffled or missing."""

from __future__ import annotations

from collections.abc import Mapping

from chiasm_cli.output import table

CONTROLS = (" shuffled", " missing")


def score_table(metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """{split: {"answer.exact_match": 0.9, "answer.exact_match[image shuffled]": 0.2}} -> lines, a table for each split."""
    lines: list[str] = []
    for split, scores in metrics.items():
        controls = list(dict.fromkeys(control for key in scores if (control := _control(key))))
        own = [key for key in scores if not _control(key)]
        rows = [[key, scores[key], *(scores.get(f"{key}[{control}]", "") for control in controls)] for key in own]
        lines += [*([""] if lines else []), *table(rows, header=[split, "score", *controls])]
    return lines


def _control(key: str) -> str:
    """`answer.exact_match[image shuffled]` -> `image shuffled`; nothing for a score itself."""
    inside = key[:-1].rpartition("[")[2] if key.endswith("]") else ""
    return inside if inside.endswith(CONTROLS) else ""
