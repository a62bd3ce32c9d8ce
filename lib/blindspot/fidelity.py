"""Are the generator's labels right, where no truth function can tell? Judged by a task model whose own error is known.

The judge is a T trained on original pairs. It errs, so that its agreement with the requested labels is not their
fidelity: a judge that is right 85 % of the time agrees with perfect labels in 85 % of pairs. Its confusion on pairs
with a gold label says how to undo that (Rogan & Gladen 1978, here with three labels): of pairs asked for with one
label, the share that T calls t is the sum over true labels y of share(y) x P(T says t | y), and share(y) is estimated
by maximum likelihood, which keeps shares from 0 to 1.

It rests on two assumptions. (1) T errs on a synthetic pair of true label y as often, and in the same direction, as on a
gold pair of y: synthetic text that is easier or stranger breaks it. (2) Given the true label, what T says does not
depend on what was asked for: T and G learnt from the same pairs, and where they share a misconception T confirms G's
wrong label, so that the estimate is then too high. The intervals are over pairs (judged and gold); they know nothing
of the assumptions, nor of other judges. Where the truth is known, `check_judge` holds the assumptions against it. In
the sandbox the second one fails (of pairs that are really neutral or contradiction and were asked for as something
else, the judge confirms the wrong label in half) and the estimate lies far above the truth: read it as an upper figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import binomtest

from blindspot.audit import as_percent, keep_accepted, replace_columns
from blindspot.data import LABELS
from blindspot.training_sets import mark_true

JUDGED_PER_LABEL = 4_000
# The smallest singular value of a confusion matrix is 1 for a perfect judge and 0 for one that answers alike whatever
# the label; under this, shares of true labels cannot be told from its answers.
LEAST_SINGULAR_VALUE = 0.2
EM_STEPS = 500
ESTIMATED = ("percent_right_estimated", "estimated_low", "estimated_high")


@dataclass(frozen=True)
class _Judged:
    """What was judged of one label. true: percent right by the truth, where it is known; right: the estimated
    share that is right, followed by its draws."""

    label: str
    accepted: int
    judged: int
    agreed: int
    true: float | None
    right: np.ndarray


def draw_judged_rows(synthetic: pa.Table, *, seed: int, most_per_label: int = JUDGED_PER_LABEL) -> np.ndarray:
    """Row numbers, rising, of the accepted rows that the judge sees: of each label at most so many, at random."""
    rng = np.random.default_rng(seed)
    accepted = mark_true(synthetic["accepted"])
    chosen = []
    for label in LABELS:
        rows = np.flatnonzero(accepted & mark_true(pc.equal(synthetic["gold_label"], label)))
        chosen.append(rng.choice(rows, size=min(most_per_label, len(rows)), replace=False))
    return np.sort(np.concatenate(chosen))


def add_predicted_labels(synthetic: pa.Table, *, rows: np.ndarray, labels: Sequence[str]) -> pa.Table:
    """Append `predicted_label`: what the judge says of `rows`, in their order; null for all others."""
    places = np.full(synthetic.num_rows, -1)
    places[rows] = np.arange(len(rows))
    spread = pa.array(labels, pa.string()).take(pa.array(places, mask=places < 0))
    return replace_columns(synthetic, {"predicted_label": spread})


def add_agreement(synthetic: pa.Table) -> pa.Table:
    """Append `agreement`: whether the requested label is the true one, or, where there is no column true_label, the one
    that the judge predicts. Null for what was rejected, not judged or could not be decided."""
    judge = "true_label" if "true_label" in synthetic.column_names else "predicted_label"
    agrees = pc.equal(synthetic["gold_label"], synthetic[judge])
    return replace_columns(synthetic, {"agreement": pc.if_else(synthetic["accepted"], agrees, None)})


def count_confusion(gold: pa.ChunkedArray | Sequence[str], predicted: Sequence[str]) -> np.ndarray:
    """Pairs by gold label (row) and predicted label (column), both in the order of LABELS."""
    names = gold.to_pylist() if isinstance(gold, pa.ChunkedArray) else gold
    counts = np.zeros((len(LABELS), len(LABELS)))
    np.add.at(counts, ([LABELS.index(name) for name in names], [LABELS.index(name) for name in predicted]), 1)
    return counts


def summarise_judge(confusion: np.ndarray) -> pd.DataFrame:
    """How often the judge is right, by gold label and for `all`: label, pairs, percent_right, low, high (Wilson, 95 %),
    then percent_says_<label>."""
    rows = []
    for place, label in enumerate((*LABELS, "all")):
        says = confusion[place] if label != "all" else confusion.sum(axis=0)
        right = int(confusion[place, place] if label != "all" else np.trace(confusion))
        total = int(says.sum())
        row: dict[str, Any] = {"label": label, "pairs": total, "percent_right": as_percent(right, total)}
        row |= dict(zip(("low", "high"), _find_wilson(right, total), strict=True))
        rows.append(row | {f"percent_says_{name}": as_percent(n, total) for name, n in zip(LABELS, says, strict=True)})
    return pd.DataFrame(rows)


def _find_wilson(count: int, total: int) -> tuple[float | None, float | None]:
    if not total:
        return None, None
    interval = binomtest(count, total).proportion_ci(method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


def estimate_fidelity(synthetic: pa.Table, *, confusion: np.ndarray, draws: int = 2_000, seed: int = 1) -> pd.DataFrame:
    """The judge's agreement with the requested labels, and what it says of how many are right once its error is undone.

    Needs predicted_label. Columns: label (and `all`, the labels weighted by their accepted pairs), judged, agreed,
    percent_agreed, agreed_low, agreed_high (Wilson; missing for `all`), percent_right_estimated,
    estimated_low, estimated_high (95 %: draws of the confusion and of the answers, Dirichlet with Jeffreys' prior), and
    percent_right_true (of the judged pairs with a true_label; missing where the truth is unknown).
    Estimates are missing where nothing was judged or the judge cannot tell the labels apart (`judge_tells_apart`).
    """
    rng = np.random.default_rng(seed)
    drawn = np.stack([rng.dirichlet(row + 0.5, size=draws) for row in confusion], axis=1)
    accepted = keep_accepted(synthetic)
    parts = []
    for place, label in enumerate(LABELS):
        part = accepted.filter(pc.equal(accepted["gold_label"], label))
        judged = part.filter(pc.is_valid(part["predicted_label"]))
        answers = np.array([pc.sum(pc.equal(judged["predicted_label"], name)).as_py() or 0 for name in LABELS])
        right = np.full(draws + 1, np.nan)
        if judged.num_rows and judge_tells_apart(confusion):
            point = undo_confusion(confusion / confusion.sum(axis=1, keepdims=True), answers / answers.sum())
            right[0] = point[place]
            right[1:] = undo_confusion(drawn, rng.dirichlet(answers + 0.5, size=draws))[:, place]
        parts.append(_Judged(label, part.num_rows, judged.num_rows, int(answers[place]), _measure_true(judged), right))
    return pd.DataFrame([*map(_describe, parts), _describe_all(parts)])


def _measure_true(judged: pa.Table) -> float | None:
    if "true_label" not in judged.column_names:
        return None
    is_right = pc.equal(judged["gold_label"], judged["true_label"])
    return as_percent(pc.sum(is_right).as_py() or 0, len(is_right) - is_right.null_count)


def _describe(part: _Judged) -> dict[str, Any]:
    low, high = _find_wilson(part.agreed, part.judged)
    return {
        **{"label": part.label, "judged": part.judged, "agreed": part.agreed},
        "percent_agreed": as_percent(part.agreed, part.judged),
        **{"agreed_low": low, "agreed_high": high},
        **_describe_right(part.right),
        "percent_right_true": part.true,
    }


def _describe_right(right: np.ndarray) -> dict[str, float | None]:
    """Estimate and interval, in percent, from the estimate followed by its draws."""
    if not np.isfinite(right).all():
        return dict.fromkeys(ESTIMATED)
    figures = right[0], *np.quantile(right[1:], [0.025, 0.975])
    return {name: 100 * float(figure) for name, figure in zip(ESTIMATED, figures, strict=True)}


def _describe_all(parts: Sequence[_Judged]) -> dict[str, Any]:
    """The labels weighted by their accepted pairs; a label without any does not count."""
    parts = [part for part in parts if part.accepted]
    rows = pd.DataFrame([_describe(part) for part in parts], columns=["percent_agreed", "percent_right_true"])
    weights = np.array([part.accepted for part in parts]) / max(sum(part.accepted for part in parts), 1)
    pooled = {name: float((rows[name].astype(float) * weights).sum(skipna=False)) for name in rows} if parts else {}
    right = weights @ np.array([part.right for part in parts]) if parts else np.array([np.nan])
    return {
        "label": "all",
        **{name: sum(getattr(part, name) for part in parts) for name in ("judged", "agreed")},
        **pooled,
        **_describe_right(right),
    }


def judge_tells_apart(confusion: np.ndarray) -> bool:
    """Whether true labels can be estimated from the judge's answers: it met each label, and answers differ by label."""
    totals = confusion.sum(axis=1, keepdims=True)
    return bool((totals > 0).all() and np.linalg.svd(confusion / totals)[1].min() >= LEAST_SINGULAR_VALUE)


def check_judge(synthetic: pa.Table, *, confusion: np.ndarray) -> pd.DataFrame:
    """The two assumptions against the truth, by true label: how often the judge is right on gold pairs, and on judged
    synthetic pairs that were asked for with this label or with another.

    Needs true_label and predicted_label. Columns: true_label, percent_right_gold, asked_right (pairs),
    percent_right_asked_right, asked_wrong (pairs), percent_right_asked_wrong, percent_echoed (of the latter: the judge
    says what was asked for). Assumption 1 says that the first two percentages are equal, assumption 2 that
    percent_right_asked_wrong is too.
    """
    accepted = keep_accepted(synthetic)
    both = pc.and_(pc.is_valid(accepted["true_label"]), pc.is_valid(accepted["predicted_label"]))
    names = ["gold_label", "true_label", "predicted_label"]
    frame = accepted.select(names).filter(both).to_pandas()
    is_right = frame["predicted_label"] == frame["true_label"]
    is_echo = frame["predicted_label"] == frame["gold_label"]
    rows = []
    for place, label in enumerate(LABELS):
        here, asked = frame["true_label"] == label, frame["gold_label"] == label
        right, wrong = here & asked, here & ~asked
        gold = as_percent(int(confusion[place, place]), int(confusion[place].sum()))
        row = {"true_label": label, "percent_right_gold": gold, "asked_right": int(right.sum())}
        row["percent_right_asked_right"] = as_percent(int((is_right & right).sum()), int(right.sum()))
        row["asked_wrong"] = int(wrong.sum())
        row["percent_right_asked_wrong"] = as_percent(int((is_right & wrong).sum()), int(wrong.sum()))
        rows.append(row | {"percent_echoed": as_percent(int((is_echo & wrong).sum()), int(wrong.sum()))})
    return pd.DataFrame(rows)


def undo_confusion(confusion: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Shares of true labels [..., labels] by maximum likelihood (EM), from shares of the judge's answers [..., labels].

    confusion: P(answer | true label), [..., true, answer]. Where answers @ inverse(confusion) is a distribution, the
    result is that.
    """
    shares = np.full(answers.shape, 1 / answers.shape[-1])
    for _ in range(EM_STEPS):
        expected = np.einsum("...y,...yt->...t", shares, confusion)
        ratio = np.divide(answers, expected, out=np.zeros_like(expected), where=expected > 0)
        shares = shares * np.einsum("...yt,...t->...y", confusion, ratio)
    return shares / shares.sum(axis=-1, keepdims=True)
