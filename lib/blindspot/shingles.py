"""Which pairs are nearly the same: sets of word pairs, their Jaccard similarity, and an exact join on it.

A pair becomes the set of its shingles: each two neighbouring words of the premise and of the hypothesis (lower case,
without punctuation, the sentence's ends count as words), marked with the field. Two pairs are as similar as these sets:
shared over all (Jaccard). Word order counts, so that a swap of agent and patient is no near copy.

Comparing all with all would take 1.8 million x 390,000 comparisons. The join here is the prefix filter of Chaudhuri et
al. 2006 and Bayardo et al. 2007: with the shingles of each set in one order, rarest first, two sets of similarity t or
more share one of the first n - ceil(t n) + 1 shingles of each. An inverted index of those prefixes gives the
candidates, which are then compared exactly, so nothing is missed and nothing is estimated (MinHash would do both). Rare
shingles have short lists: on natural text a row has few candidates however large the index, which keeps the time near
linear. Shingles that stand in one row only come first of all and have no list, so new text costs least. Memory is some
300 bytes a row for the sets, and a bounded number of candidates at a time. Text that repeats a few phrases has longer
lists: identical rows should be joined once, and rows like an earlier one need not be kept (`mark_near_copies`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from blindspot.data import Texts, as_array
from blindspot.heuristics import BATCH_ROWS, PUNCTUATION

FIELDS = ("premise", "hypothesis")
START, END = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
# Odd factors of a 64-bit hash: of the left and the right word, by field.
FACTORS = {
    "premise": (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)),
    "hypothesis": (np.uint64(0x87C37B91114253D5), np.uint64(0x4CF5AD432745937F)),
}
MAX_CANDIDATES = 4_000_000
COMPARED_AT_ONCE = 200_000

Matches = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ShingleSets:
    """Rows of shingles. matrix: rows x shingles, sparse, columns from rare to frequent, without shingles of one row
    only; sizes: all shingles of each row, those included."""

    matrix: sparse.csr_array
    sizes: np.ndarray

    def take(self, rows: np.ndarray) -> ShingleSets:
        """Some of the rows, in the given order."""
        return ShingleSets(self.matrix[rows], self.sizes[rows])


def hash_shingles(pairs: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """(row, 64-bit hash) of the different shingles of each pair, rows rising; needs premise and hypothesis."""
    parts = [_hash_field(pairs[field], *FACTORS[field]) for field in FIELDS]
    rows, codes = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((codes, rows))
    rows, codes = rows[order], codes[order]
    is_new = np.ones(len(rows), dtype=bool)
    is_new[1:] = (rows[1:] != rows[:-1]) | (codes[1:] != codes[:-1])
    return rows[is_new], codes[is_new]


def _hash_field(texts: Texts, left_factor: np.uint64, right_factor: np.uint64) -> tuple[np.ndarray, np.ndarray]:
    split = pc.utf8_split_whitespace(pc.utf8_lower(as_array(texts)))
    tokens = split.flatten().dictionary_encode()
    bare = pc.utf8_trim(tokens.dictionary, characters=PUNCTUATION)
    hashes = pd.util.hash_array(bare.to_numpy(zero_copy_only=False), categorize=False)
    places = tokens.indices.to_numpy()
    sentences = np.repeat(np.arange(len(split)), pc.list_value_length(split).to_numpy())
    kept = pc.not_equal(bare, "").to_numpy(zero_copy_only=False)[places]
    sentences, words = sentences[kept], hashes[places[kept]]
    ends = np.bincount(sentences, minlength=len(split)) + 1  # a sentence of n words has n + 1 shingles
    left, right = np.full(ends.sum(), START), np.full(ends.sum(), END)
    at = np.arange(len(words)) + sentences
    left[at + 1], right[at] = words, words
    return np.repeat(np.arange(len(split)), ends), left * left_factor + right * right_factor


def encode_shingles(tables: Sequence[pa.Table]) -> list[ShingleSets]:
    """The sets of several tables over one numbering of shingles; the tables are gone through twice, in batches."""
    known = _count_shingles(tables)
    return [_encode_table(table, known) for table in tables]


def _batches(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, BATCH_ROWS):
        yield table.slice(start, BATCH_ROWS)


def _count_shingles(tables: Sequence[pa.Table]) -> pd.Series:
    """Hash of each shingle that stands in two rows or more -> its place from rare to frequent; hashes rise."""
    counts = pd.Series(dtype=np.int64, index=np.array([], dtype=np.uint64))
    parts: list[pd.Series] = []
    for table in tables:
        for batch in _batches(table):
            codes, found = np.unique(hash_shingles(batch)[1], return_counts=True)
            parts.append(pd.Series(found, index=codes))
            if sum(map(len, parts)) > max(len(counts), 4_000_000):
                counts, parts = _add_counts([counts, *parts]), []
    counts = _add_counts([counts, *parts])
    counts = counts[counts > 1]
    places = np.empty(len(counts), dtype=np.int32)
    places[np.argsort(counts.to_numpy(), kind="stable")] = np.arange(len(counts), dtype=np.int32)
    return pd.Series(places, index=counts.index)


def _add_counts(parts: Sequence[pd.Series]) -> pd.Series:
    return pd.concat([part for part in parts if len(part)] or parts[:1]).groupby(level=0, sort=True).sum()


def _encode_table(table: pa.Table, known: pd.Series) -> ShingleSets:
    codes_known, places = known.index.to_numpy(dtype=np.uint64), known.to_numpy()
    columns, kept_sizes, sizes = [], [], []
    for batch in _batches(table):
        rows, codes = hash_shingles(batch)
        sizes.append(np.bincount(rows, minlength=batch.num_rows))
        at = np.searchsorted(codes_known, codes)
        is_known = at < len(codes_known)
        is_known[is_known] = codes_known[at[is_known]] == codes[is_known]
        rows, ids = rows[is_known], places[at[is_known]]
        columns.append(ids[np.lexsort((ids, rows))])
        kept_sizes.append(np.bincount(rows, minlength=batch.num_rows))
    indices = np.concatenate(columns) if columns else np.array([], dtype=np.int32)
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(kept_sizes))]) if kept_sizes else np.array([0])
    ones = np.ones(len(indices), dtype=np.int16)
    matrix = sparse.csr_array((ones, indices, indptr), shape=(table.num_rows, len(places)))
    return ShingleSets(matrix, np.concatenate(sizes) if sizes else np.array([], dtype=np.int64))


def join_similar(queries: ShingleSets, index: ShingleSets, *, least: float) -> Iterator[Matches]:
    """All (query row, index row, similarity) with a similarity of `least` or more, in slices; rows rise throughout.

    Both must come from one `encode_shingles`. In a join of a table with itself, which knows no shingle of one row only,
    the similarity of a row with itself means nothing. Raises ValueError where `least` is not above 0 and at most 1.
    """
    if not 0 < least <= 1:
        raise ValueError(f"least is {least}; expected a similarity above 0 and at most 1")
    prefixes, lookup = _cut_prefixes(queries, least), _cut_prefixes(index, least).T.tocsr()
    costs = np.cumsum(prefixes @ np.diff(lookup.indptr).astype(np.int64))
    start = 0
    while start < prefixes.shape[0]:
        spent = costs[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(costs, spent + MAX_CANDIDATES, side="right")))
        found = prefixes[start:end] @ lookup
        found.sort_indices()
        rows = np.repeat(np.arange(start, end), np.diff(found.indptr))
        targets = found.indices
        first, second = queries.sizes[rows], index.sizes[targets]
        may_be = np.minimum(first, second) >= least * np.maximum(first, second) - 1e-9
        yield from _compare(queries, index, rows[may_be], targets[may_be], least=least)
        start = end


def _cut_prefixes(sets: ShingleSets, least: float) -> sparse.csr_array:
    """Of each row the shingles of the prefix; those of one row only, which the matrix lacks, come before all others."""
    matrix = sets.matrix
    lengths = np.diff(matrix.indptr)
    prefix = sets.sizes - np.ceil(least * sets.sizes - 1e-9).astype(np.int64) + 1
    prefix = np.clip(prefix - (sets.sizes - lengths), 0, lengths)
    place_in_row = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], lengths)
    kept = place_in_row < np.repeat(prefix, lengths)
    indptr = np.concatenate([[0], np.cumsum(prefix)])
    return sparse.csr_array((matrix.data[kept], matrix.indices[kept], indptr), shape=matrix.shape)


def _compare(
    queries: ShingleSets, index: ShingleSets, rows: np.ndarray, targets: np.ndarray, *, least: float
) -> Iterator[Matches]:
    for start in range(0, len(rows), COMPARED_AT_ONCE):
        some, others = rows[start : start + COMPARED_AT_ONCE], targets[start : start + COMPARED_AT_ONCE]
        shared = queries.matrix[some].multiply(index.matrix[others]).sum(axis=1, dtype=np.int64)
        similarity = shared / (queries.sizes[some] + index.sizes[others] - shared)
        kept = similarity >= least - 1e-9
        yield some[kept], others[kept], similarity[kept]


def find_nearest(queries: ShingleSets, index: ShingleSets, *, least: float) -> tuple[np.ndarray, np.ndarray]:
    """For each query its most similar row of the index and the similarity; -1 and NaN where none reaches `least`.

    Of equally similar rows the first.
    """
    nearest = np.full(len(queries.sizes), -1, dtype=np.int64)
    best = np.full(len(queries.sizes), -np.inf)
    for rows, targets, similarity in join_similar(queries, index, least=least):
        order = np.lexsort((targets, -similarity, rows))
        rows, first = np.unique(rows[order], return_index=True)
        targets, similarity = targets[order][first], similarity[order][first]
        better = similarity > best[rows]
        nearest[rows[better]], best[rows[better]] = targets[better], similarity[better]
    return nearest, np.where(nearest < 0, np.nan, best)


def mark_near_copies(sets: ShingleSets, *, least: float, batch_rows: int = 20_000) -> np.ndarray:
    """For each row an earlier row of similarity `least` or more that is itself no near copy; -1 where there is none.

    So the rows with -1 are a subset in which no two are near copies of each other, and every other row is near one of
    them. Rows are compared with those that were kept only, which bounds the work where one text returns thousands
    of times. The result does not depend on `batch_rows`.
    """
    original = np.full(len(sets.sizes), -1, dtype=np.int64)
    kept = np.array([], dtype=np.int64)
    start = 0
    while start < len(original):
        batch = np.arange(start, min(start + max(batch_rows, len(kept) // 4), len(original)))
        for rows, targets, _ in join_similar(sets.take(batch), sets.take(kept), least=least):
            original[batch[rows[::-1]]] = kept[targets[::-1]]  # the first one stays
        rest = batch[original[batch] < 0]
        part = sets.take(rest)
        for rows, targets, _ in join_similar(part, part, least=least):
            before = targets < rows
            for row, target in zip(rest[rows[before]].tolist(), rest[targets[before]].tolist(), strict=True):
                if original[row] < 0 and original[target] < 0:
                    original[row] = target
        kept = np.concatenate([kept, rest[original[rest] < 0]])
        start = batch[-1] + 1
    return original
