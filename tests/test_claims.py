"""The claims ledger: each claim on grids where the truth is planted, then how often it errs."""

import importlib.util
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from blindspot.audit import PAPER_TABLE1
from blindspot.cells import Cell, Cells, MissingCell, collect_cells, collect_cells_from_results
from blindspot.claim_list import CLAIMS
from blindspot.claim_parts import judge, rank_starting_sizes, weigh
from blindspot.claims import LEDGER_COLUMNS, VERDICTS, decide_claims, find_trends, list_claim_parts
from blindspot.evaluation import LOGIT_COLUMNS, PREDICTION_COLUMNS, read_predictions, score_predictions
from blindspot.simulated_grids import (
    STARTING_SIZES,
    Variation,
    list_cells,
    simulate_blind_spot,
    simulate_grid,
    tabulate_results,
)
from blindspot.statistics import Estimate

ROOT = Path(__file__).resolve().parents[1]
CELLS = list_cells()
STEADY = Variation(start=0.02, run=0.005, template=0.05, cell=0.0, interaction=0.01, example=0.02)
Effects = dict[str, dict[Cell, float]]


def load_calibration() -> ModuleType:
    spec = importlib.util.spec_from_file_location("calibration", ROOT / "bench" / "calibration.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plant(change: dict[str, float], *, starts: tuple[int, ...] = STARTING_SIZES, kind: str, size: int = 0) -> Effects:
    """The same effects by test set for a kind's cells (of one size, or all)."""
    chosen = [cell for cell in CELLS if cell[0] in starts and cell[1] == kind and size in (0, cell[2])]
    return {test_set: dict.fromkeys(chosen, value) for test_set, value in change.items()}


def merge(*effects: Effects) -> Effects:
    merged: Effects = {}
    for part in effects:
        for test_set, values in part.items():
            merged.setdefault(test_set, {}).update(values)
    return merged


def simulate(effects: Effects, *, seeds: int = 10, base: float = 0.6) -> Cells:
    return simulate_grid(
        cells=CELLS, effects=effects, seeds=seeds, seed=11, variation=STEADY, pairs_per_template=40,
        matched_pairs=3000, base=base,
    )  # fmt: skip


def read_table1() -> pd.DataFrame:
    return pd.DataFrame(PAPER_TABLE1).rename(columns={"paper_count": "count", "paper_n_overlap": "n_overlap"})


def read_ledger(cells: Cells, table1: pd.DataFrame | None = None) -> dict[int, dict[str, Any]]:
    rows = decide_claims(cells, table1=table1).to_dict("records")
    return {int(row["claim"]): {str(name): value for name, value in row.items()} for row in rows}


def verdicts_of(cells: Cells, table1: pd.DataFrame | None = None) -> dict[int, str]:
    return {number: row["verdict"] for number, row in read_ledger(cells, table1).items()}


@pytest.fixture(scope="module")
def as_published() -> Cells:
    """A world in which the paper is right."""
    low = STARTING_SIZES[:3]
    return simulate(
        merge(
            plant({"matched": 0.15, "hans": 0.15}, starts=low, kind="synthetic"),
            plant({"matched": 0.15, "hans": 0.25}, starts=low, kind="original"),
            plant({"matched": 0.10, "hans": -0.15}, starts=(20_000,), kind="synthetic"),
            plant({"matched": 0.10, "hans": 0.10}, starts=(20_000,), kind="original"),
            plant({"matched": 0.0, "hans": 0.0}, starts=(100_000,), kind="synthetic"),
            plant({"matched": 0.0, "hans": 0.10}, starts=(100_000, 391_722), kind="original"),
            plant({"hans": -0.15}, starts=(391_722,), kind="synthetic"),
            plant({"hans": -0.02}, starts=(391_722,), kind="synthetic", size=36_040),
            plant({"matched": -0.3, "hans": -0.58}, kind="biased_synthetic"),
        )
    )


def test_every_claim_is_data_with_the_papers_words() -> None:
    assert [claim.number for claim in CLAIMS] == list(range(1, 12))
    paper = ROOT.parent / "shared" / "paper" / "paper.md"
    if not paper.is_file():
        pytest.skip("no ../shared/paper/paper.md beside the project")
    caption = "Figure 1: Augmented model performance under different settings."  # stands inside a sentence
    text = " ".join(paper.read_text(encoding="utf-8").replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split())
    text = text.replace(caption + " ", "")
    for claim in CLAIMS:
        assert claim.paper_words in text, claim.number


def test_a_world_as_the_paper_tells_it_supports_its_claims(as_published: Cells) -> None:
    table = decide_claims(as_published, table1=read_table1())
    assert list(table.columns) == list(LEDGER_COLUMNS)
    # Claim 11 is about every start, and here the blind spot falls at two: by 0.15 at 20K and 392K.
    assert table["verdict"].tolist() == ["supported"] * 10 + ["contradicted"]
    assert table["low"].le(table["estimate"]).all() and table["high"].ge(table["estimate"]).all()
    floor = read_ledger(as_published)[8]
    assert floor["estimate"] < 0.1 and floor["cells"].count("biased_synthetic") == 6
    assert table["seeds"].tolist() == [10] * 8 + [0, 0, 10]


def test_the_trend_is_found_at_the_start_where_it_is_planted(as_published: Cells) -> None:
    trends = find_trends(as_published).set_index("starting_size")["verdict"]
    assert trends.to_dict() == {start: "contradicted" for start in STARTING_SIZES} | {20_000: "supported"}


def test_the_opposite_world_contradicts() -> None:
    low = STARTING_SIZES[:3]
    found = verdicts_of(
        simulate(
            merge(
                plant({"matched": -0.1, "hans": 0.1}, kind="synthetic"),
                plant({"matched": 0.1}, starts=low, kind="original"),
                plant({"matched": 0.2}, starts=(100_000, 391_722), kind="original"),
                plant({"matched": 0.1, "hans": 0.2}, kind="biased_synthetic"),
            )
        )
    )
    expected = {number: "contradicted" for number in (1, 2, 3, 4, 5, 6, 7, 8)}
    assert {number: found[number] for number in expected} == expected
    assert found[11] == "supported"
    assert found[9] == found[10] == "not testable here"


def test_no_effect_is_shown_by_equivalence_with_many_seeds_and_open_with_few() -> None:
    noisy = Variation(run=0.06)
    few = simulate_grid(cells=CELLS, effects={}, seeds=3, seed=5, variation=noisy, matched_pairs=200)
    many = simulate({}, seeds=10)
    assert [verdicts_of(few)[number] for number in (2, 3, 11)] == ["undecided"] * 3
    assert [verdicts_of(many)[number] for number in (2, 3, 11)] == ["supported"] * 3
    assert verdicts_of(many)[1] == "contradicted", "shown to rise by less than the smallest effect that matters"


def test_one_seed_decides_nothing_about_models(as_published: Cells) -> None:
    single = Cells(
        {
            name: {cell: (seeds[:1], right[:1]) for cell, (seeds, right) in table.items()}
            for name, table in as_published.tables.items()
        },
        as_published.examples,
    )
    assert verdicts_of(single, read_table1()) == {
        number: "supported" if number in (9, 10) else "undecided" for number in range(1, 12)
    }
    first = read_ledger(single)[1]
    assert first["reason"].endswith("no test is made") and "One seed" in first["reason"]
    assert first["low"] < first["estimate"] < first["high"]


def test_missing_cells_make_a_claim_untestable_and_are_named(as_published: Cells) -> None:
    def keep(*kinds: str, starts: tuple[int, ...] = STARTING_SIZES) -> Cells:
        tables = {
            name: {cell: found for cell, found in table.items() if cell[1] in kinds and cell[0] in starts}
            for name, table in as_published.tables.items()
        }
        return Cells(tables, as_published.examples)

    found = read_ledger(keep("none", "synthetic"))
    assert {number: row["verdict"] for number, row in found.items()} == {
        1: "supported",
        4: "supported",
        5: "supported",
        11: "contradicted",
    } | {number: "not testable here" for number in (2, 3, 6, 7, 8, 9, 10)}
    assert "lacks start-0/original-73080 on matched" in found[2]["reason"]
    assert found[9]["reason"] == "no Table 1 was given"
    two = read_ledger(keep("none", "synthetic", starts=(0, 391_722)))
    assert two[4]["verdict"] == "not testable here"
    assert two[4]["reason"] == "the study has no starting size of this role"
    parts = list_claim_parts(keep("none"))
    assert set(parts["verdict"]) == {"not testable here"}
    with pytest.raises(MissingCell, match="start-7 on hans"):
        as_published.estimate_accuracy("hans", (7, "none", 0))


def test_starting_sizes_take_the_papers_roles_by_rank() -> None:
    assert rank_starting_sizes([0, 500, 1500, 4000, 8000, 16000]) == {
        0: 0, 500: 1, 1500: 2, 4000: 3, 8000: 4, 16000: 5,
    }  # fmt: skip
    assert rank_starting_sizes([0, 20]) == {0: 0, 20: 5}
    assert rank_starting_sizes([20, 0, 500]) == {0: 0, 20: 1, 500: 5}
    assert rank_starting_sizes([0, 5, 20, 80]) == {0: 0, 5: 1, 20: 3, 80: 5}
    assert rank_starting_sizes([5, 10, 20, 40, 80]) == {5: 1, 10: 2, 20: 3, 40: 4, 80: 5}
    assert rank_starting_sizes([0]) == {0: 0}


@pytest.mark.parametrize(
    ("value", "se", "test", "verdict"),
    [
        (0.20, 0.02, "rises", "supported"),
        (0.20, 0.15, "rises", "undecided"),
        (0.00, 0.01, "rises", "contradicted"),
        (-0.2, 0.05, "rises", "contradicted"),
        (0.02, 0.005, "rises", "supported"),
        (0.00, 0.05, "equivalent", "undecided"),
        (0.00, 0.02, "equivalent", "supported"),
        (0.20, 0.02, "equivalent", "contradicted"),
        (0.08, 0.03, "equivalent", "undecided"),
        (0.00, 0.02, "not_falls", "supported"),
        (-0.2, 0.02, "not_falls", "contradicted"),
        (-0.2, 0.02, "falls", "supported"),
    ],
)
def test_what_an_estimate_shows(value: float, se: float, test: str, verdict: str) -> None:
    estimate = Estimate(value, se, 1e6, value - 1.96 * se, value + 1.96 * se, 9, True)
    assert judge(*weigh(estimate, test, margin=0.05)) == verdict


def test_table1_claims_on_the_papers_counts_and_on_equal_ones() -> None:
    cells = simulate_grid(cells=CELLS[:1], effects={}, seeds=1, seed=1)
    table = read_ledger(cells, read_table1())
    assert [table[number]["verdict"] for number in (9, 10)] == ["supported", "supported"]
    parts = list_claim_parts(cells, table1=read_table1()).query("claim == 9")
    assert parts["estimate"].round(3).tolist() == [2.352, 2.320, 1.827]
    assert table[10]["estimate"] == pytest.approx(0.015, abs=0.001)
    equal = read_table1().assign(count=100_000, n_overlap=[5000, 100, 200] * 2)
    assert verdicts_of(cells, equal)[9] == "contradicted"
    for wrong in (equal.query("dataset == 'original'"), equal.assign(detector="token_aligned")):
        assert verdicts_of(cells, wrong)[9] == "not testable here"
    with pytest.raises(ValueError, match="lacks the columns"):
        decide_claims(cells, table1=equal.drop(columns="count"))


def make_predictions(cells: Cells, chosen: list[Cell]) -> pd.DataFrame:
    """A predictions table with the same right and wrong answers as a grid's cells."""
    frames = []
    for cell in chosen:
        for test_set in ("matched", "hans"):
            seeds, outcomes = cells.find(test_set, cell)
            for seed, right in zip(seeds, outcomes, strict=True):
                frames.append(make_model_predictions(cell, test_set, int(seed), right))
    return pd.concat(frames, ignore_index=True)[list(PREDICTION_COLUMNS)]


def make_model_predictions(cell: Cell, test_set: str, seed: int, right: np.ndarray) -> pd.DataFrame:
    index = np.arange(len(right))
    template = index // (len(right) // 60) if test_set == "hans" else index
    stratum = template // 10
    gold_entails = (stratum % 2 == 1) if test_set == "hans" else index % 2 == 0
    says_entailment = gold_entails == right
    negative = "non-entailment" if test_set == "hans" else "contradiction"
    heuristics = np.array(["lexical_overlap", "subsequence", "constituent"])
    frame = pd.DataFrame(
        {
            "model": "-".join(map(str, (*cell, seed))), "starting_size": cell[0], "training_kind": cell[1],
            "training_size": cell[2], "seed": seed, "test_set": test_set,
            "pair_id": [f"{test_set}-{number}" for number in index],
            "gold_label": np.where(gold_entails, "entailment", negative),
        }
    )  # fmt: skip
    is_hans = test_set == "hans"
    frame["heuristic"] = heuristics[stratum // 2] if is_hans else None
    frame["subcase"] = [f"sub{number // 2}" for number in template] if is_hans else None
    frame["template"] = [f"temp{number}" for number in template] if is_hans else None
    frame[list(LOGIT_COLUMNS)] = np.where(says_entailment[:, None], [2.0, 0.0, 1.0], [0.0, 1.0, 2.0])
    return frame


def test_predictions_on_disk_lead_to_the_same_cells_whatever_their_order() -> None:
    chosen = [(20_000, "none", 0), (20_000, "synthetic", 73_080)]
    grid = simulate_grid(cells=chosen, effects={}, seeds=2, seed=3, pairs_per_template=4, matched_pairs=50)
    predictions = make_predictions(grid, chosen)
    shuffled = predictions.sample(frac=1, random_state=1)
    by_model = [part for _, part in shuffled.groupby("model")]
    for found in (collect_cells(predictions), collect_cells(shuffled), collect_cells(by_model)):
        for test_set in ("matched", "hans", "hans_blind_spot"):
            for cell in chosen:
                expected = grid.estimate_accuracy(test_set, cell)
                assert found.estimate_accuracy(test_set, cell).value == pytest.approx(expected.value)
                assert found.estimate_accuracy(test_set, cell).se == pytest.approx(expected.se)
            ours = found.estimate_difference(test_set, chosen[1], chosen[0])
            assert ours.se == pytest.approx(grid.estimate_difference(test_set, chosen[1], chosen[0]).se)
    scores = score_predictions(predictions).set_index(["model", "test_set"])["accuracy"]
    blind_spot = scores[[("20000-none-0-1", "hans_blind_spot"), ("20000-none-0-2", "hans_blind_spot")]].mean()
    assert collect_cells(predictions).estimate_accuracy("hans_blind_spot", chosen[0]).value == pytest.approx(blind_spot)


def test_predictions_that_do_not_fit_together_are_errors() -> None:
    chosen: list[Cell] = [(20, "none", 0), (20, "synthetic", 30)]
    grid = simulate_grid(cells=chosen, effects={}, seeds=1, seed=3, pairs_per_template=2, matched_pairs=20)
    predictions = make_predictions(grid, chosen)
    with pytest.raises(ValueError, match="has 19 pairs, not the 20"):
        collect_cells(predictions.drop(index=predictions.index[predictions["pair_id"].eq("matched-3")][1:]))
    with pytest.raises(ValueError, match="seed 1, comes twice on"):
        collect_cells([predictions, predictions])


def test_results_alone_see_seeds_but_no_examples(as_published: Cells) -> None:
    results = tabulate_results(as_published)
    from_results = collect_cells_from_results(results)
    cell = (20_000, "synthetic", 73_080)
    whole, part = as_published.estimate_accuracy("hans", cell), from_results.estimate_accuracy("hans", cell)
    assert part.value == pytest.approx(whole.value) and part.se <= whole.se and part.df == pytest.approx(9)
    assert set(decide_claims(from_results)["verdict"]) <= set(VERDICTS)
    assert verdicts_of(from_results)[1] == "supported"
    with pytest.raises(ValueError, match="a cell and seed twice"):
        collect_cells_from_results(pd.concat([results, results]))


def test_parts_stand_behind_every_verdict(as_published: Cells) -> None:
    parts = list_claim_parts(as_published, table1=read_table1())
    assert parts.groupby("claim").size().to_dict() == {
        1: 3, 2: 3, 3: 4, 4: 6, 5: 2, 6: 18, 7: 54, 8: 3, 9: 3, 10: 2, 11: 5,
    }  # fmt: skip
    assert (parts["p_for_holm"] >= parts["p_for"] - 1e-12).all()
    assert set(parts["verdict"]) <= set(VERDICTS)


@pytest.mark.parametrize(("rise", "seeds"), [(0.0, 3), (0.1, 8)], ids=["no effect", "matched rises alone"])
def test_without_a_fall_of_hans_the_ledger_rarely_supports_the_trend(rise: float, seeds: int) -> None:
    found = load_calibration().measure_false_trends(studies=60, seeds=seeds, seed=10_000, rise=rise)
    assert found["trend"] <= 0.05 and found["claim_4"] <= 0.05 and found["any_wrong"] <= 0.05


def test_a_planted_fall_is_found_with_the_planners_seeds() -> None:
    found = load_calibration().measure_found_trends(studies=120, seed=50_000, variation=Variation())
    assert found["found"] >= 0.8 and found["elsewhere"] <= 0.05
    assert max(found["seeds"]) < 20, "the plan must not buy its power with seeds nobody has"


@pytest.mark.parametrize("name", list(load_calibration().COLLAPSES))
def test_claim_8_needs_a_fall_to_near_zero_that_the_bias_brings(name: str) -> None:
    calibration = load_calibration()
    starts, synthetic, biased, (low, high) = calibration.COLLAPSES[name]
    share = calibration.measure_collapse(
        starts=starts, synthetic=synthetic, biased=biased, studies=100, seeds=3, seed=90_000
    )
    assert low <= share <= high


def test_claim_8_is_not_supported_where_the_blind_spot_was_at_zero_before() -> None:
    steady = partial(simulate_blind_spot, seeds=10, seed=1, run_concentration=400.0)
    accuracies: dict[Cell, float] = {
        cell: 0.03 for cell in list_cells(training_sizes=(73_080,), training_kinds=("synthetic", "biased_synthetic"))
    }
    flat = list_claim_parts(steady(accuracies)).query("claim == 8")
    assert flat["verdict"].tolist() == ["supported", "contradicted", "contradicted"]
    assert verdicts_of(steady(accuracies))[8] == "contradicted"
    from_head = {cell: 0.9 if cell == (0, "none", 0) else value for cell, value in accuracies.items()}
    assert verdicts_of(steady(from_head))[8] == "contradicted", "a random head's luck"
    fallen = {cell: value if cell[1] == "biased_synthetic" else 0.6 for cell, value in accuracies.items()}
    assert verdicts_of(steady(fallen))[8] == "supported"


def test_the_sandbox_as_committed_supports_claim_8() -> None:
    files = sorted((ROOT / "executed" / "sandbox").glob("80_evaluate/*/predictions.parquet"))
    if not files:
        pytest.skip("executed/sandbox holds no predictions")
    row = read_ledger(collect_cells(read_predictions(files)))[8]
    assert (row["verdict"], row["parts"], row["seeds"]) == ("supported", 3, 3)


def test_quantities_say_the_margins(as_published: Cells) -> None:
    quantities = decide_claims(as_published, smallest_effect=0.02, near_zero=0.2).set_index("claim")["quantity"]
    assert "within 0.02" in quantities[2] and "under 0.2 in most starts" in quantities[8]
    assert not quantities.str.contains("{", regex=False).any()
    assert quantities[[9, 10]].str.contains("published detector").all()
