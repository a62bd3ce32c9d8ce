"""What a claim is made of: parts, each one number with evidence for it and against it.

A part compares cells and ends in an estimate and two p-values: one small where the data show that the part
holds, one small where they show that it fails. 'No effect' is only ever shown by an equivalence test against
the smallest effect that matters; a wide interval shows nothing in either direction. A directional part fails
where the effect is shown to go the other way or to be smaller than the smallest effect that matters. Where
both are shown (a real but tiny effect) the part holds, and its interval says how small.

Tests of direction are two-sided at alpha; tests against the smallest effect are one-sided at alpha, as is the
convention for equivalence. Starting sizes take the paper's roles by rank, see `rank_starting_sizes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from blindspot.cells import START, Cell, Cells, MissingCell, name_cell
from blindspot.statistics import ALPHA, SMALLEST_EFFECT, Estimate, p_equivalent, p_greater, p_less

PAPER_STARTING_SIZES = (0, 5_000, 10_000, 20_000, 100_000, 391_722)
UNDER_TRAINED, TURNING_POINT, WELL_TRAINED, LARGEST = (0, 1, 2), (3,), (4, 5), (5,)
NAN = float("nan")


@dataclass(frozen=True)
class Part:
    """One comparison that a claim rests on. Without `estimate` it could not be made; `problem` says why."""

    name: str
    estimate: Estimate | None
    p_for: float
    p_against: float
    cells: tuple[str, ...]
    problem: str = ""


@dataclass(frozen=True)
class Grid:
    """The cells of a study with what turns them into parts: sizes by role, and what counts as small."""

    cells: Cells
    smallest_effect: float = SMALLEST_EFFECT
    near_zero: float = 0.10
    ranks: dict[int, int] = field(default_factory=dict)
    training_sizes: tuple[int, ...] = ()

    def starts(self, roles: Sequence[int] = range(6)) -> list[int]:
        """Starting sizes that have one of these roles, smallest first."""
        return [size for size, rank in self.ranks.items() if rank in roles]

    def start(self, starting_size: int) -> Cell:
        """The cell of a starting model itself."""
        return (starting_size, START, 0)

    def largest(self, starting_size: int, training_kind: str) -> Cell:
        """The cell with the largest training set of a kind."""
        return (starting_size, training_kind, max(self.training_sizes, default=0))


def build_grid(cells: Cells, *, smallest_effect: float = SMALLEST_EFFECT, near_zero: float = 0.10) -> Grid:
    """The grid of a study's cells. Raises ValueError for margins outside 0 to 1."""
    if not 0 < smallest_effect < 1 or not 0 < near_zero < 1:
        raise ValueError(
            f"smallest_effect is {smallest_effect} and near_zero {near_zero}; expected accuracies between 0 and 1"
        )
    found = cells.list_cells()
    sizes = sorted({cell[2] for cell in found if cell[1] in ("original", "synthetic", "biased_synthetic")})
    ranks = rank_starting_sizes([cell[0] for cell in found])
    return Grid(cells, smallest_effect, near_zero, ranks, tuple(sizes))


def rank_starting_sizes(sizes: Sequence[int]) -> dict[int, int]:
    """The role of each starting size: its rank, 0 to 5, among the paper's (PAPER_STARTING_SIZES).

    Six sizes take the ranks in order. Otherwise a size of 0 (a random head) is rank 0, and the others spread
    evenly over 1 to 5 so that the largest is 5, halves rounded up: [0, 20] gives 0 and 5; [0, 500, 4000] gives
    0, 1, 5; a single size above 0 is 5. More than six share ranks.
    """
    ordered = sorted(set(sizes))
    if len(ordered) == len(PAPER_STARTING_SIZES):
        return {size: rank for rank, size in enumerate(ordered)}
    trained = [size for size in ordered if size > 0]
    steps = max(len(trained) - 1, 1)
    ranks = {size: int(1 + 4 * index / steps + 0.5) for index, size in enumerate(trained)}
    if len(trained) == 1:
        ranks[trained[0]] = LARGEST[0]
    return {size: 0 if size == 0 else ranks[size] for size in ordered}


def compare(grid: Grid, test: str, *, test_set: str, first: Cell, second: Cell, name: str = "") -> Part:
    """The part 'first minus second on test_set': `test` is rises, falls, not_rises, not_falls or equivalent."""
    names = (name_cell(first), name_cell(second))
    title = f"{name}{names[0]} minus {names[1]}, {test_set}: {test.replace('_', ' ')}"
    try:
        estimate = grid.cells.estimate_difference(test_set, first, second)
    except MissingCell as missing:
        return Part(title, None, NAN, NAN, names, f"lacks {missing}")
    return Part(title, estimate, *weigh(estimate, test, margin=grid.smallest_effect), names)


def compare_on_average(grid: Grid, test: str, *, test_set: str, pairs: Sequence[tuple[Cell, Cell]], name: str) -> Part:
    """The part 'first minus second, averaged over pairs of cells': see `compare`. A start at 0 adds a 0, no luck."""
    names = tuple(dict.fromkeys(name_cell(cell) for pair in pairs for cell in pair))
    title = f"{name}, {test_set}: {test.replace('_', ' ')}"
    try:
        estimate = grid.cells.estimate_mean_difference(test_set, pairs)
    except MissingCell as missing:
        return Part(title, None, NAN, NAN, names, f"lacks {missing}")
    return Part(title, estimate, *weigh(estimate, test, margin=grid.smallest_effect), names)


def weigh(estimate: Estimate, test: str, *, margin: float) -> tuple[float, float]:
    """p-values for and against: see the module's text. Raises KeyError for an unknown test."""
    rises = (double(p_greater(estimate)), p_less(estimate, margin))
    falls = (double(p_less(estimate)), p_greater(estimate, -margin))
    outside = double(least(p_greater(estimate, margin), p_less(estimate, -margin)))
    return {
        "rises": rises,
        "falls": falls,
        "not_rises": rises[::-1],
        "not_falls": falls[::-1],
        "equivalent": (p_equivalent(estimate, smallest_effect=margin), outside),
    }[test]


def double(p_value: float) -> float:
    """A two-sided p-value from the one-sided one in the direction of interest."""
    return p_value if p_value != p_value else min(2 * p_value, 1.0)


def least(*p_values: float) -> float:
    """The smallest p-value, NaN where one is NaN."""
    return NAN if any(value != value for value in p_values) else min(p_values)


def greatest(*p_values: float) -> float:
    """The largest p-value, NaN where one is NaN."""
    return NAN if any(value != value for value in p_values) else max(p_values)


def find_trend(grid: Grid, starting_size: int, *, happens: bool = True, training_size: int | None = None) -> Part:
    """The part 'HANS falls while matched rises' from a start to its largest Synthetic set, or that it does not.

    Both must be shown, so the larger p-value counts; either being shown to fail is enough against, so there
    the smaller, doubled, does. The estimate is HANS's difference.
    """
    first, second = grid.largest(starting_size, "synthetic"), grid.start(starting_size)
    first = first if training_size is None else (starting_size, "synthetic", training_size)
    hans = compare(grid, "falls", test_set="hans", first=first, second=second)
    matched = compare(grid, "rises", test_set="matched", first=first, second=second)
    p_values = (greatest(hans.p_for, matched.p_for), double(least(hans.p_against, matched.p_against)))
    title = f"start-{starting_size}: HANS falls while matched rises" + ("" if happens else ": does not happen")
    problem = hans.problem or matched.problem
    estimate = None if problem else hans.estimate
    return Part(title, estimate, *(p_values if happens else p_values[::-1]), hans.cells, problem)


def combine_all(name: str, parts: Sequence[Part]) -> Part:
    """The part 'all of these hold': the largest p-value for, Bonferroni's against; the estimate of the weakest."""
    problem = next((part.problem for part in parts if part.problem), "")
    weakest = max(parts, key=lambda part: part.p_for if part.p_for == part.p_for else 2.0)
    against = min(least(*(part.p_against for part in parts)) * len(parts), 1.0)
    cells = tuple(dict.fromkeys(cell for part in parts for cell in part.cells))
    p_for = greatest(*(part.p_for for part in parts))
    return Part(name, None if problem else weakest.estimate, p_for, against, cells, problem)


def combine_any(name: str, parts: Sequence[Part]) -> Part:
    """The part 'one of these holds': Bonferroni's p-value for, the largest against; the estimate of the best."""
    problem = next((part.problem for part in parts if part.problem), "")
    best = min(parts, key=lambda part: part.p_for if part.p_for == part.p_for else 2.0)
    p_for = min(least(*(part.p_for for part in parts)) * len(parts), 1.0)
    cells = tuple(dict.fromkeys(cell for part in parts for cell in part.cells))
    against = greatest(*(part.p_against for part in parts))
    return Part(name, None if problem else best.estimate, p_for, against, cells, problem)


def judge(p_for: float, p_against: float, *, alpha: float = ALPHA) -> str:
    """supported, contradicted or undecided, from evidence for and against; what is shown to hold, holds."""
    if p_for <= alpha:
        return "supported"
    return "contradicted" if p_against <= alpha else "undecided"
