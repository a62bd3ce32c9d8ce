"""Which cells decide which claim: one function per claim about models, from a grid to the claim's parts.

Kept apart from the ledger so that the comparisons can be read side by side. A function returns no parts where
the study has no cell of that role; a cell that should be there and is not becomes a part with its problem.
"""

from __future__ import annotations

import numpy as np

from blindspot.cells import MissingCell, name_cell
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
    find_trend,
)
from blindspot.statistics import estimate_mean, p_greater, p_less

SYNTHETIC, ORIGINAL, BIASED = "synthetic", "original", "biased_synthetic"
REPORTED_TEST_SETS = ("matched", "hans", "hans_blind_spot")


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


def find_blind_spot_floor(grid: Grid) -> list[Part]:
    """Claim 8: the blind-spot accuracy that most starts stay at or under after the largest Biased Synthetic set.

    In each seed, of the starts' accuracies the one that just over half of them do not exceed; compared with
    `near_zero`. Taking it seed by seed errs, if at all, against the claim.
    """
    cells = [grid.largest(start, BIASED) for start in grid.starts()]
    names = tuple(name_cell(cell) for cell in cells)
    title = f"blind-spot accuracy that most starts do not exceed: below {grid.near_zero}"
    if not cells:
        return []
    try:
        found = [grid.cells.find("hans_blind_spot", cell) for cell in cells]
    except MissingCell as missing:
        return [Part(title, None, NAN, NAN, names, f"lacks {missing}")]
    common = sorted(set.intersection(*(set(seeds.tolist()) for seeds, _ in found)))
    if not common:
        return [Part(title, None, NAN, NAN, names, "lacks a seed that all starts have")]
    rows = []
    for seed in common:
        outcomes = np.array([right[seeds == seed][0] for seeds, right in found], dtype=float)
        order = np.argsort(outcomes.mean(axis=1), kind="stable")
        rows.append(outcomes[order[len(cells) // 2]])
    estimate = estimate_mean(np.array(rows), grid.cells.examples["hans_blind_spot"])
    return [Part(title, estimate, p_less(estimate, grid.near_zero), p_greater(estimate, grid.near_zero), names)]
