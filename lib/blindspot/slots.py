"""Generation on a GPU: a batch of slots that stays as large as it is, and a row that has ended makes room for the next.

The rows are those of generation.sample_batch: row i draws from its own random numbers and stops where it stops there;
only the batch around it differs. All rows share the prompt, so its states stay at the front of every slot and a new
row costs nothing. A decoding step is two CUDA graphs (model, sampling), one pair for each length that attention looks
at; between them the host reads one token a slot. On the CPU the same code runs eagerly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from blindspot.device import Captured, fill, round_up, send, share_pool
from blindspot.generation import mark_stops, sample_tokens
from blindspot.models import Base
from blindspot.prompts import find_stop
from blindspot.study import Generation

BUCKET = 64  # tokens that attention looks at


class SlotCache:
    """Keys and values [slots, heads, size, head_dim] of each layer; each slot is written at a position of its own."""

    def __init__(self, prompt: DynamicCache, *, slots: int, size: int) -> None:
        self.keys = [self.widen(layer.keys, slots, size) for layer in prompt.layers]
        self.values = [self.widen(layer.values, slots, size) for layer in prompt.layers]
        device = self.keys[0].device
        self.rows = torch.arange(slots, device=device)
        self.positions = torch.zeros(slots, dtype=torch.int64, device=device)
        self.visible = size

    @staticmethod
    def widen(states: Tensor, slots: int, size: int) -> Tensor:
        """Room for `size` tokens in each slot, the prompt's states at the front."""
        _, heads, length, width = states.shape
        room = states.new_zeros((slots, heads, size, width))
        room[:, :, :length] = states
        return room

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        """What transformers' attention calls: write one token [slots, heads, 1, head_dim], give all that is visible."""
        self.keys[layer][self.rows, :, self.positions] = keys[:, :, 0]
        self.values[layer][self.rows, :, self.positions] = values[:, :, 0]
        return self.keys[layer][:, :, : self.visible], self.values[layer][:, :, : self.visible]

    def make_mask(self) -> Tensor:
        """Which tokens each slot sees [slots, 1, 1, visible]."""
        places = torch.arange(self.visible, device=self.positions.device)
        return (places <= self.positions[:, None])[:, None, None]


class SlotDecoder:
    """One decoding step of all slots, on tensors that stay where they are."""

    def __init__(self, base: Base, prompt_ids: list[int], *, slots: int, settings: Generation) -> None:
        self.base, self.settings = base, settings
        self.size = len(prompt_ids) + settings.max_new_tokens
        ids = torch.tensor([prompt_ids], device=base.device)
        out = base.model(input_ids=ids, use_cache=True, logits_to_keep=1)
        self.cache = SlotCache(out.past_key_values, slots=slots, size=self.size)
        self.first_logits = out.logits[0, -1].clone()
        self.logits = self.first_logits.repeat(slots, 1)
        self.tokens = torch.zeros(slots, dtype=torch.int64, device=base.device)
        self.numbers = torch.zeros(slots, dtype=torch.float64, device=base.device)
        self.pool = share_pool(base.device)
        self.sampling = Captured(base.device, pool=self.pool)
        self.forwards: dict[int, Captured] = {}

    def sample(self, numbers: np.ndarray) -> np.ndarray:
        """The next token of each slot from its logits and its random number [slots]."""
        fill(self.numbers, torch.from_numpy(numbers))
        self.sampling(self.compute_tokens)
        return self.tokens.cpu().numpy()

    def advance(self, positions: np.ndarray, fresh: np.ndarray) -> None:
        """Feed the sampled tokens, which stand at `positions` [slots]; the slots in `fresh` begin at the prompt."""
        fill(self.cache.positions, torch.from_numpy(positions))
        self.cache.visible = min(round_up(int(positions.max()) + 1, BUCKET), self.size)
        if self.cache.visible not in self.forwards:
            self.forwards[self.cache.visible] = Captured(self.base.device, pool=self.pool)
        self.forwards[self.cache.visible](self.compute_logits)
        if len(fresh):
            self.logits[send(torch.from_numpy(fresh), self.base.device)] = self.first_logits

    def compute_tokens(self) -> None:
        """logits, numbers to tokens."""
        self.tokens.copy_(sample_tokens(self.logits, self.numbers, self.settings))

    def compute_logits(self) -> None:
        """tokens, positions to logits."""
        out = self.base.model(
            input_ids=self.tokens[:, None],
            position_ids=self.cache.positions[:, None],
            attention_mask=self.cache.make_mask(),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.logits.copy_(out.logits[:, -1])


@torch.inference_mode()
def sample_in_slots(
    base: Base,
    prompt: str,
    uniforms: np.ndarray,
    settings: Generation,
    *,
    on_rows: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """Token ids of each row, prompt included, up to its stop; row i uses uniforms[i] [max_new_tokens].

    settings.batch_size is the number of slots. on_rows: called with (rows ended, tokens in them) when some end.
    """
    prompt_ids: list[int] = base.tokenizer(prompt)["input_ids"]
    rows, limit = uniforms.shape
    slots = min(settings.batch_size, rows)
    decoder = SlotDecoder(base, prompt_ids, slots=slots, settings=settings)
    written: list[list[int]] = [[] for _ in range(rows)]
    holds, waiting = np.arange(slots), slots  # the row in each slot, -1: none; the next row
    ended = ended_tokens = 0
    while (holds >= 0).any():
        busy = np.flatnonzero(holds >= 0)
        numbers = np.zeros(slots)
        numbers[busy] = [uniforms[row, len(written[row])] for row in holds[busy]]
        tokens = decoder.sample(numbers)
        for slot in busy:
            written[holds[slot]].append(int(tokens[slot]))
        done = busy[find_ended(base, prompt_ids, [written[row] for row in holds[busy]], limit=limit)]
        for slot in done:
            ended, ended_tokens = ended + 1, ended_tokens + len(prompt_ids) + len(written[holds[slot]])
            holds[slot], waiting = (waiting, waiting + 1) if waiting < rows else (-1, waiting)
        if len(done) and on_rows:
            on_rows(ended, ended_tokens)
        lengths = np.array([len(written[row]) if row >= 0 else 0 for row in holds])
        if (holds >= 0).any():
            decoder.advance(len(prompt_ids) + np.maximum(lengths - 1, 0), done)
    return [np.array(prompt_ids + row) for row in written]


def find_ended(base: Base, prompt_ids: list[int], written: list[list[int]], *, limit: int) -> np.ndarray:
    """Which rows have just ended: at the end of text, at the sentinel, or at max_new_tokens (as generation's rows)."""
    last = np.array([row[-1] for row in written])
    done = last == base.tokenizer.eos_token_id if base.tokenizer.eos_token_id is not None else np.zeros(len(last), bool)
    candidates = np.flatnonzero(mark_stops(base).numpy()[last] & ~done)
    if len(candidates):
        ids = [prompt_ids + written[row] for row in candidates]
        texts = base.tokenizer.batch_decode(ids, skip_special_tokens=True)
        done[candidates] = [find_stop(text) is not None for text in texts]
    return done | np.array([len(row) == limit for row in written])
