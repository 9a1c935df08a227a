# SPDX-License-Identifier: Apache-2.0
"""What must hold on the host of a soak: at any time, and when all has settled."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from pliant.kernel.errors import KernelError
from pliant.kernel.links import Link
from pliant.kernel.maps import Map, map_ids
from pliant.kernel.programs import Program, program_ids
from pliant.soak.ground import Broken, Ground, Seen, Service, wait
from pliant.soak.policies import STABLE_VERSION, UNTOUCHED, expected, given_by, version_of

SETTLED_S = 60.0
FREED_S = 30.0  # the kernel frees what nobody uses a while later
SPARE_DESCRIPTORS = 4
TROUBLE = {"drift", "interrupted", "conflict", "journal", "pins", "objects"}  # findings of doctor
KINDS: dict[str, Callable[[Path], Program | Map | Link]] = {
    "program": Program.pinned,
    "map": Map.pinned,
    "link": Link.pinned,
}
BY_ID: dict[str, Callable[[int], Program | Map | Link]] = {
    "program": Program.by_id,
    "map": Map.by_id,
    "link": Link.by_id,
}


class Checks:
    """The invariants; each raises Broken with what was found."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.ever: dict[str, set[int]] = {kind: set() for kind in KINDS}
        self.is_off = False  # the whole host is switched off: what is stable is not tuned then
        self.tuned_ends = 0
        self.most_resident_mib = 0.0
        self._resets = self._counter()
        self._descriptors: dict[int, int] = {}

    # -- at any time

    def connections(self) -> None:
        """No connection has failed, all of stable policies are tuned, and none anywhere has half of anything."""
        for service in self.ground.services.values():
            self._ask(service)
        resets = self._counter()
        if resets != self._resets:
            raise Broken(f"{resets - self._resets} established connections were reset")

    def _ask(self, service: Service) -> Seen:
        seen = service.ask()
        self.of(service, seen)
        return seen

    def of(self, service: Service, seen: Seen) -> None:
        """Hold one service to it."""
        if seen.failures:
            raise Broken(f"connections of {service.name} failed: {'; '.join(seen.failures[:5])}")
        is_live = "live" in service.name
        if service.name.startswith("stable") and not self.is_off:
            wanted = given_by(STABLE_VERSION, live=is_live)
            for which, ends in (("new", seen.new), ("open", seen.held if is_live else {})):
                if wrong := {kind: count for kind, count in ends.items() if kind != wanted}:
                    raise Broken(f"{which} connections of {service.name} have {wrong}, not {wanted}")
            self.tuned_ends += sum(seen.new.values())
        if is_live:
            return  # one option after the other, while they change
        if half := {kind for kind in seen.new if version_of(kind) is None}:
            raise Broken(f"new connections of {service.name} have half of a policy: {sorted(half)}")
        if seen.held != service.held:
            raise Broken(
                f"open connections of {service.name} had {service.held} and now have {seen.held}, "
                "though no policy is for open ones"
            )

    def forgive(self) -> None:
        """Forget the resets there were."""
        self._resets = self._counter()

    def _counter(self) -> int:
        return self.ground.lab_host.counters()["TcpEstabResets"]

    def note_pins(self) -> dict[str, set[int]]:
        """The ids of what is pinned now; they are remembered, for all of it must end one day."""
        found = pinned(self.ground.places.pins)
        for kind, numbers in found.items():
            self.ever[kind] |= numbers
        return found

    # -- when all has settled

    def settled(self) -> None:
        """The kernel is what the journal says, connections have what they should, and nothing is left over."""
        ground = self.ground
        if ground.agent is None:
            ground.must("repair")
        self.agreement()
        self._agent()
        self.given()
        self.left_over()
        ground.must("audit", "verify")
        if len(layouts := os.listdir(ground.places.pins) if ground.places.pins.exists() else []) > 1:
            raise Broken(f"pins of several layouts are left: {layouts}")

    def agreement(self, seconds: float = SETTLED_S) -> None:
        """The kernel is what the journal says, or soon will be."""
        wait(lambda: not self._trouble(), seconds, lambda: f"it does not settle: {self._trouble()}")

    def _trouble(self) -> list[str]:
        findings = json.loads(self.ground.command("doctor", "-o", "json")["output"])
        return [finding["sentence"] for finding in findings if bad(finding)]

    def _agent(self) -> None:
        agent = self.ground.agent
        if agent is None:
            return
        if agent.poll() is not None:
            raise Broken(f"the agent has ended with {agent.returncode}: {self.ground.agent_said()}")
        wait(
            lambda: not self.ground.status()["failure"],
            SETTLED_S,
            lambda: f"the agent cannot do its work: {self.ground.status()['failure']}",
        )
        count = len(os.listdir(f"/proc/{agent.pid}/fd"))
        first = self._descriptors.setdefault(agent.pid, count)
        if count > first + SPARE_DESCRIPTORS:
            raise Broken(f"the agent has {count} descriptors, it had {first} at first")
        pages = int(Path(f"/proc/{agent.pid}/statm").read_text().split()[1])
        self.most_resident_mib = max(self.most_resident_mib, pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20))

    def given(self) -> None:
        """Connections made from now on, and open ones of live policies, have what the policies in force say."""
        self.connections()  # those made before are no matter
        with self.ground.journal() as host:
            policies, switches = host.policies(), host.switches()
        for name, service in self.ground.services.items():
            seen = self._after_new_ones(service)
            is_live = "live" in name
            versions = expected(policies, switches, f"/{name}")
            wanted = {given_by(v, live=is_live) if v else UNTOUCHED for v in versions}
            for which, ends in (("new", seen.new), ("open", seen.held if is_live else {})):
                if wrong := {kind: count for kind, count in ends.items() if kind not in wanted}:
                    raise Broken(f"{which} connections of {name} have {wrong}, not {sorted(wanted)}")

    def _after_new_ones(self, service: Service) -> Seen:
        found: list[Seen] = []

        def has_new() -> bool:
            found[:] = [self._ask(service)]
            return bool(found[0].new)

        wait(has_new, SETTLED_S, lambda: f"there are no new connections in {service.name}")
        return found[0]

    def left_over(self, seconds: float = FREED_S) -> None:
        """What was pinned once and is no more has ended, and so has whatever used its maps."""
        now = self.note_pins()

        def left() -> dict[str, set[int]]:
            gone = {kind: numbers - now[kind] for kind, numbers in self.ever.items()}
            alive = {
                kind: {number for number in numbers if is_alive(kind, number)}
                for kind, numbers in gone.items()
            }
            alive["program"] |= users(self.ever["map"], now["program"] | self.ever["program"])
            return {kind: numbers for kind, numbers in alive.items() if numbers}

        wait(lambda: not left(), seconds, lambda: f"what is pinned no more has not ended: {left()}")
        for kind, numbers in self.ever.items():
            numbers &= now[kind]

    def nothing_left(self) -> None:
        """After everything was deleted: no pins, and nothing of what there ever was."""
        pins = self.ground.places.pins
        if left := list(pins.rglob("*")) if pins.exists() else []:
            raise Broken(f"{len(left)} pins are left after everything was deleted, such as {left[0]}")
        self.left_over()


def bad(finding: dict[str, str]) -> bool:
    """Whether something doctor has found is not as it should be here; what is switched off is so on purpose."""
    return finding["name"] in TROUBLE and finding["level"] in ("degraded", "broken")


def pinned(directory: Path) -> dict[str, set[int]]:
    """The ids of all that is pinned below a directory, by kind; what goes away meanwhile is left out."""
    found: dict[str, set[int]] = {kind: set() for kind in KINDS}
    for path in sorted(directory.rglob("*")) if directory.exists() else ():
        for kind, opened in KINDS.items():
            try:
                with opened(path) as held:
                    found[kind].add(held.id)
                break
            except (KernelError, OSError):
                continue
    return found


def is_alive(kind: str, number: int) -> bool:
    """Whether the kernel still has it."""
    try:
        BY_ID[kind](number).close()
    except KernelError:
        return False
    return True


def users(maps: Iterable[int], known: set[int]) -> set[int]:
    """Programs that use one of these maps and were never pinned."""
    ours, found = set(maps) & set(map_ids()), set()
    for number in set(program_ids()) - known:
        try:
            with Program.by_id(number) as program:
                if ours & set(program.map_ids):
                    found.add(number)
        except KernelError:  # freed meanwhile
            continue
    return found
