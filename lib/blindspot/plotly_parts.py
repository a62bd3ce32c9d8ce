"""Pieces of Plotly figures that several figures share: points with their hover texts, whiskers, looks.

Values go in as plain lists, so that a saved figure's JSON can be read and compared by eye.
"""

from __future__ import annotations

from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from blindspot.figure_tables import COLOURS, fade_colour, name_kind, name_test_set

GRID_COLOUR = "#E4E4E4"
MODEBAR_REMOVE = ["autoScale2d", "lasso2d", "select2d", "zoomIn2d", "zoomOut2d"]


def pick_colours(test_sets: tuple[str, ...]) -> list[str]:
    """One colour per test set, the same in every figure that shows the same ones."""
    return [COLOURS[index % len(COLOURS)] for index in range(len(test_sets))]


def list_points(rows: pd.DataFrame) -> dict[str, Any]:
    """Positions, hover texts and the models behind each point (customdata), as plain lists."""
    return {
        "x": rows["training_size"].tolist(),
        "y": list_values(rows["accuracy"]),
        "hovertext": [_describe_point(row) for row in rows.to_dict("records")],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "customdata": rows["model"].tolist(),
    }


def list_values(column: pd.Series) -> list[float | None]:
    """A column of numbers as a list, with None where there is none."""
    return [None if pd.isna(value) else float(value) for value in column]


def make_whiskers(rows: pd.DataFrame, colour: str) -> dict[str, Any] | None:
    """Error bars from `low` to `high`, or None where no row has an interval."""
    if rows["low"].isna().all():
        return None
    up = list_values((rows["high"] - rows["accuracy"]).fillna(0))
    down = list_values((rows["accuracy"] - rows["low"]).fillna(0))
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


def style_panels(figure: go.Figure, *, height: int, top: int, bottom: int) -> None:
    """The look of a figure of several panels: its test sets and its kinds in two legends above one another. Pixels."""
    legend = {"orientation": "h", "yref": "container", "yanchor": "top", "xanchor": "left", "x": 0}
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 64, "r": 16, "t": top, "b": bottom},
        hovermode="closest",
        modebar={"remove": MODEBAR_REMOVE},
        legend=legend | {"y": 1 - 4 / height, "title": {"text": "Test set:", "side": "left"}},
        legend2=legend
        | {"y": 1 - 30 / height, "title": {"text": "Further training on:", "side": "left"}}
        | {"itemwidth": 50, "itemclick": False, "itemdoubleclick": False},
    )


def style_small(figure: go.Figure, *, x: str, y: str) -> None:
    """The look of a one-panel figure with its legend on top."""
    legend = {"orientation": "h", "yref": "container", "y": 0.98, "yanchor": "top", "x": 0, "xanchor": "left"}
    margin = {"l": 64, "r": 16, "t": 48, "b": 52}
    figure.update_layout(template="plotly_white", height=360, margin=margin, legend=legend)
    figure.update_layout(modebar={"remove": MODEBAR_REMOVE})
    figure.update_xaxes(title_text=x, gridcolor=GRID_COLOUR, zeroline=False)
    figure.update_yaxes(title_text=y, gridcolor=GRID_COLOUR, zeroline=False)
