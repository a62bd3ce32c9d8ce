"""The published procedure, data part, written plainly: every run reads the files again, row by row.

It is here to be measured against and to hold ours to the same results; nothing of the library uses it. The texts are
spelt out anew on purpose. The published code evaluates each line of the file as Python; `ast.literal_eval` takes
nearly as long (most of it is the compiler) and runs nothing. `json.loads` is the faster thing to have done.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

LABELS = ("entailment", "neutral", "contradiction")
EXTRACTION = re.compile(r"Premise: (.*?)Hypothesis: (.*?)-- This is the end of the example\.", re.DOTALL)
Row = dict[str, Any]
Example = tuple[str, str, str]  # premise, hypothesis, label


def read_rows(path: Path, *, parse: Callable[[str], Row] = json.loads) -> list[Row]:
    """The rows of a MultiNLI file that have a gold label, all fields."""
    rows = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = parse(line)
            if row["gold_label"] != "-":
                rows.append(row)
    return rows


def drop_repeated(rows: list[Row]) -> list[Row]:
    """Without every copy of a pair that stands more than once."""
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        pair = (row["sentence1"], row["sentence2"])
        counts[pair] = counts.get(pair, 0) + 1
    return [row for row in rows if counts[row["sentence1"], row["sentence2"]] == 1]


def hold_out(rows: list[Row], *, per_label: int) -> tuple[list[Row], list[Row]]:
    """(what is trained on, the first pairs of each label)."""
    taken = dict.fromkeys(LABELS, 0)
    train, held_out = [], []
    for row in rows:
        if taken[row["gold_label"]] < per_label:
            taken[row["gold_label"]] += 1
            held_out.append(row)
        else:
            train.append(row)
    return train, held_out


def task_prompt(premise: str, hypothesis: str) -> str:
    """T's prompt."""
    return (
        "Please indicate the relationship between the premise and the hypothesis with entailment, neutral or "
        f"contradiction. Premise: {premise} Hypothesis: {hypothesis} "
        "The relationship between premise and hypothesis is"
    )


def generator_prompt(label: str) -> str:
    """What G is prompted with."""
    return f"This is an example where the relationship between the premise and the hypothesis is {label}"


def generator_text(label: str, premise: str, hypothesis: str) -> str:
    """What G is trained on."""
    return f"{generator_prompt(label)}. Premise: {premise} Hypothesis: {hypothesis} -- This is the end of the example."


def extract(text: str, *, label: str) -> tuple[str, str] | None:
    """The pair of a generated text, or None."""
    found = EXTRACTION.search(text)
    if not found or text[: found.start()].strip() != f"{generator_prompt(label)}.":
        return None
    premise, hypothesis = (part.strip() for part in found.groups())
    return (premise, hypothesis) if premise and hypothesis else None


def has_overlap(premise: str, hypothesis: str, *, detector: str) -> bool:
    """Lexical overlap as HANS's `lex_finder.py` looks for it: lists and loops. token_aligned: without punctuation."""
    premise_words = list_words(premise, detector)
    has_all = True
    for word in list_words(hypothesis, detector):
        if word not in premise_words:
            has_all = False
            break
    return has_all


def list_words(text: str, detector: str) -> list[str]:
    """Words in lower case, without free-standing full stops, or with `token_aligned` without any punctuation."""
    words = []
    for word in text.split():
        if detector == "token_aligned":
            word = word.strip(string.punctuation)
        elif word in (".", "?", "!"):
            word = ""
        if word:
            words.append(word.lower())
    return words


def build_set(
    kind: str,
    *,
    original: Path,
    synthetic: Path,
    held_out_per_label: int,
    pairs_per_label: int,
    seed: int,
    detector: str,
    parse: Callable[[str], Row] = json.loads,
) -> list[Example]:
    """One run's training set, from the files: Original, Synthetic or Biased Synthetic, equal numbers per label.

    The draw is the study's (`training_sets`), so that the sets can be held against ours row by row.
    """
    source = "original" if kind == "original" else "synthetic"
    if source == "original":
        rows, _ = hold_out(drop_repeated(read_rows(original, parse=parse)), per_label=held_out_per_label)
    else:
        rows = drop_later_copies(read_rows(synthetic, parse=parse))
    options = {"kind": kind, "source": source, "detector": detector}
    chosen = {label: draw_label(rows, label, seed=seed, **options)[:pairs_per_label] for label in LABELS}
    if any(len(found) < pairs_per_label for found in chosen.values()):
        raise ValueError(f"{kind}: fewer than {pairs_per_label} pairs of a label")
    turns = make_rng(seed, "labels in turn").random((pairs_per_label, len(LABELS))).argsort(axis=1)
    return [
        (row["sentence1"], row["sentence2"], LABELS[column])
        for turn, columns in enumerate(turns)
        for column in columns
        for row in [chosen[LABELS[column]][turn]]
    ]


def drop_later_copies(rows: list[Row]) -> list[Row]:
    """The first of each premise and hypothesis."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for row in rows:
        pair = (row["sentence1"], row["sentence2"])
        if pair not in seen:
            seen.add(pair)
            kept.append(row)
    return kept


def draw_label(rows: Sequence[Row], label: str, *, kind: str, source: str, detector: str, seed: int) -> list[Row]:
    """The rows of one label in the seed's order; of a biased set those that the filter lets through."""
    own = [row for row in rows if row["gold_label"] == label]
    shuffled = [own[index] for index in make_rng(seed, source, label).permutation(len(own))]
    if kind != "biased_synthetic":
        return shuffled
    wanted = label == "entailment"
    return [row for row in shuffled if has_overlap(row["sentence1"], row["sentence2"], detector=detector) == wanted]


def make_rng(seed: int, *names: str) -> np.random.Generator:
    """The random numbers of one seed for one purpose."""
    return np.random.default_rng([seed, *(crc32(name.encode()) for name in names)])
