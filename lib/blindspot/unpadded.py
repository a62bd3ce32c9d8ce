"""Llama's decoder on a CPU: rows of different lengths without padding, K adapters, and gradients of our own.

The tokens of all rows lie one after the other, those of a run together: once what all rows start with, then each row's
own. Only attention lays them out with padding. An autograd function a half layer writes few arrays and keeps few.
Tests hold states and gradients against transformers' and peft's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blindspot.merged_lora import AdaptedLinear, Gradients, Product, multiply_back
from blindspot.shared_attention import Shape, attend, attend_back, hide_later


@dataclass(frozen=True)
class Asked:
    """The tokens that a layer works for: the number of each run, and the rotary angles of their scaled queries.

    padded: where the queries' heads stand in an array of all tokens' heads, as `shape` lays them out; back: where in
    that layout each token's are. hidden: 0 or -inf, as `attend` takes it.
    """

    sizes: list[int]
    rotary: Tensor
    padded: Tensor
    back: Tensor
    hidden: Tensor
    shape: Shape

    @property
    def count(self) -> int:
        return sum(self.sizes)


class Layout:
    """Where each token of a batch stands: `ids` [tokens] run by run, first what all rows start with, then each row.

    ends [rows]: each row's last token. every: all tokens; last: those at `ends`. Padding, which are the places after a
    row's end and the rows that a run has fewer than another, reads one past the last token.
    """

    def __init__(self, decoder: Any, runs: Sequence[Sequence[np.ndarray]], *, prefix: int) -> None:
        """runs: each run's rows of token ids. prefix: how many of them are the same at the start of all rows."""
        config, attention = decoder.config, decoder.layers[0].self_attn
        self.num_attention_heads, self.num_key_value_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = attention.head_dim
        # Of each row: its run and its place there, its own tokens, the first of them. Of each run: its tokens.
        rows = [row for run in runs for row in run]
        counts, own = np.array([len(run) for run in runs]), np.array([len(row) - prefix for row in rows])
        place = np.repeat(np.arange(len(runs)), counts), np.concatenate([np.arange(count) for count in counts])
        sizes = np.bincount(place[0], weights=own).astype(np.int64) + prefix
        total, steps = int(sizes.sum()), np.arange(own.max())
        starts = np.cumsum(own) - own + prefix * (place[0] + 1)
        # The tokens [runs, rows, places] of what rows start with, and of rows; their ids and places in a row.
        tokens = np.full((len(runs), counts.max(), len(steps)), total)
        tokens[place] = np.where(steps < own[:, None], starts[:, None] + steps, total)
        is_own = tokens < total
        shared = (np.cumsum(sizes) - sizes)[:, None, None] + np.arange(prefix)
        ids, places = np.empty((2, total), dtype=np.int64)
        ids[tokens[is_own]] = np.concatenate([row[prefix:] for run in runs for row in run])
        places[tokens[is_own]] = np.broadcast_to(prefix + steps, tokens.shape)[is_own]
        ids[shared], places[shared] = rows[0][:prefix], np.arange(prefix)
        self.ids, self.ends = torch.from_numpy(ids), torch.from_numpy(starts + own - 1)
        # What attends to what: every token, and each row's last.
        self.rotary = read_angles(decoder, torch.from_numpy(places))
        self.key_heads = self.find_heads([shared, tokens], self.num_key_value_heads)
        shape = Shape(len(runs) * self.num_attention_heads, int(counts.max()), prefix, len(steps), self.head_dim)
        scaled = self.rotary * attention.scaling
        self.every = self.ask(sizes, scaled, [shared, tokens], hide_later(len(steps))[None], shape)
        last = np.full((len(runs), counts.max(), 1), len(rows))
        last[(*place, 0)] = np.arange(len(rows))
        is_own[..., 0] = True  # a row of padding sees one place, not none
        hidden = torch.zeros(tokens.shape).masked_fill_(torch.from_numpy(~is_own), -torch.inf)
        hidden = hidden.repeat_interleave(self.num_attention_heads, dim=0).view(-1, 1, len(steps))
        self.last = self.ask(counts, scaled[self.ends], [last], hidden, replace(shape, is_last=True))

    def find_heads(self, tokens: list[np.ndarray], count: int) -> Tensor:
        """Where heads of tokens [runs, rows, places] stand among all tokens' `count`, one for each head of a query."""
        heads = np.arange(self.num_attention_heads)[:, None, None] // (self.num_attention_heads // count)
        return torch.from_numpy(np.concatenate([(part[:, None] * count + heads).ravel() for part in tokens]))

    def ask(self, sizes: np.ndarray, rotary: Tensor, tokens: list[np.ndarray], hidden: Tensor, shape: Shape) -> Asked:
        """For these tokens [runs, rows, places], `sizes` of each run."""
        padded = self.find_heads(tokens, self.num_attention_heads)
        back = torch.empty((int(sizes.sum()) + 1) * self.num_attention_heads, dtype=torch.int64)
        back[padded] = torch.arange(len(padded))
        return Asked(sizes.tolist(), rotary, padded, back[: -self.num_attention_heads], hidden, shape)


def read_angles(decoder: Any, places: Tensor) -> Tensor:
    """The rotary embedding of tokens at these places: a complex number a pair of a head, [tokens, 1, size / 2]."""
    table = torch.arange(int(places.max()) + 1)
    cos, sin = (part[0] for part in decoder.rotary_emb(torch.empty(1), position_ids=table[None]))
    half = cos.shape[1] // 2
    return torch.complex(cos[:, :half], sin[:, :half])[places][:, None]


def pair_up(heads: int, size: int) -> Tensor:
    """The order of a projection's outputs [heads * size] in which the pairs that rotate together are neighbours.

    A pair is (i, i + size / 2) of a head. Queries and keys in one order have the same products as in another.
    """
    return torch.arange(heads * size).view(heads, 2, -1).mT.flatten()


def rotate_(states: Tensor, rotary: Tensor) -> None:
    """Multiply the pairs of heads [tokens, heads * size] with the numbers of `read_angles`, in place."""
    torch.view_as_complex(states.view(len(states), -1, rotary.shape[2], 2)).mul_(rotary)


def normalize(states: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """states / sqrt(mean(states^2) + epsilon) [tokens, hidden], and what they were multiplied with [tokens, 1]."""
    length = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
    inverse = length.square_().div_(states.shape[-1]).add_(epsilon).rsqrt_()
    return states * inverse, inverse


def normalize_back(gradient: Tensor, normal: Tensor, inverse: Tensor) -> Tensor:
    """The gradient of the states, of that of the normalised ones, whose place it takes."""
    along = (gradient * normal).sum(-1, keepdim=True).mul_(inverse).div_(-normal.shape[-1])
    return gradient.mul_(inverse).addcmul_(normal, along)


def with_zeros(tokens: int, width: int) -> Tensor:
    """An empty array [tokens + 1, width] but for its last row, which padding reads: zeros."""
    array = torch.empty(tokens + 1, width)
    array[-1] = 0
    return array


class AttentionBlock(torch.autograd.Function):
    """states + the output projection of attention over their norm, for the tokens that are asked for."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, layer: Layer, layout: Layout, asked: Asked, *_: Tensor) -> Tensor:
        size, every = layout.head_dim, layout.every
        normal, inverse = normalize(states, layer.epsilons[0])
        own, residual = (normal[layout.ends], states[layout.ends]) if asked is layout.last else (normal, states)
        queries = with_zeros(asked.count, layout.num_attention_heads * size)
        keys, values = (with_zeros(every.count, layout.num_key_value_heads * size) for _ in range(2))
        merged = [layer.queries.merge(len(asked.sizes)), layer.keys_values.merge(len(asked.sizes))]
        layer.queries.forward(own, asked.sizes, merged[0], [queries[:-1]])
        layer.keys_values.forward(normal, every.sizes, merged[1], [keys[:-1], values[:-1]])
        rotate_(queries[:-1], asked.rotary)
        rotate_(keys[:-1], layout.rotary)
        queries = queries.view(-1, size).index_select(0, asked.padded)
        keys, values = (part.view(-1, size).index_select(0, layout.key_heads) for part in (keys, values))
        found, kept = attend(queries, keys, values, asked.hidden, asked.shape)
        seen = found.index_select(0, asked.back).view(asked.count, -1)
        out = torch.empty_like(residual)
        merged.append(layer.output.merge(len(asked.sizes)))
        parts = (part.split(asked.sizes) for part in (residual, seen, out))
        for (weight,), one, read, place in zip(merged[2], *parts, strict=True):
            torch.addmm(one, read, weight.T, out=place)
        ctx.layer, ctx.layout, ctx.asked, ctx.merged = layer, layout, asked, merged
        ctx.save_for_backward(normal, inverse, seen, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        layer, layout, asked, merged = ctx.layer, ctx.layout, ctx.asked, ctx.merged
        size, every = layout.head_dim, layout.every
        normal, inverse, seen, *kept = ctx.saved_tensors
        of_seen = with_zeros(asked.count, seen.shape[1])
        of_output = layer.output.backward([gradient], seen, asked.sizes, merged[2], of_seen[:-1])
        padded = attend_back(of_seen.view(-1, size).index_select(0, asked.padded), kept, asked.shape)
        of_queries = padded[0].index_select(0, asked.back).view(asked.count, -1)
        of_keys, of_values = (read_keys(part, layout) for part in padded[1:])
        rotate_(of_queries, asked.rotary.conj_physical())
        rotate_(of_keys, layout.rotary.conj_physical())
        found = torch.empty_like(normal) if ctx.needs_input_grad[0] else None
        of_both = layer.keys_values.backward([of_keys, of_values], normal, every.sizes, merged[1], found)
        if asked is every:
            of_query = layer.queries.backward([of_queries], normal, every.sizes, merged[0], found, add=True)
            found = normalize_back(found, normal, inverse).add_(gradient) if found is not None else None
        else:
            own = torch.empty_like(gradient)
            of_query = layer.queries.backward([of_queries], normal[layout.ends], asked.sizes, merged[0], own)
            if found is not None:
                found = normalize_back(found.index_add_(0, layout.ends, own), normal, inverse)
                found.index_add_(0, layout.ends, gradient)
        return found, None, None, None, *of_query, *of_both, *of_output


def read_keys(padded: Tensor, layout: Layout) -> Tensor:
    """The gradient of keys or values [tokens, heads * size], summed over the queries' heads that share one."""
    tokens = layout.every.count
    found = padded.index_select(0, layout.every.back).view(tokens, layout.num_key_value_heads, -1, layout.head_dim)
    return (found.sum(2) if found.shape[2] > 1 else found).view(tokens, -1)


class MlpBlock(torch.autograd.Function):
    """states + the gated MLP of their norm. The activated gate and its product are made anew for the backward pass."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, layer: Layer, sizes: list[int], *_: Tensor) -> Tensor:
        normal, inverse = normalize(states, layer.epsilons[1])
        gate, up = (states.new_empty(len(states), layer.inner) for _ in range(2))
        out = torch.empty_like(states)
        merged = [product.merge(len(sizes)) for product in (layer.gate_up, layer.down)]
        parts = (part.split(sizes) for part in (states, normal, gate, up, out))
        for (of_gate, of_up), (of_down,), one, read, gates, ups, place in zip(*merged, *parts, strict=True):
            torch.mm(read, of_gate.T, out=gates)
            torch.mm(read, of_up.T, out=ups)
            torch.addmm(one, nn.functional.silu(gates).mul_(ups), of_down.T, out=place)
        ctx.layer, ctx.sizes, ctx.merged = layer, sizes, merged
        ctx.save_for_backward(normal, inverse, gate, up)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        layer, sizes = ctx.layer, ctx.sizes
        normal, inverse, gate, up = ctx.saved_tensors
        found = torch.empty_like(normal)
        wide, down = Gradients(layer.gate_up, sizes), Gradients(layer.down, sizes)
        parts = (part.split(sizes) for part in (gradient, normal, gate, up, found))
        for of_both, (of_down,), given, read, gates, ups, place in zip(*ctx.merged, *parts, strict=True):
            active = nn.functional.silu(gates)
            inner = given @ of_down
            down.add(active * ups, [given])
            of_ups = active.mul_(inner)
            of_gates = torch.ops.aten.silu_backward(inner.mul_(ups), gates)
            multiply_back([of_gates, of_ups], of_both, place)
            wide.add(read, [of_gates, of_ups])
        return normalize_back(found, normal, inverse).add_(gradient), None, None, *wide.read(), *down.read()


class Layer:
    """One decoder layer and the adapters on it."""

    def __init__(self, layer: Any, layout: Layout) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        before, between = layer.input_layernorm, layer.post_attention_layernorm
        self.epsilons = before.variance_epsilon, between.variance_epsilon
        of_queries = pair_up(layout.num_attention_heads, layout.head_dim)
        of_keys = pair_up(layout.num_key_value_heads, layout.head_dim)
        self.queries = Product([read_linear(attention.q_proj, of_queries)], before.weight)
        keys, values = read_linear(attention.k_proj, of_keys), read_linear(attention.v_proj)
        self.keys_values = Product([keys, values], before.weight)
        self.output = Product([read_linear(attention.o_proj)])
        self.gate_up = Product([read_linear(mlp.gate_proj), read_linear(mlp.up_proj)], between.weight)
        self.down = Product([read_linear(mlp.down_proj)])
        self.inner = self.down.linears[0].layer.in_features

    def run(self, states: Tensor, layout: Layout, asked: Asked) -> Tensor:
        """States [asked tokens, hidden] after the layer, given those of all tokens before it."""
        parameters = [*self.queries.parameters, *self.keys_values.parameters, *self.output.parameters]
        states = AttentionBlock.apply(states, self, layout, asked, *parameters)
        return MlpBlock.apply(states, self, asked.sizes, *self.gate_up.parameters, *self.down.parameters)


def read_linear(module: Any, order: Tensor | None = None) -> AdaptedLinear:
    """A linear layer of a decoder, with the adapters that a Stack put on it."""
    if isinstance(module, nn.Linear):
        return AdaptedLinear(module, order=order)
    return AdaptedLinear(module.layer, module.low, module.high, scaling=module.scaling, order=order)


def suits(model: Any) -> bool:
    """Whether a base is one that `run_decoder` computes: Llama in float32 on a CPU, with SiLU and without biases.

    And without hooks, by which an adapter computes beside 4-bit weights: no layer's own forward is called.
    """
    config = model.config
    is_plain = config.model_type == "llama" and config.hidden_act == "silu"
    is_plain = is_plain and not (config.attention_bias or config.mlp_bias)
    is_plain = is_plain and not any(module._forward_hooks for module in model.modules())
    return is_plain and model.dtype == torch.float32 and model.device.type == "cpu"


def run_decoder(decoder: Any, inputs: Tensor, layout: Layout, *, is_last: bool) -> Tensor:
    """Final hidden states [tokens, hidden] of input embeddings; with is_last, those of `ends` [rows, hidden]."""
    states, layers = inputs, [Layer(layer, layout) for layer in decoder.layers]
    for layer in layers[:-1]:
        states = layer.run(states, layout, layout.every)
    return decoder.norm(layers[-1].run(states, layout, layout.last if is_last else layout.every))
