"""The GPU's training loop, run eagerly on the CPU: against the CPU's own loop, and each part against a reference."""

import gc
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PAIRS
from tiny import TRAINING, largest_difference, load_tiny, make_task_run

from blindspot import static_training, training
from blindspot.adamw import BETAS, EPSILON, FlatAdamW
from blindspot.counter_dropout import CounterDropout, as_signed, draw_words
from blindspot.device import Captured, round_up
from blindspot.models import Base, new_adapter
from blindspot.prompts import generator_text
from blindspot.static_training import train_static
from blindspot.study import Lora
from blindspot.training import TrainingRun, order_batches, tokenize, train_adapters

LORA = Lora(r=4, lora_alpha=8.0, lora_dropout=0.0, target_modules=["q_proj", "v_proj", "down_proj"])
make_run = partial(make_task_run, lora=LORA)


@pytest.fixture
def base(tiny_model: Path) -> Base:
    return load_tiny(tiny_model)


def train_as_on_gpu(base: Base, runs: list[TrainingRun], **options: Any) -> list[dict[str, torch.Tensor]]:
    plans = [order_batches([len(ids) for ids in run.token_ids], options["settings"], seed=run.seed) for run in runs]
    return train_static(base, runs, plans, **{"pooling": "last_token", **options})


@pytest.mark.parametrize("pooling", ["last_token", "as_published"])
def test_static_loop_equals_the_other(base: Base, pooling: Any) -> None:
    choices = [PAIRS, PAIRS[:5], PAIRS[3:10]]  # 6, 4 and 4 steps, the last batches short
    options: Any = {"settings": TRAINING, "lora": LORA, "task": "classification", "pooling": pooling}
    expected, found = ([make_run(base, seed=s, pairs=p) for s, p in enumerate(choices)] for _ in range(2))
    adapters = train_adapters(base, expected, **options)
    seen: list[tuple[int, int, Any]] = []
    ours = train_as_on_gpu(base, found, **options, on_step=lambda *step: seen.append(step))
    for one, other, before, run, same in zip(ours, adapters, expected, found, expected, strict=True):
        assert largest_difference(one, before.adapter) > 1e-3
        assert largest_difference(one, other) < 1e-5
        np.testing.assert_allclose(run.losses, same.losses, atol=1e-5)
    assert [(step, total) for step, total, _ in seen] == [(step, 6) for step in range(1, 7)]
    assert seen[-1][2]["pairs"] == 2 * (11 + 5 + 7)


def test_static_generator_training_equals_the_other(base: Base) -> None:
    ids = tokenize(base, [generator_text(label, p, h) for p, h, label in PAIRS])
    adapter = new_adapter(base, LORA, seed=1, saved_modules=("embed_tokens", "lm_head"))
    run = TrainingRun(name="g", adapter=adapter, token_ids=ids, labels=None, seed=5)
    options: Any = {"settings": TRAINING, "lora": LORA, "task": "causal_lm"}
    [expected] = train_adapters(base, [replace(run, losses=[])], **options)
    [found] = train_as_on_gpu(base, [run], **options)
    assert largest_difference(found, adapter) > 1e-3
    assert largest_difference(found, expected) < 1e-5


def test_stacked_equals_alone_with_counter_dropout(base: Base) -> None:
    lora = LORA.model_copy(update={"lora_dropout": 0.1})
    choices = [PAIRS, PAIRS[:5], PAIRS[3:10]]
    options: Any = {"settings": TRAINING, "lora": lora, "task": "classification"}
    together = train_as_on_gpu(base, [make_run(base, seed=s, pairs=p) for s, p in enumerate(choices)], **options)
    for seed, pairs in enumerate(choices):
        [alone] = train_as_on_gpu(base, [make_run(base, seed=seed, pairs=pairs)], **options)
        assert largest_difference(alone, together[seed]) < 1e-5
    without = train_as_on_gpu(base, [make_run(base, seed=0)], **{**options, "lora": LORA})
    assert largest_difference(without[0], together[0]) > 1e-3


def test_shapes_are_few(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Counted(static_training.BucketStep):
        def __init__(self, *arguments: Any, length: int, **options: Any) -> None:
            made.append(length)
            super().__init__(*arguments, length=length, **options)

    monkeypatch.setattr(static_training, "BucketStep", Counted)
    monkeypatch.setattr(static_training, "BUCKET", 2)
    run = make_run(base, seed=1)
    batches = order_batches([len(ids) for ids in run.token_ids], TRAINING, seed=1)
    longest = [max(len(run.token_ids[i]) for i in batch) for batch in batches]
    train_as_on_gpu(base, [run], settings=TRAINING, lora=LORA, task="classification")
    expected = {round_up(length, 2) for length in longest}
    assert sorted(made) == sorted(expected) and 1 < len(expected) < len(batches)
    assert [round_up(length, 16) for length in (1, 16, 17)] == [16, 16, 32]


def test_gpu_is_sent_to_the_static_loop(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def note(base: Base, runs: list[TrainingRun], plans: list[Any], **_: Any) -> list[Any]:
        calls.append(len(plans))
        return []

    monkeypatch.setattr(training, "is_gpu", lambda device: True)
    monkeypatch.setattr(static_training, "train_static", note)
    assert train_adapters(base, [make_run(base, seed=1)], settings=TRAINING, lora=LORA, task="classification") == []
    assert calls == [1]


def test_flat_adamw_is_torchs_for_each_run() -> None:
    """Each run clipped by its own norm, at its own rate; one leaves before the end, the others keep their moments."""
    generator = torch.Generator().manual_seed(1)
    start = [torch.randn((3, *shape), generator=generator) for shape in ((4, 2), (5,))]
    ours = [torch.nn.Parameter(value.clone()) for value in start]
    theirs = {run: [torch.nn.Parameter(value[run].clone()) for value in start] for run in range(3)}
    decay = TRAINING.weight_decay
    optimizers = {run: torch.optim.AdamW(theirs[run], betas=BETAS, eps=EPSILON, weight_decay=decay) for run in theirs}
    flat, active, norms = FlatAdamW(ours, TRAINING), [0, 1, 2], []
    for step in range(1, 8):
        if step == 4:
            moments = flat.read_moments()
            ours = [torch.nn.Parameter(parameter.detach()[[0, 2]].clone()) for parameter in ours]
            flat, active = FlatAdamW(ours, TRAINING, [moments[0], moments[2]]), [0, 2]
        rates = {0: 1e-2, 1: 2e-2, 2: 3e-3}
        targets = [0.2 * torch.randn(parameter.shape, generator=generator) for parameter in ours]
        flat.backward(
            torch.stack([(one * target).pow(2).sum() for one, target in zip(ours, targets, strict=True)]).sum()
        )
        flat.step([rates[run] for run in active])
        for place, run in enumerate(active):
            optimizers[run].zero_grad()
            parts = zip(theirs[run], targets, strict=True)
            torch.stack([(one * target[place]).pow(2).sum() for one, target in parts]).sum().backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(theirs[run], TRAINING.max_grad_norm)))
            optimizers[run].param_groups[0]["lr"] = rates[run]
            optimizers[run].step()
            for one, other in zip(ours, theirs[run], strict=True):
                torch.testing.assert_close(one[place], other, atol=1e-6, rtol=1e-6)
    assert min(norms) < TRAINING.max_grad_norm < max(norms)
    assert float((ours[0].detach()[0] - start[0][0]).abs().max()) > 1e-2


def test_words_are_splitmix64s() -> None:
    """The published generator's first outputs for the state 1234567."""
    words = draw_words(torch.tensor(1234567), torch.arange(5)).tolist()
    expected = [
        *(6457827717110365317, 3203168211198807973, 9817491932198370423),
        *(4593380528125082431, 16408922859458223821),
    ]
    assert words == [as_signed(word) for word in expected]


def splitmix64(state: int, place: int) -> int:
    """In Python's own integers."""
    word = (state + (place + 1) * 0x9E3779B97F4A7C15) % 2**64
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
    return word ^ (word >> 31)


def test_masks_equal_a_reference_in_plain_integers() -> None:
    seeds, rate, layers, features = [7, 2**63 + 5], 0.25, 3, 6
    dropout = CounterDropout(seeds, rate, layers=layers, device=torch.device("cpu"))
    dropout.start_step(4)
    found = dropout.draw(2, (2, 3, 5, features), torch.float32)
    for (k, row, position, feature), value in np.ndenumerate(found.numpy()):
        key = splitmix64(splitmix64(seeds[k], 0), 4 * layers + 2)
        word = splitmix64(key, (row * 65536 + position) * 2 + feature // 4)
        bits = (word >> 16 * (feature % 4)) % 65536
        kept = (bits - 65536 if bits >= 32768 else bits) >= round(rate * 65536) - 32768
        assert value == pytest.approx(1 / 0.75 if kept else 0)


def test_masks_do_not_depend_on_the_stack_or_the_padding() -> None:
    def draw(seeds: list[int], shape: tuple[int, ...], *, layer: int = 1, step: int = 3) -> torch.Tensor:
        dropout = CounterDropout(seeds, 0.1, layers=7, device=torch.device("cpu"))
        dropout.start_step(step)
        return dropout.draw(layer, shape, torch.float32)

    alone = draw([5], (1, 2, 9, 64))
    assert torch.equal(draw([3, 5, 4], (3, 4, 16, 64))[1:2, :2, :9], alone)
    others = [draw([6], (1, 2, 9, 64)), draw([5], (1, 2, 9, 64), layer=2), draw([5], (1, 2, 9, 64), step=4)]
    assert not any(torch.equal(other, alone) for other in others)


def test_masks_keep_their_share() -> None:
    dropout = CounterDropout([1], 0.1, layers=1, device=torch.device("cpu"))
    mask = dropout.draw(0, (1, 10, 100, 400), torch.float32)
    assert float((mask == 0).float().mean()) == pytest.approx(0.1, abs=0.002)
    assert float(mask.mean()) == pytest.approx(1.0, abs=0.003)
    zeros = (mask == 0).float()
    for shifted in (zeros[..., 1:], zeros[:, :, 1:], zeros[:, 1:]):  # neighbours are independent
        other = zeros[tuple(slice(0, size) for size in shifted.shape)]
        assert float((shifted * other).mean()) == pytest.approx(0.01, abs=0.001)


def test_bad_loss_is_named(base: Base) -> None:
    broken = make_run(base, seed=1)
    name = next(iter(broken.adapter))
    broken.adapter[name] = torch.full_like(broken.adapter[name], torch.nan)
    with pytest.raises(FloatingPointError, match="run-1"):
        train_as_on_gpu(base, [make_run(base, seed=2), broken], settings=TRAINING, lora=LORA, task="classification")


def test_captured_calls_the_function_on_the_cpu() -> None:
    value = torch.zeros(2)
    captured = Captured(torch.device("cpu"))
    assert captured(lambda: value + 1).tolist() == [1, 1]
    value += 4
    assert captured(lambda: value + 1).tolist() == [5, 5] and captured.graph is None


def test_memory_is_given_back_without_the_collector(base: Base) -> None:
    """Gigabytes hang on these objects: none may wait for Python's collector of cycles."""
    made: list[weakref.ref[Any]] = []
    flat = FlatAdamW.__init__

    def note(self: FlatAdamW, *arguments: Any) -> None:
        flat(self, *arguments)
        made.append(weakref.ref(self.gradients))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FlatAdamW, "__init__", note)
        gc.disable()
        try:
            train_as_on_gpu(base, [make_run(base, seed=1)], settings=TRAINING, lora=LORA, task="classification")
            assert made and all(reference() is None for reference in made)
        finally:
            gc.enable()
