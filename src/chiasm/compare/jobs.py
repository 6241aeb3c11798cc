"""Makes many cells: one after the other in this process, or by several processes that each take the next one; with a progress bar."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from chiasm.compare.cell import Work, check_unchanged, is_done, make, recipe_of
from chiasm.compare.plan import Plan
from chiasm.types import ChiasmError

PATIENCE = 60.0  # seconds that a process gets to write its checkpoint when it is told to stop

Tell = Callable[[Work], None]  # a cell is done


class CellFailed(ChiasmError):
    """A cell ended with an error in a process of its own; the exit code is that error's."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.exit_code = code


def run(folder: Path, plan: Plan, todo: Sequence[Work], *, jobs: int, progress: bool) -> None:
    """Make all cells of `todo` that are not done. The first error ends it; what is done stays done."""
    for work in todo:
        check_unchanged(folder / "cells" / work.name, recipe_of(folder, plan, work))
    todo = [work for work in todo if not is_done(folder, work)]
    if not todo:
        return
    with shown(todo, plan, progress) as (began, ended):
        if jobs > 1 and len(todo) > 1:
            run_apart(folder, todo, min(jobs, len(todo)), began, ended)
            return
        for work in todo:
            began(work)
            make(folder, plan, work)
            ended(work)


def run_apart(folder: Path, todo: Sequence[Work], jobs: int, began: Tell, ended: Tell) -> None:
    """Several processes, each with its share of the cores; each takes the next cell when it has done one."""
    waiting: queue.SimpleQueue[Work] = queue.SimpleQueue()
    for work in todo:
        waiting.put(work)
    errors: list[ChiasmError] = []
    processes = [Process(folder, number, jobs) for number in range(jobs)]

    def feed(process: Process) -> None:
        while not errors:
            try:
                work = waiting.get_nowait()
            except queue.Empty:
                break
            began(work)
            try:
                process.make(work)
            except ChiasmError as error:
                errors.append(error)
                break
            ended(work)
        process.finish()

    threads = [threading.Thread(target=feed, args=(process,), daemon=True) for process in processes]
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and not errors:
            time.sleep(0.05)
    finally:
        for process in processes:
            process.stop()
    if errors:
        raise errors[0]


class Process:
    """`python -m chiasm.compare.worker FOLDER`: one line of JSON in for every cell, one line out when it is done."""

    def __init__(self, folder: Path, number: int, jobs: int):
        self.log = folder / f"worker{number}.log"
        threads = str(max(1, (os.cpu_count() or 1) // jobs))
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "chiasm.compare.worker", str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )

    def make(self, work: Work) -> None:
        """Wait until a cell is made; CellFailed where it could not be."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(asdict(work)) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            code = self.process.wait()
            raise CellFailed(f"the process that made {work.name} died (exit code {code}; out of memory?); see {self.log}", 1)
        said = json.loads(answer)
        if "error" in said:
            raise CellFailed(f"{work.name}: {said['error']}", said["code"])

    def finish(self) -> None:
        """No more cells."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()

    def stop(self) -> None:
        """End it: at once where it is idle, after its checkpoint where it trains."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def shown(todo: Sequence[Work], plan: Plan, progress: bool) -> Generator[tuple[Tell, Tell]]:
    """(a cell began, a cell is done): a bar on a terminal, a line per cell elsewhere, nothing where it is not wanted."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    started, done, lock = time.monotonic(), [0.0], threading.Lock()
    total = sum(cost_of(plan, work) for work in todo)
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn()]
    bar = Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, disable=not (progress and console.is_terminal))
    task = bar.add_task(f"{len(todo)} cells", total=total)

    def began(work: Work) -> None:
        bar.update(task, description=f"{work.name} (of {len(todo)} cells)")

    def ended(work: Work) -> None:
        with lock:
            done[0] += cost_of(plan, work)
        bar.update(task, completed=done[0])
        if progress and not console.is_terminal:
            elapsed = time.monotonic() - started
            left = elapsed * (total - done[0]) / done[0] if done[0] else 0.0
            console.print(f"{work.name} is done  {done[0] / max(total, 1e-9):4.0%}  left {left:.0f} s", markup=False)

    with bar:
        yield began, ended


def cost_of(plan: Plan, work: Work) -> float:
    """About how many seconds a cell takes, as far as the plan knows."""
    measuring = 0.0 if work.trial is not None else plan.seconds[plan.row(work.row).kind]
    return plan.seconds["training"] + measuring
