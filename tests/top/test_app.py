# SPDX-License-Identifier: Apache-2.0
"""The screen, driven by the keys that people press, over a real host."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
from rich.text import Text
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from pliant.top.app import Details, TopApp
from tests.top.conftest import CONNECTIONS as OPEN

if TYPE_CHECKING:
    from tests.top.conftest import Work

pytestmark = pytest.mark.root

Play = Callable[[Pilot[None], TopApp], Awaitable[None]]


def play(work: Work, steps: Play, size: tuple[int, int] = (140, 40), interval_s: float = 3600) -> None:
    """Run the screen and do something with it; without looks of its own unless an interval is given."""

    async def run() -> None:
        app = TopApp(work.watch, work.watch.look(), interval_s=interval_s)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await steps(pilot, app)

    asyncio.run(run())


def rows(app: TopApp, name: str) -> list[list[str]]:
    table = app.screen_stack[0].query_one(f"#{name}-table", DataTable)
    return [[str(cell) for cell in table.get_row_at(at)] for at in range(table.row_count)]


def heads(app: TopApp, name: str) -> list[str]:
    table = app.screen_stack[0].query_one(f"#{name}-table", DataTable)
    return [str(column.label) for column in table.ordered_columns]


def said(app: TopApp, place: str) -> str:
    shown = app.screen_stack[-1].query_one(place, Static).visual
    return str(shown)


async def until(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await pilot.pause(0.01)


def test_policies_and_connections_are_on_the_screen(work: Work) -> None:
    async def steps(pilot: Pilot[None], app: TopApp) -> None:
        assert [row[0] for row in rows(app, "policies")] == ["fast", "marked"]
        assert [row[1] for row in rows(app, "policies")] == ["active", "active"]
        await pilot.press("3")
        assert len(rows(app, "connections")) == OPEN
        assert any(row[0].startswith("[") for row in rows(app, "connections"))  # brackets are no markup

    play(work, steps)


def test_narrow_screen_has_what_matters_most(work: Work) -> None:
    async def steps(pilot: Pilot[None], app: TopApp) -> None:
        assert heads(app, "policies")[:2] == ["policy", "state"]
        assert "sets" not in heads(app, "policies")
        assert heads(app, "connections")[:3] == ["connection", "role", "policies"]
        assert "min rtt" not in heads(app, "connections")
        width = app.query_one("#policies-table", DataTable).virtual_size.width
        assert width <= 80
        await pilot.resize_terminal(140, 40)
        await until(pilot, lambda: "sets" in heads(app, "policies"))

    play(work, steps, size=(80, 24))


def test_screen_follows_the_host_and_keeps_the_cursor(work: Work) -> None:
    async def steps(pilot: Pilot[None], app: TopApp) -> None:
        await pilot.press("3", "down", "down")
        table = app.query_one("#connections-table", DataTable)
        chosen = str(table.get_row_at(table.cursor_row)[0])
        work.connect(2)
        await until(pilot, lambda: table.row_count == OPEN + 2)
        assert str(table.get_row_at(table.cursor_row)[0]) == chosen

    play(work, steps, interval_s=0.1)


def test_filter_chooses_rows_and_escape_shows_all(work: Work) -> None:
    async def steps(pilot: Pilot[None], app: TopApp) -> None:
        await pilot.press("3", "slash", *"[", "enter")
        assert len(rows(app, "connections")) == OPEN // 2
        assert "rows with '['" in said(app, "#status")
        await pilot.press("escape")
        assert len(rows(app, "connections")) == OPEN
        await pilot.press("slash", *"nothing", "enter")
        assert rows(app, "connections") == []
        assert "no row contains it" in said(app, "#status")

    play(work, steps)


def test_sorting_goes_through_the_columns_and_back(work: Work) -> None:
    async def steps(pilot: Pilot[None], app: TopApp) -> None:
        await pilot.press("s")
        assert heads(app, "policies")[0] == "policy▲"
        await pilot.press("r")
        assert heads(app, "policies")[0] == "policy▼"
        assert [row[0] for row in rows(app, "policies")] == ["marked", "fast"]
        await pilot.press(*["s"] * 5)
        assert heads(app, "policies")[5] == "treated▼"  # numbers begin with the largest
        assert [row[0] for row in rows(app, "policies")] == ["marked", "fast"]

    play(work, steps)


def test_enter_explains_a_connection_and_a_policy(work: Work) -> None:
    async def steps(pilot: Pilot[None], app: TopApp) -> None:
        await pilot.press("enter")
        assert isinstance(app.screen, Details)
        assert "Policy:" in said(app, "#explanation")
        assert f"Open connections that it matches, {OPEN} of {OPEN}" in said(app, "#explanation")
        await pilot.press("escape", "3", "enter")
        explained = said(app, "#explanation")
        assert re.search("^Role: +server: its port is that of a listening socket$", explained, re.MULTILINE)
        assert "the kernel has it" in explained
        await pilot.press("escape", "2", "enter")
        assert "Programs:" in said(app, "#explanation")

    play(work, steps)


def test_explanation_follows_its_connection_to_the_end(work: Work) -> None:
    async def steps(pilot: Pilot[None], app: TopApp) -> None:
        await pilot.press("3", "enter")
        work.client.disconnect()
        await until(pilot, lambda: "it is no longer there" in said(app, "#explanation"))

    play(work, steps, interval_s=0.1)


def test_pause_keeps_the_frame_until_it_ends(work: Work) -> None:
    async def steps(pilot: Pilot[None], app: TopApp) -> None:
        await pilot.press("p")
        frame = app.frame
        assert "paused" in said(app, "#status")
        work.connect(2)
        await app.workers.wait_for_complete()
        assert app.frame is frame
        await pilot.press("p")
        await until(pilot, lambda: len(rows(app, "connections")) == OPEN + 2)

    play(work, steps, interval_s=0.1)


def test_look_that_fails_is_said_and_the_next_one_is_shown(work: Work) -> None:
    async def steps(pilot: Pilot[None], app: TopApp) -> None:
        places, app.source.places = (
            app.source.places,
            app.source.places.__class__(
                work.pliant.places.state, work.pliant.places.pins, work.pliant.places.state / "no-cgroups"
            ),
        )
        await until(pilot, lambda: rows(app, "connections") == [] or bool(app.complaint))
        app.source.places = places
        await until(pilot, lambda: len(rows(app, "connections")) == OPEN and not app.complaint)

    play(work, steps, interval_s=0.1)


def test_q_ends_it(work: Work) -> None:
    async def steps(pilot: Pilot[None], app: TopApp) -> None:
        await pilot.press("q")
        assert app.return_code == 0

    play(work, steps)


def test_cells_are_never_markup() -> None:
    from pliant.top.app import _styled

    assert _styled("[bold]x[/bold]").plain == Text("[bold]x[/bold]").plain
