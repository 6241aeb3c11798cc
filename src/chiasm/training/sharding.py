"""`strategy: fsdp`: weights, gradients and optimizer state of the backbone are split over the processes (torch's FSDP2, `fully_shard`).

Each of the backbone's layers is one unit that is put together only while it computes; word embeddings and the word head, which may be one
tied matrix, are the root's and stay together for a whole pass. Encoders, connectors, fusion and heads, which are small beside the backbone
and used by some rows only, are on every process, and their gradients are summed as in `ddp`.

The units' exchanges happen inside forward and backward, so every process must run the backbone equally often and send gradients through all
of it: a process without rows of a task runs a stand-in, and what enters the first layer always asks for a gradient.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from chiasm.training.distributed import Processes
from chiasm.types import RecipeError

T = TypeVar("T")


class Sharded(Processes):
    """The backbone is split over the processes."""

    shards = True

    def __init__(self, device: torch.device):
        super().__init__(device)
        self.mesh: DeviceMesh = init_device_mesh(device.type, (self.world,))
        self.root: Any = None

    def needs(self, task: Any) -> bool:
        return True

    def shard(self, model: Any) -> None:
        if getattr(model, "balance", None) is not None:
            raise RecipeError("train.balance: it changes single weights, which fsdp splits over the processes; use train.strategy: ddp")
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")  # T5's positions, which nobody writes to
        core = model.model
        if core.backbone.cross_attentions and not core.backbone_kind.has_encoder:
            raise RecipeError("train.strategy: fsdp cannot split a backbone's own cross-attention (fusion.weights: backbone), use ddp")
        language = [*core.language_model.parameters(), *([] if model.lm_head is None else model.lm_head.parameters())]
        split = {id(p) for p in language if p.ndim}
        kept = {p for p in model.parameters() if id(p) not in split}
        self.root = _Root(model)
        stacks = list(_stacks(core.language_model))
        for layer in (layer for stack in stacks for layer in stack):
            fully_shard(layer, mesh=self.mesh, ignored_params=kept)
        fully_shard(self.root, mesh=self.mesh, ignored_params=kept)
        self.root.to(self.own_device)
        for stack in stacks:  # ahead of FSDP's own hooks, which look at what enters
            stack[0].register_forward_pre_hook(_asking_for_gradient, prepend=True, with_kwargs=True)
        for module in self._units():
            module.set_gradient_divide_factor(1.0)  # sums, not means
            module.set_force_sum_reduction_for_comms(True)  # gloo cannot scale on the way

    def forward(self, call: Callable[[], T]) -> T:
        return self.root(call)

    def evaluate(self, call: Callable[[], T]) -> T:
        found: list[T] = []
        self.root(lambda: found.append(call()))
        for module in self._units():
            module.reshard()
        return found[0]

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        super().sum_gradients([p for p in parameters if not isinstance(p, DTensor)])  # FSDP has summed the others

    def clip(self, parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
        gradients = [p.grad for p in parameters if p.grad is not None]
        split = [g.to_local() for g in gradients if isinstance(g, DTensor)]
        kept = [g for g in gradients if not isinstance(g, DTensor)]
        squares = _square(split, self.own_device)
        dist.all_reduce(squares, group=self.group_of(squares))
        norm = (squares + _square(kept, self.own_device)).sqrt()
        if math.isfinite(limit):
            share = (limit / (norm + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_
            for gradient in (*split, *kept):
                gradient.mul_(share)
        return norm

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        made: dict[int, Tensor] = {}  # tied weights stay one tensor
        for tensor in tensors.values():
            if id(tensor) not in made:
                full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
                made[id(tensor)] = full.detach().to("cpu", copy=True) if self.is_main else full.new_empty(0)
        return {name: made[id(tensor)] for name, tensor in tensors.items()} if self.is_main else {}

    def part_of(self, parameter: Tensor, whole: Tensor) -> Tensor:
        if not isinstance(parameter, DTensor) or whole.shape != parameter.shape:  # AdamW's number of steps is no part of a weight
            return whole
        return distribute_tensor(whole.to(self.own_device), self.mesh, parameter.placements, src_data_rank=None)

    def _units(self) -> Iterator[Any]:
        return (module for module in self.root.modules() if isinstance(module, FSDPModule))


class _Root(nn.Module):
    """Around the model, since FSDP gathers the root's weights in its forward, and ours computes by several methods."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, call: Callable[[], Any]) -> Any:
        return call()


def _stacks(network: nn.Module) -> Iterator[nn.ModuleList]:
    """The outermost lists of layers: one, or those of an encoder and a decoder."""
    for child in network.children():
        if isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _stacks(child)


def _asking_for_gradient(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Hidden states that no trained part made still take part in backward, so that all processes walk through the same layers."""
    values = args[0] if args else kwargs["hidden_states"]
    if not torch.is_grad_enabled() or values.requires_grad:
        return None
    values = values.detach().requires_grad_()
    return ((values, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": values})


def _square(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """The sum of all squares."""
    return torch.stack([torch.zeros((), device=device), *(torch.linalg.vector_norm(t.float()).square() for t in tensors)]).sum()
