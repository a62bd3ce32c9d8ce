"""What of the synthetic data is new: beside the pairs that its own generator was trained on, and within itself.

A generator that hands on its training pairs would make synthetic data a copy of the original, and one that repeats
itself would make it smaller than it looks. Both are columns of the synthetic table, so that the browser can show
the rows and a training set could leave them out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from blindspot.audit import as_percent, keep_accepted, mark_copied, replace_columns
from blindspot.data import LABELS
from blindspot.shingles import encode_shingles, find_nearest, mark_near_copies
from blindspot.training_sets import mark_true

NOVELTIES = ("exact", "near", "new")
# One word changed inside a pair of n shingles leaves a similarity of (n - 2) / (n + 2): 0.76 for a short pair of 15,
# 0.88 for MultiNLI's mean of 31.
NEAR = 0.7
LEAST = 0.5


def add_novelty_columns(
    synthetic: pa.Table, *, training: pa.Table, near: float = NEAR, least: float = LEAST
) -> pa.Table:
    """Append what is known of each accepted row's novelty; all columns are null for the others.

    training: the pairs that the generator was trained on (pair_id, premise, hypothesis), not all there are.

    - nearest_training_id, nearest_training_similarity: the most similar training pair and its similarity (Jaccard of
      shingles, see `shingles`; 1 also where only case or punctuation differ); null where none reaches `least`.
    - novelty: `exact` (premise and hypothesis stand in training, character by character), `near` (similarity `near`
      or more) or `new`.
    - near_duplicate, near_duplicate_of: whether an earlier accepted row, itself no near duplicate, has a similarity of
      `near` or more, and that row's id. An exact repeat is one too.

    Raises ValueError where `near` is under `least`.
    """
    if near < least:
        raise ValueError(f"near is {near} and least {least}; expected near to be at least that")
    rows = np.flatnonzero(mark_true(synthetic["accepted"]))
    pairs = synthetic.select(["pair_id", "premise", "hypothesis"]).take(pa.array(rows))
    own, taught = encode_shingles([pairs, training])
    nearest, similarity = find_nearest(own, taught, least=least)
    similar_to = mark_near_copies(own, least=near)
    is_exact = mark_copied(synthetic, training)[rows]
    novelty = np.where(is_exact, "exact", np.where(np.nan_to_num(similarity) >= near - 1e-9, "near", "new"))
    columns = {
        "novelty": pa.array(novelty.astype(object), pa.string()),
        "nearest_training_id": _take_ids(training["pair_id"], nearest),
        "nearest_training_similarity": pa.array(similarity, pa.float32(), mask=nearest < 0),
        "near_duplicate": pa.array(similar_to >= 0),
        "near_duplicate_of": _take_ids(pairs["pair_id"], similar_to),
    }
    places = np.full(synthetic.num_rows, -1)
    places[rows] = np.arange(len(rows))
    spread = pa.array(places, mask=places < 0)
    return replace_columns(synthetic, {name: values.take(spread) for name, values in columns.items()})


def _take_ids(ids: pa.ChunkedArray, rows: np.ndarray) -> pa.ChunkedArray:
    return ids.take(pa.array(rows, mask=rows < 0))


def list_nearest_pairs(synthetic: pa.Table, *, training: pa.Table, rows: int) -> pd.DataFrame:
    """The accepted pairs that are nearest to a training pair without being a copy of it, beside that pair.

    Columns: gold_label, premise, hypothesis, similarity, training_label (where training has gold_label),
    training_premise, training_hypothesis; at most `rows`, the most similar first.
    """
    is_near = pc.and_(pc.is_valid(synthetic["nearest_training_id"]), pc.not_equal(synthetic["novelty"], "exact"))
    found = synthetic.filter(is_near)
    order = pc.sort_indices(found, sort_keys=[("nearest_training_similarity", "descending")])[:rows]
    found = found.take(order)
    beside = training.take(pc.index_in(found["nearest_training_id"], value_set=training["pair_id"].combine_chunks()))
    columns = {name: found[name] for name in ("gold_label", "premise", "hypothesis")}
    columns["similarity"] = found["nearest_training_similarity"]
    names = [name for name in ("gold_label", "premise", "hypothesis") if name in training.column_names]
    columns |= {f"training_{name.removeprefix('gold_')}": beside[name] for name in names}
    return pa.table(columns).to_pandas()


def summarise_novelty(synthetic: pa.Table) -> pd.DataFrame:
    """Accepted pairs by label and for `all`: n and percent of each novelty and of near duplicates.

    Columns: label, accepted, exact, near, new, near_duplicate, then percent_<each>, and similarity_<quantile>: the
    10 % of rows that are nearest to a training pair have at least similarity_90, half have similarity_50; missing
    where that is under the least that was looked for.
    """
    accepted = keep_accepted(synthetic)
    rows = []
    for label in (*LABELS, "all"):
        part = accepted if label == "all" else accepted.filter(pc.equal(accepted["gold_label"], label))
        counts = {name: pc.sum(pc.equal(part["novelty"], name)).as_py() or 0 for name in NOVELTIES}
        counts["near_duplicate"] = pc.sum(part["near_duplicate"]).as_py() or 0
        row: dict[str, Any] = {"label": label, "accepted": part.num_rows, **counts}
        row |= {f"percent_{name}": as_percent(count, part.num_rows) for name, count in counts.items()}
        similarity = np.sort(pc.fill_null(part["nearest_training_similarity"], 0.0).to_numpy())
        for share in (0.5, 0.9):
            value = float(similarity[int(share * len(similarity))]) if len(similarity) else 0.0
            row[f"similarity_{100 * share:.0f}"] = value or None
        rows.append(row)
    return pd.DataFrame(rows)
