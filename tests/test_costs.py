"""Costs by hand: shapes, operations, measured rates before assumed ones, and `-` for what nobody knows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from blindspot.costs import Cost, count_adapter_bytes, count_parameters, count_work, estimate_costs, find_shape
from blindspot.grid import Job, expand_study
from blindspot.plan_table import build_cost_table, format_bytes, format_hours, sum_costs
from blindspot.study import Study, load_study


@pytest.fixture(autouse=True)
def executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLINDSPOT_EXECUTED", str(tmp_path))
    return tmp_path


def finish(job: Job, *, seconds: float, counts: dict[str, int] | None = None) -> None:
    """What a finished run leaves: 1,000 bytes in each output, and its summary."""
    for name in job.outputs:
        (job.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (job.folder / name).write_bytes(b"x" * 1000)
    (job.folder / "summary.json").write_text(json.dumps({"seconds": seconds, "counts": counts or {}}))


def by_name(study: Study, *, finished: set[str] = frozenset()) -> dict[str, Cost]:  # type: ignore[assignment]
    jobs = expand_study(study)
    to_run = {job.name for job in jobs} - finished
    return dict(zip([job.name for job in jobs], estimate_costs(study, jobs, to_run=to_run), strict=True))


def test_llama_2_7b_by_its_shape() -> None:
    """6,738,415,616 parameters as published; rank 64 on seven modules of 32 layers: 159,907,840 LoRA weights."""
    study = load_study("paper")
    shape = find_shape(study)
    assert shape is not None
    assert count_parameters(shape) == 6_738_415_616
    assert count_adapter_bytes(study, shape, generator=False) == 4 * (159_907_840 + 3 * 4096)
    assert count_adapter_bytes(study, shape, generator=True) == 4 * (159_907_840 + 2 * 32_000 * 4096)


def test_the_papers_work_and_hours_by_hand() -> None:
    study = load_study("paper")
    jobs = {job.name: job for job in expand_study(study)}
    work = {name: count_work(study, job, {}) for name, job in jobs.items()}
    assert work["20_train_task_model/start-5000_seed-1"] == 5_000
    assert work["30_train_generator/all"] == 391_722
    assert work["40_generate_examples/label-neutral_shard-28"] == 563_000 - 28 * 20_000
    assert work["70_augment_task_model/start-0_seed-1"] == 3 * 3 * (6_006 + 12_013 + 24_360)
    assert work["50_audit_synthetic_data/all"] == 3 * 4_000 + 9_815
    assert work["80_evaluate/start-0_seed-1"] == 10 * (9_815 + 9_832 + 30_000)
    costs = by_name(study)
    start = costs["20_train_task_model/start-5000_seed-1"]
    assert start.seconds == pytest.approx(4 * 6_738_415_616 * 72 * 5_000 / 150e12)
    assert (start.gpus, start.to_run) == (1, True)
    assert start.source == (
        "4 x 6.74e9 parameters x 72 tokens a pair, at 150 TFLOP/s sustained in bfloat16 (assumed)"
    )
    evaluation = costs["80_evaluate/start-0_seed-1"]
    assert evaluation.seconds == pytest.approx(2 * 6_738_415_616 * 72 * 496_470 / 15e12), "in float32"
    assert costs["70_augment_task_model/start-0_seed-1"].bytes == 9 * 4 * (159_907_840 + 3 * 4096)


def test_what_nobody_knows_is_unknown() -> None:
    costs = by_name(load_study("smollm2"))
    trained = [cost for cost in costs.values() if cost.stage in ("20_train_task_model", "30_train_generator")]
    assert trained and all(cost.seconds is None and cost.source == "unknown" for cost in trained)
    assert sum_costs(trained, unit="CPU hours") == ("-", "-", "-")
    assert costs["90_analysis/all"].bytes is None
    assert costs["40_generate_examples/label-neutral_shard-0"].bytes == 4_000 * 136


def test_finished_runs_come_before_rates_and_rates_before_operations() -> None:
    study = load_study("test", {"planning.rates": {"30_train_generator": 40.0, "20_train_task_model": 1.0}})
    jobs = {job.name: job for job in expand_study(study)}
    finish(jobs["20_train_task_model/start-20_seed-1"], seconds=10.0)
    finish(jobs["20_train_task_model/start-0_seed-1"], seconds=4.0)
    costs = by_name(study, finished={"20_train_task_model/start-20_seed-1", "20_train_task_model/start-0_seed-1"})
    done, again = costs["20_train_task_model/start-20_seed-1"], costs["20_train_task_model/start-40_seed-1"]
    assert (done.seconds, done.source, done.to_run) == (10.0, "measured", False)
    size = sum(path.stat().st_size for path in jobs["20_train_task_model/start-20_seed-1"].folder.rglob("*.*"))
    assert done.bytes == size > 1000
    assert (again.seconds, again.source) == (20.0, "2 finished runs of 20_train_task_model")
    augmented = costs["70_augment_task_model/start-0_seed-1"]
    assert augmented.seconds == 0.5 * 3 * 3 * (2 + 4), "at the rate of the stage that is like it"
    generator = costs["30_train_generator/all"]
    assert (generator.seconds, generator.source) == (800 / 40.0, "the study file: 40 a second")


def test_a_short_run_takes_at_least_what_the_shortest_took() -> None:
    study = load_study("test")
    jobs = {job.name: job for job in expand_study(study)}
    finish(jobs["20_train_task_model/start-40_seed-1"], seconds=10.0)
    assert by_name(study)["20_train_task_model/start-0_seed-1"].seconds == 10.0


def test_a_later_generation_is_trained_on_fewer_pairs() -> None:
    study = load_study("test", {"generator.generations": 1, "generator.retraining_pairs_per_label": 7})
    retrained = {job.name: count_work(study, job, {}) for job in expand_study(study) if job.stage.startswith("30")}
    assert list(retrained.values()) == [800, 3 * 7], "G, then its next generation"


def test_counts_of_the_data_stage_replace_what_was_expected() -> None:
    study = load_study("paper")
    jobs = {job.name: job for job in expand_study(study)}
    counts = {"train": 100, "matched": 10, "mismatched": 20, "hans": 30}
    finish(jobs["10_prepare_data/all"], seconds=1.0, counts=counts)
    summaries = {"10_prepare_data/all": {"counts": counts}}
    assert count_work(study, jobs["80_evaluate/start-0_seed-1"], summaries) == 600
    assert count_work(study, jobs["30_train_generator/all"], summaries) == 100


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ([(True, 7200.0, 2e9), (False, 3600.0, 5e8)], ("6.0", "4.0", "2.5 GB")),
        ([(True, None, 2e9), (False, 3600.0, None)], ("2.0+", "-", "2.0 GB+")),
        ([(False, 36.0, 999.0)], ("0.02", "0", "999 B")),
    ],
)
def test_sums(costs: list[tuple[bool, float | None, float | None]], expected: tuple[str, str, str]) -> None:
    rows = [Cost("80_evaluate", to_run, 2, 8, seconds, size, "") for to_run, seconds, size in costs]
    assert sum_costs(rows, unit="GPU hours") == expected
    assert (format_hours(1234.5), format_bytes(4_200_000)) == ("1,234.5", "4 MB")


def test_the_table_says_gpu_hours_only_with_gpus() -> None:
    titles: dict[str, Any] = {}
    for name in ("paper", "test"):
        study = load_study(name)
        jobs = expand_study(study)
        titles[name] = build_cost_table(estimate_costs(study, jobs, to_run=set())).title
    assert "GPU hours" in titles["paper"] and "CPU hours" in titles["test"]


def test_plan_of_the_paper_needs_no_model_library(tmp_path: Path) -> None:
    code = (
        "import sys; from blindspot.launch import plan_study; "
        "assert plan_study('paper', overrides='', cores=1) == 0; "
        "print({'torch', 'transformers', 'peft', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "set()"
    assert "Study paper: 117 of 117 runs would start" in lines[0]
    assert "One seed: claims about models will be undecided" in done.stdout
    for stage, hours in (("20_train_task_model", "1.9"), ("30_train_generator", "1.4"), ("80_evaluate", "53.5")):
        rows = [line for line in lines if stage in line]
        assert len(rows) == 2 and rows[1].split("│")[2].strip() == hours
