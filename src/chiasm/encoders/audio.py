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

from chiasm.encoders.base import Encoder, width_of
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
        """Settings of the pretrained feature extractor; filled in when a pretrained name is given."""

    def __init__(self, options: Any, config: PreTrainedConfig | None, modality: Any):
        assert config is not None, "an audio encoder needs a transformers config"
        if options.mels and hasattr(config, "num_channels"):
            config.num_channels = 1
        super().__init__(options, config, modality)
        assert self.network is not None
        self.front: nn.Module | None = None
        self.kind = self.network.main_input_name
        if self.kind == "pixel_values":
            self.front = LogMel(modality.options.sampling_rate, options.mels, options.window_ms, options.hop_ms)
        if not options.first_pooling and hasattr(self.network, "embedder"):
            self.network.embedder.pooler = nn.Identity()
        if hasattr(self.network, "get_encoder") and self.kind == "input_features" and hasattr(self.network, "encoder"):
            self.network = self.network.encoder  # Whisper: only its encoder listens
        self.width = width_of(config)
        self.num_tokens = options.tokens
        self.has_positions = self.kind != "pixel_values"

    def forward(self, **tensors: Tensor) -> Tokens:
        assert self.network is not None
        wave, heard = tensors["input_values"], tensors["input_values_mask"]  # [U, frames] twice
        if self.front is not None:
            values = self.network(pixel_values=self.front(wave * heard)).last_hidden_state.mean(2).transpose(1, 2)  # [U, time, width]
        elif self.kind == "input_features":
            values = self.network(self.extract(wave, heard)).last_hidden_state
        else:
            centred = normalise(wave, heard)
            values = self.network(centred, attention_mask=heard.long()).last_hidden_state
        share = heard.sum(1, dtype=torch.float32) / heard.shape[1]  # how much of the padded clip is sound
        length = values.shape[1]
        if self.options.tokens:
            values = functional.adaptive_avg_pool1d(values.transpose(1, 2), self.options.tokens).transpose(1, 2)
            mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        else:
            mask = torch.arange(length, device=values.device) < (share.unsqueeze(1) * length).ceil()
        return Tokens(values, mask, item=torch.zeros_like(mask, dtype=torch.long))

    def extract(self, wave: Tensor, heard: Tensor) -> Tensor:
        """The pretrained model's own features [U, ...] of each clip, by transformers' feature extractor."""
        import transformers
        from transformers import AutoFeatureExtractor  # noqa: F401  (registers the classes named in `extractor`)

        settings = dict(self.options.extractor or {})
        kind = getattr(transformers, settings.pop("feature_extractor_type", "WhisperFeatureExtractor"))
        extractor = kind(**settings)
        clips = [w[m].cpu().float().numpy() for w, m in zip(wave, heard, strict=True)]
        features = extractor(clips, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        return features[extractor.model_input_names[0]].to(wave.device)


class LogMel(nn.Module):
    """Waveform [U, frames] -> log-mel picture [U, 1, mels, time], each clip normalised to mean 0 and variance 1."""

    def __init__(self, rate: int, mels: int, window_ms: float, hop_ms: float):
        super().__init__()
        self.size, self.hop = int(rate * window_ms / 1000), int(rate * hop_ms / 1000)
        bank = mel_filter_bank(self.size // 2 + 1, mels, 20.0, rate / 2, rate, norm="slaney", mel_scale="slaney")
        self.register_buffer("bank", torch.from_numpy(np.ascontiguousarray(bank)).float())  # [bins, mels]
        self.register_buffer("window", torch.hann_window(self.size))

    def forward(self, wave: Tensor) -> Tensor:
        wave = functional.pad(wave, (0, max(0, self.size - wave.shape[-1])))
        spectrum = torch.stft(wave.float(), self.size, self.hop, window=self.window, return_complex=True).abs().square()  # [U, bins, time]
        log = torch.log(spectrum.transpose(1, 2) @ self.bank + 1e-6).transpose(1, 2)  # [U, mels, time]
        mean, std = log.mean((1, 2), keepdim=True), log.std((1, 2), keepdim=True)
        return ((log - mean) / (std + 1e-3)).unsqueeze(1)


def normalise(wave: Tensor, heard: Tensor) -> Tensor:
    """Zero mean and unit variance over each clip's own frames, 0 where it is padded (wav2vec2's normalisation)."""
    count = heard.sum(1, keepdim=True).clamp_min(1)
    mean = (wave * heard).sum(1, keepdim=True) / count
    variance = ((wave - mean).square() * heard).sum(1, keepdim=True) / count
    return (wave - mean) / (variance + 1e-7).sqrt() * heard
