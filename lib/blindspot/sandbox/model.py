"""The sandbox's base model: a tiny pretrained Llama as an ordinary model folder.

Its weights ship with the project (`base/`), because making them takes a quarter of an hour on one core and a
study should not pay for that; `pretrain_base` is the recipe. What ships is checked against its checksums
before it is used, so that every study stands on the same base.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from blindspot.sandbox.text import Part, write_document, write_true_document, write_word_list
from blindspot.sandbox.tokenizer import SPECIAL_TOKENS, build_tokenizer

SHIPPED_BASE = Path(__file__).parent / "base"
CHECKSUMS = "SHA256SUMS.json"
MODEL_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
LAYERS, WIDTH, MAX_LENGTH = 4, 128, 256
COPY_STEPS, TRUE_STEPS, TEXT_STEPS, BATCH, RATE, SEED = 900, 7700, 3000, 32, 2.0e-3, 1
COPY_LOSS = 0.15


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
                "restore the folder with `git checkout lib/blindspot/sandbox/base`, or make it again with pretrain_base"
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
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
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
    copy_steps: int = COPY_STEPS,
    true_steps: int = TRUE_STEPS,
    text_steps: int = TEXT_STEPS,
    batch_size: int = BATCH,
    learning_rate: float = RATE,
    on_step: Callable[[int, int, float], None] | None = None,
) -> list[float]:
    """Pretrain the base on `sandbox.text` and write it to `folder`; returns the loss of each step.

    First word lists that are repeated, until their loss is under COPY_LOSS, because copying is not learnt from a mix;
    then text in which every reply is true; then the whole text, whose hearers go by words. The shipped weights came of
    these phases, but not of one call: the two phases of text were run in seven parts, some 10,700 steps together, and
    the text's shares and the pairs' edits were adjusted between them. So this makes a base of the same kind, not the
    same bytes; SHA256SUMS.json says what ships. The same seed gives the same text, and the same weights on the same
    machine and thread count.
    """
    import torch

    tokenizer, rng = build_tokenizer(), Random(f"pretraining {seed}")
    model = new_model(len(tokenizer), layers=LAYERS, width=WIDTH, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    losses: list[float] = []
    phases = ((write_word_list, copy_steps), (write_true_document, true_steps), (write_document, text_steps))
    for writer, steps in phases:
        batches = batch_documents(tokenizer, rng, writer, batch_size=batch_size)
        for step in range(steps):
            is_copying = writer is write_word_list
            rate = min(1.0, (step + 1) / 50) if is_copying else min(1.0, 2 * (steps - step) / steps)
            optimizer.param_groups[0]["lr"] = learning_rate * rate
            losses.append(train_step(model, optimizer, next(batches)))
            if on_step:
                on_step(len(losses), sum(steps for _, steps in phases), losses[-1])
            if is_copying and losses[-1] < COPY_LOSS:
                break
    save_base(folder, model, tokenizer, half=True)
    return losses


def train_step(model: Any, optimizer: Any, batch: tuple[list[list[int]], list[list[float]]]) -> float:
    """One step on a batch of padded token ids and weights, each [rows, length]; returns the weighted mean loss."""
    import torch

    input_ids, weights = torch.tensor(batch[0]), torch.tensor(batch[1])[:, 1:]
    logits = model(input_ids=input_ids).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), input_ids[:, 1:], reduction="none")
    loss = (losses * weights).sum() / weights.sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def batch_documents(
    tokenizer: Any, rng: Random, writer: Callable[[Random], list[Part]], *, batch_size: int
) -> Iterator[tuple[list[list[int]], list[list[float]]]]:
    """Endless batches of (token ids, weights), one document a row, rows of like length together.

    Rows are not packed: with several documents in a row the model does not learn to copy.
    """
    while True:
        drawn = (encode_parts(tokenizer, writer(rng)) for _ in range(16 * batch_size))
        rows = sorted(drawn, key=lambda row: len(row[0]))
        batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        rng.shuffle(batches)
        for batch in batches:
            longest = len(batch[-1][0])
            ids = [row + [tokenizer.pad_token_id] * (longest - len(row)) for row, _ in batch]
            yield ids, [weights + [0.0] * (longest - len(weights)) for _, weights in batch]


def encode_parts(tokenizer: Any, parts: list[Part]) -> tuple[list[int], list[float]]:
    """Token ids of a document and the weight of each, begun by the start token."""
    ids, weights = [tokenizer.bos_token_id], [0.0]
    for part, (_, weight) in zip(
        tokenizer([text for text, _ in parts], add_special_tokens=False)["input_ids"], parts, strict=True
    ):
        ids += part
        weights += [weight] * len(part)
    return ids, weights
