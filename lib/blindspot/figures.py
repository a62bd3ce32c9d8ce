"""The study's figures in Plotly, each drawn from one tidy table and able to stand beside its static twin.

Plain `go.Figure` objects only: a FigureWidget adds 5 MB to a saved notebook, a figure's JSON some kilobytes.
Colour says the test set, line and marker say the training kind, and the legend keeps the two apart.
"""

from __future__ import annotations

from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from blindspot.figure_tables import (
    COLOURS,
    FIGURE1_TEST_SETS,
    LineStyle,
    choose_line_styles,
    count_lengths,
    count_outcomes,
    fade_colour,
    figure1_table,
    name_kind,
    name_start,
    name_test_set,
    order_kinds,
    starts_table,
    table1_display,
)
from blindspot.static_figures import draw_figure1_static, draw_static_twin, render_png, save_static

__all__ = [
    "count_lengths",
    "count_outcomes",
    "draw_accuracy_by_start",
    "draw_figure1",
    "draw_figure1_static",
    "draw_lengths",
    "draw_outcomes",
    "draw_static_twin",
    "figure1_table",
    "save_static",
    "show_figure",
    "starts_table",
    "table1_display",
]

PLOTLY_MIME = "application/vnd.plotly.v1+json"
START_COLOUR = "#555555"
GRID_COLOUR = "#E4E4E4"
PANEL_COLUMNS = 3
LEGEND_WIDTH = 860
MODEBAR_REMOVE = ["autoScale2d", "lasso2d", "select2d", "zoomIn2d", "zoomOut2d"]


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
        for trace in _draw_panel(
            table[table["starting_size"].eq(size)], test_sets, choose_line_styles(table)
        ):
            figure.add_trace(trace, **position)
    _add_legends(figure, table, test_sets)
    _style_axes(figure, table, rows=rows)
    return figure


def _draw_panel(
    panel: pd.DataFrame, test_sets: tuple[str, ...], styles: dict[str, LineStyle]
) -> list[go.Scatter]:
    traces = []
    for colour, test_set in zip(_colours(test_sets), test_sets, strict=True):
        rows = panel[panel["test_set"].eq(test_set)]
        start = rows[rows["training_kind"].eq("none")]
        for kind in order_kinds(rows):
            line = rows[rows["training_kind"].eq(kind)]
            traces.append(_draw_line(pd.concat([start, line]), test_set, kind, colour, styles[kind]))
        traces.append(_draw_start(start, test_set, colour))
    return traces


def _colours(test_sets: tuple[str, ...]) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(len(test_sets))]


def _draw_line(rows: pd.DataFrame, test_set: str, kind: str, colour: str, style: LineStyle) -> go.Scatter:
    is_start = rows["training_kind"].eq("none")
    whiskers = rows.assign(low=rows["low"].mask(is_start), high=rows["high"].mask(is_start))
    return go.Scatter(
        **_points(rows),
        name=f"{name_test_set(test_set)}, {name_kind(kind)}",
        legendgroup=test_set,
        showlegend=False,
        mode="lines+markers",
        line={"color": colour, "dash": style.dash, "width": 1.8},
        marker={"symbol": style.symbol, "size": [0 if start else 8 for start in is_start], "color": colour}
        | {"opacity": 1, "line": {"width": 0}},
        error_y=_whiskers(whiskers, colour),
    )


def _draw_start(start: pd.DataFrame, test_set: str, colour: str) -> go.Scatter:
    marker = {"symbol": "circle-open", "size": 9, "color": colour, "line": {"width": 2}}
    return go.Scatter(
        **_points(start),
        name=f"{name_test_set(test_set)}, start",
        legendgroup=test_set,
        showlegend=False,
        mode="markers",
        marker=marker,
        error_y=_whiskers(start, colour),
    )


def _points(rows: pd.DataFrame) -> dict[str, Any]:
    """Positions, hover texts and the models behind each point (customdata), as plain lists."""
    return {
        "x": rows["training_size"].tolist(),
        "y": _values(rows["accuracy"]),
        "hovertext": [_describe_point(row) for row in rows.to_dict("records")],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "customdata": rows["model"].tolist(),
    }


def _values(column: pd.Series) -> list[float | None]:
    return [None if pd.isna(value) else float(value) for value in column]


def _whiskers(rows: pd.DataFrame, colour: str) -> dict[str, Any] | None:
    if rows["low"].isna().all():
        return None
    up = _values((rows["high"] - rows["accuracy"]).fillna(0))
    down = _values((rows["accuracy"] - rows["low"]).fillna(0))
    look = {"color": fade_colour(colour), "thickness": 1.2, "width": 3}
    return look | {"type": "data", "symmetric": False, "array": up, "arrayminus": down}


def _describe_point(row: dict[Any, Any]) -> str:
    interval = "" if pd.isna(row["low"]) else f" [{row['low']:.3f}, {row['high']:.3f}]"
    trained = "the start itself"
    if row["training_kind"] != "none":
        trained = f"{name_kind(row['training_kind'])}, {row['training_size']:,} pairs"
    lines = [
        f"<b>{name_test_set(row['test_set'])}</b>",
        escape(trained),
        f"accuracy <b>{row['accuracy']:.3f}</b>{interval}",
        f"{row['n']:,} test pairs, {row['seeds']} seed{'s' if row['seeds'] != 1 else ''}",
    ]
    models = [name for name in str(row["model"]).split("; ") if name]
    more = [f"and {len(models) - 4} more"] if len(models) > 4 else []
    return "<br>".join(lines + [escape(text) for text in models[:4] + more])


def _add_legends(figure: go.Figure, table: pd.DataFrame, test_sets: tuple[str, ...]) -> None:
    """One legend for colours and one for lines, by traces without points."""
    for colour, test_set in zip(_colours(test_sets), test_sets, strict=True):
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
    legend = {"orientation": "h", "yref": "container", "yanchor": "top", "xanchor": "left", "x": 0}
    height = 90 + 26 * legend_rows + 240 * rows
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 64, "r": 16, "t": 36 + 26 * legend_rows, "b": 56},
        hovermode="closest",
        modebar={"remove": MODEBAR_REMOVE},
        legend=legend | {"y": 1 - 4 / height, "title": {"text": "Test set:", "side": "left"}},
        legend2=legend
        | {"y": 1 - 30 / height, "title": {"text": "Further training on:", "side": "left"}}
        | {"itemwidth": 50, "itemclick": False, "itemdoubleclick": False},
    )
    ticks = sorted({0, *table["training_size"].tolist()})
    room = 0.06 * (ticks[-1] or 1)
    figure.update_xaxes(range=[-room, ticks[-1] + room], tickformat=",", ticks="outside", showticklabels=True)
    if len(ticks) <= 5:
        figure.update_xaxes(tickvals=ticks, tickangle=0, tickfont={"size": 11})
    figure.update_xaxes(gridcolor=GRID_COLOUR, zeroline=False)
    figure.update_yaxes(
        range=[-0.03, 1.03], dtick=0.2, tickformat=".1f", gridcolor=GRID_COLOUR, zeroline=False
    )


def draw_accuracy_by_start(
    results: pd.DataFrame, *, test_sets: tuple[str, ...] = FIGURE1_TEST_SETS
) -> go.Figure:
    """Accuracy of the starting models by their size, one line per test set, from `starts_table(results)`."""
    table = starts_table(results, test_sets=test_sets)
    figure = go.Figure()
    for colour, test_set in zip(_colours(test_sets), test_sets, strict=True):
        rows = table[table["test_set"].eq(test_set)]
        points = _points(rows) | {"x": [f"{size:,}" for size in rows["starting_size"]]}
        line = {"color": colour, "width": 2}
        marks = {"mode": "lines+markers", "line": line, "error_y": _whiskers(rows, colour)}
        figure.add_trace(go.Scatter(**points, name=name_test_set(test_set), **marks))
    _style_small(figure, x="Pairs that the starting model has seen", y="Accuracy")
    return figure.update_yaxes(range=[-0.03, 1.03], dtick=0.2).update_xaxes(type="category")


def draw_outcomes(outcomes: pd.DataFrame) -> go.Figure:
    """Shares of accepted and rejected rows by label, from `count_outcomes`."""
    figure = go.Figure()
    for index, (outcome, rows) in enumerate(outcomes.groupby("outcome", sort=False)):
        bar = go.Bar(
            x=rows["share"].tolist(),
            y=rows["gold_label"].tolist(),
            customdata=rows["count"].tolist(),
            name=escape(str(outcome)).replace("_", " "),
            orientation="h",
            marker={"color": COLOURS[index % len(COLOURS)]},
            hovertemplate="%{y}: %{customdata:,} rows, %{x:.2%}",
        )
        figure.add_trace(bar)
    _style_small(figure, x="Share of the label's generated rows", y="")
    figure.update_layout(barmode="stack", height=260, legend={"traceorder": "normal"})
    return figure.update_xaxes(tickformat=".0%").update_yaxes(autorange="reversed")


def draw_lengths(lengths: pd.DataFrame, *, unit: str = "tokens") -> go.Figure:
    """Histograms of lengths as outlines, from `count_lengths` (group, length, count, share)."""
    figure = go.Figure()
    for index, (group, rows) in enumerate(lengths.groupby("group", sort=False)):
        trace = go.Scatter(
            x=rows["length"].tolist(),
            y=rows["share"].tolist(),
            customdata=rows["count"].tolist(),
            name=escape(str(group)),
            mode="lines",
            line={"shape": "hv", "color": COLOURS[index % len(COLOURS)], "width": 2},
            hovertemplate="from %{x} " + escape(unit) + ": %{customdata:,} rows, %{y:.2%}",
        )
        figure.add_trace(trace)
    _style_small(figure, x=f"Length in {unit}", y="Share of rows")
    return figure.update_yaxes(tickformat=".0%", rangemode="tozero")


def _style_small(figure: go.Figure, *, x: str, y: str) -> None:
    legend = {"orientation": "h", "yref": "container", "y": 0.98, "yanchor": "top", "x": 0, "xanchor": "left"}
    margin = {"l": 64, "r": 16, "t": 48, "b": 52}
    figure.update_layout(template="plotly_white", height=360, margin=margin, legend=legend)
    figure.update_layout(modebar={"remove": MODEBAR_REMOVE})
    figure.update_xaxes(title_text=x, gridcolor=GRID_COLOUR, zeroline=False)
    figure.update_yaxes(title_text=y, gridcolor=GRID_COLOUR, zeroline=False)


def show_figure(figure: go.Figure, static: Figure | None = None) -> None:
    """Show `figure` as one notebook output that holds the interactive figure and its static twin.

    JupyterLab draws the figure's JSON; what cannot (GitHub, an HTML export, a reader without a kernel) falls
    back on the image. No plotly.js goes into the notebook, whatever `plotly.io.renderers.default` says.
    Without `static` the twin is drawn from `figure`.
    """
    from IPython.display import display

    twin = static if static is not None else draw_static_twin(figure)
    interactive = figure.to_plotly_json() | {"config": {"displaylogo": False, "responsive": True}}
    bundle = {PLOTLY_MIME: interactive, "image/png": render_png(twin)}
    display(bundle | {"text/plain": repr(type(figure).__name__)}, raw=True)
