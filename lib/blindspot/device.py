"""What only a GPU needs: CUDA graphs, copies that do not wait, lengths rounded up so that few shapes occur.

On the CPU `Captured` calls its function as it is, so that everything built on it is tested without a device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

USE_GRAPHS = False  # until tests/test_gpu.py has passed on a device the same functions run eagerly there
WARM_UP_CALLS = 3


def is_gpu(device: torch.device) -> bool:
    """Whether the paths for a GPU are taken: static shapes, slots, the counter-based dropout."""
    return device.type == "cuda"


def round_up(length: int, multiple: int) -> int:
    """The length bucket of a batch: the next multiple."""
    return -(-length // multiple) * multiple


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to the device; to a GPU from pinned memory, so that the host goes on at once."""
    return tensor.pin_memory().to(device, non_blocking=True) if is_gpu(device) else tensor.to(device)


def fill(place: Tensor, values: Tensor) -> None:
    """Write CPU values into a tensor that stays where it is."""
    place.copy_(values.pin_memory() if is_gpu(place.device) else values, non_blocking=True)


class Captured:
    """One function without arguments as a CUDA graph: captured at the first call, replayed at every call.

    The function reads and writes tensors that stay where they are, gives the same when it is called again on the same
    inputs, and asks the device for nothing. What it returns is overwritten by the next replay. It comes with each call
    and is not kept: its owner owns the graph, and the two would keep each other's memory alive.
    pool: memory that graphs share which never run at the same time (torch.cuda.graph_pool_handle()); None: its own.
    """

    def __init__(self, device: torch.device, *, pool: Any = None) -> None:
        self.device, self.pool = device, pool
        self.graph: Any = None
        self.output: Any = None

    def __call__(self, function: Callable[[], Any]) -> Any:
        if not (is_gpu(self.device) and USE_GRAPHS):
            return function()
        if self.graph is None:
            self.capture(function)
        self.graph.replay()
        return self.output

    def capture(self, function: Callable[[], Any]) -> None:
        """Run the function on a stream of its own (libraries set themselves up then), then record it."""
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                function()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            self.output = function()
        self.graph = graph


def share_pool(device: torch.device) -> Any:
    """A memory pool for graphs that run one at a time; None without a GPU."""
    return torch.cuda.graph_pool_handle() if is_gpu(device) and USE_GRAPHS else None
