"""torch's own wrappers around the plain model, on two gloo processes: DDP, and FSDP2 with a sharded checkpoint in safetensors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint import load as load_checkpoint
from torch.distributed.checkpoint import save as save_checkpoint
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForMultimodalLM

sys.path.insert(0, str(Path(__file__).parent))
from citizens import SLOW, citizen, prepared

STEPS = 3
ROWS = [0, 3]  # of one length


@pytest.mark.slow
@pytest.mark.parametrize(("fusion", "backbone"), SLOW)
def test_two_processes_train_as_one(fusion, backbone, tmp_path):
    citizen(fusion, backbone)[0].save_pretrained(tmp_path / "start")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(Path(__file__)), fusion, backbone]
    done = subprocess.run(
        [*command, str(tmp_path)], capture_output=True, text=True, check=False, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    alone = losses(loaded(tmp_path), batch(fusion, backbone, ROWS))
    assert found["ddp"] == pytest.approx(alone, rel=1e-3) and found["fsdp"] == pytest.approx(alone, rel=1e-3)
    assert found["spread"] < 1e-6 and found["reloaded"] < 1e-5
    files = [path for path in (tmp_path / "sharded").rglob("*") if path.is_file()]
    assert files and all(path.suffix in (".safetensors", ".json") for path in files)  # no pickle
    again = AutoModelForMultimodalLM.from_pretrained(tmp_path / "whole")
    assert float(again(**batch(fusion, backbone, ROWS)).loss.detach()) == pytest.approx(found["last"], rel=1e-3)


def loaded(folder: Path):
    """The model as one's own program has it. (One just built keeps convolution kernels channels-last, which FSDP2 refuses.)"""
    return AutoModelForMultimodalLM.from_pretrained(folder / "start").eval()


def batch(fusion: str, backbone: str, rows: list[int]) -> dict:
    """Rows of one length, so that the mean of two processes' losses is the loss of both together."""
    _, processor = citizen(fusion, backbone)
    inputs = prepared(processor, rows)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    return {**inputs, "labels": labels}


def losses(model, inputs: dict, average=lambda loss: loss) -> list[float]:
    """The loss before each of a few steps of SGD; eval mode, so that batch norm does not depend on who else is in the batch."""
    model.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for _ in range(STEPS):
        loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(average(loss.detach())))
    return found


def mean(loss: torch.Tensor) -> torch.Tensor:
    """The mean over processes; gloo has sums only."""
    dist.all_reduce(loss)
    return loss / dist.get_world_size()


def sharded(folder: Path):
    model = loaded(folder)
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.backbone.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def worker(fusion: str, backbone: str, folder: Path) -> None:
    """What each of the two processes does; the first writes what was found."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    own, both = batch(fusion, backbone, [ROWS[rank]]), batch(fusion, backbone, ROWS)
    found: dict = {}
    wrapped = DistributedDataParallel(loaded(folder))
    found["ddp"] = losses(wrapped, own, mean)
    flat = torch.cat([p.detach().flatten() for p in wrapped.parameters()])
    other = [torch.empty_like(flat) for _ in range(2)]
    dist.all_gather(other, flat)
    found["spread"] = float((other[0] - other[1]).abs().max())

    model = sharded(folder)
    found["fsdp"] = losses(model, own, mean)
    with torch.no_grad():
        expected = model(**both)
    found["last"] = float(expected.loss)
    state = {name: value for name, value in get_model_state_dict(model).items() if name != "lm_head.weight" or not tied(model)}
    save_checkpoint(state, storage_writer=HuggingFaceStorageWriter(str(folder / "sharded"), save_distributed=True))
    again = sharded(folder)
    read = {name: torch.zeros_like(value) for name, value in get_model_state_dict(again).items() if name in state}
    load_checkpoint(read, storage_reader=HuggingFaceStorageReader(str(folder / "sharded")))
    if tied(model):
        read["lm_head.weight"] = read[model._tied_weights_keys["lm_head.weight"]]
    set_model_state_dict(again, read)
    with torch.no_grad():
        found["reloaded"] = float((again(**both).logits - expected.logits).abs().max())
    whole = {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in state.items()}
    if rank == 0:
        loaded(folder).save_pretrained(folder / "whole", state_dict=whole)
        (folder / "found.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def tied(model) -> bool:
    return bool(model.config.tie_word_embeddings)


if __name__ == "__main__":
    worker(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
