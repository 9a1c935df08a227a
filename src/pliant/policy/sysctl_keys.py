# SPDX-License-Identifier: Apache-2.0
"""The sysctls that a policy may set, each with the values it takes: those under net that tune, and break nothing.

Bounds are the kernel's own, or narrower where it takes what makes no sense (Documentation/networking/ip-sysctl.rst,
Documentation/admin-guide/sysctl/net.rst).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic_core import PydanticCustomError

from pliant.policy.problems import did_you_mean, kind_of, rejection
from pliant.policy.units import quote

LARGEST_INT = 2**31 - 1
Bounds = tuple[int, int]

_NUMBER = re.compile(r"-?[0-9]{1,19}")
_WORD = re.compile(r"[a-z0-9_]{1,15}")
_ORDINALS = ("first", "second", "third")


@dataclass(frozen=True, slots=True)
class SysctlKind:
    """One sysctl: the bounds of each of its numbers (none: it is a word), and what it is in a sentence.

    ``ascending`` says that no number may be less than the one before. ``per_machine``: there is one for all network
    namespaces, which only the first has.
    """

    name: str
    bounds: tuple[Bounds, ...]
    summary: str
    ascending: bool = False
    per_machine: bool = False

    @property
    def takes(self) -> str:
        """Which values it takes, in words."""
        if not self.bounds:
            return "a name"
        spans = [f"{low} or {high}" if high - low == 1 else f"{low} to {high}" for low, high in self.bounds]
        if len(spans) == 1:
            return f"a number, {spans[0]}"
        each = spans[0] if len(set(spans)) == 1 else ", ".join(spans)
        order = ", none less than the one before" if self.ascending else ""
        return f"{len(spans)} numbers, {each}{order}"

    @property
    def example(self) -> str:
        """A value that it takes."""
        return " ".join(str(max(low, min(high, 4096 << 4 * i))) for i, (low, high) in enumerate(self.bounds))

    def parse(self, typed: object) -> str:
        """A value as the kernel shows it: numbers with a space between. Raises a PydanticCustomError."""
        remedy = f"{self.name} takes {self.takes}"
        if not self.bounds:
            if isinstance(typed, str) and _WORD.fullmatch(typed):
                return typed
            raise rejection(f"{_shown(typed)} is not a name", remedy)
        numbers = [self._number(part, remedy) for part in _parts(typed)]
        if len(numbers) != len(self.bounds):
            count = "1 number" if len(numbers) == 1 else f"{len(numbers)} numbers"
            raise rejection(f"{_shown(typed)} is {count}", remedy)
        for place, (number, (low, high)) in enumerate(zip(numbers, self.bounds, strict=True)):
            which = f"the {_ORDINALS[place]} number, {number}," if len(numbers) > 1 else str(number)
            if not low <= number <= high:
                raise rejection(f"{which} is {'less' if number < low else 'more'} than it takes", remedy)
            if self.ascending and place and number < numbers[place - 1]:
                raise rejection(f"{which} is less than the one before", remedy)
        return " ".join(map(str, numbers))

    def _number(self, part: object, remedy: str) -> int:
        if isinstance(part, int) and not isinstance(part, bool):
            return part
        if isinstance(part, str) and _NUMBER.fullmatch(part):
            return int(part)
        raise rejection(f"{_shown(part)} is not a number", remedy)


def _parts(typed: object) -> list[Any]:
    if isinstance(typed, str):
        return typed.split() or [typed]
    return list(typed) if isinstance(typed, (list, tuple)) else [typed]


def _shown(typed: object) -> str:
    if isinstance(typed, str):
        return quote(typed)
    if isinstance(typed, bool):
        return str(typed).lower()
    return str(typed) if isinstance(typed, (int, float)) else kind_of(typed)


FLAG: Bounds = (0, 1)
COUNT: Bounds = (0, LARGEST_INT)
POSITIVE: Bounds = (1, LARGEST_INT)
BUFFER: Bounds = (
    4096,
    LARGEST_INT,
)  # SOCK_MIN_RCVBUF and SOCK_MIN_SNDBUF are a little more than half of that
RETRIES: Bounds = (0, 255)
SECONDS: Bounds = (1, 32767)  # MAX_TCP_KEEPIDLE


def _one(name: str, bounds: Bounds, summary: str) -> SysctlKind:
    return SysctlKind(name, (bounds,), summary)


def _of_machine(name: str, bounds: Bounds, summary: str) -> SysctlKind:
    return SysctlKind(name, (bounds,), summary, per_machine=True)


_ALL = (
    _of_machine("net.core.netdev_max_backlog", POSITIVE, "Packets that may wait for a CPU on receive."),
    _of_machine("net.core.netdev_budget", POSITIVE, "Packets that one run of the receive softirq takes."),
    _of_machine("net.core.netdev_budget_usecs", POSITIVE, "Microseconds that one run of it may last."),
    _of_machine("net.core.rmem_default", BUFFER, "Receive buffer of a socket that asks for none, not TCP's."),
    _of_machine("net.core.rmem_max", BUFFER, "Largest receive buffer that a socket may ask for."),
    _of_machine("net.core.wmem_default", BUFFER, "Send buffer of a socket that asks for none, not TCP's."),
    _of_machine("net.core.wmem_max", BUFFER, "Largest send buffer that a socket may ask for."),
    _one("net.core.somaxconn", (1, 65535), "Longest queue of connections that wait for accept()."),
    _one("net.ipv4.fib_multipath_hash_policy", (0, 2), "What a path of several is chosen by."),
    _one("net.ipv4.ip_default_ttl", (1, 255), "TTL of packets that are sent."),
    SysctlKind(
        "net.ipv4.ip_local_port_range",
        ((1, 65535), (1, 65535)),
        "Ports that outgoing connections are given.",
        ascending=True,
    ),
    _one("net.ipv4.ip_no_pmtu_disc", (0, 3), "Whether path MTU discovery is off, and in which way."),
    _one("net.ipv4.tcp_abort_on_overflow", FLAG, "Reset connections that the listener cannot take."),
    _one("net.ipv4.tcp_autocorking", FLAG, "Hold small writes back while a packet waits in a qdisc."),
    _one("net.ipv4.tcp_base_mss", (48, 65495), "MSS that probing for a path's MTU begins with, in bytes."),
    _one("net.ipv4.tcp_comp_sack_delay_ns", COUNT, "Longest delay of SACKs that are sent as one, in ns."),
    _one("net.ipv4.tcp_comp_sack_nr", RETRIES, "How many SACKs may be sent as one."),
    SysctlKind("net.ipv4.tcp_congestion_control", (), "Congestion control of sockets that choose none."),
    _one("net.ipv4.tcp_dsack", FLAG, "Send duplicate SACKs."),
    _one("net.ipv4.tcp_early_retrans", (0, 4), "Tail loss probes: 0 is off, 3 is on."),
    _one("net.ipv4.tcp_ecn", (0, 2), "ECN: 0 is off, 1 asks for it, 2 agrees to it."),
    _one("net.ipv4.tcp_ecn_fallback", FLAG, "Connect without ECN when a SYN that asks for it is lost."),
    _one("net.ipv4.tcp_fastopen", (0, 0x707), "TCP Fast Open, a sum of bits: 1 for clients, 2 for servers."),
    _one("net.ipv4.tcp_fin_timeout", (1, 3600), "Seconds that a closed connection waits for the peer's FIN."),
    _one("net.ipv4.tcp_keepalive_intvl", SECONDS, "Seconds between keepalive probes."),
    _one(
        "net.ipv4.tcp_keepalive_probes", (1, 127), "Unanswered probes after which a connection is given up."
    ),
    _one("net.ipv4.tcp_keepalive_time", SECONDS, "Seconds of silence before the first keepalive probe."),
    _one("net.ipv4.tcp_limit_output_bytes", BUFFER, "Bytes that a socket may have waiting below TCP."),
    _one("net.ipv4.tcp_max_reordering", POSITIVE, "Segments of reordering that are taken for that at most."),
    _one("net.ipv4.tcp_max_syn_backlog", POSITIVE, "Handshakes that a listener remembers."),
    _one("net.ipv4.tcp_max_tw_buckets", POSITIVE, "Sockets in TIME-WAIT that are kept."),
    _one("net.ipv4.tcp_min_rtt_wlen", (0, 86400), "Seconds that the smallest RTT is remembered."),
    _one("net.ipv4.tcp_min_snd_mss", (48, 65535), "Smallest MSS that a peer may have us use, in bytes."),
    _one("net.ipv4.tcp_min_tso_segs", (1, 255), "Segments that go to the card as one packet at least."),
    _one("net.ipv4.tcp_moderate_rcvbuf", FLAG, "Let the receive buffer grow as the connection needs it."),
    _one("net.ipv4.tcp_mtu_probing", (0, 2), "Probe for a path's MTU: never, when ICMP is lost, always."),
    _one("net.ipv4.tcp_no_metrics_save", FLAG, "Forget what connections have learned of a peer."),
    _one("net.ipv4.tcp_notsent_lowat", COUNT, "Unsent bytes below which a socket is writable."),
    _one("net.ipv4.tcp_orphan_retries", RETRIES, "Retransmissions of a connection that was closed here."),
    _one("net.ipv4.tcp_pacing_ca_ratio", (0, 1000), "Pacing rate after slow start, in % of window by RTT."),
    _one("net.ipv4.tcp_pacing_ss_ratio", (0, 1000), "Pacing rate in slow start, in % of window by RTT."),
    _one("net.ipv4.tcp_recovery", (0, 7), "Loss detection, a sum of bits: 1 is RACK (RFC 8985)."),
    _one("net.ipv4.tcp_reordering", (1, 255), "Segments of reordering that are expected at first."),
    _one("net.ipv4.tcp_retries1", RETRIES, "Retransmissions after which another route is asked for."),
    _one("net.ipv4.tcp_retries2", (1, 255), "Retransmissions after which a connection is given up."),
    SysctlKind(
        "net.ipv4.tcp_rmem", (BUFFER,) * 3, "Receive buffer of a TCP socket: least, first, most.", True
    ),
    _one("net.ipv4.tcp_rto_max_ms", (1000, 120_000), "Longest retransmission timeout (Linux 6.15)."),
    _one("net.ipv4.tcp_rto_min_us", (1000, 1_000_000), "Shortest retransmission timeout (Linux 6.11)."),
    _one("net.ipv4.tcp_sack", FLAG, "Selective acknowledgements."),
    _one("net.ipv4.tcp_shrink_window", FLAG, "Shrink the window that was offered when memory is short."),
    _one("net.ipv4.tcp_slow_start_after_idle", FLAG, "Begin again with the first window after a pause."),
    _one("net.ipv4.tcp_syn_retries", (1, 127), "SYNs that are sent again before connecting fails."),
    _one("net.ipv4.tcp_synack_retries", RETRIES, "SYN-ACKs that are sent again."),
    _one("net.ipv4.tcp_syncookies", (0, 2), "SYN cookies: never, when the queue is full, always."),
    _one(
        "net.ipv4.tcp_thin_linear_timeouts", FLAG, "No exponential backoff for connections with little data."
    ),
    _one("net.ipv4.tcp_timestamps", (0, 2), "TCP timestamps: off, with a random offset, without."),
    _one("net.ipv4.tcp_tso_win_divisor", RETRIES, "Share of the window that one large packet may take: 1/n."),
    _one("net.ipv4.tcp_tw_reuse", (0, 2), "Use ports in TIME-WAIT again: never, always, on loopback."),
    _one("net.ipv4.tcp_window_scaling", FLAG, "Windows of more than 64 KiB."),
    SysctlKind("net.ipv4.tcp_wmem", (BUFFER,) * 3, "Send buffer of a TCP socket: least, first, most.", True),
    _one("net.ipv4.udp_rmem_min", BUFFER, "Receive buffer of a UDP socket when memory is short."),
    _one("net.ipv4.udp_wmem_min", BUFFER, "Send buffer of a UDP socket when memory is short."),
    _one("net.ipv6.fib_multipath_hash_policy", (0, 2), "What an IPv6 path of several is chosen by."),
)

SYSCTLS: Mapping[str, SysctlKind] = MappingProxyType({kind.name: kind for kind in _ALL})
"""All of them by name."""


def parse_sysctls(typed: object) -> dict[str, str]:
    """The ``sysctls`` section: names to values as the kernel shows them. Raises a PydanticCustomError."""
    if not isinstance(typed, dict):
        found = "there is no value" if typed is None else f"{kind_of(typed)} stands where a mapping is wanted"
        raise rejection(found, "write for example net.ipv4.tcp_ecn: 1")
    if not typed:
        raise rejection("no sysctl is set", "set at least one, for example net.ipv4.tcp_ecn: 1")
    return {name: _parsed(name, value) for name, value in typed.items()}


def _parsed(name: str, value: object) -> str:
    try:
        return _kind(name).parse(value)
    except PydanticCustomError as error:
        context = error.context or {}
        raise rejection(context["message"], context["remedy"], at=(name,)) from None


def _kind(name: str) -> SysctlKind:
    if name in SYSCTLS:
        return SYSCTLS[name]
    dotted = name.replace("/", ".")
    near = dotted if dotted in SYSCTLS else did_you_mean(name, list(SYSCTLS))
    if near:
        raise rejection(f"{quote(name)} is not a sysctl that a policy may set", f"write {near}")
    raise rejection(
        f"{quote(name)} is not among the sysctls that a policy may set",
        "'pliant schema' lists them; set others with sysctl(8)",
    )
