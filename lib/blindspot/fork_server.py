"""A fork server: imports a stack once, then forks processes that have it from their first moment.

`python -m blindspot.fork_server KIND SOCKET PIPE`, started by `make study` (see `forking.fork_servers`): one for
kernels, and one for jobs, which import papermill and no torch. Importing torch, transformers and peft takes longer
than many a run of the grid; a fork shares what was imported, page by page.

A fork is only as clean as its parent. So the server computes nothing, holds one thread, and before each fork looks
whether that still is so (`find_obstacle`): a process with more threads, an initialised CUDA or a torch that has worked
can't be forked safely. Libraries that look at their surroundings when imported are given those of a kernel, or are
left for the kernel to import; what remains is set right in the child (`forked_child`).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from blindspot.forked_child import enter_process, run_job, run_kernel
from blindspot.forking import MESSAGE_BYTES, describe_software

# ipykernel comes first: tqdm chooses the notebook's bars where it finds it. pyplot and plotly.io are not here: they
# look for a running IPython when imported.
STACK = (
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "ipykernel.zmqshell",
    "matplotlib_inline.backend_inline",
    "numpy",
    "pandas",
    "pyarrow.compute",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "scipy.stats",
    "plotly.graph_objects",
    "plotly.subplots",
    "ipywidgets",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "datasets",
)
JOB_STACK = ("papermill", "papermill.execute", "blindspot.runs", "blindspot.execute", "blindspot.kernels")
TORCH_STACK = (
    "transformers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llama.tokenization_llama",
    "bitsandbytes",
    "peft",
    "safetensors.torch",
)
# What no notebook imports stays out of kernels: it brings papermill's surroundings along.
NOT_PRELOADED = tuple(f"blindspot.{name}" for name in ("__main__", "execute", "fork_server", "kernels", "launch"))

# What Snakemake sets for a job of so many threads; the libraries read it when imported.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
# Set while the stack is imported: one thread in each library; the back end that a kernel sets before a notebook's
# first import; CUDA counted without being initialised.
IMPORT_ENVIRONMENT = {
    **dict.fromkeys(THREAD_VARIABLES, "1"),
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
# No library reads these when imported, or the child applies them; any other difference makes a job start plainly.
FOLDERS = ("TMPDIR", "TMP", "TEMP", "TEMPDIR", "PWD", "OLDPWD")
FREE_VARIABLES = {*THREAD_VARIABLES, *FOLDERS, "TOKENIZERS_PARALLELISM", "COLUMNS", "LINES", "SHLVL", "_"}
FREE_PREFIXES = ("BLINDSPOT_", "JPY_", "SNAKEMAKE_")

PR_SET_PDEATHSIG = 1
CUDA_ERROR_NOT_INITIALIZED = 3


class Child(Exception):
    """Raised in a fresh child, to leave the server's loop.

    Holds the request, the descriptors of its files, and the environment variables that importing the stack set.
    """


class Server:
    """Listens, imports, then forks on request. One connection is one child and lives as long as it."""

    def __init__(self, kind: str, address: str, alive: int) -> None:
        self.kind = kind
        self.environment = dict(os.environ)
        self.software = describe_software()
        self.address = Path(address)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(address)
        self.listener.listen(128)
        self.alive = alive
        self.children: dict[int, socket.socket] = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ, None)
        self.selector.register(alive, selectors.EVENT_READ, None)

    def serve(self) -> None:
        """Answer until the pipe from the starting process closes. Raises Child in every process that it forks."""
        self.failure = import_stack(self.kind)
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.listener:
                    self.answer(self.listener.accept()[0])
                elif key.fd == self.alive:
                    return self.remove_folder()
                else:
                    self.follow(key)

    def remove_folder(self) -> None:
        """Remove the socket, and its folder after the last one, which a killed starting process left behind."""
        with contextlib.suppress(OSError):
            self.address.unlink()
            self.address.parent.rmdir()

    def answer(self, connection: socket.socket) -> None:
        """Fork for a request, or refuse it."""
        files: list[int] = []
        try:
            connection.settimeout(5)
            message, files, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 3)
            request = json.loads(message)
            obstacle = self.failure or self.compare(request) or find_obstacle()
            if obstacle:
                connection.send(json.dumps({"refused": obstacle}).encode())
                connection.close()
            else:
                self.fork(request, files, connection)
        except (OSError, ValueError):
            connection.close()
        finally:
            for file in files:
                with contextlib.suppress(OSError):
                    os.close(file)

    def compare(self, request: dict[str, Any]) -> str | None:
        """Why this server can't stand for the process that asks; None where it can."""
        if request["software"] != self.software:
            return "Python, a package or the library is not what it was when the study started"
        asked: dict[str, str] = request["environment"]
        names = {name for name in {*asked, *self.environment} if asked.get(name) != self.environment.get(name)}
        other = sorted(name for name in names - FREE_VARIABLES if not name.startswith(FREE_PREFIXES))
        if other:
            return f"the environment differs from the study's: {', '.join(other)}"
        threads = {asked[name] for name in THREAD_VARIABLES if name in asked}
        if "OMP_NUM_THREADS" not in asked or len(threads) > 1 or not threads.pop().isdecimal():
            return f"{', '.join(THREAD_VARIABLES)} don't give one number of threads, or none"
        return None

    def fork(self, request: dict[str, Any], files: list[int], connection: socket.socket) -> None:
        """Fork; the parent says the pid and follows the child, which leaves by raising Child."""
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            copies = [os.dup(file) for file in files]
            self.close(connection)
            set_by_imports = os.environ.keys() - self.environment.keys() - IMPORT_ENVIRONMENT.keys()
            raise Child(request, copies, {name: os.environ[name] for name in set_by_imports})
        self.children[pid] = connection
        end = os.pidfd_open(pid)
        self.selector.register(end, selectors.EVENT_READ, pid)
        self.selector.register(connection, selectors.EVENT_READ, pid)
        with contextlib.suppress(OSError):
            connection.send(json.dumps({"pid": pid}).encode())

    def follow(self, key: selectors.SelectorKey) -> None:
        """A child has ended: say how. Or the process that asked for it has gone: kill it."""
        pid: int = key.data
        self.selector.unregister(key.fileobj)
        if isinstance(key.fileobj, socket.socket):
            if pid in self.children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return
        os.close(key.fd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        connection = self.children.pop(pid)
        with contextlib.suppress(KeyError):
            self.selector.unregister(connection)
        with contextlib.suppress(OSError):
            connection.send(json.dumps({"code": code}).encode())
        connection.close()

    def close(self, connection: socket.socket) -> None:
        """Close, in a child, all that is the server's."""
        ends = [key.fd for key in self.selector.get_map().values() if isinstance(key.fileobj, int)]
        for end in ends:
            os.close(end)
        for other in (self.listener, connection, *self.children.values()):
            other.close()
        self.selector.close()


def import_stack(kind: str) -> str | None:
    """Import all that a kernel or a job may use; returns why that failed, None where it did not."""
    os.environ.update(IMPORT_ENVIRONMENT)
    operations: set[str] = set()
    try:
        with mock.patch("builtins.get_ipython", lambda: SimpleNamespace(kernel=None), create=True):  # pandas looks here
            for name in STACK if kind == "kernel" else JOB_STACK:
                importlib.import_module(name)
            if kind == "kernel":
                operations = import_torch_stack()
    except Exception as error:
        return f"the stack can't be imported ({type(error).__name__}: {error})"
    if operations:
        return f"torch worked while the stack was imported ({', '.join(sorted(operations))})"
    gc.collect()
    gc.freeze()  # a collection in a child would otherwise write to, and so copy, every page
    return None


def import_torch_stack() -> set[str]:
    """Import what builds on torch; returns the names of the operations that torch ran meanwhile.

    Wrapping a module's literal constants as tensors (`lift_fresh`) is none.
    """
    import blindspot

    importlib.import_module("torch")
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        seen: set[str] = set()  # noqa: RUF012

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen.add(str(func))
            return func(*args, **(kwargs or {}))

    own = [module.name for module in pkgutil.walk_packages(blindspot.__path__, "blindspot.")]
    with Watch():
        for name in (*TORCH_STACK, *own):
            if name not in NOT_PRELOADED:
                importlib.import_module(name)
    return Watch.seen - {"aten.lift_fresh.default"}


def find_obstacle() -> str | None:
    """Why a fork of this process would not be clean; None where it would."""
    torch = sys.modules.get("torch")
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        return f"the fork server has {threads} threads"
    if (torch and torch.cuda.is_initialized()) or is_cuda_driver_initialised():
        return "CUDA is initialised in the fork server"
    return None


def is_cuda_driver_initialised() -> bool:
    """Whether someone called cuInit in this process: every other call then no longer says NOT_INITIALIZED."""
    if "/libcuda.so" not in Path("/proc/self/maps").read_text():
        return False
    count = ctypes.c_int()
    return ctypes.CDLL("libcuda.so.1").cuDeviceGetCount(ctypes.byref(count)) != CUDA_ERROR_NOT_INITIALIZED


def start() -> int:
    """The server until it ends, or one of its children from its first moment on; returns the exit code."""
    if not sys.flags.safe_path:
        del sys.path[0]  # the working folder, which `python -m` puts there
    try:
        Server(sys.argv[1], sys.argv[2], int(sys.argv[3])).serve()
    except Child as child:
        request, files, set_by_imports = child.args
    else:
        return 0
    enter_process(request, files, set_by_imports)
    if request["kind"] == "job":
        return run_job(request["arguments"])
    run_kernel(request["arguments"])
    return 0


if __name__ == "__main__":
    sys.exit(start())
