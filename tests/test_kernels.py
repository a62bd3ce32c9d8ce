"""Forked kernels and jobs: as clean as plain ones, equal in what they compute, gone when they should be."""

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.provisioning import KernelProvisionerFactory

from blindspot import forking, kernels
from blindspot.execute import kernel_config
from blindspot.forking import ADDRESS, Refused, fork_servers, request_process
from blindspot.kernels import ForkedKernelManager, fork_kernel
from blindspot.study import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")

COMMAND = [sys.executable, "-m", "ipykernel_launcher", "-f", "connection.json"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The number of threads that a job of the grid is given, known before the servers start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def address(one_thread: None) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - hidden_environment().keys():
            patch.delenv(name)
        servers = fork_servers()
        variables = servers.__enter__()
    yield variables[ADDRESS]
    servers.__exit__(None, None, None)


@pytest.fixture
def servers(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Jobs and kernels started in the test are forked."""
    monkeypatch.setenv(ADDRESS, address)
    return address


@pytest.fixture(autouse=True)
def hide_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest names each test in a variable, which would be a difference from the servers' environment."""
    asked = request_process

    def request(kind: str, arguments: Any, *, environment: dict[str, str], **options: Any) -> forking.ForkedProcess:
        kept = environment.keys() - (os.environ.keys() - hidden_environment().keys())
        return asked(kind, arguments, environment={name: environment[name] for name in kept}, **options)

    monkeypatch.setattr(kernels, "request_process", request)
    monkeypatch.setattr(sys.modules[__name__], "request_process", request)


def hidden_environment() -> dict[str, str]:
    """This process's environment without what pytest adds for each test."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


def load_bench() -> Any:
    spec = importlib.util.spec_from_file_location("kernel_start", ROOT / "bench" / "kernel_start.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def run_in_kernel(code: str, manager: type[AsyncKernelManager] = ForkedKernelManager) -> tuple[Any, str]:
    """Run code in a fresh kernel; returns its process, ended, and what the code printed."""
    with tempfile.TemporaryDirectory() as sockets:
        kernel = manager(kernel_name="python3", config=kernel_config(Path(sockets)))
        await kernel.start_kernel()
        process = kernel.provisioner.process
        client = kernel.client()
        client.start_channels()
        await client.wait_for_ready(timeout=120)
        printed: list[str] = []
        await client.execute_interactive(
            code, timeout=60, output_hook=lambda message: printed.append(message["content"].get("text", ""))
        )
        client.stop_channels()
        await kernel.shutdown_kernel()
        return process, "".join(printed)


def wait_until(condition: Any, *, seconds: float = 20) -> bool:
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        time.sleep(0.05)
    return bool(condition())


def list_forked(address: str) -> list[psutil.Process]:
    """The processes that the servers of an address have forked and that live."""
    found = [p for p in psutil.process_iter(["cmdline"]) if any(address in part for part in p.info["cmdline"] or [])]
    return [p for p in found if p.status() != psutil.STATUS_ZOMBIE and p.ppid() in {q.pid for q in found}]


# -- clean


def test_a_notebook_sees_a_plain_kernel(servers: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_CURRENT_TEST")  # a plain kernel that finds it captures less
        assert load_bench().find_differences() == []


def test_the_comparison_sees_differences() -> None:
    plain = {"state": {"cwd": "/a", "environment": {"A": "1"}, "sockets": 5}, "draws": [0.1, 0.2]}
    forked = {"state": {"cwd": "/a", "environment": {"A": "2", "B": "3"}, "sockets": 6}, "draws": [0.3, 0.4]}
    other = {**forked, "draws": [0.5, 0.4]}
    assert load_bench().compare_kernels(plain, forked, other) == [
        "environment.A: '1' in a plain kernel, '2' in a forked one",
        "environment.B: None in a plain kernel, '3' in a forked one",
        "sockets: 5 in a plain kernel, 6 in a forked one",
        "both forked kernels drew 0.4",
    ]


def test_the_stack_is_there_before_the_first_cell(servers: str) -> None:
    code = "import sys; print({'torch', 'transformers', 'peft', 'bitsandbytes', 'datasets'} <= set(sys.modules))"
    assert asyncio.run(run_in_kernel(code))[1] == "True\n"
    assert asyncio.run(run_in_kernel(code, AsyncKernelManager))[1] == "False\n"


def test_kernels_use_the_threads_that_the_job_has(servers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    code = "import torch, pyarrow; print(torch.get_num_threads(), pyarrow.cpu_count())"
    assert asyncio.run(run_in_kernel(code))[1] == "2 2\n"


def test_jupyter_knows_nothing_of_it() -> None:
    factory = KernelProvisionerFactory.instance()
    assert factory.default_provisioner_name == "local-provisioner"
    assert not [value for value in factory.get_provisioner_entries().values() if "blindspot" in value]


# -- equal


def run_stage(folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    parameters = {"study": "test", "starting_size": 20, "seed": 1}
    command = [sys.executable, "-m", "blindspot", "run", "20_train_task_model", "--parameters", json.dumps(parameters)]
    environment = {**hidden_environment(), "BLINDSPOT_EXECUTED": str(folder), **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_forked_run_leaves_the_same_files(address: str, tmp_path: Path) -> None:
    plain, forked = tmp_path / "plain", tmp_path / "forked"
    done = run_stage(plain, {})
    assert done.returncode == 0, done.stderr[-2000:]
    shutil.copytree(plain, forked)
    shutil.rmtree(forked / "test" / "20_train_task_model")
    done = run_stage(forked, {ADDRESS: address})
    assert done.returncode == 0, done.stderr[-2000:]
    assert "plain" not in done.stderr, "it fell back"
    run = "test/20_train_task_model/start-20_seed-1"
    assert done.stdout == f"executed/{run}/notebook.ipynb\n"
    for name in ("adapter/adapter_model.safetensors", "order.parquet", "training.csv"):
        assert (plain / run / name).read_bytes() == (forked / run / name).read_bytes(), name
    book = nbformat.read(forked / run / "notebook.ipynb", as_version=4)
    assert book.metadata["kernelspec"]["name"] == "python3"


def test_a_refused_parameter_is_said_alike(address: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "blindspot", "run", "20_train_task_model", "--parameters", '{"study": "test"}']
    environment = {**hidden_environment(), "BLINDSPOT_EXECUTED": str(tmp_path), ADDRESS: address}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: 20_train_task_model lacks the parameter(s) starting_size, seed")


# -- ended


def test_exit_codes_and_signals_are_reported(servers: str) -> None:
    process, _ = asyncio.run(run_in_kernel("print(1)"))
    assert process.returncode == 0
    killed = fork_kernel(COMMAND, environment=None, cwd=None)
    assert killed.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        killed.wait(timeout=0.01)
    killed.kill()
    assert killed.wait(timeout=10) == -signal.SIGKILL and killed.poll() == -signal.SIGKILL


def test_a_killed_kernel_is_a_dead_kernel(servers: str, tmp_path: Path) -> None:
    import papermill
    from nbclient.exceptions import DeadKernelError

    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import os; os.kill(os.getpid(), 9)")])
    nbformat.write(book, tmp_path / "in.ipynb")
    with pytest.raises(DeadKernelError):
        papermill.execute_notebook(
            str(tmp_path / "in.ipynb"),
            None,
            kernel_name="python3",
            kernel_manager_class=ForkedKernelManager,
            progress_bar=False,
        )


def test_an_interrupt_reaches_the_cell(servers: str) -> None:
    async def interrupt() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as sockets:
            kernel = ForkedKernelManager(kernel_name="python3", config=kernel_config(Path(sockets)))
            await kernel.start_kernel()
            client = kernel.client()
            client.start_channels()
            await client.wait_for_ready(timeout=120)
            began = asyncio.Event()
            running = asyncio.ensure_future(
                client.execute_interactive(
                    "print(1); import time; time.sleep(60)", timeout=50, output_hook=lambda _: began.set()
                )
            )
            await asyncio.wait_for(began.wait(), 50)
            await kernel.interrupt_kernel()
            reply = await running
            client.stop_channels()
            await kernel.shutdown_kernel()
            return reply["content"]

    assert asyncio.run(interrupt())["ename"] == "KeyboardInterrupt"


def test_killing_a_job_ends_all_that_was_forked_for_it(address: str, tmp_path: Path) -> None:
    asyncio.run(wait_for_kernel_server(address))
    command = [sys.executable, "-m", "blindspot", "run", "10_prepare_data", "--parameters", '{"study": "test"}']
    environment = {**hidden_environment(), "BLINDSPOT_EXECUTED": str(tmp_path), ADDRESS: address}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as job:
        assert wait_until(lambda: len(list_forked(address)) >= 2, seconds=60), "a job and its kernel"
        job.kill()
    assert wait_until(lambda: not list_forked(address))


async def wait_for_kernel_server(address: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ADDRESS, address)
        await run_in_kernel("print(1)")


def test_the_servers_end_with_the_process_that_started_them() -> None:
    """However that ends; they leave nothing."""
    code = (
        "import time; from blindspot.forking import fork_servers\n"
        "with fork_servers() as v: print(*v.values(), flush=True); time.sleep(99)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        folder = starter.stdout.readline().strip()
        running = [p for p in psutil.process_iter(["cmdline"]) if any(folder in s for s in p.info["cmdline"] or [])]
        assert len(running) == 2
        starter.kill()
    assert not psutil.wait_procs(running, timeout=60)[1]
    assert not Path(folder).exists()


# -- plain where it must be


def test_a_kernel_is_plain_without_a_server(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(ADDRESS, raising=False)
    process, text = asyncio.run(run_in_kernel("print(1)"))
    assert isinstance(process, subprocess.Popen) and text == "1\n"
    assert "plain kernel" not in capfd.readouterr().err, "nobody promised a forked one"


def test_a_kernel_is_plain_where_the_server_has_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ADDRESS, str(tmp_path))
    process, text = asyncio.run(run_in_kernel("print(1)"))
    assert isinstance(process, subprocess.Popen) and text == "1\n"
    assert "plain kernel: the fork server does not answer" in capfd.readouterr().err


def ask(environment: dict[str, str]) -> None:
    with open(os.devnull) as nothing:
        file = nothing.fileno()
        request_process("kernel", [], environment=environment, cwd="/", files=(file, file, file)).kill()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"HF_HUB_OFFLINE": "0", "SLURM_JOB_ID": "7"}, "environment differs from the study's: HF_HUB_OFFLINE, SLURM"),
        ({"OMP_NUM_THREADS": "many"}, "OMP_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "1"}, "one number of threads"),
    ],
)
def test_another_environment_is_refused(servers: str, change: dict[str, str], words: str) -> None:
    with pytest.raises(Refused, match=words):
        ask({**os.environ, **change})


def test_changed_software_is_refused(servers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "describe_software", lambda: "another")
    with pytest.raises(Refused, match="a package or the library is not what it was"):
        ask(dict(os.environ))


def test_another_kernelspec_is_refused(servers: str) -> None:
    with pytest.raises(Refused, match="kernelspec python3 starts something else"):
        fork_kernel([sys.executable, "-m", "another_launcher", "-f", "x"], environment=None, cwd=None)


def test_elsewhere_there_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with fork_servers() as variables:
        assert variables == {}
    monkeypatch.delenv(ADDRESS, raising=False)
    with pytest.raises(Refused, match="no fork server"):
        ask({})


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print(find_obstacle())", "None"),
        (
            "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
            "print(find_obstacle())",
            "the fork server has 2 threads",
        ),
        (
            "import types; sys.modules['torch'] = types.SimpleNamespace(cuda=types.SimpleNamespace("
            "is_initialized=lambda: True))\nprint(find_obstacle())",
            "CUDA is initialised in the fork server",
        ),
        ("fork_server.JOB_STACK = ('no_such_module',)\nprint(import_stack('job'))", "the stack can't be imported"),
        (
            "fork_server.STACK, fork_server.TORCH_STACK = (), ('works_on_import',)\nprint(import_stack('kernel'))",
            "torch worked while the stack was imported (aten.add.Tensor",
        ),
    ],
)
def test_the_server_knows_when_it_is_not_clean(tmp_path: Path, code: str, expected: str) -> None:
    (tmp_path / "works_on_import.py").write_text("import torch\nx = torch.tensor([1.0]) + torch.tensor([1.0])\n")
    start = "import sys\nfrom blindspot import fork_server\nfrom blindspot.fork_server import *\n"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "lib")])}
    done = subprocess.run(
        [sys.executable, "-c", start + code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith(expected), done.stdout + done.stderr[-2000:]


def test_the_software_is_described_without_importing_it() -> None:
    code = "import sys, blindspot.forking as f; f.describe_software(); print({'numpy', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    assert kernels.LAUNCHER == ["-m", "ipykernel_launcher"]
