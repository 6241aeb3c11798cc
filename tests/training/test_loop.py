"""The loop's promises on a toy: TR1, TR2, TR8, TR9, TR11, TR13, TR16 to TR18."""

import hashlib
import json
import math
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from toy_training import build, die_inside, ended, forked, losses, recipe

from chiasm.training import checkpoint
from chiasm.training.lock import Locked, run_lock
from chiasm.training.log import read_log
from chiasm.training.loop import train
from chiasm.training.signals import StopRequest
from chiasm.types import ChiasmError, NonFiniteError, RecipeError

EVERYTHING = {
    "stages": [
        {"name": "first", "epochs": 2, "batch_size": 8, "accumulate": 3, "learning_rate": 0.01, "tasks": ["both"]},
        {"name": "second", "steps": 15, "batch_size": 8, "learning_rate": 0.01},
    ],
    "evaluate_every": 4,
    "modality_dropout": 0.2,
    "best": "validation answer.accuracy",
}
BUILD = {"rows": 60, "bad": 2, "validation": 20}


def run(folder, *, progress=False, resume=False, allow_changed=False, made=None, **keys):
    train(recipe(**keys), output=folder, resume=resume, allow_changed=allow_changed, progress=progress, build=made or build())
    return losses(folder)


def final(folder: Path) -> dict[str, str]:
    """What must be equal: losses as hex, the kept weights, the account of the data."""
    files = ("model/weights.json", "data.json", "quarantine.jsonl")
    return losses(folder) | {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}


def test_a_run_has_its_files_and_learns(tmp_path):
    curve = run(tmp_path, stages=[{"epochs": 20, "batch_size": 16, "learning_rate": 0.02}], made=build(validation=20))
    values = [float.fromhex(v) for v in curve.values()]
    assert len(values) == 20 * 4 and sum(values[-8:]) < sum(values[:8])
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"recipe.yaml", "checkpoints", "model", "log.jsonl", "data.json", "quarantine.jsonl"}
    log = read_log(tmp_path / "log.jsonl")
    assert sum(line.get("event") == "evaluation" for line in log) == 20 and log[-1]["event"] == "finished"
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_kill_9_anywhere_then_resume_is_bit_identical(tmp_path, kills):
    """TR1: a run that is killed again and again, at any moment and inside saves, equals the one that is not."""
    draw, made = random.Random(0), build(**BUILD)
    begun = time.monotonic()
    assert ended(forked(lambda: run(tmp_path / "whole", made=made, **EVERYTHING))) == 0
    seconds = time.monotonic() - begun
    died, broken, number = 0, tmp_path / "broken0", 0
    while died < kills:
        inside = (draw.choice(["_fsync", "sha256", "_put_in_place", "_remove"]), draw.randrange(12)) if died % 2 else None
        workers, resume = died % 3 if died else 0, (broken / "checkpoints").exists()

        def go(inside=inside, workers=workers, resume=resume, broken=broken):
            if inside:
                die_inside(*inside)
            run(broken, resume=resume, made=made, num_workers=workers, **EVERYTHING)

        code = ended(forked(go), None if inside else draw.uniform(0.1, 0.8) * seconds)
        assert code in (0, -signal.SIGKILL)
        died += code != 0
        if code == 0:
            assert final(broken) == final(tmp_path / "whole")
            number += 1
            broken = tmp_path / f"broken{number}"
    if broken.exists():
        assert ended(forked(lambda: run(broken, resume=True, made=made, **EVERYTHING))) == 0
        assert final(broken) == final(tmp_path / "whole")


@pytest.mark.parametrize("at", [1, 3, 5, 6, 7, 14, 20])
def test_resume_from_every_kind_of_step(tmp_path, at):
    """Mid-epoch, epoch edge, stage edge, right after an evaluation: resumed from exactly that step."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    keys = {**EVERYTHING, "save_every": 1, "keep_last": 100}
    run(whole, made=build(**BUILD), **keys)
    run(cut, made=build(**BUILD), **keys)
    for path in (cut / "checkpoints").iterdir():
        if checkpoint.step_of(path) > at:
            (path / "MANIFEST.json").unlink()
    run(cut, resume=True, made=build(**BUILD), **keys)
    assert final(cut) == final(whole)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_do_not_change_anything(tmp_path, workers):
    """TR2."""
    run(tmp_path / "none", made=build(bad=3), modality_dropout=0.3)
    run(tmp_path / "some", made=build(bad=3), modality_dropout=0.3, num_workers=workers)
    assert final(tmp_path / "none") == final(tmp_path / "some")


def broken_unit(index, parts):
    return {**parts, "seen": "nan"} if index == 20 else parts


def test_a_nan_input_is_skipped_counted_and_named(tmp_path):
    """TR8: before the optimizer, and the batch norm's statistics too."""
    curve = run(tmp_path, made=build(edit=broken_unit))
    assert sum(math.isnan(float.fromhex(v)) for v in curve.values()) == 2  # once an epoch, logged as it was
    events = [line for line in read_log(tmp_path / "log.jsonl") if line.get("event") == "nonfinite_input"]
    assert [e["ids"] for e in events] == [["toy:20"], ["toy:20"]]
    log = read_log(tmp_path / "log.jsonl")
    assert log[-1]["counters"] == {"nonfinite_input": 2}
    weights = json.loads((tmp_path / "model/weights.json").read_text())
    assert all(torch.tensor(v).isfinite().all() for v in weights.values())


def test_three_in_a_row_stop_with_finite_weights_saved(tmp_path):
    with pytest.raises(NonFiniteError, match="3 steps in a row") as caught:
        run(tmp_path, made=build(edit=lambda index, parts: {**parts, "words": math.inf} if index > 15 else parts))
    assert caught.value.exit_code == 3
    path = checkpoint.newest_valid(tmp_path / "checkpoints", pytest.fail)
    _, model = checkpoint.step_of(path), build()(None).model
    checkpoint.load_weights(path, model)
    assert all(v.isfinite().all() for v in model.state_dict().values())


class Poison(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * math.nan


@pytest.mark.parametrize("where", ["loss", "grad"])
def test_nan_in_one_task_only(tmp_path, where):
    """In the loss, or in the gradient alone, of one task of two."""

    def poisoned(recipe):
        materials = build()(recipe)
        task, steps = materials.tasks["both"], iter(range(1000))
        honest = task.loss

        def loss(model, batch, streams):
            parts = honest(model, batch, streams)
            if model.training and next(steps) in (2, 5):
                parts.total = parts.total * math.inf if where == "loss" else Poison.apply(parts.total)
            return parts

        task.loss = loss
        return materials

    curve = run(tmp_path, made=poisoned)
    log = read_log(tmp_path / "log.jsonl")
    assert log[-1]["counters"] == {f"nonfinite_{where}": 2}
    assert len(curve) == 16 and [line["skipped"] for line in log if "skipped" in line] == [f"nonfinite_{where}"] * 2
    assert sum(math.isfinite(float.fromhex(v)) for v in curve.values()) == (14 if where == "loss" else 16)


def test_nothing_to_predict_contributes_exactly_nothing(tmp_path):
    """TR9: batches and whole steps without a label are counted, and give no NaN."""
    curve = run(tmp_path, made=build(edit=lambda i, parts: {**parts, "words": 0} if i >= 20 else parts), group_rows=1)
    assert all(math.isfinite(float.fromhex(v)) for v in curve.values())
    silent = tmp_path / "silent"
    curve = run(silent, made=build(edit=lambda i, parts: {**parts, "words": 0} if i != 5 else parts))
    counters = read_log(silent / "log.jsonl")[-1]["counters"]
    assert counters["empty"] == 14 and counters["unlabelled_batches"] == 28


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_quarantined_and_accounted(tmp_path, workers):
    """TR11: 8 broken rows, 4 unknown labels, 5 without a label."""

    def edit(index, parts):
        label = "?" if index in (0, 1, 2, 4) else None if index in (11, 12, 13, 14, 15) else parts["label"]
        return {**parts, "label": label}

    run(tmp_path, made=build(rows=100, bad=8, edit=edit), num_workers=workers)
    assert json.loads((tmp_path / "data.json").read_text())["train"] == {"read": 100, "used": 83, "quarantined": 12, "filtered": 5}
    lines = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert len(lines) == 12 and {line["reason"] for line in lines} == {"corrupt", "unknown_label"}
    with pytest.raises(ChiasmError, match="bad sample"):
        run(tmp_path / "strict", made=build(rows=100, bad=8), bad_samples="error")
    with pytest.raises(ChiasmError, match="max_bad"):
        run(tmp_path / "share", made=build(rows=100, bad=8), max_bad=0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_write_a_checkpoint(tmp_path, number, code):
    """TR13."""
    keys = {"stages": [{"steps": 100000, "batch_size": 8}], "save_every": 100000, "num_workers": 2}
    child = forked(lambda: run(tmp_path, **keys))
    wait_for_steps(tmp_path, 3)
    os.kill(child, number)
    assert ended(child, 10) == code and not (tmp_path / "lock").exists()
    assert checkpoint.newest_valid(tmp_path / "checkpoints", pytest.fail)


def test_second_interrupt_exits_at_once():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def wait_for_steps(folder, count):
    limit = time.monotonic() + 60
    while not (folder / "log.jsonl").exists() or len(read_log(folder / "log.jsonl")) < count + 2:
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_second_run_into_the_same_folder_is_refused(tmp_path):
    """TR16."""
    with run_lock(tmp_path, print), pytest.raises(Locked):
        run(tmp_path)
    run(tmp_path)
    with pytest.raises(ChiasmError, match="holds a run already; go on with --resume"):
        run(tmp_path)


def test_a_changed_recipe_is_named_by_key(tmp_path, capsys):
    """TR17."""
    run(tmp_path)
    with pytest.raises(RecipeError, match=r"train.seed: 0 -> 1; .*--allow-changed"):
        run(tmp_path, resume=True, seed=1)
    with pytest.raises(RecipeError, match=r"another model; changed: encoders.seen.connector.type: .* -> mlp"):
        run(tmp_path, resume=True, encoders={"seen": {"connector": "mlp"}}, allow_changed=True)
    run(tmp_path, resume=True, keep_last=5, progress=True)
    assert "changed since this run began: train.keep_last: 2 -> 5" in capsys.readouterr().err
    stages = [{"epochs": 3, "batch_size": 8, "learning_rate": 0.01}]
    run(tmp_path, resume=True, allow_changed=True, stages=stages)


def test_frozen_means_frozen(tmp_path):
    """TR18: weights and batch statistics of what does not train are bit-identical; what trains moves."""
    seen = {}

    def made(recipe):
        materials = build()(recipe)
        seen["model"], seen["before"] = materials.model, {k: v.clone() for k, v in materials.model.state_dict().items()}
        return materials

    stages = [{"epochs": 1, "batch_size": 8, "learning_rate": 0.01, "train": ["encoders.heard", "fusion", "tasks"]}]
    run(tmp_path, stages=stages, encoders={"heard": {"train": "none"}}, made=made)
    moved = {name for name, value in seen["model"].state_dict().items() if not torch.equal(value, seen["before"][name])}
    assert {name.rsplit(".", 1)[0] for name in moved} == {"connectors.heard", "fusion.mix", "heads.answer", "heads.both"}


def test_a_damaged_checkpoint_costs_one_line(tmp_path, capsys):
    """TR4, through the loop."""
    whole = tmp_path / "whole"
    run(whole)
    run(tmp_path / "hurt")
    newest = max((tmp_path / "hurt/checkpoints").iterdir())
    os.truncate(newest / "optimizer.safetensors", 10)
    run(tmp_path / "hurt", resume=True)
    text = capsys.readouterr().err
    assert text.count("WARNING") == 1 and "optimizer.safetensors has 10 bytes" in text
    assert final(whole) == final(tmp_path / "hurt")


def test_early_stopping_ends_a_stage_and_the_best_weights_are_kept(tmp_path):
    keys = {"best": "validation answer.accuracy", "early_stopping": 2, "evaluate_every": 2, "keep_last": 1}
    curve = run(tmp_path, stages=[{"steps": 400, "batch_size": 8, "learning_rate": 1e-5}], made=build(validation=20), **keys)
    assert len(curve) < 400
    log = read_log(tmp_path / "log.jsonl")
    scores = {line["step"]: line["metrics"]["answer.accuracy"] for line in log if line.get("event") == "evaluation"}
    best = max(scores, key=lambda step: (scores[step], -step))
    assert log[-1]["kept"] == best
    model = build()(None).model
    checkpoint.load_weights(checkpoint.path_of(tmp_path / "checkpoints", best), model)
    kept = json.loads((tmp_path / "model/weights.json").read_text())
    assert all(torch.equal(torch.tensor(kept[k], dtype=v.dtype), v) for k, v in model.state_dict().items())


def test_no_usable_sample_is_an_error(tmp_path):
    with pytest.raises(ChiasmError):
        run(tmp_path, made=build(rows=0))
    with pytest.raises(ChiasmError, match="no sample can be used"):
        run(tmp_path / "unlabelled", made=build(edit=lambda i, parts: {**parts, "label": None}))
