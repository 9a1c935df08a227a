# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pliant.errors import PliantError
from pliant.lab import Host, Lab, cgroup, ping

pytestmark = pytest.mark.root

Eventually = Callable[[Callable[[], bool]], None]

OWNER = """
import signal
from pliant.lab import Lab
with Lab("victim") as lab:
    one, other = lab.host("one"), lab.host("other")
    lab.link(one, other, delay="1ms")
    child = one.spawn(["sleep", "1000"], service="sleeper.service")
    print(lab.cgroup, lab.directory, one.pid, other.pid, child.pid, flush=True)
    signal.pause()
"""


class Owner:
    """A process that owns a lab with two hosts, a relay and a child."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        words = process.stdout.readline().split()
        assert len(words) == 5, process.communicate()
        self.group, self.directory = Path(words[0]), Path(words[1])
        self.pids = [int(word) for word in words[2:]]
        self.holders = self.pids[:2]
        self.everyone = [
            int(pid) for procs in self.group.rglob("cgroup.procs") for pid in procs.read_text().split()
        ]
        self.namespaces = [os.readlink(f"/proc/{pid}/ns/net") for pid in self.holders]

    def processes_are_gone(self) -> bool:
        alive = any(_runs(pid) for pid in (*self.pids, *self.everyone))
        return not alive and not self.namespaces_in_use()

    def namespaces_in_use(self) -> bool:
        return any(_namespace(entry) in self.namespaces for entry in Path("/proc").glob("[0-9]*"))

    def all_is_gone(self) -> bool:
        return self.processes_are_gone() and not self.group.exists() and not self.directory.exists()


def _runs(pid: int) -> bool:
    """A zombie does not run: it only waits for the system's first process to take note."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _namespace(entry: Path) -> str:
    try:
        return os.readlink(entry / "ns/net")
    except OSError:
        return ""


@contextmanager
def owner_process() -> Iterator[Owner]:
    argv = [sys.executable, "-c", OWNER]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Owner(process)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_nothing_is_left_when_the_owner_ends_by(number: signal.Signals, eventually: Eventually) -> None:
    with owner_process() as owner:
        assert owner.everyone
        assert owner.namespaces_in_use()
        owner.process.send_signal(number)
        owner.process.wait(10)
        eventually(owner.all_is_gone)


def test_next_lab_sweeps_what_a_crash_of_the_whole_lot_left(eventually: Eventually) -> None:
    with owner_process() as owner:
        for pid in owner.holders:
            os.kill(pid, signal.SIGKILL)
        owner.process.kill()
        owner.process.wait(10)
        with Lab("sweeper"):  # any other lab that starts meanwhile on this machine may have been first
            eventually(owner.all_is_gone)


def test_lab_of_a_living_owner_is_not_swept() -> None:
    with owner_process() as owner, Lab("sweeper"):
        assert owner.group.exists()
        assert owner.namespaces_in_use()


def test_lab_leaves_nothing_behind() -> None:
    with Lab("tidy") as lab:
        host = lab.host("one")
        lab.link(host, lab.host("other"), delay="1ms")
        process = host.spawn(["sleep", "1000"])
        group, directory, holder = lab.cgroup, lab.directory, host.pid
        assert Path(f"/proc/{process.pid}").exists()
    assert not group.exists()
    assert not directory.exists()
    assert not Path(f"/proc/{holder}").exists()
    assert not Path(f"/proc/{process.pid}").exists()


def test_exception_in_the_block_cleans_up() -> None:
    with pytest.raises(KeyboardInterrupt), Lab("interrupted") as lab:  # noqa: PT012 - the block is the claim
        lab.host("one").spawn(["sleep", "1000"])
        group = lab.cgroup
        raise KeyboardInterrupt
    assert not group.exists()


def test_child_that_daemonised_ends_with_the_lab(eventually: Eventually) -> None:
    with Lab("daemons") as lab:
        host = lab.host("one")
        host.run(
            ["sh", "-c", "setsid --fork sleep 1000 >/dev/null 2>&1"], service="daemon.service", timeout_s=10
        )
        procs = host.service("daemon.service") / "cgroup.procs"
        eventually(lambda: bool(procs.read_text()))
        pid = int(procs.read_text())
        assert _runs(pid)
    assert not _runs(pid)


def test_host_is_its_own_network(lab: Lab, server: Host, client: Host) -> None:
    names = {os.readlink(path) for path in (server.netns_path, client.netns_path, Path("/proc/self/ns/net"))}
    assert len(names) == 3
    with server.inside():
        assert os.readlink("/proc/thread-self/ns/net") == os.readlink(server.netns_path)
    assert os.readlink("/proc/thread-self/ns/net") == os.readlink("/proc/self/ns/net")
    assert ping(server, "127.0.0.1", count=1)
    assert ping(server, "::1", count=1)


def test_process_is_born_in_its_service(lab: Lab, server: Host) -> None:
    done = server.run(["cat", "/proc/self/cgroup"], service="system.slice/web.service")
    expected = server.service("system.slice/web.service").relative_to(cgroup.version2_root())
    assert f"0::/{expected}\n" in done.stdout


def test_counters_and_sysctls_are_the_hosts_own(lab: Lab, server: Host, client: Host) -> None:
    lab.link(server, client)
    ping(client, server.address, count=3)
    assert client.counters()["IcmpOutEchos"] == 3
    assert server.sysctl("net.ipv4.tcp_fin_timeout", "7") == "7"
    assert client.sysctl("net.ipv4.tcp_fin_timeout") != "7"


def test_failing_program_is_told_in_a_sentence(lab: Lab, server: Host) -> None:
    with pytest.raises(PliantError, match=r"ls ended with status 2 on lab host server: .*nowhere"):
        server.run(["ls", "/nowhere"])
    with pytest.raises(PliantError, match="no-such-program is not installed"):
        server.run(["no-such-program"])


def test_host_outlives_the_thread_that_made_it(lab: Lab) -> None:
    hosts: list[Host] = []
    thread = threading.Thread(target=lambda: hosts.append(lab.host("threaded")))
    thread.start()
    thread.join()
    assert hosts[0].run(["true"]).returncode == 0
