"""VisionEncoderDecoder: a vision transformer that a GPT-2 or BERT reads through cross-attention of its own (vit-gpt2's layout)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chiasm.convert.base import System, Weights, arch_section, random_ids, random_pictures

DECODERS = ("gpt2", "bert")
ENCODERS = ("vit", "deit", "swin", "beit", "dinov2")


class VisionEncoderDecoder(System):
    """Intermediate fusion through the backbone's own cross-attention."""

    classes = ("VisionEncoderDecoderModel",)

    def check(self) -> None:
        encoder, decoder = self.config.encoder, self.config.decoder
        if encoder.model_type not in ENCODERS:
            self.refuse("encoder.model_type", f"{encoder.model_type} cannot be converted; these can: {', '.join(ENCODERS)}")
        if decoder.model_type not in DECODERS:
            self.refuse("decoder.model_type", f"{decoder.model_type} cannot be converted; these can: {', '.join(DECODERS)}")
        if getattr(decoder, "cross_attention_hidden_size", None) is not None:
            self.refuse("decoder.cross_attention_hidden_size", "not supported; only a decoder that reads its own width is")

    @property
    def start(self) -> int:
        """The token that decoding starts with."""
        config = self.model.generation_config
        found = config.decoder_start_token_id if config.decoder_start_token_id is not None else config.bos_token_id
        if found is None:
            self.refuse("decoder_start_token_id", "neither config.json nor generation_config.json says it")
        return found

    def recipe(self) -> dict[str, Any]:
        decoder, tied = self.config.decoder, self.model.decoder
        same = tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
        first = self.tokenizer.convert_ids_to_tokens(self.start)
        if first is None:
            self.refuse("decoder_start_token_id", f"the tokenizer has no token {self.start}")
        section = {**arch_section(decoder), "tie_word_embeddings": same, "tokenizer": self.tokenizer_name}
        return {
            "inputs": {"image": self.picture()},
            "encoders": {"image": {**arch_section(self.config.encoder), "connector": {"type": "linear", "always": False}}},
            "backbone": {"kind": "causal", **section, "vocab_size": decoder.vocab_size, "start_token": first},
            "fusion": {"type": "cross_attention", "weights": "backbone", "positions": "none"},
            "tasks": {"caption": {"type": "generate", "prompt": "", "target": "{caption}", "generation": self.generation()}},
        }

    def move(self, weights: Weights, model: Any) -> None:
        weights.drop("encoder.pooler.", "the decoder reads the patches, not the encoder's pooled output")
        weights.part("encoder.", "model.encoders.image.network.")
        weights.part("enc_to_dec_proj.", "model.connectors.image.layer.")
        if self.config.decoder.model_type == "gpt2":
            weights.part("decoder.transformer.", "model.language_model.")
            weights.part("decoder.lm_head.", "lm_head.")
            return
        head = "decoder.cls.predictions."
        weights.drop("decoder.bert.pooler.", "a decoder's pooler is not read")
        weights.part("decoder.bert.", "model.language_model.")
        weights.part(head + "transform.", "word_transform.")
        weights.part(head + "decoder.", "lm_head.")
        weights.drop(head + "bias", "the same tensor as decoder.cls.predictions.decoder.bias")

    @torch.no_grad()
    def compare(self, model: Any, processor: Any) -> dict[str, tuple[Tensor, Tensor]]:
        draw = torch.Generator().manual_seed(0)
        pixels = random_pictures(self.config.encoder, 3, draw)
        ids, mask = random_ids(self.config.decoder.vocab_size, [7, 4, 1], draw, avoid=set())
        given = {"pixel_values": pixels.to(self.model.dtype), "decoder_input_ids": ids, "decoder_attention_mask": mask.long()}
        theirs = self.model(**given).logits
        ours = model(input_ids=ids, attention_mask=mask.long(), pixel_values=pixels).logits
        return {"logits": (theirs[mask], ours[mask][:, : theirs.shape[-1]])}
