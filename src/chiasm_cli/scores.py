"""Metrics as tables for a terminal: each score, and beside it what is left of it with an input shuffled or missing."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Mapping
from typing import Any


def score_table(metrics: Mapping[str, Mapping[str, Any]], details: Mapping[str, Mapping[str, Any]] | None = None) -> list[str]:
    """`metrics` and `details` by split, as in metrics.json and evaluation.json -> lines."""
    from rich.console import Console

    from chiasm.report.console import print_scores

    text = io.StringIO()
    console = Console(file=text, width=shutil.get_terminal_size((100, 24)).columns, force_terminal=sys.stdout.isatty(), highlight=False)
    for split, scores in metrics.items():
        print_scores(scores, (details or {}).get(split), title=split, console=console)
    return text.getvalue().splitlines()
