"""Several processes train one run: what two of them do equals what one does. Processes are forked, so that torch is imported once."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForMultimodalLM

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "contracts"))
from tiny_models import BACKBONES
from toy_training import build, ended, forked, losses, recipe

from chiasm.recipe import load_recipe
from chiasm.training import checkpoint
from chiasm.training.distributed import joined
from chiasm.training.log import read_log
from chiasm.training.loop import train
from chiasm.training.materials import assemble
from chiasm.training.sharding import Sharded
from chiasm.types import ChiasmError, RecipeError

FREE_OF_CHANCE = {"stages": [{"epochs": 2, "batch_size": 8, "accumulate": 2, "learning_rate": 0.01}], "evaluate_every": 3}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def started(world: int, call, *arguments) -> list[int]:
    """Fork `world` processes as torchrun would start them; returns their pids."""
    port = free_port()

    def one(rank):
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        try:
            call(*arguments)
        except Exception as error:
            if not isinstance(error, ChiasmError):
                traceback.print_exc()
            raise

    return [forked(lambda rank=rank: one(rank)) for rank in range(world)]


def trained(folder, *, world=2, made=None, resume=False, expect=(0,), **keys):
    """Train a toy on so many processes; returns its losses as float hex."""
    pids = started(world, toy, folder, made or build(rows=64), resume, keys)
    codes = {ended(pid, 300) for pid in pids}
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
        materials.tasks["both"].wants = lambda sample: sample.parts["label"] is not None and sample.line % 16 == 5
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
    assert_close(saved(tmp_path / "two")[0], saved(tmp_path / "one")[0], 1e-5)
    for name in ("data.json", "quarantine.jsonl"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("one", "two")]
    same = ("step", "epoch", "rows", "learning_rate", "event", "split", "metrics")
    assert [{k: line.get(k) for k in same} for line in logs[1]] == [{k: line.get(k) for k in same} for line in logs[0]]
    named = [[set(line["losses"]) for line in log if "losses" in line] for log in logs]
    assert named[0] == named[1] and {"answer"} in named[1] and {"answer", "both"} in named[1]
    path = checkpoint.newest_valid(tmp_path / "two" / "checkpoints", pytest.fail)
    assert checkpoint.read_state(path)["processes"] == world


def struck(made, *, step, by):
    """What builds the materials, such that the second process gets the signal `by` in its training step `step`."""

    def making(recipe):
        materials = made(recipe)
        steps, task = iter(range(1000)), materials.tasks["answer"]
        honest = task.loss

        def loss(*arguments):
            if materials.model.training and next(steps) == step and os.environ["RANK"] == "1":
                os.kill(os.getpid(), by)
            return honest(*arguments)

        task.loss = loss
        return materials

    return making


def test_a_signal_to_one_stops_all_and_resume_is_bit_identical(tmp_path):
    """With dropout, batch norm and augmentation; on another number of processes the same steps go on."""
    keys = {"stages": [{"epochs": 3, "batch_size": 8, "learning_rate": 0.01}], "save_every": 1000}
    trained(tmp_path / "whole", made=build(rows=64, bad=1), **keys)

    trained(tmp_path / "cut", made=struck(build(rows=64, bad=1), step=9, by=signal.SIGTERM), expect=[143], **keys)
    paths = sorted((tmp_path / "cut" / "checkpoints").iterdir())
    assert [checkpoint.step_of(path) for path in paths] == [10]
    alone = tmp_path / "alone"
    shutil.copytree(tmp_path / "cut", alone)
    trained(tmp_path / "cut", made=build(rows=64, bad=1), resume=True, **keys)
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
    one = trained(alone, world=1, made=build(rows=64, bad=1), resume=True, **keys)
    assert len(one) == 24 and list(one.values())[:10] == list(losses(tmp_path / "whole").values())[:10]


def test_a_killed_process_ends_the_others_and_the_run_resumes(tmp_path):
    keys = {"stages": [{"epochs": 3, "batch_size": 8, "learning_rate": 0.01}], "save_every": 2}
    trained(tmp_path / "whole", **keys)

    trained(tmp_path / "cut", made=struck(build(rows=64), step=7, by=signal.SIGKILL), expect=[2, -signal.SIGKILL], num_workers=1, **keys)
    trained(tmp_path / "cut", resume=True, **keys)
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


def test_a_value_that_is_not_finite_on_one_is_skipped_by_all(tmp_path):
    def edit(index, parts):
        return {**parts, "seen": "nan"} if index == 20 else parts

    trained(tmp_path, made=build(rows=64, edit=edit), **FREE_OF_CHANCE)
    log = read_log(tmp_path / "log.jsonl")
    assert [line["ids"] for line in log if line.get("event") == "nonfinite_input"] == [["toy:20"], ["toy:20"]]
    assert log[-1]["counters"] == {"nonfinite_input": 2}
    assert all(value.isfinite().all() for value in weights(tmp_path).values())
    assert sum(math.isnan(line["loss"]) for line in log if "loss" in line) == 2


def test_wall_time_and_early_stopping_are_decided_together(tmp_path):
    keys = {"stages": [{"max_minutes": 0.03, "batch_size": 8, "learning_rate": 1e-9}], "best": "validation answer.accuracy"}
    steps = trained(tmp_path, made=build(rows=64, validation=8), early_stopping=50, **keys)
    assert len(steps) > 1 and json.loads((tmp_path / "data.json").read_text())["train"]["read"] > 0


def test_what_cannot_be_split_is_said(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(RecipeError, match=r"stages.main.batch_size: 8 rows cannot be split over 3 processes; .* e.g. 9"), joined(recipe()):
        pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="train.device"), joined(recipe(device="mps")):
        pass


# ---- whole models


GPT2 = {"arch": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24, "tokenizer": "words"}
GPT2 |= {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}


@pytest.fixture
def data(tmp_path):
    """60 rows: few and long answers, few labels, pictures that are often absent, notes that several rows share."""
    draw, rows = random.Random(0), []
    for number in range(60):
        label = "ab"[number // 6 % 2]
        row = {"seen": [[draw.gauss(0, 1), draw.gauss(0, 1)] for _ in range(3)], "heard": [[draw.gauss(0, 1)] * 3, [1.0, 0.0, 1.0]]}
        row |= {"note": f"note {'abcdefg'[number % 7]}", "said": " ".join(["long"] * (1 + number % 5)), "label": label}
        for name, keep in (("seen", number % 4), ("heard", number % 3), ("label", number % 6 == 0), ("said", number % 5)):
            if not keep:
                del row[name]
        rows.append(row)
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = [{name: row[name] for name in ("seen", "note", "said") if name in row} for row in rows[5:9]]  # only one task is scored
    (tmp_path / "validation.jsonl").write_text("\n".join(map(json.dumps, asked)))
    return tmp_path


def whole_recipe(data, **keys):
    pair = {"type": "contrast", "between": ["seen", "note"], "text": "backbone", "weight": 0.5}
    given = {
        "inputs": {"seen": "features", "heard": "features", "note": "text"},
        "encoders": {"features": {"connector": "mlp"}},
        "backbone": GPT2,
        "fusion": "gated_cross_attention",
        "tasks": {
            "say": {"type": "generate", "prompt": "{note} :", "target": "{said}", "generation": {"max_new_tokens": 2}},
            "label": {"type": "classify", "target": "label", "prompt": "{note}", "dropout": 0.0},
            "pair": pair,
        },
        "data": {"train": str(data / "train.jsonl"), "validation": str(data / "validation.jsonl")},
        "stages": [
            {"name": "all", "epochs": 1, "batch_size": 12, "learning_rate": 3e-3},
            {"name": "last", "steps": 2, "batch_size": 6, "accumulate": 3, "learning_rate": 3e-3, "train": ["encoders", "fusion", "tasks"]},
        ],
        "train": {"precision": "fp32", "device": "cpu", "save_every": 2, "keep_last": 99, "group_rows": 1},
    }
    return load_recipe({**given, **{k: v for k, v in keys.items() if k in given}}, overrides=keys.get("overrides", ()))


def whole(made, folder, resume, build):
    with joined(made) as processes:
        train(made, output=folder, resume=resume, progress=processes.is_main, build=build, processes=processes)


def run_of(folder, made, *, world, resume=False, expect=(0,), build=assemble):
    codes = {ended(pid, 300) for pid in started(world, whole, made, folder, resume, build)}
    assert codes == set(expect), codes
    return {line["step"]: line["loss"] for line in read_log(folder / "log.jsonl") if "loss" in line}


def saved(folder, step=None):
    """Tensors of a checkpoint, the last where no step is given: weights, then the optimizer's."""
    path = sorted((folder / "checkpoints").iterdir())[-1] if step is None else checkpoint.path_of(folder / "checkpoints", step)
    return load_file(path / "model.safetensors"), load_file(path / "optimizer.safetensors")


def assert_saved_alike(found: Path, expected: Path, most: float) -> None:
    """All tensors of the last checkpoints, and of the last with an optimizer; a key's bias has a gradient of rounding only."""
    for step in (None, 4):
        for one, other in zip(saved(found, step), saved(expected, step), strict=True):
            assert one.keys() == other.keys()
            firm = [name for name in one if "c_attn.bias" not in name]
            assert_close({n: one[n] for n in firm}, {n: other[n] for n in firm}, most)


def test_a_whole_model_on_two_processes(data, tmp_path):
    """Tied words, fusion ahead of the layers, a contrast of all rows, tasks and inputs that a process lacks, a frozen stage."""
    made, split = whole_recipe(data), whole_recipe(data, overrides=["train.strategy=fsdp"])
    one, ddp, fsdp = tmp_path / "one", tmp_path / "ddp", tmp_path / "fsdp"
    curves = [run_of(one, made, world=1), run_of(ddp, made, world=2), run_of(fsdp, split, world=2)]
    assert len(curves[0]) == 7
    for curve in curves[1:]:
        assert curve == {step: pytest.approx(loss, rel=1e-6) for step, loss in curves[0].items()}
    assert_saved_alike(ddp, one, 1e-5)
    assert_saved_alike(fsdp, ddp, 1e-5)
    names = [sorted(load_file(folder / "model/model.safetensors")) for folder in (one, ddp, fsdp)]
    assert names[0] == names[1] == names[2]
    with torch.no_grad():
        loaded = AutoModelForMultimodalLM.from_pretrained(fsdp / "model")
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    found = [[line["metrics"] for line in read_log(folder / "log.jsonl") if line.get("event") == "evaluation"] for folder in (ddp, fsdp)]
    assert len(found[0]) == 2 and found[0] == found[1]
    for path in (fsdp / "checkpoints").iterdir():
        if checkpoint.step_of(path) > 4:
            (path / "MANIFEST.json").unlink()
    again = run_of(fsdp, made, world=1, resume=True)  # what two processes split, one goes on with
    assert again == {step: pytest.approx(loss, rel=1e-6) for step, loss in curves[0].items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "lora"),
    [("gpt2", False), ("gpt2", True), ("qwen3", False), ("bert", False), ("latent", False), ("t5", False), ("bart", False)],
)
def test_fsdp_on_every_kind_of_backbone(data, tmp_path, backbone, lora):
    """Also stopped and resumed: equal to the bit."""
    spec = {**BACKBONES[backbone], **({"train": {"lora": {"rank": 2}}} if lora else {})}
    tasks = {"label": {"type": "classify", "target": "label", "dropout": 0.0}}
    if backbone not in ("latent", "bert"):
        tasks["say"] = {"type": "generate", "prompt": "{note} :", "target": "{said}", "generation": {"max_new_tokens": 2}}
    inputs = {"seen": "features", "heard": "features", **({} if backbone == "latent" else {"note": "text"})}
    keys = {"backbone": spec, "tasks": tasks, "inputs": inputs}
    if backbone == "latent":
        keys |= {"fusion": "early", "encoders": {"features": {"connector": "mlp", "tokens": 3}}}
    made = [whole_recipe(data, **keys, overrides=[f"train.strategy={s}", "stages.last.train=[encoders,fusion]"]) for s in ("ddp", "fsdp")]
    ddp, fsdp, cut = tmp_path / "ddp", tmp_path / "fsdp", tmp_path / "cut"
    expected, found = run_of(ddp, made[0], world=2), run_of(fsdp, made[1], world=2)
    assert found == {step: pytest.approx(loss, rel=1e-5) for step, loss in expected.items()}
    shutil.copytree(fsdp, cut)
    for path in (cut / "checkpoints").iterdir():
        if checkpoint.step_of(path) > 2:
            (path / "MANIFEST.json").unlink()
    assert run_of(cut, made[1], world=2, resume=True) == found
    assert (cut / "model/model.safetensors").read_bytes() == (fsdp / "model/model.safetensors").read_bytes()


@pytest.mark.slow
def test_balance_looks_at_the_rows_of_all(data, tmp_path):
    """Heads of each input alone, and which input is ahead, as one process sees it."""
    made = whole_recipe(data, overrides=["train.balance={modulate: true, noise: true}"])
    one, two = (run_of(tmp_path / str(world), made, world=world) for world in (1, 2))
    assert two == {step: pytest.approx(loss, rel=1e-5) for step, loss in one.items()}
    logs = [[line["shortened"] for line in read_log(tmp_path / n / "log.jsonl") if line.get("shortened")] for n in "12"]
    assert logs[0] and logs[1] == [{name: pytest.approx(k, rel=1e-4) for name, k in line.items()} for line in logs[0]]


@pytest.mark.slow
def test_every_branch_learns_from_the_rows_of_all(data, tmp_path):
    """Losses of the branches of a hybrid with votes, and the weights they lead to, as one process has them."""
    fusion = {"type": "hybrid", "parts": [{"type": "gated_cross_attention"}, {"type": "late", "combine": "weighted"}]}
    kinds = {"one": (1, "ddp"), "ddp": (2, "ddp"), "fsdp": (2, "fsdp")}
    for name, (world, strategy) in kinds.items():
        run_of(tmp_path / name, whole_recipe(data, fusion=fusion, overrides=[f"train.strategy={strategy}"]), world=world)
    one, *others = ([line["losses"] for line in read_log(tmp_path / name / "log.jsonl") if "losses" in line] for name in kinds)
    assert {"say", "say[each branch]", "label", "label[each branch]", "pair"} == set().union(*one)
    for curve in others:
        assert curve == [pytest.approx(losses, rel=1e-5) for losses in one]
    assert_saved_alike(tmp_path / "ddp", tmp_path / "one", 1e-4)
    assert_saved_alike(tmp_path / "fsdp", tmp_path / "ddp", 1e-4)


@pytest.mark.slow
def test_a_signal_while_fsdp_validates(data, tmp_path):
    """The weights are together then, and the checkpoint is whole all the same."""
    made = whole_recipe(data, overrides=["train.strategy=fsdp"])

    def stopping(recipe):
        materials = assemble(recipe)
        task = materials.tasks["say"]
        honest = task.predict

        def predict(*arguments):
            if os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGTERM)
            return honest(*arguments)

        task.predict = predict
        return materials

    run_of(tmp_path / "cut", made, world=2, expect=[143], build=stopping)
    assert checkpoint.step_of(checkpoint.newest_valid(tmp_path / "cut/checkpoints", pytest.fail)) == 5
    found = run_of(tmp_path / "cut", made, world=2, resume=True)
    assert found == run_of(tmp_path / "whole", made, world=2)
    assert (tmp_path / "cut/model/model.safetensors").read_bytes() == (tmp_path / "whole/model/model.safetensors").read_bytes()


def test_what_fsdp_cannot_split_is_said(data):
    sharded = Sharded.__new__(Sharded)
    with pytest.raises(RecipeError, match=r"train.balance: .* use train.strategy: ddp"):
        sharded.shard(assemble(whole_recipe(data, overrides=["train.balance={}"])).model)
    with pytest.raises(RecipeError, match=r"train.strategy: .* use ddp"):
        sharded.shard(assemble(whole_recipe(data, fusion={"type": "cross_attention", "weights": "backbone"})).model)


@pytest.mark.slow
def test_torchrun(data, tmp_path):
    """The command line, evaluated and reported once; and Ctrl-C's and kill's way through torchrun."""
    (tmp_path / "recipe.yaml").write_text(whole_recipe(data).to_yaml())
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    command += ["-m", "chiasm_cli", "train", str(tmp_path / "recipe.yaml")]
    done = subprocess.run([*command, "--json", "--output", str(tmp_path / "run")], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"] == json.loads((tmp_path / "run/metrics.json").read_text())
    assert (tmp_path / "run/report.html").is_file()
    going = subprocess.Popen([*command, "stages.all.epochs=1000", "--output", str(tmp_path / "cut")], stderr=subprocess.DEVNULL)
    while not list((tmp_path / "cut").glob("checkpoints/step-*")):
        assert going.poll() is None
        time.sleep(0.2)
    going.send_signal(signal.SIGTERM)
    assert going.wait(60) != 0
    path = checkpoint.newest_valid(tmp_path / "cut/checkpoints", pytest.fail)
    logged = [line["step"] for line in read_log(tmp_path / "cut/log.jsonl") if "loss" in line]
    assert logged[-1] == checkpoint.step_of(path)  # stopped after that step, and not in the middle of the next
