# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from pliant.errors import PliantError
from pliant.observe.pin_tree import Hook
from pliant.plan.executor import PlanFailed, execute
from pliant.plan.steps import Attach, Detach, ForgetProgram, Step
from pliant.policy.desired import SCOPE

STEPS = [Attach("", Hook(SCOPE, number), f"/{number}") for number in range(3)]

BEFORE = "the host is as it was before"


@dataclass
class Host:
    """Attachments, and everything that was called in order; ``trouble`` is what a call is to raise."""

    trouble: dict[str, BaseException] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    attached: list[str] = field(default_factory=list)

    def _called(self, what: str) -> None:
        self.calls.append(what)
        if what in self.trouble:
            raise self.trouble[what]

    def act(self, step: Step) -> None:
        self._called(f"act {step.sentence}")
        if isinstance(step, Attach):
            self.attached.append(step.cgroup)
        if isinstance(step, Detach) and step.cgroup in self.attached:
            self.attached.remove(step.cgroup)

    def read_back(self, step: Step) -> None:
        self._called(f"read {step.sentence}")

    def begin(self, position: int, step: Step, *, undo: bool = False) -> None:
        self._called(f"{'undo' if undo else 'begin'} {position}")

    def done(self, position: int, *, undo: bool = False) -> None:
        self._called(f"{'undone' if undo else 'done'} {position}")


def forwards(position: int) -> list[str]:
    sentence = f"attach scope to /{position}"
    return [f"begin {position}", f"act {sentence}", f"read {sentence}", f"done {position}"]


def backwards(position: int) -> list[str]:
    sentence = f"detach scope from /{position}"
    return [f"undo {position}", f"act {sentence}", f"read {sentence}", f"undone {position}"]


def test_steps_are_journalled_taken_read_back_and_journalled_in_order() -> None:
    host = Host()
    told: list[tuple[int, int, Step]] = []
    execute(STEPS, host, host, lambda *progress: told.append(progress))
    assert host.calls == [*forwards(0), *forwards(1), *forwards(2)]
    assert told == [(position, 3, step) for position, step in enumerate(STEPS)]
    assert host.attached == ["/0", "/1", "/2"]


def test_an_empty_plan_touches_nothing() -> None:
    host = Host()
    execute([], host, host)
    assert host.calls == []


@pytest.mark.parametrize("failing", [0, 1, 2])
@pytest.mark.parametrize("call", [0, 1, 2, 3], ids=["begin", "act", "read_back", "done"])
def test_a_step_that_fails_is_undone_with_all_before_it_last_first(failing: int, call: int) -> None:
    trouble = PliantError("no room", remedy="make some")
    host = Host({forwards(failing)[call]: trouble})
    with pytest.raises(PlanFailed) as caught:
        execute(STEPS, host, host)
    done = [c for position in range(failing) for c in forwards(position)]
    undone = [c for position in range(failing, -1, -1) for c in backwards(position)]
    assert host.calls == [*done, *forwards(failing)[: call + 1], *undone]
    assert host.attached == []
    assert caught.value.step is STEPS[failing]
    assert caught.value.left == ()
    assert caught.value.message == f"could not attach scope to /{failing}: no room; {BEFORE}"
    assert caught.value.remedy == "make some"
    assert caught.value.__cause__ is trouble


@pytest.mark.parametrize("failing", [0, 1, 2])
@pytest.mark.parametrize("call", [0, 1, 2, 3], ids=["begin", "act", "read_back", "done"])
@pytest.mark.parametrize(
    "trouble",
    [KeyboardInterrupt(), SystemExit(1), OSError("disk")],
    ids=lambda trouble: type(trouble).__name__,
)
def test_an_interrupt_is_undone_and_passed_on(failing: int, call: int, trouble: BaseException) -> None:
    host = Host({forwards(failing)[call]: trouble})
    with pytest.raises(type(trouble)) as caught:
        execute(STEPS, host, host)
    assert caught.value is trouble
    assert host.calls[-4:] == backwards(0)
    assert host.attached == []


@pytest.mark.parametrize("interrupted", [0, 1, 2])
def test_an_interrupt_while_progress_is_shown_undoes_what_was_taken_and_no_more(interrupted: int) -> None:
    host = Host()

    def show(position: int, count: int, step: Step) -> None:
        if position == interrupted:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(STEPS, host, host, show)
    done = [c for position in range(interrupted) for c in forwards(position)]
    undone = [c for position in reversed(range(interrupted)) for c in backwards(position)]
    assert host.calls == [*done, *undone]


@pytest.mark.parametrize("call", [0, 1, 2, 3], ids=["begin", "act", "read_back", "done"])
@pytest.mark.parametrize(
    "obstacle", [PliantError("in use"), OSError("in use")], ids=lambda obstacle: type(obstacle).__name__
)
def test_what_cannot_be_undone_is_told_and_the_rest_is_undone(call: int, obstacle: Exception) -> None:
    host = Host({forwards(2)[1]: PliantError("no room"), backwards(1)[call]: obstacle})
    with pytest.raises(PlanFailed) as caught:
        execute(STEPS, host, host)
    assert caught.value.left == ("attach scope to /1 (in use)",)
    assert BEFORE not in caught.value.message
    assert caught.value.message.endswith("; could not be taken back: attach scope to /1 (in use)")
    assert host.calls[-4:] == backwards(0)
    assert "/0" not in host.attached


def test_what_an_interrupt_leaves_is_told_with_it() -> None:
    host = Host({forwards(1)[1]: KeyboardInterrupt(), backwards(0)[1]: PliantError("in use")})
    with pytest.raises(KeyboardInterrupt) as caught:
        execute(STEPS, host, host)
    assert caught.value.__notes__ == ["could not be taken back: attach scope to /0 (in use)"]
    assert host.attached == ["/0"]


def test_a_step_without_an_undo_is_passed_over() -> None:
    steps = [STEPS[0], ForgetProgram("", "scope", "b1"), STEPS[1]]
    host = Host({f"act {STEPS[1].sentence}": PliantError("no room")})
    with pytest.raises(PlanFailed) as caught:
        execute(steps, host, host)
    assert [c for c in host.calls if c.startswith("undo")] == ["undo 2", "undone 2", "undo 0", "undone 0"]
    assert caught.value.left == ()
