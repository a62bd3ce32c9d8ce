"""How many runs train side by side: what is free, what a run takes, and what follows."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TRAINING, load_tiny, make_task_run

from blindspot import memory, stack_size
from blindspot.memory import MB, free_for_job, free_memory, held_memory
from blindspot.models import Base
from blindspot.stack_size import (
    balance,
    choose_stack_size,
    estimate_activation_bytes,
    estimate_run_bytes,
    estimate_unpadded_bytes,
)
from blindspot.stacking import DropoutStream, stacked
from blindspot.study import Lora, Resources, Study, load_study
from blindspot.training import compute_losses

CPU, GPU = torch.device("cpu"), torch.device("cuda")
EVERY: Any = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA = Lora(r=4, lora_alpha=8.0, lora_dropout=0.1, target_modules=EVERY)
RESOURCES = Resources(threads=2, model_memory_mb=5000, data_memory_mb=1000)
make_run = partial(make_task_run, lora=LORA)


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> Base:
    return load_tiny(tiny_model)


def test_a_gpus_free_memory_counts_what_torch_holds_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"memory_reserved": 30, "memory_allocated": 10, "mem_get_info": (100, 900)}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_memory(GPU) == 120


def test_a_job_on_the_cpu_has_its_plan_and_no_more_than_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2 * MB < held_memory() < 100_000 * MB
    monkeypatch.setattr(memory, "held_memory", lambda: 1000 * MB)
    for free, expected in ((20_000, 4000), (3000, 3000)):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free * MB)
        assert free_for_job(CPU, RESOURCES) == expected * MB
    assert free_for_job(CPU, RESOURCES.model_copy(update={"model_memory_mb": 900})) == 0


def test_a_job_has_the_gpu_that_it_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 80_000)
    monkeypatch.setattr(memory, "count_cores", lambda: 16)
    assert free_for_job(GPU, RESOURCES.model_copy(update={"gpus": 1})) == 80_000
    assert free_for_job(GPU, RESOURCES) == 10_000, "16 cores, 2 a job: 8 jobs may share it"


@pytest.mark.parametrize(
    ("runs", "most", "expected"),
    [(9, 0, 1), (9, 1, 1), (9, 4, 3), (9, 5, 5), (9, 8, 5), (9, 9, 9), (9, 99, 9), (1, 7, 1)],
)
def test_stacks_are_balanced(runs: int, most: int, expected: int) -> None:
    assert balance(runs, most) == expected


def choose(base: Base, max_stacked: int | str, monkeypatch: pytest.MonkeyPatch, *, room: float = 0) -> Any:
    """Of nine runs, where memory has room for so many."""
    study: Study = load_study("test", {"augmentation.max_stacked": max_stacked, "lora": LORA.model_dump()})
    runs = [make_run(base, seed=seed) for seed in range(9)]
    size = estimate_run_bytes(base, runs[0], settings=study.augmentation.training, lora=study.lora)
    free = int(room * size / stack_size.MOST_STACKED)
    monkeypatch.setattr(stack_size, "free_for_job", lambda device, resources: free)
    return choose_stack_size(base, runs, study)


def test_auto_takes_what_memory_holds(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {room: choose(base, "auto", monkeypatch, room=room).stacked for room in (0, 0.5, 1.5, 5.1, 8.9, 9.1, 40)}
    assert chosen == {0: 1, 0.5: 1, 1.5: 1, 5.1: 5, 8.9: 5, 9.1: 9, 40: 9}
    text = str(choose(base, "auto", monkeypatch, room=5.1))
    assert text.startswith("5 of 9 runs train side by side, as free memory says; a run takes some ")


def test_a_number_is_taken_as_it_is(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    for given, expected in ((1, 1), (8, 8), (12, 9)):
        chosen = choose(base, given, monkeypatch)
        assert chosen.stacked == expected and "as augmentation.max_stacked says" in str(chosen)


def test_the_longest_batch_counts(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(base, seed=1)
    longest = max(map(len, run.token_ids))
    a_token = estimate_activation_bytes(base, LORA)
    parameters = sum(tensor.numel() for tensor in run.adapter.values())
    estimate = partial(estimate_run_bytes, base, run, lora=LORA)
    assert estimate(settings=TRAINING) == 20 * parameters + 4 * longest * a_token
    wide = TRAINING.model_copy(update={"per_device_train_batch_size": 50})
    assert estimate(settings=wide) == 20 * parameters + len(run.token_ids) * longest * a_token
    monkeypatch.setattr(stack_size, "is_gpu", lambda device: True)
    assert estimate(settings=TRAINING) == 20 * parameters + 4 * (-(-longest // 16) * 16) * a_token


def count_kept_bytes(base: Base, lora: Lora, *, runs: int, prefix: int | None = None, times: int = 1) -> int:
    """Bytes that a forward pass of a batch of 4 of each run keeps for its backward pass, parameters aside.

    prefix: None for padded rows. times: rows are so many times as long.
    """
    started = [make_run(base, seed=1, lora=lora) for _ in range(runs)]
    for run in started:
        run.token_ids = [np.tile(ids, times) for ids in run.token_ids]
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with stacked(base, [run.adapter for run in started], lora) as stack:
        streams = [DropoutStream(run.seed, lora.lora_dropout) for run in started] if lora.lora_dropout else []
        batches = [(run, [0, 0, 0, 0]) for run in started]
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            compute_losses(stack, batches, streams, task="classification", pooling="last_token", prefix=prefix)
        for parameter in [*base.model.parameters(), *base.model.buffers(), *stack.parameters_to_train()]:
            kept.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(kept.values())


@pytest.mark.parametrize("targets", [EVERY, ["q_proj", "v_proj"]])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_formula_covers_what_autograd_keeps(base: Base, dropout: float, targets: Any) -> None:
    """It is a little more: what is under way, and inputs that several layers share without dropout."""
    lora = LORA.model_copy(update={"lora_dropout": dropout, "target_modules": targets})
    tokens = 4 * len(make_run(base, seed=1).token_ids[0])
    estimate = tokens * estimate_activation_bytes(base, lora)
    for runs in (1, 3):
        assert 1.0 < estimate * runs / count_kept_bytes(base, lora, runs=runs) < 2.0


@pytest.mark.parametrize("times", [1, 24])
def test_the_formula_covers_rows_without_padding(base: Base, times: int) -> None:
    """Also long ones, whose attention's weights outgrow all else."""
    lora = LORA.model_copy(update={"lora_dropout": 0.0})
    length = times * len(make_run(base, seed=1).token_ids[0])
    a_token = estimate_activation_bytes(base, lora)
    merged = estimate_unpadded_bytes(base, 0, 0)  # kept beside what autograd is given to keep, which is counted here
    estimate = 4 * length * a_token + estimate_unpadded_bytes(base, 4 * length, length) - merged
    without, shared = (count_kept_bytes(base, lora, runs=3, prefix=prefix, times=times) for prefix in (0, 20))
    assert 1.0 < 3 * estimate / without < 4.0 and shared < without
    assert (3 * 4 * length * a_token < without) == (times > 1), "what the padded way keeps is not enough for long rows"


def test_merged_weights_count(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    layers: Any = base.model.model.layers
    weights = sum(4 * part.numel() for name, part in layers.named_parameters() if "proj" in name)
    assert estimate_unpadded_bytes(base, 0, 0) == weights > 0
    monkeypatch.setattr(stack_size, "KEPT_BYTES", 0)
    assert estimate_unpadded_bytes(base, 0, 0) == 0
