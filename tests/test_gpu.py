"""What needs a CUDA device: the same numbers as on the CPU within rounding, and no more graphs than buckets."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PAIRS
from tiny import largest_difference, load_tiny, make_task_run

from blindspot import device, models, quantized, static_training
from blindspot.counter_dropout import CounterDropout
from blindspot.data import LABELS
from blindspot.device import Captured, round_up
from blindspot.generation import draw_uniforms, sample_batch
from blindspot.models import Base
from blindspot.prediction import predict_logits
from blindspot.prompts import generator_prompt
from blindspot.slots import sample_in_slots
from blindspot.stack_size import estimate_run_bytes
from blindspot.static_training import train_static
from blindspot.study import Generation, Lora, Training
from blindspot.training import TrainingRun, order_batches

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

LORA = Lora(r=4, lora_alpha=8.0, lora_dropout=0.1, target_modules=["q_proj", "v_proj", "down_proj"])
TRAINING = Training(
    learning_rate=5.0e-3, per_device_train_batch_size=4, num_train_epochs=2, warmup_steps=0.3, max_grad_norm=0.3
)
make_run = partial(make_task_run, lora=LORA)
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def load(folder: Path, place: torch.device, quantization: str = "none") -> Base:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "choose_device", lambda: place)
        return load_tiny(folder, quantization)


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Products in float32 proper, so that both sides round alike; with graphs."""
    monkeypatch.setattr(device, "USE_GRAPHS", True)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every capture made in the test."""
    made: list[Any] = []
    capture = Captured.capture

    def note(self: Captured, function: Any) -> None:
        made.append(self)
        capture(self, function)

    monkeypatch.setattr(Captured, "capture", note)
    return made


def plan(run: TrainingRun) -> list[list[int]]:
    return order_batches([len(ids) for ids in run.token_ids], TRAINING, seed=run.seed)


def train(base: Base, runs: list[TrainingRun], pooling: Any = "last_token") -> list[dict[str, torch.Tensor]]:
    options: Any = {"settings": TRAINING, "lora": LORA, "task": "classification", "pooling": pooling}
    return train_static(base, runs, [plan(run) for run in runs], **options)


def test_masks_are_the_same_bits() -> None:
    masks = []
    for place in (CPU, GPU):
        dropout = CounterDropout([1, 2**63 + 9], 0.1, layers=5, device=place)
        dropout.start_step(3)
        masks.append(dropout.draw(4, (2, 3, 50, 130), torch.float32).cpu())
    assert torch.equal(*masks)


@pytest.mark.parametrize("pooling", ["last_token", "as_published"])
def test_training_equals_the_cpus(tiny_model: Path, pooling: str) -> None:
    """With dropout, since the masks agree: adapters within 1e-4 after 6 steps that move them by over 1e-3."""
    choices = [PAIRS, PAIRS[:5], PAIRS[3:10]]
    sides = []
    for place in (CPU, GPU):
        base = load(tiny_model, place)
        sides.append(train(base, [make_run(base, seed=s, pairs=p) for s, p in enumerate(choices)], pooling))
    for one, other in zip(*sides, strict=True):
        assert largest_difference(one, other) < 1e-4
    assert largest_difference(sides[1][0], make_run(base, seed=0).adapter) > 1e-3


def test_stacked_equals_alone(tiny_model: Path) -> None:
    base = load(tiny_model, GPU)
    choices = [PAIRS, PAIRS[:5], PAIRS[3:10]]
    together = train(base, [make_run(base, seed=s, pairs=p) for s, p in enumerate(choices)])
    for seed, pairs in enumerate(choices):
        [alone] = train(base, [make_run(base, seed=seed, pairs=pairs)])
        assert largest_difference(alone, together[seed]) < 1e-4


def test_graphs_equal_eager_and_are_as_many_as_buckets(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, captures: list[Any]
) -> None:
    base = load(tiny_model, GPU)
    monkeypatch.setattr(static_training, "BUCKET", 2)
    run = make_run(base, seed=1)
    [graphs] = train(base, [run])
    buckets = {round_up(max(len(run.token_ids[i]) for i in batch), 2) for batch in plan(run)}
    assert 1 < len(buckets) < len(plan(run)) and len(captures) == len(buckets)
    monkeypatch.setattr(device, "USE_GRAPHS", False)
    [eager] = train(base, [make_run(base, seed=1)])
    assert len(captures) == len(buckets)
    assert largest_difference(graphs, eager) < 1e-5


def test_greedy_generation_equals_the_cpus(tiny_model: Path, captures: list[Any]) -> None:
    values = {"seed": 1, "examples_per_label": dict.fromkeys(LABELS, 20), "shard_size": 12, "batch_size": 5}
    settings = Generation.model_validate(values | {"max_new_tokens": 60, "temperature": 1.0, "top_p": 1.0, "top_k": 1})
    uniforms = draw_uniforms(settings, label="neutral", shard=0, rows=12)
    prompt = generator_prompt("neutral")
    expected = sample_batch(load(tiny_model, CPU), prompt, uniforms, settings)
    base = load(tiny_model, GPU)
    found = sample_in_slots(base, prompt, uniforms, settings)
    assert [row.tolist() for row in found] == [row.tolist() for row in expected]
    size = len(base.tokenizer(prompt)["input_ids"]) + 60
    assert len(captures) <= 1 + -(-size // 64), "sampling, and one for each length that attention looks at"


def test_evaluation_equals_the_cpus(tiny_model: Path) -> None:
    logits = []
    for place in (CPU, GPU):
        base = load(tiny_model, place)
        run = make_run(base, seed=1)
        logits.append(predict_logits(base, run.adapter, LORA, run.token_ids, batch_size=4))
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-4)
    assert np.ptp(logits[0], axis=0).min() > 1e-3


def test_dequantised_base_holds_plain_weights_only(tiny_model: Path) -> None:
    """No 4-bit copy stays: the device holds what the parameters and buffers take, up to the allocator's blocks."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    base = load(tiny_model, GPU, "nf4")
    tensors = [*base.model.parameters(), *base.model.buffers()]
    held = torch.cuda.memory_allocated() - before
    assert held <= sum(-(-t.nbytes // 512) * 512 for t in tensors) + 2**20
    assert not any("4bit" in type(module).__name__.lower() for module in base.model.modules())


def test_packed_base_equals_the_dequantised_one(tiny_model: Path, captures: list[Any]) -> None:
    """With graphs: a pass dequantises on the device and asks the host for nothing."""
    values = {"seed": 1, "examples_per_label": dict.fromkeys(LABELS, 20), "shard_size": 12, "batch_size": 5}
    settings = Generation.model_validate(values | {"max_new_tokens": 30, "temperature": 1.0, "top_p": 1.0, "top_k": 1})
    uniforms = draw_uniforms(settings, label="neutral", shard=0, rows=6)
    plain = load(tiny_model, GPU, "nf4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantized, "free_memory", lambda place: 1000)
        packed = load(tiny_model, GPU, "nf4")
    assert packed.packed and not plain.packed
    trained = [train(base, [make_run(base, seed=seed) for seed in (1, 2)]) for base in (plain, packed)]
    assert all(largest_difference(one, other) < 1e-5 for one, other in zip(*trained, strict=True))
    ids = make_run(plain, seed=1).token_ids
    logits = [predict_logits(base, trained[0][0], LORA, ids, batch_size=4) for base in (plain, packed)]
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-5)
    written = [sample_in_slots(base, generator_prompt("neutral"), uniforms, settings) for base in (plain, packed)]
    assert [row.tolist() for row in written[0]] == [row.tolist() for row in written[1]]


def test_stack_estimate_covers_what_the_device_takes(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without graphs, whose streams have workspaces of cuBLAS's own, each larger than these runs."""
    monkeypatch.setattr(device, "USE_GRAPHS", False)
    base, peaks = load(tiny_model, GPU), {}
    runs = [make_run(base, seed=seed) for seed in range(9)]
    for stacked in (1, 3, 9):
        torch.cuda.reset_peak_memory_stats()
        train(base, runs[:stacked])
        peaks[stacked] = torch.cuda.max_memory_allocated()
    assert (peaks[9] - peaks[3]) / 6 < estimate_run_bytes(base, runs[0], settings=TRAINING, lora=LORA)
