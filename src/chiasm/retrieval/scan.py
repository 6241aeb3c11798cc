"""Exact search for the largest inner products: a scan of int8 codes, then fp32 for those that the scan cannot rule out.

With shift m, rotation R and step s every vector x has codes c = round(R (x - m) / s), and for a query p with codes z = round(R p / u)

    p.x = p.m + s u (z.c) + s (R p - u z).c + p.(x - m - s R'c)

The first term is the same for all vectors, and the last two are at most |R p - u z| max|s c| + |p| max|x - m - s R'c|, the first maximum
`reach` and the second `residual` of the index, both measured while it is written. So a vector whose integer z.c lies further than twice
that below the k-th largest one cannot be among the k nearest: what is left is scored in fp32, and nothing is missed. The shift removes what
all vectors of one modality share and the rotation spreads outlying columns, so that one step serves all columns.

Letters: N vectors, d their width, Q queries.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LEVELS = 127
GROUP = 64  # vectors of which only the largest score is ranked
SCORES = 1 << 18  # that are held at once, 1 MB: they stay in the cache
ALONE = 5  # so many queries cost less one by one: the matrix product of a few is padded to 16
ROWS = 1 << 14  # vectors that are made into codes at once


@dataclass(frozen=True)
class Found:
    """Per query the nearest first: scores float32 [Q, k], rows int64 [Q, k]; `rescored` int64 [Q] how many the scan left."""

    scores: np.ndarray
    rows: np.ndarray
    rescored: np.ndarray


@dataclass(frozen=True)
class Grid:
    """What codes mean: x is about shift + step * codes @ rotation, and no vector is further from that than `residual`."""

    shift: np.ndarray  # float32 [d]
    rotation: np.ndarray  # float32 [d, d]
    step: float
    residual: float
    reach: float  # the largest length of step * codes
    length: float  # the largest length of a vector


class Scan:
    """`codes` int8 [N, d] and `vectors` float32 [N, d], both memory-mapped or not: all codes are read, and a few of the vectors.

    `release` is called after a search: of mapped vectors each that was read keeps its neighbours in memory too, up to 2 MB of them.
    """

    def __init__(self, codes: np.ndarray, vectors: np.ndarray, grid: Grid, *, release: Callable[[], None] | None = None):
        self.codes, self.vectors = torch.from_numpy(codes), torch.from_numpy(vectors)
        self.grid, self.release = grid, release
        self.rotation = torch.from_numpy(grid.rotation).double()

    def __len__(self) -> int:
        return len(self.codes)

    @torch.inference_mode()
    def search(self, queries: np.ndarray, k: int) -> Found:
        """The k vectors with the largest inner products with each of `queries` [Q, d]; of equal ones the earlier."""
        asked, k = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32)), min(k, len(self))
        if not k or not len(asked):
            empty = np.zeros((len(asked), k))
            return Found(empty.astype(np.float32), empty.astype(np.int64), np.zeros(len(asked), np.int64))
        query, row = self._left(asked, k)
        left = torch.bincount(query, minlength=len(asked))
        each = zip(row.split(left.tolist()), asked, strict=True)
        scores = torch.cat([self.vectors.index_select(0, rows) @ one for rows, one in each])  # a quarter of the time of vectors[rows]
        if self.release is not None:
            self.release()
        place = torch.arange(len(query)) - (left.cumsum(0) - left)[query]
        table = torch.full((len(asked), int(left.max())), -math.inf)
        table[query, place] = scores
        best, order = table.sort(descending=True, stable=True)
        rows = torch.zeros(table.shape, dtype=torch.long)
        rows[query, place] = row
        return Found(best[:, :k].numpy(), rows.gather(1, order[:, :k]).numpy(), left.numpy())

    def _left(self, asked: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """(query [M], row [M]) of all that may be among a query's k nearest, ordered by query, then row."""
        turned, lengths, width = asked.double() @ self.rotation.T, asked.double().norm(dim=1), asked.shape[1]
        unit = turned.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / LEVELS
        codes = torch.round(turned / unit)
        off = (turned - unit * codes).norm(dim=1)
        rounding = (math.sqrt(width) + 3) * width * 2.0**-24 * self.grid.length  # of sums in fp32, here and in `encode`, in any order
        error = off * self.grid.reach + lengths * (self.grid.residual + rounding)
        margin = torch.ceil(2 * error / (self.grid.step * unit[:, 0])).clamp_max(2.0**40).long() + 1
        query, row, score = map(torch.cat, zip(*self._pass(codes.to(torch.int8), margin, k), strict=True))
        order = torch.argsort(query, stable=True)  # within a query they come by row
        query, row, score = query[order], row[order], score[order].long()
        # Groups were compared, of blocks so far; now all scores can be.
        left = torch.bincount(query, minlength=len(asked))
        least = torch.stack([part.topk(k).values[-1] for part in score.split(left.tolist())]) - margin
        kept = score >= least[query]
        return query[kept], row[kept]

    def _pass(self, codes: Tensor, margin: Tensor, k: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(query, row, integer score) of every vector that is within the margin of the k-th best group so far, block by block.

        To rank groups costs more than to look at what an older rank lets through, so they are ranked after 1, 2, 4, 8 ... blocks.
        """
        most = torch.full((len(codes), k), -(2**62))  # of k different groups, so that k vectors are at least as good as the last
        groups: list[Tensor] = []
        for number, (start, end) in enumerate(blocks(len(self), max(GROUP, SCORES // len(codes) // GROUP * GROUP)), 1):
            scores = products(codes, self.codes[start:end])
            groups.append(scores.view(len(codes), GROUP, -1).amax(1) if end - start >= GROUP else scores)  # a group is a column
            if number & (number - 1) == 0:
                most, groups = torch.cat([most, *groups], 1).topk(k).values, []
            least = (most[:, -1:] - margin[:, None]).clamp_min(-(2**31)).int()
            found = torch.from_numpy(np.flatnonzero(scores.numpy() >= least.numpy()))  # some times as fast as torch's
            yield found // (end - start), start + found % (end - start), scores.view(-1)[found]


def blocks(count: int, size: int) -> Iterator[tuple[int, int]]:
    """Runs of at most `size` vectors, whole groups first."""
    whole = count // GROUP * GROUP
    for start in range(0, whole, size):
        yield start, min(start + size, whole)
    if whole < count:
        yield whole, count


def products(queries: Tensor, codes: Tensor) -> Tensor:
    """[Q, d] x [N, d] of int8 -> inner products [Q, N] of int32."""
    if not multiplies_exactly():
        return (queries.double() @ codes.double().T).to(torch.int32)
    if len(queries) > ALONE:
        return torch._int_mm(queries, codes.T)
    return torch.stack([torch._int_mm(codes, query[:, None])[:, 0] for query in queries])


@functools.cache
def multiplies_exactly() -> bool:
    """Whether torch multiplies int8 without saturating; on CPUs without VNNI it may not, and the scan then takes the slow way."""
    codes = torch.where(torch.arange(64 * 256).view(64, 256) * 2654435761 % 7 < 3, -127, 127).to(torch.int8)
    codes[0] = 127
    try:
        found = [torch._int_mm(codes, codes[:1].T), torch._int_mm(codes[:16], codes.T)]
    except (AttributeError, RuntimeError):
        return False
    wanted = codes.double() @ codes.double().T
    return torch.equal(found[0].double(), wanted[:, :1]) and torch.equal(found[1].double(), wanted[:16])


@torch.inference_mode()
def encode(vectors: np.ndarray, codes: np.ndarray) -> Grid:
    """Fill `codes` int8 [N, d] for `vectors` float32 [N, d], block by block; both may be memory-mapped."""
    count, width = vectors.shape
    parts = [slice(start, start + ROWS) for start in range(0, count, ROWS)]
    shift = sum((torch.from_numpy(vectors[part]).double().sum(0) for part in parts), torch.zeros(width).double()).div(max(count, 1)).float()
    normal = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    rotation = torch.linalg.qr(normal).Q.contiguous()
    largest = max((float(turned(vectors[part], shift, rotation).abs().max()) for part in parts), default=0.0)
    step = max(largest, torch.finfo(torch.float32).tiny) / LEVELS
    residual = reach = length = 0.0
    for part in parts:
        made = (turned(vectors[part], shift, rotation) / step).round_().clamp_(-LEVELS, LEVELS)
        codes[part] = made.to(torch.int8).numpy()
        exact = torch.from_numpy(vectors[part])
        residual = max(residual, longest((exact - shift).sub_((made @ rotation).mul_(step))))
        reach, length = max(reach, step * longest(made)), max(length, longest(exact))
    return Grid(shift.numpy(), rotation.numpy(), step, residual, reach, length)


def turned(vectors: np.ndarray, shift: Tensor, rotation: Tensor) -> Tensor:
    return (torch.from_numpy(vectors) - shift) @ rotation.T


def longest(rows: Tensor) -> float:
    """The largest length among rows [N, d]."""
    return float(rows.norm(dim=1).max())
