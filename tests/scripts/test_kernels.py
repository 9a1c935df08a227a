# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from kernels.image import pack
from kernels.matrix import load_results, page
from kernels.packages import named_dependencies
from kernels.result import Result, short_name


def result(release: str, *events: dict[str, Any]) -> Result:
    made = Result(
        kernel={"suite": "stable", "package_version": "1-1"},
        machine={"accelerator": "tcg"},
        pliant={"commit": "abc"},
    )
    made.add(
        {
            "event": "hello",
            "release": release,
            "version": "#1",
            "pliant": "1",
            "libbpf": "1.1",
            "python": "3.11",
        }
    )
    for event in events:
        made.add(event)
    return made


def answer(event: str, name: str, state: str, said: str = "", **more: Any) -> dict[str, Any]:
    return {"event": event, "name": name, "state": state, "said": said, **more}


OLD = result(
    "6.1.0-50-cloud-amd64",
    answer("probe", "tcx", "unsupported", "needs Linux 6.6", sentence="Links | filters."),
    answer("object", "scope", "loads"),
    answer(
        "object",
        "newest",
        "refused",
        "newest (newest.bpf.o): this kernel lacks bpf_x (full log: /var/log/x.log)",
    ),
    answer("feature", "dscp", "partly", "set on 3 sockets", sentence="What packets carry."),
    answer("scenario", "rollback", "works", "", sentence="All is taken back."),
)
NEW = result(
    "6.12.107+deb13-amd64",
    answer("probe", "tcx", "supported", sentence="Links | filters."),
    answer("probe", "later", "supported", sentence="A later ability."),
    answer("object", "scope", "failed", "ended by SIGSEGV", trace="Traceback"),
    answer("object", "newest", "loads"),
    answer("feature", "dscp", "works", live={"state": "failed", "said": "not given back: tos of the client"}),
)


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("6.1.0-50-cloud-amd64", "6.1-cloud-amd64"),
        ("6.12.107+deb13-amd64", "6.12-amd64"),
        ("7.3.4+deb13-cloud-amd64", "7.3-cloud-amd64"),
        ("6.1.0-50-rt-amd64", "6.1-rt-amd64"),
        ("6.18.44-own", "6.18-other"),
    ],
)
def test_a_kernel_is_called_by_version_and_flavour(release: str, name: str) -> None:
    assert short_name(release) == name


def test_a_saved_result_is_read_back_without_traces(tmp_path: Path) -> None:
    NEW.save(tmp_path)
    [read] = load_results(tmp_path)
    assert read == NEW
    assert "Traceback" not in (tmp_path / "6.12-amd64.json").read_text()


def test_results_are_in_the_order_of_versions_not_of_letters(tmp_path: Path) -> None:
    for release in ("6.12.1-amd64", "6.2.0-1-amd64", "10.0.1-amd64"):
        result(release).save(tmp_path)
    assert [read.name for read in load_results(tmp_path)] == ["6.2-amd64", "6.12-amd64", "10.0-amd64"]


def test_only_what_ended_without_a_sentence_is_a_failure() -> None:
    assert OLD.failures() == []
    assert NEW.failures() == [
        "object scope: ended by SIGSEGV",
        "feature on open connections dscp: not given back: tos of the client",
    ]


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each line of a table, by the first."""
    lines = [line.replace("\\|", "¦") for line in text.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_the_page_has_an_answer_of_each_kernel_for_everything() -> None:
    found = rows(page([OLD, NEW]))
    assert found["tcx"] == ["no", "yes", "Links ¦ filters."]
    assert found["later"] == ["not tried", "yes", "A later ability."]
    assert found["newest"] == ["no", "yes"]
    assert found["scope"] == ["yes", "**fails**"]
    assert found["dscp"] == ["not tried", "**fails**"]  # the later table: on open connections
    assert "| `dscp` | partly | yes |" in page([OLD, NEW])
    assert found["rollback"] == ["yes", "not tried", "All is taken back."]


def test_the_page_says_why_once_for_kernels_that_agree() -> None:
    other = copy.deepcopy(OLD)
    other.kernel["release"] = "6.1.0-50-amd64"
    notes = [line for line in page([OLD, other, NEW]).splitlines() if line.startswith("- ")]
    assert notes == [
        "- `tcx` on 6.1-cloud-amd64, 6.1-amd64: needs Linux 6.6",
        "- `newest` on 6.1-cloud-amd64, 6.1-amd64: newest (newest.bpf.o): this kernel lacks bpf_x",
        "- `scope` on 6.12-amd64: ended by SIGSEGV",
        "- `dscp` on 6.1-cloud-amd64, 6.1-amd64: set on 3 sockets",
        "- `dscp` on 6.12-amd64: not given back: tos of the client",
    ]


def test_without_results_the_page_says_how_to_get_them() -> None:
    assert "run `make test-kernels`" in page([])


def test_the_packages_of_a_kernel_are_found_in_what_it_depends_on() -> None:
    shown = (
        "Package: linux-image-cloud-amd64\n"
        "Depends: linux-base-cloud-amd64 (= 7.3-1), linux-image-7.3.4+deb13-cloud-amd64 (= 7.3-1~x), kmod | y\n"
        "Description: linux-image-1 (= 2)\n"
    )
    assert named_dependencies(shown, r"linux-image-\d\S*") == [
        ("linux-image-7.3.4+deb13-cloud-amd64", "7.3-1~x")
    ]
    assert named_dependencies("Package: x\n", r"linux-image-\d\S*") == []


def members(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """The mode and content of every member of an archive (cpio(5), "newc")."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        start = at + 110
        name = archive[start : start + fields[11] - 1].decode()
        content = (start + fields[11] + 3) // 4 * 4
        at = (content + fields[6] + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert set(archive[at:]) <= {0}
            return found
        assert (fields[2], fields[3]) == (0, 0), "owned by root"
        found[name] = (fields[1], archive[content : content + fields[6]])


def test_an_archive_holds_the_tree(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/program").write_bytes(b"odd")
    (tmp_path / "usr/bin/program").chmod(0o755)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "empty").touch()
    found = members(pack(tmp_path))
    assert {name: content for name, (_, content) in found.items()} == {
        ".": b"", "usr": b"", "usr/bin": b"", "usr/bin/program": b"odd", "bin": b"usr/bin", "empty": b"",
    }  # fmt: skip
    assert found["usr/bin/program"][0] == 0o100755
    assert found["bin"][0] & 0o170000 == 0o120000
    assert list(found).index("usr") < list(found).index("usr/bin") < list(found).index("usr/bin/program")
    assert len(pack(tmp_path)) % 512 == 0
