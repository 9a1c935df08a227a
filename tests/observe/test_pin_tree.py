# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time
from pathlib import Path

import pytest

from pliant.observe.pin_tree import Hook, PinTree
from pliant.observe.state import HostState
from pliant.observe.tables import Table

LAYOUT = "0123456789ab"


@pytest.fixture
def pins(tmp_path: Path) -> PinTree:
    return PinTree(tmp_path, LAYOUT)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_where_things_are_pinned(pins: PinTree) -> None:
    base = pins.root / LAYOUT
    assert pins.directory == base
    assert pins.program("dscp", "b1") == base / "dscp" / "program_b1"
    assert pins.map(Table("scope", "rules")) == base / "scope" / "rules"
    assert pins.link(Hook("scope", 7)) == base / "links" / "scope-7"


def test_no_pins_name_holds_a_dot_which_a_bpffs_refuses(pins: PinTree) -> None:
    paths = [
        pins.program("initial_cwnd", "b1"),
        pins.map(Table("scope", "rules")),
        pins.link(Hook("scope", 2**63)),
    ]
    assert not any("." in part for path in paths for part in path.relative_to(pins.root).parts)


def test_without_pins_there_is_nothing(pins: PinTree) -> None:
    assert pins.objects() == []
    assert pins.attached() == []
    assert pins.other_layouts() == []
    assert pins.builds("scope") == []


def test_objects_are_the_directories_beside_the_links(pins: PinTree) -> None:
    touch(pins.program("scope", "b1"))
    touch(pins.map(Table("dscp", "settings")))
    touch(pins.link(Hook("scope", 1)))
    assert pins.objects() == ["dscp", "scope"]


def test_an_object_without_a_programs_pin_has_no_build(pins: PinTree) -> None:
    touch(pins.map(Table("dscp", "settings")))
    assert pins.builds("dscp") == []
    touch(pins.program("dscp", "b1"))
    assert pins.builds("dscp") == ["b1"]


def test_of_two_builds_the_one_pinned_first_comes_first(pins: PinTree) -> None:
    first = touch(pins.program("dscp", "zz")).stat().st_ctime_ns
    second = pins.program("dscp", "aa")
    deadline = time.monotonic() + 10
    while touch(second).stat().st_ctime_ns == first:  # the clock of the file system ticks in milliseconds
        assert time.monotonic() < deadline
    assert pins.builds("dscp") == ["zz", "aa"]


@pytest.mark.parametrize(
    ("name", "attached"),
    [
        ("scope-7", [Hook("scope", 7)]),
        ("scope-281474976710656", [Hook("scope", 2**48)]),
        ("7_scope", []),
        ("7", []),
        ("scope-7_", []),
        ("scope", []),
        ("-7", []),
        ("scope-", []),
        ("scope-7 ", []),
        ("scope-x7", []),
        ("scope-\u0667", []),  # a digit seven, to int() as well
    ],
)
def test_attachments_are_read_from_the_names_of_their_links(
    pins: PinTree, name: str, attached: list[Hook]
) -> None:
    touch(pins.links / name)
    assert pins.attached() == attached


@pytest.mark.parametrize(
    ("name", "is_layout"),
    [
        ("ba9876543210", True),
        (LAYOUT, False),
        ("0123456789AB", False),
        ("0123456789abc", False),
        ("mine", False),
    ],
)
def test_other_layouts_are_told_by_their_digest_and_nothing_else_is_touched(
    pins: PinTree, name: str, is_layout: bool
) -> None:
    (pins.root / name).mkdir()
    assert pins.other_layouts() == ([name] if is_layout else [])


def test_every_attachment_finds_its_own_link_again(pins: PinTree) -> None:
    attached = [Hook("egress_bandwidth", 7), *(Hook("scope", number) for number in (1, 9, 10, 2**63))]
    for hook in reversed(attached):
        touch(pins.link(hook))
    assert pins.attached() == attached


@pytest.mark.parametrize(
    ("state", "is_empty"),
    [
        (HostState(), True),
        (HostState(builds={"scope": "b1"}), False),
        (HostState(partial=frozenset({"scope"})), False),
        (HostState(attachments=frozenset({Hook("scope", 1)})), False),
        (HostState(stale=frozenset({Hook("scope", 1)})), False),
        (HostState(other_layouts=("ba9876543210",)), False),
    ],
)
def test_a_host_is_empty_when_nothing_of_ours_is_left_whole_or_in_part(
    state: HostState, is_empty: bool
) -> None:
    assert state.is_empty is is_empty


def test_a_table_is_told_by_its_object_and_name() -> None:
    assert str(Table("scope", "rules")) == "scope.rules"
