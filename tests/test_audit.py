"""The audit's tables against hand counts, and the paper's Table 1 against its own arithmetic."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from blindspot.audit import (
    PAPER_TABLE1,
    add_repeat_columns,
    add_true_labels,
    build_table1,
    list_rows,
    summarise_acceptance,
    summarise_fidelity,
    summarise_repeats,
)
from blindspot.data import LABELS
from blindspot.diversity import count_ngrams, encode_words, measure_distinct_n, summarise_lengths
from blindspot.heuristics import add_heuristic_columns


def make_synthetic(rows: list[tuple[str, str, str, str | None]]) -> pa.Table:
    """rows: label, premise, hypothesis, reject reason."""
    labels, premises, hypotheses, reasons = zip(*rows, strict=True)
    table = pa.table(
        {
            "pair_id": [f"syn-{i}" for i in range(len(rows))],
            "premise": premises,
            "hypothesis": hypotheses,
            "gold_label": labels,
            "accepted": [reason is None for reason in reasons],
            "reject_reason": pa.array(reasons, pa.string()),
        }
    )
    return add_heuristic_columns(table)


ORIGINAL = add_heuristic_columns(
    pa.table(
        {
            "premise": ["a b", "a b.", "a", "a", "x y", "x", "q r", "q r"],
            "hypothesis": ["a", "b", "z", "z z", "x", "y", "s", "t"],
            "gold_label": ["entailment"] * 4 + ["neutral"] * 2 + ["contradiction"] * 2,
        }
    )
)
SYNTHETIC = make_synthetic(
    [
        ("entailment", "c d", "c", None),
        ("entailment", "c d.", "d", None),
        ("entailment", "c d", "c", None),
        ("entailment", "a b", "a", None),
        ("entailment", "e", "e", "label_mismatch"),
        ("neutral", "g", "h", None),
        ("neutral", "", "", "no_premise"),
        ("neutral", "", "", "no_sentinel"),
    ]
)


def test_table1_by_label_and_detector() -> None:
    rows = list_rows(build_table1(original=ORIGINAL, synthetic=SYNTHETIC))
    figures = [
        (
            r["detector"],
            r["dataset"],
            r["label"],
            r["count"],
            r["n_overlap"],
            r["percent_overlap"],
            r["ratio"],
        )
        for r in rows
    ]
    assert figures == [
        ("published", "synthetic", "entailment", 4, 3, 75.0, 3.0),
        ("published", "synthetic", "neutral", 1, 0, 0.0, 0.0),
        ("published", "synthetic", "contradiction", 0, 0, None, None),
        ("published", "original", "entailment", 4, 1, 25.0, None),
        ("published", "original", "neutral", 2, 1, 50.0, None),
        ("published", "original", "contradiction", 2, 0, 0.0, None),
        ("token_aligned", "synthetic", "entailment", 4, 4, 100.0, 2.0),
        ("token_aligned", "synthetic", "neutral", 1, 0, 0.0, 0.0),
        ("token_aligned", "synthetic", "contradiction", 0, 0, None, None),
        ("token_aligned", "original", "entailment", 4, 2, 50.0, None),
        ("token_aligned", "original", "neutral", 2, 1, 50.0, None),
        ("token_aligned", "original", "contradiction", 2, 0, 0.0, None),
    ]
    assert rows[0]["paper_count"] == 631_992
    assert rows[0]["paper_ratio"] == 2.352
    assert rows[3]["paper_n_overlap"] == 2_139
    assert rows[3]["paper_ratio"] is None
    assert rows[6]["paper_count"] is None
    assert json.loads(json.dumps(rows)) == rows


def test_the_papers_numbers_appear_beside_lexical_overlap_only() -> None:
    original = add_heuristic_columns(ORIGINAL, heuristics=["subsequence"])
    synthetic = add_heuristic_columns(SYNTHETIC, heuristics=["subsequence"])
    table = build_table1(
        original=original, synthetic=synthetic, heuristic="subsequence", detectors=["published"]
    )
    assert len(table) == 6
    assert table["paper_count"].isna().all()


def test_an_original_without_overlap_gives_no_ratio() -> None:
    without = ORIGINAL.filter(pa.array([False, False, True, True, False, True, True, True]))
    table = build_table1(original=without, synthetic=SYNTHETIC, detectors=["published"])
    assert table["ratio"].isna().all()


def test_table1_of_the_original_alone() -> None:
    rows = list_rows(build_table1(original=ORIGINAL, detectors=["published"]))
    assert [(r["dataset"], r["label"], r["n_overlap"], r["ratio"]) for r in rows] == [
        ("original", "entailment", 1, None),
        ("original", "neutral", 1, None),
        ("original", "contradiction", 0, None),
    ]


def test_the_papers_table_agrees_with_itself() -> None:
    percents = {}
    for row in PAPER_TABLE1:
        count, n_overlap, percent = row["paper_count"], row["paper_n_overlap"], row["paper_percent_overlap"]
        assert isinstance(count, int) and isinstance(n_overlap, int) and isinstance(percent, float)
        assert round(100 * n_overlap / count, 3) == percent
        percents[row["dataset"], row["label"]] = 100 * n_overlap / count
    ratios = [row["paper_ratio"] for row in PAPER_TABLE1[:3]]
    assert [
        round(percents["synthetic", label] / percents["original", label], 3) for label in LABELS
    ] == ratios
    assert sum(int(row["paper_count"] or 0) for row in PAPER_TABLE1[3:]) == 391_722


def test_acceptance_by_label_and_reason() -> None:
    rows = list_rows(summarise_acceptance(SYNTHETIC))
    assert [(r["label"], r["outcome"], r["n"], r["percent"]) for r in rows] == [
        ("entailment", "accepted", 4, 80.0),
        ("entailment", "label_mismatch", 1, 20.0),
        ("entailment", "no_premise", 0, 0.0),
        ("entailment", "no_sentinel", 0, 0.0),
        ("neutral", "accepted", 1, pytest.approx(100 / 3)),
        ("neutral", "label_mismatch", 0, 0.0),
        ("neutral", "no_premise", 1, pytest.approx(100 / 3)),
        ("neutral", "no_sentinel", 1, pytest.approx(100 / 3)),
        ("contradiction", "accepted", 0, None),
        ("contradiction", "label_mismatch", 0, None),
        ("contradiction", "no_premise", 0, None),
        ("contradiction", "no_sentinel", 0, None),
    ]


def test_repeats_and_copies() -> None:
    marked = add_repeat_columns(SYNTHETIC, training=ORIGINAL)
    assert marked["duplicate"].to_pylist() == [False, False, True] + [False] * 5
    assert marked["copied_from_training"].to_pylist() == [False] * 3 + [True] + [False] * 4
    assert add_repeat_columns(marked, training=ORIGINAL).equals(marked)
    rows = list_rows(summarise_repeats(marked))
    assert rows[0] == {
        "label": "entailment",
        "accepted": 4,
        "duplicate": 1,
        "percent_duplicate": 25.0,
        "copied_from_training": 1,
        "percent_copied_from_training": 25.0,
    }
    assert rows[2]["percent_duplicate"] is None


def test_label_fidelity_by_a_truth_function() -> None:
    answers: dict[tuple[str, str], str | None] = {
        ("c d", "c"): "entailment",
        ("c d.", "d"): "neutral",
        ("a b", "a"): None,
        ("g", "h"): "neutral",
    }
    judged = add_true_labels(SYNTHETIC, truth=lambda premise, hypothesis: answers[premise, hypothesis])
    assert judged["true_label"].to_pylist() == [
        "entailment",
        "neutral",
        "entailment",
        None,
        None,
        "neutral",
        None,
        None,
    ]
    rows = list_rows(summarise_fidelity(judged))
    columns = (
        "label",
        "accepted",
        "right",
        "wrong",
        "undecided",
        "percent_right",
        "percent_right_of_decided",
    )
    assert [tuple(row[name] for name in columns) for row in rows] == [
        ("entailment", 4, 2, 1, 1, 50.0, pytest.approx(200 / 3)),
        ("neutral", 1, 1, 0, 0, 100.0, 100.0),
        ("contradiction", 0, 0, 0, 0, None, None),
        ("all", 5, 3, 1, 1, 60.0, 75.0),
    ]
    with pytest.raises(ValueError, match=r"'Neutral'.*expected a label or None"):
        add_true_labels(SYNTHETIC, truth=lambda *_: "Neutral")


def test_words_are_numbered_without_punctuation() -> None:
    encoded = encode_words(pa.chunked_array([["The cat, the CAT!", ""], ["... a"]]))
    assert encoded.lengths.tolist() == [4, 0, 1]
    assert encoded.vocabulary == 3
    assert len(encoded.words) == 5
    assert encoded.words[0] == encoded.words[2] != encoded.words[1] == encoded.words[3]
    empty = encode_words(pa.array([], pa.string()))
    assert (len(empty.lengths), empty.vocabulary) == (0, 0)


@pytest.mark.parametrize(
    ("n", "expected"), [(1, (10, 3)), (2, (6, 4)), (3, (4, 4)), (4, (2, 2)), (5, (0, 0))]
)
def test_ngrams_stay_inside_sentences(n: int, expected: tuple[int, int]) -> None:
    sentences = pa.array(["a b a b", "c", "b c b a", "c"])
    assert count_ngrams(encode_words(sentences), n=n) == expected


def test_lengths_and_vocabulary() -> None:
    rows = list_rows(summarise_lengths(original=ORIGINAL, synthetic=SYNTHETIC))
    assert len(rows) == 12
    assert rows[0] == {
        "dataset": "original",
        "label": "entailment",
        "field": "premise",
        "sentences": 4,
        "mean_words": 1.5,
        "median_words": 1.5,
        "p95_words": 2.0,
        "words": 6,
        "vocabulary": 2,
    }
    assert rows[-1]["sentences"] == 0
    assert rows[-1]["mean_words"] is None


def test_distinct_n_compares_equal_numbers_of_pairs() -> None:
    rows = list_rows(measure_distinct_n(original=ORIGINAL, synthetic=SYNTHETIC, seed=1, sizes=[1, 2]))
    by_key = {(row["dataset"], row["label"], row["n"]): row for row in rows}
    assert len(by_key) == 12
    assert by_key["synthetic", "neutral", 1] == {
        "dataset": "synthetic",
        "label": "neutral",
        "n": 1,
        "pairs": 1,
        "ngrams": 2,
        "distinct_ngrams": 2,
        "distinct": 1.0,
    }
    assert by_key["original", "entailment", 1]["pairs"] == 1
    assert by_key["synthetic", "contradiction", 1]["pairs"] == 0
    assert by_key["synthetic", "contradiction", 1]["distinct"] is None
    whole = measure_distinct_n(original=ORIGINAL, synthetic=SYNTHETIC.slice(0, 5), seed=1, sizes=[1])
    assert list_rows(whole)[0]["pairs"] == 2
