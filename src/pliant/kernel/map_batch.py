# SPDX-License-Identifier: Apache-2.0
"""Map elements in batches (Linux 5.6; LPM tries 5.14): one system call for thousands of elements.

Functions return a negative number, or raise :class:`NotSupported`, where the kernel has no batches for a type
of map.
"""

from __future__ import annotations

import errno as codes
import struct
from collections.abc import Iterator, Sequence

from pliant.kernel.errors import ENOTSUPP, NotSupported, kernel_error
from pliant.kernel.syscall import address, attributes, try_bpf
from pliant.kernel.uapi import Command

CHUNK = 4096
"""Elements moved by one system call, at most."""
_BUFFER_BYTES = 8 << 20

_LAYOUT = "QQQQIIQQ"
_COUNT = 32
# A kernel without the command, or a type of map without it.
_ABSENT = frozenset({-codes.EINVAL, -codes.EOPNOTSUPP, -ENOTSUPP})


def _count(attr: bytearray) -> int:
    return int(struct.unpack_from("=I", attr, _COUNT)[0])


def update(fd: int, keys: Sequence[bytes], values: Sequence[bytes]) -> int:
    """Write elements; return how many were written before one was refused, or -1 without batches."""
    key_bytes, value_bytes = bytearray(b"".join(keys)), bytearray(b"".join(values))
    attr = attributes(_LAYOUT, 0, 0, address(key_bytes), address(value_bytes), len(keys), fd, 0, 0)
    return _done(try_bpf(Command.MAP_UPDATE_BATCH, attr), attr, len(keys))


def delete(fd: int, keys: Sequence[bytes]) -> int:
    """Delete elements; return how many were deleted before one was not there, or -1 without batches."""
    key_bytes = bytearray(b"".join(keys))
    attr = attributes(_LAYOUT, 0, 0, address(key_bytes), 0, len(keys), fd, 0, 0)
    return _done(try_bpf(Command.MAP_DELETE_BATCH, attr), attr, len(keys))


def _done(result: int, attr: bytearray, asked: int) -> int:
    if result >= 0:
        return asked
    done = _count(attr)
    # The kernel leaves the count as it was when it refuses the call itself, and sets it when an element
    # failed.
    if result in _ABSENT and done == asked:
        return -1
    return done if done < asked else 0


def lookup(fd: int, key_size: int, value_size: int, max_entries: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield all elements; :class:`NotSupported` before the first one where there are no batches."""
    chunk = max(1, min(CHUNK, max_entries, _BUFFER_BYTES // (key_size + value_size)))
    cursor, following = bytearray(), bytearray(max(key_size, 8))
    while True:
        keys, values = bytearray(chunk * key_size), bytearray(chunk * value_size)
        attr = attributes(
            _LAYOUT, address(cursor), address(following), address(keys), address(values), chunk, fd, 0, 0
        )
        result = try_bpf(Command.MAP_LOOKUP_BATCH, attr)
        if result == -codes.ENOSPC and chunk < 1 << 24:  # one bucket of a hash holds more than a chunk
            chunk *= 2
            continue
        if result == -codes.EINTR:
            continue
        if result in _ABSENT and not cursor:
            raise NotSupported("no batches for this type of map", errno=-result)
        if result < 0 and result != -codes.ENOENT:
            raise kernel_error(-result, "read a map in batches")
        yield from _elements(keys, values, _count(attr), key_size, value_size)
        if result == -codes.ENOENT:
            return
        cursor, following = following, bytearray(len(following))


def _elements(
    keys: bytearray, values: bytearray, count: int, key_size: int, value_size: int
) -> Iterator[tuple[bytes, bytes]]:
    key_bytes, value_bytes = bytes(keys), bytes(values)
    for index in range(count):
        key, value = index * key_size, index * value_size
        yield key_bytes[key : key + key_size], value_bytes[value : value + value_size]
