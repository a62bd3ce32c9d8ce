"""The templates letter by letter, extraction and its reject reasons, and the generator's stop."""

from __future__ import annotations

import random
import re

import pytest

from blindspot.data import LABELS
from blindspot.prompts import (
    REJECT_REASONS,
    build_generator_texts,
    build_task_prompts,
    extract_pair,
    find_stop,
    generator_prompt,
    generator_text,
    task_prompt,
)

HEAD = "This is an example where the relationship between the premise and the hypothesis is entailment"
END = "-- This is the end of the example."


def test_task_prompt_is_the_papers() -> None:
    assert task_prompt("It rains.", "It is wet.") == (
        "Please indicate the relationship between the premise and the hypothesis with entailment, neutral or "
        "contradiction. Premise: It rains. Hypothesis: It is wet. The relationship between premise and "
        "hypothesis is"
    )
    assert build_task_prompts(["a", "b"], ["c", "d"]) == [task_prompt("a", "c"), task_prompt("b", "d")]
    with pytest.raises(ValueError, match="zip"):
        build_task_prompts(["a", "b"], ["c"])


def test_generator_text_is_the_papers_and_starts_with_its_prompt() -> None:
    assert generator_prompt("entailment") == HEAD
    text = generator_text("entailment", "It rains.", "It is wet.")
    assert text == f"{HEAD}. Premise: It rains. Hypothesis: It is wet. {END}"
    assert build_generator_texts(["entailment"], ["It rains."], ["It is wet."]) == [text]


@pytest.mark.parametrize("label", ["Entailment", "contradictory", "non-entailment", "0", ""])
def test_unknown_labels_are_errors(label: str) -> None:
    with pytest.raises(ValueError, match="entailment, neutral, contradiction"):
        generator_prompt(label)
    with pytest.raises(ValueError, match="entailment, neutral, contradiction"):
        extract_pair(f"{HEAD}. Premise: a Hypothesis: b {END}", label=label)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize(
    ("premise", "hypothesis"),
    [
        ("It rains.", "It is wet."),
        ("a -- b", "c -- d"),
        ("Premise: x", "Hypothesis: y"),
        ("two\nlines", "ok"),
    ],
)
def test_what_is_written_is_extracted(label: str, premise: str, hypothesis: str) -> None:
    extraction = extract_pair(generator_text(label, premise, hypothesis), label=label)
    assert extraction.accepted
    assert extraction == (premise, hypothesis, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_premise"),
        (f"{HEAD}. Hypothesis: b {END}", "no_premise"),
        (f"{HEAD}. Premise: a {END}", "no_hypothesis"),
        (f"{HEAD}. Premise: a Hypothesis: b", "no_sentinel"),
        (f"{HEAD}. Premise: a {END} Hypothesis: b", "no_sentinel"),
        (f"{HEAD}. Premise: a Hypothesis: b - This is the end of the example.", "no_sentinel"),
        (f"{HEAD} or neutral. Premise: a Hypothesis: b {END}", "label_mismatch"),
        (f"{HEAD} Premise: a Hypothesis: b {END}", "label_mismatch"),
        (generator_text("neutral", "a", "b"), "label_mismatch"),
        (f"{HEAD}. Premise: Hypothesis: b {END}", "empty_premise"),
        (f"{HEAD}. Premise: a Hypothesis: {END}", "empty_hypothesis"),
        (f"{HEAD}. Premise: a Hypothesis:   {END}", "empty_hypothesis"),
    ],
)
def test_reject_reasons(text: str, reason: str) -> None:
    assert reason in REJECT_REASONS
    assert extract_pair(text, label="entailment") == (None, None, reason)


def test_first_markers_win_and_the_rest_does_not_matter() -> None:
    text = f"{HEAD}. Premise: a Hypothesis: b {END} {END} Premise: c Hypothesis: d {END}"
    assert extract_pair(text, label="entailment") == ("a", "b", None)


@pytest.mark.parametrize(
    ("text", "stop"),
    [
        ("Premise: a Hypothesis: b -- This is the end of the example. more", 59),
        ("Premise: a -- This is the end of the example. Hypothesis: b", None),
        ("Hypothesis: b -- This is the end of the example.", None),
        ("Premise: a Hypothesis: b -- This is the end of the example", None),
        ("", None),
    ],
)
def test_find_stop(text: str, stop: int | None) -> None:
    assert find_stop(text) == stop


def test_stopping_changes_nothing_and_the_documented_expression_agrees() -> None:
    pieces = [
        "Premise: ",
        "Hypothesis: ",
        f" {END}",
        "a ",
        " b",
        f"{HEAD}. ",
        f"{HEAD} not. ",
        "\n",
        "--",
        " ",
    ]
    weights = [4, 4, 4, 2, 2, 1, 1, 1, 1, 1]
    expression = re.compile(r"Premise: (.*?)Hypothesis: (.*?)-- This is the end of the example\.", re.DOTALL)
    rng = random.Random(3)
    n_stopped = n_accepted = 0
    for _ in range(20_000):
        text = rng.choice(["", f"{HEAD}. "]) + "".join(rng.choices(pieces, weights, k=rng.randint(0, 12)))
        extraction, stop, match = (
            extract_pair(text, label="entailment"),
            find_stop(text),
            expression.search(text),
        )
        assert (stop is None) == (match is None)
        if stop is not None and match is not None:
            assert match.end() == stop
            assert extract_pair(text[:stop], label="entailment") == extraction
            n_stopped += 1
        if extraction.accepted and match is not None:
            assert extraction[:2] == (match[1].strip(), match[2].strip())
            n_accepted += 1
    assert n_stopped > 1_000
    assert n_accepted > 100
