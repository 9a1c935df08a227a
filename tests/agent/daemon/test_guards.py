# SPDX-License-Identifier: Apache-2.0
"""The guard on the kernel: a policy that hurts is taken off, one that does not stays, and off means until told."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pliant.agent.effects import policy_effects
from pliant.agent.host import Host
from pliant.features import catalogue
from pliant.observe.effects import Metric
from pliant.policy.documents import load_policies
from pliant.policy.model import Policy
from tests.agent.daemon.conftest import Ground, await_

pytestmark = pytest.mark.root

HURTS, HARMLESS = {"pacing_rate": "100Mbit"}, {"pacing_rate": "34Gbit"}
OFTEN = ("--guard-every", "0.2")

# A service that fetches 1.2 MB from itself all the time, over four connections at once. The first ten segments, of
# 64 KB each, are not paced (tcp_update_skb_after_send()).
SERVES_ITSELF = """
import socket, socketserver, threading
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(bytes(1_200_000))
class Server(socketserver.ThreadingTCPServer):
    daemon_threads, request_queue_size = True, 256
server = Server(("127.0.0.1", 0), Handler)
def fetch():
    while True:
        with socket.create_connection(server.server_address) as sock:
            while sock.recv(1 << 18):
                pass
for _ in range(4):
    threading.Thread(target=fetch, daemon=True).start()
server.serve_forever()
"""


def guarded(tune: dict[str, Any]) -> Policy:
    document = {
        "apiVersion": "pliant/v1",
        "kind": "TransportPolicy",
        "metadata": {"name": "web"},
        "spec": {
            "match": {"service": "web.service", "role": "server"},
            "tune": tune,
            "holdout": "50%",
            "guard": {"completionTime": "100%", "retransmissionRatio": "20pp"},
        },
    }
    [policy] = load_policies(json.dumps(document), "web.yaml", catalogue())
    return policy


@contextlib.contextmanager
def traffic(ground: Ground) -> Iterator[None]:
    name = f"{ground.root.name}/web.service"
    process = ground.lab.spawn([sys.executable, "-c", SERVES_ITSELF], service=name)
    try:
        yield
    finally:
        process.stop()


def ended(ground: Ground) -> int:
    """The connections of the smaller arm that have ended."""
    with Host(ground.places) as host:
        [one] = policy_effects(host, 0.95, ["web"])
    return min(arm[Metric.COMPLETION_TIME].count for arm in one.effect)


@pytest.fixture(autouse=True)
def service(ground: Ground) -> Iterator[None]:
    (ground.root / "web.service").mkdir()
    yield
    ground.remove("web.service")


def test_a_policy_that_hurts_is_taken_off_said_to_be_and_stays_off_until_told(ground: Ground) -> None:
    with ground.agent(*OFTEN), traffic(ground):
        ground.apply(guarded(HURTS))
        await_(lambda: ground.events("guard-tripped"), deadline_s=90.0)  # how soon is a matter of chance
        [event] = ground.events("guard-tripped")
        assert event.data["policy"] == "web"
        assert event.data["limit"] == "completionTime"
        assert event.data["increase"] > event.data["allowed"] == 1.0
        assert event.data["treated"] > 2 * event.data["heldOut"]
        assert "stays off until 'pliant on --policy web'" in event.sentence
        await_(lambda: not list(ground.places.pins.rglob("links/*")))
        assert ground.command("repair").returncode == 0
        assert not list(ground.places.pins.rglob("links/*"))
    with ground.agent(*OFTEN):
        ground.ask("reconcile")
        assert not list(ground.places.pins.rglob("links/*"))
        told = json.loads(ground.command("get", "-o", "json").stdout)
        assert told[0]["status"]["state"] == "off"
        history = json.loads(ground.command("history", "-o", "json").stdout)
        [off] = [one for one in history if one["verb"] == "off"]
        assert off["actor"] == "guard"
        assert off["reason"].startswith("guard: completionTime: a median of ")
        assert ground.command("on", "--policy", "web").returncode == 0
        await_(lambda: ground.programs("web.service") == ["scope"])
    assert len(ground.events("guard-tripped")) == 1


def test_a_policy_that_keeps_to_its_limits_stays(ground: Ground) -> None:
    with ground.agent(*OFTEN), traffic(ground):
        ground.apply(guarded(HARMLESS))
        await_(lambda: ended(ground) >= 300)
        assert not ground.events("guard-tripped", "adjustment-failed")
        assert ground.programs("web.service") == ["scope"]


def test_harm_that_began_before_the_agent_did_is_found(ground: Ground) -> None:
    ground.apply(guarded(HURTS))
    with traffic(ground):
        await_(lambda: ended(ground) >= 55)
        with ground.agent(*OFTEN):
            await_(lambda: ground.events("guard-tripped"))
