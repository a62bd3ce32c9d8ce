"""Dropout masks from a counter: every number is a hash of (run's seed, step, layer, row, position, feature).

So a mask does not depend on who shares the stack, on the padding or on the device: integer operations give the same
bits on the CPU and on a GPU, where the masks are drawn in place. The hash is SplitMix64 (Steele, Lea, Flood 2014,
"Fast splittable pseudorandom number generators"); one 64-bit word gives four numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15
FACTORS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
MOST_POSITIONS = 1 << 16


def as_signed(value: int) -> int:
    """A 64-bit pattern as the signed number that torch.int64 holds."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def shift_right(words: Tensor, places: int) -> Tensor:
    """Logical shift of int64 words; torch's own keeps the sign."""
    return (words >> places) & ((1 << (64 - places)) - 1)


def draw_words(keys: Tensor, counters: Tensor) -> Tensor:
    """SplitMix64: the word number `counter` (from 0) of the stream with state `key`; int64, broadcast."""
    words = keys + (counters + 1) * as_signed(GAMMA)
    for places, factor in FACTORS:
        words = (words ^ shift_right(words, places)) * as_signed(factor)
    return words ^ shift_right(words, 31)


class CounterDropout:
    """The dropout masks of K runs for one step after another; `start_step` says which."""

    def __init__(self, seeds: Sequence[int], rate: float, *, layers: int, device: torch.device) -> None:
        seeds_signed = [as_signed(seed) for seed in seeds]
        self.roots = draw_words(torch.tensor(seeds_signed), torch.zeros(len(seeds), dtype=torch.int64)).to(device)
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self.rate, self.layers = rate, layers
        self.threshold = round(rate * 65536) - 32768

    def start_step(self, step: int) -> None:
        """Draw for this step (from 0) from now on."""
        self.step.fill_(step)

    def draw(self, layer: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Masks [K, rows, length, features] of 0 and 1/(1 - rate) for one layer; the rate is met to 1/65,536."""
        runs, rows, length, features = shape
        words = -(-features // 4)
        device = self.roots.device
        places = torch.arange(rows, device=device)[:, None] * MOST_POSITIONS + torch.arange(length, device=device)
        counters = places[..., None] * words + torch.arange(words, device=device)
        keys = draw_words(self.roots, self.step * self.layers + layer)
        bits = draw_words(keys.view(runs, 1, 1, 1), counters).view(torch.int16)
        return (bits[..., :features] >= self.threshold).to(dtype) * (1 / (1 - self.rate))
