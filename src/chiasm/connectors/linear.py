"""One linear layer (the first LLaVA)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from chiasm.connectors.base import Connector
from chiasm.connectors.base import Options as BaseOptions


class Linear(Connector):
    """y = W x + b."""

    class Options(BaseOptions):
        bias: bool = True
        """Whether there is a b."""
        always: bool = True
        """false: tokens that are as wide as the backbone stay as they are (VisionEncoderDecoder, CLIP's towers)."""

    def __init__(self, options: Any, source_width: int, width: int):
        super().__init__(options, source_width, width)
        needed = options.always or source_width != width
        self.layer = nn.Linear(source_width, width, bias=options.bias) if needed else nn.Identity()

    def project(self, values: Tensor) -> Tensor:
        return self.layer(values)
