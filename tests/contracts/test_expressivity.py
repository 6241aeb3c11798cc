"""FU14: which strategies learn an interaction. Two handwritten digits, each a modality of its own, and the last digit of their sum: neither
says anything alone, so a sum of votes stays at chance."""

from __future__ import annotations

import itertools
import json
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import FUSIONS

from chiasm.assemble import build
from chiasm.components import find
from chiasm.recipe import load_recipe
from chiasm.training.precision import Precision
from chiasm.training.step import Stepper
from chiasm.types import Batch, Sample, StepBatches

STEPS, BATCH, RATE, WARMUP = 800, 96, 3e-3, 40
LEARNED = 0.25  # a training loss (mean of the last 20 steps) that only digits which the classifier mistakes are left in
TEST_PAIRS = 2000  # every pair of digits equally often
INPUTS = ("first", "second")
BACKBONE = {
    "kind": "latent",
    "latents": 2,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.1,
}


@lru_cache
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(features [1797, 10], digits [1797], rows to learn from, rows to be tested on): the chances that a frozen classifier gives each
    digit, for pictures that it was not trained on."""
    pictures, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    encoder, train, test = np.split(order, [600, 1200])
    features = SVC(gamma=0.001).fit(pictures[encoder], labels[encoder]).decision_function(pictures)
    chances = torch.from_numpy(2 * features).softmax(1)
    return ((chances - 0.1) / 0.3).float().numpy(), labels, train, test


def model_of(fusion: dict[str, Any], seed: int) -> tuple[Any, Any]:
    features, _, train, _ = digits()
    rows = [Sample(str(i), {**dict.fromkeys(INPUTS, features[i]), "sum": str(n % 10)}) for n, i in enumerate(train[:20])]
    recipe = {
        "inputs": dict.fromkeys(INPUTS, "features"),
        "encoders": {"features": {"connector": "mlp", "tokens": 1}},
        "backbone": BACKBONE,
        "fusion": json.loads(json.dumps(fusion).replace("image", "first").replace("audio", "second")),
        "tasks": {"sum": {"type": "classify", "target": "sum", "dropout": 0.0}},
        "train": {"seed": seed},
    }
    return build(load_recipe(recipe), rows)


def pairs(processor: Any, first: np.ndarray, second: np.ndarray) -> StepBatches:
    """Rows of a digit each, with the last digit of their sum as label."""
    features, labels, _, _ = digits()
    rows = len(first)
    row = [*processor.start_ids, *(processor.placeholder_id(name) for name in processor.placeholder_counts)]
    ids, index = torch.tensor([row]).expand(rows, -1), torch.arange(rows).unsqueeze(1)
    seen = torch.ones(rows, 1, dtype=torch.bool)
    pool = {
        name: {"features": torch.from_numpy(features[i])[:, None], "features_mask": seen}
        for name, i in zip(INPUTS, (first, second), strict=True)
    }
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids).bool(), **{f"{name}_index": index for name in INPUTS}}
    targets = {"labels": torch.from_numpy((labels[first] + labels[second]) % 10), "texts": [], "weight": float(rows)}
    return StepBatches(pool, [Batch("sum", [str(i) for i in range(rows)], inputs, targets)])


def unseen_pairs() -> tuple[np.ndarray, np.ndarray]:
    """Rows of both digits: pictures never seen, every pair of digits equally often, so that votes alone gain nothing from frequent ones."""
    _, labels, _, test = digits()
    draws, drawn = np.random.default_rng(99), TEST_PAIRS // 10
    kinds = np.repeat(np.arange(10), drawn), np.tile(np.arange(10), drawn)
    rows = [np.empty(TEST_PAIRS, dtype=int) for _ in kinds]
    for side, wanted in zip(rows, kinds, strict=True):
        for digit in range(10):
            side[wanted == digit] = draws.choice(test[labels[test] == digit], drawn)
    return rows[0], rows[1]


def taught(fusion: dict[str, Any], seed: int, steps: int = STEPS, *, branch_losses: bool = True) -> tuple[Any, Any]:
    """(model, processor) after a short training, which ends where the sum is learned; by its mixed decision alone, if asked."""
    _, _, train, _ = digits()
    model, processor = model_of(fusion, seed)
    if not branch_losses:
        model.fusion.branch_losses = ()
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    stepper = Stepper(model, model.tasks, {"sum": 1.0}, optimizer, precision=Precision("fp32", "cpu", ""), seed=seed, clip=1.0)
    draws = np.random.default_rng(seed)
    model.train()
    losses: list[float] = []
    while len(losses) < steps and (len(losses) < WARMUP or np.mean(losses[-20:]) > LEARNED):
        rate = RATE * min((len(losses) + 1) / WARMUP, 0.5 + 0.5 * np.cos(np.pi * len(losses) / STEPS))
        result = stepper([pairs(processor, *draws.choice(train, (2, BATCH)))], step=len(losses), learning_rate=rate)
        assert result.skipped is None
        losses.append(result.loss)
    return model.eval(), processor


def accuracy(fusion: dict[str, Any], seed: int) -> float:
    """On pairs of unseen digits, after a short training."""
    model, processor = taught(fusion, seed)
    tested = pairs(processor, *unseen_pairs())
    with torch.no_grad():
        said = model.tasks["sum"].outputs(model, tested.batches[0], model.encode(tested.pool)).argmax(-1)
    return float((said == tested.batches[0].targets["labels"]).float().mean())


def pull(model: Any, processor: Any) -> float:
    """The mean of |d loss / d gate| over the gates, on pairs of digits of which every pair of values is equally often."""
    tested = pairs(processor, *unseen_pairs())
    loss = model.tasks["sum"].loss(model, tested.batches[0], model.encode(tested.pool)).total / TEST_PAIRS
    return float(torch.stack(torch.autograd.grad(loss, model.fusion.gates())).abs().mean())


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [name for name, keys in FUSIONS.items() if find("fusion", keys["type"]).reads_streams])
def test_fu14_what_interacts_learns_the_sum_and_votes_do_not(name):
    """0.9 in 2 of 3 trainings, or the strategy says of itself that it is unstable; 0.10 +- 0.03 without an interaction."""
    fusion, found = model_of(FUSIONS[name], 0)[0].fusion, []
    for seed in range(3):
        found.append(accuracy(FUSIONS[name], seed))
        if sum(a >= 0.9 for a in found) == 2:
            break
    print(f"{name}: {', '.join(f'{a:.3f}' for a in found)}")
    if not fusion.interacts:
        assert all(abs(a - 0.1) <= 0.03 for a in found), found
    else:
        assert (sum(a >= 0.9 for a in found) >= 2) != bool(fusion.unstable), found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_pulls_gates_open_beside_votes_that_learn_together():
    """Why branches have losses of their own: a closed gate is pulled by what its input says alone, and where only the mixed decision has a
    loss, votes have said that; the same gates without votes do open."""
    beside = FUSIONS["hybrid late"]
    for steps, seed in itertools.product((100, 200), range(3)):
        alone = pull(*taught(beside["parts"][0], seed, steps))
        voted = pull(*taught(beside, seed, steps, branch_losses=False))
        print(f"|d loss / d gate| after {steps} steps: {alone:.1e} without votes, {voted:.1e} beside votes")
        assert voted < alone / 5


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("combine", ["decisions", "weighted", "concat"])
def test_gates_learn_beside_late_fusion(combine):
    """Beside votes too, since each branch has a loss of its own."""
    gates = FUSIONS["hybrid late"]["parts"][0]
    found = [accuracy({"type": "hybrid", "parts": [gates, {"type": "late", "combine": combine}]}, seed) for seed in range(3)]
    print(f"gates beside late {combine}: {', '.join(f'{a:.3f}' for a in found)}")
    assert sum(a >= 0.9 for a in found) >= 2
