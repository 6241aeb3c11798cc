"""bf16 only where the machine has it and a probe finds it faster."""

import os

import pytest
import torch

from chiasm.training import precision
from chiasm.training.precision import guard_threads, pick_device, pick_precision


@pytest.mark.parametrize(("has", "gain", "name"), [(False, 9.0, "fp32"), (True, 0.8, "fp32"), (True, 1.6, "bf16")])
def test_auto_on_a_cpu(monkeypatch, has, gain, name):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: has)
    monkeypatch.setattr(precision, "probe_gain", lambda: gain)
    found = pick_precision("auto", torch.device("cpu"))
    assert found.name == name and found.reason
    with found.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if name == "bf16" else torch.float32)


def test_what_the_recipe_says_is_done():
    assert pick_precision("bf16", torch.device("cpu")).name == "bf16"
    assert pick_device("cpu") == torch.device("cpu") and pick_device("auto").type in ("cpu", "cuda", "mps")


def test_the_probe_measures_and_leaves_no_trace(monkeypatch):
    monkeypatch.setattr(precision, "PROBE_SECONDS", 0.02)
    before = torch.get_rng_state()
    assert 0.01 < precision.probe_gain() < 100
    assert isinstance(precision.cpu_has_bf16(), bool)
    torch.set_rng_state(before)


def test_a_busy_machine_gets_fewer_threads(monkeypatch):
    threads = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert guard_threads() is None  # the user decided
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
        assert guard_threads() is None
        torch.set_num_threads(2)
        monkeypatch.setattr(os, "getloadavg", lambda: (100.0, 0.0, 0.0))
        assert "threads: 1 of" in guard_threads() and torch.get_num_threads() == 1
        torch.set_num_threads(2)
        monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
        assert guard_threads(1).startswith("threads: 1 of 2 (1 load data") and torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
