"""Invented comparisons: rows of known accuracy on invented items, and one with every optional piece."""

import numpy as np
import pytest

from chiasm.compare.result import Cell, Comparison, Row

LABELS = ("a", "b", "c", "d")


def answers(random, targets, right):
    """Labels that are right with probability `right` [N]."""
    wrong = [LABELS[(LABELS.index(t) + k) % 4] for t, k in zip(targets, random.integers(1, 4, size=len(targets)), strict=True)]
    return [t if r else w for t, w, r in zip(targets, wrong, random.random(len(targets)) < right, strict=True)]


def simulated(accuracies, *, items=400, seeds=5, seed=0, sd=0.01, hard=0.5, kinds=None):
    """Row name -> true accuracy. Seeds move it by `sd`; `hard` is how much the items differ, the same for all rows. Rows are fusion rows
    but for "majority", "ensemble", "... alone" and "trees"."""
    random = np.random.default_rng(seed)
    targets = [LABELS[i] for i in random.integers(4, size=items)]
    difficulty = random.normal(size=items)
    rows = []
    for name, accuracy in accuracies.items():
        kind = (kinds or {}).get(name) or next((k for k in ("majority", "ensemble", "trees") if k in name), "fusion")
        kind = "unimodal" if name.endswith(" alone") else kind
        cells = []
        for number in range(1 if kind == "majority" else seeds):
            if kind == "majority":
                cells.append(Cell(0, ["a"] * items))
                continue
            odds = np.log(accuracy / (1 - accuracy)) * (1 + hard**2 / 3) ** 0.5 + random.normal() * sd / (accuracy * (1 - accuracy))
            cells.append(Cell(number, answers(random, targets, 1 / (1 + np.exp(-odds - hard * difficulty)))))
        inputs = [name.removesuffix(" alone")] if kind == "unimodal" else [] if kind == "majority" else ["image", "text"]
        rows.append(Row(name, kind, inputs, cells, parameters=1000, macs=2000))
    return Comparison(
        recipe={"name": "invented"},
        command="chiasm compare invented",
        commit="0123abc",
        task="answer",
        metric="accuracy",
        higher_is_better=True,
        split="test",
        seeds=list(range(seeds)),
        ids=[f"row{i}" for i in range(items)],
        targets=targets,
        controlled=list(range(items)),
        rows=rows,
    )


@pytest.fixture(scope="session")
def simulate():
    return simulated


# One model family with two inputs: evidence of each for four labels, added up or (also) multiplied.
ROWS = {  # name -> kind, inputs, weight of image, text and their product, parameters, MACs
    "majority": ("majority", [], (0, 0, 0), None, None),
    "image alone": ("unimodal", ["image"], (1, 0, 0), 2.1e6, 40e6),
    "text alone": ("unimodal", ["text"], (0, 1.2, 0), 3.4e6, 31e6),
    "ensemble of unimodal": ("ensemble", ["image", "text"], (0.7, 0.8, 0), 5.5e6, 71e6),
    "trees on frozen embeddings": ("trees", ["image", "text"], (0.5, 0.4, 0.1), None, None),
    "early": ("fusion", ["image", "text"], (0.8, 0.9, 1.4), 4.0e6, 150e6),
    "co_attention": ("fusion", ["image", "text"], (0.8, 0.9, 1.3), 4.1e6, 120e6),
    "bottleneck": ("fusion", ["image", "text"], (0.9, 1.0, 0.5), 3.95e6, 90e6),
    "late": ("fusion", ["image", "text"], (0.7, 0.8, 0), 4.0e6, 72e6),
}


def evidence(random, truth, weight):
    """[N, 4] noisy evidence for the true label."""
    return weight * np.eye(4)[truth] + random.normal(size=(len(truth), 4))


def model(weights, image, text):
    """[N, 4] probabilities from evidence [N, 4] of both inputs."""
    logits = weights[0] * image + weights[1] * text + weights[2] * image * text
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def as_rows(probabilities):
    return [dict(zip(LABELS, row, strict=True)) for row in probabilities.round(6).tolist()]


def said(probabilities):
    return [LABELS[i] for i in probabilities.argmax(1)]


def projection(weights, image, text):
    """EMAP of a model with two inputs: what it says of every pair, projected to a sum."""
    count = len(image)
    pairs = model(weights, np.repeat(image, count, 0), np.tile(text, (count, 1))).reshape(count, count, 4)
    return pairs.mean(1) + pairs.mean(0) - pairs.mean((0, 1))


def completed(*, items=600, seeds=5, seed=0, controlled=None, projected=80):
    """A comparison with everything in it."""
    random = np.random.default_rng(seed)
    truth = random.integers(4, size=items)
    image, text = evidence(random, truth, 1.1), evidence(random, truth, 1.3)
    places = list(range(items if controlled is None else controlled))
    rows = []
    for name, (kind, inputs, weights, parameters, macs) in ROWS.items():
        cells = [Cell(number, *_answers(random, weights, image, text)) for number in range(1 if kind in ("majority", "trees") else seeds)]
        for cell in cells if inputs else []:
            noisy = tuple(w * (1 + 0.04 * random.normal()) for w in weights)
            _measure(random, cell, noisy, inputs, image[places], text[places], projected)
            cell.train_seconds, cell.peak_memory = 40 + 200 * random.random(), int(9e8 + 4e8 * random.random())
            cell.latency = {"p50": 2 + 8 * random.random(), "p99": 14 + 3 * random.random()}
        counts = {"parameters": parameters and int(parameters), "trainable": parameters and int(parameters), "macs": macs and int(macs)}
        where = {"here": "yes", "onnx": "yes" if kind != "fusion" else "no: loops over layers"} if inputs else {}
        rows.append(Row(name, kind, inputs, cells, **counts, runs_on=where))
    return Comparison(
        recipe={"name": "invented", "inputs": {"image": "image", "text": "text"}},
        command="chiasm compare invented --seeds 5 --match params",
        commit="0123abcd",
        task="answer",
        metric="accuracy",
        higher_is_better=True,
        split="test",
        seeds=list(range(seeds)),
        ids=[f"test.jsonl:{i}" for i in range(items)],
        targets=[LABELS[i] for i in truth],
        controlled=places,
        rows=rows,
        match="params",
        trials=8,
        encoder_cache={"image": "ab" * 32},
        notes=["perceiver is left out: this backbone has no layers to act between"],
    )


def _answers(random, weights, image, text):
    noisy = [w * (1 + 0.04 * random.normal()) for w in weights]
    found = model(noisy, image, text)
    return said(found), as_rows(found)


def _measure(random, cell, weights, inputs, image, text, projected):
    """Fill in controls, coalitions and the additive projection of one cell."""
    real = model(weights, image, text)
    for place in range(len(image)):
        cell.outputs[place], cell.probabilities[place] = said(real[place : place + 1])[0], as_rows(real[place : place + 1])[0]
    nothing = {"image": (np.zeros_like(image), text), "text": (image, np.zeros_like(text))}
    order, drawn = random.permutation(len(image)), random.random(len(image))[:, None]
    mixed = {"image": (image[order], text), "text": (image, text[order])}
    for name in inputs:
        cell.controls[f"{name} shuffled"] = said(model(weights, *mixed[name]))
        for level in (0.25, 0.5, 0.75, 1):
            parts = [np.where(drawn < level, a, b) for a, b in zip(nothing[name], (image, text), strict=True)]
            cell.controls[f"{name} missing {level:g}"] = said(model(weights, *parts))
    zero = np.zeros_like(image)
    for present in [[], ["image"], ["text"], ["image", "text"]]:
        if set(present) <= set(inputs):
            shown = model(weights, image if "image" in present else zero, text if "text" in present else zero)
            cell.coalitions["+".join(present)] = as_rows(shown)
    if len(inputs) > 1:
        cell.additive = as_rows(projection(weights, image[:projected], text[:projected]))


@pytest.fixture(scope="session")
def complete():
    return completed
