"""What a task is: which rows it uses, what text they become, a head, a loss, a prediction, and the metrics that judge it.

A task declares its pass: `fused` (encoders, fusion and backbone), `towers` (encoders and the text side, pooled and compared) or `text`.
Letters: R rows, T tokens, W width of the backbone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from chiasm.components import did_you_mean
from chiasm.tasks.template import Template, as_text, is_missing
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
    gathers: ClassVar[bool] = False  # of one that is not: its loss takes in the rows of all `processes`
    processes: Any = None  # set while several train together
    needs_head: ClassVar[bool] = False
    decides: ClassVar[bool] = False  # its head makes one decision per row from one vector, so that an input alone can make it too
    writes: ClassVar[bool] = False  # its output is text of any length, which the backbone must be able to generate
    draws: ClassVar[bool] = False  # its rows are drawn (partners, masks): `collate` also takes `occasion`
    masks: ClassVar[bool] = False  # it needs a mask token
    guessable: ClassVar[bool] = True  # its output is a value of its one target column, so that a majority or a question can answer it

    def __init__(self, name: str, options: Any, inputs: Mapping[str, str]):
        self.name, self.options, self.declared = name, options, dict(inputs)

    @property
    def reads(self) -> tuple[str, ...]:
        """The declared inputs that this task's output depends on."""
        raise NotImplementedError

    inputs = property(lambda self: self.reads)

    def given(self, streams: Streams) -> Streams:
        """Those of a step's streams that this task reads; its other tasks may read more."""
        return {name: tokens for name, tokens in streams.items() if name in self.reads}

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
    def lists(self) -> tuple[str, ...]:
        """Columns that hold lists of records, whose texts this task reads."""
        return ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metric names; the first one is the task's primary."""
        raise NotImplementedError

    def wants(self, sample: Sample) -> bool:
        """Whether a row is for this task: it has every target."""
        return all(not is_missing(sample.parts.get(column)) for column in self.targets)

    def suits(self, backbone: str, kind: Any) -> str | None:
        """Why a kind of backbone (its name and class) cannot do this task, and what to take instead; None where it can."""
        if self.writes and not kind.generates:
            return f"a {backbone} backbone cannot write text; take one that generates (arch: gpt2), or type: classify"
        return None

    def meet(self, others: Mapping[str, Any]) -> None:
        """RecipeError where another of the recipe's tasks, which this one names, is not there or does not fit."""

    def check(self, sample: Sample) -> None:
        """BadInput where a row that this task wants cannot be used."""

    def check_prompt(self, sample: Sample) -> None:
        """BadInput where what a row gives this task to read does not fit together; asked at use too, where it has no target."""

    def gathered(self, sample: Sample, columns: Mapping[str, str]) -> Sample:
        """The raw row with the pictures and clips of its lists' records under their inputs' columns (input -> column)."""
        return sample

    def fit(self, samples: Sequence[Sample]) -> None:
        """Learn what the task must know of the training data before it starts (labels, scale)."""

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""

    def head(self, width: int) -> nn.Module | None:
        """The task's own parameters, kept under `heads.NAME`."""
        return None

    def head_of(self, words: int, width: int) -> nn.Module | None:
        """What the model calls: `head`, for a task that needs to know how many words there are."""
        return self.head(width)

    def collate(self, samples: Sequence[Sample], processor: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Rows -> (model inputs, targets). targets["weight"] is what this batch's loss total is divided by.

        Where the task `draws`, also `occasion: Occasion`: who shares which picture, and what draws depend on.
        """
        raise NotImplementedError

    def lengths(self, batch: Batch, *, prompts: bool = False) -> list[int]:
        """[R] tokens of each row's longest text as the backbone is to read it; `prompts`: without what a task that writes learns to."""
        given = batch.inputs
        if prompts and "prompt_lengths" in given:
            return given["prompt_lengths"].tolist()
        names = ("attention_mask",) if prompts else ("attention_mask", "decoder_attention_mask")
        found = [given[name].sum(1) for name in names if name in given]
        return torch.stack(found).amax(0).tolist() if found else [0] * len(batch)

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


class PromptedOptions(Options):
    """Keys of every task that reads a prompt."""

    repeat: dict[str, str] = {}
    """Columns that hold lists of records (turns, examples, segments) -> what each record is written with, where {COLUMN} stands in the
    prompt: `history: "question: {question} answer: {answer} ."`. The k-th {image} that is written is the row's k-th picture."""
    inputs: tuple[str, ...] | None = None
    """The inputs with an encoder that this task is given; all of them, if not given. []: text alone (a language model)."""


class PromptedTask(Task):
    """A task that reads a prompt and predicts one column, `target`. Its Options have `prompt`, `target` and `metrics`."""

    def __init__(self, name: str, options: Any, inputs: Mapping[str, str]):
        super().__init__(name, options, inputs)
        streams = [n for n, modality in inputs.items() if modality != "text"]
        for given in options.inputs or ():
            if given not in streams:
                raise RecipeError(f"tasks.{name}.inputs: '{given}' is not an input with an encoder{did_you_mean(given, streams)}")
        self.readable = {n: kind for n, kind in inputs.items() if kind == "text" or options.inputs is None or n in options.inputs}
        text = options.prompt if options.prompt is not None else default_prompt(inputs)
        self.prompt = Template(text, f"tasks.{name}.prompt", self.readable, repeat=options.repeat)

    @property
    def reads(self) -> tuple[str, ...]:
        texts = [name for name in self.prompt.fields if self.declared[name] == "text"]
        return (*texts, *(name for name, modality in self.readable.items() if modality != "text"))

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

    @property
    def lists(self) -> tuple[str, ...]:
        return tuple(self.prompt.repeat)

    def order(self, names: Sequence[str]) -> list[str]:
        return self.prompt.order(names)

    def check_prompt(self, sample: Sample) -> None:
        self.prompt.check(sample)

    def gathered(self, sample: Sample, columns: Mapping[str, str]) -> Sample:
        return self.prompt.gathered(sample, columns)

    def prompts(self, samples: Sequence[Sample], processor: Any) -> list[list[int]]:
        """Token ids of each row's prompt, begun as the tokenizer begins a text; never none, since something must be gone on from.

        A backbone that reads pictures itself has a form of its own.
        """
        if processor.reader is not None:
            rows = processor.reader.prompts(self.prompt, samples)
        else:
            rows = [[*processor.start_ids, *row, *processor.close_ids] for row in self.prompt.ids(samples, processor)]
        return [row or [processor.end_id] for row in rows]


def pad(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor]:
    """Lists of ids -> (ids [R, T], mask [R, T]), padded on the right."""
    length = max((len(row) for row in rows), default=0)
    ids = torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows], dtype=torch.long)
    mask = torch.arange(length) < torch.tensor([len(row) for row in rows]).unsqueeze(1)
    return ids, mask


def distinct_texts(samples: Sequence[Sample], column: str, processor: Any) -> tuple[dict[str, Tensor], Tensor]:
    """({COLUMN_ids, COLUMN_mask: [D, T] of the rows' distinct texts}, which of them each row has [R])."""
    texts = [as_text(sample.parts.get(column)) for sample in samples]
    known: dict[str, int] = {}
    which = torch.tensor([known.setdefault(text, len(known)) for text in texts])
    ids, mask = pad(processor.encode(list(known), user=True), processor.pad_id)
    return {f"{column}_ids": ids, f"{column}_mask": mask}, which


def default_prompt(inputs: Mapping[str, str]) -> str:
    """All declared texts, one after the other."""
    return " ".join(f"{{{name}}}" for name, modality in inputs.items() if modality == "text")


def no_label(task: str, column: str) -> BadInput:
    return BadInput("no_label", f"task {task}: column '{column}' is empty", input=column)
