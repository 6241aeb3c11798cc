"""Hybrids with votes: a loss for every branch, besides that of the mixed decision."""

import json
import math
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1] / "contracts"))
from tiny_models import FUSIONS

from chiasm.data.collate import Collator
from chiasm.recipe import load_recipe
from chiasm.training import branch_losses, checkpoint
from chiasm.training.log import read_log
from chiasm.training.loop import train
from chiasm.training.loss_weights import LossWeights
from chiasm.training.materials import assemble
from chiasm.training.precision import Precision
from chiasm.training.step import Stepper

VOTES = {"type": "hybrid", "parts": [{"type": "gated_cross_attention"}, {"type": "late", "combine": "weighted"}]}
GPT2 = {"kind": "causal", "arch": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "tokenizer": "words"}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
WEIGHTS = {"label": 1.0, "size": 0.5, "say": 2.0, "fits": 1.0, "align": 1.0}


@pytest.fixture
def data(tmp_path):
    """24 rows; each third lacks `left`, the last eight lack `right`, some have no size."""
    draw, rows = np.random.default_rng(0), []
    for number in range(24):
        row = {"left": draw.normal(size=2).tolist(), "right": draw.normal(size=1).tolist(), "note": ["good", "bad", "so so"][number % 3]}
        row |= {"label": ["up", "down"][number % 2], "size": float(number)}
        lacks = {"left": number % 3 == 0, "right": number >= 16, "size": number % 9 == 0}
        rows.append({name: value for name, value in row.items() if not lacks.get(name)})
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def recipe(data, fusion=VOTES, *, dropout=0.0, without=(), **train_keys):
    tasks = {
        "label": {"type": "classify", "target": "label", "prompt": "{note}", "dropout": dropout},
        "size": {"type": "regress", "target": "size", "prompt": "size", "inputs": ["left"], "dropout": dropout},
        "say": {"type": "generate", "prompt": "{note}", "target": "{label}"},
        "fits": {"type": "match", "between": ["left", "note"], "dropout": dropout, "hard": True, "negatives": "align"},
        "align": {"type": "contrast", "between": ["left", "note"]},
    }
    return load_recipe(
        {
            "inputs": {"left": "features", "right": "features", "note": "text"},
            "encoders": {"features": {"connector": "mlp", "tokens": 1}},
            "backbone": {**GPT2, **({} if dropout else NO_DROPOUT)},
            "fusion": fusion,
            "tasks": {name: {**task, "weight": WEIGHTS[name]} for name, task in tasks.items() if name not in without},
            "data": {"train": str(data / "train.jsonl"), "validation": str(data / "train.jsonl")},
            "stages": [{"epochs": 1, "batch_size": 8, "learning_rate": 0.01}],
            "train": {"precision": "fp32", "device": "cpu", "save_every": 1, "keep_last": 99, **train_keys},
        }
    )


def ready(data, *args, rows=range(24), **keys):
    """(materials, a micro-batch, its streams) of a model whose gates are half open and whose branches count unequally."""
    materials = assemble(recipe(data, *args, **keys))
    materials.model.eval()
    with torch.no_grad():
        for name, parameter in materials.model.named_parameters():
            if "gate" in name or name.endswith("fusion.parts.1.weights"):
                parameter.copy_(torch.linspace(0.3, 0.8, parameter.numel()).view_as(parameter))
    micro = collated(materials, rows)
    return materials, micro, materials.model.encode(micro.pool)


def collated(materials, rows):
    return Collator(list(materials.tasks.values()), materials.processor)(materials.split("train").open_rows(rows))


def stepped(materials, micros, seed=0):
    """(result, gradients) of one step."""
    kept, model = {}, materials.model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer.register_step_pre_hook(lambda *_: kept.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    weights = {name: WEIGHTS[name] for name in materials.tasks}
    stepper = Stepper(model, materials.tasks, weights, optimizer, precision=Precision("fp32", "cpu", ""), seed=seed, clip=None)
    return stepper(micros, step=0, learning_rate=0.0), kept


def by_hand(model, batch, fused, name):
    """The summed loss of one branch, the text's in rows that lack it."""
    text = model.model.backbone.pool(fused.branches["text"], fused.words)
    here = fused.branches[name].present.unsqueeze(1)
    pooled = torch.where(here, text if name == "text" else fused.branches[name].values[:, 0], text)
    found = model.heads[batch.task](pooled)
    if batch.task == "label":
        return functional.cross_entropy(found, batch.targets["labels"], reduction="sum")
    values = batch.targets["values"]
    return (found.squeeze(1) - values)[~values.isnan()].square().sum()


@pytest.mark.parametrize("task", ["label", "size"])
def test_it_is_the_mean_of_what_each_branch_decides_alone(data, task):
    """The size reads the left input alone: where `right` would vote, the text does."""
    materials, micro, streams = ready(data)
    model, batch = materials.model, next(b for b in micro.batches if b.task == task)
    given = materials.tasks[task].given(streams)
    fused = model.fuse(batch.inputs, given)
    lacking = {name: int((~tokens.present).sum()) for name, tokens in fused.branches.items()}
    assert lacking == ({"text": 0, "left": 8, "right": 8} if task == "label" else {"text": 0, "left": 5})
    mixed, each = branch_losses.losses(model, materials.tasks[task], batch, streams)
    torch.testing.assert_close(mixed, materials.tasks[task].loss(model, batch, streams).total)
    expected = [by_hand(model, batch, fused, name if name in fused.branches else "text") for name in ("text", "left", "right")]
    assert len({float(loss.detach()) for loss in expected}) == (3 if task == "label" else 2)
    torch.testing.assert_close(each, torch.stack(expected).mean())


def test_words_and_pairs_are_decided_by_every_branch_too(data):
    """A single branch's logits in place of the mixture's; match draws its hard pairs anew, whose labels stay the same."""
    materials, micro, streams = ready(data)
    model = materials.model
    for batch in (b for b in micro.batches if b.task in ("say", "fits")):
        task, seen = materials.tasks[batch.task], []
        fuse = model.fuse
        model.fuse = lambda *given, fuse=fuse, seen=seen: seen.append(fuse(*given)) or seen[-1]
        _, each = branch_losses.losses(model, task, batch, streams)
        (fused,) = seen
        found = []
        for name in ("text", "left", "right"):
            here = fused.branches[name].present.float() if name in fused.branches else torch.zeros(len(fused.words))
            shares = {name: here, "text": 1 - here} if name != "text" else {"text": torch.ones_like(here)}
            chosen = torch.stack([shares.get(branch, here * 0) for branch in fused.branches], 1)
            model.fuse = lambda *given, mix=chosen, fused=fused: type(fused)(fused.branches, mix=mix, words=fused.words)
            found.append(task.loss(model, batch, streams).total)
        del model.fuse
        assert len({float(loss.detach()) for loss in found}) == len(fused.branches)
        torch.testing.assert_close(each, torch.stack(found).mean())


def test_the_mixed_decision_teaches_how_branches_are_mixed_and_nothing_below(data):
    materials, micro, streams = ready(data)
    model = materials.model
    named = dict(model.named_parameters())
    mixed, each = branch_losses.losses(model, materials.tasks["label"], micro.batches[0], streams)
    reached = [
        {name for name, gradient in zip(named, torch.autograd.grad(loss, list(named.values()), allow_unused=True), strict=True)
         if gradient is not None and gradient.any()}
        for loss in (mixed, each)
    ]  # fmt: skip
    assert reached[0] == {"model.fusion.parts.1.weights", "heads.label.1.weight", "heads.label.1.bias"}
    assert reached[1] >= {name for name in named if name.startswith(("model.connectors", "model.language_model.h", "heads.label"))}
    assert "model.fusion.parts.1.weights" not in reached[1] and {n for n in reached[1] if "gate" in n}


def test_the_backbone_runs_once(data):
    materials, micro, _ = ready(data)
    passes = Counter()
    materials.model.model.backbone.layers[0].register_forward_hook(lambda *_: passes.update(["layer"]))
    materials.tasks.pop("fits")  # which looks for hard pairs first
    result, _ = stepped(materials, [type(micro)(micro.pool, [b for b in micro.batches if b.task != "fits"])])
    assert passes["layer"] == 3 and len(result.losses) == 3 + 4  # label, size, say; contrast mixes nothing


def test_the_loss_of_a_step_holds_them_under_their_own_name(data):
    materials, micro, streams = ready(data)
    with torch.no_grad():
        own = {b.task: materials.tasks[b.task].loss(materials.model, b, streams).total / b.targets["weight"] for b in micro.batches}
    expected = {name: float(loss) for name, loss in own.items()}
    materials.model.loss_weights = LossWeights(materials.tasks)
    with torch.no_grad():
        materials.model.loss_weights.log_variance["label"].fill_(0.7)
    result, _ = stepped(materials, [micro])
    assert set(result.losses) == {*WEIGHTS, *(branch_losses.named(task) for task in WEIGHTS if task != "align")}
    assert {name: result.losses[name] for name in WEIGHTS} == pytest.approx(expected, rel=1e-5)
    counted = {name: WEIGHTS[name.partition("[")[0]] * value for name, value in result.losses.items()}
    total = sum(value * (math.exp(-0.7) if name.startswith("label") else 1) for name, value in counted.items())
    assert result.loss == pytest.approx(total + 0.35, rel=1e-5)


@pytest.mark.parametrize("parts", [[(0, 5), (5, 24)], [(0, 1), (1, 16), (16, 24)]])
def test_accumulation_equals_the_big_batch(data, parts):
    """The last eight rows lack `right`, so that a batch of them has no such branch at all."""
    found = []
    for cuts in ([(0, 24)], parts):
        materials, _, _ = ready(data)
        for name in ("fits", "align"):  # whose rows depend on the batch
            del materials.tasks[name]
        found.append(stepped(materials, [collated(materials, range(*cut)) for cut in cuts]))
    (whole, expected), (cut, gradients) = found
    assert cut.losses == pytest.approx(whole.losses, rel=1e-5) and len(whole.losses) == 6
    assert set(gradients) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fusion", ["late decisions", "late weighted", "dynamic", "cross_attention", "hybrid"])
def test_no_other_fusion_has_them(data, fusion):
    keys = json.loads(json.dumps(FUSIONS[fusion]).replace("image", "left").replace("audio", "right"))
    materials, micro, streams = ready(data, keys)
    assert materials.model.fusion.branch_losses == ()
    batch = micro.batches[0]
    loss, each = branch_losses.losses(materials.model, materials.tasks[batch.task], batch, streams)
    assert each is None and torch.equal(loss, materials.tasks[batch.task].loss(materials.model, batch, streams).total)
    assert set(stepped(materials, [micro])[0].losses) == set(WEIGHTS)


def test_a_resumed_run_is_the_run(data, tmp_path):
    """With dropout, gaps and learned weights, bit for bit."""
    made = recipe(data, dropout=0.2, modality_dropout=0.3, loss_weights="learned", without=("say",))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(made, output=whole, progress=False)
    steps = [line for line in read_log(whole / "log.jsonl") if "loss" in line]
    assert len(steps) == 3 and all("label[each branch]" in line["losses"] for line in steps)
    first = min((whole / "checkpoints").iterdir(), key=checkpoint.step_of)
    (cut / "checkpoints").mkdir(parents=True)
    first.rename(cut / "checkpoints" / first.name)
    (cut / "log.jsonl").write_bytes((whole / "log.jsonl").read_bytes())
    train(made, output=cut, resume=True, progress=False)
    again = [line for line in read_log(cut / "log.jsonl") if "loss" in line]
    assert [(line["loss"].hex(), line["losses"]) for line in again] == [(line["loss"].hex(), line["losses"]) for line in steps]
    assert (cut / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()
