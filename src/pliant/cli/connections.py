# SPDX-License-Identifier: Apache-2.0
"""Open connections as people and programs read them, for ``get connections``, ``explain`` and ``top``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from pliant.agent.connections import AT_MOST, Judge, OptionState, Seen, connections
from pliant.agent.host import Host
from pliant.cli import output as out
from pliant.features import catalogue
from pliant.kernel.sock_diag import OpenSocket
from pliant.observe.connections import Survey, age
from pliant.policy.explain import Judged, Reason


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


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: heading, what it says of a row, what it is sorted by, and the width of screens that have it.

    Screens of fewer than ``from_width`` characters do without it.
    """

    head: str
    cell: Callable[[Any], str]
    rank: Callable[[Any], Any]
    from_width: int = 0


def text(head: str, cell: Callable[[Any], str], *, from_width: int = 0) -> Column:
    """A column of words, sorted by them."""
    return Column(head, cell, cell, from_width)


def number(
    head: str, value: Callable[[Any], float | None], spell: Callable[[Any], str] = str, *, from_width: int = 0
) -> Column:
    """A column of numbers, sorted by their size; ``-`` where there is none."""

    def cell(row: Any) -> str:
        found = value(row)
        return "-" if found is None else spell(found)

    return Column(head, cell, lambda row: value(row) or 0, from_width)


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


COLUMNS: Sequence[Column] = (
    text("connection", lambda s: _sock(s).name),
    text("service", lambda s: s.connection.cgroup.rpartition("/")[2] or "/", from_width=100),
    text("role", lambda s: s.connection.role),
    text("policies", _policies),
    text("state", lambda s: _sock(s).state, from_width=140),
    text("cc", lambda s: _sock(s).congestion_control or "-"),
    number("cwnd", _field("snd_cwnd")),
    number("srtt", lambda s: _field("rtt")(s) or None, duration),
    number("min rtt", lambda s: _sock(s).min_rtt_us, duration, from_width=130),
    number("delivers", _field("delivery_rate"), rate, from_width=110),
    number("paced at", _field("pacing_rate"), rate, from_width=150),
    number("resent", _field("total_retrans")),
    Column("age", _age, lambda s: getattr(age(_sock(s)), "seconds", 0.0), from_width=120),
)
"""What is shown of a connection; a policy in parentheses holds it out."""

POLICY_HEADS = ("policy", "priority", "sets", "because")
OPTION_HEADS = ("option", "policy", "asked", "kernel has", "")


def policy_row(judged: Judged, *, held_out_known: bool = True) -> tuple[str, ...]:
    """What one policy makes of a connection, under :data:`POLICY_HEADS`."""
    won = ",".join(f"{option}={catalogue()[option].spell(value)}" for option, value in judged.won.items())
    because = judged.reason.value
    if judged.holdout_ppm and judged.reason.matches and not held_out_known:
        because += f"; {judged.holdout_ppm / 10_000:g}% are held out"
    return (judged.policy, str(judged.priority), won or "-", because)


def option_row(state: OptionState) -> tuple[str, ...]:
    """An option that was won beside what the kernel has, under :data:`OPTION_HEADS`."""
    shown = "-" if state.shown is None else str(state.shown)
    return (state.option, state.policy, str(state.asked), shown, state.agreement.value)


def how_found(seen: Seen) -> str:
    """How the role of an open connection was found out."""
    if seen.connection.role == "server":
        return "its port is that of a listening socket"
    return "no socket listens on its port"


def facts(seen: Seen, how: str) -> dict[str, str]:
    """An open connection in labelled sentences; ``how`` says where its role is from."""
    data, sock = connection_data(seen), seen.connection.socket
    info, mark = sock.info, f", mark {sock.mark:#x}" if sock.mark else ""
    age = data["ageSeconds"]
    found = {
        "Connection": f"{sock.name}, {sock.state}",
        "Service": f"{data['service']} ({data['cgroup']})",
        "Role": f"{data['role']}: {how}",
        "Namespace": data["namespace"],
        "Established": "-"
        if age is None
        else f"{duration(age * 1e6)} ago{'' if data['ageIsExact'] else ', or longer'}",
    }
    if not info:
        return found
    resent = f"{info['total_retrans']} of {info['data_segs_out']} segments"
    return found | {
        "Path": f"srtt {duration(info['rtt'] or None)}, min {duration(sock.min_rtt_us)}, MSS {info['snd_mss']}",
        "Sending": f"{sock.congestion_control}, window {info['snd_cwnd']} segments, "
        f"paced at {rate(info['pacing_rate'])}/s, delivers {rate(info['delivery_rate'])}/s, resent {resent}{mark}",
    }
