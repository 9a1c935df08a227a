# SPDX-License-Identifier: Apache-2.0
"""The screen of ``pliant top``: tabs of tables that follow the host, and an explanation of what is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.events import Resize
from textual.screen import ModalScreen
from textual.timer import Timer
from textual.widgets import DataTable, Footer, Input, Static, TabbedContent, TabPane

from pliant.cli.connections import Column
from pliant.errors import PliantError
from pliant.top.details import details
from pliant.top.frame import Frame, Watch
from pliant.top.tables import TABLES, Table, caveats, summary

IDLE_SHARE = 9
"""Seconds of rest for each second a look has taken, so that watching costs a tenth of a core at most."""

STYLES = {
    "active": "green",
    "better": "green",
    "waiting": "yellow",
    "off": "yellow",
    "missing": "bold red",
    "worse": "bold red",
    "guarded": "bold red",
}


@dataclass
class Order:
    """What a table is sorted by; by nothing while ``head`` is empty."""

    head: str = ""
    descending: bool = False


class Details(ModalScreen[None]):
    """The explanation of one row, kept up to date while it is there."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q,enter", "app.pop_screen", "Back"),
        ("p", "app.pause", "Pause"),
    ]

    def __init__(self, table: Table, key: str, lines: list[str]) -> None:
        super().__init__()
        self.table = table
        self.key = key
        self.lines = lines

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        with VerticalScroll():
            yield Static(Text("\n".join(self.lines)), id="explanation")
        yield Footer()

    def follow(self, watch: Watch, frame: Frame) -> None:
        """Show what a newer frame says of the same row, or that it has gone."""
        row = next((row for row in self.table.rows(frame) if self.table.key(row) == self.key), None)
        if row is not None:
            self.lines = details(watch, frame, row)
            shown = self.lines
        else:
            shown = ["it is no longer there; this was last seen of it:", "", *self.lines]
        self.query_one("#explanation", Static).update(Text("\n".join(shown)))


class TopApp(App[None]):
    """Follows a host until somebody quits."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #summary { height: 1; background: $primary; color: $text; padding: 0 1; }
    #status { height: auto; max-height: 2; color: $text-muted; padding: 0 1; }
    #filter { display: none; height: 3; }
    DataTable { height: 1fr; }
    TabPane { padding: 0; }
    Details { align: center middle; }
    Details > VerticalScroll { width: 96%; height: 90%; border: round $primary; background: $surface; padding: 0 1; }
    #explanation { width: auto; }
    Details > VerticalScroll { overflow-x: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(place), f"tab('{table.name}')", show=False)  # the tabs themselves show it
            for place, table in enumerate(TABLES, 1)
        ),
        ("s", "sort", "Sort"),
        ("r", "reverse", "Reverse"),
        ("slash", "filter", "Filter"),
        ("p", "pause", "Pause"),
        Binding("escape", "unfilter", show=False),
        ("q", "quit", "Quit"),
    ]

    def __init__(self, source: Watch, first: Frame, *, interval_s: float = 2.0) -> None:
        super().__init__()
        self.source = source
        self.frame = first
        self.interval_s = interval_s
        self.width = 0
        self.paused = False
        self.complaint = ""
        self.orders = {table.name: Order() for table in TABLES}
        self._heads: dict[str, list[str]] = {}
        self._next: Timer | None = None

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        yield Static(id="summary")
        with TabbedContent(initial=TABLES[0].name):
            for place, table in enumerate(TABLES, 1):
                with TabPane(f"{place} {table.name.capitalize()}", id=table.name):
                    yield DataTable(id=f"{table.name}-table", cursor_type="row", zebra_stripes=True)
        yield Input(id="filter", placeholder="show rows that contain ...")
        yield Static(id="status")
        yield Footer()

    # -- following the host

    def on_mount(self) -> None:
        """Show the first frame, and plan the next look."""
        self.width = self.size.width
        self.refresh_tables()
        self._chosen_table().focus()
        self._rest()

    def _rest(self) -> None:
        if not self.paused:
            self._next = self.set_timer(max(self.interval_s, IDLE_SHARE * self.frame.took_s), self.look)

    @work(thread=True, exclusive=True)
    def look(self) -> None:
        """Look at the host, in a thread of its own: the screen answers meanwhile."""
        try:
            frame = self.source.look()
        except PliantError as error:
            self.call_from_thread(self._failed, str(error))
        else:
            self.call_from_thread(self._arrived, frame)

    def _arrived(self, frame: Frame) -> None:
        self.complaint = ""
        if not self.paused:
            self.frame = frame
            self.refresh_tables()
        self._rest()

    def _failed(self, sentence: str) -> None:
        self.complaint = sentence
        self._say()
        self._rest()

    # -- showing

    def refresh_tables(self) -> None:
        """Show the frame in every table, and in the explanation if one is open."""
        for table in TABLES:
            self._fill(table)
        self._say()
        if isinstance(self.screen, Details):
            self.screen.follow(self.source, self.frame)

    def _fill(self, table: Table) -> None:
        widget = self._widget(table)
        key, place = self._cursor(widget), widget.scroll_offset
        columns = table.shown(self.width)
        heads = [self._head(table, column) for column in columns]
        if self._heads.get(table.name) != heads:
            widget.clear(columns=True)
            for column, head in zip(columns, heads, strict=True):
                widget.add_column(head, key=column.head)
            self._heads[table.name] = heads
        else:
            widget.clear()
        for row in self._sorted(table):
            widget.add_row(*(_styled(column.cell(row)) for column in columns), key=table.key(row))
        if key is not None and key in widget.rows:
            widget.move_cursor(row=widget.get_row_index(key), scroll=False)
        widget.scroll_to(place.x, place.y, animate=False)

    def _sorted(self, table: Table) -> list[Any]:
        rows = table.chosen(self.frame, self._needle())
        order = self.orders[table.name]
        column = next((column for column in table.columns if column.head == order.head), None)
        return sorted(rows, key=column.rank, reverse=order.descending) if column else rows

    def _head(self, table: Table, column: Column) -> str:
        order = self.orders[table.name]
        return column.head + (("▼" if order.descending else "▲") if column.head == order.head else "")

    def _say(self) -> None:
        self._base("#summary").update(Text(summary(self.frame), no_wrap=True, overflow="ellipsis"))
        table = self._table()
        said = [self.complaint] if self.complaint else []
        if self.paused:
            said.append("paused")
        if self._needle():
            said.append(f"rows with '{self._needle()}'")
        rests = IDLE_SHARE * self.frame.took_s
        if rests > self.interval_s:
            said.append(f"a look takes {self.frame.took_s:.1f} s here: one every {rests:.0f} s")
        said += caveats(self.frame)
        if not self._widget(table).row_count:
            said.append("no row contains it" if self._needle() else table.nothing)
        self._base("#status").update(Text("; ".join(said)))

    def _base(self, selector: str) -> Static:
        return self.screen_stack[0].query_one(selector, Static)

    def _needle(self) -> str:
        return self.screen_stack[0].query_one("#filter", Input).value.strip()

    def _table(self) -> Table:
        active = self.screen_stack[0].query_one(TabbedContent).active
        return next((table for table in TABLES if table.name == active), TABLES[0])

    def _widget(self, table: Table) -> DataTable[Text]:
        return self.screen_stack[0].query_one(f"#{table.name}-table", DataTable)

    def _chosen_table(self) -> DataTable[Text]:
        return self._widget(self._table())

    @staticmethod
    def _cursor(widget: DataTable[Text]) -> str | None:
        if not widget.row_count:
            return None
        return widget.coordinate_to_cell_key(widget.cursor_coordinate).row_key.value

    # -- what people do

    def on_resize(self, event: Resize) -> None:
        """Give a narrow screen fewer columns."""
        self.width = event.size.width  # the size of the app itself follows later
        self.refresh_tables()

    def on_tabbed_content_tab_activated(self) -> None:
        """Say what there is to say of the table that is now shown, and let keys go to it."""
        self._say()
        self._chosen_table().focus()

    def action_tab(self, name: str) -> None:
        """Show a table."""
        self.query_one(TabbedContent).active = name

    def action_sort(self) -> None:
        """Sort by the next column that is shown; after the last one by none."""
        table = self._table()
        heads = ["", *(column.head for column in table.shown(self.width))]
        order = self.orders[table.name]
        at = heads.index(order.head) if order.head in heads else 0
        self._order(table, heads[(at + 1) % len(heads)])

    def action_reverse(self) -> None:
        """Turn the order round."""
        order = self.orders[self._table().name]
        order.descending = not order.descending
        self._fill(self._table())

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column that was clicked; the other way round at the second click."""
        table, head = self._table(), str(event.column_key.value)
        if self.orders[table.name].head == head:
            self.action_reverse()
        else:
            self._order(table, head)

    def _order(self, table: Table, head: str) -> None:
        rows = list(table.rows(self.frame))
        column = next((column for column in table.columns if column.head == head), None)
        is_number = bool(column and rows and not isinstance(column.rank(rows[0]), str))
        self.orders[table.name] = Order(head, descending=is_number)  # the largest first, words from A on
        self._fill(table)

    def action_filter(self) -> None:
        """Ask what rows must contain."""
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    def on_input_changed(self) -> None:
        """Choose rows while it is typed."""
        self.refresh_tables()

    def on_input_submitted(self) -> None:
        """Let keys go to the table again."""
        self.query_one("#filter", Input).display = False
        self._chosen_table().focus()

    def action_unfilter(self) -> None:
        """Show all rows again."""
        field = self.query_one("#filter", Input)
        field.value = ""
        field.display = False
        self._chosen_table().focus()

    def action_pause(self) -> None:
        """Stop following, or go on."""
        self.paused = not self.paused
        if self._next is not None:
            self._next.stop()
        if not self.paused:
            self.look()
        self._say()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Explain a row."""
        table = self._table()
        row = next((row for row in table.rows(self.frame) if table.key(row) == event.row_key.value), None)
        if row is not None:
            self.push_screen(Details(table, table.key(row), details(self.source, self.frame, row)))


def _styled(cell: str) -> Text:
    """A cell: never read as markup, which an IPv6 address in brackets would be."""
    return Text(cell, style=STYLES.get(cell, ""), no_wrap=True)
