# SPDX-License-Identifier: Apache-2.0
"""Fast paths come, are replaced and go, and packets travel on meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pliant.kernel.links import Link
from pliant.kernel.maps import Map
from pliant.kernel.pins import PinDirectory
from pliant.kernel.programs import Program
from pliant.lab import TcpClient, TcpServer
from pliant.observe.fastpath import hooked_program, read_counts, running_program
from tests.fastpath.fastpath_row import Fastpath, Row

FORWARDED = 0
SIZE = 200_000


@pytest.fixture(params=["ipv4", "ipv6"])
def connection(request: pytest.FixtureRequest, row: Row) -> Iterator[TcpClient]:
    """A connection through the router to a server that sends back what comes."""
    link = row.receiver.links[0]
    address = link.address_of(row.receiver) if request.param == "ipv4" else link.address6_of(row.receiver)
    with TcpServer(row.receiver, ["[::]:80"]) as server, TcpClient(row.sender) as client:
        client.connect(address, server.port)
        yield client


def exchange(client: TcpClient) -> None:
    client.send(SIZE)
    client.receive(SIZE)


def forwarded(fastpath: Fastpath, name: str) -> int:
    return read_counts(fastpath.pins, fastpath.port(name))[FORWARDED].bytes


def attached_maps(fastpath: Fastpath, name: str) -> tuple[int, ...]:
    with Program.by_id(hooked_program(fastpath.pins, fastpath.port(name))) as program:
        return program.map_ids


def test_both_ways_of_a_connection_take_it(fastpath: Fastpath, row: Row, connection: TcpClient) -> None:
    fastpath.become(fastpath.acceleration(row.left), fastpath.acceleration(row.right))
    exchange(connection)
    assert forwarded(fastpath, row.left) > SIZE * 0.9
    assert forwarded(fastpath, row.right) > SIZE * 0.9


def test_one_build_replaces_another_in_the_same_link(
    fastpath: Fastpath, row: Row, connection: TcpClient
) -> None:
    fastpath.become(fastpath.acceleration(row.left))
    exchange(connection)
    before = forwarded(fastpath, row.left)
    with Link.pinned(fastpath.pins.link(fastpath.port(row.left))) as link:
        number = link.id
    fastpath.become(fastpath.acceleration(row.left, max_age=1))
    exchange(connection)
    with Link.pinned(fastpath.pins.link(fastpath.port(row.left))) as link:
        assert link.id == number
    assert forwarded(fastpath, row.left) > before + SIZE * 0.9  # counts go on


def test_every_step_can_be_taken_back(fastpath: Fastpath, row: Row) -> None:
    fastpath.become(fastpath.acceleration(row.left))
    before = fastpath.found()
    target = fastpath.target(fastpath.acceleration(row.left, max_age=1), fastpath.acceleration(row.right))
    steps = [step for step in fastpath.plan(target) if step.undo()]
    for taken in range(1, len(steps) + 1):
        fastpath.take(steps[:taken])
        fastpath.take(undo for step in reversed(steps[:taken]) if (undo := step.undo()))
        assert fastpath.found() == before


def test_interfaces_share_what_is_attached_but_those_with_the_same_slot(fastpath: Fastpath, row: Row) -> None:
    """Their indices are the same modulo the slots of the table; each runs its own all the same."""
    row.router.ip(
        "link add name a index 1001 type veth peer name b index 1002",
        "link add name c index 1065 type veth peer name d index 1129",
    )
    wanted = {name: fastpath.acceleration(name) for name in "abcd"}
    fastpath.become(*wanted.values())
    assert fastpath.found().running == {found.port: found.build for found in wanted.values()}
    hooked = a, b, c, d = [hooked_program(fastpath.pins, fastpath.port(name)) for name in "abcd"]
    assert a == b
    assert len({a, c, d}) == 3
    a, b, c, d = (running_program(fastpath.pins, fastpath.port(name)) for name in "abcd")
    assert a == b  # as they ask for the same
    assert len({a, c, d}) == 3  # where it would count in the same place
    fastpath.become(wanted["c"], wanted["d"])
    assert fastpath.found().running == {wanted[name].port: wanted[name].build for name in "cd"}
    fastpath.become(*wanted.values())  # the slot that was given back is free
    again = [hooked_program(fastpath.pins, fastpath.port(name)) for name in "abcd"]
    assert again == hooked
    fastpath.become()
    assert not fastpath.pins.directory.exists()


def test_interfaces_that_run_the_same_program_count_each_for_itself(
    fastpath: Fastpath, row: Row, connection: TcpClient
) -> None:
    fastpath.become(fastpath.acceleration(row.left), fastpath.acceleration(row.right))
    left, right = fastpath.port(row.left), fastpath.port(row.right)
    assert running_program(fastpath.pins, left) == running_program(fastpath.pins, right) > 0
    connection.send(SIZE)
    connection.receive(SIZE)
    before = forwarded(fastpath, row.left)
    fastpath.become(fastpath.acceleration(row.left))
    fastpath.become(fastpath.acceleration(row.left), fastpath.acceleration(row.right))
    assert forwarded(fastpath, row.left) >= before > SIZE * 0.9
    assert forwarded(fastpath, row.right) == 0  # it counts anew where it has been away


def test_an_interface_is_known_by_the_address_it_has_now(
    fastpath: Fastpath, row: Row, connection: TcpClient
) -> None:
    fastpath.become(fastpath.acceleration(row.left), fastpath.acceleration(row.right))
    exchange(connection)
    running = fastpath.found().running
    link, address = row.sender.links[0], "02:00:00:00:77:01"
    row.router.ip(f"link set dev {row.left} address {address}")
    for at in (link.address_of(row.router), link.address6_of(row.router)):
        row.sender.ip(f"neigh replace {at} lladdr {address} dev {link.interface_of(row.sender)}")
    before = forwarded(fastpath, row.left)
    exchange(connection)
    assert forwarded(fastpath, row.left) > before + SIZE * 0.9
    assert fastpath.found().running == running


def test_what_is_attached_can_be_lost_and_is_made_anew(fastpath: Fastpath, row: Row) -> None:
    left, right = fastpath.acceleration(row.left), fastpath.acceleration(row.right)
    fastpath.become(left, right)
    PinDirectory(fastpath.pins.entries).remove_tree()
    other = fastpath.acceleration(row.right, max_age=1)
    fastpath.become(left, other)  # what is attached is still that of before
    with Map.pinned(fastpath.pins.current(right.port)) as table:
        assert fastpath.found().running == {left.port: left.build, right.port: other.build}
        assert table.id in attached_maps(fastpath, row.right)
    fastpath.become(right)
    assert fastpath.found().running == {right.port: right.build}
    fastpath.become(left, right)
    assert fastpath.found().running == {left.port: left.build, right.port: right.build}
    fastpath.become()
    assert not fastpath.pins.directory.exists()


def test_nothing_is_left_when_it_is_taken_away(fastpath: Fastpath, row: Row, connection: TcpClient) -> None:
    fastpath.become(fastpath.acceleration(row.left), fastpath.acceleration(row.right))
    fastpath.become()
    assert fastpath.found().is_empty
    exchange(connection)
