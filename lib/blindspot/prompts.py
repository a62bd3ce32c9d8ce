"""The two templates of the study, and the way back from generated text to a pair.

Both templates are the paper's (Zhang & Pavlick 2025, section 2.2.2), character by character, because a model
sees nothing else of the task. The paper keeps the examples that "can be extracted with a regular expression",
which it does not give. Ours is

    Premise: (.*?)Hypothesis: (.*?)-- This is the end of the example\\.        (DOTALL, first match)

that is: the first premise marker, the first hypothesis marker after it, the first sentinel after that; the
text in between, without white space at its ends. So whatever follows that sentinel cannot change what is
extracted, and generation may stop there (`find_stop`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from blindspot.data import LABELS

PREMISE_MARKER = "Premise: "
HYPOTHESIS_MARKER = "Hypothesis: "
SENTINEL = "-- This is the end of the example."

TASK_PREFIX = (
    "Please indicate the relationship between the premise and the hypothesis with entailment, neutral or "
    "contradiction."
)
TASK_SUFFIX = "The relationship between premise and hypothesis is"
GENERATOR_PREFIX = "This is an example where the relationship between the premise and the hypothesis is"

REJECT_REASONS = (
    "no_premise",
    "no_hypothesis",
    "no_sentinel",
    "label_mismatch",
    "empty_premise",
    "empty_hypothesis",
)


class Extraction(NamedTuple):
    """What a generated text holds: the pair, or the reason why there is none.

    `premise` and `hypothesis` are None exactly where `reject_reason` is not, which is one of REJECT_REASONS.
    """

    premise: str | None
    hypothesis: str | None
    reject_reason: str | None

    @property
    def accepted(self) -> bool:
        """Whether the pair was extracted."""
        return self.reject_reason is None


def task_prompt(premise: str, hypothesis: str) -> str:
    """The task model's whole input for one pair."""
    return f"{TASK_PREFIX} {PREMISE_MARKER}{premise} {HYPOTHESIS_MARKER}{hypothesis} {TASK_SUFFIX}"


def build_task_prompts(premises: Iterable[str], hypotheses: Iterable[str]) -> list[str]:
    """The task model's inputs for many pairs, in their order."""
    return [
        task_prompt(premise, hypothesis) for premise, hypothesis in zip(premises, hypotheses, strict=True)
    ]


def join_task_prompts(premises: pa.ChunkedArray, hypotheses: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same texts as `build_task_prompts`, as a column: a few times as fast for a table's columns.

    Raises pyarrow.ArrowInvalid, a ValueError, where the columns differ in length. A null gives null.
    """
    before, between, after = task_prompt("\0", "\0").split("\0")
    return pc.binary_join_element_wise(before, premises, between, hypotheses, after, "")


def generator_prompt(label: str) -> str:
    """The part of the generator's text that it is prompted with: everything through the label, without the
    period.

    Raises ValueError for anything but one of the three labels by name.
    """
    if label not in LABELS:
        raise ValueError(f"label is {label!r}; expected one of {', '.join(LABELS)}")
    return f"{GENERATOR_PREFIX} {label}"


def generator_text(label: str, premise: str, hypothesis: str) -> str:
    """The generator's whole training text for one pair."""
    return f"{generator_prompt(label)}. {PREMISE_MARKER}{premise} {HYPOTHESIS_MARKER}{hypothesis} {SENTINEL}"


def build_generator_texts(
    labels: Iterable[str], premises: Iterable[str], hypotheses: Iterable[str]
) -> list[str]:
    """The generator's training texts for many pairs, in their order."""
    rows = zip(labels, premises, hypotheses, strict=True)
    return [generator_text(label, premise, hypothesis) for label, premise, hypothesis in rows]


def find_stop(text: str) -> int | None:
    """Position just after the sentinel that ends the example, or None while there is none yet.

    It is the first sentinel after the first `Hypothesis: ` that follows the first `Premise: `. A sentinel
    before that does not end anything. `extract_pair` gives the same for `text[:find_stop(text)]` as for
    `text`.
    """
    premise_at = text.find(PREMISE_MARKER)
    hypothesis_at = text.find(HYPOTHESIS_MARKER, premise_at) if premise_at >= 0 else -1
    sentinel_at = text.find(SENTINEL, hypothesis_at + len(HYPOTHESIS_MARKER)) if hypothesis_at >= 0 else -1
    return sentinel_at + len(SENTINEL) if sentinel_at >= 0 else None


def extract_pair(text: str, *, label: str) -> Extraction:
    """Premise and hypothesis of one generated text, or why they cannot be had.

    `text` is the whole text, the prompt included; `label` is the label that was asked for. The part before
    the premise must be the prompt and its period: a text that went on to another label (`entailment or
    neutral.`) would be stored under a label that it does not state, and is `label_mismatch`. The paper
    filters no further than the expression, and neither is anything else looked at here. Raises ValueError for
    an unknown label.
    """
    head, premise_found, rest = text.partition(PREMISE_MARKER)
    premise, hypothesis_found, rest = rest.partition(HYPOTHESIS_MARKER)
    hypothesis, sentinel_found, _ = rest.partition(SENTINEL)
    failures = (
        not premise_found,
        not hypothesis_found,
        not sentinel_found,
        head.strip() != f"{generator_prompt(label)}.",
        not premise.strip(),
        not hypothesis.strip(),
    )
    for reason, failed in zip(REJECT_REASONS, failures, strict=True):
        if failed:
            return Extraction(premise=None, hypothesis=None, reject_reason=reason)
    return Extraction(premise=premise.strip(), hypothesis=hypothesis.strip(), reject_reason=None)
