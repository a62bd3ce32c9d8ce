"""A made-up world with known truth, written as the public releases' own files.

So the whole study runs offline in minutes, every other stage reads ordinary MultiNLI and HANS files, and the label of
any pair, a generated one too, can be checked: `judge_pair` knows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

from blindspot.sandbox.hans import draw_hans_rows
from blindspot.sandbox.pairs import draw_pair
from blindspot.sandbox.parser import parse_sentence
from blindspot.sandbox.trees import binary_parse
from blindspot.sandbox.truth import judge_pair
from blindspot.sandbox.words import MISMATCHED_GENRES, TRAIN_GENRES

__all__ = ["draw_hans_rows", "judge_pair", "write_sandbox_data"]

LABELS = ("entailment", "neutral", "contradiction")
UNLABELLED_SHARE = 0.008
REPEATED_SHARE = 0.002
Row = dict[str, object]


def write_sandbox_data(
    folder: Path,
    *,
    seed: int,
    train_pairs: int,
    matched_pairs: int,
    mismatched_pairs: int,
    hans_per_subcase: int,
) -> dict[str, Path]:
    """Write the sandbox's MultiNLI and HANS files under `folder`, as the releases name them; returns their paths.

    The sizes count pairs with a label. As in the release, a few rows more have the gold label `-`, and in training
    and test files a few pairs stand twice. No premise and hypothesis of a test file stand in the training file.
    """
    sizes = {"train": train_pairs, "dev_matched": matched_pairs, "dev_mismatched": mismatched_pairs}
    seen: set[tuple[str, str]] = set()
    paths: dict[str, Path] = {}
    (folder / "multinli_1.0").mkdir(parents=True, exist_ok=True)
    for name in ("dev_matched", "dev_mismatched", "train"):
        genres = MISMATCHED_GENRES if name == "dev_mismatched" else TRAIN_GENRES
        rows = draw_multinli_rows(seed=seed, name=name, genres=genres, pairs=sizes[name], seen=seen)
        paths[name] = folder / "multinli_1.0" / f"multinli_1.0_{name}.jsonl"
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    paths["hans"] = folder / "hans" / "heuristics_evaluation_set.txt"
    _write_tab_separated(paths["hans"], draw_hans_rows(seed=seed, per_subcase=hans_per_subcase))
    return paths


def draw_multinli_rows(
    *, seed: int, name: str, genres: Sequence[str], pairs: int, seen: set[tuple[str, str]]
) -> list[Row]:
    """Rows of one MultiNLI file, labels in turn; pairs in `seen` are not drawn, and those drawn are added to it."""
    rng = Random(f"multinli {seed} {name}")
    rows: list[Row] = []
    fresh: list[Row] = []
    while len(fresh) < pairs - int(pairs * REPEATED_SHARE):
        label = LABELS[len(fresh) % 3]
        genre = rng.choice(genres)
        pair = draw_pair(rng, genre=genre, label=label)
        if pair in seen:
            continue
        seen.add(pair)
        unlabelled = rng.random() < UNLABELLED_SHARE
        row = _make_row(pair, "-" if unlabelled else label, genre, str(len(rows)), label)
        rows.append(row)
        fresh += [] if unlabelled else [row]
    for row in rng.sample(fresh, pairs - len(fresh)):
        number = str(len(rows))
        rows.append({**row, "promptID": number, "pairID": number + str(row["pairID"])[-1]})
    return rows


def _make_row(pair: tuple[str, str], gold_label: str, genre: str, number: str, wanted: str) -> Row:
    first, second = (parse_sentence(text) for text in pair)
    assert first is not None and second is not None
    return {
        "gold_label": gold_label,
        "sentence1_binary_parse": binary_parse(first),
        "sentence2_binary_parse": binary_parse(second),
        "sentence1": pair[0],
        "sentence2": pair[1],
        "promptID": number,
        "pairID": number + wanted[0],
        "genre": genre,
    }


def _write_tab_separated(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(row) for row in (list(rows[0]), *(row.values() for row in rows))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
