"""Products of K runs with frozen linear layers and their LoRA, which is added to the weights for the time of a product.

So a run costs what the plain model costs, forwards and for the gradient of its input; the gradients of low and high go
through their r columns. For dropout, which acts on LoRA's input alone, there is StackedLora in stacking.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from blindspot.quantized import PackedLinear

KEPT_BYTES = 4 * 2**20  # merged weights of a product up to here wait for the backward pass; larger ones are made anew


class AdaptedLinear:
    """A frozen layer and its stacked LoRA: low [K, in, r] and high [K, r, out], both None where it is not adapted.

    order: the outputs come in this order [out], as far as states and their gradients go; None is the layer's own.
    """

    def __init__(
        self, layer: Any, low: Any = None, high: Any = None, *, scaling: float = 1.0, order: Tensor | None = None
    ) -> None:
        self.layer, self.parameters, self.scaling, self.order = layer, (low, high), scaling, order
        self.low = None if low is None else low.detach()
        self.high = None if high is None else high.detach() if order is None else high.detach().index_select(2, order)

    def merge(self, runs: int, norm: Tensor | None) -> Iterator[Tensor]:
        """Each run's weights [out, in], times the weight [in] of the norm that its input came from."""
        plain = self.layer.dequantize().float() if isinstance(self.layer, PackedLinear) else self.layer.weight
        plain = plain if self.order is None else plain.index_select(0, self.order)
        if self.low is None or self.high is None:
            yield from [plain if norm is None else plain * norm] * runs
            return
        many = max(1, KEPT_BYTES // (4 * plain.numel()))
        for low, high in zip(self.low.mT.split(many), self.high.mT.split(many), strict=True):
            weights = torch.baddbmm(plain, high, low, alpha=self.scaling)
            yield from (weights if norm is None else weights.mul_(norm)).unbind()

    def finish(self, of_low: Tensor, of_high: Tensor) -> list[Tensor | None]:
        """The gradients of low and high as they were given, of those of LoRA without its scaling."""
        of_high = of_high.mul_(self.scaling)
        if self.order is not None:
            of_high = torch.empty_like(of_high).index_copy_(2, self.order, of_high)
        return [of_low.mul(self.scaling), of_high]


class Product:
    """Linear layers of the same input, whose norm's weight, if any, is multiplied into theirs."""

    def __init__(self, linears: Sequence[AdaptedLinear], norm: Tensor | None = None) -> None:
        self.linears, self.norm = linears, norm
        self.parameters = [part for linear in linears for part in linear.parameters]
        self.size = sum(linear.layer.in_features * linear.layer.out_features for linear in linears)

    def merge(self, runs: int) -> Merged:
        """Each run's weights."""
        return Merged(self, runs)

    def forward(self, states: Tensor, sizes: list[int], merged: Merged, outs: Sequence[Tensor]) -> None:
        """Write states [tokens, in] times each run's weights into outs [tokens, out], one a layer.

        sizes: the number of tokens of each run.
        """
        places = zip(*(out.split(sizes) for out in outs), strict=True)
        for part, weights, into in zip(states.split(sizes), merged, places, strict=True):
            for weight, place in zip(weights, into, strict=True):
                torch.mm(part, weight.T, out=place)

    def backward(
        self,
        gradients: Sequence[Tensor],
        states: Tensor,
        sizes: list[int],
        merged: Merged,
        found: Tensor | None,
        *,
        add: bool = False,
    ) -> list[Tensor | None]:
        """Gradients of every low and high, as in `parameters`, given those of the outputs.

        found: place [tokens, in] for the gradient of the states, or None; add: on top of what stands there. Runs come
        in turn, so that all that is done with one finds its arrays in the processor's cache.
        """
        adapters = Gradients(self, sizes)
        places = [None] * len(sizes) if found is None else found.split(sizes)
        given = zip(*(gradient.split(sizes) for gradient in gradients), strict=True)
        for part, one, weights, place in zip(states.split(sizes), given, merged, places, strict=True):
            if place is not None:
                multiply_back(one, weights, place, add=add)
            adapters.add(part, one)
        return adapters.read()


class Merged:
    """Each run's weights [out, in], one a layer of a product: kept where they are small, else made for each reading."""

    def __init__(self, product: Product, runs: int) -> None:
        self.product, self.runs = product, runs
        self.kept = list(self.make()) if 4 * runs * product.size <= KEPT_BYTES else None

    def make(self) -> Iterator[tuple[Tensor, ...]]:
        yield from zip(*(linear.merge(self.runs, self.product.norm) for linear in self.product.linears), strict=True)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return self.make() if self.kept is None else iter(self.kept)


def multiply_back(gradients: Sequence[Tensor], weights: Sequence[Tensor], found: Tensor, *, add: bool = False) -> None:
    """Write the gradient of the input of layers into `found`, or add it, given those of their outputs."""
    for number, (gradient, weight) in enumerate(zip(gradients, weights, strict=True)):
        if add or number:
            found.addmm_(gradient, weight)
        else:
            torch.mm(gradient, weight, out=found)


class Gradients:
    """Gradients of the stacked LoRA of layers of one input, run by run.

    All their lows go through one product: the r columns of one alone are too few for it to be fast.
    """

    def __init__(self, product: Product, sizes: list[int]) -> None:
        self.linears, self.norm = product.linears, product.norm
        self.adapted = [number for number, linear in enumerate(self.linears) if linear.low is not None]
        if not self.adapted:
            return
        lows: list[Any] = [self.linears[number].low for number in self.adapted]
        highs: list[Any] = [self.linears[number].high for number in self.adapted]
        low = torch.cat(lows, dim=2)
        self.ranks = [part.shape[2] for part in lows]
        self.of_low, self.of_highs = torch.empty_like(low), [torch.empty_like(high) for high in highs]
        by_run = [zip(*(high.mT.unbind() for high in highs), strict=True)]
        by_run += [zip(*(high.unbind() for high in self.of_highs), strict=True)]
        low = low if self.norm is None else low.mul_(self.norm[:, None])
        self.runs = zip(low.unbind(), self.of_low.unbind(), *by_run, strict=True)
        self.inner = low.new_empty(max(sizes), low.shape[2])

    def add(self, states: Tensor, gradients: Sequence[Tensor]) -> None:
        """The next run's: its input [tokens, in] and the gradients of its outputs [tokens, out], one a layer."""
        if not self.adapted:
            return
        low, of_low, highs, of_highs = next(self.runs)
        inner = self.inner[: len(states)]
        parts = inner.split(self.ranks, dim=1)
        for number, part, high in zip(self.adapted, parts, highs, strict=True):
            torch.mm(gradients[number], high, out=part)
        torch.mm(states.T, inner, out=of_low)
        torch.mm(states, low, out=inner)
        for number, part, into in zip(self.adapted, parts, of_highs, strict=True):
            torch.mm(part.T, gradients[number], out=into)

    def read(self) -> list[Tensor | None]:
        """Of each layer's low and high in turn; None for layers that are not adapted."""
        found: list[Tensor | None] = [None] * (2 * len(self.linears))
        if self.adapted:
            if self.norm is not None:
                self.of_low.mul_(self.norm[:, None])
            parts = self.of_low.split(self.ranks, dim=2)
            for number, low, high in zip(self.adapted, parts, self.of_highs, strict=True):
                found[2 * number : 2 * number + 2] = self.linears[number].finish(low, high)
        return found
