"""Several processes train one run: what two of them do equals what one does. Processes are forked, so that torch is imported once."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from toy_training import build, ended, forked, losses, recipe

from chiasm.training import checkpoint
from chiasm.training.distributed import joined
from chiasm.training.log import read_log
from chiasm.training.loop import train
from chiasm.types import RecipeError

FREE_OF_CHANCE = {"stages": [{"epochs": 2, "batch_size": 8, "accumulate": 2, "learning_rate": 0.01}], "evaluate_every": 3}


def started(world: int, call, *arguments) -> list[int]:
    """Fork `world` processes as torchrun would start them; returns their pids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def one(rank):
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        call(*arguments)

    return [forked(lambda rank=rank: one(rank)) for rank in range(world)]


def trained(folder, *, world=2, made=None, resume=False, expect=(0,), **keys):
    """Train a toy on so many processes; returns its losses as float hex."""
    pids = started(world, toy, folder, made or build(), resume, keys)
    codes = {ended(pid, 60) for pid in pids}
    assert codes == set(expect), codes
    return losses(folder)


def toy(folder, made, resume, keys):
    wanted = recipe(**keys)
    with joined(wanted) as processes:
        train(wanted, output=folder, resume=resume, progress=processes.is_main, build=made, processes=processes)


def without_chance(**keys):
    """A toy whose rows do not depend on each other or on dropout; few rows have the second task, so that a process may have none of it."""

    def made(recipe):
        materials = build(**keys)(recipe)
        for module in list(materials.model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm1d | nn.Dropout):
                    setattr(module, name, nn.Identity())
        materials.tasks["both"].wants = lambda sample: sample.parts["label"] is not None and sample.line % 9 == 0
        return materials

    return made


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {k: torch.tensor(v) for k, v in json.loads((folder / "model/weights.json").read_text()).items()}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], most: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= most * value.norm(), name


def digest(folder: Path) -> dict[str, str]:
    """What is equal to the bit: losses as hex, the kept weights, the account of the data."""
    files = ("model/weights.json", "data.json", "quarantine.jsonl")
    return losses(folder) | {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_two_processes_train_as_one(tmp_path, world):
    """Unequal weights, two tasks of which one is often absent, absent and hidden inputs, bad rows, accumulation, a shorter last batch."""
    keys = {**FREE_OF_CHANCE, "modality_dropout": 0.2, "best": "validation answer.accuracy"}
    keys["stages"] = [{"epochs": 2, "batch_size": 12, "accumulate": 2, "learning_rate": 0.01}]
    made = without_chance(rows=91, bad=3, validation=20)
    one = trained(tmp_path / "one", world=1, made=made, **keys)
    two = trained(tmp_path / "two", world=world, made=made, **keys)
    assert len(one) == 8 and one.keys() == two.keys()
    assert all(float.fromhex(two[s]) == pytest.approx(float.fromhex(one[s]), rel=1e-5) for s in one)
    assert_close(weights(tmp_path / "two"), weights(tmp_path / "one"), 1e-5)
    for name in ("data.json", "quarantine.jsonl"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("one", "two")]
    same = ("step", "epoch", "rows", "learning_rate", "event", "split", "metrics")
    assert [{k: line.get(k) for k in same} for line in logs[1]] == [{k: line.get(k) for k in same} for line in logs[0]]
    assert all(set(line["losses"]) == {"answer", "both"} for line in logs[1] if "losses" in line)
    path = checkpoint.newest_valid(tmp_path / "two" / "checkpoints", pytest.fail)
    assert checkpoint.read_state(path)["processes"] == world


def test_a_signal_to_one_stops_all_and_resume_is_bit_identical(tmp_path):
    """With dropout, batch norm and augmentation; on another number of processes the same steps go on."""
    keys = {"stages": [{"epochs": 3, "batch_size": 8, "learning_rate": 0.01}], "save_every": 1000}
    trained(tmp_path / "whole", made=build(bad=2), **keys)

    def stopping(recipe):
        materials = build(bad=2)(recipe)
        steps, task = iter(range(1000)), materials.tasks["answer"]
        honest = task.loss

        def loss(*arguments):
            if materials.model.training and next(steps) == 9 and os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGTERM)
            return honest(*arguments)

        task.loss = loss
        return materials

    trained(tmp_path / "cut", made=stopping, expect=[143], **keys)
    paths = sorted((tmp_path / "cut" / "checkpoints").iterdir())
    assert [checkpoint.step_of(path) for path in paths] == [10]
    alone = tmp_path / "alone"
    os.system(f"cp -r {tmp_path / 'cut'} {alone}")
    trained(tmp_path / "cut", made=build(bad=2), resume=True, **keys)
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
    one = trained(alone, world=1, made=build(bad=2), resume=True, **keys)
    assert len(one) == 24 and list(one.values())[:10] == list(losses(tmp_path / "whole").values())[:10]


def test_a_killed_process_ends_the_others_and_the_run_resumes(tmp_path):
    keys = {"stages": [{"epochs": 3, "batch_size": 8, "learning_rate": 0.01}], "save_every": 2}
    trained(tmp_path / "whole", **keys)

    def dying(recipe):
        materials = build()(recipe)
        steps, task = iter(range(1000)), materials.tasks["answer"]
        honest = task.loss

        def loss(*arguments):
            if materials.model.training and next(steps) == 7 and os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGKILL)
            return honest(*arguments)

        task.loss = loss
        return materials

    begun = time.monotonic()
    trained(tmp_path / "cut", made=dying, expect=[2, -signal.SIGKILL], **keys)
    assert time.monotonic() - begun < 50  # not a time out of the collectives, which is minutes
    trained(tmp_path / "cut", resume=True, **keys)
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


def test_a_value_that_is_not_finite_on_one_is_skipped_by_all(tmp_path):
    def edit(index, parts):
        return {**parts, "seen": "nan"} if index == 20 else parts

    trained(tmp_path, made=build(edit=edit), **FREE_OF_CHANCE)
    log = read_log(tmp_path / "log.jsonl")
    assert [line["ids"] for line in log if line.get("event") == "nonfinite_input"] == [["toy:20"], ["toy:20"]]
    assert log[-1]["counters"] == {"nonfinite_input": 2}
    assert all(value.isfinite().all() for value in weights(tmp_path).values())
    assert sum(math.isnan(line["loss"]) for line in log if "loss" in line) == 2


def test_wall_time_and_early_stopping_are_decided_together(tmp_path):
    keys = {"stages": [{"max_minutes": 0.03, "batch_size": 8, "learning_rate": 1e-9}], "best": "validation answer.accuracy"}
    steps = trained(tmp_path, made=build(validation=8), early_stopping=50, **keys)
    assert len(steps) > 1 and json.loads((tmp_path / "data.json").read_text())["train"]["read"] > 0


def test_what_cannot_be_split_is_said(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(RecipeError, match=r"stages.main.batch_size: 8 rows cannot be split over 3 processes; .* e.g. 9"), joined(recipe()):
        pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="train.device"), joined(recipe(device="mps")):
        pass
