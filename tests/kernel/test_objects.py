# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pliant.kernel import libbpf
from pliant.kernel.errors import KernelError, NoPermission, NotSupported, Refused, kernel_error
from pliant.kernel.maps import Map, MapType
from pliant.kernel.objects import LoadedObject, load
from pliant.kernel.programs import ProgramType
from pliant.kernel.refusal import load_error, write_log
from pliant.kernel.uapi import MMAPABLE

pytestmark = pytest.mark.root

PACKET = bytes(64)
Compiled = Callable[[str], Path]


def results(loaded: LoadedObject) -> list[int]:
    values = [value for _, value in loaded.maps["results"].items()]
    return [int.from_bytes(value, "little", signed=True) for value in values]


def test_constants_keep_their_compiled_values_unless_set(compiled: Compiled) -> None:
    with load(compiled("sample"), feature="sample") as loaded:
        assert loaded.programs["verdict_by_constant"].test_run(PACKET).retval == 2
        assert results(loaded)[:3] == [-3, 0, 0]


def test_constants_are_set_by_name(compiled: Compiled) -> None:
    constants: dict[str, int | bytes] = {
        "verdict": 1,
        "small": -7,
        "large": 2**63 - 1,
        "prefix": b"\x20" + bytes(14) + b"\x01",
    }
    with load(compiled("sample"), feature="sample", rodata=constants) as loaded:
        assert loaded.programs["verdict_by_constant"].test_run(PACKET).retval == 1
        assert results(loaded)[:3] == [-7, 2**63 - 1, 0x21]


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        (
            {"verdikt": 1},
            r"sample \(sample\.bpf\.o\) has no constant verdikt; it has: large, prefix, small, verdict",
        ),
        ({"verdict": 2**32}, "the constant verdict of sample .* has 4 bytes, too small for 4294967296"),
        ({"small": -32769}, "the constant small of sample .* has 2 bytes, too small for -32769"),
        ({"verdict": b"\1"}, "the constant verdict of sample .* has 4 bytes, 1 given"),
        ({"prefix": 1}, "the constant prefix of sample .* has 16 bytes: give bytes"),
    ],
)
def test_a_constant_that_does_not_fit_is_named(
    compiled: Compiled, constants: dict[str, int | bytes], message: str
) -> None:
    with pytest.raises(KernelError, match=message):
        load(compiled("sample"), feature="sample", rodata=constants)


def test_an_object_without_constants_says_so(compiled: Compiled) -> None:
    with pytest.raises(KernelError, match="has no constant verdict; it has: none"):
        load(compiled("refused"), feature="refused", rodata={"verdict": 1})


def test_everything_comes_back_by_name(sample: LoadedObject) -> None:
    assert set(sample.programs) == {
        "verdict_by_constant",
        "always_drop",
        "pass_ingress",
        "count_sockets",
        "ignore_sockets",
    }
    assert {"table", "results", "counters", "prefixes", ".rodata"} <= set(sample.maps)
    assert sample.programs["pass_ingress"].type is ProgramType.SCHED_CLS
    assert sample.programs["count_sockets"].type is ProgramType.SOCK_OPS


def test_only_the_chosen_programs_are_loaded(compiled: Compiled) -> None:
    with load(compiled("sample"), feature="sample", autoload={"always_drop"}) as loaded:
        assert set(loaded.programs) == {"always_drop"}
    with pytest.raises(KernelError, match="has no program never_written; it has: always_drop, count_sockets"):
        load(compiled("sample"), feature="sample", autoload=["never_written"])


def test_maps_are_sized(compiled: Compiled) -> None:
    with load(compiled("sample"), feature="sample", max_entries={"table": 5}) as loaded:
        assert loaded.maps["table"].max_entries == 5
    with pytest.raises(KernelError, match="has no map chair; it has: "):
        load(compiled("sample"), feature="sample", max_entries={"chair": 5})


def test_a_shared_map_is_the_same_map(compiled: Compiled, sample: LoadedObject) -> None:
    shared = {"results": sample.maps["results"]}
    with load(compiled("sample"), feature="other", reuse=shared, rodata={"small": 42}) as other:
        assert other.maps["results"].id == sample.maps["results"].id
        assert sample.maps["results"].id in other.programs["verdict_by_constant"].map_ids
        other.programs["verdict_by_constant"].test_run(PACKET)
        assert results(sample)[0] == 42


def test_a_map_of_another_shape_is_not_shared(compiled: Compiled) -> None:
    with (
        Map.create(MapType.ARRAY, 4, 16, 4, flags=MMAPABLE) as wrong,
        pytest.raises(KernelError, match=r"the map results of sample cannot be shared: .*8, 1024.*16, 1024"),
    ):
        load(compiled("sample"), feature="sample", reuse={"results": wrong})


def test_a_refusal_is_one_sentence_and_a_file(compiled: Compiled, logs: Path) -> None:
    with pytest.raises(Refused) as caught:
        load(compiled("refused"), feature="broken_feature")
    file = logs / "broken_feature-reads_past_the_packet.log"
    assert caught.value.message == (
        "broken_feature (refused.bpf.o): the verifier refused the program reads_past_the_packet: "
        f"R1 invalid mem access 'pkt_end' (full log: {file})"
    )
    assert "BEGIN PROG LOAD LOG" in file.read_text()
    assert "\n" not in str(caught.value)


def test_a_function_the_kernel_lacks_is_named(compiled: Compiled) -> None:
    with pytest.raises(
        NotSupported, match=r"eager \(missing\.bpf\.o\): this kernel lacks pliant_no_such_function"
    ):
        load(compiled("missing"), feature="eager")


def test_a_kernel_that_reads_no_memory_without_a_type_is_told() -> None:
    said = [  # what kernels before 6.17 say of bpf_rdonly_cast(address, 0)
        "libbpf: prog 'bridge_xdp': -- BEGIN PROG LOAD LOG --\n18: (85) call bpf_rdonly_cast#57914\n"
        "kfunc bpf_rdonly_cast type ID argument must be of a struct\n-- END PROG LOAD LOG --"
    ]
    error = load_error("bridge_xdp", Path("bridge_xdp.bpf.o"), errno.EINVAL, said)
    assert isinstance(error, NotSupported)
    assert "lacks bpf_rdonly_cast() of memory without a type, which Linux 6.17 has" in error.message


def test_a_kernel_before_the_first_that_can_route_is_told() -> None:
    said = [
        "libbpf: extern (func ksym) 'bpf_cast_to_kern_ctx': not found in kernel or module BTFs"
    ]  # before 6.2
    error = load_error("route_xdp", Path("route_xdp.bpf.o"), errno.ESRCH, said)
    assert isinstance(error, NotSupported)
    assert error.message.endswith("this kernel lacks bpf_cast_to_kern_ctx(), which Linux 6.2 has")


def test_a_log_goes_elsewhere_when_its_directory_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PLIANT_LOG_DIR", str(tmp_path / "file" / "below"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    written = write_log("a/b", "text")
    assert written.parent.parent == tmp_path
    assert written.name == "a_b.log"
    assert written.parent.stat().st_mode & 0o77 == 0


def test_a_refusal_is_told_also_where_no_log_can_be_written(
    compiled: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PLIANT_LOG_DIR", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(Refused, match=r"R1 invalid mem access 'pkt_end' \(no log could be written to"):
        load(compiled("refused"), feature="broken_feature")


def test_a_log_is_not_written_through_someone_elses_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "name.log").symlink_to(victim)
    assert write_log("name", "text") == tmp_path / "logs" / "name.log"
    assert not victim.exists()


def test_threads_load_at_the_same_time_and_get_their_own_messages(compiled: Compiled) -> None:
    paths = [compiled("sample"), compiled("refused")] * 8

    def outcome(path: Path) -> str:
        try:
            with load(path, feature=path.stem):
                return "loaded"
        except Refused as error:
            return error.message.partition(" (full log")[0]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(outcome, paths))
    refused = "refused.bpf (refused.bpf.o): the verifier refused the program reads_past_the_packet: "
    assert found == ["loaded", refused + "R1 invalid mem access 'pkt_end'"] * 8


def test_a_missing_object_is_named(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"cannot read the BPF object .*nowhere\.bpf\.o: No such file"):
        load(tmp_path / "nowhere.bpf.o", feature="nowhere")


def test_a_struct_ops_map_comes_back_filled_and_unregistered(compiled: Compiled) -> None:
    with load(compiled("control"), feature="control") as loaded:
        assert loaded.maps["test_reno"].type is MapType.STRUCT_OPS
        available = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text()
        assert "pliant_test" not in available


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    libbpf.libbpf.cache_clear()
    monkeypatch.setenv("PLIANT_LIBBPF", "/nowhere/libbpf.so.1")
    with pytest.raises(KernelError, match=r"could not be opened .*apt install libbpf1"):
        libbpf.libbpf()
    monkeypatch.setenv("PLIANT_LIBBPF", "libc.so.6")
    with pytest.raises(KernelError, match="is too old: it lacks bpf_object__open_file"):
        libbpf.libbpf()
    monkeypatch.delenv("PLIANT_LIBBPF")
    assert libbpf.version() >= libbpf.OLDEST


def test_errors_are_sorted_by_what_can_be_done_about_them() -> None:
    assert isinstance(kernel_error(errno.EPERM, "do it"), NoPermission)
    assert isinstance(kernel_error(524, "do it"), NotSupported)
    assert type(kernel_error(errno.EINVAL, "do it")) is KernelError
    assert str(kernel_error(524, "do it")) == "cannot do it: Operation not supported"
