"""Neighbouring patches become one token: fewer tokens, nothing thrown away (Idefics3, Laurencon et al., 2024; SmolVLM).

The r x r patches of a square are laid side by side, row by row, into one vector of r * r * width numbers, and a linear layer follows.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from chiasm.connectors.base import Connector
from chiasm.connectors.base import Options as BaseOptions
from chiasm.types import RecipeError, Tokens

HINT = "set encoders.NAME.class_token: false where a ViT adds a token of its own, take another `factor`, or use connector: linear"


class PixelShuffle(Connector):
    """A grid of h x w patches -> h / r x w / r tokens; one is visible where any of its patches is."""

    class Options(BaseOptions):
        factor: Annotated[int, Field(ge=1)] = 2
        """r: so many patches a side become one token."""

    def __init__(self, options: Any, source_width: int, width: int):
        super().__init__(options, source_width, width)
        self.layer = nn.Linear(options.factor**2 * source_width, width)

    def num_tokens(self, length: int | None) -> int | None:
        square = self.options.factor**2
        if length is not None and length % square:
            raise RecipeError(f"connector pixel_shuffle: {length} tokens are no grid of squares of {square} patches; {HINT}")
        return None if length is None else length // square

    def forward(self, tokens: Tokens) -> Tokens:
        if tokens.grid is None:
            raise RecipeError(f"connector pixel_shuffle: these tokens are not the patches of a grid; {HINT}")
        (rows, columns), side = tokens.grid, self.options.factor
        if rows % side or columns % side:
            raise RecipeError(f"connector pixel_shuffle: {rows} x {columns} patches cannot be divided into {side} x {side} squares; {HINT}")
        visible = tokens.values.masked_fill(~tokens.mask.unsqueeze(-1), 0.0)
        values = self.layer(squares(visible, tokens.grid, side).flatten(2))
        mask = squares(tokens.mask.unsqueeze(-1), tokens.grid, side).flatten(2).any(-1)
        item = None if tokens.item is None else tokens.item[:, : mask.shape[1]]  # a unit is one picture
        return Tokens(values, mask, share=tokens.share, item=item, grid=(rows // side, columns // side))


def squares(values: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """[U, rows * columns, C] -> [U, squares, side * side, C], both row by row."""
    rows, columns = grid
    cut = values.unflatten(1, (rows // side, side, columns // side, side))  # [U, row, y, column, x, C]
    return cut.transpose(2, 3).flatten(3, 4).flatten(1, 2)
