# SPDX-License-Identifier: Apache-2.0
"""Commands that look at open connections: ``get connections`` and ``explain`` without a service."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pliant.lab import TcpClient, TcpServer

from .conftest import Pliant, policy

SERVER, CLIENT = "10.2.0.1", "10.2.0.2"


@dataclass
class Open:
    """One connection, by its name at the server's end and at the client's."""

    server: TcpServer
    client: TcpClient
    at_server: str
    at_client: str


@pytest.fixture
def opened(pliant: Pliant) -> Iterator[Open]:
    """A connection of web.service, tuned by the policy ``web``, from api.service, which has none."""
    pliant.host.add_address(f"{SERVER}/32", f"{CLIENT}/32")
    done = pliant(
        "apply", "-f", pliant.write(policy(tune="initial_cwnd: 40, pacing_rate: 200Mbit, dscp: EF"))
    )
    assert done.returncode == 0, done.stderr
    with (
        TcpServer(pliant.host, [f"{SERVER}:80"], service="web.service") as server,
        TcpClient(pliant.host, service="api.service") as client,
    ):
        [mine] = client.connect(SERVER, 80, source=CLIENT)
        near, far = f"{SERVER}:80", f"{CLIENT}:{mine.local_port}"
        yield Open(server, client, f"{near}-{far}", f"{far}-{near}")


def test_get_lists_open_connections_of_services_with_policies(pliant: Pliant, opened: Open) -> None:
    [found] = pliant.json("get", "connections")
    assert found["connection"] == opened.at_server
    assert (found["service"], found["role"], found["state"]) == ("web.service", "server", "established")
    assert found["policies"] == [
        {"policy": "web", "reason": "wins", "sets": ["dscp", "initial_cwnd", "pacing_rate"]}
    ]
    assert found["congestionWindow"] == 40
    assert found["pacingRate"] <= 25_000_000
    table = pliant("get", "connections").stdout.splitlines()
    assert table[0].split()[:2] == ["CONNECTION", "SERVICE"]
    assert table[1].split()[0] == opened.at_server
    assert table[1].split()[1:4] == ["web.service", "server", "web"]
    assert pliant("get", "connections", "-o", "name").stdout.split() == [f"connection/{opened.at_server}"]


def test_get_chooses_connections_by_policy_and_service(pliant: Pliant, opened: Open) -> None:
    pliant("apply", "-f", pliant.write(policy("api", "api.service")))  # of a server: its client is none
    assert len(pliant.json("get", "connections")) == 2
    assert len(pliant.json("get", "connections", "--policy", "policy/web")) == 1
    assert pliant.json("get", "connections", "--policy", "api") == []
    assert [c["role"] for c in pliant.json("get", "connections", "--service", "api.service")] == ["client"]
    limited = pliant("get", "connections", "--limit", "1")
    assert len(limited.stdout.splitlines()) == 2
    assert "1 of 2 connections were read" in limited.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("connections", "a-name"), "connections have no names"),
        (("connections", "--policy", "none"), "there is no policy 'none'"),
        (("connections", "--service", "none.service"), "'none.service' is on this host under no such name"),
        (("services", "--policy", "web"), "--policy and --service choose connections"),
    ],
)
def test_get_refuses_what_makes_no_sense(pliant: Pliant, arguments: tuple[str, ...], message: str) -> None:
    done = pliant("get", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_explain_finds_an_open_connection_in_another_namespace(pliant: Pliant, opened: Open) -> None:
    found = pliant.json("explain", "--connection", opened.at_server)
    assert (found["service"], found["role"]) == ("web.service", "server")
    assert found["roleFound"] == "its port is that of a listening socket"
    assert [(p["policy"], p["reason"], p["heldOut"]) for p in found["policies"]] == [("web", "wins", False)]
    assert [(o["option"], o["asked"], o["kernel"], o["agrees"]) for o in found["options"]] == [
        ("dscp", "EF", "EF", True),
        ("initial_cwnd", 40, None, None),
        ("pacing_rate", "200Mbit", "200Mbit", True),
    ]
    told = pliant("explain", "--connection", f"connection/{opened.at_server}")
    assert told.returncode == 0, told.stderr
    assert re.search(r"^pacing_rate +web +200Mbit +200Mbit +the kernel has it$", told.stdout, re.MULTILINE)
    assert re.search(r"^Role: +server: its port is that of a listening socket$", told.stdout, re.MULTILINE)


def test_explain_says_why_the_other_end_has_no_policy(pliant: Pliant, opened: Open) -> None:
    found = pliant.json("explain", "--connection", opened.at_client)
    assert (found["service"], found["role"]) == ("api.service", "client")
    assert [(p["policy"], p["reason"]) for p in found["policies"]] == [("web", "service")]
    assert found["options"] == []
    told = pliant("explain", "--connection", opened.at_client)
    assert "no policy sets anything: the connection is left to the kernel" in told.stdout


def test_explain_says_whether_a_connection_is_held_out(pliant: Pliant, opened: Open) -> None:
    pliant("apply", "-f", pliant.write(policy().replace("priority:", "holdout: 50%\n  priority:")))
    opened.client.connect(SERVER, 80, source=CLIENT, count=19)
    found = {c["connection"]: c for c in pliant.json("get", "connections")}
    reasons = {c["policies"][0]["reason"] for c in found.values()}
    assert reasons == {"wins", "held-out"}  # all alike once in 500,000 runs
    for name, connection in list(found.items())[:3]:
        [judged] = pliant.json("explain", "--connection", name)["policies"]
        assert judged["reason"] == connection["policies"][0]["reason"]


def test_explain_looks_where_it_is_told(pliant: Pliant, opened: Open) -> None:
    where = f"/proc/{pliant.host.pid}/ns/net"
    assert pliant.json("explain", "--connection", opened.at_server, "--netns", where)["namespace"] == where
    elsewhere = pliant("explain", "--connection", opened.at_server, "--netns", "/proc/self/ns/net")
    assert elsewhere.returncode == 2
    assert "there is no such connection" in elsewhere.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--connection", "10.9.9.9:1-10.9.9.8:2"), "there is no such connection"),
        (("--connection", "nonsense"), "'nonsense' is not a connection"),
        (("--connection", "10.9.9.9:1-10.9.9.8:2", "--netns", "none"), "cannot find the network namespace"),
        (
            ("--connection", "10.9.9.9:1-10.9.9.8:2", "--netns", "x", "--service", "y"),
            "nothing is looked for",
        ),
    ],
)
def test_explain_ends_with_2_where_there_is_nothing_to_explain(
    pliant: Pliant, arguments: tuple[str, ...], message: str
) -> None:
    done = pliant("explain", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "remedy:" in done.stderr or "--netns" in arguments
