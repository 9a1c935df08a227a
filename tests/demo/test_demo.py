# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pliant.demo.shell import policy_text

FILES = ["10 KB", "30 KB", "100 KB", "300 KB", "1 MB"]
ROUNDS = 8


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def story(out: Path) -> str:
    if os.geteuid() != 0:
        pytest.skip("the demo needs root")
    argv = [sys.executable, "-m", "pliant", "demo", "--rounds", str(ROUNDS), "--out", str(out)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def result(story: str, out: Path) -> Any:
    return json.loads((out / "demo.json").read_text())


def rounds(result: Any, phase: int, file: str) -> float:
    return float(result["phases"][phase]["far"][file]["rounds"])


def test_every_size_was_fetched_by_both_clients_in_every_phase(result: Any) -> None:
    assert [phase["name"] for phase in result["phases"]] == ["before", "with the policy", "rolled back"]
    for phase in result["phases"]:
        assert list(phase["far"]) == list(phase["near"]) == FILES
    assert result["phases"][0]["far"]["1 MB"]["samples"] == ROUNDS


def test_100_kb_take_at_least_one_round_less_with_the_policy(result: Any) -> None:
    assert rounds(result, 0, "100 KB") - rounds(result, 1, "100 KB") >= 1


def test_rounds_are_back_after_the_rollback(result: Any) -> None:
    assert rounds(result, 2, "100 KB") - rounds(result, 1, "100 KB") >= 1


def test_the_far_clients_connections_were_treated_and_no_other(result: Any) -> None:
    assert result["treatedConnections"] == ROUNDS * len(FILES)


def test_a_few_samples_are_not_called_a_percentile(result: Any, story: str) -> None:
    assert result["phases"][0]["far"]["1 MB"]["tail"] == f"max of {ROUNDS}"
    assert "P99" not in story


def test_programs_came_and_went_and_the_one_that_was_there_stayed(result: Any) -> None:
    assert result["differences"] == []
    moments = {
        one["name"]: (one["before"], one["withPolicy"], one["rolledBack"]) for one in result["programs"]
    }
    assert moments.pop("somebody_elses") == (True, True, True)
    assert "scope" in moments
    assert "initial_cwnd" in moments
    assert set(moments.values()) == {(False, True, False)}


def test_commands_are_shown_as_a_person_types_them_with_their_output(story: str) -> None:
    assert "server# pliant apply -f long-path.yaml\npolicy/long-path created\n" in story
    assert "server# pliant rollback\npolicy/long-path deleted\n" in story


def test_far_connection_is_explained_as_matching_and_near_one_as_not(story: str) -> None:
    far, near = story.split("server# pliant explain")[1:3]
    assert "it matches" in far
    assert "the peer is in none of its prefixes" in near


def test_a_router_forwards_more_with_the_fast_path_and_is_as_before_without(result: Any, story: str) -> None:
    assert "router# pliant fastpath on --mode native\npolicy/fastpath created\n" in story
    assert "path:    fast, by route4" in story.split("router# pliant explain")[1]
    assert "router# pliant fastpath off\npolicy/fastpath deleted\n" in story
    found = result["forwarding"]
    assert found["acceleratedMpps"] > found["beforeMpps"] > 0
    assert found["acceleratedMpps"] > found["afterMpps"] > 0


def test_picture_and_numbers_are_saved_and_say_where_they_were_measured(result: Any, out: Path) -> None:
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in out.iterdir()) == ["demo.json", "demo.png"]
    assert result["machine"]["kernel"] == os.uname().release
    assert result["policy"]["document"] == policy_text()
    assert len(result["fetches"]["before"]["far"]["30 KB"]) == ROUNDS


def test_example_is_the_policy_of_the_demo() -> None:
    example = Path(__file__).parents[2] / "examples" / "long-path.yaml"
    assert example.read_text() == policy_text()
