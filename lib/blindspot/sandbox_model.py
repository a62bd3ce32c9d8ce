"""The sandbox's base model: a tiny pretrained Llama as an ordinary model folder.

Its weights ship with the project (`sandbox_base/`), because making them takes some ten minutes on one core and a
study should not pay for that; `pretrain_base` is how they were made. What ships is checked against its checksums
before it is used, so that every study stands on the same base.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from blindspot.sandbox_text import write_document
from blindspot.sandbox_tokenizer import SPECIAL_TOKENS, build_tokenizer

SHIPPED_BASE = Path(__file__).parent / "sandbox_base"
CHECKSUMS = "SHA256SUMS.json"
MODEL_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
LAYERS, WIDTH, MAX_LENGTH = 4, 128, 256
STEPS, BATCH, LENGTH, RATE, SEED = 2800, 16, 96, 3.0e-3, 1


class BaseChecksumError(ValueError):
    """A file of the shipped base is not what it was when the base was made."""


def write_sandbox_model(folder: Path, *, source: Path = SHIPPED_BASE) -> Path:
    """Copy the shipped pretrained base to `folder`; returns the folder.

    Raises BaseChecksumError when a file of it is missing or changed, before anything is written.
    """
    check_base(source)
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        shutil.copyfile(source / name, folder / name)
    return folder


def check_base(source: Path = SHIPPED_BASE) -> None:
    """Hold the files of a shipped base against its checksums. Raises BaseChecksumError."""
    expected = json.loads((source / CHECKSUMS).read_text(encoding="utf-8"))
    for name in MODEL_FILES:
        path = source / name
        found = hash_file(path) if path.is_file() else "no file"
        if found != expected.get(name):
            raise BaseChecksumError(
                f"{path}: found sha256 {found}, expected {expected.get(name)} ({CHECKSUMS}); "
                "restore the folder with `git checkout lib/blindspot/sandbox_base`, or make it again with pretrain_base"
            )


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_random_model(folder: Path, *, seed: int, layers: int = 2, width: int = 32) -> Path:
    """Write an untrained tiny Llama with the sandbox's tokenizer, within a second; returns the folder.

    Raises ValueError for a width that 4 heads cannot share.
    """
    if width % 8:
        raise ValueError(f"width is {width}; expected a multiple of 8, which 4 heads can share")
    tokenizer = build_tokenizer()
    model = new_model(len(tokenizer), layers=layers, width=width, seed=seed)
    save_base(folder, model, tokenizer)
    return folder


def new_model(vocabulary: int, *, layers: int, width: int, seed: int) -> Any:
    """A randomly initialised LlamaForCausalLM in fp32 with 4 heads; input and output embeddings are untied."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    start, end, pad = (SPECIAL_TOKENS.index(name) for name in ("<s>", "</s>", "<pad>"))
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=9 * width // 4,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=False,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=pad,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def save_base(folder: Path, model: Any, tokenizer: Any, *, half: bool = False) -> None:
    """Write a model folder with its checksums; with `half` the weights are stored as float16."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    (model.to(torch.float16) if half else model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sums = {name: hash_file(folder / name) for name in MODEL_FILES}
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")


def pretrain_base(
    folder: Path,
    *,
    seed: int = SEED,
    steps: int = STEPS,
    batch_size: int = BATCH,
    learning_rate: float = RATE,
    on_step: Callable[[int, int, float], None] | None = None,
) -> list[float]:
    """Pretrain the base on `sandbox_text` and write it to `folder`; returns the loss of each step.

    With the defaults this made the shipped base: some 10 minutes on one core. Rows hold LENGTH tokens of documents
    laid end to end, the loss is that of the next token. The same seed gives the same text; weights agree bit by bit
    on the same machine and thread count only.
    """
    import torch

    tokenizer = build_tokenizer()
    model = new_model(len(tokenizer), layers=LAYERS, width=WIDTH, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    rows = pack_documents(tokenizer, seed=seed)
    losses: list[float] = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * rate_factor(step, steps)
        input_ids = torch.tensor([next(rows) for _ in range(batch_size)])
        loss = model(input_ids=input_ids, labels=input_ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if on_step:
            on_step(step + 1, steps, losses[-1])
    save_base(folder, model, tokenizer, half=True)
    return losses


def rate_factor(step: int, steps: int) -> float:
    """Share of the learning rate at a step: 50 steps of warm-up, constant, linear decay over the last 40 %."""
    return min(1.0, (step + 1) / 50, (steps - step) / math.ceil(0.4 * steps))


def pack_documents(tokenizer: Any, *, seed: int) -> Iterator[list[int]]:
    """Endless rows of LENGTH token ids, documents end to end, each begun by the tokenizer's start token."""
    rng = Random(f"pretraining {seed}")
    buffer: list[int] = []
    while True:
        for ids in tokenizer([write_document(rng) for _ in range(512)])["input_ids"]:
            buffer += ids
        while len(buffer) > LENGTH:
            yield buffer[:LENGTH]
            buffer = buffer[LENGTH:]
