"""Learned weights of the tasks' losses (homoscedastic uncertainty; Kendall, Gal, Cipolla, 2018)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class LossWeights(nn.Module):
    """Each task's loss L becomes exp(-s) L + s / 2, s = log variance, learned from 0: what stays large counts less.

    That is the paper's form of cross-entropy; its form of squared error differs from it by a constant only.
    """

    def __init__(self, tasks: Iterable[str]):
        super().__init__()
        self.log_variance = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in tasks})

    def factor(self, task: str) -> Tensor:
        """exp(-s)."""
        return torch.exp(-self.log_variance[task])

    def penalty(self, tasks: Iterable[str]) -> Tensor:
        """The sum of s / 2, without which every loss would best be ignored."""
        return torch.stack([self.log_variance[name] for name in tasks]).sum() / 2
