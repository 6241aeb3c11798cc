"""Batches in the order of a plan, read and decoded in any number of processes; what comes out does not depend on how many.

A process that dies or hangs ends the run with the samples it was reading. Nothing here draws from a global generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from chiasm.data.collate import Collator, Control
from chiasm.data.split import Split
from chiasm.types import BadSample, ChiasmError, Opened, StepBatches

TIMEOUT = 300.0  # seconds without a batch after which a process counts as hanging


class Loader:
    """Iterates over `plan[start:]`: StepBatches, or lists of Opened | BadSample without a collator.

    `augment` is for training: random variants of media, and the collator's modality dropout.
    """

    def __init__(
        self,
        split: Split,
        plan: Sequence[list[int]],
        collator: Collator | None = None,
        *,
        num_workers: int = 0,
        start: int = 0,
        seed: int = 0,
        epoch: int = 0,
        augment: bool = False,
        control: Control | None = None,
        prefetch: int = 2,
        timeout: float = TIMEOUT,
    ):
        self._plan, self._split, self._timeout = list(plan[start:]), split, timeout
        self._workers = min(num_workers, len(self._plan))
        self._reading = torch.full((max(1, self._workers),), -1, dtype=torch.long).share_memory_()  # row that each process reads
        self._rows = _Rows(split, seed, epoch, augment, self._reading)
        self._collate = _Collate(collator, control, seed, epoch, augment)
        self._prefetch = prefetch

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[Any]:
        for made in self._made():
            if isinstance(made, ChiasmError):  # as a value, because a worker's exception comes back as a page of text
                raise made
            yield made

    def _made(self) -> Iterator[Any]:
        loader = DataLoader(
            self._rows,
            batch_sampler=self._plan,
            collate_fn=self._collate,
            num_workers=self._workers,
            timeout=self._timeout if self._workers else 0,
            prefetch_factor=self._prefetch if self._workers else None,
            worker_init_fn=_one_thread if self._workers else None,
            generator=torch.Generator().manual_seed(0),  # or it would draw from the global one
        )
        batches = iter(loader)
        while True:
            try:
                made = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                raise self._explain(error) from None
            yield made

    def _explain(self, error: RuntimeError) -> Exception:
        """A worker's death or silence in one line; any other error as it is."""
        message = str(error)
        if "timed out" in message:
            what = f"no batch came for {self._timeout:g} seconds"
        elif "exited unexpectedly" in message or "killed by signal" in message:
            what = "a process that reads data died (out of memory?)"
        else:
            return error
        reading = [self._split.source.origin(int(row)) for row in self._reading if row >= 0]
        samples = ", ".join(f"{name} ({file})" for name, file, _ in reading) or "no sample"
        return ChiasmError(f"{what} while reading {samples}; look at that sample, or set train.num_workers=0 to see the error itself")


class _Rows(Dataset):
    """Row indices -> opened rows."""

    def __init__(self, split: Split, seed: int, epoch: int, augment: bool, reading: torch.Tensor):
        self.split, self.seed, self.epoch, self.augment, self.reading = split, seed, epoch, augment, reading

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, indices: list[int]) -> tuple[list[int], list[Opened | BadSample] | ChiasmError]:
        worker = get_worker_info()
        place = worker.id if worker else 0

        def watched() -> Iterator[int]:
            for index in indices:
                self.reading[place] = index
                yield index

        try:
            return indices, self.split.open_rows(watched(), seed=self.seed, epoch=self.epoch, augment=self.augment)
        except ChiasmError as error:
            return indices, error
        finally:
            self.reading[place] = -1


class _Collate:
    def __init__(self, collator: Collator | None, control: Control | None, seed: int, epoch: int, augment: bool):
        self.collator, self.control, self.seed, self.epoch, self.augment = collator, control, seed, epoch, augment

    def __call__(self, opened: Any) -> StepBatches | list[Opened | BadSample] | ChiasmError:
        indices, rows = opened
        if self.collator is None or isinstance(rows, ChiasmError):
            return rows
        try:
            made = self.collator(rows, self.control, seed=self.seed, epoch=self.epoch, dropout=self.augment)
        except ChiasmError as error:
            return error
        made.rows = indices
        return made


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
