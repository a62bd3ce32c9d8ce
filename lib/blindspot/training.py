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

from blindspot.data import LABELS
from blindspot.device import is_gpu
from blindspot.models import Adapter, Base
from blindspot.stacking import DropoutStream, Stack, stacked
from blindspot.study import Lora, Training
from blindspot.tokens import tokenize_texts

Task = Literal["classification", "causal_lm"]
Pooling = Literal["last_token", "as_published"]
BETAS, EPSILON = (0.9, 0.999), 1.0e-8


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


class StackedAdamW:
    """AdamW over tensors whose first dimension is the run, with a step, a rate and a clipped norm for each run."""

    def __init__(self, parameters: list[nn.Parameter], settings: Training) -> None:
        self.parameters, self.settings = parameters, settings
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]

    def clip(self) -> Tensor:
        """Scale each run's gradients to a norm of at most max_grad_norm; returns the norms [K]."""
        squares = [p.grad.flatten(1).square().sum(1) for p in self.parameters if p.grad is not None]
        norms = torch.stack(squares).sum(0).sqrt()
        scale = (self.settings.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(along_runs(scale, parameter))
        return norms

    @torch.no_grad()
    def step(self, rates: Tensor, steps: int) -> None:
        """One update at each run's rate [K]; `steps` counts from 1. Every run of a stack is at the same step."""
        correct1, correct2 = 1 - BETAS[0] ** steps, 1 - BETAS[1] ** steps
        for parameter, (first, second) in zip(self.parameters, self.moments, strict=True):
            if parameter.grad is None:
                continue
            rate = along_runs(rates, parameter)
            parameter.mul_(1 - rate * self.settings.weight_decay)
            first.lerp_(parameter.grad, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(parameter.grad, parameter.grad, value=1 - BETAS[1])
            parameter.sub_(rate / correct1 * first / ((second / correct2).sqrt_() + EPSILON))
            parameter.grad = None

    def keep(self, parameters: list[nn.Parameter], runs: list[int]) -> None:
        """Go on with fewer runs: their moments move to the new parameters."""
        self.parameters = parameters
        self.moments = [(first[runs].clone(), second[runs].clone()) for first, second in self.moments]


def along_runs(values: Tensor, like: Tensor) -> Tensor:
    """Values [K] shaped so that they multiply a tensor [K, ...]."""
    return values.view(-1, *[1] * (like.dim() - 1))


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
    streams = [DropoutStream(run.seed + 1, lora.lora_dropout) for run in runs]
    # Without dropout all rows of a run have the same states in the prompt's fixed start: compute them once a step.
    last_only = task == "classification" and pooling == "last_token" and not lora.lora_dropout
    prefix = shared_prefix([ids for run in runs for ids in run.token_ids]) if last_only else None
    finished: dict[int, Adapter] = {}
    active, adapters, optimizer = list(range(len(runs))), [run.adapter for run in runs], None
    longest, step, seen = max(map(len, plans)), 0, 0
    while active:
        until = min(len(plans[run]) for run in active)
        with stacked(base, adapters, lora) as stack:
            if optimizer is None:
                optimizer = StackedAdamW(list(stack.parameters_to_train()), settings)
            else:
                optimizer.keep(list(stack.parameters_to_train()), kept)  # noqa: F821
            while step < until:
                batches = [(runs[run], plans[run][step]) for run in active]
                loss = backward(
                    stack,
                    batches,
                    [streams[run] for run in active] if lora.lora_dropout else [],
                    task=task,
                    pooling=pooling,
                    prefix=prefix,
                )
                optimizer.clip()
                rates = [learning_rate_at(step, len(plans[run]), settings) for run in active]
                step += 1
                optimizer.step(torch.tensor(rates, device=base.device), step)
                seen += sum(len(batch) for _, batch in batches)
                if on_step:
                    on_step(step, longest, {"loss": loss, "pairs": seen})
            adapters = stack.read()
        finished |= {run: adapters[i] for i, run in enumerate(active) if len(plans[run]) == step}
        kept = [i for i, run in enumerate(active) if len(plans[run]) > step]
        active, adapters = [active[i] for i in kept], [adapters[i] for i in kept]
    return [finished[run] for run in range(len(runs))]


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


def backward(
    stack: Stack,
    batches: list[tuple[TrainingRun, list[int]]],
    streams: list[DropoutStream],
    *,
    task: Task,
    pooling: Pooling,
    prefix: int | None,
) -> float:
    """Forward and backward pass of one step of every run; returns the mean of the runs' losses and records each.

    prefix: number of tokens that every row of every run starts with and that are computed once a run; None where all
    tokens' states are needed, or dropout makes rows differ.
    """
    last_only, prefix = prefix is not None, prefix or 0
    base = stack.base
    rows = max(len(batch) for _, batch in batches)
    lengths = [max(len(run.token_ids[i]) for i in batch) - prefix for run, batch in batches]
    input_ids = torch.full((len(batches), rows, max(lengths)), base.pad_token_id, dtype=torch.int64)
    ends = torch.zeros(len(batches), rows, dtype=torch.int64)
    for k, (run, batch) in enumerate(batches):
        for row, index in enumerate(batch):
            ids = run.token_ids[index][prefix:]
            input_ids[k, row, : len(ids)] = torch.from_numpy(ids)
            ends[k, row] = len(ids)
    stack.set_dropout(streams, [(len(batch), length) for (_, batch), length in zip(batches, lengths, strict=True)])
    mask = torch.arange(max(lengths)) < ends[..., None]
    needs_mask = task == "classification" and pooling == "as_published"
    with torch.autocast(base.device.type, torch.bfloat16, enabled=base.model.dtype == torch.bfloat16):
        rows_ids = input_ids.flatten(0, 1).to(base.device)
        if last_only:
            start = torch.from_numpy(batches[0][0].token_ids[0][:prefix]).to(base.device)
            places = (ends - 1).clamp(min=0).flatten().to(base.device)
            losses = classification_losses(stack, stack.last_states(rows_ids, places, prefix=start), batches)
        elif task == "classification":
            padding = mask.flatten(0, 1).long().to(base.device) if needs_mask else None
            hidden = stack.hidden_states(rows_ids, attention_mask=padding)
            losses = classification_losses(stack, pool(hidden, ends, lengths, pooling), batches)
        else:
            hidden = stack.hidden_states(rows_ids)
            losses = causal_lm_losses(stack, hidden, input_ids.to(base.device), mask.to(base.device))
    if not bool(torch.isfinite(losses).all()):
        bad = [run.name for (run, _), loss in zip(batches, losses.tolist(), strict=True) if not math.isfinite(loss)]
        raise FloatingPointError(f"the loss of {', '.join(bad)} is not finite; lower learning_rate or use float32")
    losses.sum().backward()
    for (run, _), loss in zip(batches, losses.tolist(), strict=True):
        run.losses.append(loss)
    return float(losses.detach().mean())


def pool(hidden: Tensor, ends: Tensor, lengths: list[int], pooling: Pooling) -> Tensor:
    """States [K*rows, hidden] that the head reads: of a row's last token, or the last of its run's padded batch."""
    if pooling == "last_token":
        positions = (ends - 1).clamp(min=0)
    else:
        positions = (torch.tensor(lengths) - 1)[:, None].expand_as(ends)
    return hidden[torch.arange(len(hidden)), positions.flatten().to(hidden.device)]


def classification_losses(stack: Stack, pooled: Tensor, batches: list[tuple[TrainingRun, list[int]]]) -> Tensor:
    """Cross-entropy [K] of each run, the mean over its own rows (a last batch may be short)."""
    logits = stack.label_logits(pooled)
    return torch.stack(
        [
            nn.functional.cross_entropy(logits[k, : len(batch)], torch.as_tensor(run.labels[batch]).to(logits.device))  # type: ignore[index]
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
