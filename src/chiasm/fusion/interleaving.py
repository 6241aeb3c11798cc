"""Which pictures a text token may see where they stand among the text: those of the last place before it (Flamingo, Alayrac et al., 2022).

A place is one marker token per picture; markers that follow one another directly are one place, so that two pictures given together are
seen together. Text ahead of every marker sees none; a row without any marker was not interleaved, and sees all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chiasm.types import Step, Tokens


def reach(markers: Tensor, tokens: Tokens, step: Step) -> tuple[Tensor, Tensor]:
    """([R, T] first, [R, T] last) number of the items that each text token may see; what is generated sees what the prompt's end saw.

    markers [R, T]: where an item's marker stands; the k-th is the k-th item's.
    """
    whole = spans(markers)
    first, last = tokens.frozen("reach", step, lambda: (whole[0][:, -1:], whole[1][:, -1:]))
    if step.offset:
        shape = (-1, markers.shape[1])
        return first.expand(shape), last.expand(shape)
    return whole


def spans(markers: Tensor) -> tuple[Tensor, Tensor]:
    """`reach` of a whole text."""
    last = markers.long().cumsum(1) - 1
    starts = markers.clone()
    starts[:, 1:] &= ~markers[:, :-1]
    first = torch.where(starts, last, -1).cummax(1).values
    unmarked = ~markers.any(1, keepdim=True)
    return first.masked_fill(unmarked, 0), last.masked_fill(unmarked, torch.iinfo(torch.long).max)
