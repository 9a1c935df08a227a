# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pliant.agent.health import Level, examine
from pliant.agent.host import Host
from pliant.errors import PliantError
from pliant.features.layout import Layout, shipped_layout
from pliant.kernel.cgroup_query import attached
from pliant.kernel.links import AttachType, attach_cgroup
from pliant.kernel.programs import Program
from pliant.lab import TcpClient, TcpServer
from pliant.plan.steps import Detach, ForgetProgram, ReplaceProgram, RetireLayout, Step
from pliant.policy.conflicts import PolicyConflict
from pliant.store.generations import State

if TYPE_CHECKING:
    from pliant.plan.executor import Progress
    from pliant.policy.model import Policy
    from tests.agent.conftest import Hold, Install, Meanwhile
    from tests.conftest import Eventually, MakePolicy, OpenAndClose, Pair, Pliant

pytestmark = pytest.mark.root

UNTUNED = (10, 0xFFFFFFFF, 0)


def version(make_policy: MakePolicy, service: str, number: int, *options: str) -> Policy:
    """Version ``number`` of a policy: every value on a socket tells which version it is from."""
    everything = values(number)
    return make_policy("a", service, {name: everything[name] for name in options or everything})


def values(number: int) -> dict[str, Any]:
    """The settings of a version."""
    return {
        "initial_cwnd": 20 + number,
        "pacing_rate": f"{800 + 8 * number}Mbit",
        "dscp": 1 + number,
    }


def outer(make_policy: MakePolicy, pair: Pair, number: int) -> Policy:
    """Version ``number`` of a policy for the cgroup around the services, which gives way to theirs."""
    return make_policy("outer", around(pair), values(number), priority=1)


def around(pair: Pair) -> str:
    """The pattern that names the cgroup that the server's services are in."""
    return pair.service(pair.server, "web.service").rpartition("/")[0]


def given(number: int) -> tuple[int, int, int]:
    """What the connections of a version have."""
    return (20 + number, 100_000_000 + 1_000_000 * number, 1 + number)


@pytest.fixture
def service(pair: Pair) -> str:
    return pair.service(pair.server, "web.service")


# -- one change after the other


def test_applying_again_changes_nothing(pliant: Pliant, service: str, make_policy: MakePolicy) -> None:
    first = pliant.apply(version(make_policy, service, 1))
    before = pliant.listing()
    again = pliant.apply(version(make_policy, service, 1))
    assert again.change.is_empty
    assert again.generation == first.generation
    assert pliant.listing() == before


def test_changed_value_rollback_and_delete_reach_new_connections(
    pliant: Pliant,
    pair: Pair,
    port: int,
    make_policy: MakePolicy,
    open_and_close: OpenAndClose,
) -> None:
    service = pair.service(pair.client, "app.service")

    def window() -> int:
        [seen] = open_and_close(pair.client, "app.service", pair.server.address, port, 1)
        return seen.window

    assert window() == 10
    pliant.apply(make_policy("a", service, {"initial_cwnd": 21}))
    assert window() == 21
    pliant.apply(make_policy("a", service, {"initial_cwnd": 22, "min_rto": "20ms"}))
    assert window() == 22
    pliant.rollback()
    assert window() == 21
    pliant.delete("a")
    assert window() == 10
    assert pliant.listing() == {}
    pliant.rollback(1)
    assert window() == 21


def test_rollback_brings_back_what_was_there_to_the_byte(
    pliant: Pliant, pair: Pair, service: str, make_policy: MakePolicy
) -> None:
    other = pair.service(pair.server, "other.service")
    pliant.apply(version(make_policy, service, 1, "initial_cwnd", "dscp"))
    before = pliant.listing()
    pliant.apply(version(make_policy, service, 2), make_policy("b", other, {"min_rto": "20ms"}))
    assert pliant.listing() != before
    pliant.rollback()
    after = pliant.listing()
    # A policy that comes back gets a new number, for a number never names two versions in the kernel.
    assert after.keys() == before.keys()
    numbered = ("policies", "rules", "settings")
    assert [path for path in after if after[path] != before[path] and not path.endswith(numbered)] == []


# -- while connections are being made


def test_every_connection_has_one_whole_version_while_versions_change(
    pliant: Pliant, service: str, make_policy: MakePolicy, connecting: Meanwhile
) -> None:
    pliant.apply(version(make_policy, service, 0))
    with connecting("web.service") as seen:
        for number in range(1, 51):
            pliant.apply(version(make_policy, service, number))
    assert seen.ends > 100
    assert seen.kinds <= {given(number) for number in range(51)}
    assert len(seen.kinds) > 10


def test_no_step_of_a_change_leaves_a_connection_with_half_a_policy(
    pliant: Pliant, pair: Pair, service: str, make_policy: MakePolicy, connecting: Meanwhile
) -> None:
    """Also where scope moves to the cgroup around the service, and back."""
    kinds: list[tuple[str, set[Any]]] = []

    def look(position: int, count: int, step: Step) -> None:
        with connecting("web.service") as seen:
            pass
        kinds.append((step.sentence, set(seen.kinds)))

    narrow = version(make_policy, service, 1, "initial_cwnd", "dscp")
    around_it = outer(make_policy, pair, 3)
    for wanted in (narrow, version(make_policy, service, 2), around_it):
        pliant.apply(wanted, progress=look)
    delete(pliant, "outer", look)
    pliant.apply(narrow, progress=look)
    delete(pliant, "a", look)
    pliant.apply(around_it, progress=look)
    pliant.apply(version(make_policy, service, 2), progress=look)
    delete(pliant, "a", look)
    delete(pliant, "outer", look)
    whole = {UNTUNED, (21, 0xFFFFFFFF, 2), given(2), given(3)}
    assert [(sentence, kind) for sentence, kind in kinds if not kind <= whole] == []
    assert set().union(*(kind for _, kind in kinds)) == whole


def delete(pliant: Pliant, name: str, progress: Progress) -> None:
    with pliant.host() as host:
        host.carry_out(host.change_to_delete([name]), actor="test", progress=progress)


# -- what somebody else does to the kernel


@pytest.mark.parametrize("slot_of", ["initial_cwnd", "pacing_rate", "dscp"])
def test_slot_that_somebody_emptied_is_seen_and_filled_again(
    pliant: Pliant, service: str, make_policy: MakePolicy, connecting: Meanwhile, slot_of: str
) -> None:
    pliant.apply(version(make_policy, service, 1))
    before, links = pliant.listing(), pliant.link_ids()
    with pliant.map("scope", "features") as called:
        assert called.delete(shipped_layout().slots[slot_of].to_bytes(4, sys.byteorder))
    assert pliant.listing() != before
    with Host(pliant.places) as host:
        assert host.observe().partial == {slot_of}
        assert slot_of in {getattr(step, "object", "") for step in host.drift()}
        assert [(f.name, f.level) for f in examine(host) if f.name in ("drift", "agreement")] == [
            ("drift", Level.DEGRADED)
        ]
    with pliant.host() as host:
        host.carry_out(host.change_to_repair(), actor="test")
        assert host.drift() == ()
    assert (pliant.listing(), pliant.link_ids()) == (before, links)
    with connecting("web.service") as seen:
        pass
    assert seen.kinds == {given(1)}


def test_slot_of_no_option_that_holds_a_program_is_seen_and_emptied(
    pliant: Pliant, service: str, make_policy: MakePolicy
) -> None:
    pliant.apply(version(make_policy, service, 1))
    before, slots = pliant.listing(), shipped_layout().slots
    with (
        pliant.map("scope", "features") as called,
        Host(pliant.places) as host,
        Program.pinned(host.pins.program("dscp", shipped_layout().builds["dscp"])) as program,
    ):
        called.put(
            (max(slots.values()) + 1).to_bytes(4, sys.byteorder), program.fileno().to_bytes(4, sys.byteorder)
        )
    with pliant.host() as host:
        assert host.observe().partial == {"dscp"}
        host.carry_out(host.change_to_repair(), actor="test")
    assert pliant.listing() == before


def test_feature_with_a_hook_of_its_own_that_is_loaded_again_is_attached_again_at_once(
    pliant: Pliant, service: str, make_policy: MakePolicy
) -> None:
    pliant.apply(make_policy("a", service, {"egress_bandwidth": "1Gbit"}, apply_to="live"))
    with pliant.map("scope", "features") as called:
        assert called.delete(shipped_layout().slots["egress_bandwidth"].to_bytes(4, sys.byteorder))
    with pliant.host() as host:
        host.carry_out(host.change_to_repair(), actor="test")
        assert host.drift() == ()


def test_slot_that_holds_the_program_of_another_feature_is_seen_and_put_right(
    pliant: Pliant, service: str, make_policy: MakePolicy, connecting: Meanwhile
) -> None:
    pliant.apply(version(make_policy, service, 1))
    before, slots = pliant.listing(), shipped_layout().slots
    with (
        pliant.map("scope", "features") as called,
        Host(pliant.places) as host,
        Program.pinned(host.pins.program("dscp", shipped_layout().builds["dscp"])) as program,
    ):
        fd = program.fileno().to_bytes(4, sys.byteorder)
        called.put(slots["initial_cwnd"].to_bytes(4, sys.byteorder), fd)
    with pliant.host() as host:
        assert host.observe().partial == {"initial_cwnd", "dscp"}
        host.carry_out(host.change_to_repair(), actor="test")
    assert pliant.listing() == before
    with connecting("web.service") as seen:
        pass
    assert seen.kinds == {given(1)}


def test_directory_of_somebody_else_among_the_pins_is_cleared(
    pliant: Pliant, service: str, make_policy: MakePolicy
) -> None:
    pliant.apply(version(make_policy, service, 1))
    with pliant.host() as host:
        host.pins.object("stray").mkdir()
        host.carry_out(host.change_to_repair(), actor="test")
        assert host.drift() == ()
        assert "stray" not in host.pins.objects()


# -- programs of others


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_program_of_somebody_else_stays_attached_and_in_place(
    pliant: Pliant, pair: Pair, service: str, make_policy: MakePolicy, foreign: Program, first: str
) -> None:
    cgroup = pair.server.service("web.service")

    def place() -> tuple[int, int]:
        ids = [one.program_id for one in attached(cgroup, AttachType.CGROUP_SOCK_OPS)]
        return ids.index(foreign.id), len(ids)

    if first == "ours":
        pliant.apply(version(make_policy, service, 1))
    with attach_cgroup(foreign, cgroup, AttachType.CGROUP_SOCK_OPS) as link:
        ours = 1 if first == "ours" else 0
        assert place() == (ours, ours + 1)
        pliant.apply(version(make_policy, service, 2))
        assert place() == (ours, 2)
        pliant.apply(version(make_policy, service, 3, "initial_cwnd"))
        assert place() == (ours, 2)
        pliant.rollback()
        assert place() == (ours, 2)
        pliant.apply(outer(make_policy, pair, 1))
        assert place() == (0, 1)  # ours is on the cgroup around it now
        pliant.delete("outer")
        assert place() == (0, 2)
        pliant.delete("a")
        assert place() == (0, 1)
        assert link.info().program_id == foreign.id


@pytest.mark.parametrize(("flags", "where"), [(0, "here"), (1, "here"), (0, "above"), (1, "above")])
def test_hook_that_is_somebody_elses_is_refused_by_name_and_nothing_changes(
    pliant: Pliant,
    pair: Pair,
    service: str,
    make_policy: MakePolicy,
    foreign: Program,
    hold: Hold,
    flags: int,
    where: str,
) -> None:
    cgroup = pair.server.service("web.service") if where == "here" else pair.server.cgroup
    with hold(foreign, cgroup, flags):
        with pytest.raises(PliantError, match=f"somebody_else', id {foreign.id}.* holds the sock_ops hook"):
            pliant.apply(version(make_policy, service, 1))
        effective = attached(pair.server.service("web.service"), AttachType.CGROUP_SOCK_OPS, effective=True)
        assert [program.program_id for program in effective] == [foreign.id]
        assert pliant.listing() == {}
        with pliant.host() as host:
            assert host.journal.generations() == []
    assert pliant.apply(version(make_policy, service, 1)).generation == 1


def test_overridable_program_that_another_has_silenced_already_keeps_nobody_out(
    pliant: Pliant, pair: Pair, service: str, make_policy: MakePolicy, foreign: Program, hold: Hold
) -> None:
    cgroup = pair.server.service("web.service")
    with hold(foreign, pair.server.cgroup, 1), attach_cgroup(foreign, cgroup, AttachType.CGROUP_SOCK_OPS):
        pliant.apply(version(make_policy, service, 1))
        assert len(attached(cgroup, AttachType.CGROUP_SOCK_OPS)) == 2
        pliant.delete("a")


# -- cgroups that come and go


def test_service_that_comes_back_under_its_name_is_tuned_by_the_next_apply(
    pliant: Pliant, pair: Pair, make_policy: MakePolicy, connecting: Meanwhile
) -> None:
    service = pair.service(pair.server, "brief.service")
    cgroup = pair.server.service("brief.service")
    wanted = version(make_policy, service, 1)
    pliant.apply(wanted)
    cgroup.rmdir()
    pair.server.service("brief.service")
    with connecting("brief.service") as seen:
        pass
    assert seen.kinds == {UNTUNED}
    applied = pliant.apply(wanted)
    assert any(isinstance(step, Detach) for step in applied.change.plan)
    with connecting("brief.service") as seen:
        pass
    assert seen.kinds == {given(1)}
    with pliant.host() as host:
        assert not host.observe().stale


@pytest.fixture
def meeting(
    pliant: Pliant, pair: Pair, make_policy: MakePolicy, eventually: Eventually
) -> Iterator[tuple[Policy, Policy]]:
    """Two policies in force that set the same, and meet on a service that has appeared only afterwards."""
    first, second = (f"{around(pair)}/{pattern}.service" for pattern in ("one-*", "*-two"))
    for name in ("one-x.service", "y-two.service"):
        pair.server.service(name)
    policies = (
        make_policy("first", first, {"initial_cwnd": 21, "dscp": 2}),
        make_policy("second", second, {"initial_cwnd": 22, "dscp": 3}),
    )
    pliant.apply(*policies)
    cgroup = pair.server.service("one-two.service")
    yield policies

    def is_removed() -> bool:  # once the last process has gone
        with contextlib.suppress(OSError):
            cgroup.rmdir()
        return not cgroup.exists()

    eventually(is_removed)


FIRST, SECOND = (21, 0xFFFFFFFF, 2), (22, 0xFFFFFFFF, 3)


def test_conflict_that_a_service_brings_about_is_a_finding_and_repair_goes_on(
    pliant: Pliant, meeting: tuple[Policy, Policy], make_policy: MakePolicy, connecting: Meanwhile
) -> None:
    with Host(pliant.places) as host:
        found = [finding for finding in examine(host) if finding.name == "conflict"]
        assert [finding.level for finding in found] == 2 * [Level.DEGRADED]
        for finding, option in zip(found, ("dscp", "initial_cwnd"), strict=True):
            assert all(word in finding.sentence for word in ("'first'", "'second'", option))
        assert host.drift() != ()  # nothing is attached to the new service yet
    with pliant.host() as host:
        host.carry_out(host.change_to_repair(), actor="test")
        assert host.drift() == ()
    for name, kind in (("one-x", FIRST), ("y-two", SECOND), ("one-two", FIRST)):
        with connecting(f"{name}.service") as seen:
            pass
        assert seen.kinds == {kind}, name
    with pytest.raises(PolicyConflict):
        pliant.apply(make_policy("third", "y-two.service", {"min_rto": "20ms"}))


def test_conflict_that_a_service_brings_about_does_not_block_delete_or_rollback(
    pliant: Pliant, meeting: tuple[Policy, Policy], connecting: Meanwhile
) -> None:
    pliant.delete("first")
    with connecting("one-two.service") as seen:
        pass
    assert seen.kinds == {SECOND}
    with Host(pliant.places) as host:
        assert not [finding for finding in examine(host) if finding.name == "conflict"]
    pliant.rollback()
    with Host(pliant.places) as host:
        assert len([finding for finding in examine(host) if finding.name == "conflict"]) == 2
        assert host.drift() == ()


# -- other builds of Pliant


def test_other_layout_is_retired_and_connections_are_tuned_throughout(
    pliant: Pliant,
    service: str,
    make_policy: MakePolicy,
    connecting: Meanwhile,
    installed: Install,
) -> None:
    wanted = version(make_policy, service, 1)
    with installed(replace(shipped_layout(), digest="0123456789ab")):
        pliant.apply(wanted)
    assert [path.name for path in pliant.places.pins.iterdir()] == ["0123456789ab"]
    with connecting("web.service") as seen:
        applied = pliant.apply(wanted)
    assert isinstance(applied.change.plan[-1], RetireLayout)
    assert [path.name for path in pliant.places.pins.iterdir()] == [shipped_layout().digest]
    assert seen.kinds == {given(1)}


def test_what_another_layout_gave_open_connections_is_given_back_when_this_one_does_not_go_on_with_it(
    pliant: Pliant, pair: Pair, service: str, make_policy: MakePolicy, installed: Install
) -> None:
    with (
        TcpServer(pair.server, service="web.service") as server,
        TcpClient(pair.client) as client,
    ):
        client.connect(pair.server.address, server.port)

        def given_to_it() -> tuple[int | None, int]:
            [state] = server.connections()
            return state.tos, state.max_pacing_rate

        before = given_to_it()
        with installed(replace(shipped_layout(), digest="0123456789ab")):
            pliant.apply(
                make_policy("marked", service, {"dscp": "EF"}, apply_to="live"),
                make_policy("paced", service, {"pacing_rate": "80Mbit"}, apply_to="live"),
            )
        assert given_to_it() == (46 << 2, 10_000_000)
        pliant.delete("marked")
        assert given_to_it() == (before[0], 10_000_000)
        with installed(replace(shipped_layout(), digest="0123456789ab")):
            pliant.delete("paced")
        assert given_to_it() == before


def test_other_build_of_the_same_layout_is_replaced_in_place(
    pliant: Pliant,
    service: str,
    make_policy: MakePolicy,
    connecting: Meanwhile,
    other_build: Layout,
    installed: Install,
) -> None:
    wanted = version(make_policy, service, 1)
    with installed(other_build):
        pliant.apply(wanted)
    links, programs = pliant.link_ids(), tags(pliant)
    with connecting("web.service") as seen:
        applied = pliant.apply(wanted)
    assert [type(step) for step in applied.change.plan] == 4 * [ReplaceProgram] + 4 * [ForgetProgram]
    assert pliant.link_ids() == links
    assert tags(pliant).keys() == programs.keys()
    assert not set(tags(pliant).values()) & set(programs.values())
    assert seen.kinds == {given(1)}
    assert pliant.judged()["matched"] == seen.ends  # counted on in the same maps


def tags(pliant: Pliant) -> dict[str, object]:
    """The hash of each program that is attached or called, by its link or the name of its object."""
    listing = pliant.listing()
    called = next(what for path, what in listing.items() if path.endswith("scope/features"))
    assert isinstance(called, dict)
    pins = {path.split("/", 1)[1]: what for path, what in listing.items()}
    found = {pin.partition("/")[0]: pins[pin] for pin in called.values()}
    return found | {path: what[2] for path, what in listing.items() if isinstance(what, tuple)}


def test_history_says_what_was_done(pliant: Pliant, service: str, make_policy: MakePolicy) -> None:
    pliant.apply(version(make_policy, service, 1))
    pliant.rollback()
    with pliant.host() as host:
        generations = host.journal.generations()
        assert [(g.verb, g.state) for g in generations] == [
            ("apply", State.APPLIED),
            ("rollback", State.APPLIED),
        ]
        for generation in generations:
            steps = host.journal.steps(generation.number)
            assert len(steps) == generation.steps
            assert {step.state for step in steps} == {"done"}
