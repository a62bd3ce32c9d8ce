"""Static twins of the interactive figures, drawn with matplotlib from the same numbers.

Plotly's JSON shows nothing on GitHub or in an HTML export, and its own image export needs a browser. Figures
are made without pyplot: no global state, and no window or backend is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from blindspot.figure_tables import (
    FIGURE1_TEST_SETS,
    LineStyle,
    choose_line_styles,
    figure1_table,
    name_kind,
    name_start,
    name_test_set,
    order_kinds,
)
from blindspot.plotly_parts import pick_colours
from blindspot.small_figures import draw_acceptance, draw_starts

DPI = 100
INK = "#444444"
SAVE_DPI = 150
WHISKERS_APART = 0.012  # of the x axis's length


def draw_figure1_static(results: pd.DataFrame, *, test_sets: tuple[str, ...] = FIGURE1_TEST_SETS) -> Figure:
    """Figure 1 as a matplotlib figure, 900 pixels wide at 100 dpi: the points of `figure1_table(results)`."""
    table = figure1_table(results, test_sets=test_sets)
    sizes = list(dict.fromkeys(table["starting_size"].tolist()))
    columns = min(3, len(sizes))
    rows = -(-len(sizes) // columns)
    figure = Figure(figsize=(9, 0.9 + 2.35 * rows), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, size in zip(axes, sizes, strict=False):
        _draw_panel(panel, table[table["starting_size"].eq(size)], test_sets, choose_line_styles(table))
        panel.set_title(name_start(int(size)), fontsize=10)
    for panel in axes[len(sizes) :]:
        panel.remove()
    _style_panels(axes[: len(sizes)], table)
    figure.supxlabel("Further training pairs", fontsize=10)
    figure.supylabel("Accuracy", fontsize=10)
    _add_legends(figure, table, test_sets)
    return figure


def _draw_panel(axes: Axes, panel: pd.DataFrame, test_sets: tuple[str, ...], styles: dict[str, LineStyle]) -> None:
    kinds = order_kinds(panel)
    apart = (panel["training_size"].max() or 1) * WHISKERS_APART
    for place, (colour, test_set) in enumerate(zip(pick_colours(test_sets), test_sets, strict=True)):
        rows = panel[panel["test_set"].eq(test_set)]
        start = rows[rows["training_kind"].eq("none")]
        for number, kind in enumerate(kinds):
            line = pd.concat([start, rows[rows["training_kind"].eq(kind)]])
            shown = list(range(len(start), len(line)))
            marks: dict[str, Any] = {"marker": styles[kind].marker, "markevery": shown, "ms": 4.5}
            marks |= {"linestyle": styles[kind].linestyle, "lw": 1.4, "color": colour}
            axes.plot(line["training_size"], line["accuracy"], **marks)
            beside = (place * len(kinds) + number - (len(test_sets) * len(kinds) - 1) / 2) * apart
            draw_whiskers(axes, line.iloc[len(start) :], colour, x="training_size", beside=beside)
        axes.plot(start["training_size"], start["accuracy"], "o", color=colour, mfc="white", ms=5.5, mew=1.6)
        beside = (place - (len(test_sets) - 1) / 2) * apart
        draw_whiskers(axes, start, colour, x="training_size", beside=beside)


def draw_whiskers(axes: Axes, rows: pd.DataFrame, colour: str, *, x: str, beside: float) -> None:
    """Intervals, each `beside` its point by that much of the x axis, so that those at one x do not hide another."""
    known = rows[rows["low"].notna()]
    if len(known):
        reach = np.abs(known[["low", "high"]].to_numpy(dtype=float) - known[["accuracy"]].to_numpy()).T
        places = known[x] + beside
        bars = axes.errorbar(places, known["accuracy"], yerr=reach, fmt="none", ecolor=colour)
        for part in bars.lines[2]:
            part.set(linewidth=0.9, alpha=0.4)


def _style_panels(panels: Iterable[Axes], table: pd.DataFrame) -> None:
    ticks = sorted({0, *table["training_size"].tolist()})
    room = 0.06 * (ticks[-1] or 1)
    for panel in panels:
        panel.set_xlim(-room, ticks[-1] + room)
        panel.set_ylim(-0.03, 1.03)
        if len(ticks) <= 5:
            panel.set_xticks(ticks)
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        panel.tick_params(labelsize=8.5, labelbottom=True)
        _clean(panel)


def _clean(axes: Axes) -> None:
    axes.grid(color="#E4E4E4", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _add_legends(figure: Figure, table: pd.DataFrame, test_sets: tuple[str, ...]) -> None:
    colours = zip(pick_colours(test_sets), test_sets, strict=True)
    sets = [Line2D([], [], color=colour, lw=4, label=name_test_set(name)) for colour, name in colours]
    start = Line2D([], [], color=INK, marker="o", mfc="white", ms=5.5, mew=1.6, ls="", label="Start")
    styles = choose_line_styles(table)
    kinds = [
        Line2D([], [], color=INK, ls=styles[kind].linestyle, marker=styles[kind].marker, label=name_kind(kind))
        for kind in order_kinds(table)
    ]
    _add_legend(figure, sets, "colour: test set", "outside upper left")
    _add_legend(figure, [start, *kinds], "line: further training on", "outside upper right")


def _add_legend(figure: Figure, keys: list[Line2D], title: str, place: Any) -> None:
    look: dict[str, Any] = {"fontsize": 8.5, "title_fontsize": 8.5, "frameon": False, "alignment": "left"}
    columns = len(keys) if len(keys) <= 4 else 2
    figure.legend(handles=keys, title=title, loc=place, ncols=columns, handlelength=2.6, **look)


def draw_starts_static(results: pd.DataFrame) -> Figure:
    """The static twin of `draw_starts(results)`."""
    return draw_static_twin(draw_starts(results))


def draw_acceptance_static(acceptance: pd.DataFrame | pa.Table) -> Figure:
    """The static twin of `draw_acceptance(acceptance)`."""
    return draw_static_twin(draw_acceptance(acceptance))


def draw_static_twin(figure: go.Figure) -> Figure:
    """A one-panel Plotly figure of lines or bars as a matplotlib figure, with the same points and titles.

    Raises ValueError for a figure with several panels or other traces.
    """
    kinds = {trace.type for trace in figure.data}
    if not kinds <= {"bar", "scatter"} or len(list(figure.select_xaxes())) > 1:
        raise ValueError(
            f"cannot draw a twin of traces {sorted(kinds)} in {len(list(figure.select_xaxes()))} panels; "
            "expected bars or lines in one panel: pass the static figure"
        )
    twin = Figure(figsize=(9, (figure.layout.height or 360) / DPI), dpi=DPI, layout="constrained")
    axes = twin.subplots()
    lefts: dict[Any, float] = {}
    for trace in figure.data:
        if trace.type == "bar":
            _draw_bars(axes, trace, lefts)
        else:
            _draw_trace(axes, trace)
    _style_twin(axes, figure)
    return twin


def _draw_bars(axes: Axes, trace: go.Bar, lefts: dict[Any, float]) -> None:
    starts = [lefts.get(name, 0.0) for name in trace.y]
    sizes = [value or 0.0 for value in trace.x]
    axes.barh(trace.y, sizes, left=starts, color=trace.marker.color, label=trace.name, height=0.7)
    lefts.update({name: start + size for name, start, size in zip(trace.y, starts, sizes, strict=True)})


def _draw_trace(axes: Axes, trace: go.Scatter) -> None:
    y = [np.nan if value is None else value for value in trace.y]
    look: dict[str, Any] = {"color": trace.line.color, "lw": 1.6, "label": trace.name}
    look |= {"drawstyle": "steps-post"} if trace.line.shape == "hv" else {}
    look |= {"marker": "o", "ms": 5} if "markers" in (trace.mode or "") else {}
    axes.plot(trace.x, y, **look)
    if trace.error_y.array is not None:
        reach = [trace.error_y.arrayminus, trace.error_y.array]
        axes.errorbar(trace.x, y, yerr=reach, fmt="none", ecolor=trace.line.color, elinewidth=0.9, capsize=2)


def _style_twin(axes: Axes, figure: go.Figure) -> None:
    layout = figure.layout
    axes.set_xlabel(layout.xaxis.title.text or "")
    axes.set_ylabel(layout.yaxis.title.text or "")
    if layout.yaxis.range is not None:
        axes.set_ylim(*layout.yaxis.range)
    if layout.yaxis.autorange == "reversed":
        axes.invert_yaxis()
    for axis, given in ((axes.xaxis, layout.xaxis), (axes.yaxis, layout.yaxis)):
        if (given.tickformat or "").endswith("%"):
            axis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    _clean(axes)
    columns = min(len(figure.data), 6)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, fontsize=9)


def render_png(figure: Figure) -> bytes:
    """The figure as PNG bytes."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def save_static(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG or SVG, by the path's suffix; the same figure gives the same bytes."""
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"cannot save a figure as {path.name}; expected a .png or .svg path")
    metadata = {"Software": None} if path.suffix == ".png" else {"Date": None}
    figure.savefig(path, dpi=SAVE_DPI, metadata=metadata)
    return path
