"""Which cells decide which claim: one function per claim about models, from a grid to the claim's parts.

Kept apart from the ledger so that the comparisons can be read side by side. A function returns no parts where
the study has no cell of that role; a cell that should be there and is not becomes a part with its problem.
"""

from __future__ import annotations

import numpy as np

from blindspot.cells import Cell, MissingCell, name_cell
from blindspot.claim_parts import (
    LARGEST,
    NAN,
    TURNING_POINT,
    UNDER_TRAINED,
    Grid,
    Part,
    combine_all,
    combine_any,
    compare,
    compare_on_average,
    find_trend,
)
from blindspot.statistics import clip_interval, estimate_mean, p_greater, p_less

SYNTHETIC, ORIGINAL, BIASED = "synthetic", "original", "biased_synthetic"
BLIND_SPOT = "hans_blind_spot"
REPORTED_TEST_SETS = ("matched", "hans", BLIND_SPOT)


def compare_with_start(
    grid: Grid, *, test: str, test_set: str, roles: tuple[int, ...], kinds: tuple[str, ...]
) -> list[Part]:
    """Each kind's largest set minus the starting model, for the starts with these roles."""
    return [
        compare(grid, test, test_set=test_set, first=grid.largest(start, kind), second=grid.start(start))
        for start in grid.starts(roles)
        for kind in kinds
    ]


def compare_kinds_matched(grid: Grid) -> list[Part]:
    """Claim 2: Synthetic minus Original at the largest size, under-trained starts."""
    return [
        compare(
            grid,
            "equivalent",
            test_set="matched",
            first=grid.largest(start, SYNTHETIC),
            second=grid.largest(start, ORIGINAL),
        )
        for start in grid.starts(UNDER_TRAINED)
    ]


def find_trends_by_start(grid: Grid) -> list[Part]:
    """Claim 4: the trend happens at the 20K start, and at no other. Nothing without a 20K start."""
    turning = grid.starts(TURNING_POINT)
    return [find_trend(grid, start, happens=start in turning) for start in grid.starts()] if turning else []


def find_hans_cost(grid: Grid) -> list[Part]:
    """Claim 5: at the 392K start some Synthetic set lowers HANS, and along the sizes a step goes up again."""
    if len(grid.training_sizes) < 2:
        return []
    parts = []
    for start in grid.starts(LARGEST)[-1:]:
        curve = [grid.start(start), *((start, SYNTHETIC, size) for size in grid.training_sizes)]
        drops = [compare(grid, "falls", test_set="hans", first=cell, second=curve[0]) for cell in curve[1:]]
        pairs = zip(curve[1:], curve, strict=False)
        steps = [compare(grid, "rises", test_set="hans", first=new, second=old) for new, old in pairs]
        parts += [
            combine_any(f"start-{start}: a Synthetic set lowers HANS", drops),
            combine_any(f"start-{start}: HANS rises between two sizes", steps),
        ]
    return parts


def compare_kinds_hans(grid: Grid) -> list[Part]:
    """Claim 6: Original minus Synthetic on HANS in every setting."""
    return [
        compare(grid, "rises", test_set="hans", first=(start, ORIGINAL, size), second=(start, SYNTHETIC, size))
        for start in grid.starts()
        for size in grid.training_sizes
    ]


def compare_biased(grid: Grid) -> list[Part]:
    """Claim 7: in every setting and test, Biased Synthetic is below both other kinds."""
    parts = []
    for test_set in REPORTED_TEST_SETS:
        for start in grid.starts():
            for size in grid.training_sizes:
                biased = (start, BIASED, size)
                below = [
                    compare(grid, "falls", test_set=test_set, first=biased, second=(start, kind, size))
                    for kind in (ORIGINAL, SYNTHETIC)
                ]
                parts.append(combine_all(f"{name_cell(biased)}, {test_set}: the worst of three", below))
    return parts


def find_collapse(grid: Grid) -> list[Part]:
    """Claim 8: the largest Biased Synthetic set leaves the blind spot near zero, below the start and below Synthetic.

    Being near zero is no fall where the blind spot was there before, and a fall is not the bias's doing where any
    further training brings it: so both comparisons must show one, on average over the starts, of which some have
    nothing to lose. The random head is no start to fall from: it has learnt no heuristic and is right on all of the
    blind spot or on none of it, by the luck of its draw.
    """
    if not grid.starts():
        return []
    biased = {start: grid.largest(start, BIASED) for start in grid.starts()}
    from_start = [(cell, grid.start(start)) for start, cell in biased.items() if start > 0]
    from_synthetic = [(cell, grid.largest(start, SYNTHETIC)) for start, cell in biased.items()]
    name = "mean over starts, largest Biased Synthetic minus "
    falls = [
        compare_on_average(grid, "falls", test_set=BLIND_SPOT, pairs=pairs, name=name + other)
        for other, pairs in (("the start", from_start), ("Synthetic", from_synthetic))
        if pairs
    ]
    return [find_blind_spot_floor(grid, list(biased.values())), *falls]


def find_blind_spot_floor(grid: Grid, cells: list[Cell]) -> Part:
    """The blind-spot accuracy that most of these cells do not exceed, compared with `near_zero`.

    In each seed, of the cells' accuracies the one that just over half of them do not exceed. Taking it seed by seed
    errs, if at all, against the claim.
    """
    names = tuple(name_cell(cell) for cell in cells)
    title = f"blind-spot accuracy that most starts do not exceed: below {grid.near_zero}"
    try:
        outcomes = grid.cells.align(BLIND_SPOT, cells)
    except MissingCell as missing:
        return Part(title, None, NAN, NAN, names, f"lacks {missing}")
    order = np.argsort(outcomes.mean(axis=2), axis=0, kind="stable")[len(cells) // 2]
    rows = outcomes[order, np.arange(outcomes.shape[1])].astype(float)
    estimate = clip_interval(estimate_mean(rows, grid.cells.examples[BLIND_SPOT]), 0.0, 1.0)
    return Part(title, estimate, p_less(estimate, grid.near_zero), p_greater(estimate, grid.near_zero), names)
