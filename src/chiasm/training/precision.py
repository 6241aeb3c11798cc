"""Number format and threads: bf16 only where this machine is faster with it, found out by a probe of about 0.2 s."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

PROBE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Precision:
    """How the forward pass is computed; weights and optimizer stay fp32."""

    name: str  # fp32 or bf16
    device: str  # cpu, cuda or mps
    reason: str

    def autocast(self) -> AbstractContextManager[object]:
        """Around every forward pass of a loss."""
        return torch.autocast(self.device, dtype=torch.bfloat16) if self.name == "bf16" else contextlib.nullcontext()


def pick_device(device: str) -> torch.device:
    """`auto`: the first accelerator there is, else the CPU."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_precision(precision: str, device: torch.device) -> Precision:
    """`auto`: bf16 on GPUs that have it; on a CPU where it has AVX512_BF16 or AMX and a probe is faster; else fp32."""
    if precision != "auto":
        return Precision(precision, device.type, "as the recipe says")
    if device.type == "cuda":
        fits = torch.cuda.is_bf16_supported(including_emulation=False)
        return Precision("bf16" if fits else "fp32", "cuda", "the GPU has bf16" if fits else "the GPU has no bf16")
    if device.type != "cpu":
        return Precision("fp32", device.type, "fp32 on this device")
    if not cpu_has_bf16():
        return Precision("fp32", "cpu", "this CPU has neither AVX512_BF16 nor AMX")
    gain = probe_gain()
    return Precision("bf16" if gain > 1.1 else "fp32", "cpu", f"bf16 is {gain:.2f}x as fast as fp32 in a probe")


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 in hardware."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def probe_gain() -> float:
    """Speed of a small transformer-like training step in bf16 over fp32; the weights' casts are part of it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 256, generator=generator)
    layer = nn.Sequential(nn.Linear(256, 512), nn.GELU(approximate="tanh"), nn.Linear(512, 256))

    def step(bf16: bool) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = functional.mse_loss(layer(x), x)
        loss.backward()

    times = {False: float("inf"), True: float("inf")}
    for bf16 in times:
        step(bf16)
    start = time.perf_counter()
    while time.perf_counter() - start < PROBE_SECONDS:
        for bf16 in times:
            times[bf16] = min(times[bf16], _seconds(step, bf16))
    return times[False] / times[True]


def guard_threads(workers: int = 0) -> str | None:
    """Fewer threads where other processes or loader workers need the cores, which is faster; a line where the number was lowered."""
    if os.environ.get("OMP_NUM_THREADS") or not hasattr(os, "getloadavg"):
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = round(os.getloadavg()[0])
    free = max(1, cores - max(busy, workers))
    if free >= torch.get_num_threads():
        return None
    torch.set_num_threads(free)
    why = "the machine is busy" if busy > workers else f"{workers} load data"
    return f"threads: {free} of {cores} ({why}; set OMP_NUM_THREADS to decide yourself)"


def _seconds(call: Callable[[bool], None], argument: bool) -> float:
    start = time.perf_counter()
    call(argument)
    return time.perf_counter() - start
