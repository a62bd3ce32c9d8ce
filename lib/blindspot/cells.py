"""A study's evidence, cell by cell: for each point of the grid and test set, who got which example right.

A cell is a starting size, a training kind and a training size; its evidence is one row of right and wrong per
seed. Statistics and claims ask for cells and never for files. Where only `results.csv` is left, a row is a
single accuracy: seeds are then seen, examples are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa

from blindspot.evaluation import MODEL_COLUMNS, NON_ENTAILMENT, Predictions, mark_correct
from blindspot.statistics import Estimate, Examples, clip_interval, estimate_mean, group_examples

Cell: TypeAlias = tuple[int, str, int]
Evidence: TypeAlias = tuple[np.ndarray, np.ndarray]
START = "none"


class MissingCell(LookupError):
    """A cell that the study does not have, or without seeds in common with another; the message names it."""


@dataclass(frozen=True)
class Cells:
    """`tables[test_set][cell]` is (seeds, right or wrong as seeds x examples); `examples[test_set]` groups them.

    Test sets: matched, mismatched (three labels), hans and hans_blind_spot (two), where the study has them.
    """

    tables: dict[str, dict[Cell, Evidence]]
    examples: dict[str, Examples] = field(default_factory=dict)

    def list_cells(self) -> list[Cell]:
        """Every cell that any test set has, sorted."""
        return sorted({cell for table in self.tables.values() for cell in table})

    def find(self, test_set: str, cell: Cell) -> Evidence:
        """A cell's seeds and outcomes. Raises MissingCell."""
        try:
            return self.tables[test_set][cell]
        except KeyError:
            raise MissingCell(f"{name_cell(cell)} on {test_set}") from None

    def estimate_accuracy(self, test_set: str, cell: Cell) -> Estimate:
        """Accuracy of a cell with its interval over seeds and examples, which ends at 0 and 1."""
        return clip_interval(estimate_mean(self.find(test_set, cell)[1], self.examples[test_set]), 0.0, 1.0)

    def estimate_difference(self, test_set: str, first: Cell, second: Cell) -> Estimate:
        """Accuracy of the first cell minus the second's, paired by the seeds that both have and by example."""
        return self.estimate_mean_difference(test_set, [(first, second)])

    def estimate_mean_difference(self, test_set: str, pairs: Sequence[tuple[Cell, Cell]]) -> Estimate:
        """Mean over pairs of cells of first minus second, paired by the seeds that all have and by example."""
        differences = self.find_differences(test_set, pairs).mean(axis=0)
        return clip_interval(estimate_mean(differences, self.examples[test_set]), -1.0, 1.0)

    def find_differences(self, test_set: str, pairs: Sequence[tuple[Cell, Cell]]) -> np.ndarray:
        """First minus second, pairs x common seeds x examples. Raises MissingCell, also without a common seed."""
        aligned = self.align(test_set, [cell for pair in pairs for cell in pair])
        return np.subtract(aligned[::2], aligned[1::2], dtype=np.float64)

    def align(self, test_set: str, cells: Sequence[Cell]) -> np.ndarray:
        """Outcomes of cells, cells x common seeds x examples. Raises MissingCell, also without a common seed."""
        found = [self.find(test_set, cell) for cell in cells]
        common = reduce(np.intersect1d, [seeds for seeds, _ in found])
        if not len(common):
            names = " and ".join(dict.fromkeys(map(name_cell, cells)))
            raise MissingCell(f"a seed common to {names} on {test_set}")
        return np.array([right[np.intersect1d(seeds, common, return_indices=True)[1]] for seeds, right in found])


def name_cell(cell: Cell) -> str:
    """How a cell is written in tables: `start-20000`, `start-20000/synthetic-73080`."""
    starting_size, training_kind, training_size = cell
    return f"start-{starting_size}" + ("" if training_kind == START else f"/{training_kind}-{training_size}")


def collect_cells(predictions: Predictions | Iterable[Predictions], *, label_collapse: str = "argmax") -> Cells:
    """Cells from a table of predictions, or from several (one file at a time keeps memory small).

    Raises ValueError where two models of one test set were asked about different pairs, or a cell has a seed
    twice: `check_predictions` says more of such tables.
    """
    tables = [predictions] if isinstance(predictions, pa.Table | pd.DataFrame) else predictions
    pairs: dict[str, pd.DataFrame] = {}
    rows: dict[str, dict[Cell, dict[int, np.ndarray]]] = {}
    for table in tables:
        marked = mark_correct(table, label_collapse=label_collapse)
        for key, part in marked.groupby(["test_set", *MODEL_COLUMNS], observed=True, sort=False):
            test_set, _, *point, seed = (str(value) for value in key)
            by_seed = rows.setdefault(test_set, {}).setdefault(_read_cell(point), {})
            if int(seed) in by_seed:
                raise ValueError(f"{name_cell(_read_cell(point))}, seed {seed}, comes twice on {test_set}")
            by_seed[int(seed)] = _align_outcomes(test_set, part, pairs)
    stacked = {
        test_set: {cell: (np.array(list(by)), np.array(list(by.values()))) for cell, by in cells.items()}
        for test_set, cells in rows.items()
    }
    examples = {name: _group_pairs(name, frame) for name, frame in pairs.items()}
    return _add_blind_spot(Cells(stacked, examples), pairs)


def _read_cell(point: list[str]) -> Cell:
    starting_size, training_kind, training_size = point
    return int(starting_size), training_kind, int(training_size)


def _align_outcomes(test_set: str, part: pd.DataFrame, pairs: dict[str, pd.DataFrame]) -> np.ndarray:
    """One model's outcomes in the order of the pairs that the test set's first model had."""
    column = "correct_two_label" if test_set == "hans" else "correct"
    right = part[column].to_numpy(dtype=bool)
    ids = pd.Index(part["pair_id"].astype("str"))
    if test_set not in pairs:
        kept = ["gold_label", "heuristic", "subcase", "template"]
        pairs[test_set] = part[kept].astype("str").set_index(ids)
    known = pairs[test_set].index
    if ids.equals(known):
        return right
    order = ids.get_indexer(known) if ids.is_unique else np.array([-1])
    if len(ids) != len(known) or (order < 0).any():
        raise ValueError(
            f"{test_set}: model {part['model'].iloc[0]!r} has {len(ids)} pairs, not the {len(known)} that the first "
            "model has; expected the same pairs once each: evaluate again"
        )
    return right[order]


def _group_pairs(test_set: str, pairs: pd.DataFrame) -> Examples:
    """HANS by template within heuristic x label; other test sets' pairs are independent."""
    if test_set != "hans":
        return group_examples(len(pairs))
    strata = pairs["heuristic"] + " " + pairs["gold_label"]
    clusters = strata + " " + pairs["subcase"] + " " + pairs["template"]
    return group_examples(clusters.to_numpy(dtype=str), strata.to_numpy(dtype=str))


def _add_blind_spot(cells: Cells, pairs: dict[str, pd.DataFrame]) -> Cells:
    if "hans" not in pairs:
        return cells
    frame = pairs["hans"]
    inside = (frame["heuristic"].eq("lexical_overlap") & frame["gold_label"].eq(NON_ENTAILMENT)).to_numpy()
    if not inside.any():
        return cells
    found = {cell: (seeds, right[:, inside]) for cell, (seeds, right) in cells.tables["hans"].items()}
    return Cells(
        cells.tables | {"hans_blind_spot": found},
        cells.examples | {"hans_blind_spot": _group_pairs("hans", frame[inside])},
    )


def collect_cells_from_results(results: pd.DataFrame) -> Cells:
    """Cells from `results.csv` alone: one accuracy per seed, so that intervals see no examples.

    Raises ValueError where a cell has a seed twice on one test set.
    """
    key = ["test_set", "starting_size", "training_kind", "training_size"]
    if results.duplicated([*key, "seed"]).any():
        raise ValueError("results hold a cell and seed twice on one test set; expected one study's results")
    tables: dict[str, dict[Cell, Evidence]] = {}
    examples: dict[str, Examples] = {}
    for name, part in results.dropna(subset="accuracy").groupby(key, sort=False):
        test_set, *point = (str(value) for value in name)
        evidence = (part["seed"].to_numpy(), part[["accuracy"]].to_numpy(dtype=float))
        tables.setdefault(test_set, {})[_read_cell(point)] = evidence
        examples[test_set] = replace(group_examples(1), count=int(part["n"].max()))
    return Cells(tables, examples)


def tabulate_accuracies(cells: Cells) -> pd.DataFrame:
    """Every cell and test set: accuracy with its 95 % interval, mean over seeds, number of seeds and pairs.

    The columns are those of `results.csv` with low and high, one row a point: figures draw it as it is.
    """
    rows = []
    for test_set, table in cells.tables.items():
        for cell, (seeds, outcomes) in table.items():
            estimate = cells.estimate_accuracy(test_set, cell)
            rows.append(
                {**name_point(cell), "test_set": test_set, "accuracy": estimate.value, "low": estimate.low}
                | {"high": estimate.high, "seeds": len(seeds), "n": outcomes.shape[1], "model": name_cell(cell)}
            )
    return pd.DataFrame(rows)


def name_point(cell: Cell) -> dict[str, object]:
    """A cell as columns of a table."""
    return dict(zip(("starting_size", "training_kind", "training_size"), cell, strict=True))
