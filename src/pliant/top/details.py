# SPDX-License-Identifier: Apache-2.0
"""All there is to say of one row of a frame, in lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pliant.agent.connections import Seen
from pliant.cli.connections import OPTION_HEADS, POLICY_HEADS, facts, how_found, option_row, policy_row
from pliant.cli.output import aligned
from pliant.top.frame import ArmLine, Frame, PolicyLine, ServiceLine, Watch
from pliant.top.tables import ARMS, CONNECTIONS


def details(watch: Watch, frame: Frame, row: Any) -> list[str]:
    """The explanation of a row: of a policy, a service, a connection or an arm."""
    if isinstance(row, Seen):
        return _connection(watch, row)
    if isinstance(row, PolicyLine):
        return _policy(frame, row)
    if isinstance(row, ServiceLine):
        return _service(frame, row)
    return _arm(frame, row)


def _labelled(pairs: Mapping[str, str]) -> list[str]:
    width = max(map(len, pairs)) + 2
    return [f"{label + ':':<{width}} {value}" for label, value in pairs.items()]


def _connection(watch: Watch, seen: Seen) -> list[str]:
    seen = watch.judged_whole(seen)
    lines = _labelled(facts(seen, how_found(seen)))
    lines += ["", *aligned(POLICY_HEADS, map(policy_row, seen.judged))]
    options = watch.options(seen)
    if not options:
        return [*lines, "", "no policy sets anything: the connection is left to the kernel"]
    return [*lines, "", *aligned(OPTION_HEADS, map(option_row, options))]


def _policy(frame: Frame, line: PolicyLine) -> list[str]:
    status, document = line.status, line.status.policy.to_document()
    metadata, spec = document["metadata"], document["spec"]
    lines = _labelled(
        {
            "Policy": f"{metadata['name']}, {status.state}",
            "Owner": metadata.get("owner", "-"),
            "Reason": metadata.get("reason", "-"),
            "Match": "; ".join(f"{field} {_spelled(value)}" for field, value in spec["match"].items()),
            "Sets": "; ".join(f"{option} {value}" for option, value in spec["tune"].items()),
            "Priority": str(spec["priority"]),
            "Services here": ", ".join(status.services) or "none",
            "Connections": f"{status.arms.treated:,} treated, {status.arms.held_out:,} held out "
            f"(holdout {spec['holdout']})",
        }
    )
    name = status.policy.name
    arms = [arm for arm in frame.arms if arm.policy == name]
    if arms:
        lines += ["", *_table(ARMS.columns[1:], arms)]
    open_now = [s for s in frame.connections if any(j.policy == name and j.reason.matches for j in s.judged)]
    if open_now:
        lines += ["", f"Open connections that it matches, {min(len(open_now), 20)} of {len(open_now)}:", ""]
        lines += _table(CONNECTIONS.columns, open_now[:20])
    return lines


def _service(frame: Frame, line: ServiceLine) -> list[str]:
    status = line.status
    lines = _labelled(
        {
            "Service": status.name,
            "Cgroup": status.cgroup,
            "Policies": ", ".join(status.policies) or "none",
            "Programs": ", ".join(status.programs) or "none",
        }
    )
    mine = [s for s in frame.connections if s.connection.cgroup == status.cgroup]
    if mine:
        lines += ["", f"Open connections, {min(len(mine), 20)} of {len(mine)}:", ""]
        lines += _table(CONNECTIONS.columns, mine[:20])
    return lines


def _arm(frame: Frame, line: ArmLine) -> list[str]:
    comparison = line.comparison
    return [
        *_labelled(
            {
                "Policy": line.policy,
                **{column.head.capitalize(): column.cell(line) for column in ARMS.columns[1:]},
                "Confidence": f"{comparison.confidence:.2%}",
                **({"Why not": comparison.why} if comparison.why else {}),
            }
        ),
    ]


def _table(columns: Any, rows: list[Any]) -> list[str]:
    cells: list[Callable[[Any], str]] = [column.cell for column in columns]
    return aligned([column.head for column in columns], ([cell(row) for cell in cells] for row in rows))


def _spelled(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
