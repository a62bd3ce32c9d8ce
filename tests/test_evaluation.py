"""Accuracies from predictions: hand-computed literals for every test set, label collapse and check."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blindspot.evaluation import (
    LOGIT_COLUMNS,
    PREDICTION_COLUMNS,
    RESULT_COLUMNS,
    RESULT_TEST_SETS,
    check_predictions,
    mark_correct,
    predicted_label_rates,
    read_predictions,
    score_predictions,
)

SAYS = {
    "entailment": (2.0, 0.0, 0.0),
    "neutral": (0.0, 2.0, 0.0),
    "contradiction": (0.0, 0.0, 2.0),
    # Best of three is entailment, with probability 0.418; neutral and contradiction have 0.582 between them.
    "split": (1.0, 0.9, 0.2),
}
HANS = (
    # pair, heuristic, gold label, what the model says
    ("h0", "lexical_overlap", "entailment", "entailment"),
    ("h1", "lexical_overlap", "entailment", "neutral"),
    ("h2", "lexical_overlap", "non-entailment", "contradiction"),
    ("h3", "lexical_overlap", "non-entailment", "entailment"),
    ("h4", "lexical_overlap", "non-entailment", "entailment"),
    ("h5", "lexical_overlap", "non-entailment", "split"),
    ("h6", "subsequence", "entailment", "entailment"),
    ("h7", "subsequence", "non-entailment", "entailment"),
    ("h8", "constituent", "non-entailment", "neutral"),
)
MATCHED = (
    ("m0", "entailment", "entailment"),
    ("m1", "neutral", "contradiction"),
    ("m2", "contradiction", "contradiction"),
    ("m3", "neutral", "split"),
)


def predict(model: str = "start-0_seed-1", **coordinates: Any) -> pa.Table:
    rows: list[tuple[str, str, str, str | None]] = [(*pair, None) for pair in MATCHED]
    rows += [(pair, gold, says, heuristic) for pair, heuristic, gold, says in HANS]
    where = {"starting_size": 0, "training_kind": "none", "training_size": 0, "seed": 1} | coordinates
    records = []
    for pair, gold, says, heuristic in rows:
        logits = dict(zip(LOGIT_COLUMNS, SAYS[says], strict=True))
        test_set = "hans" if heuristic else "matched"
        texts = {"subcase": heuristic and "ln_subject/object_swap", "template": heuristic and "temp1"}
        keys = {"model": model, "test_set": test_set, "pair_id": pair, "gold_label": gold}
        records.append(where | keys | {"heuristic": heuristic} | texts | logits)
    return pa.Table.from_pylist(records).select(PREDICTION_COLUMNS)


def change(table: pa.Table, row: int, **values: Any) -> pa.Table:
    records = table.to_pylist()
    records[row] |= values
    return pa.Table.from_pylist(records, schema=table.schema)


ARGMAX = {
    "matched": (2 / 4, 4),
    "mismatched": (None, 0),
    "matched_two_label": (3 / 4, 4),
    "mismatched_two_label": (None, 0),
    "hans": (4 / 9, 9),
    "hans_lexical_overlap": (2 / 6, 6),
    "hans_blind_spot": (1 / 4, 4),
    "hans_lexical_overlap_entailment": (1 / 2, 2),
    "hans_lexical_overlap_non_entailment": (1 / 4, 4),
    "hans_subsequence_entailment": (1.0, 1),
    "hans_subsequence_non_entailment": (0.0, 1),
    "hans_constituent_entailment": (None, 0),
    "hans_constituent_non_entailment": (1.0, 1),
}
SUMMED = ARGMAX | {
    "matched_two_label": (4 / 4, 4),
    "hans": (5 / 9, 9),
    "hans_lexical_overlap": (3 / 6, 6),
    "hans_blind_spot": (2 / 4, 4),
    "hans_lexical_overlap_non_entailment": (2 / 4, 4),
}


@pytest.mark.parametrize(("label_collapse", "expected"), [("argmax", ARGMAX), ("summed_probability", SUMMED)])
def test_every_test_set_by_hand(label_collapse: str, expected: dict[str, tuple[float | None, int]]) -> None:
    results = score_predictions(predict(), label_collapse=label_collapse)
    assert tuple(results.columns) == RESULT_COLUMNS
    assert tuple(results["test_set"]) == RESULT_TEST_SETS == tuple(expected)
    for test_set, given, n in results[["test_set", "accuracy", "n"]].to_numpy():
        accuracy, pairs = expected[test_set]
        assert n == pairs, test_set
        assert given == pytest.approx(math.nan if accuracy is None else accuracy, nan_ok=True), test_set


def test_models_keep_their_coordinates_and_their_own_scores() -> None:
    other = {"training_kind": "biased_synthetic", "training_size": 90, "seed": 2}
    second = predict("m2", starting_size=500, **other)
    for row in range(4):
        second = change(second, row, logit_entailment=9.0)
    results = score_predictions(pa.concat_tables([predict(), second]))
    matched = results[results["test_set"].eq("matched")].set_index("model")
    assert matched["accuracy"].to_dict() == {"start-0_seed-1": 0.5, "m2": 0.25}
    assert list(matched.loc["m2", ["starting_size", *other]]) == [500, "biased_synthetic", 90, 2]
    assert len(results) == 2 * len(RESULT_TEST_SETS)


def test_order_of_rows_and_kind_of_table_do_not_matter() -> None:
    table = predict()
    turned = table.take(list(range(table.num_rows))[::-1])
    expected = score_predictions(table)
    pd.testing.assert_frame_equal(score_predictions(turned), expected)
    pd.testing.assert_frame_equal(score_predictions(table.to_pandas()), expected)


def test_marks_name_the_predicted_labels() -> None:
    marked = mark_correct(predict(), label_collapse="summed_probability").set_index("pair_id")
    row = marked.loc["m3"]
    assert (row["predicted_label"], row["predicted_two_label"]) == ("entailment", "non-entailment")
    assert not row["correct"]
    assert row["correct_two_label"]
    assert marked["correct"].isna().to_dict()["h0"]


def test_unknown_label_collapse_is_named() -> None:
    with pytest.raises(ValueError, match="label_collapse is 'sum'; expected one of argmax, summed_probability"):
        score_predictions(predict(), label_collapse="sum")


def test_summed_probability_tie_goes_to_entailment() -> None:
    table = change(predict(), 0, logit_entailment=math.log(2), logit_neutral=0.0, logit_contradiction=0.0)
    marked = mark_correct(table, label_collapse="summed_probability")
    assert marked["predicted_two_label"][0] == "entailment"


def test_label_rates_show_a_constant_answer() -> None:
    constant = predict("m2", seed=2)
    for row in range(constant.num_rows):
        constant = change(constant, row, logit_entailment=9.0)
    rates = predicted_label_rates(pa.concat_tables([predict(), constant]))
    rates = rates.set_index(["model", "heuristic"])
    assert rates.loc[("start-0_seed-1", "lexical_overlap"), "entailment_rate"] == pytest.approx(4 / 6)
    assert rates.loc[("start-0_seed-1", "lexical_overlap"), "n"] == 6
    assert rates.loc[("start-0_seed-1", "lexical_overlap"), "both_labels"]
    assert not rates.loc[("m2", "lexical_overlap"), "both_labels"]
    assert rates.loc[("m2", "subsequence"), "entailment_rate"] == 1.0
    assert len(rates) == 6


@pytest.mark.parametrize(
    ("row", "values", "message"),
    [
        (
            0,
            {"logit_neutral": math.nan},
            "1 rows have a logit that is not finite, first m0 of start-0_seed-1",
        ),
        (0, {"logit_neutral": math.inf}, "not finite"),
        (0, {"gold_label": "non-entailment"}, "gold_label of MultiNLI rows: 1 rows .*'non-entailment'"),
        (4, {"gold_label": "neutral"}, "gold_label of HANS rows: 1 rows .*'neutral'"),
        (4, {"heuristic": None}, "heuristic of HANS rows: 1 rows"),
        (0, {"test_set": "dev"}, "test_set: 1 rows have a value such as 'dev'; expected one of matched"),
        (0, {"pair_id": "m1"}, "matched, model 'start-0_seed-1': 1 pair ids are doubled, such as 'm1'"),
        (0, {"seed": 7}, "model 'start-0_seed-1' has more than one"),
    ],
)
def test_bad_rows_are_named(row: int, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_predictions(change(predict(), row, **values))


def test_a_pair_that_one_model_lacks_is_missing() -> None:
    table = pa.concat_tables([predict(), predict("m2", seed=2).slice(1)])
    message = "matched, model 'm2': 1 pair ids are missing, such as 'm0'; expected each of 4"
    with pytest.raises(ValueError, match=message):
        check_predictions(table)


def test_pairs_say_what_is_owed() -> None:
    ids = [("matched", f"m{index}") for index in range(4)] + [("hans", f"h{index}") for index in range(9)]
    pairs = pa.table({"split": [split for split, _ in ids], "pair_id": [pair for _, pair in ids]})
    check_predictions(predict(), pairs=pairs)
    more = pa.concat_tables([pairs, pa.table({"split": ["hans"], "pair_id": ["h99"]})])
    with pytest.raises(ValueError, match="1 pair ids are missing, such as 'h99'"):
        check_predictions(predict(), pairs=more)
    with pytest.raises(ValueError, match="hans: 1 rows have a pair_id not in the test set, such as 'h8'"):
        check_predictions(predict(), pairs=pairs.slice(0, 12))


def test_a_whole_test_set_that_is_owed_is_missing() -> None:
    pairs = pa.table({"split": ["matched", "mismatched"], "pair_id": ["m0", "x0"]})
    with pytest.raises(ValueError, match="mismatched, model 'start-0_seed-1': 1 pair ids are missing"):
        check_predictions(predict().slice(0, 1), pairs=pairs)


def test_a_test_set_that_one_model_lacks_is_missing() -> None:
    table = pa.concat_tables([predict(), predict("m2", seed=2).slice(0, 4)])
    with pytest.raises(ValueError, match="hans, model 'm2': 9 pair ids are missing"):
        check_predictions(table)


def test_empty_and_incomplete_tables_are_errors() -> None:
    with pytest.raises(ValueError, match="no rows"):
        score_predictions(predict().slice(0, 0))
    with pytest.raises(ValueError, match=r"lack the columns \['logit_neutral'\]"):
        score_predictions(predict().drop_columns(["logit_neutral"]))


def write_run(folder: Path, table: pa.Table, *, done: bool) -> Path:
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "predictions.parquet")
    if done:
        (folder / "summary.json").write_text(json.dumps({}))
    return folder / "predictions.parquet"


def test_predictions_of_finished_runs_are_gathered(tmp_path: Path) -> None:
    without_hans = predict("m2", seed=2).slice(0, 4)
    null_text = without_hans.set_column(8, "heuristic", pa.nulls(4))
    first = write_run(tmp_path / "80_evaluate" / "start-0_seed-1", predict(), done=True)
    second = write_run(tmp_path / "80_evaluate" / "start-0_seed-2", null_text, done=True)
    write_run(tmp_path / "80_evaluate" / "start-0_seed-3", predict("m3", seed=3), done=False)
    table = read_predictions(tmp_path)
    assert table.column_names == list(PREDICTION_COLUMNS)
    assert table.num_rows == 13 + 4
    assert read_predictions([first, second]).equals(table)
    assert read_predictions(first).num_rows == 13


def test_missing_predictions_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no finished run"):
        read_predictions(tmp_path)
    with pytest.raises(FileNotFoundError, match="at least one"):
        read_predictions([])
    with pytest.raises(FileNotFoundError, match="no predictions file at"):
        read_predictions(tmp_path / "nowhere.parquet")
    write_run(tmp_path / "run", predict().drop_columns(["seed"]), done=True)
    with pytest.raises(ValueError, match=r"lacks the columns \['seed'\]"):
        read_predictions(tmp_path)
