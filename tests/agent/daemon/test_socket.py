# SPDX-License-Identifier: Apache-2.0
"""The socket: who may ask what, what is answered, and what becomes of nonsense."""

from __future__ import annotations

import grp
import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from pliant.agent.client import follow_events
from pliant.agent.daemon.metrics import METRICS, MOST_POLICIES, OTHER
from pliant.agent.daemon.server import MAX_CONNECTIONS
from pliant.errors import PliantError
from pliant.lab import Host as LabHost
from pliant.lab import TcpServer
from tests.agent.daemon.conftest import Ground, await_
from tests.conftest import MakePolicy

pytestmark = pytest.mark.root

NOBODY = 65534

ASK_AS_SOMEBODY = """
import json, os, sys
from pliant.agent.client import ask
from pliant.errors import PliantError
os.setgroups([int(group) for group in sys.argv[3:]])
os.setgid(65534)
os.setuid(65534)
from pathlib import Path
try:
    print(json.dumps(ask(Path(sys.argv[1]), sys.argv[2])))
except PliantError as error:
    print(json.dumps({"refused": error.message, "remedy": error.remedy}))
"""


@pytest.fixture
def running(ground: Ground) -> Iterator[Ground]:
    with ground.agent():
        yield ground


@pytest.fixture(scope="module")
def group() -> grp.struct_group:
    """Some group of this machine that nobody here is in."""
    return next(g for g in grp.getgrall() if g.gr_gid not in (0, NOBODY, *os.getgroups()) and not g.gr_mem)


def as_somebody(ground: Ground, method: str, *groups: int) -> Any:
    ground.places.socket.parent.chmod(0o755)
    ground.places.socket.parents[1].chmod(0o755)
    argv = [sys.executable, "-c", ASK_AS_SOMEBODY, str(ground.places.socket), method, *map(str, groups)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def said(ground: Ground, line: bytes) -> dict[str, Any]:
    with ground.talk() as connection, connection.makefile("rb") as lines:
        connection.sendall(line + b"\n")
        answer: dict[str, Any] = json.loads(lines.readline())
    assert answer["version"] == 1
    return answer


def test_status_says_how_the_agent_is_doing(running: Ground) -> None:
    found = running.ask("status")
    assert found["running"]
    assert (found["generation"], found["agreedGeneration"]) == (0, 0)
    assert found["lastReconcile"]["cause"] == "the agent has started"
    assert found["services"]["known"] == len(list(running.root.rglob("*/"))) + 1


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"nonsense", "one JSON object a line"),
        (b"\xff\xfe", "one JSON object a line"),
        (b"[1]", 'an object with a "method"'),
        (b'{"method": 5}', 'an object with a "method"'),
        (b'{"method": "frobnicate"}', "there is no method 'frobnicate'"),
        (b'{"method": "status", "version": 2}', "version 1 of the protocol, not 2"),
        (b'{"method": "status", "params": 3}', '"params" is an object'),
        (b'{"method": "status", "params": {"x": 1}}', "status has no parameter 'x'"),
        (b'{"method": "events", "params": {"limit": "all"}}', "'limit' is of type int or float"),
        (b'{"method": "events", "params": {"limit": true}}', "'limit' is of type int or float"),
        (b'{"method": "get", "params": {"kind": "cheese"}}', "nothing of the kind 'cheese'"),
        (b'{"method": "apply"}', "'policies' is missing"),
        (b'{"method": "apply", "params": {"policies": [7]}}', "policy 1"),
        (b'{"method": "delete", "params": {"names": ["none"]}}', "there is no policy 'none'"),
        (b'{"method": "rollback", "params": {"generation": 99}}', "no applied generation 99"),
    ],
)
def test_nonsense_is_answered_with_a_sentence(running: Ground, line: bytes, complaint: str) -> None:
    assert complaint in said(running, line)["error"]["message"]
    assert running.ask("status")["running"]


def test_requests_are_answered_in_order_with_their_ids(running: Ground) -> None:
    with running.talk() as connection, connection.makefile("rb") as lines:
        connection.sendall(
            b'{"id": "a", "method": "status"}\n{"id": 2, "method": "nope"}\n\n{"method": "status"}\n'
        )
        answers = [json.loads(lines.readline()) for _ in range(3)]
    assert [answer["id"] for answer in answers] == ["a", 2, None]


def test_a_peer_that_hangs_up_in_the_middle_does_no_harm(running: Ground) -> None:
    for part in (b"", b'{"method": "sta', b'{"method": "status"}\n', b"GET /metrics HTTP/1.1\r\n"):
        with running.talk() as connection:
            connection.sendall(part)
    assert running.ask("status")["running"]


def test_more_connections_than_there_is_room_for_are_turned_away_and_make_way_again(running: Ground) -> None:
    held = [running.talk() for _ in range(MAX_CONNECTIONS)]
    with running.talk() as one_too_many:
        assert one_too_many.recv(1) == b""
    for connection in held:
        connection.close()

    def answers() -> bool:
        try:
            return bool(running.ask("status"))
        except PliantError:
            return False

    await_(answers)


def test_policies_are_applied_deleted_and_rolled_back_by_who_may(
    running: Ground, make_policy: MakePolicy
) -> None:
    (running.root / "web.service").mkdir()
    document = make_policy("web", "web.service", {"initial_cwnd": 40}).to_document()
    planned = running.ask("apply", policies=[document], dryRun=True)
    assert planned["plan"]
    assert "generation" not in planned
    applied = running.ask("apply", policies=[document], reason="over the socket")
    assert applied["generation"] == 1
    assert running.programs("web.service") == ["scope"]
    [event] = running.events("generation-applied")
    assert event.data["reason"] == "over the socket"
    assert event.data["actor"].startswith("root (process ")
    assert [p["metadata"]["name"] for p in running.ask("get", kind="policies")] == ["web"]
    assert running.ask("delete", names=["web"])["generation"] == 2
    assert running.ask("rollback")["generation"] == 3
    assert running.ask("rollback", generation=0)["generation"] == 4
    running.remove("web.service")


def test_services_and_features_are_listed_as_the_command_lists_them(running: Ground) -> None:
    for kind in ("services", "features", "policies"):
        printed = json.loads(running.command("get", kind, "-o", "json").stdout)
        assert running.ask("get", kind=kind) == printed


def test_reconcile_looks_now(running: Ground) -> None:
    assert running.ask("reconcile") == {"outcome": "same", "steps": []}


def test_a_follower_hears_of_changes_by_others(running: Ground, make_policy: MakePolicy) -> None:
    events = follow_events(running.places.socket, limit=1)
    assert next(events)["kind"] == "agent-started"
    running.apply(make_policy("web", "web.service", {"initial_cwnd": 40}))
    kinds: list[str] = []
    while "generation-applied" not in kinds:
        kinds.append(next(events)["kind"])


def test_somebody_else_may_not_even_connect(running: Ground) -> None:
    assert "may not ask the agent" in as_somebody(running, "status")["refused"]


def test_the_group_may_read_and_not_change(ground: Ground, group: grp.struct_group) -> None:
    with ground.agent("--group", group.gr_name):
        assert as_somebody(ground, "status", group.gr_gid)["running"]
        refused = as_somebody(ground, "reconcile", group.gr_gid)["refused"]
        assert refused == f"user {NOBODY} may not change this host through the agent"


def test_a_peer_that_got_hold_of_the_socket_without_being_in_the_group_may_not_read(
    ground: Ground, group: grp.struct_group
) -> None:
    with ground.agent("--group", group.gr_name):
        ground.places.socket.chmod(0o666)
        assert "may not read" in as_somebody(ground, "status")["refused"]


def metric_names(text: str) -> set[str]:
    return set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))


def test_metrics_are_those_declared_and_all_of_them(running: Ground) -> None:
    assert metric_names(running.ask("metrics")) == set(METRICS)


def test_metrics_are_served_over_http_on_the_socket(running: Ground) -> None:
    with running.talk() as connection, connection.makefile("rb") as answer:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        text = answer.read().decode()
    assert text.startswith("HTTP/1.1 200 OK\r\n")
    assert "pliant_generation_number 0.0" in text


def test_metrics_are_served_on_tcp_and_nothing_else_is(ground: Ground) -> None:
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port = chosen.getsockname()[1]
    with ground.agent("--metrics", f"127.0.0.1:{port}"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert metric_names(answer.read().decode()) == set(METRICS)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/")
        assert caught.value.code == 404
        caught.value.close()
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b'{"method": "status"}\n')
            assert connection.recv(100) == b""


def test_metrics_count_connections_by_policy(
    ground: Ground, lab_host: LabHost, make_policy: MakePolicy
) -> None:
    with TcpServer(lab_host, ["127.0.0.1:80"], service=f"{ground.root.name}/web.service") as server:
        ground.apply(make_policy("web", "web.service", {"initial_cwnd": 40}, role="server"))
        with ground.agent():
            for _ in range(3):
                lab_host.run(["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{server.port}"])
            expected = 'pliant_policy_connections_total{arm="treated",policy="web"} 3.0'
            await_(lambda: expected in ground.ask("metrics"), lambda: str(ground.ask("metrics")))
        ground.clear()


def test_the_number_of_series_is_bounded(ground: Ground, make_policy: MakePolicy) -> None:
    count = MOST_POLICIES + 10
    (ground.root / "web.service").mkdir()
    policies = [
        make_policy(f"p{n}", "web.service", {"initial_cwnd": 40}, peers=[f"10.{n // 256}.{n % 256}.0/24"])
        for n in range(count)
    ]
    ground.apply(*policies)
    with ground.agent():
        text = ground.ask("metrics")
        series = re.findall(
            r'^pliant_policy_connections_total\{arm="treated",policy="(.*)"\}', text, re.MULTILINE
        )
        assert len(series) == MOST_POLICIES + 1
        assert OTHER in series
    ground.clear()
    ground.remove("web.service")
