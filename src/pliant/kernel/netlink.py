# SPDX-License-Identifier: Apache-2.0
"""Raw netlink (netlink(7)): dumps, single questions, and listening to what changes.

pyroute2 does this and more; it takes 0.2 s to import and decodes every attribute of every message, which is too slow
between a change of the configuration and the program that follows it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno as codes
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pliant.closing import Closable
from pliant.kernel.errors import KernelError, NotSupported, kernel_error
from pliant.kernel.namespaces import entered

NETLINK_ROUTE, NETLINK_XFRM, NETLINK_NETFILTER = 0, 6, 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTERRUPTED, NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300

ERROR, DONE, _OVERRUN = 2, 3, 4  # NLMSG_*; 1 is for padding
_SOL_NETLINK = 270
_ADD_MEMBERSHIP, _EXTENDED_ERRORS, _STRICT_CHECK = 1, 11, 12
_SO_RCVBUFFORCE, _SO_ATTACH_FILTER = 33, 26
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_RECEIVE_BYTES = 1 << 18
_TIMEOUT_S = 10.0
_ATTEMPTS = 20
_MESSAGES_AT_ONCE = 2000

Attributes = dict[int, memoryview]


class Message(NamedTuple):
    """A netlink message: its type, and what follows the header."""

    kind: int
    body: memoryview


class Interrupted(Exception):
    """What was listed has changed meanwhile: the list may hold something twice, or lack something."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a monitor has heard; ``overrun``: the kernel had to drop messages, so that anything may have changed."""

    messages: tuple[Message, ...]
    overrun: bool = False


def attributes(data: memoryview, offset: int = 0) -> Attributes:
    """The attributes of a message after its fixed part of ``offset`` bytes, or those within an attribute."""
    found = {}
    at, end = offset, len(data)
    while at + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            break
        found[kind & _TYPE_MASK] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The attributes within an attribute in order, for lists whose elements have all the same type."""
    at, end = 0, len(data)
    while at + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            break
        yield kind & _TYPE_MASK, data[at + 4 : at + length]
        at += (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """Encode an attribute, padded."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def number(raw: memoryview | None) -> int:
    """A number in the host's order; 0 for an attribute that is not there."""
    return 0 if raw is None else int.from_bytes(raw, sys.byteorder)


def network_number(raw: memoryview | None) -> int:
    """A number in network order; 0 for an attribute that is not there."""
    return 0 if raw is None else int.from_bytes(raw, "big")


def text(raw: memoryview | None) -> str:
    """A string without its final NUL; empty for an attribute that is not there."""
    return "" if raw is None else bytes(raw).split(b"\0", 1)[0].decode(errors="replace")


class Netlink(Closable):
    """A socket that asks the kernel about one network namespace, the calling thread's when none is given.

    It stays in the namespace it was opened in, whichever thread uses it.
    """

    def __init__(self, protocol: int, netns: Path | int | None = None) -> None:
        self._socket = _open(protocol, netns)
        self._socket.settimeout(_TIMEOUT_S)
        with contextlib.suppress(OSError):  # Linux 4.20: without it, filters of a dump are silently left out
            self._socket.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def dump(self, kind: int, body: bytes, action: str) -> list[memoryview]:
        """List everything of a kind, again where it has changed meanwhile.

        ``action`` completes the sentence "cannot ...". Raises :class:`KernelError`, also when a list never holds
        still.
        """
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(Interrupted):
                return list(self.run_through(kind, body, action))
        raise KernelError(f"cannot {action}: it changes faster than it can be read", errno=codes.EAGAIN)

    def run_through(self, kind: int, body: bytes, action: str) -> Iterator[memoryview]:
        """List everything of a kind one by one; raises :class:`Interrupted` at the end of a list that changed.

        Whoever does not read it to the end can only close the socket.
        """
        changed = False
        for flags, message in self._answers(kind, body, NLM_F_DUMP, action):
            changed |= bool(flags & NLM_F_DUMP_INTERRUPTED)
            if message is not None:
                yield message
        if changed:
            raise Interrupted

    def raw_dump(self, kind: int, body: bytes, action: str) -> Iterator[bytes]:
        """List everything of a kind, as it is received: messages with their headers, the last an NLMSG_DONE or error.

        For lists that are too long for an object a message. Who has seen the end must not ask for more.
        """
        try:
            self._socket.send(
                _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body
            )
            while True:
                yield self._socket.recv(_RECEIVE_BYTES)
        except OSError as error:
            raise kernel_error(error.errno or 0, action) from error

    def ask(self, kind: int, body: bytes, action: str) -> memoryview:
        """Ask for one thing. Raises :class:`KernelError` with ``errno`` where the kernel says that there is none."""
        for _, message in self._answers(kind, body, 0, action):
            if message is not None:
                return message
        raise KernelError(f"cannot {action}: the kernel gave no answer")

    def tell(self, kind: int, body: bytes, action: str, flags: int = 0) -> None:
        """Have something done, and wait until it is. Raises :class:`KernelError` where the kernel refuses."""
        for _ in self._answers(kind, body, NLM_F_ACK | flags, action):
            pass

    def _answers(
        self, kind: int, body: bytes, flags: int, action: str
    ) -> Iterator[tuple[int, memoryview | None]]:
        """The flags and bodies of what comes; the end of a list comes without one."""
        try:
            self._socket.send(
                _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, 1, 0) + body
            )
            while True:
                data = memoryview(self._socket.recv(_RECEIVE_BYTES))
                while data:
                    length, answered, given, _, _ = _HEADER.unpack_from(data)
                    found = data[_HEADER.size : length]
                    data = data[(length + 3) & ~3 :]
                    if answered in (ERROR, DONE):
                        self._refuse(found, action)
                        yield given, None
                        return
                    yield given, found
                    if not flags & NLM_F_DUMP:
                        return
        except TimeoutError:
            raise KernelError(f"cannot {action}: the kernel did not answer in {_TIMEOUT_S:.0f} s") from None
        except OSError as error:
            raise kernel_error(error.errno or 0, action) from error

    def _refuse(self, body: memoryview, action: str) -> None:
        refused = -int.from_bytes(body[:4], sys.byteorder, signed=True) if len(body) >= 4 else 0
        if refused == codes.EINTR:  # how a dump of nftables says that the ruleset has changed
            raise Interrupted
        if refused:
            raise kernel_error(refused, action)


class Monitor(Closable):
    """A socket that hears of changes in one network namespace; its descriptor is readable when there are any."""

    def __init__(
        self,
        protocol: int,
        groups: Sequence[int],
        netns: Path | int | None = None,
        *,
        receive_bytes: int,
        chosen: Sequence[tuple[int, int, int, int]] = (),
    ) -> None:
        """Listen to multicast groups; ``chosen`` is a classic BPF program that keeps messages or drops them."""
        self._socket = _open(protocol, netns)
        try:
            self._socket.setblocking(False)
            self._socket.bind((0, 0))  # one without an address hears nothing
            self._set_buffer(receive_bytes)
            if chosen:
                self._attach(chosen)
            for group in groups:
                self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except OSError as error:
            self._socket.close()
            raise kernel_error(error.errno or 0, "listen to changes of the network configuration") from error

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor, for select."""
        return self._socket.fileno()

    def hear(self) -> Heard:
        """What has been heard since the last call, at most so much that others get their turn."""
        messages: list[Message] = []
        overrun = False
        while len(messages) < _MESSAGES_AT_ONCE:
            try:
                data = memoryview(self._socket.recv(_RECEIVE_BYTES))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != codes.ENOBUFS:
                    raise kernel_error(error.errno or 0, "listen to the kernel (netlink)") from error
                overrun = True
                continue
            while data:
                length, kind, *_ = _HEADER.unpack_from(data)
                overrun |= kind == _OVERRUN
                if kind > _OVERRUN:
                    messages.append(Message(kind, data[_HEADER.size : length]))
                data = data[(length + 3) & ~3 :]
        return Heard(tuple(messages), overrun)

    def _set_buffer(self, size: int) -> None:
        try:  # half of what is asked for, since the kernel doubles it for its own structures
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size // 2)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size // 2)

    def _attach(self, program: Sequence[tuple[int, int, int, int]]) -> None:
        code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
        described = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))  # struct sock_fprog
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


def _open(protocol: int, netns: Path | int | None) -> socket.socket:
    with contextlib.ExitStack() as stack:
        if netns is not None:
            stack.enter_context(entered(netns))
        try:
            made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            if error.errno == codes.EPROTONOSUPPORT:
                raise NotSupported("this kernel lacks that part of netlink", errno=error.errno) from error
            raise kernel_error(error.errno or 0, "talk to the kernel over netlink") from error
    with contextlib.suppress(OSError):
        made.setsockopt(_SOL_NETLINK, _EXTENDED_ERRORS, 1)
    return made


# Classic BPF. Loads are big-endian whatever the host is, and netlink's numbers are the host's.
_LOAD_HALF, _LOAD_ATTRIBUTE, _LOAD_X = 0x28, 0x20, 0x01
_LOAD_IMMEDIATE, _JUMP_EQUAL, _RETURN = 0x00, 0x15, 0x06
_ATTRIBUTE_LOOKUP = (
    0xFFFFF000 + 12
)  # SKF_AD_OFF + SKF_AD_NLATTR: where attribute X is, looking from offset A on
_TYPE_OFFSET = 4
_EVERYTHING = 0xFFFFFFFF


def keep_only(kinds: Iterable[int]) -> list[tuple[int, int, int, int]]:
    """A classic BPF program that keeps messages of some types and drops the others before they are queued."""
    wanted = list(kinds)
    tests = [(_JUMP_EQUAL, len(wanted) - i, 0, socket.htons(kind)) for i, kind in enumerate(wanted)]
    return [(_LOAD_HALF, 0, 0, _TYPE_OFFSET), *tests, (_RETURN, 0, 0, 0), (_RETURN, 0, 0, _EVERYTHING)]


def drop_without(
    kinds: Sequence[int], fixed_bytes: int, wanted: Sequence[int]
) -> list[tuple[int, int, int, int]]:
    """A classic BPF program that drops messages of some types unless they have one of the attributes wanted.

    ``fixed_bytes`` is the length of what precedes the attributes in messages of those types. Others are kept.
    """
    looking = []
    for i, kind in enumerate(wanted):
        looking += [
            (_LOAD_IMMEDIATE, 0, 0, _HEADER.size + fixed_bytes),
            (_LOAD_X, 0, 0, kind),
            (_LOAD_ATTRIBUTE, 0, 0, _ATTRIBUTE_LOOKUP),
            (_JUMP_EQUAL, 0, 4 * (len(wanted) - 1 - i) + 1, 0),
        ]
    tests = [(_JUMP_EQUAL, len(kinds) - i, 0, socket.htons(kind)) for i, kind in enumerate(kinds)]
    program = [(_LOAD_HALF, 0, 0, _TYPE_OFFSET), *tests, (_RETURN, 0, 0, _EVERYTHING), *looking]
    return [*program, (_RETURN, 0, 0, 0), (_RETURN, 0, 0, _EVERYTHING)]
