"""No fusion: two towers that only a contrastive task compares (CLIP), or a backbone that reads everything itself."""

from __future__ import annotations

from typing import ClassVar

from chiasm.fusion.base import Fusion


class NoFusion(Fusion):
    """Streams never meet the backbone."""

    interacts: ClassVar[bool] = False
    reads_streams: ClassVar[bool] = False
