# SPDX-License-Identifier: Apache-2.0
"""What a tuning feature declares so that policies can set it: options, and the types with units.

The policy package knows no feature. Whoever loads policies passes the catalogue of options there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, TypeAdapter, WithJsonSchema

from pliant.policy.problems import kind_of, rejection
from pliant.policy.units import (
    DURATION,
    INCREASE,
    LARGEST,
    POINTS,
    RATE,
    SHARE,
    SIZE,
    Unit,
    UnitError,
    quote,
)


@dataclass(frozen=True, slots=True)
class Option:
    """One key of the ``tune:`` section.

    ``type`` is a type pydantic understands, checked strictly: ``Annotated[int, Field(ge=1, le=1000)]``, a
    ``Literal``, a ``list[...]`` (not a tuple: YAML has lists), or one of the unit types of this module.
    ``summary`` is one sentence for people, ``example`` a value as they would type it.
    """

    name: str
    type: Any
    summary: str
    example: Any

    def spell(self, value: Any) -> Any:
        """Return a value of this option as people type it: ``200_000_000`` is ``"200Mbit"``."""
        return TypeAdapter(self.type).dump_python(value, mode="json")


Catalogue = Mapping[str, Option]
"""The options there are, by the name they have in a policy."""


def rate(minimum: str | None = None, maximum: str | None = None) -> Any:
    """Return a type for rates within bounds, such as ``rate("1kbit", "100Gbit")``; values are bits/s."""
    return _quantity(RATE, minimum, maximum)


def duration(minimum: str | None = None, maximum: str | None = None) -> Any:
    """Return a type for durations within bounds, such as ``duration("5ms", "200ms")``; values are µs."""
    return _quantity(DURATION, minimum, maximum)


def size(minimum: str | None = None, maximum: str | None = None) -> Any:
    """Return a type for sizes within bounds, such as ``size("4KiB", "64MiB")``; values are bytes."""
    return _quantity(SIZE, minimum, maximum, bare=True)


def share(minimum: str | None = None, maximum: str | None = None) -> Any:
    """Return a type for shares within bounds, such as ``share("0%", "50%")``; values are ppm."""
    return _quantity(SHARE, minimum, maximum)


def points(minimum: str | None = None, maximum: str | None = None) -> Any:
    """Return a type for percentage points within bounds, such as ``points("0.1pp", "50pp")``; values are ppm."""
    return _quantity(POINTS, minimum, maximum)


def increase(minimum: str | None = None, maximum: str | None = None) -> Any:
    """Return a type for relative increases within bounds, such as ``increase("1%", "500%")``; values are ppm."""
    return _quantity(INCREASE, minimum, maximum)


def _quantity(unit: Unit, minimum: str | None, maximum: str | None, *, bare: bool = False) -> Any:
    low = unit.parse(minimum) if minimum is not None else 0
    high = unit.parse(maximum) if maximum is not None else None
    bounds = _spell_bounds(unit, minimum, maximum)

    def check(typed: object) -> int:
        value = _parse(unit, typed)
        if value < low:
            raise rejection(f"{_shown(typed)} is less than {minimum}", f"write a {unit.noun} {bounds}")
        if high is not None and value > high:
            raise rejection(f"{_shown(typed)} is more than {maximum}", f"write a {unit.noun} {bounds}")
        return value

    return Annotated[
        int,
        PlainValidator(check),
        PlainSerializer(unit.format, return_type=str, when_used="json"),
        WithJsonSchema(_schema(unit, bounds, low, high, bare)),
    ]


def _parse(unit: Unit, typed: object) -> int:
    if isinstance(typed, str):
        try:
            return unit.parse(typed)
        except UnitError as error:
            raise rejection(error.message, error.remedy) from None
    if isinstance(typed, int) and not isinstance(typed, bool):
        if abs(typed) > LARGEST:
            raise rejection(
                f"this number is too large for a {unit.noun}", f"write for example {unit.example}"
            )
        return _parse(unit, str(typed))
    found = "there is no value" if typed is None else f"{_shown(typed)} is not a {unit.noun}"
    raise rejection(found, f"write for example {unit.example}")


def _shown(typed: object) -> str:
    if isinstance(typed, str):
        return quote(typed)
    return str(typed) if isinstance(typed, (int, float)) and not isinstance(typed, bool) else kind_of(typed)


def _spell_bounds(unit: Unit, minimum: str | None, maximum: str | None) -> str:
    if minimum is not None and maximum is not None:
        return f"from {minimum} to {maximum}"
    if minimum is not None:
        return f"of at least {minimum}"
    if maximum is not None:
        return f"of at most {maximum}"
    return f"such as {unit.example}"


def _schema(unit: Unit, bounds: str, low: int, high: int | None, bare: bool) -> dict[str, Any]:
    text = {"type": "string", "pattern": unit.pattern}
    description = f"A {unit.noun} {bounds}. Units: {', '.join(unit.scales)}."
    if not bare:
        return text | {"description": description}
    number: dict[str, Any] = {"type": "integer", "minimum": low}
    if high is not None:
        number["maximum"] = high
    return {"anyOf": [text, number], "description": description}


Rate = rate()
"""Any rate; values are bits per second."""

Duration = duration()
"""Any duration; values are microseconds."""

Size = size()
"""Any size; values are bytes. A bare number is bytes."""

Share = share()
"""Any share from 0% to 100%; values are parts per million."""

Points = points("0.01pp", "100pp")
"""Percentage points between two shares; values are parts per million."""

Increase = increase("1%", "10000%")
"""An increase relative to another value; values are parts per million of it."""
