# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pliant.policy.switches import ALL_ON, HOST, Kind, Switch, Switched

WEB = Switched(Kind.POLICY, "web")
API = Switched(Kind.SERVICE, "api.service")


def test_what_is_off_stays_off_since_when_it_was() -> None:
    first, again = Switch(WEB, "slow", "ann", 1.0), Switch(WEB, "still slow", "bob", 2.0)
    assert ALL_ON.turned_off([first]).turned_off([again]).off == (first,)


def test_a_policy_is_off_by_its_own_switch_or_the_hosts() -> None:
    mine, all_of_it = Switch(WEB, "slow", "ann", 1.0), Switch(HOST, "fire", "bob", 2.0)
    off = ALL_ON.turned_off([mine])
    assert (off.of_policy("web"), off.of_policy("api"), off.host) == (mine, None, None)
    off = off.turned_off([all_of_it])
    assert (off.of_policy("web"), off.of_policy("api"), off.host) == (mine, all_of_it, all_of_it)


def test_turning_the_host_on_leaves_what_was_turned_off_by_itself() -> None:
    switches = [Switch(what, "", "ann", 1.0) for what in (WEB, API, HOST)]
    off = ALL_ON.turned_off(switches)
    assert off.services == {"api.service"}
    assert off.turned_on([HOST]) == ALL_ON.turned_off(switches[:2])
    assert not off.turned_on([HOST, WEB, API])


def test_what_is_off_is_the_same_in_whatever_order_it_was_turned_off() -> None:
    switches = [Switch(what, "", "ann", 1.0) for what in (WEB, API, HOST)]
    assert ALL_ON.turned_off(switches) == ALL_ON.turned_off(reversed(switches))


def test_switches_have_names_for_people() -> None:
    assert [str(what) for what in (HOST, WEB, API)] == ["everything", "policy/web", "service/api.service"]
