"""Tiny random checkpoints of whole systems, written by transformers' save_pretrained, with their tokenizers and image processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import transformers
from tokenizers.processors import TemplateProcessing

from chiasm.media.tokenizer import learn_tokenizer

WORDS = [
    "is there a red cat ?",
    "what is this sound ?",
    "a blue dog and a green house near the old bridge",
    "yes no answer : user assistant",
]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "initializer_range": 0.3}
SMALLER = {**SIZES, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3}
MEAN, STD = [0.48, 0.45, 0.4], [0.27, 0.26, 0.28]


def spread(model: Any) -> Any:
    """The model with every weight away from its start, so that none that is forgotten or exchanged goes unseen."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def tokenizer_of(*, like: str = "gpt2", extra: tuple[str, ...] = ()) -> Any:
    """A tokenizer of whole words; like BERT's with [CLS] and [SEP], like CLIP's with both ends of a text, or without any."""
    tokenizer = learn_tokenizer(WORDS, kind="words", vocab_size=100, placeholders=list(extra))
    if like == "bert":
        tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]"})
        tokenizer.eos_token = tokenizer.bos_token = None
        ends = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]")]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    if like == "clip":
        ends = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    if like in ("siglip", "llama"):
        single, end = ("$A </s>", "</s>") if like == "siglip" else ("<s> $A", "<s>")
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=single, special_tokens=[(end, tokenizer.convert_tokens_to_ids(end))]
        )
    return tokenizer


def image_processor(side: int, *, crop: bool = False, short: int | None = None, name: str = "ViTImageProcessorPil", **more: Any) -> Any:
    """A processor for pictures of `side` pixels, that squashes them or cuts their centre."""
    size: dict[str, Any] = {"size": {"height": side, "width": side}}
    if crop:
        name, size = "CLIPImageProcessorPil", {"size": {"shortest_edge": short or side}, "crop_size": {"height": side, "width": side}}
    return getattr(transformers, name)(**{**size, "image_mean": MEAN, "image_std": STD, **more})


def picture_file(folder: Path, seed: int = 0, *, height: int = 41, width: int = 57, suffix: str = ".png") -> Path:
    """A picture of smooth noise, larger than what any of the tiny models reads."""
    small = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    path = folder / f"picture{seed}{suffix}"
    PIL.Image.fromarray(small).resize((width, height), PIL.Image.Resampling.BICUBIC).save(path)
    return path
