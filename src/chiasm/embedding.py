"""Pictures, clips and texts as vectors of one space, as a `contrast` task learned it; sentence-transformers calls these by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import ModelOutput

from chiasm.config import is_read


class MediaFeatures:
    """Mixed into the model without a head: media as the tokens that the backbone gets (transformers' names for it)."""

    def get_image_features(self: Any, pixel_values: Tensor, **kwargs: Any) -> ModelOutput:
        """Tokens of the first image input, one tensor [L, W] per picture in `pooler_output` (transformers' convention).

        Where they enter the sequence they are what stands there, so that a server may put them in `inputs_embeds` itself. Those of a
        vision-language backbone that reads pictures itself are its own.
        """
        if any(spec["modality"] == "image" and is_read(spec) for spec in self.config.inputs.values()):
            return self.language_model.get_image_features(pixel_values, **kwargs)
        return self._features("image", pixel_values=pixel_values, **kwargs)

    def get_audio_features(self: Any, input_values: Tensor, input_values_mask: Tensor | None = None, **kwargs: Any) -> ModelOutput:
        """Tokens of the first audio input, like those of a picture."""
        heard = input_values_mask if input_values_mask is not None else torch.ones_like(input_values, dtype=torch.bool)
        return self._features("audio", input_values=input_values, input_values_mask=heard)

    def get_video_features(self: Any, pixel_values_videos: Tensor, video_mask: Tensor | None = None, **kwargs: Any) -> ModelOutput:
        """Tokens of the first video input, one tensor [L, W] per clip in `pooler_output`."""
        return self._features("video", pixel_values_videos=pixel_values_videos, video_mask=video_mask, **kwargs)

    def _features(self: Any, modality: str, **tensors: Any) -> ModelOutput:
        name = next((n for n, spec in self.config.inputs.items() if spec["modality"] == modality and n in self.encoders), None)
        if name is None:
            raise TypeError(f"this model reads no {modality}; its inputs are: {', '.join(self.config.inputs)}")
        if self.connectors[name].reads_text:
            raise TypeError(f"the connector of {name} reads the prompt's text, so a picture or clip has no tokens without it; use forward")
        tokens = self.encode({name: {k: v for k, v in tensors.items() if k in self.encoders[name].modality.tensors}})[name]
        if name in self.config.placeholder_ids:
            tokens = self.fusion.place({name: tokens}).get(name, tokens)
        output = ModelOutput()
        output["last_hidden_state"] = tokens.values
        output["pooler_output"] = [values[mask] for values, mask in zip(tokens.values, tokens.mask, strict=True)]
        return output


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
