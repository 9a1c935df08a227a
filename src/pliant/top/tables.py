# SPDX-License-Identifier: Apache-2.0
"""The tables of a look at a host: columns, cells, what each is sorted by, and which ones a narrow screen has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pliant.agent.connections import Seen
from pliant.cli import connections as of_connection
from pliant.cli.connections import Column, number, text
from pliant.observe.lift import Comparison, Scale
from pliant.policy.units import format_share
from pliant.top.frame import ArmLine, Frame, PolicyLine


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a frame; ``key`` names a row from one look to the next, ``nothing`` is said where there is none."""

    name: str
    columns: Sequence[Column]
    rows: Callable[[Frame], Iterable[Any]]
    key: Callable[[Any], str]
    nothing: str

    def shown(self, width: int) -> list[Column]:
        """The columns that a screen of this width has."""
        return [column for column in self.columns if width >= column.from_width]

    def chosen(self, frame: Frame, needle: str = "") -> list[Any]:
        """The rows whose cells contain a text, in any case; all where it is empty."""
        rows = list(self.rows(frame))
        if not needle:
            return rows
        wanted = needle.casefold()
        return [row for row in rows if any(wanted in c.cell(row).casefold() for c in self.columns)]


def _per_second(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _tune(line: PolicyLine) -> str:
    spec = line.status.policy.to_document()["spec"]
    return ",".join(f"{option}={value}" for option, value in spec["tune"].items())


POLICIES = Table(
    "policies",
    (
        text("policy", lambda line: line.status.policy.name),
        text("state", lambda line: line.status.state),
        number("treated/s", lambda line: line.rates.treated, _per_second),
        number("held out/s", lambda line: line.rates.held_out, _per_second),
        number("open", lambda line: line.winning),
        number("treated", lambda line: line.status.arms.treated),
        number("held out", lambda line: line.status.arms.held_out),
        number("holdout", lambda line: line.status.policy.holdout_ppm, format_share, from_width=110),
        number("priority", lambda line: line.status.policy.priority, from_width=110),
        text("service", lambda line: line.status.policy.spec.match.service, from_width=110),
        text("role", lambda line: line.status.policy.spec.match.role, from_width=110),
        text("sets", _tune, from_width=110),
    ),
    lambda frame: frame.policies,
    lambda line: str(line.status.policy.name),
    "no policy is in force",
)

SERVICES = Table(
    "services",
    (
        text("service", lambda line: line.status.name),
        number("open", lambda line: line.connections),
        text("policies", lambda line: ",".join(line.status.policies) or "-"),
        text("programs", lambda line: ",".join(line.status.programs) or "-", from_width=110),
        text("cgroup", lambda line: line.status.cgroup, from_width=110),
    ),
    lambda frame: frame.services,
    lambda line: str(line.status.cgroup),
    "no service of this host has a policy",
)


def connection_key(seen: Seen) -> str:
    """A name of an open connection that no other has, for as long as it is open."""
    return f"{seen.connection.namespace.number} {seen.connection.socket.cookie}"


CONNECTIONS = Table(
    "connections",
    of_connection.COLUMNS,
    lambda frame: frame.connections,
    connection_key,
    "no service with a policy has an open connection",
)


def _value(comparison: Comparison, value: float | None) -> str:
    if value is None:
        return "-"
    unit = comparison.question.unit
    if unit == "us":
        return of_connection.duration(value)
    if unit == "bytes/s":
        return of_connection.rate(round(value))
    return f"{value:.2%}" if unit == "share" else f"{value:,.0f}"


def _lift(line: ArmLine) -> str:
    effect = line.comparison.effect
    if effect is None:
        return "-"
    points = " points" if line.comparison.question.scale is Scale.POINTS else "%"
    return f"{effect.estimate * 100:+.1f}{points} ({effect.low * 100:+.1f} to {effect.high * 100:+.1f})"


def _metric(line: ArmLine) -> str:
    asked = line.comparison.question
    return asked.metric.replace("_", " ") + ("" if asked.statistic == "share" else f", {asked.statistic}")


ARMS = Table(
    "arms",
    (
        text("policy", lambda line: line.policy),
        text("metric", _metric),
        Column(
            "treated",
            lambda line: _value(line.comparison, line.comparison.treated),
            lambda line: line.comparison.treated or 0,
            110,
        ),
        Column(
            "held out",
            lambda line: _value(line.comparison, line.comparison.held_out),
            lambda line: line.comparison.held_out or 0,
            110,
        ),
        Column(
            "lift", _lift, lambda line: line.comparison.effect.estimate if line.comparison.effect else 0.0
        ),
        text("says", lambda line: line.comparison.verdict.value),
        number("samples", lambda line: line.comparison.treated_count, from_width=110),
        number("against", lambda line: line.comparison.held_out_count, from_width=110),
    ),
    lambda frame: frame.arms,
    lambda line: f"{line.policy} {_metric(line)}",
    "nothing is measured: policies with a holdout are",
)

TABLES = (POLICIES, SERVICES, CONNECTIONS, ARMS)


def summary(frame: Frame) -> str:
    """One line on a frame."""
    drift = {None: "drift unknown", 0: "kernel as the journal says"}.get(
        frame.drift, f"kernel differs by {frame.drift} steps: pliant repair"
    )
    total = f"{frame.survey.total:,}" + ("" if frame.survey.is_complete else "+")
    return (
        f"{frame.hostname}  generation {frame.generation}  {drift}  {len(frame.policies)} policies  "
        f"{len(frame.services)} services  {total} connections"
    )


def caveats(frame: Frame) -> list[str]:
    """What a frame does not show, in sentences."""
    return of_connection.caveats(frame.survey, len(frame.survey.connections)) + list(frame.problems)
