"""Dose-response figures: accuracy by dose of biased pairs, interactive and as a static twin of the same numbers.

Both draw `dose_response.tabulate_dose_response`'s table: one panel a starting model, colour the test set, line and
marker the training size, and the curve where a study has several.
"""

from __future__ import annotations

from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from plotly.subplots import make_subplots

from blindspot.figure_tables import LINE_STYLES, LineStyle, name_start, name_test_set
from blindspot.plotly_parts import GRID_COLOUR, list_points, make_whiskers, pick_colours, style_panels
from blindspot.static_figures import WHISKERS_APART, draw_whiskers

INK = "#444444"
DPI = 100
PANEL_COLUMNS = 3
X_TITLE, Y_TITLE = "Dose: share of pairs drawn as biased", "Accuracy"


def list_panels(table: pd.DataFrame) -> list[int]:
    """The starting sizes of a dose table, one panel each."""
    return [int(size) for size in dict.fromkeys(table["starting_size"])]


def name_lines(table: pd.DataFrame) -> dict[tuple[str, int], tuple[str, LineStyle]]:
    """(curve, training size) -> its name in the legend and its style."""
    keys = [(str(curve), int(size)) for curve, size in table[["curve", "training_size"]].drop_duplicates().to_numpy()]
    has_one = table["curve"].nunique() == 1
    names = [f"{size:,} pairs" if has_one else f"{curve}, {size:,} pairs" for curve, size in keys]
    styles = [LINE_STYLES[place % len(LINE_STYLES)] for place in range(len(keys))]
    return dict(zip(keys, zip(names, styles, strict=True), strict=True))


def list_lines(panel: pd.DataFrame) -> list[tuple[str, tuple[str, int], pd.DataFrame]]:
    """The lines of a panel: test set, (curve, training size), points with rising dose."""
    groups = panel.groupby(["test_set", "curve", "training_size"], sort=False)
    return [(str(name), (str(curve), int(size)), rows.sort_values("dose")) for (name, curve, size), rows in groups]


def draw_dose_response(table: pd.DataFrame) -> go.Figure:
    """The interactive figure. A click on a test set in the legend hides it. Raises ValueError for an empty table."""
    sizes, tests = _check_table(table)
    columns = min(PANEL_COLUMNS, len(sizes))
    figure = make_subplots(
        rows=-(-len(sizes) // columns),
        cols=columns,
        shared_xaxes="all",
        shared_yaxes="all",
        subplot_titles=[name_start(size) for size in sizes],
        horizontal_spacing=0.04,
        x_title=X_TITLE,
        y_title=Y_TITLE,
    )
    colours = dict(zip(tests, pick_colours(tests), strict=True))
    lines = name_lines(table)
    for place, size in enumerate(sizes):
        for test_set, key, rows in list_lines(table[table["starting_size"].eq(size)]):
            trace = _draw_line(rows, test_set, colours[test_set], *lines[key])
            figure.add_trace(trace, row=place // columns + 1, col=place % columns + 1)
    _add_legends(figure, colours, lines)
    _style_axes(figure, rows=-(-len(sizes) // columns))
    return figure


def _check_table(table: pd.DataFrame) -> tuple[list[int], tuple[str, ...]]:
    if table.empty:
        raise ValueError("the dose table is empty; expected a study with kinds that differ in dose only")
    return list_panels(table), tuple(dict.fromkeys(table["test_set"]))


def _draw_line(rows: pd.DataFrame, test_set: str, colour: str, name: str, style: LineStyle) -> go.Scatter:
    return go.Scatter(
        **list_points(rows) | {"x": rows["dose"].tolist()},
        name=escape(f"{name_test_set(test_set)}, {name}"),
        legendgroup=test_set,
        showlegend=False,
        mode="lines+markers",
        line={"color": colour, "dash": style.dash, "width": 1.8},
        marker={"symbol": style.symbol, "size": 8, "color": colour},
        error_y=make_whiskers(rows, colour),
    )


def _add_legends(
    figure: go.Figure, colours: dict[str, str], lines: dict[tuple[str, int], tuple[str, LineStyle]]
) -> None:
    """One legend for colours and one for lines, by traces without points."""
    shared: dict[str, Any] = {"x": [None], "y": [None], "showlegend": True, "hoverinfo": "skip"}
    for test_set, colour in colours.items():
        look = {"mode": "lines", "line": {"color": colour, "width": 4}, "legendgroup": test_set}
        figure.add_trace(go.Scatter(**shared, **look, name=name_test_set(test_set), legend="legend"))
    for name, style in lines.values():
        look = {"mode": "lines+markers", "line": {"color": INK, "dash": style.dash, "width": 2}}
        marker = {"symbol": style.symbol, "size": 8, "color": INK}
        figure.add_trace(go.Scatter(**shared, **look, marker=marker, name=escape(name), legend="legend2"))


def _style_axes(figure: go.Figure, *, rows: int) -> None:
    style_panels(figure, height=150 + 260 * rows, top=92, bottom=60)
    figure.update_xaxes(range=[-0.06, 1.06], dtick=0.25, tickformat=".0%", ticks="outside", showticklabels=True)
    figure.update_xaxes(gridcolor=GRID_COLOUR, zeroline=False)
    figure.update_yaxes(range=[-0.03, 1.03], dtick=0.2, tickformat=".1f", gridcolor=GRID_COLOUR, zeroline=False)


def draw_dose_response_static(table: pd.DataFrame) -> Figure:
    """The same points as a matplotlib figure, 900 pixels wide at 100 dpi. Raises ValueError for an empty table."""
    sizes, tests = _check_table(table)
    columns = min(PANEL_COLUMNS, len(sizes))
    rows = -(-len(sizes) // columns)
    figure = Figure(figsize=(9, 1.1 + 2.7 * rows), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    colours = dict(zip(tests, pick_colours(tests), strict=True))
    lines = name_lines(table)
    for panel, size in zip(axes, sizes, strict=False):
        shown = list_lines(table[table["starting_size"].eq(size)])
        for place, (test_set, key, points) in enumerate(shown):
            colour, style = colours[test_set], lines[key][1]
            look: dict[str, Any] = {"linestyle": style.linestyle, "marker": style.marker, "lw": 1.4, "ms": 4.5}
            panel.plot(points["dose"], points["accuracy"], color=colour, **look)
            draw_whiskers(panel, points, colour, x="dose", beside=(place - (len(shown) - 1) / 2) * WHISKERS_APART)
        panel.set_title(name_start(size), fontsize=10)
        _style_panel(panel)
    for panel in axes[len(sizes) :]:
        panel.remove()
    figure.supxlabel(X_TITLE, fontsize=10)
    figure.supylabel(Y_TITLE, fontsize=10)
    _add_static_legends(figure, colours, lines)
    return figure


def _style_panel(axes: Axes) -> None:
    axes.set(xlim=(-0.06, 1.06), ylim=(-0.03, 1.03), xticks=[0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.tick_params(labelsize=8.5, labelbottom=True)
    axes.grid(color=GRID_COLOUR, lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _add_static_legends(
    figure: Figure, colours: dict[str, str], lines: dict[tuple[str, int], tuple[str, LineStyle]]
) -> None:
    sets = [Line2D([], [], color=colour, lw=4, label=name_test_set(name)) for name, colour in colours.items()]
    sizes = [
        Line2D([], [], color=INK, ls=style.linestyle, marker=style.marker, label=name) for name, style in lines.values()
    ]
    look: dict[str, Any] = {"fontsize": 8.5, "title_fontsize": 8.5, "frameon": False, "alignment": "left"}
    figure.legend(handles=sets, title="colour: test set", loc="outside upper left", ncols=len(sets), **look)
    columns = 1 if max(len(name) for name, _ in lines.values()) > 30 else min(len(sizes), 4)
    place: Any = "outside upper right"
    figure.legend(handles=sizes, title="line: further training on", loc=place, ncols=columns, handlelength=2.6, **look)
