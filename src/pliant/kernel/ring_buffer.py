# SPDX-License-Identifier: Apache-2.0
"""Reading a BPF ring buffer (``BPF_MAP_TYPE_RINGBUF``, Linux 5.8) through memory shared with the kernel."""

from __future__ import annotations

import mmap
import struct

from pliant.closing import Closable
from pliant.kernel.errors import kernel_error
from pliant.kernel.maps import Map

_POSITION = struct.Struct("=Q")
_HEADER = struct.Struct("=II")  # the length with two flags, and a page offset of the kernel's
_BUSY, _DISCARDED = 1 << 31, 1 << 30


class RingBuffer(Closable):
    """The reading end of a ring buffer; its descriptor is readable when there is something."""

    def __init__(self, buffer: Map) -> None:
        page = mmap.PAGESIZE
        self._map, self._size = buffer, buffer.max_entries
        try:
            self._consumer = mmap.mmap(buffer.fileno(), page, mmap.MAP_SHARED)
            # The producer's position, then the data twice in a row, so that no record is in two pieces.
            self._producer = mmap.mmap(
                buffer.fileno(), page + 2 * self._size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
            )
        except OSError as error:
            raise kernel_error(error.errno or 0, f"map the ring buffer {buffer.name} into memory") from error

    def close(self) -> None:
        """Give the memory back."""
        self._consumer.close()
        self._producer.close()

    def fileno(self) -> int:
        """The descriptor, for select."""
        return self._map.fileno()

    def read(self, most: int = 4096) -> list[bytes]:
        """The records that are complete, in order, ``most`` at most; their room is free again afterwards."""
        found: list[bytes] = []
        (at,) = _POSITION.unpack_from(self._consumer)
        (end,) = _POSITION.unpack_from(self._producer)
        while at < end and len(found) < most:
            place = mmap.PAGESIZE + (at & (self._size - 1))
            length, _ = _HEADER.unpack_from(self._producer, place)
            if length & _BUSY:
                break
            size = length & ~(_BUSY | _DISCARDED)
            if not length & _DISCARDED:
                found.append(self._producer[place + _HEADER.size : place + _HEADER.size + size])
            at += (_HEADER.size + size + 7) & ~7
            _POSITION.pack_into(self._consumer, 0, at)
        return found
