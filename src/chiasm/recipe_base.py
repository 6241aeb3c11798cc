"""What every section of a recipe is: typed and closed, or open for the keys of the component that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator


class Spec(BaseModel):
    """A closed section of a recipe."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )
    shorthand: ClassVar[str] = ""  # the key that a bare word stands for

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        return {cls.shorthand: data} if isinstance(data, str) and cls.shorthand else data


class OpenSpec(Spec):
    """A section that names a component; the keys it does not know are the component's and are kept in `options`."""

    options: dict[str, Any] = Field(default_factory=dict)
    """The component's own keys; written straight into the section, not under `options`."""

    @model_validator(mode="before")
    @classmethod
    def _collect(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        own = {k: v for k, v in data.items() if k in cls.model_fields and k != "options"}
        rest = {k: v for k, v in data.items() if k not in cls.model_fields}
        return {**own, "options": {**data.get("options", {}), **rest}}

    @model_serializer(mode="wrap")
    def _flatten(self, handler: Any) -> dict[str, Any]:
        data = handler(self)
        options = data.pop("options")
        return {**data, **options}
