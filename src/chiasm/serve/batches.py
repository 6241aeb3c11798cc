"""Micro-batches: rows of one task that wait together are answered together, by the same path as `evaluate` goes.

Also for texts that the slots cannot write (encoder-decoders, whole vision-language models, beams): by transformers' `generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chiasm.serve.settings import Settings
from chiasm.serve.text import stopped_at
from chiasm.serve.work import Failed, Finished, Ticket
from chiasm.types import BadInput, Opened, Prediction, StepBatches


@dataclass(slots=True, eq=False)
class Row:
    """A request whose media were decoded and whose prompt was read once, so that it is known to be usable."""

    ticket: Ticket
    task: Any
    opened: Opened
    prompt_tokens: int
    settings: Settings | None = None  # of a task that writes
    slotted: bool = False  # written in a slot, not in a micro-batch

    @property
    def kind(self) -> tuple[Any, ...]:
        """Rows of one kind can go in one micro-batch; each that samples goes alone, so that its draws are its own."""
        if self.settings is None:
            return (self.task.name,)
        return (id(self),) if self.settings.samples else (self.task.name, repr(self.settings))


Collate = Callable[[Any, Sequence[Opened]], StepBatches]


def answer(model: Any, collate: Collate, rows: Sequence[Row]) -> None:
    """Answer rows of one kind and hand each its result; where a batch fails, its rows are tried one by one, so that the others live."""
    try:
        results = _answers(model, collate, rows)
    except Exception as error:  # noqa: BLE001 (whatever it is, its rows are told)
        if len(rows) > 1:
            for row in rows:
                answer(model, collate, [row])
            return
        results = [error if isinstance(error, BadInput) else failure(error)]
    for row, found in zip(rows, results, strict=True):
        row.ticket.finish(found)


def failure(error: BaseException) -> Failed:
    """What a request is told when the model failed on it."""
    found = Failed(f"the model failed on this request: {type(error).__name__}: {error}")
    found.__cause__ = error
    return found


@torch.no_grad()
def _answers(model: Any, collate: Collate, rows: Sequence[Row]) -> list[Finished | Failed]:
    task, settings = rows[0].task, rows[0].settings
    step = collate(task, [row.opened for row in rows]).to(model.device)
    (batch,) = step.batches
    streams = model.encode(step.pool)
    if settings is None:
        found = task.predict(model, batch, streams)
        return [checked(Finished(p, row.prompt_tokens)) for p, row in zip(found, rows, strict=True)]
    if settings.samples and settings.seed is not None:
        torch.manual_seed(settings.seed)
    new = task.written_ids(model, batch, streams, **settings.for_generate(), stopping_criteria=[Done(rows, model.processor)])
    return [_finished(model, row, ids) for row, ids in zip(rows, new, strict=True)]


class Done:
    """A stopping criterion of `generate`: a row has a stop string in what was written, or nobody waits for it any more.

    transformers' own looks for stop strings in the vocabulary, which a tokenizer of whole words does not have them in.
    """

    def __init__(self, rows: Sequence[Row], processor: Any):
        self.rows, self.processor = rows, processor
        self.begun: int | None = None  # tokens ahead of the first that is written

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self.begun = input_ids.shape[1] - 1 if self.begun is None else self.begun
        rows = [row for row in self.rows for _ in range(len(input_ids) // len(self.rows))]  # beams
        done = [not row.ticket.open for row in rows]
        stop = self.rows[0].settings.stop if self.rows[0].settings else ()
        if stop:
            texts = self.processor.decode_texts(input_ids[:, self.begun :])
            done = [gone or stopped_at(text, stop) is not None for gone, text in zip(done, texts, strict=True)]
        return torch.tensor(done, device=input_ids.device)


def _finished(model: Any, row: Row, ids: Tensor) -> Finished:
    """The result of a text that `generate` wrote: [T] ids with padding behind their end."""
    settings = row.settings
    assert settings is not None
    ends, written = end_ids(model), ids.tolist()
    end = next((place for place, token in enumerate(written) if token in ends), None)
    count = len(written) if end is None else end + 1
    while end is None and count and written[count - 1] == model.config.pad_token_id:
        count -= 1
    (text,) = model.processor.decode_texts(ids[None, :count])
    cut = stopped_at(text, settings.stop)
    text = text if cut is None else text[:cut].rstrip()
    if row.ticket.listened and text:
        row.ticket.write(text)
    prediction = Prediction(row.opened.sample.id, row.task.name, text)
    return Finished(prediction, row.prompt_tokens, count, "length" if end is None and cut is None else "stop")


def end_ids(model: Any) -> frozenset[int]:
    """The ids that end a text."""
    ends = model.generation_config.eos_token_id
    return frozenset() if ends is None else frozenset([ends] if isinstance(ends, int) else ends)


def checked(found: Finished) -> Finished | Failed:
    """A result without NaN or Inf in it, or the error that says so."""
    p = found.prediction
    numbers = [p.score, *(p.probabilities or {}).values(), *(p.output if isinstance(p.output, list) else [p.output])]
    finite = all(number - number == 0 for number in numbers if isinstance(number, float))
    return found if finite else Failed("the model computed NaN or Inf for this request")
