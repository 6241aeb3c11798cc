"""What a task is: which rows it uses, what text they become, a head, a loss, a prediction, and the metrics that judge it.

A task declares its pass: `fused` (encoders, fusion and backbone), `towers` (encoders and the text side, pooled and compared) or `text`.
Letters: R rows, T tokens, W width of the backbone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from chiasm.components import did_you_mean
from chiasm.types import BadInput, Batch, Prediction, RecipeError, Sample, Streams


class Options(BaseModel):
    """Keys of `tasks.NAME` besides `type` and `weight`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


@dataclass(slots=True)
class LossParts:
    """`total` is the SUM over the batch's rows or tokens; the step divides by the sum of all its batches' weights."""

    total: Tensor
    logs: dict[str, float | Tensor] = field(default_factory=dict)


class Task:
    """One objective. `inputs` maps every declared input of the recipe to its modality; `reads` are those this task uses."""

    Options = Options
    view: ClassVar[str] = "fused"
    additive: ClassVar[bool] = True  # the loss of a batch is a sum over rows, so that accumulation equals the big batch
    needs_head: ClassVar[bool] = False
    decides: ClassVar[bool] = False  # its head makes one decision per row from one vector, so that an input alone can make it too
    writes: ClassVar[bool] = False  # its output is text of any length, which the backbone must be able to generate

    def __init__(self, name: str, options: Any, inputs: Mapping[str, str]):
        self.name, self.options, self.declared = name, options, dict(inputs)

    @property
    def reads(self) -> tuple[str, ...]:
        """The declared inputs that this task's output depends on."""
        raise NotImplementedError

    inputs = property(lambda self: self.reads)

    @property
    def targets(self) -> tuple[str, ...]:
        """Columns a row must have for this task to learn from it or be scored on it."""
        raise NotImplementedError

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that this task looks at as text or target."""
        return tuple(dict.fromkeys((*(n for n in self.reads if self.declared[n] == "text"), *self.targets)))

    @property
    def texts(self) -> tuple[str, ...]:
        """What the backbone must read as text for this task: columns, or a prompt's own words."""
        return ()

    @property
    def words(self) -> list[str]:
        """Text of its own that a fresh tokenizer must know."""
        return []

    def order(self, names: Sequence[str]) -> list[str]:
        """`names` of inputs in the order in which this task's prompt shows them."""
        return list(names)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metric names; the first one is the task's primary."""
        raise NotImplementedError

    def wants(self, sample: Sample) -> bool:
        """Whether a row is for this task: it has every target."""
        return all(not is_missing(sample.parts.get(column)) for column in self.targets)

    def check(self, sample: Sample) -> None:
        """BadInput where a row that this task wants cannot be used."""

    def fit(self, samples: Sequence[Sample]) -> None:
        """Learn what the task must know of the training data before it starts (labels, scale)."""

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""

    def head(self, width: int) -> nn.Module | None:
        """The task's own parameters, kept under `heads.NAME`."""
        return None

    def collate(self, samples: Sequence[Sample], processor: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Rows -> (model inputs, targets). targets["weight"] is what this batch's loss total is divided by."""
        raise NotImplementedError

    def loss(self, model: Any, batch: Batch, streams: Streams) -> LossParts:
        raise NotImplementedError

    def loss_of(self, outputs: Tensor, batch: Batch, rows: Tensor | None = None) -> Tensor:
        """Of a task that decides: the summed loss of its head's `outputs` [R, ...] over rows with a target, of `rows` [R] if given."""
        raise NotImplementedError

    def likelihood(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Of a task that decides: [R] how likely the head's `outputs` hold each row's target, 0 to 1; NaN where it has none."""
        raise NotImplementedError

    def predict(self, model: Any, batch: Batch, streams: Streams) -> list[Prediction]:
        raise NotImplementedError

    def outputs(self, model: Any, batch: Batch, streams: Streams) -> Tensor:
        """[R, ...] what the influence check compares: logits or embeddings."""
        raise NotImplementedError


class PromptedTask(Task):
    """A task that reads a prompt and predicts one column, `target`. Its Options have `prompt`, `target` and `metrics`."""

    def __init__(self, name: str, options: Any, inputs: Mapping[str, str]):
        super().__init__(name, options, inputs)
        text = options.prompt if options.prompt is not None else default_prompt(inputs)
        self.prompt = Template(text, f"tasks.{name}.prompt", inputs)

    @property
    def reads(self) -> tuple[str, ...]:
        texts = [name for name in self.prompt.fields if self.declared[name] == "text"]
        return (*texts, *(name for name, modality in self.declared.items() if modality != "text"))

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.options.target,)

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.options.metrics

    @property
    def texts(self) -> tuple[str, ...]:
        columns = [name for name in self.prompt.fields if self.declared[name] == "text"]
        return (*columns, *filter(None, map(str.strip, self.prompt.literals)))

    @property
    def words(self) -> list[str]:
        return self.prompt.literals

    def order(self, names: Sequence[str]) -> list[str]:
        return self.prompt.order(names)

    def prompts(self, samples: Sequence[Sample], processor: Any) -> list[list[int]]:
        """Token ids of each row's prompt, begun as the tokenizer begins a text; a backbone that reads pictures has a form of its own."""
        if processor.reader is not None:
            return processor.reader.prompts(self.prompt, samples)
        return [[*processor.start_ids, *row, *processor.close_ids] for row in self.prompt.ids(samples, processor)]


FIELD = re.compile(r"\{([^{}]+)\}")


class Template:
    """A prompt such as "Question: {question} Answer:", in which a field is a text column or an input with an encoder.

    A user's text never becomes a special token; the template's own words may be.
    """

    def __init__(self, text: str, where: str, inputs: Mapping[str, str], extra: Sequence[str] = ()):
        self.text, self.inputs = text, inputs
        self.pieces: list[tuple[str, bool]] = []  # (literal or field name, is a field)
        for i, piece in enumerate(FIELD.split(text)):
            if i % 2 and piece not in inputs and piece not in extra:
                known = [*inputs, *extra]
                raise RecipeError(f"{where}: {{{piece}}} is not a declared input{did_you_mean(piece, known)}")
            if piece:
                self.pieces.append((piece, bool(i % 2)))

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(piece for piece, is_field in self.pieces if is_field))

    def order(self, names: Sequence[str]) -> list[str]:
        """`names` of inputs in the order in which a prompt shows them: those without a place of their own in front."""
        return [*(name for name in names if name not in self.fields), *(field for field in self.fields if field in names)]

    @property
    def literals(self) -> list[str]:
        return [piece for piece, is_field in self.pieces if not is_field]

    def ids(self, samples: Sequence[Sample], processor: Any) -> list[list[int]]:
        """Token ids per row: literals, users' texts, and a run of placeholders for every scattered input that the row has."""
        rows: list[list[int]] = [[] for _ in samples]
        space = ""
        for piece, is_field in self.pieces:
            if is_field and self.inputs.get(piece, "text") != "text":
                for row, sample in zip(rows, samples, strict=True):
                    row += processor.placeholders(piece, sample)
                continue
            if is_field:
                texts = [space + as_text(sample.parts.get(piece)) for sample in samples]
                encoded, space = processor.encode(texts, user=True), ""
            else:
                body = piece.rstrip(" ")
                lead = "" if body.startswith(" ") else space
                encoded = [processor.encode([lead + body], user=False)[0]] * len(samples) if body else [[]] * len(samples)
                space = " " if body != piece else ""  # a space belongs to the word that follows it
            for row, ids in zip(rows, encoded, strict=True):
                row += ids
        loose = [name for name, modality in self.inputs.items() if modality != "text" and name not in self.fields]
        for name in loose:
            for row, sample in zip(rows, samples, strict=True):
                run = processor.placeholders(name, sample)
                row[:] = run + row if processor.placeholders_first else row + run
        return rows

    def render(self, parts: Mapping[str, Any]) -> str:
        """The plain text of a template without inputs, e.g. a target "{answer}"."""
        return "".join(as_text(parts.get(piece)) if is_field else piece for piece, is_field in self.pieces)


def pad(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor]:
    """Lists of ids -> (ids [R, T], mask [R, T]), padded on the right."""
    length = max((len(row) for row in rows), default=0)
    ids = torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows], dtype=torch.long)
    mask = torch.arange(length) < torch.tensor([len(row) for row in rows]).unsqueeze(1)
    return ids, mask


def default_prompt(inputs: Mapping[str, str]) -> str:
    """All declared texts, one after the other."""
    return " ".join(f"{{{name}}}" for name, modality in inputs.items() if modality == "text")


def as_text(value: Any) -> str:
    """A column's value as text; whole numbers without a decimal point, nothing for a missing one."""
    if is_missing(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def is_missing(value: Any) -> bool:
    """None, NaN or the empty string."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def no_label(task: str, column: str) -> BadInput:
    return BadInput("no_label", f"task {task}: column '{column}' is empty", input=column)
