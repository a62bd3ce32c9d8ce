"""The benchmark's harness: its gates can fail, its reference is right on hand-made cases, and it runs at tiny sizes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from bench import reference
from bench.__main__ import main
from bench.data_stages import check_reading
from bench.measure import GateError, Race, agree_by_ks, find_ratio, largest_gap, require, run_race, write_results
from bench.report import END, START, render, write_readme
from bench.study_stage import compose_reference
from bench.tiling import make_row, parse_binary, parse_phrases, write_tiled

from blindspot.data import prepare_store
from blindspot.heuristics import lexical_overlap
from blindspot.prompts import build_task_prompts, extract_pair, generator_text, join_task_prompts, task_prompt
from blindspot.study import load_study

TEXTS = [("The lawyer, who left, danced.", "The lawyer danced."), ("It rains .", "it rains"), ("A b c", "C d")]


def make_race(*, ours: int) -> Race[int]:
    def check(theirs: int, found: int) -> dict[str, Any]:
        require(theirs == found, f"{theirs} and {found}")
        return {"both": found}

    return Race(
        stage="sum",
        title="sum",
        at_least=1e9,
        aim=None,
        gate="same sum",
        reference=lambda _: (1.0, 3),
        ours=lambda _: (1.0, ours),
        check=check,
    )


def test_ratio_is_work_per_second_of_ours_over_the_references() -> None:
    row = {"reference_seconds": 8.0, "reference_work": 64, "ours_seconds": 2.0, "ours_work": 400}
    assert find_ratio(row) == 25.0


def test_failed_gate_voids_the_ratio() -> None:
    good, bad = run_race(make_race(ours=3), rounds=3), run_race(make_race(ours=4), rounds=3)
    assert len(good["rounds"]) == 3 and good["gate"]["passed"] and good["gate"]["figures"] == {"both": 3}
    assert good["ratio"]["lowest"] <= good["ratio"]["median"] <= good["ratio"]["highest"]
    assert good["meets_at_least"] is False  # nothing is a thousand million times as fast
    assert bad["ratio"] is None and bad["gate"] == {
        "what": "same sum",
        "passed": False,
        "problem": "3 and 4",
        "figures": {},
    }
    assert bad["meets_at_least"] is None


def test_gates_of_numbers_fail_where_they_should() -> None:
    generator = np.random.default_rng(1)
    same, other = generator.normal(size=(2, 400)), generator.normal(1.0, size=400)
    assert agree_by_ks(same[0], same[1], what="lengths") > 0.01
    with pytest.raises(GateError, match="lengths differ"):
        agree_by_ks(same[0], other, what="lengths")
    with pytest.raises(GateError, match="none to compare"):
        agree_by_ks(same[0], same[0][:0], what="lengths")
    assert largest_gap(np.array([1.0, 200.0]), np.array([1.0, 200.001]), what="logits") == pytest.approx(5e-6)
    with pytest.raises(GateError, match="logits differ"):
        largest_gap(np.array([1.0]), np.array([1.0001]), what="logits")


def test_reference_reads_the_same_pairs_and_a_wrong_one_is_seen(tmp_path: Path) -> None:
    source = tmp_path / "source.jsonl"
    labels = ("entailment", "-", "neutral")
    rows = [
        {"gold_label": label, "sentence1": p, "sentence2": h, "genre": "fiction"}
        for label, (p, h) in zip(labels, TEXTS, strict=True)
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    file = write_tiled(source, tmp_path / "tiled.jsonl", rows=7)
    from bench.data_stages import choose_parse, read_by_columns, read_by_rows

    count, ours = read_by_columns(file)
    for as_published in (False, True):
        parse, _ = choose_parse(as_published)
        found, theirs = read_by_rows(file, parse)
        assert found == count == 5 and check_reading(theirs, ours) == {"pairs": 5}
    table, prompts = ours
    changed = table.set_column(3, "premise", pa.array(["x"] * 5, pa.string()))
    with pytest.raises(GateError, match="premise"):
        check_reading(theirs, (changed, prompts))
    with pytest.raises(GateError, match="prompts"):
        check_reading(theirs, (table, join_task_prompts(changed["premise"], changed["hypothesis"])))


def test_tiled_rows_have_the_releases_fields_and_do_not_repeat() -> None:
    row = {"gold_label": "neutral", "sentence1": "The lawyer left .", "sentence2": "Hi", "genre": "fiction"}
    made = make_row(row, number=12, tile=3)
    assert made["pairID"] == "12n" and made["sentence2"] == "Hi 3"
    assert made["sentence1_binary_parse"] == "( The ( lawyer ( left . ) ) )"
    assert parse_phrases("Hi you") == "(ROOT (S (NN Hi) (NN you)))"
    assert (parse_binary("Hi"), parse_binary("")) == ("Hi", "")


def test_reference_texts_and_detector_are_the_librarys() -> None:
    premises, hypotheses = zip(*TEXTS, strict=True)
    assert [reference.task_prompt(p, h) for p, h in TEXTS] == build_task_prompts(premises, hypotheses)
    assert join_task_prompts(*(pa.chunked_array([list(side)]) for side in (premises, hypotheses))).to_pylist() == [
        task_prompt(p, h) for p, h in TEXTS
    ]
    whole = generator_text("neutral", "A b.", "C.")
    assert reference.generator_text("neutral", "A b.", "C.") == whole
    wrong = whole.replace("neutral", "neutral or entailment")
    for text in (whole, whole + " More. Premise: x", wrong, whole[:-10], whole.replace("C.", " ")):
        found = extract_pair(text, label="neutral")
        expected = (found.premise, found.hypothesis) if found.accepted else None
        assert reference.extract(text, label="neutral") == expected
    for detector, by_hand in (("published", [False, True, False]), ("token_aligned", [True, True, False])):
        overlap = [reference.has_overlap(p, h, detector=detector) for p, h in TEXTS]
        assert overlap == lexical_overlap(premises, hypotheses, detector=detector).tolist() == by_hand


def test_study_is_composed_of_units_times_counts() -> None:
    rows = [{"reference_seconds": 2.0, "reference_work": 4.0}]
    parts = ("kernel_start", "start_training", "generator_training", "generation", "sets", "augmentation", "evaluation")
    study = load_study("test")  # starts 0, 20, 40; six sets; 96, 32, 32 examples; 800 texts
    found = compose_reference(study, {name: {"rounds": rows} for name in parts}, number=2, train_pairs=1000)
    units = {name: part["units"] for name, part in found.items()}
    assert units == {
        "kernel_start": 3 + 1 + 3 + 18 + 21,
        "start_training": 60,
        "generator_training": 800,
        "generation": 2 + 1 + 1,
        "sets": 18,
        "augmentation": 3,
        "evaluation": 21,
    }
    assert found["start_training"]["seconds"] == 2.0 / 4 * 60 and found["evaluation"]["seconds"] == 42.0


def test_results_of_other_stages_stay_and_the_table_goes_between_the_markers(tmp_path: Path) -> None:
    file, readme = tmp_path / "results.json", tmp_path / "README.md"
    write_results(file, {"b": run_race(make_race(ours=4), rounds=1)}, order=["a", "b"])
    results = write_results(file, {"a": run_race(make_race(ours=3), rounds=1)}, order=["a", "b"])
    assert list(json.loads(file.read_text())["stages"]) == ["a", "b"]
    table = render(results)
    assert "| sum | null | 1e+09x | - | **failed**: 3 and 4 |" in table
    assert "holds: same sum" in table and "below" in table
    readme.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    write_readme(readme, table)
    write_readme(readme, table)
    assert readme.read_text() == f"before\n{START}\n{table}\n{END}\nafter\n"
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="markers"):
        write_readme(readme, table)


def test_harness_runs_at_tiny_sizes(tmp_path: Path) -> None:
    output = tmp_path / "quick.json"
    stages = ["read", "read_as_published", "sets", "augmentation", "evaluation"]
    quick = ["--quick", "--rounds", "1", "--output", str(output), "--work", str(tmp_path / "work")]
    assert main([*quick, "--stages", *stages]) == 0
    found = json.loads(output.read_text())["stages"]
    assert list(found) == stages
    assert all(entry["gate"]["passed"] and entry["ratio"]["median"] > 0 for entry in found.values())
    assert 0 < found["augmentation"]["gate"]["figures"]["largest_gradient_difference"] < 1e-5
    assert set(found["evaluation"]["gate"]["figures"]["accuracies"]) >= {"matched", "hans", "hans_blind_spot"}


def test_quick_figures_do_not_go_into_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--quick"])
    assert "--output" in capsys.readouterr().err


def test_broken_stage_fails_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import data_stages

    def broken(_: Path) -> Any:
        raise OSError("no file")

    monkeypatch.setattr(data_stages, "read_by_columns", broken)
    output = tmp_path / "quick.json"
    quick = ["--quick", "--rounds", "1", "--output", str(output), "--work", str(tmp_path / "work")]
    assert main([*quick, "--stages", "read", "sets"]) == 1
    found = json.loads(output.read_text())["stages"]
    assert found["read"]["ratio"] is None and found["read"]["gate"]["problem"] == "OSError: no file"
    assert found["sets"]["gate"]["passed"] is True


def test_store_of_the_reference_is_the_librarys(tmp_path: Path) -> None:
    from blindspot.sandbox import write_sandbox_data

    write_sandbox_data(tmp_path, seed=3, train_pairs=600, matched_pairs=9, mismatched_pairs=9, hans_per_subcase=1)
    tables, _ = prepare_store(tmp_path, held_out_per_label=10)
    rows = reference.drop_repeated(reference.read_rows(tmp_path / "multinli_1.0" / "multinli_1.0_train.jsonl"))
    train, held_out = reference.hold_out(rows, per_label=10)
    assert [row["sentence2"] for row in train] == tables["train"]["hypothesis"].to_pylist()
    assert [row["sentence2"] for row in held_out] == tables["held_out"]["hypothesis"].to_pylist()
