"""Help for inputs that are learned late: a head for each input alone, and shorter steps for the input that is ahead.

A fused model stops learning from one input once another explains the training data (Wang et al., 2020; Peng et al., 2022). `weight`
adds, for every row and every input m that it has, `weight * loss(head_m(pooled tokens of m), target)`; its gradient reaches the encoder
and the connector without passing the fusion. For prompt text the pooled tokens are its word embeddings.

`modulate` is OGM of Peng et al. (2022). With s_m the mean likelihood that head m gives the target over the step's rows that have m,

    ratio_m = s_m / (mean of s_n over the other inputs n),   k_m = 1 - tanh(alpha * ratio_m) where ratio_m > 1, else 1,

and the step of m's encoder and connector (text: word embeddings) is multiplied by k_m. The paper multiplies the gradient, which under SGD
is the same; AdamW divides a gradient by its own size, so that there it would change nothing. The paper's s_m is what m adds to the fused
logits, which only concatenation with a linear head has; ours is that of m's own head.

`noise` adds the paper's GE: Gaussian noise on the gradients of every input's own parts. The paper wants the covariance of the gradients of
single samples; as in the authors' code, the noise of a tensor is as wide as its gradient's entries spread.

The heads are trained and saved with checkpoints, so that a resumed run is exact, and are not part of the finished model.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chiasm.config import is_read
from chiasm.recipe import BalanceSpec
from chiasm.types import Batch, RecipeError, Streams


@dataclass(frozen=True, slots=True)
class Alone:
    """What one head says of one batch: its summed loss, and the summed likelihood of the targets over `rows` rows."""

    input: str
    name: str  # in the log: "answer[image alone]"
    loss: Tensor
    likelihood: Tensor
    rows: Tensor


class Balance(nn.Module):
    """heads: task -> input -> a head like the task's own, on that input alone."""

    heads: Any  # nn.ModuleDict of nn.ModuleDict

    def __init__(self, spec: BalanceSpec, model: Any, tasks: Mapping[str, Any], width: int):
        super().__init__()
        for name, connector in model.model.connectors.items():
            if connector.reads_text:
                raise RecipeError(
                    f"train.balance: the connector of {name} reads the prompt too, so its tokens are not of {name} alone; remove it"
                )
        if own := [name for name, spec in model.config.inputs.items() if is_read(spec)]:
            raise RecipeError(f"train.balance: the backbone reads {own[0]} itself, so there is no head for {own[0]} alone; remove it")
        self.spec = spec
        inputs = {n: inputs_of(t, reads_text=model.model.backbone_kind.reads_text) for n, t in tasks.items() if t.decides}
        self.heads = nn.ModuleDict({n: nn.ModuleDict({m: tasks[n].head(width) for m in of}) for n, of in inputs.items()})

    def weights(self, tasks: Mapping[str, float]) -> dict[str, float]:
        """Name in the log -> what each head's mean loss counts, from what the tasks' count."""
        return {named(n, m): tasks[n] * self.spec.weight for n, heads in self.heads.items() if n in tasks for m in heads}

    def losses(self, model: Any, task: Any, batch: Batch, streams: Streams) -> list[Alone]:
        """What every input alone makes of a batch; nothing for a task that does not decide."""
        if task.name not in self.heads:
            return []
        found, heads = model.alone(batch.inputs, streams), self.heads[task.name]
        done = []
        for name in (name for name in heads if name in found):
            outputs, has = heads[name](found[name].pooled()), found[name].present
            if name == "text":
                has = has & torch.tensor([any(s.parts.get(t) for t in texts_of(task)) for s in batch.samples], device=has.device)
            with torch.no_grad():
                likely = task.likelihood(outputs, batch)
                counted = has & likely.isfinite()
            loss = task.loss_of(outputs, batch, has)
            done.append(Alone(name, named(task.name, name), loss, likely[counted].sum(), counted.sum()))
        return done

    def coefficients(self, found: Iterable[Mapping[str, Sequence[float]]]) -> dict[str, float]:
        """`sums_of` every process -> input -> k, below 1 for those ahead of the others in this step; empty without `modulate`."""
        sums: dict[str, list[float]] = {}
        for name, (likely, rows) in (item for of_one in found for item in of_one.items()) if self.spec.modulate else ():
            before = sums.setdefault(name, [0.0, 0.0])
            sums[name] = [before[0] + likely, before[1] + rows]
        means = {name: likely / rows for name, (likely, rows) in sums.items() if rows}
        return {name: coefficient(name, means, self.spec.alpha) for name in means} if len(means) > 1 else {}

    @torch.no_grad()
    def disturb(self, model: Any, inputs: Iterable[str], seed: int) -> None:
        """With `noise`: add it to the gradients of the parts of these inputs; the same for the same seed."""
        for parameter in (p for name in inputs for p in parameters_of(model, name)) if self.spec.noise else ():
            if parameter.grad is not None and parameter.numel() > 1:
                draws = torch.Generator(parameter.device).manual_seed(seed)
                noise = torch.empty_like(parameter.grad).normal_(generator=draws)
                parameter.grad += noise * parameter.grad.std()
                seed += 1  # another draw for the next tensor

    @contextlib.contextmanager
    def shortened(self, model: Any, coefficients: Mapping[str, float]) -> Generator[None]:
        """Around an optimizer's step: what moved of each input's own parts moves k times as far."""
        own = [(p, k) for name, k in coefficients.items() if k < 1 for p in parameters_of(model, name)]
        before = [p.detach().clone() for p, _ in own]
        yield
        with torch.no_grad():
            for (parameter, k), start in zip(own, before, strict=True):
                parameter.copy_(start.lerp_(parameter, k))


def sums_of(found: Iterable[Alone]) -> dict[str, list[float]]:
    """Input -> [summed likelihood of the targets, rows]."""
    sums: dict[str, list[float]] = {}
    for one in found:
        likely, rows = sums.setdefault(one.input, [0.0, 0.0])
        sums[one.input] = [likely + float(one.likelihood), rows + float(one.rows)]
    return sums


def coefficient(name: str, means: Mapping[str, float], alpha: float) -> float:
    """k of one input, from the mean likelihoods of all."""
    others = [mean for other, mean in means.items() if other != name]
    ratio = means[name] * len(others) / max(sum(others), 1e-12)
    return 1 - math.tanh(alpha * ratio) if ratio > 1 else 1.0


def inputs_of(task: Any, *, reads_text: bool) -> list[str]:
    """The inputs that have a head for this task; its prompt's texts are one, `text`."""
    streams = [name for name in task.reads if task.declared[name] != "text"]
    return [*streams, *(["text"] if reads_text and texts_of(task) else [])]


def texts_of(task: Any) -> list[str]:
    """The task's inputs that are prompt text."""
    return [name for name in task.reads if task.declared[name] == "text"]


def named(task: str, input: str) -> str:
    return f"{task}[{input} alone]"


def parameters_of(model: Any, input: str) -> list[nn.Parameter]:
    """What trains of an input's own parts: encoder and connector, or the word embeddings."""
    parts = model.parts()
    modules = [model.get_input_embeddings()] if input == "text" else [parts[f"encoders.{input}"], parts[f"encoders.{input}.connector"]]
    return [p for module in modules for p in module.parameters() if p.requires_grad]
