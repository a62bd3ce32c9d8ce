"""How long and how varied the pairs are: lengths, vocabulary and distinct-n, synthetic beside original.

The paper supposes that synthetic data is less diverse. These counts say by how much, and since they run
over tens of millions of words, words are numbered by pyarrow once and counted by numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from blindspot.audit import keep_accepted
from blindspot.data import LABELS, as_array
from blindspot.heuristics import PUNCTUATION


@dataclass(frozen=True)
class EncodedWords:
    """Sentences as numbers.

    words: word ids, int64, sentence after sentence; lengths: words of each sentence.
    """

    words: np.ndarray
    lengths: np.ndarray
    vocabulary: int


def encode_words(texts: pa.Array | pa.ChunkedArray) -> EncodedWords:
    """Number the words of many sentences; words are those of the token_aligned detector."""
    split = pc.utf8_split_whitespace(pc.utf8_lower(as_array(texts)))
    tokens = split.flatten().dictionary_encode()
    bare = pc.utf8_trim(tokens.dictionary, characters=PUNCTUATION).dictionary_encode()
    words = bare.indices.to_numpy()[tokens.indices.to_numpy()].astype(np.int64)
    sentences = np.repeat(np.arange(len(split)), pc.fill_null(pc.list_value_length(split), 0).to_numpy())
    empty = pc.index(bare.dictionary, "").as_py()
    kept = words != empty
    lengths = np.bincount(sentences[kept], minlength=len(split))
    return EncodedWords(words=words[kept], lengths=lengths, vocabulary=len(bare.dictionary) - (empty >= 0))


def summarise_lengths(*, original: pa.Table, synthetic: pa.Table) -> pd.DataFrame:
    """Sentence lengths in words and vocabulary, by dataset, label and field.

    Columns: dataset, label, field, sentences, mean_words, median_words, p95_words, words, vocabulary
    (different words; it grows with the number of sentences, so compare it at equal numbers only).
    """
    rows = []
    for dataset, table in (("original", original), ("synthetic", keep_accepted(synthetic))):
        for label in LABELS:
            for field in ("premise", "hypothesis"):
                encoded = encode_words(table[field].filter(pc.equal(table["gold_label"], label)))
                key = {"dataset": dataset, "label": label, "field": field}
                rows.append(key | _describe_lengths(encoded))
    return pd.DataFrame(rows)


def _describe_lengths(encoded: EncodedWords) -> dict[str, float | None]:
    lengths = encoded.lengths
    some = len(lengths) > 0
    return {
        "sentences": len(lengths),
        "mean_words": float(lengths.mean()) if some else None,
        "median_words": float(np.median(lengths)) if some else None,
        "p95_words": float(np.quantile(lengths, 0.95)) if some else None,
        "words": len(encoded.words),
        "vocabulary": encoded.vocabulary,
    }


def count_ngrams(encoded: EncodedWords, *, n: int) -> tuple[int, int]:
    """(n-grams, different n-grams) inside sentences; none crosses from one sentence to the next."""
    total = int(np.maximum(encoded.lengths - n + 1, 0).sum())
    if total == 0:
        return 0, 0
    starts = np.arange(len(encoded.words) - n + 1)
    ends = np.repeat(np.cumsum(encoded.lengths), encoded.lengths)[: len(starts)]
    starts = starts[starts + n <= ends]
    codes = encoded.words[starts]
    for step in range(1, n):
        codes = (
            np.unique(codes, return_inverse=True)[1] * (encoded.vocabulary + 1) + encoded.words[starts + step]
        )
    return total, len(np.unique(codes))


def measure_distinct_n(
    *,
    original: pa.Table,
    synthetic: pa.Table,
    seed: int,
    max_pairs: int = 50_000,
    sizes: Sequence[int] = (1, 2, 3),
) -> pd.DataFrame:
    """Distinct-n (Li et al. 2016): different n-grams over all n-grams, of premises and hypotheses together.

    It falls as text grows, so each dataset and label is measured on equally many pairs: the smallest supply,
    at most `max_pairs`, drawn with `seed`. Columns: dataset, label, n, pairs, ngrams, distinct_ngrams,
    distinct.
    """
    parts = {
        (dataset, label): table.filter(pc.equal(table["gold_label"], label)).select(["premise", "hypothesis"])
        for dataset, table in (("original", original), ("synthetic", keep_accepted(synthetic)))
        for label in LABELS
    }
    pairs = min([max_pairs, *(part.num_rows for part in parts.values() if part.num_rows)])
    rows = []
    for (dataset, label), part in parts.items():
        size = min(pairs, part.num_rows)
        chosen = np.random.default_rng(seed).choice(part.num_rows, size=size, replace=False) if size else []
        sample = part.take(pa.array(np.sort(chosen), pa.int64()))
        texts = [*sample["premise"].chunks, *sample["hypothesis"].chunks]
        encoded = encode_words(pa.chunked_array(texts, pa.string()))
        for n in sizes:
            ngrams, distinct = count_ngrams(encoded, n=n)
            counts = {"pairs": size, "ngrams": ngrams, "distinct_ngrams": distinct}
            share = distinct / ngrams if ngrams else None
            rows.append({"dataset": dataset, "label": label, "n": n, **counts, "distinct": share})
    return pd.DataFrame(rows)
