"""Prediction: the logits of a task model on every test pair, once a model.

The test sets overlap (the blind spot is part of HANS), so a model sees their union once. Rows are sorted by length,
so that a batch holds little padding, and the start that all prompts share is computed once. Predictions come back in
the order of the pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from transformers import DynamicCache

from blindspot.data import LABELS
from blindspot.device import send
from blindspot.models import HEAD, Adapter, Base, load_adapter, merged
from blindspot.prompts import join_task_prompts
from blindspot.study import Lora
from blindspot.tokens import list_token_ids
from blindspot.training import shared_prefix, tokenize
from blindspot.unpadded import Layout, run_decoder, suits

States = list[tuple[Tensor, Tensor]]  # keys and values [1, heads, tokens, head_dim] of each layer


def tokenize_pairs(base: Base, pairs: pa.Table) -> list[np.ndarray]:
    """Token ids of T's prompt for each pair."""
    return tokenize(base, join_task_prompts(pairs["premise"], pairs["hypothesis"]).to_pylist())


def predict_logits(
    base: Base,
    adapter: Adapter,
    lora: Lora,
    token_ids: list[np.ndarray],
    *,
    batch_size: int,
    pooling: str = "last_token",
    on_batch: Callable[[int, int, dict[str, Any]], None] | None = None,
) -> np.ndarray:
    """Logits [pairs, 3] (columns in the order of LABELS, float32) of the task model base + adapter.

    In `as_published` mode rows go in file order and a row is pooled at its batch's last, padded, position, as the
    authors' code does; in `last_token` mode the result does not depend on the batches.
    """
    with merged(base, adapter, lora):
        head = adapter[HEAD].to(base.device, torch.float32)
        if pooling == "as_published":
            return predict_padded(base, head, token_ids, batch_size=batch_size, on_batch=on_batch)
        return predict_sorted(base, head, token_ids, batch_size=batch_size, on_batch=on_batch)


def predict_labels(
    base: Base, adapter: Adapter, lora: Lora, pairs: pa.Table, *, batch_size: int, pooling: str = "last_token"
) -> list[str]:
    """The label with the largest logit for each pair, by name; the first of LABELS in a tie.

    pairs: with the column token_ids (`add_tokens`).
    """
    if not pairs.num_rows:
        return []
    logits = predict_logits(base, adapter, lora, list_token_ids(pairs), batch_size=batch_size, pooling=pooling)
    return [LABELS[place] for place in logits.argmax(axis=1)]


@torch.inference_mode()
def predict_sorted(
    base: Base,
    head: Tensor,
    token_ids: list[np.ndarray],
    *,
    batch_size: int,
    on_batch: Callable[[int, int, dict[str, Any]], None] | None = None,
) -> np.ndarray:
    """Logits of each row at its own last token: sorted by length, behind the states of the shared prefix."""
    prefix = shared_prefix(token_ids)
    is_unpadded = suits(base.model)
    states = compute_prefix(base, token_ids[0][:prefix]) if prefix and not is_unpadded else []
    order = np.argsort([-len(ids) for ids in token_ids], kind="stable")
    parts: list[Tensor] = []  # they stay on the device until the end: a copy a batch would make the host wait
    for start in range(0, len(order), batch_size):
        rows = [token_ids[row] for row in order[start : start + batch_size]]
        pooled = read_unpadded(base, rows, prefix) if is_unpadded else read_padded(base, rows, prefix, states)
        parts.append(pooled.float() @ head.T)
        if on_batch:
            on_batch(min(start + batch_size, len(order)), len(order), {})
    logits = np.zeros((len(token_ids), len(LABELS)), dtype=np.float32)
    if parts:
        logits[order] = torch.cat(parts).cpu().numpy()
    return logits


def read_unpadded(base: Base, rows: list[np.ndarray], prefix: int) -> Tensor:
    """Final hidden states [rows, hidden] of each row's last token; `prefix` tokens are the same in all rows."""
    decoder = base.model.model
    layout = Layout(decoder, [rows], prefix=prefix)
    return run_decoder(decoder, decoder.embed_tokens(layout.ids), layout, is_last=True)


def read_padded(base: Base, rows: list[np.ndarray], prefix: int, states: States) -> Tensor:
    """As `read_unpadded`, through transformers' own layers, behind the keys and values of the prefix."""
    ids, mask = pad_rows([row[prefix:] for row in rows], base.pad_token_id)
    repeated = [(keys.expand(len(rows), -1, -1, -1), values.expand(len(rows), -1, -1, -1)) for keys, values in states]
    cache = DynamicCache(repeated) if repeated else None
    hidden = base.model.model(input_ids=send(ids, base.device), past_key_values=cache, use_cache=bool(repeated))[0]
    return hidden[torch.arange(len(rows), device=base.device), send(mask.sum(1) - 1, base.device)]


@torch.inference_mode()
def predict_padded(
    base: Base,
    head: Tensor,
    token_ids: list[np.ndarray],
    *,
    batch_size: int,
    on_batch: Callable[[int, int, dict[str, Any]], None] | None = None,
) -> np.ndarray:
    """Logits at the last position of each padded batch, in file order: the authors' published code."""
    parts = []
    for start in range(0, len(token_ids), batch_size):
        ids, mask = pad_rows(token_ids[start : start + batch_size], base.pad_token_id)
        hidden = base.model.model(input_ids=ids.to(base.device), attention_mask=mask.to(base.device), use_cache=False)[
            0
        ]
        parts.append((hidden[:, -1].float() @ head.T).cpu().numpy())
        if on_batch:
            on_batch(min(start + batch_size, len(token_ids)), len(token_ids), {})
    return np.concatenate(parts) if parts else np.zeros((0, len(LABELS)), dtype=np.float32)


def check_round_trip(
    base: Base, adapter: Adapter, folder: Path, lora: Lora, token_ids: list[np.ndarray], *, pooling: str = "last_token"
) -> float:
    """Read an adapter back from its folder and hold its logits against those before saving; returns 0.0.

    Logits are the labels' where the adapter has a head, else those of the next token at each row's end. Raises
    ValueError where one differs: what was saved is not what was trained.
    """

    def compute(chosen: Adapter) -> np.ndarray:
        if HEAD in chosen:
            return predict_logits(base, chosen, lora, token_ids, batch_size=len(token_ids), pooling=pooling)
        with merged(base, chosen, lora):
            return predict_next_tokens(base, token_ids)

    difference = float(np.abs(compute(adapter) - compute(load_adapter(folder))).max())
    if not difference == 0:  # NaN is no difference of 0 either
        raise ValueError(
            f"{folder.name}: logits differ by {difference:.2e} after the adapter was saved and read back; "
            "expected none. Delete the run's folder and run it again; the disk may be full or faulty"
        )
    return difference


@torch.inference_mode()
def predict_next_tokens(base: Base, token_ids: list[np.ndarray]) -> np.ndarray:
    """Logits [rows, vocabulary] of the token after each row, in one padded batch."""
    ids, mask = pad_rows(token_ids, base.pad_token_id)
    logits = base.model(input_ids=ids.to(base.device), attention_mask=mask.to(base.device), use_cache=False).logits
    ends = mask.sum(1) - 1
    return logits[torch.arange(len(ids), device=base.device), ends.to(base.device)].float().cpu().numpy()


def measure_batch_difference(
    base: Base,
    adapter: Adapter,
    lora: Lora,
    token_ids: list[np.ndarray],
    logits: np.ndarray,
    *,
    pooling: str,
    rows: int = 24,
) -> float:
    """Largest difference of a logit between a pass over all rows and a row alone: 0 up to rounding if all is well.

    logits: what `predict_logits` gave for token_ids. rows: how many are tried, spread evenly over all.
    """
    tried = np.unique(np.linspace(0, len(token_ids) - 1, min(rows, len(token_ids))).astype(int))
    alone = predict_logits(base, adapter, lora, [token_ids[row] for row in tried], batch_size=1, pooling=pooling)
    return float(np.abs(alone - logits[tried]).max())


def refuse_batch_difference(difference: float, *, model: str, pooling: str, most: float = 1e-4) -> None:
    """Raise ValueError where a prediction of `model` depends on its neighbours in the batch and should not."""
    if pooling == "last_token" and not difference <= most:
        raise ValueError(
            f"{model}: a logit differs by {difference:.2e} between a row alone and in a batch; expected at most "
            f"{most:.0e} with last_token pooling. The padding is seen by the model (check pad_token_id), or "
            "base_model.compute_dtype is too coarse: evaluate in float32"
        )


def tabulate_predictions(
    logits: np.ndarray, pairs: pa.Table, *, starting_size: int, training_set: str, seed: int
) -> pa.Table:
    """One model's predictions as rows: the model and its coordinates, the pair, its logits by label's name."""
    kind, _, size = training_set.rpartition("-") if training_set != "none" else ("none", "", "0")
    rows = len(pairs)
    columns: dict[str, Any] = {
        "model": pa.array([f"start-{starting_size}_seed-{seed}_{training_set}"] * rows).dictionary_encode(),
        "starting_size": np.full(rows, starting_size),
        "training_kind": pa.array([kind] * rows).dictionary_encode(),
        "training_size": np.full(rows, int(size)),
        "seed": np.full(rows, seed),
        "test_set": pairs["split"],
        **{name: pairs[name] for name in ("pair_id", "gold_label", "heuristic", "subcase", "template")},
        **{f"logit_{label}": logits[:, column] for column, label in enumerate(LABELS)},
    }
    return pa.table(columns)


def compute_prefix(base: Base, ids: np.ndarray) -> States:
    """Keys and values [1, heads, prefix, head_dim] of the shared prefix in each layer."""
    cache = base.model.model(input_ids=torch.from_numpy(ids)[None].to(base.device), use_cache=True).past_key_values
    return [(layer.keys, layer.values) for layer in cache.layers]


def pad_rows(token_ids: list[np.ndarray], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask [rows, longest], padded on the right."""
    longest = max(len(ids) for ids in token_ids)
    ids = torch.full((len(token_ids), longest), pad_token_id, dtype=torch.int64)
    mask = torch.zeros((len(token_ids), longest), dtype=torch.int64)
    for row, values in enumerate(token_ids):
        ids[row, : len(values)] = torch.from_numpy(values)
        mask[row, : len(values)] = 1
    return ids, mask
