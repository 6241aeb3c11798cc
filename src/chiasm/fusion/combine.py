"""The second shared piece of the family: combining M vectors of which any may be absent.

Every combiner takes the backbone's vectors [..., W] at any number of places, one pooled vector per stream [R, W] (0 where absent) and
their presence [R], and gives [..., W]. An absent vector adds 0, and multiplies by the neutral element.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from chiasm.types import RecipeError

TENSOR_LIMIT = 4096  # entries of the outer product


class Combiner(nn.Module):
    """`text` [R, T, W], `others` M x [R, W], `present` M x [R] -> [R, T, W]."""

    interacts = True
    unstable = ""  # as of a fusion

    def __init__(self, width: int, others: int, hidden: int):
        super().__init__()

    def forward(self, text: Tensor, others: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        raise NotImplementedError


class Sum(Combiner):
    """x + sum of x_m."""

    interacts = False

    def forward(self, text: Tensor, others: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        return text + torch.stack(list(others)).sum(0).unsqueeze(1)


class Concat(Combiner):
    """x + MLP([x; x_1; ...; x_M])."""

    def __init__(self, width: int, others: int, hidden: int):
        super().__init__(width, others, hidden)
        self.layers = nn.Sequential(nn.Linear((1 + others) * width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))

    def forward(self, text: Tensor, others: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        return text + self.layers(torch.cat([text, *(spread(vector, text) for vector in others)], -1))


class Gated(Combiner):
    """Sum of g_m x_m with g = softmax over those present of W [x; x_1; ...] (gated multimodal unit, Arevalo et al., 2017)."""

    unstable = "0.27, 0.48, 0.36 of the last digits of sums (chance 0.10)"  # of each vector only the share depends on the others

    def __init__(self, width: int, others: int, hidden: int):
        super().__init__(width, others, hidden)
        self.gates = nn.Linear((1 + others) * width, 1 + others)

    def forward(self, text: Tensor, others: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        every = [text, *(spread(vector, text) for vector in others)]
        here = torch.stack([torch.ones_like(present[0]), *present], -1).unsqueeze(1)  # [R, 1, 1 + M]
        gates = self.gates(torch.cat(every, -1)).masked_fill(~here, -torch.inf).softmax(-1)
        return (torch.stack(every, -1) * gates.unsqueeze(-2)).sum(-1)


class Film(Combiner):
    """x * product of (1 + gamma_m(x_m)) + sum of beta_m(x_m) (FiLM, Perez et al., 2018); an absent stream multiplies by 1 and adds 0.

    A sum of the gammas would let every stream act on the text, but never one stream on another.
    """

    def __init__(self, width: int, others: int, hidden: int):
        super().__init__(width, others, hidden)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, 2 * width)) for _ in range(others)
        )

    def forward(self, text: Tensor, others: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        found = [layer(v) * here.unsqueeze(1) for layer, v, here in zip(self.layers, others, present, strict=True)]
        scale, shift = torch.stack(found).unsqueeze(2).chunk(2, -1)  # [M, R, 1, W] twice
        return (1 + scale).prod(0) * text + shift.sum(0)


class TensorProduct(Combiner):
    """x + W ([z; 1] (x) [z_1; 1] (x) ...) of projections z to k numbers, (k + 1)^(1 + M) <= 4096 (TFN, Zadeh et al., 2017).

    An absent vector has z = 0: the appended 1 keeps the product of the others.
    """

    def __init__(self, width: int, others: int, hidden: int):
        super().__init__(width, others, hidden)
        count = 1 + others
        self.size = min(int(TENSOR_LIMIT ** (1 / count) + 1e-9) - 1, width, max(1, hidden // 8))
        if self.size < 1:
            raise RecipeError(f"fusion.combine: tensor has no room for {count} inputs; use low_rank")
        self.project = nn.ModuleList(nn.Linear(width, self.size) for _ in range(count))
        self.output = nn.Linear((self.size + 1) ** count, width)

    def forward(self, text: Tensor, others: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        product = with_one(self.project[0](text))  # [R, T, k + 1]
        for project, vector, here in zip(list(self.project)[1:], others, present, strict=True):
            factor = with_one(project(vector) * here.unsqueeze(1))  # [R, k + 1]
            product = (product.unsqueeze(-1) * factor[:, None, None]).flatten(-2)
        return text + self.output(product)


class LowRank(Combiner):
    """x + sum over r of the product over m of W_m,r [x_m; 1], `hidden` / 32 factors (LMF, Liu et al., 2018)."""

    def __init__(self, width: int, others: int, hidden: int):
        super().__init__(width, others, hidden)
        self.rank = max(1, hidden // 32)
        self.factors = nn.ModuleList(nn.Linear(width, self.rank * width) for _ in range(1 + others))
        for name, bias in self.factors.named_parameters():
            if name.endswith("bias"):
                nn.init.ones_(bias)  # so that an absent vector, W [0; 1], starts as the neutral element
        self.output = nn.Linear(self.rank * width, width)

    def forward(self, text: Tensor, others: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        product = self.factors[0](text)
        for factor, vector, here in zip(list(self.factors)[1:], others, present, strict=True):
            product = product * factor(vector * here.unsqueeze(1)).unsqueeze(1)
        return text + self.output(product)


COMBINERS: dict[str, type[Combiner]] = {
    "concat": Concat,
    "sum": Sum,
    "gated": Gated,
    "film": Film,
    "tensor": TensorProduct,
    "low_rank": LowRank,
}


def spread(vector: Tensor, text: Tensor) -> Tensor:
    """[R, W] -> [R, T, W]."""
    return vector.unsqueeze(1).expand_as(text)


def with_one(z: Tensor) -> Tensor:
    """[..., k] -> [..., k + 1] with an appended 1."""
    return torch.cat([z, torch.ones_like(z[..., :1])], -1)
