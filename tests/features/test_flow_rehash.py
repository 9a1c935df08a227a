# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.features.conftest import MATCHED, OTHER, deaf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakePolicy, Pair, Pliant
    from tests.features.conftest import Captures, Ends, Packet

pytestmark = pytest.mark.root

SO_TXREHASH = 74  # asm-generic/socket.h; Python does not name it
SEGMENTS = 6  # one that is sent first, and five times more after a timeout each


@pytest.fixture(params=[0, 1])
def txrehash(request: pytest.FixtureRequest, pair: Pair) -> Iterator[int]:
    """Whether the kernel takes a new hash at a timeout by itself. Only timeouts have anything sent again here."""
    before = pair.client.sysctl("net.ipv4.tcp_early_retrans")
    for host in (pair.client, pair.server):
        host.sysctl("net.ipv4.tcp_early_retrans", "0")
    yield int(request.param)
    for host in (pair.client, pair.server):
        host.sysctl("net.ipv4.tcp_early_retrans", before)


def segments(ends: Ends, role: str, family: str, port: int, txrehash: int, capture: Captures) -> list[Packet]:
    """A segment that one end sends again and again, for the other does not hear it."""
    receiver = ends.pair.client if role == "server" else ends.pair.server
    mine = ends.connect(family, port)["client"].local_port
    for end in (ends.client, ends.server):
        end.set_option(socket.SOL_SOCKET, SO_TXREHASH, txrehash)
    with capture(receiver) as arrived, deaf(receiver):
        ends.client.send(100)  # which the server sends back, if it hears it
        found: list[Packet] = []

        def is_one(packet: Packet) -> bool:
            """Connections of tests before, which nobody holds any more, may still be sending, from the same port."""
            is_of_family = (packet.flow_label is not None) == (family == "ipv6")
            return packet.payload > 0 and is_of_family and {packet.port, packet.source_port} == {mine, port}

        def is_enough() -> bool:
            found.extend(filter(is_one, arrived.packets()))
            return len(found) >= SEGMENTS

        ends.eventually(is_enough)
    return found[:SEGMENTS]


@pytest.mark.parametrize("timeouts", [1, 3])
def test_path_changes_from_that_timeout_on_and_not_before(
    txrehash: int,
    pliant: Pliant,
    ends: Ends,
    make_policy: MakePolicy,
    capture: Captures,
    role: str,
    timeouts: int,
) -> None:
    tune = {"flow_rehash": timeouts, "min_rto": "20ms"}
    pliant.apply(make_policy("a", tune=tune, **ends.match(role)))
    labels = [
        packet.flow_label for packet in segments(ends, role, "ipv6", MATCHED["ipv6"], txrehash, capture)
    ]
    assert len(set(labels[:timeouts])) == 1
    assert len(set(labels[timeouts - 1 :])) == SEGMENTS + 1 - timeouts
    assert pliant.outcomes("flow_rehash").applied >= SEGMENTS - timeouts


def test_kernel_by_itself_changes_it_at_each_or_never(
    txrehash: int, pliant: Pliant, ends: Ends, make_policy: MakePolicy, capture: Captures, role: str
) -> None:
    ports = {"localPorts": [OTHER["ipv6"]]} if role == "server" else {"remotePorts": [OTHER["ipv6"]]}
    pliant.apply(make_policy("quick", tune={"min_rto": "20ms"}, **(ends.match(role) | ports)))
    labels = [packet.flow_label for packet in segments(ends, role, "ipv6", OTHER["ipv6"], txrehash, capture)]
    assert len(set(labels)) == (SEGMENTS if txrehash else 1)


@pytest.mark.parametrize("timeouts", [1, 15])
@pytest.mark.parametrize("without_label", ["ipv4", "mapped"])
def test_bounds_are_taken_where_there_is_no_label_too(
    txrehash: int,
    pliant: Pliant,
    ends: Ends,
    make_policy: MakePolicy,
    capture: Captures,
    without_label: str,
    timeouts: int,
) -> None:
    tune = {"flow_rehash": timeouts, "min_rto": "20ms"}
    pliant.apply(make_policy("a", tune=tune, **ends.match("client")))
    found = segments(ends, "client", without_label, MATCHED[without_label], txrehash, capture)
    assert {packet.flow_label for packet in found} == {None}
    applied = pliant.outcomes("flow_rehash").applied
    assert applied >= SEGMENTS - 1 if timeouts == 1 else applied == 0
