# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pliant.kernel.jiffies import jiffies, jiffy_us
from tests.features.conftest import MATCHED, OTHER, deaf

if TYPE_CHECKING:
    from tests.conftest import Eventually, MakePolicy, Pair, Pliant
    from tests.features.conftest import Captures, Ends, Packet, Tune

pytestmark = pytest.mark.root

DEFAULT_S = 1.0

CONNECT_AND_STAY = """
import socket, sys
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
sock.setblocking(False)
sock.connect_ex((sys.argv[1], int(sys.argv[2])))
print(sock.getsockname()[1], flush=True)
sys.stdin.read()
"""


def handshake(
    pair: Pair, address: str, port: int, capture: Captures, eventually: Eventually, role: str
) -> list[float]:
    """When each of the SYNs, or SYN-ACKs, of a handshake came that is never answered; in s from the first."""
    listener = pair.client if role == "server" else pair.server
    with capture(listener) as arrived, deaf(listener):
        argv = [sys.executable, "-c", CONNECT_AND_STAY, address, str(port)]
        process = pair.client.spawn(
            argv, service="app.service", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.popen.stdout is not None
        mine = int(process.popen.stdout.readline())
        found: list[Packet] = []

        def has_three() -> bool:
            ours = (p for p in arrived.packets() if p.is_syn and mine in (p.port, p.source_port))
            found.extend(ours)
            return len(found) >= 3

        eventually(has_three)
        process.stop()
    return [packet.at - found[0].at for packet in found]


def test_unanswered_syn_is_sent_again_after_that_time(
    pliant: Pliant,
    pair: Pair,
    ends: Ends,
    make_policy: MakePolicy,
    capture: Captures,
    eventually: Eventually,
    role: str,
    family: str,
) -> None:
    pliant.apply(make_policy("a", tune={"syn_timeout": "100ms"}, **ends.match(role)))
    host = pair.server
    address = {"ipv4": host.address, "ipv6": host.address6, "mapped": f"::ffff:{host.address}"}[family]
    first, second, third = handshake(pair, address, MATCHED[family], capture, eventually, role)[:3]
    assert first == 0
    assert 0.099 <= second < DEFAULT_S / 2
    # Of the SYNs the first four follow at equal distance; that of the SYN-ACKs doubles.
    assert third - second >= (0.099 if role == "client" else 0.198)
    assert third < DEFAULT_S
    _, unmatched, *_ = handshake(pair, address, OTHER[family], capture, eventually, role)
    assert unmatched >= 0.99 * DEFAULT_S


@pytest.mark.parametrize("written", ["10ms", "60s"])
def test_bounds_are_taken(tune: Tune, role: str, written: str) -> None:
    tune({"syn_timeout": written}, role, "ipv6")


def test_time_is_rounded_up_to_jiffies() -> None:
    assert [jiffies(us) for us in (1, jiffy_us(), jiffy_us() + 1)] == [1, 1, 2]
    assert 1000 <= jiffy_us() <= 10_000
