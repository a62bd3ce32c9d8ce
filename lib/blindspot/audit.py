"""What the generator wrote: Table 1, acceptance, repeats, and whether its labels are right.

The paper's reading of its results rests on one table of overlap counts. This module recomputes that table for
both detectors with the paper's own numbers beside it, and adds what a reader needs to judge synthetic data
before anything is trained on it (lengths and diversity are in `diversity`). Each summary is a small pandas
table; a figure that cannot be had is missing, never 0.

Unless said otherwise, synthetic means accepted pairs, repeats included, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from blindspot.data import LABELS, code_pairs
from blindspot.heuristics import DETECTORS, heuristic_column
from blindspot.training_sets import mark_duplicates, mark_true

Truth = Callable[[str, str], str | None]

PAPER_TABLE1_SOURCE = "Zhang & Pavlick 2025, Table 1 (published detector)"
PAPER_TABLE1: tuple[dict[str, str | int | float | None], ...] = tuple(
    {
        "dataset": dataset,
        "label": label,
        "detector": "published",
        "paper_count": count,
        "paper_n_overlap": n_overlap,
        "paper_percent_overlap": percent,
        "paper_ratio": ratio,
    }
    for dataset, label, count, n_overlap, percent, ratio in (
        ("synthetic", "entailment", 631_992, 24_360, 3.854, 2.352),
        ("synthetic", "neutral", 562_822, 690, 0.123, 2.320),
        ("synthetic", "contradiction", 624_999, 1_504, 0.241, 1.827),
        ("original", "entailment", 130_541, 2_139, 1.639, None),
        ("original", "neutral", 130_573, 69, 0.053, None),
        ("original", "contradiction", 130_608, 172, 0.132, None),
    )
)


def build_table1(
    *,
    original: pa.Table,
    synthetic: pa.Table | None = None,
    heuristic: str = "lexical_overlap",
    detectors: Sequence[str] = DETECTORS,
) -> pd.DataFrame:
    """Table 1 of the paper: how often each label's pairs have the heuristic, synthetic against original.

    Columns: detector, dataset, label, count, n_overlap, percent_overlap, ratio (synthetic percent over
    original percent, on the synthetic rows), and the paper's own four figures where this is its table, that
    is for lexical overlap by the published detector. Without `synthetic`, the original rows alone. Pairs
    whose heuristic is unknown (null) are in no count.
    """
    tables = {} if synthetic is None else {"synthetic": keep_accepted(synthetic)}
    tables["original"] = original
    rows = [
        {"detector": detector, "dataset": dataset, "label": label}
        | _count_heuristic(table, heuristic_column(heuristic, detector), label)
        for detector in detectors
        for dataset, table in tables.items()
        for label in LABELS
    ]
    frame = pd.DataFrame(rows).astype({"percent_overlap": float})
    original_percent = frame["percent_overlap"].where(frame["dataset"] == "original")
    baseline = original_percent.groupby([frame["detector"], frame["label"]]).transform("max")
    is_compared = (frame["dataset"] == "synthetic") & (baseline > 0)
    frame["ratio"] = (frame["percent_overlap"] / baseline).where(is_compared)
    paper = pd.DataFrame(PAPER_TABLE1)
    if heuristic != "lexical_overlap":
        paper = paper.iloc[:0]
    return frame.merge(paper, how="left", on=["dataset", "label", "detector"])


def _count_heuristic(table: pa.Table, column: str, label: str) -> dict[str, float | None]:
    flags = table[column].filter(pc.equal(table["gold_label"], label))
    count = len(flags) - flags.null_count
    n_overlap = pc.sum(flags).as_py() or 0
    return {"count": count, "n_overlap": n_overlap, "percent_overlap": as_percent(n_overlap, count)}


def as_percent(part: int, whole: int) -> float | None:
    """100 x part / whole, or None where the whole is 0."""
    return 100 * part / whole if whole else None


def keep_accepted(synthetic: pa.Table) -> pa.Table:
    """The accepted rows of a synthetic table."""
    return synthetic.filter(synthetic["accepted"])


def summarise_acceptance(synthetic: pa.Table) -> pd.DataFrame:
    """Generated rows by label and outcome: `accepted`, then each reject reason that occurs.

    Columns: label, outcome, n, percent (of the label's rows).
    """
    outcomes = pc.if_else(
        synthetic["accepted"], "accepted", pc.fill_null(synthetic["reject_reason"], "unknown")
    )
    frame = pd.DataFrame({"label": synthetic["gold_label"].to_pandas(), "outcome": outcomes.to_pandas()})
    counts = frame.value_counts().rename("n").reset_index()
    rejects = sorted(set(counts["outcome"]) - {"accepted"})
    every = pd.MultiIndex.from_product([LABELS, ["accepted", *rejects]], names=["label", "outcome"])
    counts = counts.set_index(["label", "outcome"]).reindex(every, fill_value=0).reset_index()
    totals = counts.groupby("label")["n"].transform("sum")
    counts["percent"] = 100 * counts["n"] / totals.where(totals > 0)
    return counts


def add_repeat_columns(synthetic: pa.Table, *, training: pa.Table) -> pa.Table:
    """Append `duplicate` and `copied_from_training`: bool, False for rejected rows.

    duplicate: repeats the premise and hypothesis of an earlier accepted row. copied_from_training: premise
    and hypothesis stand, character by character, in `training` (the pairs that the generator was trained on),
    whatever its label there.
    """
    columns = {
        "duplicate": mark_duplicates(synthetic),
        "copied_from_training": mark_copied(synthetic, training),
    }
    return replace_columns(synthetic, {name: pa.array(values) for name, values in columns.items()})


def replace_columns(table: pa.Table, columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.Table:
    """Append columns; those of the same names that the table has go."""
    kept = table.drop_columns([name for name in columns if name in table.column_names])
    for name, values in columns.items():
        kept = kept.append_column(name, values)
    return kept


def mark_copied(synthetic: pa.Table, training: pa.Table) -> np.ndarray:
    """True for each accepted row whose premise and hypothesis are a pair of `training`."""
    rows = np.flatnonzero(mark_true(synthetic["accepted"]))
    pairs = synthetic.select(["premise", "hypothesis"]).take(pa.array(rows))
    both = pa.concat_tables([training.select(["premise", "hypothesis"]), pairs])
    codes = code_pairs(both["premise"], both["hypothesis"])
    copied = np.zeros(synthetic.num_rows, dtype=bool)
    copied[rows] = np.isin(codes[training.num_rows :], codes[: training.num_rows])
    return copied


def summarise_repeats(synthetic: pa.Table) -> pd.DataFrame:
    """Accepted pairs by label, with n and percent of `duplicate` and of `copied_from_training`."""
    accepted = keep_accepted(synthetic)
    rows = []
    for label in LABELS:
        part = accepted.filter(pc.equal(accepted["gold_label"], label))
        row: dict[str, str | float | None] = {"label": label, "accepted": part.num_rows}
        for name in ("duplicate", "copied_from_training"):
            count = pc.sum(part[name]).as_py() or 0
            row |= {name: count, f"percent_{name}": as_percent(count, part.num_rows)}
        rows.append(row)
    return pd.DataFrame(rows)


def add_true_labels(synthetic: pa.Table, *, truth: Truth) -> pa.Table:
    """Append `true_label`: what `truth(premise, hypothesis)` says of each accepted row; null where it cannot
    say.

    Raises ValueError for an answer that is neither a label by name nor None.
    """
    answers: list[str | None] = []
    for batch in synthetic.select(["premise", "hypothesis", "accepted"]).to_batches(max_chunksize=65_536):
        rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        answers += [
            truth(premise, hypothesis) if accepted else None for premise, hypothesis, accepted in rows
        ]
    unknown = set(answers) - {*LABELS, None}
    if unknown:
        raise ValueError(
            f"the truth function answered {sorted(map(repr, unknown))}; expected a label or None"
        )
    return replace_columns(synthetic, {"true_label": pa.array(answers, pa.string())})


def summarise_fidelity(synthetic: pa.Table) -> pd.DataFrame:
    """How often the requested label is the true one, by label and for `all`; needs `true_label`.

    Columns: label, accepted, right, wrong, undecided, percent_right (of accepted), percent_right_of_decided.
    """
    accepted = keep_accepted(synthetic)
    agrees = pc.equal(accepted["gold_label"], accepted["true_label"])
    rows = []
    for label in (*LABELS, "all"):
        part = agrees if label == "all" else agrees.filter(pc.equal(accepted["gold_label"], label))
        right = pc.sum(part).as_py() or 0
        decided = len(part) - part.null_count
        percents = {
            "percent_right": as_percent(right, len(part)),
            "percent_right_of_decided": as_percent(right, decided),
        }
        counts = {
            "accepted": len(part),
            "right": right,
            "wrong": decided - right,
            "undecided": part.null_count,
        }
        rows.append({"label": label, **counts, **percents})
    return pd.DataFrame(rows)


def list_rows(frame: pd.DataFrame) -> list[dict[str, object]]:
    """The rows of a small table for JSON: plain Python values, None where a figure is missing."""
    plain = frame.astype(object).where(frame.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in plain.to_dict("records")]
