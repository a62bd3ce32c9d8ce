"""The `test` study through the real command, once; then everything that it left is held against a recount of its own.

The recounts use numpy and pandas on the files only, not the library's functions, so that both can't be wrong alike.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest

from blindspot.grid import Job, expand_study
from blindspot.runs import STAGES
from blindspot.study import ROOT, load_study

LABELS = ["entailment", "neutral", "contradiction"]
SETS = [f"{kind}-{size}" for kind in ("original", "synthetic", "biased_synthetic") for size in (6, 12)]
STARTS = [0, 20, 40]
TEST_SETS = {
    *("matched", "mismatched", "matched_two_label", "mismatched_two_label"),
    *("hans", "hans_lexical_overlap", "hans_blind_spot"),
    *("hans_lexical_overlap_entailment", "hans_lexical_overlap_non_entailment"),
    *("hans_subsequence_entailment", "hans_subsequence_non_entailment"),
    *("hans_constituent_entailment", "hans_constituent_non_entailment"),
}
PAPER_RATIOS = {"entailment": 2.352, "neutral": 2.320, "contradiction": 1.827}


def run_study(folder: Path) -> subprocess.CompletedProcess[str]:
    """The command that `make study STUDY=test` runs, with the results in a folder of their own."""
    command = [sys.executable, "-m", "blindspot", "study", "--study", "test", "--cores", "2"]
    environment = os.environ | {"BLINDSPOT_EXECUTED": str(folder)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def read_times(folder: Path) -> dict[str, int]:
    """When each run's notebook was written: 'stage/run' -> ns."""
    found = (folder / "test").glob("*/*/notebook.ipynb")
    return {f"{path.parent.parent.name}/{path.parent.name}": path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="session")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the whole study, run once. Tests read them and change nothing."""
    folder = tmp_path_factory.mktemp("study") / "executed"
    done = run_study(folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "20 runs" in done.stderr and "Done." in done.stderr
    return folder


@pytest.fixture(scope="session")
def results_folder(executed: Path) -> Path:
    return executed / "test" / "90_analysis" / "all"


@pytest.fixture(scope="session")
def predictions(executed: Path) -> pd.DataFrame:
    files = sorted((executed / "test" / "80_evaluate").glob("*/predictions.parquet"))
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)


@pytest.fixture(scope="session")
def synthetic(executed: Path) -> pd.DataFrame:
    return pd.read_parquet(executed / "test" / "50_audit_synthetic_data" / "all" / "synthetic.parquet")


@pytest.fixture(scope="session")
def training(executed: Path) -> pd.DataFrame:
    return pd.read_parquet(executed / "test" / "10_prepare_data" / "all" / "train.parquet")


@pytest.fixture(scope="session")
def training_sets(executed: Path) -> pd.DataFrame:
    return pd.read_parquet(executed / "test" / "60_build_training_sets" / "seed-1" / "training_sets.parquet")


@pytest.fixture
def jobs(executed: Path, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    monkeypatch.setenv("BLINDSPOT_EXECUTED", str(executed))
    return expand_study(load_study("test"))


def test_every_job_left_what_it_owes(jobs: list[Job]) -> None:
    assert len(jobs) == 20
    for job in jobs:
        for path in [*job.output_paths(), job.log_path()]:
            assert Path(path).stat().st_size > 0
        summary = json.loads((job.folder / "summary.json").read_text())
        assert (summary["study"], summary["stage"], summary["run"]) == ("test", job.stage, job.folder.name)
        expected = {key: job.coordinates.get(key, []) for key in STAGES[job.stage]}
        assert summary["parameters"] == expected
        assert summary["seed"] == job.coordinates.get("seed")
        assert summary["seconds"] > 0 and summary["counts"] and summary["versions"]["torch"]
        leftovers = [path.name for path in job.folder.rglob(".*")]
        assert not leftovers, f"{job.name} left {leftovers}"


def test_summaries_hash_what_was_read(jobs: list[Job], executed: Path) -> None:
    from hashlib import sha256

    for job in jobs:
        inputs = json.loads((job.folder / "summary.json").read_text())["inputs"]
        for shown, digest in inputs.items():
            content = (executed / shown.removeprefix("executed/")).read_bytes()
            assert sha256(content).hexdigest() == digest, f"{job.name}: {shown}"
        read = {shown.split("/")[2] for shown in inputs}
        needed = {need.stage for need in job.needs}
        assert read <= needed, f"{job.name} read what the grid does not make it wait for"
        assert read or not needed, f"{job.name} says of nothing that it was read"


def predict(frame: pd.DataFrame) -> np.ndarray:
    """Best of the three logits by name; the label that comes first in a tie."""
    logits = frame[[f"logit_{label}" for label in LABELS]].to_numpy()
    return np.array(LABELS)[logits.argmax(axis=1)]


def score(frame: pd.DataFrame, test_set: str) -> tuple[float, int]:
    """Accuracy and number of pairs of one model on one test set, from its rows of the predictions."""
    split = test_set.split("_")[0]
    rows = frame[frame["test_set"] == split]
    if split == "hans":
        wanted = test_set.removeprefix("hans").strip("_").replace("blind_spot", "lexical_overlap_non_entailment")
        for label in ("non_entailment", "entailment"):
            if wanted.endswith(label):
                rows = rows[rows["gold_label"] == label.replace("_", "-")]
                wanted = wanted.removesuffix(label).strip("_")
                break
        rows = rows[rows["heuristic"] == wanted] if wanted else rows
    guessed, gold = predict(rows), rows["gold_label"].to_numpy()
    if split == "hans" or test_set.endswith("two_label"):
        guessed, gold = guessed == "entailment", gold == "entailment"
    return float((guessed == gold).sum()) / len(rows), len(rows)


def test_predictions_cover_every_pair_once(predictions: pd.DataFrame, executed: Path) -> None:
    data = executed / "test" / "10_prepare_data" / "all"
    owed = {split: pd.read_parquet(data / f"{split}.parquet") for split in ("matched", "mismatched", "hans")}
    assert {split: len(table) for split, table in owed.items()} == {"matched": 60, "mismatched": 30, "hans": 60}
    models = {f"start-{start}_seed-1_{name}" for start in STARTS for name in ["none", *SETS]}
    assert set(predictions["model"]) == models
    for (_, split), rows in predictions.groupby(["model", "test_set"], observed=True):
        assert rows["pair_id"].tolist() == owed[split]["pair_id"].tolist(), "in file order"
        assert rows["gold_label"].tolist() == owed[split]["gold_label"].tolist()
    assert np.isfinite(predictions[[f"logit_{label}" for label in LABELS]].to_numpy()).all()


def test_results_are_what_the_predictions_say(results_folder: Path, predictions: pd.DataFrame) -> None:
    results = pd.read_csv(results_folder / "results.csv", keep_default_na=False)
    assert list(results)[:7] == [
        *("starting_size", "training_kind", "training_size", "seed", "test_set", "accuracy", "n"),
    ]
    models = [(start, name) for start in STARTS for name in ["none", *SETS]]
    assert len(results) == len(models) * len(TEST_SETS) and set(results["test_set"]) == TEST_SETS
    for start, name in models:
        kind, _, size = name.rpartition("-") if name != "none" else ("none", "", "0")
        rows = predictions[predictions["model"] == f"start-{start}_seed-1_{name}"]
        found = results[
            (results["starting_size"] == start)
            & (results["training_kind"] == kind)
            & (results["training_size"] == int(size))
            & (results["seed"] == 1)
        ].set_index("test_set")
        assert len(found) == len(TEST_SETS)
        for test_set in TEST_SETS:
            accuracy, n = score(rows, test_set)
            assert found.loc[test_set, "n"] == n > 0
            assert found.loc[test_set, "accuracy"] == pytest.approx(accuracy, abs=1e-12), (start, name, test_set)
    assert results["accuracy"].nunique() > 5, "models differ"


def test_results_and_evaluations_hold_the_switches(results_folder: Path, executed: Path) -> None:
    expected: dict[str, str | bool] = {"pooling": "last_token", "overlap_detector": "published"}
    expected |= {"deduplicate_synthetic": True, "label_collapse": "argmax"}
    results = pd.read_csv(results_folder / "results.csv", keep_default_na=False)
    assert {name: results[name].unique().tolist() for name in expected} == {k: [v] for k, v in expected.items()}
    summaries = list((executed / "test" / "80_evaluate").glob("*/summary.json"))
    assert len(summaries) == 3
    assert all(json.loads(path.read_text())["switches"] == expected for path in summaries)


def test_results_depend_on_the_predictions(predictions: pd.DataFrame) -> None:
    """The recount can tell: other logits give other accuracies."""
    rows = predictions[predictions["model"] == "start-40_seed-1_none"]
    turned = rows.rename(columns={"logit_entailment": "logit_neutral", "logit_neutral": "logit_entailment"})
    assert any(score(rows, test_set) != score(turned, test_set) for test_set in TEST_SETS)


def test_figure1_is_what_the_predictions_say(results_folder: Path, predictions: pd.DataFrame) -> None:
    figure = pd.read_csv(results_folder / "figure1.csv", keep_default_na=False, na_values=[""])
    assert len(figure) == 3 * 7 * 3
    points = set()
    for row in figure.to_dict("records"):
        name = "none" if row["training_kind"] == "none" else f"{row['training_kind']}-{row['training_size']}"
        points.add((row["starting_size"], name, row["test_set"]))
        model = f"start-{row['starting_size']}_seed-1_{name}"
        accuracy, n = score(predictions[predictions["model"] == model], row["test_set"])
        assert row["accuracy"] == pytest.approx(accuracy, abs=1e-12)
        assert (row["n"], row["seeds"], row["model"]) == (n, 1, model)
        assert np.isnan(row["low"]) and np.isnan(row["high"]), "one seed has no spread"
    shown = ("matched", "hans", "hans_blind_spot")
    assert points == {(start, name, test) for start in STARTS for name in ["none", *SETS] for test in shown}


def has_overlap(premise: str, hypothesis: str, detector: str) -> bool:
    """Whether every word of the hypothesis is one of the premise's, as HANS's finder or the aligned one sees it."""
    first, second = premise.lower().split(), hypothesis.lower().split()
    if detector == "published":
        first, second = ([word for word in words if word not in ".?!"] for words in (first, second))
    else:
        first, second = ([word.strip(".,;:!?\"'()") for word in words] for words in (first, second))
    return set(second) <= set(first)


@pytest.mark.parametrize("detector", ["published", "token_aligned"])
def test_table1_is_what_the_pairs_say(
    results_folder: Path, synthetic: pd.DataFrame, training: pd.DataFrame, detector: str
) -> None:
    table = pd.read_csv(results_folder / "table1.csv").set_index(["detector", "dataset", "label"])
    assert len(table) == 12
    percents = {}
    for dataset, pairs in (("synthetic", synthetic[synthetic["accepted"]]), ("original", training)):
        for label in LABELS:
            chosen = pairs[pairs["gold_label"] == label]
            both = zip(chosen["premise"], chosen["hypothesis"], strict=True)
            overlap = [has_overlap(premise, hypothesis, detector) for premise, hypothesis in both]
            assert overlap == chosen[f"lexical_overlap_{detector}"].tolist()
            row = table.loc[(detector, dataset, label)]
            assert (row["count"], row["n_overlap"]) == (len(chosen), sum(overlap))
            percents[dataset, label] = 100 * sum(overlap) / len(chosen)
            assert row["percent_overlap"] == pytest.approx(percents[dataset, label])
    for label in LABELS:
        row = table.loc[(detector, "synthetic", label)]
        assert row["ratio"] == pytest.approx(percents["synthetic", label] / percents["original", label])
        assert np.isnan(table.loc[(detector, "original", label), "ratio"])
        assert row["paper_ratio"] == PAPER_RATIOS[label] if detector == "published" else np.isnan(row["paper_ratio"])


def test_synthetic_pairs_are_extracted_from_what_was_written(synthetic: pd.DataFrame) -> None:
    assert synthetic.groupby("gold_label").size().to_dict() == {"entailment": 96, "neutral": 32, "contradiction": 32}
    assert synthetic["pair_id"].is_unique
    expression = (
        r"(?s)\AThis is an example where the relationship between the premise and the hypothesis is (?P<label>\w+)\. "
        r"Premise: (?P<premise>.*?) ?Hypothesis: (?P<hypothesis>.*?) ?-- This is the end of the example\."
    )
    found = synthetic["raw_text"].str.extract(expression)
    accepted = synthetic["accepted"]
    assert accepted.sum() > 100
    assert (found[accepted]["label"] == synthetic[accepted]["gold_label"]).all()
    for name in ("premise", "hypothesis"):
        assert (found[accepted][name].str.strip() == synthetic[accepted][name]).all()
    assert synthetic[~accepted]["reject_reason"].notna().all() and synthetic[accepted]["reject_reason"].isna().all()
    assert synthetic[~accepted]["premise"].isna().all()


def test_the_audit_is_what_the_pairs_say(executed: Path, synthetic: pd.DataFrame, training: pd.DataFrame) -> None:
    accepted, rejected = synthetic[synthetic["accepted"]], synthetic[~synthetic["accepted"]]
    audit = executed / "test" / "50_audit_synthetic_data" / "all"
    taught = training.iloc[np.random.default_rng(1).permutation(len(training))[:800]]
    known = set(zip(taught["premise"], taught["hypothesis"], strict=True))
    is_copy = [pair in known for pair in zip(accepted["premise"], accepted["hypothesis"], strict=True)]
    assert (accepted["novelty"] == "exact").tolist() == accepted["copied_from_training"].tolist() == is_copy
    assert set(accepted["novelty"]) <= {"exact", "near", "new"} and rejected["novelty"].isna().all()
    similar = accepted["nearest_training_similarity"]
    assert set(accepted["nearest_training_id"].dropna()) <= set(taught["pair_id"])
    assert (similar.dropna().between(0.5, 1)).all() and (similar[accepted["novelty"] == "near"] >= 0.7).all()
    assert (similar[accepted["novelty"] == "new"].fillna(0) < 0.7).all()
    decided = accepted[accepted["true_label"].notna()]
    assert len(decided) > 50
    assert decided["agreement"].tolist() == (decided["gold_label"] == decided["true_label"]).tolist()
    estimated = pd.read_csv(audit / "fidelity_estimated.csv").set_index("label")
    for label in LABELS:
        rows = accepted[accepted["gold_label"] == label]
        assert rows["predicted_label"].isin(LABELS).all(), "fewer than the judge sees at most"
        assert (estimated.loc[label, "judged"], estimated.loc[label, "agreed"]) == (
            len(rows),
            (rows["predicted_label"] == label).sum(),
        )
    judge = pd.read_csv(audit / "judge.csv").set_index("label")
    judged = pd.read_parquet(executed / "test" / "80_evaluate" / "start-40_seed-1" / "predictions.parquet")
    judged = judged[(judged["training_kind"] == "none") & (judged["test_set"] == "matched")]
    assert judge.loc["all", "percent_right"] == pytest.approx(100 * (predict(judged) == judged["gold_label"]).mean())


def test_information_is_that_of_the_pairs(executed: Path, synthetic: pd.DataFrame, training: pd.DataFrame) -> None:
    """The uncorrected figure: sum of p log2(p / product of its margins), labels weighted equally."""
    audit = executed / "test" / "50_audit_synthetic_data" / "all"
    table = pd.read_csv(audit / "mutual_information.csv").set_index(["dataset", "heuristic", "detector", "quantity"])
    for dataset, pairs in (("synthetic", synthetic[synthetic["accepted"]]), ("original", training)):
        for detector in ("published", "token_aligned"):
            flags = pairs[f"lexical_overlap_{detector}"].astype(bool)
            rates = np.array([flags[pairs["gold_label"] == label].mean() for label in LABELS])
            joint = np.stack([rates, 1 - rates]) / 3
            parts = joint * np.log2(joint / (joint.sum(axis=0) * joint.sum(axis=1, keepdims=True)))
            row = table.loc[(dataset, "lexical_overlap", detector, "mutual_information_bits")]
            assert row["uncorrected"] == pytest.approx(parts.sum())
            assert row["low"] <= row["estimate"] <= row["high"] and row["estimate"] < row["uncorrected"]


def test_training_sets(training_sets: pd.DataFrame, synthetic: pd.DataFrame, training: pd.DataFrame) -> None:
    assert training_sets["training_set"].unique().tolist() == SETS
    known = {"synthetic": synthetic[synthetic["accepted"]], "original": training}
    for name, rows in training_sets.groupby("training_set"):
        kind, _, size = str(name).rpartition("-")
        assert rows["gold_label"].value_counts().to_dict() == dict.fromkeys(LABELS, int(size) // 3)
        assert rows["position"].tolist() == list(range(int(size)))
        assert set(rows["source"]) == {"original" if kind == "original" else "synthetic"}
        table = known["original" if kind == "original" else "synthetic"].set_index("pair_id")
        pairs = table.loc[rows["pair_id"]]
        assert pairs["gold_label"].tolist() == rows["gold_label"].tolist()
        assert not pairs.duplicated(["premise", "hypothesis"]).any(), "no repeats"
        if kind == "biased_synthetic":
            both = zip(pairs["premise"], pairs["hypothesis"], strict=True)
            overlap = [has_overlap(premise, hypothesis, "published") for premise, hypothesis in both]
            assert overlap == [label == "entailment" for label in rows["gold_label"]]


def test_training_sets_are_nested(training_sets: pd.DataFrame) -> None:
    ids = {name: rows["pair_id"].tolist() for name, rows in training_sets.groupby("training_set")}
    for kind in ("original", "synthetic", "biased_synthetic"):
        assert ids[f"{kind}-12"][:6] == ids[f"{kind}-6"]


def test_starts_saw_nested_pairs_and_none_that_is_held_out(executed: Path, training: pd.DataFrame) -> None:
    stage = executed / "test" / "20_train_task_model"
    seen = {start: pd.read_parquet(stage / f"start-{start}_seed-1" / "order.parquet")["pair_id"] for start in STARTS}
    assert {start: len(ids) for start, ids in seen.items()} == {0: 0, 20: 20, 40: 40}
    assert set(seen[20]) < set(seen[40]) <= set(training["pair_id"])
    assert seen[40].is_unique
    held_out = pd.read_parquet(executed / "test" / "10_prepare_data" / "all" / "held_out.parquet")
    assert held_out["gold_label"].value_counts().to_dict() == dict.fromkeys(LABELS, 10)
    assert not set(held_out["pair_id"]) & set(training["pair_id"])
    assert not training.duplicated(["premise", "hypothesis"]).any()


def test_no_file_of_text_names_the_machine(executed: Path) -> None:
    private = [str(ROOT), str(Path.home()), tempfile.gettempdir(), str(executed)]
    files = [path for path in (executed / "test").rglob("*") if path.suffix in (".ipynb", ".json", ".csv", ".svg")]
    assert len([path for path in files if path.name == "notebook.ipynb"]) == 20
    for path in files:
        text = path.read_text(encoding="utf-8")
        found = [name for name in private if f"{name}/" in text or f'{name}"' in text]
        assert not found, f"{path.relative_to(executed)} names {found}"


def test_executed_notebooks_ran_clean_to_the_end(executed: Path) -> None:
    for path in (executed / "test").glob("*/*/notebook.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        outputs = [output for cell in code for output in cell.outputs]
        assert not [output for output in outputs if output.output_type == "error"]
        errors = [output.text for output in outputs if output.get("name") == "stderr"]
        assert not errors, f"{path.parent}: {errors}"
        assert notebook.metadata.papermill.exception is None
        assert path.stat().st_size < 1_000_000
        if path.parent.parent.name != "90_analysis":
            assert "widgets" not in notebook.metadata, f"{path.parent}: widgets are blank without their kernel"


def list_data(notebook: Any) -> list[dict[str, Any]]:
    return [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]


def test_pictures_are_plotly_json_with_a_static_twin(results_folder: Path) -> None:
    notebook = nbformat.read(results_folder / "notebook.ipynb", as_version=4)
    data = list_data(notebook)
    plotly = [item["application/vnd.plotly.v1+json"] for item in data if "application/vnd.plotly.v1+json" in item]
    assert len(plotly) >= 2 and len([item for item in data if "image/png" in item]) >= 2
    assert any(len(figure["data"]) >= 9 for figure in plotly), "Figure 1 has a line for each kind and test set"
    widgets = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    names = {str(state["model_name"]) for state in widgets.values()}
    modules = {str(state["model_module"]) for state in widgets.values()}
    assert "FigureModel" not in names and not any("plotly" in module or "anywidget" in module for module in modules)
    assert (results_folder / "figure1.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (results_folder / "figure1.svg").read_text()[:2000]


def test_light_notebooks_load_nothing_heavy_when_they_run(executed: Path, tmp_path: Path) -> None:
    """Their code cells as one script each, on a copy of the results: torch & co. are not in sys.modules at the end."""
    copy = tmp_path / "executed"
    shutil.copytree(executed, copy, ignore=shutil.ignore_patterns(".snakemake", "70_augment_task_model"))
    for stage in ("10_prepare_data", "60_build_training_sets", "90_analysis"):
        notebook = nbformat.read(ROOT / "notebooks" / f"{stage}.ipynb", as_version=4)
        cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        text = "\n".join(["from IPython.display import display", cells[0], 'study = "test"', *cells[1:]])
        script = tmp_path / f"{stage}.py"
        script.write_text(text + "\nimport sys\nprint('modules', *{name.partition('.')[0] for name in sys.modules})\n")
        done = subprocess.run(
            [sys.executable, str(script)],
            env=os.environ | {"BLINDSPOT_EXECUTED": str(copy), "MPLBACKEND": "agg"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        loaded = set(done.stdout.splitlines()[-1].split())
        assert {"blindspot", "pyarrow"} <= loaded and not loaded & {"torch", "transformers", "peft"}, stage
    tables = ["results", "figure1", "table1", "differences", "claims", "claim_parts", "trends"]
    for name in [f"{table}.csv" for table in tables]:  # and they make the same artefacts without a kernel
        again, first = (folder / "test" / "90_analysis" / "all" / name for folder in (copy, executed))
        assert again.read_bytes() == first.read_bytes(), name


def test_second_run_starts_nothing(executed: Path) -> None:
    before = read_times(executed)
    assert len(before) == 20
    done = run_study(executed)
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_times(executed) == before


def test_a_deleted_run_runs_again_with_what_depends_on_it(executed: Path) -> None:
    folder = executed / "test" / "70_augment_task_model" / "start-20_seed-1"
    before = read_times(executed)
    results = {name: (executed / "test/90_analysis/all" / name).read_bytes() for name in ("results.csv", "table1.csv")}
    weights = (folder / "synthetic-12" / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(folder)
    done = run_study(executed)
    assert done.returncode == 0, done.stderr[-3000:]
    after = read_times(executed)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {
        *("70_augment_task_model/start-20_seed-1", "80_evaluate/start-20_seed-1", "90_analysis/all"),
    }
    assert (folder / "synthetic-12" / "adapter_model.safetensors").read_bytes() == weights, (
        "the same seed, the same model"
    )
    for name, content in results.items():
        assert (executed / "test/90_analysis/all" / name).read_bytes() == content, name


def test_plan_with_overrides_starts_nothing(tmp_path: Path) -> None:
    """Overrides reach Snakemake with their types; a relative results folder is one of the caller's."""
    command = [sys.executable, "-m", "blindspot", "study", "--study", "test", "--plan"]
    done = subprocess.run(
        [*command, "--overrides", "{seeds: [1, 2], task_model.training.learning_rate: 1.0e-3, name: two}"],
        cwd=tmp_path,
        env=os.environ | {"BLINDSPOT_EXECUTED": "results"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Study two: 30 of 30 runs would start" in done.stdout
    assert not list(tmp_path.rglob("notebook.ipynb"))
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert not (ROOT / "results").exists()


def test_papermill_by_hand(executed: Path, tmp_path: Path) -> None:
    """One point of the grid as the README types it, in a folder without results: the data stages run first."""
    output = tmp_path / "OUT.ipynb"
    command = [str(Path(sys.executable).with_name("papermill")), "notebooks/20_train_task_model.ipynb", str(output)]
    done = subprocess.run(
        [*command, *("-p", "study", "test", "-p", "starting_size", "20", "-p", "seed", "1")],
        cwd=ROOT,
        env=os.environ | {"BLINDSPOT_EXECUTED": str(tmp_path / "executed"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    stages = sorted(path.parent.parent.name for path in (tmp_path / "executed").rglob("summary.json"))
    assert stages == ["00_build_sandbox", "10_prepare_data", "15_tokenize_pairs", "20_train_task_model"]
    [weights] = (tmp_path / "executed").rglob("adapter_model.safetensors")
    grid = executed / "test" / "20_train_task_model" / "start-20_seed-1" / "adapter" / "adapter_model.safetensors"
    assert weights.read_bytes() == grid.read_bytes(), "by hand and in the grid: the same seed, the same model"
    summary = json.loads((weights.parents[1] / "summary.json").read_text())
    assert summary["counts"]["pairs"] == 20
    notebook = nbformat.read(output, as_version=4)
    assert notebook.metadata.papermill.parameters == {"study": "test", "starting_size": 20, "seed": 1}
