"""How many seeds the paper's trend needs: HANS falls while matched rises, both at once, at any of the starts.

The ledger says so of a start only where both are shown, each at alpha over the number of starts (Holm's first
step); so both are planned for together, and the chance to find both is what is promised. It is taken as power +
power - 1, which holds however the two hang together: a lucky seed helps matched and HANS alike, and so hides a fall.
The variance comes from a pilot, an executed study with 2 seeds or more; a pilot of few seeds may by luck be too
even, so its SD is taken at its upper 80 % confidence limit (Browne 1995, "On the use of a pilot sample for sample
size determination"). Without a pilot it comes from the literature.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.special import chdtri

from blindspot.cells import START, Cells, collect_cells
from blindspot.evaluation import read_predictions
from blindspot.planning import MOST_SEEDS, check_plan, find_first, find_power
from blindspot.runs import read_summary
from blindspot.statistics import ALPHA, split_variance

CONFIDENCE = 0.8
PUBLISHED_STARTS = 6
PUBLISHED_RUN_SDS = {"hans": 0.0236, "matched": 0.0024}
PUBLISHED_SOURCE = (
    "published SD of single runs times the root of 2; 100 BERTs fine-tuned on the same data, McCoy, Min and Linzen "
    "2020, accuracies by run beside their paper. It has no error of the test set in it"
)


@dataclass(frozen=True)
class Spread:
    """What blurs a difference from the start on one test set, in accuracy.

    sd: between seeds, as planned with. test_set_se: the part of its standard error that seeds do not reduce.
    """

    sd: float
    test_set_se: float
    source: str


@dataclass(frozen=True)
class TrendPlan:
    """The answer of `plan_trend`. `seeds` is None where no number up to 10,000 reaches the power.

    achieved_power: to find both, at `seeds`; hans_power and matched_power: each alone.
    """

    seeds: int | None
    achieved_power: float | None
    hans_power: float | None
    matched_power: float | None
    fall: float
    rise: float
    power: float
    starts: int
    alpha: float
    hans: Spread
    matched: Spread

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return asdict(self)


def plan_trend(
    fall: float, rise: float, power: float = 0.8, *, spreads: dict[str, Spread], starts: int, alpha: float = ALPHA
) -> TrendPlan:
    """The least number of seeds that shows, with `power`, HANS down by `fall` and matched up by `rise` at one start.

    fall and rise: true differences in accuracy from the start, both above 0. spreads: of `hans` and `matched`, from
    `find_spreads` or `publish_spreads`. starts: how many starts the ledger tests. Raises ValueError for values that
    cannot be.
    """
    sides = {"hans": (fall, spreads["hans"]), "matched": (rise, spreads["matched"])}
    for effect, spread in sides.values():
        check_plan(
            effect=effect, power=power, sd=spread.sd, alpha=alpha, comparisons=starts, test_set_se=spread.test_set_se
        )

    def reach(seeds: int) -> tuple[float, float]:
        hans, matched = (
            find_power(
                effect=effect,
                sd=spread.sd,
                seeds=seeds,
                alpha=alpha,
                comparisons=starts,
                test_set_se=spread.test_set_se,
            )
            for effect, spread in sides.values()
        )
        return hans, matched

    seeds = find_first(lambda count: sum(reach(count)) - 1 >= power, low=2, high=MOST_SEEDS)
    hans_power, matched_power = (None, None) if seeds is None else reach(seeds)
    both = None if hans_power is None or matched_power is None else hans_power + matched_power - 1
    aims = (fall, rise, power, starts, alpha)
    return TrendPlan(seeds, both, hans_power, matched_power, *aims, spreads["hans"], spreads["matched"])


def plan_trend_from_pilot(cells: Cells, fall: float, rise: float, power: float = 0.8) -> TrendPlan:
    """`plan_trend` with a pilot's own variance and as many starts as it has. Raises ValueError, see `find_spread`."""
    spreads = {test_set: find_spread(cells, test_set=test_set) for test_set in ("hans", "matched")}
    return plan_trend(fall, rise, power, spreads=spreads, starts=len({cell[0] for cell in cells.list_cells()}))


def find_spread(cells: Cells, *, test_set: str) -> Spread:
    """Spread of Synthetic minus its start on a test set, pooled over a pilot's starts and sizes.

    Sizes of one start share that start, so degrees of freedom are counted by start. Raises ValueError where the
    pilot has no Synthetic cell with its start, or one seed.
    """
    pairs = [
        (cell, (cell[0], START, 0))
        for cell in sorted(cells.tables.get(test_set, {}))
        if cell[1] == "synthetic" and (cell[0], START, 0) in cells.tables[test_set]
    ]
    if not pairs:
        raise ValueError(f"the pilot has no Synthetic set with its start on {test_set}; expected an executed study")
    differences = cells.find_differences(test_set, pairs)
    parts = [split_variance(part, cells.examples[test_set]) for part in differences]
    variance, test_set_variance = np.mean(parts, axis=0)
    starts = len({cell[0] for cell, _ in pairs})
    df = starts * (differences.shape[1] - 1)
    upper = float(np.sqrt(variance * df / chdtri(df, CONFIDENCE)))
    source = (
        f"pilot: Synthetic minus its start, paired by seed, over {starts} start(s) and {differences.shape[1]} seeds; "
        f"SD {np.sqrt(variance):.4f}, planned with its upper {CONFIDENCE:.0%} confidence limit"
    )
    return Spread(sd=upper, test_set_se=float(np.sqrt(max(test_set_variance, 0.0))), source=source)


def publish_spreads() -> dict[str, Spread]:
    """Spreads from the literature, for a study without a pilot."""
    return {name: Spread(float(np.sqrt(2) * sd), 0.0, PUBLISHED_SOURCE) for name, sd in PUBLISHED_RUN_SDS.items()}


def describe_trend_plan(plan: TrendPlan) -> str:
    """A plan in words."""
    found = (
        f"no number of seeds up to {MOST_SEEDS:,} reaches this power"
        if plan.seeds is None
        else f"{plan.seeds} seeds (power {plan.achieved_power:.3f} or more; HANS alone {plan.hans_power:.3f}, "
        f"matched alone {plan.matched_power:.3f})"
    )
    spreads = (("HANS", plan.hans), ("matched", plan.matched))
    return "\n".join(
        [
            f"To show at one start HANS down by {plan.fall} and matched up by {plan.rise}, with power {plan.power} "
            f"for both: {found}.",
            f"Design: the largest Synthetic set minus its start, paired by seed; two-sided alpha {plan.alpha} over "
            f"{plan.starts} start(s) by Holm, as the ledger tests.",
            *(f"{name}: SD {s.sd:.4f}, error of the test set {s.test_set_se:.4f} ({s.source})." for name, s in spreads),
        ]
    )


def read_pilot(folder: Path) -> Cells:
    """The cells of an executed study, `executed/<study>`, from its predictions. Raises ValueError without any."""
    files = sorted(folder.glob("80_evaluate/*/predictions.parquet"))
    if not files:
        raise ValueError(f"{folder} holds no 80_evaluate/*/predictions.parquet; expected executed/<study>, evaluated")
    collapse = read_summary(files[0].parent)["switches"]["label_collapse"]
    return collect_cells(read_predictions(files), label_collapse=collapse)
