# SPDX-License-Identifier: Apache-2.0
"""Two routers with the same ports, one of them with the fast path, and the same cases for both."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import select
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from pliant.kernel.objects import load
from pliant.lab import Lab
from tests.oracle.case import Case, Change
from tests.oracle.clock import without_limits
from tests.oracle.configurations import AGED_MS
from tests.oracle.counted import Counted, uneven_counts
from tests.oracle.fast_router import FastPath
from tests.oracle.fence import Fence
from tests.oracle.filter_router import NFT, FilteringRouter
from tests.oracle.kind import ROUTING, Kind
from tests.oracle.readable import is_readable
from tests.oracle.router import PORTS
from tests.oracle.verdict import Frames, differences, is_question, steadied

MARGIN_S = 0.012  # jiffies are 4 ms here, and a bound may begin late in one and end early in another
_ARP = bytes.fromhex("0806")
_ADDRESS = re.compile(r"^-4 address add ([\d.]+)", re.M)


class Outcome(NamedTuple):
    """How many packets were sent to each router, and what differed."""

    packets: int
    differences: list[str]


class Twins:
    """Made once for many cases; sees to it that nothing of one is left for the next."""

    def __init__(self, name: str, exits: Iterable[int] = range(PORTS), kind: Kind = ROUTING) -> None:
        self.kind = kind
        with contextlib.ExitStack() as undo:
            undo.enter_context(without_limits())
            lab = undo.enter_context(Lab(name))
            tester = lab.host("tester")
            source = Path(str(resources.files("pliant"))) / "objects" / "bench" / "packet_source.bpf.o"
            loaded = undo.enter_context(load(source, feature="oracle", autoload=["pass"]))
            accept = loaded.programs["pass"]
            self.fence = Fence(tester, accept)
            undo.callback(self.fence.close)
            self.plain, self.fast = (
                kind.device(lab.host(name), tester, accept) for name in ("plain", "fast")
            )
            undo.callback(self.plain.close)
            undo.callback(self.fast.close)
            self.fastpath = FastPath(kind, self.fast, kind.variant(Case(), 0), exits)
            undo.callback(self.fastpath.close)
            if isinstance(self.fast, FilteringRouter):
                self.fast.counted_elsewhere = self.fastpath.rule_counts
            self._held = undo.pop_all()

    def close(self) -> None:
        """Take both away."""
        self._held.close()

    def try_case(self, case: Case) -> Outcome:
        """Send a case's packets through both."""
        return _Trial(self, case).run()

    def counts(self) -> list[int]:
        """Packets of the fast path by reason."""
        return self.fastpath.counts()


class _Trial:
    def __init__(self, twins: Twins, case: Case) -> None:
        self._twins, self._case = twins, case
        self._both = (twins.plain, twins.fast)
        self._sockets = [sock for router in self._both for sock in router.sockets]
        commands = "\n".join([*case.commands, *(change.command for change in case.changes)])
        self._addresses = twins.kind.addresses | {
            ipaddress.IPv4Address(a).packed for a in _ADDRESS.findall(commands)
        }
        self._questions: tuple[Frames, Frames] = (Counter(), Counter())
        self._out = (Counter[int](), Counter[int]())
        self._packets = 0
        self._differences: list[str] = []

    def run(self) -> Outcome:
        case, fastpath = self._case, self._twins.fastpath
        for router in self._both:
            router.reset()
        fastpath.become(self._twins.kind.variant(case, 0))
        fastpath.forget()
        refused = [router.configure(case) for router in self._both]
        if refused[0] != refused[1]:
            self._differences.append(f"they refuse different commands: {refused}")
        if self._twins.kind.rules:
            fastpath.follow_rules()
        before = self._counted()
        # What has come out by now is of another case: twins that are not used probe their neighbours after a while.
        self._out, self._questions = (Counter(), Counter()), (Counter(), Counter())
        last = self._round("at first")
        if self._learns_ways:
            self._round("again, with neighbours that are news", also=last)
            select.select([], [], [], AGED_MS / 1000 + MARGIN_S)
        last = self._round("again, as flows that are known")
        for number, change in enumerate(case.changes, 1):
            last = self._changed(number, change, last)
        self._compare_state(before)
        return Outcome(self._packets, self._differences)

    @property
    def _learns_ways(self) -> bool:
        """Whether an answer to ARP among the frames decides which of several ways the kernel takes from then on."""
        return ("net.ipv4.fib_multipath_use_neigh", "1") in self._case.sysctls and any(
            frame.data[12:14] == _ARP for frame in self._case.frames
        )

    def _changed(self, number: int, change: Change, last: Frames) -> Frames:
        changed = time.monotonic()
        refused = [router.change(change.command) for router in self._both]
        if refused[0] != refused[1]:
            self._differences.append(f"they refuse different commands: {refused}")
        self._twins.fastpath.become(self._twins.kind.variant(self._case, number))
        if change.command.startswith(NFT):  # the programs notice by themselves, before they are told
            self._round(f"at once after {change.command!r}")
            self._twins.fastpath.follow_rules()
        if bound_ms := max(change.bound_ms, AGED_MS * self._learns_ways):
            changed = time.monotonic()
            self._round(f"at once after {change.command!r}", also=last)
            rest = changed + bound_ms / 1000 + MARGIN_S - time.monotonic()
            select.select([], [], [], max(rest, 0))
        self._round(f"after {change.command!r}")
        return self._round(f"again, after {change.command!r}")

    def _round(self, when: str, also: Frames | None = None) -> Frames:
        """Send all frames to both; ``also`` is what the fast path may still do in place of what the kernel does."""
        for frame in self._case.frames:
            # Whether a port that is down takes a packet to drop it goes by when the kernel has noticed.
            sent = [router.send(frame) for router in self._both]
            self._packets += sent[0]
            # What becomes of a frame may go by those before: who is asked for, which one waits, where a station is.
            self._twins.fence.taken_up()
        plain, fast = self._come_out()
        if also is not None:  # what comes out by the old configuration, or by the new one
            fast = Counter(
                {frame: count for frame, count in fast.items() if frame not in plain and frame not in also}
            )
            self._differences += [f"{when}: {line}" for line in differences(Counter(), fast)]
        else:
            self._differences += [f"{when}: {line}" for line in differences(plain, fast)]
        return plain

    def _come_out(self) -> tuple[Frames, Frames]:
        """All that both have sent."""
        self._twins.fence.wait(len(self._case.frames))
        found: tuple[Frames, Frames] = (Counter(), Counter())
        for router, frames, questions, out in zip(self._both, found, self._questions, self._out, strict=True):
            got = list(router.received())
            out.update(frame.port for frame in got)
            for frame, count in steadied(got, self._addresses).items():
                (questions if is_question(frame) else frames)[frame] += count
        return found

    def _compare_state(self, before: Sequence[Counted]) -> None:
        late = self._learns_ways or any(change.bound_ms for change in self._case.changes)
        after = self._counted()
        for router, sent, was, now in zip(self._both, self._out, before, after, strict=True):
            counted = Counter(
                {port: now.ports[port].packets_out - was.ports[port].packets_out for port in range(PORTS)}
            )
            if +counted != sent:
                self._differences.append(f"{router.host.name} has counted as sent {counted}, and sent {sent}")
        if late:  # for as long as the bound they may have gone different ways
            return
        self._differences += uneven_counts(
            *(then.until(now) for then, now in zip(before, after, strict=True))
        )
        self._differences += [f"asked for: {line}" for line in differences(*self._questions)]
        held = [router.held() for router in self._both]
        if held[0] != held[1]:
            self._differences.append(f"known: {sorted(map(str, held[0] ^ held[1]))}, the kernel: {held[0]}")

    def _counted(self) -> list[Counted]:
        """What both have counted, at a moment when all of it has come out."""
        while True:
            counted = [Counted.by(router) for router in self._both]
            if not is_readable(self._sockets):
                fast_path = self._twins.fastpath.routed() if self._twins.kind.routes else 0
                return [counted[0], counted[1]._replace(forwarded=fast_path)]
            self._come_out()
