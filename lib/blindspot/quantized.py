"""4-bit NF4 weights: dequantised once where memory allows, else kept packed and dequantised by each pass.

Both ways compute with the same values, those that bitsandbytes' dequantisation gives in the compute dtype. Its own
4-bit layers would not do: on a CPU with AVX-512 BF16 they multiply float32 inputs in bfloat16 once they have seen a
pass without gradients, and lose the gradient of their input (executed/LOG.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from blindspot.memory import free_memory, show_mb

MOST_DEQUANTIZED = 0.7  # of the free memory; the rest is for adapters, activations and the cache


def nf4_config(dtype: torch.dtype) -> Any:
    """The paper's quantisation: 4-bit NormalFloat, no double quantisation, computing in `dtype`."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=False, bnb_4bit_compute_dtype=dtype
    )


class PackedLinear(nn.Linear):
    """A frozen linear layer whose `weight` stays packed: uint8, two 4-bit values each.

    A pass dequantises it to `dtype`, then to the dtype of its input, and keeps nothing: at any time the plain
    weights of few layers are in memory. Gradients reach the input.
    """

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        """layer: bitsandbytes' Linear4bit, already on its device."""
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight = nn.Parameter(layer.weight.data, requires_grad=False)
        self.quant_state, self.dtype = layer.weight.quant_state, dtype
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.data.to(dtype), requires_grad=False)

    def dequantize(self) -> Tensor:
        """The weights [out, in] in the compute dtype."""
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(self.weight.data, self.quant_state).to(self.dtype)

    def forward(self, input: Tensor) -> Tensor:
        return PackedProduct.apply(input, self)


class PackedProduct(torch.autograd.Function):
    """input @ weight.T + bias; the backward pass dequantises anew instead of keeping the plain weights."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: PackedLinear) -> Tensor:
        ctx.layer = layer
        return nn.functional.linear(input, layer.dequantize().to(input.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.dequantize().to(gradient.dtype), None


def replace_4bit_linears(model: nn.Module, dtype: torch.dtype, *, arithmetic: torch.dtype) -> bool:
    """Put plain layers in the place of bitsandbytes' 4-bit ones, or packed ones where memory is short; True for packed.

    dtype: what the weights are dequantised to. arithmetic: what they will be kept in. Packed are kept where the plain
    weights would take more than MOST_DEQUANTIZED of what is free on the device. Prints which way was taken and why.
    """
    from bitsandbytes.nn import Linear4bit

    layers = {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    needed = sum(layer.in_features * layer.out_features for layer in layers.values()) * arithmetic.itemsize
    free = free_memory(next(model.parameters()).device)
    packed = needed > MOST_DEQUANTIZED * free
    for name, layer in layers.items():
        replaced = PackedLinear(layer, dtype)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, replaced if packed else make_plain(replaced))
    for attribute in ("is_loaded_in_4bit", "is_quantized", "hf_quantizer", "quantization_method"):
        if hasattr(model, attribute):
            delattr(model, attribute)
    way = "stay in 4 bits, and each pass dequantises them (slower)" if packed else "are dequantised once"
    print(
        f"NF4 weights {way}: plain they take {show_mb(needed)}, {show_mb(free)} are free here, "
        f"and {MOST_DEQUANTIZED:.0%} of that may go to them"
    )
    return packed


def make_plain(layer: PackedLinear) -> nn.Linear:
    """A plain layer with the same, dequantised, weights."""
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    plain.weight = nn.Parameter(layer.dequantize(), requires_grad=False)
    plain.bias = layer.bias
    return plain
