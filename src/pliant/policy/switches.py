# SPDX-License-Identifier: Apache-2.0
"""What is switched off: the whole host, policies by name, services by pattern. Kept until somebody switches it on.

A switch is no part of a policy and none of a generation's policies: neither a new version of a policy nor a rollback
nor deleting and applying it again undoes what somebody switched off in an emergency.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """What a switch is for."""

    HOST = "host"
    POLICY = "policy"
    SERVICE = "service"


class Switched(NamedTuple):
    """The thing that is switched: a policy's name or a service's pattern, nothing for the host."""

    kind: Kind
    name: str = ""

    def __str__(self) -> str:
        return "everything" if self.kind is Kind.HOST else f"{self.kind.value}/{self.name}"


HOST = Switched(Kind.HOST)


def named(policies: Iterable[str], services: Iterable[str]) -> tuple[Switched, ...]:
    """The things of these names; the host when there are none."""
    things = (*(Switched(Kind.POLICY, p) for p in policies), *(Switched(Kind.SERVICE, s) for s in services))
    return things or (HOST,)


@dataclass(frozen=True, slots=True)
class Switch:
    """One thing that is off: since when (seconds since the epoch), by whom and why."""

    what: Switched
    reason: str
    actor: str
    at: float

    def as_data(self) -> dict[str, str | float]:
        """As plain data."""
        return {"since": self.at, "by": self.actor, "because": self.reason}


@dataclass(frozen=True, slots=True)
class Switches:
    """Everything that is off, in order."""

    off: tuple[Switch, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.off)

    def get(self, what: Switched) -> Switch | None:
        """The switch of one thing; None when it is on."""
        return next((switch for switch in self.off if switch.what == what), None)

    @property
    def host(self) -> Switch | None:
        """The switch of the whole host."""
        return self.get(HOST)

    def of_policy(self, name: str) -> Switch | None:
        """Why a policy is off, by its own switch or the host's; None when it is on."""
        return self.get(Switched(Kind.POLICY, name)) or self.host

    @property
    def services(self) -> frozenset[str]:
        """The patterns of the services that are off."""
        return frozenset(switch.what.name for switch in self.off if switch.what.kind is Kind.SERVICE)

    def turned_off(self, switches: Iterable[Switch]) -> Switches:
        """With more things off; what is off already stays off since when it was."""
        found = {switch.what: switch for switch in (*switches, *self.off)}
        return Switches(tuple(sorted(found.values(), key=lambda s: (s.what.kind.value, s.what.name))))

    def turned_on(self, things: Collection[Switched]) -> Switches:
        """Without the switches of these things."""
        return Switches(tuple(switch for switch in self.off if switch.what not in things))


ALL_ON = Switches()
