"""The detectors: hand-made pairs, and HANS's own promise that each of its pairs has its heuristic."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from blindspot.data import HANS_FILES, MULTINLI_FILES
from blindspot.heuristics import (
    DETECTORS,
    HEURISTICS,
    add_heuristic_columns,
    add_missing_heuristics,
    constituent,
    heuristic_column,
    lexical_overlap,
    lexical_overlap_by_detector,
    list_phrases,
    split_words,
    subsequence,
)
from blindspot.readers import read_hans, read_multinli

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "mnli-resplit"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no MultiNLI and HANS files at {SHARED}")

# premise, hypothesis, overlap by published, overlap by token_aligned
OVERLAP_CASES = [
    ("The lawyer saw the judge .", "The judge saw the lawyer .", True, True),
    ("The lawyer saw the judge.", "The judge saw the lawyer.", False, True),
    ("The judge danced.", "The judge danced", False, True),
    ("The judge danced .", "The judge danced", True, True),
    ("The Judge Danced", "the judge danced ?", True, True),
    ("The judge danced", "The judge sang", False, False),
    ("The judges danced", "The judge danced", False, False),
    ("He said, \u201cgo!\u201d", "He said go", False, True),
    ("We don't know", "We do not know", False, False),
    ("We don't know", "We don't", True, True),
    ("The cat", "", True, True),
    ("", "the cat", False, False),
    ("The cat", ". !", True, True),
    ("The cat", "...", False, True),
]


@pytest.mark.parametrize(("premise", "hypothesis", "published", "aligned"), OVERLAP_CASES)
def test_lexical_overlap_of_hand_made_pairs(
    premise: str, hypothesis: str, published: bool, aligned: bool
) -> None:
    assert lexical_overlap([premise], [hypothesis], detector="published").tolist() == [published]
    assert lexical_overlap([premise], [hypothesis], detector="token_aligned").tolist() == [aligned]


def test_both_detectors_in_one_pass() -> None:
    premises, hypotheses, published, aligned = zip(*OVERLAP_CASES, strict=True)
    found = lexical_overlap_by_detector(premises, hypotheses)
    assert {name: tuple(values.tolist()) for name, values in found.items()} == {
        "published": published,
        "token_aligned": aligned,
    }


def test_words_of_both_detectors() -> None:
    text = "The (old) judge danced. Didn't she ?"
    assert split_words(text, detector="published") == ["the", "(old)", "judge", "danced.", "didn't", "she"]
    assert split_words(text, detector="token_aligned") == ["the", "old", "judge", "danced", "didn't", "she"]


@pytest.mark.parametrize(
    ("premise", "hypothesis", "published", "aligned"),
    [
        ("The judge by the actor left .", "The actor left .", True, True),
        ("The judge by the actor left .", "The judge left .", False, False),
        ("The judge, by the actor, left.", "The judge by the actor", False, True),
        ("The judge, by the actor, left.", "By the actor", True, True),
        ("She will bat the door", "at the door", True, False),
        ("A dog", "", True, True),
    ],
)
def test_subsequence(premise: str, hypothesis: str, published: bool, aligned: bool) -> None:
    assert subsequence([premise], [hypothesis], detector="published").tolist() == [published]
    assert subsequence([premise], [hypothesis], detector="token_aligned").tolist() == [aligned]


def test_phrases_of_a_binary_parse() -> None:
    parse = "( ( The judge ) ( ( who left ) . ) )"
    assert list_phrases(parse) == [
        ["the", "judge"],
        ["who", "left"],
        ["who", "left"],
        ["the", "judge", "who", "left"],
    ]
    assert list_phrases("Yes") == []


def test_constituent_is_null_without_a_parse() -> None:
    parse = "( If ( ( the judge ) left ) ) , ( ( the actor ) ( did n't ) ) )"
    hypotheses = ["The judge left .", "judge left .", "The actor didn't.", "The judge left ."]
    parses = [parse, parse, parse, None]
    assert constituent(parses, hypotheses, detector="published") == [True, False, False, None]
    assert constituent(parses, hypotheses, detector="token_aligned") == [True, False, True, None]


def test_columns_are_added_replaced_and_named_by_detector() -> None:
    table = pa.table({"premise": ["The cat sat.", "A dog"], "hypothesis": ["The cat sat", "A cat"]})
    once = add_heuristic_columns(table, heuristics=HEURISTICS)
    assert once["lexical_overlap_published"].to_pylist() == [False, False]
    assert once["lexical_overlap_token_aligned"].to_pylist() == [True, False]
    assert once["subsequence_token_aligned"].to_pylist() == [True, False]
    assert once["constituent_published"].to_pylist() == [None, None]
    assert add_heuristic_columns(once, heuristics=HEURISTICS).equals(once)
    assert add_heuristic_columns(table.slice(0, 0)).column_names[-1] == "lexical_overlap_token_aligned"


def test_missing_columns_are_added_to_accepted_rows() -> None:
    table = pa.table(
        {
            "premise": ["the cat near the dog ran", None, "the cat near the dog ran", "unparsed words here"],
            "hypothesis": ["the dog ran", None, "the cat near the dog", "words here"],
            "accepted": [True, False, True, True],
            "lexical_overlap_published": [False, None, True, True],
        }
    )
    parses = {"the cat near the dog ran": "( ( ( the cat ) ( near ( the dog ) ) ) ran )"}
    full = add_missing_heuristics(table, detectors=["published"], parse=parses.get)
    assert full["lexical_overlap_published"].to_pylist() == [False, None, True, True], "what is there stays"
    assert full["subsequence_published"].to_pylist() == [True, None, True, True]
    assert full["constituent_published"].to_pylist() == [False, None, True, None]
    assert full.column_names == [*table.column_names, "subsequence_published", "constituent_published"]
    without = add_missing_heuristics(table.drop_columns(["accepted"]).slice(0, 1))
    assert without["constituent_token_aligned"].to_pylist() == [None]
    assert without["subsequence_token_aligned"].to_pylist() == [True]


def test_unknown_names_say_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="published, token_aligned"):
        lexical_overlap(["a"], ["a"], detector="strict")
    with pytest.raises(ValueError, match="lexical_overlap, subsequence, constituent"):
        heuristic_column("overlap", "published")


@needs_shared
def test_every_hans_pair_has_its_heuristic() -> None:
    table, _ = read_hans(SHARED / HANS_FILES[0], with_parses=True)
    table = add_heuristic_columns(table, heuristics=HEURISTICS)
    holds = {heuristic: {"lexical_overlap", heuristic} for heuristic in HEURISTICS}
    holds["constituent"].add("subsequence")
    for heuristic, implied in holds.items():
        part = table.filter(pc.equal(table["heuristic"], heuristic))
        assert part.num_rows == 10_000
        for detector in DETECTORS:
            for name in implied:
                assert pc.all(part[heuristic_column(name, detector)]).as_py(), (heuristic, name, detector)
    overlap_only = table.filter(pc.equal(table["heuristic"], "lexical_overlap"))
    assert not pc.any(overlap_only["subsequence_published"]).as_py()


@needs_shared
def test_detectors_differ_on_real_text_and_published_implies_aligned() -> None:
    table, _ = read_multinli(SHARED / MULTINLI_FILES["train"], split="train")
    table = add_heuristic_columns(table)
    published, aligned = table["lexical_overlap_published"], table["lexical_overlap_token_aligned"]
    assert not pc.any(pc.and_not(published, aligned)).as_py()
    assert 0 < 3 * pc.sum(published).as_py() < pc.sum(aligned).as_py()
