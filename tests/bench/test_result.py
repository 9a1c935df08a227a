# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

import pliant
from pliant.bench import Measure, Result, Sample, machine
from pliant.bench.command import show_result
from pliant.bench.result import shown
from pliant.errors import PliantError


def result() -> Result:
    samples = [Sample("reach_ms", "ms", value) for value in (3.0, 1.5, 2.123456)]
    return Result.of("reach", 3, [*samples, Sample("calls", "calls", 0)])


def test_a_result_has_the_keys_that_readers_of_result_files_rely_on() -> None:
    document = result().to_document()
    assert {"bench", "commit", "kernel", "cpu", "runs", "results"} <= document.keys()
    assert document["bench"] == "reach"
    assert document["runs"] == 3
    assert [set(measure) for measure in document["results"]] == [
        {"metric", "unit", "median", "min", "max"}
    ] * 2


def test_each_metric_has_median_and_spread_without_digits_that_are_noise() -> None:
    assert result().results == (
        Measure("reach_ms", "ms", 2.1235, 1.5, 3),
        Measure("calls", "calls", 0, 0, 0),
    )


def test_a_metric_in_two_units_is_refused() -> None:
    with pytest.raises(PliantError, match="reach came in ms and in s"):
        Result.of("reach", 1, [Sample("reach", "ms", 1), Sample("reach", "s", 1)])


def test_save_writes_a_file_named_for_the_benchmark_that_reads_back_the_same(tmp_path: Path) -> None:
    path = result().save(tmp_path / "docs" / "results")
    assert path == tmp_path / "docs" / "results" / "reach.json"
    assert path.read_text().startswith('{\n  "bench": "reach"')
    assert Result.from_document(json.loads(path.read_text())).results == result().results


def test_a_file_with_keys_of_a_later_version_is_still_read() -> None:
    document = result().to_document() | {"machine": "another"}
    assert Result.from_document(document).bench == "reach"


def test_the_table_shows_every_metric_with_its_unit_and_where_it_was_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_result(result())
    title, heads, reach, calls, origin, *_ = capsys.readouterr().out.splitlines()
    assert title == "reach, 3 runs"
    assert heads.split() == ["METRIC", "MEDIAN", "MIN", "MAX", "UNIT"]
    assert reach.split() == ["reach_ms", "2.123", "1.5", "3", "ms"]
    assert calls.split() == ["calls", "0", "0", "0", "calls"]
    assert "commit" in origin
    assert machine.kernel() in origin


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12468.4, "12,468"), (0.94957, "0.9496"), (2.378, "2.378"), (460.24, "460.2")],
)
def test_values_are_shown_with_the_digits_that_mean_something(value: float, text: str) -> None:
    assert shown(value) == text


def test_the_commit_is_that_of_the_checkout_the_package_runs_from() -> None:
    root = Path(pliant.__file__).resolve().parents[2]
    if not (root / ".git").exists():
        assert machine.commit() == pliant.__version__
        return
    head = subprocess.run(
        ["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert head.stdout.startswith(machine.commit().removesuffix("-dirty"))


def test_an_installed_package_gives_its_version_even_inside_another_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.setattr(pliant, "__file__", str(tmp_path / "lib" / "pliant" / "__init__.py"))
    assert machine.commit() == pliant.__version__


def test_the_processor_is_named_and_counted() -> None:
    assert machine.cpu().split(", ")[-1].split()[0].isdigit()
