"""Runs the cases with known answers and says of each whether the comparison told the truth.

FOLDER/CASE/ is a comparison like any other; FOLDER/known.json has every case's verdict and what was not as it must be.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chiasm.compare.engine import compare
from chiasm.compare.known import CASES, Case, failures
from chiasm.compare.verdict import verdict
from chiasm.components import did_you_mean
from chiasm.evaluation.result import plain, write_text
from chiasm.training.display import Display
from chiasm.types import RecipeError


@dataclass(frozen=True, slots=True)
class Known:
    """One case after its run: what the comparison says, and what of it is not as it must be."""

    case: str
    claim: str
    verdict: str
    failures: list[str]
    seconds: float

    @property
    def lines(self) -> list[str]:
        head = f"{'ok' if not self.failures else 'WRONG':<6} {self.case}: {self.claim}"
        said = f"       {self.verdict.replace('`', '')}"
        return [head, said, *(f"       ! {failure.replace('`', '')}" for failure in self.failures)]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def known_answers(
    output: str | Path | None = None,
    *,
    seeds: int = 3,
    jobs: int = 1,
    cases: Sequence[str] = (),
    overrides: Sequence[str] = (),
    progress: bool = True,
) -> list[Known]:
    """Compare on every case (or those named) and check its rules. Goes on where an earlier call stopped. RecipeError for no such case."""
    names = [case.name for case in CASES]
    for name in cases:
        if name not in names:
            raise RecipeError(f"no known answers are called '{name}'{did_you_mean(name, names)}")
    folder, display, found = Path(output or "runs/known-answers"), Display(progress), []
    chosen = [case for case in CASES if case.name in (cases or names)]
    for number, case in enumerate(chosen, 1):
        display.line(f"[{number} of {len(chosen)}] {case.name}: {case.claim}")
        found.append(run_case(case, folder / case.name, seeds=seeds, jobs=jobs, overrides=overrides, progress=progress))
        display.line(found[-1].lines[0])
    write_text(folder / "known.json", json.dumps(plain([known.as_json() for known in found]), ensure_ascii=False, indent=2) + "\n")
    return found


def run_case(case: Case, folder: Path, *, seeds: int, jobs: int, overrides: Sequence[str], progress: bool) -> Known:
    start = time.perf_counter()
    done = compare(
        case.recipe, fusions=case.fusions, vary=case.vary, seeds=seeds, output=folder, jobs=jobs, overrides=overrides, progress=progress
    )
    seconds = round(time.perf_counter() - start, 1)
    return Known(case.name, case.claim, verdict(done.summary).line, failures(case, done.summary), seconds)
