# SPDX-License-Identifier: Apache-2.0
"""The steps a plan is made of: data with a sentence, a reason and an undo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pliant.observe.pin_tree import Hook
from pliant.observe.tables import Table


@dataclass(frozen=True, slots=True)
class Step:
    """One change to a host. ``reason`` says why it is part of the plan, in words."""

    reason: str

    @property
    def kind(self) -> str:
        """A short name for scripts and the journal: ``load-object``, ``attach`` and so on."""
        name = type(self).__name__
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")

    @property
    def sentence(self) -> str:
        """What the step does, in one sentence."""
        raise NotImplementedError

    def undo(self) -> Step | None:
        """The step that takes this one back; None where there is nothing to take back."""
        raise NotImplementedError


def _taking_back(step: Step) -> str:
    return f"undo: {step.sentence}"


@dataclass(frozen=True, slots=True)
class LoadObject(Step):
    """Load an object's program into the kernel, have scope call it, and pin it with its maps."""

    object: str
    build: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"load the program {self.object}"

    def undo(self) -> Step:
        """Unload it."""
        return UnloadObject(_taking_back(self), self.object, self.build)


@dataclass(frozen=True, slots=True)
class UnloadObject(Step):
    """Remove an object's pins; the kernel frees the program and its maps. Without a build it was loaded half."""

    object: str
    build: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"unload the program {self.object}"

    def undo(self) -> Step | None:
        """Load it again, its counters at zero; None for what was loaded half, which is of no use to anybody."""
        return LoadObject(_taking_back(self), self.object, self.build) if self.build else None


@dataclass(frozen=True, slots=True)
class ReplaceProgram(Step):
    """Replace a program by that of another build, in place: no connection sees a gap.

    The previous program stays pinned, for undo has to put it back; :class:`ForgetProgram` removes it.
    """

    object: str
    build: str
    previous: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"replace the program {self.object} by this build's"

    def undo(self) -> Step:
        """Put the previous program back."""
        return RestoreProgram(_taking_back(self), self.object, self.previous, self.build)


@dataclass(frozen=True, slots=True)
class RestoreProgram(Step):
    """Put a program that is still pinned back in the place of ``replacement``, and remove that."""

    object: str
    build: str
    replacement: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"put the other build's program {self.object} back"

    def undo(self) -> Step:
        """Replace it again."""
        return ReplaceProgram(_taking_back(self), self.object, self.replacement, self.build)


@dataclass(frozen=True, slots=True)
class ForgetProgram(Step):
    """Remove the pin of a program that has been replaced. Comes after everything that might have to be undone."""

    object: str
    build: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"forget the other build's program {self.object}"

    def undo(self) -> None:
        """None: nothing refers to it any more."""
        return


@dataclass(frozen=True, slots=True)
class WriteTable(Step):
    """Write and delete entries of a map. ``before`` has the old value of each entry touched, None where none was."""

    table: Table
    puts: Mapping[bytes, bytes]
    deletes: frozenset[bytes]
    before: Mapping[bytes, bytes | None]

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        done = []
        if self.puts:
            done.append(f"write {_entries(len(self.puts))}")
        if self.deletes:
            done.append(f"delete {_entries(len(self.deletes))}")
        return f"{' and '.join(done)} of {self.table}"

    def undo(self) -> WriteTable:
        """Write what was there before."""
        return WriteTable(
            _taking_back(self),
            self.table,
            puts={key: value for key, value in self.before.items() if value is not None},
            deletes=frozenset(key for key, value in self.before.items() if value is None),
            before={key: self.puts.get(key) for key in self.before},
        )


@dataclass(frozen=True, slots=True)
class Attach(Step):
    """Attach a program to a cgroup and pin the link."""

    hook: Hook
    cgroup: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"attach {self.hook.program} to {self.cgroup}"

    def undo(self) -> Step:
        """Detach it."""
        return Detach(_taking_back(self), self.hook, self.cgroup)


@dataclass(frozen=True, slots=True)
class Detach(Step):
    """Detach a program from a cgroup and remove the link's pin.

    ``lost`` says that it could not be attached again: the cgroup or the program is gone.
    """

    hook: Hook
    cgroup: str
    lost: bool = False

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"detach {self.hook.program} from {self.cgroup}"

    def undo(self) -> Step | None:
        """Attach it again; None where that cannot be done."""
        return None if self.lost else Attach(_taking_back(self), self.hook, self.cgroup)


@dataclass(frozen=True, slots=True)
class TuneOpen(Step):
    """Bring open connections in line with the tables: give them what policies for them say, or back what they had.

    ``before`` and ``after`` tell what they were and are in line with; see ``tuned`` in scope.bpf.c. ``adopt`` says that
    another build has tuned them: what policies for new connections have given them is taken over.
    """

    before: int
    after: int
    adopt: bool = False

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        if self.adopt:
            return "take open connections over from the other build"
        return "tune open connections" if self.after else "give open connections back what they had"

    def undo(self) -> None:
        """None: what has to be undone first comes before it in the plan; see :class:`RetuneOnUndo`."""
        return


@dataclass(frozen=True, slots=True)
class RetuneOnUndo(Step):
    """Stands before the changes that open connections depend on; does nothing unless these are taken back."""

    before: int
    after: int

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return "remember to tune open connections back, should this fail"

    def undo(self) -> Step:
        """Bring them in line with the tables as they were."""
        return TuneOpen(_taking_back(self), self.after, self.before)


@dataclass(frozen=True, slots=True)
class TakeOver(Step):
    """Have the link of another build's program run this build's, in place, and pin it here.

    No connection is judged by neither of the two, and none by both. Comes when all is there that connections need.
    """

    hook: Hook
    cgroup: str
    layout: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"take {self.hook.program} on {self.cgroup} over from another build (layout {self.layout})"

    def undo(self) -> Step:
        """Give it back."""
        return GiveBack(_taking_back(self), self.hook, self.cgroup, self.layout)


@dataclass(frozen=True, slots=True)
class GiveBack(Step):
    """Have a link that was taken over run the other build's program again, and pin it there."""

    hook: Hook
    cgroup: str
    layout: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"give {self.hook.program} on {self.cgroup} back to the other build (layout {self.layout})"

    def undo(self) -> Step:
        """Take it over again."""
        return TakeOver(_taking_back(self), self.hook, self.cgroup, self.layout)


@dataclass(frozen=True, slots=True)
class CarryCounters(Step):
    """Move what another build of Pliant has counted, under its own layout, to what this one counts.

    Comes when nothing is counted there any more, and nothing that might fail comes after it but the end of that layout.
    """

    layout: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"carry over what another build has counted (layout {self.layout})"

    def undo(self) -> None:
        """None: only the other build's end comes after it."""
        return


@dataclass(frozen=True, slots=True)
class RetireLayout(Step):
    """Detach and unload what another build of Pliant left under its own layout. Always the last step of a plan."""

    layout: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"retire the programs of another build (layout {self.layout})"

    def undo(self) -> Step | None:
        """None: nothing comes after it, and its failure leaves both builds doing the same."""
        return None


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count:,} entries"
