"""Sets from hand-made supply: what each kind holds, nesting, equal labels, no repeats, shortages."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from blindspot.data import LABELS
from blindspot.training_sets import (
    SET_SCHEMA,
    SupplyError,
    build_training_set,
    build_training_sets,
    describe_training_set,
    mark_duplicates,
    mark_eligible,
    name_training_set,
    pick_training_set,
    read_back_pairs,
)


@dataclass(frozen=True)
class Kind:
    name: str
    synthetic_fraction: float
    biased_by: str | None = None
    dose: float = 1.0
    generation: int = 0


ORIGINAL = Kind("original", 0.0)
SYNTHETIC = Kind("synthetic", 1.0)
BIASED = Kind("biased_synthetic", 1.0, "lexical_overlap")
HALF_DOSE = Kind("half_dose", 1.0, "lexical_overlap", 0.5)
MIX = Kind("mix", 0.25, "lexical_overlap", 0.5)


def make_source(prefix: str, per_label: int, *, overlap_every: int = 4) -> pa.Table:
    """`per_label` pairs of each label in turn; every `overlap_every`-th of a label has lexical overlap."""
    labels = [LABELS[i % 3] for i in range(3 * per_label)]
    has = [(i // 3) % overlap_every == 0 for i in range(3 * per_label)]
    return pa.table(
        {
            "pair_id": [f"{prefix}-{i}" for i in range(3 * per_label)],
            "premise": [f"premise {prefix} {i}" for i in range(3 * per_label)],
            "hypothesis": [f"hypothesis {i}" for i in range(3 * per_label)],
            "gold_label": labels,
            "lexical_overlap_published": has,
            "lexical_overlap_token_aligned": [True] * (3 * per_label),
            "accepted": [True] * (3 * per_label),
        }
    )


ORIGINALS = make_source("train", 40)
GENERATED = make_source("syn", 40)


def build(
    kind: Kind, size: int, *, seed: int = 1, synthetic: pa.Table = GENERATED, **more: object
) -> pa.Table:
    settings = {"overlap_detector": "published", "deduplicate": True} | more
    return build_training_set(
        original=ORIGINALS,
        synthetic=synthetic,
        kind=kind,
        pairs_per_label=size,
        seed=seed,
        **settings,  # type: ignore[arg-type]
    )


def ids_of(table: pa.Table) -> list[str]:
    ids: list[str] = table["pair_id"].to_pylist()
    return ids


def look_up(table: pa.Table, column: str) -> list[object]:
    known: dict[str, object] = {}
    for source in (ORIGINALS, GENERATED):
        known |= dict(zip(source["pair_id"].to_pylist(), source[column].to_pylist(), strict=True))
    return [known[pair_id] for pair_id in ids_of(table)]


@pytest.mark.parametrize("kind", [ORIGINAL, SYNTHETIC, BIASED, HALF_DOSE, MIX])
@pytest.mark.parametrize("size", [1, 7, 10])
def test_labels_are_equal_true_and_pairs_do_not_repeat(kind: Kind, size: int) -> None:
    table = build(kind, size)
    assert table.schema == SET_SCHEMA
    assert set(table["training_set"].to_pylist()) == {f"{kind.name}-{3 * size}"}
    assert table["position"].to_pylist() == list(range(3 * size))
    assert len(set(ids_of(table))) == 3 * size
    labels = table["gold_label"].to_pylist()
    assert labels == look_up(table, "gold_label")
    assert all(set(labels[turn : turn + 3]) == set(LABELS) for turn in range(0, 3 * size, 3))


def test_sources_and_names() -> None:
    assert set(build(ORIGINAL, 10)["source"].to_pylist()) == {"original"}
    assert set(build(SYNTHETIC, 10)["source"].to_pylist()) == {"synthetic"}
    mixed = build(MIX, 8)
    assert mixed["source"].to_pylist().count("synthetic") == 3 * 2
    for pair_id, source in zip(ids_of(mixed), mixed["source"].to_pylist(), strict=True):
        assert pair_id.startswith("syn-" if source == "synthetic" else "train-")
    assert name_training_set("synthetic", pairs_per_label=24_360) == "synthetic-73080"


def count_biased(table: pa.Table) -> int:
    flags = look_up(table, "lexical_overlap_published")
    return sum(
        has == (label == "entailment")
        for has, label in zip(flags, table["gold_label"].to_pylist(), strict=True)
    )


def test_dose_sets_the_biased_pairs() -> None:
    assert count_biased(build(BIASED, 10)) == 30
    no_dose = build(Kind("none", 1.0, "lexical_overlap", 0.0), 10)
    assert ids_of(no_dose) == ids_of(build(SYNTHETIC, 10))
    half = count_biased(build(HALF_DOSE, 10))
    assert 15 <= half < 30
    originals = build(Kind("biased_original", 0.0, "lexical_overlap"), 10)
    assert count_biased(originals) == 30
    assert set(originals["source"].to_pylist()) == {"original"}


def test_bias_goes_by_the_chosen_detector() -> None:
    with pytest.raises(
        SupplyError, match="10 synthetic neutral pairs without lexical_overlap, and 0 are available"
    ):
        build(BIASED, 10, overlap_detector="token_aligned")


@pytest.mark.parametrize("kind", [ORIGINAL, SYNTHETIC, BIASED])
def test_smaller_sets_are_the_first_rows_of_larger_ones(kind: Kind) -> None:
    large = ids_of(build(kind, 10))
    for size in range(1, 10):
        assert ids_of(build(kind, size)) == large[: 3 * size]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", [HALF_DOSE, MIX, Kind("k", 0.7, "lexical_overlap", 0.3), Kind("m", 1 / 3)])
def test_smaller_sets_are_contained_in_larger_ones(kind: Kind, seed: int) -> None:
    sets = [set(ids_of(build(kind, size, seed=seed))) for size in range(1, 16)]
    assert all(small < large for small, large in pairwise(sets))


def test_a_grid_of_sets_equals_the_sets_one_by_one_and_seeds_differ() -> None:
    sets = build_training_sets(
        original=ORIGINALS,
        synthetic=GENERATED,
        kinds=[ORIGINAL, SYNTHETIC, BIASED],
        pairs_per_label=[2, 5, 10],
        seed=1,
        overlap_detector="published",
        deduplicate=True,
    )
    names = ("original", "synthetic", "biased_synthetic")
    assert list(sets) == [f"{name}-{n}" for name in names for n in (6, 15, 30)]
    assert sets["biased_synthetic-15"].equals(build(BIASED, 5))
    assert build(SYNTHETIC, 10).equals(build(SYNTHETIC, 10))
    assert set(ids_of(build(SYNTHETIC, 10, seed=2))) != set(ids_of(build(SYNTHETIC, 10)))


def test_a_shortage_names_set_label_needed_and_available() -> None:
    message = (
        r"'biased_synthetic-33' needs 11 synthetic entailment pairs with lexical_overlap, and 10 are "
        r"available\. Ask for fewer pairs_per_label"
    )
    with pytest.raises(SupplyError, match=message):
        build(BIASED, 11)
    with pytest.raises(
        SupplyError, match=r"41 original entailment pairs, and 40.*contradiction pairs, and 40"
    ):
        build(ORIGINAL, 41)
    assert build(ORIGINAL, 40).num_rows == 120
    with pytest.raises(ValueError, match="no synthetic table was given"):
        build(SYNTHETIC, 1, synthetic=None)


def make_synthetic(rows: list[tuple[str, str, bool]]) -> pa.Table:
    table = pa.table(
        {
            "pair_id": [f"syn-{i}" for i in range(len(rows))],
            "hypothesis": [text for text, _, _ in rows],
            "gold_label": [label for _, label, _ in rows],
            "accepted": [accepted for _, _, accepted in rows],
        }
    )
    premises = pa.array([None if text is None else "p" for text, _, _ in rows], pa.string())
    return table.append_column("premise", premises)


REPEATS = make_synthetic(
    [
        ("a", "entailment", False),
        ("a", "entailment", True),
        ("a", "entailment", True),
        ("b", "neutral", True),
        ("a", "neutral", True),
        ("c", "contradiction", True),
        ("d", "contradiction", True),
    ]
)


def test_repeats_and_rejects_are_left_out() -> None:
    assert mark_duplicates(REPEATS).tolist() == [False, False, True, False, True, False, False]
    assert set(ids_of(build(SYNTHETIC, 1, synthetic=REPEATS))) - {"syn-5", "syn-6"} == {"syn-1", "syn-3"}
    with pytest.raises(SupplyError, match="2 synthetic entailment pairs, and 1 are available"):
        build(SYNTHETIC, 2, synthetic=REPEATS)
    with_repeats = build(SYNTHETIC, 2, synthetic=REPEATS, deduplicate=False)
    assert set(ids_of(with_repeats)) == {f"syn-{i}" for i in range(1, 7)}
    marked = REPEATS.append_column("duplicate", pa.array([False] * 7))
    assert build(SYNTHETIC, 2, synthetic=marked).num_rows == 6


def test_generations_are_pools_of_their_own() -> None:
    later = make_source("syn-g1", 40)
    both = pa.concat_tables(
        [table.append_column("generation", pa.array([place] * 120)) for place, table in enumerate((GENERATED, later))]
    )
    first, second = (build(Kind("k", 1.0, generation=place), 10, synthetic=both) for place in (0, 1))
    assert first == build(Kind("k", 1.0), 10), "generation 0 is drawn as where there is no other"
    assert all(pair_id.startswith("syn-g1-") for pair_id in ids_of(second))
    mixed = build(Kind("k", 0.5, "lexical_overlap", generation=1), 10, synthetic=both)
    assert [sum(name.startswith(p) for name in ids_of(mixed)) for p in ("train-", "syn-g1-")] == [15, 15]
    texts = read_back_pairs(mixed, original=ORIGINALS, synthetic=both)
    assert {t.split()[1] for t in texts["premise"].to_pylist()} == {"train", "syn-g1"}
    with pytest.raises(SupplyError, match="needs 41 generation-1 synthetic entailment pairs, and 40 are available"):
        build(Kind("k", 1.0, generation=1), 41, synthetic=both)
    with pytest.raises(ValueError, match="generation 1, but the synthetic pairs have no such column"):
        build(Kind("k", 1.0, generation=1), 1)


def test_a_repeat_is_one_within_its_generation() -> None:
    rows = GENERATED.slice(0, 3)
    both = pa.concat_tables([rows, rows]).append_column("generation", pa.array([0, 0, 0, 1, 1, 1]))
    assert mark_eligible(both, deduplicate=True).tolist() == [True] * 3 + [False] * 3
    assert mark_eligible(both, deduplicate=True, generation=1).tolist() == [False] * 3 + [True] * 3
    again = pa.concat_tables([rows, rows])
    assert mark_eligible(again, deduplicate=True).tolist() == [True] * 3 + [False] * 3


def test_description_gives_each_heuristic_by_label() -> None:
    table = build(BIASED, 8)
    more = GENERATED.append_column("constituent_published", pa.array([None] * 120, pa.bool_()))
    rows = describe_training_set(
        "x", table, original=more, synthetic=more, heuristics=["lexical_overlap", "constituent"], detector="published"
    )
    assert [row["percent_lexical_overlap"] for row in rows] == [100.0, 0.0, 0.0]
    assert [row["percent_constituent"] for row in rows] == [None] * 3
    assert [(row["pairs"], row["synthetic"]) for row in rows] == [(8, 8)] * 3


def test_unknown_heuristic_values_are_never_biased() -> None:
    flags = pa.array([None if i % 2 else True for i in range(120)], pa.bool_())
    table = GENERATED.append_column("constituent_published", flags)
    with pytest.raises(SupplyError, match="neutral pairs without constituent, and 0 are available"):
        build(Kind("biased", 1.0, "constituent"), 2, synthetic=table)
    with pytest.raises(ValueError, match="original pairs have no column for constituent"):
        build(Kind("biased", 0.0, "constituent"), 2)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Kind("k", 1.2), "'k': synthetic_fraction is 1.2; expected a number from 0 to 1"),
        (Kind("k", 1.0, "lexical_overlap", -0.1), "'k': dose is -0.1"),
        (Kind("k", 1.0, "overlap"), "'k': biased_by is 'overlap'; expected lexical_overlap, subsequence"),
    ],
)
def test_impossible_kinds_are_errors(kind: Kind, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(kind, 1)


def test_a_draw_is_uniform_over_the_supply() -> None:
    counts = np.zeros(40)
    for seed in range(400):
        picked = [int(pair_id.split("-")[1]) for pair_id in ids_of(build(SYNTHETIC, 10, seed=seed))]
        counts += np.bincount([number // 3 for number in picked if number % 3 == 0], minlength=40)
    assert counts.sum() == 4_000
    assert counts.min() > 60
    assert counts.max() < 140


def test_texts_are_read_back_in_order() -> None:
    table = build(MIX, 8)
    pairs = read_back_pairs(table, original=ORIGINALS, synthetic=GENERATED)
    assert ids_of(pairs) == ids_of(table)
    assert pairs["premise"].to_pylist() == look_up(table, "premise")
    assert pairs["hypothesis"].to_pylist() == look_up(table, "hypothesis")
    assert read_back_pairs(build(ORIGINAL, 2), original=ORIGINALS, synthetic=None).num_rows == 6
    with pytest.raises(ValueError, match="not among the synthetic pairs, such as syn-"):
        read_back_pairs(table, original=ORIGINALS, synthetic=GENERATED.slice(0, 3))
    with pytest.raises(ValueError, match="6 pairs of the set are not among the synthetic pairs"):
        read_back_pairs(table, original=ORIGINALS, synthetic=None)


def test_one_set_is_picked_out_of_a_table_of_several() -> None:
    both = pa.concat_tables([build(ORIGINAL, 2), build(SYNTHETIC, 2)])
    assert pick_training_set(both, name="synthetic-6").equals(build(SYNTHETIC, 2))
    with pytest.raises(ValueError, match="no training set 'synthetic-9'; there are original-6, synthetic-6"):
        pick_training_set(both, name="synthetic-9")
