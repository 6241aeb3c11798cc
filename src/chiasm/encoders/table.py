"""A table row -> one token per column: numbers by a learned direction, categories by embedding, missing values by a learned token
(FT-Transformer's tokenizer, Gorishniy et al., 2021)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from chiasm.encoders.base import Encoder
from chiasm.encoders.base import Options as BaseOptions
from chiasm.types import Tokens


class Table(Encoder):
    """table_numbers [U, N], table_missing [U, N], table_categories [U, C] -> Tokens [U, N + C, width]."""

    class Options(BaseOptions):
        width: int = 64
        """Width of each column's token."""

    needs_network: ClassVar[bool] = False

    def __init__(self, options: Any, config: PreTrainedConfig | None, modality: Any):
        super().__init__(options, None, modality)
        numbers, sizes = len(modality.number_columns), modality.vocabulary_sizes
        self.width, self.num_tokens = options.width, numbers + len(sizes)
        self.numbers = ColumnLines(numbers, options.width) if numbers else None
        self.categories = nn.ModuleList(nn.Embedding(size, options.width) for size in sizes)

    def forward(self, **tensors: Tensor) -> Tokens:
        parts = []
        if self.numbers is not None:
            parts.append(self.numbers(tensors["table_numbers"].to(self.dtype), tensors["table_missing"]))
        if len(self.categories):
            columns = tensors["table_categories"].unbind(1)
            parts.append(torch.stack([embed(column) for embed, column in zip(self.categories, columns, strict=True)], 1))
        values = torch.cat(parts, 1)
        mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        return Tokens(values, mask, item=torch.zeros_like(mask, dtype=torch.long))


class ColumnLines(nn.Module):
    """Numbers [U, N] -> [U, N, width]: value * direction + offset per column; a learned vector where the value is missing."""

    def __init__(self, columns: int, width: int):
        super().__init__()
        self.direction = nn.Parameter(torch.randn(columns, width) * width**-0.5)
        self.offset = nn.Parameter(torch.randn(columns, width) * width**-0.5)
        self.absent = nn.Parameter(torch.randn(columns, width) * width**-0.5)

    def forward(self, numbers: Tensor, missing: Tensor) -> Tensor:
        present = numbers.unsqueeze(-1) * self.direction + self.offset
        return torch.where(missing.unsqueeze(-1), self.absent, present)
