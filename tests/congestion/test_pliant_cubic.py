# SPDX-License-Identifier: Apache-2.0
"""CUBIC against RFC 9438, packet by packet; the sections are in the tests' names and comments.

``Model`` is CUBIC once more, in floating point and seconds, fed with the same acknowledgements at the same times: the
window of the kernel's connection is held against it after each one.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pliant.lab.sockets import tcp_info
from tests.congestion.peer import MSS, Peer

if TYPE_CHECKING:
    from pliant.lab import Host as LabHost
    from tests.congestion.conftest import OpenPeer, Registered

pytestmark = pytest.mark.root

NAME = "pliant_cubic"
BETA, C = 0.7, 0.4  # 4.6, 5
CA_LOSS = 4


class State(NamedTuple):
    """What of the kernel's state is looked at: times in seconds, windows in segments."""

    began: float
    k: float
    w_max: int


class Model:
    """CUBIC in congestion avoidance since a congestion event at which the window was ``peak``."""

    def __init__(self, cwnd: float, w_max: float, peak: float) -> None:
        self.cwnd, self.w_max, self.peak = cwnd, w_max, peak
        self.began = 0.0
        self.estimate = cwnd  # W_est
        self.k = ((w_max - cwnd) / C) ** (1 / 3) if cwnd < w_max else 0.0
        if not self.k:
            self.w_max = cwnd

    def cubic(self, t: float) -> float:
        """W_cubic (figure 1)."""
        return C * (t - self.k) ** 3 + self.w_max

    def acknowledged(self, segments: int, now: float, rtt: float) -> None:
        """One acknowledgement (4.2 to 4.5)."""
        self.began = self.began or now
        t = now - self.began
        alpha = 3 * (1 - BETA) / (1 + BETA) if self.estimate < self.peak else 1  # 4.3
        self.estimate += alpha * segments / self.cwnd
        if self.cubic(t) < self.estimate:
            self.cwnd = max(self.cwnd, self.estimate)
        else:
            target = min(max(self.cubic(t + rtt), self.cwnd), 1.5 * self.cwnd)
            self.cwnd += segments * (target - self.cwnd) / self.cwnd


class Sender:
    """The kernel as the sender, with always more to send."""

    def __init__(self, peer: Peer, cubic: Registered, host: LabHost) -> None:
        self.peer, self.registered, self.host = peer, cubic, host
        peer.sock.setblocking(False)
        self.fill()

    def fill(self) -> None:
        try:
            while True:
                self.peer.sock.send(bytes(1 << 20))
        except BlockingIOError:
            self.peer.read()

    def info(self, name: str) -> int:
        return tcp_info(self.peer.sock)[name]

    @property
    def cwnd(self) -> int:
        return self.info("snd_cwnd")

    def acknowledge(self, segments: int = 1) -> None:
        for _ in range(segments):
            self.fill()
            self.peer.acknowledge(MSS)

    def reach(self, cwnd: int) -> None:
        """Have slow start grow the window to this."""
        while self.cwnd < cwnd:
            self.acknowledge()

    def lose_one(self) -> None:
        """Have one segment lost, and acknowledge everything once the window is reduced."""
        first = self.peer.acknowledged + MSS
        for number in range(1, 5):
            self.peer.acknowledge(0, sack=(first, first + number * MSS))
        self.peer.read()
        while self.info("ca_state"):
            self.peer.acknowledge(self.peer.sent - self.peer.acknowledged)

    def state(self) -> State:
        content = self.registered.states(self.host)[self.peer.sock.getsockname()[1]]
        began_us, _, k_ms, w_max = struct.unpack_from("=QQII", content, 8)
        return State(began_us / 1e6, k_ms / 1e3, w_max)


@pytest.fixture(scope="module", autouse=True)
def cubic(registered: Callable[[str], Registered]) -> Registered:
    return registered(NAME)


@pytest.fixture
def no_frto(host: LabHost) -> Iterator[None]:
    """A timeout is one, whatever is acknowledged after it (RFC 5682)."""
    before = host.sysctl("net.ipv4.tcp_frto")
    host.sysctl("net.ipv4.tcp_frto", "0")
    yield
    host.sysctl("net.ipv4.tcp_frto", before)


@pytest.fixture
def sender(open_peer: OpenPeer, cubic: Registered, host: LabHost) -> Iterator[Sender]:
    with open_peer(NAME) as peer:
        peer.accept()
        yield Sender(peer, cubic, host)


def follow(sender: Sender, model: Model, times: int, every_s: float = 0.0) -> list[int]:
    """Acknowledge segments, some time after one another; return the windows, each of which is the model's."""
    windows = []
    due = time.monotonic()
    for _ in range(times):
        time.sleep(max(0.0, due - time.monotonic()))  # time is what the window is a function of
        sender.fill()
        before = time.monotonic()
        sender.peer.acknowledge(MSS)
        model.acknowledged(1, (before + time.monotonic()) / 2, sender.info("rtt") / 1e6)
        windows.append(sender.cwnd)
        assert windows[-1] == pytest.approx(model.cwnd, abs=1.5)
        due += every_s
    return windows


def test_4_10_slow_start_grows_by_what_is_acknowledged(sender: Sender) -> None:
    first = sender.cwnd
    sender.acknowledge(15)
    assert sender.cwnd == first + 15


def test_4_6_loss_reduces_the_window_to_beta_and_begins_the_curve_at_k_before_the_peak(
    sender: Sender,
) -> None:
    sender.reach(60)
    sender.lose_one()
    assert sender.info("snd_ssthresh") == int(60 * BETA)
    state = sender.state()
    assert state.w_max == 60
    assert state.k == pytest.approx(((60 - sender.cwnd) / C) ** (1 / 3), abs=0.002)


def test_4_4_window_follows_the_curve_up_to_where_it_was(sender: Sender) -> None:
    sender.reach(60)
    sender.lose_one()
    windows = follow(sender, Model(sender.cwnd, 60, 60), times=125, every_s=0.02)
    assert windows[-1] >= 55


@pytest.mark.usefixtures("no_frto")
def test_4_8_window_after_a_timeout_grows_beyond_the_threshold_on_the_far_side_of_the_curve(
    sender: Sender,
) -> None:
    sender.reach(40)
    sender.peer.wait(lambda: sender.info("ca_state") == CA_LOSS)
    threshold, cwnd = sender.info("snd_ssthresh"), sender.cwnd
    assert threshold == int(40 * BETA)
    assert cwnd == 1
    segments = (sender.peer.sent - sender.peer.acknowledged) // MSS
    sender.peer.acknowledge(segments * MSS)  # slow start up to the threshold, and the rest beyond it
    model = Model(threshold, 0, 40)
    model.acknowledged(segments - (threshold - cwnd), time.monotonic(), sender.info("rtt") / 1e6)
    windows = follow(sender, model, times=100, every_s=0.02)
    assert sender.state()[1:] == (0, threshold)
    half = len(windows) // 2  # convex: the second half has most of it
    assert windows[-1] - windows[half] > windows[half] - windows[0]
    assert model.cubic(time.monotonic() - model.began) > model.estimate


def test_4_3_window_is_renos_where_that_is_faster(sender: Sender) -> None:
    sender.lose_one()  # a small window: the curve is flat, and a window of data soon acknowledged
    model = Model(sender.cwnd, 10, 10)
    follow(sender, model, times=100)
    assert model.cwnd == model.estimate > 12


def test_4_7_flow_that_is_reduced_below_its_last_peak_leaves_room(sender: Sender) -> None:
    sender.reach(60)
    sender.lose_one()
    sender.acknowledge(50)
    second = sender.cwnd
    assert second < 60
    sender.lose_one()
    assert sender.state().w_max == int(second * (1 + BETA) / 2)
    assert sender.info("snd_ssthresh") == int(second * BETA)


def test_4_9_reduction_for_nothing_is_taken_back(sender: Sender) -> None:
    sender.reach(60)
    sender.lose_one()
    sender.acknowledge(50)
    before, curve = sender.cwnd, sender.state()
    first = sender.peer.acknowledged
    for number in range(1, 5):
        sender.peer.acknowledge(0, sack=(first + MSS, first + (number + 1) * MSS))
    assert sender.info("snd_ssthresh") == int(before * BETA)
    sender.peer.acknowledge(
        sender.peer.sent - first, sack=(first, first + MSS)
    )  # it had come twice (RFC 2883)
    assert sender.cwnd >= before
    assert sender.state()[1:] == curve[1:]
    assert sender.state().began == pytest.approx(curve.began, abs=1)


def test_5_8_window_does_not_grow_while_there_is_little_to_send_and_idle_time_does_not_count(
    open_peer: OpenPeer, cubic: Registered, host: LabHost
) -> None:
    with open_peer(NAME) as peer:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
        peer.accept()
        sender = Sender(peer, cubic, host)
        sender.reach(20)
        sender.lose_one()
        last = 0.0

        def acknowledge(size: int) -> None:
            nonlocal last
            last = time.monotonic()
            peer.acknowledge(size)

        while peer.sent > peer.acknowledged:
            acknowledge(peer.sent - peer.acknowledged)
        began, cwnd = sender.state().began, sender.cwnd
        for _ in range(5):
            time.sleep(0.1)  # idle
            peer.sock.send(bytes(MSS))
            peer.wait(lambda: peer.read() or peer.sent > peer.acknowledged)
            now, moved = time.monotonic(), sender.state().began - began
            assert 0.1 <= moved <= now - last
            began += moved
            acknowledge(MSS)
        assert sender.cwnd == cwnd
