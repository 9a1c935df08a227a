# SPDX-License-Identifier: Apache-2.0
"""Wrong input: one clear sentence, exit status 2, and nothing changed."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Pliant, policy

ROWS = [
    # says, what is in the file, what the message must hold
    ("yaml that is not", "apiVersion: [", ["policies-1.yaml:1", "not YAML"]),
    ("a list", "- 1\n- 2", ["policies-1.yaml:1", "not a policy"]),
    ("nothing", "", ["there is no policy"]),
    ("an unknown field", policy().replace("role:", "rolle:"), [":6:", "rolle", "did you mean 'role'"]),
    ("an unknown option", policy(tune="initial_cwmd: 40"), ["initial_cwmd", "initial_cwnd"]),
    ("a rate without unit", policy(tune="pacing_rate: 200"), ["spec.tune.pacing_rate", "200", "unit"]),
    ("a window of nothing", policy(tune="initial_cwnd: 0"), ["spec.tune.initial_cwnd"]),
    ("host bits in a prefix", policy().replace("10.2.0.0/16", "10.2.3.4/16"), ["peers", "10.2.0.0/16"]),
    ("a contradiction", policy("a") + "---" + policy("b"), ["'a'", "'b'", "initial_cwnd", "priority"]),
    ("the same name twice", policy() + "---" + policy(), ["web", "is taken by"]),
    (
        "a service that is not there",
        policy(service="wbe.service"),
        ["'wbe.service'", "did you mean 'web.service'"],
    ),
    ("an algorithm the kernel lacks", policy(tune="congestion_control: dctcp2"), ["dctcp2", "cubic"]),
    ("open connections", policy() + "  applyTo: live\n", ["applyTo", "new connections only"]),
]


@pytest.mark.parametrize(("text", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
@pytest.mark.parametrize("flags", [(), ("--dry-run",)], ids=["apply", "dry-run"])
def test_bad_file_is_told_and_changes_nothing(
    pliant: Pliant, text: str, expected: list[str], flags: tuple[str, ...]
) -> None:
    done = pliant("apply", "-f", pliant.write(text), *flags)
    _is_told(done, expected)
    assert not (pliant.directory / "state" / "journal.db").exists() or pliant.json("history") == []
    assert not Path(pliant.environment["PLIANT_PINS"]).exists()


def test_every_problem_of_every_file_is_told_at_once(pliant: Pliant) -> None:
    one = pliant.write(policy(tune="initial_cwnd: 0"))
    other = pliant.write(policy("other", tune="pacing_rate: 7"))
    done = pliant("apply", "-f", one, "-f", other, "-f", "missing.yaml")
    _is_told(done, [one, other, "missing.yaml", "initial_cwnd", "pacing_rate"])


HOSTS = [
    # says, shell run before in a mount namespace, environment, what the message must hold
    (
        "no type information",
        "mount -t tmpfs none /sys/kernel/btf",
        {},
        ["type information", "CONFIG_DEBUG_INFO_BTF"],
    ),
    (
        "no cgroup v2",
        "findmnt -rno TARGET -t cgroup2 | xargs -r -n1 umount -l",
        {"PLIANT_CGROUP_ROOT": ""},
        ["cgroup v2"],
    ),
    ("no bpffs", "true", {"PLIANT_PINS": "/tmp/pliant-no-bpffs"}, ["/tmp/pliant-no-bpffs", "mount -t bpf"]),
    (
        "a bpffs that is read-only",
        "mount -t bpf bpf /mnt && mount -o remount,ro /mnt",
        {"PLIANT_PINS": "/mnt/pliant"},
        ["read-only"],
    ),
    (
        "a state directory that is a file",
        "true",
        {"PLIANT_STATE": "/dev/null/state"},
        ["state directory", "/dev/null"],
    ),
]


@pytest.mark.parametrize(
    ("before", "environment", "expected"), [row[1:] for row in HOSTS], ids=[r[0] for r in HOSTS]
)
def test_host_that_cannot_is_told_and_left_alone(
    pliant: Pliant, before: str, environment: dict[str, str], expected: list[str]
) -> None:
    unfit = Pliant(pliant.directory, pliant.environment | environment, pliant.cgroup, pliant.host, before)
    _is_told(unfit("apply", "-f", unfit.write(policy())), expected)
    assert pliant.json("history") == []
    assert not Path(pliant.environment["PLIANT_PINS"]).exists()


def test_without_root_it_says_so(pliant: Pliant) -> None:
    name = pliant.write(policy())
    code = (
        "import os, sys\n"
        "import pliant.cli.apply, pliant.cli.main, encodings.utf_8_sig, getpass\n"
        "os.setgid(65534); os.setuid(65534)\n"
        f"sys.argv = ['pliant', 'apply', '-f', '{name}']\n"
        "pliant.cli.main.main()\n"
    )
    pliant.directory.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | pliant.environment,
        cwd=pliant.directory,
    )
    _is_told(done, ["root"])


WRONG_WORDS = [
    ("aply",),
    ("apply",),
    ("apply", "-f"),
    ("get", "policy", "x", "-o", "xml"),
    ("get", "policies", "nobody"),
    ("describe", "nobody"),
    ("delete",),
    ("delete", "nobody"),
    ("rollback", "-1"),
    ("rollback", "77"),
    ("history", "77"),
    ("explain", "--connection", "1.2.3.4", "--service", "web.service"),
    ("explain", "--connection", "1.2.3.4:99999-2.3.4.5:1", "--service", "web.service"),
    ("explain", "--connection", "1.2.3.4:80-2.3.4.5:1", "--service", "nobody.service"),
    ("completion", "tcsh"),
    ("--timeout", "x", "get"),
]


@pytest.mark.parametrize("words", WRONG_WORDS, ids=" ".join)
def test_wrong_words_are_told(pliant: Pliant, words: tuple[str, ...]) -> None:
    done = pliant(*words)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr


def test_a_terminal_sees_colour_and_a_pipe_does_not(pliant: Pliant) -> None:
    leader, follower = pty.openpty()
    environment = {k: v for k, v in (os.environ | pliant.environment).items() if k != "NO_COLOR"}
    subprocess.run([sys.executable, "-m", "pliant", "describe", "nobody"], stderr=follower, env=environment)
    assert b"\x1b[" in os.read(leader, 4096)
    os.close(leader)
    os.close(follower)
    assert "\x1b[" not in pliant("describe", "nobody").stderr


def _is_told(done: subprocess.CompletedProcess[str], expected: list[str]) -> None:
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    for part in expected:
        assert part in done.stderr
