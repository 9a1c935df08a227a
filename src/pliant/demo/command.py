# SPDX-License-Identifier: Apache-2.0
"""``pliant demo``: the story, chapter by chapter."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from pliant.demo import forwarding, inventory, report, scenario
from pliant.demo.interrupts import Interrupts
from pliant.demo.priority import ahead_of_others
from pliant.demo.report import Result
from pliant.demo.samples import Phase, milliseconds, tail_share
from pliant.demo.scenario import World
from pliant.demo.screen import Screen
from pliant.demo.shell import POLICY_FILE, Shell, policy_text
from pliant.errors import PliantError
from pliant.lab import isolate
from pliant.lab.plot import terminal_plot

ROUNDS, QUICK_ROUNDS = 100, 12
PLOT_COLUMNS = 96
POLICY = "long-path"
T = TypeVar("T")


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo-out"),
    show_default=True,
    metavar="DIR",
    help="Where the picture and the numbers go.",
)
@click.option("--quick", is_flag=True, help=f"Few fetches ({QUICK_ROUNDS} of each size), about 20 seconds.")
@click.option(
    "--rounds",
    type=click.IntRange(min=5),
    metavar="N",
    help=f"Fetches of each size in each phase.  [default: {ROUNDS}]",
)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def demo(out: Path, quick: bool, rounds: int | None, output: str) -> None:
    """Show the main job on real traffic, before and after.

    Builds a web server (nginx), a client nearby and one far away in network namespaces, fetches files of 10 KB
    to 1 MB with curl, applies a policy for the far region with 'pliant apply', fetches again, rolls back, and
    shows that the host is as it was. Then has a router forward packets without the fast path, with it, and
    without it again. This host and its Pliant are not touched, and nothing is left behind but the picture and
    the numbers.
    """
    _check_requirements()
    interrupts = Interrupts()
    with interrupts.held():
        mounts = isolate()
    os.environ["MPLCONFIGDIR"] = str(mounts.run)  # matplotlib would keep a cache in the home directory
    count = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    with Screen(silent=output == "json") as screen:
        with ahead_of_others() as real_time:
            with _lab(interrupts, screen, "building three hosts", _served) as world:
                result = _story(world, Shell(world.server, mounts, screen), screen, count)
                path = _path(world)
            with _lab(interrupts, screen, "building a router", forwarding.routed) as row:
                forwarded = forwarding.story(row, Shell(row.router, mounts, screen), screen)
        screen.doing("drawing the picture")
        with interrupts.held():
            data = report.as_data(result, path, {"name": POLICY, "document": policy_text()})
            data["forwarding"] = forwarded.as_data()
            data["realTimePriority"] = real_time
            data["durationS"] = round(screen.elapsed_s, 1)
            files = _save(out, result, data)
        screen.say(f"\nPicture and numbers: {' '.join(map(str, files))} ({screen.elapsed_s:.0f} s in all)")
    if output == "json":
        click.echo(json.dumps(data, indent=2))
    if differences := result.comparison.differences():
        raise PliantError(f"the host is not as it was: {'; '.join(differences)}", remedy="please report this")


def _check_requirements() -> None:
    if os.geteuid() != 0:
        raise PliantError(
            "the demo needs root, to make network namespaces and load BPF programs in them",
            remedy="run it with sudo",
        )
    scenario.check_programs()
    if importlib.util.find_spec("matplotlib") is None:
        raise PliantError(
            "matplotlib, which draws the demo's picture, is not installed", remedy="pip install 'pliant[lab]'"
        )


@contextmanager
def _lab(
    interrupts: Interrupts, screen: Screen, doing: str, make: Callable[[], AbstractContextManager[T]]
) -> Iterator[T]:
    """Hosts of the lab, which an interrupt leaves neither half made nor half taken down."""
    lab = ExitStack()
    try:
        with interrupts.held():
            screen.doing(doing)
            made = lab.enter_context(make())
        yield made
    finally:
        screen.doing("taking the hosts down")
        # an interrupt can leave a half-made process, which the hosts' own keepers end when this one is gone
        expected = (PliantError, OSError) if interrupts.heeded else ()
        with suppress(*expected), interrupts.held():
            lab.close()


@contextmanager
def _served() -> Iterator[World]:
    with scenario.world() as world, inventory.bystander(world.server.service(scenario.SERVICE)):
        Path(world.server.directory, POLICY_FILE).write_text(policy_text())
        yield world


def _story(world: World, shell: Shell, screen: Screen, count: int) -> Result:
    def look() -> inventory.Inventory:
        return inventory.take(world.server.cgroup, shell.pins)

    _introduce(world, screen)
    found = look()
    before = _phase(world, screen, "before", count)
    screen.heading("The policy")
    screen.say(policy_text())
    shell.pliant("apply", "-f", POLICY_FILE)
    with_policy = look()
    after = _phase(world, screen, "with the policy", count)
    screen.heading("What became of the connections")
    treated = shell.ask("get", "policies", POLICY)[0]["status"]["treated"]
    _ask_why(shell, after)
    screen.heading("Rolling back")
    shell.pliant("rollback")
    comparison = inventory.compare_after(found, with_policy, look)
    back = _phase(world, screen, "rolled back", max(5, count // 10))
    result = Result(
        before,
        after,
        back,
        world.near_rtt_s,
        world.far_rtt_s,
        world.default_congestion_control,
        treated,
        comparison,
    )
    _show_host(result, screen)
    _show_times(world, result, screen)
    return result


def _phase(world: World, screen: Screen, name: str, count: int) -> Phase:
    near_count = max(5, count // 5)
    total, start = scenario.fetches_of(near_count, count), world.accepted()
    screen.doing(f"{name}: fetching {total} files", lambda: f"{world.accepted() - start} of {total}")
    phase = scenario.run_phase(world, name, near_count=near_count, far_count=count)
    screen.doing(f"{name}: done")
    return phase


def _introduce(world: World, screen: Screen) -> None:
    screen.say(click.style("Three hosts", bold=True))
    screen.say(f"server  {scenario.SERVER}  {scenario.SERVICE}, {', '.join(scenario.FILES)}")
    screen.say(f"near    {scenario.NEAR}  round trip {world.near_rtt_s * 1000:.1f} ms")
    screen.say(f"far     {scenario.FAR}  round trip {world.far_rtt_s * 1000:.1f} ms, {_rate()} bottleneck")
    screen.say(
        f"The server's default congestion control is {world.default_congestion_control}; that is the baseline."
    )
    screen.say(
        "All of it runs at real-time priority where that is allowed, so that other work does not show."
    )


def _ask_why(shell: Shell, phase: Phase) -> None:
    shell.pliant("get")
    for peer, fetches in ((scenario.FAR, phase.far), (scenario.NEAR, phase.near)):
        port = next(iter(fetches.values()))[0].local_port
        ends = f"{scenario.SERVER}:{scenario.PORT}-{peer}:{port}"
        shell.pliant("explain", "--connection", ends, "--service", scenario.SERVICE)


def _show_host(result: Result, screen: Screen) -> None:
    comparison = result.comparison
    screen.say()
    screen.say(report.programs_table(comparison))
    screen.say()
    screen.say(report.counts_table(comparison))
    screen.say()
    if differences := comparison.differences():
        screen.say(click.style(f"The host is NOT as it was: {'; '.join(differences)}", fg="red"))
    else:
        screen.say(
            "The host is as it was: every program, link, map and pin that came is gone from the kernel, and what "
            "was attached before is there still, in the same order."
        )


def _show_times(world: World, result: Result, screen: Screen) -> None:
    samples = len(next(iter(result.before.far.values())))
    screen.heading(f"Far client, {samples} fetches of each size, {_rate()}, {_rtt(world.far_rtt_s)}")
    screen.say(report.comparison_table(result, "far"))
    screen.heading(f"Near client, which matches no policy, {_rtt(world.near_rtt_s)}")
    screen.say(report.comparison_table(result, "near"))
    screen.heading("Far client again after the rollback")
    screen.say(report.rolled_back_table(result))
    screen.say()
    far, near = (sum(map(len, client.values())) for client in (result.after.far, result.after.near))
    screen.say(
        f"Treated: {result.treated} connections, of {far} the far client made and {near} the near one made."
    )
    screen.say(report.retransmissions(result))
    if any(phase.overruns for phase in (result.before, result.after, result.back)):
        screen.say(click.style("The emulated path did not keep up: do not trust these times.", fg="red"))
    screen.say()
    series = {
        phase.name: {file: milliseconds(some) for file, some in phase.far.items()}
        for phase in (result.before, result.after)
    }
    screen.say(
        terminal_plot(
            series,
            title=f"Completion time, far client, {_rate()}, {_rtt(world.far_rtt_s)}",
            width=PLOT_COLUMNS,
            colour=_coloured(),
            tail=tail_share(samples),
        )
    )


def _rate() -> str:
    return scenario.FAR_RATE.replace("Mbit", " Mbit/s")


def _rtt(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms round trip"


def _coloured() -> bool:
    return os.isatty(1) and "NO_COLOR" not in os.environ


def _path(world: World) -> dict[str, Any]:
    return {
        "rate": scenario.FAR_RATE,
        "oneWayDelay": scenario.FAR_DELAY,
        "medium": world.far_path.medium.kind,
        "offloads": world.far_path.offloads,
        "parallel": scenario.FAR_PARALLEL,
    }


def _save(out: Path, result: Result, data: dict[str, Any]) -> list[Path]:
    from pliant.demo import picture

    out.mkdir(parents=True, exist_ok=True)
    files = [out / "demo.png", out / "demo.json"]
    before, after = result.summaries("far", result.before), result.summaries("far", result.after)
    samples = next(iter(before.values())).samples
    caption = picture.Caption(
        f"Files over a {_rate()} path with {result.far_rtt_s * 1000:.0f} ms round trip",
        "pliant apply -f long-path.yaml    initial_cwnd: 40, pacing_rate: 80Mbit",
        f"nginx and curl, a new connection for each file, {samples} fetches of each size; congestion control "
        f"{result.congestion_control} in both; retransmissions {result.before.retransmissions} before, "
        f"{result.after.retransmissions} with the policy",
    )
    picture.save(files[0], before, after, caption)
    files[1].write_text(json.dumps(data | {"fetches": report.raw_samples(result)}) + "\n")
    _give_to_caller(out, *files)
    return files


def _give_to_caller(*paths: Path) -> None:
    """What sudo made belongs to who called it."""
    if "SUDO_UID" in os.environ:
        for path in paths:
            os.chown(path, int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", -1)))
