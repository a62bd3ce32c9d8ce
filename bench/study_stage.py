"""The whole default study: ours run from the start, the reference put together from its measured parts.

The reference would take the better part of an hour a round, so each of its parts is measured in every round of its
own stage and multiplied by how often the study's grid has it. It is then given what ours has: jobs side by side on
every core, at no loss.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.measure import Figures, find_ratio, meets, say, spread, stamp
from bench.reference_models import GENERATION_BATCH
from blindspot.data import LABELS
from blindspot.study import ROOT, Study

AT_LEAST, AIM = 5.0, 10.0
PARTS = ("kernel_start", "start_training", "generator_training", "generation", "sets", "augmentation", "evaluation")


def measure_study(
    study: Study, stages: Figures, *, work: Path, runs: int, rounds: int, train_pairs: int, cores: int
) -> Figures:
    """The stage's entry in results.json. runs: how often ours is run; stages: what was measured before."""
    lacking = [name for name in PARTS if not stages.get(name, {}).get("rounds")]
    failed = [name for name in PARTS if stages.get(name, {}).get("gate", {}).get("passed") is False]
    entry: Figures = {"title": "the whole default study, 1 seed", "at_least": AT_LEAST, "aim": AIM}
    walls = [run_study(study, work / f"study-{number}", cores=cores) for number in range(0 if lacking else runs)]
    rows = []
    for number in range(rounds if walls else 0):
        parts = compose_reference(study, stages, number=number, train_pairs=train_pairs)
        total = sum(part["seconds"] for part in parts.values())
        row: Figures = {"reference_seconds": total / cores, "reference_work": 1, "reference_parts": parts}
        row |= {"ours_seconds": walls[min(number, len(walls) - 1)], "ours_work": 1}
        rows.append(row | {"ratio": find_ratio(row)})
    problem = f"not measured: {', '.join(lacking)}" if lacking else f"failed: {', '.join(failed)}" if failed else None
    problem = problem or (None if walls else "the study was not run")
    ratio = spread([row["ratio"] for row in rows]) if rows and not problem else None
    passed = False if failed else None if problem else True
    return entry | {
        "gate": {"what": "all of the above", "passed": passed, "problem": problem, "figures": {}},
        "ratio": ratio,
        "meets_at_least": meets(ratio, AT_LEAST),
        "meets_aim": meets(ratio, AIM),
        "rounds": rows,
        "notes": {
            "ours": f"run from the start {len(walls)} time(s), {cores} jobs side by side",
            "reference": f"composed: seconds a part, measured in each round, times how often the grid has it; the sum "
            f"divided by {cores} cores, as if its jobs ran side by side without loss",
        },
        **stamp(),
    }


def compose_reference(study: Study, stages: Figures, *, number: int, train_pairs: int) -> Figures:
    """Each part of the reference's study: seconds a unit in this round, units, and their product."""

    def unit(stage: str) -> float:
        rows = stages[stage]["rounds"]
        return rows[min(number, len(rows) - 1)]["reference_seconds"]

    starts = study.task_model.starting_sizes
    sets = len(study.training_sets.names())
    models = len(starts) * (1 + sets)
    batches = sum(-(-rows // GENERATION_BATCH) for rows in study.generation.examples_per_label.values())
    cells = len(starts) + 1 + len(LABELS) + len(starts) * sets + models
    counts = {
        "kernel_start": (unit("kernel_start"), cells),
        "start_training": (unit("start_training") / count_work(stages, "start_training", number), sum(starts)),
        "generator_training": (
            unit("generator_training") / count_work(stages, "generator_training", number),
            study.generator.training_size or train_pairs,
        ),
        "generation": (mean_over_labels(stages["generation"]["rounds"]), batches),
        "sets": (unit("sets") / count_work(stages, "sets", number), len(starts) * sets),
        "augmentation": (unit("augmentation"), len(starts)),
        "evaluation": (unit("evaluation"), models),
    }
    return {
        name: {"unit_seconds": seconds, "units": times, "seconds": seconds * times}
        for name, (seconds, times) in counts.items()
    }


def count_work(stages: Figures, stage: str, number: int) -> float:
    """What one round of the reference's side did: pairs, texts or sets."""
    rows = stages[stage]["rounds"]
    return rows[min(number, len(rows) - 1)]["reference_work"]


def mean_over_labels(rows: list[Figures]) -> float:
    """Seconds a batch of generation takes: the mean, since each round has another label."""
    return sum(row["reference_seconds"] for row in rows) / len(rows)


def run_study(study: Study, folder: Path, *, cores: int) -> float:
    """`make study` from nothing into a folder of its own; returns its seconds. Raises RuntimeError where it fails."""
    shutil.rmtree(folder, ignore_errors=True)
    say(f"running the study {study.name!r} from the start, {cores} jobs side by side")
    arguments: list[Any] = ["study", "--study", study.name, "--overrides", f"{{name: bench-{study.name}, seeds: [1]}}"]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "blindspot", *arguments, "--cores", str(cores)],
        cwd=ROOT,
        env=os.environ | {"BLINDSPOT_EXECUTED": str(folder)},
        stdout=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"the study {study.name!r} failed; run `make study STUDY={study.name}` to see why")
    say(f"the study took {seconds:.0f} s")
    return seconds
