# SPDX-License-Identifier: Apache-2.0
"""``pliant explain --packet``, ``--pcap`` and ``pliant capture`` as people run them, on a router that forwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pliant.cli.explain_packets import explain_fields, read_fields
from pliant.errors import PliantError
from pliant.fastpath.capture_file import read_packets
from pliant.fastpath.frame import read_frame
from pliant.fastpath.objects import tables_layout
from pliant.fastpath.packet_explanation import Judge
from pliant.fastpath.topology import topology
from pliant.kernel.links import LinkType, all_links
from pliant.kernel.nftables_rules import read_rules
from pliant.lab import Host, Lab, PrivateMounts
from pliant.lab.interface import switch_aggregation
from pliant.observe.fastpath import FastpathPins, own_programs
from pliant.observe.network_reader import read_facts

COMMAND = [sys.executable, "-m", "pliant"]
PORT = 9009


@dataclass(frozen=True)
class Routed:
    """A router between two hosts, with a fast path on both its interfaces."""

    sender: Host
    router: Host
    receiver: Host
    left: str
    right: str
    source: str
    to: str
    environment: dict[str, str]

    def pliant(self, *arguments: str, status: int = 0) -> str:
        done = self.router.run([*COMMAND, *arguments], env=self.environment, check=False)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    def explained(self, *packets: str) -> list[dict[str, Any]]:
        """Packets that come in from the sender, explained as the command does it."""
        with self.router.inside():
            pins = FastpathPins(Path(self.environment["PLIANT_PINS"]), tables_layout())
            found = topology(read_facts(), own=own_programs(pins))
            with Judge(pins, found, read_rules()) as judge:
                return [explain_fields(judge, read_fields(f"in={self.left} {one}")).data() for one in packets]

    def send(self, count: int = 1, ttl: int = 64) -> None:
        with self.sender.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            for _ in range(count):
                sock.sendto(b"hello", (self.to, PORT))


@pytest.fixture(scope="module")
def routed(mounts: PrivateMounts) -> Iterator[Routed]:
    pins = mounts.bpffs / "seeing"
    environment = dict(os.environ) | {
        "PLIANT_STATE": str(mounts.state / "seeing"),
        "PLIANT_PINS": str(pins),
        "PLIANT_SOCKET": str(mounts.run / "none.sock"),
    }
    with Lab("seeing") as lab:
        sender, router, receiver = (lab.host(name) for name in ("sender", "router", "receiver"))
        near, far = lab.link(sender, router, offloads=False), lab.link(router, receiver, offloads=False)
        router.sysctl("net.ipv4.ip_forward", "1")
        for host, link, beyond in ((sender, near, far), (receiver, far, near)):
            host.add_route(f"{beyond.address_of(beyond.peer_of(router))}/32", link.address_of(router))
            with host.inside():
                switch_aggregation(link.interface_of(host), on=True)
        made = Routed(
            sender, router, receiver, near.interface_of(router), far.interface_of(router),
            str(near.address_of(sender)), str(far.address_of(receiver)), environment,
        )  # fmt: skip
        made.pliant("fastpath", "on", "--mode", "native")
        made.send()  # so that neighbours are known
        yield made
        made.pliant("off")
    assert not pins.exists()


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_packet_is_explained_by_the_program_itself(routed: Routed) -> None:
    way = f"src={routed.source} dst={routed.to}"
    until(lambda: routed.explained(way)[0]["path"] == "fast")
    told = routed.pliant(
        "explain", "--packet", f"in={routed.left} {way} proto=udp dport={PORT}", "-o", "json"
    )
    found = json.loads(told)
    assert (found["path"], found["module"], found["saidBy"]) == ("fast", "route4", "program")
    assert (found["out"], found["reason"]) == (routed.right, None)
    assert found["route"]["route"].endswith(f"dev {routed.right} table main")
    assert len(found["nextHop"].split(":")) == 6
    packets = {
        f"{way} ttl=1": "expiring",
        f"{way} dmac=02:00:00:00:00:77": "not-ours",
        f"src={routed.source} dst=203.0.113.9": "no-route",
        f"src=127.0.0.1 dst={routed.to}": "martian",
        f"{way} len=1600": "too-big",
    }
    for one, code in zip(routed.explained(*packets), packets.values(), strict=True):
        assert (one["path"], one["reason"]["code"], one["saidBy"]) == ("kernel", code, "program")
    for interface in json.loads(routed.pliant("fastpath", "status", "-o", "json")):
        assert not {"expiring", "martian", "too big"} & interface["toKernel"].keys()  # asking counts nothing


def test_the_rule_that_decides_is_named_and_what_keeps_from_acceleration(routed: Routed) -> None:
    rules = (
        "table ip f { chain c { type filter hook forward priority 0; udp dport 53 ip ttl 63 drop; log; }\n}\n"
    )
    routed.router.run(["nft", "-f", "-"], given=rules)
    try:
        routed.pliant("repair")
        [found] = routed.explained(f"src={routed.source} dst={routed.to} proto=udp dport=53")
        assert (found["path"], found["saidBy"]) == ("kernel", "configuration")
        assert any("ip f c" in reason["sentence"] for reason in found["obstacles"])
        assert found["filter"]["verdict"] == "drop"
        assert found["filter"]["rules"][-1]["applied"]
        said = routed.pliant(
            "explain", "--packet", f"in={routed.left} src={routed.source} dst={routed.to} dport=80"
        )
        assert "rule:" in said
    finally:
        routed.router.run(["nft", "delete", "table", "ip", "f"])
        routed.pliant("repair")


def check_that_dropped_packets_are_told(routed: Routed, directory: Path) -> None:
    """As a line, as data, and in a file."""
    file = directory / "dropped.pcapng"
    printing = [
        start_capture(routed, "-c", "20", "udp"),
        start_capture(routed, "-c", "20", "-o", "json", "udp"),
    ]
    writing = start_capture(routed, "-c", "20", "-w", str(file), "udp")
    routed.send(20)
    lines, data, _ = (one.communicate(timeout=20)[0].splitlines() for one in (*printing, writing))
    way = f" > {routed.to}.{PORT}: udp"
    assert sum(f"{routed.left} dropped (nftables): IP " in line and way in line for line in lines) > 10
    assert len(lines) == len(data) == 20
    found = [one for one in map(json.loads, data) if one["verdict"] == "dropped"]
    assert len(found) > 10
    assert {(one["in"], one["out"], one["reason"]["code"]) for one in found} == {
        (routed.left, None, "dropped")
    }
    assert file.read_bytes().count(b"dropped (nftables)") > 10
    with file.open("rb") as opened:
        assert {read_frame(packet.data).ttl for packet in read_packets(opened, "it")} == {64}


def test_what_rules_drop_is_told_from_what_is_sent_on(routed: Routed, tmp_path: Path) -> None:
    rules = f"table ip f {{ chain c {{ type filter hook forward priority 0; udp dport {PORT} drop; }}\n}}\n"
    routed.router.run(["nft", "-f", "-"], given=rules)
    try:
        routed.pliant("repair")
        way = f"src={routed.source} dst={routed.to} proto=udp"
        dropped, sent_on = routed.explained(f"{way} dport={PORT}", f"{way} dport={PORT + 1}")
        assert (dropped["path"], dropped["reason"]["code"], dropped["out"]) == ("fast", "dropped", None)
        assert (dropped["filter"]["verdict"], sent_on["filter"]["verdict"]) == ("drop", "accept")
        assert (sent_on["path"], sent_on["out"]) == ("fast", routed.right)
        check_that_dropped_packets_are_told(routed, tmp_path)
        [found] = (i for i in json.loads(routed.pliant("fastpath", "status", "-o", "json")) if i["dropped"])
        assert found["interface"] == routed.left
        assert [c["packets"] for c in found["counters"] if c["verdict"] == "dropped"] == [found["dropped"]]
    finally:
        routed.router.run(["nft", "delete", "table", "ip", "f"])
        routed.pliant("repair")


def test_a_translated_packet_is_explained_as_it_is_routed(routed: Routed) -> None:
    rules = f"""table ip n {{
      chain d {{ type nat hook prerouting priority -100; ip daddr 203.0.113.9 udp dport 53 dnat {routed.to}:{PORT}; }}
      chain c {{ type filter hook forward priority 0; ct state established accept; }}
    }}
    """
    routed.router.run(["nft", "-f", "-"], given=rules)
    gateway = routed.sender.links[0].address_of(routed.router)
    routed.sender.run(["ip", "route", "add", "203.0.113.9", "via", str(gateway)])
    try:
        with routed.receiver.inside():
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with routed.sender.inside():
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with server, client:
            server.bind((routed.to, PORT))
            server.settimeout(20)
            client.settimeout(20)
            client.sendto(b"there", ("203.0.113.9", 53))
            server.sendto(b"back", server.recvfrom(9)[1])
            assert client.recv(9) == b"back"
            own = client.getsockname()[1]
            [found] = routed.explained(f"src={routed.source} sport={own} dst=203.0.113.9 dport=53 proto=udp")
    finally:
        routed.router.run(["nft", "delete", "table", "ip", "n"])
        routed.sender.run(["ip", "route", "del", "203.0.113.9"])
        routed.pliant("repair")  # rules have changed: till then all is the kernel's
    assert found["connection"].startswith("established")
    assert f"becomes {routed.source}.{own} > {routed.to}.{PORT}" in found["connection"]
    assert found["route"]["route"].endswith(f"dev {routed.right} table main")
    assert (found["filter"]["verdict"], found["filter"]["rules"][-1]["applied"]) == ("accept", True)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("src=10.0.0.1 dst=10.0.0.2", "in is missing"),
        ("in=lo sorce=10.0.0.1", "there is no field 'sorce'"),
        ("in", "'in' is not a field"),
        ("in=a in=b src=1 dst=2", "'in' is given twice"),
    ],
)
def test_fields_that_are_wrong_are_told_with_a_remedy(fields: str, said: str) -> None:
    with pytest.raises(PliantError, match=said) as raised:
        read_fields(fields)
    assert raised.value.remedy


def test_what_cannot_be_explained_is_told_with_a_remedy(routed: Routed) -> None:
    for arguments, said in (
        (["--packet", "in=nosuch src=10.0.0.1 dst=10.0.0.2"], "there is no interface nosuch"),
        ([], "what is to be explained?"),
        (["--pcap", __file__], "is not a capture"),
    ):
        told = routed.pliant("explain", *arguments, status=2)
        assert said in told
        assert "remedy:" in told


def start_capture(routed: Routed, *arguments: str) -> subprocess.Popen[str]:
    """Start one, and wait until it is there."""
    with routed.router.inside():
        started = subprocess.Popen(
            [*COMMAND, "capture", *arguments],
            env=routed.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert started.stderr
    assert "capturing what comes in by" in started.stderr.readline()
    return started


def captures() -> int:
    """The programs by which captures see packets."""
    return sum(link.type in (LinkType.RAW_TRACEPOINT, LinkType.TRACING) for link in all_links())


def test_accelerated_packets_and_others_are_captured_with_what_became_of_them(
    routed: Routed, tmp_path: Path
) -> None:
    file = tmp_path / "seen.pcapng"
    running = start_capture(routed, "-w", str(file), "udp", "port", str(PORT))
    routed.send(5)
    routed.send(2, ttl=1)
    with routed.sender.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"not asked for", (routed.to, PORT + 1))
    until(lambda: file.exists() and file.read_bytes().count(b"hello") >= 7)
    running.send_signal(signal.SIGINT)
    out, error = running.communicate(timeout=20)
    assert running.returncode == 0, out + error
    assert "7 packets captured" in error
    with file.open("rb") as opened:
        packets = list(read_packets(opened, "it"))
    assert {packet.interface for packet in packets} == {routed.left}
    frames = [read_frame(packet.data) for packet in packets]
    assert [frame.ports and frame.ports[1] for frame in frames] == [PORT] * 7
    ttls = [frame.ttl for frame in frames]
    assert ttls.count(1) == 2
    assert 3 <= ttls.count(63) <= 5  # one or two of the others went to the kernel, as once a second
    content = file.read_bytes()
    assert b"> " + routed.right.encode() in content
    assert b"kernel (expiring)" in content
    if shutil.which("tcpdump"):
        assert f"{routed.to}.{PORT}: UDP" in routed.router.run(["tcpdump", "-nr", str(file)]).stdout


def test_lines_are_printed_and_a_count_ends_it(routed: Routed) -> None:
    running = start_capture(routed, "-c", "3", "--dev", routed.left, "udp")
    routed.send(8)
    out, error = running.communicate(timeout=20)
    assert running.returncode == 0, error
    lines = out.splitlines()
    assert len(lines) == 3
    assert all(f" {routed.left} " in line and f" > {routed.to}.{PORT}: udp" in line for line in lines)


def test_nothing_is_left_of_a_capture_that_is_killed(routed: Routed) -> None:
    before = captures()
    running = start_capture(routed)
    assert captures() > before
    running.kill()
    running.communicate(timeout=20)
    until(lambda: captures() == before)
    routed.send()


def test_packets_of_a_file_are_summed_up(routed: Routed, tmp_path: Path) -> None:
    file = tmp_path / "some.pcapng"
    running = start_capture(routed, "-c", "4", "-w", str(file), "udp")
    routed.send(2)
    routed.send(2, ttl=1)
    running.communicate(timeout=20)
    groups = json.loads(routed.pliant("explain", "--pcap", str(file), "-o", "json"))
    assert sum(group["packets"] for group in groups) == 4
    by_reason = {g["example"]["reason"] and g["example"]["reason"]["code"]: g["packets"] for g in groups}
    assert by_reason["expiring"] == 2
    assert (
        "expiring" not in routed.pliant("explain", "--pcap", str(file), "--in", routed.right).lower().split()
    )
