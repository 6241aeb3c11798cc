"""Does this text belong to this picture or clip? (ITM: ViLT, Kim et al., 2021; ALBEF, Li et al., 2021; METER, BLIP.)

Every text is read with its own picture and with another row's, through encoders, fusion and backbone, and a head says yes or no.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from chiasm.components import did_you_mean
from chiasm.data.randomness import generator
from chiasm.tasks.base import LossParts, Task, distinct_texts, pad
from chiasm.tasks.base import Options as BaseOptions
from chiasm.tasks.template import Template, is_missing
from chiasm.types import Batch, Occasion, Prediction, RecipeError, Sample, Streams

LABELS = ("no", "yes")


class Match(Task):
    """Two labels, yes for a text with its own picture and no for the same text with another row's picture of the batch.

    The other picture is never one that the row has too, nor one whose row has the same text, and a row gets one with as many items as its
    own. Which one is f(seed, epoch, sample id) in training and f(sample id) in evaluation, where every row is scored with both.
    """

    class Options(BaseOptions):
        between: tuple[str, str]
        """An input with an encoder and a text column, e.g. [image, caption]."""
        prompt: str | None = None
        """What the backbone reads, e.g. "{image} {caption}"; the text alone, if not given."""
        hard: bool = False
        """Learn from the pictures that a contrast task finds most like the text (ALBEF), not from any."""
        negatives: str | None = None
        """With hard: the contrast task whose similarities are taken, e.g. align."""
        dropout: float = 0.1
        """Before the head."""
        metrics: tuple[str, ...] = ("accuracy", "auroc")
        """How predictions are scored; the first is the primary."""

    additive: ClassVar[bool] = False  # whose picture is another depends on the batch
    needs_head: ClassVar[bool] = True
    draws: ClassVar[bool] = True
    guessable: ClassVar[bool] = False

    def __init__(self, name: str, options: Any, inputs: Mapping[str, str]):
        super().__init__(name, options, inputs)
        streams = [side for side in options.between if inputs.get(side, "text") != "text"]
        if len(streams) != 1:
            near = did_you_mean(options.between[0], [n for n, kind in inputs.items() if kind != "text"])
            raise RecipeError(
                f"tasks.{name}.between: one side is an input with an encoder, the other a text column, as [image, caption]{near}"
            )
        self.stream = streams[0]
        self.text = next(side for side in options.between if side != self.stream)
        if options.hard != (options.negatives is not None):
            raise RecipeError(f"tasks.{name}: write hard: true and negatives: NAME of a contrast task together, or neither")
        prompt = f"{{{self.text}}}" if options.prompt is None else options.prompt
        read = {n: modality for n, modality in inputs.items() if n in options.between}
        self.prompt = Template(prompt, f"tasks.{name}.prompt", read, extra=(self.text,))
        if self.text not in self.prompt.fields:
            raise RecipeError(f"tasks.{name}.prompt: it must hold the text, {{{self.text}}}")

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(side for side in (self.stream, self.text) if side in self.declared)

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.stream, self.text)

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.text,)

    texts = columns

    @property
    def words(self) -> list[str]:
        return self.prompt.literals

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.options.metrics

    def meet(self, others: Mapping[str, Any]) -> None:
        if self.options.negatives is None:
            return
        found = {name for name, task in others.items() if set(getattr(task, "sides", ())) == {self.stream, self.text}}
        if self.options.negatives not in found:
            wanted = f"a contrast task between {self.stream} and {self.text}"
            raise RecipeError(f"tasks.{self.name}.negatives: '{self.options.negatives}' is not {wanted}{did_you_mean('', found)}")

    def wants(self, sample: Sample) -> bool:
        return sample.parts.get(self.stream) is not None and not is_missing(sample.parts.get(self.text))

    def head(self, width: int) -> nn.Module:
        return nn.Sequential(nn.Dropout(self.options.dropout), nn.Linear(width, len(LABELS)))

    def collate(
        self, samples: Sequence[Sample], processor: Any, occasion: Occasion | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """`other` [R]: the row whose picture each text is also read with, -1 for none; `luck` [R] and `allowed` [R, R]: what hard ones are
        drawn by and from."""
        occasion = occasion or Occasion()
        units = occasion.units.get(self.stream, [(i,) for i in range(len(samples))])
        ids, mask = pad([[*processor.start_ids, *r, *processor.close_ids] for r in self.prompt.ids(samples, processor)], processor.pad_id)
        inputs = {"input_ids": ids, "attention_mask": mask}
        texts, which = distinct_texts(samples, self.text, processor)
        names = [sample.id for sample in samples]
        key = () if occasion.key is None else occasion.key
        luck = np.array([generator("match", *key, name).random() for name in names])
        allowed = others(units, which.tolist())
        order = sorted(range(len(names)), key=names.__getitem__)  # so that a row's partner does not depend on the rows' order
        other = drawn(torch.from_numpy(allowed[:, order]).double(), torch.from_numpy(luck))
        other = torch.where(other >= 0, torch.tensor(order)[other], -1) if occasion.scored else torch.full_like(other, -1)
        shown = torch.tensor([bool(row) for row in units])
        pairs = shown.sum() + (shown & (other >= 0)).sum()
        targets: dict[str, Any] = {"other": other, "shown": shown, "weight": float(pairs)}
        if self.options.hard and occasion.key is not None:
            inputs |= texts
            targets |= {"same": {self.text: which}, "luck": torch.from_numpy(luck), "allowed": torch.from_numpy(allowed)}
        return inputs, targets

    def loss(self, model: Any, batch: Batch, streams: Streams) -> LossParts:
        other = batch.targets["other"]
        if "luck" in batch.targets:
            other = self.hardest(model, batch, streams)
        own, apart = self.pairs(model, batch, streams, other)
        shown = batch.targets["shown"]
        logits = torch.cat([own[shown], apart[shown[other >= 0]]]).float()
        labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        labels[: int(shown.sum())] = LABELS.index("yes")
        with torch.no_grad():
            right = (logits.argmax(-1) == labels).float().mean()
        return LossParts(functional.cross_entropy(logits, labels, reduction="sum"), {"accuracy": right})

    def pairs(self, model: Any, batch: Batch, streams: Streams, other: Tensor) -> tuple[Tensor, Tensor]:
        """(logits [R, 2] of every text with its own picture, [N, 2] of the N texts that have another with that one), in one pass."""
        rows = torch.arange(len(batch.inputs["input_ids"]), device=other.device)
        texts, pictures = (torch.cat([rows, more]) for more in (rows[other >= 0], other[other >= 0]))
        index = f"{self.stream}_index"
        inputs = {key: batch.inputs[key][texts] for key in ("input_ids", "attention_mask")}
        inputs |= {index: batch.inputs[index][pictures]} if index in batch.inputs else {}
        logits = model.head_logits(self.name, model.fuse(inputs, self.given(streams)), mix="probabilities")
        return logits[: len(rows)], logits[len(rows) :]

    @torch.no_grad()
    def hardest(self, model: Any, batch: Batch, streams: Streams) -> Tensor:
        """[R] another row's picture, as likely as the contrast task finds it like the text (ALBEF)."""
        contrast = model.tasks[self.options.negatives]
        (pictures, picture_of), (texts, text_of) = (contrast.side(model, batch, streams, side) for side in (self.stream, self.text))
        alike = texts[text_of] @ pictures[picture_of].T * model.heads[contrast.name].scale()  # [R, R]
        allowed = batch.targets["allowed"]
        return drawn(alike.double().masked_fill(~allowed, -torch.inf).softmax(1).nan_to_num(0.0), batch.targets["luck"])

    def outputs(self, model: Any, batch: Batch, streams: Streams) -> Tensor:
        """[R, 2] log-probabilities (up to a constant) of no and yes, for each text with its own picture."""
        return self.pairs(model, batch, streams, torch.full_like(batch.targets["other"], -1))[0]

    @torch.no_grad()
    def predict(self, model: Any, batch: Batch, streams: Streams) -> list[Prediction]:
        """One prediction per row, and where it is scored a second one of its text with another picture."""
        other = batch.targets["other"]
        found = []
        for logits, of, target in zip(self.pairs(model, batch, streams, other), (None, other), ("yes", "no"), strict=True):
            rows = range(len(batch.ids)) if of is None else (of >= 0).nonzero()[:, 0].tolist()
            for row, chances in zip(rows, logits.float().softmax(-1).tolist(), strict=True):
                name, each = batch.ids[row], dict(zip(LABELS, chances, strict=True))
                best = max(LABELS, key=lambda label: each[label])
                called = name if of is None else f"{name} (another {self.stream})"
                found.append(Prediction(called, self.name, best, target, score=each[best], probabilities=each, sample=name))
        return found


def others(units: Sequence[tuple[int, ...]], texts: Sequence[int]) -> np.ndarray:
    """[R, R] True where a row's picture is another one for a row's text: no picture and no text in common, and as many pictures."""
    text, count = np.array(texts), np.array([len(row) for row in units])
    allowed = (text[:, None] != text[None]) & (count[:, None] == count[None])
    holders: dict[int, list[int]] = {}
    for row, numbers in enumerate(units):
        for number in numbers:
            holders.setdefault(number, []).append(row)
    for rows in holders.values():
        allowed[np.ix_(rows, rows)] = False
    return allowed


def drawn(weights: Tensor, luck: Tensor) -> Tensor:
    """[R] a column of `weights` [R, C] as likely as it weighs, by `luck` [R] in 0..1; -1 where a row's weights are all 0."""
    total = weights.cumsum(1)
    place = torch.searchsorted(total, (luck * total[:, -1]).unsqueeze(1), right=True).squeeze(1)
    last = (weights > 0).long().mul(torch.arange(1, weights.shape[1] + 1, device=weights.device)).amax(1) - 1
    return torch.minimum(place, last)
