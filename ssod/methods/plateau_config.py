"""Burn-in that ends by itself, once the teacher has learned what labels alone can teach it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo

from ssod.utils.schema import Section, StepsOrShare, steps_of

AUTO, LATEST = "auto", "60%"  # `burn_in: auto` ends at the latest where the recipes for small data end theirs


class PlateauConfig(Section):
    """Burn-in ends where the teacher's AP on val has stopped growing, and at `burn_in` at the latest."""

    looks: int = Field(2, ge=1)
    "So many evaluations in a row without a better teacher."
    gain: float = Field(0.02, ge=0)
    "Share of the best AP so far by which a teacher must be above it to be better."


def _latest(value: object, info: ValidationInfo) -> object:
    return steps_of(LATEST if value == AUTO else value, info)


# As ``Duration``; "auto" stands for ``LATEST`` beside ``plateau: {}``.
BurnInSteps = Annotated[
    int,
    Field(ge=0),
    BeforeValidator(_latest, json_schema_input_type=StepsOrShare | Annotated[str, Field(pattern="^auto$")]),
]


def spelt_out(section: Any) -> Any:
    """Return a method's plain section with ``burn_in: auto`` in two keys, of which the resolved config has both."""
    if isinstance(section, dict) and section.get("burn_in") == AUTO:
        return {**section, "burn_in": LATEST, "plateau": section.get("plateau") or {}}
    return section
