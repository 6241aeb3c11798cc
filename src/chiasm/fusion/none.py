"""No fusion: two towers that only a contrastive task compares (CLIP), or a backbone that reads everything itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from chiasm.fusion.base import BackboneShape, Fusion, StreamShape


class NoFusion(Fusion):
    """Streams never meet the backbone."""

    paper = "CLIP, Radford et al., 2021"
    interacts = False
    reads_streams: ClassVar[bool] = False

    def __init__(self, options: Any, backbone: BackboneShape, streams: Mapping[str, StreamShape]):
        super().__init__(options.model_copy(update={"inputs": ()}), backbone, streams)
