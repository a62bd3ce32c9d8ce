"""Free memory: of the machine, of a GPU, and the part of it that one job of the grid may take."""

from __future__ import annotations

import ctypes

import torch

from blindspot.device import is_gpu
from blindspot.grid import count_cores, free_memory_mb
from blindspot.study import Resources

MB = 2**20
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def free_memory(device: torch.device) -> int:
    """Bytes that are free now: on a GPU with those that torch holds and does not use, else of the main memory."""
    if not is_gpu(device):
        return free_memory_mb() * MB
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def free_for_job(device: torch.device, resources: Resources) -> int:
    """Bytes that this job may still take beside the jobs that the grid runs at the same time; 0 where none are left.

    On the CPU: what is left of the plan (model_memory_mb, by which the grid shares the machine out), at most what is
    free. On a GPU: what is free there, since a job has the GPUs that it asks for to itself; where the study asks for
    none (`gpus: 0`), that over the number of jobs that the cores allow side by side.
    """
    free = free_memory(device)
    if is_gpu(device):
        return free if resources.gpus else free // max(1, count_cores() // resources.threads)
    return max(0, min(free, resources.model_memory_mb * MB - held_memory()))


def held_memory() -> int:
    """Bytes of main memory that this process holds (resident)."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def show_mb(size: float) -> str:
    """Bytes as megabytes for a reader."""
    return f"{size / MB:,.0f} MB"


def keep_freed_memory() -> bool:
    """Let glibc keep what tensors free for the next ones, instead of giving it back and faulting every page in anew.

    On a CPU that is a fifth to a quarter of a training step of small models (executed/LOG.md). Holds for the whole
    process; allocations of 1 GiB and more still go back. Returns whether it was done: False without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no such function: macOS, Windows, musl
        return False
    return all([mallopt(option, size) for option, size in ((M_MMAP_THRESHOLD, 2**30), (M_TRIM_THRESHOLD, 2**31 - 1))])
