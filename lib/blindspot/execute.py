"""Execute one notebook at one point of the grid: what every job of the Snakefile calls.

papermill does the work. Around it: parameters are checked before a kernel starts, the kernel is forked from the
study's fork server where there is one and talks over local sockets (no ports to clash when jobs run side by side), and
the executed notebook names no path of the machine.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from filelock import FileLock

from blindspot.runs import check_parameters, run_folder, show_path
from blindspot.study import ROOT, Study


def execute_stage(stage: str, *, study: Study, coordinates: dict[str, Any]) -> Path:
    """Run a stage of an already loaded study, overrides included, unless another process just did."""
    folder = run_folder(study, stage, **coordinates)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if not (folder / "summary.json").is_file():
            with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
                json.dump(study.model_dump(mode="json"), file)
            try:
                execute_notebook(stage, {"study": file.name, **coordinates})
            finally:
                Path(file.name).unlink(missing_ok=True)
    return folder


def execute_notebook(stage: str, parameters: dict[str, Any]) -> Path:
    """Execute `notebooks/<stage>.ipynb` with the parameters; returns the path of the executed notebook.

    The notebook stays as `notebook.ipynb` in the run's folder also where a cell fails. Raises StudyError before any
    kernel starts for parameters that can't be used, and papermill's PapermillExecutionError for a failing cell.
    """
    import papermill

    from blindspot.kernels import ForkedKernelManager

    study, coordinates = check_parameters(stage, parameters)
    folder = run_folder(study, stage, **coordinates)
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "notebook.ipynb"
    with tempfile.TemporaryDirectory(prefix="blindspot-") as sockets:
        try:
            papermill.execute_notebook(
                str(ROOT / "notebooks" / f"{stage}.ipynb"),
                str(output),
                parameters=parameters,
                progress_bar=False,
                kernel_name="python3",
                kernel_manager_class=ForkedKernelManager,
                start_timeout=300,
                config=kernel_config(Path(sockets)),
            )
        finally:
            if output.is_file():
                hide_paths(output)
    return output


def kernel_config(sockets: Path) -> Any:
    """Jupyter configuration of a kernel that listens on sockets in a folder instead of on network ports."""
    from traitlets.config import Config

    config = Config()
    config.KernelManager.transport = "ipc"
    config.KernelManager.ip = str(sockets / "kernel")
    return config


def hide_paths(notebook: Path) -> None:
    """Make an executed notebook portable: its metadata and outputs name paths relative to the project."""
    text = notebook.read_text(encoding="utf-8")
    for path in dict.fromkeys([str(ROOT), str(ROOT.resolve())]):
        text = text.replace(path + "/", "").replace(path, ".")
    for path, name in ((str(Path.home()), "~/"), (tempfile.gettempdir(), "TMP/")):
        text = text if path == "/" else text.replace(path + "/", name)
    book = nbformat.reads(text, as_version=4)
    book.metadata.get("papermill", {}).update(output_path=show_path(notebook))
    temporary = notebook.with_suffix(".tmp")
    nbformat.write(book, temporary)
    shutil.move(temporary, notebook)
