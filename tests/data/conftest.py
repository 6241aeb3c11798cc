"""The smallest modality, task and processor that the data pipeline can run with."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from chiasm.data.sources.base import Source
from chiasm.media.base import Modality
from chiasm.types import BadInput, Sample


class Vector(Modality):
    """ "dot:3" or a list of such -> a vector; "bad" is refused. Augmentation adds a draw."""

    tensors = ("vector",)
    opened = 0

    def open(self, value, *, root=None):
        self.opened += 1
        if "bad" in value:
            raise BadInput("truncated", f"{value} is cut")
        return np.array([float(value.split(":")[1])]), ("fixed",) if "fix" in value else ()

    def augment(self, value, generator):
        return value + generator.random()

    def collate(self, values):
        return {"vector": torch.tensor(np.stack(values))}

    def identity(self, value, *, root=None):
        return value


class Words(Modality):
    def open(self, value, *, root=None):
        if not isinstance(value, str):
            raise BadInput("bad_type", f"expected text, found {value!r}")
        return value.strip(), ("stripped",) if value != value.strip() else ()


class Counted(Vector):
    """Has no identity, and learns from training values."""

    def identity(self, value, *, root=None):
        return None

    def fit(self, values):
        self.seen = list(values)


class Answer:
    """Wants rows with a `label`; refuses label "wrong"."""

    name, view, texts = "answer", "fused", ()

    def __init__(self, inputs=("image", "question"), name="answer", view="fused"):
        self.inputs, self.name, self.view = tuple(inputs), name, view

    def wants(self, sample):
        return sample.parts.get("label") is not None

    def check_prompt(self, sample):
        pass

    def check(self, sample):
        if sample.parts["label"] == "wrong":
            raise BadInput("unknown_label", f"{sample.id}: wrong", input="label")

    def collate(self, samples, processor):
        texts = [sample.parts.get("question") or "" for sample in samples]
        return {"length": torch.tensor([len(t) for t in texts])}, {"weight": float(len(samples)), "texts": texts}


class Records(Source):
    def __init__(self, records):
        self.records = records

    def __len__(self):
        return len(self.records)

    def origin(self, index):
        return f"r:{index}", "r", index

    def read(self, index):
        if self.records[index] is None:
            raise BadInput("bad_json", f"r:{index}: not JSON")
        return Sample(id=f"r:{index}", parts=self.records[index], file="r", line=index)

    @property
    def columns(self):
        return list(dict.fromkeys(name for r in self.records if r for name in r))


def processor(**modalities):
    return SimpleNamespace(modalities=modalities or {"image": Vector()})


@pytest.fixture
def fakes():
    """The classes of this file."""
    return sys.modules[__name__]
