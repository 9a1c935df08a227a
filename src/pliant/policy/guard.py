# SPDX-License-Identifier: Apache-2.0
"""The limits of a policy: how much worse than its held-out connections those it treats may be."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pliant.policy.options import Increase, Points
from pliant.policy.problems import rejection


class Guard(BaseModel):
    """Limits against the holdout. When one is passed for certain, the policy is taken off and stays off until told."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())

    retransmissionRatio: Points | None = Field(
        None,
        description="The mean share of a connection's segments that are sent again may be this many percentage points "
        "above that of held-out connections: with 2pp, 3% against 0.5% is past the limit.",
        examples=["2pp"],
    )
    connectionFailures: Points | None = Field(
        None,
        description="The share of connections the service opens that are never established may be this many percentage "
        "points above that of held-out connections.",
        examples=["1pp"],
    )
    completionTime: Increase | None = Field(
        None,
        description="The median completion time may be this much longer than that of held-out connections: with 10%, "
        "230 ms against 200 ms is past the limit.",
        examples=["10%"],
    )

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not self.limits:
            raise rejection("no limit is set", f"set at least one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def limits(self) -> dict[str, int]:
        """The limits set, by field, in parts per million: of 1, or of the held-out value for ``completionTime``."""
        values: dict[str, Any] = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if value is not None}
