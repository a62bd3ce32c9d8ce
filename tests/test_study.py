"""The study file: what ships is valid; a mistake says key, value and what is allowed, before a kernel starts."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from blindspot import study as study_module
from blindspot.study import (
    ROOT,
    StudyError,
    apply_overrides,
    executed_folder,
    list_studies,
    load_study,
    read_overrides,
)

STUDY_FILES = sorted((ROOT / "parameters").glob("*.yaml"))
PAPER_SIZES = [0, 5000, 10000, 20000, 100000, 391722]


def read_mistake(overrides: Any, study: str = "test") -> str:
    with pytest.raises(StudyError) as caught:
        load_study(study, overrides)
    return str(caught.value)


@pytest.mark.parametrize("path", STUDY_FILES, ids=lambda path: path.stem)
def test_shipped_studies_load_under_their_own_name(path: Path) -> None:
    study = load_study(path.stem)
    assert study.name == path.stem
    assert study.description
    assert load_study(str(path.relative_to(ROOT))) == study
    assert load_study(str(path)) == study


@pytest.mark.parametrize("path", STUDY_FILES, ids=lambda path: path.stem)
def test_no_number_of_a_shipped_study_is_text(path: Path) -> None:
    """2e-4 is text to PyYAML and 2.0e-4 a number."""
    assert not re.findall(r":\s*\d+e[+-]?\d+\s*$", path.read_text(), flags=re.M)


def test_the_four_studies_ship() -> None:
    assert set(list_studies()) >= {"sandbox", "smollm2", "paper", "test"}
    assert len(STUDY_FILES) >= 4


def test_paper_study_has_the_published_settings() -> None:
    paper = load_study("paper")
    assert paper.task_model.starting_sizes == PAPER_SIZES
    assert paper.training_sets.names() == [
        *("original-18018", "original-36039", "original-73080"),
        *("synthetic-18018", "synthetic-36039", "synthetic-73080"),
        *("biased_synthetic-18018", "biased_synthetic-36039", "biased_synthetic-73080"),
    ]
    assert (paper.lora.r, paper.lora.lora_alpha, paper.lora.lora_dropout) == (64, 16.0, 0.1)
    assert (paper.base_model.quantization, paper.base_model.compute_dtype) == ("nf4", "bfloat16")
    for training, batch in ((paper.task_model.training, 2), (paper.generator.training, 6)):
        assert (training.learning_rate, training.weight_decay, training.warmup_steps) == (2.0e-5, 0.001, 0.3)
        assert (training.max_grad_norm, training.per_device_train_batch_size) == (0.3, batch)
    assert paper.data.expected_counts["train"] == 391722
    assert paper.data.held_out_per_label == 250


def test_sandbox_is_the_papers_grid_in_small() -> None:
    sandbox = load_study("sandbox")
    assert len(sandbox.task_model.starting_sizes) == 6
    assert len(sandbox.training_sets.names()) == 9
    assert sandbox.data.source == "sandbox"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"lora.rr": 8}, ["lora.rr", "unknown key", "allowed here: r, lora_alpha", "did you mean 'r'?"]),
        ({"nonsense": 1}, ["nonsense", "unknown key", "base_model"]),
        ({"task_modle.pooling": "last_token"}, ["task_modle", "unknown key", "did you mean 'task_model'?"]),
        ({"data.seed.x": 1}, ["data.seed", "unknown key", "held_out_per_label"]),
        (
            {"training_sets.kinds": [{"name": "a", "synthetic_fraction": 0.5, "dos": 0.5}]},
            ["training_sets.kinds.0.dos", "unknown key", "did you mean 'dose'?"],
        ),
        ({"lora": {"r": "8"}}, ["lora.r", "'8'", "integer"]),
        ({"lora.r": 8.0}, ["lora.r", "8.0", "integer"]),
        ({"lora.r": None}, ["lora.r", "None", "integer"]),
        ({"lora.r": True}, ["lora.r", "True", "integer"]),
        ({"seeds": 1}, ["seeds", "1", "list"]),
        ({"seeds": []}, ["seeds", "[]", "at least 1"]),
        ({"seeds": [-1]}, ["seeds.0", "-1", "greater than or equal to 0"]),
        ({"data": 5}, ["data", "5", "dictionary"]),
        ({"task_model.pooling": "mean"}, ["task_model.pooling", "'mean'", "'last_token' or 'as_published'"]),
        ({"data.source": "web"}, ["data.source", "'web'", "'sandbox', 'folder', 'download' or 'hub'"]),
        ({"data.source": "folder"}, ["data", "'folder' needs the key 'folder'"]),
        ({"lora.target_modules": ["query"]}, ["lora.target_modules.0", "'query'", "'q_proj'"]),
        ({"training_sets.overlap_detector": "both"}, ["overlap_detector", "'both'", "'published' or 'token_aligned'"]),
        ({"evaluation.label_collapse": "max"}, ["label_collapse", "'max'", "'argmax' or 'summed_probability'"]),
        ({"name": "../elsewhere"}, ["name", "'../elsewhere'", "A-Za-z0-9"]),
        ({"base_model": {"name": "someone/llama"}}, ["base_model", "'someone/llama'", "'revision'"]),
        ({"data.expected_counts": {"train": -5}}, ["data.expected_counts.train", "-5", "greater than or equal to 0"]),
    ],
)
def test_unknown_keys_and_wrong_types(overrides: dict[str, Any], words: list[str]) -> None:
    message = read_mistake(overrides)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"task_model.training.learning_rate": -2.0e-4}, ["learning_rate", "-0.0002", "greater than 0"]),
        ({"task_model.training.learning_rate": 0.0}, ["learning_rate", "0.0", "greater than 0"]),
        ({"generator.training.weight_decay": -0.1}, ["weight_decay", "-0.1", "greater than or equal to 0"]),
        ({"augmentation.training.warmup_steps": 1.5}, ["warmup_steps", "1.5", "less than or equal to 1"]),
        ({"generation.temperature": 0.0}, ["generation.temperature", "0.0", "greater than 0"]),
        ({"generation.top_p": 1.1}, ["generation.top_p", "1.1", "less than or equal to 1"]),
        ({"generation.top_k": -1}, ["generation.top_k", "-1", "greater than or equal to 0"]),
        ({"lora.lora_dropout": 1.0}, ["lora.lora_dropout", "1.0", "less than 1"]),
        ({"analysis.smallest_effect": 0.0}, ["analysis.smallest_effect", "0.0", "greater than 0"]),
        ({"analysis.near_zero": 1.0}, ["analysis.near_zero", "1.0", "less than 1"]),
        ({"augmentation.max_stacked": 0}, ["augmentation.max_stacked", "0", "greater than or equal to 1"]),
        ({"augmentation.max_stacked": True}, ["1 mistake", "augmentation.max_stacked", "True", "'auto'"]),
        ({"augmentation.max_stacked": "all"}, ["1 mistake", "augmentation.max_stacked", "'all'", "'auto'"]),
        ({"augmentation.max_stacked": None}, ["1 mistake", "augmentation.max_stacked", "None", "'auto'"]),
    ],
)
def test_impossible_numbers(overrides: dict[str, Any], words: list[str]) -> None:
    message = read_mistake(overrides)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_rate_that_is_no_finite_number(value: float) -> None:
    assert "learning_rate" in read_mistake({"task_model.training.learning_rate": value})


@pytest.mark.parametrize("as_text", [True, False])
def test_a_rate_written_as_2e_4_says_how_to_write_it(as_text: bool) -> None:
    key = "task_model.training.learning_rate"
    message = read_mistake(f"{key}: 2e-4" if as_text else {key: "2e-4"})
    assert key in message and "'2e-4'" in message and "write 2.0e-4" in message
    assert load_study("test", f"{key}: 2.0e-4").task_model.training.learning_rate == 2.0e-4


def test_unknown_labels_and_kinds() -> None:
    message = read_mistake({"generation.examples_per_label": {"entailed": 5}})
    assert all(word in message for word in ("examples_per_label", "'entailed'", "'entailment', 'neutral'"))
    kinds = [{"name": "biased", "synthetic_fraction": 1.0, "biased_by": "overlap"}]
    message = read_mistake({"training_sets.kinds": kinds})
    assert all(word in message for word in ("kinds.0.biased_by", "'overlap'", "'lexical_overlap', 'subsequence'"))
    message = read_mistake({"training_sets.kinds": [{"name": "none", "synthetic_fraction": 1.0}]})
    assert "must differ and not be 'none'" in message
    message = read_mistake({"training_sets.kinds": [{"name": "half/half", "synthetic_fraction": 0.5}]})
    assert "kinds.0.name" in message and "'half/half'" in message


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ({"generation": 1}, {}, ["kinds.0 (k)", "generation is 1", "generator.generations is 0"]),
        (
            {"generation": 3},
            {"generator.generations": 2, "generator.retraining_pairs_per_label": 5},
            ["kinds.0 (k)", "generation is 3", "generator.generations is 2"],
        ),
        ({"synthetic_fraction": 0.0, "generation": 1}, {}, ["kinds.0", "generation is 1", "synthetic_fraction is 0"]),
        ({"generation": -1}, {}, ["kinds.0.generation", "-1", "greater than or equal to 0"]),
        ({"dose": 0.5}, {}, ["kinds.0", "dose is 0.5", "'biased_by'"]),
        ({"dose": 1.5, "biased_by": "subsequence"}, {}, ["kinds.0.dose", "1.5", "less than or equal to 1"]),
        (
            {"biased_by": "constituent"},
            {"data.source": "folder", "data.folder": "x", "base_model": {"name": "x.gguf"}},
            ["kinds.0 (k)", "'constituent' needs a parse", "data.source is 'folder'", "'subsequence'"],
        ),
        ({}, {"generator.generations": 1}, ["generator", "'retraining_pairs_per_label'"]),
        ({}, {"generator.retraining_pairs_per_label": 5}, ["generator", "retraining_pairs_per_label", "generations"]),
        (
            {},
            {"generator.generations": 1, "generator.retraining_pairs_per_label": 33},
            ["generator.retraining_pairs_per_label asks for 33", "neutral makes 32"],
        ),
    ],
)
def test_kinds_that_cannot_be(kind: dict[str, Any], changes: dict[str, Any], words: list[str]) -> None:
    values = {"name": "k", "synthetic_fraction": 1.0} | kind
    message = read_mistake(changes | {"training_sets.kinds": [values]})
    assert all(word in message for word in words), message


def test_kinds_that_can_be() -> None:
    changes = {"data.source": "folder", "data.folder": "x", "base_model": {"name": "x.gguf"}}
    for biased_by in ("lexical_overlap", "subsequence"):
        kinds = [{"name": "k", "synthetic_fraction": 1.0, "biased_by": biased_by, "dose": 0.5}]
        assert load_study("test", {**changes, "training_sets.kinds": kinds}).training_sets.generations() == [0]
    sandbox = [{"name": "k", "synthetic_fraction": 0.5, "biased_by": "constituent"}]
    assert load_study("test", {"training_sets.kinds": sandbox}).training_sets.kinds[0].dose == 1


@pytest.mark.parametrize(
    ("overrides", "words"),
    [  # the test study: 1,200 pairs, 30 of them held out; 96 generated entailment pairs and 32 of each other label
        ({"task_model.starting_sizes": [0, 1171]}, ["task_model.starting_sizes", "1,171", "1,170"]),
        ({"generator.training_size": 1171}, ["generator.training_size", "1,171", "1,170"]),
        ({"training_sets.pairs_per_label": [33]}, ["training_sets.pairs_per_label", "33", "neutral", "32"]),
        ({"training_sets.pairs_per_label": [391]}, ["training_sets.pairs_per_label", "1,173", "1,170"]),
        ({"data.held_out_per_label": 399}, ["asks for 40", "holds 3"]),
    ],
)
def test_sizes_over_the_supply(overrides: dict[str, Any], words: list[str]) -> None:
    message = read_mistake(overrides)
    assert all(word in message for word in words), message


def test_sizes_at_the_supply_are_fine() -> None:
    changes = {"task_model.starting_sizes": [0, 1170], "generator.training_size": 1170}
    assert load_study("test", {**changes, "training_sets.pairs_per_label": [32]}).generator.training_size == 1170


def test_paper_supply_is_the_expected_count() -> None:
    assert load_study("paper").task_model.starting_sizes[-1] == 391722
    assert "391,723" in read_mistake({"task_model.starting_sizes": [0, 391723]}, study="paper")


@pytest.mark.parametrize("key", ["task_model.starting_sizes", "training_sets.pairs_per_label"])
@pytest.mark.parametrize("sizes", [[4, 2], [2, 2]])
def test_sizes_rise_without_repeats(key: str, sizes: list[int]) -> None:
    message = read_mistake({key: sizes})
    assert key.split(".")[1] in message and str(sizes) in message


def test_seeds_do_not_repeat() -> None:
    """A repeated seed would be the same runs twice."""
    message = read_mistake({"seeds": [1, 2, 1]})
    assert "seeds" in message and "[1, 2, 1]" in message


def test_nothing_held_out_is_refused() -> None:
    """Stage 20 looks at the held-out pairs; without any it has nothing to show."""
    assert "held_out_per_label" in read_mistake({"data.held_out_per_label": 0})


def test_every_mistake_is_listed_at_once() -> None:
    message = read_mistake({"lora.rr": 1, "seeds": [-1], "task_model.pooling": "mean"})
    assert "3 mistake(s)" in message
    assert all(word in message for word in ("lora.rr", "seeds.0", "task_model.pooling"))


def test_missing_keys(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "parameters" / "test.yaml").read_text())
    del values["lora"]["r"]
    path = tmp_path / "lacking.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(StudyError, match=r"lacking\.yaml.*\n.*lora\.r: missing"):
        load_study(str(path))


@pytest.mark.parametrize("text", ["- a\n- b\n", "name: [\n", ""])
def test_files_that_are_no_study(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(StudyError, match=r"broken\.yaml"):
        load_study(str(path))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sandbx", ["'sandbx'", "paper", "smollm2", "did you mean 'sandbox'?"]),
        ("", ["no study ''", "sandbox"]),
        ("parameters/nothing.yaml", ["'parameters/nothing.yaml'", "sandbox"]),
    ],
)
def test_unknown_studies(name: str, words: list[str]) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(name)
    assert all(word in str(caught.value) for word in words), caught.value


def test_overrides_dotted_and_nested_give_the_same_values() -> None:
    dotted = load_study("test", {"name": "x", "lora.r": 4, "data.sandbox.seed": 9})
    nested = load_study("test", {"name": "x", "lora": {"r": 4}, "data": {"sandbox": {"seed": 9}}})
    text = load_study("test", "{name: x, lora.r: 4, data: {sandbox.seed: 9}}")
    assert dotted == nested == text
    assert (dotted.lora.r, dotted.lora.lora_alpha) == (4, 16.0)
    assert dotted.data.sandbox is not None and dotted.data.sandbox.seed == 9


def test_overrides_replace_lists_and_merge_mappings() -> None:
    study = load_study("test", {"task_model.starting_sizes": [0, 5], "generation.examples_per_label": {"neutral": 40}})
    assert study.task_model.starting_sizes == [0, 5]
    assert study.generation.examples_per_label == {"entailment": 96, "neutral": 40, "contradiction": 32}


def test_an_empty_mapping_empties() -> None:
    values = {"data": {"expected_counts": {"train": 3}, "folder": "x"}}
    assert apply_overrides(values, {"data": {"expected_counts": {}}})["data"] == {"expected_counts": {}, "folder": "x"}


def test_overrides_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "changes.yaml").write_text("# why\nname: small\nlora.r: 4  # less\n")
    assert read_overrides("{lora.r: 8}") == "{lora.r: 8}" and read_overrides("") == ""
    monkeypatch.chdir(tmp_path)
    for given in ("changes.yaml", f" {tmp_path}/changes.yaml\n"):
        study = load_study("test", read_overrides(given))
        assert (study.name, study.lora.r) == ("small", 4)
    with pytest.raises(StudyError, match=r"no file of overrides 'nowhere\.yaml'; expected YAML such as"):
        read_overrides("nowhere.yaml")


def test_every_file_of_overrides_makes_a_study() -> None:
    files = sorted((ROOT / "parameters" / "overrides").glob("*.yaml"))
    assert files
    for file in files:
        study = load_study(file.stem.partition("-")[0], read_overrides(str(file)))
        assert study.name == file.stem


def test_overrides_leave_shared_yaml_anchors_apart() -> None:
    """`training: *task_training` is one object in YAML; a change of one section is no change of the others."""
    study = load_study("test", {"task_model.training.learning_rate": 0.5})
    assert study.task_model.training.learning_rate == 0.5
    assert study.augmentation.training.learning_rate == 2.0e-3


def test_overridden_study_is_another_study() -> None:
    digest = hashlib.sha256(json.dumps({"lora.r": 4}, sort_keys=True).encode()).hexdigest()[:8]
    assert load_study("test", {"lora.r": 4}).name == f"test-{digest}"
    assert load_study("test", "lora.r: 4").name == f"test-{digest}"
    assert load_study("test", {"lora.r": 5}).name not in ("test", f"test-{digest}")
    assert load_study("test", {"lora.r": 4, "name": "small"}).name == "small"
    assert load_study("test", {"lora.r": 4, "seeds": [2]}).name == load_study("test", {"seeds": [2], "lora.r": 4}).name
    unchanged: list[Any] = [None, "", {}, "{}"]
    for nothing in unchanged:
        assert load_study("test", nothing).name == "test"


def test_overrides_do_not_change_what_they_are_applied_to() -> None:
    values = {"name": "x", "lora": {"r": 8}}
    assert apply_overrides(values, {"lora.r": 4})["lora"] == {"r": 4}
    assert values == {"name": "x", "lora": {"r": 8}}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("- 1", ["[1]", "mapping"]),
        ("hello", ["'hello'", "mapping"]),
        ("{a: [", ["not YAML"]),
        ({"lora.r.x": 1}, ["'lora.r.x'", "'r' is 8", "not a section"]),
        ({"training_sets.kinds.0.name": "x"}, ["training_sets.kinds.0.name", "not a section"]),
        ({1: 2}, ["1", "unknown key"]),
        ("description: 2024-01-01", ["description", "string"]),
    ],
)
def test_overrides_that_cannot_be_used(overrides: Any, words: list[str]) -> None:
    message = read_mistake(overrides)
    assert all(word in message for word in words), message


def test_results_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BLINDSPOT_EXECUTED", raising=False)
    assert executed_folder() == ROOT / "executed"
    monkeypatch.setenv("BLINDSPOT_EXECUTED", str(tmp_path))
    assert executed_folder() == tmp_path
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BLINDSPOT_EXECUTED", "results")
    assert executed_folder() == tmp_path / "results"


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"study": "tets"}, ["'tets'", "did you mean 'test'?"]),
        ({"study": "test", "overrides": {"lora.rr": 1}}, ["lora.rr", "unknown key"]),
        ({"study": "test", "sede": 1}, ["'sede'", "60_build_training_sets takes study, seed, overrides"]),
        ({"study": "test", "seed": "1"}, ["'seed'", "'1'", "int"]),
        ({"study": "test", "seed": 7}, ["seed 7", "[1]"]),
    ],
)
def test_no_kernel_starts_for_a_mistake(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, parameters: dict[str, Any], words: list[str]
) -> None:
    import papermill

    from blindspot.execute import execute_notebook

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("papermill was called")

    monkeypatch.setattr(papermill, "execute_notebook", refuse)
    monkeypatch.setenv("BLINDSPOT_EXECUTED", str(tmp_path))
    with pytest.raises(StudyError) as caught:
        execute_notebook("60_build_training_sets", {"seed": 1, **parameters})
    assert all(word in str(caught.value) for word in words), caught.value
    assert not list(tmp_path.iterdir())
    with pytest.raises(AssertionError, match="papermill was called"):
        execute_notebook("60_build_training_sets", {"study": "test", "seed": 1})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"study": "tets"}, "did you mean 'test'?"),
        ({"startng_size": 20}, "did you mean 'starting_size'?"),
        ({"starting_size": 21}, "it has [0, 20, 40]"),
    ],
)
def test_command_line_exits_with_2(changed: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    from blindspot.__main__ import main

    parameters = json.dumps({"study": "test", "starting_size": 20, "seed": 1} | changed)
    assert main(["run", "20_train_task_model", "--parameters", parameters]) == 2
    assert words in capsys.readouterr().err
    assert main(["study", "--study", "test", "--overrides", "{lora.rr: 1}"]) == 2
    assert "lora.rr" in capsys.readouterr().err


def test_shipped_studies_have_the_same_sections() -> None:
    """So that the difference of two files is the experiment."""
    fields = set(study_module.Study.model_fields)
    for path in STUDY_FILES:
        assert set(yaml.safe_load(path.read_text())) | {"planning"} == fields, path.name
