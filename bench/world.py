"""What the model stages run on: the study's data and base, a trained generator and a starting task model.

Made once by the library itself and kept in the bench's own folder; what is timed starts from these files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench.measure import say
from blindspot.data import MULTINLI_FILES, prepare_store, read_store, select_training_pairs, write_store
from blindspot.models import Base, load_adapter, load_base, new_adapter, save_adapter
from blindspot.prediction import tokenize_pairs
from blindspot.prompts import build_generator_texts
from blindspot.runs import hash_file
from blindspot.sandbox import write_sandbox_data
from blindspot.sandbox.model import write_sandbox_model
from blindspot.study import ROOT, Study
from blindspot.training import TrainingRun, code_labels, tokenize, train_adapters

SYNTHETIC_ROWS = 1.5  # rows that stand for the generated ones, as a multiple of what the study generates


@dataclass
class World:
    """Files and models of one study at the bench's sizes."""

    study: Study
    folder: Path
    base: Base
    tables: dict[str, pa.Table]

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def generator(self) -> Path:
        return self.folder / "generator"

    @property
    def start(self) -> Path:
        return self.folder / "start"

    @property
    def train_file(self) -> Path:
        return self.data / MULTINLI_FILES["train"]

    @property
    def synthetic_file(self) -> Path:
        return self.folder / "synthetic" / MULTINLI_FILES["train"]


def build_world(study: Study, work: Path, *, start_pairs: int) -> World:
    """The world of a study, from `work` where it was made before out of the same sandbox."""
    sandbox = [hash_file(path) for path in sorted((ROOT / "lib" / "blindspot" / "sandbox").rglob("*.*[!c]"))]
    key = json.dumps([study.model_dump(mode="json"), start_pairs, sandbox], sort_keys=True)
    folder = work / hashlib.sha256(key.encode()).hexdigest()[:12]
    ready = folder / "ready"
    if not ready.is_file():
        write_files(study, folder)
    base = load_base(study.base_model, sandbox_model=folder / "model")
    world = World(study=study, folder=folder, base=base, tables=read_store(folder / "store"))
    if not ready.is_file():
        say("training the starting task model that the stages run on")
        train_start(world, pairs=start_pairs)
        ready.touch()
    return world


def write_files(study: Study, folder: Path) -> None:
    """The sandbox's files, its model, the store, and pairs of another seed that stand for the generated ones."""
    settings: Any = study.data.sandbox
    sizes = settings.model_dump()
    write_sandbox_data(folder / "data", **sizes)
    write_sandbox_model(folder / "model")
    rows = int(SYNTHETIC_ROWS * sum(study.generation.examples_per_label.values()))
    write_sandbox_data(folder / "synthetic", **(sizes | {"seed": settings.seed + 1, "train_pairs": rows}))
    tables, _ = prepare_store(folder / "data", held_out_per_label=study.data.held_out_per_label)
    write_store(tables, folder / "store")


def train_generator(world: World, *, pairs: int) -> None:
    """G as 30_train_generator makes it, from so many texts at most; kept where it was made before."""
    if (world.generator / "ready").is_file():
        return
    say("training the generator that the stages run on")
    study, base = world.study, world.base
    train = world.tables["train"]
    chosen = select_training_pairs(train, size=min(pairs, len(train)), seed=study.generator.seed)
    texts = build_generator_texts(*(chosen[name].to_pylist() for name in ("gold_label", "premise", "hypothesis")))
    adapter = new_adapter(
        base, study.lora, seed=study.generator.seed, saved_modules=tuple(study.generator.modules_to_save)
    )
    run = TrainingRun("generator", adapter, tokenize(base, texts), labels=None, seed=study.generator.seed)
    options: dict[str, Any] = {"settings": study.generator.training, "lora": study.lora, "task": "causal_lm"}
    [trained] = train_adapters(base, [run], **options)
    save_adapter(world.generator, trained, lora=study.lora, base=base)
    (world.generator / "ready").touch()


def train_start(world: World, *, pairs: int) -> None:
    """T as 20_train_task_model makes it."""
    study, base = world.study, world.base
    chosen = select_training_pairs(world.tables["train"], size=pairs, seed=study.seeds[0])
    run = TrainingRun(
        "start",
        new_adapter(base, study.lora, seed=study.seeds[0], head=True),
        tokenize_pairs(base, chosen),
        labels=code_labels(chosen["gold_label"]),
        seed=study.seeds[0],
    )
    options: dict[str, Any] = {"settings": study.task_model.training, "lora": study.lora, "task": "classification"}
    [trained] = train_adapters(base, [run], **options)
    save_adapter(world.start, trained, lora=study.lora, base=base)


def load_start(world: World) -> dict[str, Any]:
    """The starting task model."""
    return load_adapter(world.start)
