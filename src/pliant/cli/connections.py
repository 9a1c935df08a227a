# SPDX-License-Identifier: Apache-2.0
"""Open connections as people and programs read them, for ``get connections``, ``explain`` and ``top``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from pliant.agent.connections import AT_MOST, Judge, Seen, connections
from pliant.agent.host import Host
from pliant.cli import output as out
from pliant.kernel.sock_diag import OpenSocket
from pliant.observe.connections import Survey, age
from pliant.policy.explain import Reason


def get_connections(host: Host, output: str, policy: str | None, service: str | None, at_most: int) -> None:
    """List the open connections of services with policies."""
    seen, found = connections(host, Judge(host), policy=policy, service=service, at_most=at_most)
    out.show(
        output,
        plain=lambda: [connection_data(s) for s in seen],
        names=lambda: [f"connection/{s.connection.socket.name}" for s in seen],
        people=lambda: out.table(
            [column.head for column in COLUMNS],
            [[column.cell(s) for column in COLUMNS] for s in seen],
            nothing="no service with a policy has an open connection",
        ),
    )
    for sentence in caveats(found, shown=len(found.connections)):
        click.echo(sentence, err=True)


def limit_option() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--limit``: how many connections are read."""
    return click.option(
        "--limit",
        type=click.IntRange(min=1),
        default=AT_MOST,
        show_default=True,
        metavar="N",
        help="The most connections to read; of more, N are taken as the kernel has them, and the rest is counted.",
    )


def caveats(found: Survey, shown: int) -> list[str]:
    """What a list of connections does not show, in sentences."""
    said = []
    if found.total > shown:
        more = f"{found.total:,}" if found.is_complete else f"more than {found.total:,}"
        said.append(f"{shown:,} of {more} connections were read, taken as the kernel has them")
    return said + [f"not looked into: the network namespace {reason}" for reason in found.unseen]


def connection_data(seen: Seen) -> dict[str, Any]:
    """An open connection as plain data; times in microseconds, rates in bytes a second, the window in segments."""
    connection, sock = seen.connection, seen.connection.socket
    known = age(sock)
    return {
        "connection": sock.name,
        "service": connection.cgroup.rpartition("/")[2] or "/",
        "cgroup": connection.cgroup,
        "namespace": connection.namespace.name,
        "role": connection.role,
        "state": sock.state,
        "congestionControl": sock.congestion_control,
        "congestionWindow": sock.info.get("snd_cwnd"),
        "smoothedRttUs": sock.info.get("rtt") or None,
        "minRttUs": sock.min_rtt_us,
        "deliveryRate": sock.info.get("delivery_rate"),
        "pacingRate": sock.info.get("pacing_rate"),
        "retransmissions": sock.info.get("total_retrans"),
        "ageSeconds": known.seconds if known else None,
        "ageIsExact": known.is_exact if known else None,
        "policies": [
            {"policy": j.policy, "reason": j.reason.name.lower().replace("_", "-"), "sets": sorted(j.won)}
            for j in seen.judged
            if j.reason.matches
        ],
    }


class Column:
    """A column of a table of connections: its heading, what is shown, and what it is sorted by."""

    def __init__(
        self, head: str, cell: Callable[[Seen], str], rank: Callable[[Seen], Any] | None = None
    ) -> None:
        self.head = head
        self.cell = cell
        self.rank = rank or cell


def duration(microseconds: float | None) -> str:
    """A measured time in three digits: ``203ms``, ``1.2s``; ``-`` where there is none."""
    if microseconds is None:
        return "-"
    for unit, scale in (("us", 1), ("ms", 1e3), ("s", 1e6)):
        if microseconds < 1000 * scale:
            return f"{microseconds / scale:.3g}{unit}"
    minutes = microseconds / 60e6
    return f"{minutes:.0f}m" if minutes < 120 else f"{minutes / 60:.0f}h"


def rate(bytes_per_second: int | None) -> str:
    """A measured rate in three digits, in bits a second; ``-`` where there is none."""
    if not bytes_per_second:
        return "-"
    bits = float(bytes_per_second * 8)
    for unit in ("bit", "kbit", "Mbit"):
        if bits < 1000:
            return f"{bits:.3g}{unit}"
        bits /= 1000
    return f"{bits:.3g}Gbit" if bits < 1000 else f"{bits:.0f}Gbit"


def _policies(seen: Seen) -> str:
    held_out = [f"({j.policy})" for j in seen.judged if j.reason is Reason.HELD_OUT]
    return ",".join([*seen.winners, *held_out]) or "-"


def _age(seen: Seen) -> str:
    known = age(seen.connection.socket)
    if known is None:
        return "-"
    return ("" if known.is_exact else ">") + duration(known.seconds * 1e6)


def _field(name: str) -> Callable[[Seen], int]:
    return lambda seen: seen.connection.socket.info.get(name, 0)


def _sock(seen: Seen) -> OpenSocket:
    return seen.connection.socket


def _columns() -> Sequence[Column]:
    return (
        Column("connection", lambda s: _sock(s).name),
        Column("service", lambda s: s.connection.cgroup.rpartition("/")[2] or "/"),
        Column("role", lambda s: s.connection.role),
        Column("state", lambda s: _sock(s).state),
        Column("cc", lambda s: _sock(s).congestion_control or "-"),
        Column("cwnd", lambda s: str(_field("snd_cwnd")(s)), _field("snd_cwnd")),
        Column("srtt", lambda s: duration(_field("rtt")(s) or None), _field("rtt")),
        Column("min rtt", lambda s: duration(_sock(s).min_rtt_us), lambda s: _sock(s).min_rtt_us or 0),
        Column("delivers", lambda s: rate(_field("delivery_rate")(s)), _field("delivery_rate")),
        Column("paced at", lambda s: rate(_field("pacing_rate")(s)), _field("pacing_rate")),
        Column("resent", lambda s: str(_field("total_retrans")(s)), _field("total_retrans")),
        Column("age", _age, lambda s: getattr(age(_sock(s)), "seconds", 0.0)),
        Column("policies", _policies),
    )


COLUMNS = _columns()
"""What is shown of a connection; a policy in parentheses holds it out."""
