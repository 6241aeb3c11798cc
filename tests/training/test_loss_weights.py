"""Learned weights of losses: the paper's formula, its gradient over micro-batches, and that a run keeps them while training only."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from toy_training import build, recipe

from chiasm.data.collate import Collator
from chiasm.training.loop import train
from chiasm.training.loss_weights import LossWeights
from chiasm.training.precision import Precision
from chiasm.training.step import Stepper

FIXED = {"answer": 1.0, "both": 0.5}


def stepped(parts, log_variance):
    """The result of one step of size 0.1, and the learned weights after it."""
    torch.manual_seed(0)
    materials = build(rows=40)(None)
    materials.model.eval()
    learned = LossWeights(materials.tasks)
    with torch.no_grad():
        for name, value in log_variance.items():
            learned.log_variance[name].fill_(value)
    materials.model.loss_weights = learned
    optimizer = torch.optim.SGD(materials.model.parameters(), lr=0.1)
    precision = Precision("fp32", "cpu", "")
    stepper = Stepper(materials.model, materials.tasks, FIXED, optimizer, precision=precision, seed=0, clip=None)
    collator, split = Collator(list(materials.tasks.values()), materials.processor), materials.split("train")
    result = stepper([collator(split.open_rows(range(*part))) for part in parts], step=0, learning_rate=0.1)
    return result, {name: float(value.detach()) for name, value in learned.log_variance.items()}


@pytest.mark.parametrize("parts", [[(0, 12)], [(0, 5), (5, 12)]])
def test_the_loss_and_its_gradient(parts):
    """exp(-s) w L + s / 2, so ds = 1 / 2 - exp(-s) w L; the same however the step is cut."""
    before = {"answer": 0.4, "both": -0.2}
    result, after = stepped(parts, before)
    expected = {name: math.exp(-s) * FIXED[name] * result.losses[name] for name, s in before.items()}
    assert result.loss == pytest.approx(sum(expected.values()) + sum(before.values()) / 2, rel=1e-5)
    for name, s in before.items():
        assert after[name] == pytest.approx(s - 0.1 * (0.5 - expected[name]), rel=1e-5)
        assert result.loss_weights[name] == pytest.approx(math.exp(-s))


def test_at_the_start_it_is_the_fixed_sum():
    result, _ = stepped([(0, 12)], {})
    assert result.loss == pytest.approx(sum(FIXED[name] * value for name, value in result.losses.items()), rel=1e-6)


def test_a_run_logs_and_resumes_them_and_drops_them_at_the_end(tmp_path):
    def made(given):
        found = build(rows=40)(given)
        found.model.loss_weights = LossWeights(found.tasks)
        return found

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    plan = recipe(stages=[{"steps": 6, "batch_size": 8, "learning_rate": 0.05}], loss_weights="learned")
    train(plan, output=whole, progress=False, build=made)
    logged = [line["loss_weights"] for line in map(json.loads, (whole / "log.jsonl").read_text().splitlines()) if "loss_weights" in line]
    assert len(logged) == 6 and logged[0] == {"answer": 1.0, "both": 1.0} and logged[-1] != logged[0]
    assert not [key for key in json.loads((whole / "model" / "weights.json").read_text()) if "log_variance" in key]
    first = sorted((whole / "checkpoints").iterdir())[0]
    (cut / "checkpoints").mkdir(parents=True)
    first.rename(cut / "checkpoints" / first.name)
    (cut / "log.jsonl").write_bytes((whole / "log.jsonl").read_bytes())
    train(plan, output=cut, resume=True, progress=False, build=made)
    again = [line["loss_weights"] for line in map(json.loads, (cut / "log.jsonl").read_text().splitlines()) if "loss_weights" in line]
    assert again == logged
