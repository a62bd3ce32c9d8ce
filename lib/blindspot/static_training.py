"""Training on a GPU: the loop of training.py with shapes that stay, so that a step is a CUDA graph a length bucket.

What differs from the loop for the CPU, and only in rounding: lengths are rounded up to a bucket (causal attention and
masked losses: no number of a row depends on its padding), all parameters of a run lie in one row of one tensor, which
torch's fused AdamW updates in one sweep, and losses are looked at every few steps. Dropout masks come from
counter_dropout. It runs on the CPU as well, eagerly: the tests hold it against the other loop there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from blindspot.adamw import FlatAdamW
from blindspot.counter_dropout import CounterDropout
from blindspot.device import Captured, fill, round_up, share_pool
from blindspot.models import Adapter, Base
from blindspot.stacking import Stack, stacked
from blindspot.study import Lora, Training
from blindspot.training import Batches, Pooling, Task, TrainingRun, learning_rate_at

BUCKET = 16  # tokens
LOOK_EVERY = 16  # steps
IGNORED = -100


class BucketStep:
    """Forward and backward pass of one step of all runs at one padded length, on tensors that stay where they are."""

    def __init__(
        self, stack: Stack, optimizer: FlatAdamW, *, rows: int, length: int, task: Task, pooling: Pooling, pool: Any
    ) -> None:
        self.stack, self.optimizer, self.task, self.pooling = stack, optimizer, task, pooling
        device, shape = stack.base.device, (stack.size, rows)
        self.input_ids = torch.full((*shape, length), stack.base.pad_token_id, device=device)
        self.ends = torch.ones(shape, dtype=torch.int64, device=device)  # number of tokens of each row
        self.pooled = torch.zeros(shape, dtype=torch.int64, device=device)  # position that is classified
        self.labels = torch.full(shape, IGNORED, device=device)
        self.captured = Captured(device, pool=pool)

    def run(self, batches: Batches) -> Tensor:
        """Losses [K] on the device; the gradients are in the optimizer."""
        self.load(batches)
        return self.captured(self.backward).clone()

    def load(self, batches: Batches) -> None:
        """Put the rows of each run in their places; a short batch leaves rows of padding that count for nothing."""
        ids = torch.full(self.input_ids.shape, self.stack.base.pad_token_id)
        ends, pooled = torch.ones(self.ends.shape, dtype=torch.int64), torch.zeros(self.ends.shape, dtype=torch.int64)
        labels = torch.full(self.labels.shape, IGNORED)
        for k, (run, batch) in enumerate(batches):
            longest = max(len(run.token_ids[index]) for index in batch)
            for row, index in enumerate(batch):
                tokens = torch.from_numpy(run.token_ids[index])
                ids[k, row, : len(tokens)], ends[k, row] = tokens, len(tokens)
                pooled[k, row] = (len(tokens) if self.pooling == "last_token" else longest) - 1
                labels[k, row] = 0 if run.labels is None else int(run.labels[index])
        for place, values in ((self.input_ids, ids), (self.ends, ends), (self.pooled, pooled), (self.labels, labels)):
            fill(place, values)

    def backward(self) -> Tensor:
        """Losses [K]; gradients anew."""
        base = self.stack.base
        with torch.autocast(base.device.type, torch.bfloat16, enabled=base.model.dtype == torch.bfloat16):
            hidden = self.stack.hidden_states(self.input_ids.flatten(0, 1), attention_mask=self.make_mask())
            losses = self.classify(hidden) if self.task == "classification" else self.predict_tokens(hidden)
        self.optimizer.backward(losses.sum())
        return losses.detach()

    def make_mask(self) -> Tensor:
        """Who may look at whom [rows or 1, 1, length, length]: a mask of our own, which transformers takes as it is."""
        places = torch.arange(self.input_ids.shape[-1], device=self.input_ids.device)
        earlier = (places[:, None] >= places)[None, None]
        if self.task == "classification" and self.pooling == "as_published":
            return earlier & (places < self.ends.flatten()[:, None])[:, None, None]
        return earlier

    def classify(self, hidden: Tensor) -> Tensor:
        """Mean cross-entropy [K] over each run's own rows."""
        rows = torch.arange(len(hidden), device=hidden.device)
        logits = self.stack.label_logits(hidden[rows, self.pooled.flatten()])
        return mean_by_run(logits, self.labels)

    def predict_tokens(self, hidden: Tensor) -> Tensor:
        """Mean next-token cross-entropy [K] over each run's own tokens."""
        places = torch.arange(1, self.input_ids.shape[-1], device=hidden.device)
        counts = (places < self.ends[..., None]) & (self.labels[..., None] != IGNORED)
        targets = self.input_ids[:, :, 1:].masked_fill(~counts, IGNORED)
        return mean_by_run(self.stack.token_logits(hidden)[:, :, :-1].float(), targets)


def mean_by_run(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy [K] of logits [K, ..., classes], the mean over the targets [K, ...] that are not IGNORED."""
    losses = nn.functional.cross_entropy(
        logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view(len(targets), -1).sum(1) / (targets.flatten(1) != IGNORED).sum(1)


def train_static(
    base: Base,
    runs: list[TrainingRun],
    plans: list[list[list[int]]],
    *,
    settings: Training,
    lora: Lora,
    task: Task,
    pooling: Pooling,
    on_step: Callable[[int, int, dict[str, Any]], None] | None = None,
) -> list[Adapter]:
    """As training.train_adapters, whose arguments are checked already; plans: the batches of each run in order.

    `on_step` hears of the steps LOOK_EVERY at a time.
    """
    finished: dict[int, Adapter] = {}
    active, adapters = list(range(len(runs))), [run.adapter for run in runs]
    moments: list[Any] = [{} for _ in runs]
    report, step = Report(longest=max(map(len, plans)), on_step=on_step), 0
    while active:
        until = min(len(plans[run]) for run in active)
        phase = Phase([runs[run] for run in active], [plans[run] for run in active], range(step, until), report)
        adapters, moments = phase.train(
            base, adapters, moments, settings=settings, lora=lora, task=task, pooling=pooling
        )
        step = until
        finished |= {run: adapters[i] for i, run in enumerate(active) if len(plans[run]) == step}
        kept = [i for i, run in enumerate(active) if len(plans[run]) > step]
        active, adapters, moments = ([values[i] for i in kept] for values in (active, adapters, moments))  # type: ignore[assignment]
    return [finished[run] for run in range(len(runs))]


@dataclass
class Phase:
    """The steps that the same runs make together; after it some are at their end. What it takes is freed with it."""

    runs: list[TrainingRun]
    plans: list[list[list[int]]]
    steps: range
    report: Report

    def train(
        self,
        base: Base,
        adapters: list[Adapter],
        moments: list[Any],
        *,
        settings: Training,
        lora: Lora,
        task: Task,
        pooling: Pooling,
    ) -> tuple[list[Adapter], list[Any]]:
        """Adapters and AdamW's state of each run after these steps, from those before."""
        with stacked(base, adapters, lora) as stack:
            optimizer = FlatAdamW(list(stack.parameters_to_train()), settings, moments)
            seeds = [run.seed + 1 for run in self.runs]
            dropout = CounterDropout(seeds, lora.lora_dropout, layers=len(stack.layers), device=base.device)
            if lora.lora_dropout:
                stack.set_counter_dropout(dropout)
            rows, pool = settings.per_device_train_batch_size, share_pool(base.device)
            buckets: dict[int, BucketStep] = {}
            for step in self.steps:
                batches = [(run, plan[step]) for run, plan in zip(self.runs, self.plans, strict=True)]
                length = round_up(max(len(run.token_ids[i]) for run, batch in batches for i in batch), BUCKET)
                if length not in buckets:
                    buckets[length] = BucketStep(
                        stack, optimizer, rows=rows, length=length, task=task, pooling=pooling, pool=pool
                    )
                dropout.start_step(step)
                losses = buckets[length].run(batches)
                optimizer.step([learning_rate_at(step, len(plan), settings) for plan in self.plans])
                self.report.add(batches, losses, look=(step + 1) % LOOK_EVERY == 0 or step + 1 == self.steps.stop)
            return stack.read(), optimizer.read_moments()


class Report:
    """Losses that wait on the device until they are looked at together."""

    def __init__(self, *, longest: int, on_step: Callable[..., None] | None) -> None:
        self.longest, self.on_step = longest, on_step
        self.waiting: list[tuple[Batches, Tensor]] = []
        self.step = self.seen = 0

    def add(self, batches: Batches, losses: Tensor, *, look: bool) -> None:
        """Keep one step's losses [K]; with `look`, write those that wait into the runs.

        Raises FloatingPointError where one is not finite.
        """
        self.waiting.append((batches, losses))
        if not look:
            return
        values = torch.stack([losses for _, losses in self.waiting]).cpu()
        for (trained, _), row in zip(self.waiting, values, strict=True):
            self.step += 1
            self.seen += sum(len(batch) for _, batch in trained)
            bad = [run.name for (run, _), loss in zip(trained, row, strict=True) if not bool(loss.isfinite())]
            if bad:
                raise FloatingPointError(
                    f"the loss of {', '.join(bad)} is not finite; lower learning_rate or use float32"
                )
            for (run, _), loss in zip(trained, row.tolist(), strict=True):
                run.losses.append(loss)
            if self.on_step:
                self.on_step(self.step, self.longest, {"loss": float(row.mean()), "pairs": self.seen})
        self.waiting = []
