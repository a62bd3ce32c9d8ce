"""Dose and response: kinds of a study that differ in the dose of biased pairs alone, and what the dose does.

A curve is a set of kinds with the same share of synthetic pairs, the same generation and the same heuristic, at two
doses or more. A kind without a heuristic is drawn as one of dose 0 is, and joins a curve that has no dose 0 itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd

from blindspot.cells import Cell, Cells
from blindspot.statistics import estimate_mean
from blindspot.training_sets import TrainingKindLike

CURVE_COLUMNS = ("starting_size", "curve", "training_size", "test_set")
DOSE_COLUMNS = (*CURVE_COLUMNS, "dose", "training_kind", "accuracy", "low", "high", "seeds", "n", "model")
TREND_COLUMNS = (*CURVE_COLUMNS, "doses", "slope", "low", "high", "seeds", "sees_seeds")
DOSE_TEST_SETS = ("matched", "hans", "hans_blind_spot")


@dataclass(frozen=True)
class DoseCurve:
    """`name` says what the kinds share; `kinds` is dose -> kind, doses rising."""

    name: str
    kinds: dict[float, str]


def find_dose_curves(kinds: Sequence[TrainingKindLike]) -> list[DoseCurve]:
    """The curves of a study, in the order of the study file; none where no kinds differ in dose only."""
    groups: dict[tuple[str, float, int], dict[float, str]] = {}
    for kind in kinds:
        if kind.biased_by is not None:
            doses = groups.setdefault((kind.biased_by, kind.synthetic_fraction, kind.generation), {})
            doses.setdefault(kind.dose, kind.name)
    curves = []
    for (heuristic, fraction, generation), doses in groups.items():
        unbiased = [
            kind.name
            for kind in kinds
            if kind.biased_by is None and (kind.synthetic_fraction, kind.generation) == (fraction, generation)
        ]
        if len(doses) > 1:
            found = {**({0.0: unbiased[0]} if unbiased else {}), **doses}
            name = _name_curve(heuristic, fraction, generation)
            curves.append(DoseCurve(name, dict(sorted(found.items()))))
    return curves


def _name_curve(heuristic: str, fraction: float, generation: int) -> str:
    share = {0.0: "original", 1.0: "synthetic"}.get(fraction, f"{fraction:.0%} synthetic")
    return f"{heuristic.replace('_', ' ')}, {share}" + (f" of generation {generation}" if generation else "")


def drop_inner_doses(points: pd.DataFrame, kinds: Sequence[TrainingKindLike]) -> pd.DataFrame:
    """The points without the kinds between the two ends of a dose curve: those lines have a figure of their own."""
    inner = {name for curve in find_dose_curves(kinds) for name in list(curve.kinds.values())[1:-1]}
    return points[~points["training_kind"].isin(inner)]


def tabulate_dose_response(
    cells: Cells, kinds: Sequence[TrainingKindLike], *, test_sets: Sequence[str] = DOSE_TEST_SETS
) -> pd.DataFrame:
    """Accuracy by dose with its 95 % interval over seeds and examples: one row a point, in drawing order.

    Columns: DOSE_COLUMNS. Empty where the study has no dose curve. A cell that was not evaluated has no row.
    """
    rows = []
    for starting_size, curve, training_size, test_set in _list_curves(cells, kinds, test_sets):
        for dose, cell in _find_cells(cells, starting_size, curve, training_size, test_set).items():
            estimate = cells.estimate_accuracy(test_set, cell)
            seeds, outcomes = cells.find(test_set, cell)
            values = (dose, cell[1], estimate.value, estimate.low, estimate.high, len(seeds), outcomes.shape[1])
            model = f"start-{starting_size}/{cell[1]}-{training_size}"
            point = (starting_size, curve.name, training_size, test_set, *values, model)
            rows.append(dict(zip(DOSE_COLUMNS, point, strict=True)))
    return pd.DataFrame(rows, columns=list(DOSE_COLUMNS))


def estimate_dose_trends(
    cells: Cells, kinds: Sequence[TrainingKindLike], *, test_sets: Sequence[str] = DOSE_TEST_SETS
) -> pd.DataFrame:
    """Slope of each curve: change of accuracy from dose 0 to 1 along the least-squares line, with 95 % interval.

    The slope is a weighted sum of the doses' outcomes, taken by seed and by example before it is averaged, so that
    what a seed or a pair adds to every dose cancels. Columns: TREND_COLUMNS; `sees_seeds` is False with one seed.
    A line says nothing of a curve's shape: see the points.
    """
    rows = []
    for starting_size, curve, training_size, test_set in _list_curves(cells, kinds, test_sets):
        found = _find_cells(cells, starting_size, curve, training_size, test_set)
        evidence = [cells.find(test_set, cell) for cell in found.values()]
        common = reduce(np.intersect1d, [seeds for seeds, _ in evidence]) if len(found) > 1 else np.array([])
        if not len(common):
            continue
        doses = np.array(list(found))
        weights = (doses - doses.mean()) / ((doses - doses.mean()) ** 2).sum()
        aligned = [right[np.intersect1d(seeds, common, return_indices=True)[1]] for seeds, right in evidence]
        slopes = np.tensordot(weights, np.array(aligned, dtype=float), axes=1)
        estimate = estimate_mean(slopes, cells.examples[test_set])
        point = (starting_size, curve.name, training_size, test_set, len(doses))
        values = (estimate.value, estimate.low, estimate.high, estimate.seeds, estimate.sees_seeds)
        rows.append(dict(zip(TREND_COLUMNS, (*point, *values), strict=True)))
    return pd.DataFrame(rows, columns=list(TREND_COLUMNS))


def _list_curves(
    cells: Cells, kinds: Sequence[TrainingKindLike], test_sets: Sequence[str]
) -> list[tuple[int, DoseCurve, int, str]]:
    """Every curve of the grid that has a point: starting size, curve, training size, test set."""
    curves = find_dose_curves(kinds)
    points = {(size, training_size) for size, _, training_size in cells.list_cells() if training_size}
    return [
        (starting_size, curve, training_size, test_set)
        for starting_size, training_size in sorted(points)
        for curve in curves
        for test_set in test_sets
        if _find_cells(cells, starting_size, curve, training_size, test_set)
    ]


def _find_cells(
    cells: Cells, starting_size: int, curve: DoseCurve, training_size: int, test_set: str
) -> dict[float, Cell]:
    """Dose -> cell, for the doses that were evaluated."""
    table = cells.tables.get(test_set, {})
    found = {dose: (starting_size, kind, training_size) for dose, kind in curve.kinds.items()}
    return {dose: cell for dose, cell in found.items() if cell in table}
