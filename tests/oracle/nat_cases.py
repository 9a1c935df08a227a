# SPDX-License-Identifier: Apache-2.0
"""Random cases of routers with connections, as a strategy of Hypothesis."""

from __future__ import annotations

import struct

from hypothesis import strategies as st

from tests.oracle import wire
from tests.oracle.case import Case, Change, Frame
from tests.oracle.configurations import FAMILIES, Family, changes, configurations, ports
from tests.oracle.extent import frame_counts
from tests.oracle.nat_router import FORGET, Made
from tests.oracle.packets import frames
from tests.oracle.router import PORTS, peer_mac, port_mac

_FEWEST_FRAMES, _MOST_FRAMES = 20, 26
_CONNECTIONS_MAX = 5
_NAMED = ((1234, 53), (1234, 80), (4000, 1500), (53, 1234))
_SIZES = st.sampled_from((0, 1, 4, 31, 63, 64, 65, 128, 500, 1000, 1400))
_ACK, _FIN = 16, 17
_FLAGS = (*(_ACK,) * 12, 24, 48, 2, 18, 0, _FIN)  # no RST: see docs/nat.md
_WRONG = (*("",) * 12, "checksum", "no checksum", "short", "long", "fragment", "options", "hops", "padded")


@st.composite
def _connections(draw: st.DrawFn) -> tuple[Made, int, int]:
    """A connection, and the ports that the client and the server are at.

    A server that is asked under another address has ports of its own: where two connections would look alike to it, the
    kernel takes a port at random.
    """
    family: Family = draw(st.sampled_from(FAMILIES))
    near = draw(ports)
    far = (near + draw(st.sampled_from((1, 1, 1, 2, 3, 0)))) % PORTS
    one, other = draw(st.sampled_from(_NAMED))
    client = family.others[draw(st.integers(0, 1))].format(near)
    server = draw(st.sampled_from((family.others[0].format(far), *family.beyond)))
    kind = draw(st.sampled_from(("none", "source", "source", "destination", "both")))
    shown = (
        (family.own.format(far), draw(st.sampled_from((one, 40000)))) if kind in ("source", "both") else None
    )
    asked, to = (server, other), None
    if kind in ("destination", "both"):
        asked, to = (
            (family.own.format(near), draw(st.sampled_from((other, 8080)))),
            (server, draw(st.integers(8000, 8999))),
        )
    made = Made(draw(st.sampled_from(("udp", "tcp"))), (client, one), asked, shown, to)
    return made, near, far


def _segment(
    made: Made, ends: tuple[tuple[str, int], tuple[str, int]], flags: int, wrong: str, payload: bytes
) -> bytes:
    (source, one), (to, other) = ends
    if made.protocol == "tcp":
        segment = wire.tcp(source, to, (one, other), flags, payload)
        return segment[:16] + bytes((segment[16] ^ 1,)) + segment[17:] if wrong == "checksum" else segment
    segment = wire.udp(source, to, (one, other), payload)
    length = {"short": 7, "long": len(segment) + 1}.get(wrong)
    if length:
        segment = segment[:4] + struct.pack("!H", length) + segment[6:]
    if wrong == "no checksum":
        segment = segment[:6] + bytes(2) + segment[8:]
    return segment[:6] + bytes((segment[6] ^ 1,)) + segment[7:] if wrong == "checksum" else segment


@st.composite
def _frames(draw: st.DrawFn, among: list[tuple[Made, int, int]], number: int) -> Frame:
    """A packet of a connection, of one direction or the other."""
    made, near, far = draw(st.sampled_from(among))
    is_answer = draw(st.booleans())
    port = far if is_answer else near
    ends = (made.answering, made.answered) if is_answer else (made.client, made.asked)
    wrong = draw(st.sampled_from(_WRONG))
    payload = struct.pack("!I", number) + bytes(draw(_SIZES))
    segment = _segment(made, ends, draw(st.sampled_from(_FLAGS)), wrong, payload)
    (source, _), (to, _) = ends
    protocol = wire.TCP if made.protocol == "tcp" else wire.UDP
    if ":" in source:
        packet = wire.ipv6(source, to, protocol, segment, hops=1 if wrong == "hops" else 64)
        kind = wire.IPV6
    else:
        packet = wire.ipv4(
            source, to, protocol, segment,
            ttl=1 if wrong == "hops" else 64, number=number,
            fragment=0x2000 if wrong == "fragment" else 0, options=b"\1\1\1\0" if wrong == "options" else b"",
        )  # fmt: skip
        kind = wire.IPV4
    if wrong == "padded":
        packet += bytes(range(1, 9))
    return Frame(port, wire.ethernet(port_mac(port), peer_mac(port), kind, packet))


def _is_usual(command: str) -> bool:
    """Rules and routes of this host's own would matter to all cases after it: see pair.py."""
    return " rule " not in command and " local " not in command


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A router with connections, whose packets they mostly are."""
    made = draw(configurations())
    among = draw(st.lists(_connections(), min_size=1, max_size=_CONNECTIONS_MAX))
    count = draw(frame_counts(_FEWEST_FRAMES, _MOST_FRAMES))
    sent = tuple(
        draw(frames(number) if draw(st.integers(0, 9)) == 0 else _frames(among, number))
        for number in range(1, count + 1)
    )
    changed = [c for c in draw(changes(made)) if _is_usual(c.command)][:1]
    if draw(st.integers(0, 3)) == 0:
        changed = [Change(FORGET, 100)]
    commands = (*filter(_is_usual, made.commands), *(one.command() for one, _, _ in among))
    return Case(commands, made.sysctls, sent, tuple(changed))
