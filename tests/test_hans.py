"""HANS's scorer and its command line, against tables worked out by hand."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pandas as pd
import pytest

from blindspot.__main__ import main
from blindspot.hans import (
    PredictionFileError,
    read_hans_predictions,
    score_hans,
    score_hans_files,
    score_hans_models,
)
from blindspot.readers import read_hans

# pairID, gold label, heuristic, subcase, template, prediction: 6 of 8 right
PAIRS = [
    ("ex0", "non-entailment", "lexical_overlap", "ln_passive", "temp1", "contradiction"),
    ("ex1", "non-entailment", "lexical_overlap", "ln_passive", "temp1", "entailment"),
    ("ex2", "non-entailment", "lexical_overlap", "ln_passive", "temp2", "neutral"),
    ("ex3", "entailment", "lexical_overlap", "le_passive", "temp3", "entailment"),
    ("ex4", "entailment", "lexical_overlap", "le_passive", "temp3", "non-entailment"),
    ("ex5", "non-entailment", "subsequence", "sn_NP/S", "temp4", "non-entailment"),
    ("ex6", "entailment", "constituent", "ce_adverb", "temp5", "entailment"),
    ("ex7", "entailment", "constituent", "ce_adverb", "temp5", "entailment"),
]
HEADER = "gold_label\tsentence1\tsentence2\tpairID\theuristic\tsubcase\ttemplate\n"
GOOD = "pairID,gold_label\n" + "".join(f"{row[0]},{row[5]}\n" for row in PAIRS)


@pytest.fixture
def hans_file(tmp_path: Path) -> Path:
    path = tmp_path / "heuristics_evaluation_set.txt"
    rows = ["\t".join((gold, "A b .", "A .", pair, *rest)) for pair, gold, *rest, _ in PAIRS]
    path.write_text(HEADER + "\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def predictions_file(tmp_path: Path) -> Path:
    path = tmp_path / "predictions.txt"
    path.write_text(GOOD, encoding="utf-8")
    return path


def list_rows(scores: pd.DataFrame, level: str, *columns: str) -> list[tuple]:
    rows = scores.loc[scores["level"].eq(level), [*columns, "n", "correct", "accuracy"]]
    return list(rows.itertuples(index=False, name=None))


def test_scores_are_the_hand_computed_ones(predictions_file: Path, hans_file: Path) -> None:
    scores = score_hans_files(predictions_file, hans_file)
    assert list_rows(scores, "all") == [(8, 6, 0.75)]
    assert list_rows(scores, "heuristic", "heuristic", "gold_label") == [
        ("lexical_overlap", "entailment", 2, 1, 0.5),
        ("lexical_overlap", "non-entailment", 3, 2, 2 / 3),
        ("subsequence", "non-entailment", 1, 1, 1.0),
        ("constituent", "entailment", 2, 2, 1.0),
    ]
    assert list_rows(scores, "subcase", "subcase") == [
        ("le_passive", 2, 1, 0.5),
        ("ln_passive", 3, 2, 2 / 3),
        ("sn_NP/S", 1, 1, 1.0),
        ("ce_adverb", 2, 2, 1.0),
    ]
    assert list_rows(scores, "template", "subcase", "template") == [
        ("le_passive", "temp3", 2, 1, 0.5),
        ("ln_passive", "temp1", 2, 1, 0.5),
        ("ln_passive", "temp2", 1, 1, 1.0),
        ("sn_NP/S", "temp4", 1, 1, 1.0),
        ("ce_adverb", "temp5", 2, 2, 1.0),
    ]


def test_three_labels_collapse_and_order_does_not_matter(hans_file: Path) -> None:
    hans = read_hans(hans_file)[0]
    three = {row[0]: row[5] for row in reversed(PAIRS)}
    two = {pair: "entailment" if label == "entailment" else "non-entailment" for pair, label in three.items()}
    assert score_hans(three, hans).equals(score_hans(two, hans))


BAD_FILES = {
    "empty": (b"", "is empty"),
    "header only": (b"pairID,gold_label\n", "no predictions"),
    "wrong header": (GOOD.replace("pairID,gold_label", "id,label").encode(), "line 1: the header is 'id,label'"),
    "no header": (GOOD.split("\n", 1)[1].encode(), "line 1: the header is 'ex0,contradiction'"),
    "tab-separated": (GOOD.replace(",", "\t").encode(), "comma-separated"),
    "three fields": (GOOD.replace("ex1,ent", "ex1,0.9,ent").encode(), r"1 lines without exactly two .*line 3: 3"),
    "one field": (GOOD.replace("ex2,neutral", "ex2").encode(), r"1 lines without exactly two .*line 4: 1"),
    "blank line inside": (GOOD.replace("ex2,", "\nex2,").encode(), r"1 lines without exactly two .*line 4"),
    "unknown labels": (
        GOOD.replace("ex0,contradiction", "ex0,2").replace(",neutral", ",Neutral").encode(),
        r"2 unknown labels \(line 2: '2', line 4: 'Neutral'\)",
    ),
    "empty pairID": (GOOD.replace("ex3,", ",").encode(), r"1 lines with an empty pairID \(line 5\)"),
    "not UTF-8": (GOOD.replace("ex3", "ex\xe9").encode("latin-1"), "not UTF-8"),
    "doubled": (GOOD.encode() + b"ex3,entailment\nex4,neutral\n", r"2 doubled pairIDs \(ex3, ex4\)"),
    "missing": (
        GOOD.replace("ex5,non-entailment\n", "").replace("ex0,contradiction\n", "").encode(),
        r"2 pairIDs are missing \(ex0, ex5\)",
    ),
    "unknown pairID": (GOOD.encode() + b"ex99,neutral\n", r"1 pairIDs are unknown \(ex99\)"),
    "missing and unknown": (
        GOOD.replace("ex7", "ex77").encode(),
        r"1 pairIDs are missing \(ex7\) and 1 pairIDs are unknown \(ex77\)",
    ),
}


@pytest.mark.parametrize("name", list(BAD_FILES))
def test_bad_prediction_files_are_refused_by_name_and_count(
    name: str, tmp_path: Path, hans_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, message = BAD_FILES[name]
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(PredictionFileError, match=message):
        score_hans_files(path, hans_file)
    assert main(["score-hans", str(path), str(hans_file)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.out == ""


def test_missing_files_and_a_bad_hans_file_end_with_a_message(
    tmp_path: Path, predictions_file: Path, hans_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.txt"
    broken.write_text(HEADER.replace("subcase", "kind"), encoding="utf-8")
    for first, second, message in (
        (tmp_path / "none.txt", hans_file, "no predictions file"),
        (tmp_path, hans_file, "is not a file"),
        (predictions_file, tmp_path / "none.txt", "no HANS file"),
        (predictions_file, broken, "the header lacks subcase"),
    ):
        assert main(["score-hans", str(first), str(second)]) == 2
        assert message in capsys.readouterr().err


def test_a_byte_order_mark_windows_line_ends_and_spaces_are_read(tmp_path: Path, hans_file: Path) -> None:
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace(",", ", ").replace("\n", "\r\n").encode() + b"\r\n")
    assert read_hans_predictions(path) == {row[0]: row[5] for row in PAIRS}


def test_command_prints_tables_and_json(predictions_file: Path, hans_file: Path) -> None:
    command = [sys.executable, "-m", "blindspot", "score-hans", str(predictions_file), str(hans_file)]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "6 of 8 pairs right, accuracy 0.7500" in table
    assert "ln_passive" in table and "0.6667" in table
    found = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert (found["pairs"], found["correct"], found["accuracy"]) == (8, 6, 0.75)
    assert found["by_heuristic"][0] == {
        "heuristic": "lexical_overlap", "gold_label": "entailment", "n": 2, "correct": 1, "accuracy": 0.5,
    }  # fmt: skip
    assert [len(found[f"by_{level}"]) for level in ("heuristic", "subcase", "template")] == [4, 4, 5]


def test_command_needs_no_torch(predictions_file: Path, hans_file: Path) -> None:
    code = (
        "import sys; from blindspot.__main__ import main; "
        f"main(['score-hans', {str(predictions_file)!r}, {str(hans_file)!r}, '--json']); "
        "main(['plan-seeds', '--effect', '0.1']); "
        "sys.exit([name for name in ('torch', 'transformers', 'peft') if name in sys.modules] or None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_models_of_the_study_are_scored_by_the_same_function(hans_file: Path) -> None:
    logits = {"entailment": (2, 1, 0), "neutral": (0, 2, 1), "contradiction": (0, 1, 2), "non-entailment": (0, 2, 1)}
    rows = [
        ("model-a", 20, "none", 0, 1, "hans", f"hans-{pair}", gold, heuristic, sub, temp, *logits[predicted])
        for pair, gold, heuristic, sub, temp, predicted in PAIRS
    ]
    names = ["model", "starting_size", "training_kind", "training_size", "seed", "test_set", "pair_id", "gold_label"]
    names += ["heuristic", "subcase", "template", "logit_entailment", "logit_neutral", "logit_contradiction"]
    found = score_hans_models(pd.DataFrame(rows, columns=names))
    expected = score_hans({row[0]: row[5] for row in PAIRS}, read_hans(hans_file)[0])
    assert found["model"].unique().tolist() == ["model-a"]
    assert found.drop(columns="model").equals(expected)


def test_a_fresh_draw_of_hans_gives_hand_computed_tables(shared_data: Path, tmp_path: Path) -> None:
    hans_file = shared_data / "hans" / "heuristics_evaluation_set.txt"
    lines = hans_file.read_text(encoding="utf-8").splitlines()
    names = lines[0].split("\t")
    pairs = [dict(zip(names, line.split("\t"), strict=True)) for line in lines[1:]]
    # Every fourth pair of a subcase is called entailment; subcases are blocks of 1,000: 0.25 and 0.75 each.
    said = {pair["pairID"]: "entailment" if index % 4 == 0 else "neutral" for index, pair in enumerate(pairs)}
    path = tmp_path / "every_fourth.txt"
    path.write_text("pairID,gold_label\n" + "".join(f"{key},{value}\n" for key, value in said.items()))
    scores = score_hans_files(path, hans_file)
    assert list_rows(scores, "all") == [(30_000, 15_000, 0.5)]
    cells = list_rows(scores, "heuristic", "gold_label")
    assert cells == [("entailment", 5000, 1250, 0.25), ("non-entailment", 5000, 3750, 0.75)] * 3
    subcases = list_rows(scores, "subcase", "gold_label")
    assert len(subcases) == 30
    assert set(subcases) == {("entailment", 1000, 250, 0.25), ("non-entailment", 1000, 750, 0.75)}
    counted: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for pair in pairs:
        right = (said[pair["pairID"]] == "entailment") == (pair["gold_label"] == "entailment")
        counted[pair["template"]][0] += 1
        counted[pair["template"]][1] += right
    found = {row[0]: [row[1], row[2]] for row in list_rows(scores, "template", "template")}
    assert found == dict(counted) and len(found) == 60
