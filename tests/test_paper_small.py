"""The paper's study at 1/200 of its sizes, on real text with a random Llama, through the real command to its results.

4-bit NF4, LoRA r 64, the modules that the paper saves. The overrides are the file that the README names.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from safetensors import safe_open

from blindspot.data import LABELS, count_labels, read_table
from blindspot.grid import expand_study
from blindspot.random_model import write_random_llama
from blindspot.study import ROOT, load_study

STARTS = [0, 25, 50, 100, 500, 1958]
SETS = [f"{kind}-{size}" for kind in ("original", "synthetic", "biased_synthetic") for size in (90, 180, 363)]
LAYERS, WIDTH, RANK = 2, 128, 64


@pytest.fixture(scope="module")
def overrides(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of overrides with this machine's folders."""
    model = write_random_llama(tmp_path_factory.mktemp("models") / "random-llama", data=shared_data, seed=1)
    values = yaml.safe_load((ROOT / "parameters" / "overrides" / "paper-200th.yaml").read_text(encoding="utf-8"))
    return json.dumps(values | {"data.folder": str(shared_data), "base_model.name": str(model)})


@pytest.fixture(scope="module")
def study_folder(overrides: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the whole study, run once."""
    if not os.environ.get("BLINDSPOT_SLOW"):
        pytest.skip("takes 5 to 10 minutes: `make test-slow` runs it")
    executed = tmp_path_factory.mktemp("study") / "executed"
    done = subprocess.run(
        [sys.executable, "-m", "blindspot", "study", "--study", "paper", "--overrides", overrides, "--cores", "2"],
        cwd=ROOT,
        env=os.environ | {"BLINDSPOT_EXECUTED": str(executed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Done." in done.stderr
    return executed / "paper-200th"


def read_summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def test_the_sizes_are_the_papers_over_200(overrides: str) -> None:
    """Nothing but sizes, the base model, the data and what the generator needs differs from the paper's study."""
    paper, small = load_study("paper"), load_study("paper", overrides)
    assert small.task_model.starting_sizes == [size // 200 for size in paper.task_model.starting_sizes] == STARTS
    assert small.training_sets.pairs_per_label == [size // 200 for size in paper.training_sets.pairs_per_label]
    assert small.training_sets.kinds == paper.training_sets.kinds
    assert (small.lora, small.task_model.training) == (paper.lora, paper.task_model.training)
    assert small.generator.modules_to_save == paper.generator.modules_to_save
    assert (small.lora.r, small.base_model.quantization) == (RANK, "nf4")
    assert small.switches() == paper.switches()
    assert small.generation.examples_per_label["neutral"] == paper.generation.examples_per_label["neutral"] // 200


def test_it_runs_to_its_results(study_folder: Path) -> None:
    results = pd.read_csv(study_folder / "90_analysis" / "all" / "results.csv", keep_default_na=False)
    assert results["model"].nunique() == len(STARTS) * (1 + len(SETS)) == 60
    assert sorted(results["starting_size"].unique()) == STARTS
    n = results.groupby("test_set")["n"].unique()
    assert n["hans"].tolist() == [150] and 40 <= n["matched"][0] <= 49
    assert results["accuracy"].between(0, 1).all() and results["accuracy"].nunique() > 5
    assert (results["pooling"].unique(), results["deduplicate_synthetic"].unique()) == (["last_token"], [False])
    for name in ("figure1.csv", "figure1.png", "table1.csv", "claims.csv", "notebook.ipynb"):
        assert (study_folder / "90_analysis" / "all" / name).stat().st_size > 100


def test_modules_are_saved_as_the_paper_saves_them(study_folder: Path) -> None:
    embeddings = {"base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight"}
    expected = {
        "20_train_task_model/start-1958_seed-1/adapter": (["score"], {"base_model.model.score.weight"}),
        "70_augment_task_model/start-0_seed-1/biased_synthetic-363": (["score"], {"base_model.model.score.weight"}),
        "30_train_generator/all/adapter": (["embed_tokens", "lm_head"], embeddings),
    }
    for name, (modules, tensors) in expected.items():
        config = json.loads((study_folder / name / "adapter_config.json").read_text())
        assert (config["r"], config["modules_to_save"]) == (RANK, modules)
        with safe_open(study_folder / name / "adapter_model.safetensors", framework="pt") as file:
            names = set(file.keys())
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in names}
            dtypes = {file.get_slice(key).get_dtype() for key in names}
        assert {key for key in names if "lora" not in key} == tensors and dtypes == {"F32"}
        assert len(names) == LAYERS * 7 * 2 + len(tensors)
        prefix = "base_model.model.model.layers.1.self_attn.q_proj.lora_"
        assert (shapes[prefix + "A.weight"], shapes[prefix + "B.weight"]) == ((RANK, WIDTH), (WIDTH, RANK))


def test_what_the_generator_wrote_fills_every_set(study_folder: Path) -> None:
    synthetic = read_table(study_folder / "50_audit_synthetic_data" / "all" / "synthetic.parquet").to_pandas()
    assert len(synthetic) == 24000 + 2815 + 3125
    assert synthetic["accepted"].mean() > 0.5 and not synthetic["accepted"].all(), "rejected rows are kept"
    sets = read_table(study_folder / "60_build_training_sets" / "seed-1" / "training_sets.parquet")
    frame = sets.to_pandas()
    assert frame["training_set"].unique().tolist() == SETS
    for name, rows in frame.groupby("training_set"):
        size = int(str(name).rpartition("-")[2])
        assert rows["gold_label"].value_counts().to_dict() == dict.fromkeys(LABELS, size // 3)
    biased = frame[frame["training_set"] == "biased_synthetic-363"].merge(synthetic, on="pair_id")
    assert biased["lexical_overlap_published"].tolist() == (biased["gold_label_x"] == "entailment").tolist()


def test_every_evaluation_says_how_it_was_made(study_folder: Path) -> None:
    for start in STARTS:
        summary = read_summary(study_folder / "80_evaluate" / f"start-{start}_seed-1")
        assert summary["metrics"]["batch_difference"] < 1e-4
        assert summary["switches"] == {
            "pooling": "last_token",
            "overlap_detector": "published",
            "deduplicate_synthetic": False,
            "label_collapse": "argmax",
        }
    data = read_summary(study_folder / "10_prepare_data" / "all")
    assert [row["from"] for row in data["metrics"]["acquired"]] == ["the folder"] * 4
    train = read_table(study_folder / "10_prepare_data" / "all" / "train.parquet")
    assert data["counts"]["train"] == train.num_rows == sum(count_labels(train).values()) > 11_000


def test_the_plan_then_knows_what_it_took(study_folder: Path, overrides: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from blindspot.costs import estimate_costs

    monkeypatch.setenv("BLINDSPOT_EXECUTED", str(study_folder.parent))
    study = load_study("paper", overrides)
    costs = estimate_costs(study, expand_study(study), to_run=set())
    assert len(costs) == 31 and {cost.source for cost in costs} == {"measured"}
    assert all(cost.seconds and cost.bytes for cost in costs)
