"""The least that a step must compute and move, the rates of the chip that does it, and the reference's 4-bit model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Floor:
    """Floating-point operations, and bytes to and from memory."""

    flop: float
    bytes: float

    def seconds(self, rates: dict[str, float]) -> float:
        """The time under which no version gets: the larger of the two."""
        return max(self.flop / rates["flop_per_second"], self.bytes / rates["bytes_per_second"])


@dataclass(frozen=True)
class Shape:
    """Numbers of weights: of the decoder's linear layers, of the LM head, of one adapter; and what attention needs."""

    linear: int
    lm_head: int
    adapter: int
    layers: int
    hidden: int
    cached: int  # values a token leaves in the cache, over all layers
    bytes_each: int

    @classmethod
    def of(cls, config: dict[str, int], *, r: int, bytes_each: int) -> Shape:
        """From the config's numbers; LoRA on all seven linear layers of each block."""
        hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
        narrow = hidden * config["num_key_value_heads"] // config["num_attention_heads"]
        sides = [(hidden, hidden), (hidden, narrow), (hidden, narrow), (hidden, hidden)] + 3 * [(hidden, inner)]
        return cls(
            linear=layers * sum(a * b for a, b in sides),
            lm_head=hidden * config["vocab_size"],
            adapter=layers * sum(r * (a + b) for a, b in sides),
            layers=layers,
            hidden=hidden,
            cached=2 * layers * narrow,
            bytes_each=bytes_each,
        )


def count_training(shape: Shape, *, runs: int, rows: int, tokens: int) -> Floor:
    """One step: the base forward and back to its inputs, adapters also to their weights, AdamW once over each adapter.

    Bytes: the base's weights twice; of an adapter (fp32) weights forward and backward, the gradient's write, and
    AdamW's four reads and three writes.
    """
    seen = runs * rows * tokens
    attention = 3 * 2 * seen * tokens * shape.hidden * shape.layers  # causal: half of 4 a pair; backward twice that
    flop = 4 * shape.linear * seen + 6 * shape.adapter * seen + attention
    return Floor(flop, 2 * shape.linear * shape.bytes_each + 10 * 4 * runs * shape.adapter)


def count_decoding(shape: Shape, *, slots: int, positions: float) -> Floor:
    """One token for each slot that sees `positions` tokens on average."""
    weights = shape.linear + shape.lm_head
    flop = 2 * slots * weights + 4 * slots * positions * shape.hidden * shape.layers
    return Floor(flop, shape.bytes_each * (weights + slots * positions * shape.cached))


def count_evaluation(shape: Shape, *, rows: int, tokens: int) -> Floor:
    """One batch of rows with this many tokens each behind the prefix; attention's share is left out."""
    return Floor(2.0 * shape.linear * rows * tokens, shape.bytes_each * shape.linear)


def measure_rates(
    device: torch.device, dtype: torch.dtype, *, matrix: int, copied: int, wait: Callable[[], None]
) -> dict[str, float]:
    """FLOP a second of a square matrix product of random numbers, bytes a second (read and written) of a copy."""
    left, right = (torch.randn((matrix, matrix), device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    source = torch.randint(0, 256, (copied // 2,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return {
        "flop_per_second": 2 * matrix**3 / best_time(lambda: torch.mm(left, right, out=product), wait),
        "bytes_per_second": 2 * len(source) / best_time(lambda: target.copy_(source), wait),
    }


def best_time(function: Callable[[], object], wait: Callable[[], None], *, rounds: int = 5, calls: int = 10) -> float:
    """The shortest of some rounds' seconds a call: a ceiling, so the best is what counts."""
    times = []
    for _ in range(rounds + 1):
        wait()
        started = time.perf_counter()
        for _ in range(calls):
            function()
        wait()
        times.append((time.perf_counter() - started) / calls)
    return min(times[1:])


def quantize(model: Any, dtype: torch.dtype) -> Any:
    """The decoder's linear layers in NF4, as transformers loads them for bitsandbytes."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, module in list(model.model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            device = module.weight.device
            options: Any = {"bias": False, "compute_dtype": dtype, "quant_type": "nf4", "device": "meta"}
            layer = Linear4bit(module.in_features, module.out_features, **options)
            layer.weight = Params4bit(module.weight.data.cpu(), requires_grad=False, quant_type="nf4").to(device)
            parent, _, child = name.rpartition(".")
            setattr(model.model.get_submodule(parent), child, layer)
    model.is_loaded_in_4bit = True
    return model.requires_grad_(False)
