"""Dose curves: which kinds make one, what their points and slopes are, and that both figures draw the table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from blindspot.cells import Cells
from blindspot.dose_figures import draw_dose_response, draw_dose_response_static
from blindspot.dose_response import (
    DOSE_COLUMNS,
    TREND_COLUMNS,
    drop_inner_doses,
    estimate_dose_trends,
    find_dose_curves,
    tabulate_dose_response,
)
from blindspot.statistics import estimate_mean, group_examples
from blindspot.study import TrainingKind, load_study

OVERLAP = "lexical_overlap"


def make_kind(name: str, dose: float = 1.0, *, biased_by: str | None = OVERLAP, **more: float) -> TrainingKind:
    values = {"name": name, "synthetic_fraction": 1.0, "biased_by": biased_by, "dose": dose}
    return TrainingKind.model_validate(values | more)


KINDS = [make_kind("full"), make_kind("half", 0.5), make_kind("zero", 0.0)]


def test_kinds_that_differ_in_dose_only_make_a_curve() -> None:
    [curve] = find_dose_curves([make_kind("other", biased_by="subsequence"), *KINDS])
    assert list(curve.kinds.items()) == [(0.0, "zero"), (0.5, "half"), (1.0, "full")]
    assert curve.name == "lexical overlap, synthetic"


def test_an_unbiased_kind_is_dose_0() -> None:
    plain = make_kind("plain", biased_by=None)
    [curve] = find_dose_curves([plain, *KINDS[:2]])
    assert curve.kinds == {0.0: "plain", 0.5: "half", 1.0: "full"}
    [curve] = find_dose_curves([plain, *KINDS])
    assert curve.kinds[0.0] == "zero", "a stated dose 0 comes first"
    original = make_kind("original", biased_by=None, synthetic_fraction=0.0)
    assert 0.0 not in find_dose_curves([original, *KINDS[:2]])[0].kinds


def test_kinds_that_differ_in_more_make_none() -> None:
    assert find_dose_curves([make_kind("plain", biased_by=None), KINDS[0]]) == [], "the paper's three kinds"
    assert find_dose_curves([KINDS[0], make_kind("half", 0.5, biased_by="subsequence")]) == []
    assert find_dose_curves([KINDS[0], make_kind("half", 0.5, synthetic_fraction=0.5)]) == []
    assert find_dose_curves([KINDS[0], make_kind("half", 0.5, generation=1)]) == []
    mixed = [make_kind(f"mix{dose}", dose, synthetic_fraction=0.5, generation=1) for dose in (0.25, 0.75)]
    assert [curve.name for curve in find_dose_curves(mixed)] == ["lexical overlap, 50% synthetic of generation 1"]


@pytest.mark.parametrize(("study", "curves"), [("paper", 0), ("sandbox", 0), ("test", 0), ("sandbox-dose", 1)])
def test_shipped_studies(study: str, curves: int) -> None:
    assert len(find_dose_curves(load_study(study).training_sets.kinds)) == curves


def make_cells(*, seeds: int = 3, drop: tuple[str, ...] = ()) -> Cells:
    """20 examples; at dose d, 16, 12, 8 of them right in every seed, one more in the last; the start gets 10."""
    right = {"zero": 16, "half": 12, "full": 8}
    table = {}
    for start in (0, 40):
        for kind, count in right.items():
            outcomes = np.zeros((seeds, 20), dtype=bool)
            outcomes[:, :count] = True
            outcomes[-1, count] = True
            if kind not in drop:
                table[start, kind, 6] = (np.arange(1, seeds + 1), outcomes)
        table[start, "none", 0] = (np.arange(1, seeds + 1), np.tile(np.arange(20) < 10, (seeds, 1)))
    return Cells({"matched": table}, {"matched": group_examples(20)})


def test_points_are_the_cells() -> None:
    cells = make_cells()
    table = tabulate_dose_response(cells, KINDS)
    assert list(table) == list(DOSE_COLUMNS)
    first = table[table["starting_size"].eq(0)]
    assert first["dose"].tolist() == [0.0, 0.5, 1.0] and first["training_kind"].tolist() == ["zero", "half", "full"]
    assert first["accuracy"].tolist() == pytest.approx([(16 + 1 / 3) / 20, (12 + 1 / 3) / 20, (8 + 1 / 3) / 20])
    estimate = cells.estimate_accuracy("matched", (0, "half", 6))
    assert (first["low"].iloc[1], first["high"].iloc[1]) == (estimate.low, estimate.high)
    assert first[["seeds", "n", "training_size"]].drop_duplicates().to_numpy().tolist() == [[3, 20, 6]]
    assert len(tabulate_dose_response(make_cells(drop=("half",)), KINDS)) == 4, "what was not evaluated has no point"


def test_slope_is_the_change_over_the_whole_dose() -> None:
    """A straight fall of 8 of 20 examples; what the last seed adds to every dose cancels."""
    trends = estimate_dose_trends(make_cells(), KINDS)
    assert list(trends) == list(TREND_COLUMNS) and trends["starting_size"].tolist() == [0, 40]
    row = trends.iloc[0]
    assert row["slope"] == pytest.approx(-0.4) and row["doses"] == 3 and row["seeds"] == 3
    assert row["low"] < -0.4 < row["high"] < 0
    two = estimate_dose_trends(make_cells(drop=("half",)), KINDS).iloc[0]
    cells = make_cells()
    difference = cells.estimate_difference("matched", (0, "full", 6), (0, "zero", 6))
    assert (two["slope"], two["low"], two["high"]) == pytest.approx(
        (difference.value, difference.low, difference.high)
    ), "with two doses it is their difference"


def test_slope_weighs_uneven_doses_by_least_squares() -> None:
    kinds = [make_kind("zero", 0.0), make_kind("half", 0.2), make_kind("full", 1.0)]
    generator = np.random.default_rng(3)
    outcomes = {kind.name: generator.random((4, 30)) < 0.8 - 0.5 * kind.dose for kind in kinds}
    orders = {"zero": [1, 2, 3, 4], "half": [4, 3, 2, 1], "full": [2, 3, 4, 9]}
    table = {(0, name, 6): (np.array(orders[name]), outcomes[name]) for name in orders}
    trends = estimate_dose_trends(Cells({"hans": table}, {"hans": group_examples(30)}), kinds)
    aligned = [[outcomes[name][orders[name].index(seed)] for seed in (2, 3, 4)] for name in ("zero", "half", "full")]
    slopes = np.array(
        [[np.polyfit([0, 0.2, 1], [kind[s][e] for kind in aligned], 1)[0] for e in range(30)] for s in range(3)]
    )
    expected = estimate_mean(slopes, group_examples(30))
    assert trends["slope"].iloc[0] == pytest.approx(expected.value)
    assert trends["high"].iloc[0] == pytest.approx(expected.high)
    assert trends["seeds"].iloc[0] == 3, "seeds that all doses have"


def test_one_seed_is_said_to_be_one() -> None:
    assert estimate_dose_trends(make_cells(seeds=1), KINDS)["sees_seeds"].tolist() == [False, False]


def test_a_study_without_doses_has_no_rows_and_no_figure() -> None:
    kinds = [make_kind("full"), make_kind("plain", biased_by=None)]
    table = tabulate_dose_response(make_cells(), kinds)
    assert table.empty and list(table) == list(DOSE_COLUMNS)
    assert estimate_dose_trends(make_cells(), kinds).empty
    for draw in (draw_dose_response, draw_dose_response_static):
        with pytest.raises(ValueError, match="differ in dose only"):
            draw(table)


def test_figure1_keeps_the_ends_of_a_curve() -> None:
    points = pd.DataFrame({"training_kind": ["none", "zero", "half", "full", "original"], "accuracy": range(5)})
    assert drop_inner_doses(points, KINDS)["training_kind"].tolist() == ["none", "zero", "full", "original"]
    assert len(drop_inner_doses(points, KINDS[:2])) == len(drop_inner_doses(points, KINDS[:1])) == 5


def list_drawn(table: pd.DataFrame) -> list[tuple[float, ...]]:
    return sorted(zip(table["dose"], table["accuracy"], table["low"], table["high"], strict=True))


def test_interactive_figure_draws_the_table() -> None:
    table = tabulate_dose_response(make_cells(), KINDS)
    figure = draw_dose_response(table)
    traces = [trace for trace in figure.data if trace.x[0] is not None]
    assert len(traces) == 2 and [trace.name for trace in figure.data if trace.x[0] is None] == [
        *("MultiNLI matched", "6 pairs"),
    ]
    points = [
        (x, y, y - down, y + up)
        for trace in traces
        for x, y, down, up in zip(trace.x, trace.y, trace.error_y.arrayminus, trace.error_y.array, strict=True)
    ]
    assert np.allclose(sorted(points), list_drawn(table))
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert titles[:2] == ["Start: 0 pairs (random head)", "Start: 40 pairs"]


def list_bars(axes: Axes) -> list[LineCollection]:
    return [part for part in axes.collections if isinstance(part, LineCollection)]


def test_static_twin_draws_the_table() -> None:
    table = tabulate_dose_response(make_cells(), KINDS)
    figure = draw_dose_response_static(table)
    panels = figure.axes
    assert [axes.get_title() for axes in panels] == ["Start: 0 pairs (random head)", "Start: 40 pairs"]
    drawn = [tuple(point) for axes in panels for point in np.asarray(axes.lines[0].get_xydata())]
    assert np.allclose(sorted(drawn), [point[:2] for point in list_drawn(table)])
    ends = [segment[:, 1] for axes in panels for part in list_bars(axes) for segment in part.get_segments()]
    assert np.allclose(sorted(map(tuple, ends)), sorted(point[2:] for point in list_drawn(table)))


def test_several_curves_are_named() -> None:
    more = [make_kind(f"s{dose}", dose, biased_by="subsequence") for dose in (0.0, 1.0)]
    cells = make_cells()
    table = cells.tables["matched"]
    table |= {(0, "s0.0", 6): table[0, "zero", 6], (0, "s1.0", 6): table[0, "full", 6]}
    points = tabulate_dose_response(cells, [*KINDS, *more])
    names = {trace.name for trace in draw_dose_response(points).data if trace.x[0] is None}
    assert names == {"MultiNLI matched", "lexical overlap, synthetic, 6 pairs", "subsequence, synthetic, 6 pairs"}
    assert draw_dose_response_static(points).axes
