"""Memory: what the data stages hold at the paper's sizes, and whether generation grows with its examples.

It is the peak resident set of a process of its own (`python -m bench.scale JOB ...`), as the system counts it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.measure import Figures, say, stamp
from blindspot.data import LABELS, prepare_store, read_table, write_store, write_table
from blindspot.study import ROOT, load_study

LIMIT_GIB = 4.0
FLAT_SHARE = 0.05  # generation's peak may differ by so much between few and many examples
SYNTHETIC_TILE = 100_000


def measure_memory(
    *,
    text: Path,
    folder: Path,
    synthetic_rows: int,
    held_out: int,
    largest: int,
    world: Path,
    study: str,
    shards: tuple[int, int],
) -> Figures:
    """Peak memory of the calls of stages 10, 15 and 60, and of generation at two lengths.

    text: a data folder with the original rows; held_out and largest: pairs per label held out, and in the largest set;
    world: a bench world, for the generator of a study.
    """
    store = folder / "store"
    peaks = {"10_prepare_data": run_job("prepare", text, store, held_out)}
    peaks["15_tokenize_pairs"] = run_job("tokenize", store / "train.parquet", world / "model", 2048)
    run_job("synthesise", store / "train.parquet", folder / "synthetic.parquet", synthetic_rows)
    peaks["60_build_training_sets"] = run_job("sets", store / "train.parquet", folder / "synthetic.parquet", largest)
    generation = {count: run_job("generate", world, study, count) for count in shards}
    growth = generation[shards[1]] / generation[shards[0]] - 1
    rows = {"original": pq.read_metadata(store / "train.parquet").num_rows, "synthetic": synthetic_rows}
    say(f"memory: {peaks}, generation {generation} GiB")
    return {
        "title": f"memory: 10, 15 and 60 on {rows['original']:,} original and {synthetic_rows:,} synthetic rows under "
        f"{LIMIT_GIB:.0f} GiB; generation's does not grow with the examples",
        "passed": max(peaks.values()) < LIMIT_GIB and growth <= FLAT_SHARE,
        "figures": {
            "rows": rows,
            "peak_gib": peaks,
            "generation_peak_gib_by_shards": {str(count): peak for count, peak in generation.items()},
            "generation_growth": growth,
        },
        **stamp(),
    }


def run_job(job: str, *arguments: object) -> float:
    """Run one job in a process of its own; returns its peak resident set in GiB."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.scale", job, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "lib"), str(ROOT)])},
    )
    return json.loads(done.stdout.splitlines()[-1])["peak_gib"]


def read_peak_gib() -> float:
    """Peak resident set of this program so far.

    Linux's getrusage begins with what the process that started this one held, so its own status is read there.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        [line] = [line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def prepare(text: Path, store: Path, held_out: int) -> None:
    """The calls of 10_prepare_data."""
    from blindspot.audit import build_table1

    tables, _ = prepare_store(text, held_out_per_label=held_out)
    build_table1(original=tables["train"])
    write_store(tables, store)


def tokenize(original: Path, model: Path, max_length: int) -> None:
    """The calls of 15_tokenize_pairs."""
    from transformers import AutoTokenizer

    from blindspot.tokens import summarise_token_lengths, write_tokens

    path = original.with_suffix(".arrow")
    write_tokens(
        read_table(original), path, tokenizer=AutoTokenizer.from_pretrained(model), max_length=max_length
    )
    summarise_token_lengths({"train": path})


def synthesise(original: Path, target: Path, rows: int) -> None:
    """A table in the form of 50_audit_synthetic_data's, tiled from the original pairs, written part by part."""
    source = read_table(original, columns=["premise", "hypothesis", "gold_label"])
    rng = np.random.default_rng(1)
    writer = None
    for start in range(0, rows, SYNTHETIC_TILE):
        size = min(SYNTHETIC_TILE, rows - start)
        part = source.take(pa.array((np.arange(start, start + size)) % len(source)))
        table = decorate(part, first=start, rng=rng)
        writer = writer or pq.ParquetWriter(target, table.schema, compression="zstd")
        writer.write_table(table)
    if writer is not None:
        writer.close()


def decorate(pairs: pa.Table, *, first: int, rng: np.random.Generator) -> pa.Table:
    """Pairs with the columns of generated and audited ones. Overlap is drawn: often enough for a biased set."""
    size = len(pairs)
    premises, labels = pairs["premise"].to_pylist(), pairs["gold_label"].to_pylist()
    hypotheses = [f"{text} {first}" for text in pairs["hypothesis"].to_pylist()]
    overlap = rng.random(size) < 0.1
    columns: dict[str, Any] = {
        "pair_id": [f"syn-{label}-{first}-{row}" for row, label in enumerate(labels)],
        "split": ["synthetic"] * size,
        "genre": ["synthetic"] * size,
        "premise": premises,
        "hypothesis": hypotheses,
        "gold_label": labels,
        "accepted": np.ones(size, dtype=bool),
        "reject_reason": pa.nulls(size, pa.string()),
        "raw_text": [f"Premise: {p} Hypothesis: {h}" for p, h in zip(premises, hypotheses, strict=True)],
        "shard": np.full(size, first // SYNTHETIC_TILE, dtype=np.int32),
        "n_tokens": np.full(size, 60, dtype=np.int32),
        "lexical_overlap_published": overlap,
        "lexical_overlap_token_aligned": overlap,
        "duplicate": np.zeros(size, dtype=bool),
        "copied_from_training": np.zeros(size, dtype=bool),
        "true_label": pa.nulls(size, pa.string()),
    }
    return pa.table(columns)


def build_sets(original_file: Path, synthetic_file: Path, largest: int) -> None:
    """The calls of 60_build_training_sets with the paper's kinds; `largest` pairs per label, half and a quarter."""
    from blindspot.training_sets import build_training_sets, describe_training_set, read_back_pairs

    settings = load_study("paper").training_sets
    original, synthetic = read_table(original_file), read_table(synthetic_file)
    sets = build_training_sets(
        original=original,
        synthetic=synthetic,
        kinds=settings.kinds,
        pairs_per_label=[largest // 4, largest // 2, largest],
        seed=1,
        overlap_detector=settings.overlap_detector,
        deduplicate=settings.deduplicate_synthetic,
    )
    facts: dict[str, Any] = {"heuristics": ["lexical_overlap"], "detector": settings.overlap_detector}
    for name, table in sets.items():
        describe_training_set(name, table, original=original, synthetic=synthetic, **facts)
    read_back_pairs(list(sets.values())[-1], original=original, synthetic=synthetic)
    write_table(pa.concat_tables(sets.values()), synthetic_file.with_name("training_sets.parquet"))


def generate(world: Path, study_name: str, shards: int) -> None:
    """The calls of 40_generate_examples, `shards` times over in one process, each shard written."""
    from blindspot.generation import generate_shard
    from blindspot.models import load_adapter, load_base, merged

    study = load_study(study_name)
    base = load_base(study.base_model, sandbox_model=world / "model")
    changes = {"examples_per_label": dict.fromkeys(LABELS, 10**6), "shard_size": study.generation.batch_size}
    settings = study.generation.model_copy(update=changes)
    with merged(base, load_adapter(world / "generator"), study.lora):
        for shard in range(shards):
            table = generate_shard(base, label=LABELS[0], shard=shard, settings=settings)
            write_table(table, world / "scale" / f"{shard}.parquet")


def main() -> None:
    """Run one job and print its peak memory as JSON."""
    parser = argparse.ArgumentParser(description="one job of the memory measurement, in a process of its own")
    parser.add_argument("job", choices=("prepare", "tokenize", "synthesise", "sets", "generate"))
    parser.add_argument("arguments", nargs=3)
    options = parser.parse_args()
    first, second, number = options.arguments
    if options.job == "generate":
        generate(Path(first), second, int(number))
    else:
        jobs = {"prepare": prepare, "tokenize": tokenize, "synthesise": synthesise, "sets": build_sets}
        jobs[options.job](Path(first), Path(second), int(number))
    print(json.dumps({"peak_gib": read_peak_gib()}))


if __name__ == "__main__":
    main()
