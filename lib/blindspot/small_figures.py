"""The smaller figures, one panel each: starting models, acceptance, lengths.

Each is drawn from a tidy table; `static_figures.draw_static_twin` makes the image that stands beside it.
"""

from __future__ import annotations

from html import escape

import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa

from blindspot.audit import summarise_acceptance
from blindspot.figure_tables import COLOURS, FIGURE1_TEST_SETS, name_test_set, starts_table
from blindspot.plotly_parts import list_points, list_values, make_whiskers, pick_colours, style_small


def draw_starts(results: pd.DataFrame, *, test_sets: tuple[str, ...] = FIGURE1_TEST_SETS) -> go.Figure:
    """Accuracy of the starting models by their size, one line per test set: the points of `starts_table`.

    `results` is what `score_predictions` returns; models other than the starts are left out.
    """
    table = starts_table(results, test_sets=test_sets)
    figure = go.Figure()
    for colour, test_set in zip(pick_colours(test_sets), test_sets, strict=True):
        rows = table[table["test_set"].eq(test_set)]
        points = list_points(rows) | {"x": [f"{size:,}" for size in rows["starting_size"]]}
        line = {"color": colour, "width": 2}
        marks = {"mode": "lines+markers", "line": line, "error_y": make_whiskers(rows, colour)}
        figure.add_trace(go.Scatter(**points, name=name_test_set(test_set), **marks))
    style_small(figure, x="Pairs that the starting model has seen", y="Accuracy")
    return figure.update_yaxes(range=[-0.03, 1.03], dtick=0.2).update_xaxes(type="category")


def draw_acceptance(acceptance: pd.DataFrame | pa.Table) -> go.Figure:
    """Shares of accepted and rejected rows by label.

    `acceptance` is `audit.summarise_acceptance`'s table (label, outcome, n, percent), or the table of
    generated rows that it summarises.
    """
    table = summarise_acceptance(acceptance) if isinstance(acceptance, pa.Table) else acceptance
    figure = go.Figure()
    for index, (outcome, rows) in enumerate(table.groupby("outcome", sort=False)):
        bar = go.Bar(
            x=list_values(rows["percent"] / 100),
            y=rows["label"].tolist(),
            customdata=rows["n"].tolist(),
            name=escape(str(outcome)).replace("_", " "),
            orientation="h",
            marker={"color": COLOURS[index % len(COLOURS)]},
            hovertemplate="%{y}: %{customdata:,} rows, %{x:.2%}",
        )
        figure.add_trace(bar)
    style_small(figure, x="Share of the label's generated rows", y="")
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
    style_small(figure, x=f"Length in {unit}", y="Share of rows")
    return figure.update_yaxes(tickformat=".0%", rangemode="tozero")
