"""Causal attention of rows that start with the same tokens, with gradients of our own.

The queries of a run's rows meet the keys of what they start with in one product a head; each row meets its own keys in
another. Weights are kept, so that the backward pass computes nothing twice: rows are short here. A test holds both
passes against torch's scaled_dot_product_attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """What attends: `groups` (heads of runs) of `rows` rows of `own` places, with `shared` places before them.

    An array of heads is flat, [groups * shared + groups * rows * own, size]: first the shared ones, then the rows'.
    With is_last, each row asks at one place only, and the shared places do not ask.
    """

    groups: int
    rows: int
    shared: int
    own: int
    size: int
    is_last: bool = False

    def split(self, heads: Tensor, shared: int) -> tuple[Tensor, Tensor]:
        """The shared ones [groups, shared, size] and the rows' [groups * rows, places, size]."""
        first, rows = heads.tensor_split([self.groups * shared])
        return first.view(self.groups, shared, self.size), rows.view(self.groups * self.rows, -1, self.size)

    def split_queries(self, heads: Tensor) -> tuple[Tensor, Tensor]:
        """As `split`, of what asks."""
        return self.split(heads, 0 if self.is_last else self.shared)

    def split_keys(self, heads: Tensor) -> tuple[Tensor, Tensor]:
        """As `split`, of what is seen."""
        return self.split(heads, self.shared)

    def join(self, rows: Tensor) -> Tensor:
        """[groups, rows * places, features] of the rows' [groups * rows, places, features]."""
        return rows.view(self.groups, -1, rows.shape[2])

    def divide(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Of an array [groups * rows, places, shared + own]: what is shared, joined, and what is the rows' own."""
        return self.join(seen)[..., : self.shared], seen[..., self.shared :]


def hide_later(length: int) -> Tensor:
    """[length, length]: 0 for earlier places and the own, -inf for later ones."""
    return torch.full((length, length), -torch.inf).triu_(1)


def attend(queries: Tensor, keys: Tensor, values: Tensor, hidden: Tensor, shape: Shape) -> tuple[Tensor, Any]:
    """Weighted values of each query, flat as `queries`, which are scaled already; and what `attend_back` needs.

    hidden: 0 or -inf [1 or groups * rows, places, own], of a row's own places; what is shared is seen by all.
    """
    (first, asking), (shared_keys, own_keys) = shape.split_queries(queries), shape.split_keys(keys)
    shared_values, own_values = shape.split_keys(values)
    before = torch.bmm(shape.join(asking), shared_keys.mT).view(*asking.shape[:2], shape.shared)
    weights = torch.cat([before, torch.baddbmm(hidden, asking, own_keys.mT)], dim=2).softmax(2)
    found = torch.empty_like(queries)
    of_first, of_rows = shape.split_queries(found)
    of_shared, of_own = shape.divide(weights)
    torch.bmm(of_shared, shared_values, out=shape.join(of_rows))
    of_rows.baddbmm_(of_own, own_values)
    first_weights = None
    if first.numel():
        first_weights = torch.baddbmm(hide_later(shape.shared).to(first), first, shared_keys.mT).softmax(2)
        torch.bmm(first_weights, shared_values, out=of_first)
    return found, (queries, keys, values, weights, first_weights)


def attend_back(gradient: Tensor, kept: Any, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, flat, given that of what `attend` found."""
    queries, keys, values, weights, first_weights = kept
    (first, asking), (shared_keys, own_keys) = shape.split_queries(queries), shape.split_keys(keys)
    shared_values, own_values = shape.split_keys(values)
    of_queries, of_keys, of_values = (torch.empty_like(part) for part in (queries, keys, values))
    (of_first, of_asking), (of_shared_keys, of_own_keys) = shape.split_queries(of_queries), shape.split_keys(of_keys)
    of_shared_values, of_own_values = shape.split_keys(of_values)
    given_first, given = shape.split_queries(gradient)

    before = torch.bmm(shape.join(given), shared_values.mT).view(*given.shape[:2], shape.shared)
    scores = torch.cat([before, torch.bmm(given, own_values.mT)], dim=2)
    scores = torch._softmax_backward_data(scores, weights, 2, weights.dtype)
    (shared_scores, own_scores), (shared_weights, own_weights) = shape.divide(scores), shape.divide(weights)
    torch.bmm(shared_scores, shared_keys, out=shape.join(of_asking))
    of_asking.baddbmm_(own_scores, own_keys)
    torch.bmm(own_scores.mT, asking, out=of_own_keys)
    torch.bmm(own_weights.mT, given, out=of_own_values)
    torch.bmm(shared_scores.mT, shape.join(asking), out=of_shared_keys)
    torch.bmm(shared_weights.mT, shape.join(given), out=of_shared_values)
    if first_weights is not None:
        scores = torch.bmm(given_first, shared_values.mT)
        scores = torch._softmax_backward_data(scores, first_weights, 2, weights.dtype)
        torch.bmm(scores, shared_keys, out=of_first)
        of_shared_keys.baddbmm_(scores.mT, first)
        of_shared_values.baddbmm_(first_weights.mT, given_first)
    return of_queries, of_keys, of_values
