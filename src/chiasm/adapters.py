"""Low-rank adapters (LoRA, Hu et al., 2021) inside a part of the model, by peft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from chiasm.components import did_you_mean
from chiasm.types import RecipeError


def add_adapters(part: nn.Module, lora: Mapping[str, Any] | None, name: str) -> None:
    """Put low-rank adapters (peft) into a part's linear layers; they start as no change: W x + (alpha / rank) B A x with B = 0."""
    if lora is None:
        return
    from peft import LoraConfig, inject_adapter_in_model

    linear = {key: module for key, module in part.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    wanted = lora["targets"]
    for target in wanted or ():
        if not any(key == target or key.endswith(f".{target}") for key in linear):
            near = did_you_mean(target, (key.split(".")[-1] for key in linear))
            raise RecipeError(f"{name}.train.lora.targets: no linear layer '{target}'{near}")
    if not linear:
        raise RecipeError(f"{name}.train: lora needs linear layers to adapt, and it has none; write train: all, or a number of layers")
    config = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"] or 2 * lora["rank"],
        lora_dropout=lora["dropout"],
        target_modules=wanted or list(linear),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in linear.values()),
    )
    inject_adapter_in_model(config, part)
    for key, module in part.named_modules():
        if "lora_" in key:
            module._is_hf_initialized = True  # else transformers draws new weights for them, and B is no longer 0
