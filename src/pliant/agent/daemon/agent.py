# SPDX-License-Identifier: Apache-2.0
"""The agent of one host: what it waits for, and what it does then.

It waits for the policies to change (another process wrote to the journal), for services to come and go (inotify on the
cgroup hierarchy), for requests, and for the time to look at the kernel. Each leads to the same thing: a look at what
differs, and steps that settle it. While nothing happens nothing runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pliant
from pliant.agent.daemon import metrics
from pliant.agent.daemon.guards import Guards
from pliant.agent.daemon.log import log
from pliant.agent.daemon.loop import Loop, Timer
from pliant.agent.daemon.methods import methods
from pliant.agent.daemon.network_watch import NetworkWatch
from pliant.agent.daemon.notify import notify, watchdog_interval_s
from pliant.agent.daemon.server import Server
from pliant.agent.daemon.state_watch import StateWatch
from pliant.agent.daemon.timings import Timings
from pliant.agent.host import Host
from pliant.agent.lock import agent_lock
from pliant.agent.places import Places
from pliant.agent.reconcile import Cause, Outcome, Reconciler, State
from pliant.errors import PliantError
from pliant.kernel.cgroup_watch import CgroupWatch
from pliant.observe.fastpath import Mode
from pliant.store.events import Event
from pliant.store.journal import Journal

AT_MOST_EVERY_S = 0.02
"""Between two looks: what comes meanwhile is settled in one, and others get at the lock."""
NETWORK_PAUSE_FOR_COST = 0.5  # half as long as the last look took, at most
SAMPLE_EVERY_S = 10.0  # connections that stay open
BUSY_RETRY_S = 0.25  # its release is noticed; this is for a lock held by something else
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 60.0
RESCAN_S = 1.0  # where inotify watches are used up


@dataclass(frozen=True, slots=True)
class Settings:
    """How an agent is run. ``metrics`` is the TCP address they are served on; ``group`` may read the socket."""

    check_every_s: float = 30.0
    metrics: tuple[str, int] | None = None
    group: str = "pliant"
    guard_every_s: float = 5.0


class Agent:
    """Runs until it is told to end, and then leaves everything as it is."""

    def __init__(self, places: Places, settings: Settings | None = None) -> None:
        self.places = places
        self.settings = settings or Settings()
        self.started = time.time()
        self.last: Outcome | None = None
        self.last_at = 0.0
        self.drift: dict[str, Any] = {"checkedAt": None, "steps": 0}
        self.refused: dict[str, str] = {}
        self.foreign: frozenset[str] = frozenset()
        self.fastpath_refused: dict[tuple[str, Mode], str] = {}
        self.failure: dict[str, Any] | None = None
        self.looks: Counter[tuple[str, str]] = Counter()
        self.look_seconds, self.attach_seconds, self.reaction_seconds = Timings(), Timings(), Timings()
        self._causes: set[Cause] = set()
        self._timer: Timer | None = None
        self._failures = 0
        self._looked = 0.0
        self._noticed: float | None = None
        self._ready = False
        self._warmed = False
        self._version = 0

    def run(self) -> None:
        """Run. Raises :class:`PliantError` when it cannot start: another agent runs, or this is no host for it."""
        with contextlib.ExitStack() as stack:
            self.loop = Loop()
            stack.callback(self.loop.close)
            stack.enter_context(
                self.loop.signals(
                    {
                        signal.SIGTERM: self.loop.stop,
                        signal.SIGINT: self.loop.stop,
                        signal.SIGHUP: self._reload,
                    }
                )
            )
            self._feed_watchdog()
            stack.enter_context(agent_lock(self.places.state))
            self.host = stack.enter_context(Host(self.places, lock_timeout_s=0, agent=True))
            self.journal = Journal(self.places.state)
            stack.callback(self.journal.close)
            self.state_watch = StateWatch(self.places.state)
            stack.callback(self.state_watch.close)
            self.services = stack.enter_context(CgroupWatch(self.host.cgroup_root))
            self.network = NetworkWatch(self.loop, self._network_changed, self._network_failed)
            stack.callback(self.network.close)
            self.host.fastpath.facts, self.host.fastpath.wait = self.network.facts, self.network.wait
            self.reconciler = Reconciler(self.host, self.services, self.journal, self._progress)
            stack.callback(self.reconciler.record_adjustments)
            self.server = Server(self.loop, methods(self), self.journal.events.after, self._metrics)
            stack.callback(self.server.close)
            self._listen()
            self._begin()
            self.loop.run()
            notify("STOPPING=1")
            self.tell("agent-stopped", "the agent ends; everything stays attached", pid=os.getpid())

    def _listen(self) -> None:
        self.server.listen(self.places.socket, self.settings.group)
        if self.settings.metrics:
            self.metrics_port = self.server.listen_tcp(*self.settings.metrics)
        self.loop.watch(self.state_watch, self._state_changed)
        self.loop.watch(self.services, self._services_changed)
        self.every(self.settings.check_every_s, self._check)
        self.every(SAMPLE_EVERY_S, self._sample)
        self.every(self.settings.guard_every_s, Guards(self).look)

    def _begin(self) -> None:
        generation = self.journal.current()
        self.tell(
            "agent-started",
            f"the agent {pliant.__version__} watches this host, generation {generation} is in force",
            pid=os.getpid(), version=pliant.__version__, generation=generation,
        )  # fmt: skip
        if not self.services.complete:
            self._tell_degraded()
        self.request(Cause.START)

    # -- for whoever has more to do from time to time

    def every(self, seconds: float, work: Callable[[], None]) -> None:
        """Have something done regularly; a problem it raises is told as an event and does not end the agent."""

        def guarded() -> None:
            try:
                work()
            except PliantError as error:
                self._failed(Cause.CHECK, error)

        self.loop.every(seconds, guarded)

    def tell(self, kind: str, sentence: str, **data: Any) -> None:
        """Record an event, log it and send it to those who follow."""
        try:
            number = self.journal.events.add(kind, sentence, **data)
        except sqlite3.Error:  # a full disk, for one: the log has it
            number = 0
        log(Event(number, time.time(), kind, sentence, data))
        self.server.publish()

    # -- what happens

    def _state_changed(self) -> None:
        released = self.state_watch.take()
        if released and self.last and self.last.state is State.BUSY:
            self.request(self.last.cause)
        version = self.journal.data_version
        if version != self._version:
            self._version = version
            self.server.publish()
        elif not released:
            return
        if self.journal.current() != self.reconciler.generation:
            self.request(Cause.POLICIES)
        elif released and self.journal.interrupted():
            self.request(Cause.CHECK)

    def _services_changed(self) -> None:
        noticed = time.monotonic()
        complete = self.services.complete
        if self.services.update():
            self._noticed = self._noticed or noticed
            self.request(Cause.SERVICES)
        if complete and not self.services.complete:
            self._tell_degraded()

    def _network_changed(self) -> None:
        self.request(Cause.NETWORK)

    def _network_failed(self, error: PliantError) -> None:
        self._failed(Cause.NETWORK, error)

    def _tell_degraded(self) -> None:
        count = len(self.services.known)
        self.tell(
            "watch-degraded",
            f"the inotify watches of this user are used up at {count:,} services: they are looked for every second; "
            "raise fs.inotify.max_user_watches",
            services=count,
        )
        self.loop.after(RESCAN_S, self._rescan)

    def _rescan(self) -> None:
        if self.services.rescan():
            self.request(Cause.SERVICES)
        if not self.services.complete:
            self.loop.after(RESCAN_S, self._rescan)

    def _check(self) -> None:
        if self.services.differs() and self.services.rescan():
            self.request(Cause.SERVICES)
            return  # the look at the kernel is the next one's
        self.request(Cause.CHECK)

    def _sample(self) -> None:
        if self.reconciler.measures:
            self.host.sample_long_connections()

    def _reload(self) -> None:
        notify("RELOADING=1")
        self.tell("agent-reloaded", "everything is read again", pid=os.getpid())
        self.reconciler.forget()
        self.services.rescan()
        self.request(Cause.REQUEST)
        notify("READY=1")

    def _feed_watchdog(self) -> None:
        interval_s = watchdog_interval_s()
        if interval_s:
            notify("WATCHDOG=1")
            self.loop.every(interval_s, self._alive)

    def _alive(self) -> None:
        notify("WATCHDOG=1")

    def _progress(self, position: int, total: int, step: object) -> None:
        if watchdog_interval_s():
            self._alive()

    # -- looking

    def request(self, cause: Cause) -> None:
        """Have the host looked at as soon as may be; several requests are one look."""
        self._causes.add(cause)
        pause = AT_MOST_EVERY_S
        if cause is Cause.NETWORK and self.last:  # its storms are calmed where they are heard of
            pause = min(pause, NETWORK_PAUSE_FOR_COST * self.last.seconds)
        at = max(self._looked + pause, time.monotonic())
        if self._timer is not None and self._timer.at <= at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.after(at - time.monotonic(), self._look_now)

    def look(self, cause: Cause) -> Outcome:
        """Look at the host now. Raises :class:`PliantError` when it could not be made as it should be."""
        self.services.update()
        began = time.monotonic()
        try:
            outcome = self._reconcile(cause)
            self._account_network(outcome, began)
        except PliantError as error:
            self.looks[cause.name.lower(), "failed"] += 1
            self._failed(cause, error)
            raise
        finally:
            self._looked = time.monotonic()
        self._account(outcome)
        return outcome

    def _reconcile(self, cause: Cause) -> Outcome:
        try:
            return self.reconciler.reconcile(cause)
        except sqlite3.Error as error:
            remedy = "see that the state directory's disk is writable and not full"
            raise PliantError(f"the journal cannot be used: {error}", remedy=remedy) from error

    def _look_now(self) -> None:
        self._timer = None
        order = list(Cause)
        cause = max(self._causes, key=order.index)
        both = cause is Cause.SERVICES and Cause.NETWORK in self._causes
        self._causes.clear()
        for one in (Cause.NETWORK, cause) if both else (cause,):
            with contextlib.suppress(PliantError):
                self.look(one)
        if not self._ready and not (self.last and self.last.state is State.BUSY):
            self._ready = True
            notify("READY=1", f"STATUS=generation {self.reconciler.generation} is in force")

    def _account_network(self, outcome: Outcome, began: float) -> None:
        """The fast path follows the network: what is heard of from now on counts anew."""
        if not self.reconciler.wishes:
            self.network.close()
        elif not self._warmed:
            self._warmed = True
            self.loop.after(0, self._warm)
        for (name, mode), said in self.host.fastpath.refusals.items():
            if self.fastpath_refused.get((name, mode)) != said:
                self.tell(
                    "fastpath-refused",
                    f"the fast path is not on {name}: {said}",
                    interface=name, mode=str(mode), generation=self.reconciler.generation,
                )  # fmt: skip
        self.fastpath_refused = dict(self.host.fastpath.refusals)
        if outcome.state is State.BUSY or outcome.cause is Cause.SERVICES:
            return
        since, self.network.noticed = self.network.noticed or began, None
        if outcome.cause is Cause.NETWORK and outcome.steps:
            self.reaction_seconds.add(time.monotonic() - since)
            self._tell_network(outcome, time.monotonic() - since)

    def _warm(self) -> None:
        """Have the first change that comes be followed as soon as others."""
        with contextlib.suppress(PliantError):
            self.host.fastpath.warm(self.host.fastpath.target(self.reconciler.wishes))

    def _tell_network(self, outcome: Outcome, took_s: float) -> None:
        steps = [step.sentence for step in outcome.steps]
        told = "; ".join(steps[:3]) + ("; ..." if len(steps) > 3 else "")
        self.tell(
            "fastpath-followed",
            f"the fast path follows the network after {took_s * 1000:.1f} ms: {told}",
            generation=self.reconciler.generation, milliseconds=round(took_s * 1000, 2), steps=steps[:20],
        )  # fmt: skip

    def _account(self, outcome: Outcome) -> None:
        self.last, self.last_at = outcome, time.time()
        self.looks[outcome.cause.name.lower(), outcome.state.value] += 1
        if outcome.state is State.BUSY:
            self._retry(outcome.cause, BUSY_RETRY_S)
            return
        self.look_seconds.add(outcome.seconds)
        self._failures, self.failure = 0, None
        self._tell_outcome(outcome)
        if outcome.cause is Cause.CHECK:
            self.drift = {"checkedAt": time.time(), "steps": len(outcome.steps)}
        self._noticed = None
        if outcome.state is State.ADJUSTED:
            notify(f"STATUS=generation {self.reconciler.generation} is in force")

    def _tell_outcome(self, outcome: Outcome) -> None:
        generation = self.reconciler.generation
        for refused in outcome.refused:
            if self.refused.get(refused.cgroup) != refused.sentence:
                name = _name(refused.cgroup)
                self.tell(
                    "service-refused",
                    f"{name} stays as it is: {refused.sentence}",
                    service=name, cgroup=refused.cgroup, owner=refused.sentence,
                )  # fmt: skip
        for sentence in sorted(set(outcome.foreign) - self.foreign):
            self.tell("sysctl-foreign", sentence, generation=generation)
        if outcome.cause not in (Cause.NETWORK, Cause.SERVICES):
            self.foreign = frozenset(outcome.foreign)
        if outcome.cause not in (Cause.NETWORK, Cause.SERVICES) or outcome.refused:
            self.refused = {found.cgroup: found.sentence for found in outcome.refused}
        if outcome.cause is Cause.SERVICES:
            self._tell_services(outcome)
        elif outcome.steps and outcome.cause is not Cause.NETWORK:
            steps = [step.sentence for step in outcome.steps]
            told = "; ".join(steps[:3]) + ("; ..." if len(steps) > 3 else "")
            if outcome.cause is Cause.CHECK:
                self.tell(
                    "drift-found",
                    f"the kernel differed from generation {generation}: {told}",
                    generation=generation, steps=steps[:20],
                )  # fmt: skip
            self.tell(
                "adjusted",
                f"the kernel is again as generation {generation} asks for: {told}",
                generation=generation, cause=outcome.cause.value, steps=steps[:20],
            )  # fmt: skip

    def _tell_services(self, outcome: Outcome) -> None:
        generation = self.reconciler.generation
        since = self._noticed
        took_s = time.monotonic() - since if since else outcome.seconds
        for path in outcome.attached:
            self.attach_seconds.add(took_s)
            name = _name(path)
            self.tell(
                "service-attached",
                f"{name} has appeared and has its policies after {took_s * 1000:.1f} ms",
                service=name, cgroup=path, generation=generation, milliseconds=round(took_s * 1000, 2),
            )  # fmt: skip
        for path in outcome.detached:
            name = _name(path)
            self.tell(
                "service-detached",
                f"{name} is gone, and what it had of ours",
                service=name, cgroup=path, generation=generation,
            )  # fmt: skip

    def _failed(self, cause: Cause, error: PliantError) -> None:
        if self.failure is None or self.failure["message"] != error.message:
            self.tell(
                "adjustment-failed",
                error.message,
                generation=self.reconciler.generation, cause=cause.value, remedy=error.remedy,
            )  # fmt: skip
        self.failure = {"at": time.time(), "message": error.message, "remedy": error.remedy}
        self._retry(Cause.CHECK, min(LONGEST_RETRY_S, FIRST_RETRY_S * 2**self._failures))
        self._failures = min(self._failures + 1, 16)

    def _retry(self, cause: Cause, seconds: float) -> None:
        self.loop.after(seconds, lambda: self.request(cause))

    def _metrics(self) -> str:
        return metrics.exposition(self)


def _name(path: str) -> str:
    return path.rpartition("/")[2] or "/"
