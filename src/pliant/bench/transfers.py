# SPDX-License-Identifier: Apache-2.0
"""A process that makes transfers over TCP, each on a connection of its own, or answers them, and tells of each.

    python -m pliant.bench.transfers server PORT
    python -m pliant.bench.transfers client ADDRESS PORT

A client reads from its input one JSON object: ``short`` is a list of [start in seconds, bytes], ``long`` a list of
lists of [pause in seconds, bytes]. The transfers of one of these lists take turns: each begins when the one before has
ended and its pause is over. When the short ones have ended, it tells for each transfer that has, [kind, start, bytes,
seconds it took]; without short ones it goes on until it is stopped. A server runs until its input ends, then tells for
each connection [bytes, data segments sent, segments sent again]. Both answer in one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import time
from contextlib import suppress
from typing import Any

from pliant.kernel.tcp_info import TCP_INFO_BYTES, unpack_tcp_info

SIZE = struct.Struct("!Q")
CHUNK = bytes(1 << 16)
READ = 1 << 18


async def serve(port: int) -> list[list[int]]:
    """Send each connection as many bytes as it asks for; return what each cost once the input has ended."""
    told: list[list[int]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            (size,) = SIZE.unpack(await reader.readexactly(SIZE.size))
            for left in range(size, 0, -len(CHUNK)):
                writer.write(CHUNK[:left])
                await writer.drain()
            await reader.read()  # until the client has everything, and closes
            sock: socket.socket = writer.get_extra_info("socket")
            info = unpack_tcp_info(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES))
            told.append([size, info["data_segs_out"], info["total_retrans"]])
        writer.close()

    async with await asyncio.start_server(answer, "0.0.0.0", port, backlog=1024):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.buffer.read)
        await asyncio.sleep(0)
    return told


class Client:
    """Makes transfers from one server."""

    def __init__(self, address: str, port: int) -> None:
        self.address = address
        self.port = port
        self.told: list[list[Any]] = []

    async def run(self, work: dict[str, Any]) -> list[list[Any]]:
        """Do the work. Raises OSError when a short transfer fails."""
        self.begun = time.monotonic()
        long = [asyncio.create_task(self.long(turns)) for turns in work["long"]]
        short = [self.short(start, size) for start, size in work["short"]]
        await asyncio.gather(*(short or long))
        for task in long:
            task.cancel()
        await asyncio.gather(*long, return_exceptions=True)
        return self.told

    async def short(self, start: float, size: int) -> None:
        """One transfer at its time."""
        await asyncio.sleep(max(0.0, self.begun + start - time.monotonic()))
        await self.transfer("short", size)

    async def long(self, turns: list[tuple[float, int]]) -> None:
        """Transfers one after the other."""
        for pause, size in turns:
            await asyncio.sleep(pause)
            await self.transfer("long", size)

    async def transfer(self, kind: str, size: int) -> None:
        """Ask for so many bytes and wait for them."""
        start = time.monotonic()
        reader, writer = await asyncio.open_connection(self.address, self.port, limit=READ)
        try:
            writer.write(SIZE.pack(size))
            left = size
            while left:
                data = await reader.read(READ)
                if not data:
                    raise ConnectionError(f"{left} bytes are missing")
                left -= len(data)
            self.told.append([kind, start - self.begun, size, time.monotonic() - start])
        finally:
            writer.close()


def main() -> None:
    """Serve, or make the transfers, and tell."""
    role, *rest = sys.argv[1:]
    if role == "server":
        told: list[Any] = asyncio.run(serve(int(rest[0])))
    else:
        client = Client(rest[0], int(rest[1]))
        told = asyncio.run(client.run(json.load(sys.stdin)))
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
