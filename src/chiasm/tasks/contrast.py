"""Bring two views of a row together and push those of other rows apart (InfoNCE; CLIP, Radford et al., 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from chiasm.components import did_you_mean
from chiasm.data.randomness import key_of
from chiasm.tasks.base import LossParts, Task, distinct_texts
from chiasm.tasks.base import Options as BaseOptions
from chiasm.tasks.template import as_text, is_missing
from chiasm.types import BadInput, Batch, Prediction, RecipeError, Sample, Streams


class Contrast(Task):
    """Cosine similarities of all pairs in the batch, scaled by a learned temperature; rows with the same picture or text are all positives.

    Each side is pooled: an input with an encoder after its connector, a text by its word embeddings or through the backbone.
    `project: false` compares them right there, in the backbone's own embedding space, which is what teaches a fresh encoder words.
    """

    class Options(BaseOptions):
        between: tuple[str, str]
        """Two sides, e.g. [image, caption]: an input, or any text column."""
        project: bool = True
        """Give each side a linear projection of its own; false: compare in the backbone's embedding space."""
        width: int = 128
        """Width of the projections."""
        text: Literal["embeddings", "backbone"] = "embeddings"
        """How a text becomes one vector: mean of its word embeddings, or the backbone's pooled output."""
        direction: Literal["both", "forward"] = "both"
        """forward: only find the second side given the first (few distinct texts, e.g. class names)."""
        temperature: float = 0.07
        """At the start; learned."""
        max_scale: Annotated[float, Field(gt=0)] | None = 100.0
        """The largest 1 / temperature (CLIP's); null: no limit (SigLIP's)."""
        loss: Literal["softmax", "sigmoid"] = "softmax"
        """softmax: which of the batch is the other side (InfoNCE); sigmoid: each pair apart, right or not, with a learned bias (SigLIP)."""
        bias: float = -10.0
        """Of the sigmoid, at the start; learned."""
        metrics: tuple[str, ...] = ("recall",)
        """How embeddings are scored."""

    view: ClassVar[str] = "towers"
    additive: ClassVar[bool] = False
    gathers: ClassVar[bool] = True
    needs_head: ClassVar[bool] = True

    def __init__(self, name: str, options: Any, inputs: Mapping[str, str]):
        super().__init__(name, options, inputs)
        self.sides: tuple[str, str] = options.between
        if self.sides[0] == self.sides[1]:
            raise RecipeError(f"tasks.{name}.between: both sides are '{self.sides[0]}'{did_you_mean('', inputs)}")

    def is_stream(self, side: str) -> bool:
        return self.declared.get(side, "text") != "text"

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(side for side in self.sides if side in self.declared)

    @property
    def targets(self) -> tuple[str, ...]:
        return self.sides

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(side for side in self.sides if not self.is_stream(side))

    @property
    def texts(self) -> tuple[str, ...]:
        return self.columns

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.options.metrics

    def wants(self, sample: Sample) -> bool:
        return not self.lacks(sample)

    def lacks(self, sample: Sample) -> list[str]:
        """The sides that a row does not have."""
        values = {side: sample.parts.get(side) for side in self.sides}
        return [side for side, value in values.items() if (is_missing(value) if isinstance(value, str | float) else value is None)]

    def head(self, width: int) -> nn.Module:
        return ContrastHead(self.options, width, self.sides)

    def collate(self, samples: Sequence[Sample], processor: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        inputs: dict[str, Tensor] = {}
        same: dict[str, Tensor] = {}
        keys: dict[str, Tensor] = {}
        for side in self.sides:
            if self.is_stream(side):
                continue
            texts, same[side] = distinct_texts(samples, side, processor)
            inputs |= texts
            keys[side] = torch.tensor([key_of(as_text(sample.parts.get(side))) for sample in samples])
        return inputs, {"same": same, "keys": keys, "weight": float(len(samples))}

    def lengths(self, batch: Batch, *, prompts: bool = False) -> list[int]:
        if self.options.text == "embeddings":
            return [0] * len(batch)  # read without positions
        sides = [batch.inputs[f"{side}_mask"].sum(1)[which] for side, which in batch.targets["same"].items()]
        return torch.stack(sides).amax(0).tolist() if sides else [0] * len(batch)

    def side(self, model: Any, batch: Batch, streams: Streams, side: str) -> tuple[Tensor, Tensor]:
        """(unit-length embeddings of the distinct pictures or texts [D, width], which of them each row has [R])."""
        if self.is_stream(side):
            rows = batch.inputs[f"{side}_index"][:, 0]
            units, index = torch.unique(rows, return_inverse=True)
            words = model.get_input_embeddings().weight
            known = streams[side].pooled() if side in streams else words.new_zeros(1, words.shape[1])  # no row has it
            pooled = known[units.clamp_min(0)] * (units >= 0).unsqueeze(1)
        else:
            index = batch.targets["same"][side].to(batch.inputs[f"{side}_ids"].device)
            pooled = model.text_vector(batch.inputs[f"{side}_ids"], batch.inputs[f"{side}_mask"], through=self.options.text)
        return self.vectors(model, side, pooled), index

    def vectors(self, model: Any, side: str, pooled: Tensor) -> Tensor:
        """Pooled pictures, clips or texts [N, W] of one side -> unit-length embeddings [N, width]."""
        return functional.normalize(model.heads[self.name].project[side](pooled).float(), dim=-1)

    def scores(self, model: Any, batch: Batch, streams: Streams) -> tuple[Tensor, Tensor, Tensor]:
        """(scaled similarities of the distinct units [DL, DR], which of them each row has [R], [R]); CLIP calls them logits_per_image."""
        return self.compared(model, [self.side(model, batch, streams, side) for side in self.sides])

    def compared(self, model: Any, sides: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """`scores` of both `side`s."""
        (left, left_of), (right, right_of) = sides
        head = model.heads[self.name]
        scores = left @ right.T * head.scale()
        return scores if head.bias is None else scores + head.bias.value, left_of, right_of

    def loss(self, model: Any, batch: Batch, streams: Streams) -> LossParts:
        sides, weight = [self.side(model, batch, streams, side) for side in self.sides], batch.targets["weight"]
        if self.processes is not None:
            sides, weight = self.of_all(batch, sides)
        scores, left_of, right_of = self.compared(model, sides)
        positive = torch.zeros_like(scores)
        positive[left_of, right_of] = 1.0
        if self.options.loss == "sigmoid":
            loss = -functional.logsigmoid(scores * (2 * positive - 1)).sum(1).mean()
        else:
            loss = multi_positive(scores, positive)
        if self.options.loss == "softmax" and self.options.direction == "both":
            loss = (loss + multi_positive(scores.T, positive.T)) / 2
        with torch.no_grad():
            found = positive[torch.arange(len(scores), device=scores.device), scores.argmax(1)].mean()
        return LossParts(loss * weight, {"found": found})

    def of_all(self, batch: Batch, sides: Sequence[tuple[Tensor, Tensor]]) -> tuple[list[tuple[Tensor, Tensor]], float]:
        """Both sides with the rows of all processes, so that 2 batches of 16 give the loss of one of 32; and its share of the weight.

        What several processes have is one picture or text, as the first of them embedded it. A batch without weight adds no rows.
        """
        count = len(batch) if batch.targets["weight"] else 0
        rows = [batch.targets["keys"][side][:count].cpu() for side in self.sides]
        units = [torch.zeros(len(vectors) if count else 0, dtype=torch.long) for vectors, _ in sides]
        for unit, (_, index), row in zip(units, sides, rows, strict=True):
            unit[index.cpu()[:count]] = row
        told = self.processes.gather({"rows": [row.tolist() for row in rows], "units": [unit.tolist() for unit in units]})
        merged = []
        for number, (vectors, index) in enumerate(sides):
            of_units, of_rows = (torch.tensor([key for one in told for key in one[which][number]]) for which in ("units", "rows"))
            known, place = torch.unique(of_units, return_inverse=True)
            first = torch.full((len(known),), len(place)).scatter_reduce(0, place, torch.arange(len(place)), "amin")
            everyone = self.processes.rows_of_all(vectors[: len(units[number])])
            merged.append((everyone[first.to(index.device)], torch.searchsorted(known, of_rows).to(index.device)))
        return merged, len(merged[0][1]) / self.processes.world

    def outputs(self, model: Any, batch: Batch, streams: Streams) -> Tensor:
        """[R, 2 * width] both sides' embeddings, row by row."""
        return torch.cat([vectors[index] for vectors, index in (self.side(model, batch, streams, side) for side in self.sides)], -1)

    @torch.no_grad()
    def predict(self, model: Any, batch: Batch, streams: Streams) -> list[Prediction]:
        there = {side: self.has(batch, side) for side in self.sides}
        each: dict[str, Tensor] = {}
        for side in (side for side in self.sides if any(there[side])):  # a text that no row has cannot be read
            vectors, index = self.side(model, batch, streams, side)
            each[side] = vectors[index]
        rows = {side: vectors.tolist() for side, vectors in each.items()}
        alike = (each[self.sides[0]] * each[self.sides[1]]).sum(1).tolist() if len(each) == len(self.sides) else []
        found = []
        for row, identity in enumerate(batch.ids):
            sides = [side for side in self.sides if there[side][row]]
            score = alike[row] if len(sides) == len(self.sides) else None
            found.append(Prediction(identity, self.name, {side: rows[side][row] for side in sides}, score=score))
        return found

    def has(self, batch: Batch, side: str) -> list[bool]:
        """Which rows have something on that side."""
        if self.is_stream(side):
            return (batch.inputs[f"{side}_index"][:, 0] >= 0).tolist()
        return [not is_missing(sample.parts.get(side)) for sample in batch.samples] or [True] * len(batch)


def check_sides(task: Task, sample: Sample, tasks: Mapping[str, Task]) -> None:
    """BadInput where `task` compares two things and a row has not both: nothing is like one thing alone. `tasks`: all of the run's."""
    if not isinstance(task, Contrast) or not (lacking := task.lacks(sample)):
        return
    answering = [name for name, other in tasks.items() if other.view == "fused"]
    alone = "this run compares things and does not answer; one alone can be embedded, indexed or classified"
    instead = f"tasks that answer: {', '.join(answering)}" if answering else alone
    left, right = task.sides
    message = f"task {task.name} compares {left} with {right}, and was given no {' and no '.join(lacking)}; give both ({instead})"
    raise BadInput("no_other_side", message, input=lacking[0])


def multi_positive(scores: Tensor, positive: Tensor) -> Tensor:
    """Mean over rows of the mean negative log-softmax of the row's positives (InfoNCE where each row has one)."""
    return -((scores.log_softmax(1) * positive).sum(1) / positive.sum(1).clamp_min(1)).mean()


class ContrastHead(nn.Module):
    """A projection per side (or none) and the learned temperature."""

    def __init__(self, options: Any, width: int, sides: Sequence[str]):
        super().__init__()
        self.project = nn.ModuleDict({s: nn.Linear(width, options.width) if options.project else nn.Identity() for s in sides})
        self.log_scale = Scalar(math.log(1 / options.temperature))
        self.bias = Scalar(options.bias) if options.loss == "sigmoid" else None
        self.most = options.max_scale

    def scale(self) -> Tensor:
        """1 / temperature, at most `max_scale`."""
        value = self.log_scale.value
        return (value if self.most is None else value.clamp_max(math.log(self.most))).exp()


class Scalar(nn.Module):
    """One learned number, in a module of its own."""

    def __init__(self, value: float):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
