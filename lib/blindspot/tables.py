"""Small tables for notebooks: counts, rows of pairs, lists of records, all as plain DataFrames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa


def tabulate(values: Mapping[str, Any] | pa.Array) -> pd.DataFrame:
    """Names and values, one a row. A pyarrow `value_counts()` array does too."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        values = {row["values"]: row["counts"] for row in values.to_pylist()}
    return pd.DataFrame({"value": pd.Series(dict(values), dtype=object)})


def tabulate_rows(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Records as a table; a missing value stays empty instead of turning whole numbers into decimals."""
    return pd.DataFrame(list(rows)).astype(object).where(lambda frame: frame.notna(), None)


def preview(table: pa.Table, *, rows: int, columns: Sequence[str]) -> pd.DataFrame:
    """The first rows of some columns, texts in full."""
    frame = table.select(list(columns)).slice(0, rows).to_pandas()
    with pd.option_context("display.max_colwidth", None):
        return frame


def read_frame(path: Path) -> pd.DataFrame:
    """A small CSV file as this library wrote it; only an empty cell is missing (`none` and `None` are text)."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def show_claims(claims: pd.DataFrame) -> Any:
    """The claims ledger for a notebook: the paper's words, what decides, verdict, interval and reason.

    Counts of parts and the cells stay in claims.csv: with them the texts are squeezed and the reason is out of sight.
    """
    counts = ["parts", "needed", "supported_parts", "contradicted_parts"]
    return show_table(claims.drop(columns=[*counts, "cells"]))


def show_table(table: pd.DataFrame) -> Any:
    """A table with texts in full, three decimals and empty cells for what is missing."""
    return (
        table.style.hide(axis="index")
        .format(precision=3, na_rep="")
        .set_properties(**{"text-align": "left", "white-space": "normal", "vertical-align": "top"})
    )
