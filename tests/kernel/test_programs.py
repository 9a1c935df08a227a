# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pliant.kernel.errors import KernelError, NotSupported
from pliant.kernel.maps import Map
from pliant.kernel.objects import LoadedObject
from pliant.kernel.programs import Program, ProgramType, program_ids
from pliant.kernel.run_time import run_time_statistics

pytestmark = pytest.mark.root

PACKET = bytes(range(64))


def test_a_program_says_what_it_is(sample: LoadedObject) -> None:
    program = sample.programs["verdict_by_constant"]
    assert program.name == "verdict_by_cons"
    assert program.type is ProgramType.XDP
    assert len(bytes.fromhex(program.tag)) == 8
    assert set(program.map_ids) == {
        sample.maps[name].id for name in ("counters", "table", "results", "prefixes", ".rodata")
    }


def test_equal_programs_have_equal_tags(sample: LoadedObject) -> None:
    assert sample.programs["ignore_sockets"].tag != sample.programs["count_sockets"].tag


def test_a_test_run_returns_verdict_packet_and_time(sample: LoadedObject) -> None:
    run = sample.programs["always_drop"].test_run(PACKET, repeat=100)
    assert (run.retval, run.data_out) == (1, PACKET)
    assert run.duration_ns > 0


def test_a_test_run_takes_a_context(sample: LoadedObject) -> None:
    context = (0).to_bytes(4, "little") + len(PACKET).to_bytes(4, "little") + bytes(16)
    run = sample.programs["always_drop"].test_run(PACKET, ctx=context)
    assert run.retval == 1
    assert run.context_out == context


def test_a_type_that_cannot_be_test_run_says_so(sample: LoadedObject) -> None:
    with pytest.raises(NotSupported, match=r"cannot test-run the program count_sockets \(sock_ops\)"):
        sample.programs["count_sockets"].test_run()


def test_run_time_is_counted_only_while_statistics_are_on(sample: LoadedObject) -> None:
    program = sample.programs["always_drop"]
    with run_time_statistics():
        program.test_run(PACKET, repeat=1000)
    counted = program.run_time()
    assert counted.runs == 1000
    assert counted.nanoseconds > 0
    assert counted.recursion_misses == 0
    if Path("/proc/sys/kernel/bpf_stats_enabled").read_text() == "0\n" and not statistics_held_elsewhere():
        program.test_run(PACKET, repeat=1000)
        assert program.run_time() == counted


def statistics_held_elsewhere() -> bool:
    def holds(directory: Path) -> bool:
        try:
            return any("bpf-stats" in os.readlink(entry) for entry in (directory / "fd").iterdir())
        except OSError:
            return False

    return any(holds(directory) for directory in Path("/proc").glob("[0-9]*"))


def test_a_program_is_reopened_from_its_pin(sample: LoadedObject, bpffs: Path) -> None:
    sample.programs["always_drop"].pin(bpffs / "drop")
    sample.programs["always_drop"].close()
    with Program.pinned(bpffs / "drop") as again:
        assert again.name == "always_drop"
        assert again.test_run(PACKET).retval == 1


def test_a_program_is_found_by_its_id(sample: LoadedObject) -> None:
    number = sample.programs["always_drop"].id
    assert number in set(program_ids())
    with Program.by_id(number) as again:
        assert again.tag == sample.programs["always_drop"].tag


def test_a_pin_of_another_kind_is_not_taken_for_a_program(sample: LoadedObject, bpffs: Path) -> None:
    sample.maps["results"].pin(bpffs / "results")
    with pytest.raises(KernelError, match=r"results is not a pinned program but a bpf.map"):
        Program.pinned(bpffs / "results")


@pytest.mark.parametrize(
    ("name", "number", "remedy"),
    [
        ("taken", errno.EEXIST, "the name is taken"),
        ("with.dot", errno.EPERM, "names in a bpffs must not hold a dot"),
        ("missing/name", errno.ENOENT, "make the directory .*missing first"),
        ("../outside", errno.EINVAL, "is not in a bpffs; mount one"),
    ],
)
def test_a_pin_that_cannot_be_made_says_why(
    sample: LoadedObject, bpffs: Path, name: str, number: int, remedy: str
) -> None:
    sample.maps["results"].pin(bpffs / "taken")
    with pytest.raises(KernelError, match=remedy) as caught:
        sample.programs["always_drop"].pin(bpffs / name)
    assert caught.value.errno == number


def test_a_pin_that_is_not_there_is_named(bpffs: Path) -> None:
    with pytest.raises(KernelError, match=r"cannot open the pinned map .*nothing: No such file") as caught:
        Map.pinned(bpffs / "nothing")
    assert caught.value.errno == errno.ENOENT
