"""Fidelity by a judge that errs: its error undone exactly where it can be, missing where it cannot, columns by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from blindspot.audit import list_rows
from blindspot.data import LABELS
from blindspot.fidelity import (
    add_agreement,
    add_predicted_labels,
    check_judge,
    count_confusion,
    draw_judged_rows,
    estimate_fidelity,
    judge_tells_apart,
    summarise_judge,
    undo_confusion,
)

E, N, C = LABELS
# P(judge says | true label), in counts of 100
CONFUSION = np.array([[90.0, 10.0, 0.0], [20.0, 70.0, 10.0], [0.0, 20.0, 80.0]])


def make_synthetic(labels: list[str], accepted: list[bool] | None = None) -> pa.Table:
    return pa.table({"gold_label": labels, "accepted": accepted or [True] * len(labels)})


def test_confusion_is_undone() -> None:
    true = np.array([[0.5, 0.3, 0.2], [1 / 3, 1 / 3, 1 / 3], [0.05, 0.9, 0.05]])
    answers = true @ (CONFUSION / 100)
    assert undo_confusion(CONFUSION / 100, answers) == pytest.approx(true, abs=1e-4)
    assert undo_confusion(np.eye(3), np.array([0.2, 0.3, 0.5])) == pytest.approx([0.2, 0.3, 0.5])


def test_estimated_shares_stay_shares() -> None:
    """The inverse would say more than 100 %: the judge finds more entailment than if all pairs were."""
    answers = np.array([0.97, 0.03, 0.0])
    assert (answers @ np.linalg.inv(CONFUSION / 100))[0] > 1
    assert undo_confusion(CONFUSION / 100, answers) == pytest.approx([1, 0, 0], abs=1e-3)


def make_judged(shares: dict[str, list[float]], *, pairs: int) -> tuple[pa.Table, list[str]]:
    """Synthetic pairs with true shares by requested label, and the answers of a judge of exactly CONFUSION."""
    requested, predicted = [], []
    for label, true in shares.items():
        counts = np.rint(pairs * np.array(true) @ CONFUSION / 100).astype(int)
        requested += [label] * counts.sum()
        predicted += [name for name, count in zip(LABELS, counts, strict=True) for _ in range(count)]
    return make_synthetic(requested), predicted


def test_estimate_takes_the_judges_error_off() -> None:
    shares = {E: [0.8, 0.1, 0.1], N: [0.1, 0.9, 0.0], C: [0.2, 0.2, 0.6]}
    synthetic, predicted = make_judged(shares, pairs=1000)
    judged = add_predicted_labels(synthetic, rows=np.arange(3000), labels=predicted)
    rows = {row["label"]: row for row in list_rows(estimate_fidelity(judged, confusion=10 * CONFUSION, draws=400))}
    # Of entailment, T agrees on 0.8 x 90 % + 0.1 x 20 % + 0.1 x 0 %.
    assert [rows[label]["percent_agreed"] for label in LABELS] == pytest.approx([74.0, 64.0, 50.0])
    assert [rows[label]["percent_right_estimated"] for label in LABELS] == pytest.approx([80.0, 90.0, 60.0], abs=0.1)
    for label, right in ((E, 80), (N, 90), (C, 60)):
        low, high = rows[label]["estimated_low"], rows[label]["estimated_high"]
        assert isinstance(low, float) and isinstance(high, float)
        assert low < right < high and 3 < high - low < 15
    assert rows["all"]["percent_agreed"] == pytest.approx(188 / 3)
    assert rows["all"]["percent_right_estimated"] == pytest.approx(230 / 3, abs=0.1)
    assert rows["all"]["judged"] == 3000 and rows["all"]["agreed"] == 1880
    assert rows[E]["percent_right_true"] is None and rows["all"]["percent_right_true"] is None


def test_intervals_hold_the_truth() -> None:
    """Where the assumptions hold, 95 % intervals of 120 simulated audits hold the share that is right in most."""
    rng = np.random.default_rng(4)
    true = np.array([0.7, 0.2, 0.1])
    held = 0
    for seed in range(120):
        gold = np.stack([rng.multinomial(150, row / 100) for row in CONFUSION]).astype(float)
        answers = rng.multinomial(400, true @ CONFUSION / 100)
        labels = [name for name, count in zip(LABELS, answers, strict=True) for _ in range(count)]
        judged = add_predicted_labels(make_synthetic([E] * 400), rows=np.arange(400), labels=labels)
        row = list_rows(estimate_fidelity(judged, confusion=gold, draws=200, seed=seed))[0]
        low, high = row["estimated_low"], row["estimated_high"]
        assert isinstance(low, float) and isinstance(high, float)
        held += low <= 70 <= high
    assert held >= 108  # 90 %; 114 are expected


def test_a_judge_that_answers_alike_tells_nothing() -> None:
    alike = np.array([[95.0, 5.0, 0.0], [94.0, 5.0, 1.0], [95.0, 4.0, 1.0]])
    assert not judge_tells_apart(alike) and judge_tells_apart(CONFUSION)
    assert not judge_tells_apart(np.array([[9.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 9.0]])), "a label not met"
    judged = add_predicted_labels(make_synthetic([E, E]), rows=np.arange(2), labels=[E, N])
    row = list_rows(estimate_fidelity(judged, confusion=alike, draws=20))[0]
    assert row["percent_agreed"] == 50 and row["percent_right_estimated"] is None and row["estimated_low"] is None


def test_what_was_not_judged_is_missing() -> None:
    synthetic = make_synthetic([E, E, N, N, E], [True, False, True, True, True])
    judged = add_predicted_labels(synthetic, rows=np.array([0, 3]), labels=[E, C])
    assert judged["predicted_label"].to_pylist() == [E, None, None, C, None]
    assert add_agreement(judged)["agreement"].to_pylist() == [True, None, None, False, None]
    rows = list_rows(estimate_fidelity(judged, confusion=CONFUSION, draws=20))
    assert [(r["judged"], r["agreed"], r["percent_agreed"]) for r in rows[:3]] == [(1, 1, 100), (1, 0, 0), (0, 0, None)]
    assert rows[2]["percent_right_estimated"] is None
    assert rows[3]["percent_agreed"] == 50, "two accepted pairs of each of two labels"
    truth = judged.append_column("true_label", pa.array([N, None, N, C, None]))
    assert add_agreement(truth)["agreement"].to_pylist() == [False, None, True, False, None], "the truth decides"
    assert [r["percent_right_true"] for r in list_rows(estimate_fidelity(truth, confusion=CONFUSION, draws=20))] == [
        *(0, 0, None, 0),
    ]


def test_the_assumptions_are_held_against_the_truth() -> None:
    rows = [(E, E, E), (E, E, E), (E, E, N), (N, E, N), (N, E, E), (C, E, N), (N, N, N), (C, N, None), (C, None, C)]
    asked, true, says = zip(*rows, strict=True)
    columns = {"gold_label": asked, "true_label": true, "predicted_label": says, "accepted": [True] * 9}
    checked = list_rows(check_judge(pa.table(columns), confusion=CONFUSION))
    assert [tuple(row.values()) for row in checked] == [
        (E, 90.0, 3, pytest.approx(200 / 3), 3, pytest.approx(100 / 3), pytest.approx(100 / 3)),
        (N, 70.0, 1, 100.0, 0, None, None),
        (C, 80.0, 0, None, 0, None, None),
    ]


def test_judged_rows_are_accepted_and_at_most_so_many() -> None:
    synthetic = make_synthetic([E] * 30 + [N] * 3 + [C], [True] * 33 + [False])
    rows = draw_judged_rows(synthetic, seed=1, most_per_label=10)
    assert len(rows) == 13 and (rows[:10] < 30).all() and rows[10:].tolist() == [30, 31, 32]
    assert (np.diff(rows) > 0).all()
    assert rows.tolist() == draw_judged_rows(synthetic, seed=1, most_per_label=10).tolist()
    assert any(rows.tolist() != draw_judged_rows(synthetic, seed=s, most_per_label=10).tolist() for s in (2, 3))


def test_the_judges_own_error() -> None:
    confusion = count_confusion(pa.chunked_array([[E] * 8 + [N, C]]), [E] * 6 + [N, C] + [N, E])
    assert confusion.tolist() == [[6, 1, 1], [0, 1, 0], [1, 0, 0]]
    rows = list_rows(summarise_judge(confusion))
    expected = [(E, 8, 75), (N, 1, 100), (C, 1, 0), ("all", 10, 70)]
    assert [(r["label"], r["pairs"], r["percent_right"]) for r in rows] == expected
    assert (rows[0]["percent_says_neutral"], rows[3]["percent_says_entailment"]) == (12.5, 70)
    # Wilson by hand: (0.7 + z^2/20 -+ z sqrt(0.021 + z^2/400)) / (1 + z^2/10) with z = 1.96
    assert (rows[3]["low"], rows[3]["high"]) == pytest.approx((39.68, 89.22), abs=0.01)
    assert list_rows(summarise_judge(np.zeros((3, 3))))[0]["percent_right"] is None
