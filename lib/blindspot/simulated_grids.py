"""Whole grids of predictions with known truth, to find out what the statistics and the ledger do with them.

Each prediction is right with a probability that adds up a base, the cell's true effect, and random effects of
seed (shared by all that grows from one starting model, and of each run's own), template (of the construction,
and of how each cell and each run meet it) and example. Adding probabilities keeps the truth known: the random
effects are symmetric, so a cell's true accuracy is base + effect as long as the sum stays inside 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from blindspot.cells import Cell, Cells
from blindspot.statistics import Examples, group_examples

STARTING_SIZES = (0, 5_000, 10_000, 20_000, 100_000, 391_722)
TRAINING_SIZES = (18_020, 36_040, 73_080)
TRAINING_KINDS = ("original", "synthetic", "biased_synthetic")


@dataclass(frozen=True)
class Variation:
    """Standard deviations, in accuracy, of the random effects of one test set.

    start: of a starting model, shared by what is trained on from it. run: of one further training run.
    template: of a template in all models. cell: of a template in one cell, whatever the seed (a difference
    between cells that the test set, not the seeds, blurs). interaction: of a template in one run. example.
    """

    start: float = 0.04
    run: float = 0.03
    template: float = 0.08
    cell: float = 0.02
    interaction: float = 0.04
    example: float = 0.05


def list_cells(
    *,
    starting_sizes: tuple[int, ...] = STARTING_SIZES,
    training_kinds: tuple[str, ...] = TRAINING_KINDS,
    training_sizes: tuple[int, ...] = TRAINING_SIZES,
) -> list[Cell]:
    """The cells of a grid: each start alone, then every kind and size from it."""
    trained = [(kind, size) for kind in training_kinds for size in training_sizes]
    return [(start, *condition) for start in starting_sizes for condition in [("none", 0), *trained]]


def simulate_grid(
    *,
    cells: list[Cell],
    effects: Mapping[str, Mapping[Cell, float]],
    seeds: int,
    seed: int,
    templates: int = 60,
    pairs_per_template: int = 10,
    matched_pairs: int = 600,
    base: float = 0.6,
    variation: Variation | None = None,
) -> Cells:
    """Predictions of a grid on `matched`, `hans` and `hans_blind_spot`.

    `effects` gives each test set's true differences from the base by cell, 0 where none is given; those of
    `hans` hold for the blind spot too. HANS has six strata of `templates` / 6 templates each.
    """
    generator = np.random.default_rng(seed)
    hans_variation = variation or Variation()
    matched_variation = Variation(hans_variation.start / 4, hans_variation.run / 4, 0.0, 0.0, 0.0, 0.15)
    template = np.repeat(np.arange(templates), pairs_per_template)
    stratum = template * 6 // templates
    layouts = {"matched": (group_examples(matched_pairs), np.arange(matched_pairs), matched_variation)}
    layouts["hans"] = (group_examples(template, stratum), template, hans_variation)
    outcomes = {
        name: draw_outcomes(
            generator=generator,
            means=base + np.array([effects.get(name, {}).get(cell, 0.0) for cell in cells]),
            starts=np.unique([cell[0] for cell in cells], return_inverse=True)[1],
            seeds=seeds,
            template=template_of_example,
            variation=chosen,
        )
        for name, (_, template_of_example, chosen) in layouts.items()
    }
    examples: dict[str, Examples] = {name: layout[0] for name, layout in layouts.items()}
    blind_spot = stratum == 0
    outcomes["hans_blind_spot"] = outcomes["hans"][:, :, blind_spot]
    examples["hans_blind_spot"] = group_examples(template[blind_spot])
    names = np.arange(1, seeds + 1)
    tables = {
        name: {cell: (names, outcome) for cell, outcome in zip(cells, by_cell, strict=True)}
        for name, by_cell in outcomes.items()
    }
    return Cells(tables=tables, examples=examples)


def draw_outcomes(
    *,
    generator: np.random.Generator,
    means: np.ndarray,
    starts: np.ndarray,
    seeds: int,
    template: np.ndarray,
    variation: Variation,
) -> np.ndarray:
    """Right or wrong, bool, cells x seeds x examples; `means` and `starts` by cell, `template` by example."""
    cells, templates = len(means), int(template.max()) + 1

    def draw(scale: float, *shape: int) -> np.ndarray:
        """Normal effects, cut symmetrically at 2.5 so that sums stay inside 0 to 1."""
        return scale * np.clip(generator.standard_normal(shape), -2.5, 2.5)

    by_run = draw(variation.start, starts.max() + 1, seeds)[starts] + draw(variation.run, cells, seeds)
    chances = np.broadcast_to(means[:, None, None] + by_run[:, :, None], (cells, seeds, templates))
    if variation.template or variation.cell or variation.interaction:
        shared = draw(variation.template, templates) + draw(variation.cell, cells, 1, templates)
        chances = chances + shared + draw(variation.interaction, cells, seeds, templates)
        chances = chances[:, :, template]
    else:
        chances = chances[:, :, :1]
    chances = (chances + draw(variation.example, len(template))).astype(np.float32)
    return generator.random((cells, seeds, len(template)), dtype=np.float32) < chances


def simulate_blind_spot(
    accuracies: Mapping[Cell, float],
    *,
    seeds: int,
    seed: int,
    run_concentration: float = 12.0,
    template_concentration: float = 8.0,
    templates: int = 25,
    pairs_per_template: int = 20,
) -> Cells:
    """Predictions on `hans_blind_spot` alone, with each cell's true accuracy given; also where that is near 0.

    There no symmetric effect can be added, so a run's accuracy is drawn from a beta distribution about its cell's,
    and a template's about its run's. A concentration of 12 gives runs the SD of 0.124 at 0.277 that 100 BERTs have
    (McCoy, Min and Linzen 2020). Accuracies lie between 0 and 1, ends excluded.
    """
    generator = np.random.default_rng(seed)
    template = np.repeat(np.arange(templates), pairs_per_template)

    def draw(means: np.ndarray, concentration: float) -> np.ndarray:
        inside = np.clip(means, 1e-6, 1 - 1e-6)
        return generator.beta(inside * concentration, (1 - inside) * concentration)

    runs = draw(np.repeat(np.array(list(accuracies.values()))[:, None], seeds, axis=1), run_concentration)
    chances = draw(np.repeat(runs[:, :, None], templates, axis=2), template_concentration)[:, :, template]
    outcomes = generator.random(chances.shape) < chances
    names = np.arange(1, seeds + 1)
    table = {cell: (names, right) for cell, right in zip(accuracies, outcomes, strict=True)}
    return Cells(tables={"hans_blind_spot": table}, examples={"hans_blind_spot": group_examples(template)})


def tabulate_results(cells: Cells) -> pd.DataFrame:
    """A grid's accuracies in the columns of `results.csv`."""
    rows = [
        (*cell, seed, test_set, right.mean(), right.size, f"{'-'.join(map(str, cell))}-{seed}")
        for test_set, table in cells.tables.items()
        for cell, (seeds, outcomes) in table.items()
        for seed, right in zip(seeds, outcomes, strict=True)
    ]
    names = ["starting_size", "training_kind", "training_size", "seed", "test_set", "accuracy", "n", "model"]
    return pd.DataFrame(rows, columns=names)
