"""Readers, the paper's two rules on which pairs exist, nested draws, and files that are whole or absent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

import blindspot.data as data_module
from blindspot.data import (
    COUNT_NAMES,
    HANS_FILES,
    LABELS,
    MULTINLI_FILES,
    PAIR_SCHEMA,
    SPLITS,
    compare_counts,
    count_labels,
    drop_repeated_pairs,
    hold_out_pairs,
    mark_later_copies,
    prepare_store,
    read_store,
    read_table,
    select_training_pairs,
    write_store,
    write_table,
)
from blindspot.readers import DataFileError, read_hans, read_multinli

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "mnli-resplit"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no MultiNLI and HANS files at {SHARED}")

HANS_HEADER = (
    "gold_label\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\tsentence1\t"
    "sentence2\tpairID\theuristic\tsubcase\ttemplate"
)


def make_row(label: str, premise: str, hypothesis: str, pair_id: str, **more: object) -> dict[str, object]:
    names = {"gold_label": label, "sentence1": premise, "sentence2": hypothesis, "pairID": pair_id}
    return {**names, "genre": "fiction", **more}


def write_json_lines(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_hans_line(
    label: str, premise: str, hypothesis: str, pair_id: str, heuristic: str, subcase: str
) -> str:
    return "\t".join(
        [label, "( a )", "( b )", "(A a)", "(B b)", premise, hypothesis, pair_id, heuristic, subcase, "t1"]
    )


HANS_LINES = [
    make_hans_line(
        "non-entailment", 'The "cat saw it .', "It saw the cat .", "ex0", "lexical_overlap", "ln_swap"
    ),
    make_hans_line(
        "non-entailment", "The dog saw it .", "It saw the dog .", "ex1", "lexical_overlap", "ln_swap"
    ),
    make_hans_line("entailment", "NA", "NA", "ex2", "constituent", "ce_x"),
]


def make_folder(folder: Path) -> Path:
    """A data folder small enough to count by hand."""
    train = [
        make_row("entailment", "a b", "a", "1e"),
        make_row("neutral", "a b", "c", "1n"),
        make_row("-", "no label", "here", "2x"),
        make_row("contradiction", "twice", "twice", "3c"),
        make_row("entailment", "d.", "d", "4e"),
        make_row("neutral", "twice", "twice", "5n"),
        make_row("contradiction", "a b", "e", "6c"),
        make_row("entailment", "a b", "b", "7e"),
        make_row("neutral", "f", "g", "8n"),
        make_row("contradiction", "f", "h", "9c"),
    ]
    dev = [
        make_row("neutral", "x", "y", "1n"),
        make_row("-", "x", "z", "2"),
        make_row("entailment", "x y", "x", "3e"),
    ]
    write_json_lines(folder / MULTINLI_FILES["train"], train)
    write_json_lines(folder / MULTINLI_FILES["matched"], dev)
    write_json_lines(folder / MULTINLI_FILES["mismatched"], dev[:1])
    (folder / "hans").mkdir()
    (folder / HANS_FILES[0]).write_text("\n".join([HANS_HEADER, *HANS_LINES]) + "\n", encoding="utf-8")
    return folder


def test_store_of_a_folder_counted_by_hand(tmp_path: Path) -> None:
    tables, counts = prepare_store(make_folder(tmp_path), held_out_per_label=1)
    assert list(tables) == list(SPLITS)
    assert all(table.schema == PAIR_SCHEMA for table in tables.values())
    assert tables["held_out"]["pair_id"].to_pylist() == ["train-1e", "train-1n", "train-6c"]
    assert tables["held_out"]["split"].to_pylist() == ["held_out"] * 3
    assert tables["train"]["pair_id"].to_pylist() == ["train-4e", "train-7e", "train-8n", "train-9c"]
    assert tables["train"]["lexical_overlap_published"].to_pylist() == [False, True, False, False]
    assert tables["train"]["lexical_overlap_token_aligned"].to_pylist() == [True, True, False, False]
    assert tables["train"]["heuristic"].null_count == 4
    assert set(counts) == set(COUNT_NAMES)
    assert tables["hans"].select(
        ["pair_id", "split", "genre", "premise", "gold_label", "subcase"]
    ).to_pylist()[0] == {
        "pair_id": "hans-ex0",
        "split": "hans",
        "genre": "hans",
        "premise": 'The "cat saw it .',
        "gold_label": "non-entailment",
        "subcase": "ln_swap",
    }
    assert tables["hans"]["premise"].to_pylist()[2] == "NA"
    assert counts == {
        "train_read": 10,
        "train_without_gold_label": 1,
        "train_labelled": 9,
        "train_repeated_dropped": 2,
        "matched_read": 3,
        "matched_without_gold_label": 1,
        "matched_labelled": 2,
        "matched_repeated_dropped": 0,
        "mismatched_read": 1,
        "mismatched_without_gold_label": 0,
        "mismatched_labelled": 1,
        "mismatched_repeated_dropped": 0,
        "hans_read": 3,
        "train": 4,
        "train_entailment": 2,
        "train_neutral": 1,
        "train_contradiction": 1,
        "held_out": 3,
        "held_out_entailment": 1,
        "held_out_neutral": 1,
        "held_out_contradiction": 1,
        "matched": 2,
        "matched_entailment": 1,
        "matched_neutral": 1,
        "matched_contradiction": 0,
        "mismatched": 1,
        "mismatched_entailment": 0,
        "mismatched_neutral": 1,
        "mismatched_contradiction": 0,
        "hans": 3,
        "hans_entailment": 1,
        "hans_non-entailment": 2,
        "hans_lexical_overlap": 2,
        "hans_subsequence": 0,
        "hans_constituent": 1,
    }


def test_limits_keep_the_first_rows(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    tables, _ = prepare_store(folder, held_out_per_label=1, hans_per_subcase=1, test_limit=1, train_limit=2)
    assert tables["hans"]["pair_id"].to_pylist() == ["hans-ex0", "hans-ex2"]
    assert tables["matched"]["pair_id"].to_pylist() == ["matched-1n"]
    assert tables["train"]["pair_id"].to_pylist() == ["train-4e", "train-7e"]
    kept, _ = prepare_store(tmp_path, held_out_per_label=0, drop_repeated=False)
    assert kept["train"].num_rows == 9


def test_store_survives_the_disk(tmp_path: Path) -> None:
    tables, _ = prepare_store(make_folder(tmp_path / "in"), held_out_per_label=1)
    paths = write_store(tables, tmp_path / "label=odd" / "store")
    assert sorted(path.name for path in paths.values()) == sorted(f"{split}.parquet" for split in SPLITS)
    back = read_store(tmp_path / "label=odd" / "store")
    assert all(back[split].equals(tables[split]) for split in SPLITS)
    assert read_table(paths["train"], columns=["pair_id"]).column_names == ["pair_id"]
    with pytest.raises(DataFileError, match="no column pairid"):
        read_table(paths["train"], columns=["pairid"])


def test_a_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_table(pa.table({"a": [1]}), tmp_path / "t.parquet")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(data_module.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_table(pa.table({"a": [2]}), path)
    assert read_table(path)["a"].to_pylist() == [1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.parquet"]


def test_a_missing_file_says_what_a_folder_holds(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"multinli_1\.0_train\.jsonl.*00_build_sandbox"):
        prepare_store(tmp_path, held_out_per_label=1)


GOOD = json.dumps(make_row("neutral", "p", "h", "1n")).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD + b"\nnot json\n", "line 2: not a JSON object"),
        (GOOD + b"\n\n" + GOOD[:-1] + b"\n", "line 3: not a JSON object"),
        (GOOD + b"\n[1]\n", "line 2: holds a JSON list"),
        (
            GOOD + b"\n" + GOOD.replace(b"neutral", b"Neutral") + b"\n",
            "line 2: gold_label is 'Neutral'; expected one of",
        ),
        (
            GOOD + b"\n" + GOOD.replace(b'"neutral"', b"1") + b"\n",
            "line 2: the field gold_label is 1; expected text",
        ),
        (GOOD + b"\n" + GOOD.replace(b'"p"', b"null") + b"\n", "line 2: the field sentence1 is None"),
        (GOOD + b"\n\n" + GOOD.replace(b"pairID", b"pairId") + b"\n", "line 3: the field pairID is missing"),
        (GOOD + b"\n" + GOOD.replace(b'"p"', b'"\xff"') + b"\n", "line 2: not a JSON object in UTF-8"),
        (GOOD + b"\n" + GOOD.replace(b'"p"', b'"\\ud800"') + b"\n", "line 2: not a JSON object in UTF-8"),
        (
            GOOD + b"\n" + GOOD.replace(b'"genre"', b'"pairID"') + b"\n",
            "line 2: not a JSON object.*given twice",
        ),
        (GOOD + GOOD + b"\n", "line 1: not a JSON object"),
        (b"", "the file is empty"),
    ],
)
def test_bad_json_lines_name_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataFileError, match=f"bad.jsonl.*{message}"):
        read_multinli(path, split="train")


def test_odd_but_good_json_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    parsed = make_row(
        "neutral", "line\u2028sep \U0001f600", "tab\there", "1n", sentence1_binary_parse="( p )", extra=[1]
    )
    lines = [json.dumps(parsed), "", json.dumps(make_row("entailment", "", "NA", "1n")), json.dumps(parsed)]
    path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    table, counts = read_multinli(path, split="train", with_parses=True)
    assert table["premise"].to_pylist() == ["line\u2028sep \U0001f600", "", "line\u2028sep \U0001f600"]
    assert table["hypothesis"].to_pylist() == ["tab\there", "NA", "tab\there"]
    assert table["premise_parse"].to_pylist() == ["( p )", None, "( p )"]
    assert table["pair_id"].to_pylist() == ["train-1n", "train-1n#2", "train-1n#3"]
    assert counts == {"read": 3, "without_gold_label": 0}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["gold_label\tsentence1"], "line 1: the header lacks sentence2, pairID"),
        (
            [HANS_HEADER, HANS_LINES[0], "entailment\tshort"],
            "line 3: 2 tab-separated cells; the header names 11",
        ),
        (
            [HANS_HEADER, HANS_LINES[0].replace("non-entailment", "neutral")],
            "line 2: gold_label is 'neutral'",
        ),
        (
            [HANS_HEADER, HANS_LINES[0].replace("lexical_overlap", "lexical")],
            "line 2: heuristic is 'lexical'",
        ),
    ],
)
def test_bad_hans_files_name_file_and_line(tmp_path: Path, lines: list[str], message: str) -> None:
    path = tmp_path / "hans.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(DataFileError, match=f"hans.txt, {message}"):
        read_hans(path)


def test_hans_columns_are_found_by_name_and_json_lines_give_the_same(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    table, counts = read_hans(folder / HANS_FILES[0], with_parses=True)
    assert counts == {"read": 3}
    assert table["premise_parse"].to_pylist() == ["( a )"] * 3
    rows = [dict(zip(HANS_HEADER.split("\t"), line.split("\t"), strict=True)) for line in HANS_LINES]
    as_json = write_json_lines(tmp_path / "hans.jsonl", rows)  # type: ignore[arg-type]
    assert read_hans(as_json, with_parses=True)[0].equals(table)
    names = sorted(HANS_HEADER.split("\t"))
    shuffled = tmp_path / "shuffled.txt"
    shuffled.write_text(
        "\n".join("\t".join(cells) for cells in [names, *([row[n] for n in names] for row in rows)])
    )
    assert read_hans(shuffled, with_parses=True)[0].equals(table)


def make_pairs(rows: Sequence[tuple[str, str, str]]) -> pa.Table:
    premises, hypotheses, labels = zip(*rows, strict=True)
    ids = [str(number) for number in range(len(rows))]
    return pa.table(
        {"pair_id": ids, "split": ["train"] * len(ids)}
        | {
            "premise": premises,
            "hypothesis": hypotheses,
            "gold_label": labels,
        }
    )


def test_every_copy_of_a_repeated_pair_is_dropped_whatever_its_label() -> None:
    table = make_pairs(
        [
            ("p", "h", "neutral"),
            ("p", "i", "neutral"),
            ("p", "h", "entailment"),
            ("h", "p", "neutral"),
            ("p", "h", "neutral"),
            ("P", "h", "neutral"),
        ]
    )
    assert drop_repeated_pairs(table)["pair_id"].to_pylist() == ["1", "3", "5"]
    assert mark_later_copies(table["premise"], table["hypothesis"]).tolist() == [
        False,
        False,
        True,
        False,
        True,
        False,
    ]
    chunks = pa.chunked_array([["a", "b"], ["a"], []], pa.string())
    assert mark_later_copies(chunks, ["x", "x", "x"]).tolist() == [False, False, True]
    assert mark_later_copies([], []).tolist() == []


def test_hold_out_takes_the_first_of_each_label_and_refuses_a_short_label() -> None:
    table = make_pairs([("p", str(i), LABELS[i % 3]) for i in range(8)])
    stays, held_out = hold_out_pairs(table, per_label=2)
    assert held_out["pair_id"].to_pylist() == ["0", "1", "2", "3", "4", "5"]
    assert stays["pair_id"].to_pylist() == ["6", "7"]
    with pytest.raises(ValueError, match=r"held_out_per_label is 3.*\{'contradiction': 2\}"):
        hold_out_pairs(table, per_label=3)


def test_draws_are_nested_seeded_and_without_repeats() -> None:
    table = make_pairs([("p", str(i), LABELS[i % 3]) for i in range(50)])
    large = select_training_pairs(table, size=50, seed=1)["pair_id"].to_pylist()
    assert sorted(large) == sorted(table["pair_id"].to_pylist())
    assert large != table["pair_id"].to_pylist()
    assert select_training_pairs(table, size=20, seed=1)["pair_id"].to_pylist() == large[:20]
    assert select_training_pairs(table, size=50, seed=2)["pair_id"].to_pylist() != large
    assert select_training_pairs(table, size=0, seed=1).num_rows == 0
    with pytest.raises(ValueError, match="51 training pairs are asked for and 50 are there"):
        select_training_pairs(table, size=51, seed=1)


def test_expected_counts_stand_beside_those_found() -> None:
    assert compare_counts({"train": 4, "hans": 3}, {"train": 5}) == [
        {"name": "train", "expected": 5, "found": 4, "agrees": False},
        {"name": "hans", "expected": None, "found": 3, "agrees": None},
    ]
    assert compare_counts({"train": 4}, {"train": 4})[0]["agrees"] is True
    with pytest.raises(ValueError, match="expected_counts names trian; the counts are train"):
        compare_counts({"train": 4}, {"trian": 4})


@needs_shared
def test_store_of_real_text() -> None:
    tables, counts = prepare_store(SHARED, held_out_per_label=250, hans_per_subcase=10)
    assert (counts["train_read"], counts["matched_read"], counts["mismatched_read"]) == (11_643, 4_002, 4_002)
    assert (counts["train_repeated_dropped"], counts["mismatched_repeated_dropped"]) == (2, 2)
    assert (counts["held_out"], counts["train"], counts["hans_read"], counts["hans"]) == (
        750,
        10_891,
        30_000,
        300,
    )
    assert count_labels(tables["train"]) == {"entailment": 3_890, "neutral": 3_431, "contradiction": 3_570}
    for table in tables.values():
        assert len(set(table["pair_id"].to_pylist())) == table.num_rows
    plain = [json.loads(line) for line in (SHARED / MULTINLI_FILES["matched"]).open(encoding="utf-8")]
    assert tables["matched"]["premise"].to_pylist() == [row["sentence1"] for row in plain]
    assert tables["matched"]["gold_label"].to_pylist() == [row["gold_label"] for row in plain]


def test_data_modules_load_no_model_library() -> None:
    modules = "data, readers, prompts, heuristics, audit, diversity, training_sets"
    heavy = "{'torch', 'transformers', 'peft'}"
    code = f"import sys; from blindspot import {modules}; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert done.stderr == ""
