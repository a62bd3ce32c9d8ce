"""Accuracies from stored predictions, so that every number can be recomputed without a model.

A predictions table has one row per model and test pair with three logits, one column per label name.
Everything here reads such tables only. HANS has two labels: there, and in the `*_two_label` test sets,
neutral and contradiction both count as non-entailment (section 2.2.3 of the paper). How three scores become
two labels is a choice:

- `argmax`: the best of three labels, then collapsed; what the paper does.
- `summed_probability`: P(neutral) + P(contradiction) against P(entailment), which says entailment less often.

Ties go to the label that comes first in LABELS; under `summed_probability` to entailment.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from blindspot.data import LABELS
from blindspot.heuristics import HEURISTICS

NON_ENTAILMENT = "non-entailment"
TWO_LABELS = ("entailment", NON_ENTAILMENT)
PREDICTED_TEST_SETS = ("matched", "mismatched", "hans")
LABEL_COLLAPSES = ("argmax", "summed_probability")
LOGIT_COLUMNS = tuple(f"logit_{label}" for label in LABELS)
MODEL_COLUMNS = ("model", "starting_size", "training_kind", "training_size", "seed")
PREDICTION_COLUMNS = (
    *MODEL_COLUMNS,
    *("test_set", "pair_id", "gold_label", "heuristic", "subcase", "template"),
    *LOGIT_COLUMNS,
)
RESULT_COLUMNS = (
    *("starting_size", "training_kind", "training_size", "seed"),
    *("test_set", "accuracy", "n", "model"),
)
HANS_CELLS = tuple((heuristic, label) for heuristic in HEURISTICS for label in TWO_LABELS)
RESULT_TEST_SETS = (
    "matched",
    "mismatched",
    "matched_two_label",
    "mismatched_two_label",
    "hans",
    "hans_lexical_overlap",
    "hans_blind_spot",
    *(f"hans_{heuristic}_{label.replace('-', '_')}" for heuristic, label in HANS_CELLS),
)

Predictions: TypeAlias = pa.Table | pd.DataFrame


def read_predictions(source: str | Path | Iterable[str | Path]) -> pa.Table:
    """All predictions of a study in one table.

    `source` is a folder, searched at any depth for `predictions.parquet` in the folders of finished runs
    (those with a `summary.json`), or the files themselves. Raises FileNotFoundError where there are none,
    ValueError where a file lacks a column.
    """
    folder = Path(source) if isinstance(source, str | Path) else None
    files = _list_prediction_files(folder) if folder and folder.is_dir() else None
    if files is None:
        files = [folder] if folder else [Path(file) for file in source]  # type: ignore[union-attr]
    if not files:
        raise FileNotFoundError("no predictions files were given; expected at least one predictions.parquet")
    return pa.concat_tables([_read_prediction_file(file) for file in files], promote_options="default")


def _list_prediction_files(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("predictions.parquet"))
    done = [file for file in found if (file.parent / "summary.json").exists()]
    if not done:
        raise FileNotFoundError(
            f"no finished run with predictions under {folder}: {len(found)} predictions.parquet found, none "
            "beside a summary.json; run the evaluation stage first"
        )
    return done


def _read_prediction_file(file: Path) -> pa.Table:
    if not file.is_file():
        raise FileNotFoundError(f"no predictions file at {file}; run the evaluation stage first")
    names = pq.read_schema(file).names
    lacking = [column for column in PREDICTION_COLUMNS if column not in names]
    if lacking:
        raise ValueError(f"{file} lacks the columns {lacking}; expected {list(PREDICTION_COLUMNS)}")
    return pq.read_table(file, columns=list(PREDICTION_COLUMNS))


def check_predictions(table: Predictions, *, pairs: Predictions | None = None) -> None:
    """Raise ValueError unless `table` can be scored: see the messages for what is looked at.

    `pairs` (columns `split`, `pair_id`) says which pairs each model owes; without it every model owes the
    pairs that any model of the table has.
    """
    frame = _to_frame(table)
    _check_columns_and_labels(frame)
    _check_logits(frame)
    _check_models(frame)
    _check_pair_ids(frame, None if pairs is None else _to_frame(pairs))


def _to_frame(table: Predictions) -> pd.DataFrame:
    return table if isinstance(table, pd.DataFrame) else table.to_pandas(strings_to_categorical=True)


def _check_columns_and_labels(frame: pd.DataFrame) -> None:
    lacking = [column for column in PREDICTION_COLUMNS if column not in frame]
    if lacking:
        raise ValueError(f"predictions lack the columns {lacking}; expected {list(PREDICTION_COLUMNS)}")
    if frame.empty:
        raise ValueError("predictions have no rows; expected one row per model and test pair: evaluate again")
    _check_values(frame["test_set"], PREDICTED_TEST_SETS, "test_set")
    is_hans = frame["test_set"].eq("hans")
    _check_values(frame.loc[~is_hans, "gold_label"], LABELS, "gold_label of MultiNLI rows")
    _check_values(frame.loc[is_hans, "gold_label"], TWO_LABELS, "gold_label of HANS rows")
    _check_values(frame.loc[is_hans, "heuristic"], HEURISTICS, "heuristic of HANS rows")


def _check_values(column: pd.Series, allowed: tuple[str, ...], what: str) -> None:
    unknown = column[~column.isin(allowed)]
    if len(unknown):
        raise ValueError(
            f"{what}: {len(unknown)} rows have a value such as {unknown.iloc[0]!r}; expected one of "
            f"{', '.join(allowed)}: prepare the data again, or drop these rows"
        )


def _check_logits(frame: pd.DataFrame) -> None:
    bad = ~np.isfinite(frame[list(LOGIT_COLUMNS)].to_numpy(dtype=np.float64)).all(axis=1)
    if bad.any():
        row = frame[bad].iloc[0]
        raise ValueError(
            f"{int(bad.sum())} rows have a logit that is not finite, first {row['pair_id']} of "
            f"{row['model']}; expected numbers: the training run may have diverged, look at its loss"
        )


def _check_models(frame: pd.DataFrame) -> None:
    models = frame[list(MODEL_COLUMNS)].drop_duplicates()
    doubled = models["model"][models["model"].duplicated()]
    if len(doubled):
        raise ValueError(
            f"model {doubled.iloc[0]!r} has more than one starting size, training kind, size or seed; "
            "expected one name per model: gather the runs of one study only"
        )


def _check_pair_ids(frame: pd.DataFrame, pairs: pd.DataFrame | None) -> None:
    owed = frame.rename(columns={"test_set": "split"}) if pairs is None else pairs
    models, names = pd.factorize(frame["model"])
    for test_set in PREDICTED_TEST_SETS:
        expected = pd.Index(owed.loc[owed["split"].eq(test_set), "pair_id"].astype("str").unique())
        rows = frame["test_set"].eq(test_set).to_numpy()
        given = pd.Index(frame.loc[rows, "pair_id"].astype("str"))
        codes = expected.get_indexer(given)
        if (codes < 0).any():
            raise ValueError(
                f"{test_set}: {int((codes < 0).sum())} rows have a pair_id not in the test set, such "
                f"as {given[int(np.argmin(codes))]!r}; expected its {len(expected)} pair ids: evaluate again"
            )
        for model, name in enumerate(names):
            counts = np.bincount(codes[models[rows] == model], minlength=len(expected))
            _check_counts(counts, expected, f"{test_set}, model {name!r}")


def _check_counts(counts: np.ndarray, expected: pd.Index, where: str) -> None:
    for problem, found in (("missing", counts == 0), ("doubled", counts > 1)):
        if found.any():
            raise ValueError(
                f"{where}: {int(found.sum())} pair ids are {problem}, such as "
                f"{expected[int(np.argmax(found))]!r}; expected each of {len(expected)} once: evaluate again"
            )


def mark_correct(table: Predictions, *, label_collapse: str = "argmax") -> pd.DataFrame:
    """`table` without its logits and with four columns: what was predicted, and whether that is right.

    predicted_label (of LABELS) and correct compare three labels (correct is null for HANS, which has two);
    predicted_two_label (of TWO_LABELS) and correct_two_label compare two. All as the module's text says.
    """
    if label_collapse not in LABEL_COLLAPSES:
        raise ValueError(f"label_collapse is {label_collapse!r}; expected one of {', '.join(LABEL_COLLAPSES)}")
    frame = _to_frame(table)
    logits = frame[list(LOGIT_COLUMNS)].to_numpy(dtype=np.float64)
    best = logits.argmax(axis=1)
    says_entailment = best == LABELS.index("entailment")
    if label_collapse == "summed_probability":
        rest = [index for index, label in enumerate(LABELS) if label != "entailment"]
        says_entailment = logits[:, LABELS.index("entailment")] >= np.logaddexp(*logits[:, rest].T)
    gold = frame["gold_label"].to_numpy(dtype=object)
    marked = frame.drop(columns=list(LOGIT_COLUMNS))
    marked["predicted_label"] = np.array(LABELS, dtype=object)[best]
    correct = pd.Series(gold == marked["predicted_label"].to_numpy(), index=frame.index, dtype="boolean")
    marked["correct"] = correct.mask(frame["test_set"].eq("hans"))
    marked["predicted_two_label"] = np.where(says_entailment, *TWO_LABELS)
    marked["correct_two_label"] = (gold == "entailment") == says_entailment
    return marked


def score_predictions(table: Predictions, *, label_collapse: str = "argmax", check: bool = True) -> pd.DataFrame:
    """Accuracy of every model on every test set of RESULT_TEST_SETS, one row each (RESULT_COLUMNS).

    `n` is the number of pairs; where it is 0 the accuracy is null. `check` runs `check_predictions` first.
    """
    frame = _to_frame(table)
    if check:
        check_predictions(frame)
    marked = mark_correct(frame, label_collapse=label_collapse)
    codes, names = pd.factorize(marked["model"])
    models = marked.drop_duplicates("model")[list(MODEL_COLUMNS)]
    three_way = marked["correct"].fillna(False).to_numpy(dtype=bool)
    two_way = marked["correct_two_label"].to_numpy(dtype=bool)
    parts = []
    for test_set, rows in _select_test_sets(marked).items():
        correct = three_way if test_set in ("matched", "mismatched") else two_way
        n = np.bincount(codes[rows], minlength=len(names))
        hits = np.bincount(codes[rows & correct], minlength=len(names))
        accuracy = np.divide(hits, n, out=np.full(len(n), np.nan), where=n > 0)
        parts.append(models.assign(test_set=test_set, accuracy=accuracy, n=n))
    results = pd.concat(parts).sort_index(kind="stable")[list(RESULT_COLUMNS)]
    return _drop_categories(results.reset_index(drop=True))


def _select_test_sets(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """For each of RESULT_TEST_SETS, which rows of `frame` belong to it."""
    on = {name: frame["test_set"].eq(name).to_numpy() for name in PREDICTED_TEST_SETS}
    overlap = on["hans"] & frame["heuristic"].eq("lexical_overlap").to_numpy(dtype=bool, na_value=False)
    non_entailment = frame["gold_label"].eq(NON_ENTAILMENT).to_numpy()
    masks = {"matched": on["matched"], "mismatched": on["mismatched"]}
    masks |= {f"{name}_two_label": mask for name, mask in masks.items()}
    masks |= {"hans": on["hans"], "hans_lexical_overlap": overlap}
    masks |= {"hans_blind_spot": overlap & non_entailment}
    for name, (heuristic, label) in zip(RESULT_TEST_SETS[len(masks) :], HANS_CELLS, strict=True):
        has_heuristic = frame["heuristic"].eq(heuristic).to_numpy(dtype=bool, na_value=False)
        masks[name] = on["hans"] & has_heuristic & frame["gold_label"].eq(label).to_numpy()
    return masks


def _drop_categories(frame: pd.DataFrame) -> pd.DataFrame:
    """Category columns as plain text, so that later groupings show no rows that are not there."""
    categories = frame.select_dtypes("category").columns
    return frame.assign(**{column: frame[column].astype("str") for column in categories})


def predicted_label_rates(table: Predictions, *, label_collapse: str = "argmax") -> pd.DataFrame:
    """How often each model says entailment on HANS, by heuristic: no constant answer explains its accuracy
    where `both_labels` is true.

    Columns: MODEL_COLUMNS, heuristic, entailment_rate (share of pairs predicted entailment), n, both_labels.
    """
    marked = mark_correct(table, label_collapse=label_collapse)
    hans = _drop_categories(marked[marked["test_set"].eq("hans")])
    says_entailment = hans["predicted_two_label"].eq("entailment")
    grouped = says_entailment.groupby([hans[c] for c in (*MODEL_COLUMNS, "heuristic")], sort=False)
    rates = grouped.agg(entailment_rate="mean", n="size").reset_index()
    rates["both_labels"] = rates["entailment_rate"].between(0, 1, inclusive="neither")
    return rates


def measure_accuracy(logits: np.ndarray, gold_labels: Iterable[str]) -> float | None:
    """Share of rows whose largest logit [rows, 3] (columns in the order of LABELS) is the gold label's; None
    without rows."""
    names = gold_labels.to_pylist() if isinstance(gold_labels, pa.ChunkedArray | pa.Array) else list(gold_labels)
    gold = np.array([LABELS.index(name) for name in names])
    return float((logits.argmax(axis=1) == gold).mean()) if len(gold) else None
