"""`python -m chiasm.compare.worker FOLDER`: makes the cells that standard input names, a line of JSON each, and answers with one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from chiasm.compare.cell import Work, make
from chiasm.compare.plan import Plan
from chiasm.types import ChiasmError


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints must not stand between the answers
    folder = Path(sys.argv[1])
    plan = Plan.load(folder)
    assert plan is not None, f"{folder} has no plan.json"
    for line in sys.stdin:
        work = Work(**json.loads(line))
        try:
            make(folder, plan, work)
            said = {"done": work.name}
        except ChiasmError as error:
            said = {"error": str(error), "code": error.exit_code}
        print(json.dumps(said), file=answers, flush=True)


if __name__ == "__main__":
    main()
