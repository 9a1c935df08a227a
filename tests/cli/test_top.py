# SPDX-License-Identifier: Apache-2.0
"""``pliant top`` as a command: one look for scripts, and the screen in a terminal of its own."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pliant.lab import TcpClient, TcpServer

from .conftest import Pliant, policy


@pytest.fixture
def opened(pliant: Pliant) -> Iterator[None]:
    """Three connections of web.service, which a policy tunes."""
    pliant.host.add_address("10.2.0.1/32", "10.2.0.2/32")
    pliant("apply", "-f", pliant.write(policy(), policy("later", "later.service")), "--allow-waiting")
    with (
        TcpServer(pliant.host, ["10.2.0.1:80"], service="web.service"),
        TcpClient(pliant.host, service="api.service") as client,
    ):
        client.connect("10.2.0.1", 80, source="10.2.0.2", count=3)
        yield


def test_once_prints_one_look_for_programs(pliant: Pliant, opened: None) -> None:
    look = pliant.json("top", "--once")
    assert [(p["metadata"]["name"], p["status"]["state"]) for p in look["policies"]] == [
        ("later", "waiting"),
        ("web", "active"),
    ]
    assert [p["openConnections"] for p in look["policies"]] == [0, 3]
    assert [(s["service"], s["openConnections"]) for s in look["services"]] == [("web.service", 3)]
    assert {c["congestionWindow"] for c in look["connections"]} == {40}
    assert (look["generation"], look["driftSteps"], look["connectionsInAll"], look["caveats"]) == (
        1,
        0,
        3,
        [],
    )


def test_once_prints_tables_for_people(pliant: Pliant, opened: None) -> None:
    done = pliant("top", "--once", "--limit", "2")
    assert done.returncode == 0, done.stderr
    assert "generation 1  kernel as the journal says  2 policies  1 services  3 connections" in done.stdout
    for head in ("POLICY", "SERVICE", "CONNECTION"):
        assert any(line.startswith(head) for line in done.stdout.splitlines())
    assert "2 of 3 connections were read" in done.stderr
    assert "nothing is measured" in done.stderr


def test_once_does_not_need_what_draws_the_screen(pliant: Pliant, tmp_path: Path) -> None:
    (tmp_path / "textual.py").write_text("raise ModuleNotFoundError('no textual here', name='textual')")
    pliant.environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    assert pliant("top", "--once").returncode == 0
    with screen(pliant) as (process, output):
        assert process.wait(20) == 2
        shown = output()
    assert "the screen of top needs the Python package textual" in shown
    assert "pip install 'pliant[top]'" in shown


def test_without_a_terminal_it_is_refused_with_what_to_do(pliant: Pliant) -> None:
    done = pliant("top")
    assert done.returncode == 2
    assert "top needs a terminal" in done.stderr
    assert "--once" in done.stderr


def test_screen_shows_the_policies_and_ends_with_q(pliant: Pliant, opened: None) -> None:
    with screen(pliant) as (process, output):
        shown = ""
        deadline = time.monotonic() + 20
        while "web" not in shown or "Quit" not in shown:
            assert time.monotonic() < deadline, shown
            shown += output()
        os.write(process.master, b"q")
        while process.poll() is None:
            assert time.monotonic() < deadline
            shown += output()
        assert process.returncode == 0
    assert "\x1b[?1049h" in shown  # the terminal's other screen, and back from it
    assert "\x1b[?1049l" in shown


def test_terminated_screen_gives_the_terminal_back(pliant: Pliant) -> None:
    with screen(pliant) as (process, output):
        shown, deadline = "", time.monotonic() + 20
        while "Quit" not in shown:
            assert time.monotonic() < deadline, shown
            shown += output()
        process.terminate()
        while process.poll() is None:
            assert time.monotonic() < deadline
            shown += output()
        shown += output()
        assert process.returncode == 143
    assert "\x1b[?1049l" in shown


class Screen(subprocess.Popen[bytes]):
    """A process in a terminal of its own, of which ``master`` is our end."""

    master: int


@contextmanager
def screen(pliant: Pliant) -> Iterator[tuple[Screen, Callable[[], str]]]:
    master, slave = pty.openpty()
    process = Screen(
        [sys.executable, "-m", "pliant", "top", "--interval", "0.2"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=os.environ | pliant.environment | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "30"},
        start_new_session=True,
    )
    process.master = master
    os.close(slave)

    def output() -> str:
        """What has come since, waiting a moment for it."""
        if not select.select([master], [], [], 0.2)[0]:
            return ""
        with suppress(OSError):  # the other end is closed
            return os.read(master, 65536).decode(errors="replace")
        return ""

    try:
        yield process, output
    finally:
        process.kill()
        process.wait()
        os.close(master)
