"""TR10 and the sums of a step, on the toy model."""

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from toy_training import build

from chiasm.data.collate import Collator
from chiasm.training.precision import Precision
from chiasm.training.step import Stepper, seed_of

FP32 = Precision("fp32", "cpu", "")


def stepper_of(clip=None):
    """A Stepper without dropout and batch statistics (which see micro-batches), and a function from rows to a micro-batch."""
    torch.manual_seed(0)
    materials = build(rows=40)(None)
    materials.model.eval()
    optimizer = torch.optim.SGD(materials.model.parameters(), lr=0.0)
    stepper = Stepper(materials.model, materials.tasks, {"answer": 1.0, "both": 0.5}, optimizer, precision=FP32, seed=0, clip=clip)
    collator, split = Collator(list(materials.tasks.values()), materials.processor), materials.split("train")
    return stepper, lambda rows: collator(split.open_rows(rows))


def gradients(micro_rows, clip=None):
    stepper, micro = stepper_of(clip)
    kept = {}
    stepper.optimizer.register_step_pre_hook(lambda *_: kept.update({n: p.grad.clone() for n, p in stepper.model.named_parameters()}))
    result = stepper([micro(rows) for rows in micro_rows], step=0, learning_rate=0.1)
    return result, kept


@pytest.mark.parametrize("parts", [[(0, 6), (6, 12)], [(0, 1), (1, 2), (2, 12)], [(0, 11), (11, 12)], [(i, i + 1) for i in range(12)]])
def test_accumulation_equals_the_big_batch(parts):
    """TR10: rows weigh 1 to 4, so the micro-batches have unequal sums."""
    whole, expected = gradients([list(range(12))])
    split, found = gradients([list(range(a, b)) for a, b in parts])
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-6 * gradient.norm(), name
    assert split.loss == pytest.approx(whole.loss, rel=1e-6) and split.rows == whole.rows


def test_the_loss_is_the_weighted_sum_of_the_tasks():
    result, _ = gradients([list(range(12))])
    assert result.loss == result.losses["answer"] + 0.5 * result.losses["both"]


def test_clipping_limits_the_whole_norm():
    result, found = gradients([list(range(12))], clip=0.01)
    assert result.grad_norm > 0.01
    assert math.sqrt(sum(float(g.square().sum()) for g in found.values())) == pytest.approx(0.01, rel=1e-3)


def test_a_step_whose_rows_lack_the_only_input_that_trains_moves_nothing():
    materials = build(rows=40, edit=lambda index, parts: {**parts, "heard": None if index < 20 else index})(None)
    model, chosen = materials.model, materials.model.parts()["encoders.heard"]
    for parameter in model.parameters():
        parameter.requires_grad_(any(parameter is p for p in chosen.parameters()))
    stepper = Stepper(
        model, materials.tasks, {"answer": 1.0, "both": 0.5}, torch.optim.AdamW(chosen.parameters()), precision=FP32, seed=0, clip=1.0
    )
    collator, split = Collator(list(materials.tasks.values()), materials.processor), materials.split("train")
    for rows, moves in ((range(10), False), (range(20, 30), True)):
        before = {name: p.clone() for name, p in model.named_parameters()}
        result = stepper([collator(split.open_rows(rows))], step=0, learning_rate=0.1)
        assert result.skipped is None and math.isfinite(result.loss) and (result.grad_norm > 0) == moves
        moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        assert bool(moved) == moves and all(name.startswith("encoders.heard") for name in moved)


def test_seeds_are_a_pure_function():
    assert seed_of(1, 2, 3) == seed_of(1, 2, 3) != seed_of(1, 23) and 0 <= seed_of(0) < 2**63
