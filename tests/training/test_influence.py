"""The first duty: a declared input that reaches nothing is an error before step 0."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from toy_training import build, recipe

from chiasm.data.collate import Collator
from chiasm.data.randomness import some_of
from chiasm.training.influence import ROWS, InfluenceError, check_influence
from chiasm.training.stages import apply_stage


def checked(train=None, tasks=("answer", "both"), edit=lambda model: None, row=None, **made_of):
    made = recipe(stages=[{"steps": 1, "train": train}])
    materials = build(edit=row, **made_of)(None)
    edit(materials.model)
    chosen = {name: materials.tasks[name] for name in tasks}
    apply_stage(materials.model, made, made.stages[0])
    collator = Collator(list(chosen.values()), materials.processor)
    before = {k: v.clone() for k, v in materials.model.state_dict().items()}
    try:
        return check_influence(
            materials.model, chosen, dict.fromkeys(chosen, 1.0), materials.split("train"), collator, stage=made.stages[0]
        )
    finally:
        assert all(torch.equal(v, before[k]) for k, v in materials.model.state_dict().items())
        assert all(p.grad is None for p in materials.model.parameters()) and materials.model.training


def test_all_is_well():
    found = checked()
    assert found.unreached == [] and found.notes == []


def test_a_dropped_input_is_named():
    with pytest.raises(InfluenceError, match="input 'heard' does not reach the output of task 'answer'"):
        checked(deaf=True)


def test_a_zero_connector_is_no_influence():
    def silent(model):
        nn.init.zeros_(model.connectors["heard"].weight)

    with pytest.raises(InfluenceError, match="input 'heard'"):
        checked(edit=silent)


def test_gates_that_start_at_zero_are_opened_for_the_check():
    class Gated(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.mix, self.gate = inner.mix, nn.Parameter(torch.zeros(1))
            self.mix.forward = lambda x: self.gate * nn.functional.linear(x, self.mix.weight, self.mix.bias)

        def gates_open(self):
            return Opened(self.gate)

    class Opened:
        def __init__(self, gate):
            self.gate = gate

        def __enter__(self):
            self.gate.data.fill_(1.0)

        def __exit__(self, *error):
            self.gate.data.zero_()

    found = checked(edit=lambda model: setattr(model, "fusion", Gated(model.fusion)))
    assert found.unreached == []


def test_a_named_part_that_no_task_reaches_is_an_error():
    with pytest.raises(InfluenceError, match=r"stages.main.train: encoders.heard gets no gradient: none of its tasks \(both\) reaches it"):
        checked(train=["encoders", "fusion"], tasks=("both",))


def test_unnamed_ones_are_reported_so_that_they_are_frozen():
    found = checked(tasks=("both",))
    assert {name.split(".")[0] for name in found.unreached} == {"encoders", "connectors", "heads"}
    assert "heads.answer.weight" in found.unreached and "heads.both.weight" not in found.unreached


def test_an_input_without_two_values_is_not_judged():
    found = checked(rows=40, row=lambda index, parts: {**parts, "heard": None})
    assert found.unreached == [] and found.notes == [
        "influence of heard on task answer not checked: none of 40 rows for it has another heard"
    ]


@pytest.mark.parametrize("train", [None, ["encoders.heard"]])
def test_an_input_that_few_rows_have_is_looked_for_in_more_rows(train):
    """None of the first 16 rows that are looked at has it: its encoder is neither dead nor frozen for that, alone in training or not."""
    few = set(some_of(60, ROWS[0]))
    found = checked(train=train, tasks=("answer",), row=lambda index, parts: {**parts, "heard": None if index in few else index})
    assert found.notes == [] and not [name for name in found.unreached if "heard" in name]


def test_no_readable_row_is_an_error():
    with pytest.raises(InfluenceError, match="none of 4 training samples could be read"):
        checked(rows=4, row=lambda index, parts: {**parts, "seen": object()})
