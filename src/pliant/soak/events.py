# SPDX-License-Identifier: Apache-2.0
"""What happens to the host of a soak. Each event is one method; how often it happens is by its weight."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace

from pliant.policy.switches import Kind
from pliant.soak.checks import Checks
from pliant.soak.ground import Broken, Ground
from pliant.soak.policies import STABLE, STABLE_LIVE, VERSIONS, Written
from pliant.store.generations import State

NAMES = [f"{kind}-{number}.service" for kind in ("new", "live") for number in range(1, 5)]
OPEN_ENDS_OF_ONE = 15  # connections that each service holds open
PAUSE_S = 0.05  # between two new connections of one service
LONGEST_COMMAND_S = 0.4  # a command is killed at some time before
FLICKERS = 5

Happening = Callable[[], str | None]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that can happen: it says what it did, or None when it was not possible now."""

    weight: int
    happen: Happening

    @property
    def name(self) -> str:
        """Its name, in words."""
        return self.happen.__name__.replace("_", " ")


class Events:
    """Everything that can happen, drawn with a seeded generator; only commands know what came of them."""

    def __init__(self, ground: Ground, checks: Checks, draw: random.Random) -> None:
        self.ground = ground
        self.checks = checks
        self.draw = draw
        self.first_generation = 0

    def all(self) -> list[Event]:
        """The events with their weights."""
        return [
            Event(10, self.service_appears),
            Event(7, self.service_goes),
            Event(4, self.services_flicker),
            Event(14, self.policies_applied),
            Event(6, self.policy_deleted),
            Event(5, self.rollback),
            Event(6, self.switched_off),
            Event(6, self.switched_on),
            Event(2, self.everything_off_and_on),
            Event(8, self.command_killed),
            Event(8, self.agent_killed),
            Event(3, self.agent_ended),
            Event(12, self.agent_started),
            Event(2, self.agent_told_to_read_again),
            Event(4, self.link_removed),
            Event(6, self.build_replaced),
        ]

    # -- services

    def service_appears(self) -> str | None:
        """A service under load appears."""
        absent = [name for name in NAMES if name not in self.ground.services]
        if not absent:
            return None
        name = self.draw.choice(absent)
        self.ground.add_service(name, OPEN_ENDS_OF_ONE, PAUSE_S)
        return name

    def service_goes(self) -> str | None:
        """One goes, and its cgroup with it."""
        present = [name for name in NAMES if name in self.ground.services]
        if not present:
            return None
        name = self.draw.choice(present)
        self.ground.remove_service(name)
        return name

    def services_flicker(self) -> str | None:
        """A cgroup appears and goes again at once, a few times."""
        absent = [name for name in NAMES if name not in self.ground.services]
        if not absent:
            return None
        name = self.draw.choice(absent)
        for _ in range(FLICKERS):
            (self.ground.root / name).mkdir()
            (self.ground.root / name).rmdir()
        return f"{name}, {FLICKERS} times"

    # -- policies

    def some_policies(self) -> list[Written]:
        """Draw policies: new ones and other versions of those there are."""
        found = {}
        for _ in range(self.draw.randint(1, 4)):
            name = self.draw.choice([*NAMES, "any"])
            version = self.draw.choice(VERSIONS)
            if name == "any":
                found[name] = Written("any", "/new-*.service", version, priority=50)
                continue
            policy = Written(name.removesuffix(".service"), f"/{name}", version, live="live" in name)
            if not policy.live and self.draw.random() < 0.3:
                policy = replace(policy, holdout="30%")
            found[name] = policy
        return list(found.values())

    def policies_applied(self) -> str:
        """Policies are applied, some of them for services that are not there."""
        policies = self.some_policies()
        done = self.ground.apply(*policies)
        if done["status"]:
            raise Broken(f"apply ended with {done['status']}: {done['errors'].strip()}")
        return ", ".join(f"{p.name} version {p.version}" for p in policies)

    def ours(self) -> list[str]:
        """The policies that may be changed."""
        with self.ground.journal() as host:
            return sorted(set(host.names()) - {STABLE, STABLE_LIVE})

    def policy_deleted(self) -> str | None:
        """One policy is deleted."""
        names = self.ours()
        if not names:
            return None
        name = self.draw.choice(names)
        self.ground.must("delete", name)
        return name

    def rollback(self) -> str | None:
        """An earlier generation is brought back."""
        with self.ground.journal() as host:
            applied = [g.number for g in host.journal.generations() if g.state is State.APPLIED]
        known = [number for number in applied if number >= self.first_generation]
        number = self.draw.choice(known[-8:])
        self.ground.must("rollback", str(number))
        return f"to generation {number}"

    # -- the switch

    def switched_off(self) -> str | None:
        """A policy or a service is switched off."""
        if self.draw.random() < 0.5:
            name = self.draw.choice(NAMES)
            with self.ground.journal() as host:
                known = {*host.switches().services, *host.names()}
            present = name in self.ground.services
            if name in known or not present:
                return None
            self.ground.must("off", "--service", name)
            return name
        names = self.ours()
        with self.ground.journal() as host:
            on = [name for name in names if not host.switches().of_policy(name)]
        if not on:
            return None
        name = self.draw.choice(on)
        self.ground.must("off", "--policy", name)
        return f"policy {name}"

    def switched_on(self) -> str | None:
        """One of those is switched on again."""
        with self.ground.journal() as host:
            off = [switch.what for switch in host.switches().off if switch.what.kind is not Kind.HOST]
        if not off:
            return None
        what = self.draw.choice(off)
        self.ground.must("on", f"--{what.kind.value}", what.name)
        return str(what)

    def everything_off_and_on(self) -> str:
        """What is stable is checked up to here, and again when all is on; open connections get back what they had."""
        self.checks.connections()
        self.checks.is_off = True
        self.ground.must("off", "--reason", "soak")
        self.checks.given()
        self.ground.must("on")
        self.checks.connections()
        self.checks.is_off = False
        return "and on again"

    # -- trouble

    def command_killed(self) -> str:
        """A command is killed at some moment, or just after it has ended."""
        after_s = self.draw.uniform(0.01, LONGEST_COMMAND_S)
        names = self.ours()
        if names and self.draw.random() < 0.3:
            done = self.ground.command("delete", *names, kill_after_s=after_s)
        else:
            done = self.ground.apply(*self.some_policies(), kill_after_s=after_s)
        if done["status"] not in (0, -signal.SIGKILL):
            raise Broken(f"a command ended with {done['status']}: {done['errors'].strip()}")
        return f"after {after_s * 1000:.0f} ms" if done["status"] else "too late"

    def agent_killed(self) -> str | None:
        """The agent is killed."""
        if self.ground.agent is None:
            return None
        self.ground.stop_agent(kill=True)
        return "kill -9"

    def agent_ended(self) -> str | None:
        """The agent is told to end."""
        if self.ground.agent is None:
            return None
        self.ground.stop_agent(kill=False)
        return "in order"

    def agent_started(self) -> str | None:
        """An agent is started where none runs."""
        if self.ground.agent is not None:
            return None
        self.ground.start_agent()
        return f"build {self.ground.build}"

    def agent_told_to_read_again(self) -> str | None:
        """The agent is told to read everything again."""
        if self.ground.agent is None:
            return None
        os.kill(self.ground.agent.pid, signal.SIGHUP)
        return "SIGHUP"

    def link_removed(self) -> str | None:
        """Somebody removes one of our links from the bpffs, and with it what was attached."""
        stable = {str((self.ground.root / f"{name}.service").stat().st_ino) for name in (STABLE, STABLE_LIVE)}
        links = self.ground.places.pins.glob("*/links/*")
        found = sorted(path for path in links if path.name.rpartition("-")[2] not in stable)
        if not found:
            return None
        path = self.draw.choice(found)
        path.unlink(missing_ok=True)
        return path.name

    def build_replaced(self) -> str | None:
        """The other build takes over: with the agent, killed or ended and started anew, or by a command."""
        if len(self.ground.builds) < 2:
            return None
        ran = self.ground.agent is not None
        self.ground.stop_agent(kill=self.draw.random() < 0.5)
        self.ground.build = 1 - self.ground.build
        if ran:
            self.ground.start_agent()
        else:
            self.ground.must("repair")
        return f"by build {self.ground.build}"
