"""Estimates that see seeds and examples: intervals, tests, and what a family of tests allows to say.

An accuracy here is a mean over crossed samples: seeds (another seed trains another model) and examples
(another draw of the test set has other pairs; HANS's pairs come from templates, so whole templates are drawn).
A hierarchical bootstrap that redraws both levels shows where the variance comes from, but with three seeds it
is no interval: its draws never leave the range of the three values, so where seeds dominate its percentiles
hold the truth 75 % of the time at best, and its variance counts the seed x template interaction three times
(Owen 2007, "The pigeonhole bootstrap"). So the interval is what such a bootstrap becomes once both biases are
taken out in closed form:

    variance = between seeds + (between clusters - interaction), interval = mean +- t x sqrt(variance)

with the bracket not under 0, the whole not under `between clusters`, and Satterthwaite's degrees of freedom,
which are near `seeds - 1` where seeds dominate. It is a variance-components t interval, no percentile
interval; `bootstrap_means` draws the bootstrap itself, for comparison. Strata (HANS: heuristic x label) are
fixed by the test set's design and are not redrawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr, stdtrit

SMALLEST_EFFECT = 0.05
ALPHA = 0.05


@dataclass(frozen=True)
class Examples:
    """How a test set's examples hang together: `cluster` of each example; `stratum`, `sizes` of each cluster.

    `inflation` and `df` (one each per stratum) make the clusters' sum of squares unbiased and say how many
    degrees of freedom it has when cluster sizes differ. `count` is the number of pairs behind the columns.
    """

    cluster: np.ndarray
    stratum: np.ndarray
    sizes: np.ndarray
    inflation: np.ndarray
    df: np.ndarray
    count: int


@dataclass(frozen=True)
class Estimate:
    """A mean or difference with its interval. `sees_seeds` is False with one seed: then it says nothing about
    another training run, `low` and `high` are over examples alone, and no test is made of it."""

    value: float
    se: float
    df: float
    low: float
    high: float
    seeds: int
    sees_seeds: bool


@dataclass(frozen=True)
class Components:
    """Squared standard errors of one mean over seeds: by level, and by stratum where examples are redrawn."""

    value: float
    between_seeds: float
    cluster_shares: np.ndarray
    interaction: np.ndarray
    seeds: int


def group_examples(
    clusters: Sequence[object] | np.ndarray | int, strata: Sequence[object] | np.ndarray | None = None
) -> Examples:
    """Group a test set's examples: cluster and stratum label of each, or just their number.

    A number means independent examples in one stratum. A stratum with a single cluster cannot show how
    clusters differ; its examples are then their own clusters, which generalises to new pairs of that template
    only. Raises ValueError where lengths differ, nothing is given or a cluster lies in two strata.
    """
    labels = np.arange(clusters) if isinstance(clusters, int) else _code(clusters)
    stratum_of_example = np.zeros(len(labels), dtype=np.int64) if strata is None else _code(strata)
    if len(labels) == 0 or len(stratum_of_example) != len(labels):
        raise ValueError(
            f"{len(labels)} clusters and {len(stratum_of_example)} strata are given; expected one of each "
            "for every example, and at least one example"
        )
    both = _code(stratum_of_example * (labels.max() + 1) + labels)
    if both.max() != labels.max():
        raise ValueError("a cluster lies in two strata; expected each template in one heuristic and label")
    labels = _split_lone_clusters(labels, stratum_of_example)
    _, first, codes, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    stratum = stratum_of_example[first]
    factors = [_correct_for_sizes(sizes[stratum == index]) for index in range(stratum.max() + 1)]
    inflation, df = (np.array(column, dtype=float) for column in zip(*factors, strict=True))
    return Examples(codes, stratum, sizes.astype(float), inflation, df, len(labels))


def _code(labels: Sequence[object] | np.ndarray) -> np.ndarray:
    return np.unique(np.asarray(labels), return_inverse=True)[1].astype(np.int64)


def _split_lone_clusters(labels: np.ndarray, strata: np.ndarray) -> np.ndarray:
    split = labels.copy()
    for index in range(strata.max() + 1):
        rows = np.flatnonzero(strata == index)
        if len(np.unique(labels[rows])) == 1:
            split[rows] = labels.max() + 1 + rows
    return split


def _correct_for_sizes(sizes: np.ndarray) -> tuple[float, float]:
    """Inflation and df of sum (w_k (c_k - mean))^2 with w_k = size / total and exchangeable cluster effects c_k."""
    weights = sizes / sizes.sum()
    clusters = len(sizes)
    if clusters < 2 or sizes.min() == sizes.max():
        return clusters / max(clusters - 1, 1), max(clusters - 1, 1)
    centring = weights[:, None] * (np.eye(clusters) - weights[None, :])
    form = centring.T @ centring
    return float((weights**2).sum() / np.trace(form)), float(np.trace(form) ** 2 / (form**2).sum())


def clip_interval(estimate: Estimate, lowest: float, highest: float) -> Estimate:
    """The estimate with an interval that ends where the quantity does: a t interval of few seeds reaches further."""
    return replace(estimate, low=max(lowest, estimate.low), high=min(highest, estimate.high))


def estimate_mean(outcomes: np.ndarray, examples: Examples, *, level: float = 1 - ALPHA) -> Estimate:
    """Mean of `outcomes` (seeds x examples: right or wrong, or differences paired by seed and example)."""
    return _combine([_find_components(outcomes, examples)], examples, level=level)


def estimate_difference(
    first: np.ndarray,
    second: np.ndarray,
    examples: Examples,
    *,
    paired_by_seed: bool = True,
    level: float = 1 - ALPHA,
) -> Estimate:
    """Mean of first minus second, both seeds x examples on the same examples, in the same order.

    Paired by seed where row s of both comes from the same starting model; else the numbers of seeds may
    differ. Raises ValueError for shapes that do not fit.
    """
    if first.shape[1] != second.shape[1] or (paired_by_seed and len(first) != len(second)):
        raise ValueError(
            f"outcomes of shape {first.shape} and {second.shape}; expected the same examples"
            + (" and seeds" if paired_by_seed else "")
        )
    if paired_by_seed:
        return estimate_mean(np.subtract(first, second, dtype=float), examples, level=level)
    parts = [_find_components(first, examples), _find_components(-second.astype(float), examples)]
    return _combine(parts, examples, level=level)


def split_variance(outcomes: np.ndarray, examples: Examples) -> tuple[float, float]:
    """Variance between seeds of one seed's mean, and the squared standard error that more seeds do not reduce.

    `outcomes` as in `estimate_mean`, of 2 seeds or more. Both are unbiased, so the second can come out below 0:
    pool it over cells before taking its root. Raises ValueError for one seed.
    """
    if len(outcomes) < 2:
        raise ValueError("outcomes of one seed; expected two or more: one seed shows no variance between seeds")
    part = _find_components(outcomes, examples)
    squares = np.bincount(examples.stratum, weights=part.cluster_shares**2, minlength=len(examples.df))
    return part.between_seeds * part.seeds, float((squares * examples.inflation - part.interaction).sum())


def _sum_clusters(outcomes: np.ndarray, examples: Examples) -> np.ndarray:
    """Sums by seed and cluster."""
    clusters = len(examples.sizes)
    if clusters == outcomes.shape[1]:
        return np.asarray(outcomes, dtype=float)[:, np.argsort(examples.cluster)]
    rows = [np.bincount(examples.cluster, weights=row, minlength=clusters) for row in outcomes]
    return np.array(rows)


def _find_components(outcomes: np.ndarray, examples: Examples) -> Components:
    if outcomes.ndim != 2 or outcomes.shape[1] != len(examples.cluster) or len(outcomes) == 0:
        raise ValueError(f"outcomes of shape {outcomes.shape}; expected seeds x {len(examples.cluster)} examples")
    seeds, total = outcomes.shape
    sums = _sum_clusters(outcomes, examples)
    strata = np.eye(len(examples.df))[examples.stratum]
    stratum_means = (sums @ strata) / (examples.sizes @ strata)
    shares = (sums - examples.sizes * stratum_means[:, examples.stratum]) / total
    means = sums.sum(axis=1) / total
    between = float(means.var(ddof=1) / seeds) if seeds > 1 else 0.0
    scatter = shares.var(axis=0, ddof=1) / seeds if seeds > 1 else np.zeros(len(examples.sizes))
    interaction = (scatter @ strata) * examples.inflation
    return Components(float(means.mean()), between, shares.mean(axis=0), interaction, seeds)


def _combine(parts: list[Components], examples: Examples, *, level: float) -> Estimate:
    """Add up independent groups of seeds that met the same examples."""
    shares = np.sum([part.cluster_shares for part in parts], axis=0)
    between_clusters = np.bincount(examples.stratum, weights=shares**2, minlength=len(examples.df)) * examples.inflation
    seed_terms = [(part.between_seeds, part.seeds - 1) for part in parts if part.seeds > 1]
    cluster_part = float(between_clusters.sum())
    cluster_df = cluster_part**2 / max(float((between_clusters**2 / examples.df).sum()), 1e-300)
    examples_part = max(cluster_part - sum(float(part.interaction.sum()) for part in parts), 0.0)
    variance = max(
        sum(term for term, _ in seed_terms) + examples_part,
        cluster_part,
        (1.5 / examples.count) ** 2,  # rule of three: what n pairs never showed may still be 3/n frequent
    )
    spread = sum(term**2 / df for term, df in [*seed_terms, (examples_part, cluster_df)] if term > 0)
    df = max(variance**2 / spread, 1.0) if spread > 0 else np.inf
    half_width = find_t_quantile(df, (1 + level) / 2) * np.sqrt(variance)
    value = sum(part.value for part in parts)
    return Estimate(
        value=value,
        se=float(np.sqrt(variance)),
        df=float(df),
        low=float(value - half_width),
        high=float(value + half_width),
        seeds=min(part.seeds for part in parts),
        sees_seeds=all(part.seeds > 1 for part in parts),
    )


def find_t_quantile(df: float, probability: float) -> float:
    """Quantile of Student's t; of the normal distribution where df is infinite."""
    return float(stdtrit(min(df, 1e6), probability))


def bootstrap_means(outcomes: np.ndarray, examples: Examples, *, draws: int, seed: int) -> np.ndarray:
    """Means of `draws` hierarchical bootstrap samples: seeds redrawn, and clusters within each stratum.

    Every drawn seed meets the same drawn clusters. The percentiles are no interval at a few seeds: see above.
    """
    generator = np.random.default_rng(seed)
    seeds, total = outcomes.shape
    sums = _sum_clusters(outcomes, examples)
    seed_weights = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    means = np.zeros(draws)
    for index in range(len(examples.df)):
        members = np.flatnonzero(examples.stratum == index)
        drawn = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), size=draws)
        hits = ((seed_weights @ sums[:, members]) * drawn).sum(axis=1)
        means += hits / (drawn @ examples.sizes[members]) * examples.sizes[members].sum() / total
    return means


def p_greater(estimate: Estimate, bound: float = 0.0) -> float:
    """One-sided p-value against 'the true value is at most `bound`'; NaN where seeds are not seen."""
    if not estimate.sees_seeds:
        return float("nan")
    return float(stdtr(min(estimate.df, 1e6), (bound - estimate.value) / estimate.se))


def p_less(estimate: Estimate, bound: float = 0.0) -> float:
    """One-sided p-value against 'the true value is at least `bound`'; NaN where seeds are not seen."""
    if not estimate.sees_seeds:
        return float("nan")
    return float(stdtr(min(estimate.df, 1e6), (estimate.value - bound) / estimate.se))


def p_different(estimate: Estimate) -> float:
    """Two-sided p-value against 'the true value is 0'; NaN where seeds are not seen."""
    p_value = min(p_greater(estimate), p_less(estimate))
    return p_value if p_value != p_value else min(2 * p_value, 1.0)


def p_equivalent(estimate: Estimate, *, smallest_effect: float = SMALLEST_EFFECT) -> float:
    """p-value of the two one-sided tests (TOST) against 'the true value is `smallest_effect` or more away from
    zero'. A small one shows that there is no difference that matters; a large one shows nothing."""
    return max(p_greater(estimate, -smallest_effect), p_less(estimate, smallest_effect))


def adjust_holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values of one family, in the given order; NaN (not tested) stays NaN and does not count.

    Rejecting what is at most alpha keeps the chance of any false rejection in the family at alpha, however
    the tests depend on one another.
    """
    values = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(values), np.nan)
    order = np.argsort(values)[: int(np.isfinite(values).sum())]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return adjusted


def combine_at_least(p_values: Sequence[float] | np.ndarray, *, at_least: int) -> float:
    """p-value against 'fewer than `at_least` of these hold': (n - u + 1) x the u-th smallest.

    The partial conjunction test of Benjamini & Heller 2008 in its form that is valid under any dependence. With
    `at_least` = n it is the largest p-value, with 1 Bonferroni's. NaN counts as 1. Raises ValueError where
    `at_least` is not between 1 and n.
    """
    values = np.sort(np.nan_to_num(np.asarray(p_values, dtype=float), nan=1.0))
    if not 1 <= at_least <= len(values):
        raise ValueError(f"at_least is {at_least}; expected 1 to {len(values)}, the number of p-values")
    return float(min((len(values) - at_least + 1) * values[at_least - 1], 1.0))
