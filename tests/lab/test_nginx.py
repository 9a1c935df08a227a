# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pliant.errors import PliantError
from pliant.lab import Host, Lab, Nginx, cgroup, fetch
from pliant.lab.nginx import content

pytestmark = pytest.mark.root


@pytest.fixture
def web_hosts(lab: Lab, server: Host, client: Host) -> tuple[Host, Host]:
    lab.link(server, client)
    return server, client


def test_right_bytes_are_served_on_every_listener(web_hosts: tuple[Host, Host]) -> None:
    server, client = web_hosts
    listen: list[int | str] = [80, "[::]:80", "[::]:81 ipv6only=off"]
    with Nginx(server, files={"10k": 10_000, "0": 0}, listen=listen) as web:
        urls = [
            web.url("10k"),
            web.url("10k", address=server.address6),
            web.url("10k", port=81),
            web.url("10k", address=server.address6, port=81),
            web.url("0"),
        ]
        assert [got.bytes for got in fetch(client, urls)] == [10_000] * 4 + [0]
        body = client.run(["curl", "-s", "--output", str(client.directory / "got"), web.url("10k")])
        assert body.returncode == 0
    assert (client.directory / "got").read_bytes() == content(10_000)


def test_sockets_belong_to_the_service(web_hosts: tuple[Host, Host]) -> None:
    server, client = web_hosts
    with Nginx(server, files={"1": 1}, service="front.service"):
        listed = server.run(["ss", "-tlnH", "--cgroup"]).stdout.splitlines()
    group = server.service("front.service").relative_to(cgroup.version2_root())
    assert listed
    assert all(f"cgroup:/{group}" in line for line in listed)
    del client


def test_nginx_is_gone_after_the_block(
    web_hosts: tuple[Host, Host], eventually: Callable[[Callable[[], bool]], None]
) -> None:
    server, _ = web_hosts
    pids: list[str] = []

    def are_started() -> bool:
        pids[:] = (server.service("nginx.service") / "cgroup.procs").read_text().split()
        return len(pids) == 3  # it listens before all its workers are there

    with Nginx(server, files={"1": 1}, workers=2):
        eventually(are_started)
    assert not any(Path("/proc", pid).exists() for pid in pids)


def test_every_request_makes_a_connection(web_hosts: tuple[Host, Host]) -> None:
    server, client = web_hosts
    with Nginx(server, files={"a": 1, "b": 2}) as web:
        got = fetch(client, [web.url("a"), web.url("b")], count=5)
        assert [one.bytes for one in got] == [1, 2] * 5
        assert len({one.local_port for one in got}) == 10
        together = fetch(client, [web.url("a"), web.url("b")], count=5, parallel=4)
        assert [one.bytes for one in together] == [1, 2] * 5
        assert len({one.local_port for one in together}) == 10


def test_rounds_count_from_the_handshake(lab: Lab, server: Host, client: Host) -> None:
    lab.link(server, client, delay="20ms", medium="relay")
    with Nginx(server, files={"small": 1000, "large": 40_000}) as web:
        got = fetch(client, [web.url("small"), web.url("large")], count=4)
    assert 0.04 <= min(one.connect_s for one in got) < 0.06
    assert 1 <= min(one.rounds(0.04) for one in got[0::2]) < 1.9
    assert (
        2 <= min(one.rounds(0.04) for one in got[1::2]) < 4
    )  # the initial window is 10 packets, 14 KB, and BBR paces the second


def test_fetch_comes_from_the_source_and_service(web_hosts: tuple[Host, Host]) -> None:
    server, client = web_hosts
    client.add_prefix("10.2.0.0/16")
    with Nginx(server, files={"1": 1}) as web:
        assert fetch(client, [web.url("1")], source="10.2.3.4", service="app.service")[0].bytes == 1


def test_failures_are_told_in_a_sentence(web_hosts: tuple[Host, Host]) -> None:
    server, client = web_hosts
    with Nginx(server, files={"1": 1}) as web:
        with pytest.raises(PliantError, match="answered with status 404"):
            fetch(client, [web.url("1"), web.url("absent")])
        with pytest.raises(PliantError, match=r"could not fetch .*:82/1: .*onnect"):
            fetch(client, [web.url("1", port=82)])
    with pytest.raises(PliantError, match=r"nginx ended at once.*invalid parameter"):
        Nginx(server, files={}, listen=["80 nonsense"]).__enter__()


def test_missing_nginx_names_the_package(
    web_hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = web_hosts
    found = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "nginx" else found(name))
    with pytest.raises(PliantError, match=r"nginx is not installed.*apt install nginx-light"):
        Nginx(server, files={}).__enter__()
