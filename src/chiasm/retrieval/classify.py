"""Zero-shot classification: which of some labels, written as text, a picture or sound is most like (CLIP, Radford et al., 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from chiasm.retrieval.embedding import Space
from chiasm.run import Run
from chiasm.types import ChiasmError


def classify(
    run: Run, rows: Sequence[Mapping[str, Any]], labels: Sequence[str], *, template: str = "{label}", task: str | None = None
) -> np.ndarray:
    """Probabilities float32 [R, labels]; rows as `embed` takes them, `template` what a label is written as: "a picture of a {label}".

    The task's learned temperature scales the similarities. Softmax over the labels, or, where the task was trained with a sigmoid
    (SigLIP), each label's own probability, which then do not sum to 1. Raises ChiasmError for a template without {label}, and
    for labels of which the model knows no word: to it they would all be the same one.
    """
    if "{label}" not in template:
        raise ChiasmError(f'template: "{template}" does not say where the label stands; write {{label}} in it')
    if len(set(labels)) < len(labels) or not all(labels) or len(labels) < 2:
        raise ChiasmError("labels: give two or more different ones, as a,b,c")
    space = Space(run, task)
    if "text" not in space.sides.values():
        raise ChiasmError(f"task {space.task} compares {' and '.join(space.sides)}, no text, so labels cannot be given as words")
    space.known("text", labels, "labels")
    texts = torch.from_numpy(space.embed([{"text": template.replace("{label}", label)} for label in labels]))
    things = torch.from_numpy(space.embed(rows))
    head = run.model.heads[space.task]
    with torch.no_grad():
        scores = things @ texts.T * head.scale().cpu()
        if head.bias is not None:
            return torch.sigmoid(scores + head.bias.value.cpu()).numpy()
        return scores.softmax(1).numpy()
