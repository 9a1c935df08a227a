# SPDX-License-Identifier: Apache-2.0
"""The process behind TcpServer: accepts connections and reports on them over its standard streams.

    python -m pliant.lab.tcp_server --listen 0.0.0.0:8080 --mode echo

It writes one JSON line when it listens, and one for each JSON line it reads: {"command": "report"} or
{"command": "set", "level": ..., "name": ..., "value": ...}. It ends at the end of its input.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import sys
from typing import Any

from pliant.lab.sockets import set_option_on, state_as_json

_CHUNK = 1 << 18


class Server:
    """One thread, one selector: listeners, connections and the control stream."""

    def __init__(self, mode: str, send_bytes: int) -> None:
        self.mode = mode
        self.send_bytes = send_bytes
        self.selector = selectors.DefaultSelector()
        self.listeners: list[socket.socket] = []
        self.unsent: dict[socket.socket, bytearray] = {}  # every open connection, oldest first
        self.received = 0
        self.commands = b""

    def listen(self, endpoint: str) -> None:
        """Listen on "ADDRESS:PORT"; on "[::]:PORT" for both families."""
        address, _, port = endpoint.rpartition(":")
        family = socket.AF_INET6 if address.startswith("[") else socket.AF_INET
        listener = socket.create_server(
            (address.strip("[]"), int(port)),
            family=family,
            backlog=4096,
            dualstack_ipv6=address == "[::]",
        )
        listener.setblocking(False)
        self.listeners.append(listener)
        self.selector.register(listener, selectors.EVENT_READ, self.accept)

    def accept(self, listener: Any, _: int) -> None:
        """Take a new connection and, in mode send, begin."""
        connection, _ = listener.accept()
        connection.setblocking(False)
        self.unsent[connection] = bytearray(self.send_bytes if self.mode == "send" else 0)
        self.selector.register(connection, selectors.EVENT_READ, self.serve)
        self.flush(connection)

    def serve(self, connection: Any, events: int) -> None:
        """Read what came, send what is owed, and close when the client has."""
        try:
            if events & selectors.EVENT_READ:
                data = connection.recv(_CHUNK)
                self.received += len(data)
                if not data:
                    self.drop(connection)
                    return
                if self.mode == "echo":
                    self.unsent[connection] += data
            self.flush(connection)
        except OSError:
            self.drop(connection)

    def flush(self, connection: socket.socket) -> None:
        """Send what the socket takes, and ask to be called again for the rest."""
        unsent = self.unsent[connection]
        try:
            while unsent:
                del unsent[: connection.send(unsent[:_CHUNK])]
        except BlockingIOError:
            pass
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if unsent else 0)
        self.selector.modify(connection, events, self.serve)

    def drop(self, connection: socket.socket) -> None:
        """Forget a connection."""
        self.selector.unregister(connection)
        del self.unsent[connection]
        connection.close()

    def command(self, stream: Any, _: int) -> None:
        """Answer the commands that have come in; end at the end of input."""
        data = os.read(stream.fileno(), 65536)
        if not data:
            sys.exit(0)
        *lines, self.commands = (self.commands + data).split(b"\n")
        for line in lines:
            try:
                answer = {"ok": self.answer(json.loads(line))}
            except OSError as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), flush=True)

    def answer(self, request: dict[str, Any]) -> Any:
        """Do one command."""
        if request["command"] == "set":
            set_option_on(list(self.unsent), request)
            return None
        return {
            "listeners": [state_as_json(sock) for sock in self.listeners],
            "connections": [state_as_json(sock) for sock in self.unsent],
            "received": self.received,
        }

    def run(self) -> None:
        """Serve until the input ends."""
        self.selector.register(sys.stdin.buffer, selectors.EVENT_READ, self.command)
        print('{"ok": null}', flush=True)
        while True:
            for key, events in self.selector.select():
                if key.fileobj not in self.unsent and key.data == self.serve:
                    continue  # dropped earlier in this round
                key.data(key.fileobj, events)


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description="TCP server that reports its sockets")
    parser.add_argument("--listen", action="append", required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--mode", choices=("echo", "sink", "send"), default="echo")
    parser.add_argument("--bytes", type=int, default=0, help="how much mode send sends")
    arguments = parser.parse_args()
    server = Server(arguments.mode, arguments.bytes)
    try:
        for endpoint in arguments.listen:
            server.listen(endpoint)
    except OSError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        sys.exit(1)
    server.run()


if __name__ == "__main__":
    main()
