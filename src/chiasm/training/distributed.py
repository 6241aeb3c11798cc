"""Training on several processes, started by torchrun (or anything else that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT).

    a step's rows, the same for any number of processes -> each reads its own run of them -> forward and backward
    -> gradients are summed over all processes -> the same optimizer step everywhere

Losses are divided by the weight of the whole step's rows, so that the sum of the gradients is that of one process. Whatever decides how
training goes on (a signal, a time, a validation, a value that is not finite) is exchanged first, so that all processes do the same.
Process 0 alone writes. Small facts travel as JSON between CPUs; nothing is pickled.

Gradients are summed once per optimizer step rather than during backward as torch's DistributedDataParallel does it: processes that got rows
of different tasks or inputs build different graphs, whose collectives would wait for each other.

One process has the same interface and exchanges nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from chiasm.recipe import Recipe
from chiasm.training.precision import pick_device
from chiasm.types import BadSample, ChiasmError, RecipeError, StepBatches

TIMEOUT = timedelta(minutes=15)  # without an answer, after which another process counts as dead; a batch may take 5
PATIENCE = timedelta(days=7)  # while process 0 alone evaluates, saves, or fills a cache; a dead one is noticed at once
BUCKET = 25_000_000  # numbers that are summed in one go
STARTED_BY = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
T = TypeVar("T")


class OneProcess:
    """Training alone: every exchange gives back what it was given."""

    rank, world = 0, 1
    shards = False  # whether the model's weights are split over the processes while it trains

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes, prints and evaluates for all."""
        return self.rank == 0

    def device(self, wanted: str) -> torch.device:
        """Where this process computes, from `train.device`."""
        return pick_device(wanted)

    def share_of(self, rows: list[int]) -> list[int]:
        """This process's run of a batch's rows; neighbours, which may share a picture, stay together."""
        start, end = (len(rows) * r // self.world for r in (self.rank, self.rank + 1))
        return rows[start:end]

    # ---- what all must know

    def gather(self, value: T) -> list[T]:
        """Every process's value (JSON), in order of their ranks."""
        return [value]

    def shared(self, value: T) -> T:
        """Process 0's value (JSON)."""
        return value

    def on_main(self, call: Callable[[], T]) -> T:
        """What `call` gives on process 0 (JSON); its ChiasmError is raised on all. The others wait as long as it takes."""
        return call()

    def main_first(self) -> contextlib.AbstractContextManager[None]:
        """Process 0 goes through the block before the others."""
        return contextlib.nullcontext()

    def counted(self, micro: Sequence[StepBatches]) -> Sequence[StepBatches]:
        """Micro-batches with the rows, outcomes and bad samples of all processes, for the account."""
        return micro

    # ---- the model

    def needs(self, task: Any) -> bool:
        """Whether a process without rows for a task must take part in its loss, since others wait for it there."""
        return False

    def joins(self, task: Any) -> None:
        """Let a task that compares rows compare those of all processes."""

    def equalise(self, model: nn.Module) -> None:
        """Everyone's weights become those of process 0."""

    def shard(self, model: Any) -> None:
        """Split the weights over the processes."""

    def forward(self, call: Callable[[], T]) -> T:
        """Run `call`, which computes with the model; every process must come here equally often."""
        return call()

    def evaluate(self, call: Callable[[], T]) -> T:
        """Run `call`, in which every process predicts the same rows."""
        return call()

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Gradients become their sums over all processes; one that no process has stays None."""

    def clip(self, parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
        """Scale the gradients to a norm of at most `limit`; returns the norm there was."""
        return nn.utils.clip_grad_norm_(parameters, limit)

    def merge_statistics(self, buffers: Sequence[Tensor], before: Sequence[Tensor]) -> None:
        """Running statistics, which each process moved from `before` on its own rows, become their mean."""

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the model or its optimizer in full, as they are saved; empty on all but process 0."""
        return dict(tensors)

    def part_of(self, parameter: Tensor, whole: Tensor) -> Tensor:
        """Of a tensor that belongs to a parameter, e.g. its mean gradient: what this process keeps of it."""
        return whole


class Processes(OneProcess):
    """Data parallel: every process has the whole model. `strategy: ddp`."""

    def __init__(self, device: torch.device):
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.own_device = device
        self.small = dist.new_group(backend="gloo", timeout=TIMEOUT)  # facts, between CPUs
        self.patient = dist.new_group(backend="gloo", timeout=PATIENCE)

    def __reduce__(self) -> tuple[type[OneProcess], tuple[()]]:
        return OneProcess, ()  # for a data worker, which exchanges nothing

    def device(self, wanted: str) -> torch.device:
        return self.own_device

    def group_of(self, tensor: Tensor) -> Any:
        """Who exchanges a tensor: the processes' CPUs, or their GPUs."""
        return self.small if tensor.device.type == "cpu" else dist.group.WORLD

    def gather(self, value: T) -> list[T]:
        data = _packed(value)
        with _watched():
            sizes = torch.zeros(self.world, dtype=torch.long)
            dist.all_gather_into_tensor(sizes, torch.tensor([len(data)]), group=self.small)
            longest = int(sizes.max())
            found = torch.zeros(self.world * longest, dtype=torch.uint8)
            padded = torch.zeros(longest, dtype=torch.uint8)
            padded[: len(data)] = data
            dist.all_gather_into_tensor(found, padded, group=self.small)
        return [_unpacked(row[:size]) for row, size in zip(found.view(self.world, longest), sizes.tolist(), strict=True)]

    def shared(self, value: T) -> T:
        return self._told(value, self.small)

    def on_main(self, call: Callable[[], T]) -> T:
        told: dict[str, Any] = {}
        if self.is_main:
            try:
                told["value"] = call()
            except ChiasmError as error:
                self._told({"error": str(error), "exit_code": error.exit_code}, self.patient)
                raise
        told = self._told(told, self.patient)
        if "error" in told:
            raise Elsewhere(f"process 0: {told['error']}", told["exit_code"])
        return told["value"]

    @contextlib.contextmanager
    def main_first(self) -> Generator[None]:
        if not self.is_main:
            self._told(None, self.patient)
        yield
        if self.is_main:
            self._told(None, self.patient)

    def counted(self, micro: Sequence[StepBatches]) -> Sequence[StepBatches]:
        facts = [{"rows": m.rows, "outcomes": m.outcomes, "bad": [dataclasses.asdict(b) for b in m.bad], "notes": m.notes} for m in micro]
        return [_joined(parts) for parts in zip(*self.gather(facts), strict=True)]

    def needs(self, task: Any) -> bool:
        return not task.additive

    def joins(self, task: Any) -> None:
        if not task.additive:
            if not task.gathers:
                raise RecipeError(f"tasks.{task.name}: its loss compares the rows of one process only; train it on a single process")
            task.processes = self

    def rows_of_all(self, rows: Tensor) -> Tensor:
        """[n, W] -> [N, W]: the rows of all processes, in order of their ranks.

        Gradients flow to this process's own rows, times the number of processes: each of them computes the same loss of all rows, and
        counts one share of it.
        """
        return _RowsOfAll.apply(rows, self, [int(n) for n in self.gather(len(rows))])

    def equalise(self, model: nn.Module) -> None:
        with _watched():
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor.data, 0, group=self.group_of(tensor))

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        with _watched():
            has = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
            dist.all_reduce(has, dist.ReduceOp.MAX, group=self.small)
            for parameter, any_has in zip(parameters, has.tolist(), strict=True):
                if any_has and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            gradients = [p.grad for p in parameters if p.grad is not None]
            for bucket in _buckets(gradients):
                flat = torch.cat([g.flatten() for g in bucket])
                dist.all_reduce(flat, group=self.group_of(flat))
                for gradient, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                    gradient.copy_(summed.view_as(gradient))

    def merge_statistics(self, buffers: Sequence[Tensor], before: Sequence[Tensor]) -> None:
        pairs = [(b, start) for b, start in zip(buffers, before, strict=True) if b.is_floating_point()]
        if not pairs:
            return
        moved = [torch.where(b == start, 0.0, b - start) for b, start in pairs]  # those without rows moved nothing and do not count
        flags = torch.stack([m.ne(0).any() for m in moved]).float()
        flat = torch.cat([*(m.flatten().float() for m in moved), flags])
        with _watched():
            dist.all_reduce(flat, group=self.group_of(flat))
        *sums, counts = flat.split([*(m.numel() for m in moved), len(moved)])
        for (buffer, start), total, count in zip(pairs, sums, counts.tolist(), strict=True):
            if count:
                buffer.copy_(start + (total / count).view_as(start))

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(tensors) if self.is_main else {}

    def _told(self, value: T, group: Any) -> T:
        data = _packed(value) if self.is_main else torch.zeros(0, dtype=torch.uint8)
        with _watched():
            size = torch.tensor([len(data)])
            dist.broadcast(size, 0, group=group)
            data = data if self.is_main else torch.zeros(int(size), dtype=torch.uint8)
            dist.broadcast(data, 0, group=group)
        return _unpacked(data)


class Elsewhere(ChiasmError):
    """Another process's error, for those that were in step with it."""

    def __init__(self, message: str, exit_code: int = 2):
        super().__init__(message)
        self.exit_code = exit_code


@contextlib.contextmanager
def joined(recipe: Recipe) -> Generator[OneProcess]:
    """The processes that train this recipe together, as the environment says; RecipeError where it cannot be split over so many."""
    begun = dist.is_available() and dist.is_initialized()
    world = dist.get_world_size() if begun else _number("WORLD_SIZE", 1)
    if world == 1:
        yield OneProcess()
        return
    for stage in recipe.stages:
        if stage.batch_size % world:
            raise RecipeError(
                f"stages.{stage.name}.batch_size: {stage.batch_size} rows cannot be split over {world} processes; "
                f"give a multiple of {world}, e.g. {-(-stage.batch_size // world) * world}"
            )
    device = _own_device(recipe.train.device)
    if not begun:
        if missing := [name for name in STARTED_BY if name not in os.environ]:
            raise ChiasmError(f"WORLD_SIZE is {world}, but {missing[0]} is not set; start with torchrun --nproc-per-node {world}")
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield _kind(recipe)(device)
    finally:
        if not begun:
            dist.destroy_process_group()


def _kind(recipe: Recipe) -> type[Processes]:
    if recipe.train.strategy != "fsdp":
        return Processes
    from chiasm.training.sharding import Sharded  # it builds on this module

    return Sharded


def _own_device(wanted: str) -> torch.device:
    """One GPU per process, by LOCAL_RANK; else the CPU."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted not in ("cpu", "cuda"):
        raise RecipeError(f"train.device: several processes cannot share {wanted}; give auto, cuda (one GPU each) or cpu")
    if wanted == "cpu":
        return torch.device("cpu")
    number = _number("LOCAL_RANK", 0)
    if number >= torch.cuda.device_count():
        raise RecipeError(
            f"train.device: process {number} of this machine has no GPU of its own (there are {torch.cuda.device_count()}); "
            "start fewer processes, or give cpu"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def _number(name: str, otherwise: int) -> int:
    text = os.environ.get(name, "") or str(otherwise)
    if not text.isdigit():
        raise ChiasmError(f"the environment's {name} is '{text}', not a number; start with torchrun")
    return int(text)


class _RowsOfAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, processes: Processes, counts: list[int]) -> Tensor:
        ctx.world, ctx.start = processes.world, sum(counts[: processes.rank])
        ctx.count, longest = len(rows), max(counts)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        found = rows.new_zeros(processes.world * longest, *rows.shape[1:])
        with _watched():
            dist.all_gather_into_tensor(found, padded, group=processes.group_of(rows))
        return torch.cat([found[r * longest : r * longest + n] for r, n in enumerate(counts)])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        return grad_outputs[0][ctx.start : ctx.start + ctx.count] * ctx.world, None, None


def _joined(parts: Iterable[Mapping[str, Any]]) -> StepBatches:
    """What every process says of its part of a micro-batch, as one."""
    whole = StepBatches({}, [])
    for part in parts:
        whole.rows += part["rows"]
        whole.outcomes += part["outcomes"]
        whole.bad += [BadSample(**bad) for bad in part["bad"]]
        for note, times in part["notes"].items():
            whole.notes[note] = whole.notes.get(note, 0) + times
    return whole


def _buckets(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Tensors of one type that are sent together."""
    buckets: list[list[Tensor]] = []
    filled = BUCKET
    for tensor in sorted(tensors, key=lambda t: str(t.dtype)):
        if filled + tensor.numel() > BUCKET or buckets[-1][0].dtype != tensor.dtype:
            buckets.append([])
            filled = 0
        buckets[-1].append(tensor)
        filled += tensor.numel()
    return buckets


def _packed(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _unpacked(data: Tensor) -> Any:
    return json.loads(data.numpy().tobytes())


@contextlib.contextmanager
def _watched() -> Generator[None]:
    """A process that died or hangs, in one line."""
    try:
        yield
    except RuntimeError as error:
        first = " ".join(str(error).split("\n")[0].split())[:200]
        raise ChiasmError(
            f"another process of this training ended or does not answer; see what it printed, then --resume ({first})"
        ) from None
