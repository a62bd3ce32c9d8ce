"""Generations of G: what each is trained on, and the tables that show them side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from blindspot.audit import build_table1, summarise_acceptance, summarise_repeats
from blindspot.claim_table1 import read_overlap_counts
from blindspot.data import LABELS
from blindspot.figure_tables import table1_display
from blindspot.generations import join_table1, select_generator_pairs, tabulate_generations
from blindspot.study import Generator, load_study
from blindspot.training_sets import SupplyError


def make_generator(**changes: Any) -> Generator:
    values = load_study("test").generator.model_dump(mode="json")
    return Generator.model_validate({**values, "generations": 3, "retraining_pairs_per_label": 4} | changes)


def make_written(generation: int, *, per_label: int = 8, overlapping: int = 2) -> pa.Table:
    """What a generation wrote: of each label, `overlapping` with overlap, one reject and one repeat at the end."""
    rows = [
        {
            "pair_id": f"syn-{generation}-{label}-{place}",
            "premise": f"premise {label} {min(place, per_label - 2)}",
            "hypothesis": f"hypothesis of {generation}",
            "gold_label": label,
            "accepted": place != 0,
            "reject_reason": "no_sentinel" if place == 0 else None,
            "generation": generation,
            "duplicate": place == per_label - 1,
            "copied_from_training": False,
            "lexical_overlap_published": place <= overlapping if place else None,
            "lexical_overlap_token_aligned": True if place else None,
        }
        for label in LABELS
        for place in range(per_label)
    ]
    return pa.Table.from_pylist(rows)


def test_generation_0_learns_from_original_pairs() -> None:
    train = pa.table({"pair_id": [f"t{i}" for i in range(9)], "premise": list("abcdefghi")})
    drawn = select_generator_pairs(train, generator=make_generator(training_size=4), generation=0, deduplicate=True)
    assert len(set(drawn["pair_id"].to_pylist())) == 4
    every = select_generator_pairs(train, generator=make_generator(training_size=None), generation=0, deduplicate=True)
    assert sorted(every["premise"].to_pylist()) == list("abcdefghi")


def test_a_later_generation_learns_from_accepted_pairs_of_the_one_before() -> None:
    written = make_written(1)
    drawn = select_generator_pairs(written, generator=make_generator(), generation=2, deduplicate=True)
    assert [drawn["gold_label"].to_pylist().count(label) for label in LABELS] == [4, 4, 4]
    ids = drawn["pair_id"].to_pylist()
    assert len(set(ids)) == 12 and not [name for name in ids if name.endswith(("-0", "-7"))]
    texts = dict(zip(written["pair_id"].to_pylist(), written["premise"].to_pylist(), strict=True))
    assert drawn["premise"].to_pylist() == [texts[name] for name in ids]
    assert drawn == select_generator_pairs(written, generator=make_generator(), generation=2, deduplicate=True)


def test_a_generation_without_enough_pairs_says_so() -> None:
    six = make_generator(retraining_pairs_per_label=6)
    assert len(select_generator_pairs(make_written(1), generator=six, generation=2, deduplicate=True)) == 18
    seven = make_generator(retraining_pairs_per_label=7)
    assert len(select_generator_pairs(make_written(1), generator=seven, generation=2, deduplicate=False)) == 21
    with pytest.raises(SupplyError, match=r"of-generation-2-21.*needs 7 generation-1 synthetic entailment.* 6 are"):
        select_generator_pairs(make_written(1), generator=seven, generation=2, deduplicate=True)


@pytest.fixture(scope="module")
def table1() -> pd.DataFrame:
    """Overlap in 2 of 7 accepted pairs of generation 0 and 4 of 7 of generation 1; in 1 of 4 original pairs."""
    original = pa.table(
        {
            "gold_label": [label for label in LABELS for _ in range(4)],
            "lexical_overlap_published": [place == 0 for _ in LABELS for place in range(4)],
            "lexical_overlap_token_aligned": [True] * 12,
        }
    )
    written = [make_written(0), make_written(1, overlapping=4)]
    return join_table1([build_table1(original=original, synthetic=table) for table in written])


def test_table1_shows_each_generation(table1: pd.DataFrame) -> None:
    rows = table1[table1["detector"].eq("published") & table1["label"].eq("neutral")].set_index("dataset")
    assert list(rows.index) == ["synthetic", "original", "synthetic, generation 1"]
    assert rows["n_overlap"].tolist() == [2, 1, 4] and rows["count"].tolist() == [7, 4, 7]
    assert rows.loc["synthetic, generation 1", "ratio"] == pytest.approx((4 / 7) / (1 / 4))
    assert rows["paper_count"].notna().tolist() == [True, True, False], "the paper has one generation"
    shown = table1_display(table1)
    names = [name for name, label in shown.index if label == "neutral"]
    assert names == ["synthetic", "synthetic, generation 1", "original"]
    assert shown.loc[("synthetic, generation 1", "neutral"), ("this study, published finder", "# LO")] == "4"
    assert shown.loc[("synthetic, generation 1", "neutral"), ("the paper", "Count")] == "-"


def test_claims_read_generation_0(table1: pd.DataFrame) -> None:
    counts = read_overlap_counts(table1, detector="published")
    assert counts is not None and counts["synthetic", "neutral"] == (2, 7)


def test_generations_side_by_side() -> None:
    summaries = []
    for generation in (0, 1):
        written = make_written(generation)
        audits = {"acceptance": summarise_acceptance(written), "repeats": summarise_repeats(written)}
        metrics: dict[str, Any] = {name: frame.to_dict("records") for name, frame in audits.items()}
        fidelity = [{"label": label, "percent_right": 90.0 - 10 * generation} for label in (*LABELS, "all")]
        summaries.append({"metrics": metrics | {"fidelity": fidelity if generation else None}})
    table = tabulate_generations(summaries)
    assert table["generation"].tolist() == [0, 0, 0, 1, 1, 1] and table["label"].tolist() == [*LABELS, *LABELS]
    assert np.allclose(table["percent_accepted"], 100 * 7 / 8)
    assert np.allclose(table["percent_duplicate"].astype(float), 100 / 7)
    assert table["percent_right"].isna().tolist() == [True] * 3 + [False] * 3
