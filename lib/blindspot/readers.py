"""Readers of the public releases' own files: MultiNLI JSON lines, HANS tab-separated or JSON lines.

A grid reads 400,000 rows with parse trees many times over its life, so the fast path is pyarrow's, which
parses only the fields that are wanted. Its errors name no line of the file, so whatever looks wrong there
sends the reader over the file once more, slowly, to say which line it is and what is wrong with it.

Sources of the formats: MultiNLI 1.0 (Williams et al. 2018), whose rows without a majority label carry the
gold label `-`; HANS (McCoy et al. 2019), `heuristics_evaluation_set.txt` and `.jsonl`.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

LABELS = ("entailment", "neutral", "contradiction")
HANS_LABELS = ("entailment", "non-entailment")
HANS_HEURISTICS = ("lexical_overlap", "subsequence", "constituent")
NO_GOLD_LABEL = "-"

MULTINLI_FIELDS = ("gold_label", "sentence1", "sentence2", "pairID", "genre")
HANS_FIELDS = ("gold_label", "sentence1", "sentence2", "pairID", "heuristic", "subcase", "template")
PREMISE_PARSE_FIELD = "sentence1_binary_parse"
BLOCK_BYTES = 1 << 23

Row = dict[str, object]


class DataFileError(ValueError):
    """A data file that cannot be read; the message names file, line, what was found and what was expected."""


def read_multinli(path: Path, *, split: str, with_parses: bool = False) -> tuple[pa.Table, dict[str, int]]:
    """Read one MultiNLI JSON lines file, in file order, without the rows whose gold label is `-`.

    Returns the pairs (pair_id, split, genre, premise, hypothesis, gold_label, and premise_parse where asked
    for: the binary parse, null where the file has none) and the counts `read` and `without_gold_label`. A
    pair_id is `<split>-<pairID>`; later rows with a pairID seen before get `#2`, `#3` and so on. Raises
    DataFileError, naming the line, for a malformed line, a missing or non-text field and an unknown label.
    """
    optional = (PREMISE_PARSE_FIELD,) if with_parses else ()
    raw = _read_json_lines(path, fields=MULTINLI_FIELDS, optional=optional)
    allowed = {"gold_label": (*LABELS, NO_GOLD_LABEL)}
    _check_rows(path, raw, fields=MULTINLI_FIELDS, allowed=allowed)
    labelled = raw.filter(pc.not_equal(raw["gold_label"], NO_GOLD_LABEL))
    columns = _name_columns(labelled, split=split)
    if with_parses:
        columns["premise_parse"] = labelled[PREMISE_PARSE_FIELD]
    return pa.table(columns), {
        "read": raw.num_rows,
        "without_gold_label": raw.num_rows - labelled.num_rows,
    }


def read_hans(path: Path, *, with_parses: bool = False) -> tuple[pa.Table, dict[str, int]]:
    """Read HANS's evaluation set, in file order: tab-separated (found by its header's names) or JSON lines.

    Returns the pairs (as for MultiNLI, with split and genre `hans`, gold_label entailment or non-entailment,
    and heuristic, subcase, template) and the count `read`. Raises DataFileError as `read_multinli` does.
    """
    optional = (PREMISE_PARSE_FIELD,) if with_parses else ()
    read_rows = _read_json_lines if path.suffix == ".jsonl" else _read_tab_separated
    raw = read_rows(path, fields=HANS_FIELDS, optional=optional)
    allowed = {"gold_label": HANS_LABELS, "heuristic": HANS_HEURISTICS}
    _check_rows(path, raw, fields=HANS_FIELDS, allowed=allowed)
    columns = _name_columns(raw, split="hans")
    columns.update({name: raw[name] for name in ("heuristic", "subcase", "template")})
    if with_parses:
        columns["premise_parse"] = raw[PREMISE_PARSE_FIELD]
    return pa.table(columns), {"read": raw.num_rows}


def _name_columns(raw: pa.Table, *, split: str) -> dict[str, pa.ChunkedArray | pa.Array]:
    constant = pa.array([split], pa.string()).take(pa.array(np.zeros(raw.num_rows, dtype=np.int8)))
    pair_ids = pc.binary_join_element_wise(split, raw["pairID"], "-")
    return {
        "pair_id": number_repeated_ids(pair_ids),
        "split": constant,
        "genre": raw["genre"] if "genre" in raw.column_names else constant,
        "premise": raw["sentence1"],
        "hypothesis": raw["sentence2"],
        "gold_label": raw["gold_label"],
    }


def number_repeated_ids(pair_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Make ids unique: the second row with an id gets `#2` behind it, the third `#3`; the first keeps it."""
    if pc.count_distinct(pair_ids).as_py() == len(pair_ids):
        return pair_ids
    seen: dict[str, int] = {}
    unique: list[str] = []
    for pair_id in pair_ids.to_pylist():
        seen[pair_id] = seen.get(pair_id, 0) + 1
        unique.append(pair_id if seen[pair_id] == 1 else f"{pair_id}#{seen[pair_id]}")
    return pa.chunked_array([pa.array(unique, pa.string())])


def _read_json_lines(path: Path, *, fields: Sequence[str], optional: Sequence[str]) -> pa.Table:
    """The wanted text fields of a JSON lines file; an absent field is null. Raises DataFileError."""
    if path.stat().st_size == 0:
        raise DataFileError(f"{path}: the file is empty; expected one JSON object a line")
    schema = pa.schema([(name, pa.string()) for name in (*fields, *optional)])
    parse = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        with pa.memory_map(str(path)) as file:
            table = pa.json.read_json(
                file, parse_options=parse, read_options=pa.json.ReadOptions(block_size=BLOCK_BYTES)
            )
        table.validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        _raise_bad_line(path, _scan_json_lines(path, fields), str(error))
    if table.num_rows != _count_lines(path):
        _raise_bad_line(path, _scan_json_lines(path, fields), "")
    return table


def _read_tab_separated(path: Path, *, fields: Sequence[str], optional: Sequence[str]) -> pa.Table:
    """The wanted columns of a tab-separated file with a header. Quotes mean nothing. Raises DataFileError."""
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        header = lines.readline().rstrip("\r\n").split("\t")
    missing = [name for name in fields if name not in header]
    if missing:
        raise DataFileError(
            f"{path}, line 1: the header lacks {', '.join(missing)}; expected tab-separated names with "
            f"{', '.join(fields)}; found {', '.join(header)[:200] or 'nothing'}"
        )
    wanted = [*fields, *(name for name in optional if name in header)]
    convert = pa.csv.ConvertOptions(include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()))
    parse = pa.csv.ParseOptions(delimiter="\t", quote_char=False)
    try:
        table = pa.csv.read_csv(
            path,
            parse_options=parse,
            convert_options=convert,
            read_options=pa.csv.ReadOptions(block_size=BLOCK_BYTES),
        )
    except pa.ArrowException as error:
        _raise_bad_line(path, _scan_tab_separated(path, fields), str(error))
    for name in optional:
        if name not in header:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
    return table


def _count_lines(path: Path) -> int:
    """Lines that hold something; quick unless there are blank ones."""
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return sum(1 for line in iter(content.readline, b"") if not line.isspace())


def _check_rows(
    path: Path, raw: pa.Table, *, fields: Sequence[str], allowed: Mapping[str, Sequence[str]]
) -> None:
    """Raise DataFileError for the first row with a missing field or a value that is not allowed."""
    missing = any(raw[name].null_count for name in fields)
    unknown = any(
        not pc.all(pc.is_in(raw[name], value_set=pa.array(values))).as_py()
        for name, values in allowed.items()
        if raw.num_rows
    )
    if missing or unknown:
        scan = _scan_json_lines if path.suffix == ".jsonl" else _scan_tab_separated
        _raise_bad_line(path, scan(path, fields), "a missing field or unknown value", allowed=allowed)


def _raise_bad_line(
    path: Path,
    rows: Iterator[tuple[int, Row | str]],
    found: str,
    *,
    allowed: Mapping[str, Sequence[str]] | None = None,
) -> None:
    for number, row in rows:
        problem = row if isinstance(row, str) else _find_unknown_value(row, allowed or {})
        if problem:
            raise DataFileError(f"{path}, line {number}: {problem}")
    raise DataFileError(
        f"{path}: cannot be read, and no single line explains it: {found or 'rows and lines differ'}"
    )


def _find_unknown_value(row: Row, allowed: Mapping[str, Sequence[str]]) -> str:
    for name, values in allowed.items():
        if row[name] not in values:
            return f"{name} is {row[name]!r}; expected one of {', '.join(values)}"
    return ""


def _scan_json_lines(path: Path, fields: Sequence[str]) -> Iterator[tuple[int, Row | str]]:
    """Line numbers with each line's object, or with what is wrong with it."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.isspace():
                continue
            try:
                row = json.loads(
                    line.decode("utf-8-sig" if number == 1 else "utf-8"), object_pairs_hook=_unique
                )
                json.dumps(row, ensure_ascii=False).encode()
            except ValueError as error:
                yield number, f"not a JSON object in UTF-8 ({error}); expected one object a line"
                continue
            yield number, _find_bad_field(row, fields) or row


def _unique(pairs: list[tuple[str, object]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a field is given twice")
    return row


def _find_bad_field(row: object, fields: Sequence[str]) -> str:
    if not isinstance(row, dict):
        return f"holds a JSON {type(row).__name__}; expected an object with {', '.join(fields)}"
    for name in fields:
        if not isinstance(row.get(name), str):
            found = f"is {row[name]!r}" if name in row else "is missing"
            return f"the field {name} {found}; expected text; every line needs {', '.join(fields)}"
    return ""


def _scan_tab_separated(path: Path, fields: Sequence[str]) -> Iterator[tuple[int, Row | str]]:
    """Line numbers with each row by the header's names, or with what is wrong with it."""
    with path.open("rb") as lines:
        header = next(lines).decode("utf-8-sig", errors="replace").rstrip("\r\n").split("\t")
        for number, line in enumerate(lines, start=2):
            if line.isspace():
                continue
            parts, problem = _split_cells(line)
            if not problem and len(parts) != len(header):
                problem = f"{len(parts)} tab-separated cells; the header names {len(header)}"
            yield number, problem or dict(zip(header, parts, strict=True))


def _split_cells(line: bytes) -> tuple[list[str], str]:
    try:
        return line.decode("utf-8").rstrip("\r\n").split("\t"), ""
    except UnicodeDecodeError as error:
        return [], f"not UTF-8 text ({error})"
