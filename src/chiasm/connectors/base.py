"""What a connector is: the adapter from an encoder's width (and length) to the backbone's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from chiasm.fusion.attention import readable
from chiasm.types import Step, Streams, Tokens


class Options(BaseModel):
    """Keys of `connector:` in a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Connector(nn.Module):
    """Tokens [U, L, source_width] -> Tokens [U, L', width]. A connector that keeps the length only defines `project`.

    One that `reads_text` does in `forward` what needs no text, once per picture or clip, and the rest in `read`, once per row.
    """

    Options = Options
    has_positions: bool = False  # what comes out carries its place, even where the encoder's tokens do not
    reads_text: bool = False

    def __init__(self, options: Any, source_width: int, width: int):
        super().__init__()
        self.options, self.source_width, self.width = options, source_width, width

    @property
    def carries(self) -> int:
        """Width of what `forward` gives."""
        return self.width

    def num_tokens(self, length: int | None) -> int | None:
        """How many tokens come out where `length` go in."""
        return length

    def project(self, values: Tensor) -> Tensor:
        """[U, L, source_width] -> [U, L, width]."""
        raise NotImplementedError

    def forward(self, tokens: Tokens) -> Tokens:
        visible = tokens.values.masked_fill(~tokens.mask.unsqueeze(-1), 0.0)  # garbage in padding would spoil the gradient
        return replace(tokens, values=self.project(visible))

    def nothing(self, rows: int, *, dtype: torch.dtype, device: torch.device) -> Tokens:
        """What `forward` would give for an input that none of `rows` rows has: one unit, hidden."""
        values, share = torch.zeros(1, 1, self.carries, dtype=dtype, device=device), torch.zeros(rows, dtype=torch.long, device=device)
        return Tokens(values, torch.zeros(1, 1, dtype=torch.bool, device=device), share=share)

    def read(self, tokens: Tokens, prompt: Tokens, step: Step) -> Tokens:
        """What `forward` gave, laid out by row, and the embedded prompt [R, T, width] -> Tokens [R, L', width]."""
        raise NotImplementedError

    def seen(self, tokens: Tokens) -> Tensor:
        """[R, L'] which tokens of each row are visible in the end, of what `forward` gave."""
        return tokens.mask if tokens.share is None else tokens.mask[tokens.share]


def read_prompt(connectors: Mapping[str, Any], streams: Streams, text: Tokens, step: Step) -> Streams:
    """The streams after those connectors that read text have read the prompt's words: once, and frozen for what is written after it."""
    reading = [name for name in streams if connectors[name].reads_text]
    if not reading:
        return streams
    prompt = readable(text, step)
    for place in step.placeholders.values():
        prompt = replace(prompt, mask=prompt.mask & ~place)
    change = {n: partial(connectors[n].read, streams[n], prompt, step) for n in reading}
    return {n: tokens.frozen((connectors[n], "read"), step, change[n]) if n in change else tokens for n, tokens in streams.items()}
