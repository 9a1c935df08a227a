# SPDX-License-Identifier: Apache-2.0
"""Congestion controls of ours through policies: registered, replaced under open connections, taken away."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from pliant.agent.host import Host
from pliant.agent.status import control_statuses
from pliant.cli.main import cli
from pliant.errors import PliantError
from pliant.features import congestion_control, controls
from pliant.features.controls import Control, shipped_controls
from pliant.features.feature import HostFacts
from pliant.kernel.congestion_controls import congestion_controls
from pliant.kernel.links import attach_struct_ops
from pliant.kernel.objects import load
from pliant.lab import SocketState, TcpClient, TcpServer
from pliant.observe.controls import ControlPins, Flow, read_controls, read_flows
from pliant.plan.controls import RegisterControl, ReplaceControl, UnregisterControl
from pliant.plan.steps import Step
from pliant.policy.model import Policy

if TYPE_CHECKING:
    from tests.conftest import MakePolicy, Pair, Pliant

pytestmark = pytest.mark.root

SOURCES = Path(__file__).parents[2] / "bpf"
NAMES = ("pliant_cubic", "pliant_dctcp")
PORT = 80


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def processes(pair: Pair) -> Iterator[tuple[TcpServer, TcpClient]]:
    with (
        TcpServer(pair.server, [f"0.0.0.0:{PORT}"], service="web.service") as server,
        TcpClient(pair.client, service="app.service") as client,
    ):
        yield server, client


@pytest.fixture
def server(processes: tuple[TcpServer, TcpClient]) -> TcpServer:
    return processes[0]


@pytest.fixture
def client(processes: tuple[TcpServer, TcpClient]) -> Iterator[TcpClient]:
    yield processes[1]
    processes[1].disconnect()


@pytest.fixture
def policies(pair: Pair, make_policy: MakePolicy) -> Callable[[str], list[Policy]]:
    """A policy for each end of a connection, that has it run a congestion control."""

    def chosen(control: str) -> list[Policy]:
        tune = {"congestion_control": control}
        web, app = pair.service(pair.server, "web.service"), pair.service(pair.client, "app.service")
        return [
            make_policy("server", web, tune, role="server", localPorts=[PORT]),
            make_policy("client", app, tune, role="client", remotePorts=[PORT]),
        ]

    return chosen


@pytest.fixture
def flows(pliant: Pliant) -> Callable[[str], list[Flow]]:
    """The open connections that run a control."""

    def read(control: str) -> list[Flow]:
        pins = ControlPins(pliant.places.pins)
        found = read_flows(pins, control, read_controls(pins).registered[control])
        return [flow for flow in found if flow.tcp_state == 1]

    return read


def kinds(plan: tuple[Step, ...]) -> list[str]:
    return [step.kind for step in plan]


def exchange(client: TcpClient, size: int = 100_000) -> None:
    """Have the echoing server send back what is sent."""
    client.send(size)
    client.receive(size)


def ends(server: TcpServer, client: TcpClient, host: Any) -> tuple[SocketState, SocketState]:
    """Both ends of a connection that was opened now and has carried data."""
    client.disconnect()
    [mine] = client.connect(host.address, PORT)
    exchange(client)
    [mine] = client.connections()
    [theirs] = [state for state in server.connections() if state.remote_port == mine.local_port]
    return mine, theirs


def test_control_is_registered_for_a_policy_and_gone_with_it(
    pliant: Pliant,
    pair: Pair,
    server: TcpServer,
    client: TcpClient,
    policies: Callable[[str], list[Policy]],
    name: str,
) -> None:
    applied = pliant.apply(*policies(name))
    assert kinds(applied.change.plan)[0] == "register-control"
    assert name in congestion_controls()
    assert [state.congestion_control for state in ends(server, client, pair.server)] == [name, name]
    deleted = pliant.delete("server", "client")
    assert "unregister-control" in kinds(deleted.change.plan)
    assert name not in congestion_controls()
    assert pliant.listing() == {}


def test_open_connections_outlive_the_registration(
    pliant: Pliant,
    pair: Pair,
    server: TcpServer,
    client: TcpClient,
    policies: Callable[[str], list[Policy]],
    name: str,
) -> None:
    pliant.apply(*policies(name))
    client.connect(pair.server.address, PORT)
    pliant.delete("server", "client")
    exchange(client)
    [mine] = client.connections()
    assert (mine.congestion_control, mine.state) == (name, "established")
    client.disconnect()
    assert ends(server, client, pair.server)[0].congestion_control != name


def test_connections_from_before_are_taken_back_when_it_is_registered_again(
    pliant: Pliant,
    pair: Pair,
    client: TcpClient,
    policies: Callable[[str], list[Policy]],
    flows: Callable[[str], list[Flow]],
    name: str,
) -> None:
    pliant.apply(*policies(name))
    client.connect(pair.server.address, PORT)
    pliant.delete("server", "client")
    pliant.apply(*policies(name))
    client.connect(pair.server.address, PORT)
    found = flows(name)
    assert len(found) == 4
    assert len({flow.code for flow in found}) == 1
    exchange(client)


def test_dctcp_agrees_on_ecn_where_a_policy_has_the_server_run_it(
    pliant: Pliant,
    pair: Pair,
    server: TcpServer,
    client: TcpClient,
    policies: Callable[[str], list[Policy]],
) -> None:
    """The SYN of DCTCP is ECN-capable itself, which a server that does not need ECN takes for damage, and declines."""
    both = policies("pliant_dctcp")
    pliant.apply(*both)
    mine, theirs = ends(server, client, pair.server)
    assert (mine.ecn, theirs.ecn) == (True, True)
    pliant.delete("server")
    mine, theirs = ends(server, client, pair.server)
    assert (mine.ecn, mine.congestion_control) == (False, "reno")


def test_dctcp_of_the_server_alone_falls_back_to_reno_with_a_client_without_ecn(
    pliant: Pliant,
    pair: Pair,
    server: TcpServer,
    client: TcpClient,
    policies: Callable[[str], list[Policy]],
) -> None:
    pliant.apply(policies("pliant_dctcp")[0])
    mine, theirs = ends(server, client, pair.server)
    assert (theirs.ecn, theirs.congestion_control) == (False, "reno")
    assert mine.congestion_control not in NAMES


def test_status_says_what_is_registered_and_how_many_connections_run_it(
    pliant: Pliant, pair: Pair, client: TcpClient, policies: Callable[[str], list[Policy]]
) -> None:
    with Host(pliant.places) as host:
        assert {(s.name, s.state, s.connections) for s in control_statuses(host)} == {
            (name, "absent", None) for name in NAMES
        }
    pliant.apply(*policies("pliant_cubic"))
    client.connect(pair.server.address, PORT, count=3)
    with Host(pliant.places) as host:
        [cubic, dctcp] = control_statuses(host)
    assert (cubic.state, cubic.policies, cubic.connections, cubic.needs_ecn) == ("registered", 2, 6, False)
    assert (dctcp.state, dctcp.policies, dctcp.needs_ecn) == ("absent", 0, True)


def test_command_lists_the_controls(pliant: Pliant, policies: Callable[[str], list[Policy]]) -> None:
    pliant.apply(*policies("pliant_dctcp"))
    argv = ["--state", str(pliant.places.state), "--pins", str(pliant.places.pins), "get", "controls"]
    shown = CliRunner().invoke(cli, argv)
    assert shown.exit_code == 0, shown.output
    [_, cubic, dctcp] = shown.output.splitlines()
    assert cubic.split()[:5] == ["pliant_cubic", "absent", "0", "-", "no"]
    assert dctcp.split()[:5] == ["pliant_dctcp", "registered", "2", "0", "yes"]


# -- another build


@pytest.fixture
def other_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make the installation one whose object of a control was built from a source that differs in a name."""

    def install(name: str) -> None:
        source = (SOURCES / "congestion" / f"{name}.bpf.c").read_text()
        target = tmp_path / f"{name}.bpf.o"
        clang = next(found for c in ("clang-19", "clang") if (found := shutil.which(c)))
        flags = [
            "-target",
            "bpf",
            "-mcpu=v3",
            "-g",
            "-O2",
            f"-I{SOURCES}/include",
            "-I/usr/include/x86_64-linux-gnu",
        ]
        changed = source.replace(f"{name}_cong_avoid", f"{name}_grow")
        assert changed != source
        subprocess.run(
            [clang, *flags, "-x", "c", "-c", "-", "-o", target], input=changed, text=True, check=True
        )
        held = shipped_controls()
        other: Mapping[str, Control] = MappingProxyType(
            {**held, name: dataclasses.replace(held[name], path=target, build="another")}
        )
        for module in ("pliant.features.controls", "pliant.agent.actuator.controls", "pliant.agent.checks"):
            monkeypatch.setattr(f"{module}.shipped_controls", lambda: other)

    return install


@contextlib.contextmanager
def carrying_data(client: TcpClient) -> Iterator[list[str]]:
    """Exchange data on the client's connections without a pause; what went wrong is in the list."""
    failures: list[str] = []
    stop = threading.Event()
    rounds = threading.Semaphore(0)

    def run() -> None:
        try:
            while not stop.is_set():
                exchange(client, 50_000)
                rounds.release()
        except PliantError as error:
            failures.append(error.message)
            rounds.release()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        rounds.acquire()
        yield failures
        rounds.acquire()  # one more round is complete, and another
        rounds.acquire()
    finally:
        stop.set()
        thread.join()


def test_another_build_takes_over_under_connections_that_carry_data(
    pliant: Pliant,
    pair: Pair,
    client: TcpClient,
    policies: Callable[[str], list[Policy]],
    flows: Callable[[str], list[Flow]],
    other_build: Callable[[str], None],
    name: str,
) -> None:
    pliant.apply(*policies(name))
    client.connect(pair.server.address, PORT, count=10)
    before = {flow.code for flow in flows(name)}
    ports = {flow.local_port for flow in flows(name)}
    with carrying_data(client) as failures:
        other_build(name)
        with pliant.host() as host:
            repaired = host.carry_out(host.change_to_repair(), actor="test")
    assert kinds(repaired.change.plan) == ["replace-control", "forget-control"]
    assert failures == []
    after = flows(name)
    assert {flow.local_port for flow in after} == ports
    assert len({flow.code for flow in after}) == len(before) == 1
    assert {flow.code for flow in after} != before
    assert {state.state for state in client.connections()} == {"established"}
    assert read_controls(ControlPins(pliant.places.pins)).registered == {name: "another"}
    assert len(list((pliant.places.pins / "controls" / name).iterdir())) == 4


def test_dctcp_keeps_its_alpha_across_a_replacement(
    pliant: Pliant,
    pair: Pair,
    client: TcpClient,
    policies: Callable[[str], list[Policy]],
    flows: Callable[[str], list[Flow]],
    other_build: Callable[[str], None],
) -> None:
    pliant.apply(*policies("pliant_dctcp"))
    client.connect(pair.server.address, PORT)
    exchange(client)
    before = {flow.local_port: alpha(flow) for flow in flows("pliant_dctcp")}
    other_build("pliant_dctcp")
    with pliant.host() as host:
        host.carry_out(host.change_to_repair(), actor="test")
    after = {flow.local_port: alpha(flow) for flow in flows("pliant_dctcp")}
    assert after.keys() == before.keys()
    # A window that ends meanwhile takes a sixteenth off; a connection that begins anew has the greatest there is.
    assert all(0.8 * before[port] < after[port] <= before[port] for port in before)
    assert all(value < 1 << 20 for value in after.values())


def alpha(flow: Flow) -> int:
    return int.from_bytes(flow.state[4:8], "little")


def test_replacement_that_fails_later_is_taken_back_under_connections_that_carry_data(
    pliant: Pliant,
    pair: Pair,
    client: TcpClient,
    policies: Callable[[str], list[Policy]],
    flows: Callable[[str], list[Flow]],
    other_build: Callable[[str], None],
    make_policy: MakePolicy,
    name: str,
) -> None:
    pliant.apply(*policies(name))
    client.connect(pair.server.address, PORT, count=3)
    before = flows(name)
    listing = pliant.listing()

    def fail(position: int, count: int, step: Step) -> None:
        if position == count - 2:
            raise PliantError("no further")

    other_build(name)
    more = make_policy("more", pair.service(pair.server, "web.service"), {"min_rto": "20ms"}, role="server")
    with carrying_data(client) as failures, pytest.raises(PliantError, match="the host is as it was before"):
        pliant.apply(more, progress=fail)
    assert failures == []
    assert {flow.code for flow in flows(name)} == {flow.code for flow in before}
    assert {**pliant.listing(), **dict.fromkeys(listing)}.keys() == listing.keys()


def test_interrupted_replacement_is_finished_by_the_next_command(
    pliant: Pliant,
    pair: Pair,
    client: TcpClient,
    policies: Callable[[str], list[Policy]],
    flows: Callable[[str], list[Flow]],
    other_build: Callable[[str], None],
    name: str,
) -> None:
    pliant.apply(*policies(name))
    client.connect(pair.server.address, PORT, count=3)
    other_build(name)
    with pliant.host() as host:
        change = host.change_to_repair()
        [replace, forget] = change.plan
        host.actuator().act(replace)  # and then its process died
    with Host(pliant.places) as host:
        assert host.drift() == (forget,)
    with pliant.host() as host:
        host.carry_out(host.change_to_repair(), actor="test")
    assert len({flow.code for flow in flows(name)}) == 1
    exchange(client)


def test_interrupted_registration_is_cleared_and_made_anew(
    pliant: Pliant, policies: Callable[[str], list[Policy]], name: str
) -> None:
    pliant.apply(*policies(name))
    pins = ControlPins(pliant.places.pins)
    pins.link(name).unlink()
    with pliant.host() as host:
        repaired = host.carry_out(host.change_to_repair(), actor="test")
    steps = repaired.change.plan
    assert [type(step) for step in steps] == [UnregisterControl, RegisterControl]
    assert name in congestion_controls()


# -- what cannot be


def test_name_that_somebody_else_has_registered_is_refused_before_anything_changes(
    pliant: Pliant, policies: Callable[[str], list[Policy]], name: str
) -> None:
    with (
        load(shipped_controls()[name].path, feature=name) as foreign,
        attach_struct_ops(foreign.maps[name]),
        pytest.raises(PliantError, match=f"another program has registered a congestion control '{name}'"),
    ):
        pliant.apply(*policies(name))
    assert pliant.listing() == {}


def test_name_of_no_control_is_refused_with_those_there_are(
    pliant: Pliant, policies: Callable[[str], list[Policy]]
) -> None:
    with pytest.raises(PliantError, match=r"no congestion control 'pliant_reno'; it has .*pliant_cubic"):
        pliant.apply(*policies("pliant_reno"))
    assert pliant.listing() == {}


def test_kernel_without_links_for_controls_is_told_in_a_sentence() -> None:
    facts = HostFacts(
        congestion_controls=frozenset({"cubic"}),
        shipped_controls=frozenset(NAMES),
        controls_missing="needs Linux 6.4 or later",
    )
    complaint = congestion_control.check("pliant_dctcp", facts)
    assert complaint == (
        "this kernel cannot take the congestion control 'pliant_dctcp' from Pliant: it needs Linux 6.4 or later"
    )
    assert congestion_control.check("cubic", facts) is None
    offered = congestion_control.check("warp", facts)
    assert offered is not None
    assert "pliant" not in offered


def test_objects_say_whether_they_need_ecn() -> None:
    assert [controls.needs_ecn(name) for name in (*NAMES, "cubic", "dctcp")] == [False, True, False, True]


def test_steps_are_undone_by_their_counterparts() -> None:
    register = RegisterControl("why", "pliant_dctcp", "a")
    unregister = register.undo()
    assert isinstance(unregister, UnregisterControl)
    assert isinstance(unregister.undo(), RegisterControl)
    replace = ReplaceControl("why", "pliant_dctcp", "b", previous="a")
    restored = replace.undo()
    assert restored.sentence == "put the other build's congestion control pliant_dctcp back"
    again = restored.undo()
    assert again is not None
    assert dataclasses.replace(again, reason="why") == replace
    assert UnregisterControl("why", "pliant_dctcp", build="").undo() is None
