# SPDX-License-Identifier: Apache-2.0
"""What the agent does for a host: services that come and go, drift, being killed, ended and doubled."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from pliant.agent.host import Host
from pliant.kernel.cgroup_query import attached
from pliant.kernel.links import AttachType
from pliant.kernel.programs import Program
from pliant.plan.steps import Step
from tests.agent.conftest import Hold
from tests.agent.daemon.conftest import Ground, Supervisor, await_
from tests.conftest import MakePolicy

pytestmark = pytest.mark.root


def test_a_policy_is_in_force_for_a_service_that_appears_and_nothing_is_left_when_it_goes(
    ground: Ground, make_policy: MakePolicy
) -> None:
    ground.apply(make_policy("web", "web.service", {"initial_cwnd": 40}))
    with ground.agent():
        for _ in range(3):
            (ground.root / "web.service").mkdir()
            await_(lambda: ground.programs("web.service") == ["scope"])
            await_(lambda: ground.drift() == 0)
            ground.remove("web.service")
            await_(lambda: ground.drift() == 0)
        assert len(ground.events("service-attached")) == 3
        await_(lambda: len(ground.events("service-detached")) == 3)
        assert not list(ground.places.pins.rglob("links/*"))


def test_services_below_services_are_seen_however_quickly_they_are_made(
    ground: Ground, make_policy: MakePolicy
) -> None:
    ground.apply(make_policy("deep", "deep.service", {"initial_cwnd": 40}))
    with ground.agent():
        path = ground.root / "a.slice" / "b.slice" / "deep.service"
        path.mkdir(parents=True)
        await_(lambda: ground.programs("a.slice/b.slice/deep.service") == ["scope"])
        for directory in (path, *path.parents[:2]):
            directory.rmdir()
        await_(lambda: len(ground.events("service-detached")) == 1)


def test_services_that_come_and_go_all_the_time_starve_neither_each_other_nor_commands(
    ground: Ground, make_policy: MakePolicy
) -> None:
    ground.apply(make_policy("each", "*.service", {"initial_cwnd": 40}))
    with ground.agent():
        for number in range(30):
            (ground.root / f"s{number}.service").mkdir()
            if number >= 5:
                ground.remove(f"s{number - 5}.service")
            if number % 10 == 0:
                done = ground.command("--timeout", "0", "repair")
                assert done.returncode == 0, done.stderr
        await_(lambda: all(ground.programs(f"s{n}.service") == ["scope"] for n in range(25, 30)))
        await_(lambda: ground.drift() == 0)
        assert not ground.events("adjustment-failed")
        for number in range(25, 30):
            ground.remove(f"s{number}.service")


# Prints the initial windows of both ends of a connection to itself.
CONNECT_ONCE = """
import socket
from pliant.lab.sockets import tcp_info
with socket.create_server(("127.0.0.1", 0)) as listener:
    with socket.create_connection(listener.getsockname()) as client, listener.accept()[0] as server:
        print(tcp_info(client)["snd_cwnd"], tcp_info(server)["snd_cwnd"])
"""


def test_each_of_many_services_in_a_row_is_tuned_and_nothing_is_left_of_any(
    ground: Ground, make_policy: MakePolicy
) -> None:
    ground.apply(make_policy("coming", "coming-*.service", {"initial_cwnd": 40}))
    before = {path.name for path in ground.places.pins.rglob("*") if path.is_file()}
    with ground.agent():
        for number in range(8):
            service = f"coming-{number}.service"
            (ground.root / service).mkdir()
            await_(lambda: ground.drift() == 0)
            done = ground.lab.run(
                [sys.executable, "-c", CONNECT_ONCE], service=f"{ground.root.name}/{service}"
            )
            assert done.stdout.split() == ["40", "40"], service
            await_(lambda: ground.is_removed(service))  # noqa: B023
        await_(lambda: ground.drift() == 0)
        await_(lambda: len(ground.events("service-detached")) == 8)
    assert {path.name for path in ground.places.pins.rglob("*") if path.is_file()} == before


def test_services_that_come_and_go_make_no_generations(ground: Ground, make_policy: MakePolicy) -> None:
    ground.apply(make_policy("web", "web.service", {"initial_cwnd": 40}))
    with ground.agent():
        (ground.root / "web.service").mkdir()
        await_(lambda: ground.programs("web.service"))
        assert ground.ask("status")["generation"] == 1
        ground.remove("web.service")


def test_what_a_command_changes_is_noticed_and_its_services_followed(
    ground: Ground, make_policy: MakePolicy
) -> None:
    with ground.agent():
        ground.apply(make_policy("web", "web.service", {"initial_cwnd": 40}))
        await_(lambda: ground.ask("status")["agreedGeneration"] == 1)
        (ground.root / "web.service").mkdir()
        await_(lambda: ground.programs("web.service") == ["scope"])
        ground.clear()
        await_(lambda: ground.ask("status")["agreedGeneration"] == 2)
        assert ground.programs("web.service") == []
        ground.remove("web.service")


def test_drift_is_found_mended_and_told(ground: Ground, make_policy: MakePolicy) -> None:
    (ground.root / "web.service").mkdir()
    ground.apply(make_policy("web", "web.service", {"initial_cwnd": 40}))
    with ground.agent("--check-every", "0.2"):
        for link in ground.places.pins.rglob("links/*"):
            link.unlink()
        await_(lambda: ground.events("drift-found"))
        await_(lambda: ground.programs("web.service") == ["scope"] and ground.drift() == 0)
        assert "attach" in ground.events("drift-found")[0].sentence
    ground.clear()
    ground.remove("web.service")


def test_an_agent_that_is_killed_changes_nothing_and_the_next_one_adopts(
    ground: Ground, make_policy: MakePolicy
) -> None:
    (ground.root / "web.service").mkdir()
    ground.apply(make_policy("web", "web.service", {"initial_cwnd": 40}))
    before = {p.name: p.stat().st_ino for p in ground.places.pins.rglob("*")}
    with ground.agent() as process:
        process.kill()
        process.wait()
        assert ground.programs("web.service") == ["scope"]
        assert ground.drift() == 0
        assert ground.command("status").returncode == 1
    with ground.agent():
        assert ground.ask("status")["lastReconcile"]["steps"] == 0
        assert {p.name: p.stat().st_ino for p in ground.places.pins.rglob("*")} == before
    ground.clear()
    ground.remove("web.service")


def test_what_happened_while_no_agent_ran_is_settled_at_its_start(
    ground: Ground, make_policy: MakePolicy
) -> None:
    ground.apply(make_policy("web", "web.service", {"initial_cwnd": 40}))
    (ground.root / "web.service").mkdir()
    with ground.agent():
        await_(lambda: ground.programs("web.service") == ["scope"])
        assert ground.events("adjusted")
    ground.clear()
    ground.remove("web.service")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_agent_told_to_end_ends_well_and_leaves_everything_attached(
    ground: Ground, make_policy: MakePolicy, number: signal.Signals
) -> None:
    (ground.root / "web.service").mkdir()
    ground.apply(make_policy("web", "web.service", {"initial_cwnd": 40}))
    with ground.agent() as process:
        process.send_signal(number)
        assert process.wait(20) == 0
    assert ground.programs("web.service") == ["scope"]
    assert not ground.places.socket.exists()
    assert ground.events("agent-stopped")
    ground.clear()
    ground.remove("web.service")


def test_sighup_has_everything_read_again(ground: Ground) -> None:
    with ground.agent() as process:
        process.send_signal(signal.SIGHUP)
        await_(lambda: ground.events("agent-reloaded"))
        await_(lambda: ground.ask("status")["lastReconcile"]["cause"] == "somebody asked for it")
        assert process.poll() is None


def test_a_second_agent_on_the_same_state_is_refused(ground: Ground) -> None:
    with ground.agent() as process:
        done = ground.command("agent")
        assert done.returncode == 2
        assert f"another agent (process {process.pid}) runs on {ground.places.state}" in done.stderr
        assert ground.ask("status")["running"]  # and the first one still has its socket


def test_a_second_agent_on_the_same_socket_is_refused(ground: Ground, tmp_path: Path) -> None:
    with ground.agent():
        done = ground.command("--state", str(tmp_path / "other"), "agent")
        assert done.returncode == 2
        assert "another agent listens on" in done.stderr


def test_a_socket_path_that_is_something_else_is_left_alone(ground: Ground) -> None:
    ground.places.socket.write_text("mine")
    done = ground.command("agent")
    assert done.returncode == 2
    assert "no socket" in done.stderr
    assert ground.places.socket.read_text() == "mine"
    ground.places.socket.unlink()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--metrics", "nowhere"), "no address and port"),
        (("--metrics", "127.0.0.1:99999"), "no port"),
        (("--metrics", "192.0.2.1:9477"), "cannot serve metrics on 192.0.2.1 port 9477"),
        (("--check-every", "0"), "0.1"),
    ],
)
def test_wrong_arguments_are_told(ground: Ground, arguments: tuple[str, ...], complaint: str) -> None:
    done = ground.command("agent", *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_service_whose_hook_is_taken_is_told_and_others_are_served(
    ground: Ground, make_policy: MakePolicy, foreign: Program, hold: Hold
) -> None:
    taken, free = ground.root / "taken.service", ground.root / "free.service"
    ground.apply(make_policy("both", "*.service", {"initial_cwnd": 40}))
    taken.mkdir()
    with hold(foreign, taken, 0), ground.agent():
        await_(lambda: ground.events("service-refused"))
        free.mkdir()
        await_(lambda: ground.programs("free.service") == ["scope"])
        assert [p.name for p in attached(taken, AttachType.CGROUP_SOCK_OPS)] == ["somebody_else"]
        assert "taken.service" in ground.events("service-refused")[0].sentence
        assert list(ground.ask("status")["services"]["refused"]) == ["/taken.service"]
    for directory in (taken, free):
        directory.rmdir()


def test_an_interrupted_change_is_settled_by_the_agent(ground: Ground, make_policy: MakePolicy) -> None:
    (ground.root / "web.service").mkdir()
    policy = make_policy("web", "web.service", {"initial_cwnd": 40})
    with ground.agent():
        child = os.fork()
        if child == 0:
            try:
                with Host(ground.places) as host, host.exclusively():
                    change = host.change_to_apply([policy])
                    host.carry_out(change, actor="test", progress=_die_at_the_third)
            finally:
                os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        await_(lambda: ground.events("generation-undone"))
        assert ground.drift() == 0
    ground.remove("web.service")


def _die_at_the_third(position: int, total: int, step: Step) -> None:
    if position == 2:
        os.kill(os.getpid(), signal.SIGKILL)


def test_systemd_is_told_of_readiness_life_and_the_end(ground: Ground, supervisor: Supervisor) -> None:
    ground.environment["WATCHDOG_USEC"] = "300000"
    with ground.agent() as process:
        await_(lambda: supervisor.heard("READY=1"))
        await_(lambda: supervisor.told.count("WATCHDOG=1") + supervisor.heard("WATCHDOG=1") > 3)
        assert supervisor.told[0] == "WATCHDOG=1"  # before anything that may take its time
        assert supervisor.heard("STATUS=generation 0 is in force")
        process.terminate()
        process.wait(20)
        assert supervisor.heard("STOPPING=1")


def test_the_log_is_json_lines_where_nobody_watches(ground: Ground) -> None:
    with ground.agent() as process:
        process.terminate()
        kinds = [json.loads(line)["kind"] for line in process.communicate(timeout=20)[1].splitlines()]
    assert kinds == ["agent-started", "agent-stopped"]


def test_adjustments_are_in_the_audit_log_summed_up(ground: Ground, make_policy: MakePolicy) -> None:
    ground.apply(make_policy("each", "*.service", {"initial_cwnd": 40}))
    with ground.agent() as process:
        for number in range(6):
            (ground.root / f"s{number}.service").mkdir()
            await_(lambda name=f"s{number}.service": ground.programs(name) == ["scope"])  # type: ignore[misc]
            ground.remove(f"s{number}.service")
        await_(lambda: ground.drift() == 0)
        process.terminate()
        process.wait()
    done = ground.command("audit", "show", "-o", "json")
    notes = [record["details"] for record in json.loads(done.stdout) if record["verb"] == "adjust"]
    assert 1 <= len(notes) <= 3  # one at once, one when the agent ended, and one should a minute have passed
    attached = [name for note in notes for name in note["attached"]]
    assert sorted({name.rpartition("/")[2] for name in attached}) == [f"s{n}.service" for n in range(6)]
    assert ground.command("audit", "verify").returncode == 0
