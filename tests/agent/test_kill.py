# SPDX-License-Identifier: Apache-2.0
"""kill -9 at any moment of a change: the next command brings the host to exactly one of the two generations."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pliant.agent.host import Host
from pliant.agent.places import Places
from pliant.features import catalogue
from pliant.kernel.cgroup_query import attached
from pliant.kernel.errors import KernelError
from pliant.kernel.links import AttachType, all_links, attach_cgroup
from pliant.kernel.objects import load
from pliant.kernel.programs import Program, program_ids
from pliant.lab.isolation import isolate
from pliant.lab.network import Lab
from pliant.plan.executor import Progress
from pliant.policy.documents import load_policies
from pliant.policy.model import Policy
from pliant.soak.checks import pinned

Work = Callable[[Host, Progress], object]

SHORT, LONG = 24, 200
POLICIES = 150  # enough that writing tables takes a good part of a change
DEADLINE_S = 10.0

POLICY = """
apiVersion: pliant/v1
kind: TransportPolicy
metadata: {name: %(name)s}
spec:
  match: {service: %(service)s, peers: [10.%(n)d.0.0/16]}
  tune: {%(tune)s}
"""


def _policies(tune: str, services: tuple[str, ...]) -> list[Policy]:
    rows = [
        {"name": f"p{n}", "n": n, "service": services[n % len(services)], "tune": tune}
        for n in range(POLICIES)
    ]
    return load_policies("---".join(POLICY % row for row in rows), "test", catalogue())


ONE = _policies("initial_cwnd: 20, dscp: EF", ("web.service", "api.service"))
OTHER = _policies("initial_cwnd: 40, pacing_rate: 1Gbit", ("web.service",))


@dataclass
class Ground:
    """A host with somebody else's program on one of its hooks."""

    places: Places
    web: Path
    api: Path
    foreign: int

    def host(self) -> Host:
        return Host(self.places)

    def change(self, work: Callable[[Host], object]) -> None:
        with self.host() as host, host.exclusively():
            work(host)

    def inventory(self) -> tuple[object, ...]:
        """What is on the host, as far as it does not depend on when it was put there."""
        pins = sorted(str(path.relative_to(self.places.pins)) for path in self.places.pins.rglob("*"))
        hooks = [
            sorted(program.name for program in attached(cgroup, AttachType.CGROUP_SOCK_OPS))
            for cgroup in (self.web, self.api)
        ]
        programs = self.programs()
        links = sum(link.program_id in programs for link in all_links())
        return pins, hooks, links, sorted(programs.values())

    def programs(self) -> dict[int, str]:
        """The programs of the whole machine that use one of our maps: ids and names."""
        maps, found = pinned(self.places.pins)["map"], {}
        for number in program_ids():
            try:
                with Program.by_id(number) as program:
                    if maps & set(program.map_ids):
                        found[number] = program.name
            except KernelError:  # freed meanwhile
                continue
        return found


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    mounts = isolate()
    with Lab("kill") as lab:
        server = lab.host("server")
        web, api = server.service("web.service"), server.service("api.service")
        with _foreign(tmp_path) as foreign, attach_cgroup(foreign, web, AttachType.CGROUP_SOCK_OPS):
            places = Places(tmp_path / "state", mounts.bpffs / "pliant", web.parent)
            yield Ground(places, web, api, foreign.id)
            with Host(places) as host, host.exclusively():
                host.carry_out(host.change_to_rollback(0), actor="test")
            assert not places.pins.exists()
            assert [p.program_id for p in attached(web, AttachType.CGROUP_SOCK_OPS)] == [foreign.id]


def _foreign(directory: Path) -> Program:
    """Somebody else's sock_ops program, which lets others beside it."""
    source = directory / "foreign.bpf.c"
    source.write_text(
        '__attribute__((section("sockops"), used)) int foreign(void *ctx) { return 1; }\n'
        '__attribute__((section("license"), used)) char LICENSE[] = "GPL";\n'
    )
    command = [
        "clang-19",
        "-target",
        "bpf",
        "-O2",
        "-g",
        "-c",
        str(source),
        "-o",
        str(source.with_suffix(".o")),
    ]
    subprocess.run(command, check=True)
    return load(source.with_suffix(".o"), feature="foreign").programs["foreign"]


@pytest.mark.parametrize("points", [SHORT, pytest.param(LONG, marks=pytest.mark.long)])
def test_killed_change_is_settled_to_one_of_two_generations(ground: Ground, points: int) -> None:
    expected, duration_s = _references(ground)
    seed = random.randrange(2**32)
    dice, interrupted = random.Random(seed), 0
    print(f"seed {seed}, {duration_s * 1000:.0f} ms from the first step of a change to its end")
    for _ in range(points):
        with ground.host() as host:
            before = _which(host)
        work = dice.choice((_apply(OTHER if before == "one" else ONE), _roll_back))
        _kill_during(ground, work, dice.uniform(0, duration_s))
        with ground.host() as host:
            interrupted += host.journal.interrupted() is not None
        ground.change(lambda host: None)  # the next command, which settles
        with ground.host() as host:
            now = _which(host)
            assert host.journal.interrupted() is None
            assert host.drift() == ()
        _await_inventory(ground, expected[now])
        assert ground.foreign in [p.program_id for p in attached(ground.web, AttachType.CGROUP_SOCK_OPS)]
    assert interrupted >= points // 2, f"only {interrupted} of {points} kills fell into a change"


def _references(ground: Ground) -> tuple[dict[str, tuple[object, ...]], float]:
    """The inventory of each of the two sets of policies, undisturbed, and how long going between them takes."""
    expected: dict[str, tuple[object, ...]] = {}
    steps: list[float] = []
    for name, policies in (("one", ONE), ("other", OTHER), ("one", ONE)):
        steps.clear()
        work = _apply(policies)
        with ground.host() as host, host.exclusively():
            work(host, lambda *_: steps.append(time.monotonic()))
        expected[name] = _settled_inventory(ground, name)
    return expected, steps[-1] - steps[0]


def _settled_inventory(ground: Ground, name: str) -> tuple[object, ...]:
    """Once the kernel has freed what the change before used."""
    gone = {"one": "pacing_rate", "other": "dscp"}[name]
    _await(lambda: gone not in ground.programs().values(), lambda: str(ground.programs()))
    return ground.inventory()


def _which(host: Host) -> str:
    """Which of the two sets is in force; any mixture of them fails."""
    found = {name: policy.to_document() for name, policy in host.policies().items()}
    for name, policies in (("one", ONE), ("other", OTHER)):
        if found == {policy.name: policy.to_document() for policy in policies}:
            return name
    raise AssertionError("a mixture of two generations is in force")


def _apply(policies: list[Policy]) -> Work:
    return lambda host, progress: host.carry_out(
        host.change_to_apply(policies), actor="test", progress=progress
    )


def _roll_back(host: Host, progress: Progress) -> object:
    numbers = [g.number for g in host.journal.generations() if g.state.value == "applied"]
    other = next(n for n in reversed(numbers) if n > 0 and host.journal.policies(n) != _in_force(host))
    return host.carry_out(host.change_to_rollback(other), actor="test", progress=progress)


def _in_force(host: Host) -> object:
    return host.journal.policies(host.journal.current())


def _kill_during(ground: Ground, work: Work, after_s: float) -> None:
    """Start a change in a process of its own and kill it ``after_s`` after its first step began."""
    began, begin = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            ground.change(lambda host: work(host, lambda *_: _tell(begin)))
        finally:
            os._exit(0)
    os.close(begin)
    os.read(began, 1)
    os.close(began)
    time.sleep(after_s)  # not a wait for something: the moment is the point
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _tell(pipe: int) -> None:
    os.write(pipe, b".")


def _await_inventory(ground: Ground, expected: tuple[object, ...]) -> None:
    _await(lambda: ground.inventory() == expected, lambda: f"{ground.inventory()}, not {expected}")


def _await(condition: Callable[[], bool], tell: Callable[[], str]) -> None:
    """Wait for what the kernel does a moment later, such as freeing a program."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, tell()
        os.sched_yield()
