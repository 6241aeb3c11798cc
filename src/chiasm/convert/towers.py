"""Two towers whose vectors a contrastive task compares: what CLIP and SigLIP share."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from chiasm.convert.base import System, Weights, arch_section, random_ids, random_pictures
from chiasm.types import Batch

SIDES = ("image", "caption")


class Towers(System):
    """Encoders of pictures and of texts, each with its own pooled output; no backbone and no fusion."""

    filled: ClassVar[bool] = False  # texts are filled with padding that is read

    def connectors(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What brings the picture's and the text's vector to one width."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """Of the vectors that are compared."""
        raise NotImplementedError

    def loss(self) -> dict[str, Any]:
        """The task's keys that say how vectors are compared."""
        raise NotImplementedError

    def scale(self) -> dict[str, Any]:
        """The temperature to begin a training with, and no limit on the scale where the checkpoint's is beyond the usual one."""
        learned = float(self.model.logit_scale.detach().float())
        limit = {} if learned <= math.log(100) else {"max_scale": None}
        return {"temperature": round(math.exp(-getattr(self.config, "logit_scale_init_value", math.log(10))), 6), **limit}

    def recipe(self) -> dict[str, Any]:
        text, (picture, words) = self.config.text_config, self.connectors()
        reads = {"modality": "text", "tokenizer": self.tokenizer_name, "max_tokens": text.max_position_embeddings, "filled": self.filled}
        compares = {"type": "contrast", "between": list(SIDES), "project": False, "width": self.width, **self.scale(), **self.loss()}
        return {
            "inputs": {"image": self.picture(), "caption": reads},
            "encoders": {
                "image": {**arch_section(self.config.vision_config), "pooled": True, "connector": picture},
                "caption": {**arch_section(text), "pooled": True, "connector": words},
            },
            "backbone": {"kind": "latent", "latents": 0, "hidden_size": self.width},
            "fusion": "none",
            "tasks": {"align": compares},
        }

    def move(self, weights: Weights, model: Any) -> None:
        weights.target["heads.align.log_scale.value"] = weights.take("logit_scale").reshape(())
        weights.part("vision_model.", "model.encoders.image.network.")
        weights.part("text_model.", "model.encoders.caption.network.")

    def texts(self, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """([4, T] token ids of texts of unequal length, [4, T] which of them are read)."""
        raise NotImplementedError

    @torch.no_grad()
    def compare(self, model: Any, processor: Any) -> dict[str, tuple[Tensor, Tensor]]:
        draw = torch.Generator().manual_seed(0)
        pixels = random_pictures(self.config.vision_config, 3, draw)
        ids, mask = self.texts(draw)
        read = {} if self.filled else {"attention_mask": mask.long()}
        theirs = self.model(input_ids=ids, pixel_values=pixels.to(self.model.dtype), **read)
        task = model.tasks["align"]
        index = {"image_index": torch.tensor([[0], [1], [2], [2]]), "caption_index": torch.arange(4).unsqueeze(1)}
        streams = model.encode({"image": {"pixel_values": pixels}, "caption": {"token_ids": ids, "token_mask": mask}})
        batch = Batch("align", list("abcd"), index, {})
        vectors = {side: task.side(model, batch, streams, side)[0] for side in SIDES}
        return {
            "image embeddings": (theirs.image_embeds, vectors["image"]),
            "text embeddings": (theirs.text_embeds, vectors["caption"]),
            "logits_per_image": (theirs.logits_per_image, task.scores(model, batch, streams)[0]),
        }


def words_of(config: Any, draw: torch.Generator, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Random texts whose last token is the one that CLIP pools: the end token, or, in old checkpoints, the highest of all."""
    last = config.vocab_size - 1 if config.eos_token_id == 2 else config.eos_token_id
    ids, mask = random_ids(config.vocab_size, lengths, draw, avoid={last})
    ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = last
    return ids, mask
