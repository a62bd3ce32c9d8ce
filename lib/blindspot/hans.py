"""HANS scored as its authors do, for this study's models and for anyone else's predictions.

A pair is right where the predicted label, neutral and contradiction taken as non-entailment, is the gold
label. Accuracy is reported by heuristic and label, by the 30 subcases and by template, never only as a whole:
a model that always says entailment has 0.5 of the whole. A prediction file with a pair missing, doubled or
unknown is refused rather than scored on what is left.

Source of the format: McCoy, Pavlick and Linzen 2019, the release's own evaluation (`pairID,gold_label`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from blindspot.evaluation import NON_ENTAILMENT, TWO_LABELS, Predictions, mark_correct
from blindspot.heuristics import HEURISTICS
from blindspot.readers import LABELS, read_hans

PREDICTION_HEADER = "pairID,gold_label"
PREDICTED_LABELS = (*LABELS, NON_ENTAILMENT)
SCORE_LEVELS: dict[str, tuple[str, ...]] = {
    "all": (),
    "heuristic": ("heuristic", "gold_label"),
    "subcase": ("heuristic", "gold_label", "subcase"),
    "template": ("heuristic", "gold_label", "subcase", "template"),
}
SCORE_COLUMNS = ("level", "heuristic", "gold_label", "subcase", "template", "n", "correct", "accuracy")
EXAMPLES_SHOWN = 3


class PredictionFileError(ValueError):
    """A file of predictions that cannot be scored; the message counts what is wrong and shows a few."""


def read_hans_predictions(path: Path) -> dict[str, str]:
    """Predicted label by pairID from the published format: a header `pairID,gold_label`, then one line a pair.

    Labels are entailment and non-entailment, or the three of MultiNLI, and stay as they are. Raises
    PredictionFileError for anything else, with counts and line numbers; FileNotFoundError for no file.
    """
    lines = _read_lines(path)
    header = lines[0].strip().replace(" ", "")
    if header != PREDICTION_HEADER:
        raise PredictionFileError(
            f"{path}, line 1: the header is {lines[0][:80]!r}; expected {PREDICTION_HEADER!r}, comma-separated"
        )
    rows = [(number, [cell.strip() for cell in line.split(",")]) for number, line in enumerate(lines[1:], start=2)]
    if not rows:
        raise PredictionFileError(f"{path} has a header and no predictions; expected one line a pair behind it")
    _refuse(path, [f"line {n}: {len(c)}" for n, c in rows if len(c) != 2], "lines without exactly two fields")
    _refuse(path, [f"line {n}" for n, c in rows if not c[0]], "lines with an empty pairID")
    unknown = [f"line {n}: {c[1]!r}" for n, c in rows if c[1] not in PREDICTED_LABELS]
    _refuse(path, unknown, "unknown labels", f"expected one of {', '.join(PREDICTED_LABELS)}")
    counts = Counter(cells[0] for _, cells in rows)
    _refuse(path, [pair_id for pair_id, count in counts.items() if count > 1], "doubled pairIDs", "expected each once")
    return {cells[0]: cells[1] for _, cells in rows}


def _read_lines(path: Path) -> list[str]:
    if not path.exists():
        raise FileNotFoundError(f"no predictions file at {path}; expected one with the header {PREDICTION_HEADER}")
    if not path.is_file():
        raise PredictionFileError(f"{path} is not a file; expected a text file of predictions")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PredictionFileError(f"{path} is not UTF-8 text ({error}); save the predictions as UTF-8") from None
    if not text.strip():
        raise PredictionFileError(f"{path} is empty; expected the header {PREDICTION_HEADER} and one line a pair")
    return text.rstrip().replace("\r\n", "\n").split("\n")


def _refuse(path: Path | str, found: Sequence[str], what: str, expected: str = "") -> None:
    if found:
        shown = ", ".join(found[:EXAMPLES_SHOWN]) + (", ..." if len(found) > EXAMPLES_SHOWN else "")
        raise PredictionFileError(f"{path}: {len(found)} {what} ({shown})" + (f"; {expected}" if expected else ""))


def score_hans(predictions: Mapping[str, str], hans: pa.Table | pd.DataFrame) -> pd.DataFrame:
    """Accuracy at every level of SCORE_LEVELS, as SCORE_COLUMNS: n pairs, how many are right, their share.

    `predictions`: predicted label (of PREDICTED_LABELS) by pairID. `hans`: pair_id (with or without the
    store's prefix `hans-`), gold_label, heuristic, subcase, template, as `read_hans` returns. Columns that do
    not apply at a level are empty text. Raises PredictionFileError that counts the pairIDs that are missing
    and unknown, ValueError where HANS has a pairID twice.
    """
    frame = hans.to_pandas() if isinstance(hans, pa.Table) else hans
    pair_ids = frame["pair_id"].astype("str").str.removeprefix("hans-")
    if not pair_ids.is_unique:
        raise ValueError(f"HANS has {int(pair_ids.duplicated().sum())} doubled pairIDs; expected each pair once")
    _check_pair_ids(predictions, pair_ids)
    predicted = pair_ids.map(predictions)
    _refuse("predictions", sorted(set(predicted) - set(PREDICTED_LABELS)), "unknown labels")
    says_entailment = predicted.eq("entailment").to_numpy()
    right = says_entailment == frame["gold_label"].eq("entailment").to_numpy()
    return tabulate_hans(frame.assign(right=right))


def _check_pair_ids(predictions: Mapping[str, str], pair_ids: pd.Series) -> None:
    known = set(pair_ids)
    problems = []
    for found, what in (
        ([pair_id for pair_id in pair_ids if pair_id not in predictions], "missing"),
        ([pair_id for pair_id in predictions if pair_id not in known], "unknown"),
    ):
        if found:
            shown = ", ".join(found[:EXAMPLES_SHOWN]) + (", ..." if len(found) > EXAMPLES_SHOWN else "")
            problems.append(f"{len(found)} pairIDs are {what} ({shown})")
    if problems:
        raise PredictionFileError(
            f"predictions do not fit HANS: {' and '.join(problems)}; expected its {len(known)} pairIDs, each once"
        )


def score_hans_models(predictions: Predictions, *, label_collapse: str = "argmax") -> pd.DataFrame:
    """The same scores for each model of the study's predictions tables: a column `model`, then SCORE_COLUMNS."""
    marked = mark_correct(predictions, label_collapse=label_collapse)
    hans = marked[marked["test_set"].eq("hans")].rename(columns={"correct_two_label": "right"})
    by_model = hans.groupby("model", sort=False, observed=True)
    parts = [tabulate_hans(part).assign(model=str(model)) for model, part in by_model]
    if not parts:
        raise ValueError("predictions have no rows of HANS; expected test_set 'hans': evaluate the models on it")
    return pd.concat(parts, ignore_index=True)[["model", *SCORE_COLUMNS]]


def tabulate_hans(pairs: pd.DataFrame) -> pd.DataFrame:
    """Score rows (SCORE_COLUMNS) of pairs with heuristic, gold_label, subcase, template and `right`.

    Heuristics and labels come in their usual order, subcases and templates in the file's.
    """
    text = pairs[["heuristic", "gold_label", "subcase", "template"]].astype("str").assign(right=pairs["right"])
    rank = text["heuristic"].map(HEURISTICS.index) * 2 + text["gold_label"].map(TWO_LABELS.index)
    ordered = text.iloc[np.argsort(rank.to_numpy(), kind="stable")]
    parts = []
    for level, columns in SCORE_LEVELS.items():
        keys = [ordered[column] for column in columns] or [pd.Series("", index=ordered.index, name="heuristic")]
        scores = ordered["right"].astype(int).groupby(keys, sort=False).agg(n="size", correct="sum")
        parts.append(scores.reset_index().assign(level=level))
    table = pd.concat(parts, ignore_index=True)
    table["accuracy"] = table["correct"] / table["n"]
    return table.fillna({"gold_label": "", "subcase": "", "template": ""})[list(SCORE_COLUMNS)]


def score_hans_files(predictions: Path, hans_file: Path) -> pd.DataFrame:
    """Score a file of predictions against HANS's own file (tab-separated or JSON lines).

    Raises PredictionFileError and FileNotFoundError for the predictions, DataFileError for HANS.
    """
    if not hans_file.is_file():
        raise FileNotFoundError(f"no HANS file at {hans_file}; expected heuristics_evaluation_set.txt or .jsonl")
    return score_hans(read_hans_predictions(predictions), read_hans(hans_file)[0])


def format_scores(scores: pd.DataFrame) -> str:
    """Scores as JSON text: pairs, correct, accuracy, then lists by_heuristic, by_subcase and by_template."""
    whole = scores[scores["level"].eq("all")].iloc[0]
    summary: dict[str, object] = {
        "pairs": int(whole["n"]),
        "correct": int(whole["correct"]),
        "accuracy": float(whole["accuracy"]),
    }
    for level in ("heuristic", "subcase", "template"):
        columns = [*SCORE_LEVELS[level], "n", "correct", "accuracy"]
        rows = scores.loc[scores["level"].eq(level), columns]
        summary[f"by_{level}"] = rows.to_dict("records")
    return json.dumps(summary, indent=1)


def list_score_tables(scores: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    """Title and rows of each table to print: by heuristic and label, by subcase, by template."""
    titles = {"heuristic": "By heuristic and label", "subcase": "By subcase", "template": "By template"}
    for level, title in titles.items():
        columns = [*SCORE_LEVELS[level], "n", "correct", "accuracy"]
        yield title, scores.loc[scores["level"].eq(level), columns].reset_index(drop=True)
