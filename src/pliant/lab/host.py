# SPDX-License-Identifier: Apache-2.0
"""A lab host: an anonymous network namespace, a control group subtree, and the processes run in them."""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pliant.errors import PliantError
from pliant.lab import cgroup, holder, syscalls

if TYPE_CHECKING:
    from pliant.lab.link import Link

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Set in every host. Cached metrics would make a connection depend on the ones before it; the rest keeps
# packets nobody asked for off the links, and lets sockets bind to any address of an added prefix.
SYSCTLS = {
    "net.ipv4.tcp_no_metrics_save": "1",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv6.conf.all.accept_dad": "0",
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.default.router_solicitations": "0",
    "net.ipv6.ip_nonlocal_bind": "1",
}

# Debian packages of the programs the lab itself starts, where the name differs.
PACKAGES = {"ip": "iproute2", "tc": "iproute2", "ss": "iproute2", "nginx": "nginx-light"}

# The process moves itself into the control group and only then becomes the program (exec keeps the pid),
# so every socket the program makes belongs to that group.
_ENTER_GROUP = 'echo 0 > "$0/cgroup.procs" && exec "$@"'


class Process:
    """A process running in a lab host; ends with the lab at the latest."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.popen = popen
        self.log = log

    @property
    def pid(self) -> int:
        """The process id."""
        return self.popen.pid

    @property
    def output(self) -> str:
        """What the process has written so far to the outputs that were not redirected."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def poll(self) -> int | None:
        """Return the exit status, or None while it is running."""
        return self.popen.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end and return the exit status; raises subprocess.TimeoutExpired."""
        return self.popen.wait(timeout_s)

    def stop(self, grace_s: float = 2.0) -> int:
        """Terminate the process, kill it if it does not listen, and return the exit status."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        status = self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        return status


class Host:
    """One host of a lab. Made by ``Lab.host``; use it until the lab ends.

    ``pid`` is the process that holds the namespace, ``cgroup`` the host's control group, ``directory`` a
    temporary directory that is removed with the host.
    """

    def __init__(self, name: str, cgroup_path: Path, directory: Path) -> None:
        self.name = name
        self.cgroup = cgroup_path
        self.directory = directory
        self.links: list[Link] = []
        self.prefixes: list[Network] = []
        self._processes: list[Process] = []
        self.cgroup.mkdir(parents=True)
        self.directory.mkdir(parents=True)
        self._holder = self._start_holder()
        self.pid = self._holder.pid
        try:
            self._configure()
        except BaseException:
            self.close()
            raise

    def _start_holder(self) -> subprocess.Popen[bytes]:
        owner = os.pidfd_open(os.getpid())
        argv = [
            sys.executable,
            "-I",
            "-S",
            holder.__file__,
            str(owner),
            str(self.cgroup),
            str(self.directory),
        ]
        try:
            with syscalls.thread_network_restored():
                syscalls.unshare(syscalls.CLONE_NEWNET)
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    pass_fds=[owner],
                    start_new_session=True,
                )
        except PermissionError as error:
            raise PliantError(
                "a lab needs root to make network namespaces", remedy="run it with sudo"
            ) from error
        finally:
            os.close(owner)
        assert process.stdout is not None
        with process.stdout as ready:
            if not ready.readline():
                raise PliantError(f"the process for lab host {self.name} did not start")
        return process

    def _configure(self) -> None:
        for name, value in SYSCTLS.items():
            with suppress(FileNotFoundError):  # a kernel without IPv6
                self.sysctl(name, value)
        self.ip("link set lo up")

    # Namespace

    @property
    def netns_path(self) -> Path:
        """The path of the network namespace, for setns(2) and nsenter(1)."""
        return Path(f"/proc/{self.pid}/ns/net")

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Put the calling thread into the host's network namespace for the block.

        Sockets made there stay there. They belong to the caller's control group, not the host's.
        """
        namespace = os.open(self.netns_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with syscalls.thread_network_restored():
                syscalls.setns(namespace, syscalls.CLONE_NEWNET)
                yield
        finally:
            os.close(namespace)

    def sysctl(self, name: str, value: str | None = None) -> str:
        """Read a sysctl of this host, after setting it when a value is given.

        Write the name with slashes when a part of it has dots, as sysctl(8) does.
        """
        path = Path("/proc/sys", name if "/" in name else name.replace(".", "/"))
        with self.inside():
            if value is not None:
                path.write_text(value)
            return path.read_text().strip()

    def counters(self) -> dict[str, int]:
        """Return the host's protocol counters by name: "TcpRetransSegs", "TcpExtTCPTimeouts", ..."""
        counters = {}
        for name in ("snmp", "netstat"):
            lines = Path(f"/proc/{self.pid}/net/{name}").read_text().splitlines()
            for names, values in zip(lines[::2], lines[1::2], strict=True):
                prefix = names.split(":")[0]
                for key, value in zip(names.split()[1:], values.split()[1:], strict=True):
                    counters[prefix + key] = int(value)
        return counters

    # Addresses

    @property
    def address(self) -> str:
        """The IPv4 address on the host's first link."""
        return self._first_link().address_of(self)

    @property
    def address6(self) -> str:
        """The IPv6 address on the host's first link."""
        return self._first_link().address6_of(self)

    def _first_link(self) -> Link:
        if not self.links:
            raise PliantError(f"lab host {self.name} has no link yet", remedy="link it first: lab.link(a, b)")
        return self.links[0]

    def add_address(self, *addresses: str) -> None:
        """Give the host further addresses ("10.2.3.4/32", "fd00:2::4/128") on its loopback interface.

        Linked hosts get a route to each one's network. Takes thousands at once.
        """
        interfaces = [ipaddress.ip_interface(address) for address in addresses]
        self.ip(*(f"address add {i} dev lo{' nodad' if i.version == 6 else ''}" for i in interfaces))
        self._publish(i.network for i in interfaces)

    def add_prefix(self, *prefixes: str) -> None:
        """Make every address of the prefixes ("10.2.0.0/16") the host's own, by one local route each.

        Sockets can bind to and answer on any of them. Linked hosts get a route to each prefix.
        """
        networks = [ipaddress.ip_network(prefix) for prefix in prefixes]
        self.ip(*(f"route add local {network} dev lo" for network in networks))
        self._publish(networks)

    def _publish(self, networks: Iterable[Network]) -> None:
        added = list(networks)
        self.prefixes += added
        for link in self.links:
            link.route_to(self, added)

    def add_route(self, prefix: str, via: str) -> None:
        """Route a prefix through a neighbour's address."""
        self.ip(f"route replace {prefix} via {via}")

    def ip(self, *commands: str) -> None:
        """Run ip(8) commands in this host, all in one process; raises PliantError with ip's words."""
        if not commands:
            return
        done = self._run_plain(["ip", "-batch", "-"], "\n".join(commands))
        if done.returncode != 0:
            raise PliantError(f"ip refused a command on lab host {self.name}: {done.stderr.strip()}")

    def tc(self, *commands: str) -> None:
        """Run tc(8) commands in this host; raises PliantError with tc's words."""
        done = self._run_plain(["tc", "-batch", "-"], "\n".join(commands))
        if done.returncode != 0:
            raise PliantError(f"tc refused a command on lab host {self.name}: {done.stderr.strip()}")

    def _run_plain(self, argv: list[str], given: str) -> subprocess.CompletedProcess[str]:
        with self._starting(argv[0]):
            process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        with process:
            output, errors = process.communicate(given + "\n")
        return subprocess.CompletedProcess(argv, process.returncode, output, errors)

    # Processes

    def service(self, name: str) -> Path:
        """Return the control group of a service ("nginx.service"), making it if needed."""
        path = self.cgroup / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def run(
        self,
        argv: Sequence[str],
        *,
        service: str | None = None,
        check: bool = True,
        given: str | None = None,
        timeout_s: float | None = 60,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end in this host and return its status and output.

        ``given`` is its standard input. Raises PliantError when it fails and ``check`` is set, and
        subprocess.TimeoutExpired (the program is killed) when it takes too long.
        """
        with self._starting(argv[0]):
            process = subprocess.Popen(
                self._entering(argv, service),
                stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=env,
            )
        with process:
            try:
                output, errors = process.communicate(given, timeout=timeout_s)
            except BaseException:
                process.kill()
                raise
        if check and process.returncode != 0:
            raise PliantError(
                f"{argv[0]} ended with status {process.returncode} on lab host {self.name}: "
                f"{errors.strip() or output.strip()}"
            )
        return subprocess.CompletedProcess(list(argv), process.returncode, output, errors)

    def spawn(
        self,
        argv: Sequence[str],
        *,
        service: str | None = None,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Process:
        """Start a program in this host and let it run; it is stopped when the lab ends.

        Outputs that are not redirected go to a file, read by ``Process.output``.
        """
        log = self.directory / f"{len(self._processes)}-{Path(argv[0]).name}.log"
        with log.open("wb") as sink, self._starting(argv[0]):
            popen = subprocess.Popen(
                self._entering(argv, service),
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=sink if stdout is None else stdout,
                stderr=sink,
                env=env,
                pass_fds=pass_fds,
                start_new_session=True,  # Ctrl-C is the owner's; it stops the others in its own order
            )
        process = Process(popen, log)
        self._processes.append(process)
        return process

    def _entering(self, argv: Sequence[str], service: str | None) -> list[str]:
        group = self.cgroup if service is None else self.service(service)
        return ["/bin/sh", "-c", _ENTER_GROUP, str(group), *argv]

    @contextmanager
    def _starting(self, program: str) -> Iterator[None]:
        """Processes started in the block are born in the host's network."""
        if shutil.which(program) is None:
            package = PACKAGES.get(program, program)
            raise PliantError(f"{program} is not installed", remedy=f"install it: apt install {package}")
        with self.inside():
            yield

    def close(self) -> None:
        """Stop every process of the host and let its namespace, control groups and files go."""
        for process in reversed(self._processes):
            process.stop()
        self._processes.clear()
        assert self._holder.stdin is not None
        with suppress(BrokenPipeError), self._holder.stdin as control:
            control.write(b"stop\n")
        self._holder.wait()
        with suppress(FileNotFoundError):
            cgroup.remove(self.cgroup, kill=True)
