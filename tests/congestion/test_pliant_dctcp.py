# SPDX-License-Identifier: Apache-2.0
"""DCTCP against RFC 8257, packet by packet; the sections are in the tests' names and comments."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from pliant.lab.sockets import tcp_info
from tests.congestion.peer import CE, CWR, ECE, ECT0, MSS, NOT_ECT, Peer

if TYPE_CHECKING:
    from pliant.lab import Host as LabHost
    from tests.congestion.conftest import OpenPeer, Registered

pytestmark = pytest.mark.root

ONE = 1 << 20
NAME = "pliant_dctcp"
EAGER = 20  # packets; a new connection acknowledges the first ones at once


@pytest.fixture(scope="module", autouse=True)
def dctcp(registered: Callable[[str], Registered]) -> Registered:
    return registered(NAME)


class Sender:
    """The kernel as the sender, with always more to send, and what RFC 8257 3.3 says its alpha must be."""

    def __init__(self, peer: Peer, dctcp: Registered, host: LabHost) -> None:
        self.peer, self.dctcp, self.host = peer, dctcp, host
        self.alpha, self.acked, self.marked, self.windows = ONE, 0, 0, 0
        self.window_end = peer.sent
        peer.sock.setblocking(False)
        self.fill()
        peer.read()
        self.window_end = 1  # SND.NXT when the connection was made

    def fill(self) -> None:
        try:
            while True:
                self.peer.sock.send(bytes(1 << 20))
        except BlockingIOError:
            pass

    def acknowledge(self, segments: int = 1, *, ece: bool = False) -> None:
        """Acknowledge segments, each by itself, and keep the books."""
        for _ in range(segments):
            self.fill()
            self.peer.read()
            sent = self.peer.sent  # before the kernel has this acknowledgement
            self.peer.acknowledge(MSS, ece=ece)
            self.acked += MSS
            self.marked += MSS if ece else 0
            if self.peer.acknowledged > self.window_end:
                share = self.marked * ONE // self.acked
                self.alpha += (share >> 4) - (self.alpha >> 4)
                self.acked = self.marked = 0
                self.windows += 1
                self.window_end = sent

    def window(self, *, ece: bool = False) -> None:
        """Acknowledge up to what was sent when this began: one round trip."""
        end = self.peer.sent
        while self.peer.acknowledged < end:
            self.acknowledge(ece=ece)

    @property
    def in_flight(self) -> int:
        return (self.peer.sent - self.peer.acknowledged) // MSS

    @property
    def cwnd(self) -> int:
        return tcp_info(self.peer.sock)["snd_cwnd"]

    @property
    def ssthresh(self) -> int:
        return tcp_info(self.peer.sock)["snd_ssthresh"]

    def kernel(self) -> tuple[int, int]:
        """The kernel's alpha and the number of windows it is made of."""
        state = self.dctcp.states(self.host)[self.peer.sock.getsockname()[1]]
        _, alpha, _, _, _, _, _, _, windows = struct.unpack_from("=IIQQQIIII", state)
        return alpha, windows


@pytest.fixture
def with_ecn(host: LabHost) -> Iterator[None]:
    """Sockets ask for ECN whatever their congestion control."""
    before = host.sysctl("net.ipv4.tcp_ecn")
    host.sysctl("net.ipv4.tcp_ecn", "1")
    yield
    host.sysctl("net.ipv4.tcp_ecn", before)


@pytest.fixture
def sender(open_peer: OpenPeer, dctcp: Registered, host: LabHost) -> Iterator[Sender]:
    with open_peer(NAME) as peer:
        peer.accept()
        yield Sender(peer, dctcp, host)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_3_6_syn_and_data_are_ecn_capable(open_peer: OpenPeer, family: str) -> None:
    with open_peer(NAME, family) as peer:
        syn = peer.accept()
        peer.sock.send(bytes(MSS))
        peer.read()
        assert syn.ecn == ECT0
        assert syn.flags & (ECE | CWR) == ECE | CWR
        assert [segment.ecn for segment in peer.segments if segment.size] == [ECT0]


def test_3_3_alpha_is_one_at_first_and_decays_without_marks(sender: Sender) -> None:
    assert sender.kernel() == (ONE, 0)
    for _ in range(5):
        sender.window()
        assert sender.kernel() == (sender.alpha, sender.windows)
    assert sender.windows >= 5
    assert sender.alpha == pytest.approx(ONE * (15 / 16) ** sender.windows, rel=0.001)


def test_3_3_alpha_follows_the_share_of_bytes_marked_in_each_window(sender: Sender) -> None:
    sender.window(ece=True)  # ends slow start
    for _ in range(12):
        for number in range(max(sender.in_flight, 1)):
            sender.acknowledge(ece=number % 3 == 0)
        assert sender.kernel() == (sender.alpha, sender.windows)
    assert 0.3 < sender.alpha / ONE < 0.9


@pytest.mark.usefixtures("with_ecn")
def test_control_chosen_before_the_connection_is_made_counts_from_its_first_byte(
    open_peer: OpenPeer, dctcp: Registered, host: LabHost
) -> None:
    for _ in range(4):  # about half of the initial sequence numbers are beyond 2^31
        with open_peer("reno") as peer:
            peer.accept(late=NAME)
            sender = Sender(peer, dctcp, host)
            for _ in range(3):
                sender.window()
            assert sender.kernel() == (sender.alpha, sender.windows)
            assert sender.windows >= 3


@pytest.mark.usefixtures("with_ecn")
def test_first_packet_marked_is_acknowledged_once(open_peer: OpenPeer) -> None:
    with open_peer("reno") as peer:
        peer.accept(late=NAME)
        assert [(s.acknowledged, s.has_ece) for s in peer.send_data(MSS, ecn=CE)] == [(MSS, True)]


def decayed(sender: Sender, windows: int = 20) -> None:
    """Leave slow start, then grow for some windows without a mark."""
    sender.window(ece=True)
    for _ in range(windows):
        sender.window()


def test_3_3_mark_reduces_the_window_by_half_of_alpha_once_per_window(sender: Sender) -> None:
    decayed(sender)
    before = sender.cwnd
    sender.acknowledge(2)
    cwnd, end = sender.cwnd, sender.peer.sent
    assert cwnd >= before > 8
    sender.acknowledge(ece=True)
    expected = cwnd - cwnd * sender.kernel()[0] // (2 * ONE)
    assert sender.ssthresh == expected
    assert cwnd // 2 < expected < cwnd
    while sender.peer.acknowledged < end - MSS:  # more marks in the same window of data
        sender.acknowledge(ece=True)
        assert sender.ssthresh == expected
    assert sender.cwnd <= expected
    sender.window(ece=True)  # and the next one
    assert sender.ssthresh < expected


def test_3_3_reduced_window_is_announced_with_cwr(sender: Sender) -> None:
    decayed(sender)
    seen = len(sender.peer.segments)
    sender.acknowledge(ece=True)
    sender.window()
    data = [segment for segment in sender.peer.segments[seen:] if segment.size]
    assert [bool(segment.flags & CWR) for segment in data].index(True) == 0
    assert sum(bool(segment.flags & CWR) for segment in data) == 1


def test_3_4_window_grows_by_one_segment_per_window(sender: Sender) -> None:
    decayed(sender, 3)
    first = sender.cwnd
    for _ in range(6):
        sender.window()
    assert sender.cwnd - first in (5, 6, 7)


def lose_one(sender: Sender) -> None:
    """Have one segment lost, and tell of those that came after it."""
    first = sender.peer.acknowledged + MSS
    for number in range(1, 5):
        sender.peer.acknowledge(0, sack=(first, first + number * MSS))


def test_3_5_loss_halves_the_window_whatever_alpha_is(sender: Sender) -> None:
    decayed(sender, 30)
    cwnd = sender.cwnd
    assert sender.kernel()[0] < ONE // 4
    lose_one(sender)
    assert sender.ssthresh == cwnd // 2


def test_3_5_loss_in_a_window_that_marks_have_reduced_halves_what_it_was_before(sender: Sender) -> None:
    decayed(sender, 30)
    cwnd = sender.cwnd
    sender.acknowledge(ece=True)
    assert cwnd * 3 // 4 < sender.ssthresh < cwnd
    lose_one(sender)
    assert sender.ssthresh == cwnd // 2


def test_3_5_timeout_halves_the_threshold_and_begins_again(sender: Sender) -> None:
    decayed(sender, 30)
    cwnd = sender.cwnd
    sender.peer.wait(lambda: tcp_info(sender.peer.sock)["ca_state"] == 4)
    assert sender.ssthresh == cwnd // 2
    assert sender.cwnd < 4


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_3_2_marks_are_echoed_as_they_come_in(open_peer: OpenPeer, family: str) -> None:
    rows = [
        (ECT0, []),  # delayed
        (ECT0, [(2, False)]),
        (ECT0, []),
        (
            CE,
            [(3, False), (4, True)],
        ),  # the packets before the change by themselves, then the one that made it
        (CE, []),
        (CE, [(6, True)]),
        (CE, []),
        (ECT0, [(7, True), (8, False)]),
        (ECT0, []),
        (ECT0, [(10, False)]),
    ]
    with open_peer(NAME, family) as peer:
        peer.accept()
        peer.sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1 << 20
        )  # else every second one, if it is read
        for _ in range(EAGER):
            peer.send_data(MSS)
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        for codepoint, expected in rows:
            sent = peer.send_data(MSS, ecn=codepoint)
            assert [(s.acknowledged // MSS - EAGER, s.has_ece) for s in sent] == expected


def test_3_2_new_state_is_acknowledged_at_once_when_nothing_is_delayed(open_peer: OpenPeer) -> None:
    with open_peer(NAME) as peer:
        peer.accept()
        assert [(s.acknowledged, s.has_ece) for s in peer.send_data(MSS, ecn=CE)] == [(MSS, True)]
        assert [(s.acknowledged, s.has_ece) for s in peer.send_data(MSS, ecn=ECT0)] == [(2 * MSS, False)]


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_peer_without_ecn_gets_reno_and_packets_that_are_not_ecn_capable(
    open_peer: OpenPeer, family: str
) -> None:
    with open_peer(NAME, family) as peer:
        peer.accept(ecn=False)
        control = peer.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).split(b"\0")[0]
        peer.sock.send(bytes(MSS))
        peer.read()
        assert control == b"reno"
        assert [segment.ecn for segment in peer.segments if segment.size] == [NOT_ECT]
