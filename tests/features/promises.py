# SPDX-License-Identifier: Apache-2.0
"""What each feature promises of a connection, and how that is seen; and which pairs cannot both keep it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pliant.features import features
from pliant.lab import SocketState
from tests.features.conftest import CWR, ECE, Packet

KIB = 1 << 10
TIMESTAMPS = 12  # bytes of options in every segment, which the MSS includes
ROLES = ("client", "server")


@dataclass(frozen=True)
class Seen:
    """One connection whose both ends have a policy: their states before and after data, and what each has sent."""

    before: Mapping[str, SocketState]
    after: Mapping[str, SocketState]
    sent: Mapping[str, list[Packet]]

    def syn(self, role: str) -> Packet:
        """The SYN of a client, the SYN-ACK of a server."""
        return next(packet for packet in self.sent[role] if packet.is_syn)


Read = Callable[[Seen, str], Any]


@dataclass(frozen=True)
class Promise:
    """A setting and what is then read of an end that has it; of no end that has not.

    ``roles`` are those for which it promises anything.
    """

    setting: Any
    kept: Any
    read: Read
    roles: tuple[str, ...] = ROLES


def state(name: str) -> Read:
    return lambda seen, role: getattr(seen.before[role], name)


def offered_segments(seen: Seen, role: str) -> float:
    """The window of a SYN in segments; that of a SYN-ACK does not count the options."""
    syn = seen.syn(role)
    assert syn.mss is not None
    return syn.window / (syn.mss - (TIMESTAMPS if role == "server" else 0))


def code_points(seen: Seen, role: str) -> set[int]:
    """Those of all packets; a server's SYN-ACK leaves before the connection is judged."""
    return {packet.dscp for packet in seen.sent[role] if role == "client" or not packet.is_syn}


def ecn(seen: Seen, role: str) -> tuple[bool, bool]:
    """Whether the end has asked, or agreed, and has marked data as ECN-capable after that."""
    answer = ECE | (CWR if role == "client" else 0)
    return (
        seen.syn(role).flags & answer == answer,
        any(p.ecn == 2 for p in seen.sent[role] if p.payload),
    )


def segment_sizes(seen: Seen, role: str) -> tuple[int | None, int]:
    """What the client has offered, and the largest payload that either end has sent."""
    return seen.syn(role).mss, max(packet.payload for packets in seen.sent.values() for packet in packets)


PROMISES = {
    "congestion_control": Promise("reno", "reno", state("congestion_control")),
    "cwnd_clamp": Promise(
        12, True, lambda seen, role: max(seen.before[role].snd_cwnd, seen.after[role].snd_cwnd) <= 12
    ),
    "delayed_ack_max": Promise("20ms", 20_000, state("delack_max_us")),
    "dscp": Promise("EF", {46}, code_points),
    "ecn": Promise(True, (True, True), ecn),
    "egress_bandwidth": Promise(
        "1Gbit", True, lambda seen, role: seen.after[role].max_pacing_rate <= 125_000_000
    ),
    "initial_cwnd": Promise(11, 11, state("snd_cwnd")),
    "initial_rwnd": Promise(7, 7, offered_segments),
    "keepalive": Promise(
        "30s", (True, 30), lambda seen, role: (seen.before[role].keepalive, seen.before[role].keepidle_s)
    ),
    "max_rto": Promise("5s", 5000, state("rto_max_ms")),
    "min_rto": Promise("20ms", 20_000, state("rto_min_us")),
    "mss": Promise(700, (700, 700 - TIMESTAMPS), segment_sizes, ("client",)),
    "notsent_lowat": Promise("64KiB", 64 * KIB, state("notsent_lowat")),
    "pacing_rate": Promise("80Mbit", 10_000_000, state("max_pacing_rate")),
    "receive_window_max": Promise("256KiB", 256 * KIB, lambda seen, role: seen.after[role].rcvbuf),
    "send_buffer": Promise("256KiB", 256 * KIB, lambda seen, role: seen.after[role].sndbuf),
    "user_timeout": Promise("7s", 7000, state("user_timeout_ms")),
}
"""Those of features that show on a connection where nothing is lost."""

SYN_TIMEOUT, FLOW_REHASH = "syn_timeout", "flow_rehash"
UNDER_LOSS: Mapping[str, Any] = {SYN_TIMEOUT: "100ms", FLOW_REHASH: 2}
"""The settings of features that show only where packets are lost, each in a way of its own."""


@dataclass(frozen=True)
class Conflict:
    """Settings of two features with which the winner takes from the loser what that promises, by nature.

    ``promised`` is what would be read of each if it were alone; for those of :data:`PROMISES`.
    """

    winner: str
    loser: str
    settings: Mapping[str, Any]
    reason: str
    promised: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pair(self) -> frozenset[str]:
        return frozenset((self.winner, self.loser))


CONFLICTS = (
    Conflict(
        "initial_cwnd",
        "cwnd_clamp",
        {"initial_cwnd": 37, "cwnd_clamp": 12},
        "The kernel cuts a window to the clamp as acknowledgements come in, and the first one leaves before.",
        {"initial_cwnd": 37, "cwnd_clamp": True},
    ),
    Conflict(
        "receive_window_max",
        "initial_rwnd",
        {"receive_window_max": "16KiB", "initial_rwnd": 40},
        "Nothing is offered that the receive buffer has no room for.",
        {"receive_window_max": 16 * KIB, "initial_rwnd": 40},
    ),
    Conflict(
        "max_rto",
        SYN_TIMEOUT,
        {"max_rto": "1s", SYN_TIMEOUT: "3s"},
        "No timeout is longer than the longest, that of a SYN included.",
    ),
)
"""All pairs that conflict. With other settings, such as those above, they too keep what both promise."""


def setting(name: str) -> Any:
    """What a policy here sets; a feature that says here nothing more has its example."""
    if name in UNDER_LOSS:
        return UNDER_LOSS[name]
    promise = PROMISES.get(name)
    return promise.setting if promise else features()[name].option.example
