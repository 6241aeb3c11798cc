"""Videos -> tokens: frame by frame through any transformers image model, or through a video model (VideoMAE, ViViT, TimeSformer).

Which of the two follows from the config: a video model's says how many frames it reads (`num_frames`). Of a clip that is read frame by
frame the tokens stand frame after frame, and each carries when it was seen: sinusoids of the seconds, in proportion to the token itself,
so that they are there with a frozen network too.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig

from chiasm.encoders.base import CHANNELS_LAST, Encoder, width_of
from chiasm.encoders.vision import VisionOptions, hidden_states, measure, picture_tokens, prepare, tokens_ahead
from chiasm.types import RecipeError, Tokens

SHORTEST, LONGEST = 0.2, 10_000.0  # seconds: periods of the sinusoids that tell the time


class Video(Encoder):
    """pixel_values_videos [U, T, 3, height, width], video_mask [U, T] and video_times [U, T] -> Tokens [U, L, width]."""

    class Options(VisionOptions):
        time: Literal["seconds", "none"] = "seconds"
        """How a frame's tokens tell when it was seen; of a video model its own positions do."""
        differences: bool = False
        """Join to every token how its place changes from the frame before to the frame after, which shows motion (twice the width)."""

    def __init__(self, options: Any, config: PreTrainedConfig | None, modality: Any):
        assert config is not None, "a video encoder needs a transformers config"
        config = getattr(config, "vision_config", config)
        super().__init__(options, config, modality)
        self.width, self.whole = width_of(config), frames_read(config) is not None
        self.clock: Clock | None = None
        if self.whole:
            self.num_tokens = self._measure_whole(config)
            return
        prepare(self.network, options)
        of_frame, placed = measure(self.network, config, options)
        frames = modality.options.frames
        self.num_tokens = None if of_frame is None or frames is None else of_frame * frames
        self.has_positions = options.time != "none" and (placed or of_frame == 1)
        self.width *= 2 if options.differences else 1
        self.clock = Clock(self.width) if options.time == "seconds" else None

    @classmethod
    def modality_options(cls, config: PreTrainedConfig) -> dict[str, Any]:
        frames = frames_read(config)
        return {} if frames is None else {"frames": frames}

    def forward(self, **tensors: Tensor) -> Tokens:
        pixels = tensors["pixel_values_videos"].to(self.dtype)  # [U, T, 3, H, W]
        mask = tensors.get("video_mask")
        mask = torch.ones(pixels.shape[:2], dtype=torch.bool, device=pixels.device) if mask is None else mask
        if self.whole:
            values = self._read_whole(pixels)  # [U, L, width]
            return self._tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))
        values = self._read_frames(pixels, mask)  # [U, T, L, width]
        if self.options.differences:
            values = torch.cat([values, differences(values, mask)], -1)
        if self.clock is not None:
            times = tensors.get("video_times")
            values = self.clock(values, self._counted(mask) if times is None else times)
        return self._tokens(values.flatten(1, 2), mask.repeat_interleave(values.shape[2], 1))

    @staticmethod
    def _tokens(values: Tensor, mask: Tensor) -> Tokens:
        return Tokens(values, mask, item=torch.zeros_like(mask, dtype=torch.long))

    def _counted(self, mask: Tensor) -> Tensor:
        """The seconds of frames whose times are not given."""
        return torch.arange(mask.shape[1], device=mask.device).expand(mask.shape) / self.modality.options.frame_rate

    def _read_frames(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """Only frames that are there are read: [U, T, 3, H, W] -> [U, T, L, width], 0 where there is none."""
        if self.modality.options.frames is not None:  # then none is padding
            flat = pixels.flatten(0, 1).to(memory_format=CHANNELS_LAST)
            return picture_tokens(self.network, flat, self.options)[0].unflatten(0, mask.shape)
        found, _ = picture_tokens(self.network, pixels[mask].to(memory_format=CHANNELS_LAST), self.options)
        return found.new_zeros(*mask.shape, *found.shape[1:]).masked_scatter(mask[..., None, None], found)

    def _measure_whole(self, config: PreTrainedConfig) -> int:
        """How many tokens a video model makes; RecipeError where the clips are not what it reads."""
        frames, given = frames_read(config), self.modality.options.frames
        if given != frames:
            raise RecipeError(f"encoder {config.model_type}: it reads clips of {frames} frames; write frames: {frames} in the input")
        steps, rows, columns = self._cells(config)
        if self.options.grid:
            if config.model_type == "timesformer":
                raise RecipeError("encoder timesformer: its tokens are not in order of time; leave out grid")
            return steps * self.options.grid**2
        return steps * rows * columns + tokens_ahead(self.network) * self.options.class_token

    @staticmethod
    def _cells(config: Any) -> tuple[int, int, int]:
        """Steps in time, rows and columns of a video model's tokens."""
        tubelet, size = getattr(config, "tubelet_size", 1), config.image_size
        depth, height, width = tubelet if isinstance(tubelet, list | tuple) else (tubelet, config.patch_size, config.patch_size)
        if config.num_frames % depth:
            raise RecipeError(f"encoder {config.model_type}: it joins {depth} frames; take a multiple of {depth} as the input's frames")
        return config.num_frames // depth, size // height, size // width

    def _read_whole(self, pixels: Tensor) -> Tensor:
        """[U, T, 3, H, W] -> [U, L, width]."""
        values = hidden_states(self.network, pixels, self.options.layer)
        cells = self._cells(self.network.config)
        skipped = values.shape[1] - math.prod(cells)
        if self.options.grid is None:
            return values if self.options.class_token else values[:, skipped:]
        maps = values[:, skipped:].transpose(1, 2).unflatten(2, cells)  # [U, width, steps, rows, columns]
        return functional.adaptive_avg_pool3d(maps, (cells[0], self.options.grid, self.options.grid)).flatten(2).transpose(1, 2)


class Clock(nn.Module):
    """values [U, T, L, W] and seconds [U, T] -> values plus sinusoids of the seconds, in a learned proportion of each token's own size."""

    periods: Tensor

    def __init__(self, width: int):
        super().__init__()
        half = torch.arange((width + 1) // 2) / max(1, (width + 1) // 2 - 1)
        self.register_buffer("periods", SHORTEST * (LONGEST / SHORTEST) ** half)  # [W / 2]
        self.share = nn.Parameter(torch.tensor(0.5))

    def forward(self, values: Tensor, seconds: Tensor) -> Tensor:
        angles = 2 * math.pi * seconds.float().unsqueeze(-1) / self.periods.float()  # [U, T, W / 2]
        waves = torch.cat([angles.sin(), angles.cos()], -1)[..., : values.shape[-1]].to(values.dtype).unsqueeze(2)
        size = (values.square().mean(-1, keepdim=True) + 1e-6).sqrt()  # a token that is all 0 has a gradient too
        return values + self.share * size * waves


def frames_read(config: Any) -> int | None:
    """How many frames a video model reads at a time; None of an image model."""
    return getattr(config, "num_frames", None)


def differences(values: Tensor, mask: Tensor) -> Tensor:
    """[U, T, L, W]: the frame after less the frame before; a clip's first and last frame stand in for what lies beyond them."""
    steps = torch.arange(values.shape[1], device=values.device)
    last = (mask.long().sum(1, keepdim=True) - 1).clamp_min(0)
    after = torch.minimum(steps + 1, last)  # [U, T]
    before = torch.minimum((steps - 1).clamp_min(0).expand_as(after), last)
    index = [place[..., None, None].expand(-1, -1, *values.shape[2:]) for place in (after, before)]
    return values.gather(1, index[0]) - values.gather(1, index[1])
