"""Token ids of T's prompt for every pair: made once, kept beside the pairs, memory-mapped by what trains or predicts.

An Arrow file holds `pair_id` and `token_ids` (large_list<int32>, null for a row without a pair), row for row as the
table of pairs that it was made from. Only the rows that a run takes are copied.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from blindspot.prompts import join_task_prompts

TOKEN_IDS = "token_ids"
SCHEMA = pa.schema([("pair_id", pa.string()), (TOKEN_IDS, pa.large_list(pa.int32()))])
CHUNK = 20_000  # rows tokenised at a time, which bounds the memory


def tokenize_texts(tokenizer: Any, texts: Sequence[str], *, max_length: int) -> list[list[int]]:
    """Token ids of each text, special tokens as the tokenizer adds them. Raises ValueError for one over max_length."""
    ids = tokenizer(list(texts), padding=False)["input_ids"] if texts else []
    longest = max(range(len(ids)), key=lambda row: len(ids[row]), default=None)
    if longest is not None and len(ids[longest]) > max_length:
        raise ValueError(
            f"text {longest} has {len(ids[longest])} tokens, base_model.max_length is {max_length}: raise it, or leave "
            f"the pair out: {texts[longest][:200]!r}"
        )
    return ids


def write_tokens(pairs: pa.Table, path: Path, *, tokenizer: Any, max_length: int) -> Path:
    """Tokenise T's prompt of each pair into `path`, whole or not at all; a row without a premise gets null.

    pairs: pair_id, premise, hypothesis. Raises ValueError for a prompt over max_length, by its text.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
            for start in range(0, len(pairs), CHUNK):
                part = pairs.slice(start, CHUNK)
                writer.write_table(pa.table([part["pair_id"], _tokenize_part(part, tokenizer, max_length)], SCHEMA))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _tokenize_part(pairs: pa.Table, tokenizer: Any, max_length: int) -> pa.Array:
    has_pair = pc.and_(pairs["premise"].is_valid(), pairs["hypothesis"].is_valid()).to_numpy()
    whole = pairs.filter(pa.array(has_pair))
    prompts = join_task_prompts(whole["premise"], whole["hypothesis"]).to_pylist()
    ids = pa.array(tokenize_texts(tokenizer, prompts, max_length=max_length), SCHEMA.field(TOKEN_IDS).type)
    places = np.where(has_pair, np.cumsum(has_pair) - 1, 0)
    return ids.take(pa.array(places, mask=~has_pair))


def read_tokens(path: Path) -> pa.Table:
    """The file's columns pair_id and token_ids, memory-mapped: what nobody looks at is never read."""
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def add_tokens(pairs: pa.Table, path: Path) -> pa.Table:
    """The pairs with the column token_ids, memory-mapped. Raises ValueError where the file is of other pairs."""
    tokens = read_tokens(path)
    if len(tokens) != len(pairs) or not _are_same(tokens["pair_id"], pairs["pair_id"]):
        raise ValueError(
            f"{path.name} holds the tokens of {len(tokens):,} other pairs than the {len(pairs):,} given: delete its "
            "run's folder and run that stage again"
        )
    return pairs.append_column(TOKEN_IDS, tokens[TOKEN_IDS])


def _are_same(one: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    return one.combine_chunks().equals(other.cast(pa.string()).combine_chunks())


def list_token_ids(pairs: pa.Table) -> list[np.ndarray]:
    """The column token_ids as one int64 array a row. Raises ValueError for a row without tokens."""
    column = pairs[TOKEN_IDS].combine_chunks()
    if column.null_count:
        row = pairs.filter(column.is_null())["pair_id"][0].as_py()
        raise ValueError(
            f"{column.null_count} of the rows hold no pair and have no tokens, such as {row}: leave them out"
        )
    if not len(column):
        return []
    flat = column.flatten().to_numpy().astype(np.int64)
    return np.split(flat, np.cumsum(column.value_lengths().to_numpy())[:-1])


def summarise_token_lengths(paths: dict[str, Path]) -> pd.DataFrame:
    """Tokens a prompt in each file: columns split, pairs, tokens (all), median, percentile_95, longest."""
    rows = []
    for split, path in paths.items():
        lengths = pc.list_value_length(read_tokens(path)[TOKEN_IDS]).drop_null().to_numpy()
        found = {"split": split, "pairs": len(lengths), "tokens": int(lengths.sum())}
        quantiles = np.percentile(lengths, [50, 95, 100]).astype(int).tolist() if len(lengths) else [None] * 3
        rows.append(found | dict(zip(("median", "percentile_95", "longest"), quantiles, strict=True)))
    return pd.DataFrame(rows)
