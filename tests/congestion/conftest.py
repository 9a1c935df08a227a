# SPDX-License-Identifier: Apache-2.0
"""Congestion controls registered for a test, and connections whose other end is played by hand."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pliant.features.controls import shipped_controls
from pliant.kernel.links import attach_iterator, attach_struct_ops
from pliant.kernel.namespaces import entered
from pliant.kernel.objects import LoadedObject, load
from pliant.lab import Host as LabHost
from pliant.lab import Lab
from pliant.lab.interface import open_tun
from tests.congestion.peer import Peer

if TYPE_CHECKING:
    from pliant.lab import PrivateMounts

ADDRESSES = {"ipv4": ("198.18.254.1", "198.18.254.2"), "ipv6": ("2001:2:0:fe::1", "2001:2:0:fe::2")}
_FLOW = struct.Struct("=HHIQII104s")


@pytest.fixture(scope="module", autouse=True)
def alone(only_registrar: None) -> None:
    """All of these tests register congestion controls."""


@dataclass(frozen=True)
class Registered:
    """A congestion control in force while the test runs."""

    name: str
    loaded: LoadedObject

    def states(self, host: LabHost) -> dict[int, bytes]:
        """The control's own state of each connection in a host, by local port."""
        with attach_iterator(self.loaded.programs["flows"]) as link, entered(host.netns_path):
            records = [_FLOW.unpack(record) for record in _chunks(link.read_iterator())]
        return {record[0]: record[6] for record in records}


def _chunks(output: bytes) -> Iterator[bytes]:
    for start in range(0, len(output), _FLOW.size):
        yield output[start : start + _FLOW.size]


@pytest.fixture(scope="module")
def registered(mounts: PrivateMounts) -> Iterator[Callable[[str], Registered]]:
    with contextlib.ExitStack() as stack:

        def register(name: str) -> Registered:
            loaded = stack.enter_context(load(shipped_controls()[name].path, feature=name))
            stack.enter_context(attach_struct_ops(loaded.maps[name]))
            return Registered(name, loaded)

        yield register


@pytest.fixture(scope="module")
def host(mounts: PrivateMounts) -> Iterator[LabHost]:
    with Lab("control") as lab:
        sender = lab.host("sender")
        sender.sysctl("net.ipv4.tcp_early_retrans", "0")  # no probes, which would come at times of their own
        yield sender


OpenPeer = Callable[..., AbstractContextManager[Peer]]


@pytest.fixture
def open_peer(host: LabHost) -> OpenPeer:
    """Make a socket of the host, with a congestion control, and the peer that it will connect to."""

    @contextlib.contextmanager
    def opened(control: str, family: str = "ipv4") -> Iterator[Peer]:
        local, remote = ADDRESSES[family]
        with host.inside():
            tun = open_tun("peer", offloads=False)
            sock = socket.socket(socket.AF_INET6 if family == "ipv6" else socket.AF_INET)
        with sock:
            length, options = (64, " nodad") if family == "ipv6" else (24, "")
            host.ip("link set peer mtu 1500 up", f"address add {local}/{length} dev peer{options}")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, control.encode())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close means gone
            try:
                yield Peer(tun, sock, local, remote)
            finally:
                os.close(tun)

    return opened
