"""Ask a fork server for a process: a kernel, or a whole job, that starts with the stack already imported.

This side imports the standard library alone, so that a job which is handed over costs next to nothing. Whatever can't
be had from the server is refused with a reason (`Refused`), and the caller does it the plain way.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ADDRESS = "BLINDSPOT_FORK_SERVER"  # environment variable: the folder with the servers' sockets
KINDS = ("kernel", "job")
ANSWER_SECONDS = 120.0  # the first to ask waits for the imports
MESSAGE_BYTES = 2**20
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Refused(RuntimeError):
    """The server did not fork; the text says why."""


class ForkedProcess:
    """A process that the server forked, with the part of `subprocess.Popen` that jupyter_client uses.

    It lives as long as `connection`: where this side goes, in whatever way, the server kills it. Where the server
    goes, the kernel of the operating system kills it, and `returncode` is -9.
    """

    stdin = stdout = stderr = None

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid, self.connection = pid, connection
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, minus the signal's number where a signal ended it; None while the process runs."""
        if self.returncode is None and select.select([self.connection], [], [], 0)[0]:
            answer = receive(self.connection)
            self.returncode = answer["code"] if answer else -signal.SIGKILL
            self.connection.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code. Raises subprocess.TimeoutExpired."""
        if self.returncode is None and not select.select([self.connection], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def request_process(
    kind: str, arguments: Sequence[str], *, environment: Mapping[str, str], cwd: str, files: Sequence[int]
) -> ForkedProcess:
    """Have the server fork a process.

    kind: 'kernel' (arguments: those of ipykernel_launcher) or 'job' (those of `python -m blindspot`).
    files: descriptors of its stdin, stdout and stderr. Raises Refused.
    """
    address = os.environ.get(ADDRESS)
    if not address:
        raise Refused("no fork server")
    request = {
        "kind": kind,
        "arguments": list(arguments),
        "environment": dict(environment),
        "cwd": cwd,
        "software": describe_software(),
    }
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(str(Path(address) / kind))
        connection.settimeout(ANSWER_SECONDS)
        socket.send_fds(connection, [json.dumps(request).encode()], list(files))
        answer = receive(connection)
    except OSError as error:
        connection.close()
        raise Refused(f"the fork server does not answer ({error})") from None
    if answer is None or "pid" not in answer:
        connection.close()
        raise Refused(answer["refused"] if answer else "the fork server went away")
    connection.settimeout(None)
    return ForkedProcess(answer["pid"], connection)


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """The next message; None where the other side has gone."""
    try:
        message = connection.recv(MESSAGE_BYTES)
    except ConnectionError:
        return None
    return json.loads(message) if message else None


def describe_software() -> str:
    """Identifies the interpreter, the installed packages and the library's files, without importing any.

    Installing a package changes the time of its folder, editing a module that of the module.
    """
    folders = [Path(folder) for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages")]
    modules = sorted(Path(__file__).parent.rglob("*.py"))
    stamps = [(str(path), path.stat().st_mtime_ns) for path in [*folders, *modules]]
    return hashlib.sha256(repr((sys.executable, sys.version, stamps)).encode()).hexdigest()


def run_forked_job(arguments: Sequence[str]) -> int:
    """Run `python -m blindspot ARGUMENTS` in a process of the server's and return its exit code. Raises Refused.

    Signals go on to that process; one that ends it ends this process as well.
    """
    process = request_process("job", arguments, environment=os.environ, cwd=str(Path.cwd()), files=(0, 1, 2))
    before = {number: signal.signal(number, lambda n, _: process.send_signal(n)) for number in FORWARDED}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    return code


@contextmanager
def fork_servers() -> Iterator[dict[str, str]]:
    """Run a fork server of each kind; yields the environment variable that names them, none where there can't be any.

    They are waited for by nobody until a job asks. They end with the block, and by themselves where this process is
    killed, since a pipe tells them; all that they forked ends with them.
    """
    if sys.platform != "linux":  # elsewhere nothing shows how many threads a process has
        yield {}
        return
    theirs, ours = os.pipe()
    with tempfile.TemporaryDirectory(prefix="blindspot-", ignore_cleanup_errors=True) as folder:
        servers = [start_server(kind, Path(folder), theirs) for kind in KINDS]
        os.close(theirs)
        try:
            for kind, server in zip(KINDS, servers, strict=True):
                await_socket(Path(folder) / kind, server)
            yield {ADDRESS: folder}
        finally:
            os.close(ours)
            for server in servers:
                server.kill()
                server.wait()


def start_server(kind: str, folder: Path, alive: int) -> subprocess.Popen[bytes]:
    """Start one server. alive: the end of a pipe whose other end closes with this process."""
    return subprocess.Popen(
        [sys.executable, "-m", "blindspot.fork_server", kind, str(folder / kind), str(alive)],
        pass_fds=[alive],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C goes to the jobs, which still need their server then
    )


def await_socket(path: Path, server: subprocess.Popen[bytes]) -> None:
    """Wait until the server listens, which it does before it imports anything, or has ended."""
    limit = time.monotonic() + 10
    while not path.exists() and server.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
