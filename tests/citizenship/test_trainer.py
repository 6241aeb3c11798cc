"""transformers' stock Trainer: it trains, and the loss is the same number however the batch is cut: accumulation, two processes.

A forward that takes **kwargs is trusted to have divided its loss by the whole batch, and Trainer multiplies it; ours says that it has not.
(One process with accumulation is in tests/test_model.py, for an encoder-decoder too.)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

sys.path.insert(0, str(Path(__file__).parent))
from citizens import MODELS, citizen, image, prepared

HERE = Path(__file__)
SETTINGS = {"use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1}


def pupil(fusion: str, backbone: str):
    """(model, examples with labels); without the sound, whose batch norm would make rows depend on each other."""
    model, processor = citizen(fusion, backbone)
    found = [prepared(processor, [0], image=[image(i)], audio=[None]) for i in range(4)]
    examples = [{k: v[0] for k, v in e.items() if not k.endswith("index")} | {"labels": e["input_ids"][0]} for e in found]
    return model.train(), examples


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("fusion", "backbone"), MODELS)
def test_it_trains_and_saves(fusion, backbone, tmp_path):
    model, examples = pupil(fusion, backbone)
    arguments = TrainingArguments(str(tmp_path), per_device_train_batch_size=4, max_steps=6, learning_rate=1e-2, **SETTINGS)
    trainer = Trainer(model, arguments, train_dataset=examples)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    trainer.save_model(tmp_path / "saved")
    again = type(model).from_pretrained(tmp_path / "saved")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.slow
def test_the_loss_is_the_same_number_on_two_processes(tmp_path):
    found = {}
    for processes in (1, 2):
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *launch, str(HERE), str(tmp_path / str(processes)), str(4 // processes)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "ACCELERATE_USE_CPU": "true"})
        assert done.returncode == 0, done.stderr[-2000:]
        found[processes] = json.loads((tmp_path / str(processes) / "loss.json").read_text())
    assert found[2] == pytest.approx(found[1], rel=1e-3)


def train_once(folder: Path, rows: int) -> None:
    """One step of Trainer on `rows` rows of each process, under torchrun."""
    model, examples = pupil("gated_cross_attention", "gpt2")
    arguments = TrainingArguments(str(folder), per_device_train_batch_size=rows, max_steps=2, ddp_backend="gloo", **SETTINGS)
    trainer = Trainer(model, arguments, train_dataset=examples)
    trainer.train()
    if trainer.is_world_process_zero():
        (folder / "loss.json").write_text(json.dumps([e["loss"] for e in trainer.state.log_history if "loss" in e]))


if __name__ == "__main__":
    train_once(Path(sys.argv[1]), int(sys.argv[2]))
