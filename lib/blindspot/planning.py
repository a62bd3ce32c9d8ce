"""How many seeds a study needs: the question to ask before the expensive part.

One run per cell cannot tell an effect from the luck of a seed. The plan takes the variance between seeds from
a grid that has run, or from the literature, and the noncentral t distribution, so that it also holds for the
three or four seeds where a normal approximation promises too much.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy.special import nctdtr, stdtr

from blindspot.statistics import ALPHA, find_t_quantile

PUBLISHED_SD = 0.124
PUBLISHED_MEAN = 0.277
PUBLISHED_SOURCE = (
    "100 BERTs fine-tuned on the same data, HANS lexical-overlap non-entailment accuracy 0.277 with SD 0.124; "
    "McCoy, Min and Linzen 2020, 'BERTs of a feather do not generalize together'"
)
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class SeedPlan:
    """The answer of `plan_seeds`. `seeds` is per arm, None where no number up to 10,000 reaches the power.

    achieved_power: at `seeds`. smallest_effect_at_3: what 3 seeds find with the wanted power; None if nothing.
    """

    seeds: int | None
    achieved_power: float | None
    effect: float
    power: float
    sd: float
    sd_source: str
    paired: bool
    alpha: float
    comparisons: int
    test_set_se: float
    smallest_effect_at_3: float | None

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class SeedVariance:
    """SD between seeds, pooled over a grid's cells: of paired differences, or of single runs. `df` says how
    well it is known: with few, the plan is as uncertain as the SD."""

    sd: float
    df: int
    cells: int
    source: str


def find_power(
    *,
    effect: float,
    sd: float,
    seeds: int,
    paired: bool = True,
    alpha: float = ALPHA,
    comparisons: int = 1,
    test_set_se: float = 0.0,
) -> float:
    """Chance that a two-sided test at alpha / comparisons finds a true difference of `effect`, in its direction.

    sd: between seeds, of the paired differences, or, unpaired, of single runs of either arm. test_set_se: the
    part of a difference's standard error that more seeds do not reduce. Needs 2 seeds or more.
    """
    if seeds < 2:
        raise ValueError(f"seeds is {seeds}; expected 2 or more: one seed shows no variance between seeds")
    from_seeds = sd**2 / seeds * (1 if paired else 2)
    variance = from_seeds + test_set_se**2
    if variance == 0:
        return 1.0
    free = (seeds - 1) * (1 if paired else 2)
    df = min(free * (variance / from_seeds) ** 2, 1e6) if from_seeds else 1e6
    critical = find_t_quantile(df, 1 - alpha / comparisons / 2)
    shift = effect / np.sqrt(variance)
    if df > 1e4 or shift > 30:  # there the noncentral t is a shifted t, and its series fails
        return float(stdtr(df, shift - critical))
    return float(1 - nctdtr(df, shift, critical))


def plan_seeds(
    effect: float,
    power: float = 0.8,
    *,
    sd: float = PUBLISHED_SD,
    sd_source: str = PUBLISHED_SOURCE,
    paired: bool = False,
    alpha: float = ALPHA,
    comparisons: int = 1,
    test_set_se: float = 0.0,
) -> SeedPlan:
    """The least number of seeds (per arm) that finds a difference of `effect` in accuracy with `power`.

    `comparisons` is the size of the family that the test shares its alpha with (Holm's first step). Other
    arguments are `find_power`'s. Raises ValueError for values that cannot be.
    """
    check_plan(effect=effect, power=power, sd=sd, alpha=alpha, comparisons=comparisons, test_set_se=test_set_se)

    def reach(seeds: int, size: float = effect) -> float:
        return find_power(
            effect=size,
            sd=sd,
            seeds=seeds,
            paired=paired,
            alpha=alpha,
            comparisons=comparisons,
            test_set_se=test_set_se,
        )

    seeds = find_first(lambda count: reach(count) >= power, low=2, high=MOST_SEEDS)
    thousandths = find_first(lambda size: reach(3, size / 1000) >= power, low=1, high=1000)
    return SeedPlan(
        seeds=seeds,
        achieved_power=None if seeds is None else reach(seeds),
        effect=effect,
        power=power,
        sd=sd,
        sd_source=sd_source,
        paired=paired,
        alpha=alpha,
        comparisons=comparisons,
        test_set_se=test_set_se,
        smallest_effect_at_3=None if thousandths is None else thousandths / 1000,
    )


def describe_plan(plan: SeedPlan) -> str:
    """A plan in words."""
    design = "paired by seed (SD of differences)" if plan.paired else "two groups of runs (SD of single runs)"
    least = plan.smallest_effect_at_3
    at_three = "nothing under 1" if least is None else f"{least:.3f} and more"
    return "\n".join(
        [
            f"To find a difference of {plan.effect} in accuracy with power {plan.power}: {describe_seeds(plan)}.",
            f"Design: {design}; two-sided alpha {plan.alpha} over {plan.comparisons} comparison(s).",
            f"SD between seeds: {plan.sd:.4f} ({plan.sd_source}).",
            f"Three seeds find, with the same power, {at_three}.",
            "This plans one comparison. 'HANS falls while matched rises' takes two at once, at any start: plan-trend.",
        ]
    )


def describe_seeds(plan: SeedPlan) -> str:
    """The number of seeds with its power, or why there is none."""
    if plan.seeds is not None:
        return f"{plan.seeds} seeds{'' if plan.paired else ' in each group'} (power {plan.achieved_power:.3f})"
    without_seeds = find_power(
        effect=plan.effect,
        sd=0.0,
        seeds=MOST_SEEDS,
        alpha=plan.alpha,
        comparisons=plan.comparisons,
        test_set_se=plan.test_set_se,
    )
    reason = (
        f"the test set's own error, {plan.test_set_se}, is too large, whatever the seeds"
        if without_seeds < plan.power
        else f"the SD between seeds, {plan.sd:.4f}, is too large for so small an effect"
    )
    return f"no number of seeds up to {MOST_SEEDS:,} reaches this power: {reason}"


def check_plan(*, effect: float, power: float, sd: float, alpha: float, comparisons: int, test_set_se: float) -> None:
    """Raise ValueError for values that no plan can have."""
    if not 0 < effect < 1:
        raise ValueError(f"effect is {effect}; expected a difference in accuracy between 0 and 1, such as 0.05")
    if not alpha < power < 1:
        raise ValueError(f"power is {power}; expected a probability between alpha ({alpha}) and 1, such as 0.8")
    if not 0 < alpha < 0.5 or comparisons < 1:
        raise ValueError(f"alpha is {alpha} over {comparisons} comparisons; expected 0 to 0.5 over 1 or more")
    if not 0 <= sd < 1 or not 0 <= test_set_se < 1:
        raise ValueError(f"sd is {sd} and test_set_se {test_set_se}; expected accuracies' spread, 0 to 1")


def find_first(holds, *, low: int, high: int) -> int | None:  # type: ignore[no-untyped-def]
    """The least number from low to high for which `holds`, which stays true once it is."""
    if not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def find_seed_variance(
    results: pd.DataFrame, *, test_set: str = "hans_blind_spot", paired: bool = True
) -> SeedVariance:
    """SD between seeds from a study's `results.csv`, pooled over its cells.

    paired: of the difference of each further trained model from its own starting model; else of the accuracy
    of all cells. Raises ValueError where a column, the test set or a second seed is lacking.
    """
    lacking = {"starting_size", "training_kind", "training_size", "seed", "test_set", "accuracy"} - set(results)
    if lacking:
        raise ValueError(f"results lack the columns {sorted(lacking)}; expected a study's results.csv")
    chosen = results[results["test_set"].eq(test_set)].dropna(subset="accuracy")
    if chosen.empty:
        raise ValueError(
            f"results have no test set {test_set!r}; they have {', '.join(sorted(set(results['test_set'])))}"
        )
    if paired:
        chosen = _subtract_starts(chosen)
    groups = chosen.groupby(["starting_size", "training_kind", "training_size"])["accuracy"]
    by_cell = groups.agg(["var", "count"]).query("count > 1")
    if by_cell.empty:
        raise ValueError("no cell of the results has two seeds; expected two or more: add seeds to the study")
    free = by_cell["count"] - 1
    sd = float(np.sqrt((by_cell["var"] * free).sum() / free.sum()))
    what = "differences from the starting model, paired by seed" if paired else "single runs"
    source = f"{what}, on {test_set}, pooled over {len(by_cell)} cells ({int(free.sum())} degrees of freedom)"
    return SeedVariance(sd=sd, df=int(free.sum()), cells=len(by_cell), source=source)


def _subtract_starts(results: pd.DataFrame) -> pd.DataFrame:
    is_start = results["training_kind"].eq("none")
    starts = results[is_start].set_index(["starting_size", "seed"])["accuracy"]
    if starts.index.duplicated().any():
        raise ValueError("results hold a starting model twice for one seed; expected one study's results")
    trained = results[~is_start]
    keys = pd.MultiIndex.from_frame(trained[["starting_size", "seed"]])
    differences = trained["accuracy"].to_numpy() - starts.reindex(keys).to_numpy()
    return trained.assign(accuracy=differences).dropna(subset="accuracy")
