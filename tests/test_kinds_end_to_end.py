"""Doses, mixes, other heuristics and a second generation through every notebook, without kernels, at sizes of seconds.

The notebooks' cells run as scripts in this process, in the grid's order; the counts are taken from the files alone.
"""

import json
import runpy
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from IPython.display import display

from blindspot.grid import Job, expand_study
from blindspot.sandbox import bracket_text
from blindspot.study import ROOT, load_study

LABELS = ["entailment", "neutral", "contradiction"]
OVERRIDES: dict[str, Any] = {
    "name": "kinds",
    "data.sandbox.train_pairs": 1500,
    "data.sandbox.matched_pairs": 15,
    "data.sandbox.mismatched_pairs": 15,
    "data.sandbox.hans_per_subcase": 1,
    "task_model.starting_sizes": [8],
    "generator.training_size": 600,
    "generator.training.per_device_train_batch_size": 4,
    "generator.generations": 1,
    "generator.retraining_pairs_per_label": 100,
    "generation.examples_per_label": dict.fromkeys(LABELS, 150),
    "generation.shard_size": 150,
    "generation.batch_size": 150,
    "training_sets.pairs_per_label": [2],
    "training_sets.kinds": [
        {"name": "dose_0", "synthetic_fraction": 1.0, "biased_by": "lexical_overlap", "dose": 0.0},
        {"name": "dose_50", "synthetic_fraction": 1.0, "biased_by": "lexical_overlap", "dose": 0.5},
        {"name": "dose_100", "synthetic_fraction": 1.0, "biased_by": "lexical_overlap"},
        {"name": "by_subsequence", "synthetic_fraction": 0.0, "biased_by": "subsequence"},
        {"name": "by_constituent", "synthetic_fraction": 0.5, "biased_by": "constituent"},
        {"name": "later", "synthetic_fraction": 0.5, "generation": 1},
    ],
}


def run_cells(job: Job, folder: Path) -> None:
    """A notebook's code cells as one script, with the job's parameters after the tagged cell."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{job.stage}.ipynb", as_version=4)
    first, *cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    parameters = {"study": "test", "overrides": OVERRIDES, **job.coordinates}
    given = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    script = folder / f"{job.stage}.py"
    script.write_text("\n".join([first, given, *cells]), encoding="utf-8")
    runpy.run_path(str(script), init_globals={"display": display})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLINDSPOT_EXECUTED", str(folder / "executed"))
        for job in expand_study(load_study("test", OVERRIDES)):
            run_cells(job, folder)
            assert all((job.folder / name).stat().st_size for name in [*job.outputs, "summary.json"]), job.name
    return folder / "executed" / "kinds"


@pytest.fixture(scope="module")
def written(results: Path) -> list[pd.DataFrame]:
    """What each generation wrote, by pair_id."""
    audits = [results / "50_audit_synthetic_data" / run for run in ("all", "generation-1")]
    return [pd.read_parquet(audit / "synthetic.parquet").set_index("pair_id") for audit in audits]


@pytest.fixture(scope="module")
def sets(results: Path) -> dict[str, pd.DataFrame]:
    table = pd.read_parquet(results / "60_build_training_sets" / "seed-1" / "training_sets.parquet")
    return {str(name): rows for name, rows in table.groupby("training_set")}


def test_a_generation_learns_from_the_one_before(results: Path, written: list[pd.DataFrame]) -> None:
    summary = json.loads((results / "30_train_generator" / "generation-1" / "summary.json").read_text())
    assert summary["counts"]["pairs"] == 300 and summary["parameters"] == {"generation": 1}
    read = [shown.removeprefix("executed/kinds/") for shown in summary["inputs"]]
    assert "50_audit_synthetic_data/all/synthetic.parquet" in read
    assert not [shown for shown in read if shown.startswith("10_")], "no original pair is seen again"
    for generation, table in enumerate(written):
        assert len(table) == 450 and set(table["generation"]) == {generation}
        assert table.index.is_unique and table["accepted"].sum() > 20
    assert not set(written[0].index) & set(written[1].index)
    assert (written[0]["raw_text"].to_numpy() != written[1]["raw_text"].to_numpy()).mean() > 0.5


def is_stretch(premise: str, hypothesis: str) -> bool:
    """The published finder: the hypothesis's words, joined, stand in the premise's."""
    first, second = (
        " ".join(word for word in text.lower().split() if word not in ".?!") for text in (premise, hypothesis)
    )
    return second in first


def test_synthetic_pairs_have_every_heuristic(written: list[pd.DataFrame]) -> None:
    for table in written:
        accepted, rejected = table[table["accepted"]], table[~table["accepted"]]
        names = [f"{h}_{d}" for h in ("subsequence", "constituent") for d in ("published", "token_aligned")]
        assert rejected[names].isna().all(axis=None)
        both = zip(accepted["premise"], accepted["hypothesis"], strict=True)
        assert accepted["subsequence_published"].tolist() == [is_stretch(*pair) for pair in both]
        parsed = accepted["premise"].map(bracket_text).notna()
        assert (accepted["constituent_published"].notna() == parsed).all() and parsed.any()


def find_biased(rows: pd.DataFrame, flags: pd.Series) -> int:
    """Pairs of a set that have the heuristic and entail, or have it not and don't."""
    has = flags.loc[rows["pair_id"]].to_numpy(dtype=bool)
    return int((has == (rows["gold_label"] == "entailment").to_numpy()).sum())


def test_sets_are_what_their_kinds_say(
    results: Path, written: list[pd.DataFrame], sets: dict[str, pd.DataFrame]
) -> None:
    train = pd.read_parquet(results / "10_prepare_data" / "all" / "train.parquet").set_index("pair_id")
    assert {len(rows) for rows in sets.values()} == {6} and len(sets) == 6
    overlap = written[0]["lexical_overlap_published"]
    assert find_biased(sets["dose_100-6"], overlap) == 6
    assert find_biased(sets["dose_50-6"], overlap) >= 3
    stretch = pd.Series([is_stretch(p, h) for p, h in zip(train["premise"], train["hypothesis"], strict=True)])
    assert find_biased(sets["by_subsequence-6"], stretch.set_axis(train.index)) == 6
    later = sets["later-6"].groupby("source")["pair_id"].apply(list)
    assert len(later["original"]) == len(later["synthetic"]) == 3
    assert set(later["synthetic"]) <= set(written[1].index[written[1]["accepted"]])
    mixed = sets["by_constituent-6"]
    drawn = mixed[mixed["source"] == "synthetic"]
    assert len(drawn) == 3 and find_biased(drawn, written[0]["constituent_published"]) == 3


def test_analysis_draws_doses_and_generations(results: Path) -> None:
    folder = results / "90_analysis" / "all"
    doses = pd.read_csv(folder / "dose_response.csv")
    scores = pd.read_csv(folder / "results.csv", keep_default_na=False).set_index(["training_kind", "test_set"])
    assert len(doses) == 3 * 3 and set(doses["dose"]) == {0.0, 0.5, 1.0}
    for row in doses.to_dict("records"):
        assert row["training_kind"] == f"dose_{100 * row['dose']:.0f}"
        found = scores.loc[(row["training_kind"], row["test_set"])]
        assert (row["accuracy"], row["n"]) == (pytest.approx(found["accuracy"]), found["n"])
    trends = pd.read_csv(folder / "dose_trends.csv").set_index("test_set")
    ends = doses.pivot(index="test_set", columns="dose", values="accuracy")
    assert trends["slope"].to_dict() == pytest.approx((ends[1.0] - ends[0.0]).to_dict()), "three even doses"
    assert not trends["sees_seeds"].any()
    assert (folder / "dose_response.png").read_bytes().startswith(b"\x89PNG")
    table1 = pd.read_csv(folder / "table1.csv")
    assert table1.groupby("dataset").size().to_dict() == dict.fromkeys(
        ("synthetic", "synthetic, generation 1", "original"), 6
    )
    generations = pd.read_csv(folder / "generations.csv")
    assert generations["generation"].tolist() == [0, 0, 0, 1, 1, 1] and generations["percent_right"].notna().any()
