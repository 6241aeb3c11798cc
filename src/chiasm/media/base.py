"""What a modality is: how one kind of part is opened safely, checked, augmented and turned into tensors.

`media/` is the one gateway: Pillow, PyAV and soundfile are imported here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict
from torch import Tensor


def _seconds(value: Any) -> Any:
    """`30`, `30s` or `2min` -> seconds."""
    if isinstance(value, str):
        for unit, factor in (("min", 60), ("ms", 0.001), ("s", 1)):
            if value.endswith(unit):
                return float(value.removesuffix(unit)) * factor
    return value


Seconds = Annotated[float, BeforeValidator(_seconds)]


class Options(BaseModel):
    """Settings of one input (`inputs.NAME` in a recipe). Each field's help is the string under it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    column: str | None = None
    """The column to read, where it is not called like the input."""


class Modality:
    """One kind of part. A subclass is one file; its file name is the modality's name in a recipe.

    An instance belongs to one input and holds its `options`; `state()` is what must be saved beside the model (it is JSON), e.g. the
    means of a table's columns, and `load_state` restores it.
    """

    Options = Options
    from_files: ClassVar[bool] = True  # whether a text is the path of a file
    tensors: ClassVar[tuple[str, ...]] = ()  # names of the tensors that `collate` makes, e.g. ("pixel_values",)

    def __init__(self, options: Any = None):
        self.options: Any = options if options is not None else self.Options()

    def raw(self, parts: Mapping[str, Any], name: str) -> Any:
        """This input's raw value in a sample's parts; None where it is absent."""
        return parts.get(self.options.column or name)

    def open(self, value: Any, *, root: str | None = None) -> tuple[Any, tuple[str, ...]]:
        """Decode one raw value safely, with limits taken from the header before decoding.

        Returns the decoded value and notes: codes of what was fixed or cut (counted in the report). Raises BadInput with a reason code.
        """
        raise NotImplementedError

    def augment(self, value: Any, generator: np.random.Generator) -> Any:
        """A random variant for training; every draw comes from `generator` = f(seed, epoch, sample id)."""
        return value

    def open_varied(self, value: Any, generator: np.random.Generator, *, root: str | None = None) -> tuple[Any, tuple[str, ...]]:
        """`open` and then `augment`; for a modality that also varies what it decodes (which frames of a video)."""
        found, notes = self.open(value, root=root)
        return self.augment(found, generator), notes

    def collate(self, values: Sequence[Any]) -> dict[str, Tensor]:
        """Decoded values -> tensors named as in `tensors`, each [len(values), ...]."""
        raise NotImplementedError

    def identity(self, value: Any, *, root: str | None = None) -> str | None:
        """A key equal for two raw values that are the same picture or clip, without decoding; None: never shared."""
        return None

    def fit(self, values: Sequence[Any]) -> None:
        """Learn `state` from raw training values (a table's means and categories); most modalities have none."""

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
