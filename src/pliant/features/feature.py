# SPDX-License-Identifier: Apache-2.0
"""What a tuning feature declares about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any

from pliant.kernel.sock_diag import OpenSocket
from pliant.kernel.uapi import AttachType
from pliant.policy.options import Option

Fields = Mapping[str, int | bytes]


class Reach(Enum):
    """Which connections a feature can act on."""

    NEW_ONLY = "new-only"
    LIVE = "live"
    LIVE_ONLY = "live-only"  # what connections share, so that all must have it or none


class Callback(IntEnum):
    """When a feature's program can be called beyond the moment a connection is judged: ``BPF_SOCK_OPS_*``.

    The first three are questions about a SYN, which the program answers in ``ctx->reply``; the last four come only to
    sockets for which the program has asked for them.
    """

    TIMEOUT_INIT = 1
    RWND_INIT = 2
    NEEDS_ECN = 6
    ACTIVE_ESTABLISHED = 4
    RTO = 8
    RETRANS = 9
    STATE = 10
    RTT = 12

    @property
    def is_late(self) -> bool:
        """Whether it comes to an established connection, whose verdict must have been kept."""
        return self in (Callback.RTO, Callback.RETRANS, Callback.STATE, Callback.RTT)

    @property
    def is_about_syn(self) -> bool:
        """Whether it comes for a SYN, before there is a connection."""
        return self in (Callback.TIMEOUT_INIT, Callback.RWND_INIT, Callback.NEEDS_ECN)


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a feature may want to know of a host before it accepts a value.

    ``congestion_controls`` are those the kernel has registered; ``shipped_controls`` are Pliant's own, which are
    registered when a policy chooses them, unless ``controls_missing`` says what the kernel lacks for that.
    ``rmem_max`` and ``wmem_max`` are the sysctls in net.core, in bytes; None where they cannot be read (in a network
    namespace). ``jiffy_us`` is the tick of the kernel's timers, and ``has_max_rto`` whether it has TCP_RTO_MAX_MS.
    """

    congestion_controls: frozenset[str] = field(default_factory=frozenset)
    shipped_controls: frozenset[str] = field(default_factory=frozenset)
    controls_missing: str = ""
    rmem_max: int | None = None
    wmem_max: int | None = None
    jiffy_us: int = 1000
    has_max_rto: bool = True


def accept_anything(value: Any, facts: HostFacts) -> str | None:
    """The default check of a value against a host: the schema has said all there is to say."""
    return None


def always(value: Any) -> bool:
    """The default of ``asks_about_syn``."""
    return True


@dataclass(frozen=True, slots=True)
class Feature:
    """One tuning feature: the policy key, the object and program of the same name, and the setting's encoding.

    ``encode`` turns an option's value (base units of :mod:`pliant.policy.units`) into the fields of the object's
    ``struct setting``; ``check`` returns a sentence when a host cannot have the value, with facts gathered before
    anything is changed. ``reach`` says whether the setting can also be changed, and restored, on an open connection;
    the object then has an iterator ``<name>_open``. ``callbacks`` are those the program wants to be called at, of
    which those about a SYN that comes in only for values that ``asks_about_syn`` is true of. ``hook`` is where the
    object's program ``<name>_packet`` is attached on the service's cgroup, if it has one. ``read`` says what an open
    socket has, as an option's value, or in a word where no policy could ask for that; None where the kernel does not
    show it.
    """

    option: Option
    reach: Reach
    encode: Callable[[Any], Fields]
    source: str
    check: Callable[[Any, HostFacts], str | None] = accept_anything
    read: Callable[[OpenSocket], Any] | None = None
    callbacks: frozenset[Callback] = frozenset()
    asks_about_syn: Callable[[Any], bool] = always
    hook: AttachType | None = None

    @property
    def needs_verdict(self) -> bool:
        """Whether the verdict of a connection must be kept after it was established."""
        return self.hook is not None or any(callback.is_late for callback in self.callbacks)

    @property
    def name(self) -> str:
        """The noun that names the policy key, the object file, the program and the metric label."""
        return self.option.name
