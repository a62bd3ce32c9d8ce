"""Contract of the notebooks, found by glob: what STYLE asks of each, and that none breaks the library's promises."""

import ast
import io
import re
import statistics
import subprocess
import sys
import tokenize
from pathlib import Path
from typing import Any

import nbformat
import pytest

from blindspot.grid import SECTIONS, Job, expand_study
from blindspot.runs import STAGES, check_parameters
from blindspot.study import ROOT, list_studies, load_study

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HEAVY = {"torch", "transformers", "peft", "bitsandbytes"}
LIGHT_STAGES = ("10_prepare_data", "60_build_training_sets", "90_analysis")
LAST_HEADING = "## What this shows, and where it departs from the paper"
# Read by a stage although a change of it need not run that stage again: (stage, key), and why.
CHANGES_NO_RESULT = {
    ("20_train_task_model", "evaluation.batch_size"): "logits do not depend on the batch there",
    ("50_audit_synthetic_data", "evaluation.batch_size"): "nor do they here",
}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def notebook(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def list_code(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def find_parameters(notebook: Any) -> Any:
    [cell] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


def list_headings(notebook: Any) -> list[str]:
    return [
        line
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("#")
    ]


def test_one_notebook_a_stage() -> None:
    assert [path.stem for path in NOTEBOOKS] == list(STAGES)


def test_parameters_are_literals_with_help(notebook: Any) -> None:
    cell = find_parameters(notebook)
    assert cell.cell_type == "code"
    statements = ast.parse(cell.source).body
    lines = cell.source.splitlines()
    assert len(statements) == len(lines), "one assignment a line and nothing else"
    for statement, line in zip(statements, lines, strict=True):
        assert isinstance(statement, ast.Assign) and len(statement.targets) == 1
        assert isinstance(statement.targets[0], ast.Name)
        ast.literal_eval(statement.value)
        tokens = list(tokenize.generate_tokens(io.StringIO(line).readline))
        assert sum(token.string == "=" for token in tokens) == 1
        [comment] = [token.string for token in tokens if token.type == tokenize.COMMENT]
        assert len(comment) > 10, f"no help on {line!r}"


def test_parameters_are_those_of_the_stage(path: Path, notebook: Any) -> None:
    values = {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in ast.parse(find_parameters(notebook).source).body
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    }
    assert list(values) == ["study", *STAGES[path.stem], "overrides"]
    assert values["study"] == "sandbox" and values["overrides"] == {}


def test_default_parameters_can_be_used(path: Path, notebook: Any) -> None:
    """Opened in JupyterLab and run as it is, a notebook works."""
    source = find_parameters(notebook).source
    values = {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    }
    study, coordinates = check_parameters(path.stem, values)
    assert study.name == "sandbox"
    assert coordinates.keys() == STAGES[path.stem].keys()


def test_headings(notebook: Any) -> None:
    headings = list_headings(notebook)
    assert headings[0].startswith("# ") and sum(line.startswith("# ") for line in headings) == 1
    assert headings[1:3] == ["## Parameters", "## Setup"]
    assert len(headings) >= 6, "the work has headings of its own"
    assert headings[-2:] == ["## Summary", LAST_HEADING]


def test_the_first_cell_says_what_it_is_for(notebook: Any) -> None:
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    for word in ("**Question.**", "**Inputs.**", "**Outputs.**", "**Time and hardware.**", "**In the paper.**"):
        assert word in first.source


def test_order_of_the_fixed_cells(path: Path, notebook: Any) -> None:
    """Parameters first among the code, then the setup that opens the run; the summary is the last code cell."""
    code = list_code(notebook)
    assert code[0] == find_parameters(notebook).source
    opened = [place for place, source in enumerate(code) if f'open_run("{path.stem}", globals())' in source]
    assert opened == [1], "open_run is called once, in the setup, with the notebook's own name"
    assert ["run.finish(" in source for source in code] == [False] * (len(code) - 1) + [True]
    [place] = [number for number, cell in enumerate(notebook.cells) if cell.source.startswith("## Summary")]
    assert [cell.cell_type for cell in notebook.cells[place + 1 :]] == ["code", "markdown"]


def test_no_outputs(notebook: Any) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata.language_info) == {"name"}


def test_sizes(notebook: Any) -> None:
    """STYLE: some 8 to 25 code cells, median at most 5 lines, most under 15, none over 25. The shortest has 7."""
    lines = [len(source.splitlines()) for source in list_code(notebook)]
    assert 7 <= len(lines) <= 25
    assert min(lines) >= 1
    assert statistics.median(lines) <= 5
    assert max(lines) <= 25
    assert sum(count < 15 for count in lines) >= 0.8 * len(lines)


def test_prose_between_the_code(notebook: Any) -> None:
    prose = sum(cell.cell_type == "markdown" for cell in notebook.cells)
    assert prose >= 0.6 * len(list_code(notebook))


def test_no_definitions_and_no_magic(notebook: Any) -> None:
    """Functions go to lib/, where they are tested; magic and shell lines would not run as Python."""
    for source in list_code(notebook):
        for node in ast.walk(ast.parse(source)):
            assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda), source
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "__import__", "input"), source


def test_imports_stand_in_the_setup(notebook: Any) -> None:
    for place, source in enumerate(list_code(notebook)):
        has_import = any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(ast.parse(source)))
        assert has_import == (place == 1), source


def test_no_machine_and_no_secret(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert str(ROOT) not in text and str(Path.home()) not in text
    assert not re.search(r"(?i)hf_[a-z0-9]{20}|api[_-]?key|password|token\s*=\s*[\"']", text)


@pytest.mark.parametrize("stage", LIGHT_STAGES)
def test_light_notebooks_import_nothing_heavy(stage: str) -> None:
    """All import statements of the notebook, run in a process of their own, leave sys.modules without torch & co."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{stage}.ipynb", as_version=4)
    imports = [
        ast.unparse(node)
        for source in list_code(notebook)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert any("open_run" in line for line in imports)
    code = "\n".join([*imports, "import sys", "print('modules', *sorted({n.partition('.')[0] for n in sys.modules}))"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert {"blindspot", "pyarrow"} <= loaded
    assert not loaded & HEAVY


def test_model_notebooks_would_be_caught() -> None:
    """The check above can fail: the imports of a notebook that trains do load torch."""
    code = "import sys, blindspot.models; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "torch" in done.stdout.split()


def test_nothing_reads_a_widget(notebook: Any) -> None:
    """A headless run makes the same artefacts: no value of a widget is read, and a browser is only shown."""
    browsers: set[str] = set()
    for source in list_code(notebook):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("value", "observe", "on_click", "interact"), source
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [getattr(node, "module", None), *(alias.name for alias in node.names)]
                assert "ipywidgets" not in modules
            if isinstance(node, ast.Assign) and "Browser(" in ast.unparse(node.value):
                browsers |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    for source in list_code(notebook):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in browsers:
                assert node.attr == "show", source


def test_nothing_saved_is_a_figure_widget(notebook: Any) -> None:
    assert "FigureWidget" not in "\n".join(list_code(notebook))


def find_aliases(notebook: Any) -> dict[str, str]:
    """The notebook's short names for parts of the study, such as `data = run.study.data`: name -> dotted key."""
    found = {"run.study": ""}
    for source in list_code(notebook):
        for node in ast.parse(source).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                text = ast.unparse(node.value)
                if re.fullmatch(r"run\.study[\w.]*", text):
                    found[node.targets[0].id] = text.removeprefix("run.study").strip(".")
    return found


def list_study_keys(notebook: Any) -> set[str]:
    """Dotted keys of the study that a notebook reads; the section where it calls a method of one."""
    aliases = find_aliases(notebook)
    keys: set[str] = set()
    for source in list_code(notebook):
        tree = ast.parse(source)
        inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        named = {id(node.value) for node in tree.body if isinstance(node, ast.Assign)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or id(node) in inner | named:
                continue
            text = ast.unparse(node)
            for name, key in aliases.items():
                if text.startswith(f"{name}."):
                    keys.add(f"{key}.{text.removeprefix(name + '.')}".strip("."))
    return {cut_method(key) for key in keys}


def cut_method(key: str) -> str:
    """`generation.shards` is a method: what it reads may be all of `generation`."""
    values: Any = load_study("test").model_dump()
    parts = key.split(".")
    for place, part in enumerate(parts):
        if not isinstance(values, dict) or part not in values:
            return ".".join(parts[:place])
        values = values[part]
    return key


def list_upstream(job: Job) -> set[str]:
    """Stages that a job depends on, itself included."""
    return {job.stage}.union(*(list_upstream(need) for need in job.needs))


def test_every_value_that_a_notebook_reads_runs_it_again(path: Path, notebook: Any) -> None:
    """It stands in the section of the stage, or of one that the stage depends on."""
    keys = list_study_keys(notebook)
    assert keys and "" not in keys
    for study in list_studies():
        for job in [job for job in expand_study(load_study(study)) if job.stage == path.stem][:1]:
            sections = {section for stage in list_upstream(job) for section in SECTIONS[stage]}
            unwatched = {key for key in keys if not any(f"{key}.".startswith(f"{section}.") for section in sections)}
            assert unwatched <= {key for stage, key in CHANGES_NO_RESULT if stage == path.stem}, study
