"""The building blocks of every config section."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from ssod.utils.given import given


class Section(BaseModel):
    """A frozen part of a config. Unknown keys are refused; the string under a field is its help text."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


def over_default(cls: type[Section], value: object, info: ValidationInfo) -> object:
    """Merge the keys that a config names over the field's own default, which need not be the default of its section.

    For ``field_validator(..., mode="before")``. Without it, naming one key would take away all others of that default.
    """
    return dict(own_default(cls, info)) | dict(value) if isinstance(value, Mapping) else value


def own_default(cls: type[BaseModel], info: ValidationInfo) -> Any:
    """Return the default of the field that a ``field_validator`` looks at."""
    return cls.model_fields[given(info.field_name, "this validator is of no field")].default


def named(value: object) -> object:
    """Read a bare name as the section with that name and its defaults: ``giou`` as ``{name: giou}``."""
    return {"name": value} if isinstance(value, str) else value


def steps_of(value: object, info: ValidationInfo) -> object:
    """Read a share of ``train.steps`` such as "5%" as a number of steps; anything else stays, for others to judge."""
    if not isinstance(value, str) or not value.strip().endswith("%"):
        return value
    total = (info.context or {}).get("steps")
    if total is None:
        raise ValueError(f"{value!r} is a share of train.steps, which is not known here; give a number of steps")
    try:
        share = float(value.strip()[:-1])
        return round(total * share / 100)
    except (ValueError, OverflowError):  # no number; nan; inf
        raise ValueError(f"{value!r} is neither a number of steps nor a percentage such as '5%'") from None


StepsOrShare = Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern="^ *[0-9.]+ *%$", examples=["5%"])]

# A number of steps, or a share of ``train.steps`` such as "5%", resolved once when the config is read with
# ``model_validate(data, context={"steps": N})``.
Duration = Annotated[int, Field(ge=0), BeforeValidator(steps_of, json_schema_input_type=StepsOrShare)]

# False says what silence says, so that a config which names the key is the same run as one that does not.
Switch = Annotated[
    Literal[True] | None,
    BeforeValidator(lambda value: None if value is False else value, json_schema_input_type=bool | None),
]
