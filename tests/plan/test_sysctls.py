# SPDX-License-Identifier: Apache-2.0
"""Plans of sysctls over every state there is: carried out, taken back, or cut short anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from pliant.observe.sysctls import Holding, SysctlState
from pliant.plan.sysctls import SetSysctl, sysctl_changes
from pliant.policy.sysctls import SysctlKey, Wanted

KEYS = [SysctlKey(1, "net.a"), SysctlKey(1, "net.b"), SysctlKey(2, "net.a")]
VALUES = "012"


@dataclass
class Kernel:
    """Values, and the account of whose they are; a step is taken in the moves of the actuator."""

    values: dict[SysctlKey, str]
    held: dict[SysctlKey, Holding]

    def found(self) -> dict[SysctlKey, SysctlState]:
        return {key: SysctlState(self.values.get(key), self.held.get(key)) for key in KEYS}

    def copy(self) -> Kernel:
        return Kernel(dict(self.values), dict(self.held))

    def moves(self, step: SetSysctl) -> Iterator[None]:
        """Take a step; after each move the process may die."""
        if step.value is not None:
            if step.holding:
                ours = step.holding.ours | (step.held.ours if step.held else frozenset())
                self.held[step.key] = replace(step.holding, ours=ours)
                yield
            self.values[step.key] = step.value
            yield
        if step.holding:
            self.held[step.key] = step.holding
        else:
            self.held.pop(step.key, None)
        yield

    def take(self, steps: tuple[SetSysctl, ...], moves: int | None = None) -> bool:
        """Take steps, or so many moves of them; whether that was all."""
        count = 0
        for step in steps:
            for _ in self.moves(step):
                count += 1
                if count == moves:
                    return False
        return True


wants = st.dictionaries(
    st.sampled_from(KEYS), st.builds(Wanted, st.sampled_from(VALUES), st.sampled_from(["p", "q"]))
)
values = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES))


def plan(kernel: Kernel, wanted: Mapping[SysctlKey, Wanted]) -> tuple[SetSysctl, ...]:
    return tuple(sysctl_changes(kernel.found(), wanted))


@given(values, wants, wants)
def test_plan_carried_out_leaves_nothing_to_do_and_taken_back_nothing_done(
    start: dict[SysctlKey, str], first: dict[SysctlKey, Wanted], second: dict[SysctlKey, Wanted]
) -> None:
    kernel = Kernel(dict(start), {})
    for wanted in (first, second):
        before, steps = kernel.copy(), plan(kernel, wanted)
        kernel.take(steps)
        assert not plan(kernel, wanted)
        after = kernel.copy()
        for step in reversed(steps):
            kernel.take((step.undo(),))
        assert kernel == before
        kernel = after
    assert kernel.values == start | {key: want.value for key, want in second.items() if key in start}


@given(values, wants, wants, st.integers(1, 12), st.booleans())
def test_change_that_was_cut_short_anywhere_is_settled_to_either_side(
    start: dict[SysctlKey, str],
    first: dict[SysctlKey, Wanted],
    second: dict[SysctlKey, Wanted],
    moves: int,
    forwards: bool,
) -> None:
    kernel = Kernel(dict(start), {})
    kernel.take(plan(kernel, first))
    kernel.take(plan(kernel, second), moves)
    target = second if forwards else first
    settled = kernel.copy()
    settled.take(plan(settled, target))
    whole = Kernel(dict(start), {})
    whole.take(plan(whole, target))
    assert settled == whole
    kernel.take(plan(kernel, {}))
    assert kernel == Kernel(start, {})


@given(values, wants, values, wants)
def test_what_somebody_else_has_written_is_never_overwritten(
    start: dict[SysctlKey, str],
    first: dict[SysctlKey, Wanted],
    written: dict[SysctlKey, str],
    second: dict[SysctlKey, Wanted],
) -> None:
    kernel = Kernel(dict(start), {})
    kernel.take(plan(kernel, first))
    theirs = {key: f"{value}*" for key, value in written.items() if key in kernel.held}
    kernel.values |= theirs
    for wanted in (second, {}):
        kernel.take(plan(kernel, {key: want for key, want in wanted.items() if key in first}))
        assert kernel.values == kernel.values | theirs
    assert not kernel.held
    assert {key: value for key, value in kernel.values.items() if key not in theirs} == {
        key: value for key, value in start.items() if key not in theirs
    }


def test_steps_say_what_they_do() -> None:
    key = SysctlKey(1, "net.ipv4.tcp_ecn")
    [done] = sysctl_changes({key: SysctlState("2")}, {key: Wanted("1", "p")})
    assert (done.kind, done.sentence) == ("set-sysctl", "set the sysctl net.ipv4.tcp_ecn from 2 to 1")
    held = Holding("2", frozenset("1"), "p")
    [back] = sysctl_changes({key: SysctlState("1", held)}, {})
    assert back.sentence == "set the sysctl net.ipv4.tcp_ecn from 1 back to 2"
    [left] = sysctl_changes({key: SysctlState("0", held)}, {})
    assert (left.sentence, left.value) == ("leave the sysctl net.ipv4.tcp_ecn at 0", None)
    [gone] = sysctl_changes({key: SysctlState(None, held)}, {key: Wanted("1", "p")})
    assert gone.sentence == "forget the sysctl net.ipv4.tcp_ecn"
