"""How often the intervals cover and the ledger errs, on simulated grids whose truth is known.

    python bench/calibration.py              # all four checks, a few minutes on one core
    python bench/calibration.py --json calibration.json

Exits with 1 where a figure leaves its bounds. A fast version of the same checks runs with the tests.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from blindspot.cells import Cells
from blindspot.claims import decide_claims, find_trends
from blindspot.simulated_grids import (
    STARTING_SIZES,
    Variation,
    draw_outcomes,
    list_cells,
    simulate_blind_spot,
    simulate_grid,
)
from blindspot.statistics import bootstrap_means, estimate_difference, group_examples
from blindspot.trend_planning import plan_trend_from_pilot

# name: (variation, templates or None for independent examples, pairs per template or in all, strata)
SCENARIOS = {
    "hans, 60 templates in 6 strata": (Variation(), 60, 10, 6),
    "blind spot, 25 templates": (Variation(), 25, 20, 1),
    "hans, seeds dominate": (Variation(run=0.08), 60, 10, 6),
    "matched, 600 pairs": (Variation(run=0.03, template=0, cell=0, interaction=0, example=0.15), None, 600, 1),
}
REPORTED_SCENARIOS = {
    "blind spot, 5 templates": (Variation(), 5, 40, 1),
    "hans, templates dominate": (Variation(run=0.01, cell=0.08), 60, 10, 6),
    "matched, no seed variance": (Variation(run=0.0, template=0, cell=0, interaction=0, example=0.15), None, 600, 1),
}
COVERAGE_BOUNDS = (0.93, 0.97)
FALL, RISE, TURNING_START, PILOT_SEEDS = 0.15, 0.05, 20_000, 3
# name: blind-spot accuracy of the starts, after Synthetic, after Biased Synthetic; bounds of how often claim 8 is
# supported. A rate without an upper bound is power, one with a lower bound of 0 is error.
COLLAPSES: dict[str, tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], tuple[float, float]]] = {
    "nothing happens, at 0.6": ((0.6,) * 6, (0.6,) * 6, (0.6,) * 6, (0.0, 0.05)),
    "nothing happens, at 0.03": ((0.03,) * 6, (0.03,) * 6, (0.03,) * 6, (0.0, 0.05)),
    "any training falls to 0.03": ((0.6,) * 6, (0.03,) * 6, (0.03,) * 6, (0.0, 0.05)),
    "at 0.03 before, Synthetic rises": ((0.03,) * 6, (0.6,) * 6, (0.03,) * 6, (0.0, 0.05)),
    "Biased falls from 0.6 to 0.3": ((0.6,) * 6, (0.6,) * 6, (0.3,) * 6, (0.0, 0.05)),
    "collapse in 6 of 6": ((0.6,) * 6, (0.6,) * 6, (0.03,) * 6, (0.8, 1.0)),
    "collapse in 6 of 6, half at 0.03 before": ((0.03, 0.6) * 3, (0.6,) * 6, (0.03,) * 6, (0.8, 1.0)),
    "collapse in 5 of 6": ((0.6,) * 6, (0.6,) * 6, (0.03,) * 5 + (0.3,), (0.5, 1.0)),
    "collapse in 4 of 6": ((0.6,) * 6, (0.6,) * 6, (0.03,) * 4 + (0.3,) * 2, (0.0, 1.0)),
}


def measure_coverage(
    *,
    variation: Variation,
    templates: int | None,
    pairs: int,
    strata: int,
    seeds: int,
    differences: int,
    seed: int,
    effect: float = 0.08,
    bootstrap_draws: int = 0,
) -> dict[str, float]:
    """Share of simulated differences whose 95 % interval holds the truth; also of plain bootstrap percentiles."""
    generator = np.random.default_rng(seed)
    template = np.arange(pairs) if templates is None else np.repeat(np.arange(templates), pairs)
    examples = group_examples(pairs) if templates is None else group_examples(template, template * strata // templates)
    hits, widths, plain = [], [], []
    for number in range(differences):
        first, second = draw_outcomes(
            generator=generator,
            means=np.array([0.55 + effect, 0.55]),
            starts=np.array([0, 0]),
            seeds=seeds,
            template=template,
            variation=variation,
        )
        found = estimate_difference(first, second, examples)
        hits.append(found.low <= effect <= found.high)
        widths.append(found.high - found.low)
        if bootstrap_draws:
            gaps = np.subtract(first, second, dtype=float)
            low, high = np.quantile(bootstrap_means(gaps, examples, draws=bootstrap_draws, seed=number), [0.025, 0.975])
            plain.append(low <= effect <= high)
    result = {"coverage": float(np.mean(hits)), "median_width": float(np.median(widths))}
    return result | ({"percentile_bootstrap_coverage": float(np.mean(plain))} if plain else {})


def measure_false_trends(*, studies: int, seeds: int, seed: int, rise: float = 0.0) -> dict[str, float]:
    """Share of studies without any effect in which the ledger says that HANS falls while matched rises.

    `trend`: at any start, by Holm over the starts; `claim_4`: the paper's claim as a whole is supported;
    `any_wrong`: any claim about HANS that is false here (4, 5, 6, 7) is supported. With a `rise`, all further
    training truly raises matched accuracy, so that the trend hangs on HANS alone: the harder case.
    """
    cells = list_cells()
    effects = {"matched": {cell: rise for cell in cells if cell[1] != "none"}}
    found = np.zeros((studies, 3))
    for number in range(studies):
        grid = simulate_grid(cells=cells, effects=effects, seeds=seeds, seed=seed + number)
        verdicts = decide_claims(grid).set_index("claim")["verdict"].eq("supported")
        found[number] = find_trend_anywhere(grid), verdicts[4], verdicts[[4, 5, 6, 7]].any()
    return dict(zip(("trend", "claim_4", "any_wrong"), found.mean(axis=0).tolist(), strict=True))


def find_trend_anywhere(grid: Cells) -> bool:
    """Whether the ledger finds the trend at any start."""
    return bool(find_trends(grid)["verdict"].eq("supported").any())


def measure_found_trends(
    *, studies: int, seed: int, variation: Variation, pilots: int = 8
) -> dict[str, float | list[int]]:
    """Share of studies with a planted fall of 0.15 (and a rise of 0.05) at the 20K start in which it is found.

    Each of `pilots` is a study of 3 seeds without effects, drawn anew; from its predictions the planner says how
    many seeds to take, and an equal share of the `studies` takes them. seeds: of each pilot's plan. standard_error:
    of `found`, by pilot.
    """
    cells = list_cells()
    pilots = min(pilots, studies)
    planted = [cell for cell in cells if cell[0] == TURNING_START and cell[1] == "synthetic"]
    effects = {"hans": dict.fromkeys(planted, -FALL), "matched": dict.fromkeys(planted, RISE)}
    plans: list[int] = []
    found = np.zeros((pilots, studies // pilots, 2))
    for pilot in range(pilots):
        first = seed + 10_000 * pilot
        drawn = simulate_grid(cells=cells, effects={}, seeds=PILOT_SEEDS, seed=first, variation=variation)
        seeds = plan_trend_from_pilot(drawn, FALL, RISE).seeds
        assert seeds is not None
        plans.append(seeds)
        for number in range(studies // pilots):
            grid = simulate_grid(
                cells=cells, effects=effects, seeds=seeds, seed=first + 1 + number, variation=variation
            )
            supported = find_trends(grid).set_index("starting_size")["verdict"].eq("supported")
            found[pilot, number] = supported[TURNING_START], supported.drop(TURNING_START).any()
    by_pilot = found.mean(axis=1)
    share, elsewhere = by_pilot.mean(axis=0).tolist()
    error = float(by_pilot[:, 0].std(ddof=1) / pilots**0.5)
    return {"seeds": plans, "found": share, "standard_error": error, "elsewhere": elsewhere}


def measure_collapse(
    *,
    starts: tuple[float, ...],
    synthetic: tuple[float, ...],
    biased: tuple[float, ...],
    studies: int,
    seeds: int,
    seed: int,
) -> float:
    """Share of studies in which claim 8 is supported, given the true blind-spot accuracies of the six starts."""
    kinds = {("none", 0): starts, ("synthetic", 73_080): synthetic, ("biased_synthetic", 73_080): biased}
    accuracies = {
        (start, *kind): value
        for kind, values in kinds.items()
        for start, value in zip(STARTING_SIZES, values, strict=True)
    }
    grids = (simulate_blind_spot(accuracies, seeds=seeds, seed=seed + number) for number in range(studies))
    verdicts = [decide_claims(grid).set_index("claim")["verdict"][8] for grid in grids]
    return float(np.mean([verdict == "supported" for verdict in verdicts]))


def main() -> int:
    """Run the checks, print them, and return 1 where one fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--differences", type=int, default=1000)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    figures: dict[str, object] = {}
    failures = []
    for name, (variation, templates, pairs, strata) in (SCENARIOS | REPORTED_SCENARIOS).items():
        for seeds in (3, 5, 10):
            result = measure_coverage(
                variation=variation,
                templates=templates,
                pairs=pairs,
                strata=strata,
                seeds=seeds,
                differences=options.differences,
                seed=2026,
                bootstrap_draws=300,
            )
            bound = name in SCENARIOS
            fails = bound and not COVERAGE_BOUNDS[0] <= result["coverage"] <= COVERAGE_BOUNDS[1]
            failures += [f"coverage, {name}, {seeds} seeds"] if fails else []
            figures[f"coverage, {name}, {seeds} seeds"] = result | {"bounded": bound}
            print(f"{name}, {seeds} seeds: {result}{' OUT OF BOUNDS' if fails else ''}", flush=True)
    for name, rise, seeds in (("no effect", 0.0, 3), ("matched rises, HANS does not fall", 0.1, 8)):
        false = measure_false_trends(studies=options.studies, seeds=seeds, seed=10_000, rise=rise)
        figures[name] = false
        failures += [name] if max(false["trend"], false["claim_4"]) > 0.05 else []
        print(f"{name}, {seeds} seeds, {options.studies} studies: supported in {false}", flush=True)
    for run_sd in (0.03, 0.06):
        power = measure_found_trends(studies=options.studies, seed=50_000, variation=Variation(run=run_sd))
        figures[f"planted fall, run SD {run_sd}"] = power
        share = power["found"]
        assert isinstance(share, float)
        failures += [f"planted fall, run SD {run_sd}"] if share < 0.8 else []
        print(f"planted fall of 0.15, run SD {run_sd}, {options.studies} studies: {power}", flush=True)
    for name, (starts, synthetic, biased, (low, high)) in COLLAPSES.items():
        share = measure_collapse(
            starts=starts, synthetic=synthetic, biased=biased, studies=options.studies, seeds=3, seed=90_000
        )
        figures[f"claim 8, {name}"] = {"supported": share}
        failures += [] if low <= share <= high else [f"claim 8, {name}"]
        print(f"claim 8, {name}, 3 seeds, {options.studies} studies: supported in {share:.3f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print("out of bounds: " + "; ".join(failures) if failures else "all within bounds")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
