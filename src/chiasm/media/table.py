"""The table modality: several columns of a record, numbers and categories with gaps -> standardised numbers and category indices.

What is learned from the training rows (`fit`) is robust: a number is centred by the mean and scaled by the spread of its middle 99 %; a gap
gets the median and is marked as missing. A category that is rare or unseen shares one index, `other`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from chiasm.media import base
from chiasm.types import BadInput, RecipeError

MISSING, OTHER, FIRST = 0, 1, 2  # indices of a category: a gap, rare or unseen, the first known one
GAPS = {"", "na", "n/a", "nan", "null", "none", "?", "-"}  # what a gap looks like in a column of numbers
FARTHEST = 10.0  # standardised numbers stay within this


@dataclass(frozen=True, slots=True)
class Row:
    """One decoded record: numbers (NaN: missing) and categories (None: missing), in the order of the columns."""

    numbers: tuple[float, ...]
    categories: tuple[str | None, ...]


class Table(base.Modality):
    """Columns of a record. Decoded: Row."""

    from_files = False
    tensors = ("table_numbers", "table_missing", "table_categories")

    class Options(base.Options):
        columns: tuple[str, ...] = ()
        """The columns to read; whether each is a number or a category is seen from the training rows."""
        numbers: tuple[str, ...] = ()
        """Columns that are numbers."""
        categories: tuple[str, ...] = ()
        """Columns that are categories, also where they are written as numbers."""
        max_categories: int = Field(1000, gt=0)
        """Most categories of a column; the commonest are kept."""
        min_count: int = Field(1, gt=0)
        """A category seen less often in training counts as other."""

        @model_validator(mode="after")
        def _once(self) -> Table.Options:
            both = set(self.numbers) & set(self.categories)
            if both:
                raise ValueError(f"'{min(both)}' is under both numbers and categories")
            return self

    def __init__(self, options: Any = None):
        super().__init__(options)
        self.number_columns: list[str] = list(self.options.numbers)
        self.category_columns: list[str] = list(self.options.categories)
        self.medians = self.means = self.spreads = np.zeros(0)  # [N]
        self.vocabularies: list[dict[str, int]] = []  # [C] category -> index
        self.missing: dict[str, int] = {}  # column -> gaps among the training rows
        self.fitted = False

    @property
    def vocabulary_sizes(self) -> list[int]:
        """Per category column, how many indices there are (missing and other included)."""
        return [FIRST + len(known) for known in self.vocabularies]

    def raw(self, parts: Mapping[str, Any], name: str) -> dict[str, Any] | None:
        """The declared columns of a record, or the one column that holds a dict; None where it has none of them."""
        options = self.options
        columns = dict.fromkeys((*options.columns, *options.numbers, *options.categories))
        if not columns:
            return parts.get(options.column or name)
        found = {column: parts.get(column) for column in columns}
        return found if any(not _is_gap(value) for value in found.values()) else None

    def fit(self, values: Sequence[Mapping[str, Any]]) -> None:
        rows = [value for value in values if isinstance(value, Mapping)]
        if not rows:
            raise RecipeError("a table input has no values in the training data; check its `columns`")
        declared = (*self.options.numbers, *self.options.categories)
        others = [c for c in dict.fromkeys(c for row in rows for c in row) if c not in declared]
        numeric = {column: _looks_numeric(row.get(column) for row in rows) for column in others}
        self.number_columns = [*self.options.numbers, *(c for c in others if numeric[c])]
        self.category_columns = [*self.options.categories, *(c for c in others if not numeric[c])]
        scales = [_scale([row.get(column) for row in rows]) for column in self.number_columns]
        self.medians, self.means, self.spreads = np.array(scales, dtype=np.float64).reshape(-1, 3).T
        self.vocabularies = [_indexed(self._vocabulary([row.get(column) for row in rows])) for column in self.category_columns]
        self.missing = {c: sum(_is_gap(row.get(c), number=True) for row in rows) for c in self.number_columns}
        self.missing |= {c: sum(_is_gap(row.get(c)) for row in rows) for c in self.category_columns}
        self.fitted = True

    def open(self, value: Any, *, root: str | None = None) -> tuple[Row, tuple[str, ...]]:
        if not isinstance(value, Mapping):
            raise BadInput("bad_type", f"expected a record of columns, found {type(value).__name__}")
        if not self.fitted:
            raise RecipeError("a table input must see the training rows (fit) before it reads one")
        numbers = tuple(_number(value.get(column), column) for column in self.number_columns)
        categories = tuple(_category(value.get(column), column) for column in self.category_columns)
        unseen = any(c is not None and c not in known for c, known in zip(categories, self.vocabularies, strict=True))
        return Row(numbers, categories), ("rare or unseen category",) if unseen else ()

    def collate(self, values: Sequence[Row]) -> dict[str, Tensor]:
        """table_numbers float32 [U, N], table_missing bool [U, N] (True: a gap), table_categories int64 [U, C] (0 a gap, 1 other)."""
        numbers = np.array([value.numbers for value in values], dtype=np.float64).reshape(len(values), len(self.number_columns))
        missing = np.isnan(numbers)
        scaled = (np.where(missing, self.medians, numbers) - self.means) / self.spreads
        indices = [[self._index(c, known) for c, known in zip(value.categories, self.vocabularies, strict=True)] for value in values]
        return {
            "table_numbers": torch.from_numpy(scaled.clip(-FARTHEST, FARTHEST).astype(np.float32)),
            "table_missing": torch.from_numpy(missing),
            "table_categories": torch.tensor(indices, dtype=torch.long).reshape(len(values), len(self.category_columns)),
        }

    def state(self) -> dict[str, Any]:
        return {
            "numbers": self.number_columns,
            "categories": self.category_columns,
            "medians": self.medians.tolist(),
            "means": self.means.tolist(),
            "spreads": self.spreads.tolist(),
            "vocabularies": [list(known) for known in self.vocabularies],
            "missing": self.missing,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.number_columns, self.category_columns = list(state["numbers"]), list(state["categories"])
        self.medians, self.means, self.spreads = (np.array(state[k], dtype=np.float64) for k in ("medians", "means", "spreads"))
        self.vocabularies, self.missing = [_indexed(known) for known in state["vocabularies"]], dict(state["missing"])
        self.fitted = True

    @staticmethod
    def _index(category: str | None, known: Mapping[str, int]) -> int:
        return MISSING if category is None else known.get(category, OTHER)

    def _vocabulary(self, values: Sequence[Any]) -> list[str]:
        """Categories, commonest first, then by name."""
        counts = Counter(str(value).strip() for value in values if not _is_gap(value) and isinstance(value, (str, Real)))
        kept = [category for category, count in counts.items() if count >= self.options.min_count]
        return sorted(kept, key=lambda category: (-counts[category], category))[: self.options.max_categories]


def _indexed(categories: Sequence[str]) -> dict[str, int]:
    return {category: FIRST + place for place, category in enumerate(categories)}


def _is_gap(value: Any, *, number: bool = False) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in GAPS if number else not value.strip()
    return value is None or (isinstance(value, (float, np.floating)) and math.isnan(value))


def _number(value: Any, column: str) -> float:
    """A finite number, or NaN for a gap."""
    if _is_gap(value, number=True):
        return math.nan
    try:
        number = float(value) if isinstance(value, (str, Real, Decimal)) else None
    except (ValueError, OverflowError):
        number = None
    if number is None:
        raise BadInput("bad_type", f"column '{column}' should be a number, found {str(value)[:40]!r}")
    if math.isinf(number):
        raise BadInput("nonfinite", f"column '{column}' is infinite")
    return number


def _category(value: Any, column: str) -> str | None:
    """A category by name, or None for a gap."""
    if _is_gap(value):
        return None
    if not isinstance(value, (str, Real)):
        raise BadInput("bad_type", f"column '{column}' should be a category, found {type(value).__name__}")
    return str(value).strip()


def _looks_numeric(values: Any) -> bool:
    """Whether nearly all of a column reads as numbers, so that the rest is a mistake in the data. True and false are categories."""
    good = bad = 0
    for value in values:
        if _is_gap(value, number=True):
            continue
        try:
            _number(value, "")
            good, bad = good + (not isinstance(value, (bool, np.bool_))), bad + isinstance(value, (bool, np.bool_))
        except BadInput:
            bad += 1
    return good > 0 and bad <= 0.02 * (good + bad)


def _scale(values: Sequence[Any]) -> tuple[float, float, float]:
    """(median, mean, spread) of the numbers among the values, outliers brought in to the middle 99 % first."""
    numbers = []
    for value in values:
        try:
            numbers.append(_number(value, ""))
        except BadInput:
            continue  # the row is refused, by name, when it is opened
    known = np.array([n for n in numbers if not math.isnan(n)] or [0.0])
    middle = known.clip(*np.quantile(known, (0.005, 0.995)))
    spread = float(middle.std())
    return float(np.median(known)), float(middle.mean()), spread if spread > 1e-9 * max(1.0, abs(float(middle.mean()))) else 1.0
