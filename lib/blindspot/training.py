"""Fine-tuning: a loop of our own that does what `transformers.Trainer` does, for K runs at once.

Kept exactly (a test trains the same runs with Trainer): batches grouped by length, AdamW with decoupled decay, linear
warm-up and cosine decay, clipping by each run's own gradient norm, LoRA dropout. Left out: validation inside training,
which no later step reads. A run's batches, schedule, clipping and dropout depend on nothing but the run.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from blindspot.adamw import FlatAdamW
from blindspot.data import LABELS
from blindspot.device import is_gpu
from blindspot.models import Adapter, Base
from blindspot.stacking import DropoutStream, Stack, stacked
from blindspot.study import Lora, Training
from blindspot.tokens import tokenize_texts
from blindspot.unpadded import Layout, suits

Task = Literal["classification", "causal_lm"]
Pooling = Literal["last_token", "as_published"]


@dataclass
class TrainingRun:
    """One run of a stack: what it starts from and what it sees.

    token_ids: one int array a pair. labels: index into LABELS a pair, for classification; None for causal LM.
    """

    name: str
    adapter: Adapter
    token_ids: list[np.ndarray]
    labels: np.ndarray | None
    seed: int
    order: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


Batches = list[tuple[TrainingRun, list[int]]]  # of each run, the pairs of one batch


def tokenize(base: Base, texts: Sequence[str]) -> list[np.ndarray]:
    """Token ids of each text, as `tokenize_texts` gives them, one int64 array a text."""
    rows = tokenize_texts(base.tokenizer, texts, max_length=base.settings.max_length)
    return [np.asarray(row, dtype=np.int64) for row in rows]


def code_labels(gold_labels: Any) -> np.ndarray:
    """Index into LABELS of each label's name (a pyarrow column or a list)."""
    names = gold_labels.to_pylist() if hasattr(gold_labels, "to_pylist") else gold_labels
    return np.array([LABELS.index(name) for name in names], dtype=np.int64)


def derive_seed(seed: int, *names: str) -> int:
    """A seed of its own for each name under one seed: a run draws the same wherever it stands in a stack."""
    return int.from_bytes(hashlib.sha256("/".join([str(seed), *names]).encode()).digest()[:7], "big")


def summarise_losses(losses: Sequence[float], *, parts: int = 10) -> pd.DataFrame:
    """Mean loss in each of some parts of a run: columns step (last of the part), loss."""
    edges = np.linspace(0, len(losses), min(parts, len(losses)) + 1).astype(int)
    rows = [{"step": int(b), "loss": float(np.mean(losses[a:b]))} for a, b in itertools.pairwise(edges)]
    return pd.DataFrame(rows, columns=["step", "loss"])


def order_batches(lengths: Sequence[int], settings: Training, *, seed: int) -> list[list[int]]:
    """The batches of all epochs, as transformers' samplers give them for a torch generator of this seed."""
    from transformers.trainer_pt_utils import get_length_grouped_indices

    size = settings.per_device_train_batch_size
    generator = torch.Generator().manual_seed(seed)
    batches: list[list[int]] = []
    for _ in range(settings.num_train_epochs):
        if settings.train_sampling_strategy == "group_by_length":
            order = get_length_grouped_indices(list(lengths), size, generator=generator)
        else:
            order = torch.randperm(len(lengths), generator=generator).tolist()
        batches += [order[start : start + size] for start in range(0, len(order), size)]
    return batches


def learning_rate_at(step: int, steps: int, settings: Training) -> float:
    """Learning rate of one step (from 0): linear warm-up over `warmup_steps` (a share of all steps), then the decay.

    The same formula as transformers' get_cosine_schedule_with_warmup and get_constant_schedule_with_warmup.
    """
    warmup = math.ceil(settings.warmup_steps * steps) if settings.warmup_steps < 1 else int(settings.warmup_steps)
    if step < warmup:
        return settings.learning_rate * step / max(1, warmup)
    if settings.lr_scheduler_type == "constant_with_warmup":
        return settings.learning_rate
    progress = (step - warmup) / max(1, steps - warmup)
    return settings.learning_rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def train_adapters(
    base: Base,
    runs: list[TrainingRun],
    *,
    settings: Training,
    lora: Lora,
    task: Task,
    pooling: Pooling = "last_token",
    on_step: Callable[[int, int, dict[str, Any]], None] | None = None,
) -> list[Adapter]:
    """Train K runs side by side; returns their adapters in the order given. Losses and orders stay in the runs.

    Runs of different sizes stop at their own last step; the stack goes on without them.
    on_step: called with (step, steps of the longest run, {"loss": mean, "pairs": seen so far}) after each step.
    Raises ValueError for a run without pairs, FloatingPointError where a loss is not finite.
    """
    for run in runs:
        if not run.token_ids:
            raise ValueError(f"the run {run.name!r} has no pairs to train on; expected at least one")
    plans = [order_batches([len(ids) for ids in run.token_ids], settings, seed=run.seed) for run in runs]
    for run, plan in zip(runs, plans, strict=True):
        run.order = [index for batch in plan for index in batch]
    if is_gpu(base.device):
        from blindspot.static_training import train_static

        return train_static(
            base, runs, plans, settings=settings, lora=lora, task=task, pooling=pooling, on_step=on_step
        )
    prefix = choose_prefix(base, runs, lora=lora, task=task, pooling=pooling)
    streams = [DropoutStream(run.seed + 1, lora.lora_dropout) for run in runs]
    finished: dict[int, Adapter] = {}
    active, adapters = list(range(len(runs))), [run.adapter for run in runs]
    moments: list[Any] = [{} for _ in runs]
    longest, step, seen = max(map(len, plans)), 0, 0
    while active:
        until = min(len(plans[run]) for run in active)
        with stacked(base, adapters, lora) as stack:
            optimizer = FlatAdamW(list(stack.parameters_to_train()), settings, moments)
            while step < until:
                batches = [(runs[run], plans[run][step]) for run in active]
                dropout = [streams[run] for run in active] if lora.lora_dropout else []
                losses = compute_losses(stack, batches, dropout, task=task, pooling=pooling, prefix=prefix)
                mean_loss = note_losses(batches, losses.detach())
                optimizer.backward(losses.sum())
                del losses  # and what its graph holds, before the next step's
                optimizer.step([learning_rate_at(step, len(plans[run]), settings) for run in active])
                step += 1
                seen += sum(len(batch) for _, batch in batches)
                if on_step:
                    on_step(step, longest, {"loss": mean_loss, "pairs": seen})
            adapters, moments = stack.read(), optimizer.read_moments()
        del optimizer, stack
        finished |= {run: adapters[i] for i, run in enumerate(active) if len(plans[run]) == step}
        kept = [i for i, run in enumerate(active) if len(plans[run]) > step]
        active, adapters, moments = ([values[i] for i in kept] for values in (active, adapters, moments))  # type: ignore[assignment]
    return [finished[run] for run in range(len(runs))]


def choose_prefix(base: Base, runs: list[TrainingRun], *, lora: Lora, task: Task, pooling: Pooling) -> int | None:
    """The number of tokens that are computed once a run where rows go unpadded; None where they must go padded.

    They must with dropout (it acts on LoRA's input, so LoRA can't be merged), with pooling that looks at the padding,
    and on bases that unpadded.py does not compute: those are slower. In a causal LM every row's tokens count in the
    loss, so none are shared.
    """
    if lora.lora_dropout or pooling == "as_published" or not suits(base.model):
        return None
    return shared_prefix([ids for run in runs for ids in run.token_ids]) if task == "classification" else 0


def shared_prefix(token_ids: list[np.ndarray]) -> int:
    """Number of tokens that all rows start with; at least one token of each row is left out of it."""
    if not token_ids:
        return 0
    length = min(len(ids) for ids in token_ids) - 1
    block = np.stack([ids[:length] for ids in token_ids])
    differs = np.flatnonzero((block != block[0]).any(axis=0))
    return int(differs[0]) if len(differs) else length


def train_in_stacks(base: Base, runs: list[TrainingRun], *, max_stacked: int, **options: Any) -> list[Adapter]:
    """Train any number of runs, at most `max_stacked` side by side; options as for `train_adapters`."""
    adapters: list[Adapter] = []
    for start in range(0, len(runs), max_stacked):
        adapters += train_adapters(base, runs[start : start + max_stacked], **options)
    return adapters


def note_losses(batches: Batches, losses: Tensor) -> float:
    """Write each run's loss [K] into it; returns the mean. Raises FloatingPointError where one is not finite."""
    values = losses.tolist()
    bad = [run.name for (run, _), loss in zip(batches, values, strict=True) if not math.isfinite(loss)]
    if bad:
        raise FloatingPointError(f"the loss of {', '.join(bad)} is not finite; lower learning_rate or use float32")
    for (run, _), loss in zip(batches, values, strict=True):
        run.losses.append(loss)
    return sum(values) / len(values)


def compute_losses(
    stack: Stack,
    batches: Batches,
    streams: list[DropoutStream],
    *,
    task: Task,
    pooling: Pooling,
    prefix: int | None,
) -> Tensor:
    """Losses [K] of one batch of each run, with gradients; prefix as `choose_prefix` gives it."""
    if prefix is None:
        return padded_losses(stack, batches, streams, task=task, pooling=pooling)
    return unpadded_losses(stack, batches, task=task, prefix=prefix)


def unpadded_losses(stack: Stack, batches: Batches, *, task: Task, prefix: int) -> Tensor:
    """Losses [K] of one batch of each run, its rows without padding and their first `prefix` tokens computed once."""
    rows = [[run.token_ids[index] for index in batch] for run, batch in batches]
    layout = Layout(stack.base.model.model, rows, prefix=prefix if task == "classification" else 0)
    states = stack.unpadded_states(layout, is_last=task == "classification")
    if task == "classification":
        parts = zip(states.split(layout.last.sizes), stack.saved["score"].unbind(), batches, strict=True)
        return torch.stack(
            [nn.functional.cross_entropy(part @ head.T, batch_labels(run, batch)) for part, head, (run, batch) in parts]
        )
    has_next = torch.ones(len(states), dtype=torch.bool)
    has_next[layout.ends] = False
    counts = [part.sum().item() for part in has_next.split(layout.every.sizes)]
    targets = layout.ids.roll(-1)[has_next].split(counts)
    logits = zip(states[has_next].split(counts), stack.lm_heads(), targets, strict=True)
    return torch.stack([nn.functional.cross_entropy(part @ head.T, target) for part, head, target in logits])


def batch_labels(run: TrainingRun, batch: list[int]) -> Tensor:
    """The labels [rows] of one batch."""
    return torch.as_tensor(run.labels[batch])  # type: ignore[index]


def padded_losses(
    stack: Stack, batches: Batches, streams: list[DropoutStream], *, task: Task, pooling: Pooling
) -> Tensor:
    """Losses [K] of one batch of each run, padded to the longest row of all, through transformers' own layers."""
    base = stack.base
    rows = max(len(batch) for _, batch in batches)
    lengths = [max(len(run.token_ids[i]) for i in batch) for run, batch in batches]
    input_ids = torch.full((len(batches), rows, max(lengths)), base.pad_token_id, dtype=torch.int64)
    ends = torch.zeros(len(batches), rows, dtype=torch.int64)
    for k, (run, batch) in enumerate(batches):
        for row, index in enumerate(batch):
            ids = run.token_ids[index]
            input_ids[k, row, : len(ids)] = torch.from_numpy(ids)
            ends[k, row] = len(ids)
    stack.set_dropout(streams, [(len(batch), length) for (_, batch), length in zip(batches, lengths, strict=True)])
    mask = torch.arange(max(lengths)) < ends[..., None]
    needs_mask = task == "classification" and pooling == "as_published"
    padding = mask.flatten(0, 1).long().to(base.device) if needs_mask else None
    with torch.autocast(base.device.type, torch.bfloat16, enabled=base.model.dtype == torch.bfloat16):
        hidden = stack.hidden_states(input_ids.flatten(0, 1).to(base.device), attention_mask=padding)
        if task == "classification":
            return classification_losses(stack, pool(hidden, ends, lengths, pooling), batches)
        return causal_lm_losses(stack, hidden, input_ids.to(base.device), mask.to(base.device))


def pool(hidden: Tensor, ends: Tensor, lengths: list[int], pooling: Pooling) -> Tensor:
    """States [K*rows, hidden] that the head reads: of a row's last token, or the last of its run's padded batch."""
    if pooling == "last_token":
        positions = (ends - 1).clamp(min=0)
    else:
        positions = (torch.tensor(lengths) - 1)[:, None].expand_as(ends)
    return hidden[torch.arange(len(hidden)), positions.flatten().to(hidden.device)]


def classification_losses(stack: Stack, pooled: Tensor, batches: Batches) -> Tensor:
    """Cross-entropy [K] of each run, the mean over its own rows (a last batch may be short)."""
    logits = stack.label_logits(pooled)
    return torch.stack(
        [
            nn.functional.cross_entropy(logits[k, : len(batch)], batch_labels(run, batch).to(logits.device))
            for k, (run, batch) in enumerate(batches)
        ]
    )


def causal_lm_losses(stack: Stack, hidden: Tensor, input_ids: Tensor, mask: Tensor) -> Tensor:
    """Next-token cross-entropy [K], the mean over each run's own tokens; padding does not count."""
    logits = stack.token_logits(hidden)[:, :, :-1].float()
    targets = input_ids[:, :, 1:].masked_fill(~mask[:, :, 1:], -100)
    return torch.stack(
        [
            nn.functional.cross_entropy(logits[k].flatten(0, 1), targets[k].flatten(), ignore_index=-100)
            for k in range(len(logits))
        ]
    )
