"""The grid: a study expanded into jobs, each one notebook at one point, with what it reads and writes.

The Snakefile turns every job into a rule; nothing else knows how a study unfolds.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blindspot.data import LABELS, SPLITS
from blindspot.dose_response import find_dose_curves
from blindspot.runs import STAGES, judge_start, run_folder
from blindspot.study import ROOT, Study

SANDBOX_FILES = (
    "data/multinli_1.0/multinli_1.0_train.jsonl",
    "data/hans/heuristics_evaluation_set.txt",
    "model/model.safetensors",
)
# The sections of the study that a stage reads itself; a change in one of them reruns the stage, and then what
# depends on it.
SECTIONS: dict[str, tuple[str, ...]] = {
    "00_build_sandbox": ("data.sandbox",),
    "10_prepare_data": ("data",),
    "15_tokenize_pairs": ("base_model.name", "base_model.revision", "base_model.max_length"),
    "20_train_task_model": ("base_model", "lora", "task_model.training", "task_model.pooling"),
    "30_train_generator": ("base_model", "lora", "generator", "training_sets.deduplicate_synthetic"),
    "40_generate_examples": ("base_model", "lora", "generation"),
    "50_audit_synthetic_data": (
        *("base_model", "lora", "task_model.pooling"),
        *("training_sets.overlap_detector", "training_sets.deduplicate_synthetic", "generation.examples_per_label"),
    ),
    "60_build_training_sets": ("training_sets",),
    "70_augment_task_model": ("base_model", "lora", "augmentation", "task_model.pooling", "training_sets"),
    "80_evaluate": ("base_model", "lora", "evaluation", "task_model.pooling", "training_sets"),
    "90_analysis": (
        "evaluation",
        "analysis",
        "training_sets",
        "seeds",
        "task_model.starting_sizes",
        "task_model.pooling",
    ),
}


@dataclass
class Job:
    """One run of the grid. Paths are those of artefacts; `values` are the study's values that matter to it."""

    stage: str
    coordinates: dict[str, Any]
    folder: Path
    outputs: list[str]
    needs: list[Job] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    memory_mb: int = 1000
    gpus: int = 0

    @property
    def name(self) -> str:
        """Stage and run, as the terminal shows them."""
        return f"{self.stage}/{self.folder.name}"

    def output_paths(self) -> list[str]:
        """Everything the job must leave behind; `summary.json` is written last."""
        return [relative_path(self.folder / name) for name in [*self.outputs, "summary.json"]]

    def log_path(self) -> str:
        """The executed notebook, which stays where the job fails."""
        return relative_path(self.folder / "notebook.ipynb")

    def input_paths(self) -> list[str]:
        """What the job waits for."""
        return [path for job in self.needs for path in job.output_paths()]


def expand_study(study: Study) -> list[Job]:
    """All jobs of a study, each after those that it needs."""
    jobs: list[Job] = []

    def add(stage: str, outputs: list[str], needs: list[Job], **coordinates: Any) -> Job:
        job = make_job(study, stage, outputs, needs, coordinates)
        jobs.append(job)
        return job

    sandbox = [add("00_build_sandbox", list(SANDBOX_FILES), [])] if study.data.source == "sandbox" else []
    data = add("10_prepare_data", [f"{split}.parquet" for split in SPLITS], sandbox)
    tokens = add("15_tokenize_pairs", [f"{split}.arrow" for split in SPLITS], [data, *sandbox])
    starts = {
        (size, seed): add(
            "20_train_task_model",
            ["adapter/adapter_model.safetensors"],
            [data, tokens, *sandbox],
            starting_size=size,
            seed=seed,
        )
        for seed in study.seeds
        for size in study.task_model.starting_sizes
    }
    judge = starts[judge_start(study)["starting_size"], judge_start(study)["seed"]]
    audits: list[Job] = []
    for generation in range(study.generator.generations + 1):
        sources = [data, *audits[-1:]]  # what this generation of G was trained on
        generator = add(
            "30_train_generator", ["adapter/adapter_model.safetensors"], [*sources, *sandbox], generation=generation
        )
        shards = [
            add("40_generate_examples", ["examples.parquet"], [generator, *sandbox], **point)
            for point in list_shards(study, generation=generation)
        ]
        outputs = ["synthetic.parquet", "tokens.arrow", "table1.csv", "mutual_information.csv"]
        needs = [*sources, tokens, judge, *shards, *sandbox]
        audits.append(add("50_audit_synthetic_data", outputs, needs, generation=generation))
    drawn = [audits[generation] for generation in study.training_sets.generations()]
    sets = {
        seed: add("60_build_training_sets", ["training_sets.parquet"], [data, *drawn], seed=seed)
        for seed in study.seeds
    }
    evaluations = []
    for (size, seed), start in starts.items():
        names = study.training_sets.names()
        augmented = add(
            "70_augment_task_model",
            [f"{name}/adapter_model.safetensors" for name in names],
            [data, tokens, start, *drawn, sets[seed], *sandbox],
            starting_size=size,
            seed=seed,
        )
        evaluations.append(
            add(
                "80_evaluate",
                ["predictions.parquet"],
                [data, tokens, start, augmented, *sandbox],
                starting_size=size,
                seed=seed,
            )
        )
    results = [
        "results.csv",
        "figure1.csv",
        "differences.csv",
        "table1.csv",
        "claims.csv",
        "claim_parts.csv",
        "trends.csv",
    ]
    if find_dose_curves(study.training_sets.kinds):
        results += ["dose_response.csv", "dose_trends.csv", "dose_response.png"]
    add("90_analysis", results, [data, *audits, *evaluations])
    return jobs


def list_shards(study: Study, *, generation: int) -> list[dict[str, Any]]:
    """Coordinates of everything that one generation of G writes, by label and shard."""
    return [
        {"generation": generation, "label": label, "shard": shard}
        for label in LABELS
        for shard in range(study.generation.shards(label))
    ]


def make_job(study: Study, stage: str, outputs: list[str], needs: list[Job], coordinates: dict[str, Any]) -> Job:
    """A job with its folder, the values that it depends on, and what it takes of the machine."""
    dumped = study.model_dump(mode="json")
    is_data = stage[:2] in ("00", "10", "15", "60", "90")
    resources = study.resources
    model_memory_mb = max(resources.model_memory_mb, resources.data_memory_mb if stage[:2] == "50" else 0)
    return Job(
        stage=stage,
        coordinates=coordinates,
        folder=run_folder(study, stage, **coordinates),
        outputs=outputs,
        needs=needs,
        values={key: pick_value(dumped, key) for key in SECTIONS[stage]},
        threads=1 if is_data else resources.threads,
        memory_mb=resources.data_memory_mb if is_data else model_memory_mb,
        gpus=0 if is_data else resources.gpus,
    )


def relative_path(path: Path) -> str:
    """A path as Snakemake keeps it: relative to the project where it works there and the path lies in it.

    Where BLINDSPOT_EXECUTED names another results folder Snakemake works in that, so paths are absolute.
    """
    is_here = "BLINDSPOT_EXECUTED" not in os.environ and path.is_relative_to(ROOT)
    return str(path.relative_to(ROOT)) if is_here else str(path)


def pick_value(values: dict[str, Any], key: str) -> Any:
    """The value of a dotted key in nested sections."""
    for part in key.split("."):
        values = values[part] if values is not None else None
    return values


def job_parameters(job: Job, *, study: str) -> str:
    """The papermill parameters of a job, as JSON; without overrides, which reach every job of the study alike."""
    lists: dict[str, list[str]] = {key: [] for key, kind in STAGES[job.stage].items() if kind not in (int, str)}
    return json.dumps({"study": study, **lists, **job.coordinates}, sort_keys=True)


def free_memory_mb() -> int:
    """Memory that jobs may share: what the machine has available now."""
    import psutil

    return int(psutil.virtual_memory().available / 2**20)


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
