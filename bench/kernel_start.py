"""How long a kernel takes until the stack is imported: forked from the fork server against a plain one.

`python bench/kernel_start.py [ROUNDS]`. Each round starts both kinds, one after the other, in an order that changes
from round to round, and runs the same imports. The ratio counts only if the gate holds: a forked kernel, asked for
what a notebook can see of its process, answers as a plain one does, and shares no random numbers with another.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from jupyter_client import AsyncKernelManager

from blindspot.execute import kernel_config
from blindspot.forking import ForkedProcess, fork_servers
from blindspot.kernels import ForkedKernelManager

IMPORTS = """
import bitsandbytes, datasets, ipywidgets, matplotlib.figure, pandas, peft, plotly.graph_objects, pyarrow.parquet
import scipy.stats, torch, transformers
import transformers.models.llama.modeling_llama
import blindspot.audit, blindspot.evaluation, blindspot.figures, blindspot.generation, blindspot.training
"""

# What a notebook can see of its process after the imports, as JSON. Left out: ids of processes and files, and
# sys.modules beyond what was imported by name, since to have more of it is the purpose.
LOOK = """
import sys as _s
def _look():
    import asyncio, json, logging, os, random, signal, socket, stat, threading, time, warnings
    import matplotlib, numpy, pandas, plotly.io, pyarrow, torch, transformers
    import comm
    def kind(file):
        mode = os.stat(file).st_mode
        return "socket" if stat.S_ISSOCK(mode) else "pipe" if stat.S_ISFIFO(mode) else "other"
    files = [kind(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")]
    streams = {id(_s.stderr): "stderr", id(_s.stdout): "stdout"}
    handlers = {name: [streams.get(id(getattr(h, "stream", None)), "other") for h in logger.handlers]
                for name, logger in logging.root.manager.loggerDict.items()
                if isinstance(logger, logging.Logger) and logger.handlers}
    return {
        "names": sorted(name for name in globals() if not name.startswith("_i") and name != "_look"),
        "main": sorted(vars(_s.modules["__main__"])) == sorted(globals()),
        "environment": {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
        "cwd": os.getcwd(), "path": _s.path, "argv": [_s.argv[0], len(_s.argv)],
        "meta_path": [str(getattr(f, "__name__", type(f).__name__)) for f in _s.meta_path if "Editable" not in str(f)],
        "flags": list(_s.flags), "executable": _s.executable,
        "recursion": _s.getrecursionlimit(), "session": os.getsid(0) == os.getpid() == os.getpgrp(),
        "sockets": files.count("socket"), "pipes": files.count("pipe"),
        "threads": sorted(type(thread).__name__ for thread in threading.enumerate()),
        "signals": {str(s): str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)},
        "warnings": sorted(str(entry[:3]) for entry in warnings.filters),
        "handlers": handlers, "displayhook": type(_s.displayhook).__name__, "stdout": type(_s.stdout).__name__,
        "comm_targets": sorted(comm.get_comm_manager().targets),
        "matplotlib": {k: str(v) for k, v in matplotlib.rcParams.items()},
        "pandas": str(pandas._config.config._global_config),
        "numpy": str(numpy.get_printoptions()), "plotly": plotly.io.renderers.default,
        "tqdm": str(__import__("tqdm.auto").auto.tqdm.__mro__), "arrow_threads": pyarrow.cpu_count(),
        "torch_threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "torch": [str(torch.get_default_dtype()), torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
                  torch.are_deterministic_algorithms_enabled()],
        "cuda": torch.cuda.is_initialized(), "backend": str(_s.modules.get("matplotlib.pyplot")),
    }
def _draw():
    import datasets.fingerprint, numpy, random, tempfile, torch, uuid
    return [random.random(), float(numpy.random.rand()), float(torch.rand(1)), str(uuid.uuid4()), tempfile.mktemp(),
            datasets.fingerprint.generate_random_fingerprint()]
import json as _j
print(_j.dumps({"state": _look(), "draws": _draw()}))
"""


def measure_kernel_start(rounds: int = 3) -> dict[str, Any]:
    """Paired times of both kinds of kernel, in seconds, and the gate.

    Returns plain and forked (lists, by round), ratio (median), spread (smallest and largest ratio), gate (bool),
    differences (what a forked kernel shows otherwise), resident (rss) and proportional set size (pss) of a kernel of
    either kind in MB. The server's own start is in none of the times: a study pays for it once.
    """
    times: dict[str, list[float]] = {"plain": [], "forked": []}
    memory: dict[str, float] = {}
    kinds = [("plain", AsyncKernelManager), ("forked", ForkedKernelManager)]
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}), fork_servers() as variables:
        os.environ.update(variables)
        differences = find_differences()  # waits for the server's imports
        for number in range(rounds):
            for name, manager in kinds if number % 2 else kinds[::-1]:
                done = asyncio.run(start_kernel(manager, IMPORTS))
                times[name].append(round(done["seconds"], 3))
                memory |= {f"{name}_{key}_mb": value for key, value in done["memory"].items()}
    ratios = [a / b for a, b in zip(times["plain"], times["forked"], strict=True)]
    return {
        **times,
        "ratio": round(statistics.median(ratios), 2),
        "spread": [round(min(ratios), 2), round(max(ratios), 2)],
        "gate": not differences,
        "differences": differences,
        **memory,
    }


def find_differences() -> list[str]:
    """The gate: start two forked kernels and a plain one, and compare what a notebook sees in them; empty if equal."""
    managers = (AsyncKernelManager, ForkedKernelManager, ForkedKernelManager)
    plain, first, second = (asyncio.run(start_kernel(manager, IMPORTS + LOOK))["seen"] for manager in managers)
    return compare_kernels(plain, first, second)


def compare_kernels(plain: dict[str, Any], first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """What is not in a forked kernel as it is in a plain one; and random numbers that two forked kernels share."""
    expected, found = plain["state"], first["state"]
    different = [name for key in expected for name in name_differences(key, expected[key], found[key])]
    shared = [f"both forked kernels drew {a}" for a, b in zip(first["draws"], second["draws"], strict=True) if a == b]
    return different + shared


def name_differences(key: str, expected: Any, found: Any) -> list[str]:
    """Where two values differ, in dictionaries by their keys; JPY_PARENT_PID and the like are equal here."""
    if isinstance(expected, dict) and isinstance(found, dict):
        names = sorted({*expected, *found})
        return [t for n in names for t in name_differences(f"{key}.{n}", expected.get(n), found.get(n))]
    return [f"{key}: {expected!r} in a plain kernel, {found!r} in a forked one"] if expected != found else []


async def start_kernel(manager: type[AsyncKernelManager], code: str) -> dict[str, Any]:
    """Start a kernel, run the code in it and stop it: seconds until the code is done, memory, and what it printed.

    Raises RuntimeError where a kernel that should have been forked is a plain one.
    """
    with tempfile.TemporaryDirectory(prefix="blindspot-") as sockets:
        started = time.perf_counter()
        kernel = manager(kernel_name="python3", config=kernel_config(Path(sockets)))
        await kernel.start_kernel()
        forked = isinstance(kernel.provisioner.process, ForkedProcess)
        if forked != issubclass(manager, ForkedKernelManager):
            await kernel.shutdown_kernel(now=True)
            raise RuntimeError("the fork server refused; it said why on stderr")
        client = kernel.client()
        client.start_channels()
        printed: list[str] = []
        try:
            await client.wait_for_ready(timeout=120)
            reply = await client.execute_interactive(
                code, timeout=120, output_hook=lambda message: printed.append(message["content"].get("text", ""))
            )
            seconds = time.perf_counter() - started
            assert reply["content"]["status"] == "ok", reply["content"].get("evalue")
            memory = read_memory(kernel.provisioner.pid)
        finally:
            client.stop_channels()
            await kernel.shutdown_kernel(now=True)
    lines = [line for line in "".join(printed).splitlines() if line.startswith("{")]
    return {"seconds": seconds, "memory": memory, "seen": json.loads(lines[-1]) if lines else None}


def read_memory(pid: int) -> dict[str, float]:
    """Resident and proportional set size of a process, MB; empty where the system does not say."""
    path = Path(f"/proc/{pid}/smaps_rollup")
    rows = [line.split() for line in path.read_text().splitlines()] if path.is_file() else []
    return {row[0][:-1].lower(): round(int(row[1]) / 1024) for row in rows if row[0] in ("Rss:", "Pss:")}


def main() -> int:
    """Print the measurement; the exit code is 1 where the gate fails."""
    result = measure_kernel_start(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    print(json.dumps(result, indent=1))
    return 0 if result["gate"] else 1


if __name__ == "__main__":
    sys.exit(main())
