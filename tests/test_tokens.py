"""Tokens: the file holds what the tokenizer gives, row for row, and is refused for other pairs."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import PAIRS
from tiny import load_tiny

from blindspot import tokens
from blindspot.models import Base
from blindspot.prompts import task_prompt
from blindspot.tokens import add_tokens, list_token_ids, read_tokens, summarise_token_lengths, write_tokens


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> Base:
    return load_tiny(tiny_model)


@pytest.fixture(scope="module")
def pairs() -> pa.Table:
    premises, hypotheses, labels = zip(*PAIRS, strict=True)
    ids = [f"pair-{number}" for number in range(len(PAIRS))]
    return pa.table({"pair_id": ids, "premise": premises, "hypothesis": hypotheses, "gold_label": labels})


def write(pairs: pa.Table, path: Path, base: Base, **options: Any) -> Path:
    return write_tokens(pairs, path, tokenizer=base.tokenizer, **{"max_length": 256, **options})


def test_ids_are_the_tokenizers(base: Base, pairs: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "CHUNK", 4)  # three parts
    path = write(pairs, tmp_path / "train.arrow", base)
    found = list_token_ids(add_tokens(pairs, path))
    expected = [base.tokenizer(task_prompt(p, h))["input_ids"] for p, h, _ in PAIRS]
    assert [row.tolist() for row in found] == expected and {row.dtype for row in found} == {np.dtype(np.int64)}
    chosen = add_tokens(pairs, path).take([7, 2, 7])
    assert [row.tolist() for row in list_token_ids(chosen)] == [expected[7], expected[2], expected[7]]
    assert [row.tolist() for row in list_token_ids(add_tokens(pairs, path).slice(3, 2))] == expected[3:5]
    assert list_token_ids(chosen.slice(0, 0)) == []
    assert list(tmp_path.iterdir()) == [path]


def test_rows_without_a_pair_have_no_tokens(base: Base, pairs: pa.Table, tmp_path: Path) -> None:
    broken = pairs.to_pydict()
    broken["premise"] = [None, *broken["premise"][1:]]
    broken["hypothesis"] = [*broken["hypothesis"][:-1], None]
    rows = add_tokens(pa.table(broken), write(pa.table(broken), tmp_path / "t.arrow", base))
    expected = [base.tokenizer(task_prompt(p, h))["input_ids"] for p, h, _ in PAIRS]
    assert rows["token_ids"].to_pylist() == [None, *expected[1:-1], None]
    with pytest.raises(ValueError, match="2 of the rows hold no pair and have no tokens, such as pair-0"):
        list_token_ids(rows)
    assert len(list_token_ids(rows.slice(1, len(PAIRS) - 2))) == len(PAIRS) - 2


def test_other_pairs_are_refused(base: Base, pairs: pa.Table, tmp_path: Path) -> None:
    path = write(pairs, tmp_path / "train.arrow", base)
    for other in (pairs.slice(1), pairs.take([1, 0, *range(2, len(pairs))])):
        with pytest.raises(ValueError, match=r"train\.arrow holds the tokens of 11 other pairs"):
            add_tokens(other, path)


def test_a_prompt_that_is_too_long_leaves_no_file(base: Base, pairs: pa.Table, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"base_model.max_length is 20: raise it, or leave the pair out: 'Please"):
        write(pairs, tmp_path / "train.arrow", base, max_length=20)
    assert not list(tmp_path.iterdir())


def test_lengths(base: Base, pairs: pa.Table, tmp_path: Path) -> None:
    table = summarise_token_lengths({"train": write(pairs, tmp_path / "train.arrow", base)})
    sizes = [len(base.tokenizer(task_prompt(p, h))["input_ids"]) for p, h, _ in PAIRS]
    [row] = table.to_dict("records")
    assert (row["split"], row["pairs"], row["tokens"], row["longest"]) == ("train", len(sizes), sum(sizes), max(sizes))
    assert row["median"] == int(np.median(sizes))


def test_a_file_is_mapped_not_read(base: Base, pairs: pa.Table, tmp_path: Path) -> None:
    before = pa.total_allocated_bytes()
    table = read_tokens(write(pairs, tmp_path / "train.arrow", base))
    assert len(table) == len(pairs) and pa.total_allocated_bytes() == before
