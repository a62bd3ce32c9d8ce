"""Growth: the time an example takes at ten times the rows, against that at the rows themselves."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from bench.measure import Figures, say, stamp
from bench.tiling import find_text, write_tiled
from bench.world import World
from blindspot.data import LABELS, MULTINLI_FILES, drop_repeated_pairs, finish_pairs, hold_out_pairs
from blindspot.generation import generate_shard
from blindspot.models import load_adapter, merged
from blindspot.prediction import predict_logits, tokenize_pairs
from blindspot.readers import read_multinli

LIMIT = 1.2
TIMES = 10


def measure_growth(world: World, *, data_rows: int, examples: int, pairs: int, rounds: int) -> Figures:
    """The entry in results.json: for data, generation and evaluation the median ratio of times an example.

    The three sizes are the small ones; each is held against ten times as many, in turn, round by round.
    """
    jobs: dict[str, tuple[int, Callable[[int], None]]] = {
        "data": (data_rows, lambda rows: prepare_rows(world, rows)),
        "generation": (examples, lambda rows: generate_examples(world, rows, batch=examples)),
        "evaluation": (pairs, lambda rows: evaluate_pairs(world, rows)),
    }
    for times in (1, TIMES):
        tile_text(world, times * data_rows)  # before anything is timed
    figures = {name: compare_sizes(job, rows, rounds=rounds) for name, (rows, job) in jobs.items()}
    say("linearity: " + ", ".join(f"{name} {found['ratio']:.2f}" for name, found in figures.items()))
    return {
        "title": f"time per example at {TIMES}x the rows within {LIMIT}x of that at 1x",
        "passed": all(found["ratio"] <= LIMIT for found in figures.values()),
        "figures": figures,
        **stamp(),
    }


def compare_sizes(job: Callable[[int], None], rows: int, *, rounds: int) -> Figures:
    """Time an example at 10x over that at 1x: medians over the rounds, after one small run that warms up."""
    job(rows)
    seconds: dict[int, list[float]] = {rows: [], TIMES * rows: []}
    for _ in range(rounds):
        for size, found in seconds.items():
            started = time.perf_counter()
            job(size)
            found.append((time.perf_counter() - started) / size)
    small, large = (statistics.median(found) for found in seconds.values())
    return {"rows": rows, "seconds_per_row_1x": small, "seconds_per_row_10x": large, "ratio": large / small}


def tile_text(world: World, rows: int) -> Path:
    """A training file of so many rows, which the stages share."""
    text, _ = find_text(world.data)
    return write_tiled(text / MULTINLI_FILES["train"], world.folder / f"tiled-{rows}.jsonl", rows=rows)


def prepare_rows(world: World, rows: int) -> None:
    """What 10_prepare_data does with the training file."""
    file = tile_text(world, rows)
    table, _ = read_multinli(file, split="train")
    train, held_out = hold_out_pairs(drop_repeated_pairs(table), per_label=min(250, rows // 30))
    finish_pairs(train)
    finish_pairs(held_out)


def generate_examples(world: World, rows: int, *, batch: int) -> None:
    """Shards of one batch each."""
    changes = {"examples_per_label": dict.fromkeys(LABELS, 10**6), "shard_size": batch, "batch_size": batch}
    settings = world.study.generation.model_copy(update=changes)
    with merged(world.base, load_adapter(world.generator), world.study.lora):
        for shard in range(rows // batch):
            generate_shard(world.base, label=LABELS[0], shard=shard, settings=settings)


def evaluate_pairs(world: World, rows: int) -> None:
    """One model on so many training pairs, drawn over and over where there are fewer."""
    train = world.tables["train"]
    pairs = train.take([index % len(train) for index in range(rows)])
    size = world.study.evaluation.batch_size
    tokens = tokenize_pairs(world.base, pairs)
    predict_logits(world.base, load_adapter(world.start), world.study.lora, tokens, batch_size=size)
