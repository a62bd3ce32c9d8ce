"""Every further trained cell against its start and against Original, tested: the table `differences.csv`.

A table of many comparisons finds something by luck, so each has Holm's p-values beside its own, within the family
that a reader looks at together: one test set and one thing compared against. The verdict takes the adjusted ones.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from blindspot.cells import START, Cell, Cells, name_point
from blindspot.statistics import ALPHA, SMALLEST_EFFECT, Estimate, adjust_holm, p_different, p_equivalent

DIFFERENCE_COLUMNS = (
    *("starting_size", "training_kind", "training_size", "test_set", "against", "difference", "low", "high"),
    *("verdict", "p", "p_holm", "p_equivalent", "p_equivalent_holm", "family", "smallest_effect", "seeds"),
    "sees_seeds",
)


def tabulate_differences(
    cells: Cells, *, smallest_effect: float = SMALLEST_EFFECT, alpha: float = ALPHA
) -> pd.DataFrame:
    """Every further trained cell minus its start, and minus Original at the same size (DIFFERENCE_COLUMNS).

    Paired by seed and by example; low and high are a 95 % interval over both. p: two-sided, against no difference.
    p_equivalent: against a difference of `smallest_effect` (in accuracy) or more in either direction. Both are also
    given adjusted by Holm within the row's `family`. verdict, from the adjusted ones at `alpha`: higher, lower,
    equivalent, 'higher but small' or 'lower but small' (shown to be there and under the smallest effect), undecided,
    or 'not tested' where one seed shows no variance between seeds (`sees_seeds` is False).
    """
    rows = [
        {**name_point(cell), "test_set": test_set, "against": against, "family": f"{test_set}, minus {against}"}
        | describe_difference(cells.estimate_difference(test_set, cell, other), smallest_effect=smallest_effect)
        for test_set, table in cells.tables.items()
        for cell in sorted(table)
        for against, other in list_comparators(cell).items()
        if other in table
    ]
    if not rows:
        return pd.DataFrame(columns=list(DIFFERENCE_COLUMNS))
    table = pd.DataFrame(rows)
    for name in ("p", "p_equivalent"):
        table[f"{name}_holm"] = table.groupby("family")[name].transform(lambda column: adjust_holm(column.to_numpy()))
    table["verdict"] = [judge_difference(row, alpha=alpha) for _, row in table.iterrows()]
    return table[list(DIFFERENCE_COLUMNS)]


def list_comparators(cell: Cell) -> dict[str, Cell]:
    """What a cell is compared with: its start, and Original at the same size; a start with nothing."""
    size, kind, training_size = cell
    others = {"start": (size, START, 0), "original": (size, "original", training_size)}
    return {} if kind == START else {name: other for name, other in others.items() if other != cell}


def describe_difference(estimate: Estimate, *, smallest_effect: float) -> dict[str, object]:
    """An estimate's columns, before any adjustment."""
    return {
        "difference": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "p": p_different(estimate),
        "p_equivalent": p_equivalent(estimate, smallest_effect=smallest_effect),
        "smallest_effect": smallest_effect,
        "seeds": estimate.seeds,
        "sees_seeds": estimate.sees_seeds,
    }


def judge_difference(row: pd.Series, *, alpha: float) -> str:
    """The verdict on one row, see `tabulate_differences`."""
    if np.isnan(row["p_holm"]):
        return "not tested"
    small = bool(row["p_equivalent_holm"] <= alpha)
    if row["p_holm"] > alpha:
        return "equivalent" if small else "undecided"
    return ("higher" if row["difference"] > 0 else "lower") + (" but small" if small else "")
