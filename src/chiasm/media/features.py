"""The features modality: vectors that another program has made, one or a sequence of them -> standardised features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from chiasm.media import base, files
from chiasm.types import BadInput, RecipeError

FARTHEST = 10.0  # standardised features stay within this
FIT_VECTORS = 200_000  # most vectors that `fit` looks at


class Features(base.Modality):
    """Ready-made vectors. Decoded: float32 [L, W]."""

    from_files = False
    tensors = ("features", "features_mask")

    class Options(base.Options):
        width: int | None = Field(None, gt=0)
        """Numbers in a vector; seen from the training rows where it is not given."""
        max_length: int = Field(1024, gt=0)
        """Vectors that are read of one sequence; the rest is cut and counted."""
        normalise: bool = True
        """Standardise every dimension by the mean and spread of the training rows."""

    def __init__(self, options: Any = None):
        super().__init__(options)
        self.width: int | None = self.options.width
        self.means = self.spreads = np.zeros(0)  # [W]; empty: as they are

    def open(self, value: Any, *, root: str | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
        vectors = self._vectors(value)
        if not np.isfinite(vectors).all():
            raise BadInput("nonfinite", "features that are NaN or infinite")
        if len(vectors) <= self.options.max_length:
            return vectors, ()
        return vectors[: self.options.max_length], ("cut to length",)

    def fit(self, values: Sequence[Any]) -> None:
        total = squares = np.zeros(0)  # [W]
        count = 0
        for value in values:
            try:
                vectors, _ = self.open(value)
            except BadInput:
                continue  # refused, by name, when it is read
            if count == 0:
                self.width = vectors.shape[1]
                total, squares = np.zeros(self.width), np.zeros(self.width)
            exact = vectors.astype(np.float64)
            total, squares, count = total + exact.sum(0), squares + np.square(exact).sum(0), count + len(exact)
            if count >= FIT_VECTORS:
                break
        if count == 0:
            raise RecipeError("a features input has no readable values in the training data; check its `column` and `width`")
        if self.options.normalise:
            mean = total / count
            spread = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
            self.means, self.spreads = mean, np.where(spread > 1e-6 * np.maximum(1, np.abs(mean)), spread, 1.0)

    def collate(self, values: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """features float32 [U, L, W], padded with 0; features_mask bool [U, L], True where there is a vector."""
        length, width = max(len(value) for value in values), values[0].shape[1]
        features, mask = np.zeros((len(values), length, width), np.float32), np.zeros((len(values), length), bool)
        for unit, value in enumerate(values):
            if len(self.means):
                value = ((value - self.means) / self.spreads).clip(-FARTHEST, FARTHEST)
            features[unit, : len(value)], mask[unit, : len(value)] = value, True
        return {"features": torch.from_numpy(features), "features_mask": torch.from_numpy(mask)}

    def identity(self, value: Any, *, root: str | None = None) -> str | None:
        return files.identity(value, root=None) if isinstance(value, (bytes, np.ndarray)) else None

    def state(self) -> dict[str, Any]:
        return {"width": self.width, "means": self.means.tolist(), "spreads": self.spreads.tolist()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.width = state["width"]
        self.means, self.spreads = (np.array(state[key], dtype=np.float64) for key in ("means", "spreads"))

    def _vectors(self, value: Any) -> np.ndarray:
        """[L, W] out of a vector [W], a sequence [L, W] (nested lists too), or little-endian float32 bytes of known width."""
        if isinstance(value, (bytes, bytearray)):
            if self.width is None or len(value) == 0 or len(value) % (4 * self.width):
                raise BadInput("bad_shape", f"{len(value)} bytes are not float32 vectors of width {self.width or '(set `width`)'}")
            return np.frombuffer(value, "<f4").reshape(-1, self.width)
        if not isinstance(value, (list, tuple, np.ndarray)):
            raise BadInput("bad_type", f"expected a list of numbers, found {type(value).__name__}")
        try:
            if isinstance(value, np.ndarray) and value.dtype == object:
                value = np.stack([np.asarray(row, dtype=np.float32) for row in value])
            vectors = np.asarray(value, dtype=np.float32)
        except (ValueError, TypeError):
            raise BadInput("bad_shape", "features must be numbers: one list, or lists of one length") from None
        if vectors.ndim == 1:
            vectors = vectors[None]
        if vectors.ndim != 2 or 0 in vectors.shape or (self.width is not None and vectors.shape[1] != self.width):
            wanted = f"[{self.width}] or [length, {self.width}]" if self.width else "[width] or [length, width]"
            raise BadInput("bad_shape", f"features must be {wanted}, found {list(vectors.shape)}")
        return vectors
