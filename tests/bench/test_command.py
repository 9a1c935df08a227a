# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest
from click.testing import CliRunner

import pliant.bench
from pliant.bench import Bench, Options, Sample, benches, run_bench
from pliant.bench.__main__ import main
from pliant.bench.command import bench
from pliant.errors import PliantError


def take_samples(options: Options) -> Iterator[Sample]:
    for number in range(options.runs):
        options.progress(f"run {number + 1}")
        yield Sample("steps", "steps", number)


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [
        Bench("one", "The first.", take_samples, runs=2, needs_root=False),
        Bench("two", "The second.", take_samples, runs=3, needs_root=False),
    ]
    found = MappingProxyType({b.name: b for b in given})
    monkeypatch.setattr(pliant.bench, "benches", lambda: found)


def test_every_module_that_defines_bench_is_found() -> None:
    assert {"apply", "connect", "startup"} <= benches().keys()
    for name, found in benches().items():
        assert found.name == name
        assert found.summary.endswith(".")


def test_list_names_each_benchmark_and_what_it_measures() -> None:
    listed = CliRunner().invoke(bench, ["--list"])
    assert listed.exit_code == 0
    for name, found in benches().items():
        assert any(line.startswith(name) and found.summary in line for line in listed.stdout.splitlines())


def test_list_is_there_as_json_too() -> None:
    listed = CliRunner().invoke(bench, ["--list", "-o", "json"])
    assert {entry["name"] for entry in json.loads(listed.stdout)} == set(benches())


@pytest.mark.usefixtures("two")
def test_json_is_alone_on_standard_output_and_progress_goes_to_standard_error() -> None:
    done = CliRunner().invoke(bench, ["one", "-o", "json"])
    assert json.loads(done.stdout)["results"][0]["metric"] == "steps"
    assert "one: run 2" in done.stderr


@pytest.mark.usefixtures("two")
def test_without_a_name_all_are_run_and_json_is_a_list() -> None:
    done = CliRunner().invoke(bench, ["-o", "json", "--runs", "1"])
    assert [(r["bench"], r["runs"]) for r in json.loads(done.stdout)] == [("one", 1), ("two", 1)]


@pytest.mark.usefixtures("two")
def test_a_table_is_what_people_get() -> None:
    done = CliRunner().invoke(bench, ["one"])
    assert "steps" in done.stdout
    assert "2 runs" in done.stdout


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(("arguments", "where"), [(["--save", "kept"], "kept"), (["--save"], "docs/results")])
def test_save_writes_to_the_directory_or_where_results_are_kept(
    arguments: list[str], where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(bench, ["two", *arguments])
    assert done.exit_code == 0
    assert json.loads((tmp_path / where / "two.json").read_text())["bench"] == "two"


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(PliantError, match="no benchmark 'speed'; choose one of agent, apply, attach"):
        run_bench("speed")
    done = run_module("speed")
    assert done.returncode == 2
    assert done.stdout == ""


def test_no_runs_are_refused() -> None:
    with pytest.raises(PliantError, match="0 runs"):
        Options(runs=0)


def test_without_root_one_sentence_says_so_and_the_status_is_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["pliant.bench", "connect"])
    with pytest.raises(SystemExit) as leaving:
        main()
    said = capsys.readouterr()
    assert leaving.value.code == 2
    assert (said.out, said.err) == (
        "",
        "error: the benchmark 'connect' needs root\nremedy: run it with sudo\n",
    )


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "pliant.bench", *arguments]
    return subprocess.run(argv, capture_output=True, text=True)
