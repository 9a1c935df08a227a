# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import policy

if TYPE_CHECKING:
    from tests.cli.conftest import Pliant


def log(pliant: Pliant) -> Path:
    return Path(pliant.environment["PLIANT_STATE"]) / "audit.log"


def test_changes_are_shown_and_verified(pliant: Pliant) -> None:
    assert pliant("audit", "verify").returncode == 0
    assert pliant("audit", "head").returncode == 2
    file = pliant.write(policy())
    assert pliant("apply", "-f", file, "--reason", "long paths").returncode == 0
    head = pliant("audit", "head").stdout.strip()
    assert pliant("delete", "web").returncode == 0
    shown = pliant("audit", "show").stdout.splitlines()
    assert ["apply" in shown[1], "long paths" in shown[1], "web created" in shown[1]] == [True] * 3
    assert "web deleted" in shown[2]
    assert [r["event"] for r in pliant.json("audit", "show", "-n", "1")] == ["begin", "end"]
    assert len(pliant.json("audit", "show", "--since", "1h")) == 4
    assert pliant.json("audit", "show", "--since", "2999-01-01") == []
    found = pliant.json("audit", "verify")
    assert (found["sound"], found["records"]) == (True, 4)
    assert pliant("audit", "verify", "--head", head).returncode == 0
    assert pliant("audit", "verify", "--head", "0" * 63 + "1").returncode == 1


def test_a_changed_line_is_named_and_exits_with_1(pliant: Pliant) -> None:
    assert pliant("apply", "-f", pliant.write(policy())).returncode == 0
    text = log(pliant).read_text()
    log(pliant).write_text(text.replace('"web"', '"wev"', 1))
    done = pliant("audit", "verify")
    assert done.returncode == 1
    assert f"{log(pliant)}:1: altered" in done.stdout
    log(pliant).write_text("".join(text.splitlines(keepends=True)[:1]))
    done = pliant("audit", "verify")
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        1,
        "truncated: the log ends with record 1, the journal knows of 2",
    )
    log(pliant).write_text(text)
    assert pliant("audit", "verify").returncode == 0


def test_a_journal_that_cannot_be_read_is_an_error_unless_the_chain_is_broken_already(pliant: Pliant) -> None:
    assert pliant("apply", "-f", pliant.write(policy())).returncode == 0
    journal = log(pliant).parent / "journal.db"
    aside = journal.rename(journal.with_name("aside"))
    for end in ("-wal", "-shm"):
        journal.with_name(journal.name + end).unlink(missing_ok=True)
    journal.write_bytes(b"not a database " * 200)
    done = pliant("audit", "verify")
    assert done.returncode == 2
    assert "2 records that are there belong together" in done.stderr
    aside.rename(journal)
    assert pliant("audit", "verify").returncode == 0


def test_bad_times_are_told(pliant: Pliant) -> None:
    done = pliant("audit", "show", "--since", "yesterday")
    assert done.returncode == 2
    assert "'yesterday' is no time" in done.stderr


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(512))


def test_with_a_full_disk_nothing_is_changed_and_told_so(pliant: Pliant) -> None:
    state = log(pliant).parent
    assert pliant("apply", "-f", pliant.write(policy())).returncode == 0
    small = state.parent / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", small], check=True)
    pliant.environment["PLIANT_STATE"] = str(small)
    try:
        for file in state.iterdir():
            shutil.copy(file, small / file.name)
        before = pliant("history", "-o", "json").stdout
        with pytest.raises(OSError, match="No space"):
            fill(small / "filler")
        done = pliant("apply", "-f", pliant.write(policy(tune="initial_cwnd: 50")))
        assert done.returncode == 2
        assert done.stderr.startswith("error: "), done.stderr
        (small / "filler").unlink()
        assert pliant("history", "-o", "json").stdout == before
        assert pliant("audit", "verify").returncode == 0
        assert pliant("diff", "-f", pliant.write(policy())).returncode == 0
    finally:
        pliant.environment["PLIANT_STATE"] = str(state)
        subprocess.run(["umount", small], check=True)
