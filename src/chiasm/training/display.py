"""What a person sees while it trains: one progress bar on a terminal, plain lines elsewhere, nothing if asked."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from chiasm.training.stages import PartRow

LINE_SECONDS = 10.0  # between plain lines
PARTS = 10_000  # of the bar


class Display:
    """Everything goes to standard error, so that standard output stays free for results. `mute`: another process speaks for this one."""

    def __init__(self, show: bool = True, *, mute: bool = False):
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.show, self.mute, self._printed = show and not mute, mute, 0.0
        self._bar: tuple[Progress, TaskID] | None = None
        self._title, self._started, self._rows, self._first = "", 0.0, 0, 0.0

    def line(self, text: str) -> None:
        if self.show:
            self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """A warning is printed even where progress is not."""
        if self.show:
            self.console.print(text, markup=False, style="yellow")
        elif not self.mute:
            print(text, file=sys.stderr)

    def table(self, title: str, rows: Sequence[PartRow]) -> None:
        """What trains: part, parameters, of which trainable."""
        self.line(f"{title}: what trains")
        width = max(len(row.part) for row in rows)
        for row in rows:
            share = "frozen" if not row.trainable else "trains" if row.trainable == row.parameters else f"trains {row.trainable:,}"
            self.line(f"  {row.part:<{width}}  {row.parameters:>13,}  {share if row.parameters else 'no parameters'}")
        self.line(f"  {'all':<{width}}  {sum(r.parameters for r in rows):>13,}  trains {sum(r.trainable for r in rows):,}")

    def begin(self, title: str, done: float) -> None:
        """A stage begins (or goes on at `done` of it, 0..1)."""
        self._title, self._started, self._rows, self._first, self._printed = title, time.monotonic(), 0, done, 0.0
        if self.show and self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[facts]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            bar = Progress(*columns, console=self.console)
            self._bar = bar, bar.add_task(title, total=PARTS, completed=round(done * PARTS), facts="")
            bar.start()

    def step(self, *, step: int, loss: float, rows: int, done: float) -> None:
        """One optimizer step is done."""
        if not self.show:
            return
        self._rows += rows
        now = time.monotonic()
        elapsed = max(now - self._started, 1e-9)
        facts = f"step {step}  loss {loss:.4g}  {self._rows / elapsed:,.0f} rows/s"
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=round(done * PARTS), facts=facts)
        elif now - self._printed >= LINE_SECONDS:
            self._printed = now
            left = elapsed * (1 - done) / (done - self._first) if done > self._first else float("nan")
            self.line(f"{self._title}  {done:4.0%}  {facts}  left {left:.0f} s")

    def end(self) -> None:
        """The stage ended."""
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None
