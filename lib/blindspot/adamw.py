"""AdamW over K runs at once: each with its own rate and its own clipped norm, as if it were alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from blindspot.study import Training

BETAS, EPSILON = (0.9, 0.999), 1.0e-8


class FlatAdamW:
    """AdamW with a rate and a clipped norm for each run: K rows of one tensor, one fused sweep over each.

    The stacked parameters [K, ...] and their gradients become views of `values` and `gradients` [K, all of a run].
    """

    def __init__(self, parameters: list[nn.Parameter], settings: Training, moments: Sequence[Any] = ()) -> None:
        """moments: torch's state of each run, as `read_moments` gave it; nothing or empty for a new one."""
        self.settings = settings
        runs = parameters[0].shape[0]
        sizes = [parameter[0].numel() for parameter in parameters]
        self.values = torch.empty((runs, sum(sizes)), device=parameters[0].device)
        self.gradients = torch.zeros_like(self.values)
        for parameter, start, size in zip(parameters, _starts(sizes), sizes, strict=True):
            place = self.values[:, start : start + size].view(parameter.shape)
            parameter.data = place.copy_(parameter.data)
            parameter.grad = self.gradients[:, start : start + size].view(parameter.shape)
        self.rows = [nn.Parameter(row) for row in self.values]
        for row, gradient in zip(self.rows, self.gradients, strict=True):
            row.grad = gradient
        groups = [{"params": [row], "lr": 0.0} for row in self.rows]
        decay = settings.weight_decay
        self.optimizer = torch.optim.AdamW(groups, betas=BETAS, eps=EPSILON, weight_decay=decay, fused=True)
        for row, state in zip(self.rows, moments or [{}] * runs, strict=True):
            if state:
                self.optimizer.state[row] = state

    def read_moments(self) -> list[Any]:
        """torch's state of each run: its step and its two moments."""
        return [self.optimizer.state[row] for row in self.rows]

    def backward(self, loss: Tensor) -> None:
        """Fill the gradients anew."""
        self.gradients.zero_()
        with warnings.catch_warnings():  # they lie as the parameters do: in rows of one tensor
            warnings.filterwarnings("ignore", "grad and param do not obey the gradient layout contract")
            loss.backward()

    @torch.no_grad()
    def step(self, rates: list[float]) -> None:
        """Clip each run's gradients to max_grad_norm and update each at its own rate."""
        norms = torch.linalg.vector_norm(self.gradients, dim=1, keepdim=True)
        self.gradients.mul_((self.settings.max_grad_norm / (norms + 1e-6)).clamp(max=1.0))
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.optimizer.step()


def _starts(sizes: list[int]) -> list[int]:
    """Where each part begins."""
    return [sum(sizes[:place]) for place in range(len(sizes))]
