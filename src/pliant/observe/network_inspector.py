# SPDX-License-Identifier: Apache-2.0
"""Watching the facts of a network namespace: always right, and soon, whatever storms there are.

The kernel's messages are taken for one thing only: something of that kind has changed. What has changed is then read
anew, at once after a quiet time, otherwise after a pause that grows with what reading costs, so that a storm of any
length takes a small share of a processor. When the kernel had to drop messages everything is read. What the kernel
sends no messages about is looked at again from time to time, cheap things often and everything rarely, and at once
where a file tells: sysctls written through this mount of /proc, and the lock that legacy iptables takes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import select
import time
from dataclasses import dataclass
from pathlib import Path

from pliant.closing import Closable
from pliant.kernel import netdev, nftables, rtnetlink, xfrm
from pliant.kernel.inotify import Inotify, Mask, WatchLimit
from pliant.kernel.namespaces import entered
from pliant.kernel.netlink import Message, Monitor
from pliant.kernel.rtnetlink import RouteScan
from pliant.kernel.sysctls import path_of
from pliant.kernel.timer import Timer
from pliant.observe.network import Facts, RouteKinds
from pliant.observe.network_reader import EVERYTHING, SYSCTLS, Part, Reader

RECEIVE_BYTES = 16 << 20
_LEAST_PAUSE_S = 0.01
_PAUSE_FOR_COST = 4.0  # a storm takes one part in five of a processor at most
_PAUSE_AFTER_FAILURE_S = 0.1
_ROUTES_SLICE_S = 0.003
_ROUTES_PAUSE_S = 1.0
_ROUTES_PAUSE_FOR_COST = 50.0
_XTABLES_LOCK = "/run/xtables.lock"
_SOON = Part.SETTINGS | Part.UNTOLD
# Of the MTU no less than any link has (RFC 791, RFC 8200).
_ALL_ROUTES = RouteKinds(
    multipath4=True, multipath6=True, encapsulation=True, mtu4=68, mtu6=1280, shares_mtu6=True
)

_PARTS = {
    **dict.fromkeys((rtnetlink.NEWADDR, rtnetlink.DELADDR), Part.ADDRESSES),
    **dict.fromkeys((rtnetlink.NEWRULE, rtnetlink.DELRULE), Part.RULES),
    **dict.fromkeys((rtnetlink.NEWQDISC, rtnetlink.DELQDISC), Part.TRAFFIC_CONTROL),
    **dict.fromkeys((rtnetlink.NEWTFILTER, rtnetlink.DELTFILTER), Part.TRAFFIC_CONTROL),
    **dict.fromkeys((rtnetlink.NEWNETCONF, rtnetlink.DELNETCONF), Part.SETTINGS),
}
# Routes that go with an interface or an address are not told of.
_TAKE_ROUTES_ALONG = (rtnetlink.NEWLINK, rtnetlink.DELLINK, rtnetlink.DELADDR)


@dataclass(slots=True)
class Counts:
    """What an inspector has done: messages heard, times that messages were lost, readings, and changes found."""

    messages: int = 0
    overruns: int = 0
    readings: int = 0
    changes: int = 0


class Inspector(Closable):
    """The facts of a namespace (the calling thread's when none is given), kept up to date.

    A loop waits for :meth:`fileno` to be readable and then calls :meth:`update`. Closing it, or leaving the block it
    manages, ends it. Raises :class:`KernelError`.
    """

    def __init__(
        self,
        netns: Path | int | None = None,
        *,
        receive_bytes: int = RECEIVE_BYTES,
        look_again_s: float = 1.0,
        read_all_s: float = 30.0,
        hear_all_routes: bool = False,
    ) -> None:
        """Start to listen, then read everything, so that nothing is missed in between.

        What sends no messages is looked at every ``look_again_s``, everything every ``read_all_s``.
        ``hear_all_routes`` has the kernel send a message for every route, which is of use to tests only.
        """
        self.counts = Counts()
        self._look_again_s, self._read_all_s = look_again_s, read_all_s
        self._monitors: list[tuple[Monitor, Part]] = []
        self._timer = Timer()
        self._poll = select.epoll()
        self._files = Inotify()
        self._netns = netns
        self._scan: RouteScan | None = None
        self._reader = Reader(netns)
        try:
            self._listen(netns, receive_bytes, hear_all_routes)
            self._dirty, self._indices = EVERYTHING, set[int]()
            self._routes_not_before = self._not_before = 0.0
            self._next_look = self._next_all = 0.0
            self._scan_cost_s, self._found_meanwhile = 0.0, RouteKinds()
            self._facts = Facts()
            self._read(time.monotonic())
            self._read_routes(math.inf)
            self._set_timer()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop listening."""
        for monitor, _ in self._monitors:
            monitor.close()
        self._monitors.clear()
        self._reader.close()
        if self._scan is not None:
            self._scan.close()
        self._files.close()
        self._poll.close()
        self._timer.close()

    @property
    def facts(self) -> Facts:
        """What was found when it was last read."""
        return self._facts

    def fileno(self) -> int:
        """A descriptor that is readable when :meth:`update` has something to do."""
        return self._poll.fileno()

    def update(self) -> bool:
        """Take in what has been heard, read what has to be read now, and tell whether the facts have changed."""
        before = self._facts
        self._timer.clear()
        for monitor, part in self._monitors:
            heard = monitor.hear()
            self.counts.messages += len(heard.messages)
            if heard.overrun:
                self._lose_track()
            if part is EVERYTHING:
                self._note(heard.messages)
            elif heard.messages:
                self._dirty |= part
        if self._files.read():
            self._dirty |= _SOON
        now = time.monotonic()
        if now >= self._next_all:
            self._dirty |= EVERYTHING & ~Part.ROUTES
        elif now >= self._next_look:
            self._dirty |= _SOON
        try:
            if now >= self._not_before and (self._indices or self._dirty & ~Part.ROUTES):
                self._read(now)
            if self._scan is not None or (Part.ROUTES in self._dirty and now >= self._routes_not_before):
                self._read_routes()
        finally:
            self._set_timer()
        return self._facts != before

    def wait(self, timeout_s: float) -> bool:
        """Wait until the facts have changed, at most so long; tell whether they have."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self], [], [], left)[0] and self.update():
                return True
        return False

    @property
    def is_settled(self) -> bool:
        """Whether everything that was heard of has been read, so that the facts are the kernel's."""
        return not self._dirty and not self._indices and self._scan is None

    def _listen(self, netns: Path | int | None, receive_bytes: int, all_routes: bool) -> None:
        self._monitors.append(
            (rtnetlink.monitor(netns, receive_bytes=receive_bytes, all_routes=all_routes), EVERYTHING)
        )
        self._monitors.append((nftables.monitor(netns, receive_bytes=receive_bytes), Part.RULESET))
        others = (
            (xfrm.monitor(netns, receive_bytes=receive_bytes), Part.XFRM),
            (netdev.monitor(netns, receive_bytes=receive_bytes), Part.XDP_FEATURES),
        )
        self._monitors += [(monitor, part) for monitor, part in others if monitor is not None]
        for monitor, _ in self._monitors:
            self._poll.register(monitor, select.EPOLLIN)
        for source in (self._timer, self._files):
            self._poll.register(source.fileno(), select.EPOLLIN)
        self._watch(netns)

    def _watch(self, netns: Path | int | None) -> None:
        """Which sysctls a path leads to is decided by the namespace of the thread that asks."""
        with contextlib.ExitStack() as stack, contextlib.suppress(WatchLimit):
            if netns is not None:
                stack.enter_context(entered(netns))
            for name in SYSCTLS:
                self._files.add(path_of(name), Mask.MODIFY)
            self._files.add(_XTABLES_LOCK, Mask.CLOSE)

    def _note(self, messages: tuple[Message, ...]) -> None:
        for kind, body in messages:
            index = rtnetlink.changed_interface(body, kind)
            if index is not None:
                self._indices.add(index)
                if kind in (rtnetlink.NEWNETCONF, rtnetlink.DELNETCONF):
                    continue  # it is about settings of the interface, and of nothing else
            if kind in (rtnetlink.NEWROUTE, rtnetlink.DELROUTE):
                self._note_routes(rtnetlink.kinds_of_route(body), is_new=kind == rtnetlink.NEWROUTE)
            elif kind in (rtnetlink.NEWNEXTHOP, rtnetlink.DELNEXTHOP):
                self._note_routes(rtnetlink.kinds_by_next_hop(body), is_new=kind == rtnetlink.NEWNEXTHOP)
            else:
                self._dirty |= _PARTS.get(kind, Part(0))
        gone = any(kind in _TAKE_ROUTES_ALONG for kind, _ in messages)
        if gone and self._facts.routes != RouteKinds():
            self._dirty |= Part.ROUTES

    def _note_routes(self, found: RouteKinds, *, is_new: bool) -> None:
        """A new kind of route is known from the message; whether one that goes was the last takes reading all."""
        if found == RouteKinds():
            return
        if is_new:
            self._found_meanwhile |= found
            self._accept(dataclasses.replace(self._facts, routes=self._facts.routes | found))
        else:
            self._dirty |= Part.ROUTES

    def _lose_track(self) -> None:
        """Messages were lost. Until all routes have been read there may be some of every kind."""
        self.counts.overruns += 1
        self._dirty = EVERYTHING
        self._found_meanwhile = _ALL_ROUTES
        self._accept(dataclasses.replace(self._facts, routes=_ALL_ROUTES))

    def _read(self, now: float) -> None:
        parts, indices = self._dirty & ~Part.ROUTES, self._indices
        self._dirty, self._indices = self._dirty & Part.ROUTES, set()
        try:
            found = self._reader.read(self._facts, parts, indices)
        except BaseException:
            self._dirty, self._indices = self._dirty | parts, self._indices | indices
            self._not_before = now + _PAUSE_AFTER_FAILURE_S
            raise
        self.counts.readings += 1
        done = time.monotonic()
        self._not_before = done + max(_LEAST_PAUSE_S, _PAUSE_FOR_COST * (done - now))
        if _SOON & ~parts == Part(0):
            self._next_look = done + self._look_again_s
        if (EVERYTHING & ~Part.ROUTES) & ~parts == Part(0):
            self._next_all = done + self._read_all_s
        self._accept(found)

    def _read_routes(self, seconds: float = _ROUTES_SLICE_S) -> None:
        """Run through the routes for a moment; a full table takes seconds, and others want their turn."""
        began = time.monotonic()
        if self._scan is None:
            self._dirty &= ~Part.ROUTES
            self._scan, self._scan_cost_s = RouteScan(self._netns), 0.0
            self._found_meanwhile = RouteKinds()
        try:
            found = self._scan.step(seconds)
        except BaseException:
            self._scan = None
            self._dirty |= Part.ROUTES
            self._routes_not_before = began + _PAUSE_AFTER_FAILURE_S
            raise
        done = time.monotonic()
        self._scan_cost_s += done - began
        if found is not None:
            self._scan = None
            self._routes_not_before = done + max(_ROUTES_PAUSE_S, _ROUTES_PAUSE_FOR_COST * self._scan_cost_s)
            self._accept(dataclasses.replace(self._facts, routes=found | self._found_meanwhile))

    def _accept(self, found: Facts) -> None:
        self.counts.changes += found != self._facts
        self._facts = found

    def _set_timer(self) -> None:
        now = time.monotonic()
        next_time = now if self._scan is not None else min(self._next_look, self._next_all)
        if self._indices or self._dirty & ~Part.ROUTES:
            next_time = min(next_time, self._not_before)
        if Part.ROUTES in self._dirty:
            next_time = min(next_time, self._routes_not_before)
        self._timer.set(next_time - now)
