"""Continuous batching: texts are written side by side, and a slot whose text ends takes in the next one at once (Orca, Yu et al., 2022).

This is the one decode loop that is not transformers' own. Every row goes the way of `generate`: its prompt is read with its streams, then
each step reads the last tokens of all rows against their caches. Rows never meet: a row's text is what it is alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from chiasm.serve.batches import Collate, Row, end_ids, failure
from chiasm.serve.memory import Bank, Window
from chiasm.serve.settings import Settings
from chiasm.serve.text import Text
from chiasm.serve.work import Failed, Finished, Reason
from chiasm.tasks.generate import prompts_alone
from chiasm.types import BadInput, Fused, Prediction, Streams, Tokens

SPECIAL = {"eos_token_id", "pad_token_id", "bos_token_id", "suppress_tokens"}  # what slots heed of a generation config
ASKED = {"do_sample", "temperature", "top_p", "top_k", "max_length", "max_new_tokens"}  # what a request's settings say instead
NO_MATTER = {"use_cache", "transformers_version", "_from_model_config", "return_dict"}


def can_write(model: Any) -> bool:
    """Whether slots can write with this model; else its texts go through `generate`, a micro-batch at a time.

    They can with a causal language model whose memory of a text is keys and values: not with an encoder-decoder, a whole vision-language
    model, which has positions of its own, or a recurrent network. And greedily or by sampling, without penalties, beams and the like.
    """
    kind, network = model.model.backbone_kind, model.model.language_model
    if not kind.causal or kind.reads or getattr(network, "_is_stateful", False):
        return False
    said = {name for name, value in model.generation_config.to_diff_dict().items() if value not in (None, False)}
    layers = DynamicCache(config=network.config).layers
    return said <= SPECIAL | ASKED | NO_MATTER and all(isinstance(layer, DynamicLayer) for layer in layers)


class Slots:
    """`size` texts at once. `count` is told the rows of every forward. `compiler`: torch.compile's backend for the step, none if empty."""

    def __init__(self, model: Any, collate: Collate, size: int, count: Callable[[int], None] = lambda rows: None, *, compiler: str = ""):
        self.model, self.collate, self.size, self.count = model, collate, size, count
        self.compiled = bool(compiler)
        self.forward = torch.compile(model.model, backend=compiler, dynamic=True) if compiler else model.model
        self.able = can_write(model)
        self.reads = bool(model.model.backbone.cross_attentions)
        self.ends = end_ids(model)
        self.suppressed = list(model.generation_config.suppress_tokens or [])
        self.tokens = 0  # written
        self.clear()

    def clear(self) -> None:
        self.rows: list[Row] = []
        self.texts: list[Text] = []
        self.window, self.bank = Window(self.size), Bank(self.size)
        self._view: tuple[Streams, Any] | None = None

    @property
    def free(self) -> int:
        return self.size - len(self.rows)

    def compile_no_more(self) -> None:
        """From now on a step that would have to be compiled anew is run as it is: nobody waits for a compiler."""
        self.forward = torch.compiler.set_stance("eager_on_recompile")(self.forward)

    def suit(self, settings: Settings) -> bool:
        """Whether a text with these settings can be written here."""
        return self.able and not settings.rest

    @torch.no_grad()
    def admit(self, rows: Sequence[Row]) -> None:
        """Read the prompts of rows, at most `free`, and write their first tokens. Rows that cannot be read fail alone."""
        for name in dict.fromkeys(row.task.name for row in rows):
            self._admit([row for row in rows if row.task.name == name])

    @torch.no_grad()
    def step(self) -> None:
        """Write one token of every text; those that nobody waits for any more are dropped first. Where a step fails, all its rows do."""
        for place in reversed(range(len(self.rows))):
            if not self.rows[place].ticket.open:
                self._remove(place)
        if not self.rows:
            return
        try:
            self._write(self._next_logits())
        except Exception as error:  # noqa: BLE001 (whatever it is, its rows are told, and the next are served)
            for row in self.rows:
                row.ticket.finish(failure(error))
            self.clear()

    # ---- prompts

    def _admit(self, rows: list[Row]) -> None:
        try:
            logits, streams, cache, mask = self._read(rows)
        except Exception as error:  # noqa: BLE001 (so here: one row's own)
            if len(rows) > 1:
                for row in rows:
                    self._admit([row])
            else:
                rows[0].ticket.finish(error if isinstance(error, BadInput) else failure(error))
            return
        texts = [self._text(row) for row in rows]
        ends = self._choose(logits, texts)
        keep = []
        for place, (row, text, end) in enumerate(zip(rows, texts, ends, strict=True)):
            if end is None:
                keep.append(place)
            else:
                self._finish(row, text, end)
        if keep:
            self.window.add(cache, mask, keep)
            self.bank.add(streams, keep)
            self.rows += [rows[place] for place in keep]
            self.texts += [texts[place] for place in keep]
            self._view = None

    def _text(self, row: Row) -> Text:
        assert row.settings is not None
        limit = min(row.settings.max_new_tokens, self.model.model.max_length - row.prompt_tokens)
        return Text(self.model.processor, row.settings, row.ticket, self.ends, limit)

    def _read(self, rows: list[Row]) -> tuple[Tensor, Streams, Any, Tensor]:
        """Prompts and media -> (logits [R, V] of the next token, streams, cache, mask [R, T] of the prompts' visible tokens)."""
        model, task = self.model.model, rows[0].task
        step = self.collate(task, [row.opened for row in rows]).to(self.model.device)
        (batch,) = step.batches
        inputs = prompts_alone(batch, self.model.config.pad_token_id)
        ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
        streams = self._streams(task.given(self.model.encode(step.pool)), inputs, len(rows))
        mask = model.see(mask, model.placeholders(ids), streams)
        self.count(len(rows))
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions(mask),
            past_key_values=DynamicCache(),
            use_cache=True,
            streams=streams,
            prompt_lengths=mask.sum(1),
        )
        return self._logits(output.fused), streams, output.past_key_values, mask

    def _streams(self, streams: Streams, inputs: dict[str, Tensor], rows: int) -> Streams:
        """Routed streams of every input that the fusion reads, one unit per row; an input that no row has is there, and hidden."""
        model = self.model.model
        routed = model.route(streams, inputs, rows)
        for name in model.fusion.inputs:
            if name not in routed:
                routed[name] = model.connectors[name].nothing(rows, dtype=self.model.dtype, device=self.model.device)
        own = {name: alone(routed[name].by_row()) for name in sorted(routed)}
        return {name: widened(tokens) for name, tokens in own.items()} if self.compiled else own

    # ---- tokens

    def _next_logits(self) -> Tensor:
        """[n, V] of every row's next token."""
        if self._view is None:  # a cache that reads fills itself anew from the streams
            self._view = self.bank.view(), self.window.cache(reads=self.reads)
        streams, cache = self._view
        mask = self.window.next()
        ids = torch.tensor([[text.ids[-1]] for text in self.texts], device=mask.device)
        self.count(len(ids))
        output = self.forward(
            input_ids=ids,
            attention_mask=mask,
            position_ids=mask.sum(1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
            streams=streams,
        )
        self.window.advance()
        return self._logits(output.fused)

    def _logits(self, fused: Fused) -> Tensor:
        """[R, V] of the last token of each row, without tokens that are never written."""
        text = fused.branches["text"]
        last = Tokens(text.values[:, -1:], text.mask[:, -1:])
        logits = self.model.text_logits(replace(fused, branches={**fused.branches, "text": last}))[:, -1]
        if self.suppressed:
            logits[:, self.suppressed] = -torch.inf
        return logits

    def _choose(self, logits: Tensor, texts: Sequence[Text]) -> list[Reason | Failed | None]:
        """Write the next token of every text; why each ends with it, if it does."""
        best, ids = logits.max(-1)  # NaN where there is any
        good, greedy = best.isfinite().tolist(), ids.tolist()
        ends: list[Reason | Failed | None] = []
        for place, text in enumerate(texts):
            if not good[place]:
                ends.append(Failed("the model computed NaN or Inf for this request"))
                continue
            ends.append(text.add(text.choose(logits[place]) if text.settings.samples else greedy[place]))
            self.tokens += 1
        return ends

    def _write(self, logits: Tensor) -> None:
        ends = self._choose(logits, self.texts)
        for place in reversed(range(len(ends))):
            if (end := ends[place]) is not None:
                row, text = self.rows[place], self.texts[place]
                self._remove(place)
                self._finish(row, text, end)

    def _finish(self, row: Row, text: Text, end: Reason | Failed) -> None:
        if isinstance(end, Failed):
            row.ticket.finish(end)
            return
        prediction = Prediction(row.opened.sample.id, row.task.name, text.finish())
        row.ticket.finish(Finished(prediction, row.prompt_tokens, len(text.ids), end))

    def _remove(self, place: int) -> None:
        """Free a slot; the last row takes its place."""
        self.window.remove(place)
        self.bank.remove(place)
        self.rows[place], self.texts[place] = self.rows[-1], self.texts[-1]
        self.rows.pop(), self.texts.pop()
        self._view = None


def alone(tokens: Tokens) -> Tokens:
    """The same tokens with a memo of their own, alike in form whether they are there or absent."""
    item = torch.zeros_like(tokens.mask, dtype=torch.long) if tokens.item is None else tokens.item
    return replace(tokens, item=item, memo={})


def widened(tokens: Tokens) -> Tokens:
    """The same tokens, at least two a row: a compiler makes code of its own for one."""
    if tokens.values.shape[1] != 1 or tokens.item is None:
        return tokens
    mask, item = functional.pad(tokens.mask, (0, 1)), functional.pad(tokens.item, (0, 1))
    return replace(tokens, values=functional.pad(tokens.values, (0, 0, 0, 1)), mask=mask, item=item, grid=None)


def positions(mask: Tensor) -> Tensor:
    """[R, T] where each token stands, counted over visible ones."""
    return (mask.long().cumsum(1) - 1).clamp_min(0)
