# SPDX-License-Identifier: Apache-2.0
"""Namespaces: the calling thread's (``os.setns`` needs Python 3.12, so the C library is called), and others'."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pliant.kernel.errors import KernelError, NotSupported, kernel_error
from pliant.kernel.mounts import make_private
from pliant.kernel.syscall import libc

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"
_NAMED = Path("/run/netns")
_SO_NETNS_COOKIE = 71  # asm-generic/socket.h, Linux 5.14; Python does not name it


@contextlib.contextmanager
def entered(netns: Path | int) -> Iterator[None]:
    """Run a block in another network namespace, then return to the thread's own.

    ``netns`` is a file such as /run/netns/NAME or /proc/PID/ns/net, or an open descriptor of one. Only the
    calling thread moves: sockets, netlink, sysctls and BPF attachments made by it in the block belong to that
    namespace. Raises :class:`KernelError`.
    """
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(_opened(Path(_OWN)))
        target = netns if isinstance(netns, int) else stack.enter_context(_opened(netns))
        _set(target, f"enter the network namespace {netns}")
        try:
            yield
        finally:
            _set(own, "return to the thread's own network namespace")


@dataclass(frozen=True, slots=True)
class NetworkNamespace:
    """A network namespace: its number (``net:[NUMBER]`` in /proc), a file that names it, and a name for people.

    ``path`` is None for the calling thread's own.
    """

    number: int
    path: Path | None
    name: str


def namespace_number(netns: Path | int | None = None) -> int:
    """The number of a network namespace, the calling thread's when none is given. Raises :class:`KernelError`."""
    try:
        return os.stat(_OWN if netns is None else netns).st_ino
    except OSError as error:
        raise kernel_error(error.errno or 0, f"find the network namespace {netns or _OWN}") from error


def network_namespaces(pids: Iterable[int] | None = None) -> list[NetworkNamespace]:
    """The namespaces of processes, of all there are when none are given; the calling thread's comes first.

    Processes may end meanwhile, and a namespace without a process is not found.
    """
    own = os.stat(_OWN).st_ino
    names = _names()
    found = {own: NetworkNamespace(own, None, names.get(own, "this one"))}
    chosen = pids if pids is not None else (int(p) for p in os.listdir("/proc") if p.isdecimal())
    for pid in chosen:
        path = f"/proc/{pid}/ns/net"
        try:
            number = os.stat(path).st_ino
        except OSError:  # it has ended
            continue
        if number not in found:
            found[number] = NetworkNamespace(number, Path(path), names.get(number, f"of process {pid}"))
    return list(found.values())


def named_namespace(name: str) -> NetworkNamespace:
    """A namespace by its name in /run/netns (ip-netns(8)), or by its file. Raises :class:`KernelError`."""
    path = Path(name) if "/" in name else _NAMED / name
    try:
        return NetworkNamespace(path.stat().st_ino, path, name)
    except OSError as error:
        raise kernel_error(error.errno or 0, f"find the network namespace {path}") from error


def _names() -> dict[int, str]:
    try:
        return {path.stat().st_ino: path.name for path in _NAMED.iterdir()}
    except OSError:
        return {}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise kernel_error(error.errno or 0, f"open the network namespace {path}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _set(fd: int, action: str) -> None:
    if libc().setns(fd, CLONE_NEWNET) != 0:
        raise kernel_error(ctypes.get_errno(), action)


def private_network() -> None:
    """Move the calling thread to a new network namespace, with nothing but a loopback that is down."""
    if libc().unshare(CLONE_NEWNET) != 0:
        raise kernel_error(ctypes.get_errno(), "make a network namespace")


def private_mounts() -> None:
    """Move the calling thread to a mount namespace of its own, whose mounts end with it and show nowhere else.

    Threads and processes it starts afterwards share it. There is no way back.
    """
    if libc().unshare(CLONE_NEWNS) != 0:
        raise kernel_error(ctypes.get_errno(), "make a mount namespace")
    make_private()


def network_cookie() -> int:
    """The cookie of the calling thread's network namespace: no other of this boot has, had or will have the same.

    Raises :class:`NotSupported` before Linux 5.14.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError as error:
            raise NotSupported(
                "this kernel cannot tell network namespaces apart: it wants Linux 5.14"
            ) from error


class Namespaces:
    """The network namespaces of the host by their cookies.

    ``own`` is the cookie of the thread's that made this. One that no process is in, and that has no name in /run/netns,
    is not found.
    """

    def __init__(self) -> None:
        self.own = network_cookie()
        self._cookies = {os.stat(_OWN).st_ino: self.own}
        self._paths: dict[int, list[Path]] = {}

    @contextlib.contextmanager
    def entered(self, cookie: int) -> Iterator[bool]:
        """Run a block in a namespace; False, and nothing is entered, when there is none of this cookie."""
        with contextlib.ExitStack() as inside:
            yield cookie == self.own or self._enter(cookie, inside)

    def of_processes(self, pids: Iterable[int]) -> frozenset[int]:
        """The cookies of the namespaces that processes are in; those that have ended meanwhile are left out."""
        paths = (Path(f"/proc/{pid}/ns/net") for pid in pids)
        return frozenset(cookie for path in paths if (cookie := self._cookie(path)) is not None)

    def _enter(self, cookie: int, inside: contextlib.ExitStack) -> bool:
        """Enter a namespace by a process that is in it. Processes end: when none is left that was, look for others."""
        for look in (False, True, True):
            if look:
                self._search()
            for path in self._paths.get(cookie, ()):
                with contextlib.suppress(KernelError), contextlib.ExitStack() as attempt:
                    attempt.enter_context(entered(path))
                    if network_cookie() == cookie:
                        inside.push(attempt.pop_all())
                        return True
        return False

    def _search(self) -> None:
        self._paths.clear()
        with contextlib.suppress(OSError):
            for path in _NAMED.iterdir():
                self._cookie(path)
        for name in os.listdir("/proc"):
            if name.isdecimal():
                self._cookie(Path(f"/proc/{name}/ns/net"))

    def _cookie(self, path: Path) -> int | None:
        try:
            number = path.stat().st_ino
            if number not in self._cookies:
                with entered(path):
                    self._cookies[number] = network_cookie()
        except (OSError, KernelError):
            return None
        cookie = self._cookies[number]
        if cookie != self.own:
            self._paths.setdefault(cookie, []).append(path)
        return cookie
