# SPDX-License-Identifier: Apache-2.0
"""Hosts, links and workloads in network namespaces, for the demo, the tests and the benchmarks."""

from pliant.lab.fetch import Fetch, fetch
from pliant.lab.host import Host, Process
from pliant.lab.isolation import PrivateMounts, isolate
from pliant.lab.link import Link
from pliant.lab.medium import PathStatistics
from pliant.lab.network import Lab
from pliant.lab.nginx import Nginx
from pliant.lab.ping import ping
from pliant.lab.sockets import SocketState, TcpClient, TcpServer, inspect_socket

__all__ = [
    "Fetch",
    "Host",
    "Lab",
    "Link",
    "Nginx",
    "PathStatistics",
    "PrivateMounts",
    "Process",
    "SocketState",
    "TcpClient",
    "TcpServer",
    "fetch",
    "inspect_socket",
    "isolate",
    "ping",
]
