"""Training sets: {original, synthetic, biased} x sizes, and everything between them, by one rule.

A kind of training set says which share of it is synthetic, which heuristic biases it and how far. The paper's
three kinds are corners of that space; mixes and doses lie inside it and need no code of their own. Synthetic pairs are
those of one generation of G.

A biased pair is an entailment pair that has the heuristic, or another pair that has it not. At dose d, d of
each label's pairs are drawn from the biased ones and the rest from whatever is left, so that dose 0 is the
unbiased kind and dose 1 the paper's Biased Synthetic. Each label of each source has one order per seed, and
every kind and size draws from its front: a smaller set is contained in a larger one of its kind and seed, and
is its first rows where a kind draws from one pool (synthetic_fraction and dose both 0 or 1).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blindspot.data import LABELS, mark_later_copies
from blindspot.heuristics import HEURISTICS, heuristic_column

SET_SCHEMA = pa.schema(
    [
        ("training_set", pa.string()),
        ("position", pa.int64()),
        ("pair_id", pa.string()),
        ("gold_label", pa.string()),
        ("source", pa.string()),
    ]
)


class SupplyError(ValueError):
    """A label has fewer pairs than a set needs; the message names set, label, needed and available."""


class TrainingKindLike(Protocol):
    """What a kind must say; the study file's own model fits.

    synthetic_fraction: share of synthetic pairs, 0 to 1. biased_by: a heuristic or None. dose: share of
    biased pairs, 0 to 1, without meaning where biased_by is None. generation: of the G that wrote the synthetic ones.
    """

    @property
    def name(self) -> str: ...
    @property
    def synthetic_fraction(self) -> float: ...
    @property
    def biased_by(self) -> str | None: ...
    @property
    def dose(self) -> float: ...
    @property
    def generation(self) -> int: ...


@dataclass(frozen=True)
class Pool:
    """The pairs of one source that may be drawn.

    pair_ids: of the whole table. orders: label -> row numbers, shuffled by the seed. has_heuristic: heuristic
    -> one of 1 (has it), 0 (has it not), -1 (unknown) per row; only for the heuristics that a kind asks for.
    """

    source: str
    pair_ids: pa.ChunkedArray
    orders: dict[str, np.ndarray]
    has_heuristic: dict[str, np.ndarray]


def name_training_set(kind_name: str, *, pairs_per_label: int) -> str:
    """`<kind>-<total size>`, such as `synthetic-1200` for 400 pairs per label."""
    return f"{kind_name}-{len(LABELS) * pairs_per_label}"


def build_training_sets(
    *,
    original: pa.Table,
    synthetic: pa.Table | None,
    kinds: Sequence[TrainingKindLike],
    pairs_per_label: Sequence[int],
    seed: int,
    overlap_detector: str,
    deduplicate: bool,
) -> dict[str, pa.Table]:
    """Every kind at every size, by set name, each with SET_SCHEMA; the tables are gone through once.

    original: the train pairs (pair_id, gold_label, and `<heuristic>_<overlap_detector>` where a kind is
    biased). synthetic: generated pairs of which only accepted ones are drawn, and with `deduplicate` only the
    first of those with the same premise and hypothesis (column `duplicate` from the audit, else found here
    from the texts); several generations of G stand in one table, told apart by the column `generation`, without
    which all is generation 0; None where no kind uses them. Every set has `pairs_per_label` of each label and no row
    twice. Raises SupplyError that lists every shortage of the first set that has one, ValueError for a kind
    that cannot be.
    """
    for kind in kinds:
        check_kind(kind)
    heuristics = sorted({kind.biased_by for kind in kinds if kind.biased_by is not None})
    columns = {name: heuristic_column(name, overlap_detector) for name in heuristics}
    pools = {"original": _build_pool("original", original, None, columns=columns, seed=seed)}
    if any(kind.synthetic_fraction > 0 for kind in kinds):
        if synthetic is None:
            raise ValueError("a kind draws synthetic pairs, but no synthetic table was given")
        for generation in sorted({kind.generation for kind in kinds if kind.synthetic_fraction > 0}):
            source = _name_synthetic_source(generation)
            eligible = mark_eligible(synthetic, deduplicate=deduplicate, generation=generation)
            pools[source] = _build_pool(source, synthetic, eligible, columns=columns, seed=seed)
    sets = [_draw_set(pools, kind, size=size, seed=seed) for kind in kinds for size in pairs_per_label]
    return {table["training_set"][0].as_py(): table for table in sets}


def build_training_set(
    *,
    original: pa.Table,
    synthetic: pa.Table | None,
    kind: TrainingKindLike,
    pairs_per_label: int,
    seed: int,
    overlap_detector: str,
    deduplicate: bool,
) -> pa.Table:
    """One set; arguments and errors as for `build_training_sets`, which gives the same rows."""
    sets = build_training_sets(
        original=original,
        synthetic=synthetic,
        kinds=[kind],
        pairs_per_label=[pairs_per_label],
        seed=seed,
        overlap_detector=overlap_detector,
        deduplicate=deduplicate,
    )
    return next(iter(sets.values()))


def check_kind(kind: TrainingKindLike) -> None:
    """Raise ValueError for a share outside 0 to 1 or an unknown heuristic."""
    for name, share in (("synthetic_fraction", kind.synthetic_fraction), ("dose", kind.dose)):
        if not 0 <= share <= 1:
            raise ValueError(f"training kind {kind.name!r}: {name} is {share}; expected a number from 0 to 1")
    if kind.biased_by is not None and kind.biased_by not in HEURISTICS:
        allowed = f"expected {', '.join(HEURISTICS)} or None"
        raise ValueError(f"training kind {kind.name!r}: biased_by is {kind.biased_by!r}; {allowed}")


def mark_eligible(synthetic: pa.Table, *, deduplicate: bool, generation: int = 0) -> np.ndarray:
    """Which synthetic rows may be trained on: a generation's accepted ones, without later copies where `deduplicate`.

    A copy is one within its generation.
    """
    accepted = mark_true(synthetic["accepted"])
    if "generation" in synthetic.column_names:
        accepted &= mark_true(pc.equal(synthetic["generation"], generation))
    elif generation:
        raise ValueError(f"a kind draws from generation {generation}, but the synthetic pairs have no such column")
    if not deduplicate:
        return accepted
    if "duplicate" in synthetic.column_names:
        return accepted & ~mark_true(synthetic["duplicate"])
    rows = np.flatnonzero(accepted)
    accepted[rows] = ~mark_duplicates(synthetic.take(pa.array(rows)))
    return accepted


def _name_synthetic_source(generation: int) -> str:
    """What a pool is called in messages, and seeds its order."""
    return f"generation-{generation} synthetic" if generation else "synthetic"


def mark_duplicates(synthetic: pa.Table) -> np.ndarray:
    """True for each accepted row with the premise and hypothesis of an earlier one, whatever the labels."""
    rows = np.flatnonzero(mark_true(synthetic["accepted"]))
    pairs = synthetic.select(["premise", "hypothesis"]).take(pa.array(rows))
    duplicate = np.zeros(synthetic.num_rows, dtype=bool)
    duplicate[rows] = mark_later_copies(pairs["premise"], pairs["hypothesis"])
    return duplicate


def mark_true(column: pa.ChunkedArray) -> np.ndarray:
    """A bool column as a numpy array; null counts as False."""
    return pc.fill_null(column, False).to_numpy(zero_copy_only=False).astype(bool)


def _build_pool(
    source: str, table: pa.Table, eligible: np.ndarray | None, *, columns: dict[str, str], seed: int
) -> Pool:
    orders = {}
    for label in LABELS:
        chosen = mark_true(pc.equal(table["gold_label"], label))
        rows = np.flatnonzero(chosen if eligible is None else chosen & eligible)
        orders[label] = _make_rng(seed, source, label).permutation(rows)
    flags = {
        heuristic: pc.fill_null(pc.cast(table[column], pa.int8()), -1).to_numpy()
        for heuristic, column in columns.items()
        if column in table.column_names
    }
    return Pool(source=source, pair_ids=table["pair_id"], orders=orders, has_heuristic=flags)


def _make_rng(seed: int, *names: str) -> np.random.Generator:
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def _draw_set(pools: Mapping[str, Pool], kind: TrainingKindLike, *, size: int, seed: int) -> pa.Table:
    """One set: one pair of each label in turn, the labels of each turn in shuffled order."""
    name = name_training_set(kind.name, pairs_per_label=size)
    drawn = [_draw_label(pools, kind, label, size=size) for label in LABELS]
    shortages = [shortage for _, found in drawn for shortage in found]
    if shortages:
        advice = "Ask for fewer pairs_per_label, generate more examples, or lower the dose."
        raise SupplyError(f"training set {name!r} needs {'; '.join(shortages)}. {advice}")
    turns = _make_rng(seed, "labels in turn").random((size, len(LABELS))).argsort(axis=1)
    rows = np.stack([picked for picked, _ in drawn], axis=1)
    return _tabulate_set(
        pools,
        name=name,
        rows=np.take_along_axis(rows, turns, axis=1).ravel(),
        labels=np.array(LABELS, dtype=object)[turns].ravel(),
    )


def _draw_label(
    pools: Mapping[str, Pool], kind: TrainingKindLike, label: str, *, size: int
) -> tuple[np.ndarray, list[str]]:
    """`size` rows of one label, numbered through original, then synthetic pairs; and what is short."""
    n_synthetic = _round_share(kind.synthetic_fraction, size)
    offset = len(pools["original"].pair_ids)
    parts, shortages = [], []
    sources = ("original", _name_synthetic_source(kind.generation))
    for source, count, start in zip(sources, (size - n_synthetic, n_synthetic), (0, offset), strict=True):
        if count:
            rows, shortage = _draw_from_pool(pools[source], kind, label, count=count)
            parts.append(rows + start)
            shortages += [shortage] if shortage else []
    return _merge_evenly(parts), shortages


def _draw_from_pool(pool: Pool, kind: TrainingKindLike, label: str, *, count: int) -> tuple[np.ndarray, str]:
    """`count` rows of one label and source: the biased ones first chosen, then others; or what is short."""
    order = pool.orders[label]
    n_biased = 0 if kind.biased_by is None else _round_share(kind.dose, count)
    fitting, having = order, ""
    if n_biased and kind.biased_by is not None:
        wanted = label == "entailment"
        having = f" {'with' if wanted else 'without'} {kind.biased_by}"
        fitting = order[_look_up_heuristic(pool, kind.biased_by)[order] == int(wanted)]
    for needed, supply, which in ((n_biased, len(fitting), having), (count, len(order), "")):
        if supply < needed:
            return order, f"{needed:,} {pool.source} {label} pairs{which}, and {supply:,} are available"
    biased = fitting[:n_biased]
    others = order[~np.isin(order, biased)] if n_biased else order
    return _merge_evenly([biased, others[: count - n_biased]]), ""


def _look_up_heuristic(pool: Pool, heuristic: str) -> np.ndarray:
    if heuristic not in pool.has_heuristic:
        raise ValueError(f"the {pool.source} pairs have no column for {heuristic}, by which a kind is biased")
    return pool.has_heuristic[heuristic]


def _round_share(share: float, count: int) -> int:
    """The nearest whole number to `share` of `count`; as `count` rises, it and the rest never fall."""
    return int(share * count + 0.5)


def _merge_evenly(parts: Sequence[np.ndarray]) -> np.ndarray:
    """One array out of several, each kept in its order and spread evenly over the whole."""
    places = np.concatenate([(np.arange(len(part)) + 0.5) / max(len(part), 1) for part in parts])
    return np.concatenate(parts)[np.argsort(places, kind="stable")]


def _tabulate_set(pools: Mapping[str, Pool], *, name: str, rows: np.ndarray, labels: np.ndarray) -> pa.Table:
    offset = len(pools["original"].pair_ids)
    is_synthetic = rows >= offset
    pair_ids = np.empty(len(rows), dtype=object)
    for is_original, mask in ((True, ~is_synthetic), (False, is_synthetic)):
        if mask.any():
            pool = next(pool for name, pool in pools.items() if (name == "original") == is_original)
            start = 0 if is_original else offset
            pair_ids[mask] = pool.pair_ids.take(pa.array(rows[mask] - start)).to_numpy()
    columns = {
        "training_set": [name] * len(rows),
        "position": np.arange(len(rows)),
        "pair_id": pair_ids,
        "gold_label": labels,
        "source": np.where(is_synthetic, "synthetic", "original"),
    }
    return pa.table(columns, schema=SET_SCHEMA)


def pick_training_set(training_sets: pa.Table, *, name: str) -> pa.Table:
    """The rows of one set out of a table of several. Raises ValueError with the names that there are."""
    rows = training_sets.filter(pc.equal(training_sets["training_set"], name))
    if not rows.num_rows:
        names = pc.unique(training_sets["training_set"]).to_pylist()
        raise ValueError(f"no training set {name!r}; there are {', '.join(names)}")
    return rows


def read_back_pairs(
    training_set: pa.Table,
    *,
    original: pa.Table,
    synthetic: pa.Table | None,
    columns: Sequence[str] = ("premise", "hypothesis"),
) -> pa.Table:
    """The set's rows with what the tables say of their pairs: SET_SCHEMA plus `columns`, in the set's order.

    The tables need pair_id and the columns. Raises ValueError for an id that its source lacks.
    """
    parts = []
    for source, table in (("original", original), ("synthetic", synthetic)):
        chosen = training_set.filter(pc.equal(training_set["source"], source))
        if not chosen.num_rows:
            continue
        ids = pa.nulls(0, pa.string()) if table is None else table["pair_id"]
        rows = pc.index_in(chosen["pair_id"], value_set=ids)
        if table is None or rows.null_count:
            example = chosen.filter(pc.is_null(rows))["pair_id"][0].as_py()
            raise ValueError(f"{rows.null_count} pairs of the set are not among the {source} pairs, such as {example}")
        for name in columns:
            chosen = chosen.append_column(name, table[name].take(rows))
        parts.append(chosen)
    return pa.concat_tables(parts).sort_by("position") if parts else training_set


def describe_training_set(
    name: str, pairs: pa.Table, *, original: pa.Table, synthetic: pa.Table, heuristics: Sequence[str], detector: str
) -> list[dict[str, object]]:
    """Rows of set, label, pairs, synthetic pairs among them, and `percent_<heuristic>` by `detector` for each.

    pairs: a set as `build_training_sets` gives it. original, synthetic: tables with pair_id and the heuristics'
    columns. A percentage is of the pairs whose heuristic is known.
    """
    columns = {heuristic: heuristic_column(heuristic, detector) for heuristic in heuristics}
    known = {
        row["pair_id"]: row
        for table in (original, synthetic)
        for row in table.filter(pc.is_in(table["pair_id"], pairs["pair_id"].combine_chunks()))
        .select(["pair_id", *columns.values()])
        .to_pylist()
    }
    rows: list[dict[str, object]] = []
    for label in LABELS:
        chosen = pairs.filter(pc.equal(pairs["gold_label"], label))
        row: dict[str, object] = {
            "training_set": name,
            "gold_label": label,
            "pairs": len(chosen),
            "synthetic": pc.sum(pc.equal(chosen["source"], "synthetic")).as_py() or 0,
        }
        for heuristic, column in columns.items():
            flags = [known[pair_id][column] for pair_id in chosen["pair_id"].to_pylist()]
            decided = [flag for flag in flags if flag is not None]
            row[f"percent_{heuristic}"] = 100 * sum(decided) / len(decided) if decided else None
        rows.append(row)
    return rows
