"""Intervals, tests and the planner: hand-computed values, then calibration on simulations with known truth."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from blindspot.__main__ import main
from blindspot.planning import describe_plan, find_power, find_seed_variance, plan_seeds
from blindspot.simulated_grids import Variation, draw_outcomes, list_cells, simulate_grid, tabulate_results
from blindspot.statistics import (
    Estimate,
    adjust_holm,
    bootstrap_means,
    combine_at_least,
    estimate_difference,
    estimate_mean,
    group_examples,
    p_equivalent,
    p_greater,
    p_less,
    split_variance,
)


def make_estimate(value: float, se: float, *, df: float = 1e6, sees_seeds: bool = True) -> Estimate:
    return Estimate(value, se, df, value - 2 * se, value + 2 * se, 3, sees_seeds)


def test_interval_between_seeds_alone_is_students() -> None:
    outcomes = np.repeat([[0.5], [0.6], [0.7]], 40, axis=1)  # every example alike: only seeds vary
    found = estimate_mean(outcomes, group_examples(40))
    half_width = 4.302652729749464 * 0.1 / math.sqrt(3)
    assert (found.value, found.df, found.seeds) == pytest.approx((0.6, 2, 3))
    assert (found.low, found.high) == pytest.approx((0.6 - half_width, 0.6 + half_width))


def test_interval_over_examples_alone_is_the_binomial_one() -> None:
    outcomes = np.array([[1.0] * 30 + [0.0] * 70])  # one seed: 30 of 100
    found = estimate_mean(outcomes, group_examples(100))
    assert not found.sees_seeds
    assert found.se == pytest.approx(math.sqrt(0.3 * 0.7 / 99))
    assert found.high - found.value == pytest.approx(1.98422 * found.se, rel=1e-4)


def test_templates_widen_the_interval_and_strata_narrow_it() -> None:
    right = np.repeat([[1, 1, 1, 0, 0, 0, 1, 0]], 10, axis=1).astype(float)
    template = np.repeat(np.arange(8), 10)
    by_example = estimate_mean(right, group_examples(80))
    by_template = estimate_mean(right, group_examples(template))
    assert by_template.se == pytest.approx(math.sqrt(0.25 / 7))
    assert by_template.se > 2.9 * by_example.se
    label = np.repeat([0, 0, 0, 1, 1, 1, 1, 1], 10)  # the first stratum's templates are all alike
    stratified = estimate_mean(right, group_examples(template, label))
    assert stratified.se == pytest.approx(math.sqrt((5 / 8) ** 2 * (0.2 * 0.8) / 4))


def test_unequal_templates_leave_the_variance_unbiased() -> None:
    generator = np.random.default_rng(1)
    sizes = np.array([100, 40, 20, 10, 10, 5, 5, 5, 3, 2])
    examples = group_examples(np.repeat(np.arange(10), sizes))
    effects = generator.normal(size=(4000, 10))
    squares = [estimate_mean(row[examples.cluster][None, :], examples).se ** 2 for row in effects]
    truth = ((sizes / sizes.sum()) ** 2).sum()
    assert np.mean(squares) == pytest.approx(truth, rel=0.06)


def test_paired_differences_drop_what_the_starting_model_shares() -> None:
    generator = np.random.default_rng(3)
    shared = generator.normal(0, 0.2, size=(5, 1)) + np.zeros((5, 200))
    first, second = shared + 0.1 + generator.normal(0, 0.01, (5, 1)), shared + generator.normal(0, 0.01, (5, 1))
    examples = group_examples(200)
    paired = estimate_difference(first, second, examples)
    unpaired = estimate_difference(first, second, examples, paired_by_seed=False)
    assert paired.value == pytest.approx(unpaired.value)
    assert paired.se < 0.02 < 0.08 < unpaired.se
    welch = stats.ttest_ind(first[:, 0], second[:, 0], equal_var=False)
    assert unpaired.df == pytest.approx(welch.df)
    assert unpaired.value / unpaired.se == pytest.approx(welch.statistic)


def test_what_never_happens_in_n_pairs_may_be_three_in_n_frequent() -> None:
    found = estimate_mean(np.zeros((3, 500)), group_examples(500))
    assert found.value == 0.0
    assert found.high == pytest.approx(3 / 500, rel=0.03)


def test_bootstrap_agrees_where_seeds_and_templates_are_many() -> None:
    outcomes = draw_outcomes(
        generator=np.random.default_rng(5),
        means=np.array([0.6]),
        starts=np.array([0]),
        seeds=40,
        template=np.repeat(np.arange(50), 20),
        variation=Variation(start=0.1, interaction=0.01),
    )[0]
    examples = group_examples(np.repeat(np.arange(50), 20))
    draws = bootstrap_means(outcomes, examples, draws=4000, seed=1)
    found = estimate_mean(outcomes, examples)
    assert draws.mean() == pytest.approx(found.value, abs=0.002)
    assert draws.std() == pytest.approx(found.se, rel=0.08)
    assert (draws == bootstrap_means(outcomes, examples, draws=4000, seed=1)).all()


@pytest.mark.parametrize("seeds", [3, 5, 12])
def test_the_closed_form_is_the_bootstrap_without_its_known_biases(seeds: int) -> None:
    templates, pairs = 10, 8
    outcomes = draw_outcomes(
        generator=np.random.default_rng(17),
        means=np.array([0.6]),
        starts=np.array([0]),
        seeds=seeds,
        template=np.repeat(np.arange(templates), pairs),
        variation=Variation(start=0.08, run=0.12, template=0.12, interaction=0.08),
    )[0]
    examples = group_examples(np.repeat(np.arange(templates), pairs))
    rates = outcomes.reshape(seeds, templates, pairs).mean(axis=2)
    by_seed, by_template, mean = rates.mean(axis=1), rates.mean(axis=0), rates.mean()
    left = rates - by_seed[:, None] - by_template[None, :] + mean
    seed_part, template_part = by_seed.var(ddof=1) / seeds, by_template.var(ddof=1) / templates
    both_part = (left**2).sum() / ((seeds - 1) * (templates - 1)) / (seeds * templates)
    assert min(seed_part, template_part) > both_part, "else the form is at its floor"
    assert estimate_mean(outcomes, examples).se ** 2 == pytest.approx(seed_part + template_part - both_part)
    # Redrawing n of n leaves (n - 1) / n of a level's variance, and counts what both levels share once more in each.
    fewer, sparser = (seeds - 1) / seeds, (templates - 1) / templates
    expected = fewer * seed_part + sparser * template_part + fewer * sparser * both_part
    draws = bootstrap_means(outcomes, examples, draws=40_000, seed=1)
    assert draws.var() == pytest.approx(expected, rel=0.03)


def test_variance_splits_into_what_seeds_reduce_and_what_they_do_not() -> None:
    template = np.repeat(np.arange(40), 10)
    variation = Variation(start=0.0, run=0.05, template=0.1, cell=0.0, interaction=0.05, example=0.0)
    examples = group_examples(template)
    parts = [
        split_variance(
            draw_outcomes(
                generator=np.random.default_rng(number),
                means=np.array([0.5]),
                starts=np.array([0]),
                seeds=3,
                template=template,
                variation=variation,
            )[0],
            examples,
        )
        for number in range(400)
    ]
    cut = 0.957  # variance of a normal variable cut at 2.5
    by_template = cut * (0.1**2 + 0.05**2)
    by_seed = cut * (0.05**2 + 0.05**2 / 40) + (0.25 - by_template - cut * 0.05**2) / 400
    assert np.mean(parts, axis=0) == pytest.approx([by_seed, cut * 0.1**2 / 40], rel=0.1)
    with pytest.raises(ValueError, match="one seed shows no variance"):
        split_variance(np.zeros((1, 400)), examples)


def test_unusable_outcomes_and_groups_are_errors() -> None:
    with pytest.raises(ValueError, match="expected seeds x 5 examples"):
        estimate_mean(np.zeros((3, 4)), group_examples(5))
    with pytest.raises(ValueError, match="the same examples and seeds"):
        estimate_difference(np.zeros((3, 4)), np.zeros((2, 4)), group_examples(4))
    with pytest.raises(ValueError, match="lies in two strata"):
        group_examples(["a", "a", "b", "b"], [0, 1, 1, 1])
    with pytest.raises(ValueError, match="at least one example"):
        group_examples([])


def test_a_stratum_with_one_template_falls_back_to_its_examples() -> None:
    examples = group_examples(["a", "a", "b", "c"], ["x", "x", "y", "y"])
    assert sorted(examples.sizes.tolist()) == [1, 1, 1, 1]


def test_one_sided_tests_and_equivalence() -> None:
    near_zero = make_estimate(0.0, 0.02)
    assert p_greater(near_zero) == pytest.approx(0.5)
    assert p_equivalent(near_zero) == pytest.approx(1 - stats.norm.cdf(2.5), rel=1e-3)
    wide = make_estimate(0.0, 0.1)
    assert p_equivalent(wide) > 0.3, "no evidence of a difference is no evidence of none"
    assert p_less(make_estimate(-0.1, 0.05, df=2)) == pytest.approx(stats.t.sf(2, 2))
    assert math.isnan(p_equivalent(make_estimate(0.0, 0.01, sees_seeds=False)))


def test_holm_by_hand() -> None:
    assert adjust_holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with_gap = adjust_holm([0.02, math.nan, 0.5])
    assert with_gap[0] == pytest.approx(0.04) and math.isnan(with_gap[1]) and with_gap[2] == 0.5


def test_at_least_u_of_n_by_hand() -> None:
    p_values = [0.2, 0.001, 0.01, math.nan]
    assert combine_at_least(p_values, at_least=1) == pytest.approx(0.004)
    assert combine_at_least(p_values, at_least=2) == pytest.approx(0.03)
    assert combine_at_least(p_values, at_least=4) == 1.0
    with pytest.raises(ValueError, match="expected 1 to 4"):
        combine_at_least(p_values, at_least=5)


@pytest.mark.parametrize(("d", "power", "expected"), [(0.5, 0.8, 34), (0.8, 0.8, 15), (1.0, 0.9, 13), (2.0, 0.8, 5)])
def test_planner_gives_the_textbook_numbers_for_paired_designs(d: float, power: float, expected: int) -> None:
    plan = plan_seeds(0.1, power, sd=0.1 / d, paired=True)
    assert plan.seeds == expected


@pytest.mark.parametrize(("d", "expected"), [(0.5, 64), (0.8, 26), (1.0, 17)])
def test_planner_gives_the_textbook_numbers_for_two_groups(d: float, expected: int) -> None:
    assert plan_seeds(0.1, 0.8, sd=0.1 / d, paired=False).seeds == expected


def test_planner_sees_families_and_errors_that_seeds_do_not_reduce() -> None:
    one = plan_seeds(0.15, sd=0.08, paired=True)
    family = plan_seeds(0.15, sd=0.08, paired=True, comparisons=6)
    assert one.seeds is not None and family.seeds is not None and family.seeds > one.seeds
    assert plan_seeds(0.05, sd=0.05, paired=True, test_set_se=0.05).seeds is None
    assert plan_seeds(0.05, sd=0.0, paired=True).seeds == 2
    assert find_power(effect=0.05, sd=0.05, seeds=10, test_set_se=0.01) < find_power(effect=0.05, sd=0.05, seeds=10)
    for effect, power, sd in ((0.0, 0.8, 0.1), (0.1, 1.0, 0.1), (0.1, 0.8, -1.0)):
        with pytest.raises(ValueError, match="expected"):
            plan_seeds(effect, power, sd=sd)


def test_a_plan_that_no_seeds_fulfil_says_what_is_too_large() -> None:
    too_noisy = describe_plan(plan_seeds(0.001, sd=0.5))
    assert "SD between seeds, 0.5000, is too large" in too_noisy and "own error" not in too_noisy
    too_small_a_test = describe_plan(plan_seeds(0.05, sd=0.05, test_set_se=0.05))
    assert "the test set's own error, 0.05, is too large" in too_small_a_test
    assert "This plans one comparison" in too_noisy


def test_seed_variance_of_a_grid_by_hand() -> None:
    rows = [(20, "none", 0, seed, "hans", accuracy) for seed, accuracy in ((1, 0.5), (2, 0.7), (3, 0.6))] + [
        (20, "synthetic", 30, seed, "hans", accuracy) for seed, accuracy in ((1, 0.6), (2, 0.9), (3, 0.6))
    ]
    names = ["starting_size", "training_kind", "training_size", "seed", "test_set", "accuracy"]
    results = pd.DataFrame(rows, columns=names)
    paired = find_seed_variance(results, test_set="hans")
    assert (paired.sd, paired.df, paired.cells) == (pytest.approx(0.1), 2, 1)  # differences 0.1, 0.2, 0.0
    single = find_seed_variance(results, test_set="hans", paired=False)
    assert (single.sd, single.df) == (pytest.approx(math.sqrt((0.01 + 0.03) / 2)), 4)
    with pytest.raises(ValueError, match="no test set 'matched'; they have hans"):
        find_seed_variance(results, test_set="matched")
    with pytest.raises(ValueError, match="no cell of the results has two seeds"):
        find_seed_variance(results[results["seed"].eq(1)], test_set="hans")


def test_plan_seeds_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan-seeds", "--effect", "0.05", "--power", "0.8"]) == 0
    printed = capsys.readouterr().out
    assert "98 seeds in each group" in printed and "McCoy, Min and Linzen 2020" in printed
    results = tmp_path / "results.csv"
    grid = simulate_grid(cells=list_cells(starting_sizes=(0, 20)), effects={}, seeds=3, seed=1)
    tabulate_results(grid).to_csv(results, index=False)
    assert main(["plan-seeds", "--effect", "0.1", "--results", str(results), "--test-set", "hans", "--json"]) == 0
    assert '"paired": true' in capsys.readouterr().out
    assert main(["plan-seeds", "--effect", "0.1", "--results", str(tmp_path / "none.csv")]) == 2
    assert main(["plan-seeds", "--effect", "2"]) == 2
    assert "between 0 and 1" in capsys.readouterr().err


def test_run_command_refuses_what_it_cannot_run(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["no_such_stage"], "no stage 'no_such_stage'"),
        (["10_prepare_data", "--parameters", "{study}"], "is not JSON"),
        (["10_prepare_data", "--parameters", "[1]"], "expected a JSON object"),
        (["10_prepare_data", "--parameters", '{"study": "no-such-study"}'], "no study 'no-such-study'"),
        (["10_prepare_data", "--parameters", '{"sudy": "test"}'], "did you mean 'study'"),
    ):
        assert main(["run", *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variation", "templates", "pairs", "seeds"),
    [
        (Variation(), 60, 10, 3),
        (Variation(run=0.08), 60, 10, 3),
        (Variation(), 60, 10, 8),
        (Variation(run=0.03, template=0, cell=0, interaction=0, example=0.15), None, 300, 3),
    ],
    ids=["hans", "hans, seeds dominate", "hans, 8 seeds", "matched"],
)
def test_nominal_95_percent_intervals_cover_93_to_97(
    variation: Variation, templates: int | None, pairs: int, seeds: int
) -> None:
    template = np.arange(pairs) if templates is None else np.repeat(np.arange(templates), pairs)
    examples = group_examples(pairs) if templates is None else group_examples(template, template * 6 // templates)
    generator = np.random.default_rng(2026)
    covered = []
    for _ in range(1000):
        first, second = draw_outcomes(
            generator=generator,
            means=np.array([0.63, 0.55]),
            starts=np.array([0, 0]),
            seeds=seeds,
            template=template,
            variation=variation,
        )
        found = estimate_difference(first, second, examples)
        covered.append(found.low <= 0.08 <= found.high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_plain_bootstrap_percentiles_undercover_at_three_seeds() -> None:
    generator = np.random.default_rng(7)
    covered = []
    for number in range(400):
        means = generator.normal(0, 0.1, size=(3, 1)) + np.zeros((3, 20))
        draws = bootstrap_means(means, group_examples(20), draws=300, seed=number)
        low, high = np.quantile(draws, [0.025, 0.975])
        covered.append(low <= 0 <= high)
    assert np.mean(covered) < 0.85
