"""EX1, EX2, EX3 and EX8 on trained models, on data whose reasons are known. `-s` shows the figures that docs/explain.md tells."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from planted import match_row, trained, two_bits

import chiasm
from chiasm.explain.result import Explanation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROWS = 100
FUSIONS: dict[str, Any] = {"early": "early", "cross_attention": "cross_attention"}
NAMES = ("cards", "ask")


def asked(seed: int) -> dict[str, Any]:
    return match_row(np.random.default_rng(10_000 + seed))


def explained(run: chiasm.Run, row: dict[str, Any]) -> Explanation:
    return chiasm.explain(run, {name: row[name] for name in NAMES}, target=row["label"])


def values(found: Explanation) -> dict[tuple[str, int], float]:
    return {(part["input"], unit["first"]): unit["value"] for part in found.parts for unit in part["units"]}


def hit(found: Explanation, row: dict[str, Any]) -> bool:
    """Whether the two planted vectors are the two strongest."""
    each = values(found)
    return set(sorted(each, key=lambda unit: -abs(each[unit]))[:2]) == {("cards", row["place"]), ("ask", row["slot"])}


def ranks(numbers: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(numbers)).astype(float)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory):
    """fusion -> a run that learned to find the card that it is asked for."""
    made: dict[str, chiasm.Run] = {}
    rows = [match_row(np.random.default_rng(i)) for i in range(3000)]

    def get(name: str) -> chiasm.Run:
        if name not in made:
            stages = [{"steps": 500, "batch_size": 64, "learning_rate": 4e-3}]
            made[name] = trained(tmp_path_factory.mktemp(name), rows, list(NAMES), fusion=FUSIONS[name], stages=stages)
        return made[name]

    return get


@pytest.mark.parametrize("fusion", FUSIONS)
def test_occlusion_finds_what_was_planted(fusion: str, runs):
    """EX1 and EX2."""
    run = runs(fusion)
    assert run.metrics["test"]["answer.accuracy"] == 1.0
    found = [(explained(run, row), row) for row in map(asked, range(ROWS))]
    hits = np.mean([hit(one, row) for one, row in found])
    margin = np.mean([one.check["margin"] for one, _ in found])
    print(f"\n{fusion}: both planted vectors among the top two {hits:.2f}; better than random orders by {margin:.2f} ({ROWS} rows)")
    assert hits >= 0.99 and margin >= 0.15


def test_what_the_weights_say_is_what_is_explained(runs):
    """EX3: maps of a model whose parts were made random, from the head down, are no longer like its own, nor do they hit."""
    run = runs("early")
    rows = [asked(i) for i in range(40)]
    before = [values(explained(run, row)) for row in rows]
    state = {key: value.clone() for key, value in run.model.state_dict().items()}
    parts = run.model.parts()
    for part in ("tasks.answer", "fusion", "backbone", "encoders.cards.connector", "encoders.ask.connector"):
        torch.manual_seed(1)
        for module in parts[part].modules():
            for parameter in module.parameters(recurse=False):
                nn.init.normal_(parameter, std=0.3)
        alike, hits = [], []
        for row, own in zip(rows, before, strict=True):
            now = explained(run, row)
            alike.append(np.corrcoef(ranks(list(own.values())), ranks(list(values(now).values())))[0, 1])
            hits.append(hit(now, row))
        print(f"\nrandom down to {part}: rank correlation {np.mean(alike):.2f}, hits {np.mean(hits):.2f}")
        assert np.mean(alike) <= 0.3
    assert np.mean(hits) <= 0.3
    run.model.load_state_dict(state)


@pytest.mark.parametrize("rule", ["xor", "same"])
def test_what_two_inputs_do_together(rule: str, tmp_path: Path):
    """EX8: neither bit tells the answer alone, or each tells all of it."""
    draws = np.random.default_rng(0)
    changes = {"train": {"precision": "fp32", "modality_dropout": 0.5}, "stages": [{"steps": 200, "batch_size": 64, "learning_rate": 4e-3}]}
    run = trained(tmp_path, [two_bits(draws, rule) for _ in range(1064)], ["a", "b"], **changes)
    found = [
        chiasm.explain(run, {name: row[name] for name in "ab"}, level="modality") for row in (two_bits(draws, rule) for _ in range(20))
    ]
    joint = np.mean([one.interactions[0]["percent"] for one in found])
    alone = [np.mean([100 * one.modalities[i]["alone"] / (one.value - one.without) for one in found]) for i in (0, 1)]
    print(f"\n{rule}: together {joint:+.0f} %, alone {alone[0]:+.0f} % and {alone[1]:+.0f} %")
    if rule == "xor":
        assert joint > 80 and max(map(abs, alone)) < 10
    else:
        assert joint < -80 and min(alone) > 80
