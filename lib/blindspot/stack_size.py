"""How many runs train side by side: the study's own number, or as many as free memory holds.

A run comes out the same whoever shares its stack, so the choice changes speed and memory, and no result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from blindspot.device import is_gpu, round_up
from blindspot.memory import free_for_job, show_mb
from blindspot.merged_lora import KEPT_BYTES
from blindspot.models import Base, list_targets
from blindspot.static_training import BUCKET
from blindspot.study import Lora, Study, Training
from blindspot.training import TrainingRun
from blindspot.unpadded import suits

MOST_STACKED = 0.8  # of the free memory; the rest is for the allocator's gaps and what the estimate leaves out
FP32 = 4  # bytes


@dataclass(frozen=True)
class StackSize:
    """`stacked` of `runs` runs train at a time. Bytes: what a run takes at most, and what was free for all of them."""

    runs: int
    stacked: int
    bytes_a_run: int
    free_bytes: int
    source: str

    def __str__(self) -> str:
        return (
            f"{self.stacked} of {self.runs} runs train side by side, as {self.source} says; "
            f"a run takes some {show_mb(self.bytes_a_run)}, {show_mb(self.free_bytes)} are free"
        )


def choose_stack_size(base: Base, runs: Sequence[TrainingRun], study: Study) -> StackSize:
    """K for `train_in_stacks`: augmentation.max_stacked, or for 'auto' what MOST_STACKED of the free memory holds.

    At least 1, at most the number of runs, and balanced: 9 runs in memory for 5 to 8 make stacks of 5 and 4.
    """
    wanted = study.augmentation.max_stacked
    size = max(estimate_run_bytes(base, run, settings=study.augmentation.training, lora=study.lora) for run in runs)
    free = free_for_job(base.device, study.resources)
    if isinstance(wanted, int):
        return StackSize(len(runs), min(wanted, len(runs)), size, free, "augmentation.max_stacked")
    return StackSize(len(runs), balance(len(runs), int(MOST_STACKED * free / size)), size, free, "free memory")


def balance(runs: int, most: int) -> int:
    """The smallest stack that needs no more rounds than stacks of `most` (0 counts as 1) runs do."""
    rounds = -(-runs // max(1, most))
    return -(-runs // rounds)


def estimate_run_bytes(base: Base, run: TrainingRun, *, settings: Training, lora: Lora) -> int:
    """Bytes that a classification run adds to a stack, at its longest batch: parameters x 20 + activations.

    Parameters are the adapter's and the head's: fp32 weights, gradients, AdamW's two moments, and a copy while they
    are read or gathered. See `estimate_activation_bytes` for the rest. Where rows go without padding, less of that is
    kept, but attention's weights are, and merged weights that are small: see `estimate_unpadded_bytes`.
    """
    longest = max(map(len, run.token_ids))
    length = round_up(longest, BUCKET) if is_gpu(base.device) else longest
    tokens = length * min(settings.per_device_train_batch_size, len(run.token_ids))
    parameters = sum(tensor.numel() for tensor in run.adapter.values())
    kept = 0 if lora.lora_dropout or not suits(base.model) else estimate_unpadded_bytes(base, tokens, length)
    return 5 * FP32 * parameters + tokens * estimate_activation_bytes(base, lora) + kept


def estimate_unpadded_bytes(base: Base, tokens: int, length: int) -> int:
    """Bytes that unpadded.py keeps of a run beside that: attention's weights, and merged weights.

    The first are one for each head and two tokens of a row. The second are those of the linear layers, where one's are
    no more than KEPT_BYTES.
    """
    config = base.model.config
    linears = [module for module in base.model.model.layers.modules() if isinstance(module, nn.Linear)]
    sizes = [FP32 * linear.in_features * linear.out_features for linear in linears]
    attention = FP32 * config.num_attention_heads * length * tokens * config.num_hidden_layers
    return attention + sum(size for size in sizes if size <= KEPT_BYTES)


def estimate_activation_bytes(base: Base, lora: Lora) -> int:
    """Bytes a token that a forward pass over the frozen base keeps for the backward pass, and its largest moment.

    Per decoder layer, with e the bytes of the base's dtype, h, a, i the widths of the states, attention and MLP:
    norms 4 x 2h (their input in fp32, twice), attention e x 4a (queries, keys, values, output), MLP e x 3i (gate,
    activated gate, up). Per adapted linear: its input and, with dropout, the mask, e x in each, and the r inner values
    in fp32. The frozen weights need no input kept. Once: 8 x i x 4, the widest layer's masks and gradients under way.
    """
    config, width = base.model.config, base.model.dtype.itemsize
    hidden, inner = config.hidden_size, config.intermediate_size
    attention = config.num_attention_heads * (getattr(config, "head_dim", None) or hidden // config.num_attention_heads)
    layer = FP32 * 2 * hidden + width * (4 * attention + 3 * inner)
    inputs = sum(base.model.get_submodule(name).in_features for name in list_targets(base, lora))
    adapted = width * (2 if lora.lora_dropout else 1) * inputs + FP32 * lora.r * len(list_targets(base, lora))
    return config.num_hidden_layers * layer + adapted + 8 * FP32 * inner
