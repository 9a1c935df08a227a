# SPDX-License-Identifier: Apache-2.0
"""The sockets that the kernel lists, against what the sockets say of themselves."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from pliant.kernel.cgroups import cgroup_id, find_root
from pliant.kernel.namespaces import entered, network_namespaces
from pliant.kernel.sock_diag import MOST_CONDITIONS, Listing, OpenSocket, find_socket, list_sockets
from pliant.kernel.tcp_info import NO_MIN_RTT
from pliant.lab.sockets import SO_MAX_PACING_RATE

pytestmark = pytest.mark.root

TCP, IP, IP6 = socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6
NOWHERE = 2**40


@contextlib.contextmanager
def connection(listen: str, to: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection over loopback: the client's and the server's."""
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    with (
        socket.create_server((listen, 0), family=family, dualstack_ipv6=listen == "::") as listener,
        socket.create_connection((to, listener.getsockname()[1])) as client,
        listener.accept()[0] as server,
    ):
        yield client, server


def look(sock: socket.socket, **where: Any) -> OpenSocket | None:
    local, remote = sock.getsockname(), sock.getpeername()
    return find_socket(ip_address(local[0]), local[1], ip_address(remote[0]), remote[1], **where)


def own_cgroup() -> int:
    """The id of the cgroup that this process's sockets belong to."""
    path = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    return cgroup_id(find_root() / path.removeprefix("0::/"))


@pytest.mark.parametrize(
    ("listen", "to"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")],
    ids=["4", "6", "mapped"],
)
def test_both_ends_of_a_connection_are_found_with_what_was_set_on_them(
    network: Any, listen: str, to: str
) -> None:
    with entered(network.fd), connection(listen, to) as ends:
        for sock in ends:
            sock.setsockopt(TCP, socket.TCP_CONGESTION, b"reno")
            sock.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 5_000_000)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50_000)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 60_000)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 77)
            sock.setsockopt(IP, socket.IP_TOS, 0x28)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(IP6, socket.IPV6_TCLASS, 0xB8)
            found = look(sock)
            assert found is not None
            assert (found.family, found.state) == (sock.family, "established")
            assert (found.local, found.local_port) == sock.getsockname()[:2]
            assert (found.remote, found.remote_port) == sock.getpeername()[:2]
            assert found.inode == os.fstat(sock.fileno()).st_ino
            assert found.congestion_control == "reno"
            assert found.info["max_pacing_rate"] == 5_000_000
            assert found.rcvbuf == sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            assert found.sndbuf == sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            assert found.mark == 77
            assert found.tos == 0x28
            assert found.tclass == (0xB8 if sock.family == socket.AF_INET6 else None)
            assert found.cgroup_id == own_cgroup()
            assert found.min_rtt_us == found.info["min_rtt"] != NO_MIN_RTT


def test_what_is_not_connected_is_not_found(network: Any) -> None:
    with entered(network.fd), socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        here = ip_address("127.0.0.1")
        assert find_socket(here, port, here, 1) is None  # the kernel answers with the listening socket
        assert find_socket(here, 1, here, port) is None
        assert find_socket(here, port, ip_address("::1"), 1) is None


def test_socket_bound_to_an_interface_is_found(network: Any) -> None:
    with entered(network.fd), socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        client.connect(listener.getsockname())
        found = look(client)
        assert found is not None
        assert found.inode == os.fstat(client.fileno()).st_ino


def test_namespace_given_is_the_one_that_is_asked(network: Any) -> None:
    with entered(network.fd):
        within = contextlib.ExitStack()
        client, _ = within.enter_context(connection("127.0.0.1", "127.0.0.1"))
    with within:
        assert look(client) is None
        assert look(client, netns=network.fd) is not None
        assert list_sockets(netns=network.fd).total == 2


def test_list_is_chosen_by_state_port_and_number(network: Any) -> None:
    with (
        entered(network.fd),
        connection("127.0.0.1", "127.0.0.1") as (client, server),
        connection("::1", "::1"),
    ):
        port = server.getsockname()[1]
        assert (list_sockets().total, len(list_sockets().sockets)) == (4, 4)
        assert [s.inode for s in list_sockets(local_port=port).sockets] == [os.fstat(server.fileno()).st_ino]
        assert [s.inode for s in list_sockets(remote_port=port).sockets] == [os.fstat(client.fileno()).st_ino]
        [listening] = list_sockets(states=("listen",), local_port=port).sockets
        assert (listening.state, listening.local, listening.remote_port) == ("listen", "127.0.0.1", 0)
        few = list_sockets(at_most=3)
        assert (len(few.sockets), few.total, few.is_complete) == (3, 4, True)


@pytest.mark.parametrize("others", [0, 1, 2, MOST_CONDITIONS - 1, MOST_CONDITIONS])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_only_sockets_of_the_cgroups_asked_for_are_listed(network: Any, others: int, place: str) -> None:
    nowhere = [NOWHERE + n for n in range(others)]
    at = {"first": 0, "middle": others // 2, "last": others}[place]
    with entered(network.fd), connection("127.0.0.1", "127.0.0.1"), connection("::1", "::1"):
        assert list_sockets(cgroups=[*nowhere[:at], own_cgroup(), *nowhere[at:]]).total == 4
        assert list_sockets(cgroups=nowhere) == Listing((), 0)


def test_namespaces_of_processes_are_found_once_each_after_our_own(network: Any) -> None:
    with entered(network.fd):
        others = [subprocess.Popen(["cat"], stdin=subprocess.PIPE) for _ in range(2)]
    try:
        own, other = network_namespaces([os.getpid(), *(process.pid for process in others)])
        assert (own.path, own.number) == (None, os.stat("/proc/thread-self/ns/net").st_ino)
        assert other.number == os.fstat(network.fd).st_ino
        assert other.number in {namespace.number for namespace in network_namespaces()}
    finally:
        for process in others:
            process.communicate()
    assert len(network_namespaces([process.pid for process in others])) == 1
