# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pliant.kernel.cgroup_query import AttachedProgram, Sharing, attached
from pliant.kernel.cgroups import cgroup_id
from pliant.kernel.clsact import attach_clsact
from pliant.kernel.congestion_controls import congestion_controls
from pliant.kernel.errors import KernelError, NotSupported
from pliant.kernel.links import (
    AttachType,
    Link,
    LinkType,
    XdpMode,
    all_links,
    attach_cgroup,
    attach_iterator,
    attach_struct_ops,
    attach_tcx,
    attach_xdp,
)
from pliant.kernel.namespaces import entered
from pliant.kernel.objects import LoadedObject, load
from pliant.kernel.programs import Program
from pliant.kernel.syscall import attributes, bpf
from pliant.kernel.uapi import Command

pytestmark = pytest.mark.root

SOCK_OPS = AttachType.CGROUP_SOCK_OPS
Compiled = Callable[[str], Path]


@pytest.fixture
def control(compiled: Compiled) -> Iterator[LoadedObject]:
    with load(compiled("control"), feature="control") as loaded:
        yield loaded


@contextlib.contextmanager
def attached_without_link(program: Program, cgroup: Path, flags: int) -> Iterator[None]:
    fd = os.open(cgroup, os.O_RDONLY)
    try:
        attr = attributes("IIII", fd, program.fileno(), SOCK_OPS, flags)
        bpf(Command.PROG_ATTACH, attr, "attach")
        yield
        bpf(Command.PROG_DETACH, attributes("III", fd, program.fileno(), SOCK_OPS), "detach")
    finally:
        os.close(fd)


def names(cgroup: Path, *, effective: bool = False) -> list[str]:
    return [program.name for program in attached(cgroup, SOCK_OPS, effective=effective)]


def test_a_cgroup_link_says_where_it_is(sample: LoadedObject, cgroup: Path) -> None:
    program = sample.programs["count_sockets"]
    with attach_cgroup(program, cgroup, SOCK_OPS) as link:
        info = link.info()
        assert (info.type, info.attach_type) == (LinkType.CGROUP, SOCK_OPS)
        assert info.cgroup_id == cgroup_id(cgroup)
        assert info.program_id == program.id
        assert info in all_links()
        assert attached(cgroup, SOCK_OPS) == (AttachedProgram(program.id, "count_sockets", Sharing.MULTI),)
    assert attached(cgroup, SOCK_OPS) == ()
    assert info not in all_links()


def test_an_attached_program_sees_the_sockets_of_its_cgroup(sample: LoadedObject, cgroup: Path) -> None:
    counters = sample.maps["counters"]

    def seen() -> int:
        value = counters.get(bytes(4)) or b""
        return sum(int.from_bytes(one, "little") for one in counters.percpu(value))

    client = (
        "import socket, sys; open(sys.argv[1], 'w').write('0'); "
        "socket.create_connection(('127.0.0.1', int(sys.argv[2]))).close()"
    )
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        attach_cgroup(sample.programs["count_sockets"], cgroup, SOCK_OPS),
    ):
        port = str(server.getsockname()[1])
        subprocess.run(["python3", "-c", client, str(cgroup / "cgroup.procs"), port], check=True)
    assert seen() > 0


def test_a_program_is_replaced_in_place(sample: LoadedObject, cgroup: Path) -> None:
    old, new = sample.programs["count_sockets"], sample.programs["ignore_sockets"]
    with attach_cgroup(old, cgroup, SOCK_OPS) as link:
        link.update(new)
        assert link.program_id == new.id
        assert names(cgroup) == ["ignore_sockets"]
        link.update(old, new)
        with pytest.raises(KernelError, match=rf"link {link.id} no longer holds program {new.id}") as caught:
            link.update(new, new)
        assert caught.value.errno == errno.EPERM
        assert link.program_id == old.id


def test_a_detached_link_stays_as_a_shell(sample: LoadedObject, cgroup: Path, bpffs: Path) -> None:
    with attach_cgroup(sample.programs["count_sockets"], cgroup, SOCK_OPS) as link:
        link.pin(bpffs / "link")
        link.detach()
        assert attached(cgroup, SOCK_OPS) == ()
        assert link.info().cgroup_id == 0


def test_a_pinned_link_outlives_its_descriptor_and_can_be_updated(
    sample: LoadedObject, cgroup: Path, bpffs: Path
) -> None:
    attach_cgroup(sample.programs["count_sockets"], cgroup, SOCK_OPS).pin(bpffs / "link")
    assert names(cgroup) == ["count_sockets"]
    with Link.pinned(bpffs / "link") as again:
        again.update(sample.programs["ignore_sockets"], sample.programs["count_sockets"])
    assert names(cgroup) == ["ignore_sockets"]
    (bpffs / "link").unlink()
    deadline = time.monotonic() + 10  # the kernel lets go of an unpinned object a moment later
    while names(cgroup) and time.monotonic() < deadline:
        os.sched_yield()
    assert names(cgroup) == []


def test_the_effective_list_has_the_programs_of_the_cgroups_above(sample: LoadedObject, cgroup: Path) -> None:
    child = cgroup / "child"
    child.mkdir()
    with (
        attach_cgroup(sample.programs["count_sockets"], cgroup, SOCK_OPS),
        attach_cgroup(sample.programs["ignore_sockets"], child, SOCK_OPS),
    ):
        assert names(child) == ["ignore_sockets"]
        assert names(child, effective=True)[:2] == ["ignore_sockets", "count_sockets"]
        assert attached(child, SOCK_OPS, effective=True)[0].sharing is None


def test_preorder_runs_before_the_cgroups_below(sample: LoadedObject, cgroup: Path) -> None:
    child = cgroup / "child"
    child.mkdir()
    with (
        attach_cgroup(sample.programs["ignore_sockets"], child, SOCK_OPS),
        attach_cgroup(sample.programs["count_sockets"], cgroup, SOCK_OPS, preorder=True),
    ):
        assert names(child, effective=True)[:2] == ["count_sockets", "ignore_sockets"]


def test_an_order_within_a_cgroup_can_be_asked_for(sample: LoadedObject, cgroup: Path) -> None:
    count, ignore = sample.programs["count_sockets"], sample.programs["ignore_sockets"]
    with (
        attach_cgroup(count, cgroup, SOCK_OPS) as first,
        attach_cgroup(ignore, cgroup, SOCK_OPS, before=first),
        attach_cgroup(ignore, cgroup, SOCK_OPS, after=first),
    ):
        assert names(cgroup) == ["ignore_sockets", "count_sockets", "ignore_sockets"]


@pytest.mark.parametrize(
    ("flags", "sharing"), [(0, Sharing.EXCLUSIVE), (1, Sharing.OVERRIDE), (2, Sharing.MULTI)]
)
def test_how_a_foreign_program_shares_its_hook_is_seen(
    sample: LoadedObject, cgroup: Path, flags: int, sharing: Sharing
) -> None:
    foreign = sample.programs["ignore_sockets"]
    with attached_without_link(foreign, cgroup, flags):
        assert attached(cgroup, SOCK_OPS) == (AttachedProgram(foreign.id, foreign.name, sharing),)


@pytest.mark.parametrize("below", ["", "child"])
def test_an_exclusive_foreign_program_is_named_and_left_alone(
    sample: LoadedObject, cgroup: Path, below: str
) -> None:
    (cgroup / "child").mkdir()
    foreign = sample.programs["ignore_sockets"]
    with attached_without_link(foreign, cgroup, 0):
        message = (
            rf"program ignore_sockets \(id {foreign.id}\) holds its hook sock_ops and shares it with no other"
        )
        with pytest.raises(KernelError, match=message):
            attach_cgroup(sample.programs["count_sockets"], cgroup / below, SOCK_OPS)
        assert names(cgroup) == ["ignore_sockets"]


def test_a_cgroup_that_is_gone_is_named(sample: LoadedObject, cgroup: Path) -> None:
    for action in (
        lambda: attach_cgroup(sample.programs["count_sockets"], cgroup / "gone", SOCK_OPS),
        lambda: attached(cgroup / "gone", SOCK_OPS),
    ):
        with pytest.raises(KernelError, match=r"/gone.*: No such file") as caught:
            action()
        assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("mode", list(XdpMode))
def test_an_xdp_link_on_a_veth(sample: LoadedObject, network: Any, mode: XdpMode) -> None:
    drop, by_constant = sample.programs["always_drop"], sample.programs["verdict_by_constant"]
    with entered(network.fd), attach_xdp(drop, network.ifindex, mode) as link:
        assert (link.info().ifindex, link.info().program_id) == (network.ifindex, drop.id)
        with pytest.raises(KernelError, match=rf"program {drop.id} \(link {link.id}\) holds it"):
            attach_xdp(by_constant, network.ifindex, mode)
        link.update(by_constant, drop)
        assert link.program_id == by_constant.id
        link.detach()
        attach_xdp(drop, network.ifindex, mode).close()


def test_links_that_are_only_being_attached_are_not_there_yet(sample: LoadedObject, network: Any) -> None:
    """That takes milliseconds, and all links of the host are looked at by several commands."""
    ended = threading.Event()

    def look() -> int:
        rounds = 0
        while not ended.is_set():
            all_links()
            rounds += 1
        return rounds

    with ThreadPoolExecutor() as pool:
        looking = pool.submit(look)
        try:
            with entered(network.fd):
                for _ in range(20):
                    with attach_xdp(sample.programs["always_drop"], network.ifindex, XdpMode.NATIVE) as link:
                        link.detach()  # whoever looks at it just now would keep it
        finally:
            ended.set()
        assert looking.result() > 20


def test_tcx_links_share_an_interface(sample: LoadedObject, network: Any) -> None:
    program = sample.programs["pass_ingress"]
    with entered(network.fd):
        first = attach_tcx(program, network.ifindex, "ingress")
        second = attach_tcx(program, network.ifindex, "egress")
        assert isinstance(first, Link)
        assert isinstance(second, Link)
        with first, second:
            assert first.info().attach_type is AttachType.TCX_INGRESS
            assert second.info().attach_type is AttachType.TCX_EGRESS
            assert first.info().ifindex == network.ifindex


def test_the_clsact_fall_back_attaches_updates_and_detaches(sample: LoadedObject, network: Any) -> None:
    program = sample.programs["pass_ingress"]

    def shown() -> str:
        command = ["tc", "filter", "show", "dev", "near", "ingress"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    with entered(network.fd):
        attachment = attach_clsact(program, network.ifindex, "ingress")
        assert f"id {program.id}" in shown()
        attachment.update(program)
        assert shown().count("direct-action") == 1
        attachment.detach()
        assert shown() == ""


def test_a_congestion_control_is_registered_updated_and_removed(
    control: LoadedObject, compiled: Compiled
) -> None:
    first = control.maps["test_reno"]
    with (
        attach_struct_ops(first) as link,
        load(compiled("control"), feature="control") as other,
        socket.socket() as connection,
    ):
        second = other.maps["test_reno"]
        assert "pliant_test" in congestion_controls()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"pliant_test")
        with pytest.raises(KernelError, match="the name that test_reno registers is in use"):
            attach_struct_ops(second)
        link.update(second, first)
        assert link.info().map_id == second.id
        with pytest.raises(KernelError, match=f"no longer holds map {first.id}"):
            link.update(first, first)
    assert "pliant_test" not in congestion_controls()


def test_a_registered_congestion_control_carries_traffic(control: LoadedObject) -> None:
    with (
        attach_struct_ops(control.maps["test_reno"]),
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket() as client,
    ):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"pliant_test")
        client.connect(server.getsockname())
        peer, _ = server.accept()
        with peer:
            client.sendall(bytes(50_000))
            assert len(peer.recv(50_000, socket.MSG_WAITALL)) == 50_000


def test_an_iterator_goes_through_the_sockets_of_the_threads_namespace(
    control: LoadedObject, network: Any
) -> None:
    with attach_iterator(control.programs["list_ports"]) as link, entered(network.fd):
        assert link.info().target_name == "tcp"
        with socket.create_server(("127.0.0.1", 4321)):
            assert link.read_iterator() == (4321).to_bytes(2, "little")
        assert link.read_iterator() == b""


def test_an_iterator_cannot_be_detached(control: LoadedObject) -> None:
    with attach_iterator(control.programs["list_ports"]) as link, pytest.raises(NotSupported):
        link.detach()
