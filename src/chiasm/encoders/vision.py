"""What reads pictures, one by one or as the frames of a video: patches of a transformer, or the cells of a convolutional feature map."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig

from chiasm.encoders.base import Options, pooled_output


class VisionOptions(Options):
    """Keys of an encoder of pictures."""

    grid: int | None = None
    """Average what the network sees of a picture, a feature map or patches, to grid x grid tokens."""
    layer: int = -1
    """Which hidden layer of a transformer to take (LLaVA: -2)."""
    class_token: bool = True
    """Keep a transformer's class token among the tokens (a grid has none)."""
    first_pooling: bool = True
    """Keep the max pooling after the first convolution of a ResNet; without it small pictures keep their detail."""
    pooled: bool = False
    """One token, the network's own pooled output, in place of its patches (CLIP's and SigLIP's vector of a picture)."""


def prepare(network: Any, options: VisionOptions) -> None:
    """Change a fresh network as the options say."""
    if not options.first_pooling and hasattr(network, "embedder"):
        network.embedder.pooler = nn.Identity()


def measure(network: Any, config: PreTrainedConfig, options: VisionOptions) -> tuple[int | None, bool]:
    """(tokens of a picture, whether they carry positions): by arithmetic where the config says it, else unknown before a picture."""
    patch, size = getattr(config, "patch_size", None), getattr(config, "image_size", None)
    transformer = isinstance(patch, int) and isinstance(size, int) and not getattr(config, "hidden_sizes", None)
    if options.pooled:
        return 1, True
    if options.grid:
        return options.grid**2, transformer
    if transformer:
        return (size // patch) ** 2 + tokens_ahead(network) * options.class_token, True
    return None, False


def tokens_ahead(network: Any) -> int:
    """How many tokens stand ahead of a transformer's patches: none, a class token, or DeiT's two."""
    names = [n for n, _ in network.named_parameters()] if hasattr(network, "embeddings") else []
    return sum(any(word in n for n in names) for word in ("cls", "class_embedding", "distillation_token"))


def hidden_states(network: Any, pixels: Tensor, layer: int) -> Tensor:
    """What the chosen layer makes of the pixels: [U, L, W], or a feature map [U, W, h, w]."""
    output = network(pixel_values=pixels, **({} if layer == -1 else {"output_hidden_states": True}))
    return output.last_hidden_state if layer == -1 else output.hidden_states[layer]


def picture_tokens(network: Any, pixels: Tensor, options: VisionOptions) -> tuple[Tensor, tuple[int, int] | None]:
    """Pictures [U, 3, H, W] -> (tokens [U, L, W], the grid they form, where they form one)."""
    if options.pooled:
        return pooled_output(network(pixel_values=pixels), network.config).unsqueeze(1), None
    values = hidden_states(network, pixels, options.layer)
    if values.ndim == 3:  # a transformer's patches, which stand behind its other tokens
        rows, columns = _patches(network, pixels, values.shape[1])
        skipped = values.shape[1] - rows * columns
        if options.grid is None:
            whole = skipped > 0 and options.class_token
            return (values, None) if whole else (values[:, skipped:], (rows, columns))
        values = values[:, skipped:].transpose(1, 2).unflatten(2, (rows, columns))
    if options.grid and values.shape[-2:] != (options.grid, options.grid):
        values = functional.adaptive_avg_pool2d(values, options.grid)
    return values.flatten(2).transpose(1, 2), (values.shape[-2], values.shape[-1])


def _patches(network: Any, pixels: Tensor, length: int) -> tuple[int, int]:
    """Rows and columns of patches, which are the last of a transformer's tokens."""
    patch = getattr(network.config, "patch_size", None)
    if isinstance(patch, int) and 0 <= length - (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch) < 16:
        return pixels.shape[-2] // patch, pixels.shape[-1] // patch
    return math.isqrt(length), math.isqrt(length)
