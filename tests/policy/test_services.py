# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.policy.services import ancestors, classify, matching_cgroups
from tests.policy.strategies import CGROUPS, SERVICES, unhurried

NGINX = "/system.slice/nginx.service"
WORKER = "/system.slice/worker@1.service"
DEEP = "/a.slice/a-b.slice/nginx.service"


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("nginx.service", NGINX, True),
        ("nginx.service", DEEP, True),
        ("nginx.service", "/system.slice/my-nginx.service", False),
        ("nginx.service", f"{NGINX}/pool", False),
        ("Nginx.service", NGINX, False),
        ("nginx?service", NGINX, True),
        ("ngin[wx].service", NGINX, True),
        ("ngin[!x].service", NGINX, False),
        ("nginx", NGINX, False),
        ("system.slice", NGINX, False),
        ("system.slice", "/system.slice", True),
        ("*.service", NGINX, True),
        ("*.service", "/system.slice", False),
        ("nginx.serviceX", NGINX, False),
        ("n*", f"{NGINX}\n", True),
        ("worker@1.service", WORKER, True),
        ("worker@1.service", "/system.slice/worker@11.service", False),
        ("worker@*.service", WORKER, True),
        ("worker@*.service", "/system.slice/worker.service", False),
        ("worker@[0-9].service", WORKER, True),
        (NGINX, NGINX, True),
        (NGINX, f"{NGINX}/pool", False),
        (NGINX, DEEP, False),
        ("/system.slice/*", NGINX, True),
        ("/system.slice/*", f"{NGINX}/pool", True),
        ("/system.slice/*", "/system.slice", False),
        ("/*/nginx.service", DEEP, True),
        ("/*.service", DEEP, True),
        ("/", "/", True),
        ("/", NGINX, False),
        ("/*", "/", True),
        ("*", "/", True),
        ("*", NGINX, True),
        ("?*", "/", False),
        (r"dev-disk\x2dby.service", r"/system.slice/dev-disk\x2dby.service", True),
    ],
)
def test_what_a_service_means(pattern: str, path: str, matches: bool) -> None:
    assert matching_cgroups({pattern}, [path]) == ({path: {pattern}} if matches else {})


def test_every_pattern_that_matches_a_cgroup_is_found() -> None:
    patterns = {"nginx.service", NGINX, "*.service", "/system.slice/*", "other.service"}
    assert matching_cgroups(patterns, [NGINX, "/user.slice"]) == {NGINX: patterns - {"other.service"}}


@pytest.mark.parametrize(
    ("path", "above"),
    [
        ("/", []),
        ("/system.slice", ["/"]),
        (f"{NGINX}/pool", [NGINX, "/system.slice", "/"]),
    ],
)
def test_ancestors_are_told_nearest_first_and_end_with_the_root(path: str, above: list[str]) -> None:
    assert list(ancestors(path)) == above


def test_a_class_has_the_patterns_of_a_cgroup_and_of_all_its_ancestors() -> None:
    classes = classify({"/": {"/"}, NGINX: {"nginx.service"}, f"{NGINX}/pool": {"/*/pool"}})
    assert {path: set(found.patterns) for path, found in classes.items()} == {
        "/": {"/"},
        NGINX: {"/", "nginx.service"},
        f"{NGINX}/pool": {"/", "nginx.service", "/*/pool"},
    }


pattern_sets = st.sets(st.sampled_from(SERVICES))
path_sets = st.sets(st.sampled_from(tuple(CGROUPS)))


@unhurried
@given(pattern_sets, path_sets)
def test_cgroups_share_a_class_exactly_when_the_same_patterns_match_them(
    patterns: set[str], paths: set[str]
) -> None:
    classes = classify(matching_cgroups(patterns, paths))
    held = {
        path: frozenset().union(*matching_cgroups(patterns, paths & {path, *ancestors(path)}).values())
        for path in classes
    }
    assert {path: found.patterns for path, found in classes.items()} == held
    assert len({found.number for found in classes.values()}) == len(set(held.values()))


@unhurried
@given(pattern_sets, path_sets, path_sets)
def test_a_class_keeps_its_number_whatever_other_cgroups_there_are(
    patterns: set[str], paths: set[str], others: set[str]
) -> None:
    number_of = {
        found.patterns: found.number for found in classify(matching_cgroups(patterns, paths)).values()
    }
    for found in classify(matching_cgroups(patterns, others)).values():
        assert number_of.get(found.patterns, found.number) == found.number


def test_the_number_of_a_class_is_the_same_in_every_process() -> None:
    classes = classify({NGINX: {"nginx.service", "*.service"}})
    assert classes[NGINX].number == 15_312_635_847_747_490_206
