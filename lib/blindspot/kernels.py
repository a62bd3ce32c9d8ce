"""Kernels for the grid that start with the stack imported, forked from the study's fork server.

papermill is given `ForkedKernelManager` and handles such a kernel as any other: interrupts, kills, dead kernels.
Where the server refuses, or there is none, the kernel is a plain one. No kernelspec is installed: JupyterLab and a
papermill called by hand know nothing of this.
"""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path
from typing import Any

from jupyter_client import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

from blindspot.forking import ADDRESS, ForkedProcess, Refused, request_process

LAUNCHER = ["-m", "ipykernel_launcher"]


class ForkedProvisioner(LocalProvisioner):
    """Starts a kernel by asking the fork server for it; else as any local kernel is started, and says why."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Start the kernel whose plain command is `cmd`; returns its connection info."""
        if not os.environ.get(ADDRESS):
            return await super().launch_kernel(cmd, **kwargs)
        try:
            process = fork_kernel(cmd, environment=kwargs.get("env"), cwd=kwargs.get("cwd"))
        except Refused as reason:
            print(f"plain kernel: {reason}", file=sys.stderr)
            return await super().launch_kernel(cmd, **kwargs)
        self.process: Any = process
        self.pid = self.pgid = process.pid
        self.cwd = kwargs.get("cwd", Path.cwd())
        return self.connection_info


class ForkedKernelManager(AsyncKernelManager):
    """Manages a kernel that the fork server starts where it can."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kernel_id = str(uuid.uuid4())
        self.provisioner = ForkedProvisioner(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)


def fork_kernel(command: list[str], *, environment: dict[str, str] | None, cwd: str | None) -> ForkedProcess:
    """A kernel as the command would start it. Raises Refused.

    command: such as `python -m ipykernel_launcher -f FILE`; one that starts anything else is refused.
    """
    if command[1:3] != LAUNCHER or Path(command[0]).resolve() != Path(sys.executable).resolve():
        raise Refused("the kernelspec python3 starts something else than this Python's ipykernel_launcher")
    variables = {**(environment or os.environ), "JPY_PARENT_PID": str(os.getpid())}
    nothing, other = os.pipe()  # jupyter_client, too, gives a kernel a closed pipe to read from
    os.close(other)
    try:
        folder = str(cwd or Path.cwd())
        return request_process("kernel", command[3:], environment=variables, cwd=folder, files=(nothing, 1, 2))
    finally:
        os.close(nothing)
