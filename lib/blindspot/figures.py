"""The study's figures in Plotly, each drawn from one tidy table and able to stand beside its static twin.

Plain `go.Figure` objects only: a FigureWidget adds 5 MB to a saved notebook, a figure's JSON some kilobytes.
Colour says the test set, line and marker say the training kind, and the legend keeps the two apart.
"""

from __future__ import annotations

from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from IPython.display import display
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from blindspot.figure_tables import (
    FIGURE1_TEST_SETS,
    LineStyle,
    choose_line_styles,
    count_lengths,
    figure1_table,
    name_kind,
    name_start,
    name_test_set,
    order_kinds,
    starts_table,
    table1_display,
)
from blindspot.plotly_parts import (
    GRID_COLOUR,
    list_points,
    make_whiskers,
    pick_colours,
    style_panels,
)
from blindspot.small_figures import draw_acceptance, draw_lengths, draw_starts
from blindspot.static_figures import (
    draw_acceptance_static,
    draw_figure1_static,
    draw_starts_static,
    draw_static_twin,
    render_png,
    save_static,
)

__all__ = [
    "count_lengths",
    "draw_acceptance",
    "draw_acceptance_static",
    "draw_figure1",
    "draw_figure1_static",
    "draw_lengths",
    "draw_starts",
    "draw_starts_static",
    "draw_static_twin",
    "figure1_table",
    "save_static",
    "show_figure",
    "starts_table",
    "table1_display",
]

PLOTLY_MIME = "application/vnd.plotly.v1+json"
NOTE_WITHOUT_PLOTLY = "The interactive figure shows in JupyterLab; its static twin is below."
START_COLOUR = "#555555"
PANEL_COLUMNS = 3
LEGEND_WIDTH = 860


def draw_figure1(results: pd.DataFrame, *, test_sets: tuple[str, ...] = FIGURE1_TEST_SETS) -> go.Figure:
    """Figure 1 of the paper: one panel per starting size, accuracy by training-set size.

    `results` is what `figure1_table` takes; the points are exactly that table's. Every line begins at 0 with
    the starting model itself. With several seeds, or `low` and `high` given, whiskers show the interval. A
    click on a test set in the legend hides it.
    """
    table = figure1_table(results, test_sets=test_sets)
    sizes = list(dict.fromkeys(table["starting_size"].tolist()))
    columns = min(PANEL_COLUMNS, len(sizes))
    rows = -(-len(sizes) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_xaxes="all",
        shared_yaxes="all",
        subplot_titles=[name_start(int(size)) for size in sizes],
        horizontal_spacing=0.03,
        vertical_spacing=0.14 if rows > 1 else 0,
        x_title="Further training pairs",
        y_title="Accuracy",
    )
    for panel, size in enumerate(sizes):
        position = {"row": panel // columns + 1, "col": panel % columns + 1}
        for trace in _draw_panel(table[table["starting_size"].eq(size)], test_sets, choose_line_styles(table)):
            figure.add_trace(trace, **position)
    _add_legends(figure, table, test_sets)
    _style_axes(figure, table, rows=rows)
    return figure


def _draw_panel(panel: pd.DataFrame, test_sets: tuple[str, ...], styles: dict[str, LineStyle]) -> list[go.Scatter]:
    traces = []
    for colour, test_set in zip(pick_colours(test_sets), test_sets, strict=True):
        rows = panel[panel["test_set"].eq(test_set)]
        start = rows[rows["training_kind"].eq("none")]
        for kind in order_kinds(rows):
            line = rows[rows["training_kind"].eq(kind)]
            traces.append(_draw_line(pd.concat([start, line]), test_set, kind, colour, styles[kind]))
        traces.append(_draw_start(start, test_set, colour))
    return traces


def _draw_line(rows: pd.DataFrame, test_set: str, kind: str, colour: str, style: LineStyle) -> go.Scatter:
    is_start = rows["training_kind"].eq("none")
    whiskers = rows.assign(low=rows["low"].mask(is_start), high=rows["high"].mask(is_start))
    return go.Scatter(
        **list_points(rows),
        name=f"{name_test_set(test_set)}, {name_kind(kind)}",
        legendgroup=test_set,
        showlegend=False,
        mode="lines+markers",
        line={"color": colour, "dash": style.dash, "width": 1.8},
        marker={"symbol": style.symbol, "size": [0 if start else 8 for start in is_start], "color": colour}
        | {"opacity": 1, "line": {"width": 0}},
        error_y=make_whiskers(whiskers, colour),
    )


def _draw_start(start: pd.DataFrame, test_set: str, colour: str) -> go.Scatter:
    marker = {"symbol": "circle-open", "size": 9, "color": colour, "line": {"width": 2}}
    return go.Scatter(
        **list_points(start),
        name=f"{name_test_set(test_set)}, start",
        legendgroup=test_set,
        showlegend=False,
        mode="markers",
        marker=marker,
        error_y=make_whiskers(start, colour),
    )


def _add_legends(figure: go.Figure, table: pd.DataFrame, test_sets: tuple[str, ...]) -> None:
    """One legend for colours and one for lines, by traces without points."""
    for colour, test_set in zip(pick_colours(test_sets), test_sets, strict=True):
        name = name_test_set(test_set)
        line = {"color": colour, "width": 4}
        figure.add_trace(_key(name, legend="legend", legendgroup=test_set, mode="lines", line=line))
    marker = {"symbol": "circle-open", "size": 9, "color": START_COLOUR, "line": {"width": 2}}
    figure.add_trace(_key("Start", legend="legend2", mode="markers", marker=marker))
    styles = choose_line_styles(table)
    for kind in order_kinds(table):
        line = {"color": START_COLOUR, "dash": styles[kind].dash, "width": 2}
        marker = {"symbol": styles[kind].symbol, "size": 8, "color": START_COLOUR}
        key = _key(name_kind(kind), legend="legend2", mode="lines+markers", line=line, marker=marker)
        figure.add_trace(key)


def _key(name: str, **marks: Any) -> go.Scatter:
    return go.Scatter(x=[None], y=[None], name=escape(name), showlegend=True, hoverinfo="skip", **marks)


def _style_axes(figure: go.Figure, table: pd.DataFrame, *, rows: int) -> None:
    kinds_width = 200 + sum(80 + 7 * len(kind) for kind in order_kinds(table))
    legend_rows = 1 + -(-kinds_width // LEGEND_WIDTH)
    height = 90 + 26 * legend_rows + 240 * rows
    style_panels(figure, height=height, top=36 + 26 * legend_rows, bottom=56)
    ticks = sorted({0, *table["training_size"].tolist()})
    room = 0.06 * (ticks[-1] or 1)
    figure.update_xaxes(range=[-room, ticks[-1] + room], tickformat=",", ticks="outside", showticklabels=True)
    if len(ticks) <= 5:
        figure.update_xaxes(tickvals=ticks, tickangle=0, tickfont={"size": 11})
    figure.update_xaxes(gridcolor=GRID_COLOUR, zeroline=False)
    figure.update_yaxes(range=[-0.03, 1.03], dtick=0.2, tickformat=".1f", gridcolor=GRID_COLOUR, zeroline=False)


def show_figure(figure: go.Figure, static: Figure | None = None) -> None:
    """Show `figure` and below it its static twin, as two outputs of the cell.

    The first output holds the figure's JSON alone, which JupyterLab draws, and no plotly.js, whatever
    `plotly.io.renderers.default` says. The second is an image for GitHub, HTML exports and readers without
    JupyterLab. They are two outputs because JupyterLab's Plotly extension shows a bundle's image in place of
    the figure until the mouse enters it. Without `static` the twin is drawn from `figure`.
    """
    interactive = figure.to_plotly_json() | {"config": {"displaylogo": False, "responsive": True}}
    display({PLOTLY_MIME: interactive, "text/plain": NOTE_WITHOUT_PLOTLY}, raw=True)
    twin = static if static is not None else draw_static_twin(figure)
    display({"image/png": render_png(twin), "text/plain": "static figure"}, raw=True)
