"""A toy of everything a training needs, with what makes exactness hard: dropout, batch norm, noise as augmentation, shared units, unequal
weights, two tasks, absent inputs, bad rows."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig

from chiasm.data.sources.base import Source
from chiasm.data.split import Split
from chiasm.media.base import Modality
from chiasm.recipe import load_recipe
from chiasm.tasks.base import LossParts
from chiasm.training import checkpoint
from chiasm.training.materials import Materials
from chiasm.types import BadInput, ChiasmError, Prediction, Sample, Tokens

WIDTH = 6


class ToySource(Source):
    """{"seen": 3, "heard": 1, "label": 1, "words": 2}; numbers stand for the vectors they seed."""

    def __init__(self, rows: int, *, bad: int = 0, edit=None):
        self.rows, self.bad, self.edit = rows, bad, edit or (lambda index, parts: parts)

    def __len__(self):
        return self.rows

    def read(self, index):
        if index % 7 == 3 and index // 7 < self.bad:
            raise BadInput("corrupt", f"row {index} is corrupt")
        parts = {"seen": index // 2, "heard": index if index % 5 else None, "label": index % 3, "words": 1 + index % 4}
        return Sample(f"toy:{index}", self.edit(index, parts), file="toy", line=index)

    def origin(self, index):
        return f"toy:{index}", "toy", index

    @property
    def columns(self):
        return ("seen", "heard", "label", "words")


class ToyModality(Modality):
    tensors = ("values",)

    def open(self, value, *, root=None):
        if not isinstance(value, int | str):
            raise BadInput("bad_type", "neither number nor text")
        if isinstance(value, str):
            return np.full(WIDTH, float(value), dtype=np.float32), ()
        return np.random.default_rng(value).normal(size=WIDTH).astype(np.float32), ()

    def augment(self, value, generator):
        return value + 0.1 * generator.normal(size=WIDTH).astype(np.float32)

    def collate(self, values):
        return {"values": torch.from_numpy(np.stack(values))}

    def identity(self, value, *, root=None):
        return f"unit {value}"


class ToyTask:
    """Predicts `label` as often as a row has `words`, so that rows weigh unequally."""

    view, additive, metrics, columns, targets, texts, lists = "fused", True, ("accuracy",), ("label",), ("label",), (), ()

    def __init__(self, name: str, inputs: tuple[str, ...]):
        self.name, self.inputs = name, inputs

    def wants(self, sample):
        return sample.parts.get("label") is not None

    def check_prompt(self, sample):
        pass

    def check(self, sample):
        if sample.parts["label"] == "?":
            raise BadInput("unknown_label", "label ? is not known", input="label")

    def collate(self, samples, processor):
        words = torch.tensor([float(s.parts["words"]) for s in samples])
        return {}, {"labels": torch.tensor([s.parts["label"] for s in samples]), "words": words, "weight": float(words.sum())}

    def outputs(self, model, batch, streams):
        return model(self.name, batch, {name: streams[name] for name in self.inputs if name in streams})

    def loss(self, model, batch, streams):
        each = nn.functional.cross_entropy(self.outputs(model, batch, streams).float(), batch.targets["labels"], reduction="none")
        return LossParts((each * batch.targets["words"]).sum())

    def predict(self, model, batch, streams):
        best = self.outputs(model, batch, streams).argmax(-1).tolist()
        return [Prediction(i, self.name, str(b), str(t)) for i, b, t in zip(batch.ids, best, batch.targets["labels"].tolist(), strict=True)]


class ToyFusion(nn.Module):
    branch_losses = ()

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)

    @contextlib.contextmanager
    def gates_open(self):
        yield


class ToyModel(nn.Module):
    def __init__(self, inputs, tasks, *, deaf=False):
        super().__init__()
        self.encoders = nn.ModuleDict({n: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout(0.2)) for n in inputs})
        self.connectors = nn.ModuleDict({n: nn.Linear(WIDTH, WIDTH) for n in inputs})
        self.fusion, self.backbone = ToyFusion(), nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Dropout(0.1))
        self.heads, self.deaf = nn.ModuleDict({name: nn.Linear(WIDTH, 3) for name in tasks}), deaf

    device, dtype, config = torch.device("cpu"), torch.float32, PreTrainedConfig()

    def parts(self):
        parts = {"backbone": self.backbone, "fusion": self.fusion}
        parts |= {f"encoders.{n}": m for n, m in self.encoders.items()} | {f"encoders.{n}.connector": m for n, m in self.connectors.items()}
        return parts | {f"tasks.{name}": head for name, head in self.heads.items()}

    def encode(self, pool):
        streams = {}
        for name, tensors in pool.items():
            values = self.connectors[name](self.encoders[name](tensors["values"])).unsqueeze(1)
            streams[name] = Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))
        return streams

    def forward(self, task, batch, streams):
        total = torch.zeros(len(batch), WIDTH)
        for name, tokens in streams.items():
            index = batch.inputs[f"{name}_index"][:, 0]
            if name == "heard" and self.deaf:
                continue
            total = total + tokens.values[index.clamp_min(0), 0] * (index >= 0).unsqueeze(1)
        return self.heads[task](self.backbone(self.fusion.mix(total)))

    def save_pretrained(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        (Path(folder) / "weights.json").write_text(json.dumps({k: v.tolist() for k, v in self.state_dict().items()}))


class ToyProcessor:
    def __init__(self):
        self.tokenizer = SimpleNamespace(init_kwargs={})
        self.modalities = {"seen": ToyModality(), "heard": ToyModality()}

    def save_pretrained(self, folder):
        (Path(folder) / "processor.json").write_text("{}")


def recipe(**train_keys):
    """A recipe in the library's words; components are not looked up by it."""
    stages = train_keys.pop("stages", [{"epochs": 2, "batch_size": 8, "learning_rate": 0.01}])
    return load_recipe(
        {
            "inputs": {"seen": "features", "heard": "features"},
            "encoders": train_keys.pop("encoders", {}),
            "tasks": {"answer": {"type": "classify"}, "both": {"type": "classify", "weight": 0.5}},
            "data": {"train": "toy"},
            "stages": stages,
            "train": {"precision": "fp32", "device": "cpu", "save_every": 3, **train_keys},
        }
    )


def build(rows=60, *, bad=0, edit=None, deaf=False, validation=0):
    """What `train` calls with the recipe."""

    def made(recipe):
        processor = ToyProcessor()
        tasks = {"answer": ToyTask("answer", ("seen", "heard")), "both": ToyTask("both", ("seen",))}
        splits = {"train": Split(ToySource(rows, bad=bad, edit=edit), processor.modalities)}
        if validation:
            splits["validation"] = Split(ToySource(validation), processor.modalities)
        return Materials(ToyModel(("seen", "heard"), tasks, deaf=deaf), processor, tasks, splits.__getitem__, splits.__contains__)

    return made


def losses(run: Path) -> dict[int, str]:
    """step -> loss as float hex."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"].hex() for line in lines if "loss" in line}


def die_inside(what: str, count: int) -> None:
    """SIGKILL this process in the count-th call of checkpoint's `what`."""
    real, calls = getattr(checkpoint, what), iter(range(count, -1, -1))

    def dying(*args, **kwargs):
        if next(calls) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(checkpoint, what, dying)


def forked(call) -> int:
    """Run `call` in a copy of this process (nothing is imported anew); returns its pid."""
    if child := os.fork():
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        call()
        code = 0
    except ChiasmError as error:
        print(error, file=sys.stderr)
        code = error.exit_code
    except BaseException:
        traceback.print_exc()  # nobody above will
        raise
    finally:
        os._exit(code)


def ended(child: int, seconds: float | None = None) -> int:
    """Exit code of a forked process, minus the signal's number where one ended it; killed after `seconds`."""
    begun = time.monotonic()
    while seconds is not None and time.monotonic() - begun < seconds:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.01)
    else:
        if seconds is not None:
            os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
