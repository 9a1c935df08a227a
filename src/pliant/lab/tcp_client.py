# SPDX-License-Identifier: Apache-2.0
"""The process behind TcpClient: opens connections and reports on them over its standard streams.

    python -m pliant.lab.tcp_client

It writes one JSON line when it is ready, and one for each JSON line it reads: {"command": "connect",
"address": ..., "port": ..., "count": 1, "source": null, "timeout_s": 10}, "send" and "receive" (with "size"),
"exchange" (with "size" and "times"), "report", "set", "disconnect". It ends at the end of its input.
"""

from __future__ import annotations

import json
import socket
import sys
from typing import Any

from pliant.lab.sockets import set_option_on, state_as_json

_CHUNK = 1 << 18


class Client:
    """Blocking connections, handled one after the other."""

    def __init__(self) -> None:
        self.connections: list[socket.socket] = []

    def connect(self, request: dict[str, Any]) -> None:
        """Open ``count`` connections."""
        source = None if request["source"] is None else (request["source"], 0)
        for _ in range(request["count"]):
            self.connections.append(
                socket.create_connection(
                    (request["address"], request["port"]), timeout=request["timeout_s"], source_address=source
                )
            )

    def send(self, request: dict[str, Any]) -> None:
        """Send ``size`` bytes on every connection."""
        data = bytes(min(request["size"], _CHUNK))
        for connection in self.connections:
            left = request["size"]
            while left:
                part = data[:left]
                connection.sendall(part)
                left -= len(part)

    def receive(self, request: dict[str, Any]) -> None:
        """Wait for ``size`` bytes on every connection."""
        for connection in self.connections:
            left = request["size"]
            while left:
                data = connection.recv(min(left, _CHUNK))
                if not data:
                    raise OSError(f"the connection ended {left} bytes early")
                left -= len(data)

    def exchange(self, request: dict[str, Any]) -> None:
        """Send and receive ``size`` bytes, ``times`` times."""
        for _ in range(request["times"]):
            self.send(request)
            self.receive(request)

    def disconnect(self) -> None:
        """Close every connection."""
        for connection in self.connections:
            connection.close()
        self.connections.clear()

    def answer(self, request: dict[str, Any]) -> Any:
        """Do one command."""
        match request["command"]:
            case "connect":
                self.connect(request)
            case "send":
                self.send(request)
            case "receive":
                self.receive(request)
            case "exchange":
                self.exchange(request)
            case "disconnect":
                self.disconnect()
            case "set":
                set_option_on(self.connections, request)
            case "report":
                return {"connections": [state_as_json(sock) for sock in self.connections]}
        return None


def main() -> None:
    """Answer commands until the input ends."""
    client = Client()
    print('{"ok": null}', flush=True)
    for line in sys.stdin:
        try:
            answer = {"ok": client.answer(json.loads(line))}
        except OSError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
