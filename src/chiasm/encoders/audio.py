"""Sounds -> tokens, through any transformers audio model, or through an image model that looks at the log-mel spectrogram.

The front end follows from the network's main input: `input_values` of wav2vec2-like models is the waveform, `input_features` (Whisper, AST)
comes from the model's own feature extractor, and `pixel_values` (a ResNet, say) is the log-mel spectrogram as a picture with one channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig
from transformers.audio_utils import mel_filter_bank
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING

from chiasm.encoders.base import CHANNELS_LAST, Encoder, pool_time, width_of
from chiasm.encoders.base import Options as BaseOptions
from chiasm.types import Tokens


class Audio(Encoder):
    """input_values [U, frames] and their mask -> Tokens [U, L, width]."""

    class Options(BaseOptions):
        tokens: int | None = None
        """Average the time axis to this many tokens."""
        mels: int = 40
        """Mel bands of the spectrogram, where the network is an image architecture."""
        window_ms: float = 32.0
        """Length of a spectrogram frame."""
        hop_ms: float = 10.0
        """Step between spectrogram frames."""
        first_pooling: bool = True
        """Keep the max pooling after the first convolution of a ResNet."""
        extractor: dict[str, Any] | None = None
        """Settings of the model's own feature extractor; filled in when a pretrained name is given."""

    def __init__(self, options: Any, config: PreTrainedConfig | None, modality: Any):
        assert config is not None, "an audio encoder needs a transformers config"
        if options.mels and hasattr(config, "num_channels"):
            config.num_channels = 1
        super().__init__(options, config, modality)
        self.front: nn.Module | None = None
        self.kind = "input_features" if hasattr(config, "num_mel_bins") else self.network.main_input_name
        if self.kind == "pixel_values":
            self.front = LogMel(modality.options.sampling_rate, options.mels, options.window_ms, options.hop_ms)
        if not options.first_pooling and hasattr(self.network, "embedder"):
            self.network.embedder.pooler = nn.Identity()
        self.extractor: Any = feature_extractor(config, options.extractor) if self.kind == "input_features" else None
        if self.extractor is not None and config.is_encoder_decoder:
            self.network = self.network.encoder  # Whisper: only its encoder listens
        self.width = width_of(config)
        self.num_tokens = options.tokens
        self.has_positions = self.kind != "pixel_values"

    def forward(self, **tensors: Tensor) -> Tokens:
        wave, heard = tensors["input_values"], tensors["input_values_mask"]  # [U, frames] twice
        fixed = self.modality.options.seconds is not None  # then the silence after a short clip is part of it
        counted = torch.ones_like(heard) if fixed else heard
        if self.front is not None:
            picture = self.front(wave * heard, counted).to(self.dtype, memory_format=CHANNELS_LAST)
            values = self.network(pixel_values=picture).last_hidden_state.mean(2).transpose(1, 2)  # [U, time, width]
        elif self.extractor is not None:
            values = self.network(self.extract(wave, heard)).last_hidden_state
        else:
            centred = normalise(wave, heard).to(self.dtype)
            values = self.network(centred, attention_mask=heard.long()).last_hidden_state
        if self.options.tokens:
            values = pool_time(values, self.lengths(counted, values.shape[1]), self.options.tokens)
            mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        else:
            mask = torch.arange(values.shape[1], device=values.device) < self.lengths(heard, values.shape[1]).unsqueeze(1)
        return Tokens(values, mask, item=torch.zeros_like(mask, dtype=torch.long))

    def lengths(self, heard: Tensor, length: int) -> Tensor:
        """[U, frames] -> [U] how many of the network's `length` tokens are of sound, not of padding."""
        frames, whole = heard.sum(1), heard.shape[1]
        if self.kind == "input_values" and hasattr(self.network, "_get_feat_extract_output_lengths"):
            return self.network._get_feat_extract_output_lengths(frames).clamp(0, length)
        if self.extractor is not None:
            whole = getattr(self.extractor, "n_samples", None)  # Whisper pads every clip to this
        if whole is None:
            return torch.full_like(frames, length)
        return -(-frames * length // whole).clamp(-length, 0)

    def extract(self, wave: Tensor, heard: Tensor) -> Tensor:
        """The model's own features [U, ...] of each clip, by transformers' feature extractor."""
        clips = [w[m].cpu().float().numpy() for w, m in zip(wave, heard, strict=True)]
        features = self.extractor(clips, sampling_rate=self.extractor.sampling_rate, return_tensors="pt")
        return features[self.extractor.model_input_names[0]].to(wave.device, self.dtype)


def feature_extractor(config: PreTrainedConfig, settings: dict[str, Any] | None) -> Any:
    """The feature extractor of the config's architecture."""
    kind: Any = FEATURE_EXTRACTOR_MAPPING[type(config)]
    return kind(**(settings or {}))


class LogMel(nn.Module):
    """Waveform [U, frames] -> log-mel picture [U, 1, mels, time]; what counts of each clip has mean 0 and variance 1, the rest is 0."""

    bank: Tensor
    window: Tensor

    def __init__(self, rate: int, mels: int, window_ms: float, hop_ms: float):
        super().__init__()
        self.size, self.hop = int(rate * window_ms / 1000), int(rate * hop_ms / 1000)
        bank = mel_filter_bank(self.size // 2 + 1, mels, 20.0, rate / 2, rate, norm="slaney", mel_scale="slaney")
        self.register_buffer("bank", torch.from_numpy(np.ascontiguousarray(bank)).float())  # [bins, mels]
        self.register_buffer("window", torch.hann_window(self.size).clone())  # hann_window is a view, which is not saved

    def forward(self, wave: Tensor, counted: Tensor) -> Tensor:
        wave = functional.pad(wave, (0, max(0, self.size - wave.shape[-1])))
        spectrum = torch.stft(wave.float(), self.size, self.hop, window=self.window.float(), return_complex=True).abs().square()
        log = torch.log(spectrum.transpose(1, 2) @ self.bank.float() + 1e-6).transpose(1, 2)  # [U, mels, time]
        seen = torch.arange(log.shape[2], device=log.device) <= counted.sum(1, keepdim=True) // self.hop  # [U, time]
        seen = seen.unsqueeze(1)
        count = seen.sum(2, keepdim=True) * log.shape[1]
        mean = (log * seen).sum((1, 2), keepdim=True) / count
        variance = ((log - mean).square() * seen).sum((1, 2), keepdim=True) / (count - 1).clamp_min(1)
        return ((log - mean) / (variance.sqrt() + 1e-3) * seen).unsqueeze(1)


def normalise(wave: Tensor, heard: Tensor) -> Tensor:
    """Zero mean and unit variance over each clip's own frames, 0 where it is padded (wav2vec2's normalisation)."""
    count = heard.sum(1, keepdim=True).clamp_min(1)
    mean = (wave * heard).sum(1, keepdim=True) / count
    variance = ((wave - mean).square() * heard).sum(1, keepdim=True) / count
    return (wave - mean) / (variance + 1e-7).sqrt() * heard
