"""What a connector is: the adapter from an encoder's width (and length) to the backbone's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from chiasm.types import Tokens


class Options(BaseModel):
    """Keys of `connector:` in a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Connector(nn.Module):
    """Tokens [U, L, source_width] -> Tokens [U, L', width]. A connector that keeps the length only defines `project`."""

    Options = Options

    def __init__(self, options: Any, source_width: int, width: int):
        super().__init__()
        self.options, self.source_width, self.width = options, source_width, width

    def num_tokens(self, length: int | None) -> int | None:
        """How many tokens come out where `length` go in."""
        return length

    def project(self, values: Tensor) -> Tensor:
        """[U, L, source_width] -> [U, L, width]."""
        raise NotImplementedError

    def forward(self, tokens: Tokens) -> Tokens:
        visible = tokens.values.masked_fill(~tokens.mask.unsqueeze(-1), 0.0)  # garbage in padding would spoil the gradient
        return replace(tokens, values=self.project(visible))
