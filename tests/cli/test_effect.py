# SPDX-License-Identifier: Apache-2.0
"""What ``pliant effect`` prints and draws."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import numpy as np
import pytest

from pliant.agent.effects import PolicyEffect
from pliant.cli.effect import effect_data
from pliant.cli.effect_plot import WIDTH, draw_lines
from pliant.cli.effect_words import change, interval, summary, value
from pliant.features import catalogue
from pliant.lab.arms import Traffic, arm
from pliant.observe.effects import Effect
from pliant.observe.histogram import Histogram
from pliant.observe.lift import compare
from pliant.policy.documents import load_policies
from tests.cli.conftest import policy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Pliant

HELD_OUT = "  holdout: 20%\n"


@pytest.fixture(scope="module")
def one() -> PolicyEffect:
    """A policy that makes most connections quicker and some much slower."""
    random = np.random.default_rng(3)
    harm = Traffic(slowness=0.75, loss=0.012)
    effect = Effect(arm(random, 19_000, harm), arm(random, 1_000, Traffic()))
    [parsed] = load_policies(policy() + HELD_OUT, "web.yaml", catalogue())
    return PolicyEffect(parsed, effect, compare(effect))


def test_numbers_are_in_units_that_people_use() -> None:
    assert [value(number, "us") for number in (0, 820, 4_100, 128_400, 2_500_000)] == [
        "0 us", "820 us", "4.1 ms", "128 ms", "2.5 s"
    ]  # fmt: skip
    assert [value(number, "bytes/s") for number in (900, 227_000, 2.1e9)] == [
        "900 B/s",
        "227 KB/s",
        "2.1 GB/s",
    ]
    assert [value(number, "share") for number in (0.0, 0.00915, 1.0)] == ["0%", "0.915%", "100%"]
    assert value(None, "us") == "-"


def test_what_differs_is_said_in_one_line_with_the_harm_first(one: PolicyEffect) -> None:
    first, *others = one.comparisons
    assert change(first).startswith("-2")
    assert " to -" in interval(first)
    told = summary(others)
    assert told.startswith("worse: ")
    assert "retransmission ratio mean" in told
    better = told.partition("; better: ")[2]
    assert "goodput P50" in better
    assert summary(compare(Effect())) == ""


def test_the_drawing_has_a_line_for_each_comparison_and_points_beyond_its_axis(one: PolicyEffect) -> None:
    lines = [click.unstyle(line) for line in draw_lines(one.comparisons)]
    assert len(lines) == len(one.comparisons) + 2  # an axis for each scale
    first, last = lines[1], lines[-2]
    assert first.index("├") < first.index("●") < first.index("│") < first.index("better")
    assert last.index("│") < last.index("●") < last.index("worse")
    wide = Histogram.of([10] * 30 + [10_000] * 30)
    arms = Effect(*(type(one.effect.treated)(60, 0, (wide,) * 7) for _ in range(2)))
    assert any("►" in line for line in draw_lines(compare(arms)))
    assert all(len(line) < WIDTH + 80 for line in lines)


def test_no_difference_at_all_is_drawn_in_the_middle() -> None:
    lines = list(draw_lines(compare(Effect())))
    assert sum("│" in line for line in lines) == len(compare(Effect()))
    assert not any("●" in line for line in lines)


def test_data_has_all_that_is_needed_to_add_hosts_up(one: PolicyEffect) -> None:
    data = json.loads(json.dumps(effect_data(one)))
    held = data["arms"]["heldOut"]["histograms"]["completion_time"]
    assert held["count"] == sum(held["buckets"].values())
    first = data["comparisons"][0]
    assert first["effect"]["low"] < first["effect"]["estimate"] < first["effect"]["high"] < 0
    assert (first["verdict"], first["confidence"], first["scale"]) == ("better", 0.95, "relative")


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_picture_is_drawn_into_a_file(one: PolicyEffect, tmp_path: Path, suffix: str) -> None:
    from pliant.cli.effect_picture import save

    path = tmp_path / f"effect.{suffix}"
    save(path, one)
    start = path.read_bytes()[:200]
    assert b"<?xml" in start if suffix == "svg" else start.startswith(b"\x89PNG")


def test_a_picture_without_matplotlib_is_a_sentence(one: PolicyEffect, tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from pliant.cli.effect_picture import save\n"
        "from pliant.errors import PliantError\n"
        "try: save('x.svg', None)\n"
        "except PliantError as error: print(error.message, '|', error.remedy)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert "matplotlib, which is not installed | pip install" in done.stdout


def test_nothing_heavy_is_imported_to_print_the_table() -> None:
    script = (
        "import sys, pliant.cli.effect\n"
        "print({'numpy', 'matplotlib', 'yaml.dumper'} & sys.modules.keys() - {'yaml.dumper'})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.root
def test_effect_of_policies_in_force(pliant: Pliant) -> None:
    assert "no policy in force holds connections out" in pliant("effect").stderr
    assert (
        pliant("apply", "-f", pliant.write(policy() + HELD_OUT, policy("plain", "api.service"))).returncode
        == 0
    )
    try:
        assert "not enough data" in pliant("effect").stdout
        told = pliant("effect", "web")
        assert told.returncode == 0
        assert "0 treated, 0 held out (20%)" in told.stdout
        assert "completion time P99" in told.stdout
        assert "99.8% each" in told.stdout
        [data] = pliant.json("effect", "policy/web", "--confidence", "99%")
        assert data["comparisons"][0]["confidence"] == 0.99
        assert data["comparisons"][0]["verdict"] == "not enough data"
        assert "●" not in pliant("effect", "web", "--plot").stdout
        for arguments, sentence in (
            (("plain",), "'plain' holds no connections out"),
            (("wed",), "there is no policy 'wed'"),
            (("web", "--confidence", "5"), "--confidence: '5' has no percent sign"),
            (("web", "--confidence", "5%"), "'5%' is not from 50% to 99.99%"),
            (("--plot",), "--plot draws one policy"),
            (("web", "--plot", "x.txt"), "'x.txt' does not end in .svg"),
            (("web", "--plot", "/nowhere/x.svg"), "/nowhere/x.svg cannot be written"),
        ):
            done = pliant("effect", *arguments)
            assert done.returncode == 2, done.stdout
            assert sentence in done.stderr
            assert "remedy:" in done.stderr
    finally:
        pliant("delete", "web", "plain")
