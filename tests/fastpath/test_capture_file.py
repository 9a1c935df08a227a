# SPDX-License-Identifier: Apache-2.0
"""Captures are read back as they were written, and what is no capture, or a damaged one, is told in a sentence."""

from __future__ import annotations

import contextlib
import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.errors import PliantError
from pliant.fastpath.capture_file import Stored, Writer, read_packets
from pliant.fastpath.frame import Fields, line_of, make_frame, parse_address, read_frame

names = st.sampled_from(("eth0", "eth1", "pod-7"))
stored = st.builds(
    lambda at, name, data, more: Stored(at, name, len(data) + more, data),
    st.integers(0, 2**62), names, st.binary(max_size=300), st.integers(0, 2000),
)  # fmt: skip
OWN, OTHER = bytes((2, 0, 0, 0, 0, 1)), bytes((2, 0, 0, 0, 0, 2))


def written(packets: list[Stored]) -> bytes:
    file = io.BytesIO()
    writer = Writer(file)
    for packet in packets:
        writer.write(packet, comment="kernel (no route)", verdict=2)
    return file.getvalue()


@given(st.lists(stored, max_size=8))
def test_what_is_written_is_read_back(packets: list[Stored]) -> None:
    assert list(read_packets(io.BytesIO(written(packets)), "it")) == packets


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "unit"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
def test_pcap_is_read_in_either_order_and_resolution(order: str, magic: int, unit: int) -> None:
    header = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, 1)
    packet = struct.pack(order + "IIII", 7, 5, 3, 60) + b"abc"
    [found] = read_packets(io.BytesIO(header + packet), "it")
    assert found == Stored(7 * 10**9 + 5 * unit, "", 60, b"abc")


@pytest.mark.parametrize(("link", "before"), [(101, 0), (113, 16), (276, 20)])
def test_packets_without_an_ethernet_header_get_one(link: int, before: int) -> None:
    packet = make_frame(fields("10.0.0.1", "10.0.0.2"))[14:]
    frame = Stored(0, "", 0, bytes(before) + packet, link).frame(OWN, OTHER)
    assert frame == OWN + OTHER + b"\x08\x00" + packet


@given(st.lists(stored, min_size=1, max_size=3), st.data())
def test_a_damaged_file_is_told_in_a_sentence(packets: list[Stored], data: st.DataObject) -> None:
    content = bytearray(written(packets))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    with contextlib.suppress(PliantError):  # and nothing else
        list(read_packets(io.BytesIO(bytes(content)), "it"))


def fields(source: str, to: str, protocol: int = 17) -> Fields:
    return Fields(parse_address(source), parse_address(to), protocol, OTHER, OWN, ports=(1, 53), length=80)


@given(st.binary(max_size=120) | st.binary(max_size=60).map(lambda b: OWN + OTHER + b"\x08\x00\x45" + b)
       | st.binary(max_size=90).map(lambda b: OWN + OTHER + b"\x86\xdd\x60" + b))  # fmt: skip
def test_any_bytes_are_read_as_a_frame_and_have_a_line(data: bytes) -> None:
    assert line_of(read_frame(data))


@pytest.mark.parametrize("protocol", [1, 6, 17, 58, 132, 200])
@pytest.mark.parametrize(("source", "to"), [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")])
def test_a_frame_that_is_made_is_read_as_what_it_was_made_of(source: str, to: str, protocol: int) -> None:
    frame = read_frame(make_frame(fields(source, to, protocol)))
    assert (str(frame.saddr), str(frame.daddr), frame.protocol) == (source, to, protocol)
    assert (frame.length, frame.ttl, frame.is_well_formed, frame.is_fragment) == (80, 64, True, False)
    assert (frame.to, frame.source) == (OWN, OTHER)
    assert frame.ports == ((1, 53) if protocol in (6, 17) else frame.ports)
