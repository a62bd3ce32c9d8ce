"""Generations of G: what a generation is trained on, and how the generations compare.

Generation 0 is trained on original pairs, generation k on accepted pairs that generation k - 1 wrote. Each starts
from the same pretrained base with an adapter of its own, so that what is handed on is data alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from blindspot.data import LABELS, select_training_pairs
from blindspot.study import Generator
from blindspot.training_sets import build_training_set, read_back_pairs

AUDITED = {"acceptance": "percent", "repeats": "percent_duplicate", "fidelity": "percent_right"}


@dataclass(frozen=True)
class _Drawn:
    """All that is drawn for a generation is what the one before it wrote."""

    name: str
    generation: int
    synthetic_fraction: float = 1.0
    biased_by: str | None = None
    dose: float = 1.0


def select_generator_pairs(
    source: pa.Table, *, generator: Generator, generation: int, deduplicate: bool
) -> pa.Table:
    """The pairs that one generation of G is trained on, with premise, hypothesis and gold_label.

    source: the training pairs for generation 0, of which `generator.training_size` are drawn (null: all); else the
    previous generation's synthetic table, of whose accepted rows (without later copies where `deduplicate`)
    `generator.retraining_pairs_per_label` are drawn for each label. Raises SupplyError where a label has fewer.
    """
    if generation == 0:
        return select_training_pairs(source, size=generator.training_size or len(source), seed=generator.seed)
    pairs_per_label = generator.retraining_pairs_per_label
    assert pairs_per_label is not None, "the study file is checked for it"
    drawn = build_training_set(
        original=source.slice(0, 0),
        synthetic=source,
        kind=_Drawn(name=f"of-generation-{generation}", generation=generation - 1),
        pairs_per_label=pairs_per_label,
        seed=generator.seed,
        overlap_detector="published",
        deduplicate=deduplicate,
    )
    return read_back_pairs(drawn, original=source.slice(0, 0), synthetic=source)


def join_table1(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One Table 1 of all generations, in order: later ones' synthetic rows are called `synthetic, generation k`."""
    later = [
        table[table["dataset"].eq("synthetic")].assign(dataset=f"synthetic, generation {generation}")
        for generation, table in enumerate(tables)
        if generation
    ]
    joined = pd.concat([tables[0], *later], ignore_index=True)
    is_later = ~joined["dataset"].isin(["synthetic", "original"])
    papers = {name: joined[name].mask(is_later) for name in joined if name.startswith("paper_")}
    return joined.assign(**papers)


def tabulate_generations(summaries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """What the audits say of each generation, from their runs' summaries, generation 0 first.

    Columns: generation, label, percent_accepted (of generated), percent_duplicate and percent_right (of accepted; the
    last is missing where the truth is unknown).
    """
    rows = []
    for generation, summary in enumerate(summaries):
        audits = summary["metrics"]
        for label in LABELS:
            row: dict[str, Any] = {"generation": generation, "label": label}
            for name, column in AUDITED.items():
                found = [r for r in audits.get(name) or [] if r["label"] == label]
                found = [r for r in found if r.get("outcome", "accepted") == "accepted"]
                title = "percent_accepted" if name == "acceptance" else column
                row[title] = found[0][column] if found else None
            rows.append(row)
    return pd.DataFrame(rows)
