"""What a row costs, and the width at which one strategy costs as much as another.

Parameters are counted; multiply-accumulates (MACs) are counted by torch while a few rows pass through connectors, backbone, fusion and
head. That count needs the plain form of attention: it is 0 for the fused one of the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from chiasm.compare.recipes import Data, Strategy, checked, connector_of, with_connectors, with_width
from chiasm.components import find
from chiasm.data.collate import Collator
from chiasm.data.randomness import some_of
from chiasm.fusion.base import LayerFusion
from chiasm.fusion.hybrid import build
from chiasm.training.materials import Materials
from chiasm.training.stages import apply_stage
from chiasm.types import BadSample, ChiasmError, StepBatches

TOLERANCE = 0.03  # of the target: what counts as matched
MAC_ROWS = 4  # rows whose MACs are averaged
WIDEST = 64  # times the backbone's width: where the search for a width gives up


@dataclass(frozen=True, slots=True)
class Cost:
    """`parameters` of all but the encoders, `trainable` those of them that some stage trains, `macs` of one row without the encoders."""

    parameters: int
    trainable: int
    macs: int


class Built:
    """A row's model with a few rows to send through it; its fusion and connectors can be replaced by wider ones."""

    def __init__(self, data: Data, materials: Materials, task: str):
        self.data, self.model = data, materials.model
        self.recipe = checked(data, "recipe")
        self.task = materials.tasks[task]
        self.rows = list(some_rows(materials, self.task, self.recipe.stages[-1].data))

    @property
    def streams(self) -> list[str]:
        return list(self.model.model.connectors)

    def refit(self, data: Data) -> None:
        """Put in the fusion and the connectors that `data` asks for; their weights are fresh."""
        core = self.model.model
        width = core.fusion.backbone.width
        core.fusion = build(data["fusion"], core.fusion.backbone, core.shapes).to(self.model.device)
        for name in self.streams:
            spec = connector_of(data, name)
            kind = find("connector", spec["type"])
            options = kind.Options(**{key: value for key, value in spec.items() if key != "type"})
            core.connectors[name] = kind(options, core.encoders[name].width, width).to(self.model.device)

    def budget(self, unit: str) -> int:
        """What --match compares: trainable parameters of fusion and connectors ("params"), or MACs ("macs")."""
        if unit == "macs":
            return self.macs()
        trained, core = self.trained(), self.model.model
        return sum(p.numel() for part in (core.fusion, core.connectors) for p in part.parameters() if id(p) in trained)

    def trained(self) -> set[int]:
        """Identities of the parameters that some stage trains."""
        found: set[int] = set()
        for stage in self.recipe.stages:
            apply_stage(self.model, self.recipe, stage)
            found |= {id(p) for p in self.model.parameters() if p.requires_grad}
        return found

    def cost(self) -> Cost:
        trained = self.trained()
        encoders = {id(p) for p in self.model.model.encoders.parameters()}
        own = [p for p in self.model.parameters() if id(p) not in encoders]
        return Cost(sum(p.numel() for p in own), sum(p.numel() for p in own if id(p) in trained), self.macs())

    @torch.no_grad()
    def macs(self) -> int:
        """Multiply-accumulates of one row's forward pass, encoders excluded; mean over some rows."""
        self.model.eval().requires_grad_(False)  # the counter would follow parameters that a fusion passes on as they are
        core, total = self.model.model, 0
        for row in self.rows:
            tokens = {name: self.model.encode_features(name, tensors) for name, tensors in row.pool.items()}
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                streams = {name: core.connectors[name](found) for name, found in tokens.items()}
                self.task.outputs(self.model, row.batches[0], streams)
            total += counter.get_total_flops() // 2
        return total // max(1, len(self.rows))


def some_rows(materials: Materials, task: Any, split: str, count: int = MAC_ROWS) -> Iterator[StepBatches]:
    """A few usable rows of a split, each as a batch of its own."""
    opened = materials.split(split)
    collator = Collator([task], materials.processor)
    for place in some_of(len(opened), 8 * count):
        row = opened.open(place)
        if isinstance(row, BadSample):
            continue
        step = collator([row])
        if step.batches:
            yield step.to(materials.model.device)
            count -= 1
        if not count:
            return
    if count:
        first = next(
            (row.message for i in range(min(8, len(opened))) if isinstance(row := opened.open(i), BadSample)), "no row has a target"
        )
        raise ChiasmError(f"task {task.name} can use too few rows of {split} to compare anything: {first}")


@dataclass(frozen=True, slots=True)
class Knob:
    """A number that makes a strategy wider: `set(data, n)`, in multiples of `step`."""

    name: str
    step: int
    set: Callable[[Data, int], Data]


def knobs(built: Built, strategy: Strategy) -> list[Knob]:
    """The fusion's own `width` where it has one that was not asked for, then the connectors' inner width."""
    kind, fusion = find("fusion", strategy.type), built.model.fusion
    found = []
    if "width" in kind.Options.model_fields and "width" not in strategy.options:
        step = (fusion.options.heads or fusion.backbone.num_heads) if isinstance(fusion, LayerFusion) else 1
        found.append(Knob("width", step, with_width))
    if {connector_of(built.data, name)["type"] for name in built.streams} <= {"linear", "mlp"}:
        found.append(Knob("connectors' inner width", 1, lambda data, n: with_connectors(data, n, built.streams)))
    return found


def match(built: Built, strategy: Strategy, target: int, unit: str) -> tuple[Data, str]:
    """(recipe data, a note) of the strategy at the width whose budget is nearest to `target`; `built` is left at that width."""

    def cost(data: Data) -> int:
        built.refit(data)
        return built.budget(unit)

    base = data = built.data
    found, note = cost(data), "as it is"
    for knob in knobs(built, strategy):
        if abs(found / target - 1) <= TOLERANCE:
            break
        around = bracket(lambda n, base=base, knob=knob: cost(knob.set(base, n * knob.step)), target, most(built, knob))
        if around is None:
            continue
        for n, figure in around:
            if abs(figure - target) < abs(found - target):
                data, found, note = knob.set(base, n * knob.step), figure, f"{knob.name} {n * knob.step}"
        base = knob.set(base, around[0][0] * knob.step)  # the next knob fills what is left
    built.refit(data)
    note += f" for {found:,} " + ("trainable parameters of fusion and connectors" if unit == "params" else "MACs")
    if abs(found / target - 1) > TOLERANCE:
        note = f"NOT matched: {note}, {found / target - 1:+.0%} of the budget of {target:,}"
    return data, note


def most(built: Built, knob: Knob) -> int:
    return max(1, WIDEST * built.model.fusion.backbone.width // knob.step)


def bracket(cost: Callable[[int], int], target: int, limit: int) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """((n, its cost), (m, its cost)): the neighbours in 1..limit around `target`. None where n changes nothing; the cost must not fall."""
    known: dict[int, int] = {}

    def of(n: int) -> int:
        if n not in known:
            known[n] = cost(n)
        return known[n]

    low, high = 1, 1
    while of(high) < target and high < limit:
        low, high = high, min(2 * high, limit)
    if high > 1 and of(high) == of(1):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if of(middle) < target else (low, middle)
    return (low, of(low)), (high, of(high))
