# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "packaging/systemd/pliant.service"


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("unsupported: systemd-analyze is not installed")
    unit = tmp_path / "pliant.service"
    unit.write_text(UNIT.read_text().replace("/usr/bin/pliant", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert not [line for line in (done.stdout + done.stderr).splitlines() if "pliant" in line]


def test_the_unit_asks_for_what_the_agent_gives() -> None:
    settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))
    assert settings["Type"] == "notify"
    assert int(settings["WatchdogSec"]) >= 10
    assert settings["ExecReload"].startswith("/bin/kill -HUP")
    assert settings["StateDirectory"] == settings["RuntimeDirectory"] == "pliant"


def test_an_unknown_key_would_be_found(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("unsupported: systemd-analyze is not installed")
    unit = tmp_path / "pliant.service"
    unit.write_text("[Service]\nExecStart=/bin/true\nNoSuchKey=yes\n")
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert "NoSuchKey" in done.stdout + done.stderr
