"""The study's pairs: from a folder of public releases to one store of parquet tables, and training draws from
it.

Every run of a grid reads the store and none reads the releases again. Labels cross every boundary by name.
Two of the paper's rules live here, because they decide which pairs exist at all: every copy of a pair that
occurs twice is dropped, and the first 250 pairs of each label are held out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from blindspot.heuristics import add_heuristic_columns
from blindspot.readers import HANS_HEURISTICS, HANS_LABELS, LABELS, DataFileError, read_hans, read_multinli

MULTINLI_FILES = {
    "train": "multinli_1.0/multinli_1.0_train.jsonl",
    "matched": "multinli_1.0/multinli_1.0_dev_matched.jsonl",
    "mismatched": "multinli_1.0/multinli_1.0_dev_mismatched.jsonl",
}
HANS_FILES = ("hans/heuristics_evaluation_set.txt", "hans/heuristics_evaluation_set.jsonl")
SPLITS = ("train", "held_out", "matched", "mismatched", "hans")
# Every count that `prepare_store` reports, so that a study can say what it expects before anything is read.
COUNT_NAMES = (
    *(
        f"{split}_{what}"
        for split in MULTINLI_FILES
        for what in ("read", "without_gold_label", "labelled", "repeated_dropped")
    ),
    "hans_read",
    *(name for split in SPLITS[:-1] for name in (split, *(f"{split}_{label}" for label in LABELS))),
    *("hans", *(f"hans_{name}" for name in (*HANS_LABELS, *HANS_HEURISTICS))),
)

PAIR_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("split", pa.string()),
        ("genre", pa.string()),
        ("premise", pa.string()),
        ("hypothesis", pa.string()),
        ("gold_label", pa.string()),
        ("lexical_overlap_published", pa.bool_()),
        ("lexical_overlap_token_aligned", pa.bool_()),
        ("heuristic", pa.string()),
        ("subcase", pa.string()),
        ("template", pa.string()),
    ]
)

Texts: TypeAlias = pa.Array | pa.ChunkedArray | Sequence[str]


def prepare_store(
    folder: Path,
    *,
    held_out_per_label: int,
    hans_per_subcase: int | None = None,
    test_limit: int | None = None,
    train_limit: int | None = None,
    drop_repeated: bool = True,
) -> tuple[dict[str, pa.Table], dict[str, int]]:
    """Read a folder of public files into the five tables of SPLITS, each with PAIR_SCHEMA and in file order.

    From train and both dev files, rows without a gold label go first, then (`drop_repeated`) every copy of a
    pair that occurs more than once in its file. The first `held_out_per_label` pairs of each label leave
    train for held_out. The limits keep the first rows: `train_limit` of train, `test_limit` of each dev set,
    `hans_per_subcase` of each of HANS's subcases. HANS is never deduplicated.

    Returns the tables and flat counts: `<split>` and `<split>_<label>` (pairs kept), `hans_<heuristic>`, and
    for each file `<split>_read`, `<split>_without_gold_label`, `<split>_repeated_dropped`. Raises
    FileNotFoundError with the files that are expected, DataFileError with the line, ValueError where a label
    is short.
    """
    tables: dict[str, pa.Table] = {}
    counts: dict[str, int] = {}
    limits = {"train": None, "matched": test_limit, "mismatched": test_limit}
    for split, name in MULTINLI_FILES.items():
        table, found = read_multinli(find_file(folder, (name,)), split=split)
        kept = drop_repeated_pairs(table) if drop_repeated else table
        counts |= {f"{split}_{key}": value for key, value in found.items()}
        counts[f"{split}_labelled"] = table.num_rows
        counts[f"{split}_repeated_dropped"] = table.num_rows - kept.num_rows
        tables[split] = kept if limits[split] is None else kept.slice(0, limits[split])
    tables["train"], tables["held_out"] = hold_out_pairs(tables["train"], per_label=held_out_per_label)
    tables["train"] = tables["train"] if train_limit is None else tables["train"].slice(0, train_limit)
    hans, found = read_hans(find_file(folder, HANS_FILES))
    counts |= {f"hans_{key}": value for key, value in found.items()}
    tables["hans"] = (
        hans if hans_per_subcase is None else take_first_of_subcases(hans, count=hans_per_subcase)
    )
    store = {split: finish_pairs(tables[split]) for split in SPLITS}
    return store, counts | count_pairs(store)


def find_file(folder: Path, names: Sequence[str]) -> Path:
    """The first of `names` that is in the folder.

    Raises FileNotFoundError that says what a data folder holds.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    expected = [*MULTINLI_FILES.values(), " or ".join(HANS_FILES)]
    raise FileNotFoundError(
        f"{folder} has no {' or '.join(names)}. A data folder holds the public files under their own names: "
        f"{'; '.join(expected)}. Unpack MultiNLI 1.0 and HANS there, or run 00_build_sandbox."
    )


def finish_pairs(table: pa.Table) -> pa.Table:
    """Add overlap columns for both detectors and nulls for what the file lacks: PAIR_SCHEMA."""
    table = add_heuristic_columns(table)
    columns = [
        table[field.name] if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in PAIR_SCHEMA
    ]
    return pa.table(columns, schema=PAIR_SCHEMA).combine_chunks()


def count_pairs(tables: Mapping[str, pa.Table]) -> dict[str, int]:
    """Pairs by split, by split and label, and of HANS by heuristic; a label without pairs counts 0."""
    counts: dict[str, int] = {}
    for split, table in tables.items():
        counts[split] = table.num_rows
        labels = HANS_LABELS if split == "hans" else LABELS
        counts |= {f"{split}_{label}": count for label, count in count_labels(table, labels=labels).items()}
    if "hans" in tables:
        by_heuristic = _count_values(tables["hans"]["heuristic"])
        counts |= {f"hans_{name}": by_heuristic.get(name, 0) for name in HANS_HEURISTICS}
    return counts


def count_labels(table: pa.Table, *, labels: Sequence[str] = LABELS) -> dict[str, int]:
    """Rows by gold_label, for each of `labels` in their order."""
    found = _count_values(table["gold_label"])
    return {label: found.get(label, 0) for label in labels}


def _count_values(column: pa.ChunkedArray) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}


def compare_counts(found: Mapping[str, int], expected: Mapping[str, int]) -> list[dict[str, object]]:
    """Expected and found counts side by side: rows of name, expected, found, agrees.

    Expected and agrees are None where nothing is expected. Raises ValueError for an expected name that is not
    among the counts, with the names that are.
    """
    unknown = [name for name in expected if name not in found]
    if unknown:
        raise ValueError(f"expected_counts names {', '.join(unknown)}; the counts are {', '.join(found)}")
    return [
        {
            "name": name,
            "expected": expected.get(name),
            "found": count,
            "agrees": count == expected[name] if name in expected else None,
        }
        for name, count in found.items()
    ]


def code_pairs(premises: Texts, hypotheses: Texts) -> np.ndarray:
    """One int64 per pair, equal exactly where premise and hypothesis are the same text."""
    first, second = (as_array(texts).dictionary_encode() for texts in (premises, hypotheses))
    stride = max(len(second.dictionary), 1)
    return first.indices.to_numpy().astype(np.int64) * stride + second.indices.to_numpy()


def as_array(texts: Texts) -> pa.Array:
    """One contiguous pyarrow array of strings."""
    if isinstance(texts, pa.ChunkedArray):
        return texts.combine_chunks() if texts.num_chunks != 1 else texts.chunk(0)
    return texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())


def mark_later_copies(premises: Texts, hypotheses: Texts) -> np.ndarray:
    """True for each pair that repeats one before it; the first of its kind is False."""
    codes = code_pairs(premises, hypotheses)
    is_copy = np.ones(len(codes), dtype=bool)
    is_copy[np.unique(codes, return_index=True)[1]] = False
    return is_copy


def drop_repeated_pairs(table: pa.Table) -> pa.Table:
    """Drop every copy, the first one too, of each pair that occurs more than once.

    A pair is its premise and hypothesis, character by character: copies under different labels count as
    copies, since a pair with two gold labels has none. The paper's text does not say what identifies a pair;
    the counts that it leaves (Table 1) are the check on real data.
    """
    _, inverse, occurrences = np.unique(
        code_pairs(table["premise"], table["hypothesis"]), return_inverse=True, return_counts=True
    )
    return table.filter(pa.array(occurrences[inverse] == 1))


def hold_out_pairs(table: pa.Table, *, per_label: int) -> tuple[pa.Table, pa.Table]:
    """Split off the first `per_label` pairs of each label: (what stays, what is held out), both in file
    order.

    The held-out rows' split becomes `held_out`; their ids stay. Raises ValueError where a label has fewer.
    """
    short = {label: count for label, count in count_labels(table).items() if count < per_label}
    if short:
        raise ValueError(
            f"held_out_per_label is {per_label}, but the training file has only {short}; "
            "lower it or give a larger file"
        )
    held = _rank_within_groups(table, ["gold_label"]) < per_label
    held_out = table.filter(pa.array(held))
    split = pa.array(["held_out"] * held_out.num_rows, pa.string())
    return table.filter(pa.array(~held)), held_out.set_column(
        table.column_names.index("split"), "split", split
    )


def take_first_of_subcases(table: pa.Table, *, count: int) -> pa.Table:
    """The first `count` pairs of each heuristic, label and subcase of HANS, in file order."""
    ranks = _rank_within_groups(table, ["heuristic", "gold_label", "subcase"])
    return table.filter(pa.array(ranks < count))


def _rank_within_groups(table: pa.Table, keys: Sequence[str]) -> np.ndarray:
    """For each row, how many rows before it have the same values in `keys`."""
    codes = np.zeros(table.num_rows, dtype=np.int64)
    for key in keys:
        encoded = as_array(table[key]).dictionary_encode()
        codes = codes * max(len(encoded.dictionary), 1) + encoded.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    _, starts, sizes = np.unique(codes[order], return_index=True, return_counts=True)
    ranks = np.empty(len(codes), dtype=np.int64)
    ranks[order] = np.arange(len(codes)) - np.repeat(starts, sizes)
    return ranks


def select_training_pairs(table: pa.Table, *, size: int, seed: int) -> pa.Table:
    """Draw `size` pairs without repeats; with one seed, a smaller draw is the first rows of a larger one.

    Raises ValueError where `size` is negative or larger than the table.
    """
    if not 0 <= size <= table.num_rows:
        raise ValueError(
            f"{size} training pairs are asked for and {table.num_rows} are there; "
            f"choose a size from 0 to {table.num_rows}"
        )
    order = np.random.default_rng(seed).permutation(table.num_rows)
    return table.take(pa.array(order[:size]))


def write_table(table: pa.Table, path: Path) -> Path:
    """Write parquet whole or not at all: to a temporary file beside it, then renamed.

    Floats are split byte by byte before compression, exactly: logits take two thirds of the space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
        others = [field.name for field in table.schema if field.name not in floats]
        pq.write_table(table, temporary, compression="zstd", use_dictionary=others, use_byte_stream_split=floats)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_table(path: Path, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Read parquet, memory-mapped, all columns or those named. Raises DataFileError for an unknown column."""
    with pq.ParquetFile(path, memory_map=True) as file:
        present = file.schema_arrow.names
        missing = [name for name in columns or () if name not in present]
        if missing:
            raise DataFileError(f"{path} has no column {', '.join(missing)}; it has {', '.join(present)}")
        return file.read(columns=None if columns is None else list(columns))


def write_store(tables: Mapping[str, pa.Table], folder: Path) -> dict[str, Path]:
    """Write each table as `<folder>/<split>.parquet`; returns the paths by split."""
    return {split: write_table(table, folder / f"{split}.parquet") for split, table in tables.items()}


def read_store(folder: Path, *, columns: Sequence[str] | None = None) -> dict[str, pa.Table]:
    """Read the five tables of SPLITS from a store's folder."""
    return {split: read_table(folder / f"{split}.parquet", columns=columns) for split in SPLITS}
