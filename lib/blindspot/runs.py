"""A run: one execution of one notebook at one point of the grid, in a folder of its own.

`open_run` is the first call of every notebook. It checks the parameters, finds the folder and the inputs. `finish`
is the last: `summary.json` is written last and atomically, so its presence alone means that the run is done.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import time
import types
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from blindspot.acquire import acquire_data, hash_file, list_acquired
from blindspot.data import LABELS
from blindspot.progress import Progress
from blindspot.study import ROOT, Study, StudyError, executed_folder, load_study

# Every stage with the coordinates of its runs, in the order in which a study runs them.
STAGES: dict[str, dict[str, Any]] = {
    "00_build_sandbox": {},
    "10_prepare_data": {},
    "15_tokenize_pairs": {},
    "20_train_task_model": {"starting_size": int, "seed": int},
    "30_train_generator": {"generation": int},
    "40_generate_examples": {"generation": int, "label": str, "shard": int},
    "50_audit_synthetic_data": {"generation": int},
    "60_build_training_sets": {"seed": int},
    "70_augment_task_model": {"starting_size": int, "seed": int, "training_sets": list[str]},
    "80_evaluate": {"starting_size": int, "seed": int, "training_sets": list[str]},
    "90_analysis": {},
}
# Coordinates that need not be given. Generation 0 is the G of every study, trained on original pairs.
DEFAULTS: dict[str, Any] = {"generation": 0}
# Stages that are deterministic and take minutes at most: a notebook that lacks their output runs them first.
DATA_STAGES = ("00_build_sandbox", "10_prepare_data", "15_tokenize_pairs")
OPENED = "_blindspot_opened"  # set in a notebook's namespace by its first open_run
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "pyarrow", "numpy", "pandas", "papermill")


def run_name(stage: str, coordinates: dict[str, Any]) -> str:
    """Name of a run's folder, such as `start-500_seed-1`; `all` where the stage has no coordinates.

    A list of training sets that is not the whole study's appears by name, shortened to a hash where it is long; a
    generation of G appears from 1 on.
    """
    short = {"starting_size": "start"}
    parts = []
    for key in STAGES[stage]:
        value = (DEFAULTS | coordinates)[key]
        if isinstance(value, list):
            text = "+".join(value)
            if text:
                parts.append(text if len(text) <= 60 else "sets-" + hashlib.sha256(text.encode()).hexdigest()[:8])
        elif key not in DEFAULTS or value != DEFAULTS[key]:
            parts.append(f"{short.get(key, key)}-{value}")
    return "_".join(parts) or "all"


def run_folder(study: Study, stage: str, **coordinates: Any) -> Path:
    """Folder of one run. Coordinates that are lists default to empty, which means all; generation to 0."""
    defaults: dict[str, Any] = {key: [] for key, kind in STAGES[stage].items() if kind is not int and kind is not str}
    return executed_folder() / study.name / stage / run_name(stage, defaults | coordinates)


def check_coordinates(study: Study, stage: str, coordinates: dict[str, Any]) -> None:
    """Raise StudyError for a coordinate that the study does not have; says what it has."""
    generation, sets = study.generation, study.training_sets
    allowed: dict[str, list[Any]] = {
        "starting_size": study.task_model.starting_sizes,
        "seed": study.seeds,
        "generation": list(range(study.generator.generations + 1)),
        "label": list(LABELS),
        "training_sets": (["none"] if stage == "80_evaluate" else []) + sets.names(),
    }
    if "label" in coordinates and coordinates["label"] in LABELS:
        allowed["shard"] = list(range(generation.shards(coordinates["label"])))
    for key, value in coordinates.items():
        values = value if isinstance(value, list) else [value]
        for item in values:
            if item not in allowed[key]:
                raise StudyError(f"{key} {item!r} is not in the study {study.name!r}; it has {allowed[key]}")
        if len(set(values)) < len(values):
            raise StudyError(f"{key} names something twice: {value}")


def check_parameters(stage: str, parameters: dict[str, Any]) -> tuple[Study, dict[str, Any]]:
    """Check a notebook's parameters by name, type and study; return the study and the run's coordinates.

    Raises StudyError that names the parameter, what was given and what is expected.
    """
    kinds = STAGES[stage]
    known = ["study", *kinds, "overrides"]
    parameters = {key: value for key, value in DEFAULTS.items() if key in kinds} | parameters
    for name in parameters:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise StudyError(f"unknown parameter {name!r}: {stage} takes {', '.join(known)}{hint}")
    missing = [name for name in ("study", *kinds) if name not in parameters]
    if missing:
        raise StudyError(f"{stage} lacks the parameter(s) {', '.join(missing)}; it takes {', '.join(known)}")
    coordinates = {name: check_type(name, parameters[name], kind) for name, kind in kinds.items()}
    study = load_study(check_type("study", parameters["study"], str), parameters.get("overrides"))
    check_coordinates(study, stage, coordinates)
    return study, coordinates


def check_type(name: str, value: Any, kind: Any) -> Any:
    """The value if it has the type that the parameter has. Raises StudyError."""
    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError:
        expected = getattr(kind, "__name__", str(kind)) if kind in (int, str) else str(kind)
        raise StudyError(f"parameter {name!r} is {value!r} ({type(value).__name__}); expected {expected}") from None


def judge_start(study: Study) -> dict[str, int]:
    """Coordinates of the start that judges synthetic labels: the largest one of the first seed."""
    return {"starting_size": max(study.task_model.starting_sizes), "seed": study.seeds[0]}


@dataclass
class Run:
    """An open run. Artefacts go to `output(name)`; inputs come from `input(stage, name, ...)`, both as paths."""

    study: Study
    stage: str
    coordinates: dict[str, Any]
    folder: Path
    inputs: dict[str, str] = field(default_factory=dict)
    acquired: list[dict[str, object]] = field(default_factory=list)
    started: float = field(default_factory=time.time)

    def output(self, name: str) -> Path:
        """Path of an artefact of this run; its folder exists."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def input_folder(self, stage: str, *, needed: str = "summary.json", **coordinates: Any) -> Path:
        """Folder of a finished run that this one reads. Raises FileNotFoundError that says what to run.

        needed: an artefact that a data stage must have left; where it has not, that stage is run first.
        """
        folder = run_folder(self.study, stage, **coordinates)
        has_all = (folder / "summary.json").is_file() and (folder / needed).exists()
        if not has_all and stage in DATA_STAGES:
            (folder / "summary.json").unlink(missing_ok=True)
            from blindspot.execute import execute_stage

            print(f"{stage} has not run for the study {self.study.name!r}: running it first")
            execute_stage(stage, study=self.study, coordinates={})
        if not (folder / "summary.json").is_file():
            raise FileNotFoundError(
                f"{self.stage} needs {stage} ({folder.name}) of the study {self.study.name!r}, which has not finished: "
                f"no {show_path(folder / 'summary.json')}. Run `make study STUDY={self.study.name}`, "
                f"or notebooks/{stage}.ipynb at that point first."
            )
        return folder

    def input(self, stage: str, name: str, **coordinates: Any) -> Path:
        """Path of another run's artefact; its sha256 goes into this run's summary."""
        path = self.input_folder(stage, needed=name, **coordinates) / name
        if not path.is_file():
            raise FileNotFoundError(
                f"{show_path(path)} is missing although its run is done; delete the folder "
                f"{show_path(path.parent)} and run `make study STUDY={self.study.name}`"
            )
        self.inputs[show_path(path)] = hash_file(path)
        return path

    def data_folder(self) -> Path:
        """Folder with the public releases' files: what `00_build_sandbox` wrote, the study's, or what it fetches.

        `acquired` then says of each file its sha256, the one that the study pins, and where it is from.
        """
        if self.study.data.source == "sandbox":
            folder = self.input_folder("00_build_sandbox", needed="data") / "data"
        else:
            folder = acquire_data(self.study.data, on_bytes=Progress("fetching (bytes)"))
        self.acquired = list_acquired(self.study.data, folder)
        self.inputs |= {show_path(folder / str(row["file"])): str(row["sha256"]) for row in self.acquired}
        return folder

    def sandbox_model(self) -> Path | None:
        """Folder of the sandbox's pretrained model; None where the study's base model is another."""
        if self.study.base_model.name != "sandbox":
            return None
        return self.input("00_build_sandbox", "model/model.safetensors").parent

    def generator_source(self, generation: int) -> Path:
        """Pairs that a generation of G is trained on: the training split, or what the generation before it wrote."""
        if generation == 0:
            return self.input("10_prepare_data", "train.parquet")
        return self.input("50_audit_synthetic_data", "synthetic.parquet", generation=generation - 1)

    def adapter_file(self, *, starting_size: int, seed: int, training_set: str) -> Path:
        """Weights of a task model: the start itself for 'none', else what stage 70 made from it."""
        start: dict[str, Any] = {"starting_size": starting_size, "seed": seed}
        if training_set == "none":
            return self.input("20_train_task_model", "adapter/adapter_model.safetensors", **start)
        whole = run_folder(self.study, "70_augment_task_model", **start)
        alone = run_folder(self.study, "70_augment_task_model", **start, training_sets=[training_set])
        only_alone = (alone / "summary.json").is_file() and not (whole / "summary.json").is_file()
        chosen = [training_set] if only_alone else []
        return self.input(
            "70_augment_task_model", f"{training_set}/adapter_model.safetensors", **start, training_sets=chosen
        )

    def judge_file(self) -> Path:
        """Weights of the T that judges synthetic labels (`judge_start`)."""
        return self.adapter_file(**judge_start(self.study), training_set="none")

    def check_supply(self, counts: dict[str, int]) -> None:
        """Raise StudyError where a starting size or an Original set asks for more pairs than there are."""
        wanted = {
            "task_model.starting_sizes": max(self.study.task_model.starting_sizes),
            "generator.training_size": self.study.generator.training_size or 0,
        }
        supply = {key: counts["train"] for key in wanted}
        if any(kind.synthetic_fraction < 1 for kind in self.study.training_sets.kinds):
            for label in LABELS:
                key = f"training_sets.pairs_per_label ({label})"
                wanted[key], supply[key] = max(self.study.training_sets.pairs_per_label), counts[f"train_{label}"]
        short = [
            f"{key} asks for {size:,} pairs, there are {supply[key]:,}"
            for key, size in wanted.items()
            if size > supply[key]
        ]
        if short:
            raise StudyError(
                f"the study {self.study.name!r} asks for more than its data holds: {'; '.join(short)}. "
                "Lower the sizes, or give it more data"
            )

    def finish(self, *, metrics: dict[str, Any] | None = None, counts: dict[str, Any] | None = None) -> pd.DataFrame:
        """Write `summary.json` (last, atomically) and return its figures as a table to show."""
        summary = {
            "study": self.study.name,
            "stage": self.stage,
            "run": self.folder.name,
            "parameters": self.coordinates,
            "seed": self.coordinates.get("seed"),
            "switches": self.study.switches(),
            "metrics": metrics or {},
            "counts": counts or {},
            "seconds": round(time.time() - self.started, 2),
            "versions": list_versions(),
            "git_commit": git_commit(),
            "lib_sha256": hash_lib(),
            "study_sha256": hash_study(self.study),
            "inputs": self.inputs,
        }
        write_json(self.folder / "summary.json", summary)
        rows = {**(metrics or {}), **(counts or {}), "seconds": summary["seconds"]}
        return pd.DataFrame(
            {"value": pd.Series({k: v for k, v in rows.items() if not isinstance(v, dict | list)}, dtype=object)}
        )


def open_run(stage: str, namespace: dict[str, Any]) -> Run:
    """Open the run that the notebook's parameters name: the notebook passes its `globals()`.

    Every plain value that stands in the namespace must be a parameter of the stage, so a misspelt `papermill -p` is
    an error here although papermill only warns. Raises StudyError.
    """
    known = {"study", "overrides", *STAGES[stage]} if namespace.get(OPENED) == stage else None
    parameters = {
        name: value
        for name, value in namespace.items()
        if (name in known if known else is_parameter(name, value))
    }
    study, coordinates = check_parameters(stage, parameters)
    folder = run_folder(study, stage, **coordinates)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)
    namespace[OPENED] = stage  # from here on the notebook's own names stand beside the parameters
    return Run(study=study, stage=stage, coordinates=coordinates, folder=folder)


def is_parameter(name: str, value: Any) -> bool:
    """Whether a name in a notebook's namespace was set as a parameter, not by IPython or an import."""
    if name.startswith("_") or name in ("In", "Out", "exit", "quit"):
        return False
    if name.isupper() and any(is_constant(module, name, value) for module in list(sys.modules)):
        return False
    return isinstance(value, str | int | float | list | tuple | dict | set | types.NoneType)


def is_constant(module: str, name: str, value: Any) -> bool:
    """Whether the value is that of a constant of one of the library's modules."""
    return module.startswith("blindspot.") and getattr(sys.modules[module], name, None) is value


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a finished run."""
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def write_json(path: Path, values: Any) -> None:
    """Write JSON so that a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(drop_nan(values), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def drop_nan(values: Any) -> Any:
    """The values with None for NaN: a missing figure is null, and NaN is not JSON."""
    if isinstance(values, dict):
        return {key: drop_nan(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [drop_nan(value) for value in values]
    return None if isinstance(values, float) and math.isnan(values) else values


def show_path(path: Path) -> str:
    """A path relative to the project or to the results folder: what is written down names no machine."""
    for base, prefix in ((ROOT, ""), (executed_folder(), "executed/")):
        if path.is_relative_to(base):
            return prefix + path.relative_to(base).as_posix()
    return path.name


def hash_study(study: Study) -> str:
    """sha256 of a study's values, overrides included."""
    return hashlib.sha256(study.model_dump_json().encode()).hexdigest()


@cache
def hash_lib() -> str:
    """sha256 over the library's source files, names included."""
    digest = hashlib.sha256()
    library = ROOT / "lib" / "blindspot"
    for path in sorted(library.rglob("*.py")):
        digest.update(path.relative_to(library).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@cache
def list_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


@cache
def git_commit() -> str | None:
    """The commit that ran, with '+' where tracked files differ from it; null outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "lib", "notebooks", "parameters")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    return "ipykernel" in sys.modules
