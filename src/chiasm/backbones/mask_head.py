"""The head that a pretrained BERT guesses masked words with: taken over where it is of the usual build, dense, GELU, norm, words, bias."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForMaskedLM
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING


@torch.no_grad()
def take_mask_heads(model: Any, where: str | None) -> None:
    """Give every mask task the head of the checkpoint `where`; fresh where the checkpoint has none, or one that computes otherwise."""
    heads: list[Any] = [model.heads[name] for name, task in model.tasks.items() if task.masks]
    if not heads or where is None or type(model.config.get_text_config()) not in MODEL_FOR_MASKED_LM_MAPPING:
        return
    whole, info = AutoModelForMaskedLM.from_pretrained(where, output_loading_info=True, use_safetensors=True)
    inside = f"{whole.base_model_prefix}."
    parts = [module for name, module in whole.named_modules() if name and not f"{name}.".startswith(inside)]
    output = whole.get_output_embeddings()
    dense = [m for m in parts if isinstance(m, nn.Linear) and m is not output]
    norms = [m for m in parts if isinstance(m, nn.LayerNorm)]
    absent = [key for key in info["missing_keys"] if not key.startswith(inside)]
    square = len(dense) == 1 and dense[0].weight.shape == heads[0].dense.weight.shape
    if absent or not square or len(norms) != 1 or getattr(output, "bias", None) is None:
        return
    found = type(heads[0])(len(heads[0].bias), len(norms[0].weight)).to(output.weight.dtype)
    found.dense.load_state_dict(dense[0].state_dict())
    found.norm.load_state_dict(norms[0].state_dict())
    found.norm.eps = norms[0].eps
    found.bias[: len(output.bias)] = output.bias
    if _is_equal(model, whole.eval(), found):
        for head in heads:
            head.load_state_dict(found.state_dict())
            head.norm.eps = found.norm.eps


def _is_equal(model: Any, whole: Any, head: Any) -> bool:
    """Whether the backbone's output through `head` gives the logits of transformers' own model."""
    words = model.get_input_embeddings().weight
    ids = torch.arange(8).unsqueeze(0) + whole.config.vocab_size // 2
    trains = model.training
    read = model.eval().model.backbone.read(ids, torch.ones_like(ids, dtype=torch.bool)).values
    model.train(trains)
    expected = whole(input_ids=ids).logits
    logits = head(read, words)[..., : expected.shape[-1]]
    return torch.allclose(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
