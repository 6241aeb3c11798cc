"""Predict a number; trained on the standardised target, reported in its own unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from chiasm.tasks.base import LossParts, PromptedOptions, PromptedTask, pad
from chiasm.tasks.template import is_missing
from chiasm.types import BadInput, Batch, Prediction, RecipeError, Sample, Streams


class Regress(PromptedTask):
    """Squared error on (y - mean) / std of the training data."""

    class Options(PromptedOptions):
        target: str
        """The column that holds the number."""
        prompt: str | None = None
        """What the backbone reads; all text inputs in order, if not given."""
        dropout: float = 0.1
        """Before the head."""
        metrics: tuple[str, ...] = ("mean_absolute_error", "r2")
        """How predictions are scored; the first is the primary."""

    needs_head: ClassVar[bool] = True
    decides: ClassVar[bool] = True

    def __init__(self, name: str, options: Any, inputs: Mapping[str, str]):
        super().__init__(name, options, inputs)
        self.mean, self.std = 0.0, 1.0

    def check(self, sample: Sample) -> None:
        self.number(sample)

    def number(self, sample: Sample) -> float:
        """The row's target; BadInput where it is no finite number."""
        value: Any = sample.parts.get(self.options.target)
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise BadInput(
                "bad_type",
                f"task {self.name}: '{value}' in column '{self.options.target}' is not a number; write one, or leave it empty",
                input=self.options.target,
            ) from None
        if number in (float("inf"), float("-inf")):
            raise BadInput(
                "nonfinite",
                f"task {self.name}: column '{self.options.target}' is infinite; write a number, or leave it empty",
                input=self.options.target,
            )
        return number

    def fit(self, samples: Sequence[Sample]) -> None:
        values = []
        for sample in samples:
            if not is_missing(sample.parts.get(self.options.target)):
                try:
                    values.append(self.number(sample))
                except BadInput:
                    continue  # quarantined by `check` when the row is read for training
        if len(values) < 2:
            raise RecipeError(f"tasks.{self.name}.target: column '{self.options.target}' has {len(values)} number(s) in the training data")
        numbers = torch.tensor(values, dtype=torch.float64)
        self.mean, self.std = float(numbers.mean()), max(float(numbers.std()), 1e-12)

    def state(self) -> dict[str, Any]:
        return {"mean": self.mean, "std": self.std}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.mean, self.std = state["mean"], state["std"]

    def head(self, width: int) -> nn.Module:
        return nn.Sequential(nn.Dropout(self.options.dropout), nn.Linear(width, 1))

    def collate(self, samples: Sequence[Sample], processor: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        ids, mask = pad(self.prompts(samples, processor), processor.pad_id)
        numbers = [self.number(s) if self.wants(s) else None for s in samples]
        values = torch.tensor([float("nan") if n is None else (n - self.mean) / self.std for n in numbers])
        return {"input_ids": ids, "attention_mask": mask}, {"values": values, "numbers": numbers, "weight": float((~values.isnan()).sum())}

    def outputs(self, model: Any, batch: Batch, streams: Streams) -> Tensor:
        """[R, 1] standardised predictions."""
        return model.head_logits(self.name, model.fuse(batch.inputs, self.given(streams)), mix="values")

    def loss(self, model: Any, batch: Batch, streams: Streams) -> LossParts:
        return LossParts(self.loss_of(self.outputs(model, batch, streams), batch))

    def loss_of(self, outputs: Tensor, batch: Batch, rows: Tensor | None = None) -> Tensor:
        known = ~batch.targets["values"].isnan() if rows is None else ~batch.targets["values"].isnan() & rows
        return (outputs.float().squeeze(1)[known] - batch.targets["values"][known]).square().sum()

    def likelihood(self, outputs: Tensor, batch: Batch) -> Tensor:
        """exp(-(y - prediction)^2 / 2) in standardised units: a normal density of variance 1, up to its constant."""
        return (-(outputs.float().squeeze(1) - batch.targets["values"]).square() / 2).exp()

    @torch.no_grad()
    def predict(self, model: Any, batch: Batch, streams: Streams) -> list[Prediction]:
        values = self.outputs(model, batch, streams).float().squeeze(1) * self.std + self.mean
        return [Prediction(i, self.name, v, t) for i, v, t in zip(batch.ids, values.tolist(), batch.targets["numbers"], strict=True)]
