"""Guess words that were hidden, given the rest of the text and the picture (MLM: BERT, Devlin et al., 2019; ViLBERT, VisualBERT, ALBEF)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from chiasm.data.randomness import generator
from chiasm.tasks.base import LossParts, Task, pad
from chiasm.tasks.base import Options as BaseOptions
from chiasm.tasks.template import FIELD, Template, Written, is_missing
from chiasm.types import Batch, Occasion, Prediction, Sample, Streams

BLANK, OTHER = 0.8, 0.1  # of the hidden tokens: how many show the mask token, how many another word; the rest show themselves (BERT)


class Mask(Task):
    """Cross-entropy over hidden tokens of the text. Which ones is f(seed, epoch, sample id) in training, f(sample id) in evaluation, where
    all of them show the mask token; at use it is those that the user wrote as the tokenizer's mask token.

    Words are told by a head on tied word embeddings, BERT's own where the checkpoint has one.
    """

    class Options(BaseOptions):
        text: str
        """The text, with pictures where they are to stand: "{caption}" or "{image} {caption}"."""
        share: Annotated[float, Field(gt=0, lt=1)] = 0.15
        """How many of the text's tokens are hidden; at least one."""
        whole_words: bool = False
        """Hide all tokens of a word together."""
        metrics: tuple[str, ...] = ("token_accuracy",)
        """How predictions are scored; the first is the primary."""

    needs_head: ClassVar[bool] = True
    draws: ClassVar[bool] = True
    guessable: ClassVar[bool] = False
    masks: ClassVar[bool] = True

    def __init__(self, name: str, options: Any, inputs: Mapping[str, str]):
        super().__init__(name, options, inputs)
        self.template = Template(options.text, f"tasks.{name}.text", inputs, extra=FIELD.findall(options.text))

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(name for name, modality in self.declared.items() if modality != "text")

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(name for name in self.template.fields if not self.template.is_media(name))

    @property
    def texts(self) -> tuple[str, ...]:
        return self.targets

    @property
    def words(self) -> list[str]:
        return self.template.literals

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.options.metrics

    def suits(self, backbone: str, kind: Any) -> str | None:
        if kind.reads_text and (kind.causal or kind.has_encoder):
            return f"a {backbone} backbone writes words and cannot fill them in; take type: generate, or a backbone such as arch: bert"
        return None

    def wants(self, sample: Sample) -> bool:
        return any(not is_missing(sample.parts.get(column)) for column in self.targets)

    def head_of(self, words: int, width: int) -> nn.Module:
        return WordHead(words, width)

    def collate(
        self, samples: Sequence[Sample], processor: Any, occasion: Occasion | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """`hidden` [R, T]: the places to be guessed; `labels` [R, T]: the tokens there, -100 elsewhere."""
        occasion = occasion or Occasion()
        rows, hidden, labels = [], [], []
        for sample, written in zip(samples, self.template.rows(samples, processor), strict=True):
            blanks = [_blanks(w, processor) if w.user and not occasion.scored else w for w in written]
            ids = [*processor.start_ids, *(i for w in blanks for i in w.ids), *processor.close_ids]
            places = [] if blanks == written else [place for place, i in enumerate(ids) if i == processor.mask_id]
            answers: dict[int, int] = {}
            if blanks == written:
                places = self.drawn(written, len(processor.start_ids), sample, processor, occasion)
                answers = {place: ids[place] for place in places}
                self.hide(ids, places, sample, processor, occasion)
            rows.append(ids)
            hidden.append([place in places for place in range(len(ids))])
            labels.append([answers.get(place, -100) for place in range(len(ids))])
        ids, mask = pad(rows, processor.pad_id)
        targets = {"hidden": pad(hidden, False)[0].bool(), "labels": pad(labels, -100)[0]}
        return {"input_ids": ids, "attention_mask": mask}, {**targets, "weight": float((targets["labels"] != -100).sum())}

    def drawn(self, written: Sequence[Written], start: int, sample: Sample, processor: Any, occasion: Occasion) -> list[int]:
        """The places of a row's hidden tokens, in order; only a user's text is hidden."""
        units: list[list[int]] = []  # of places that are hidden together
        place = start
        for piece in written:
            places = list(range(place, place := place + len(piece.ids)))
            if piece.user and self.options.whole_words:
                words = processor.words(piece.text)
                units += [[places[i] for i in group] for word, group in groupby(range(len(places)), words.__getitem__) if word is not None]
            elif piece.user:
                units += [[i] for i in places]
        if not units:
            return []
        order = self.draws_of(sample, occasion).permutation(len(units))
        wanted, found = max(1, round(self.options.share * sum(map(len, units)))), []
        for unit in (units[i] for i in order):
            if len(found) >= wanted:
                break
            found += unit
        return sorted(found)

    def hide(self, ids: list[int], places: Sequence[int], sample: Sample, processor: Any, occasion: Occasion) -> None:
        """Change `ids` at `places` to what is shown there."""
        if occasion.key is None:
            shown = [processor.mask_id] * len(places)
        else:
            draws = self.draws_of(sample, occasion, "shown")
            chance, ordinary = draws.random(len(places)), processor.ordinary_ids
            others = draws.integers(len(ordinary), size=len(places))
            blank, other = chance < BLANK, chance < BLANK + OTHER
            shown = [processor.mask_id if blank[i] else ordinary[others[i]] if other[i] else ids[place] for i, place in enumerate(places)]
        for place, token in zip(places, shown, strict=True):
            ids[place] = token

    def draws_of(self, sample: Sample, occasion: Occasion, *what: str) -> np.random.Generator:
        return generator("mask", *(occasion.key or ()), sample.id, *what)

    def logits(self, model: Any, batch: Batch, streams: Streams, chosen: Tensor) -> Tensor:
        """[N, V] at the places `chosen` [R, T]."""
        words, head = model.get_input_embeddings().weight, model.heads[self.name]
        return model.text_logits(model.fuse(batch.inputs, self.given(streams)), chosen, lambda values: head(values, words))

    def loss(self, model: Any, batch: Batch, streams: Streams) -> LossParts:
        labels = batch.targets["labels"]
        logits, answers = self.logits(model, batch, streams, labels != -100), labels[labels != -100]
        total = functional.cross_entropy(logits.float(), answers, reduction="sum")
        with torch.no_grad():
            right = (logits.argmax(-1) == answers).float().mean()
        return LossParts(total, {"token_accuracy": right})

    def outputs(self, model: Any, batch: Batch, streams: Streams) -> Tensor:
        """[R, V] at the first hidden place of each row."""
        hidden = batch.targets["hidden"]
        chosen = functional.one_hot(hidden.int().argmax(1), hidden.shape[1]).bool()
        return self.logits(model, batch, streams, chosen)

    @torch.no_grad()
    def predict(self, model: Any, batch: Batch, streams: Streams) -> list[Prediction]:
        """Of every row its hidden words, in order."""
        hidden, labels = batch.targets["hidden"], batch.targets["labels"]
        said = self.logits(model, batch, streams, hidden).argmax(-1)
        guessed, rows = torch.full_like(labels, -100).masked_scatter(hidden, said), zip(batch.ids, hidden, strict=True)
        found = []
        for row, (name, places) in enumerate(rows):
            output, target = (model.processor.tokens(values[row][places].tolist()) for values in (guessed, labels.clamp_min(0)))
            found.append(Prediction(name, self.name, output, target if bool((labels[row] != -100).any()) else None))
        return found


class WordHead(nn.Module):
    """[..., W] -> [..., V]: dense, GELU, norm, then the word embeddings [V, W] that are given, and a bias (BERT's head)."""

    def __init__(self, words: int, width: int):
        super().__init__()
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(words))

    def forward(self, values: Tensor, words: Tensor) -> Tensor:
        return functional.linear(self.norm(functional.gelu(self.dense(values))), words, self.bias)


def _blanks(written: Written, processor: Any) -> Written:
    """A user's text with the mask tokens in it as such; as it is, where there are none."""
    pieces = written.text.split(processor.tokenizer.mask_token)
    if len(pieces) == 1:
        return written
    first, *more = processor.encode([piece.rstrip() for piece in pieces], user=True)
    return written._replace(ids=[*first, *(i for ids in more for i in (processor.mask_id, *ids))])
