# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/top.svg: ``pliant top`` over a host of the lab, with policies at work on real connections."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

from pliant.agent.host import Host
from pliant.agent.places import Places
from pliant.features import catalogue
from pliant.kernel.cgroups import find_root
from pliant.lab import Lab, TcpClient, TcpServer, isolate
from pliant.policy.documents import load_policies
from pliant.policy.model import Policy
from pliant.top.app import TopApp
from pliant.top.frame import Watch

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "top.svg"
SIZE = (128, 26)


def policy(name: str, service: str, tune: dict[str, Any], holdout: str = "0%", **match: Any) -> Policy:
    """A policy, through the parser that people's files go through."""
    spec = {"match": {"service": service, **match}, "tune": tune, "holdout": holdout}
    document = {
        "apiVersion": "pliant/v1",
        "kind": "TransportPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }
    [parsed] = load_policies(json.dumps(document), name, catalogue())
    return parsed


async def draw(watch: Watch) -> None:
    """Run the screen on the connections, sorted by what they deliver, and export it."""
    app = TopApp(watch, watch.look(), interval_s=3600)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("3", *["s"] * 8, *["down"] * 2)
        app.frame = watch.look()
        app.refresh_tables()
        await pilot.pause()
        drawn = app.export_screenshot(title="pliant top", simplify=True)
    # Fonts from the net are of no use in a picture in a page; the reader's own monospace one is.
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL))


def main() -> int:
    """Make a host, put policies in force on it, open connections, and draw."""
    mounts = isolate()
    places = Places(mounts.state / "journal", mounts.bpffs / "pliant")
    with Lab("picture") as lab, Host(places) as host:
        web, far, near = lab.host("web"), lab.host("far"), lab.host("near")
        lab.link(web, far, delay="40ms", rate="100Mbit")
        lab.link(web, near)

        def named(service: str) -> str:
            return "/" + str(web.service(service).relative_to(find_root()))

        wanted = [
            policy(
                "cross-region-web",
                named("nginx.service"),
                {"initial_cwnd": 40, "congestion_control": "bbr", "pacing_rate": "80Mbit"},
                holdout="30%",
                role="server",
                peers=[str(far.prefixes[0]) if far.prefixes else f"{far.address}/32"],
            ),
            policy("low-latency-api", named("api.service"), {"min_rto": "20ms", "dscp": "AF41"}),
            policy("backup", named("backup.service"), {"dscp": "LE"}),
        ]
        with host.exclusively():
            host.carry_out(host.change_to_apply(wanted), actor="picture")
        try:
            with (
                TcpServer(web, ["0.0.0.0:443"], service="nginx.service", mode="send", send_bytes=400_000),
                TcpServer(web, ["0.0.0.0:8080"], service="api.service"),
                TcpClient(far) as distant,
                TcpClient(near) as neighbour,
            ):
                distant.connect(web.links[0].address_of(web), 443, count=8)
                distant.receive(400_000)
                neighbour.connect(web.links[1].address_of(web), 443, count=4)
                neighbour.connect(web.links[1].address_of(web), 8080, count=5)
                asyncio.run(draw(Watch(places)))
        finally:
            with host.exclusively():
                host.carry_out(host.change_to_rollback(0), actor="picture")
    print(f"  DRAW {PICTURE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
