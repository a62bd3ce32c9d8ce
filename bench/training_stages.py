"""Stages that train: nine augmentation runs of one start, a start itself, the generator."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import reference, reference_models
from bench.data_stages import SOURCES, draw_sets, write_sources
from bench.measure import Figures, Race, largest_gap
from bench.world import World
from blindspot.data import read_table, select_training_pairs
from blindspot.models import HEAD, PREFIX, Adapter, load_adapter, new_adapter, save_adapter
from blindspot.prompts import build_generator_texts, build_task_prompts
from blindspot.stack_size import choose_stack_size
from blindspot.stacking import stacked
from blindspot.study import Training
from blindspot.training import (
    TrainingRun,
    choose_prefix,
    code_labels,
    compute_losses,
    derive_seed,
    tokenize,
    train_adapters,
    train_in_stacks,
)
from blindspot.training_sets import read_back_pairs

Examples = list[reference.Example]
GATE_BATCHES = 4  # of each run, for alone = stacked


def read_sets(world: World) -> dict[str, Examples]:
    """The texts of the study's sets, in the order that its runs train on them."""
    folder = world.folder / "sets"
    write_sources(world, folder)
    original, synthetic = (read_table(folder / f"{name}.parquet") for name in SOURCES)
    sets = {}
    for name, chosen in draw_sets(world.study, folder).items():
        texts = read_back_pairs(chosen, original=original, synthetic=synthetic)
        columns = (texts[column].to_pylist() for column in ("premise", "hypothesis", "gold_label"))
        sets[name] = list(zip(*columns, strict=True))
    return sets


def read_split(world: World, split: str, *, size: int | None = None) -> Examples:
    """Pairs of one split as examples: all, or a draw."""
    table = world.tables[split]
    table = table if size is None else select_training_pairs(table, size=size, seed=world.study.seeds[0])
    return list(zip(*(table[name].to_pylist() for name in ("premise", "hypothesis", "gold_label")), strict=True))


def race_augmentation(world: World) -> Race[Any]:
    """The augmentation runs of one start."""
    sets, validation = read_sets(world), read_split(world, "held_out")
    gate: Figures = {}

    def check(_: Any, __: Any) -> Figures:
        if not gate:
            gate.update(check_gradients(world, sets) | check_alone(world, sets))
        return gate

    return Race(
        stage="augmentation",
        title=f"{len(sets)} augmentation runs of one start",
        at_least=3.0,
        aim=5.0,
        gate="per-adapter gradients within 1e-5 without dropout; alone = stacked",
        reference=lambda _: (1, augment_one_by_one(world, sets, validation)),
        ours=lambda _: (1, augment_stacked(world, sets)),
        check=check,
        notes={"pairs": sum(map(len, sets.values())), "validation": "once, at the end of the epoch"},
    )


def augment_one_by_one(world: World, sets: dict[str, Examples], validation: Examples) -> int:
    """The reference: a model, a tokenisation, a Trainer and a folder for each set."""
    for name, examples in sets.items():
        tokenizer = reference_models.load_tokenizer(world.model)
        reference_models.train(
            reference_models.load_task_model(world.model, world.start, is_trainable=True),
            tokenizer,
            reference_models.encode(tokenizer, examples),
            validation=reference_models.encode(tokenizer, validation),
            settings=world.study.augmentation.training,
            seed=derive_seed(1, name) % 2**31,
            folder=world.folder / "reference" / name,
        )
    return len(sets)


def tokenize_examples(world: World, examples: Examples) -> list[np.ndarray]:
    """Token ids of T's prompt of each."""
    return tokenize(world.base, build_task_prompts((p for p, _, _ in examples), (h for _, h, _ in examples)))


def make_run(
    world: World, name: str, examples: Examples, adapter: Adapter, *, tokens: dict[Any, np.ndarray] | None = None
) -> TrainingRun:
    """One run of a stack. tokens: of each example, where they are known."""
    return TrainingRun(
        name=name,
        adapter=adapter,
        token_ids=[tokens[example] for example in examples] if tokens else tokenize_examples(world, examples),
        labels=code_labels([label for _, _, label in examples]),
        seed=derive_seed(1, name),
    )


def augment_stacked(world: World, sets: dict[str, Examples]) -> int:
    """Ours: as 15_tokenize_pairs, which sees a pair once, and 70_augment_task_model, from texts to saved folders."""
    study = world.study
    start = load_adapter(world.start)
    every = list(dict.fromkeys(example for examples in sets.values() for example in examples))
    tokens = dict(zip(every, tokenize_examples(world, every), strict=True))
    runs = [make_run(world, name, examples, start, tokens=tokens) for name, examples in sets.items()]
    options: dict[str, Any] = {"settings": study.augmentation.training, "lora": study.lora, "task": "classification"}
    adapters = train_in_stacks(
        world.base, runs, max_stacked=choose_stack_size(world.base, runs, study).stacked, **options
    )
    for run, adapter in zip(runs, adapters, strict=True):
        save_adapter(world.folder / "ours" / run.name, adapter, lora=study.lora, base=world.base)
    return len(adapters)


def check_gradients(world: World, sets: dict[str, Examples]) -> Figures:
    """Gradients of a batch of each run, stacked, against transformers' and peft's, each adapter another one."""
    study = world.study
    lora = study.lora.model_copy(update={"lora_dropout": 0.0})
    size = study.augmentation.training.per_device_train_batch_size
    start = load_adapter(world.start)
    runs = [
        make_run(world, name, examples[:size], perturb(start, seed=number))
        for number, (name, examples) in enumerate(sets.items())
    ]
    batches = [(run, list(range(len(run.token_ids)))) for run in runs]
    with stacked(world.base, [run.adapter for run in runs], lora) as stack:
        options: dict[str, Any] = {"task": "classification", "pooling": study.task_model.pooling}
        prefix = choose_prefix(world.base, runs, lora=lora, **options)
        compute_losses(stack, batches, [], prefix=prefix, **options).sum().backward()
        found = [read_gradients(stack, number) for number in range(len(runs))]
    gaps = []
    for run, ours in zip(runs, found, strict=True):
        theirs = compute_gradients(world, run, sets[run.name][:size], lora)
        gaps += [largest_gap(theirs[name], ours[name], what=f"gradients of {name}, {run.name}") for name in theirs]
    return {"largest_gradient_difference": max(gaps), "tensors": len(gaps)}


def perturb(adapter: Adapter, *, seed: int) -> Adapter:
    """The adapter with some noise, so that the runs of a stack differ."""
    generator = torch.Generator().manual_seed(seed)
    return {name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator) for name, tensor in adapter.items()}


def read_gradients(stack: Any, number: int) -> dict[str, np.ndarray]:
    """One run's gradients under peft's names."""
    found = {HEAD: stack.saved["score"].grad[number].numpy()}
    for name in stack.targets:
        layer = stack.layers[name.replace(".", "/")]
        found[f"{PREFIX}{name}.lora_A.weight"] = layer.low.grad[number].T.numpy()
        found[f"{PREFIX}{name}.lora_B.weight"] = layer.high.grad[number].T.numpy()
    return found


def compute_gradients(world: World, run: TrainingRun, examples: Examples, lora: Any) -> dict[str, np.ndarray]:
    """The same batch through peft's own model."""
    with tempfile.TemporaryDirectory(prefix="blindspot-bench-") as folder:
        save_adapter(Path(folder), run.adapter, lora=lora, base=world.base)
        model = reference_models.load_task_model(world.model, Path(folder), is_trainable=True)
    tokenizer = reference_models.load_tokenizer(world.model)
    rows = reference_models.encode(tokenizer, examples)
    model.eval()
    model(**reference_models.pad_items(tokenizer, rows, is_causal=False)).loss.backward()
    return {
        name.replace(".default", "").replace(".modules_to_save", ""): parameter.grad.numpy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is not None
    }


def check_alone(world: World, sets: dict[str, Examples]) -> Figures:
    """A few batches of each run, trained alone and in a stack: the same adapters."""
    study = world.study
    size = GATE_BATCHES * study.augmentation.training.per_device_train_batch_size
    start = load_adapter(world.start)
    options: dict[str, Any] = {"settings": study.augmentation.training, "lora": study.lora, "task": "classification"}

    def make() -> list[TrainingRun]:
        return [make_run(world, name, examples[:size], start) for name, examples in sets.items()]

    together = train_in_stacks(world.base, make(), max_stacked=len(sets), **options)
    gaps = []
    for run, adapter in zip(make(), together, strict=True):
        [alone] = train_adapters(world.base, [run], **options)
        gaps += [largest_gap(alone[k].numpy(), adapter[k].numpy(), what=f"{run.name} alone, {k}") for k in alone]
    return {"largest_difference_alone_stacked": max(gaps)}


def race_start(world: World, *, pairs: int) -> Race[Any]:
    """One starting task model, per pair."""
    return race_one_run(
        world,
        "start_training",
        title=f"one starting task model ({pairs:,} pairs)",
        examples=read_split(world, "train", size=pairs),
        adapter=new_adapter(world.base, world.study.lora, seed=1, head=True),
        settings=world.study.task_model.training,
    )


def race_generator(world: World, *, pairs: int) -> Race[Any]:
    """The generator's training, per text."""
    study = world.study
    saved = tuple(study.generator.modules_to_save)
    return race_one_run(
        world,
        "generator_training",
        title=f"the generator's training ({pairs:,} texts)",
        examples=read_split(world, "train", size=pairs),
        adapter=new_adapter(world.base, study.lora, seed=1, saved_modules=saved),
        settings=study.generator.training,
        is_causal=True,
    )


def race_one_run(
    world: World,
    stage: str,
    *,
    title: str,
    examples: Examples,
    adapter: Adapter,
    settings: Training,
    is_causal: bool = False,
) -> Race[Any]:
    """One run from texts to weights, of T (is_causal False) or of G; the tests hold both sides together."""
    validation, fresh = read_split(world, "held_out"), world.folder / f"fresh-{stage}"
    save_adapter(fresh, adapter, lora=world.study.lora, base=world.base)

    def theirs(_: int) -> tuple[float, int]:
        load = reference_models.load_generator if is_causal else reference_models.load_task_model
        encode = reference_models.encode_texts if is_causal else reference_models.encode
        tokenizer = reference_models.load_tokenizer(world.model)
        reference_models.train(
            load(world.model, fresh, is_trainable=True),
            tokenizer,
            encode(tokenizer, examples),
            validation=encode(tokenizer, validation),
            settings=settings,
            seed=1,
            folder=world.folder / "reference" / stage,
            is_causal=is_causal,
        )
        return len(examples), len(examples)

    def ours(_: int) -> tuple[float, int]:
        make = make_generator_run if is_causal else make_run
        options: dict[str, Any] = {"task": "causal_lm" if is_causal else "classification"}
        run = make(world, stage, examples, adapter)
        train_adapters(world.base, [run], settings=settings, lora=world.study.lora, **options)
        return len(examples), len(examples)

    return Race(
        stage=stage,
        title=title,
        at_least=None,
        aim=None,
        gate="none here: tests/test_training.py holds both together",
        reference=theirs,
        ours=ours,
        check=None,
    )


def make_generator_run(world: World, name: str, examples: Examples, adapter: Adapter) -> TrainingRun:
    """G's run on all texts."""
    premises, hypotheses, labels = zip(*examples, strict=True)
    texts = build_generator_texts(labels, premises, hypotheses)
    return TrainingRun(name, adapter, tokenize(world.base, texts), labels=None, seed=1)
