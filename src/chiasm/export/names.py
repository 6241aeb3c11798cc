"""Where a run's weights stand in the architectures of transformers that can hold it: prefix of ours -> prefix of theirs.

`{image}` is the run's image input. A weight belongs to the first pair that fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from chiasm.types import ChiasmError

Pairs = Sequence[tuple[str, str]]
Value = TypeVar("Value")

VISION_ENCODER_DECODER: Pairs = (
    ("model.encoders.{image}.network.", "encoder."),
    ("model.connectors.{image}.layer.", "enc_to_dec_proj."),
    ("model.language_model.", "decoder.transformer."),
    ("lm_head.", "decoder.lm_head."),
)
LLAVA: Pairs = (
    ("model.encoders.{image}.network.", "model.vision_tower."),
    ("model.connectors.{image}.layers.0.", "model.multi_modal_projector.linear_1."),
    ("model.connectors.{image}.layers.2.", "model.multi_modal_projector.linear_2."),
    ("model.language_model.", "model.language_model."),
    ("lm_head.", "lm_head."),
)


def renamed(weights: Mapping[str, Value], pairs: Pairs, image: str) -> dict[str, Value]:
    """The weights under the other architecture's names; ChiasmError for one that has no place there."""
    known = [(ours.format(image=image), theirs) for ours, theirs in pairs]
    found: dict[str, Value] = {}
    for name, value in weights.items():
        pair = next((pair for pair in known if name.startswith(pair[0])), None)
        if pair is None:
            raise ChiasmError(f"weight '{name}' has no place in that architecture")
        found[pair[1] + name.removeprefix(pair[0])] = value
    return found
