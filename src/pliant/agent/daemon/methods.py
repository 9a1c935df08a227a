# SPDX-License-Identifier: Apache-2.0
"""What can be asked of the agent. docs/reference/agent.md is generated from here."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pliant
from pliant.agent.change import Applied, Change
from pliant.agent.daemon import metrics
from pliant.agent.daemon.server import Method, Peer, Request
from pliant.agent.documents import (
    control_document,
    feature_document,
    policy_document,
    service_document,
    sysctl_document,
)
from pliant.agent.host import Host
from pliant.agent.origin import Origin
from pliant.agent.reconcile import Cause
from pliant.agent.status import (
    all_policy_statuses,
    control_statuses,
    feature_statuses,
    service_statuses,
)
from pliant.agent.sysctls import sysctl_statuses
from pliant.errors import PliantError
from pliant.features import catalogue
from pliant.features.layout import shipped_layout
from pliant.policy.documents import policy_from_document

if TYPE_CHECKING:
    from pliant.agent.daemon.agent import Agent

CHANGE_TIMEOUT_S = 2.0  # the loop stands still meanwhile
MOST_EVENTS = 1000

STRING, NUMBER, FLAG, LIST = (str,), (int, float), (bool,), (list,)


def methods(agent: Agent) -> Mapping[str, Method]:
    """All methods by name."""
    found = (*_reading(agent), *_changing(agent))
    return {method.name: method for method in found}


def _reading(agent: Agent) -> Iterable[Method]:
    yield Method("status", "How the agent is doing.", lambda _: status(agent), {})
    yield Method(
        "events",
        "Events after the number `after`, from the time `since` (seconds since the epoch), or the newest `limit`; with "
        '`follow`, those to come as well, each in a line of its own under "event".',
        lambda request: _events(agent, request),
        {"after": NUMBER, "since": NUMBER, "limit": NUMBER, "follow": FLAG},
    )
    yield Method(
        "get",
        "The list that `pliant get KIND -o json` prints; `kind` is policies, services, features or controls.",
        lambda request: _get(agent.host, request),
        {"kind": STRING},
    )
    yield Method(
        "metrics", "The metrics, in Prometheus' text format.", lambda _: metrics.exposition(agent), {}
    )


def _changing(agent: Agent) -> Iterable[Method]:
    changing = {"reason": STRING, "dryRun": FLAG}
    yield Method(
        "reconcile",
        "Look at the kernel now and make it what the policies in force ask for.",
        lambda _: _reconcile(agent),
        {},
        changes=True,
    )
    yield Method(
        "apply",
        "What `pliant apply` does; `policies` is a list of documents.",
        lambda request: _apply(agent, request),
        {"policies": LIST, "prune": FLAG, "allowWaiting": FLAG, **changing},
        changes=True,
    )
    yield Method(
        "delete",
        "What `pliant delete` does; `names` is a list of policies.",
        lambda request: _change(
            agent,
            request,
            lambda host: host.change_to_delete(_names(request), reason=_reason(request)),
        ),
        {"names": LIST, **changing},
        changes=True,
    )
    yield Method(
        "rollback",
        "What `pliant rollback` does; to the generation before when none is given.",
        lambda request: _change(
            agent,
            request,
            lambda host: host.change_to_rollback(request.params.get("generation"), reason=_reason(request)),
        ),
        {"generation": (int,), **changing},
        changes=True,
    )
    yield Method(
        "off",
        "What `pliant off` does; `names` are policies, `services` services, everything where neither is given.",
        lambda request: _change(
            agent,
            request,
            lambda host: host.change_to_off(
                *_switched(request), reason=_reason(request), actor=_actor(request.peer)
            ),
            to_switch_off=not any(_switched(request)),
        ),
        {"names": LIST, "services": LIST, **changing},
        changes=True,
    )
    yield Method(
        "on",
        "What `pliant on` does.",
        lambda request: _change(
            agent,
            request,
            lambda host: host.change_to_on(*_switched(request), reason=_reason(request)),
        ),
        {"names": LIST, "services": LIST, **changing},
        changes=True,
    )


def status(agent: Agent) -> dict[str, Any]:
    """How the agent is doing, as plain data."""
    last = agent.last
    attached = agent.reconciler.attached
    known = agent.services.known
    return {
        "running": True,
        "version": pliant.__version__,
        "pid": os.getpid(),
        "started": agent.started,
        "state": str(agent.places.state),
        "pins": str(agent.places.pins),
        "layout": shipped_layout().digest,
        "generation": agent.journal.current(),
        "agreedGeneration": agent.reconciler.generation,
        "lastReconcile": last
        and {
            "at": agent.last_at,
            "cause": last.cause.value,
            "outcome": last.state.value,
            "milliseconds": round(last.seconds * 1000, 2),
            "steps": len(last.steps),
        },
        "drift": agent.drift,
        "failure": agent.failure,
        "services": {
            "known": len(known),
            "attached": sorted(path for path, number in known.items() if number in attached),
            "refused": agent.refused,
            "watched": "inotify" if agent.services.complete else "looked for every second",
        },
        "fastpath": {
            "follows": bool(agent.reconciler.wishes),
            "refused": [
                {"interface": name, "mode": mode, "sentence": said}
                for (name, mode), said in agent.host.fastpath.refusals.items()
            ],
        },
    }


def _events(agent: Agent, request: Request) -> list[dict[str, Any]]:
    given = request.params
    limit = max(0, min(int(given.get("limit", MOST_EVENTS)), MOST_EVENTS))
    events = agent.journal.events
    if "after" in given or "since" in given:
        found = events.after(int(given.get("after", 0)), since=given.get("since", 0), limit=limit)
    else:
        found = events.newest(limit)
    if given.get("follow"):
        newest = found or events.newest(1)
        request.follow(newest[-1].id if newest else 0)
    return [event.to_document() for event in found]


def _get(host: Host, request: Request) -> list[dict[str, Any]]:
    kind = request.params.get("kind", "policies")
    if kind == "policies":
        return [policy_document(found) for found in all_policy_statuses(host)]
    if kind == "services":
        return [service_document(found) for found in service_statuses(host)]
    if kind == "controls":
        return [control_document(found) for found in control_statuses(host)]
    if kind == "sysctls":
        return [sysctl_document(found) for found in sysctl_statuses(host)]
    if kind == "features":
        return [feature_document(found) for found in feature_statuses(host)]
    raise PliantError(
        f"there is nothing of the kind '{kind}'",
        remedy="ask for policies, services, features, controls or sysctls",
    )


def _reconcile(agent: Agent) -> dict[str, Any]:
    outcome = agent.look(Cause.REQUEST)
    return {"outcome": outcome.state.value, "steps": [step.sentence for step in outcome.steps]}


def _apply(agent: Agent, request: Request) -> dict[str, Any]:
    given = request.params
    documents = _needed(request, "policies")
    for number, document in enumerate(documents, 1):
        if not isinstance(document, dict):
            raise PliantError(f"policy {number} is no object", remedy="send the documents that files hold")
    policies = [
        policy_from_document(document, f"policy {number}", catalogue())
        for number, document in enumerate(documents, 1)
    ]
    return _change(
        agent,
        request,
        lambda host: host.change_to_apply(
            policies,
            reason=_reason(request),
            prune=given.get("prune", False),
            allow_waiting=given.get("allowWaiting", False),
        ),
    )


def _change(
    agent: Agent, request: Request, work_out: Callable[[Host], Change], *, to_switch_off: bool = False
) -> dict[str, Any]:
    """Make a change as the command does: worked out, checked and carried out under the lock."""
    with Host(agent.places, lock_timeout_s=CHANGE_TIMEOUT_S) as host:
        if request.params.get("dryRun"):
            change = work_out(host)
            host.check(change)
            return _told(change)
        with host.exclusively(to_switch_off=to_switch_off):
            origin = Origin.of_peer(request.peer.pid, request.peer.uid)
            applied: Applied = host.carry_out(work_out(host), actor=_actor(request.peer), origin=origin)
    agent.request(Cause.POLICIES)
    return {"generation": applied.generation, **_told(applied.change)}


def _told(change: Change) -> dict[str, Any]:
    return {
        "policies": [{"name": name, "result": fate.value} for name, fate in change.fates.items()],
        "switched": [{"what": str(what), "result": fate.value} for what, fate in change.switched],
        "waiting": list(change.waiting),
        "plan": [{"kind": s.kind, "sentence": s.sentence, "reason": s.reason} for s in change.plan],
    }


def _actor(peer: Peer) -> str:
    try:
        return f"{pwd.getpwuid(peer.uid).pw_name} (process {peer.pid})"
    except KeyError:
        return f"user {peer.uid} (process {peer.pid})"


def _reason(request: Request) -> str:
    return str(request.params.get("reason", ""))


def _needed(request: Request, name: str) -> list[Any]:
    if name not in request.params:
        raise PliantError(f"'{name}' is missing")
    found: list[Any] = request.params[name]
    return found


def _names(request: Request) -> list[str]:
    return _strings("names", _needed(request, "names"))


def _switched(request: Request) -> tuple[list[str], list[str]]:
    """The policies and the services to be switched."""
    names, services = (_strings(name, request.params.get(name, [])) for name in ("names", "services"))
    return names, services


def _strings(name: str, found: list[Any]) -> list[str]:
    if not all(isinstance(text, str) for text in found):
        raise PliantError(f"'{name}' is a list of strings")
    return found
