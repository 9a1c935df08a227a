# SPDX-License-Identifier: Apache-2.0
"""The soak itself: events at random for so long, with a look at what must hold after each, and all of it at times."""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pliant.bench.bench import Sample
from pliant.lab import Lab, PrivateMounts
from pliant.soak import builds
from pliant.soak.checks import Checks
from pliant.soak.events import Events
from pliant.soak.ground import Broken, Ground
from pliant.soak.policies import STABLE, STABLE_LIVE, stable

STABLE_HELD = 100  # connections that each of the two stable services holds open
STABLE_PAUSE_S = 0.02
EVENTS_BETWEEN = 12  # looks at everything
Tell = Callable[[str], None]


@dataclass
class Record:
    """What happened in a soak, and what came of it; ``broken`` is what did not hold, if anything."""

    seed: int
    seconds: float = 0.0
    happened: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    broken: str = ""


def soak(mounts: PrivateMounts, seed: int, seconds: float, tell: Tell, *, upgrades: bool = True) -> Record:
    """Have everything happen to a host for so long; the same seed draws the same events."""
    record = Record(seed)
    with tempfile.TemporaryDirectory(prefix="pliant-soak-") as directory, Lab("soak") as lab:
        found = [builds.CHECKOUT / "src" if builds.is_possible() else builds.PACKAGE.parent]
        if upgrades and builds.is_possible():
            tell("building another layout")
            found.append(builds.make_other(Path(directory)))
        ground = Ground(lab.host("host"), mounts, found)
        with contextlib.closing(ground):
            campaign = Campaign(ground, record, tell)
            started = time.monotonic()
            try:
                campaign.begin()
                campaign.go_on(started + seconds)
                campaign.end()
            except Broken as error:
                record.broken = str(error)
            record.seconds = time.monotonic() - started
            record.samples = campaign.samples()
    return record


class Campaign:
    """One soak on one ground."""

    def __init__(self, ground: Ground, record: Record, tell: Tell) -> None:
        self.ground = ground
        self.record = record
        self.tell = tell
        self.checks = Checks(ground)
        self.events = Events(ground, self.checks, random.Random(record.seed))
        self.began = time.monotonic()
        self.settled = 0

    def begin(self) -> None:
        """Put what is stable in force, and under load."""
        for name in (STABLE, STABLE_LIVE):
            self.ground.lab_host.service(f"root/{name}.service")
        done = self.ground.apply(*stable())
        if done["status"]:
            raise Broken(f"the first apply failed: {done['errors'].strip()}")
        with self.ground.journal() as host:
            self.events.first_generation = host.journal.current()
        for name in (STABLE, STABLE_LIVE):
            self.ground.add_service(f"{name}.service", STABLE_HELD, STABLE_PAUSE_S)
        self.ground.start_agent()
        self.look()

    def go_on(self, until: float) -> None:
        """Have events happen until then."""
        events = self.events.all()
        weights = [event.weight for event in events]
        count = 0
        while time.monotonic() < until:
            [event] = self.events.draw.choices(events, weights)
            with self.told(event.name) as said:
                said.append(event.happen() or "")
            if not said[0]:
                continue
            self.record.counts[event.name] += 1
            count += 1
            self.checks.connections()
            self.checks.note_pins()
            if count % EVENTS_BETWEEN == 0:
                self.look()

    @contextlib.contextmanager
    def told(self, name: str) -> Iterator[list[str]]:
        """Record what happens in the block, which says what it did."""
        said: list[str] = []
        at = time.monotonic() - self.began
        try:
            yield said
        except BaseException:
            said.append("...")
            raise
        finally:
            if said and said[0]:
                self.record.happened.append(f"{at:8.2f} s  {name}: {said[0]}")
                self.tell(self.record.happened[-1])

    def look(self) -> None:
        """Look at everything that must hold."""
        with self.told("all is looked at") as said:
            self.checks.settled()
            self.settled += 1
            said.append(f"{self.ground.opened:,} connections so far")

    def end(self) -> None:
        """Look once more, take everything away, and look at what is left."""
        self.look()
        self.checks.is_off = True
        self.ground.must("delete", "--all")
        with self.told("everything is deleted") as said:
            self.ground.stop_agent(kill=False)
            self.checks.given()
            self.checks.nothing_left()
            said.append("nothing is left")

    def samples(self) -> list[Sample]:
        """The figures of the record."""
        counts = self.record.counts
        commands = ("policies applied", "policy deleted", "rollback", "switched off", "switched on")
        return [
            Sample("duration_s", "s", self.record.seconds),
            Sample("connections", "connections", self.ground.opened),
            Sample("tuned_ends", "sockets", self.checks.tuned_ends),
            Sample("events", "events", counts.total()),
            Sample("looks", "looks", self.settled),
            Sample("commands", "commands", sum(counts[name] for name in commands)),
            Sample("commands_killed", "commands", counts["command killed"]),
            Sample("agents_killed", "agents", counts["agent killed"]),
            Sample("layouts_replaced", "upgrades", counts["build replaced"]),
            Sample("agent_rss_mib", "MiB", self.checks.most_resident_mib),
            Sample("broken", "invariants", int(bool(self.record.broken))),
        ]
