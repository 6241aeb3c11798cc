"""Tiny two-layer composites for the contract tests: any fusion on any kind of backbone, with pictures and sounds."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from chiasm.assemble import build
from chiasm.components import names
from chiasm.recipe import load_recipe
from chiasm.types import Sample, Streams

WORDS = ["is there a red cat ?", "what is this sound ?", "a blue dog and a green house near the old bridge", "yes", "no", "answer :"]
VIT = {"arch": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "patch_size": 8}
LOG_MEL = {
    "arch": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [12, 16],
    "depths": [1, 1],
    "layer_type": "basic",
    "mels": 8,
    "tokens": 3,
    "first_pooling": False,
}
NEITHER_DROPS = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
GPT2 = {"arch": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 64, "initializer_range": 0.3}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "initializer_range": 0.3}
DECODER = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
T5 = {"arch": "t5", "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0, "tokenizer": "words"}
BART_ENCODER = {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48}
BART_DECODER = {"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48, "max_position_embeddings": 64}
BART = {"arch": "bart", "d_model": 32, **BART_ENCODER, **BART_DECODER, "dropout": 0.0, "init_std": 0.3, "tokenizer": "words"}
BACKBONES: dict[str, dict[str, Any]] = {
    "gpt2": {**GPT2, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "tokenizer": "words"},
    "qwen3": {"arch": "qwen3", **DECODER, "tokenizer": "words"},
    "llama": {"arch": "llama", **DECODER, "tie_word_embeddings": False, "tokenizer": "words"},
    "bert": {"kind": "bidirectional", "arch": "bert", **SMALL, **NEITHER_DROPS, "max_position_embeddings": 64, "tokenizer": "words"},
    "bert decoder": {
        "kind": "causal",
        "arch": "bert",
        "is_decoder": True,
        **SMALL,
        **NEITHER_DROPS,
        "max_position_embeddings": 64,
        "tokenizer": "words",
    },
    "latent": {"kind": "latent", "arch": "bert", **SMALL, **NEITHER_DROPS, "latents": 3},
    "t5": T5,  # the fusion meets the decoder
    "t5 encoder": {**T5, "side": "encoder", "num_decoder_layers": 3},
    "bart": BART,
    "bart encoder": {**BART, "side": "encoder", "decoder_layers": 1},
}
CAUSAL = ("gpt2", "qwen3")
SEQ2SEQ = ("t5", "t5 encoder", "bart", "bart encoder")
ON_BART = ("early", "cross_attention", "co_attention", "hybrid")
FEATURES = ("a", "b", "c", "d")  # columns of ready-made vectors
HYBRID = {"type": "hybrid", "parts": [{"type": "cross_attention", "inputs": ["image"]}, {"type": "early", "inputs": ["audio"]}]}
VARIANTS: dict[str, dict[str, Any]] = {
    "late": {"type": "late", "normalize": True},
    **{f"late {how}": {"type": "late", "combine": how} for how in ("sum", "gated", "film", "tensor", "low_rank", "decisions", "weighted")},
    "lxmert": {"type": "co_attention", "norm": "post", "share": True},
    "graph of all": {"type": "graph", "neighbours": 99, "feed_forward": 0},
    **{f"alpha printed {how}": {"type": "alpha_gated", "form": "printed", "align": how} for how in ("pool", "attention", "resample")},
    "alpha literal": {"type": "alpha_gated", "norm": False},
    "hybrid": HYBRID,
    "hybrid late": {"type": "hybrid", "parts": [{"type": "gated_cross_attention", "every": 2}, {"type": "late", "combine": "decisions"}]},
}
OUTSIDE = [name for name in [os.environ.get("CHIASM_FUSION")] if name]  # package.module:Class, tried like the repository's own
STRATEGIES = [*names("fusion"), *OUTSIDE]
FUSIONS: dict[str, dict[str, Any]] = {**{name: {"type": name} for name in STRATEGIES}, **VARIANTS}
OWN_WEIGHTS = {"type": "cross_attention", "weights": "backbone"}


def cells() -> list[tuple[str, str]]:
    """(fusion, backbone): every strategy on every kind of backbone, its variants on one; an encoder-decoder on both sides."""
    return [(fusion, backbone) for fusion in [*FUSIONS, "own weights"] for backbone in valid(fusion)]


@torch.no_grad()
def calm(model: Any) -> Any:
    """A copy with matrices of the size that training starts from; the tiny models' are larger, so that every change shows."""
    found = copy.deepcopy(model)
    for parameter in found.parameters():
        parameter.mul_(0.3 if parameter.ndim > 1 else 1.0)
    return found


def marked(chosen: Iterable[tuple[str, str]], slow: Sequence[str] = ("qwen3", "t5 encoder", "bart", "bart encoder")) -> list[Any]:
    """Cells as parameters of a test; those on a second backbone of a kind are slow."""
    return [pytest.param(*cell, marks=[pytest.mark.slow] if cell[1] in slow else []) for cell in chosen]


def valid(fusion: str) -> tuple[str, ...]:
    if fusion == "own weights":
        return ("gpt2", "bert decoder", "t5", "bart")
    if fusion not in STRATEGIES:
        return ("gpt2",)
    return (*CAUSAL, "bert", "latent", "t5", "t5 encoder", *(("bart", "bart encoder") if fusion in ON_BART else ()))


@lru_cache(maxsize=64)
def tiny(fusion: str, backbone: str) -> tuple[Any, Any]:
    """(model in eval mode with half-open gates, processor); shared between tests, which leave it as it is."""
    model, processor = assembled(FUSIONS.get(fusion, OWN_WEIGHTS), backbone)
    with torch.no_grad():
        for gate in model.fusion.gates():
            gate.fill_(0.5)
    return model, processor


def recipe_of(fusion: dict[str, Any], backbone: str, /, **changes: Any) -> dict[str, Any]:
    """A recipe with an image, a sound and, where the backbone reads text, a question."""
    inputs: dict[str, Any] = {
        "image": {"modality": "image", "size": 16},
        "audio": {"modality": "audio", "sampling_rate": 8000, "seconds": 0.1},
    }
    latent = backbone == "latent"
    writes = {"type": "generate", "prompt": "{question}", "target": "{answer}"}
    chooses = {"type": "classify", "target": "answer", "dropout": 0.0}
    compares = {"type": "contrast", "between": ["image", "audio"]}  # all that can be done with inputs that never meet the backbone
    task = compares if fusion["type"] == "none" else chooses if latent or backbone == "bert" else writes
    return {
        "inputs": inputs if latent else {**inputs, "question": "text"},
        "encoders": {"image": {**VIT, **NEITHER_DROPS}, "audio": LOG_MEL},
        "backbone": BACKBONES[backbone],
        "fusion": fusion,
        "tasks": {"answer": task},
        **changes,
    }


def assembled(fusion: dict[str, Any], backbone: str, /, **changes: Any) -> tuple[Any, Any]:
    """(model, processor) of `recipe_of`; noise in place of zeros."""
    model, processor = build(load_recipe(recipe_of(fusion, backbone, **changes)), rows(), WORDS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or parameter.ndim == 0:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval(), processor


def rows(count: int = 4) -> list[Sample]:
    parts = [{"image": picture(i), "audio": sound(i), "question": WORDS[i % 3], "answer": ["yes", "no"][i % 2]} for i in range(count)]
    more = [{name: vectors(i + 10 * place, 3) for place, name in enumerate(FEATURES)} for i in range(count)]
    return [Sample(f"row{i}", {**part, **features}) for i, (part, features) in enumerate(zip(parts, more, strict=True))]


def film(seed: int, frames: int = 4) -> np.ndarray:
    """uint8 [frames, 16, 16, 3] of a moving picture."""
    return np.random.default_rng(seed).integers(0, 255, (frames, 16, 16, 3), dtype=np.uint8)


def vectors(seed: int, length: int) -> np.ndarray:
    """[length, 6] ready-made features."""
    return np.random.default_rng(seed).normal(size=(length, 6)).astype(np.float32)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8)


def sound(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, 800).astype(np.float32)


def prepared(processor: Any, which: list[int], *, image: list[Any] | None = None, audio: list[Any] | None = None, **more: Any) -> Any:
    """The processor's output for rows `which`; pictures and sounds as given, else one each. A latent backbone gets no text."""
    texts = [WORDS[i % 3] if processor.layout["close"] or "question" in processor.inputs else "" for i in which]
    images = [picture(i) for i in which] if image is None else image
    sounds = [sound(i) for i in which] if audio is None else audio
    media = {"images": images, "audio": sounds}
    return processor(text=texts, **{k: v for k, v in media.items() if any(i is not None for i in v)}, **more)


def routed(model: Any, inputs: Any) -> Streams:
    """Encoded streams of the inputs, each row with its units."""
    pool, _ = model.model.pool_of({k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")})
    return model.model.route(model.encode(pool), inputs, len(inputs["input_ids"]))


def results(model: Any, inputs: Any, streams: Streams | None = None) -> list[torch.Tensor]:
    """One vector per row and visible token of each branch, by name, weighted as the fusion weighs it; equal inputs give equal results."""
    if streams is None:
        streams = routed(model, inputs)
    mask = inputs["attention_mask"]
    fused = model.model(input_ids=inputs["input_ids"], attention_mask=mask, streams=streams, prompt_lengths=mask.sum(1)).fused
    found = []
    for name in sorted(fused.branches):
        tokens, number = fused.branches[name], list(fused.branches).index(name)
        weight = 1.0 if fused.mix is None else fused.mix[:, number, None, None]
        found.append([row[mask] for row, mask in zip(tokens.values * weight, tokens.mask, strict=True)])
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def counted_macs(model: Any, run: Callable[[], Any]) -> float:
    """The multiply-accumulates that torch counts inside the fusion's hooks while `run` runs the model; its hooks stay wrapped."""
    counted: list[int] = []

    def counting(hook: Callable[..., Any], *args: Any) -> Any:
        with FlopCounterMode(display=False) as counter:
            found = hook(*args)
        counted.append(counter.get_total_flops())
        return found

    for name in ("place", "before", "memory", "between", "after"):
        setattr(model.fusion, name, partial(counting, getattr(model.fusion, name)))
    with sdpa_kernel(SDPBackend.MATH):
        run()
    return sum(counted) / 2
