"""Figures: the points drawn, interactive and static, are the table's; Table 1 shows literals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from matplotlib.figure import Figure
from PIL import Image

from blindspot import figures
from blindspot.audit import PAPER_TABLE1, build_table1, summarise_acceptance
from blindspot.data import LABELS
from blindspot.figures import (
    count_lengths,
    draw_acceptance,
    draw_acceptance_static,
    draw_figure1,
    draw_figure1_static,
    draw_lengths,
    draw_starts,
    draw_starts_static,
    draw_static_twin,
    figure1_table,
    save_static,
    table1_display,
)

TEST_SETS = ("matched", "hans", "hans_blind_spot")
KINDS = ("biased_synthetic", "dose_25", "original", "synthetic")
ACCURACIES = {
    # (starting size, kind, size): matched, HANS, blind spot
    (500, "none", 0): (0.55, 0.50, 0.10),
    (500, "biased_synthetic", 90): (0.56, 0.45, 0.02),
    (500, "dose_25", 90): (0.57, 0.47, 0.06),
    (500, "original", 90): (0.60, 0.52, 0.20),
    (500, "synthetic", 90): (0.58, 0.51, 0.15),
    (500, "synthetic", 180): (0.62, 0.53, math.nan),
    (0, "none", 0): (0.34, 0.48, 0.86),
    (0, "biased_synthetic", 90): (0.35, 0.49, 0.40),
    (0, "dose_25", 90): (0.36, 0.49, 0.50),
    (0, "original", 90): (0.40, 0.50, 0.70),
    (0, "synthetic", 90): (0.38, 0.50, 0.60),
    (0, "synthetic", 180): (0.39, 0.50, 0.55),
}


def make_results(*, seeds: dict[int, float]) -> pd.DataFrame:
    """Results whose accuracies are ACCURACIES plus what `seeds` says for each seed."""
    rows = []
    for seed, shift in seeds.items():
        for (start, kind, size), accuracies in ACCURACIES.items():
            for test_set, accuracy in zip(TEST_SETS, accuracies, strict=True):
                point = {"starting_size": start, "training_kind": kind, "training_size": size, "seed": seed}
                name = f"start-{start}_{kind}-{size}_seed-{seed}"
                score = {"test_set": test_set, "accuracy": accuracy + shift, "n": 300, "model": name}
                rows.append(point | score)
    extra = rows[0] | {"test_set": "mismatched", "accuracy": 0.99}
    return pd.DataFrame([*rows, extra])


def points(table: pd.DataFrame) -> set[tuple[int, str, int, str, float]]:
    columns = ["starting_size", "training_kind", "training_size", "test_set", "accuracy"]
    return {(*row[:4], round(row[4], 9)) for row in table[columns].dropna().to_numpy().tolist()}


def literal_points() -> set[tuple[int, str, int, str, float]]:
    return {
        (*place, test_set, accuracy)
        for place, accuracies in ACCURACIES.items()
        for test_set, accuracy in zip(TEST_SETS, accuracies, strict=True)
        if not math.isnan(accuracy)
    }


def test_table_holds_the_results_and_no_other_test_set() -> None:
    table = figure1_table(make_results(seeds={1: 0.0}))
    assert points(table) == literal_points()
    assert len(table) == len(ACCURACIES) * 3
    assert table["low"].isna().all()
    assert set(table["n"]) == {300}


def test_table_is_in_drawing_order() -> None:
    table = figure1_table(make_results(seeds={1: 0.0}))
    first = table[table["test_set"].eq("hans") & table["starting_size"].eq(0)]
    assert list(first["training_kind"]) == [
        *("none", "original", "synthetic", "synthetic", "biased_synthetic", "dose_25"),
    ]
    assert list(table["starting_size"]) == [0] * 18 + [500] * 18
    assert tuple(table["test_set"][:3]) == TEST_SETS


def test_seeds_give_mean_and_range() -> None:
    table = figure1_table(make_results(seeds={1: 0.0, 2: 0.01, 3: 0.05}))
    is_point = table["training_kind"].eq("original") & table["starting_size"].eq(500)
    row = table[is_point & table["test_set"].eq("matched")].to_dict("records")[0]
    assert row["accuracy"] == pytest.approx(0.62)
    assert (row["low"], row["high"]) == pytest.approx((0.60, 0.65))
    assert row["seeds"] == 3
    assert row["model"].count("; ") == 2


def test_given_intervals_are_kept() -> None:
    results = make_results(seeds={1: 0.0}).assign(low=0.01, high=0.99)
    table = figure1_table(results)
    assert set(table["low"]) == {0.01}
    assert set(table["high"]) == {0.99}
    traces = [trace for trace in draw_figure1(results).data if trace.error_y.array is not None]
    matched = next(trace for trace in traces if trace.name == "MultiNLI matched, Original")
    assert matched.error_y.array[1] == pytest.approx(0.99 - 0.40)
    assert matched.error_y.arrayminus[1] == pytest.approx(0.40 - 0.01)


def test_points_that_come_twice_are_refused() -> None:
    results = make_results(seeds={1: 0.0})
    with pytest.raises(ValueError, match="1 points come twice in the results"):
        figure1_table(pd.concat([results, results.iloc[[3]]]))
    with pytest.raises(ValueError, match=r"no rows for the test sets \['hans_lexical_overlap'\]"):
        figure1_table(results, test_sets=("matched", "hans_lexical_overlap"))


def read_interactive(results: pd.DataFrame) -> set[tuple[int, str, int, str, float]]:
    """The points of the Plotly figure, from its traces and panel titles alone."""
    figure = draw_figure1(results)
    titles = [note.text for note in figure.layout.annotations]
    starts = {"Start: 0 pairs (random head)": 0, "Start: 500 pairs": 500}
    kinds = {"Original": "original", "Synthetic": "synthetic", "Biased Synthetic": "biased_synthetic"}
    kinds |= {"Dose 25": "dose_25", "start": "none"}
    found = set()
    for trace in figure.data:
        if trace.x == (None,):
            continue
        start = starts[titles[int(trace.xaxis[1:] or 1) - 1]]
        kind = kinds[trace.name.split(", ")[1]]
        for x, y in zip(trace.x, trace.y, strict=True):
            if y is not None:
                found.add((start, kind if x else "none", x, trace.legendgroup, round(y, 9)))
    return found


def read_static(results: pd.DataFrame) -> set[tuple[int, float, str, str]]:
    """The points of the matplotlib figure: size, accuracy, colour and panel title."""
    found = set()
    for axes in draw_figure1_static(results).axes:
        for line in axes.lines:
            data = np.asarray(line.get_xydata())
            found |= {
                (int(x), round(float(y), 9), str(line.get_color()), axes.get_title())
                for x, y in data
                if not math.isnan(y)
            }
    return found


@pytest.mark.parametrize("seeds", [{1: 0.0}, {1: 0.0, 2: 0.02}])
def test_both_figures_draw_the_table(seeds: dict[int, float]) -> None:
    results = make_results(seeds=seeds)
    expected = points(figure1_table(results))
    assert read_interactive(results) == expected
    colours = dict(zip(TEST_SETS, ("#0072B2", "#D55E00", "#000000"), strict=True))
    titles = {0: "Start: 0 pairs (random head)", 500: "Start: 500 pairs"}
    assert read_static(results) == {
        (size, accuracy, colours[test_set], titles[start]) for start, _, size, test_set, accuracy in expected
    }


def test_colour_says_test_set_and_line_says_kind() -> None:
    lines = [trace for trace in draw_figure1(make_results(seeds={1: 0.0})).data if trace.showlegend is False]
    drawn = [trace for trace in lines if trace.mode == "lines+markers"]
    assert {(trace.legendgroup, trace.line.color) for trace in drawn} == {
        ("matched", "#0072B2"),
        ("hans", "#D55E00"),
        ("hans_blind_spot", "#000000"),
    }
    assert {(trace.name.split(", ")[1], trace.line.dash, trace.marker.symbol) for trace in drawn} == {
        ("Original", "solid", "circle"),
        ("Synthetic", "dash", "square"),
        ("Biased Synthetic", "dot", "triangle-up"),
        ("Dose 25", "dashdot", "diamond"),
    }


def test_legends_keep_the_encodings_apart() -> None:
    keys = [trace for trace in draw_figure1(make_results(seeds={1: 0.0})).data if trace.showlegend]
    by_legend = {legend: [key.name for key in keys if key.legend == legend] for legend in ("legend", "legend2")}
    assert by_legend == {
        "legend": ["MultiNLI matched", "HANS", "HANS blind spot"],
        "legend2": ["Start", "Original", "Synthetic", "Biased Synthetic", "Dose 25"],
    }


def test_hover_tells_accuracy_n_seeds_and_model() -> None:
    figure = draw_figure1(make_results(seeds={1: 0.0, 2: 0.02}))
    trace = next(
        trace for trace in figure.data if trace.name == "HANS blind spot, Biased Synthetic" and trace.xaxis == "x"
    )
    assert trace.hovertext[1].split("<br>") == [
        "<b>HANS blind spot</b>",
        "Biased Synthetic, 90 pairs",
        "accuracy <b>0.410</b> [0.400, 0.420]",
        "300 test pairs, 2 seeds",
        "start-0_biased_synthetic-90_seed-1",
        "start-0_biased_synthetic-90_seed-2",
    ]
    assert "the start itself" in trace.hovertext[0]


def test_axes_start_at_zero_and_span_accuracy() -> None:
    layout = draw_figure1(make_results(seeds={1: 0.0})).layout
    assert layout.xaxis.tickvals == (0, 90, 180)
    assert layout.xaxis.range[0] < 0 < 180 < layout.xaxis.range[1]
    assert layout.yaxis.range == (-0.03, 1.03)


def test_six_starts_make_two_rows_of_three() -> None:
    results = make_results(seeds={1: 0.0})
    small = results[results["starting_size"].eq(0)]
    six = pd.concat([small.assign(starting_size=size) for size in (0, 5, 10, 20, 100, 400)])
    figure = draw_figure1(six)
    tops = [getattr(figure.layout, f"yaxis{index or ''}").domain[0] for index in (0, 2, 3, 4, 5, 6)]
    assert len({round(top, 6) for top in tops}) == 2
    assert tops.count(tops[0]) == 3


def test_hostile_names_are_escaped() -> None:
    results = make_results(seeds={1: 0.0}).replace({"training_kind": {"dose_25": "<b>x</b>"}})
    text = draw_figure1(results).to_json()
    assert "<B>X</B>" not in text
    assert "&lt;B&gt;X" in text


def make_synthetic() -> pa.Table:
    rows = [("entailment", True, None, 10)] * 3 + [("entailment", False, "no_sentinel", None)]
    rows += [("contradiction", True, None, 12), ("contradiction", True, None, 31)]
    names = ("gold_label", "accepted", "reject_reason", "n_tokens")
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])


def test_acceptance_is_drawn_from_the_audit() -> None:
    synthetic = make_synthetic()
    figure = draw_acceptance(synthetic)
    assert [(bar.name, bar.y, bar.x, bar.customdata) for bar in figure.data] == [
        ("accepted", LABELS, (0.75, None, 1.0), (3, 0, 2)),
        ("no sentinel", LABELS, (0.25, None, 0.0), (1, 0, 0)),
    ]
    assert draw_acceptance(summarise_acceptance(synthetic)) == figure
    patches: list[Any] = list(draw_acceptance_static(synthetic).axes[0].patches)
    bars = [(round(bar.get_x(), 9), round(bar.get_width(), 9)) for bar in patches]
    assert bars == [(0.0, 0.75), (0.0, 0.0), (0.0, 1.0), (0.75, 0.25), (0.0, 0.0), (1.0, 0.0)]


def test_lengths_are_counted_and_drawn() -> None:
    lengths = count_lengths(make_synthetic(), bins=11)
    assert lengths["length"].unique().tolist() == [10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30]
    filled = lengths[lengths["count"].gt(0)]
    assert filled.to_numpy().tolist() == [
        ["entailment", 10, 3, 1.0],
        ["contradiction", 12, 1, 0.5],
        ["contradiction", 30, 1, 0.5],
    ]
    figure = draw_lengths(lengths)
    assert sum(figure.data[1].y) == pytest.approx(1.0)
    line = draw_static_twin(figure).axes[0].lines[1]
    assert np.asarray(line.get_ydata()).tolist() == list(figure.data[1].y)


def test_starts_alone_are_drawn_by_size() -> None:
    figure = draw_starts(make_results(seeds={1: 0.0, 2: 0.02}))
    assert [trace.x for trace in figure.data] == [("0", "500")] * 3
    assert figure.data[0].y == pytest.approx((0.35, 0.56))
    line = draw_starts_static(make_results(seeds={1: 0.0, 2: 0.02})).axes[0].lines[0]
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([0.35, 0.56])


def test_a_twin_of_many_panels_is_refused() -> None:
    with pytest.raises(ValueError, match="in 2 panels; expected bars or lines in one panel"):
        draw_static_twin(draw_figure1(make_results(seeds={1: 0.0})))


def make_overlap_pairs(*, published: dict[str, int], aligned: int, count: int) -> pa.Table:
    """`count` accepted pairs a label; the first ones have overlap by each detector."""
    parts = [
        pa.table(
            {
                "gold_label": [label] * count,
                "accepted": [True] * count,
                "lexical_overlap_published": [row < hits for row in range(count)],
                "lexical_overlap_token_aligned": [row < aligned for row in range(count)],
            }
        )
        for label, hits in published.items()
    ]
    return pa.concat_tables(parts)


def read_cells(shown: pd.DataFrame, block: str, row: tuple[str, str]) -> list[str]:
    return shown[block].loc[[row]].to_numpy().tolist()[0]


def test_table1_stands_beside_the_papers(tmp_path: Path) -> None:
    synthetic = make_overlap_pairs(published={"entailment": 30, "neutral": 3}, aligned=50, count=1000)
    original = make_overlap_pairs(
        published={"entailment": 20, "neutral": 0, "contradiction": 1}, aligned=100, count=2000
    )
    table1 = build_table1(original=original, synthetic=synthetic)
    shown = table1_display(table1)
    ours, aligned, paper = dict.fromkeys(shown.columns.get_level_values(0))
    assert (ours, aligned, paper) == ("this study, published finder", "this study, token-aligned", "the paper")
    assert list(shown.index) == [(data, label) for data in ("synthetic", "original") for label in LABELS]
    assert read_cells(shown, ours, ("synthetic", "entailment")) == ["1,000", "30", "3.000", "3.000"]
    assert read_cells(shown, ours, ("synthetic", "neutral")) == ["1,000", "3", "0.300", "-"]
    assert read_cells(shown, ours, ("synthetic", "contradiction")) == ["0", "0", "-", "-"]
    assert read_cells(shown, ours, ("original", "entailment")) == ["2,000", "20", "1.000", "-"]
    assert read_cells(shown, aligned, ("synthetic", "entailment")) == ["1,000", "50", "5.000", "1.000"]
    assert read_cells(shown, paper, ("synthetic", "entailment")) == ["631,992", "24,360", "3.854", "2.352"]
    assert read_cells(shown, paper, ("original", "contradiction")) == ["130,608", "172", "0.132", "-"]
    bare = table1.drop(columns=[name for name in table1 if str(name).startswith("paper_")])
    pd.testing.assert_frame_equal(table1_display(bare, PAPER_TABLE1), shown)
    table1.to_csv(tmp_path / "table1.csv", index=False)
    pd.testing.assert_frame_equal(table1_display(pd.read_csv(tmp_path / "table1.csv")), shown)
    with pytest.raises(ValueError, match="a label twice"):
        table1_display(pd.concat([table1, table1]))


def test_table1_without_the_papers_numbers_shows_ours() -> None:
    original = make_overlap_pairs(published=dict.fromkeys(LABELS, 1), aligned=2, count=10)
    shown = table1_display(build_table1(original=original, detectors=("token_aligned",)))
    assert list(dict.fromkeys(shown.columns.get_level_values(0))) == ["this study, token-aligned"]
    assert read_cells(shown, "this study, token-aligned", ("original", "neutral")) == ["10", "2", "20.000", "-"]


def test_shown_figure_is_small_and_has_its_twin_below(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(figures, "display", lambda bundle, raw: shown.append(bundle))
    results = make_results(seeds={1: 0.0})
    figures.show_figure(draw_figure1(results), draw_figure1_static(results))
    figures.show_figure(draw_starts(results))
    assert [sorted(bundle) for bundle in shown] == [
        ["application/vnd.plotly.v1+json", "text/plain"],
        ["image/png", "text/plain"],
    ] * 2
    for bundle in shown[1::2]:
        assert bundle["image/png"].startswith(b"\x89PNG")
        assert len(bundle["image/png"]) < 300_000
    interactive = shown[0]["application/vnd.plotly.v1+json"]
    assert len(interactive["data"]) == len(draw_figure1(results).data)
    assert len(str(interactive)) < 300_000


def test_static_figure_is_saved_small_and_the_same_each_time(tmp_path: Path) -> None:
    results = make_results(seeds={1: 0.0})
    first = save_static(draw_figure1_static(results), tmp_path / "figure1.png")
    second = save_static(draw_figure1_static(results), tmp_path / "again.png")
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 300_000
    assert Image.open(first).width == 1350
    assert b"<svg" in save_static(draw_figure1_static(results), tmp_path / "figure1.svg").read_bytes()
    with pytest.raises(ValueError, match=r"expected a \.png or \.svg path"):
        save_static(Figure(), tmp_path / "figure1.pdf")
