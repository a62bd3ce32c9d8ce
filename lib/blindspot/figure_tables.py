"""The numbers behind each picture, and the names and marks that stand for them.

A figure draws one of these tables and nothing else, so the table can be saved beside it and compared with it.
The interactive figure and its static twin share the table, the colours and the line styles, and so cannot
differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from blindspot.data import LABELS

FIGURE1_TEST_SETS = ("matched", "hans", "hans_blind_spot")
TEST_SET_NAMES = {
    "matched": "MultiNLI matched",
    "mismatched": "MultiNLI mismatched",
    "hans": "HANS",
    "hans_lexical_overlap": "HANS lexical overlap",
    "hans_blind_spot": "HANS blind spot",
}
# Chosen for the largest least distance under simulated protan, deutan and tritan vision; contrast on white >=
# 3.8.
COLOURS = ("#0072B2", "#D55E00", "#000000", "#009E73", "#882255", "#B8860B")
KIND_ORDER = ("original", "synthetic", "biased_synthetic")
POINT_COLUMNS = ("starting_size", "training_kind", "training_size", "test_set")
FIGURE1_COLUMNS = (*POINT_COLUMNS, "accuracy", "low", "high", "seeds", "n", "model")
TABLE1_FORMATS = {
    "Count": ("count", "{:,.0f}"),
    "# LO": ("n_overlap", "{:,.0f}"),
    "% LO": ("percent_overlap", "{:.3f}"),
    "S:O": ("ratio", "{:.3f}"),
}
DETECTOR_NAMES = {"published": "published finder", "token_aligned": "token-aligned"}


class LineStyle(NamedTuple):
    """One training kind's line and marker, by Plotly's names and by matplotlib's."""

    dash: str
    symbol: str
    linestyle: str
    marker: str


LINE_STYLES = (
    LineStyle("solid", "circle", "-", "o"),
    LineStyle("dash", "square", "--", "s"),
    LineStyle("dot", "triangle-up", ":", "^"),
    LineStyle("dashdot", "diamond", "-.", "D"),
    LineStyle("longdash", "x", "--", "X"),
    LineStyle("longdashdot", "triangle-down", "-.", "v"),
)


def name_test_set(test_set: str) -> str:
    """How a test set is called in figures and tables."""
    return TEST_SET_NAMES.get(test_set, test_set.replace("_", " "))


def name_kind(training_kind: str) -> str:
    """How a training kind is called in figures and tables, as the paper writes it: `Biased Synthetic`."""
    return "start" if training_kind == "none" else training_kind.replace("_", " ").title()


def name_start(starting_size: int) -> str:
    """Title of one starting size's panel."""
    return "Start: 0 pairs (random head)" if starting_size == 0 else f"Start: {starting_size:,} pairs"


def fade_colour(colour: str) -> str:
    """`#RRGGBB` at less than half strength, for whiskers that should not hide the points."""
    red, green, blue = (int(colour[index : index + 2], 16) for index in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.45)"


def order_kinds(table: pd.DataFrame) -> list[str]:
    """The training kinds of `table` without the start itself: the paper's first, others as they come."""
    found = [str(kind) for kind in table["training_kind"].unique() if kind != "none"]
    return [kind for kind in KIND_ORDER if kind in found] + [kind for kind in found if kind not in KIND_ORDER]


def choose_line_styles(table: pd.DataFrame) -> dict[str, LineStyle]:
    """Line and marker of each training kind. The paper's three keep theirs; further kinds go through the
    cycle."""
    kinds = [*KIND_ORDER, *(kind for kind in order_kinds(table) if kind not in KIND_ORDER)]
    return {kind: LINE_STYLES[index % len(LINE_STYLES)] for index, kind in enumerate(kinds)}


def figure1_table(results: pd.DataFrame, *, test_sets: tuple[str, ...] = FIGURE1_TEST_SETS) -> pd.DataFrame:
    """The points of Figure 1, one row each, in drawing order (FIGURE1_COLUMNS).

    `results` holds one row per model and test set, as `score_predictions` returns; several seeds give their
    mean, with `low` and `high` the least and largest. Where `results` has `low` and `high` itself, it must
    hold one row per point, and they are kept. `n` is the number of pairs per seed; `model` names every model
    behind the point.
    """
    chosen = results[results["test_set"].isin(test_sets)]
    absent = [name for name in test_sets if name not in set(chosen["test_set"])]
    if absent:
        raise ValueError(f"results have no rows for the test sets {absent}; expected all of {list(test_sets)}")
    table = _keep_intervals(chosen) if {"low", "high"} <= set(chosen) else _summarise_seeds(chosen)
    kinds = ["none", *order_kinds(chosen)]
    ranks = table.assign(
        training_kind=table["training_kind"].map(kinds.index), test_set=table["test_set"].map(test_sets.index)
    )
    order = ranks.sort_values(list(POINT_COLUMNS)).index
    return table.loc[order, list(FIGURE1_COLUMNS)].reset_index(drop=True)


def _summarise_seeds(results: pd.DataFrame) -> pd.DataFrame:
    _refuse_doubles(results, (*POINT_COLUMNS, "seed"))
    groups = results.groupby(list(POINT_COLUMNS), sort=False, observed=True)
    table = groups.agg(
        accuracy=("accuracy", "mean"),
        low=("accuracy", "min"),
        high=("accuracy", "max"),
        seeds=("accuracy", "count"),
        n=("n", "max"),
        model=("model", "; ".join),
    ).reset_index()
    single = table["seeds"] < 2
    return table.assign(low=table["low"].mask(single), high=table["high"].mask(single))


def _keep_intervals(results: pd.DataFrame) -> pd.DataFrame:
    _refuse_doubles(results, POINT_COLUMNS)
    defaults = {"seeds": 1, "model": ""}
    return results.assign(**{name: value for name, value in defaults.items() if name not in results})


def _refuse_doubles(results: pd.DataFrame, columns: tuple[str, ...]) -> None:
    doubled = results.duplicated(list(columns))
    if doubled.any():
        first = results.loc[doubled, list(columns)].iloc[0].to_dict()
        raise ValueError(f"{int(doubled.sum())} points come twice in the results, first {first}; expected one row each")


def starts_table(results: pd.DataFrame, *, test_sets: tuple[str, ...] = FIGURE1_TEST_SETS) -> pd.DataFrame:
    """Accuracy of the starting models alone, by starting size: the points at 0 of Figure 1."""
    table = figure1_table(results, test_sets=test_sets)
    return table[table["training_kind"].eq("none")].reset_index(drop=True)


def count_lengths(table: pa.Table, *, length: str = "n_tokens", by: str = "gold_label", bins: int = 40) -> pd.DataFrame:
    """A histogram of the whole-number column `length` by the values of `by`.

    Returns `group`, `length` (the bin's lower end, common to all groups), `count`, `share` (of the group's
    rows). Nulls are left out.
    """
    frame = table.select([by, length]).to_pandas().dropna()
    if frame.empty:
        return pd.DataFrame({"group": [], "length": [], "count": [], "share": []})
    low, high = int(frame[length].min()), int(frame[length].max())
    width = max(1, -(-(high - low + 1) // bins))
    start = low + (frame[length].astype(int) - low) // width * width
    counts = pd.crosstab(start, frame[by]).reindex(range(low, high + 1, width), fill_value=0)
    tidy = counts.rename_axis(index="length", columns="group").stack().rename("count").reset_index()
    tidy["share"] = tidy["count"] / tidy.groupby("group")["count"].transform("sum")
    groups = [label for label in LABELS if label in counts] + [name for name in counts if name not in LABELS]
    order = tidy.assign(group=tidy["group"].map(groups.index)).sort_values(["group", "length"]).index
    return tidy.loc[order, ["group", "length", "count", "share"]].reset_index(drop=True)


def table1_display(
    table1: pd.DataFrame, paper: Sequence[Mapping[str, Any]] | pd.DataFrame | None = None
) -> pd.DataFrame:
    """Table 1 beside the paper's, as text that renders alike in JupyterLab and on GitHub.

    `table1` is `audit.build_table1`'s, or the same read back from CSV; `paper` is `audit.PAPER_TABLE1`,
    without which the paper's figures are those that `table1` carries. Rows are dataset and label in the
    paper's order, later generations of G between the two; columns are Count, # LO, % LO and S:O for each
    detector, and last the paper's. What is missing is a dash.
    """
    later = [str(name) for name in table1["dataset"].unique() if name not in ("synthetic", "original")]
    datasets = ["synthetic", *later, "original"]
    parts = {
        f"this study, {DETECTOR_NAMES.get(str(detector), str(detector))}": _format_table1(rows, "", datasets)
        for detector, rows in table1.groupby("detector", sort=False)
    }
    known = table1 if paper is None else pd.DataFrame(paper)
    known = known[known["paper_count"].notna()] if "paper_count" in known else known.iloc[:0]
    if len(known):
        parts["the paper"] = _format_table1(known, "paper_", datasets)
    return pd.concat(parts, axis=1)


def _format_table1(rows: pd.DataFrame, prefix: str, datasets: Sequence[str]) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([datasets, LABELS], names=["data", "label"])
    found = rows.set_index(["dataset", "label"])
    if found.index.duplicated().any():
        raise ValueError("Table 1 has a label twice; expected one row per detector, dataset and label: build it again")
    found = found.reindex(index)
    cells = {name: _format_column(found[prefix + column], form) for name, (column, form) in TABLE1_FORMATS.items()}
    return pd.DataFrame(cells, index=index)


def _format_column(values: pd.Series, form: str) -> list[str]:
    return ["-" if pd.isna(value) else form.format(value) for value in values]
