"""Tiny models for tests: loaded, given a vivid adapter, made into runs, or taught texts by heart."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import PAIRS

from blindspot.data import LABELS
from blindspot.models import Adapter, Base, load_base, new_adapter
from blindspot.prompts import task_prompt
from blindspot.study import BaseModelSettings, Lora, Training
from blindspot.training import TrainingRun, tokenize

TRAINING = Training(
    learning_rate=5.0e-3,
    per_device_train_batch_size=4,
    num_train_epochs=2,
    weight_decay=0.1,
    warmup_steps=0.3,
    max_grad_norm=0.3,
)


def tiny_settings(folder: Path, quantization: str = "none") -> BaseModelSettings:
    return BaseModelSettings.model_validate(
        {"name": str(folder), "quantization": quantization, "compute_dtype": "float32", "max_length": 256}
    )


def load_tiny(folder: Path, quantization: str = "none") -> Base:
    return load_base(tiny_settings(folder, quantization))


def make_vivid_adapter(base: Base, lora: Lora, *, seed: int) -> Adapter:
    """An adapter with a head whose every part matters: LoRA's B is not zero."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator) * 0.1 if "lora_B" in name else tensor
        for name, tensor in new_adapter(base, lora, seed=1, head=True).items()
    }


def make_task_run(base: Base, *, lora: Lora, seed: int, pairs: list[tuple[str, str, str]] = PAIRS) -> TrainingRun:
    """A run of a fresh adapter on pairs."""
    return TrainingRun(
        name=f"run-{seed}",
        adapter=new_adapter(base, lora, seed=seed, head=True),
        token_ids=tokenize(base, [task_prompt(p, h) for p, h, _ in pairs]),
        labels=np.array([LABELS.index(label) for _, _, label in pairs]),
        seed=seed,
    )


def largest_difference(one: Adapter, other: Adapter) -> float:
    """Over all tensors of two adapters, which must hold the same ones."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def learn_by_heart(base: Base, rows: list[list[int]], *, steps: int) -> None:
    """Train all weights of a base on rows of token ids, so that it writes them."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [base.pad_token_id] * (longest - len(row)) for row in rows])
    mask = (ids != base.pad_token_id).long()
    model: Any = base.model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        loss = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.requires_grad_(False)
