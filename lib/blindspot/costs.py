"""What a study costs: hours and disk by stage, before it runs, for `make plan`.

An estimate says where it comes from. Best are finished runs of the same study; then the study file's own rates; then a
count of floating-point operations over the rate that the study file names. What none of these gives is unknown, never
made up. Nothing here loads a model: shapes are read from its config, or from the study file.

Operations per parameter and token (Kaplan et al. 2020, without the gradient of the weights, which are frozen here):
training 4, prediction and decoding 2. Decoding is bound by memory and needs longer.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blindspot.data import LABELS
from blindspot.fidelity import JUDGED_PER_LABEL
from blindspot.grid import Job
from blindspot.runs import read_summary
from blindspot.sandbox.model import SHIPPED_BASE
from blindspot.study import ROOT, ModelShape, Study

TRAINING, PREDICTION = 4, 2
OPERATIONS = {
    "20_train_task_model": TRAINING,
    "30_train_generator": TRAINING,
    "40_generate_examples": PREDICTION,
    "50_audit_synthetic_data": PREDICTION,  # a task model judges what was written
    "70_augment_task_model": TRAINING,
    "80_evaluate": PREDICTION,
}
LIKE = {"20_train_task_model": "70_augment_task_model", "70_augment_task_model": "20_train_task_model"}
# Bytes a row, as measured: pairs, their tokens and generated rows on MultiNLI's text (tokens by SmolLM2's tokenizer),
# sets and predictions on the sandbox.
TOKEN_BYTES = 290
BYTES_PER_ROW = {
    "10_prepare_data": 55,
    "15_tokenize_pairs": TOKEN_BYTES,
    "40_generate_examples": 136,
    "50_audit_synthetic_data": 136 + TOKEN_BYTES,
    "60_build_training_sets": 4,
    "80_evaluate": 17,
}
HANS_SUBCASES = 30


@dataclass(frozen=True)
class Cost:
    """One job's cost. Unknown parts are None; `source` says where the seconds come from."""

    stage: str
    to_run: bool
    gpus: int
    threads: int
    seconds: float | None
    bytes: float | None
    source: str


def estimate_costs(study: Study, jobs: Sequence[Job], *, to_run: Collection[str]) -> list[Cost]:
    """The cost of every job: as measured where it has run, else estimated. to_run: names of those that would run."""
    summaries = {job.name: read_summary(job.folder) for job in jobs if (job.folder / "summary.json").is_file()}
    rates = measure_rates(study, jobs, summaries)
    shape = find_shape(study)
    return [estimate_job(study, job, job.name in to_run, summaries, rates, shape) for job in jobs]


def estimate_job(
    study: Study,
    job: Job,
    to_run: bool,
    summaries: dict[str, dict[str, Any]],
    rates: dict[str, tuple[float, float, int]],
    shape: ModelShape | None,
) -> Cost:
    """One job's cost; `rates` are those of `measure_rates`."""
    has_run = job.name in summaries
    seconds: float | None
    if has_run:
        seconds, source = float(summaries[job.name]["seconds"]), "measured"
    else:
        seconds, source = estimate_seconds(study, job, rates, shape, count_work(study, job, summaries))
    size = measure_bytes(job, study, shape) if has_run else estimate_bytes(study, job, summaries, shape)
    return Cost(job.stage, to_run, job.gpus, job.threads, seconds, size, source)


def count_work(study: Study, job: Job, summaries: dict[str, dict[str, Any]]) -> float | None:
    """Pairs that a job trains on or predicts (once a model), rows that it writes; None where that is not known yet."""
    counts = summaries.get("10_prepare_data/all", {}).get("counts", {})
    sets = len(LABELS) * sum(study.training_sets.pairs_per_label) * len(study.training_sets.kinds)
    match job.stage:
        case "10_prepare_data" | "15_tokenize_pairs":
            tests, train = count_test_pairs(study, counts), count_training_pairs(study, counts)
            return None if tests is None or train is None else train + sum(tests.values())
        case "20_train_task_model":
            return study.task_model.training.num_train_epochs * int(job.coordinates["starting_size"])
        case "30_train_generator":
            size = study.generator.training_size or count_training_pairs(study, counts)
            if job.coordinates.get("generation"):
                size = len(LABELS) * (study.generator.retraining_pairs_per_label or 0)
            return None if size is None else study.generator.training.num_train_epochs * size
        case "40_generate_examples":
            total = study.generation.examples_per_label[job.coordinates["label"]]
            return min(study.generation.shard_size, total - job.coordinates["shard"] * study.generation.shard_size)
        case "50_audit_synthetic_data":
            tests = count_test_pairs(study, counts)
            judged = sum(min(rows, JUDGED_PER_LABEL) for rows in study.generation.examples_per_label.values())
            return None if tests is None else judged + tests["matched"]
        case "60_build_training_sets":
            return sets
        case "70_augment_task_model":
            return study.augmentation.training.num_train_epochs * sets
        case "80_evaluate":
            tests = count_test_pairs(study, counts)
            return None if tests is None else sum(tests.values()) * (1 + len(study.training_sets.names()))
    return None


def count_training_pairs(study: Study, counts: dict[str, int]) -> int | None:
    """Training pairs: as counted by stage 10, else as the study file expects or makes them."""
    sandbox = study.data.sandbox if study.data.source == "sandbox" else None
    made = sandbox.train_pairs - len(LABELS) * study.data.held_out_per_label if sandbox else None
    return counts.get("train", study.data.expected_counts.get("train", made))


def count_test_pairs(study: Study, counts: dict[str, int]) -> dict[str, int] | None:
    """Pairs of the three test splits: as counted by stage 10, else as the study file expects or makes them."""
    if "hans" in counts:
        return {split: counts[split] for split in ("matched", "mismatched", "hans")}
    data, expected = study.data, study.data.expected_counts
    sandbox = data.sandbox if data.source == "sandbox" else None
    per_subcase = data.hans_per_subcase or (sandbox.hans_per_subcase if sandbox else None)
    found = {"hans": HANS_SUBCASES * per_subcase if per_subcase else expected.get("hans")}
    for split in ("matched", "mismatched"):
        made = getattr(sandbox, f"{split}_pairs") if sandbox else None
        sizes = [size for size in (data.test_pairs, made or expected.get(f"{split}_labelled")) if size is not None]
        found[split] = min(sizes, default=None)
    return None if None in found.values() else {split: size for split, size in found.items() if size is not None}


def measure_rates(
    study: Study, jobs: Sequence[Job], summaries: dict[str, dict[str, Any]]
) -> dict[str, tuple[float, float, int]]:
    """By stage, of its finished runs: seconds a pair, the shortest run's seconds, number of runs."""
    found: dict[str, list[tuple[float, float]]] = {}
    for job in jobs:
        if job.name in summaries:
            work = count_work(study, job, summaries)
            found.setdefault(job.stage, []).append((float(summaries[job.name]["seconds"]), work or 0.0))
    rates = {}
    for stage, runs in found.items():
        pairs = sum(work for _, work in runs)
        if pairs:
            seconds = sum(seconds for seconds, work in runs if work)
            rates[stage] = (seconds / pairs, min(seconds for seconds, _ in runs), len(runs))
    return rates


def estimate_seconds(
    study: Study,
    job: Job,
    rates: dict[str, tuple[float, float, int]],
    shape: ModelShape | None,
    work: float | None,
) -> tuple[float | None, str]:
    """Seconds of a job that has not run, and where they come from."""
    if work is None or job.stage not in OPERATIONS:
        return None, "unknown"
    for stage in (job.stage, LIKE.get(job.stage, "")):
        if stage in rates:
            per_pair, least, runs = rates[stage]
            return max(per_pair * work, least), f"{runs} finished run{'s' * (runs > 1)} of {stage}"
    planning = study.planning
    if job.stage in planning.rates:
        rate = planning.rates[job.stage]
        return work / rate, f"the study file: {rate:g} a second"
    dtype = study.evaluation.compute_dtype if job.stage == "80_evaluate" else study.base_model.compute_dtype
    tflops, tokens = planning.sustained_tflops.get(dtype), planning.tokens_per_pair
    if shape is None or tflops is None or tokens is None:
        return None, "unknown"
    parameters, factor = count_parameters(shape), OPERATIONS[job.stage]
    source = (
        f"{factor} x {parameters / 1e9:.3g}e9 parameters x {tokens:g} tokens a pair, "
        f"at {tflops:g} TFLOP/s sustained in {dtype} (assumed)"
    )
    if job.stage == "40_generate_examples":
        source += "; at least: decoding is bound by memory"
    return factor * parameters * tokens * work / (tflops * 1e12), source


def find_shape(study: Study) -> ModelShape | None:
    """The base model's shape from the config on this machine, else from the study file; None where neither has it."""
    name = study.base_model.name
    folder = SHIPPED_BASE if name == "sandbox" else ROOT / name
    if not (folder / "config.json").is_file():
        return study.planning.model
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.setdefault("num_key_value_heads", config.get("num_attention_heads"))
    return ModelShape.model_validate({key: config[key] for key in ModelShape.model_fields})


def list_linears(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of a layer's linear modules."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    keys = hidden * shape.num_key_value_heads // shape.num_attention_heads
    return {
        **{"q_proj": (hidden, hidden), "k_proj": (hidden, keys), "v_proj": (hidden, keys), "o_proj": (hidden, hidden)},
        **{"gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden)},
    }


def count_parameters(shape: ModelShape) -> int:
    """Parameters of a Llama of this shape, both embeddings (untied) and norms included."""
    layer = sum(inputs * outputs for inputs, outputs in list_linears(shape).values()) + 2 * shape.hidden_size
    return shape.num_hidden_layers * layer + 2 * shape.vocab_size * shape.hidden_size + shape.hidden_size


def count_adapter_bytes(study: Study, shape: ModelShape, *, generator: bool) -> int:
    """Bytes of an adapter's fp32 tensors: LoRA and the head, or for the generator the modules that it saves."""
    linears = list_linears(shape)
    pairs = sum(sum(linears[name]) for name in study.lora.target_modules)
    saved = len(study.generator.modules_to_save) * shape.vocab_size if generator else len(LABELS)
    return 4 * (shape.num_hidden_layers * study.lora.r * pairs + saved * shape.hidden_size)


def estimate_bytes(
    study: Study, job: Job, summaries: dict[str, dict[str, Any]], shape: ModelShape | None
) -> float | None:
    """Bytes that a job's artefacts will take; None where the model's shape or a count is not known."""
    if job.stage in BYTES_PER_ROW:
        work = count_work(study, job, summaries)
        if job.stage == "50_audit_synthetic_data":  # it keeps every row, and judges some
            work = sum(study.generation.examples_per_label.values())
        return None if work is None else work * BYTES_PER_ROW[job.stage]
    adapters = {"20_train_task_model": 1, "30_train_generator": 1}
    adapters["70_augment_task_model"] = len(study.training_sets.names())
    if job.stage not in adapters or shape is None:
        return None
    return adapters[job.stage] * count_adapter_bytes(study, shape, generator=job.stage == "30_train_generator")


def measure_bytes(job: Job, study: Study, shape: ModelShape | None) -> float | None:
    """Bytes in a finished run's folder; models that are not there (git keeps none) count as they would be."""
    size = sum(path.stat().st_size for path in Path(job.folder).rglob("*") if path.is_file())
    if all((job.folder / name).exists() for name in job.outputs):
        return size
    missing = estimate_bytes(study, job, {}, shape)
    return None if missing is None else size + missing
