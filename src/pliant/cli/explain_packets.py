# SPDX-License-Identifier: Apache-2.0
"""``pliant explain --packet`` and ``--pcap``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pliant.cli import output as out
from pliant.cli.context import open_host, open_places
from pliant.errors import PliantError

if TYPE_CHECKING:
    from pliant.fastpath.packet_explanation import Explained, Judge

FIELDS = (
    "in", "src", "dst", "proto", "sport", "dport", "len", "ttl", "tos", "flags", "smac", "dmac", "mark", "ct"
)  # fmt: skip
"""What a packet can be described by; the first three have to be there."""
_EXAMPLE = "write for example: 'in=eth1 src=10.1.0.2 dst=10.2.0.9 proto=tcp dport=443'"
_MAC_BYTES = 6
_FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32}
_MOST_TOLD = 100_000


def explain_packets(
    ctx: click.Context,
    packet: str | None,
    pcap: Path | None,
    interface: str | None,
    netns: str | None,
    output: str,
) -> None:
    """Explain one packet, or those of a file."""
    if packet is not None and interface is not None:
        raise PliantError("--in is for --pcap", remedy="write in=NAME among the fields of --packet")
    fields = read_fields(packet) if packet is not None else {}
    with _judge(ctx, netns) as judge:
        if packet is not None:
            found = explain_fields(judge, fields)
            _tell(found) if output == "table" else out.data(found.data(), output)
        elif pcap is not None:
            groups = _explained(judge, pcap, interface)
            _tell_groups(groups) if output == "table" else out.data([g.data() for g in groups], output)


@contextlib.contextmanager
def _judge(ctx: click.Context, netns: str | None) -> Iterator[Judge]:
    from pliant.fastpath.objects import tables_layout
    from pliant.fastpath.packet_explanation import Judge
    from pliant.fastpath.topology import topology
    from pliant.kernel.namespaces import entered, named_namespace
    from pliant.kernel.nftables_rules import read_rules
    from pliant.observe.fastpath import FastpathPins, own_programs
    from pliant.observe.network_reader import read_facts
    from pliant.policy.fastpath import Wishes

    with contextlib.ExitStack() as stack:
        with open_host(ctx) as host:
            wishes = host.compile().desired.fastpath if netns is None else Wishes()
        if netns is not None:
            path = named_namespace(netns).path
            assert path is not None  # it has a name
            stack.enter_context(entered(path))
        pins = FastpathPins(open_places(ctx).pins, tables_layout())
        found = topology(read_facts(), own=own_programs(pins), counts=wishes.counts)
        yield stack.enter_context(Judge(pins, found, read_rules()))


def read_fields(typed: str) -> dict[str, str]:
    """The fields of a packet that somebody has typed. Raises :class:`PliantError`."""
    fields: dict[str, str] = {}
    for word in typed.split():
        name, equals, value = word.partition("=")
        if not equals or not value:
            raise PliantError(f"--packet: '{word}' is not a field", remedy=_EXAMPLE)
        if name not in FIELDS:
            raise PliantError(
                f"--packet: there is no field '{name}'", remedy=f"there are: {', '.join(FIELDS)}"
            )
        if name in fields:
            raise PliantError(f"--packet: '{name}' is given twice", remedy=_EXAMPLE)
        fields[name] = value
    if missing := [name for name in FIELDS[:3] if name not in fields]:
        raise PliantError(f"--packet: {', '.join(missing)} is missing", remedy=_EXAMPLE)
    return fields


def explain_fields(judge: Judge, fields: Mapping[str, str]) -> Explained:
    """Explain the packet that fields describe. Raises :class:`PliantError` for what is none."""
    from pliant.fastpath.packet_explanation import CT_STATES

    name = fields["in"]
    frame = _frame(fields, judge.mac_of(name))
    state = fields.get("ct")
    if state is not None and state not in CT_STATES:
        raise PliantError(f"--packet: ct={state} is no state", remedy=f"there are: {', '.join(CT_STATES)}")
    ct_state = CT_STATES[state] if state is not None else None
    return judge.explain(name, frame, mark=_number(fields, "mark", 0, 0xFFFFFFFF), ct_state=ct_state)


def _frame(fields: Mapping[str, str], own: bytes) -> bytes:
    from pliant.fastpath.frame import Fields, make_frame

    source, to = (_address(fields, name) for name in ("src", "dst"))
    if source.version != to.version:
        raise PliantError("--packet: src and dst are of different IP versions", remedy=_EXAMPLE)
    protocol = _protocol(fields, source.version)
    least = 40 if source.version == 4 else 60
    return make_frame(
        Fields(
            source=source,
            to=to,
            protocol=protocol,
            from_mac=_mac(fields, "smac", bytes((2, 0, 0, 0, 0, 1))),
            to_mac=_mac(fields, "dmac", own),
            ports=(_port(fields, "sport", protocol, 40000), _port(fields, "dport", protocol, 0)),
            ttl=_number(fields, "ttl", 64, 255),
            tos=_number(fields, "tos", 0, 255),
            length=_number(fields, "len", least, 65535),
            flags=_tcp_flags(fields.get("flags", "ack")),
        )
    )


def _address(fields: Mapping[str, str], name: str) -> Any:
    from pliant.fastpath.frame import parse_address

    try:
        return parse_address(fields[name])
    except ValueError:
        raise PliantError(f"--packet: {name}={fields[name]} is not an address", remedy=_EXAMPLE) from None


def _protocol(fields: Mapping[str, str], version: int) -> int:
    from pliant.fastpath.frame import ICMP, ICMP6, PROTOCOLS, TCP

    name = fields.get("proto")
    if name is None:
        return TCP if "dport" in fields or "sport" in fields else ICMP if version == 4 else ICMP6
    if name == "icmp" and version == 6:
        return ICMP6
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    if name.isdigit() and int(name) <= 255:
        return int(name)
    known = ", ".join(PROTOCOLS)
    raise PliantError(
        f"--packet: proto={name} is not known", remedy=f"there are: {known}; or write the number"
    )


def _port(fields: Mapping[str, str], name: str, protocol: int, default: int) -> int:
    from pliant.fastpath.frame import UDP, port_of

    if name not in fields:
        return default
    try:
        return port_of(fields[name], "udp" if protocol == UDP else "tcp")
    except ValueError:
        remedy = "write a number from 0 to 65535, or the name of a service"
        raise PliantError(f"--packet: {name}={fields[name]} is not a port", remedy=remedy) from None


def _mac(fields: Mapping[str, str], name: str, default: bytes) -> bytes:
    if name not in fields:
        return default
    try:
        found = bytes.fromhex(fields[name].replace(":", ""))
    except ValueError:
        found = b""
    if len(found) != _MAC_BYTES:
        raise PliantError(
            f"--packet: {name}={fields[name]} is not a MAC address", remedy="write 02:00:00:00:00:01"
        )
    return found


def _number(fields: Mapping[str, str], name: str, default: int, most: int) -> int:
    if name not in fields:
        return default
    try:
        found = int(fields[name], 0)
    except ValueError:
        found = -1
    if not 0 <= found <= most:
        raise PliantError(
            f"--packet: {name}={fields[name]} is not a number from 0 to {most}", remedy=_EXAMPLE
        )
    return found


def _tcp_flags(typed: str) -> int:
    bits = 0
    for name in typed.lower().split(","):
        if name not in _FLAGS:
            raise PliantError(
                f"--packet: flags={typed}: '{name}' is none", remedy=f"there are: {', '.join(_FLAGS)}"
            )
        bits |= _FLAGS[name]
    return bits


def _tell(found: Explained) -> None:
    out.fields({label: value for label, value in _told(found).items() if value})


def _told(found: Explained) -> dict[str, str]:
    where = "the fast path's own program" if found.asked else "how the network is configured"
    how = "dropped by" if found.reason else "by"
    path = f"fast, {how} {found.module}" if found.path == "fast" else "the kernel's"
    hop = f" to {found.next_hop}" if found.next_hop else ""
    route = ""
    if found.route:
        route = found.route.route or found.route.sentence
    return {
        "packet": found.line,
        "in": found.interface,
        "path": path,
        "why": found.sentence,
        "route": route,
        "out": f"{found.out}{hop}" if found.out else "",
        "connection": found.connection,
        "rule": f"{found.filter.verdict}: {found.filter.because}" if found.filter else "",
        "says": where,
        "obstacles": "\n".join(f"{reason.sentence} ({reason.look})" for reason in found.obstacles[1:]),
        "note": "\n".join(found.notes),
    }


@dataclass(slots=True)
class Group:
    """Packets of a file that are treated alike."""

    example: Explained
    packets: int = 0
    bytes: int = 0

    def data(self) -> dict[str, Any]:
        """As plain data."""
        return {"packets": self.packets, "bytes": self.bytes, "example": self.example.data()}


def _explained(judge: Judge, path: Path, interface: str | None) -> list[Group]:
    from pliant.fastpath.capture_file import read_packets

    groups: dict[tuple[str, ...], Group] = {}
    with path.open("rb") as file:
        for number, stored in enumerate(read_packets(file, str(path)), 1):
            name = interface or stored.interface
            if not name:
                raise PliantError(
                    f"{path} does not say where its packets come in", remedy="say so by --in NAME"
                )
            if number > _MOST_TOLD:
                raise PliantError(
                    f"{path} has more than {_MOST_TOLD:,} packets", remedy="cut it with editcap"
                )
            found = judge.explain(name, stored.frame(judge.mac_of(name)))
            key = (found.interface, found.path, found.module, found.reason, found.out)
            group = groups.setdefault(key, Group(found))
            group.packets += 1
            group.bytes += stored.length
    return sorted(groups.values(), key=lambda group: -group.packets)


def _tell_groups(groups: Iterable[Group]) -> None:
    rows = [
        (
            f"{group.packets:,}",
            f"{group.bytes:,}",
            group.example.interface,
            group.example.path,
            group.example.module or "-",
            group.example.out or "-",
            group.example.sentence or "-",
            group.example.line,
        )
        for group in groups
    ]
    heads = ("packets", "bytes", "in", "path", "module", "out", "why not", "for example")
    out.table(heads, rows, nothing="there is no packet in it")
