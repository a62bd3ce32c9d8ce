"""The decoder where only each row's last token is asked for, as T asks: the last layer works for that token alone.

Its keys and values are of all tokens; its queries, output, MLP and norm of one token a row. Of four layers that saves
a fifth, of 32 little. Norms and rotary embeddings are autograd functions that write fewer arrays than transformers'
own. A test holds hidden states and gradients against transformers' LlamaModel; other architectures run through theirs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

States = list[tuple[Tensor, Tensor]]  # keys and values [runs, heads, tokens, head_dim] of each layer


def read_last_tokens(decoder: Any, inputs: Tensor, ends: Tensor, *, prefix: States | None = None) -> Tensor:
    """Final hidden states [rows, hidden] of each row's token at `ends` [rows], from embeddings [rows, length, hidden].

    prefix: keys and values of tokens before every row, of each of `runs` equally large groups of rows (1: of all).
    """
    if decoder.config.model_type != "llama":
        cache = DynamicCache([repeat_rows(layer, len(inputs)) for layer in prefix]) if prefix else None
        return pick(decoder(inputs_embeds=inputs, past_key_values=cache, use_cache=bool(cache))[0], ends)
    before = prefix[0][0].shape[2] if prefix else 0
    places = torch.arange(before + inputs.shape[1], device=inputs.device)
    cos, sin = (part[0] for part in decoder.rotary_emb(inputs, position_ids=places[None, before:]))
    causal = places[None, None, None] <= places[before:, None] if before else None
    hidden = inputs
    for number, layer in enumerate(decoder.layers[:-1]):
        past = repeat_rows(prefix[number], len(inputs)) if prefix else None
        hidden = run_layer(layer, hidden, (cos, sin), past=past, allowed=causal, picked=None)
    past = repeat_rows(prefix[-1], len(inputs)) if prefix else None
    allowed = places[None, None, None] <= (before + ends)[:, None, None, None]
    hidden = run_layer(decoder.layers[-1], hidden, (cos, sin), past=past, allowed=allowed, picked=ends)
    return normalize(hidden[:, 0], decoder.norm)


def run_layer(
    layer: Any,
    hidden: Tensor,
    rotary: tuple[Tensor, Tensor],
    *,
    past: tuple[Tensor, Tensor] | None,
    allowed: Tensor | None,
    picked: Tensor | None,
) -> Tensor:
    """One decoder layer: [rows, length, hidden], or [rows, 1, hidden] where one token a row is `picked`.

    allowed: which keys a query sees, bool, None for all up to its own where there is no past.
    """
    attention, (cos, sin) = layer.self_attn, rotary
    states = normalize(hidden, layer.input_layernorm)
    keys = rotate(split_heads(attention.k_proj(states), attention), cos, sin)
    values = split_heads(attention.v_proj(states), attention)
    if picked is not None:
        states, hidden = pick(states, picked)[:, None], pick(hidden, picked)[:, None]
        cos, sin = cos[picked][:, None, None], sin[picked][:, None, None]
    queries = rotate(split_heads(attention.q_proj(states), attention), cos, sin)
    if past:
        keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
    seen = nn.functional.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=allowed,
        is_causal=allowed is None,
        scale=attention.scaling,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )
    hidden = hidden + attention.o_proj(seen.transpose(1, 2).flatten(2))
    return hidden + layer.mlp(normalize(hidden, layer.post_attention_layernorm))


def pick(states: Tensor, places: Tensor) -> Tensor:
    """[rows, features] of [rows, length, features], each row at its own place."""
    return states[torch.arange(len(states), device=states.device), places]


def split_heads(states: Tensor, attention: Any) -> Tensor:
    """[rows, heads, length, head_dim] of [rows, length, heads * head_dim]."""
    return states.view(*states.shape[:2], -1, attention.head_dim).transpose(1, 2)


def repeat_rows(layer: tuple[Tensor, Tensor], rows: int) -> tuple[Tensor, Tensor]:
    """Keys and values [runs, ...] repeated for the rows of each run: [rows, ...]; a view for one run."""
    keys, values = layer
    if len(keys) == 1:
        return keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)
    each = rows // len(keys)
    return keys.repeat_interleave(each, dim=0), values.repeat_interleave(each, dim=0)


def normalize(states: Tensor, norm: Any) -> Tensor:
    """What transformers' LlamaRMSNorm gives; its weight is frozen."""
    return RmsNorm.apply(states, norm.weight, norm.variance_epsilon)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of queries or keys [rows, heads, length, head_dim], as transformers' for Llama."""
    return Rotation.apply(states, cos, sin)


class RmsNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, in float32; the gradient is that of x alone."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = states.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = length.square_().div_(wide.shape[-1]).add_(epsilon).rsqrt_()
        normal = wide * inverse
        ctx.save_for_backward(normal, inverse, weight)
        return weight * normal.to(states.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        normal, inverse, weight = ctx.saved_tensors
        wide = (gradient * weight).float()
        along = (wide * normal).sum(-1, keepdim=True).div_(-normal.shape[-1])
        return torch.addcmul(wide, normal, along).mul_(inverse).to(gradient.dtype), None, None


class Rotation(torch.autograd.Function):
    """Rotates the pairs (i, i + half) of the last dimension; backward rotates back. The angles need no gradient."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return turn(states, cos, sin)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return turn(gradient, cos, -sin), None, None


def turn(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """cos and sin [..., length, head_dim], both halves of them alike."""
    half = states.shape[-1] // 2
    first, second = states[..., :half], states[..., half:]
    turned = torch.empty_like(states)
    torch.mul(first, cos[..., :half], out=turned[..., :half]).addcmul_(second, sin[..., :half], value=-1)
    torch.mul(second, cos[..., :half], out=turned[..., half:]).addcmul_(first, sin[..., :half])
    return turned
