"""Predict every record of a file or folder, in order, with nothing lost, however often it was stopped and in however many shards.

    OUT.partial/plan.json             what is predicted, by which model, in how many shards; whoever goes on must agree
    OUT.partial/1-of-2/writing.jsonl  one line per record, flushed batch by batch
    OUT.partial/1-of-2/rows.jsonl     the same when the shard is whole
    OUT, OUT.meta.json                all shards in order (jsonl, csv or parquet), written by whoever finishes last; then .partial goes

Shards are cut between batches, and what goes on begins at a batch, so that the same rows are always computed together: the result does not
depend, in any bit, on how often it was stopped or how it was cut.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from chiasm.data.collate import Collator
from chiasm.data.opening import open_file
from chiasm.data.split import Split
from chiasm.evaluation.result import plain, write_text
from chiasm.model_files import identity, input_identity
from chiasm.prediction.files import ENDINGS, lines_of, write_all
from chiasm.run import Run, model_folder
from chiasm.training.lock import run_lock
from chiasm.types import BadSample, ChiasmError, Opened

FORMAT = 1


@dataclass(frozen=True)
class Predicted:
    """What came of it. `missing`: the shards that are not finished, without which OUT is not written; `before`: OUT was there already."""

    output: Path
    rows: int
    refused: dict[str, int] = field(default_factory=dict)  # reason -> rows
    missing: tuple[int, ...] = ()
    before: bool = False

    @property
    def whole(self) -> bool:
        """Whether OUT is written."""
        return not self.missing


def predict_file(
    run: Run,
    source: str | Path,
    output: str | Path,
    *,
    task: str | None = None,
    shard: tuple[int, int] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Predicted:
    """Predict a jsonl, csv or parquet file or a folder of media into `output`, whose ending says how it is written.

    A line is {id, task, output, score, ...}, or {id, error, reason, ...} where a record cannot be used. `task`: by that one, else each
    record by the task that reads exactly its texts. `shard`: (1, 4) is the first of four, all to the same `output`; processes started by
    torchrun take one each. Call it again to go on; ChiasmError names the input, model or option that has changed since.
    """
    output, source = Path(output), Path(source)
    if output.suffix not in ENDINGS:
        raise ChiasmError(f"{output}: predictions are written as {', '.join(ENDINGS)}; end it on one of them")
    number, count = shard or shard_of_process()
    check_shard(number, count)
    opened = run.reading(open_file(source))
    plan = {
        "format": FORMAT,
        "input": input_identity(source),
        "model": identity(model_folder(run.folder)),
        "task": run.named(task) if task is not None else None,
        "shards": count,
        "rows at once": run.rows_at_once,
        "rows": len(opened),
    }
    partial = output.with_name(output.name + ".partial")
    if (done := _begin(output, partial, plan, overwrite=overwrite)) is not None:
        return done
    part = partial / f"{number}-of-{count}"
    if not (part / "rows.jsonl").exists():
        with run_lock(part, lambda text: print(text, file=sys.stderr)):
            _write_part(run, opened, part, _rows_of(len(opened), run.rows_at_once, number, count), task, progress)
    return _join(output, partial, plan)


def shard_of_process() -> tuple[int, int]:
    """(1, 1), or this process's share where torchrun started several; each then computes on a GPU of its own, where there are any."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    return rank + 1, world


def take_own_device() -> None:
    """Before a run is loaded: of several processes on one machine each takes its own GPU."""
    if (local := os.environ.get("LOCAL_RANK")) is not None and torch.cuda.is_available():
        torch.cuda.set_device(int(local) % torch.cuda.device_count())


def parse_shard(text: str) -> tuple[int, int]:
    """`1/4` -> (1, 4)."""
    if not (found := re.fullmatch(r"(\d+)/(\d+)", text)):
        raise ChiasmError(f"shard: '{text}': write I/N, as 1/4")
    return check_shard(int(found[1]), int(found[2]))


def check_shard(number: int, count: int) -> tuple[int, int]:
    """The same; ChiasmError where there can be no such shard."""
    if not 1 <= number <= count:
        raise ChiasmError(f"shard {number}/{count}: write I/N with I from 1 to N")
    return number, count


def _begin(output: Path, partial: Path, plan: Mapping[str, Any], *, overwrite: bool) -> Predicted | None:
    """Lay the plan down, or agree with the one that is there; Predicted where all is done already."""
    meta = _meta(output)
    if overwrite:
        shutil.rmtree(partial, ignore_errors=True)
        output.unlink(missing_ok=True)
        meta.unlink(missing_ok=True)
    elif output.exists():
        if not meta.exists():
            raise ChiasmError(f"{output}: exists and is not of `predict`; give another --output, or --overwrite it")
        found = json.loads(meta.read_text("utf-8"))
        _agree(output, found["plan"], plan)
        return Predicted(output, found["rows"], found["refused"], before=True)
    partial.mkdir(parents=True, exist_ok=True)
    path = partial / "plan.json"
    if not path.exists():
        write_text(path, json.dumps(plan, indent=1) + "\n")
    _agree(partial, json.loads(path.read_text("utf-8")), plan)
    return None


def _agree(where: Path, there: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    changed = [key for key, value in plan.items() if there.get(key) != value]
    if changed:
        values = ", ".join(f"{key} was {_short(there.get(key))}, is {_short(plan[key])}" for key in changed)
        raise ChiasmError(f"{where}: begun otherwise: {values}; give another --output, or begin anew with --overwrite")


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)


def _rows_of(rows: int, at_once: int, number: int, count: int) -> range:
    """The rows of a shard: whole batches."""
    batches = -(-rows // at_once)
    start, end = (batches * i // count * at_once for i in (number - 1, number))
    return range(min(start, rows), min(end, rows))


def _write_part(run: Run, split: Split, part: Path, rows: range, task: str | None, progress: Callable[[int, int], None] | None) -> None:
    path = part / "writing.jsonl"
    first = rows.start + _kept(path, run.rows_at_once)
    with path.open("ab") as file:
        for start in range(first, rows.stop, run.rows_at_once):
            if progress is not None:
                progress(start - rows.start, len(rows))
            lines = predict_rows(run, split.open_rows(range(start, min(rows.stop, start + run.rows_at_once))), task)
            file.write(b"".join(json.dumps(plain(line), ensure_ascii=False).encode() + b"\n" for line in lines))
            file.flush()
        os.fsync(file.fileno())
    if progress is not None:
        progress(len(rows), len(rows))
    path.rename(part / "rows.jsonl")


def _kept(path: Path, at_once: int) -> int:
    """How many rows of whole batches a file that may be torn holds; what comes after them is cut off."""
    if not path.exists():
        return 0
    position = rows = whole = 0
    with path.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            position, rows = position + len(line), rows + 1
            if rows % at_once == 0:
                whole = position
        file.truncate(whole)
    return rows // at_once * at_once


def _join(output: Path, partial: Path, plan: Mapping[str, Any]) -> Predicted:
    """Write OUT where every shard is whole and nobody else has done so."""
    count = plan["shards"]
    with _alone(partial) as here:
        parts = [partial / f"{number}-of-{count}" / "rows.jsonl" for number in range(1, count + 1)]
        missing = tuple(number for number, part in enumerate(parts, 1) if not part.exists())
        if not here:  # another process has joined them and taken the folder away
            found = json.loads(_meta(output).read_text("utf-8"))
            return Predicted(output, found["rows"], found["refused"])
        rows, refused = 0, Counter[str]()
        for line in lines_of([part for part in parts if part.exists()]):
            rows += 1
            refused.update([line["reason"]] if "error" in line else [])
        if missing:
            return Predicted(output, rows, dict(refused), missing)
        write_all(parts, output)
        write_text(_meta(output), json.dumps({"plan": plan, "rows": rows, "refused": refused}, indent=1) + "\n")
        shutil.rmtree(partial)
    return Predicted(output, rows, dict(refused))


@contextmanager
def _alone(folder: Path) -> Generator[bool]:
    """Only one process is in the block; False where the folder is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder.exists()
    finally:
        os.close(descriptor)


def _meta(output: Path) -> Path:
    return output.with_name(output.name + ".meta.json")


def predict_rows(run: Run, opened: Sequence[Opened | BadSample], task: str | None = None) -> list[dict[str, Any]]:
    """A line for each row, in their order; without `task`, a row is answered by the task that reads exactly its texts."""
    groups: dict[str, list[Opened]] = {}
    lines: dict[str, dict[str, Any]] = {}
    for row in opened:
        if isinstance(row, BadSample):
            lines[row.id] = refusal(row)
        else:
            groups.setdefault(task or run.task_for(row.sample.parts).name, []).append(row)
    for name, rows in groups.items():
        step = Collator([run.tasks[name]], run.processor, unlabelled=True)(rows)
        lines |= {bad.id: refusal(bad) for bad in step.bad}
        refused = {bad.id for bad in step.bad}
        kept = [row for row in rows if row.sample.id not in refused]
        for prediction in run.predict_opened(run.tasks[name], kept) if kept else []:
            answer = {"id": prediction.id, "task": name, "output": prediction.output, "score": prediction.score}
            lines[prediction.id] = answer | ({"probabilities": prediction.probabilities} if prediction.probabilities else {})
    return [lines[row.id if isinstance(row, BadSample) else row.sample.id] for row in opened]


def refusal(bad: BadSample) -> dict[str, Any]:
    """The line of a record that cannot be used."""
    return {"id": bad.id, "error": bad.message, "reason": bad.reason, "input": bad.input, "line": bad.line}
