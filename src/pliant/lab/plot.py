# SPDX-License-Identifier: Apache-2.0
"""Before and after, as a picture: in a file or in the terminal.

Samples come as ``{label: {group: values}}``: a label is what is compared ("before", "after"), a group is
where ("10k", "1M"). Groups keep the order in which they first appear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pliant.errors import PliantError

Series = Mapping[str, Mapping[str, Sequence[float]]]

# Two hues that stay apart for every kind of colour vision, and more if needed (Okabe and Ito).
COLOURS = ("#8a8f98", "#0072b2", "#d55e00", "#009e73", "#cc79a7")
_TERMINAL_COLOURS = ("gray", "cyan", "orange", "green", "magenta")


def quantile(values: Sequence[float], share: float) -> float:
    """Return the quantile of samples by linear interpolation; ``share`` is 0..1."""
    ordered = sorted(values)
    if not ordered:
        raise PliantError("there are no samples to plot")
    position = (len(ordered) - 1) * share
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def groups_of(series: Series) -> list[str]:
    """Return every group in the order of first appearance."""
    return list(dict.fromkeys(group for by_group in series.values() for group in by_group))


def save_png(
    path: Path | str, series: Series, *, title: str, unit: str = "ms", subtitle: str = "", kind: str = "bars"
) -> None:
    """Draw the samples into a PNG file.

    ``kind`` "bars": the median of each group and label as a bar, the 99th percentile as a mark above it,
    and how much the last label changed the first. "cdf": the distribution of each group, one panel each.
    Raises PliantError when matplotlib is missing.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PliantError("matplotlib is not installed", remedy="pip install 'pliant[lab]'") from error
    groups = groups_of(series)
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 10}):
        figure = Figure(figsize=(max(6.4, 1.5 * len(groups) + 2), 4.2), dpi=150, layout="constrained")
        if kind == "bars":
            _draw_bars(figure, series, groups, unit)
        elif kind == "cdf":
            _draw_distributions(figure, series, groups, unit)
        else:
            raise PliantError(f"there is no picture of kind {kind!r}", remedy="use 'bars' or 'cdf'")
        heading = title if not subtitle else f"{title}\n{subtitle}"
        figure.suptitle(heading, x=0.02, ha="left", fontsize=12)
        figure.savefig(path)


def _draw_bars(figure: Any, series: Series, groups: list[str], unit: str) -> None:
    axes = figure.subplots()
    width = 0.8 / len(series)
    for number, (label, by_group) in enumerate(series.items()):
        places, medians, tails = [], [], []
        for index, group in enumerate(groups):
            if by_group.get(group):
                places.append(index + (number - (len(series) - 1) / 2) * width)
                medians.append(quantile(by_group[group], 0.5))
                tails.append(quantile(by_group[group], 0.99))
        colour = COLOURS[number % len(COLOURS)]
        axes.bar(places, medians, width * 0.92, color=colour, label=label, zorder=2)
        axes.vlines(places, medians, tails, color=colour, linewidth=1.2, zorder=2)
        axes.scatter(places, tails, marker="_", s=160, color=colour, linewidth=2, zorder=3)
        for x, median, tail in zip(places, medians, tails, strict=True):
            for value, text_colour, offset in ((median, "white", -11), (tail, "black", 3)):
                axes.annotate(
                    f"{value:.3g}",
                    (x, value),
                    (0, offset),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                    color=text_colour,
                    zorder=4,
                )
    axes.set_xticks(range(len(groups)), [_with_change(series, group) for group in groups])
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0)
    axes.margins(y=0.12)
    _tidy(axes)
    axes.legend(title="bar: P50, mark: P99", title_fontsize=8, frameon=False)


def _with_change(series: Series, group: str) -> str:
    labels = list(series)
    first, last = series[labels[0]].get(group), series[labels[-1]].get(group)
    if len(labels) < 2 or not first or not last:
        return group
    changes = [quantile(last, share) / quantile(first, share) - 1 for share in (0.5, 0.99)]
    return f"{group}\nP50 {changes[0]:+.0%}, P99 {changes[1]:+.0%}"


def _draw_distributions(figure: Any, series: Series, groups: list[str], unit: str) -> None:
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, group in zip(panels, groups, strict=True):
        for number, (label, by_group) in enumerate(series.items()):
            if values := by_group.get(group):
                axes.ecdf(values, color=COLOURS[number % len(COLOURS)], label=label, linewidth=1.8)
        axes.set_title(group, fontsize=10)
        axes.set_xlabel(unit)
        axes.set_xlim(left=0)
        _tidy(axes)
    panels[0].set_ylabel("share of samples")
    panels[0].legend(frameon=False)


def _tidy(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6, zorder=0)
    axes.tick_params(length=0)


def terminal_plot(
    series: Series,
    *,
    title: str = "",
    unit: str = "ms",
    width: int = 80,
    colour: bool = True,
    tail: float = 0.99,
) -> str:
    """Return a picture of the medians and upper ends of the samples as text.

    ``tail`` is the quantile drawn as the upper end; 1 is the maximum, for few samples. With ``colour`` it is
    drawn by plotext, when that is installed; without (not a terminal, NO_COLOR) it is plain ASCII.
    """
    if colour:
        try:
            return _coloured(series, title, unit, width, tail)
        except ImportError:
            pass
    return _plain(series, title, unit, width, tail)


def _share_name(share: float) -> str:
    return "max" if share == 1 else f"P{share * 100:g}"


def _coloured(series: Series, title: str, unit: str, width: int, tail: float) -> str:
    import plotext

    bars = [(group, share) for group in groups_of(series) for share in (0.5, tail)]
    plotext.clear_figure()
    plotext.simple_multiple_bar(
        [f"{group} {_share_name(share)}" for group, share in bars],
        [
            [quantile(by_group[group], share) if by_group.get(group) else 0.0 for group, share in bars]
            for by_group in series.values()
        ],
        width=width,
        labels=list(series),
        colors=[_TERMINAL_COLOURS[number % len(_TERMINAL_COLOURS)] for number in range(len(series))],
        title=f"{title} ({unit})" if title else unit,
    )
    text = str(plotext.build())
    plotext.clear_figure()
    return text


def _plain(series: Series, title: str, unit: str, width: int, tail_share: float) -> str:
    """A bar of '#' up to P50, '-' on to a '|' at the upper end."""
    rows = [
        (group, label, quantile(by_group[group], 0.5), quantile(by_group[group], tail_share))
        for group in groups_of(series)
        for label, by_group in series.items()
        if by_group.get(group)
    ]
    names = [f"{group} {label}" for group, label, _, _ in rows]
    margin = max(map(len, names), default=0)
    figures = [
        f"P50 {median:.4g}  {_share_name(tail_share)} {tail:.4g} {unit}" for _, _, median, tail in rows
    ]
    space = max(10, width - margin - max(map(len, figures), default=0) - 4)
    largest = max((tail for *_, tail in rows), default=1) or 1
    lines = [title] if title else []
    for name, figure, (_, _, median, tail) in zip(names, figures, rows, strict=True):
        bar = "#" * max(1, round(median / largest * space))
        bar += "-" * (round(tail / largest * space) - len(bar)) + "|"
        lines.append(f"{name:>{margin}}  {bar:<{space + 1}} {figure}")
    return "\n".join(lines)
