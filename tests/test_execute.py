"""Execution by papermill: portable notebooks, no network ports, and misspelt parameters as errors."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest

from blindspot import execute
from blindspot.execute import execute_notebook, execute_stage, hide_paths, kernel_config
from blindspot.runs import run_folder, write_json
from blindspot.study import ROOT, load_study


@pytest.fixture(autouse=True)
def executed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "executed"
    monkeypatch.setenv("BLINDSPOT_EXECUTED", str(folder))
    return folder


def write_notebook(path: Path, *texts: str) -> Path:
    """An executed notebook whose outputs are the texts, with papermill's metadata."""
    outputs = [nbformat.v4.new_output("stream", name="stdout", text=text) for text in texts]
    cell = nbformat.v4.new_code_cell("print()", execution_count=1, outputs=outputs)
    book = nbformat.v4.new_notebook(cells=[cell])
    book.metadata["papermill"] = {"input_path": str(ROOT / "notebooks" / "x.ipynb"), "output_path": str(path)}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, path)
    return path


def test_paths_are_hidden(executed: Path) -> None:
    path = write_notebook(
        executed / "test" / "90_analysis" / "all" / "notebook.ipynb",
        f"{ROOT}/lib/blindspot/runs.py:12",
        f"in {ROOT}",
        f"{Path.home()}/.cache/thing",
        f"{tempfile.gettempdir()}/sockets-1/kernel",
        'https://example.org//a {"key": "a // b"} 3//2',
    )
    hide_paths(path)
    text = path.read_text()
    for hidden in (str(ROOT), str(Path.home()) + "/", tempfile.gettempdir() + "/"):
        assert hidden not in text
    book = nbformat.read(path, as_version=4)
    shown = [output.text for output in book.cells[0].outputs]
    expected = ["lib/blindspot/runs.py:12", "in .", "~/.cache/thing", "TMP/sockets-1/kernel"]
    assert shown == [*expected, 'https://example.org//a {"key": "a // b"} 3//2']
    assert book.metadata["papermill"]["input_path"] == "notebooks/x.ipynb"
    assert book.metadata["papermill"]["output_path"] == "executed/test/90_analysis/all/notebook.ipynb"
    assert [file.name for file in path.parent.iterdir()] == ["notebook.ipynb"]


def test_hiding_twice_changes_nothing(executed: Path) -> None:
    path = write_notebook(executed / "a" / "notebook.ipynb", f"{ROOT}/lib {Path.home()}/x")
    hide_paths(path)
    once = path.read_bytes()
    hide_paths(path)
    assert path.read_bytes() == once


def test_a_home_that_is_the_root_hides_nothing_else(executed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In containers HOME is at times `/`: slashes of addresses and comments stay."""
    monkeypatch.setenv("HOME", "/")
    path = write_notebook(executed / "a" / "notebook.ipynb", "https://example.org/a 7 // 2")
    hide_paths(path)
    assert "https://example.org/a 7 // 2" in path.read_text()


def test_kernels_listen_on_no_port(tmp_path: Path) -> None:
    config = kernel_config(tmp_path)
    assert config.KernelManager.transport == "ipc"
    assert config.KernelManager.ip == str(tmp_path / "kernel")


def test_papermill_gets_absolute_paths_and_sockets(monkeypatch: pytest.MonkeyPatch, executed: Path) -> None:
    seen: dict[str, Any] = {}

    def pretend(source: str, target: str, **options: Any) -> None:
        seen.update(options, source=source, target=target)
        write_notebook(Path(target), f"{ROOT}/x")

    monkeypatch.setattr(papermill, "execute_notebook", pretend)
    parameters = {"study": "test", "starting_size": 20, "seed": 1}
    output = execute_notebook("20_train_task_model", parameters)
    assert output == executed / "test" / "20_train_task_model" / "start-20_seed-1" / "notebook.ipynb"
    assert seen["source"] == str(ROOT / "notebooks" / "20_train_task_model.ipynb") and Path(seen["target"]) == output
    assert seen["parameters"] == parameters and "cwd" not in seen
    assert seen["config"].KernelManager.transport == "ipc"
    assert not Path(seen["config"].KernelManager.ip).parent.exists(), "the sockets' folder is gone afterwards"
    assert str(ROOT) not in output.read_text()


def test_a_failed_notebook_stays_and_names_no_path(monkeypatch: pytest.MonkeyPatch, executed: Path) -> None:
    def fail(source: str, target: str, **options: Any) -> None:
        write_notebook(Path(target), f"Traceback {ROOT}/lib/blindspot/runs.py")
        raise RuntimeError("a cell failed")

    monkeypatch.setattr(papermill, "execute_notebook", fail)
    with pytest.raises(RuntimeError, match="a cell failed"):
        execute_notebook("60_build_training_sets", {"study": "test", "seed": 1})
    [notebook] = executed.rglob("notebook.ipynb")
    assert "Traceback lib/blindspot/runs.py" in notebook.read_text()


def test_a_stage_runs_once_with_the_study_that_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study("test", {"lora.r": 4})
    asked: list[Any] = []

    def pretend(stage: str, parameters: dict[str, Any]) -> Path:
        loaded = load_study(parameters["study"], parameters.get("overrides"))
        asked.append((stage, loaded == study))
        write_json(run_folder(study, stage) / "summary.json", {})
        return Path()

    monkeypatch.setattr(execute, "execute_notebook", pretend)
    for _ in range(2):
        assert execute_stage("10_prepare_data", study=study, coordinates={}) == run_folder(study, "10_prepare_data")
    assert asked == [("10_prepare_data", True)]


def run_papermill(output: Path, *parameters: str) -> subprocess.CompletedProcess[str]:
    """Plain papermill, as a reader types it, from the project's root."""
    command = [str(Path(sys.executable).with_name("papermill")), "notebooks/20_train_task_model.ipynb", str(output)]
    return subprocess.run([*command, *parameters], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        (("-p", "startng_size", "20"), ["unknown parameter 'startng_size'", "did you mean 'starting_size'?"]),
        (("-p", "starting_size", "twenty"), ["parameter 'starting_size' is 'twenty'", "expected int"]),
    ],
)
def test_plain_papermill_refuses_a_wrong_parameter(
    tmp_path: Path, executed: Path, parameters: tuple[str, ...], words: list[str]
) -> None:
    done = run_papermill(tmp_path / "out.ipynb", "-p", "study", "test", *parameters)
    assert done.returncode != 0
    assert "StudyError" in done.stderr
    assert all(word in done.stderr for word in words), done.stderr[-2000:]
    assert not executed.exists(), "nothing ran"
    book = json.loads((tmp_path / "out.ipynb").read_text())
    assert any("StudyError" in json.dumps(cell) for cell in book["cells"])
