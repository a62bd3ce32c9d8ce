"""Generation: G writes pairs for a label, quickly, and the same ones whatever the batch size.

The prompt's states are computed once a label. Every row has random numbers of its own, so what it becomes does not
depend on its neighbours. A row stops at the first sentinel after its first hypothesis marker, which changes nothing in
what is extracted, and leaves the batch. Sampling is explicit: no model's own generation config is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from blindspot.data import LABELS
from blindspot.device import is_gpu
from blindspot.heuristics import lexical_overlap
from blindspot.models import Base
from blindspot.prompts import SENTINEL, extract_pair, find_stop, generator_prompt
from blindspot.study import Generation


def generate_shard(
    base: Base,
    *,
    label: str,
    shard: int,
    settings: Generation,
    generation: int = 0,
    on_batch: Callable[[int, int, dict[str, Any]], None] | None = None,
) -> pa.Table:
    """Write the examples of one shard of one label; accepted and rejected rows are both kept, in order.

    The base carries G already (see models.merged), the one of this generation. Columns: pair_id, split, genre, premise,
    hypothesis, gold_label, accepted, reject_reason, raw_text, generation, shard, n_tokens, lexical_overlap_published,
    lexical_overlap_token_aligned.
    """
    first = shard * settings.shard_size
    rows = min(settings.shard_size, settings.examples_per_label[label] - first)  # type: ignore[index]
    if rows < 1:
        raise ValueError(f"shard {shard} of {label} is empty; the study makes {settings.shards(label)} shards of it")
    uniforms = draw_uniforms(settings, label=label, shard=shard, rows=rows, generation=generation)
    report = (lambda done, tokens: on_batch(done, rows, {"tokens": tokens})) if on_batch else None
    if is_gpu(base.device):
        from blindspot.slots import sample_in_slots

        written = sample_in_slots(base, generator_prompt(label), uniforms, settings, on_rows=report)
    else:
        written = sample_in_batches(base, generator_prompt(label), uniforms, settings, on_rows=report)
    texts = base.tokenizer.batch_decode([t.tolist() for t in written], skip_special_tokens=True)
    return build_rows(texts, [len(t) for t in written], label=label, shard=shard, generation=generation)


def sample_in_batches(
    base: Base,
    prompt: str,
    uniforms: np.ndarray,
    settings: Generation,
    *,
    on_rows: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """Token ids of each row as `sample_batch` gives them, batch_size rows at a time.

    on_rows: called with (rows written, tokens in them) after each batch.
    """
    written: list[np.ndarray] = []
    for start in range(0, len(uniforms), settings.batch_size):
        written += sample_batch(base, prompt, uniforms[start : start + settings.batch_size], settings)
        if on_rows:
            on_rows(len(written), sum(map(len, written)))
    return written


def draw_uniforms(settings: Generation, *, label: str, shard: int, rows: int, generation: int = 0) -> np.ndarray:
    """Random numbers in [0, 1) [rows, max_new_tokens]: those of row i are the same whatever the batch size."""
    key = (generation,) if generation else ()
    sequence = np.random.SeedSequence([settings.seed, LABELS.index(label), shard], spawn_key=key)
    return np.random.Generator(np.random.Philox(sequence)).random((rows, settings.max_new_tokens), dtype=np.float64)


@torch.inference_mode()
def sample_batch(base: Base, prompt: str, uniforms: np.ndarray, settings: Generation) -> list[np.ndarray]:
    """Token ids of each row, prompt included, up to its stop; row i uses uniforms[i] [max_new_tokens].

    The rows have no padding: they share the prompt and are always equally long. Finished rows leave the batch.
    """
    prompt_ids = base.tokenizer(prompt)["input_ids"]
    rows, limit = uniforms.shape
    numbers = torch.from_numpy(uniforms).to(base.device)
    written = torch.zeros((rows, limit), dtype=torch.int64, device=base.device)
    lengths = np.full(rows, limit)
    may_stop = mark_stops(base).to(base.device)
    active = torch.arange(rows, device=base.device)
    out = base.model(input_ids=torch.tensor([prompt_ids], device=base.device), use_cache=True, logits_to_keep=1)
    cache = out.past_key_values
    cache.batch_repeat_interleave(rows)
    logits = out.logits[:, -1].expand(rows, -1)
    for step in range(limit):
        token = sample_tokens(logits, numbers[active, step], settings)
        written[active, step] = token
        done = find_finished(base, prompt_ids, written, active, token, may_stop, step)
        if done.any():
            lengths[active[done].cpu().numpy()] = step + 1
            kept = torch.nonzero(~done).flatten()
            active, token = active[kept], token[kept]
            if len(active):
                cache.batch_select_indices(kept)
        if not len(active) or step + 1 == limit:
            break
        out = base.model(input_ids=token[:, None], past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, logits = out.past_key_values, out.logits[:, -1]
    table = written.cpu().numpy()
    return [np.concatenate([prompt_ids, table[row, : lengths[row]]]) for row in range(rows)]


def sample_tokens(logits: Tensor, uniforms: Tensor, settings: Generation) -> Tensor:
    """One token a row by inversion: logits [rows, vocabulary], uniforms [rows] in [0, 1).

    Order of the filters as in transformers: temperature, then top_k (0: off), then top_p (1: off).
    """
    scores = logits.double() / settings.temperature
    if settings.top_k and settings.top_k < scores.shape[-1]:
        floor = scores.topk(settings.top_k).values[:, -1:]
        scores = scores.masked_fill(scores < floor, -torch.inf)
    probabilities, order = scores.softmax(-1).sort(dim=-1, descending=True, stable=True)
    if settings.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= settings.top_p, 0.0)
    summed = probabilities.cumsum(-1)
    rank = torch.searchsorted(summed, (uniforms * summed[:, -1])[:, None], right=True)
    last = (probabilities > 0).sum(-1, keepdim=True) - 1
    return order.gather(-1, torch.minimum(rank, last)).flatten()


def mark_stops(base: Base) -> Tensor:
    """Tokens [vocabulary] after which a text may have come to its end: those with the sentinel's last character."""
    if base.stop_tokens is None:
        size = base.model.config.vocab_size
        names = base.tokenizer.batch_decode([[token] for token in range(size)])
        flags = [SENTINEL[-1] in name or token == base.tokenizer.eos_token_id for token, name in enumerate(names)]
        base.stop_tokens = torch.tensor(flags)
    return base.stop_tokens


def find_finished(
    base: Base, prompt_ids: list[int], written: Tensor, active: Tensor, token: Tensor, may_stop: Tensor, step: int
) -> Tensor:
    """Which active rows have just ended [active]: at the sentinel, or at the tokenizer's end of text."""
    done = (
        token == base.tokenizer.eos_token_id
        if base.tokenizer.eos_token_id is not None
        else torch.zeros_like(token, dtype=torch.bool)
    )
    candidates = torch.nonzero(may_stop[token] & ~done).flatten()
    if len(candidates):
        ids = written[active[candidates], : step + 1].tolist()
        texts = base.tokenizer.batch_decode([prompt_ids + row for row in ids], skip_special_tokens=True)
        stops = [find_stop(text) is not None for text in texts]
        done[candidates[torch.tensor(stops, device=candidates.device)]] = True
    return done


def build_rows(texts: list[str], sizes: list[int], *, label: str, shard: int, generation: int = 0) -> pa.Table:
    """The rows of a shard from its texts: extraction, reasons for rejection, overlap by both detectors."""
    found = [extract_pair(text, label=label) for text in texts]
    premises, hypotheses = [f.premise for f in found], [f.hypothesis for f in found]
    accepted = np.array([f.accepted for f in found], dtype=bool)
    prefix = f"syn-g{generation}" if generation else "syn"
    columns: dict[str, Any] = {
        "pair_id": [f"{prefix}-{label}-{shard}-{row}" for row in range(len(texts))],
        "split": ["synthetic"] * len(texts),
        "genre": ["synthetic"] * len(texts),
        "premise": pa.array(premises, pa.string()),
        "hypothesis": pa.array(hypotheses, pa.string()),
        "gold_label": [label] * len(texts),
        "accepted": accepted,
        "reject_reason": pa.array([f.reject_reason for f in found], pa.string()),
        "raw_text": texts,
        "generation": np.full(len(texts), generation, dtype=np.int32),
        "shard": np.full(len(texts), shard, dtype=np.int32),
        "n_tokens": np.array(sizes, dtype=np.int32),
    }
    for detector in ("published", "token_aligned"):
        overlap = lexical_overlap([p or "" for p in premises], [h or "" for h in hypotheses], detector=detector)
        columns[f"lexical_overlap_{detector}"] = pa.array(overlap, mask=~accepted)
    return pa.table(columns)
