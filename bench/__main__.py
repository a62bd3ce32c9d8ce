"""`make bench`: every stage against the published procedure, its gate, and what memory and growth do.

    python -m bench                                   # everything, some 40 minutes on 2 cores
    python -m bench --stages read sets --rounds 5     # some stages; the others' figures stay in results.json
    python -m bench --table                           # the README's table from bench/results.json
    python -m bench --quick --output quick.json       # seconds, at sizes that say nothing: does the harness work?

Exits with 1 where a gate fails, a limit of memory or growth is passed, or the calibration leaves its bounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import Figures, run_race, say, stamp, write_results
from blindspot.study import ROOT, load_study

RESULTS = ROOT / "bench" / "results.json"
STAGES = (
    *("read", "read_as_published", "sets", "sets_as_published", "generation", "start_training", "generator_training"),
    *("augmentation", "evaluation", "kernel_start", "study", "memory", "linearity", "calibration"),
)


@dataclass(frozen=True)
class Sizes:
    """How much each stage does."""

    study: str
    rows: int
    published_rows: int
    synthetic_rows: int
    starts: int
    generator_pairs: int
    start_pairs: int
    generated: int
    reference_generated: int
    steps: int
    timed_pairs: int
    shards: tuple[int, int]
    linear_rows: int
    linear_examples: int
    linear_pairs: int
    largest_set: int  # pairs per label, in the memory measurement


FULL = Sizes("sandbox", 400_000, 400_000, 1_800_000, 6, 6_000, 400, 400, 64, 512, 600, (2, 8), 40_000, 200, 400, 24_360)
QUICK = Sizes("test", 300, 300, 3_000, 2, 800, 16, 24, 8, 96, 16, (1, 2), 60, 4, 8, 12)


class Bench:
    """The stages by name; the world that the model stages share is built when the first of them needs it."""

    def __init__(self, sizes: Sizes, *, work: Path, rounds: int, study_runs: int, known: Figures) -> None:
        self.sizes, self.work, self.rounds, self.study_runs = sizes, work, rounds, study_runs
        self.results: Figures = dict(known)
        self.study = load_study(sizes.study)
        self.built: Any = None

    @property
    def world(self) -> Any:
        """Data, base and start of the study."""
        from bench.world import build_world

        if self.built is None:
            self.built = build_world(self.study, self.work, start_pairs=self.sizes.start_pairs)
        return self.built

    def run(self, stage: str) -> Figures:
        """Measure one stage and keep its figures."""
        others: dict[str, Callable[[], Figures]] = {
            "kernel_start": self.measure_kernel_start,
            "study": self.measure_study,
            "memory": self.measure_memory,
            "linearity": self.measure_linearity,
            "calibration": self.measure_calibration,
        }
        if stage in ("generation", "memory", "linearity"):
            from bench.world import train_generator

            train_generator(self.world, pairs=self.sizes.generator_pairs)
        found = others[stage]() if stage in others else run_race(self.make_race(stage), rounds=self.rounds)
        self.results[stage] = found
        return found

    def make_race(self, stage: str) -> Any:
        """The race of a stage."""
        from bench import data_stages, model_stages, training_stages

        sizes, world = self.sizes, self.world
        makers: dict[str, Callable[[], Any]] = {
            "read": lambda: data_stages.race_reading(world, rows=sizes.rows, as_published=False),
            "read_as_published": lambda: data_stages.race_reading(world, rows=sizes.published_rows, as_published=True),
            "sets": lambda: data_stages.race_sets(world, starts=sizes.starts, as_published=False),
            "sets_as_published": lambda: data_stages.race_sets(world, starts=sizes.starts, as_published=True),
            "generation": lambda: model_stages.GenerationRace(
                world, rows=sizes.generated, reference_rows=sizes.reference_generated, steps=sizes.steps
            ).race(),
            "start_training": lambda: training_stages.race_start(world, pairs=sizes.timed_pairs),
            "generator_training": lambda: training_stages.race_generator(world, pairs=sizes.timed_pairs),
            "augmentation": lambda: training_stages.race_augmentation(world),
            "evaluation": lambda: model_stages.race_evaluation(world),
        }
        return makers[stage]()

    def measure_kernel_start(self) -> Figures:
        from bench.kernel_stage import measure_kernels

        return measure_kernels(rounds=self.rounds)

    def measure_study(self) -> Figures:
        from bench.study_stage import measure_study

        return measure_study(
            self.study,
            self.results,
            work=self.work,
            runs=self.study_runs,
            rounds=self.rounds,
            train_pairs=len(self.world.tables["train"]),
            cores=count_cores(),
        )

    def measure_memory(self) -> Figures:
        from bench.scale import measure_memory
        from bench.tiling import find_text, write_tiled_folder

        text, _ = find_text(self.world.data)
        folder = self.world.folder / "memory"
        return measure_memory(
            text=write_tiled_folder(text, folder / "text", rows=self.sizes.rows),
            folder=folder,
            synthetic_rows=self.sizes.synthetic_rows,
            held_out=min(250, self.sizes.rows // 30),
            largest=self.sizes.largest_set,
            world=self.world.folder,
            study=self.sizes.study,
            shards=self.sizes.shards,
        )

    def measure_linearity(self) -> Figures:
        from bench.linearity import measure_growth

        sizes = self.sizes
        return measure_growth(
            self.world,
            data_rows=sizes.linear_rows,
            examples=sizes.linear_examples,
            pairs=sizes.linear_pairs,
            rounds=self.rounds,
        )

    def measure_calibration(self) -> Figures:
        """bench/calibration.py in a process of its own; smaller where the sizes are."""
        smaller = ["--differences", "20", "--studies", "2"] if self.sizes is QUICK else []
        with tempfile.TemporaryDirectory(prefix="blindspot-bench-") as folder:
            file = Path(folder) / "calibration.json"
            command = [sys.executable, str(ROOT / "bench" / "calibration.py"), "--json", str(file), *smaller]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            figures = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        summary = done.stdout.splitlines()[-1] if done.stdout else "no output"
        say(f"calibration: {summary}")
        title = "calibration of the statistics: intervals cover, claims err as often as they may"
        passed = None if self.sizes is QUICK else done.returncode == 0
        return {"title": title, "passed": passed, "figures": {"": summary}, "details": figures, **stamp()}


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure_or_note(bench: Bench, stage: str) -> Figures:
    """A stage's figures; one that breaks is a failed gate with its error, and the others go on."""
    try:
        return bench.run(stage)
    except Exception as error:
        traceback.print_exc()
        problem = f"{type(error).__name__}: {error}"
        gate = {"what": "ran to its end", "passed": False, "problem": problem[:300], "figures": {}}
        empty = dict.fromkeys(("ratio", "at_least", "aim", "meets_at_least", "meets_aim"))
        return {"title": stage, "gate": gate, **empty, "rounds": [], **stamp()}


def has_failed(entry: Figures) -> bool:
    """Whether a gate or a check says no."""
    return entry["gate"]["passed"] is False if "gate" in entry else entry["passed"] is False


def set_up() -> None:
    """One thread, no hub, no chatter: the same for both sides."""
    import warnings

    import pyarrow as pa
    import torch
    from transformers.utils import logging

    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    torch.set_num_threads(threads)
    pa.set_cpu_count(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", message="Could not find a config file")


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), metavar="STAGE", help=f"{STAGES}")
    parser.add_argument("--rounds", type=int, default=3, help="paired rounds of each stage (default 3)")
    parser.add_argument("--study-runs", type=int, help="runs of the whole study (default: --rounds; 0 with --quick)")
    parser.add_argument("--quick", action="store_true", help="sizes of seconds: whether the harness works")
    parser.add_argument("--output", type=Path, help="results file (default bench/results.json; needed with --quick)")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench", help="folder for files made on the way")
    parser.add_argument("--table", action="store_true", help="only put the table of the results into the README")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; expected 1 or more")
    if options.quick and not options.output:
        parser.error("--quick needs --output: figures of its sizes do not belong in bench/results.json")
    if options.study_runs is None:
        options.study_runs = 0 if options.quick else options.rounds
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write results and table; the exit code is 1 where something failed."""
    from bench.report import render, write_readme

    options = read_arguments(arguments)
    output = options.output or RESULTS
    if options.table:
        write_readme(ROOT / "README.md", render(json.loads(output.read_text(encoding="utf-8"))))
        return 0
    set_up()
    known = json.loads(output.read_text(encoding="utf-8"))["stages"] if output.is_file() else {}
    sizes = QUICK if options.quick else FULL
    bench = Bench(sizes, work=options.work, rounds=options.rounds, study_runs=options.study_runs, known=known)
    failed = []
    results: Figures = {"stages": known}
    for stage in [stage for stage in STAGES if stage in options.stages]:
        say(f"{stage} ...")
        entry = measure_or_note(bench, stage)
        results = write_results(output, {stage: entry}, order=STAGES)
        failed += [stage] if has_failed(entry) and not (options.quick and stage == "linearity") else []
    table = render(results)
    print(table)
    if output == RESULTS:
        write_readme(ROOT / "README.md", table)
    say(f"failed: {', '.join(failed)}" if failed else "no gate failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
