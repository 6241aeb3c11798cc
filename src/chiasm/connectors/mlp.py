"""Two linear layers with a GELU between them (LLaVA 1.5)."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

from chiasm.connectors.base import Connector
from chiasm.connectors.base import Options as BaseOptions

ACTIVATIONS: dict[str, Any] = {
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "gelu": nn.GELU,
    "quick_gelu": QuickGELUActivation,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}


class Mlp(Connector):
    """y = W2 gelu(W1 x + b1) + b2."""

    class Options(BaseOptions):
        hidden: int | None = None
        """Width between the two layers; the backbone's width if not given."""
        activation: Literal["gelu_tanh", "gelu", "quick_gelu", "relu", "silu"] = "gelu_tanh"
        """What stands between them; gelu_tanh is the fast approximation of gelu (LLaVA's)."""
        bias: bool = True
        """Whether there are b1 and b2."""

    def __init__(self, options: Any, source_width: int, width: int):
        super().__init__(options, source_width, width)
        hidden = options.hidden or width
        first, second = nn.Linear(source_width, hidden, bias=options.bias), nn.Linear(hidden, width, bias=options.bias)
        self.layers = nn.Sequential(first, ACTIVATIONS[options.activation](), second)

    def project(self, values: Tensor) -> Tensor:
        return self.layers(values)
