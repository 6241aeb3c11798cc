"""Four bits a weight for the frozen linear layers of a backbone (NF4: QLoRA, Dettmers et al., 2023), by bitsandbytes.

Packed weights are plain buffers, so a checkpoint, a run's model and `AutoModel.from_pretrained` hold them like any other tensor. They are
made when a model is built, out of the full weights, and never trained; LoRA adapters beside them are.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from chiasm.types import ChiasmError, RecipeError

BLOCK = 64  # weights that share one scale
WIDEST_GAP = 0.16  # half of the widest step between two NF4 levels, in units of a block's largest weight, and some rounding
LEVELS = 16


class FourBitLinear(nn.Module):
    """y = W x + b with W [out, in] in blocks of 64 weights: a level of 16 each, times the block's largest; `in` is a multiple of 64."""

    packed: Tensor
    largest: Tensor
    levels: Tensor
    weight = None  # some architectures look at its type before they call

    def __init__(self, out_features: int, in_features: int, bias: nn.Parameter | None):
        super().__init__()
        self.out_features, self.in_features, self.bias = out_features, in_features, bias
        count = out_features * in_features
        self.register_buffer("packed", torch.zeros(count // 2, 1, dtype=torch.uint8))  # two weights a byte, row by row
        self.register_buffer("largest", torch.zeros(count // BLOCK))
        self.register_buffer("levels", torch.zeros(LEVELS))

    @torch.no_grad()
    def take(self, weight: Tensor) -> None:
        """Quantise a weight [out, in]; ChiasmError where what comes back is further off than NF4 can be."""
        functional = library().functional
        self.packed, state = functional.quantize_4bit(weight.float().contiguous(), blocksize=BLOCK, quant_type="nf4")
        self.largest, self.levels = state.absmax.float(), state.code.float()
        off = (self.full() - weight).abs().reshape(-1, BLOCK)
        if not bool((off <= WIDEST_GAP * self.largest.unsqueeze(1) + 1e-8).all()):
            raise ChiasmError(f"bitsandbytes {library().__version__} does not give NF4 weights back right; install another version")

    def full(self) -> Tensor:
        """The weight [out, in] in float32."""
        return library().functional.dequantize_4bit(self.packed, self.state(torch.float32))

    def state(self, dtype: torch.dtype) -> Any:
        shape = torch.Size((self.out_features, self.in_features))
        return library().functional.QuantState(self.largest, shape, self.levels, BLOCK, "nf4", dtype)

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return library().matmul_4bit(x.to(dtype), self.packed.t(), quant_state=self.state(dtype), bias=bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def quantize(part: nn.Module, spared: Sequence[nn.Module], *, filled: bool) -> list[str]:
    """Put FourBitLinear in the place of the part's linear layers, except in `spared`; returns those left as they are, whose rows are no
    multiple of 64. `filled`: out of the weights that are there, else empty, for a checkpoint to be read into."""
    left = []
    for parent, name, layer, path in list(linear_layers(part, {id(inner) for module in spared for inner in module.modules()})):
        weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
        if weight.shape[1] % BLOCK:
            left.append(path)
            continue
        small = FourBitLinear(*weight.shape, layer.bias)
        if filled:
            small.take(weight.detach())
        setattr(parent, name, small)
    return left


def linear_layers(part: nn.Module, spared: Collection[int]) -> Iterator[tuple[nn.Module, str, Any, str]]:
    """(parent, name in it, layer, name in the part) of every linear layer that is no adapter's; `spared` are ids of modules."""
    for path, parent in part.named_modules():
        for name, layer in parent.named_children():
            if type(layer) in (nn.Linear, Conv1D) and "lora_" not in path and id(parent) not in spared:
                yield parent, name, layer, f"{path}.{name}".strip(".")


def is_quantized(model: nn.Module) -> bool:
    return any(isinstance(module, FourBitLinear) for module in model.modules())


def count_parameters(model: nn.Module) -> int:
    """How many numbers a model is made of, packed ones too."""
    packed = sum(module.in_features * module.out_features for module in model.modules() if isinstance(module, FourBitLinear))
    return packed + sum(parameter.numel() for parameter in model.parameters())


def library() -> ModuleType:
    """bitsandbytes, an extra."""
    try:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says which of its kernels other machines would have
        import bitsandbytes
    except ImportError:
        raise RecipeError("backbone.quantize: nf4 needs bitsandbytes; pip install 'chiasm[quant]'") from None
    return bitsandbytes
