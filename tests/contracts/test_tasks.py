"""What every task promises, on one tiny model that has them all."""

from __future__ import annotations

import copy
import dataclasses
import math
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import WORDS, assembled, picture, prepared, rows, sound

from chiasm.components import names
from chiasm.types import Batch, Occasion, Prediction, Sample

# in the recipe's words; every task component has at least one
TASKS = {
    "generate": {"type": "generate", "prompt": "{question} answer :", "target": "{answer}", "generation": {"max_new_tokens": 5}},
    "interleaved": {
        "type": "generate",
        "prompt": "{image} {question}",
        "target": "{answer}",
        "generation": {"num_beams": 2, "max_new_tokens": 3},
    },
    "judged": {"type": "generate", "prompt": "{question}", "target": "{answer}", "metrics": ["exact_match", "perplexity"]},
    "classify": {"type": "classify", "target": "answer", "dropout": 0.0},
    "balanced": {"type": "classify", "target": "answer", "dropout": 0.0, "class_weights": {"no": 3.0}},
    "multi_label": {"type": "classify", "target": "tags", "multi_label": True, "dropout": 0.0},
    "regress": {"type": "regress", "target": "height", "dropout": 0.0},
    "contrast": {"type": "contrast", "between": ["image", "caption"], "width": 8},
    "contrast_whole": {"type": "contrast", "between": ["image", "caption"], "text": "backbone"},
    "match": {"type": "match", "between": ["image", "caption"], "dropout": 0.0},
    "match_hard": {"type": "match", "between": ["image", "caption"], "dropout": 0.0, "hard": True, "negatives": "contrast"},
    "match_placed": {"type": "match", "between": ["caption", "audio"], "prompt": "{audio} is {caption} ?", "dropout": 0.0},
    "mask": {"type": "mask", "text": "{caption} {image} ."},
    "mask_words": {"type": "mask", "text": "{caption}", "whole_words": True, "share": 0.5},
    "contrast_bare": {"type": "contrast", "between": ["audio", "caption"], "project": False, "direction": "forward"},
}
FUSED = {"type": "hybrid", "parts": [{"type": "cross_attention"}, {"type": "late", "combine": "decisions", "inputs": ["audio"]}]}


BACKBONES = ("gpt2", "t5", "bert")  # one text, a prompt that is read and a target that is written, or words that are filled in
BOTH_SIDES = ("contrast", "match", "mask")  # tasks whose targets are what they read
current = {"backbone": BACKBONES[0]}


PAIRS = [(backbone, name) for backbone in BACKBONES for name in TASKS if (TASKS[name]["type"] == "mask") == (backbone == "bert")]


def on_each_backbone(pairs):
    """A test of one task, on every backbone that can do it."""
    return pytest.mark.parametrize("name", pairs, indirect=True, ids=["-".join(pair) for pair in pairs])


every_task = on_each_backbone(PAIRS)


@pytest.fixture
def name(request):
    current["backbone"], task = request.param
    return task


@lru_cache
def built(backbone):
    fills_in = backbone == "bert"
    tasks = {name: spec for name, spec in TASKS.items() if (spec["type"] == "mask") == fills_in}
    return assembled(FUSED, backbone, tasks=tasks, data="scenes")


def model_of_all():
    return built(current["backbone"])


@pytest.fixture(autouse=True, scope="module")
def richer_rows():
    """The rows that tiny models are made from have all the columns that the tasks here want."""
    patch = pytest.MonkeyPatch()
    patch.setattr("tiny_models.rows", samples)
    yield
    patch.undo()


def samples(count=6) -> list[Sample]:
    more = [{"tags": ["red;big", "big", "red"][i % 3], "height": 1.5 * i + 1, "caption": WORDS[i % 3]} for i in range(count)]
    return [dataclasses.replace(row, parts={**row.parts, **extra}) for row, extra in zip(rows(count), more, strict=True)]


def batch_of(name, given, *, model=None, processor=None, key=None):
    """(batch, streams) of some rows, each with a picture and a sound of its own; row 1 has no sound."""
    if model is None:
        model, processor = model_of_all()
    task = model.tasks[name]
    numbers = [int(s.id.removeprefix("row")) for s in given]
    units = {name: [() if (name, n) == ("audio", 1) else (r,) for r, n in enumerate(numbers)] for name in ("image", "audio")}
    inputs, targets = task.collate(given, processor, **({"occasion": Occasion(units, key)} if task.draws else {}))
    media = prepared(processor, [0] * len(given), image=[picture(i) for i in numbers], audio=[sound(i) for i in numbers])
    pool, _ = model.model.pool_of({k: v for k, v in media.items() if k not in ("input_ids", "attention_mask")})
    index = torch.arange(len(given)).unsqueeze(1)
    inputs |= {"image_index": index, "audio_index": torch.tensor([[-1 if i == 1 else r] for r, i in enumerate(numbers)])}
    return Batch(name, [s.id for s in given], inputs, targets, given), model.encode(pool)


def test_every_task_is_tried():
    assert {spec["type"] for spec in TASKS.values()} == set(names("task"))


@every_task
def test_the_loss_is_a_sum_over_rows(name):
    model, _ = model_of_all()
    task, given = model.tasks[name], samples()
    parts = [task.loss(model, *batch_of(name, part)).total for part in (given, given[:2], given[2:])]
    weights = [batch_of(name, part)[0].targets["weight"] for part in (given, given[:2], given[2:])]
    assert parts[0].ndim == 0 and torch.isfinite(parts[0]) and parts[0] > 0
    assert all(isinstance(w, float) and w > 0 for w in weights)
    if TASKS[name]["type"] != "match":  # whose pairs are made in a batch
        assert weights[0] == pytest.approx(weights[1] + weights[2])
    if task.additive:
        assert float(parts[0].detach()) == pytest.approx(float((parts[1] + parts[2]).detach()), rel=1e-5)
    else:
        assert TASKS[name]["type"] in ("contrast", "match")


@every_task
def test_gradients_reach_what_the_task_reads(name):
    model, processor = copy.deepcopy(model_of_all())
    task = model.tasks[name]
    batch, streams = batch_of(name, samples(), model=model, processor=processor)
    task.loss(model, batch, streams).total.backward()
    reached = {
        part for part, module in model.parts().items() if any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())
    }
    media = [n for n in task.inputs if n in processor.modalities]
    wanted = {f"encoders.{n}.connector" for n in media} | {f"encoders.{n}" for n in media}
    wanted |= {"fusion", "backbone"} if task.view == "fused" else {"backbone"}
    wanted |= {f"tasks.{name}"} if name in model.heads else set()
    assert wanted <= reached
    assert not {f"tasks.{other}" for other in model.heads if other != name} & reached
    if task.view == "towers":
        assert "fusion" not in reached
    for key, parameter in model.heads[name].named_parameters() if name in model.heads else ():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().max() > 0, key


@every_task
def test_one_prediction_per_row_in_order(name):
    model, _ = model_of_all()
    task, given = model.tasks[name], samples()
    found = task.predict(model, *batch_of(name, given))
    assert all(isinstance(p, Prediction) and p.task == name for p in found)
    own, others = [p for p in found if p.id == p.row], [p for p in found if p.id != p.row]
    assert [p.id for p in own] == [s.id for s in given]
    if TASKS[name]["type"] == "match":  # row 1 has no sound, as no other row
        assert [p.row for p in others] == [s.id for s in given if s.id != "row1" or task.stream == "image"]
        assert {p.target for p in own} == {"yes"} and {p.target for p in others} == {"no"}
    else:
        assert not others
    backwards = task.predict(model, *batch_of(name, given[::-1]))
    assert len({p.id for p in found}) == len(found) == len(backwards)
    again = {p.id: p for p in backwards}
    for a, b in zip(found, map(again.__getitem__, [p.id for p in found]), strict=True):
        assert outputs_alike(a.output, b.output) and a.target == b.target
        if a.probabilities is not None:
            assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
            assert all(0 <= p <= 1 for p in a.probabilities.values())
    alone = [task.predict(model, *batch_of(name, [s]))[0] for s in given]
    assert all(outputs_alike(a.output, b.output) for a, b in zip(own, alone, strict=True))


@on_each_backbone([pair for pair in PAIRS if pair[1] == "judged"])
def test_surprise_adds_up_to_the_loss_and_where_nothing_else_is_asked_nothing_is_written(name):
    model, _ = model_of_all()
    batch, streams = batch_of(name, samples())
    with torch.no_grad():
        total = float(model.tasks[name].loss(model, batch, streams).total)
    found = model.tasks[name].predict(model, batch, streams)
    assert sum(p.surprise[0] for p in found) == pytest.approx(total, rel=1e-4)
    assert sum(p.surprise[1] for p in found) == batch.targets["weight"] and all(isinstance(p.output, str) for p in found)
    only = copy.copy(model.tasks[name])
    only.options = only.options.model_copy(update={"metrics": ("perplexity",)})
    silent = only.predict(model, batch, streams)
    assert [p.surprise for p in silent] == [p.surprise for p in found] and {p.output for p in silent} == {None}


def outputs_alike(a, b):
    if isinstance(a, dict):
        return all(a[side] == pytest.approx(b[side], abs=1e-4) for side in a)
    return a == pytest.approx(b, abs=1e-4) if isinstance(a, float) else a == b


@every_task
def test_rows_without_targets_can_be_predicted_and_do_not_count(name):
    model, _ = model_of_all()
    task, given = model.tasks[name], samples()
    if TASKS[name]["type"] in BOTH_SIDES:
        return
    bare = [dataclasses.replace(s, parts={k: v for k, v in s.parts.items() if k not in task.targets}) for s in given]
    assert all(task.wants(s) for s in given) and not any(task.wants(s) for s in bare)
    full, without = task.predict(model, *batch_of(name, given)), task.predict(model, *batch_of(name, bare))
    assert all(outputs_alike(a.output, b.output) for a, b in zip(full, without, strict=True))
    assert all(p.target is None for p in without) and all(p.target is not None for p in full)
    mixed, alone = [given[0], bare[1], given[2]], [given[0], given[2]]
    assert batch_of(name, mixed)[0].targets["weight"] == pytest.approx(batch_of(name, alone)[0].targets["weight"])
    totals = [float(task.loss(model, *batch_of(name, rows)).total.detach()) for rows in (mixed, alone)]
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)


@every_task
def test_the_same_again_is_the_same(name):
    model, _ = model_of_all()
    task, given = model.tasks[name], samples()
    first, second = (task.loss(model, *batch_of(name, given)) for _ in range(2))
    assert torch.equal(first.total, second.total)
    assert task.predict(model, *batch_of(name, given)) == task.predict(model, *batch_of(name, given))
    assert all(math.isfinite(float(v)) for v in first.logs.values())


@every_task
def test_what_it_says_of_itself(name):
    model, _ = model_of_all()
    task = model.tasks[name]
    assert set(task.inputs) <= set(task.declared) and set(task.targets) <= set(task.columns) | set(task.declared)
    assert task.metrics and set(task.metrics) <= set(names("metric"))
    assert task.view in ("fused", "towers", "text")
    for sample in samples():
        task.check(sample)
    again = type(task)(name, task.options, task.declared)
    again.load_state(task.state())
    assert again.state() == task.state()
    outputs = task.outputs(model, *batch_of(name, samples()))
    assert len(outputs) == 6 and torch.isfinite(outputs).all()
