# SPDX-License-Identifier: Apache-2.0
"""TCP connections whose every option can be read back: a server and a client for tests of the features."""

from __future__ import annotations

import json
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pliant.closing import Closable
from pliant.errors import PliantError
from pliant.kernel.tcp_info import OPTION_ECN, TCP_INFO_BYTES, state_name, unpack_tcp_info
from pliant.lab.host import Host

# linux/tcp.h and asm-generic/socket.h; Python does not name them
TCP_RTO_MAX_MS = 44  # Linux 6.15
TCP_RTO_MIN_US = 45  # Linux 6.18
TCP_DELACK_MAX_US = 46  # Linux 6.18
SO_MAX_PACING_RATE = 47

_ANSWER_S = 20.0


@dataclass(frozen=True, slots=True)
class SocketState:
    """What the kernel says about a TCP socket. None: the kernel or the address family has no such option.

    Rates are in bytes a second (the largest 64-bit number: no limit), times in microseconds unless named
    otherwise, windows in the unit of their name. ``info`` has every field of tcp_info (tcp(7)) by its name
    without the prefix.
    """

    family: int
    local: str
    local_port: int
    remote: str
    remote_port: int
    state: str
    congestion_control: str
    snd_cwnd: int
    snd_ssthresh: int
    rto_us: int
    rtt_us: int
    min_rtt_us: int
    snd_mss: int
    pacing_rate: int
    max_pacing_rate: int
    tos: int | None
    tclass: int | None
    window_clamp: int
    rcv_ssthresh: int
    sndbuf: int
    rcvbuf: int
    notsent_lowat: int
    user_timeout_ms: int
    keepalive: bool
    keepidle_s: int
    maxseg: int
    mark: int
    priority: int
    ecn: bool
    rto_min_us: int | None
    rto_max_ms: int | None
    delack_max_us: int | None
    total_retrans: int
    info: dict[str, int]


def inspect_socket(sock: socket.socket) -> SocketState:
    """Read back everything the features set, and tcp_info, from a TCP socket."""
    info = tcp_info(sock)
    peer: Sequence[Any] = ("", 0)
    with suppress(OSError):
        peer = sock.getpeername()
    here = sock.getsockname()
    is_v6 = sock.family == socket.AF_INET6
    tcp, options = socket.IPPROTO_TCP, sock.getsockopt
    return SocketState(
        family=int(sock.family),
        local=here[0],
        local_port=here[1],
        remote=peer[0],
        remote_port=peer[1],
        state=state_name(info["state"]),
        congestion_control=options(tcp, socket.TCP_CONGESTION, 16).split(b"\0")[0].decode(),
        snd_cwnd=info["snd_cwnd"],
        snd_ssthresh=info["snd_ssthresh"],
        rto_us=info["rto"],
        rtt_us=info["rtt"],
        min_rtt_us=info["min_rtt"],
        snd_mss=info["snd_mss"],
        pacing_rate=info["pacing_rate"],
        max_pacing_rate=struct.unpack("=Q", options(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 8))[0],
        tos=_option(sock, socket.IPPROTO_IP, socket.IP_TOS),
        tclass=_option(sock, socket.IPPROTO_IPV6, socket.IPV6_TCLASS) if is_v6 else None,
        window_clamp=options(tcp, socket.TCP_WINDOW_CLAMP),
        rcv_ssthresh=info["rcv_ssthresh"],
        sndbuf=options(socket.SOL_SOCKET, socket.SO_SNDBUF),
        rcvbuf=options(socket.SOL_SOCKET, socket.SO_RCVBUF),
        notsent_lowat=options(tcp, socket.TCP_NOTSENT_LOWAT) & 0xFFFFFFFF,
        user_timeout_ms=options(tcp, socket.TCP_USER_TIMEOUT),
        keepalive=bool(options(socket.SOL_SOCKET, socket.SO_KEEPALIVE)),
        keepidle_s=options(tcp, socket.TCP_KEEPIDLE),
        maxseg=options(tcp, socket.TCP_MAXSEG),
        mark=options(socket.SOL_SOCKET, socket.SO_MARK),
        priority=options(socket.SOL_SOCKET, socket.SO_PRIORITY),
        ecn=bool(info["options"] & OPTION_ECN),
        rto_min_us=_option(sock, tcp, TCP_RTO_MIN_US),
        rto_max_ms=_option(sock, tcp, TCP_RTO_MAX_MS),
        delack_max_us=_option(sock, tcp, TCP_DELACK_MAX_US),
        total_retrans=info["total_retrans"],
        info=info,
    )


def tcp_info(sock: socket.socket) -> dict[str, int]:
    """Return the kernel's tcp_info of a socket, by field; fields an old kernel lacks are 0."""
    return unpack_tcp_info(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES))


def _option(sock: socket.socket, level: int, name: int) -> int | None:
    try:
        return sock.getsockopt(level, name)
    except OSError:
        return None


class _Helper(Closable):
    """A helper process in a lab host that takes one JSON command a line and gives one JSON answer each."""

    module: str

    def __init__(self, host: Host, service: str | None, arguments: Sequence[str] = ()) -> None:
        self.host = host
        self.process = host.spawn(
            [sys.executable, "-P", "-m", self.module, *arguments],
            service=service,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._answer()

    def ask(self, command: str, **arguments: Any) -> Any:
        """Have the helper do something and return its answer; raises PliantError with its words."""
        self._write(command, **arguments)
        return self._answer()

    def _write(self, command: str, **arguments: Any) -> None:
        stream = self.process.popen.stdin
        assert stream is not None
        with suppress(BrokenPipeError):
            stream.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
            stream.flush()

    def _answer(self) -> Any:
        stream = self.process.popen.stdout
        assert stream is not None
        line = stream.readline() if select.select([stream], [], [], _ANSWER_S)[0] else b""
        if not line:
            raise PliantError(
                f"{self.module} on lab host {self.host.name} ended: {self.process.output.strip()}"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise PliantError(f"{self.module} on lab host {self.host.name}: {answer['error']}")
        return answer["ok"]

    def connections(self) -> list[SocketState]:
        """Return the state of every open connection, oldest first."""
        return [SocketState(**state) for state in self.ask("report")["connections"]]

    def set_option(self, level: int, name: int, value: int | str) -> None:
        """Set a socket option on every open connection, as a program would itself."""
        self.ask("set", level=level, name=name, value=value)

    def close(self) -> None:
        """End the helper and with it its connections."""
        self.process.stop()


class TcpServer(_Helper):
    """A TCP server in a service of a host; use as a context manager, or close it.

    ``listen`` are endpoints "ADDRESS:PORT" or "[ADDRESS]:PORT"; port 0 takes a free one (see ``ports``);
    "[::]:PORT" takes both families. ``mode``: "echo" sends back what comes, "sink" swallows it, "send" sends
    ``send_bytes`` to whoever connects. Connections stay open until the client closes.
    """

    module = "pliant.lab.tcp_server"

    def __init__(
        self,
        host: Host,
        listen: Sequence[str] = ("0.0.0.0:0",),
        *,
        service: str | None = None,
        mode: Literal["echo", "sink", "send"] = "echo",
        send_bytes: int = 0,
    ) -> None:
        arguments = [word for endpoint in listen for word in ("--listen", endpoint)]
        super().__init__(host, service, [*arguments, "--mode", mode, "--bytes", str(send_bytes)])
        self.ports: list[int] = [state.local_port for state in self.listeners()]

    @property
    def port(self) -> int:
        """The port of the first endpoint."""
        return self.ports[0]

    def listeners(self) -> list[SocketState]:
        """Return the state of the listening sockets."""
        return [SocketState(**state) for state in self.ask("report")["listeners"]]

    def received_bytes(self) -> int:
        """Return how many bytes came in, over all connections so far."""
        return int(self.ask("report")["received"])


class TcpClient(_Helper):
    """A TCP client in a service of a host; use as a context manager, or close it."""

    module = "pliant.lab.tcp_client"

    def __init__(self, host: Host, *, service: str | None = None) -> None:
        super().__init__(host, service)

    def connect(
        self, address: str, port: int, *, count: int = 1, source: str | None = None, timeout_s: float = 10
    ) -> list[SocketState]:
        """Open connections that stay open, and return the state of all; raises PliantError."""
        self.ask("connect", address=address, port=port, count=count, source=source, timeout_s=timeout_s)
        return self.connections()

    def send(self, size: int) -> None:
        """Send this many bytes on every connection."""
        self.ask("send", size=size)

    def start_sending(self, size: int) -> None:
        """Have the client send this many bytes on every connection, and do not wait: it can only be closed then."""
        self._write("send", size=size)

    def receive(self, size: int) -> None:
        """Wait until this many bytes have come in on every connection; raises PliantError."""
        self.ask("receive", size=size)

    def exchange(self, size: int, times: int = 1) -> None:
        """Send bytes to an echo on every connection and wait until they are back, so many times; raises PliantError."""
        self.ask("exchange", size=size, times=times)

    def disconnect(self) -> None:
        """Close every connection."""
        self.ask("disconnect")


def state_as_json(sock: socket.socket) -> dict[str, Any]:
    """Return a socket's state as plain values, for a helper's answer."""
    return asdict(inspect_socket(sock))


def set_option_on(sockets: Sequence[socket.socket], request: dict[str, Any]) -> None:
    """Set one option on each socket, for a helper."""
    value = request["value"]
    for sock in sockets:
        sock.setsockopt(
            request["level"], request["name"], value.encode() if isinstance(value, str) else value
        )
