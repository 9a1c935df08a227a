# SPDX-License-Identifier: Apache-2.0
"""Fetching with a real client: curl, a new connection for every request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pliant.errors import PliantError
from pliant.lab.host import Host

_WRITE_OUT = "%{json}\\n"  # every variable of curl(1) --write-out, one JSON object a line; curl 7.75


@dataclass(frozen=True, slots=True)
class Fetch:
    """One request. Times are in seconds from its start; ``connect_s`` is when the handshake was done."""

    url: str
    bytes: int
    connect_s: float
    first_byte_s: float
    total_s: float
    local_port: int = 0

    def rounds(self, rtt_s: float) -> float:
        """Return the round trips from the end of the handshake to the last byte.

        One is the least there can be: the request goes out, the whole answer comes back.
        """
        return (self.total_s - self.connect_s) / rtt_s


def fetch(
    host: Host,
    urls: Sequence[str],
    *,
    count: int = 1,
    parallel: int = 1,
    service: str | None = None,
    source: str | None = None,
    timeout_s: float = 60,
) -> list[Fetch]:
    """Fetch every URL ``count`` times from a host, taking turns (a b a b ...), and return them in that order.

    Each request makes a new connection, from ``source`` if given, in the control group of ``service``;
    ``parallel`` are under way at once, by one curl process. ``timeout_s`` is for each request.
    Raises PliantError for the first one that failed.
    """
    wanted = [url for _ in range(count) for url in urls]
    if not wanted:
        return []
    argv = ["curl", "--disable", "--config", "-", "--write-out", _WRITE_OUT]
    if parallel > 1:
        argv += ["--parallel", "--parallel-immediate", "--parallel-max", str(parallel)]
    done = host.run(
        argv,
        service=service,
        check=False,
        given=_configuration(wanted, source, timeout_s),
        timeout_s=timeout_s * len(wanted) + 10,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for answer in answers:
        _check(answer, host)
    if len(answers) != len(wanted):
        fetched = f"{len(answers)} of {len(wanted)} files"
        raise PliantError(f"curl on lab host {host.name} fetched {fetched}: {done.stderr.strip()}")
    answers.sort(key=lambda answer: int(answer["urlnum"]))
    return [
        Fetch(
            url=answer["url"],
            bytes=answer["size_download"],
            connect_s=answer["time_connect"],
            first_byte_s=answer["time_starttransfer"],
            total_s=answer["time_total"],
            local_port=answer["local_port"],
        )
        for answer in answers
    ]


def _configuration(urls: Sequence[str], source: str | None, timeout_s: float) -> str:
    lines = ["silent", 'header = "Connection: close"', f"max-time = {timeout_s:g}", "noproxy = *"]
    if source is not None:
        lines.append(f'interface = "{source}"')
    for url in urls:
        lines += [f'url = "{url}"', 'output = "/dev/null"']
    return "\n".join(lines) + "\n"


def _check(answer: dict[str, object], host: Host) -> None:
    url, status = answer["url"], answer["http_code"]
    if answer["exitcode"]:
        raise PliantError(f"curl on lab host {host.name} could not fetch {url}: {answer['errormsg']}")
    if status != 200:
        raise PliantError(f"{url} was answered with status {status}, not 200")
