# SPDX-License-Identifier: Apache-2.0
"""One host: policies in, kernel changed, every change journalled, read back and reversible."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from pliant.agent.actuator import Ground, KernelActuator
from pliant.agent.audit_trail import AuditTrail
from pliant.agent.change import Applied, Change, Policies
from pliant.agent.checks import (
    check_controls,
    check_hooks,
    check_host,
    check_reach,
    check_services,
    check_switched_off,
    check_switched_on,
    check_values,
)
from pliant.agent.fastpath import FastpathGround, check_fastpaths
from pliant.agent.lock import host_lock
from pliant.agent.off_mark import clear_mark, with_mark
from pliant.agent.origin import Origin
from pliant.agent.places import Places
from pliant.agent.sysctls import Surroundings, check_sysctls, sysctl_policies, wanted_sysctls
from pliant.closing import Closable
from pliant.errors import PliantError
from pliant.fastpath.target import FastpathTarget
from pliant.features import catalogue, hooked
from pliant.features.controls import wanted_controls
from pliant.features.encoding import Encoder, live_digest
from pliant.features.layout import shipped_layout
from pliant.kernel import cgroups
from pliant.kernel.errors import KernelError
from pliant.kernel.iterators import run_in_namespaces
from pliant.kernel.namespaces import Namespaces
from pliant.observe.pin_tree import PinTree
from pliant.observe.reader import read_state
from pliant.observe.state import HostState
from pliant.observe.sysctls import SysctlState, read_sysctls
from pliant.plan.executor import PlanFailed, Progress, execute
from pliant.plan.fastpath import accelerations, superseded
from pliant.plan.planner import Target, plan
from pliant.plan.steps import Step
from pliant.policy.compile import Compiled, compile_policies
from pliant.policy.desired import SCOPE, DesiredState
from pliant.policy.documents import policy_from_document
from pliant.policy.fastpath import FastpathPolicy, fastpath_policies
from pliant.policy.model import Policy, of_connections
from pliant.policy.numbering import Numbering
from pliant.policy.switches import Switch, Switches, named
from pliant.policy.sysctls import SysctlKey, SysctlPolicy
from pliant.store.generations import NOTHING_YET, Generation, State, StoredPolicy
from pliant.store.holdings import Holdings
from pliant.store.journal import GenerationJournal, Journal

LOCK_TIMEOUT_S = 10.0
READ_AGAIN = 3  # times, without the lock


class Host(Closable):
    """The host this process runs on.

    Reading needs no lock; whatever changes the host takes it, and first settles what an interrupted change left.
    All methods raise :class:`PliantError` with a sentence and a remedy, and then have changed nothing, or have taken
    back what they changed. ``agent`` says that this is the agent: others wait a little longer for its short holds.
    """

    def __init__(
        self, places: Places | None = None, *, lock_timeout_s: float = LOCK_TIMEOUT_S, agent: bool = False
    ) -> None:
        self.places = places or Places()
        self.lock_timeout_s = lock_timeout_s
        self.agent = agent
        self._journal: Journal | None = None
        self._encoder: Encoder | None = None
        self.fastpath = FastpathGround(self.places.pins)

    def close(self) -> None:
        """Close the journal."""
        if self._journal:
            self._journal.close()
            self._journal = None

    # -- reading

    @property
    def journal(self) -> Journal:
        """The journal, for reading until a change opens it for writing."""
        if self._journal is None:
            self._journal = Journal(self.places.state, read_only=True)
        return self._journal

    @cached_property
    def cgroup_root(self) -> Path:
        """Where cgroup v2 is mounted."""
        return self.places.cgroup_root or cgroups.find_root()

    def cgroups(self) -> dict[str, int]:
        """All cgroups of the host: path from the root of the hierarchy to id."""
        return {cgroup.path: cgroup.id for cgroup in cgroups.walk(self.cgroup_root)}

    @property
    def pins(self) -> PinTree:
        """Where this build pins what it loads."""
        return PinTree(self.places.pins, shipped_layout().digest)

    def observe(self, known: Mapping[str, int] | None = None) -> HostState:
        """What of ours is in the kernel."""
        ids = frozenset((known if known is not None else self.cgroups()).values())
        layout = shipped_layout()
        for _ in range(READ_AGAIN):
            with contextlib.suppress(
                FileNotFoundError, KernelError
            ):  # another process is changing it just now
                return read_state(self.pins, layout.slots, ids.__contains__, layout.builds)
        return read_state(self.pins, layout.slots, ids.__contains__, layout.builds)

    def policies(self, generation: int | None = None) -> dict[str, Policy]:
        """The transport policies of a generation by name; of the one in force when none is given."""
        found = self._all_policies(self.journal.current() if generation is None else generation)
        return {policy.name: policy for policy in of_connections(found.values())}

    def sysctl_policies(self) -> dict[str, SysctlPolicy]:
        """The policies of sysctls in force, by name."""
        return {p.name: p for p in sysctl_policies(self._all_policies(self.journal.current()).values())}

    def fastpath_policies(self) -> dict[str, FastpathPolicy]:
        """The policies of the fast path in force, by name."""
        return {p.name: p for p in fastpath_policies(self._all_policies(self.journal.current()).values())}

    def _all_policies(self, generation: int) -> dict[str, Policy]:
        return _parsed(self.journal.policies(generation))

    def surroundings(self, known: Mapping[str, int] | None = None) -> Surroundings:
        """The host's cgroups and network namespaces. Raises :class:`NotSupported` before Linux 5.14."""
        return Surroundings(self.cgroups() if known is None else known, self.cgroup_root, Namespaces())

    def names(self) -> list[str]:
        """The names of the policies in force, also of such that this build cannot read."""
        return list(self.journal.policies(self.journal.current()))

    def compile(self, policies: Policies | None = None) -> Compiled:
        """What policies compile to on this host now; those in force when none are given."""
        chosen = self._all_policies(self.journal.current()) if policies is None else policies
        numbering = self.journal.numbering(self.journal.current())
        return self._compiled(list(chosen.values()), self.cgroups(), numbering, self.switches())

    def _compiled(
        self,
        policies: Sequence[Policy],
        known: Mapping[str, int],
        numbering: Numbering,
        off: Switches,
        *,
        strict: bool = False,
    ) -> Compiled:
        compiled = compile_policies(policies, known, numbering, strict=strict, hooked=hooked(), off=off)
        return self.with_sysctls(compiled, policies, known, off, strict=strict)

    def with_sysctls(
        self,
        compiled: Compiled,
        policies: Iterable[Policy],
        known: Mapping[str, int],
        off: Switches,
        *,
        strict: bool = False,
    ) -> Compiled:
        """What policies compiled to, and the sysctls that they set in the network namespaces there are."""
        chosen = sysctl_policies(policies)
        if not chosen:
            return compiled
        surroundings = self.surroundings(known)
        wanted = wanted_sysctls(chosen, compiled.numbering, off, surroundings, strict=strict)
        return replace(compiled, desired=replace(compiled.desired, sysctls=wanted))

    def switches(self) -> Switches:
        """What is switched off, in the journal or, where that could not be written, beside it."""
        return with_mark(self.journal.switches(self.journal.current()), self.places.state)

    def drift(self) -> tuple[Step, ...]:
        """The steps that would make the kernel what the journal says; empty when it is."""
        return self.change_to_repair().plan

    # -- working out

    def change_to_repair(self, *, reason: str = "") -> Change:
        """The change that makes the kernel what the policies in force ask for, and changes no policy."""
        return self._switched("repair", reason, self.switches())

    def change_to_apply(
        self,
        policies: Iterable[Policy],
        *,
        reason: str = "",
        allow_waiting: bool = False,
        prune: bool = False,
    ) -> Change:
        """The change that adds policies or replaces those of the same names.

        ``allow_waiting`` accepts policies whose service is not on this host yet; ``prune`` takes all others away.
        """
        given = {policy.name: policy for policy in policies}
        before = self.journal.policies(self.journal.current())
        known = self.cgroups()
        transport = of_connections(given.values())
        check_reach(transport)
        check_values(transport)
        if not allow_waiting:
            check_services([p for p in given.values() if not isinstance(p, FastpathPolicy)], known)
        if of_sysctls := sysctl_policies(given.values()):
            check_sysctls(of_sysctls, self.surroundings(known))
        kept = {} if prune else _parsed({name: p for name, p in before.items() if name not in given})
        change = self._change("apply", reason, before, kept | given, known, strict=True)
        if of_fastpath := fastpath_policies(given.values()):
            wishes = change.compiled.desired.fastpath
            arrangements = self.fastpath.arrangements(wishes)
            check_fastpaths(of_fastpath, wishes, arrangements, allow_waiting=allow_waiting)
        return change

    def change_to_delete(self, names: Sequence[str], *, reason: str = "") -> Change:
        """The change that takes policies away."""
        before = self.journal.policies(self.journal.current())
        unknown = [name for name in names if name not in before]
        if unknown:
            listed = ", ".join(f"'{name}'" for name in unknown)
            raise PliantError(f"there is no policy {listed}", remedy="'pliant get' lists those there are")
        kept = {name: policy for name, policy in before.items() if name not in names}
        return self._change("delete", reason, before, _parsed(kept), self.cgroups())

    def change_to_off(
        self, names: Sequence[str] = (), services: Sequence[str] = (), *, reason: str = "", actor: str
    ) -> Change:
        """The change that switches policies or services off; everything of ours when none are given.

        Policies that are off need not even be readable: switching everything off always can be worked out.
        """
        off = self.switches()
        things = named(names, services)
        check_switched_off(things, off, self.journal.policies(self.journal.current()), self.cgroups())
        now = time.time()
        switches = (Switch(what, reason, actor, now) for what in things)
        return self._switched("off", reason, off.turned_off(switches))

    def change_to_on(
        self, names: Sequence[str] = (), services: Sequence[str] = (), *, reason: str = ""
    ) -> Change:
        """The change that undoes :meth:`change_to_off` of the same things, with the policies as they are by now."""
        off = self.switches()
        things = named(names, services)
        check_switched_on(things, off)
        return self._switched("on", reason, off.turned_on(things))

    def _switched(self, verb: str, reason: str, off: Switches) -> Change:
        """The change to the policies as they are, with some of them off: those are not looked at."""
        current = self.journal.current()
        before = self.journal.policies(current)
        on = _parsed({name: policy for name, policy in before.items() if not off.of_policy(name)})
        known = self.cgroups()
        numbering = self.journal.numbering(current)
        compiled = self._compiled(list(on.values()), known, numbering, off)
        stored = {**before, **_stored(on, compiled.numbering, before)}
        steps = self.plan_towards(compiled.desired, known)
        return Change(verb, reason, before, stored, compiled, steps, self.switches(), off)

    def change_to_rollback(self, generation: int | None = None, *, reason: str = "") -> Change:
        """The change that brings back the policies of a generation; of the one before when none is given."""
        current = self.journal.current()
        if generation is None:
            if current == NOTHING_YET:
                raise PliantError("nothing was applied yet, so there is nothing to roll back to")
            held = self.journal.generation(current)
            generation = held.parent if held else NOTHING_YET
        found = self.journal.generation(generation)
        if generation != NOTHING_YET and (found is None or found.state is not State.APPLIED):
            raise PliantError(
                f"there is no applied generation {generation}",
                remedy="'pliant history' lists those there are",
            )
        before, after = self.journal.policies(current), self.journal.policies(generation)
        why = reason or f"back to generation {generation}"
        return self._change("rollback", why, before, _parsed(after), self.cgroups())

    def _change(
        self,
        verb: str,
        reason: str,
        before: Mapping[str, StoredPolicy],
        after: Policies,
        known: Mapping[str, int],
        *,
        strict: bool = False,
    ) -> Change:
        numbering = self.journal.numbering(self.journal.current())
        off = self.switches()
        compiled = self._compiled(list(after.values()), known, numbering, off, strict=strict)
        stored = _stored(after, compiled.numbering, before)
        steps = self.plan_towards(compiled.desired, known)
        return Change(verb, reason, before, stored, compiled, steps, off, off)

    def plan_towards(
        self, desired: DesiredState, known: Mapping[str, int], found: HostState | None = None
    ) -> tuple[Step, ...]:
        """The steps to a desired state, from what is in the kernel, or from what is known to be there."""
        layout = shipped_layout()
        if self._encoder is None or self._encoder.layout is not layout:
            self._encoder = Encoder(layout)
        tables = self._encoder.encode(desired)
        target = Target(
            builds={name: layout.builds[name] for name in desired.programs},
            tables=tables,
            attachments=desired.attachments,
            tuned=live_digest(desired, tables),
            controls=wanted_controls(desired),
            sysctls=desired.sysctls,
            fastpath=self.fastpath.target(desired.fastpath),
        )
        found = found or self.observe(known)
        found = replace(found, sysctls=self._found_sysctls(desired), fastpath=self.fastpath.found())
        return plan(found, target, {number: path for path, number in known.items()})

    def plan_fastpath(self, target: FastpathTarget) -> tuple[Step, ...]:
        """The steps to a fast path, from what of it is in the kernel; nothing else is looked at."""
        found = self.fastpath.found()
        return (*accelerations(found, target), *superseded(found, target))

    def _found_sysctls(self, desired: DesiredState) -> dict[SysctlKey, SysctlState]:
        """What the sysctls that are ours or are to be are now."""
        holdings = Holdings(self.places.state).all()
        return read_sysctls(desired.sysctls, holdings, Namespaces()) if holdings or desired.sysctls else {}

    # -- changing

    @contextlib.contextmanager
    def exclusively(self, *, to_switch_off: bool = False) -> Iterator[None]:
        """Hold the host's lock, with the journal open for writing and an interrupted change settled.

        For whoever will switch everything off it is settled in the journal alone: whatever it left in the kernel is
        about to go.
        """
        check_host(self.places)
        with host_lock(self.places.state, self.lock_timeout_s, agent=self.agent):
            if not (self.agent and self._journal and self._journal.writable):
                self.close()
                self._journal = Journal(self.places.state)
            self._settle(in_kernel=not to_switch_off)
            AuditTrail(self._journal, self.places.state).settle(Origin.of_this_process())
            yield

    def check(self, change: Change) -> None:
        """Raise what would keep the change from being made, without making it."""
        check_host(self.places)
        check_hooks(change.plan, self.cgroup_root)
        check_controls(change.plan)

    def carry_out(
        self,
        change: Change,
        *,
        actor: str,
        progress: Progress | None = None,
        origin: Origin | None = None,
    ) -> Applied:
        """Make a change that was worked out under the same lock, asked for by ``origin`` (else by this process)."""
        if change.is_empty:
            return Applied(change, self.journal.current())
        self.check(change)
        trail = AuditTrail(self.journal, self.places.state)
        with trail.change(change, actor, origin or Origin.of_this_process()):
            return Applied(change, self._carry_out(change, actor, progress))

    def _carry_out(self, change: Change, actor: str, progress: Progress | None) -> int:
        journal = self.journal
        next_number = change.compiled.numbering.next_number
        generation = journal.start(
            change.verb,
            change.reason,
            actor,
            change.after,
            next_number,
            len(change.plan),
            change.off_after,
        )
        try:
            execute(change.plan, self.actuator(), generation, progress)
        except BaseException as error:
            if not (isinstance(error, PlanFailed) and error.left):  # what is left, the next change settles
                journal.abandon(generation.number)
            raise
        journal.finish(generation.number)
        if not change.off_after.host:
            clear_mark(self.places.state)
        return generation.number

    def _settle(self, *, in_kernel: bool = True) -> None:
        """Bring the host to one of two generations after a change whose process died: see :meth:`settled_to`."""
        interrupted = self.journal.interrupted()
        if interrupted is None:
            return
        target = self.settled_to(interrupted)
        if in_kernel:
            self._settle_in_kernel(interrupted, target)
        if target == interrupted.number:
            self.journal.finish(interrupted.number)
        else:
            self.journal.abandon(interrupted.number)

    def _settle_in_kernel(self, interrupted: Generation, target: int) -> None:
        off = with_mark(self.journal.switches(target), self.places.state)
        stored = {n: p for n, p in self.journal.policies(target).items() if not off.of_policy(n)}
        known = self.cgroups()
        numbering = self.journal.numbering(target)
        policies = list(_parsed(stored).values())
        compiled = self._compiled(policies, known, numbering, off)
        self.journal.reserve_numbers(compiled.numbering.next_number)
        steps = self.plan_towards(compiled.desired, known)
        execute(steps, self.actuator(), _Settling(self.journal, interrupted))

    def settled_to(self, interrupted: Generation) -> int:
        """The generation an interrupted one is settled to: itself if every step was done, else the one before."""
        records = self.journal.steps(interrupted.number)
        done = sum(record.state == "done" for record in records if not record.undo)
        taken_back = any(record.undo for record in records)
        return interrupted.number if done == interrupted.steps and not taken_back else interrupted.parent

    def sample_long_connections(self) -> None:
        """Record what measured connections have come to that have been open for long; to be done from time to time.

        Each is recorded once, so it does not matter how often. Nothing else on the host is changed.
        """
        pins = self.pins
        found = (pins.part(SCOPE, "sample", build) for build in pins.builds(SCOPE)[-1:])
        run_in_namespaces([pin for pin in found if pin.exists()])

    def actuator(self) -> KernelActuator:
        """What takes steps on this host."""
        key, holdings = self.journal.holdout_key, Holdings(self.places.state)
        return KernelActuator(Ground(self.pins, shipped_layout(), self.cgroup_root, key, holdings))


class _Settling(GenerationJournal):
    """Journals the steps that settle an interrupted generation, after those it took itself."""

    def __init__(self, journal: Journal, interrupted: Generation) -> None:
        super().__init__(journal, interrupted.number)
        self._first = interrupted.steps

    def begin(self, position: int, step: Step, *, undo: bool = False) -> None:
        """Record that the step is about to be taken."""
        super().begin(self._first + position, step, undo=True)

    def done(self, position: int, *, undo: bool = False) -> None:
        """Record that the step was taken and read back."""
        super().done(self._first + position, undo=True)


def _parsed(stored: Mapping[str, StoredPolicy]) -> dict[str, Policy]:
    return {
        name: policy_from_document(json.loads(policy.document), f"stored policy {name}", catalogue())
        for name, policy in stored.items()
    }


def _stored(
    policies: Policies, numbering: Numbering, before: Mapping[str, StoredPolicy]
) -> dict[str, StoredPolicy]:
    result = {}
    for name, policy in policies.items():
        numbered = numbering.numbers[name]
        document = json.dumps(policy.to_document(), separators=(",", ":"))
        held = before.get(name)
        same = held is not None and held.document == document and held.number == numbered.number
        result[name] = (
            held if held and same else StoredPolicy(name, numbered.number, numbered.digest, document)
        )
    return result
