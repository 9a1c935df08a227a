# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket
import struct

import pytest

from pliant.errors import PliantError
from pliant.lab import Host, Lab, TcpClient, TcpServer, cgroup, inspect_socket
from pliant.lab.sockets import SO_MAX_PACING_RATE

pytestmark = pytest.mark.root

TCP, SOL, IP, IP6 = socket.IPPROTO_TCP, socket.SOL_SOCKET, socket.IPPROTO_IP, socket.IPPROTO_IPV6


def test_options_are_read_back() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        with socket.create_connection(listener.getsockname()[:2]) as sock:
            sock.setsockopt(TCP, socket.TCP_CONGESTION, b"reno")
            sock.setsockopt(SOL, SO_MAX_PACING_RATE, struct.pack("Q", 5_000_000_000))
            sock.setsockopt(TCP, socket.TCP_WINDOW_CLAMP, 20_000)
            sock.setsockopt(TCP, socket.TCP_NOTSENT_LOWAT, 16_384)
            sock.setsockopt(IP6, socket.IPV6_TCLASS, 0xB8)
            sock.setsockopt(SOL, socket.SO_MARK, 77)
            sock.setsockopt(SOL, socket.SO_PRIORITY, 3)
            state = inspect_socket(sock)
        assert inspect_socket(listener).state == "listen"
    assert state.state == "established"
    assert state.remote == "::1"
    assert state.congestion_control == "reno"
    assert state.max_pacing_rate == 5_000_000_000
    assert state.window_clamp == 20_000
    assert state.notsent_lowat == 16_384
    assert state.tclass == 0xB8
    assert (state.mark, state.priority) == (77, 3)
    assert state.snd_cwnd == 10
    assert state.info["snd_cwnd"] == 10
    assert state.rto_us >= 200_000


def test_tcp_info_agrees_with_what_was_sent(lab: Lab, server: Host, client: Host) -> None:
    lab.link(server, client, delay="5ms")
    with TcpServer(server, service="echo.service") as echo, TcpClient(client) as tcp:
        tcp.connect(server.address, echo.port, count=2)
        tcp.send(5000)
        tcp.receive(5000)
        mine, theirs = tcp.connections(), echo.connections()
        assert [state.info["bytes_received"] for state in mine] == [5000, 5000]
        assert [state.info["bytes_received"] for state in theirs] == [5000, 5000]
        assert [state.local_port for state in mine] == [state.remote_port for state in theirs]
        assert 10_000 <= mine[0].min_rtt_us < 20_000
        assert echo.received_bytes() == 10_000


@pytest.mark.parametrize("family", [4, 6, "mapped"])
def test_both_families_and_mapped_addresses(lab: Lab, server: Host, client: Host, family: object) -> None:
    lab.link(server, client)
    address = server.address6 if family == 6 else server.address
    with TcpServer(server, ["0.0.0.0:0" if family == 4 else "[::]:0"]) as echo, TcpClient(client) as tcp:
        tcp.connect(address, echo.port)
        tcp.send(1)
        tcp.receive(1)
        tcp.set_option(TCP, socket.TCP_CONGESTION, "reno")
        echo.set_option(IP, socket.IP_TOS, 0x28)
        (theirs,) = echo.connections()
        assert tcp.connections()[0].congestion_control == "reno"
    expected = {4: client.address, 6: client.address6, "mapped": f"::ffff:{client.address}"}
    assert theirs.remote == expected[family]
    assert theirs.tos == 0x28
    assert (theirs.tclass is None) == (family == 4)


def test_server_that_sends_fills_the_client(lab: Lab, server: Host, client: Host) -> None:
    lab.link(server, client)
    with TcpServer(server, mode="send", send_bytes=1_000_000) as source, TcpClient(client) as tcp:
        tcp.connect(server.address, source.port)
        tcp.receive(1_000_000)
        tcp.disconnect()
        assert tcp.connections() == []


def test_accepted_sockets_belong_to_the_service(lab: Lab, server: Host, client: Host) -> None:
    lab.link(server, client)
    with TcpServer(server, service="a/echo.service") as echo, TcpClient(client, service="app.service") as tcp:
        tcp.connect(server.address, echo.port)
        for host, service in ((server, "a/echo.service"), (client, "app.service")):
            group = host.service(service).relative_to(cgroup.version2_root())
            lines = host.run(["ss", "-tnH", "--cgroup", "state", "established"]).stdout.splitlines()
            assert len(lines) == 1
            assert f"cgroup:/{group}" in lines[0]


def test_refusals_are_told_in_a_sentence(lab: Lab, server: Host) -> None:
    with (
        TcpClient(server) as tcp,
        pytest.raises(PliantError, match=r"tcp_client on lab host server: .*refused"),
    ):
        tcp.connect("127.0.0.1", 9)
    with pytest.raises(PliantError, match=r"tcp_server on lab host server: .*assign"):
        TcpServer(server, ["192.0.2.1:80"])
