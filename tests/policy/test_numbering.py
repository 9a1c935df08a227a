# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.policy.model import Policy
from pliant.policy.numbering import LAST_NUMBER, Numbering, settings_digest
from tests.policy.strategies import policy, policy_sets, unhurried


def number_of(numbering: Numbering, name: str) -> int:
    return numbering.numbers[name].number


def test_numbers_are_given_out_in_order_from_one() -> None:
    numbering = Numbering().extend([policy("b"), policy("a")])
    assert (number_of(numbering, "b"), number_of(numbering, "a"), numbering.next_number) == (1, 2, 3)


@pytest.mark.parametrize(
    ("says", "changed", "keeps"),
    [
        ("nothing", {}, True),
        ("service", {"service": "worker@1.service"}, True),
        ("role", {"role": "client"}, True),
        ("peers", {"peers": ["10.0.0.0/8"]}, True),
        ("local ports", {"local_ports": [443]}, True),
        ("remote ports", {"remote_ports": [443]}, True),
        ("a value", {"tune": {"initial_cwnd": 20}}, False),
        ("another option", {"tune": {"initial_cwnd": 40, "dscp": 8}}, False),
        ("priority", {"priority": 101}, False),
        ("holdout", {"holdout": "1%"}, False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_version_keeps_its_number_unless_what_the_number_stands_for_changes(
    says: str, changed: dict[str, Any], keeps: bool
) -> None:
    before = Numbering().extend([policy("web")])
    after = before.extend([policy("web", **changed)])
    assert (number_of(after, "web") == number_of(before, "web")) is keeps
    assert after.next_number == (before.next_number if keeps else before.next_number + 1)


def test_the_order_in_which_options_are_written_makes_no_version() -> None:
    one = policy("web", tune={"initial_cwnd": 40, "dscp": 8})
    other = policy("web", tune={"dscp": 8, "initial_cwnd": 40})
    assert settings_digest(one) == settings_digest(other)


def test_a_policy_that_comes_back_gets_a_new_number() -> None:
    first = Numbering().extend([policy("web")])
    again = first.extend([]).extend([policy("web")])
    assert number_of(again, "web") == 2


@unhurried
@given(st.lists(policy_sets(most=4), max_size=6))
def test_a_number_never_names_a_second_version_whatever_the_edits(edits: list[list[Policy]]) -> None:
    numbering = Numbering()
    meaning: dict[int, tuple[str, str]] = {}
    for policies in edits:
        before, numbering = numbering, numbering.extend(policies)
        assert set(numbering.numbers) == {p.name for p in policies}
        assert numbering.next_number >= before.next_number
        for p in policies:
            number, digest = numbering.numbers[p.name]
            assert digest == settings_digest(p)
            assert meaning.setdefault(number, (p.name, digest)) == (p.name, digest)
            held = before.numbers.get(p.name)
            assert (number < before.next_number) == (held is not None and held.digest == digest)
            assert number < numbering.next_number


def test_numbers_that_are_used_up_are_an_error_and_never_start_again() -> None:
    with pytest.raises(OverflowError):
        Numbering(next_number=LAST_NUMBER).extend([policy("a"), policy("b")])
