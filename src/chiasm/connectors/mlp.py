"""Two linear layers with a GELU between them (LLaVA 1.5)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from chiasm.connectors.base import Connector
from chiasm.connectors.base import Options as BaseOptions


class Mlp(Connector):
    """y = W2 gelu(W1 x + b1) + b2."""

    class Options(BaseOptions):
        hidden: int | None = None
        """Width between the two layers; the backbone's width if not given."""

    def __init__(self, options: Any, source_width: int, width: int):
        super().__init__(options, source_width, width)
        hidden = options.hidden or width
        self.layers = nn.Sequential(nn.Linear(source_width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))

    def project(self, values: Tensor) -> Tensor:
        return self.layers(values)
