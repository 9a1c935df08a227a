# SPDX-License-Identifier: Apache-2.0
"""What an agent costs that has nothing to do: a hundred policies, fifty services, and nothing happens.

- ``idle_cpu_ratio``: its time on a processor over a minute, as a share of that minute. Two of its regular looks at the
  kernel fall into it.
- ``rss_mb``: its memory at the end of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from pliant.agent.host import Host
from pliant.bench.agent_process import AgentProcess
from pliant.bench.bench import Bench, Options, Sample
from pliant.bench.place import apply, clear, private_places
from pliant.bench.policies import policies_text
from pliant.features import catalogue
from pliant.lab import Lab
from pliant.policy.documents import load_policies

POLICIES, SERVICES = 100, 50
WINDOW_S = 60.0


def run(options: Options) -> Iterator[Sample]:
    """Yield processor time and memory of an idle agent."""
    with Lab("bench-agent") as lab:
        lab_host = lab.host("server")
        names = [f"s{number}.service" for number in range(options.scaled(SERVICES))]
        for name in names:
            lab_host.service(name)
        places = private_places("agent", cgroup_root=lab_host.cgroup)
        text = policies_text(options.scaled(POLICIES), names)
        with Host(places) as host:
            apply(host, load_policies(text, "benchmark", catalogue()))
            try:
                with AgentProcess(places) as agent:
                    window_s = WINDOW_S * options.scale
                    for number in range(options.runs):
                        before, started = agent.processor_s(), time.monotonic()
                        time.sleep(window_s)
                        spent = (agent.processor_s() - before) / (time.monotonic() - started)
                        options.progress(f"window {number + 1} of {options.runs}: {spent:.3%} of a core")
                        yield Sample("idle_cpu_ratio", "ratio", spent)
                        yield Sample("rss_mb", "MB", agent.resident_bytes() / 1e6)
            finally:
                clear(host)


BENCH = Bench(
    name="agent",
    summary="Processor time and memory of an idle agent with 100 policies and 50 services.",
    run=run,
    runs=3,
)
