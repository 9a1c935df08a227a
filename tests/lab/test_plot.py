# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from pliant.errors import PliantError
from pliant.lab.plot import quantile, save_png, terminal_plot

SERIES = {
    "before": {"10k": [10.0, 11.0, 12.0], "1M": [100.0, 200.0]},
    "after": {"10k": [5.0, 5.5, 6.0], "1M": [50.0, 90.0]},
}


def test_quantile_interpolates() -> None:
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile([0, 10], 0.25) == 2.5
    assert quantile([7], 0.99) == 7
    with pytest.raises(PliantError, match="no samples"):
        quantile([], 0.5)


@pytest.mark.parametrize("kind", ["bars", "cdf"])
def test_png_is_drawn(tmp_path: Path, kind: str) -> None:
    save_png(tmp_path / "plot.png", SERIES, title="Completion time", kind=kind)
    data = (tmp_path / "plot.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 10_000


def test_group_missing_from_a_label_is_left_out(tmp_path: Path) -> None:
    series = {"before": {"10k": [1.0]}, "after": {"10k": [1.0], "1M": [2.0]}}
    save_png(tmp_path / "plot.png", series, title="x")
    assert "1M before" not in terminal_plot(series, colour=False)


def test_unknown_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PliantError, match="no picture of kind 'pie'"):
        save_png(tmp_path / "plot.png", SERIES, title="x", kind="pie")


def test_plain_terminal_plot_is_ascii_and_fits() -> None:
    text = terminal_plot(SERIES, title="Time", width=72, colour=False)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 72
    bars = {line.strip().split("  ")[0]: line.count("#") for line in text.splitlines()[1:]}
    assert bars["1M before"] > bars["1M after"] > bars["10k before"] > bars["10k after"] > 0


def test_coloured_terminal_plot_shows_labels() -> None:
    pytest.importorskip("plotext")
    text = terminal_plot(SERIES, title="Time", width=72)
    assert "before" in text
    assert "1M P99" in text
