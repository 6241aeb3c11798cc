"""A loss for every branch of a hybrid with votes, besides that of their mixed decision.

Where the mixed decision alone has a loss, the branches that learn quickest fit it together, and what is left of it teaches the others too
little: gates beside votes never open. So each branch learns from what it decides itself, and the mixed decision teaches how branches are
mixed:

    loss = L(mix of the branches as they are) + mean over branches of L(branch)

with L the task's own loss. No gradient of the first passes into a branch; the task's head and the mixing weights learn from it. A row that
lacks an input is decided by its text where that input's branch is asked, so that rows add the same however they are put into batches.
The backbone runs once for all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from chiasm.types import Batch, Fused, Streams

Fuse = Callable[[Mapping[str, Tensor], Streams], Fused]


class Seen:
    """A model as the loss of a task sees it, with another `fuse`."""

    def __init__(self, model: Any, fuse: Fuse):
        self.model_itself, self.fuse = model, fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model_itself, name)


def losses(model: Any, task: Any, batch: Batch, streams: Streams) -> tuple[Tensor, Tensor | None]:
    """(the task's summed loss, the mean of its branches' summed losses; None where they have none)."""
    if not model.fusion.branch_losses:
        return task.loss(model, batch, streams).total, None
    passes: list[Fused] = []

    def recorded(inputs: Mapping[str, Tensor], streams: Streams) -> Fused:
        passes.append(model.fuse(inputs, streams))
        return as_they_are(passes[-1])

    def of(name: str) -> Tensor:
        again = iter([decided_by(name, fused) for fused in passes])
        return task.loss(Seen(model, lambda inputs, streams: next(again)), batch, streams).total

    mixed = task.loss(Seen(model, recorded), batch, streams).total
    if not passes:  # two towers never meet
        return mixed, None
    names = ("text", *model.fusion.branch_losses)
    each = {name: of(name) for name in names if name in passes[0].branches}
    return mixed, torch.stack([each.get(name, each["text"]) for name in names]).mean()


def as_they_are(fused: Fused) -> Fused:
    """The same branches without a way back into them; how they are mixed keeps its own."""
    return replace(fused, branches={name: replace(tokens, values=tokens.values.detach()) for name, tokens in fused.branches.items()})


def decided_by(name: str, fused: Fused) -> Fused:
    """The same branches, where one of them decides in the rows that have it, and the text in the others."""
    here = fused.branches[name].present
    share = {"text": ~here, name: here}
    return replace(fused, mix=torch.stack([share.get(branch, torch.zeros_like(here)) for branch in fused.branches], 1).float())


def named(task: str) -> str:
    """What the mean over branches is called in the log."""
    return f"{task}[each branch]"
