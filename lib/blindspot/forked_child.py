"""What a forked process sets right before it is a kernel or a job: all that its parent could not prepare for it.

A notebook must find in a forked kernel what it finds in a plain one; `bench/kernel_start.py` compares the two.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def enter_process(request: dict[str, Any], files: list[int], set_by_imports: dict[str, str]) -> None:
    """Give a fresh child what a process of its own has: session, files, environment, folder."""
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    for stream, file in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.reconfigure(line_buffering=file == 2 or os.isatty(file))  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(set_by_imports | request["environment"])
    os.chdir(request["cwd"])
    tempfile.tempdir = None


def reseed() -> None:
    """Draw new states for the generators that seed themselves when imported, the server's in every child otherwise.

    Python's own `random` does so at each fork.
    """
    import datasets.fingerprint
    import numpy as np
    import torch

    np.random.seed()
    torch.default_generator.seed()
    datasets.fingerprint.fingerprint_rng.seed()


def use_threads(threads: int) -> None:
    """Have the libraries use as many threads as if they had read OMP_NUM_THREADS when imported."""
    import pyarrow
    import torch

    if threads == 1:
        return  # as imported
    torch.set_num_threads(threads)
    pyarrow.set_cpu_count(threads)
    maps = Path("/proc/self/maps").read_text().splitlines()
    for library in {line.split()[-1] for line in maps if "openblas" in line}:
        for name in ("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads"):
            with contextlib.suppress(AttributeError):
                getattr(ctypes.CDLL(library), name)(threads)


def run_kernel(arguments: list[str]) -> None:
    """Be an IPython kernel, as `python -m ipykernel_launcher` is."""
    import ipywidgets
    import pandas as pd
    from ipykernel.kernelapp import IPKernelApp

    reseed()
    use_threads(int(os.environ["OMP_NUM_THREADS"]))
    sys.argv = [str(Path(sys.modules["ipykernel"].__path__[0]).with_name("ipykernel_launcher.py")), *arguments]
    handlers = list_stderr_handlers()
    app = IPKernelApp.instance(parent_handle=int(os.environ["JPY_PARENT_PID"]))  # its default was read at import
    app.initialize(arguments)
    ipywidgets.register_comm_target()  # what its import does where IPython runs
    pd.set_option("display.encoding", sys.stdout.encoding)
    for handler in handlers:
        handler.setStream(sys.stderr)  # the notebook's, as where the library is imported in it
    app.start()


def list_stderr_handlers() -> list[logging.StreamHandler[Any]]:
    """The libraries' log handlers that write to this process's stderr."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
    handlers = [handler for logger in loggers for handler in logger.handlers]
    return [item for item in handlers if isinstance(item, logging.StreamHandler) and item.stream is sys.stderr]


def run_job(arguments: list[str]) -> int:
    """Run a command of the library's in this process."""
    from blindspot.__main__ import main

    if not sys.flags.safe_path:
        sys.path.insert(0, str(Path.cwd()))
    sys.argv = [str(Path(__file__).with_name("__main__.py")), *arguments]
    return main(arguments)
