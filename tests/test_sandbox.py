"""The sandbox: its truth on literals, its files, its tokenizer, its model folder."""

import csv
import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from blindspot.heuristics import constituent, lexical_overlap, subsequence
from blindspot.prompts import generator_text, task_prompt
from blindspot.readers import read_hans, read_multinli
from blindspot.sandbox import judge_pair, write_sandbox_data
from blindspot.sandbox import words as world
from blindspot.sandbox.grammar import write_sentence
from blindspot.sandbox.hans import SUBCASES
from blindspot.sandbox.model import (
    SHIPPED_BASE,
    BaseChecksumError,
    check_base,
    write_random_model,
    write_sandbox_model,
)
from blindspot.sandbox.pairs import draw_pair
from blindspot.sandbox.parser import parse_sentence
from blindspot.sandbox.premises import draw_premise
from blindspot.sandbox.text import write_document
from blindspot.sandbox.tokenizer import build_tokenizer
from blindspot.sandbox.truth import list_facts

SIZES = {"train_pairs": 900, "matched_pairs": 90, "mismatched_pairs": 60, "hans_per_subcase": 6}

TRUTHS = """
entailment | The tall doctor slept in the park. | The doctor slept.
entailment | The tall doctor slept in the park. | The doctor was tall.
entailment | The doctor slept in the park . | A medic was outdoors .
entailment | The doctor was helped by the judge. | The judge assisted the doctor.
entailment | The judge helped the doctor. | The doctor was helped.
entailment | The doctor who the judge helped slept. | The judge helped the doctor.
entailment | The doctor near the judge slept. | The judge was beside the doctor.
entailment | The doctors behind the judge slept. | The judge was in front of the doctors.
entailment | The doctor and the judge slept. | The judge slept.
entailment | Two doctors slept. | The medics slept.
entailment | The doctor phoned the judge. | The doctor contacted a person.
entailment | The doctor arrived. | The doctor did not leave.
entailment | The doctor did not sleep. | The doctor did not sleep in the park.
entailment | Yesterday the doctor slept. | The doctor slept yesterday.
entailment | The doctor knew that the judge left. | The judge left.
entailment | While the artist watched the judge slept. | The artist watched.
entailment | After the doctor slept, the judge left. | The judge left.
entailment | Suddenly the doctor slept. | The doctor slept.
entailment | The actor watched the judge. | The actor watched.
contradiction | The tall doctor slept. | The short doctor slept.
contradiction | The doctor slept. | The doctor did not sleep.
contradiction | The doctor slept in the park. | The doctor slept in the kitchen.
contradiction | The doctor slept in the park. | The doctor was indoors.
contradiction | The doctor slept at noon. | The doctor slept at night.
contradiction | Two doctors slept. | Three doctors slept.
contradiction | The doctor slept. | Two doctors slept.
contradiction | The doctor walked slowly. | The doctor moved quickly.
contradiction | The doctor praised the judge. | The doctor criticized the judge.
contradiction | The doctor helped the judge. | The judge helped the doctor.
contradiction | The doctor was helped by the judge. | The doctor helped the judge.
contradiction | The doctor did not help the judge. | The doctor helped the tall judge.
neutral | The doctor slept. | The tall doctor slept.
neutral | The doctor slept. | The doctor slept in the park.
neutral | The doctors slept. | Two doctors slept.
neutral | The medic slept. | The doctor slept.
neutral | The doctor slept. | The doctor danced.
neutral | The doctor near the judge slept. | The judge slept.
neutral | The doctor helped in the park slept. | The doctor helped in the park.
neutral | The judge thanked the doctors helped in the park. | The doctors helped in the park.
neutral | While the artist watched the judge slept. | The artist watched the judge.
neutral | The artist believed the judge helped the doctor. | The artist believed the judge.
neutral | The artist claimed that the judge left. | The judge left.
neutral | If the doctor slept, the judge left. | The doctor slept.
neutral | Unless the doctor slept, the judge left. | The judge left.
neutral | The doctor or the judge slept. | The judge slept.
neutral | The doctor slept, or the judge left. | The judge left.
neutral | Perhaps the doctor slept. | The doctor slept.
neutral | The doctor did not sleep in the park. | The doctor did not sleep.
None | The doctor slept. | The glorp slept.
None | Slept doctor the. | The doctor slept.
"""
CASES = [tuple(part.strip() for part in line.split("|")) for line in TRUTHS.strip().splitlines()]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sandbox_data(tmp_path_factory.mktemp("sandbox"), seed=3, **SIZES)


@pytest.mark.parametrize(("label", "premise", "hypothesis"), CASES)
def test_judge_pair_decides_literals(label: str, premise: str, hypothesis: str) -> None:
    assert str(judge_pair(premise, hypothesis)) == label


def test_judge_pair_ignores_capitals_and_spaces_around_punctuation() -> None:
    assert judge_pair("IF the doctor slept , the judge left .", "the doctor slept") == "neutral"
    assert judge_pair("after the doctor slept, the judge left", "The Judge left .") == "entailment"


def test_sentences_are_read_back_as_they_were_written() -> None:
    rng = Random(5)
    for _ in range(400):
        sentence = draw_premise(rng, "town")
        parsed = parse_sentence(write_sentence(sentence, period=" ."))
        assert parsed is not None
        if sentence.word not in world.BARE_BELIEF_VERBS:
            assert list_facts(parsed) == list_facts(sentence)


def test_the_same_seed_writes_the_same_files_and_another_seed_others(
    files: dict[str, Path], tmp_path: Path
) -> None:
    again = write_sandbox_data(tmp_path / "again", seed=3, **SIZES)
    other = write_sandbox_data(tmp_path / "other", seed=4, **SIZES)
    for name, path in files.items():
        assert again[name].read_bytes() == path.read_bytes()
        assert other[name].read_bytes() != path.read_bytes()


def test_files_have_the_published_names_and_fields(files: dict[str, Path]) -> None:
    assert {path.parent.name + "/" + path.name for path in files.values()} == {
        "multinli_1.0/multinli_1.0_train.jsonl",
        "multinli_1.0/multinli_1.0_dev_matched.jsonl",
        "multinli_1.0/multinli_1.0_dev_mismatched.jsonl",
        "hans/heuristics_evaluation_set.txt",
    }
    row = json.loads(files["train"].read_text().splitlines()[0])
    assert {"gold_label", "sentence1", "sentence2", "pairID", "promptID", "genre"} <= set(row)
    header = files["hans"].read_text().splitlines()[0].split("\t")
    assert header == [
        "gold_label", "sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse",
        "sentence1", "sentence2", "pairID", "heuristic", "subcase", "template",
    ]  # fmt: skip


def test_every_pair_has_the_label_that_the_truth_gives_it(files: dict[str, Path]) -> None:
    for name in ("train", "dev_matched", "dev_mismatched"):
        rows = read_multinli(files[name], split=name)[0].to_pylist()
        assert all(judge_pair(row["premise"], row["hypothesis"]) == row["gold_label"] for row in rows)
        counts = Counter(row["gold_label"] for row in rows)
        assert max(counts.values()) - min(counts.values()) <= 10


def test_training_file_has_unlabelled_and_repeated_rows_and_no_test_pair(files: dict[str, Path]) -> None:
    table, counts = read_multinli(files["train"], split="train")
    assert table.num_rows == 900
    assert counts["without_gold_label"] >= 1
    pairs = list(zip(table["premise"].to_pylist(), table["hypothesis"].to_pylist(), strict=True))
    assert len(set(pairs)) == 899
    test = read_multinli(files["dev_matched"], split="matched")[0]
    assert not set(pairs) & set(zip(test["premise"].to_pylist(), test["hypothesis"].to_pylist(), strict=True))


def test_mismatched_genres_are_unseen_in_training(files: dict[str, Path]) -> None:
    genres = {name: set(read_multinli(files[name], split=name)[0]["genre"].to_pylist()) for name in
              ("train", "dev_matched", "dev_mismatched")}  # fmt: skip
    assert len(genres["train"]) > 1
    assert genres["dev_matched"] <= genres["train"]
    assert not genres["dev_mismatched"] & genres["train"]


def test_overlap_goes_with_entailment_but_is_not_total() -> None:
    rng = Random(1)
    share = {}
    for label in ("entailment", "neutral", "contradiction"):
        drawn = [draw_pair(rng, genre="school", label=label) for _ in range(700)]
        share[label] = lexical_overlap(*zip(*drawn, strict=True), detector="published").mean()
    assert 0.15 <= share["entailment"] <= 0.3
    assert 0 < share["neutral"] < 0.08
    assert 0 < share["contradiction"] < 0.8 * share["entailment"]


def test_hans_has_thirty_subcases_five_a_heuristic_and_label(files: dict[str, Path]) -> None:
    with files["hans"].open(newline="") as opened:
        rows = list(csv.DictReader(opened, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert Counter(row["subcase"] for row in rows) == dict.fromkeys(SUBCASES, 6)
    cells = Counter((row["heuristic"], row["gold_label"]) for row in rows)
    assert len(cells) == 6
    assert set(cells.values()) == {30}
    assert len({row["pairID"] for row in rows}) == 180


def test_hans_labels_agree_with_the_truth_and_heuristics_hold(files: dict[str, Path]) -> None:
    rows = read_hans(files["hans"], with_parses=True)[0].to_pylist()
    for row in rows:
        pair = row["premise"], row["hypothesis"]
        assert (judge_pair(*pair) == "entailment") == (row["gold_label"] == "entailment"), pair
        assert lexical_overlap(*([text] for text in pair), detector="published")[0], pair
        if row["heuristic"] == "subsequence":
            assert subsequence(*([text] for text in pair), detector="published")[0], pair
        if row["heuristic"] == "constituent":
            assert constituent([row["premise_parse"]], [pair[1]], detector="published")[0], pair


def test_hans_binary_parse_is_the_published_bracketing(files: dict[str, Path]) -> None:
    row = next(
        row
        for row in read_hans(files["hans"], with_parses=True)[0].to_pylist()
        if row["subcase"] == "ln_subject/object_swap"
    )
    the, one, verb, _, two, _ = row["premise"].split()
    assert row["premise_parse"] == f"( ( {the} {one} ) ( ( {verb} ( the {two} ) ) . ) )"


@pytest.mark.parametrize(
    "text", ["A b", " two  spaces ", "naïve 日本 don't -- ?!", "x .", "line\nbreak", "The doctor slept ."]
)
def test_tokenizer_decodes_to_what_went_in(text: str) -> None:
    tokenizer = build_tokenizer()
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_words_of_grammar_templates_and_pretraining_text_are_single_tokens() -> None:
    tokenizer, rng = build_tokenizer(), Random(2)
    pair = "The tall doctor slept in the park.", "Two people moved, at noon ."
    parts = (part for _ in range(200) for part, _ in write_document(rng))
    texts = [task_prompt(*pair), generator_text("neutral", *pair), *parts]
    pieces = {piece for text in texts for piece in tokenizer.tokenize(text) if len(piece.strip("▁")) == 1}
    assert pieces <= {"▁a", "▁A", ".", ",", ":", "?", "▁.", "▁,", "▁;"}
    assert len(tokenizer) < 1000
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id, None)


def test_random_model_is_an_ordinary_untied_folder(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = write_random_model(tmp_path / "model", seed=1, layers=2, width=32)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.config.vocab_size == len(tokenizer)
    again = write_random_model(tmp_path / "again", seed=1, layers=2, width=32)
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="width is 30"):
        write_random_model(tmp_path / "bad", seed=1, width=30)


def test_shipped_base_is_small_and_matches_its_checksums(tmp_path: Path) -> None:
    check_base(SHIPPED_BASE)
    assert (SHIPPED_BASE / "model.safetensors").stat().st_size <= 4_000_000
    folder = write_sandbox_model(tmp_path / "model")
    assert (folder / "model.safetensors").read_bytes() == (SHIPPED_BASE / "model.safetensors").read_bytes()
    tokenizer = json.loads((SHIPPED_BASE / "tokenizer.json").read_text())
    assert tokenizer["model"]["vocab"] == build_tokenizer().get_vocab()


def test_changed_base_is_refused_by_name(tmp_path: Path) -> None:
    source = write_random_model(tmp_path / "source", seed=1)
    weights = bytearray((source / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (source / "model.safetensors").write_bytes(weights)
    with pytest.raises(BaseChecksumError, match=r"model\.safetensors.*expected"):
        write_sandbox_model(tmp_path / "copy", source=source)
    assert not (tmp_path / "copy").exists()
