"""Bring two views of a row together and push those of other rows apart (InfoNCE; CLIP, Radford et al., 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from chiasm.components import did_you_mean
from chiasm.tasks.base import LossParts, Task, as_text, is_missing, pad
from chiasm.tasks.base import Options as BaseOptions
from chiasm.types import Batch, Prediction, RecipeError, Sample, Streams


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
        metrics: tuple[str, ...] = ("recall",)
        """How embeddings are scored."""

    view: ClassVar[str] = "towers"
    additive: ClassVar[bool] = False
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
        return all(
            not is_missing(value) if isinstance(value := sample.parts.get(s), str | float) else value is not None for s in self.sides
        )

    def head(self, width: int) -> nn.Module:
        return ContrastHead(self.options, width, self.sides)

    def collate(self, samples: Sequence[Sample], processor: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        inputs: dict[str, Tensor] = {}
        same: dict[str, Tensor] = {}
        for side in self.sides:
            if self.is_stream(side):
                continue
            texts = [as_text(sample.parts.get(side)) for sample in samples]
            known: dict[str, int] = {}
            same[side] = torch.tensor([known.setdefault(text, len(known)) for text in texts])
            ids, mask = pad(processor.encode(list(known), user=True), processor.pad_id)
            inputs[f"{side}_ids"], inputs[f"{side}_mask"] = ids, mask  # [distinct texts, T]
        return inputs, {"same": same, "weight": float(len(samples))}

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

    def loss(self, model: Any, batch: Batch, streams: Streams) -> LossParts:
        (left, left_of), (right, right_of) = (self.side(model, batch, streams, side) for side in self.sides)
        scores = left @ right.T * model.heads[self.name].scale()  # [DL, DR]
        positive = torch.zeros_like(scores)
        positive[left_of, right_of] = 1.0
        loss = multi_positive(scores, positive)
        if self.options.direction == "both":
            loss = (loss + multi_positive(scores.T, positive.T)) / 2
        with torch.no_grad():
            found = positive[torch.arange(len(scores), device=scores.device), scores.argmax(1)].mean()
        return LossParts(loss * batch.targets["weight"], {"found": found})

    def outputs(self, model: Any, batch: Batch, streams: Streams) -> Tensor:
        """[R, 2 * width] both sides' embeddings, row by row."""
        return torch.cat([vectors[index] for vectors, index in (self.side(model, batch, streams, side) for side in self.sides)], -1)

    @torch.no_grad()
    def predict(self, model: Any, batch: Batch, streams: Streams) -> list[Prediction]:
        sides = {side: self.side(model, batch, streams, side) for side in self.sides}
        rows = {side: vectors[index].tolist() for side, (vectors, index) in sides.items()}
        return [Prediction(i, self.name, {side: rows[side][row] for side in self.sides}) for row, i in enumerate(batch.ids)]


def multi_positive(scores: Tensor, positive: Tensor) -> Tensor:
    """Mean over rows of the mean negative log-softmax of the row's positives (InfoNCE where each row has one)."""
    return -((scores.log_softmax(1) * positive).sum(1) / positive.sum(1).clamp_min(1)).mean()


class ContrastHead(nn.Module):
    """A projection per side (or none) and the learned temperature."""

    def __init__(self, options: Any, width: int, sides: Sequence[str]):
        super().__init__()
        self.project = nn.ModuleDict({s: nn.Linear(width, options.width) if options.project else nn.Identity() for s in sides})
        self.log_scale = Scalar(math.log(1 / options.temperature))

    def scale(self) -> Tensor:
        """1 / temperature, at most 100."""
        return self.log_scale.value.clamp_max(math.log(100)).exp()


class Scalar(nn.Module):
    """One learned number, in a module of its own."""

    def __init__(self, value: float):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
