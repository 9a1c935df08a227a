# SPDX-License-Identifier: Apache-2.0
"""Frames are what hosts take for packets of their own."""

from __future__ import annotations

import socket
from contextlib import ExitStack, closing

import pytest

from pliant.errors import PliantError
from pliant.lab import Lab
from pliant.lab.frames import SHORTEST_BYTES, tcp_frame, udp_frame
from pliant.lab.interface import switch_aggregation
from pliant.lab.packets import HEAD_BYTES, PacketSource, interface, packet_sink

MACS = (bytes(6), bytes(6))
root = pytest.mark.root


@pytest.mark.parametrize(("source", "destination"), [("10.0.0.1", "10.0.0.2"), ("2001:2::1", "2001:2::2")])
def test_frames_are_as_long_as_asked_for_or_as_their_headers(source: str, destination: str) -> None:
    family = 6 if ":" in source else 4
    assert len(udp_frame(*MACS, source, destination)) == {4: SHORTEST_BYTES, 6: 62}[family]
    assert len(udp_frame(*MACS, source, destination, length=1514)) == 1514
    assert len(tcp_frame(*MACS, source, destination)) == {4: SHORTEST_BYTES, 6: 74}[family]


@root
@pytest.mark.usefixtures("mounts")
def test_packets_by_turns_reach_sockets_and_sinks() -> None:
    with Lab("frames") as lab:
        one, other = lab.host("one"), lab.host("other")
        links = [lab.link(one, other), lab.link(one, other)]
        frames = []
        for link, port in zip(links, (7001, 7002), strict=True):
            macs = [interface(host, link.interface_of(host)).address for host in (other, one)]
            addresses = [link.address_of(host) for host in (one, other)]
            frames.append(udp_frame(macs[0], macs[1], *addresses, ports=(7, port)))
        names = [link.interface_of(one) for link in links]
        with ExitStack() as held:
            held.enter_context(other.inside())
            packets = held.enter_context(closing(PacketSource(one, names, frames)))
            sockets = [held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in links]
            for sock, port in zip(sockets, (7001, 7002), strict=True):
                sock.settimeout(10)
                sock.bind(("", port))
            with packet_sink(other, *(link.interface_of(other) for link in links)) as sink:
                packets.send(100)
                assert sink.packets >= 100  # hosts say something themselves now and then
            for link in links:
                switch_aggregation(link.interface_of(other), on=True)
            packets.send(2)
            for sock in sockets:
                assert sock.recv(100) == bytes(SHORTEST_BYTES - 42)


@root
@pytest.mark.usefixtures("mounts")
def test_frames_that_cannot_be_sent_by_turns_are_refused() -> None:
    frame = udp_frame(*MACS, "10.0.0.1", "10.0.0.2", length=100)
    with Lab("frames") as lab:
        host = lab.host("one")
        for frames in (
            [frame] * 3,
            [frame, frame + b"\0"],
            [frame, frame[:HEAD_BYTES].ljust(100, b"x")],
            [b"short"],
        ):
            with pytest.raises(PliantError):
                PacketSource(host, ["lo"], frames)
