"""Pictures, clips and texts as vectors of one space, as a `contrast` task learned it; sentence-transformers calls these by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import ModelOutput


class Embeddings:
    """Mixed into the model. Vectors [N, width] of length 1 stand in `pooler_output`; cosine similarity compares them."""

    def embed_text(self: Any, input_ids: Tensor, attention_mask: Tensor | None = None) -> ModelOutput:
        """Texts [N, T] without special tokens around them; placeholders among them are not read."""
        task, side = self.compares("text")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        for place in self.model.placeholders(input_ids).values():
            mask = mask * ~place
        return _vectors(task.vectors(self, side, self.text_vector(input_ids, mask, through=task.options.text)))

    def embed_image(self: Any, pixel_values: Tensor) -> ModelOutput:
        """Pictures [N, 3, height, width]."""
        return self._embed("image", pixel_values=pixel_values)

    def embed_audio(self: Any, input_values: Tensor, input_values_mask: Tensor | None = None) -> ModelOutput:
        """Clips [N, frames] and where in them there is sound."""
        heard = torch.ones_like(input_values, dtype=torch.bool) if input_values_mask is None else input_values_mask
        return self._embed("audio", input_values=input_values, input_values_mask=heard)

    def _embed(self: Any, modality: str, **tensors: Tensor) -> ModelOutput:
        task, side = self.compares(modality)
        return _vectors(task.vectors(self, side, self.encode({side: tensors})[side].pooled()))

    def compares(self: Any, modality: str) -> tuple[Any, str]:
        """(the first task that compares something of this modality, which of its sides); TypeError where there is none."""
        for task in self.tasks.values():
            for side in task.sides if task.view == "towers" else ():
                if task.declared.get(side, "text") == modality:
                    return task, side
        raise TypeError(f"this model has no vectors of its own for {modality}: no task compares it with something (type: contrast)")


def _vectors(values: Tensor) -> ModelOutput:
    output = ModelOutput()
    output["pooler_output"] = values
    return output
