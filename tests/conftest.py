# SPDX-License-Identifier: Apache-2.0
"""What tests on the real kernel share: private mounts, a lab of two hosts, and a Pliant of their own."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest

from pliant.agent.change import Applied
from pliant.agent.host import Host
from pliant.agent.places import Places
from pliant.features import catalogue
from pliant.kernel import cgroups
from pliant.kernel.cgroup_query import attached
from pliant.kernel.links import AttachType, Link
from pliant.kernel.maps import Map, MapType
from pliant.kernel.programs import Program
from pliant.lab import Host as LabHost
from pliant.lab import Lab, PrivateMounts, TcpServer, isolate
from pliant.observe.pin_tree import PROGRAM_PIN
from pliant.observe.reader import POLICY_CONSTANT_BYTES
from pliant.observe.tables import Table
from pliant.plan.steps import Step
from pliant.policy.documents import load_policies
from pliant.policy.model import Policy

_numbers = itertools.count(1)
REGISTRARS_LOCK = Path("/run/lock/pliant-test-controls")
Eventually = Callable[[Callable[[], bool]], None]


def policy(
    name: str,
    service: str,
    tune: Mapping[str, Any],
    *,
    priority: int = 100,
    holdout: str = "0%",
    apply_to: str = "new",
    **match: Any,
) -> Policy:
    """One policy, through the parser that people's files go through."""
    document = {
        "apiVersion": "pliant/v1",
        "kind": "TransportPolicy",
        "metadata": {"name": name},
        "spec": {
            "match": {"service": service, **match},
            "tune": dict(tune),
            "priority": priority,
            "holdout": holdout,
            "applyTo": apply_to,
        },
    }
    [parsed] = load_policies(json.dumps(document), name, catalogue())
    return parsed


@dataclass(frozen=True)
class Outcomes:
    """How often a feature acted, over all CPUs."""

    applied: int
    refused: int
    unchanged: int
    restored: int = 0


class Pliant:
    """A Pliant with pins and a journal of its own."""

    def __init__(self, places: Places) -> None:
        self.places = places

    @contextlib.contextmanager
    def host(self) -> Iterator[Host]:
        with Host(self.places) as host, host.exclusively():
            yield host

    def apply(self, *policies: Policy, progress: Callable[[int, int, Step], None] | None = None) -> Applied:
        with self.host() as host:
            return host.carry_out(host.change_to_apply(policies), actor="test", progress=progress)

    def delete(self, *names: str) -> Applied:
        with self.host() as host:
            return host.carry_out(host.change_to_delete(names), actor="test")

    def rollback(self, generation: int | None = None) -> Applied:
        with self.host() as host:
            return host.carry_out(host.change_to_rollback(generation), actor="test")

    def map(self, object_name: str, name: str) -> Map:
        return Map.pinned(Host(self.places).pins.map(Table(object_name, name)))

    def outcomes(self, feature: str) -> Outcomes:
        return Outcomes(*self._summed(feature, "outcomes"))

    def judged(self) -> dict[str, int]:
        """How many connections the scope program has judged, by how that ended."""
        names = ("matched", "held_out", "no_rule", "no_service", "no_memory")
        return dict(zip(names, self._summed("scope", "scope_outcomes"), strict=True))

    def _summed(self, object_name: str, name: str) -> list[int]:
        with self.map(object_name, name) as held:
            return [
                sum(int.from_bytes(value, sys.byteorder) for value in held.percpu(values))
                for _, values in sorted(held.items())
            ]

    def arms(self, name: str) -> tuple[int, int]:
        """The connections a policy has treated and held out."""
        with Host(self.places) as host:
            number = host.journal.policies(host.journal.current())[name].number
        with self.map("scope", "policies") as held:
            value = held.get(number.to_bytes(4, sys.byteorder))
        assert value is not None
        treated, held_out = struct.unpack_from("=QQ", value, POLICY_CONSTANT_BYTES)
        return treated, held_out

    def listing(self) -> dict[str, object]:
        """Everything of this Pliant in the kernel: pins, contents of tables, and what is attached and called where.

        Programs are told by their pins and tags, for one that was loaded again has another id.
        """
        paths = sorted(p for p in self.places.pins.rglob("*") if p.is_file())
        programs = {_program_id(path): path for path in paths if path.name.startswith("program_")}
        found: dict[str, object] = {}
        for path in paths:
            called = path.name == "features" and path.parent.name == "scope"
            described = _called(path, programs) if called else _describe(path)
            found[str(path.relative_to(self.places.pins))] = described
        return found

    def link_ids(self) -> dict[str, int]:
        """The id of each link by the name of its pin."""
        found = {}
        for path in self.places.pins.rglob("links/*"):
            with Link.pinned(path) as link:
                found[path.name] = link.id
        return found


def _program_id(pin: Path) -> int:
    with Program.pinned(pin) as program:
        number: int = program.id
    return number


def _called(pin: Path, programs: Mapping[int, Path]) -> dict[int, str]:
    """The pin of the program in each slot that scope calls; every slot has one that is pinned."""
    with Map.pinned(pin) as held:
        slots = {int.from_bytes(k, sys.byteorder): int.from_bytes(v, sys.byteorder) for k, v in held.items()}
    return {slot: f"{programs[i].parent.name}/{programs[i].name}" for slot, i in slots.items()}


def _describe(path: Path) -> object:
    if PROGRAM_PIN.fullmatch(path.name):
        with Program.pinned(path) as program:
            return program.tag
    if path.parent.parent.name == "controls":
        return "control"
    if path.parent.name == "links":
        with Link.pinned(path) as link:
            info = link.info()
        with Program.by_id(info.program_id) as program:
            return (info.cgroup_id, program.name, program.tag)
    with Map.pinned(path) as held:
        counts = held.name in ("outcomes", "scope_outcomes", "last_errno")
        if (
            counts
            or held.type is MapType.SK_STORAGE
            or held.name in ("accepted", "buckets", "carried", "given", "groups")
        ):
            return held.name
        constant = {"policies": POLICY_CONSTANT_BYTES, "effects": 0}  # counters are no settings
        length = constant.get(held.name, held.value_size)
        return {key: value[:length] for key, value in held.items()}


class MakePolicy(Protocol):
    def __call__(
        self,
        name: str,
        service: str,
        tune: Mapping[str, Any],
        *,
        priority: int = 100,
        holdout: str = "0%",
        apply_to: str = "new",
        **match: Any,
    ) -> Policy: ...


def pytest_configure() -> None:
    """Let what tests start be interrupted: a process of many ignores SIGINT, and hands that on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The two minutes of the soak come first, so that in the end no process has to wait for it alone."""
    items.sort(key=lambda item: "soak" not in item.path.parts)


@pytest.fixture
def make_policy() -> MakePolicy:
    return policy


@pytest.fixture(scope="session")
def mounts() -> PrivateMounts:
    if os.geteuid() != 0:
        pytest.skip("changing a host needs root")
    return isolate()


@pytest.fixture
def pliant(mounts: PrivateMounts) -> Iterator[Pliant]:
    """A Pliant with nothing applied; whatever a test leaves is deleted, and then nothing may be left."""
    number = next(_numbers)
    descriptors = bpf_descriptors()
    made = Pliant(Places(mounts.state / str(number), mounts.bpffs / f"pliant{number}"))
    yield made
    made.rollback(0)
    assert not list(made.places.pins.rglob("*"))
    assert bpf_descriptors() <= descriptors


def bpf_descriptors(kind: str = "bpf") -> int:
    """How many BPF objects, or such of a kind (``bpf-prog``), this process holds open."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += kind in os.readlink(entry)
    return count


@dataclass(frozen=True)
class Pair:
    """Two linked lab hosts; ``service`` gives the pattern that names one service of the server or client."""

    lab: Lab
    server: LabHost
    client: LabHost

    @staticmethod
    def service(host: LabHost, name: str) -> str:
        return "/" + str(host.service(name).relative_to(cgroups.find_root()))


@pytest.fixture(scope="module")
def pair(mounts: PrivateMounts) -> Iterator[Pair]:
    with Lab("test") as lab:
        server, client = lab.host("server"), lab.host("client")
        lab.link(server, client)
        yield Pair(lab, server, client)
        for group in lab.cgroup.rglob("*/"):
            for hook in (AttachType.CGROUP_SOCK_OPS, AttachType.CGROUP_INET_EGRESS):
                assert attached(group, hook) == ()


@pytest.fixture(scope="module")
def only_registrar() -> Iterator[None]:
    """Congestion controls are registered for the whole machine: whoever else runs tests that do so waits."""
    with REGISTRARS_LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def eventually() -> Eventually:
    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in 10 s"
            select.select([], [], [], 0.005)

    return wait


@pytest.fixture
def port(pair: Pair) -> Iterator[int]:
    """The port of a server that no policy here is about."""
    with TcpServer(pair.server, ["[::]:80"], service="plain.service") as server:
        yield server.port


# Opens connections one after the other and reports what can be told of each in a few numbers.
OPEN_AND_CLOSE = """
import json, socket, sys
from pliant.lab.sockets import SO_MAX_PACING_RATE, tcp_info
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
found = []
for _ in range(count):
    with socket.create_connection((address, port)) as sock:
        limit = sock.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE) & 0xFFFFFFFF
        found.append((tcp_info(sock)["snd_cwnd"], limit))
print(json.dumps(found))
"""


class Seen(NamedTuple):
    """What a connection was given: its initial window in segments and its pacing rate in bytes a second."""

    window: int
    rate: int


OpenAndClose = Callable[[LabHost, str, str, int, int], list[Seen]]


@pytest.fixture
def open_and_close() -> OpenAndClose:
    def opened(host: LabHost, service: str, address: str, port: int, count: int) -> list[Seen]:
        argv = [sys.executable, "-c", OPEN_AND_CLOSE, address, str(port), str(count)]
        return [Seen(*pair) for pair in json.loads(host.run(argv, service=service).stdout)]

    return opened
