"""Stages without a model: reading MultiNLI with its prompts, and the training sets of a whole grid."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench import reference
from bench.measure import Figures, Race, require
from bench.tiling import find_text, write_tiled
from bench.world import World
from blindspot.data import MULTINLI_FILES, drop_repeated_pairs, hold_out_pairs, read_table, write_table
from blindspot.heuristics import add_heuristic_columns
from blindspot.prompts import join_task_prompts
from blindspot.readers import read_multinli
from blindspot.study import Study
from blindspot.training_sets import build_training_sets, pick_training_set, read_back_pairs

Parse = Callable[[str], Any]
SetsByRun = dict[tuple[int, str], list[reference.Example]]


def race_reading(world: World, *, rows: int, as_published: bool) -> Race[Any]:
    """Read MultiNLI and build T's prompt of every pair."""
    text, what = find_text(world.data)
    file = write_tiled(text / MULTINLI_FILES["train"], world.folder / f"tiled-{rows}.jsonl", rows=rows)
    parse, how = choose_parse(as_published)
    return Race(
        stage="read_as_published" if as_published else "read",
        title=f"read MultiNLI ({rows:,} rows with parse fields) and build prompts; reference: {how}",
        at_least=10.0 if as_published else None,
        aim=20.0 if as_published else None,
        gate="identical pairs and prompts",
        reference=lambda _: read_by_rows(file, parse),
        ours=lambda _: read_by_columns(file),
        check=check_reading,
        notes={"text": what, "rows": rows, "bytes": file.stat().st_size},
    )


def choose_parse(as_published: bool) -> tuple[Parse, str]:
    """How the reference reads a line, and the words for it."""
    if as_published:
        return ast.literal_eval, "each line evaluated as Python, as published"
    return json.loads, "json.loads"


def read_by_rows(file: Path, parse: Parse) -> tuple[float, Any]:
    """The reference: a dict a row, a prompt a row."""
    rows = reference.read_rows(file, parse=parse)
    return len(rows), (rows, [reference.task_prompt(row["sentence1"], row["sentence2"]) for row in rows])


def read_by_columns(file: Path) -> tuple[float, Any]:
    """Ours: columns."""
    table, _ = read_multinli(file, split="train")
    return len(table), (table, join_task_prompts(table["premise"], table["hypothesis"]))


def check_reading(theirs: Any, ours: Any) -> Figures:
    """The same pairs in the same order, and the same prompts."""
    rows, prompts = theirs
    table, joined = ours
    names = {"pairID": "pair_id", "genre": "genre", "sentence1": "premise", "sentence2": "hypothesis"}
    for field, column in {**names, "gold_label": "gold_label"}.items():
        prefix = "train-" if field == "pairID" else ""
        expected = pa.array([prefix + row[field] for row in rows], pa.string())
        require(table[column].combine_chunks().equals(expected), f"the column {column} differs from the file's {field}")
    require(joined.combine_chunks().cast(pa.string()).equals(pa.array(prompts, pa.string())), "the prompts differ")
    return {"pairs": len(prompts)}


def race_sets(world: World, *, starts: int, as_published: bool) -> Race[Any]:
    """The nine sets of every start of a grid, as texts: rebuilt by every run, or drawn once and read back."""
    runs = starts * len(world.study.training_sets.names())
    parse, how = choose_parse(as_published)
    return Race(
        stage="sets_as_published" if as_published else "sets",
        title=f"nine sets with overlap filter for a whole grid ({starts} starts, {runs} runs); reference: {how}",
        at_least=50.0 if as_published else None,
        aim=200.0 if as_published else None,
        gate="identical sets",
        reference=lambda _: build_by_run(world, starts=starts, parse=parse),
        ours=lambda _: build_once(world, starts=starts),
        check=check_sets,
        notes={
            "sizes": "the default study's own",
            "synthetic": "pairs of the sandbox's grammar stand for generated ones",
            "in ours": "reading both files, overlap columns, writing and reading the store, sets, texts for each start",
        },
    )


def build_by_run(world: World, *, starts: int, parse: Parse) -> tuple[float, SetsByRun]:
    """The reference: each run reads its source again, filters it and draws."""
    study = world.study
    sets: SetsByRun = {}
    for start in range(starts):
        for kind in study.training_sets.kinds:
            for size in study.training_sets.pairs_per_label:
                sets[start, f"{kind.name}-{3 * size}"] = reference.build_set(
                    kind.name,
                    original=world.train_file,
                    synthetic=world.synthetic_file,
                    held_out_per_label=study.data.held_out_per_label,
                    pairs_per_label=size,
                    seed=study.seeds[0],
                    detector=study.training_sets.overlap_detector,
                    parse=parse,
                )
    return len(sets), sets


def build_once(world: World, *, starts: int) -> tuple[float, dict[tuple[int, str], pa.Table]]:
    """Ours: files to store once, sets drawn once, and for each start what 70_augment_task_model reads."""
    folder = world.folder / "sets"
    write_sources(world, folder)
    drawn = draw_sets(world.study, folder)
    write_table(pa.concat_tables(drawn.values()), folder / "training_sets.parquet")
    texts = ["pair_id", "premise", "hypothesis"]
    sets = {}
    for start in range(starts):
        original, synthetic = (read_table(folder / f"{name}.parquet", columns=texts) for name in SOURCES)
        table = read_table(folder / "training_sets.parquet")
        for name in world.study.training_sets.names():
            chosen = pick_training_set(table, name=name)
            sets[start, name] = read_back_pairs(chosen, original=original, synthetic=synthetic)
    return len(sets), sets


SOURCES = ("original", "synthetic")


def write_sources(world: World, folder: Path) -> None:
    """Both sources as parquet with their overlap columns."""
    original, _ = read_multinli(world.train_file, split="train")
    original, _ = hold_out_pairs(drop_repeated_pairs(original), per_label=world.study.data.held_out_per_label)
    synthetic, _ = read_multinli(world.synthetic_file, split="synthetic")
    synthetic = synthetic.append_column("accepted", pa.array([True] * len(synthetic)))
    for name, table in zip(SOURCES, (original, synthetic), strict=True):
        write_table(add_heuristic_columns(table), folder / f"{name}.parquet")


def draw_sets(study: Study, folder: Path) -> dict[str, pa.Table]:
    """What 60_build_training_sets draws."""
    original, synthetic = (read_table(folder / f"{name}.parquet") for name in SOURCES)
    return build_training_sets(
        original=original,
        synthetic=synthetic,
        kinds=study.training_sets.kinds,
        pairs_per_label=study.training_sets.pairs_per_label,
        seed=study.seeds[0],
        overlap_detector=study.training_sets.overlap_detector,
        deduplicate=study.training_sets.deduplicate_synthetic,
    )


def check_sets(theirs: SetsByRun, ours: dict[tuple[int, str], pa.Table]) -> Figures:
    """Every set of every start: the same premises, hypotheses and labels in the same order."""
    require(theirs.keys() == ours.keys(), "other sets")
    for key, examples in theirs.items():
        rows = zip(*(ours[key][name].to_pylist() for name in ("premise", "hypothesis", "gold_label")), strict=True)
        require(list(rows) == examples, f"the set {key[1]} of start {key[0]} differs")
    return {"sets": len(theirs), "pairs": sum(map(len, theirs.values()))}
