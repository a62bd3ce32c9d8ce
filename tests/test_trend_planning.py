"""Seeds for 'HANS falls while matched rises': by hand, from a pilot, from the literature, and on the command line."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from blindspot.__main__ import main
from blindspot.cells import Cells
from blindspot.planning import find_power
from blindspot.simulated_grids import Variation, list_cells, simulate_grid
from blindspot.trend_planning import Spread, find_spread, plan_trend, plan_trend_from_pilot, publish_spreads

SPREADS = {"hans": Spread(0.08, 0.01, "given"), "matched": Spread(0.03, 0.0, "given")}


def draw_pilot(*, seeds: int = 3, seed: int = 4, variation: Variation | None = None) -> Cells:
    return simulate_grid(cells=list_cells(), effects={}, seeds=seeds, seed=seed, variation=variation)


def test_both_are_promised_together_at_the_ledgers_level() -> None:
    plan = plan_trend(0.15, 0.05, 0.8, spreads=SPREADS, starts=6)
    assert plan.seeds is not None and plan.achieved_power is not None

    def power(seeds: int) -> float:
        hans = find_power(effect=0.15, sd=0.08, seeds=seeds, comparisons=6, test_set_se=0.01)
        return hans + find_power(effect=0.05, sd=0.03, seeds=seeds, comparisons=6) - 1

    assert power(plan.seeds - 1) < 0.8 <= power(plan.seeds) == pytest.approx(plan.achieved_power)
    one_start = plan_trend(0.15, 0.05, 0.8, spreads=SPREADS, starts=1)
    assert one_start.seeds is not None and one_start.seeds < plan.seeds
    hopeless = plan_trend(0.15, 0.05, 0.8, spreads=SPREADS | {"matched": Spread(0.0, 0.05, "given")}, starts=6)
    assert hopeless.seeds is None and hopeless.achieved_power is None
    with pytest.raises(ValueError, match="effect is 0"):
        plan_trend(0.15, 0.0, 0.8, spreads=SPREADS, starts=6)


def test_a_pilots_spread_is_its_variance_at_the_upper_limit() -> None:
    variation = Variation(run=0.06, cell=0.03)
    pilot = draw_pilot(seeds=40, variation=variation)
    cut = 0.957  # variance of a normal variable cut at 2.5
    by_seed = cut * 2 * (0.06**2 + 0.04**2 / 60) + 2 * 0.235 / 600
    limit = math.sqrt(6 * 39 / stats.chi2.ppf(0.2, 6 * 39))
    hans = find_spread(pilot, test_set="hans")
    assert hans.sd == pytest.approx(limit * math.sqrt(by_seed), rel=0.07)
    assert hans.test_set_se == pytest.approx(math.sqrt(cut * 2 * 0.03**2 / 60), rel=0.25)
    few = [find_spread(draw_pilot(seed=seed, variation=variation), test_set="hans").sd for seed in range(20)]
    assert np.mean(np.array(few) > math.sqrt(by_seed)) >= 0.7, "a pilot of 3 seeds is mostly not below the truth"


def test_a_pilot_without_seeds_or_synthetic_sets_is_refused() -> None:
    with pytest.raises(ValueError, match="one seed shows no variance"):
        plan_trend_from_pilot(draw_pilot(seeds=1), 0.15, 0.05)
    bare = simulate_grid(cells=list_cells(training_kinds=("original",)), effects={}, seeds=3, seed=1)
    with pytest.raises(ValueError, match="no Synthetic set with its start on hans"):
        plan_trend_from_pilot(bare, 0.15, 0.05)


def test_published_runs_are_two_in_a_difference() -> None:
    spreads = publish_spreads()
    assert spreads["hans"].sd == pytest.approx(0.0236 * math.sqrt(2))
    assert "McCoy, Min and Linzen 2020" in spreads["matched"].source


def test_plan_trend_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan-trend", "--fall", "0.15", "--rise", "0.05", "--power", "0.8", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["starts"] == 6 and plan["achieved_power"] >= 0.8
    assert main(["plan-trend", "--fall", "0.15"]) == 0
    assert f"{plan['seeds']} seeds" in capsys.readouterr().out
    assert main(["plan-trend", "--fall", "0.15", "--pilot", str(tmp_path)]) == 2
    assert "expected executed/<study>, evaluated" in capsys.readouterr().err
    assert main(["plan-trend", "--fall", "1.5"]) == 2


def test_an_executed_study_is_a_pilot(capsys: pytest.CaptureFixture[str]) -> None:
    pilot = Path(__file__).resolve().parents[1] / "executed" / "sandbox"
    if not list(pilot.glob("80_evaluate/*/predictions.parquet")):
        pytest.skip("executed/sandbox holds no predictions")
    assert main(["plan-trend", "--fall", "0.15", "--pilot", str(pilot), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["starts"] == 6 and plan["hans"]["test_set_se"] > 0 and plan["hans"]["source"].startswith("pilot")
