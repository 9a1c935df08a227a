# SPDX-License-Identifier: Apache-2.0
"""The off switch as people use it, also when nothing else works."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import policy

if TYPE_CHECKING:
    from tests.cli.conftest import Pliant


@pytest.fixture(autouse=True)
def on_again(pliant: Pliant) -> Iterator[None]:
    """What is left switched off would keep the fixture's host from being as it was found."""
    yield
    (state(pliant) / "off").unlink(missing_ok=True)


def state(pliant: Pliant) -> Path:
    return Path(pliant.environment["PLIANT_STATE"])


def pins(pliant: Pliant) -> list[Path]:
    return list(Path(pliant.environment["PLIANT_PINS"]).rglob("*"))


def states(pliant: Pliant) -> dict[str, str]:
    return {p["metadata"]["name"]: p["status"]["state"] for p in pliant.json("get")}


def two(pliant: Pliant) -> str:
    return pliant.write(policy(), policy("api", "api.service", "dscp: EF"))


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_off_takes_everything_away_and_on_brings_it_back(pliant: Pliant) -> None:
    ok(pliant("apply", "-f", two(pliant)))
    before = {path for path in pins(pliant) if "links" not in str(path)}
    assert before
    told = ok(pliant("off", "--reason", "packets on fire"))
    assert "policy/web off" in told
    assert "everything off" in told
    assert pins(pliant) == []
    assert states(pliant) == {"web": "off", "api": "off"}
    doctor = pliant("doctor").stdout
    assert "everything is off since" in doctor
    assert "because packets on fire" in doctor
    assert "State:" in ok(pliant("describe", "web"))
    assert "packets on fire" in ok(pliant("describe", "web"))
    again = ok(pliant("off", "--reason", "another"))
    assert "nothing to do" in again
    assert ok(pliant("repair")).startswith("policy/api unchanged, stays off")
    assert pins(pliant) == []
    told = ok(pliant("on"))
    assert "policy/web on" in told
    assert {path for path in pins(pliant) if "links" not in str(path)} == before
    assert states(pliant) == {"web": "active", "api": "active"}
    assert [g["verb"] for g in pliant.json("history")] == ["apply", "off", "on"]
    shown = pliant.json("audit", "show")
    assert [r["switched"] for r in shown if r["event"] == "begin"][1:] == [
        [{"what": "everything", "result": "off"}],
        [{"what": "everything", "result": "on"}],
    ]


def test_a_policy_that_is_off_takes_changes_and_stays_off_until_told(pliant: Pliant) -> None:
    ok(pliant("apply", "-f", two(pliant)))
    ok(pliant("off", "--policy", "web", "--reason", "too fast"))
    assert states(pliant) == {"web": "off", "api": "active"}
    changed = pliant.write(policy(tune="initial_cwnd: 20"))
    told = ok(pliant("apply", "-f", changed))
    assert "policy/web configured, stays off: since" in told
    assert "because too fast" in told
    assert states(pliant) == {"web": "off", "api": "active"}
    ok(pliant("rollback", "1"))
    assert states(pliant) == {"web": "off", "api": "active"}
    ok(pliant("delete", "web"))
    assert "there is no such policy now" in pliant("doctor").stdout
    told = ok(pliant("apply", "-f", changed))
    assert "policy/web created, stays off" in told
    told = ok(pliant("on", "--policy", "web"))
    assert "policy/web on" in told
    assert states(pliant) == {"web": "active", "api": "active"}
    ok(pliant("apply", "-f", changed))
    assert pliant.json("get", "policies", "web")[0]["spec"]["tune"] == {"initial_cwnd": 20}


def test_what_was_switched_off_by_name_stays_off_when_everything_comes_back(pliant: Pliant) -> None:
    ok(pliant("apply", "-f", two(pliant)))
    ok(pliant("off", "--policy", "web"))
    ok(pliant("off"))
    told = ok(pliant("on"))
    assert "policy/web unchanged, stays off" in told
    assert states(pliant) == {"web": "off", "api": "active"}
    ok(pliant("on", "--policy", "web"))


def test_a_service_that_is_off_and_all_below_it_get_no_policies(pliant: Pliant) -> None:
    below = pliant.cgroup / "worker"
    below.mkdir()
    try:
        everywhere = policy("all", "/", "initial_cwnd: 30", priority=1)
        ok(pliant("apply", "-f", pliant.write(everywhere, policy())))
        ok(pliant("off", "--service", "web.service"))
        got = {s["cgroup"]: s["policies"] for s in pliant.json("get", "services")}
        assert {path: names for path, names in got.items() if path != "/"} == {
            "/web.service": [],
            "/web.service/worker": [],
            "/api.service": ["all"],
        } | {path: ["all"] for path in got if path not in ("/", "/web.service", "/web.service/worker")}
        assert states(pliant) == {"all": "active", "web": "off"}
        ends = ("--connection", "10.1.0.1:443-10.2.0.9:5000", "--service")
        explained = pliant.json("explain", *ends, "/web.service/worker")["policies"]
        assert {p["policy"]: p["reason"] for p in explained} == {"all": "off", "web": "off"}
        assert pliant("diff", "-f", pliant.write(everywhere, policy())).returncode == 0
        assert "agree" not in pliant("doctor").stdout or "drift" not in pliant("doctor").stdout
        ok(pliant("on", "--service", "web.service"))
        assert states(pliant) == {"all": "active", "web": "active"}
    finally:
        below.rmdir()


def test_dry_run_of_off_and_on_change_nothing(pliant: Pliant) -> None:
    ok(pliant("apply", "-f", two(pliant)))
    before = pins(pliant)
    assert "detach" in ok(pliant("off", "--dry-run"))
    assert pins(pliant) == before
    ok(pliant("off"))
    assert "attach" in ok(pliant("on", "--dry-run"))
    assert pins(pliant) == []
    ok(pliant("on"))


def test_what_is_not_there_is_told_with_what_was_meant(pliant: Pliant) -> None:
    ok(pliant("apply", "-f", two(pliant)))
    done = pliant("off", "--policy", "wbe")
    assert (done.returncode, "did you mean 'web'?" in done.stderr) == (2, True)
    done = pliant("off", "--service", "web.servic")
    assert (done.returncode, "did you mean 'web.service'?" in done.stderr) == (2, True)
    done = pliant("on", "--policy", "web")
    assert (done.returncode, "policy/web is not off" in done.stderr) == (2, True)
    assert "nothing to do" in ok(pliant("on"))
    assert pliant("off", "--force", "--policy", "web").returncode == 2


# -- in an emergency


def break_document(pliant: Pliant) -> None:
    """A stored policy that this build cannot read."""
    with closing(sqlite3.connect(state(pliant) / "journal.db")) as db:
        db.execute("UPDATE policies SET document = '{\"kind\": \"Novel\"}' WHERE name = 'web'")
        db.commit()


def test_off_works_when_a_stored_policy_cannot_be_read(pliant: Pliant) -> None:
    ok(pliant("apply", "-f", two(pliant)))
    break_document(pliant)
    assert pliant("repair").returncode == 2
    ok(pliant("off"))
    assert pins(pliant) == []
    ok(pliant("delete", "web"))
    ok(pliant("on"))
    assert states(pliant) == {"api": "active"}


def test_off_works_on_just_the_policy_that_cannot_be_read(pliant: Pliant) -> None:
    ok(pliant("apply", "-f", two(pliant)))
    break_document(pliant)
    ok(pliant("off", "--policy", "web"))
    ok(pliant("delete", "web"))


def test_off_settles_a_killed_change_without_bringing_it_into_force(pliant: Pliant) -> None:
    ok(pliant("apply", "-f", two(pliant)))
    with closing(sqlite3.connect(state(pliant) / "journal.db")) as db:
        db.execute("UPDATE generations SET state = 'applying' WHERE number = 1")
        db.commit()
    break_document(pliant)
    ok(pliant("off"))
    assert pins(pliant) == []
    assert [g["state"] for g in pliant.json("history")] == ["applied", "applied"]


HOLD = """
import sys
from pathlib import Path
from pliant.agent.lock import host_lock
with host_lock(Path(sys.argv[1]), 1.0):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def hung(pliant: Pliant) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the host's lock and does nothing more, not even end when it is asked to."""
    command = [sys.executable, "-c", HOLD, str(state(pliant))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_with_a_hung_process_off_says_so_and_by_force_ends_it(pliant: Pliant) -> None:
    ok(pliant("apply", "-f", two(pliant)))
    with hung(pliant) as process:
        done = pliant("--timeout", "0.1", "off")
        assert done.returncode == 2
        assert f"process {process.pid}" in done.stderr
        assert "'pliant off --force'" in done.stderr
        assert pins(pliant) != []
        done = pliant("--timeout", "0.1", "off", "--force", "--reason", "hung")
        assert f"process {process.pid} held the host and was killed" in done.stderr
        ok(done)
        assert process.wait(10) == -signal.SIGKILL
    assert pins(pliant) == []
    assert states(pliant) == {"web": "off", "api": "off"}
    assert pliant("audit", "verify").returncode == 0
    ok(pliant("on"))
    assert states(pliant) == {"web": "active", "api": "active"}


@pytest.mark.parametrize("fault", ["damaged", "newer", "a directory"])
def test_without_a_usable_journal_off_by_force_works_and_stays(pliant: Pliant, fault: str) -> None:
    ok(pliant("apply", "-f", two(pliant)))
    journal = state(pliant) / "journal.db"
    if fault == "newer":
        with closing(sqlite3.connect(journal)) as db:
            db.execute("PRAGMA user_version = 99")
    for end in ("-wal", "-shm"):
        journal.with_name(journal.name + end).unlink(missing_ok=True)
    if fault == "damaged":
        journal.write_bytes(b"not a database " * 500)
    elif fault == "a directory":
        journal.unlink()
        journal.mkdir()
    done = pliant("off")
    assert done.returncode == 2
    assert "'pliant off --force'" in done.stderr
    assert pins(pliant) != []
    done = pliant("off", "--force", "--reason", "no journal")
    assert "everything is off, by force" in ok(done)
    assert "journal" in done.stderr
    assert pins(pliant) == []
    journal.rmdir() if fault == "a directory" else journal.unlink()
    ok(pliant("apply", "-f", two(pliant)))
    assert pins(pliant) == []
    assert states(pliant) == {"web": "off", "api": "off"}
    ok(pliant("on"))
    assert states(pliant) == {"web": "active", "api": "active"}
    assert not (state(pliant) / "off").exists()


def test_a_full_disk_keeps_nobody_from_switching_off_by_force(pliant: Pliant) -> None:
    ok(pliant("apply", "-f", two(pliant)))
    log = state(pliant) / "audit.log"
    aside = log.rename(state(pliant) / "aside")
    log.symlink_to("/dev/full")
    done = pliant("off")
    assert done.returncode == 2
    assert "no space left on device" in done.stderr
    assert pins(pliant) != []
    ok(pliant("off", "--force"))
    assert pins(pliant) == []
    log.unlink()
    aside.rename(log)
    assert states(pliant) == {"web": "off", "api": "off"}
    ok(pliant("on"))
