# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.features.layout import shipped_layout
from pliant.observe.pin_tree import Hook
from pliant.observe.tables import Table
from pliant.plan.planner import Target, plan
from pliant.plan.steps import (
    Attach,
    CarryCounters,
    Detach,
    ForgetProgram,
    LoadObject,
    ReplaceProgram,
    RetireLayout,
    Step,
    TakeOver,
    UnloadObject,
    WriteTable,
)
from pliant.policy.compile import Compiled, compile_policies
from pliant.policy.desired import SCOPE
from pliant.policy.explain import Connection
from pliant.policy.model import Policy
from pliant.policy.numbering import Numbering
from pliant.policy.services import ancestors
from tests.plan.fake_kernel import FakeKernel, Misstep, Program, take, target_of
from tests.policy.scope_model import judge
from tests.policy.strategies import CGROUPS, connections, policy, policy_sets, unhurried

NAMES = {number: path for path, number in CGROUPS.items()}
LAYOUT = shipped_layout()
GONE = 999
NEW_ONLY = ("new",)  # what open connections had before goes with the object that somebody has broken

met = st.lists(connections, min_size=1, max_size=4)


def compiled(policies: Sequence[Policy], numbering: Numbering | None = None) -> Compiled:
    return compile_policies(policies, CGROUPS, numbering)


def target(policies: Sequence[Policy], build: str = "b1") -> Target:
    return target_of(compiled(policies).desired, LAYOUT, build)


def host_with(wanted: Target) -> FakeKernel:
    kernel = FakeKernel(CGROUPS)
    take(kernel, plan(kernel.observe(), wanted, NAMES))
    return kernel


def assert_holds(kernel: FakeKernel, wanted: Target) -> None:
    found = kernel.observe()
    assert found.builds == wanted.builds
    assert found.tables == wanted.tables
    assert found.attachments == {Hook(a.program, a.cgroup_id) for a in wanted.attachments}
    assert not found.partial | found.stale
    assert not found.other_layouts
    assert kernel.called.keys() == {LAYOUT.slots[name] for name in wanted.builds if name != SCOPE}
    assert len({loaded.program.maps for loaded in kernel.objects.values()}) <= 1


def assert_references_hold(kernel: FakeKernel) -> None:
    """Every policy that a rule names is there, with a setting for each option it sets."""
    policies = kernel.tables.get(Table(SCOPE, "policies"), {})
    for value in kernel.tables.get(Table(SCOPE, "rules"), {}).values():
        for number in LAYOUT.scope["rule"].unpack(value)["policy"]:
            key = number.to_bytes(4, sys.byteorder)
            if not number:
                continue
            assert key in policies
            options = LAYOUT.scope["policy"].unpack(policies[key])["options"]
            for option, slot in LAYOUT.slots.items():
                if options >> slot & 1:
                    assert key in kernel.tables[Table(option, "settings")]


def assert_complete(kernel: FakeKernel, connection: Connection) -> None:
    """A connection made now gets nothing, or every option that it has been given."""
    running = kernel.running((connection.cgroup, *ancestors(connection.cgroup)))
    if SCOPE not in running:
        return
    for option, number in judge(kernel.tables, LAYOUT, CGROUPS, connection).items():
        assert option in running, f"{option} was won by policy {number} and no program sets it"
        assert number.to_bytes(4, sys.byteorder) in kernel.tables[Table(option, "settings")]


def step_by_step(kernel: FakeKernel, steps: Iterable[Step]) -> Iterator[Step]:
    for step in steps:
        kernel.act(step)
        yield step


def entry_by_entry(steps: Sequence[Step]) -> Iterator[Step]:
    """The same steps, with what is written to tables written one entry after the other, as the kernel does."""
    for step in steps:
        if not isinstance(step, WriteTable):
            yield step
            continue
        for key, value in step.puts.items():
            yield replace(step, puts={key: value}, deletes=frozenset(), before={key: step.before[key]})
        if step.deletes:
            yield replace(step, puts={}, before={key: step.before[key] for key in step.deletes})


def undone(steps: Sequence[Step]) -> list[Step]:
    return [undo for step in reversed(steps) if (undo := step.undo())]


@st.composite
def changes(draw: st.DrawFn, reaches: Sequence[str] = ("new", "live")) -> tuple[Target, Target]:
    """Two targets one after the other: some policies of the first are kept, others edited, dropped or new."""
    sets = policy_sets(most=4, holdouts=("0%", "30%"), reaches=reaches)
    before, after = draw(sets), draw(sets)
    kept = draw(st.sets(st.sampled_from(range(4))))
    names = {p.name for p in before if int(p.name[1:]) in kept}
    priorities = {p.priority for p in before if p.name in names}
    mixed = [p for p in before if p.name in names]
    mixed += [p for p in after if p.name not in names and p.priority not in priorities]
    first = compiled(before)
    second = compiled(mixed, first.numbering)
    return target_of(first.desired, LAYOUT), target_of(second.desired, LAYOUT)


@unhurried
@given(policy_sets(), policy_sets())
def test_hooks_of_another_build_are_taken_over_complete_and_its_counters_come_when_they_are_final(
    theirs: list[Policy], wanted: list[Policy]
) -> None:
    """One of the two runs at every moment, wherever both are wanted; undone, the other build has all of it again."""
    ours, kernel = target(wanted), FakeKernel(CGROUPS)
    hooks = {Hook(a.program, a.cgroup_id) for a in compiled(theirs).desired.attachments}
    kernel.layouts, kernel.elsewhere = ["0123456789ab"], dict.fromkeys(hooks, "0123456789ab")
    steps = plan(kernel.observe(), ours, NAMES)
    shared = hooks & {Hook(a.program, a.cgroup_id) for a in ours.attachments}
    for step in step_by_step(kernel, steps):
        assert shared <= kernel.links.keys() ^ kernel.elsewhere.keys()
        if isinstance(step, TakeOver):
            assert kernel.tables == ours.tables
    assert_holds(kernel, ours)
    again = FakeKernel(CGROUPS, layouts=["0123456789ab"], elsewhere=dict.fromkeys(hooks, "0123456789ab"))
    before = [step for step in steps if not isinstance(step, CarryCounters | RetireLayout)]
    take(again, [*before, *undone(before)])
    assert again.elsewhere.keys() == hooks
    assert not again.links


@unhurried
@given(changes())
def test_a_plan_leads_from_any_state_to_any_other_and_then_nothing_is_left_to_do(
    change: tuple[Target, Target],
) -> None:
    before, after = change
    kernel = host_with(before)
    assert_holds(kernel, before)
    take(kernel, plan(kernel.observe(), after, NAMES))
    assert_holds(kernel, after)
    assert plan(kernel.observe(), after, NAMES) == ()


@unhurried
@given(changes())
def test_undoing_every_step_in_reverse_gives_exactly_the_state_before(change: tuple[Target, Target]) -> None:
    before, after = change
    kernel = host_with(before)
    found = kernel.observe()
    steps = plan(found, after, NAMES)
    take(kernel, steps)
    take(kernel, undone(steps))
    assert kernel.observe() == found


@unhurried
@given(changes(), st.integers(0, 30))
def test_undoing_from_the_middle_of_a_plan_gives_exactly_the_state_before(
    change: tuple[Target, Target], count: int
) -> None:
    before, after = change
    kernel = host_with(before)
    found = kernel.observe()
    steps = plan(found, after, NAMES)[:count]
    take(kernel, steps)
    take(kernel, undone(steps))
    assert kernel.observe() == found


@unhurried
@given(changes(), met)
def test_every_connection_meets_a_complete_state_at_every_step_forwards_and_backwards(
    change: tuple[Target, Target], tried: list[Connection]
) -> None:
    before, after = change
    kernel = host_with(before)
    steps = plan(kernel.observe(), after, NAMES)
    for _ in step_by_step(kernel, [*steps, *undone(steps)]):
        assert_references_hold(kernel)
        for connection in tried:
            assert_complete(kernel, connection)


def given_to(kernel: FakeKernel, connection: Connection) -> set[tuple[str, int]]:
    """The options that a connection made now is given, and the policies whose values they have."""
    running = kernel.running((connection.cgroup, *ancestors(connection.cgroup)))
    verdict = judge(kernel.tables, LAYOUT, CGROUPS, connection) if SCOPE in running else {}
    return {(option, number) for option, number in verdict.items() if option in running}


@unhurried
@given(changes(), met)
def test_what_a_connection_is_given_before_and_after_it_is_given_at_every_step_between(
    change: tuple[Target, Target], tried: list[Connection]
) -> None:
    before, after = change
    kernel = host_with(before)
    steps = plan(kernel.observe(), after, NAMES)
    end = host_with(after)
    kept = {connection: given_to(kernel, connection) & given_to(end, connection) for connection in tried}
    for _ in step_by_step(kernel, [*entry_by_entry(steps), *entry_by_entry(undone(steps))]):
        for connection in tried:
            assert kept[connection] <= given_to(kernel, connection)


@unhurried
@given(policy_sets(most=4), met)
def test_a_first_plan_and_its_removal_meet_no_connection_half_done(
    policies: list[Policy], tried: list[Connection]
) -> None:
    kernel = FakeKernel(CGROUPS)
    for wanted in (target(policies), target([])):
        for _ in step_by_step(kernel, plan(kernel.observe(), wanted, NAMES)):
            assert_references_hold(kernel)
            for connection in tried:
                assert_complete(kernel, connection)
    assert kernel.observe().is_empty


NGINX = "/system.slice/nginx.service"


@pytest.mark.parametrize(
    ("wide", "narrow", "others"),
    [
        ({"service": "/system.slice"}, {"service": NGINX}, {"service": "system.slice"}),
        ({"service": "nginx.service"}, {"service": f"{NGINX}/pool"}, {"service": NGINX}),
        ({"peers": ["10.0.0.0/8"]}, {"peers": ["10.2.3.0/24"]}, {"peers": ["10.0.0.0/8"]}),
        ({}, {"peers": ["10.2.3.4/32"]}, {}),
    ],
)
def test_a_policy_that_moves_to_part_of_its_connections_never_leaves_those_entry_by_entry(
    wide: dict[str, Any], narrow: dict[str, Any], others: dict[str, Any]
) -> None:
    connection = Connection(f"{NGINX}/pool/0", "server", 443, ip_address("10.2.3.4"), 9)
    rate = {"pacing_rate": "10Mbit"}
    first = compiled([policy("other", **wide, tune=rate), policy("web", **wide, tune={"dscp": 8})])
    second = compiled(
        [policy("other", **others, tune=rate), policy("web", **narrow, tune={"dscp": 8})], first.numbering
    )
    assert first.numbering.numbers == second.numbering.numbers
    kernel = host_with(target_of(first.desired, LAYOUT))
    steps = plan(kernel.observe(), target_of(second.desired, LAYOUT), NAMES)
    kept = {
        (option, first.numbering.numbers[name].number)
        for option, name in (("dscp", "web"), ("pacing_rate", "other"))
    }
    for _ in step_by_step(kernel, [*entry_by_entry(steps), *entry_by_entry(undone(steps))]):
        assert kept <= given_to(kernel, connection)


def test_a_service_that_loses_its_own_policy_keeps_that_of_its_slice_at_every_step() -> None:
    slice_policy = policy("all", "system.slice", tune={"dscp": 8})
    own = policy("web", "/system.slice/nginx.service", tune={"pacing_rate": "10Mbit"})
    first = compiled([slice_policy, own])
    second = compiled([slice_policy], first.numbering)
    kernel = host_with(target_of(first.desired, LAYOUT))
    connection = Connection("/system.slice/nginx.service", "server", 443, ip_address("10.2.3.4"), 9)
    number = first.numbering.numbers["all"].number
    for _ in step_by_step(kernel, plan(kernel.observe(), target_of(second.desired, LAYOUT), NAMES)):
        assert ("dscp", number) in given_to(kernel, connection)


# -- what interrupted changes, vanished cgroups and other builds leave behind


def forget_program(kernel: FakeKernel, name: str) -> None:
    """The pin of a program is gone, its maps are still there."""
    if kernel.objects.pop(name, None):
        kernel.partial.add(name)
        kernel.tables = {t: entries for t, entries in kernel.tables.items() if t.object != name}


def half_load(kernel: FakeKernel, name: str) -> None:
    """A loading was interrupted: features' loadings come after scope's."""
    if name not in kernel.objects and (name == SCOPE or SCOPE in kernel.objects):
        kernel.partial.add(name)


def lose_cgroup(kernel: FakeKernel, name: str = SCOPE) -> None:
    """A cgroup that had scope was removed."""
    if scope := kernel.objects.get(SCOPE):
        kernel.links[Hook(SCOPE, GONE)] = scope.program


def old_program(kernel: FakeKernel, name: str) -> None:
    """A replacement was interrupted before it reached one of the links, or the slot."""
    if name != SCOPE:
        if name in kernel.objects:
            kernel.called[LAYOUT.slots[name]] = replace(kernel.objects[name].program, number=-1)
        return
    for hook, program in kernel.links.items():
        kernel.links[hook] = replace(program, number=-1)
        return


def lose_link(kernel: FakeKernel, name: str) -> None:
    """Somebody removed a link's pin."""
    if kernel.links:
        del kernel.links[min(kernel.links)]


def lose_call(kernel: FakeKernel, name: str) -> None:
    """Somebody emptied a feature's slot."""
    if name != SCOPE:
        kernel.called.pop(LAYOUT.slots[name], None)


def other_build(kernel: FakeKernel, name: str) -> None:
    """The object was loaded by another build with the same layout."""
    if name in kernel.objects:
        kernel.objects[name].build = "b0"


def spoil_entries(kernel: FakeKernel, name: str) -> None:
    """Somebody removed the entries of a table."""
    for table, entries in kernel.tables.items():
        if table.object == name:
            entries.clear()


def other_layout(kernel: FakeKernel, name: str) -> None:
    """Another version of Pliant, with another layout, was here."""
    kernel.layouts.append("0123456789ab")


accidents = st.lists(
    st.tuples(
        st.sampled_from(
            (
                forget_program,
                half_load,
                lose_cgroup,
                old_program,
                lose_link,
                lose_call,
                other_build,
                spoil_entries,
                other_layout,
            )
        ),
        st.sampled_from((SCOPE, "initial_cwnd", "dscp", "pacing_rate")),
    ),
    min_size=1,
    max_size=3,
    unique=True,
)

Accident = Callable[[FakeKernel, str], None]


@unhurried
@given(changes(reaches=NEW_ONLY), accidents)
def test_whatever_is_found_a_plan_leads_to_the_target_and_can_be_followed(
    change: tuple[Target, Target], happened: list[tuple[Accident, str]]
) -> None:
    before, after = change
    kernel = host_with(before)
    for accident, name in happened:
        accident(kernel, name)
    take(kernel, plan(kernel.observe(), after, NAMES))
    assert_holds(kernel, after)
    assert plan(kernel.observe(), after, NAMES) == ()


@unhurried
@given(changes(reaches=NEW_ONLY), accidents)
def test_whatever_was_found_a_plan_can_be_undone_step_by_step(
    change: tuple[Target, Target], happened: list[tuple[Accident, str]]
) -> None:
    before, after = change
    kernel = host_with(before)
    for accident, name in happened:
        accident(kernel, name)
    steps = plan(kernel.observe(), after, NAMES)
    steps = tuple(s for s in steps if not isinstance(s, ForgetProgram))  # after these nothing is undone
    take(kernel, steps)
    kernel.strict = False  # rules found without the feature they need are put back so
    take(kernel, undone(steps))
    kernel.strict = True
    take(kernel, plan(kernel.observe(), before, NAMES))
    assert_holds(kernel, before)


WEB = policy("web", tune={"initial_cwnd": 40})


def test_a_cgroup_that_is_gone_is_forgotten_before_its_program_is_replaced() -> None:
    kernel = host_with(target([WEB]))
    lose_cgroup(kernel)
    steps = plan(kernel.observe(), target([WEB], "b2"), NAMES)
    kinds = [step.kind for step in steps]
    assert kinds.index("detach") < kinds.index("replace-program")
    take(kernel, steps)


def test_forgetting_a_cgroup_that_is_gone_has_no_undo() -> None:
    kernel = host_with(target([WEB]))
    lose_cgroup(kernel)
    (step,) = plan(kernel.observe(), target([WEB]), NAMES)
    assert step.sentence == f"detach scope from cgroup {GONE} (gone)"
    assert step.undo() is None


def test_removing_what_an_interrupted_loading_left_has_no_undo() -> None:
    kernel = host_with(target([WEB]))
    half_load(kernel, "dscp")
    (step,) = plan(kernel.observe(), target([WEB]), NAMES)
    assert isinstance(step, UnloadObject)
    assert step.undo() is None


def test_features_whose_scope_is_gone_are_loaded_again_for_they_use_its_maps() -> None:
    kernel = host_with(target([WEB]))
    forget_program(kernel, SCOPE)
    steps = plan(kernel.observe(), target([WEB]), NAMES)
    assert [s.object for s in steps if isinstance(s, LoadObject)] == [SCOPE, "initial_cwnd"]
    take(kernel, steps)
    assert kernel.objects["initial_cwnd"].program.maps == kernel.objects[SCOPE].program.maps
    assert kernel.is_called("initial_cwnd")


@pytest.mark.parametrize("accident", [lose_call, old_program])
def test_a_feature_that_scope_does_not_call_is_loaded_again_with_its_values(accident: Accident) -> None:
    kernel = host_with(target([WEB]))
    accident(kernel, "initial_cwnd")
    steps = plan(kernel.observe(), target([WEB]), NAMES)
    assert [step.sentence for step in steps] == [
        "unload the program initial_cwnd",
        "load the program initial_cwnd",
        "write 1 entry of initial_cwnd.settings",
    ]
    take(kernel, steps)
    assert_holds(kernel, target([WEB]))


def test_a_link_that_runs_another_program_is_made_again() -> None:
    kernel = host_with(target([WEB]))
    nginx = "/system.slice/nginx.service"
    old_program(kernel, SCOPE)
    (stale,) = kernel.observe().stale
    steps = plan(kernel.observe(), target([WEB]), NAMES)
    assert [(step.kind, step.hook) for step in steps if isinstance(step, Attach | Detach)] == [
        ("detach", stale),
        ("attach", stale),
    ]
    assert len(steps) == 2
    assert stale.cgroup_id in (CGROUPS[nginx], CGROUPS["/user.slice/nginx.service"])


def test_a_slice_that_gets_a_policy_takes_scope_over_from_the_services_in_it() -> None:
    nginx = "/system.slice/nginx.service"
    own = policy("web", nginx, priority=2, tune={"pacing_rate": "10Mbit"})
    first = compiled([own])
    second = compiled([own, policy("all", "/system.slice", priority=1, tune={"dscp": 8})], first.numbering)
    for before, after, kinds in (
        (first, second, [("attach", "/system.slice"), ("detach", nginx)]),
        (second, first, [("attach", nginx), ("detach", "/system.slice")]),
    ):
        kernel = host_with(target_of(before.desired, LAYOUT))
        steps = plan(kernel.observe(), target_of(after.desired, LAYOUT), NAMES)
        assert [(s.kind, s.cgroup) for s in steps if isinstance(s, Attach | Detach)] == kinds
        connection = Connection(nginx, "server", 443, ip_address("10.2.3.4"), 9)
        number = first.numbering.numbers["web"].number
        for _ in step_by_step(kernel, [*steps, *undone(steps)]):
            assert ("pacing_rate", number) in given_to(kernel, connection)


def test_another_build_is_replaced_in_place_and_keeps_its_tables_and_links() -> None:
    kernel = host_with(target([WEB]))
    steps = plan(kernel.observe(), target([WEB], "b2"), NAMES)
    assert [(s.object, s.previous) for s in steps if isinstance(s, ReplaceProgram)] == [
        (SCOPE, "b1"),
        ("initial_cwnd", "b1"),
    ]
    forgotten = [step for step in steps if not isinstance(step, ReplaceProgram)]
    assert forgotten == list(steps[2:])
    assert [(step.kind, step.object) for step in forgotten if isinstance(step, ForgetProgram)] == [
        ("forget-program", SCOPE),
        ("forget-program", "initial_cwnd"),
    ]


def test_replaced_programs_are_put_back_by_undo() -> None:
    kernel = host_with(target([WEB]))
    steps = plan(kernel.observe(), target([WEB], "b2"), NAMES)
    undone = [step for step in steps if isinstance(step, ReplaceProgram)]
    take(kernel, undone)
    take(kernel, [step.undo() for step in reversed(undone)])
    assert kernel.observe().builds == {SCOPE: "b1", "initial_cwnd": "b1"}
    assert kernel.kept == {}


def test_another_layout_is_retired_last() -> None:
    kernel = host_with(target([]))
    other_layout(kernel, "")
    steps = plan(kernel.observe(), target([WEB]), NAMES)
    assert [isinstance(step, RetireLayout) for step in steps] == [False] * (len(steps) - 1) + [True]


def test_moving_a_policy_to_other_peers_writes_rules_and_loads_attaches_and_sets_nothing() -> None:
    first = compiled([WEB])
    moved = compiled([policy("web", peers=["10.0.0.0/8"])], first.numbering)
    kernel = host_with(target_of(first.desired, LAYOUT))
    steps = plan(kernel.observe(), target_of(moved.desired, LAYOUT), NAMES)
    assert {step.table.map for step in steps if isinstance(step, WriteTable)} == {"rules"}
    assert all(isinstance(step, WriteTable) for step in steps)


def test_every_step_says_what_it_does_and_why() -> None:
    kernel = host_with(target([WEB]))
    lose_cgroup(kernel)
    half_load(kernel, "dscp")
    other_layout(kernel, "")
    policies = [policy("other", "worker@1.service", tune={"pacing_rate": "10Mbit"})]
    for step in plan(kernel.observe(), target(policies, "b2"), NAMES):
        assert step.sentence
        assert step.reason


SETTINGS = Table("dscp", "settings")
UNCALLED = {b"k": LAYOUT.scope["rule"].pack({"policy": [1, *[0] * 7]})}
POLICY = target([policy("web", tune={"dscp": 8})]).tables[Table(SCOPE, "policies")]


@pytest.mark.parametrize(
    ("complaint", "before", "step"),
    [
        ("no such table", [], WriteTable("", SETTINGS, {b"k": b"v"}, frozenset(), {b"k": None})),
        ("not loaded", [], Attach("", Hook(SCOPE, 1), "/")),
        ("no scope to be called by", [], LoadObject("", "dscp", "b1")),
        ("ENOENT", [], UnloadObject("", "dscp", "b1")),
        ("not attached", [], Detach("", Hook(SCOPE, 1), "/")),
        ("no such cgroup", [LoadObject("", SCOPE, "b1")], Attach("", Hook(SCOPE, GONE), "/gone")),
        ("EEXIST", [LoadObject("", SCOPE, "b1")], LoadObject("", SCOPE, "b1")),
        (
            "attached already",
            [LoadObject("", SCOPE, "b1"), Attach("", Hook(SCOPE, 1), "/")],
            Attach("", Hook(SCOPE, 1), "/"),
        ),
        (
            "still attached",
            [LoadObject("", SCOPE, "b1"), Attach("", Hook(SCOPE, 1), "/")],
            UnloadObject("", SCOPE, "b1"),
        ),
        (
            "use its maps",
            [LoadObject("", SCOPE, "b1"), LoadObject("", "dscp", "b1")],
            UnloadObject("", SCOPE, "b1"),
        ),
        (
            "which nothing sets",
            [
                LoadObject("", SCOPE, "b1"),
                WriteTable("", Table(SCOPE, "policies"), POLICY, frozenset(), dict.fromkeys(POLICY)),
            ],
            WriteTable("", Table(SCOPE, "rules"), UNCALLED, frozenset(), dict.fromkeys(UNCALLED)),
        ),
        (
            "which nothing sets",
            [
                LoadObject("", SCOPE, "b1"),
                LoadObject("", "dscp", "b1"),
                WriteTable("", Table(SCOPE, "policies"), POLICY, frozenset(), dict.fromkeys(POLICY)),
                WriteTable("", Table(SCOPE, "rules"), UNCALLED, frozenset(), dict.fromkeys(UNCALLED)),
            ],
            UnloadObject("", "dscp", "b1"),
        ),
    ],
)
def test_the_fake_kernel_refuses_what_the_kernel_would_and_what_serves_connections_half(
    complaint: str, before: Sequence[Step], step: Step
) -> None:
    kernel = FakeKernel(CGROUPS)
    take(kernel, before)
    with pytest.raises(Misstep, match=complaint):
        kernel.act(step)


def test_the_fake_kernel_runs_a_feature_only_for_the_scope_whose_maps_it_was_loaded_with() -> None:
    kernel = host_with(target([WEB]))
    line = ["/system.slice/nginx.service", "/system.slice", "/"]
    assert kernel.running(line) == [SCOPE, "initial_cwnd"]
    slot = LAYOUT.slots["initial_cwnd"]
    kernel.called[slot] = Program(kernel.called[slot].number, maps=-1)
    assert kernel.running(line) == [SCOPE]
    assert kernel.running(["/user.slice", "/"]) == []
