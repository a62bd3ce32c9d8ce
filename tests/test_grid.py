"""The grid: how a study unfolds into jobs, and what the launcher reads from Snakemake."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from blindspot import launch
from blindspot.grid import SECTIONS, Job, expand_study, job_parameters, pick_value, relative_path
from blindspot.launch import check_memory, count_gpus, read_reasons, rule_name, shorten_reason, snakemake_command
from blindspot.runs import STAGES, check_parameters, run_folder
from blindspot.study import ROOT, Study, list_studies, load_study

NOT_IN_ANY_RESULT = {"name", "description", "resources", "planning"}
DRY_RUN = """\
Building DAG of jobs...
Job stats:
job                                     count
------------------------------------  -------
70_augment_task_model_start_20_seed_1       1
all                                         1
total                                       3


[Sat Nov 21 07:52:45 2026]
rule 70_augment_task_model_start_20_seed_1:
    input: a/10_prepare_data/all/train.parquet, a/10_prepare_data/all/summary.json
    output: a/70_augment_task_model/start-20_seed-1/summary.json
    log: a/70_augment_task_model/start-20_seed-1/notebook.ipynb
    jobid: 11
    reason: Missing output files: a/70_augment_task_model/start-20_seed-1/summary.json
    resources: tmpdir=/tmp, gpus=0, mem_mb=1500
[Sat Nov 21 07:52:45 2026]
rule 80_evaluate_start_20_seed_1:
    input: a/10_prepare_data/all/hans.parquet
    output: a/80_evaluate/start-20_seed-1/predictions.parquet
    jobid: 12
    reason: Updated input files: a/x.parquet; Input files updated by another job: a/70/summary.json
    threads: 2
    resources: tmpdir=/tmp, gpus=0, mem_mb=1500
[Sat Nov 21 07:52:45 2026]
rule all:
    input: a/90_analysis/all/results.csv
    jobid: 0
    reason: Input files updated by another job: a/90_analysis/all/results.csv
    resources: tmpdir=/tmp
"""


@pytest.fixture(params=list_studies())
def study(request: pytest.FixtureRequest) -> Study:
    return load_study(request.param)


def list_leaves(values: Any, prefix: str = "") -> list[str]:
    """Dotted keys of everything in a study that is not a section."""
    if not isinstance(values, dict):
        return [prefix]
    return [leaf for key, value in values.items() for leaf in list_leaves(value, f"{prefix}.{key}".strip("."))]


def test_every_job_comes_after_what_it_needs(study: Study) -> None:
    jobs = expand_study(study)
    for place, job in enumerate(jobs):
        assert all(any(earlier is need for earlier in jobs[:place]) for need in job.needs), job.name
    needed = {id(need) for job in jobs for need in job.needs}
    assert [job.stage for job in jobs if id(job) not in needed] == ["90_analysis"], "all else is read by some job"


def test_outputs_and_names_are_unique(study: Study) -> None:
    jobs = expand_study(study)
    outputs = [path for job in jobs for path in job.output_paths()]
    assert len(set(outputs)) == len(outputs)
    assert len({rule_name(job) for job in jobs}) == len({job.name for job in jobs}) == len(jobs)
    for job in jobs:
        assert job.output_paths()[-1].endswith(f"{job.stage}/{job.folder.name}/summary.json")
        assert job.log_path() not in outputs, "outputs of a failed job are deleted, its notebook must stay"
        assert job.folder == run_folder(study, job.stage, **job.coordinates)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("test", [1, 1, 1, 3, 1, 4, 1, 1, 3, 3, 1]),  # 96 entailment pairs are 2 shards of 48
        ("sandbox", [1, 1, 1, 6, 1, 4, 1, 1, 6, 6, 1]),
        ("paper", [0, 1, 1, 6, 1, 93, 1, 1, 6, 6, 1]),  # 32 + 29 + 32 shards of 20,000; no sandbox
    ],
)
def test_counts_by_stage(name: str, counts: list[int]) -> None:
    found = Counter(job.stage for job in expand_study(load_study(name, {"seeds": [1]})))
    assert [found[stage] for stage in STAGES] == counts


def test_seeds_multiply_what_depends_on_a_seed() -> None:
    found = Counter(job.stage for job in expand_study(load_study("test", {"seeds": [1, 2]})))
    assert [found[stage] for stage in STAGES] == [1, 1, 1, 6, 1, 4, 1, 2, 6, 6, 1]


def test_a_job_reads_runs_of_its_own_seed_and_start() -> None:
    jobs = expand_study(load_study("test", {"seeds": [1, 2]}))
    for job in jobs:
        for need in job.needs:
            if job.stage != "90_analysis":
                shared = job.coordinates.keys() & need.coordinates.keys()
                assert all(job.coordinates[key] == need.coordinates[key] for key in shared), (job.name, need.name)
    [evaluation] = [job for job in jobs if job.name == "80_evaluate/start-20_seed-2"]
    assert {need.name for need in evaluation.needs} == {
        *("00_build_sandbox/all", "10_prepare_data/all", "15_tokenize_pairs/all"),
        *("20_train_task_model/start-20_seed-2", "70_augment_task_model/start-20_seed-2"),
    }
    [training] = [job for job in jobs if job.name == "70_augment_task_model/start-0_seed-1"]
    assert [path for path in training.outputs if path.startswith("biased")] == [
        "biased_synthetic-6/adapter_model.safetensors",
        "biased_synthetic-12/adapter_model.safetensors",
    ]


def test_generations_follow_one_another() -> None:
    """A generation learns from what the one before it wrote; sets and analysis wait for those that they read."""
    changes = {"generator.generations": 2, "generator.retraining_pairs_per_label": 8}
    late = {"name": "late", "synthetic_fraction": 0.5, "generation": 2}
    kinds = [{"name": "synthetic", "synthetic_fraction": 1.0}, late]
    jobs = {job.name: job for job in expand_study(load_study("test", {**changes, "training_sets.kinds": kinds}))}
    found = Counter(job.stage for job in jobs.values())
    assert [found[stage] for stage in STAGES] == [1, 1, 1, 3, 3, 12, 3, 1, 3, 3, 1]

    def needs(name: str) -> set[str]:
        return {need.name for need in jobs[name].needs if need.stage[:2] in ("30", "40", "50")}

    audits = ["50_audit_synthetic_data/all", *(f"50_audit_synthetic_data/generation-{k}" for k in (1, 2))]
    assert needs("30_train_generator/all") == set()
    assert needs("30_train_generator/generation-1") == {audits[0]}
    assert needs("30_train_generator/generation-2") == {audits[1]}
    written = "40_generate_examples/generation-2_label-neutral_shard-0"
    assert needs(written) == {"30_train_generator/generation-2"}
    assert {written, audits[1]} < needs(audits[2]) and audits[0] not in needs(audits[2])
    for name in ("60_build_training_sets/seed-1", "70_augment_task_model/start-20_seed-1"):
        assert needs(name) == {audits[0], audits[2]}, name
    assert needs("90_analysis/all") == set(audits)


def test_a_study_with_doses_owes_their_curve() -> None:
    owed = {study: expand_study(load_study(study))[-1].outputs for study in ("sandbox", "sandbox-dose")}
    assert "dose_response.csv" not in owed["sandbox"] and "dose_response.png" in owed["sandbox-dose"]


def test_sections_name_keys_of_the_study(study: Study) -> None:
    assert SECTIONS.keys() == STAGES.keys()
    dumped = study.model_dump(mode="json")
    leaves = list_leaves(dumped)
    for stage, keys in SECTIONS.items():
        for key in keys:
            pick_value(dumped, key)
            known = any(leaf == key or leaf.startswith(f"{key}.") or key.startswith(f"{leaf}.") for leaf in leaves)
            assert known, f"{stage}: {key}"


def test_every_value_of_a_study_matters_to_a_stage(study: Study) -> None:
    """A value that is in no stage's section could change without anything being run again."""
    keys = {key for keys in SECTIONS.values() for key in keys}
    for leaf in list_leaves(study.model_dump(mode="json")):
        covered = any(leaf == key or leaf.startswith(f"{key}.") for key in keys)
        assert covered or leaf.split(".")[0] in NOT_IN_ANY_RESULT, leaf


def test_job_values_are_the_studys() -> None:
    study = load_study("test")
    [sets] = [job for job in expand_study(study) if job.stage == "60_build_training_sets"]
    assert sets.values == {"training_sets": study.training_sets.model_dump(mode="json")}
    [other] = [
        job
        for job in expand_study(load_study("test", {"name": "test", "training_sets.pairs_per_label": [3]}))
        if job.stage == "60_build_training_sets"
    ]
    assert other.values != sets.values
    json.dumps([job.values for job in expand_study(study)])


def test_job_parameters_are_the_notebooks(study: Study) -> None:
    for job in expand_study(study):
        parameters = json.loads(job_parameters(job, study=study.name))
        loaded, coordinates = check_parameters(job.stage, parameters)
        assert loaded == study
        assert run_folder(study, job.stage, **coordinates) == job.folder


def test_overrides_find_the_jobs_folder_and_leave_other_jobs_alone() -> None:
    text = "{lora.r: 4, task_model.starting_sizes: [0, 5]}"
    changed = load_study("test", text)
    for job in expand_study(changed):
        parameters = json.loads(job_parameters(job, study="test"))
        loaded, coordinates = check_parameters(job.stage, parameters | {"overrides": text})
        assert run_folder(loaded, job.stage, **coordinates) == job.folder

    def list_params(overrides: str) -> dict[str, tuple[str, str]]:
        jobs = expand_study(load_study("test", overrides))
        return {job.name: (json.dumps(job.values), job_parameters(job, study="test")) for job in jobs}

    before, after = list_params("{name: test}"), list_params("{name: test, generation.temperature: 0.9}")
    assert {name.split("/")[0] for name in before if before[name] != after[name]} == {"40_generate_examples"}


def test_only_model_stages_ask_for_the_device() -> None:
    for job in expand_study(load_study("paper")):
        is_model = job.stage[:2] in ("20", "30", "40", "50", "70", "80")
        assert (job.gpus, job.threads, job.memory_mb) == ((1, 8, 32000) if is_model else (0, 1, 4000)), job.name


def test_paths_are_relative_to_where_snakemake_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a results folder of its own, also one inside the project, Snakemake works in that folder."""
    monkeypatch.delenv("BLINDSPOT_EXECUTED", raising=False)
    assert relative_path(ROOT / "executed" / "test" / "x") == os.path.join("executed", "test", "x")
    assert relative_path(Path("/elsewhere/x")) == "/elsewhere/x"
    monkeypatch.setenv("BLINDSPOT_EXECUTED", str(ROOT / "results"))
    assert relative_path(ROOT / "results" / "test" / "x") == str(ROOT / "results" / "test" / "x")


def test_rule_names() -> None:
    job = Job("40_generate_examples", {}, Path("a/label-neutral_shard-0"), [])
    assert job.name == "40_generate_examples/label-neutral_shard-0"
    assert rule_name(job) == "40_generate_examples_label_neutral_shard_0"


def test_reasons_of_a_dry_run() -> None:
    assert read_reasons(DRY_RUN) == {
        "70_augment_task_model_start_20_seed_1": "no result yet",
        "80_evaluate_start_20_seed_1": "what it reads has changed",
    }
    assert read_reasons("Nothing to be done (all requested files are present and up to date).") == {}


@pytest.mark.parametrize(
    ("reason", "short"),
    [
        ("Missing output files: a/b.csv, a/c.csv", "no result yet"),
        ("Input files updated by another job: a/b", "what it reads is made anew"),
        ("Updated input files: a/b", "what it reads has changed"),
        ("Params have changed since last execution: before: x; now: y", "the study has changed"),
        ("Missing output files: a; Input files updated by another job: b", "no result yet"),
        ("Forced execution", "forced execution"),
        ("Set of input files has changed since last execution", "set of input files has changed since last execution"),
    ],
)
def test_short_reasons(reason: str, short: str) -> None:
    assert shorten_reason(reason) == short


@pytest.mark.parametrize(
    ("visible", "count"),
    [("", 0), ("0", 1), ("0,1,3", 3), ("GPU-1a2b,GPU-3c4d", 2), ("-1", 0), ("0,-1,1", 1), (" ", 0)],
)
def test_visible_gpus(visible: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CUDA reads the variable: devices after the first invalid one are hidden too."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_gpus() == count


def test_gpus_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = [Path("/dev/nvidia0"), Path("/dev/nvidia1")]
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(found if "nvidia[0-9]" in pattern else []))
    assert count_gpus() == 2


def test_a_job_too_large_for_the_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "free_memory_mb", lambda: 4000)
    check_memory(expand_study(load_study("test")))
    with pytest.raises(MemoryError, match=r"32,000 MB.*3,000 MB are free"):
        check_memory(expand_study(load_study("paper")))


@pytest.mark.parametrize(
    "overrides",
    [
        "{seeds: [1, 2]}",
        "{task_model.training.learning_rate: 1.0e-3, training_sets.deduplicate_synthetic: false}",
        "lora.r: 4",
        'description: "ends with a quote"',
        "{data.hans_per_subcase: null, name: small}",
    ],
)
def test_overrides_reach_the_snakefile_as_they_were_given(overrides: str) -> None:
    """Snakemake reads --config values as YAML without types: a number would arrive as text."""
    from snakemake.cli import parse_config

    command = snakemake_command("test", overrides, 1)
    config = parse_config(command[command.index("--config") + 1 :])
    # The Snakefile's own first lines, up to the jobs.
    text = (ROOT / "Snakefile").read_text()
    head = text[text.index("import json") : text.index("JOBS =")]
    probe = f"config = {config!r}\n{head}\nprint(json.dumps(load_study(STUDY, OVERRIDES).model_dump()))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == load_study("test", overrides).model_dump()


def test_snakemake_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(launch, "free_memory_mb", lambda: 5000)
    monkeypatch.delenv("BLINDSPOT_EXECUTED", raising=False)
    command = snakemake_command("test", "", 3)
    text = " ".join(command)
    assert "--cores 3" in text and "mem_mb=4000" in text and "gpus=2" in text and "--directory" not in text
    assert re.search(r"--config study=\S*test", text) and "overrides" not in text
    monkeypatch.setenv("BLINDSPOT_EXECUTED", str(tmp_path))
    assert f"--directory {tmp_path}" in " ".join(snakemake_command("test", "", 3))


def test_a_results_folder_may_be_relative(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Snakemake and the kernels run elsewhere: what they are told must name the same folder there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BLINDSPOT_EXECUTED", "results")
    command = snakemake_command("test", "", 1)
    assert command[command.index("--directory") + 1] == str(tmp_path / "results")
    [first, *_] = expand_study(load_study("test"))
    assert first.log_path() == str(tmp_path / "results" / "test" / "00_build_sandbox" / "all" / "notebook.ipynb")
