"""Novelty: shingles by hand, the join and the greedy marking against brute force, columns and their table by hand."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from blindspot import shingles
from blindspot.audit import list_rows
from blindspot.novelty import add_novelty_columns, list_nearest_pairs, summarise_novelty
from blindspot.shingles import encode_shingles, find_nearest, hash_shingles, join_similar, mark_near_copies

WORDS = [
    *("the", "a", "old", "red", "man", "dog", "cat", "saw", "ran", "to"),
    *("big", "house", "near", "of", "river", "and", "not", "who", "left", "sang"),
]


def make_pairs(pairs: list[tuple[str, str]]) -> pa.Table:
    premises, hypotheses = ([pair[place] for pair in pairs] for place in (0, 1))
    ids = [f"p{row}" for row in range(len(pairs))]
    schema = pa.schema([("pair_id", pa.string()), ("premise", pa.string()), ("hypothesis", pa.string())])
    return pa.table([ids, premises, hypotheses], schema=schema)


def draw_pairs(rows: int, *, seed: int) -> list[tuple[str, str]]:
    """Sentences of few words, many of them an earlier pair with a word or two changed, some the same again."""
    rng = np.random.default_rng(seed)
    pairs: list[tuple[str, str]] = []
    for _ in range(rows):
        if pairs and rng.random() < 0.7:
            texts = [text.split() for text in pairs[rng.integers(len(pairs))]]
            for _ in range(rng.integers(0, 4)):
                text = texts[rng.integers(2)]
                if text:
                    text[rng.integers(len(text))] = str(rng.choice(WORDS))
        else:
            texts = [rng.choice(WORDS, size=rng.integers(0, 9)).tolist() for _ in range(2)]
        pairs.append((" ".join(texts[0]), " ".join(texts[1])))
    return pairs


@cache
def split_pair(pair: tuple[str, str]) -> set[tuple[str, ...]]:
    """The shingles of a pair as their definition says, without a hash."""
    found: set[tuple[str, ...]] = set()
    for field, text in zip("ph", pair, strict=True):
        words = ["<", *text.lower().replace(".", "").replace(",", "").split(), ">"]
        found |= {(field, *both) for both in pairwise(words)}
    return found


@cache
def compare(first: tuple[str, str], second: tuple[str, str]) -> float:
    one, other = split_pair(first), split_pair(second)
    return len(one & other) / len(one | other)


def test_shingles_of_one_pair() -> None:
    rows, codes = hash_shingles(make_pairs([("The man ran.", "the MAN , ran"), ("", "a a a a"), ("x", "y")]))
    # 4 + 4; the empty sentence has one, and `< a`, `a a`, `a >` of the other; 2 + 2
    assert np.bincount(rows).tolist() == [8, 4, 4]
    assert len(set(codes.tolist())) == 16, "a premise's shingle is not a hypothesis's"
    again = hash_shingles(make_pairs([("the man, ran", "The man ran .")]))[1]
    assert sorted(again) == sorted(codes[rows == 0])


def test_similarity_by_hand() -> None:
    """`a b c d | a b` has 5 + 3 shingles; with d changed to e, 2 of them go and 2 others come: 6 of 10."""
    pairs = [("a b c d", "a b"), ("a b c e", "a b"), ("b a c d", "b a"), ("x", "y")]
    sets, others = encode_shingles([make_pairs(pairs)] * 2)
    assert sets.sizes.tolist() == [8, 8, 8, 4]
    found = [
        (int(r), int(t), float(s))
        for rows, targets, similarity in join_similar(sets, others, least=0.5)
        for r, t, s in zip(rows, targets, similarity, strict=True)
    ]
    assert found == [(0, 0, 1.0), (0, 1, 0.6), (1, 0, 0.6), (1, 1, 1.0), (2, 2, 1.0), (3, 3, 1.0)]


@pytest.mark.parametrize("least", [0.3, 0.5, 0.7, 0.8, 1.0])
@pytest.mark.parametrize("small_slices", [False, True])
def test_the_join_is_brute_force(monkeypatch: pytest.MonkeyPatch, least: float, small_slices: bool) -> None:
    if small_slices:
        for name, size in (("MAX_CANDIDATES", 50), ("COMPARED_AT_ONCE", 7), ("BATCH_ROWS", 31)):
            monkeypatch.setattr(shingles, name, size)
    both = draw_pairs(500, seed=3)
    queries, index = both[::2], both[1::2]
    expected = {
        (q, t): compare(first, second)
        for q, first in enumerate(queries)
        for t, second in enumerate(index)
        if compare(first, second) >= least
    }
    assert len(expected) > 20
    sets = encode_shingles([make_pairs(queries), make_pairs(index)])
    found: dict[tuple[int, int], float] = {}
    for rows, targets, similarity in join_similar(*sets, least=least):
        part = dict(zip(zip(rows.tolist(), targets.tolist(), strict=True), similarity.tolist(), strict=True))
        assert not part.keys() & found.keys()
        found |= part
    assert found == pytest.approx(expected)
    nearest, best = find_nearest(*sets, least=least)
    for q, first in enumerate(queries):
        scores = [compare(first, second) for second in index]
        if max(scores) >= least:
            assert (nearest[q], best[q]) == (int(np.argmax(scores)), pytest.approx(max(scores)))
        else:
            assert nearest[q] == -1 and np.isnan(best[q])


@pytest.mark.parametrize("batch_rows", [1, 7, 10_000])
def test_near_copies_are_brute_force(batch_rows: int) -> None:
    pairs = draw_pairs(300, seed=5)
    expected: list[int] = []
    for row, pair in enumerate(pairs):
        kept = (before for before in range(row) if expected[before] < 0 and compare(pairs[before], pair) >= 0.7)
        expected.append(next(kept, -1))
    [sets] = encode_shingles([make_pairs(pairs)])
    found = mark_near_copies(sets, least=0.7, batch_rows=batch_rows)
    assert found.tolist() == expected
    assert 50 < (found >= 0).sum() < 250


def test_nothing_to_join() -> None:
    queries, index = encode_shingles([make_pairs([("a b", "c")]), make_pairs([])])
    assert find_nearest(queries, index, least=0.5)[0].tolist() == [-1]
    assert find_nearest(index, queries, least=0.5)[0].tolist() == []
    assert mark_near_copies(index, least=0.5).tolist() == []
    with pytest.raises(ValueError, match=r"least is 0; expected a similarity above 0"):
        next(join_similar(queries, index, least=0))


def make_synthetic(rows: list[tuple[str, str, str, bool]]) -> pa.Table:
    labels, premises, hypotheses, accepted = zip(*rows, strict=True)
    return pa.table(
        {
            "pair_id": [f"syn-{row}" for row in range(len(rows))],
            "premise": pa.array(premises, pa.string()),
            "hypothesis": pa.array(hypotheses, pa.string()),
            "gold_label": labels,
            "accepted": accepted,
        }
    )


TRAINING = make_pairs([("The man saw the old dog.", "The man ran."), ("A b c d.", "E f."), ("A b c d.", "E g.")])
SYNTHETIC = make_synthetic(
    [
        ("neutral", "The man saw the old dog.", "The man ran.", True),  # exact
        ("neutral", "the man saw the old dog", "the man ran", True),  # as similar as can be, but not exact; repeats 0
        ("entailment", "The man saw the old cat.", "The man ran.", True),  # 9 of 13 shared: under 0.7
        ("entailment", "A b c d.", "E h.", True),  # 6 of 10 with both others; the first counts
        ("entailment", "Q r s t.", "U v.", True),
        ("entailment", None, None, False),  # type: ignore[list-item]
        ("neutral", "The man saw the old dog.", "The man ran", True),
    ]
)


def test_novelty_columns_by_hand() -> None:
    marked = add_novelty_columns(SYNTHETIC, training=TRAINING)
    assert marked["novelty"].to_pylist() == ["exact", "near", "new", "new", "new", None, "near"]
    assert marked["nearest_training_id"].to_pylist() == ["p0", "p0", "p0", "p1", None, None, "p0"]
    expected = [1.0, 1.0, 9 / 13, 0.6, None, None, 1.0]
    assert marked["nearest_training_similarity"].to_pylist() == pytest.approx(expected)
    assert marked["near_duplicate"].to_pylist() == [False, True, False, False, False, None, True]
    assert marked["near_duplicate_of"].to_pylist() == [None, "syn-0", None, None, None, None, "syn-0"]
    assert add_novelty_columns(marked, training=TRAINING).equals(marked), "columns are replaced"
    looser = add_novelty_columns(SYNTHETIC, training=TRAINING, near=0.65)
    assert looser["novelty"].to_pylist() == ["exact", "near", "near", "new", "new", None, "near"]
    with pytest.raises(ValueError, match=r"near is 0\.4 and least 0\.5"):
        add_novelty_columns(SYNTHETIC, training=TRAINING, near=0.4)


def test_only_the_generators_own_pairs_count() -> None:
    marked = add_novelty_columns(SYNTHETIC, training=TRAINING.slice(1))
    assert marked["novelty"].to_pylist()[:2] == ["new", "new"]
    assert marked["nearest_training_id"].to_pylist()[3] == "p1"


def test_novelty_table() -> None:
    rows: list[dict[str, Any]] = list_rows(summarise_novelty(add_novelty_columns(SYNTHETIC, training=TRAINING)))
    by_label = {row["label"]: row for row in rows}
    neutral, none = by_label["neutral"], by_label["contradiction"]
    assert [neutral[name] for name in ("accepted", "exact", "near", "new", "near_duplicate")] == [3, 1, 2, 0, 2]
    assert neutral["percent_near"] == pytest.approx(200 / 3)
    assert none["accepted"] == none["exact"] == 0 and none["percent_exact"] is None
    assert by_label["all"]["accepted"] == 6 and by_label["all"]["percent_new"] == 50
    # entailment: 9/13, 0.6 and below 0.5
    assert by_label["entailment"]["similarity_50"] == pytest.approx(0.6)
    assert by_label["entailment"]["similarity_90"] == pytest.approx(9 / 13)
    assert none["similarity_50"] is None


def test_nearest_pairs_stand_side_by_side() -> None:
    marked = add_novelty_columns(SYNTHETIC, training=TRAINING)
    frame = list_nearest_pairs(marked, training=TRAINING, rows=3)
    assert frame["similarity"].tolist() == pytest.approx([1, 1, 9 / 13])
    assert frame.iloc[2].drop("similarity").to_dict() == {
        **{"gold_label": "entailment", "premise": "The man saw the old cat.", "hypothesis": "The man ran."},
        **{"training_premise": "The man saw the old dog.", "training_hypothesis": "The man ran."},
    }
    assert len(list_nearest_pairs(marked.slice(4), training=TRAINING, rows=3)) == 1
