"""Runs: names, parameters, inputs, and a summary that is written last and whole."""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from blindspot import runs as runs_module
from blindspot.data import LABELS
from blindspot.runs import (
    DEFAULTS,
    STAGES,
    Run,
    check_parameters,
    hash_file,
    hash_lib,
    hash_study,
    is_parameter,
    open_run,
    read_summary,
    run_folder,
    run_name,
    show_path,
    write_json,
)
from blindspot.study import ROOT, Study, StudyError, load_study

ADAPTER = "adapter/adapter_model.safetensors"
SUMMARY_KEYS = {
    *("study", "stage", "run", "parameters", "metrics", "counts", "seed", "seconds"),
    *("versions", "git_commit", "lib_sha256", "inputs", "switches"),
}


@pytest.fixture(scope="module")
def study() -> Study:
    return load_study("test")


@pytest.fixture(autouse=True)
def executed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "executed"
    monkeypatch.setenv("BLINDSPOT_EXECUTED", str(folder))
    return folder


def make_done(folder: Path, *names: str) -> Path:
    """A run's folder that looks finished, with artefacts that hold their own name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    write_json(folder / "summary.json", {"done": True})
    return folder


@pytest.mark.parametrize(
    ("stage", "coordinates", "name"),
    [
        ("10_prepare_data", {}, "all"),
        ("90_analysis", {}, "all"),
        ("20_train_task_model", {"starting_size": 500, "seed": 1}, "start-500_seed-1"),
        ("40_generate_examples", {"label": "entailment", "shard": 0}, "label-entailment_shard-0"),
        ("30_train_generator", {"generation": 0}, "all"),
        ("50_audit_synthetic_data", {"generation": 2}, "generation-2"),
        (
            "40_generate_examples",
            {"generation": 1, "label": "neutral", "shard": 2},
            "generation-1_label-neutral_shard-2",
        ),
        ("60_build_training_sets", {"seed": 3}, "seed-3"),
        ("70_augment_task_model", {"starting_size": 0, "seed": 2, "training_sets": []}, "start-0_seed-2"),
        (
            "70_augment_task_model",
            {"starting_size": 0, "seed": 2, "training_sets": ["original-6", "synthetic-6"]},
            "start-0_seed-2_original-6+synthetic-6",
        ),
        (
            "80_evaluate",
            {"starting_size": 0, "seed": 2, "training_sets": ["a" * 30, "b" * 30]},
            "start-0_seed-2_sets-" + hashlib.sha256(("a" * 30 + "+" + "b" * 30).encode()).hexdigest()[:8],
        ),
    ],
)
def test_run_names(stage: str, coordinates: dict[str, Any], name: str) -> None:
    assert run_name(stage, coordinates) == name


def test_run_folders(study: Study, executed: Path) -> None:
    assert run_folder(study, "90_analysis") == executed / "test" / "90_analysis" / "all"
    start = run_folder(study, "70_augment_task_model", starting_size=20, seed=1)
    assert start == executed / "test" / "70_augment_task_model" / "start-20_seed-1"
    changed = load_study("test", {"lora.r": 4})
    assert run_folder(changed, "90_analysis").parts[-3] == changed.name != "test"


def test_parameters_are_returned_as_coordinates() -> None:
    study, coordinates = check_parameters(
        "80_evaluate", {"study": "test", "starting_size": 20, "seed": 1, "training_sets": ["none", "original-6"]}
    )
    assert study.name == "test"
    assert coordinates == {"starting_size": 20, "seed": 1, "training_sets": ["none", "original-6"]}
    study, coordinates = check_parameters("10_prepare_data", {"study": "test", "overrides": "{name: other}"})
    assert (study.name, coordinates) == ("other", {})
    assert check_parameters("50_audit_synthetic_data", {"study": "test"})[1] == {"generation": 0}


@pytest.mark.parametrize(
    ("stage", "changes", "words"),
    [
        ("20_train_task_model", {"startng_size": 20}, ["'startng_size'", "did you mean 'starting_size'?", "overrides"]),
        ("20_train_task_model", {"zzz": 20}, ["unknown parameter 'zzz'", "20_train_task_model takes study"]),
        ("20_train_task_model", {"training_sets": []}, ["unknown parameter 'training_sets'"]),
        ("20_train_task_model", {"starting_size": "20"}, ["'starting_size'", "'20' (str)", "expected int"]),
        ("20_train_task_model", {"starting_size": 20.0}, ["'starting_size'", "20.0 (float)", "expected int"]),
        ("20_train_task_model", {"seed": True}, ["'seed'", "True (bool)", "expected int"]),
        ("20_train_task_model", {"seed": None}, ["'seed'", "None", "expected int"]),
        ("20_train_task_model", {"starting_size": 21}, ["starting_size 21", "[0, 20, 40]"]),
        ("20_train_task_model", {"seed": 2}, ["seed 2", "it has [1]"]),
        ("20_train_task_model", {"study": 3}, ["'study'", "3 (int)", "expected str"]),
        ("20_train_task_model", {"study": "tset"}, ["'tset'", "did you mean 'test'?"]),
        ("20_train_task_model", {"overrides": "lora"}, ["overrides", "'lora'", "mapping"]),
        ("40_generate_examples", {"label": "entailed"}, ["label 'entailed'", "'entailment'"]),
        ("40_generate_examples", {"shard": 2}, ["shard 2", "[0, 1]"]),
        ("30_train_generator", {"generation": 1}, ["generation 1", "it has [0]"]),
        ("50_audit_synthetic_data", {"generation": "0"}, ["'generation'", "'0' (str)", "expected int"]),
        ("40_generate_examples", {"label": "neutral", "shard": 1}, ["shard 1", "it has [0]"]),
        ("70_augment_task_model", {"training_sets": "original-6"}, ["'training_sets'", "'original-6'", "list[str]"]),
        ("70_augment_task_model", {"training_sets": ["original-7"]}, ["'original-7'", "'original-6'"]),
        ("70_augment_task_model", {"training_sets": ["none"]}, ["training_sets 'none'"]),
        ("70_augment_task_model", {"training_sets": ["original-6"] * 2}, ["twice", "original-6"]),
    ],
)
def test_parameters_that_cannot_be_used(stage: str, changes: dict[str, Any], words: list[str]) -> None:
    defaults = {"starting_size": 20, "seed": 1, "label": "entailment", "shard": 0, "training_sets": []}
    defaults["generation"] = 0
    parameters = {"study": "test", **{key: defaults[key] for key in STAGES[stage]}}
    check_parameters(stage, parameters)
    with pytest.raises(StudyError) as caught:
        check_parameters(stage, parameters | changes)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("stage", [stage for stage in STAGES if STAGES[stage].keys() - DEFAULTS.keys()])
def test_missing_parameters(stage: str) -> None:
    with pytest.raises(StudyError) as caught:
        check_parameters(stage, {"study": "test"})
    assert "lacks the parameter(s)" in str(caught.value)
    assert all(name in str(caught.value) for name in STAGES[stage].keys() - DEFAULTS.keys())


def test_open_run_reads_the_namespace(executed: Path) -> None:
    folder = make_done(executed / "test" / "20_train_task_model" / "start-20_seed-1", ADAPTER)
    namespace = {
        **{"study": "test", "starting_size": 20, "seed": 1, "overrides": {}},
        **{"In": [""], "Out": {}, "_": 3, "_i1": "x", "__name__": "__main__", "LABELS": LABELS},
        **{"pa": pa, "Path": Path, "open_run": open_run, "exit": "exit"},
    }
    run = open_run("20_train_task_model", namespace)
    assert run.folder == folder
    assert run.coordinates == {"starting_size": 20, "seed": 1}
    assert not (folder / "summary.json").exists(), "a run that starts again is not done"
    assert (folder / ADAPTER).is_file()


@pytest.mark.parametrize(
    ("name", "value"),
    [("startng_size", 20), ("extra", None), ("flag", True), ("sets", []), ("options", {"a": 1}), ("pair", (1, 2))],
)
def test_open_run_finds_stray_names(name: str, value: Any, executed: Path) -> None:
    namespace = {"study": "test", "starting_size": 20, "seed": 1, "overrides": {}, name: value}
    with pytest.raises(StudyError, match=f"unknown parameter '{name}'"):
        open_run("20_train_task_model", namespace)
    assert not executed.exists(), "nothing is made for parameters that can't be used"


def test_open_run_finds_a_parameter_in_capitals() -> None:
    """`papermill -p SEED 2` is as misspelt as `-p sede 2`; the library's constants are no parameters."""
    namespace = {"study": "test", "starting_size": 20, "seed": 1, "overrides": {}, "LABELS": LABELS}
    with pytest.raises(StudyError, match="SEED"):
        open_run("20_train_task_model", namespace | {"SEED": 2})
    open_run("20_train_task_model", namespace)


def test_setup_can_run_again_in_the_same_kernel() -> None:
    """In JupyterLab one changes a parameter and runs the cells below again: names set since then are no parameters."""
    namespace: dict[str, Any] = {"study": "test", "starting_size": 20, "seed": 1, "overrides": {}}
    open_run("20_train_task_model", namespace)
    namespace |= {"accuracy": 0.5, "rows": [1], "starting_size": 40}
    assert open_run("20_train_task_model", namespace).folder.name == "start-40_seed-1"


def test_is_parameter() -> None:
    assert is_parameter("seed", 1) and is_parameter("study", "x") and is_parameter("nothing", None)
    assert not is_parameter("_", 1) and not is_parameter("In", []) and not is_parameter("np", pa)


def open_training(study: Study) -> Run:
    folder = run_folder(study, "70_augment_task_model", starting_size=20, seed=1)
    folder.mkdir(parents=True, exist_ok=True)
    return Run(study=study, stage="70_augment_task_model", coordinates={"starting_size": 20, "seed": 1}, folder=folder)


def test_inputs_are_found_and_hashed(study: Study, executed: Path) -> None:
    make_done(run_folder(study, "60_build_training_sets", seed=1), "training_sets.parquet")
    run = open_training(study)
    path = run.input("60_build_training_sets", "training_sets.parquet", seed=1)
    assert path.read_text() == "training_sets.parquet"
    digest = hashlib.sha256(b"training_sets.parquet").hexdigest()
    assert run.inputs == {"executed/test/60_build_training_sets/seed-1/training_sets.parquet": digest}
    assert hash_file(path) == digest


def test_inputs_that_are_not_there(study: Study) -> None:
    run = open_training(study)
    with pytest.raises(FileNotFoundError) as caught:
        run.input("60_build_training_sets", "training_sets.parquet", seed=1)
    words = ("70_augment_task_model needs 60_build_training_sets (seed-1)", "has not finished", "make study STUDY=test")
    assert all(word in str(caught.value) for word in words), caught.value
    assert run.inputs == {}
    folder = run_folder(study, "60_build_training_sets", seed=1)
    (folder).mkdir(parents=True)
    (folder / "training_sets.parquet").write_text("half")
    with pytest.raises(FileNotFoundError, match="has not finished"):
        run.input("60_build_training_sets", "training_sets.parquet", seed=1)
    (folder / "training_sets.parquet").unlink()
    make_done(folder)
    with pytest.raises(FileNotFoundError, match=r"training_sets\.parquet is missing although its run is done"):
        run.input("60_build_training_sets", "training_sets.parquet", seed=1)
    assert str(ROOT) not in str(caught.value)


def test_a_data_stage_that_has_not_run_is_run_first(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def pretend(stage: str, *, study: Study, coordinates: dict[str, Any]) -> Path:
        asked.append((stage, coordinates))
        return make_done(run_folder(study, stage), "train.parquet")

    monkeypatch.setattr("blindspot.execute.execute_stage", pretend)
    run = open_training(study)
    assert run.input("10_prepare_data", "train.parquet").is_file()
    assert run.input("10_prepare_data", "train.parquet").is_file()
    assert asked == [("10_prepare_data", {})]


def test_a_data_stage_whose_artefact_is_gone_is_run_again(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git keeps the default study's summaries but not all of its data: a clone has one without the other."""

    def pretend(stage: str, *, study: Study, coordinates: dict[str, Any]) -> Path:
        return make_done(run_folder(study, stage), "model/model.safetensors")

    monkeypatch.setattr("blindspot.execute.execute_stage", pretend)
    make_done(run_folder(study, "00_build_sandbox"))
    assert open_training(study).sandbox_model() is not None


def test_data_folder(study: Study, executed: Path, tmp_path: Path) -> None:
    make_done(run_folder(study, "00_build_sandbox"), "data/multinli_1.0/multinli_1.0_train.jsonl")
    assert open_training(study).data_folder() == executed / "test" / "00_build_sandbox" / "all" / "data"
    for given, expected in (("data", ROOT / "data"), (str(tmp_path), tmp_path)):
        other = study.model_copy(update={"data": study.data.model_copy(update={"source": "folder", "folder": given})})
        assert open_training(other).data_folder() == expected


def test_sandbox_model_only_for_the_sandbox(study: Study) -> None:
    make_done(run_folder(study, "00_build_sandbox"), "model/model.safetensors")
    folder = open_training(study).sandbox_model()
    assert folder is not None and folder.name == "model"
    base = study.base_model.model_copy(update={"name": "elsewhere"})
    assert open_training(study.model_copy(update={"base_model": base})).sandbox_model() is None


def test_adapter_files(study: Study, executed: Path) -> None:
    at: dict[str, Any] = {"starting_size": 20, "seed": 1}
    make_done(run_folder(study, "20_train_task_model", **at), ADAPTER)
    run = open_training(study)
    stages = executed / "test"
    assert run.adapter_file(**at, training_set="none") == stages / "20_train_task_model" / "start-20_seed-1" / ADAPTER
    with pytest.raises(FileNotFoundError, match="70_augment_task_model"):
        run.adapter_file(**at, training_set="original-6")
    name = "original-6/adapter_model.safetensors"
    alone = make_done(run_folder(study, "70_augment_task_model", **at, training_sets=["original-6"]), name)
    assert run.adapter_file(**at, training_set="original-6") == alone / name


def test_the_grids_own_adapter_comes_before_one_made_by_hand(study: Study) -> None:
    """Only the grid's run is made anew when the study changes; one made by hand for a single set may be older."""
    at: dict[str, Any] = {"starting_size": 20, "seed": 1}
    name = "original-6/adapter_model.safetensors"
    make_done(run_folder(study, "70_augment_task_model", **at, training_sets=["original-6"]), name)
    whole = make_done(run_folder(study, "70_augment_task_model", **at), name)
    assert open_training(study).adapter_file(**at, training_set="original-6") == whole / name


def test_supply_is_checked(study: Study) -> None:
    run = open_training(study)
    enough = {"train": 800, **{f"train_{label}": 4 for label in LABELS}}
    run.check_supply(enough)
    for key, words in (("train", "generator.training_size asks for 800"), ("train_neutral", "(neutral) asks for 4")):
        with pytest.raises(StudyError) as caught:
            run.check_supply(enough | {key: enough[key] - 1})
        assert words in str(caught.value) and f"there are {enough[key] - 1}" in str(caught.value)


def test_summary_says_everything(study: Study) -> None:
    make_done(run_folder(study, "60_build_training_sets", seed=1), "training_sets.parquet")
    run = open_training(study)
    run.input("60_build_training_sets", "training_sets.parquet", seed=1)
    shown = run.finish(metrics={"loss": 0.5, "rows": [1, 2]}, counts={"pairs": 3})
    summary = read_summary(run.folder)
    assert set(summary) >= SUMMARY_KEYS
    assert (summary["study"], summary["stage"], summary["run"]) == ("test", "70_augment_task_model", "start-20_seed-1")
    assert summary["parameters"] == {"starting_size": 20, "seed": 1}
    assert summary["seed"] == 1
    assert summary["switches"] == {
        **{"pooling": "last_token", "overlap_detector": "published"},
        **{"deduplicate_synthetic": True, "label_collapse": "argmax"},
    }
    assert (summary["metrics"], summary["counts"]) == ({"loss": 0.5, "rows": [1, 2]}, {"pairs": 3})
    assert summary["seconds"] >= 0
    assert set(summary["versions"]) >= {"python", "torch", "transformers", "peft", "bitsandbytes", "papermill"}
    assert summary["lib_sha256"] == hash_lib() and len(summary["lib_sha256"]) == 64
    assert summary["study_sha256"] == hash_study(study) != hash_study(load_study("sandbox"))
    assert list(summary["inputs"]) == ["executed/test/60_build_training_sets/seed-1/training_sets.parquet"]
    assert dict(shown["value"]) == {"loss": 0.5, "pairs": 3, "seconds": summary["seconds"]}


def test_a_missing_figure_is_null_and_never_nan(study: Study) -> None:
    """NaN is not JSON: a strict reader of a summary would stop at it."""
    run = open_training(study)
    run.finish(metrics={"absent": None, "undefined": float("nan"), "inner": [{"accuracy": float("nan")}]})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in summary.json")

    summary = json.loads((run.folder / "summary.json").read_text(), parse_constant=refuse)
    assert summary["metrics"] == {"absent": None, "undefined": None, "inner": [{"accuracy": None}]}


def test_summary_is_written_whole_or_not_at_all(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_training(study)
    target = run.folder / "summary.json"
    with pytest.raises(TypeError):
        run.finish(metrics={"loss": object()})
    assert not target.exists()
    seen = []

    def watch(source: Path, destination: Path) -> None:
        seen.append((json.loads(Path(source).read_text())["stage"], Path(destination), Path(destination).exists()))
        os.rename(source, destination)

    monkeypatch.setattr(runs_module.os, "replace", watch)
    run.finish()
    assert seen == [("70_augment_task_model", target, False)], "written beside its place, then put there in one step"
    assert [path.name for path in run.folder.iterdir()] == ["summary.json"]


def test_summary_is_newer_than_every_artefact(study: Study) -> None:
    run = open_training(study)
    run.output("original-6/weights").write_text("x")
    time.sleep(0.02)
    run.finish()
    assert (run.folder / "summary.json").stat().st_mtime_ns > (run.folder / "original-6/weights").stat().st_mtime_ns


def test_a_failed_rewrite_leaves_the_old_summary(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_shown_paths_name_no_machine(executed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert show_path(ROOT / "parameters" / "test.yaml") == "parameters/test.yaml"
    assert show_path(executed / "test" / "90_analysis" / "all") == "executed/test/90_analysis/all"
    assert show_path(tmp_path / "elsewhere" / "file.txt") == "file.txt"
    for path in (ROOT / "lib", executed / "x", tmp_path / "y", Path.home() / "z"):
        shown = show_path(path)
        assert not Path(shown).is_absolute()
        assert all(part not in shown for part in (str(ROOT), str(tmp_path), str(Path.home())))
    monkeypatch.delenv("BLINDSPOT_EXECUTED")
    assert show_path(ROOT / "executed" / "test" / "x") == "executed/test/x"
