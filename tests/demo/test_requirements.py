# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import shutil

import pytest
from click.testing import CliRunner

from pliant.demo.command import demo
from pliant.errors import PliantError


def refusal() -> PliantError:
    result = CliRunner().invoke(demo, [])
    assert isinstance(result.exception, PliantError)
    assert result.exception.exit_status == 2
    return result.exception


def test_demo_says_that_it_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs root" in refusal().message


def test_demo_names_the_packages_of_missing_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: None if name in ("nginx", "curl") else f"/bin/{name}")
    error = refusal()
    assert error.message == "nginx and curl are not installed, which the demo needs"
    assert error.remedy == "apt install nginx-light curl"
