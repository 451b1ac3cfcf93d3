"""What every section of params.yaml is made from: the base class and the types of
values.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Above = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ConfigSection(BaseModel):
    """A frozen section of params.yaml; an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, given: Any) -> Any:
        """A section with nothing below it is null in YAML, and means its defaults."""
        if not isinstance(given, dict):
            return given
        empty = []
        for key, value in given.items():
            if value is None and key in cls._sections():
                empty.append(key)
        return {key: value for key, value in given.items() if key not in empty}

    @classmethod
    def _sections(cls) -> set[str]:
        """The keys that hold sections of their own."""
        keys = set()
        for name, field in cls.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(
                field.annotation, ConfigSection
            ):
                keys.add(field.alias or name)
        return keys


class TaskConfig(ConfigSection):
    """A task's section of params.yaml: each task has a model of its own, with its name
    as the default of `name`.

    Attributes:
        defaults: values of other sections that are other for this task than the usual
            ones: section → key → value.
    """

    name: str
    """the kind of problem"""

    defaults: ClassVar[dict[str, dict[str, Any]]] = {}
