# SPDX-License-Identifier: Apache-2.0
"""Keeping the kernel as the policies in force ask for, while services come and go and others meddle.

What was parsed, compiled and found is kept from one look to the next, so that a service that appears costs what is
different about it and not what there is. A look at the kernel itself, which trusts nothing of this, comes from time to
time and whenever something went wrong.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from pliant.agent.adjustment_notes import AdjustmentNotes
from pliant.agent.audit_trail import AuditTrail
from pliant.agent.checks import check_hooks
from pliant.agent.host import Host
from pliant.agent.lock import HostBusy
from pliant.agent.off_mark import with_mark
from pliant.agent.sysctls import said_of_foreign, sysctl_policies, sysctl_statuses
from pliant.errors import PliantError
from pliant.fastpath.target import FastpathTarget
from pliant.features import catalogue, hooked
from pliant.kernel.cgroup_watch import CgroupWatch
from pliant.observe.state import HostState
from pliant.plan.executor import PlanFailed, Progress, execute
from pliant.plan.fastpath import STEPS as FASTPATH_STEPS
from pliant.plan.steps import Attach, Detach, RetuneOnUndo, Step, TuneOpen, WriteTable
from pliant.plan.sysctls import SetSysctl
from pliant.policy.compile import Compiled, Compiler
from pliant.policy.documents import policy_from_document
from pliant.policy.fastpath import Wishes
from pliant.policy.model import Policy, of_connections
from pliant.policy.numbering import Numbering
from pliant.policy.services import lying_within, matching_cgroups
from pliant.policy.switches import ALL_ON, Switches
from pliant.policy.sysctls import SysctlPolicy
from pliant.store.journal import Journal

ATTEMPTS = 3  # at one adjustment, while services go away under it
MOST_REFUSALS = 16  # interfaces at a time, on which the kernel takes no program
ACTOR = "agent"


class Cause(Enum):
    """Why the host is looked at; the values are for the journal.

    In order: a later one covers those before it, but that services do not cover the network.
    """

    NETWORK = "the network is configured otherwise"
    SERVICES = "services came or went"
    POLICIES = "another generation is in force"
    CHECK = "the regular look at the kernel"
    REQUEST = "somebody asked for it"
    START = "the agent has started"


class State(Enum):
    """How a look ended."""

    SAME = "same"
    ADJUSTED = "adjusted"
    BUSY = "busy"


@dataclass(frozen=True, slots=True)
class Refused:
    """A service whose hook belongs to somebody else; ``sentence`` says to whom."""

    cgroup: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a look found and did. ``attached`` and ``detached`` are paths of cgroups; times are in seconds.

    ``foreign`` has a sentence for each sysctl that somebody else has set since it was ours.
    """

    cause: Cause
    state: State
    seconds: float = 0.0
    steps: tuple[Step, ...] = ()
    attached: tuple[str, ...] = ()
    detached: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InForce:
    """The policies in force, parsed, but for those that are switched off; and the services that policies are for."""

    generation: int
    policies: Sequence[Policy]
    numbering: Numbering
    compiler: Compiler
    patterns: frozenset[str]
    off: Switches = ALL_ON
    sysctls: Sequence[SysctlPolicy] = ()


@dataclass
class Reconciler:
    """Adjusts one host. ``journal`` is open for writing; ``services`` is kept up to date by whoever calls."""

    host: Host
    services: CgroupWatch
    journal: Journal
    progress: Progress | None = None
    _in_force: InForce | None = field(default=None, init=False)
    _parsed: dict[str, Policy] = field(default_factory=dict, init=False)
    _found: HostState | None = field(default=None, init=False)
    _followed: FastpathTarget | None = field(default=None, init=False)
    _matched: Mapping[str, int] = field(default_factory=dict, init=False)
    _names: dict[int, str] = field(default_factory=dict, init=False)
    _refused: dict[int, Refused] = field(default_factory=dict, init=False)
    _notes: AdjustmentNotes = field(default_factory=AdjustmentNotes, init=False)

    @property
    def generation(self) -> int:
        """The generation that the kernel was last made to agree with."""
        return self._in_force.generation if self._in_force else 0

    @property
    def attached(self) -> frozenset[int]:
        """The ids of the cgroups that scope is on, as last known."""
        return frozenset(hook.cgroup_id for hook in self._found.attachments) if self._found else frozenset()

    @property
    def wishes(self) -> Wishes:
        """What policies of the fast path in force ask for."""
        return self._in_force.compiler.wishes if self._in_force else Wishes()

    @property
    def measures(self) -> bool:
        """Whether a policy in force is measured."""
        return self._in_force is not None and any(policy.is_measured for policy in self._in_force.policies)

    def names(self) -> dict[int, str]:
        """The policies in force by their numbers."""
        numbering = self._in_force.numbering.numbers if self._in_force else {}
        return {numbered.number: name for name, numbered in numbering.items()}

    def measured(self) -> dict[int, Policy]:
        """The policies in force that hold connections out, by their numbers."""
        if not self._in_force:
            return {}
        numbers = self._in_force.numbering.numbers
        return {numbers[p.name].number: p for p in self._in_force.policies if p.holdout_ppm}

    def policy_counts(self) -> tuple[int, int]:
        """How many policies in force have a service on this host, and how many wait for theirs."""
        if not self._in_force:
            return 0, 0
        excluded = lying_within(self._in_force.off.services, self._matched)
        here = matching_cgroups(self._in_force.patterns, self._matched.keys() - excluded)
        seen = {pattern for found in here.values() for pattern in found}
        active = sum(policy.spec.match.service in seen for policy in self._in_force.policies)
        return active, len(self._in_force.policies) - active

    def forget(self) -> None:
        """Read everything again the next time."""
        self._in_force, self._found, self._matched = None, None, {}
        self._parsed.clear()

    def reconcile(self, cause: Cause) -> Outcome:
        """Look, and where something differs adjust it.

        Raises :class:`PliantError` when it could not be done; then nothing is half done, and nothing that was known is
        relied on the next time.
        """
        started = time.monotonic()
        try:
            outcome = self._reconcile(cause)
        except HostBusy:
            self._found = None
            return Outcome(cause, State.BUSY)
        except PliantError:
            self._found, self._matched = None, {}
            raise
        return replace(outcome, seconds=time.monotonic() - started, foreign=self._foreign(cause))

    def _foreign(self, cause: Cause) -> tuple[str, ...]:
        if cause in (Cause.SERVICES, Cause.NETWORK) or not (self._in_force and self._in_force.sysctls):
            return ()
        return tuple(said_of_foreign(s) for s in sysctl_statuses(self.host) if s.state == "foreign")

    def record_adjustments(self) -> None:
        """Record in the audit log what was adjusted and is not in it yet; left for the next time if it cannot be."""
        if self._notes.is_empty:
            return
        with contextlib.suppress(PliantError), self.host.exclusively():
            self._record_adjustments()

    def _record_adjustments(self) -> None:
        trail = AuditTrail(self.journal, self.host.places.state)
        with contextlib.suppress(PliantError):
            self._notes.record(trail, self.generation)

    def _reconcile(self, cause: Cause) -> Outcome:
        if cause is Cause.NETWORK:
            return self._follow(cause)
        if cause is not Cause.SERVICES:
            self._found = self._followed = None
            self._refused.clear()
        unsettled = self.journal.interrupted() is not None
        if not unsettled:
            in_force = self._load()
            matched = self._match(in_force)
            known_well = cause is Cause.SERVICES and self._found is not None
            if known_well and matched == self._matched:
                return Outcome(cause, State.SAME)
            if not known_well and not self._plan(self._compile(in_force)):
                self._keep(matched)
                if self._notes.is_due:
                    self.record_adjustments()
                return Outcome(cause, State.SAME)
        with self.host.exclusively():  # settles what was interrupted
            return self._adjust(cause)

    def _follow(self, cause: Cause) -> Outcome:
        """Adjust the fast path alone: the rest does not depend on how the network is configured."""
        if self.journal.interrupted() is not None:
            return self._reconcile(Cause.CHECK)
        for _ in range(MOST_REFUSALS):
            in_force = self._load()
            target = self.host.fastpath.target(in_force.compiler.wishes)
            if target == self._followed:
                return Outcome(cause, State.SAME)
            self._followed = None
            with self.host.exclusively():
                if self._load() is not in_force:
                    continue
                plan = self.host.plan_fastpath(target)
                try:
                    self._carry_out(cause, in_force, plan)
                except PlanFailed as failed:
                    if not self.host.fastpath.yield_to(failed):
                        raise
                    continue
                self._followed = target
                self._found = _after(self._found, plan)
                if plan:
                    self._notes.add(cause.value, len(plan), (), ())
                if self._notes.is_due:
                    self._record_adjustments()
                return Outcome(cause, State.ADJUSTED if plan else State.SAME, 0.0, plan)
        raise PliantError("the fast path changes too quickly to follow", remedy="it is tried again")

    # -- what is in force, and where

    def _load(self) -> InForce:
        generation = self.journal.current()
        off = with_mark(self.journal.switches(generation), self.host.places.state)
        if self._in_force and (self._in_force.generation, self._in_force.off) == (generation, off):
            return self._in_force
        stored = {n: p for n, p in self.journal.policies(generation).items() if not off.of_policy(n)}
        documents = {policy.document for policy in stored.values()}
        self._parsed = {text: policy for text, policy in self._parsed.items() if text in documents}
        for name, policy in stored.items():
            if policy.document not in self._parsed:
                parsed = policy_from_document(
                    json.loads(policy.document), f"stored policy {name}", catalogue()
                )
                self._parsed[policy.document] = parsed
        everything = [self._parsed[policy.document] for policy in stored.values()]
        of_sysctls = sysctl_policies(everything)
        policies = of_connections(everything)
        patterns = off.services.union(policy.spec.match.service for policy in policies)
        patterns |= {policy.service for policy in of_sysctls if policy.service}
        numbering = self.journal.numbering(generation)
        numbers = {name: numbered for name, numbered in numbering.numbers.items() if name in stored}
        numbering = replace(numbering, numbers=numbers)
        compiler = Compiler(everything, numbering, strict=False, hooked=hooked(), off=off)
        self._in_force = InForce(generation, policies, numbering, compiler, patterns, off, of_sysctls)
        self._found = None
        return self._in_force

    def _match(self, in_force: InForce) -> dict[str, int]:
        """The cgroups that policies are for, and their ids."""
        known = self.services.known
        return {path: known[path] for path in matching_cgroups(in_force.patterns, known)}

    def _compile(self, in_force: InForce) -> Compiled:
        known = self._allowed()
        return self.host.with_sysctls(in_force.compiler.compile(known), in_force.sysctls, known, in_force.off)

    def _allowed(self) -> dict[str, int]:
        known = self.services.known
        return {path: i for path, i in known.items() if i not in self._refused} if self._refused else known

    def _plan(self, compiled: Compiled) -> tuple[Step, ...]:
        known = self._allowed()
        if self._found is None:
            self._found = self.host.observe(known)
        ids = frozenset(known.values())
        gone = frozenset(hook for hook in self._found.attachments if hook.cgroup_id not in ids)
        found = replace(
            self._found, attachments=self._found.attachments - gone, stale=self._found.stale | gone
        )
        return self.host.plan_towards(compiled.desired, known, found)

    # -- adjusting, with the lock in hand

    def _adjust(self, cause: Cause) -> Outcome:
        self._followed = None  # what is planned here takes the network in as well
        refused: list[Refused] = []
        for attempt in range(1, ATTEMPTS + MOST_REFUSALS + 1):
            in_force = self._load()
            compiled = self._compile(in_force)
            if compiled.numbering != in_force.numbering:
                return self._renumber(cause)
            plan = self._plan(compiled)
            newly = self._refusals(plan)
            if newly:
                refused += newly
                continue
            try:
                self._carry_out(cause, in_force, plan)
            except PlanFailed as failed:
                self._found = None
                if self.host.fastpath.yield_to(failed):
                    continue
                if attempt >= ATTEMPTS or not self.services.rescan():
                    raise
                continue
            return self._done(cause, in_force, plan, refused)
        raise PliantError("services come and go too quickly to follow", remedy="it is tried again")

    def _refusals(self, plan: Sequence[Step]) -> list[Refused]:
        """The services in the plan whose hook belongs to somebody else: they are left out from now on."""
        found = []
        for step in plan:
            if isinstance(step, Attach) and step.hook.cgroup_id not in self._refused:
                try:
                    check_hooks([step], self.services.root)
                except PliantError as error:
                    self._refused[step.hook.cgroup_id] = Refused(step.cgroup, error.message)
                    found.append(self._refused[step.hook.cgroup_id])
        return found

    def _carry_out(self, cause: Cause, in_force: InForce, plan: Sequence[Step]) -> None:
        if not plan:
            return
        record = self.journal.adjustments.begin(in_force.generation, cause.value, plan)
        try:
            execute(plan, self.host.actuator(), record, self.progress)
        except BaseException:
            record.abandon()
            raise
        record.finish()

    def _done(
        self, cause: Cause, in_force: InForce, plan: tuple[Step, ...], refused: Sequence[Refused]
    ) -> Outcome:
        detached = self._paths(step.hook.cgroup_id for step in plan if isinstance(step, Detach))
        attached = tuple(dict.fromkeys(step.cgroup for step in plan if isinstance(step, Attach)))
        self._found = _after(self._found, plan)
        self._keep(self._match(in_force))
        state = State.ADJUSTED if plan else State.SAME
        if plan:
            self._notes.add(cause.value, len(plan), attached, detached)
        if self._notes.is_due:
            self._record_adjustments()
        return Outcome(cause, state, 0.0, plan, attached, detached, tuple(refused))

    def _keep(self, matched: Mapping[str, int]) -> None:
        self._matched = matched
        self._names = {number: path for path, number in matched.items()}

    def _paths(self, numbers: Iterable[int]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._names.get(number, f"cgroup {number} (gone)") for number in numbers))

    def _renumber(self, cause: Cause) -> Outcome:
        """This build encodes a policy in another way than the one that applied it: that makes a generation."""
        change = self.host.change_to_repair(reason="this build of Pliant encodes policies differently")
        applied = self.host.carry_out(change, actor=ACTOR, progress=self.progress)
        self._found = None
        plan = applied.change.plan
        return Outcome(cause, State.ADJUSTED, steps=plan)


def _after(found: HostState | None, plan: Sequence[Step]) -> HostState | None:
    """What is in the kernel after a plan; None, which is to look, when it has done more than a service asks for."""
    if found is None:
        return None
    tables = dict(found.tables)
    attachments, stale, tuned = set(found.attachments), set(found.stale), found.tuned
    for step in plan:
        if isinstance(step, WriteTable) and step.table in tables:
            entries = {**tables[step.table], **step.puts}
            for key in step.deletes:
                entries.pop(key, None)
            tables[step.table] = entries
        elif isinstance(step, Attach):
            attachments.add(step.hook)
        elif isinstance(step, Detach):
            attachments.discard(step.hook)
            stale.discard(step.hook)
        elif isinstance(step, TuneOpen):
            tuned = step.after
        elif not isinstance(step, (RetuneOnUndo, SetSysctl, *FASTPATH_STEPS)):
            return None
    return replace(
        found, tables=tables, attachments=frozenset(attachments), stale=frozenset(stale), tuned=tuned
    )
