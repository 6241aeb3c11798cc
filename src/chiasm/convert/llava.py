"""LLaVA: the patches of a vision tower, through two linear layers, stand in a language model's sequence where the prompt places them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chiasm.convert.base import System, Weights, arch_section, random_ids, random_pictures
from chiasm.framing import edges
from chiasm.loading import chat_template
from chiasm.processing import placeholder
from chiasm.recipe_check import backbone_kind

TOWERS = ("clip_vision_model", "siglip_vision_model")
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
}
SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling")  # language models that change their logits in ways of their own
PROMPT = "USER: {image}\n{question} ASSISTANT:"


class Llava(System):
    """Early fusion on a causal backbone."""

    classes = ("LlavaForConditionalGeneration",)

    def check(self) -> None:
        vision, text = self.config.vision_config, self.config.text_config
        if vision.model_type not in TOWERS:
            self.refuse("vision_config.model_type", f"{vision.model_type} cannot be converted; these can: {', '.join(TOWERS)}")
        if backbone_kind(text) != "causal":
            self.refuse("text_config.model_type", f"{text.model_type} is no causal language model")
        if not isinstance(self.config.vision_feature_layer, int):
            self.refuse(
                "vision_feature_layer", f"{self.config.vision_feature_layer}: several layers side by side are not supported; only one is"
            )
        if self.config.vision_feature_select_strategy == "default" and vision.model_type == "siglip_vision_model":
            self.refuse(
                "vision_feature_select_strategy", "default drops a class token, which a siglip_vision_model has not; only full is supported"
            )
        if self.config.projector_hidden_act not in ACTIVATIONS:
            self.refuse("projector_hidden_act", f"{self.config.projector_hidden_act} is not supported; these are: {', '.join(ACTIVATIONS)}")
        for key in SCALED:
            if getattr(text, key, None) not in (None, 1.0):
                self.refuse(f"text_config.{key}", "a language model that scales its logits is not supported")

    def recipe(self) -> dict[str, Any]:
        config, tokenizer, words = self.config, self.tokenizer, self.model.get_input_embeddings()
        if tokenizer.get_vocab().get(placeholder("image")) != config.image_token_id:
            self.refuse("image_token_index", f"{config.image_token_id} is not the tokenizer's {placeholder('image')}")
        start = tokenizer.convert_ids_to_tokens(edges(tokenizer)[0])
        if len(start) > 1:
            self.refuse("tokenizer", f"it begins a text with several tokens, {' '.join(start)}; only one is supported")
        layer = config.vision_feature_layer if config.vision_feature_layer != -1 else config.vision_config.num_hidden_layers
        sees = {"layer": layer, "class_token": config.vision_feature_select_strategy == "full"}
        link = {"type": "mlp", "activation": ACTIVATIONS[config.projector_hidden_act], "bias": config.multimodal_projector_bias}
        reads = {"tie_word_embeddings": self.model.get_output_embeddings().weight is words.weight, "tokenizer": self.tokenizer_name}
        reads |= {"vocab_size": config.text_config.vocab_size, "start_token": "".join(start), "as_written": True}
        answers = {"type": "generate", "prompt": self.prompt(tokenizer), "target": "{answer}", "generation": self.generation()}
        return {
            "inputs": {"image": self.picture(), "question": "text"},
            "encoders": {"image": {**arch_section(config.vision_config), **sees, "connector": link}},
            "backbone": {"kind": "causal", **arch_section(config.text_config), **reads},
            "fusion": {"type": "early", "positions": "none"},
            "tasks": {"answer": answers},
        }

    def prompt(self, tokenizer: Any) -> str:
        """What the checkpoint's chat template makes of a picture and a question; LLaVA 1.5's words where it has none."""
        template = chat_template(self.where) or getattr(tokenizer, "chat_template", None)
        if not template:
            return PROMPT
        content = [{"type": "image"}, {"type": "text", "text": "{question}"}]
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], chat_template=template, tokenize=False, add_generation_prompt=True
        )
        text = text.removeprefix(tokenizer.bos_token or "").replace(placeholder("image"), "{image}").rstrip(" ")
        return text if text.count("{") == 2 and "{image}" in text and "{question}" in text else PROMPT

    def move(self, weights: Weights, model: Any) -> None:
        link = "model.connectors.image.layers."
        weights.part("model.vision_tower.", "model.encoders.image.network.")
        weights.part("model.multi_modal_projector.linear_1.", f"{link}0.")
        weights.part("model.multi_modal_projector.linear_2.", f"{link}2.")
        weights.part("model.language_model.", "model.language_model.")
        weights.part("lm_head.", "lm_head.")

    @torch.no_grad()
    def compare(self, model: Any, processor: Any) -> dict[str, tuple[Tensor, Tensor]]:
        draw, image = torch.Generator().manual_seed(0), self.config.image_token_id
        pixels = random_pictures(self.config.vision_config, 3, draw)
        run = processor.placeholder_counts["image"]
        ids, mask = random_ids(self.config.text_config.vocab_size, [run + 6, run + 3, run + 4], draw, avoid={image})
        for row, at in enumerate((2, 0, 4)):
            ids[row, at : at + run] = image
        theirs = self.model(input_ids=ids, attention_mask=mask.long(), pixel_values=pixels.to(self.model.dtype)).logits
        ours = model(input_ids=ids, attention_mask=mask.long(), pixel_values=pixels).logits
        return {"logits": (theirs[mask], ours[mask])}
