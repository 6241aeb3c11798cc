"""TR3 to TR7: checkpoints survive kills, damage, full disks and failing deletes."""

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from toy_training import ended, forked

from chiasm.training import checkpoint

FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"]


def trained(seed=0, width=8):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width))
    model[1].weight = model[0].weight  # tied
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        model(torch.randn(4, width)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def put(folder, step, **kwargs):
    model, optimizer = trained(step, **kwargs)
    return checkpoint.save(folder, step, model=model, optimizer=optimizer, state={"step": step})


def test_round_trip_is_bit_identical(tmp_path):
    model, optimizer = trained(1)
    path = checkpoint.save(tmp_path, 7, model=model, optimizer=optimizer, state={"step": 7, "loss": 0.1})
    other, other_optimizer = trained(2)
    checkpoint.load_weights(path, other)
    checkpoint.load_optimizer(path, other, other_optimizer)
    for m, o in ((model, optimizer), (other, other_optimizer)):
        torch.manual_seed(5)
        m(torch.randn(4, 8)).square().sum().backward()
        o.step()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert checkpoint.read_state(path) == {"step": 7, "loss": 0.1} and checkpoint.step_of(path) == 7


def test_a_model_of_another_shape_or_stage_is_refused(tmp_path):
    path = put(tmp_path, 1)
    with pytest.raises(checkpoint.CheckpointError, match="does not fit"):
        checkpoint.load_weights(path, nn.Sequential(nn.Linear(8, 8)))
    model, _ = trained()
    with pytest.raises(checkpoint.CheckpointError, match="does not train"):
        checkpoint.load_optimizer(path, model, torch.optim.AdamW([model[0].bias]))


def damages(path: Path):
    for name in FILES:
        size = (path / name).stat().st_size
        for cut in (0, 1, size // 2, size - 1):
            yield f"{name} cut to {cut}", lambda p, name=name, cut=cut: os.truncate(p / name, cut)
        yield f"{name} deleted", lambda p, name=name: (p / name).unlink()
        for at in (0, size // 3, size // 2, size - 2):
            yield f"{name} bit at {at}", lambda p, name=name, at=at: flip(p / name, at)
    yield "empty", lambda p: (shutil.rmtree(p), p.mkdir())
    yield "symlink loop", lambda p: (shutil.rmtree(p), p.symlink_to(p))
    yield "a file", lambda p: (shutil.rmtree(p), p.write_text("x"))
    yield "no optimizer listed", unlist_optimizer


def flip(file: Path, at: int):
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def unlist_optimizer(path: Path):
    (path / "optimizer.safetensors").unlink()
    manifest = json.loads((path / "MANIFEST.json").read_text())
    del manifest["files"]["optimizer.safetensors"]
    (path / "MANIFEST.json").write_text(checkpoint._rendered(manifest["step"], manifest["files"]))


def test_every_damage_falls_back_with_one_line(tmp_path):
    good, bad = put(tmp_path, 1), put(tmp_path, 2)
    keep = tmp_path / "keep"
    shutil.copytree(bad, keep)
    for name, damage in list(damages(bad)):
        damage(bad)
        lines = []
        assert checkpoint.newest_valid(tmp_path, lines.append) == good, name
        assert len(lines) == 1 and str(bad) in lines[0], name
        if name.split()[0] in FILES:
            assert name.split()[0] in lines[0] or "MANIFEST" in lines[0], (name, lines)
        put(tmp_path, 2)  # the same step can be written again over the damaged one
        assert checkpoint.verify(bad) is None, name


def test_renamed_checkpoint_is_not_another_step(tmp_path):
    put(tmp_path, 1).rename(tmp_path / "step-00000009")
    assert "altered" in checkpoint.verify(tmp_path / "step-00000009")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.4])
def test_disk_full_is_one_line_and_keeps_the_previous(tmp_path, share):
    """A failing write at byte k of the file, through the file size limit."""
    previous = put(tmp_path, 1, width=64)
    biggest = max((previous / name).stat().st_size for name in FILES)
    smallest = (previous / "model.safetensors").stat().st_size
    limit = int(share * smallest) if share < 1 else (smallest + biggest) // 2
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        with pytest.raises(checkpoint.CheckpointError) as caught:
            put(tmp_path, 2, width=64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    message = str(caught.value)
    assert message.startswith("disk full while saving step 2 at") and "need " in message and f"last good checkpoint: {previous}" in message
    assert checkpoint.newest_valid(tmp_path, pytest.fail) == previous and [p.name for p in tmp_path.iterdir()] == [previous.name]


def test_space_is_checked_before_the_first_step(tmp_path, monkeypatch):
    model, _ = trained()
    checkpoint.require_space(tmp_path, model)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(checkpoint.CheckpointError, match="not enough disk space"):
        checkpoint.require_space(tmp_path, model)


def test_pruning_keeps_the_newest_the_protected_and_goes_on_after_a_failure(tmp_path, monkeypatch):
    for step in range(1, 6):
        put(tmp_path, step)
    checkpoint.prune(tmp_path, keep_last=2, protect={1}, warn=pytest.fail)
    assert [checkpoint.step_of(p) for p in checkpoint._all(tmp_path)] == [1, 4, 5]
    flip(tmp_path / "step-00000005" / "state.json", 3)
    lines = []
    checkpoint.prune(tmp_path, keep_last=1, protect=(), warn=lines.append)
    assert len(checkpoint._all(tmp_path)) == 3 and len(lines) == 1 and "state.json" in lines[0]
    put(tmp_path, 6)
    monkeypatch.setattr(shutil, "rmtree", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    checkpoint.prune(tmp_path, keep_last=1, protect=(), warn=lines.append)
    assert len(lines) == 4 and "Permission denied" in lines[-1]


@pytest.mark.parametrize("cycles", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_keep_one_never_leaves_none(tmp_path, monkeypatch, cycles):
    """TR6: save and prune with failures injected into fsync and delete."""
    draw = random.Random(0)
    real_fsync, real_rmtree = checkpoint._fsync, shutil.rmtree
    monkeypatch.setattr(checkpoint, "_fsync", lambda path: fail(5) if draw.random() < 0.05 else real_fsync(path))
    monkeypatch.setattr(shutil, "rmtree", lambda path: fail(13) if draw.random() < 0.2 else real_rmtree(path))
    model, optimizer = trained()
    saved = 0
    for step in range(cycles):
        try:
            checkpoint.save(tmp_path, step, model=model, optimizer=optimizer, state={})
            saved += 1
            checkpoint.prune(tmp_path, keep_last=1, protect=(), warn=lambda line: None)
        except (checkpoint.CheckpointError, OSError):
            pass
        if saved:
            assert checkpoint.newest_valid(tmp_path, lambda line: None)
    assert saved > cycles / 3


def fail(code: int):
    raise OSError(code, os.strerror(code))


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_kill_9_during_back_to_back_saves(tmp_path, kills):
    """TR3: whatever the moment, the newest checkpoint verifies, and nothing else is left after the next start."""
    model = nn.Linear(200, 200)
    optimizer = torch.optim.AdamW(model.parameters())

    def saves(first):
        for step in range(first, 10**6):
            checkpoint.save(tmp_path, step, model=model, optimizer=optimizer, state={"step": step})
            checkpoint.prune(tmp_path, keep_last=1, protect=(), warn=print)

    draw, step = random.Random(0), 3
    started = time.monotonic()
    for number in range(step):
        put(tmp_path, number)
    longest = 20 * (time.monotonic() - started)  # a busy machine is given as much more time
    for _ in range(kills):
        assert ended(forked(lambda first=step: saves(first)), draw.uniform(0.0, longest)) == -signal.SIGKILL
        checkpoint.clean(tmp_path)
        newest = checkpoint.newest_valid(tmp_path, pytest.fail)
        assert newest and not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
        step = checkpoint.step_of(newest) + 1
    assert step > 3  # some saves were whole


def test_a_kill_between_the_two_renames_of_a_second_save(tmp_path, monkeypatch):
    path = put(tmp_path, 3)
    before = (path / "MANIFEST.json").read_bytes()
    path.rename(tmp_path / ".replaced-step-00000003")  # where such a kill leaves it
    checkpoint.clean(tmp_path)
    assert checkpoint.verify(path) is None and (path / "MANIFEST.json").read_bytes() == before


def test_what_is_saved_is_the_state_at_the_call(tmp_path):
    """TR7: weights changed right after save() returns do not reach the file."""
    model, optimizer = trained()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    path = checkpoint.save(tmp_path, 1, model=model, optimizer=optimizer, state={})
    with torch.no_grad():
        model[0].weight.zero_()
    checkpoint.load_weights(path, model)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
