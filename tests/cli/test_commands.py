# SPDX-License-Identifier: Apache-2.0
"""What each command does when all is well, by what it prints and what it leaves behind."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pliant.cli.main import COMMANDS
from pliant.kernel.cgroup_query import attached
from pliant.kernel.links import AttachType

from .conftest import Pliant, policy


def test_apply_creates_configures_and_leaves_alone(pliant: Pliant) -> None:
    first = pliant("apply", "-f", pliant.write(policy("web"), policy("api", "api.service")))
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[:2] == ["policy/api created", "policy/web created"]
    changed = pliant.write(policy("web"), policy("api", "api.service", "initial_cwnd: 20"))
    assert pliant("apply", "-f", changed).stdout.splitlines()[:2] == [
        "policy/api configured",
        "policy/web unchanged",
    ]
    assert "nothing to do: generation 2" in pliant("apply", "-f", changed).stdout


def test_apply_reads_standard_input_and_directories(pliant: Pliant) -> None:
    assert pliant("apply", "-f", "-", stdin=policy("from-stdin")).returncode == 0
    (pliant.directory / "policies").mkdir()
    (pliant.directory / "policies" / "a.yaml").write_text(policy("from-directory", "api.service"))
    assert pliant("apply", "-f", "policies").returncode == 0
    assert pliant("get", "-o", "name").stdout.split() == ["policy/from-directory", "policy/from-stdin"]


def test_prune_takes_away_what_is_not_in_the_files(pliant: Pliant) -> None:
    pliant("apply", "-f", pliant.write(policy("old")))
    done = pliant("apply", "-f", pliant.write(policy("new", "api.service")), "--prune")
    assert "policy/old deleted" in done.stdout
    assert pliant("get", "-o", "name").stdout.split() == ["policy/new"]


def test_dry_run_prints_the_plan_and_changes_nothing(pliant: Pliant) -> None:
    done = pliant("apply", "-f", pliant.write(policy()), "--dry-run")
    assert done.returncode == 0
    assert "load the program scope" in done.stdout
    assert "it decides which policies a connection matches" in done.stdout
    assert not Path(pliant.environment["PLIANT_PINS"]).exists()
    assert not Path(pliant.environment["PLIANT_STATE"]).exists()


def test_dry_run_announces_exactly_what_apply_then_does(pliant: Pliant) -> None:
    name = pliant.write(policy(tune="initial_cwnd: 40, dscp: EF"))
    announced = pliant.json("apply", "-f", name, "--dry-run")["plan"]
    assert pliant.json("apply", "-f", name)["plan"] == announced
    taken = pliant.json("history", "1")["taken"]
    assert [(t["kind"], t["sentence"]) for t in taken] == [(s["kind"], s["sentence"]) for s in announced]


def test_diff_exits_by_what_it_finds(pliant: Pliant) -> None:
    name = pliant.write(policy())
    differs = pliant("diff", "-f", name)
    assert differs.returncode == 1
    assert "+    initial_cwnd: 40" in differs.stdout
    pliant("apply", "-f", name)
    same = pliant("diff", "-f", name)
    assert (same.returncode, same.stdout) == (0, "")
    assert pliant("diff", "-f", "missing.yaml").returncode == 2


def test_what_get_prints_can_be_applied_again(pliant: Pliant) -> None:
    pliant("apply", "-f", pliant.write(policy(tune="initial_cwnd: 40, pacing_rate: 200Mbit, dscp: AF41")))
    documents = [{k: v for k, v in p.items() if k != "status"} for p in pliant.json("get")]
    (pliant.directory / "again.yaml").write_text(yaml.safe_dump_all(documents))
    assert pliant("diff", "-f", "again.yaml").returncode == 0


@pytest.mark.parametrize("output", ["table", "json", "yaml", "name"])
@pytest.mark.parametrize("kind", ["policies", "services", "features"])
def test_get_prints_every_kind_in_every_way(pliant: Pliant, kind: str, output: str) -> None:
    pliant("apply", "-f", pliant.write(policy()))
    done = pliant("get", kind, "-o", output)
    assert done.returncode == 0, done.stderr
    assert {"policies": "web", "services": "web.service", "features": "initial_cwnd"}[kind] in done.stdout
    if output == "json":
        assert json.loads(done.stdout)
    if output == "yaml":
        assert yaml.safe_load(done.stdout)


def test_waiting_policy_is_kept_and_put_in_force_when_its_service_appears(pliant: Pliant) -> None:
    name = pliant.write(policy("later", "later.service"))
    assert "waiting for its service" in pliant("apply", "-f", name, "--allow-waiting").stdout
    assert pliant.json("get")[0]["status"]["state"] == "waiting"
    cgroup = pliant.cgroup.parent / "later.service"
    cgroup.mkdir()
    try:
        assert pliant("doctor").returncode == 1  # the kernel is not as the policies ask
        assert pliant("repair").returncode == 0
        assert pliant.json("get")[0]["status"]["state"] == "active"
        assert [p.name for p in attached(cgroup, AttachType.CGROUP_SOCK_OPS)] == ["scope"]
        assert pliant("doctor").returncode == 0
    finally:
        pliant("delete", "later")
        cgroup.rmdir()


def test_rollback_goes_to_the_generation_before_and_to_any(pliant: Pliant) -> None:
    pliant("apply", "-f", pliant.write(policy("one")))
    pliant("apply", "-f", pliant.write(policy("two", "api.service")), "--reason", "second")
    assert "policy/two deleted" in pliant("rollback").stdout
    assert pliant("get", "-o", "name").stdout.split() == ["policy/one"]
    assert pliant("rollback", "2").returncode == 0
    assert pliant("get", "-o", "name").stdout.split() == ["policy/one", "policy/two"]
    assert [g["verb"] for g in pliant.json("history")] == ["apply", "apply", "rollback", "rollback"]
    assert pliant("rollback", "0").returncode == 0
    assert not Path(pliant.environment["PLIANT_PINS"]).exists()
    assert attached(pliant.cgroup, AttachType.CGROUP_SOCK_OPS) == ()


def test_explain_names_winner_and_losers(pliant: Pliant) -> None:
    pliant("apply", "-f", pliant.write(policy("far"), policy("base", tune="dscp: EF", priority=5)))
    told = pliant.json("explain", "--connection", "10.0.0.1:443-10.2.0.9:5000", "--service", "web.service")
    assert [(p["policy"], p["reason"], p["sets"]) for p in told["policies"]] == [
        ("far", "wins", {"initial_cwnd": 40}),
        ("base", "wins", {"dscp": "EF"}),
    ]
    other = pliant("explain", "--connection", "10.0.0.1:443-10.3.0.9:5000", "--service", "web.service")
    assert "the peer is in none of its prefixes" in other.stdout
    assert "left to the kernel" in other.stdout


def test_schema_is_the_one_in_the_docs(pliant: Pliant) -> None:
    docs = Path(__file__).parents[2] / "docs" / "reference" / "policy.schema.json"
    assert json.loads(pliant("schema").stdout) == json.loads(docs.read_text())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_printed(pliant: Pliant, shell: str) -> None:
    assert "_PLIANT_COMPLETE" in pliant("completion", shell).stdout


def test_completion_offers_commands_and_policy_names(pliant: Pliant) -> None:
    pliant("apply", "-f", pliant.write(policy("cross-region")))
    for words, at, expected in (("pliant ro", 1, "rollback"), ("pliant describe cro", 2, "cross-region")):
        pliant.environment.update(_PLIANT_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(at))
        offered = pliant().stdout
        for name in ("_PLIANT_COMPLETE", "COMP_WORDS", "COMP_CWORD"):
            del pliant.environment[name]
        assert f"plain,{expected}" in offered


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(pliant: Pliant, name: str) -> None:
    done = pliant(name, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: pliant" in done.stdout


def test_closed_pipe_is_no_traceback(pliant: Pliant) -> None:
    command = f"{sys.executable} -m pliant get features | true"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=os.environ | pliant.environment
    )
    assert "Traceback" not in done.stderr


def test_second_change_waits_and_then_says_who_holds_the_host(pliant: Pliant) -> None:
    pliant("apply", "-f", pliant.write(policy()))
    lock = Path(pliant.environment["PLIANT_STATE"]) / "lock"
    with lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("4711\n")
        held.flush()
        done = pliant("--timeout", "0.2", "delete", "web")
    assert done.returncode == 2
    assert "another pliant (process 4711" in done.stderr
