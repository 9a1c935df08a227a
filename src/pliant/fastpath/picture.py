# SPDX-License-Identifier: Apache-2.0
"""The graph of a topology as Graphviz' dot and as SVG, which needs nothing but a viewer."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

from pliant.fastpath.graph import KINDS, Edge, Graph, Node

_BOX_WIDTH, _LINE_HEIGHT, _PADDING = 210, 15, 8
_GAP_ACROSS, _GAP_DOWN, _MARGIN = 90, 18, 24
_CHARACTERS = 33
_FAST, _SLOW, _INK, _PAPER = "#0b7a3b", "#8a8f98", "#1c2430", "#ffffff"
_FILLS = {"in": "#e8f0fe", "out": "#e8f0fe", "router": "#fef3d6", "bridge": "#fef3d6", "host": "#eceff1"}
_COLUMNS: dict[str, tuple[str, ...]] = {"forward": ("forward", "host"), "host": ()}  # one under the other
_HOOK_FILL = "#fde3e1"


def dot(graph: Graph) -> str:
    """The graph in the language of dot(1); ways that are taken without the kernel are green and bold."""
    lines = [
        "digraph topology {",
        "  rankdir=LR;",
        '  node [shape=box, fontname="sans-serif", style=filled];',
    ]
    for kind in KINDS:
        same = [node for node in graph.nodes if node.kind == kind]
        if same:
            lines.append("  { rank=same; " + " ".join(f"{_quoted(n.id)};" for n in same) + " }")
    for node in graph.nodes:
        label = _quoted("\n".join((node.label, *node.details)))
        lines.append(f'  {_quoted(node.id)} [label={label}, fillcolor="{_fill(node)}"];')
    for edge in graph.edges:
        style = f'color="{_FAST}", penwidth=2, label={_quoted(", ".join(edge.modules))}'
        lines.append(
            f"  {_quoted(edge.source)} -> {_quoted(edge.target)} "
            f'[{style if edge.modules else f"""color="{_SLOW}" """.strip()}];'
        )
    return "\n".join([*lines, "}", ""])


def svg(graph: Graph) -> str:
    """The graph as a picture: from left to right what a packet meets, with what is accelerated in green."""
    places = _layout(graph)
    width = max((x + _BOX_WIDTH for x, _, _ in places.values()), default=0) + _MARGIN
    height = max((y + h for _, y, h in places.values()), default=0) + _MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12" role="img">',
        "<title>The way of a packet through this host</title>",
        f'<rect width="{width}" height="{height}" fill="{_PAPER}"/>',
    ]
    for edge in sorted(graph.edges, key=lambda e: bool(e.modules)):
        lines += _line(edge, places)
    for node in graph.nodes:
        lines += _box(node, places[node.id])
    return "\n".join([*lines, "</svg>", ""])


Place = tuple[int, int, int]  # left, top, height


def _layout(graph: Graph) -> dict[str, Place]:
    """Columns by kind, without those that are empty; in each the nodes from top to bottom, around one middle."""
    shown = [_COLUMNS.get(kind, (kind,)) for kind in KINDS]
    columns = [
        nodes for kinds in shown if (nodes := [n for kind in kinds for n in graph.nodes if n.kind == kind])
    ]
    tall = max((sum(_height(n) + _GAP_DOWN for n in nodes) for nodes in columns), default=0)
    places = {}
    for number, nodes in enumerate(columns):
        y = _MARGIN + (tall - sum(_height(n) + _GAP_DOWN for n in nodes)) // 2
        for node in nodes:
            places[node.id] = (_MARGIN + number * (_BOX_WIDTH + _GAP_ACROSS), y, _height(node))
            y += _height(node) + _GAP_DOWN
    return places


def _height(node: Node) -> int:
    return 2 * _PADDING + _LINE_HEIGHT * (1 + len(node.details))


def _box(node: Node, place: Place) -> Iterator[str]:
    x, y, height = place
    yield (
        f'<rect x="{x}" y="{y}" width="{_BOX_WIDTH}" height="{height}" rx="5" fill="{_fill(node)}" '
        f'stroke="{_SLOW}"/>'
    )
    for number, text in enumerate((node.label, *node.details)):
        weight = ' font-weight="bold"' if not number else ' font-size="11"'
        shown = text if len(text) <= _CHARACTERS else text[: _CHARACTERS - 1] + "…"
        baseline = y + _PADDING + 11 + number * _LINE_HEIGHT
        title = f"<title>{escape(text)}</title>" if shown != text else ""
        yield f'<text x="{x + 10}" y="{baseline}" fill="{_INK}"{weight}>{title}{escape(shown)}</text>'


def _line(edge: Edge, places: dict[str, Place]) -> Iterator[str]:
    (x1, y1, h1), (x2, y2, h2) = places[edge.source], places[edge.target]
    start, end = (x1 + _BOX_WIDTH, y1 + h1 // 2), (x2, y2 + h2 // 2)
    bend = _GAP_ACROSS // 2
    if x2 <= x1:  # back, or within a column: around the right side
        end = (x2 + _BOX_WIDTH, y2 + h2 // 2)
        path = f"M{start[0]},{start[1]} C{start[0] + bend},{start[1]} {start[0] + bend},{end[1]} {end[0]},{end[1]}"
    else:
        path = (
            f"M{start[0]},{start[1]} C{start[0] + bend},{start[1]} {end[0] - bend},{end[1]} {end[0]},{end[1]}"
        )
    color, stroke = (_FAST, 2.5) if edge.modules else (_SLOW, 1)
    yield f'<path d="{path}" fill="none" stroke="{color}" stroke-width="{stroke}"/>'
    yield f'<circle cx="{end[0]}" cy="{end[1]}" r="3" fill="{color}"/>'
    if edge.modules:
        where = f'x="{start[0] + 6}" y="{start[1] - 5}"'
        yield f'<text {where} fill="{_FAST}" font-size="11">{escape(", ".join(edge.modules))}</text>'


def _fill(node: Node) -> str:
    return _FILLS.get(node.kind, _HOOK_FILL)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
