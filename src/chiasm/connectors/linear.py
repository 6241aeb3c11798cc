"""One linear layer (the first LLaVA)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from chiasm.connectors.base import Connector


class Linear(Connector):
    """y = W x + b."""

    def __init__(self, options: Any, source_width: int, width: int):
        super().__init__(options, source_width, width)
        self.layer = nn.Linear(source_width, width)

    def project(self, values: Tensor) -> Tensor:
        return self.layer(values)
