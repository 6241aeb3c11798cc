"""Choose a label (or several) from a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from chiasm.components import did_you_mean
from chiasm.tasks.base import LossParts, PromptedOptions, PromptedTask, pad
from chiasm.tasks.template import as_text, is_missing
from chiasm.types import BadInput, Batch, Prediction, RecipeError, Sample, Streams


class Classify(PromptedTask):
    """Softmax cross-entropy over labels, or a sigmoid per label where `multi_label`; labels are learned from the training data."""

    class Options(PromptedOptions):
        target: str
        """The column that holds the label (for multi_label: a list, or labels separated by ';')."""
        prompt: str | None = None
        """What the backbone reads; all text inputs in order, if not given."""
        labels: tuple[str, ...] | None = None
        """The labels in order; those that occur in the training data, if not given."""
        multi_label: bool = False
        """Any number of labels per row."""
        class_weights: Literal["none", "balanced"] | dict[str, float] = "none"
        """Weight of each label in the loss; balanced: inversely to how often it occurs."""
        dropout: float = 0.1
        """Before the head."""
        metrics: tuple[str, ...] = ("accuracy", "f1", "auroc", "pr_auc", "calibration_error")
        """How predictions are scored; the first is the primary."""

    needs_head: ClassVar[bool] = True
    decides: ClassVar[bool] = True

    def __init__(self, name: str, options: Any, inputs: Mapping[str, str]):
        super().__init__(name, options, inputs)
        self.labels: tuple[str, ...] = tuple(options.labels or ())
        self.weights: list[float] | None = None

    def labels_of(self, sample: Sample) -> list[str]:
        """The row's labels as text."""
        value = sample.parts.get(self.options.target)
        if not self.options.multi_label:
            return [as_text(value)]
        return [as_text(v).strip() for v in (value if isinstance(value, list | tuple) else str(value).split(";"))]

    def check(self, sample: Sample) -> None:
        for label in self.labels_of(sample):
            if self.labels and label not in self.labels:
                message = f"task {self.name}: '{label}' in column '{self.options.target}' is not a label{did_you_mean(label, self.labels)}"
                raise BadInput("unknown_label", message, input=self.options.target)

    def fit(self, samples: Sequence[Sample]) -> None:
        counts: dict[str, int] = {}
        for sample in samples:
            if not is_missing(sample.parts.get(self.options.target)):
                for label in self.labels_of(sample):
                    counts[label] = counts.get(label, 0) + 1
        if self.options.labels is None:
            self.labels = tuple(sorted(counts, key=lambda label: (not is_number(label), float(label) if is_number(label) else 0.0, label)))
        empty = [label for label in self.labels if not counts.get(label)]
        if len(self.labels) < 2 or empty:
            found = f"label '{empty[0]}' never occurs" if empty else f"found {len(self.labels)} label(s)"
            raise RecipeError(
                f"tasks.{self.name}.target: {found} in column '{self.options.target}' of the training data; a choice needs two or more"
            )
        if self.options.class_weights == "balanced":
            total = sum(counts[label] for label in self.labels)
            self.weights = [total / (len(self.labels) * counts[label]) for label in self.labels]
        elif isinstance(self.options.class_weights, dict):
            self.weights = [self.options.class_weights.get(label, 1.0) for label in self.labels]

    def state(self) -> dict[str, Any]:
        return {"labels": list(self.labels), "weights": self.weights}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.labels, self.weights = tuple(state["labels"]), state["weights"]

    def head(self, width: int) -> nn.Module:
        return nn.Sequential(nn.Dropout(self.options.dropout), nn.Linear(width, len(self.labels)))

    def collate(self, samples: Sequence[Sample], processor: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        ids, mask = pad(self.prompts(samples, processor), processor.pad_id)
        index = {label: i for i, label in enumerate(self.labels)}
        wanted = [[label for label in self.labels_of(s) if label in index] if self.wants(s) else [] for s in samples]
        targets: dict[str, Any] = {"texts": wanted}
        if self.options.multi_label:
            hot = torch.zeros(len(samples), len(self.labels))
            for row, labels in enumerate(wanted):
                hot[row, [index[label] for label in labels]] = 1.0
            known = torch.tensor([self.wants(s) for s in samples])
            weight = float(known.sum() * len(self.labels))
            return {"input_ids": ids, "attention_mask": mask}, {**targets, "hot": hot, "known": known, "weight": weight}
        labels = torch.tensor([index[w[0]] if w else -100 for w in wanted])
        weight = sum((self.weights or [1.0] * len(index))[i] for i in labels.tolist() if i >= 0)
        return {"input_ids": ids, "attention_mask": mask}, {**targets, "labels": labels, "weight": float(weight)}

    def outputs(self, model: Any, batch: Batch, streams: Streams) -> Tensor:
        """[R, labels] log-probabilities (up to a constant), or for multi_label log-odds."""
        mix = "chances" if self.options.multi_label else "probabilities"
        return model.head_logits(self.name, model.fuse(batch.inputs, self.given(streams)), mix=mix)

    def loss(self, model: Any, batch: Batch, streams: Streams) -> LossParts:
        logits = self.outputs(model, batch, streams).float()
        if self.options.multi_label:
            return LossParts(self.loss_of(logits, batch))
        return LossParts(self.loss_of(logits, batch), {"accuracy": (logits.argmax(-1) == batch.targets["labels"]).float().mean()})

    def loss_of(self, outputs: Tensor, batch: Batch, rows: Tensor | None = None) -> Tensor:
        logits = outputs.float()
        weights = None if self.weights is None else logits.new_tensor(self.weights)
        if self.options.multi_label:
            known, hot = batch.targets["known"] if rows is None else batch.targets["known"] & rows, batch.targets["hot"]
            return functional.binary_cross_entropy_with_logits(logits[known], hot[known], weight=weights, reduction="sum")
        labels = batch.targets["labels"] if rows is None else batch.targets["labels"].masked_fill(~rows, -100)
        return functional.cross_entropy(logits, labels, weight=weights, reduction="sum")

    def likelihood(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The probability of the row's label; for multi_label the mean over labels of what each one's right answer gets."""
        if self.options.multi_label:
            chances, hot = outputs.float().sigmoid(), batch.targets["hot"]
            return (chances * hot + (1 - chances) * (1 - hot)).mean(1).masked_fill(~batch.targets["known"], torch.nan)
        labels = batch.targets["labels"]
        chances = outputs.float().softmax(-1).gather(1, labels.clamp_min(0).unsqueeze(1)).squeeze(1)
        return chances.masked_fill(labels < 0, torch.nan)

    @torch.no_grad()
    def predict(self, model: Any, batch: Batch, streams: Streams) -> list[Prediction]:
        logits = self.outputs(model, batch, streams).float()
        chances = logits.sigmoid() if self.options.multi_label else logits.softmax(-1)
        predictions = []
        for row, (identity, wanted) in enumerate(zip(batch.ids, batch.targets["texts"], strict=True)):
            each = dict(zip(self.labels, chances[row].tolist(), strict=True))
            best = max(each, key=lambda label: each[label])
            chosen: Any = [label for label, p in each.items() if p >= 0.5] if self.options.multi_label else best
            target: Any = (wanted if self.options.multi_label else wanted[0]) if wanted else None
            predictions.append(Prediction(identity, self.name, chosen, target, score=each[best], probabilities=each))
        return predictions


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
