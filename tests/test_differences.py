"""The table of differences: p-values, Holm within families, equivalence, intervals that stay inside -1 to 1."""

import numpy as np
import pytest

from blindspot.cells import Cell, Cells
from blindspot.differences import DIFFERENCE_COLUMNS, tabulate_differences
from blindspot.simulated_grids import Variation, list_cells, simulate_grid
from blindspot.statistics import adjust_holm, group_examples, p_different, p_equivalent

STEADY = Variation(start=0.02, run=0.005, template=0.05, cell=0.0, interaction=0.01, example=0.02)
CELLS = list_cells(starting_sizes=(0, 20), training_sizes=(30,))


def simulate(*, seeds: int, effect: float, variation: Variation = STEADY) -> Cells:
    effects = {"matched": {cell: effect for cell in CELLS if cell[1] == "synthetic"}}
    return simulate_grid(
        cells=CELLS,
        effects=effects,
        seeds=seeds,
        seed=8,
        variation=variation,
        matched_pairs=4000,
        pairs_per_template=40,
    )


def test_each_row_has_its_own_and_its_familys_p_values() -> None:
    cells = simulate(seeds=8, effect=0.2)
    table = tabulate_differences(cells, smallest_effect=0.04)
    assert list(table.columns) == list(DIFFERENCE_COLUMNS) and set(table["smallest_effect"]) == {0.04}
    assert table.groupby("family").size().to_dict() == {
        f"{test_set}, minus {against}": count
        for test_set in ("matched", "hans", "hans_blind_spot")
        for against, count in (("start", 6), ("original", 4))
    }
    for _, family in table.groupby("family"):
        assert family["p_holm"].to_numpy() == pytest.approx(adjust_holm(family["p"].to_numpy()))
        assert family["p_equivalent_holm"].to_numpy() == pytest.approx(adjust_holm(family["p_equivalent"].to_numpy()))
    row = table.query("family == 'matched, minus start' and training_kind == 'original' and starting_size == 20").iloc[
        0
    ]
    estimate = cells.estimate_difference("matched", (20, "original", 30), (20, "none", 0))
    assert row["p"] == pytest.approx(p_different(estimate))
    assert row["p_equivalent"] == pytest.approx(p_equivalent(estimate, smallest_effect=0.04))


def test_verdicts_tell_a_difference_from_none_and_both_from_ignorance() -> None:
    def verdicts(table_cells: Cells, kind: str) -> set[str]:
        table = tabulate_differences(table_cells)
        return set(table.query("family == 'matched, minus start' and training_kind == @kind")["verdict"])

    assert verdicts(simulate(seeds=10, effect=0.2), "synthetic") == {"higher"}
    assert verdicts(simulate(seeds=10, effect=-0.2), "synthetic") == {"lower"}
    assert verdicts(simulate(seeds=10, effect=0.2), "original") == {"equivalent"}
    assert verdicts(simulate(seeds=40, effect=0.025), "synthetic") == {"higher but small"}
    assert verdicts(simulate(seeds=3, effect=0.05, variation=Variation(run=0.2)), "synthetic") == {"undecided"}
    single = tabulate_differences(simulate(seeds=1, effect=0.2))
    assert set(single["verdict"]) == {"not tested"} and single["p_holm"].isna().all()


def test_intervals_end_where_differences_do() -> None:
    start, trained = (0, "none", 0), (0, "synthetic", 30)
    seeds = np.array([1, 2, 3])
    outcomes = {start: np.repeat([[0.0], [0.0], [1.0]], 9, axis=1), trained: np.ones((3, 9))}
    table: dict[Cell, tuple[np.ndarray, np.ndarray]] = {cell: (seeds, right) for cell, right in outcomes.items()}
    row = tabulate_differences(Cells({"hans": table}, {"hans": group_examples(9)})).iloc[0]
    assert row["difference"] == pytest.approx(2 / 3) and row["high"] == 1.0 and row["low"] > -1.0
    assert tabulate_differences(Cells({"hans": {start: table[start]}}, {"hans": group_examples(9)})).empty
