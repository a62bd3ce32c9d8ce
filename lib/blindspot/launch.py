"""`make study` and `make plan`: start Snakemake on a study, and say before and after what a user wants to know."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from itertools import takewhile
from pathlib import Path
from urllib.parse import quote

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from blindspot.costs import estimate_costs
from blindspot.forking import fork_servers
from blindspot.grid import Job, expand_study, free_memory_mb, relative_path
from blindspot.plan_table import build_cost_table
from blindspot.runs import STAGES, read_summary
from blindspot.study import ROOT, Study, executed_folder, load_study

RESERVED_MB = 1000  # left to the rest of the machine
ONE_SEED = (
    "One seed: claims about models will be undecided, whatever the cost; add seeds to the study (seeds: [1, 2, 3])."
)
PLAN_WIDTH = 110  # of the plan's tables in a file or a pipe


def run_study(study: str, *, overrides: str, cores: int, extra: list[str]) -> int:
    """Run what is missing of a study; returns Snakemake's exit code. Raises StudyError before anything starts."""
    console = Console(stderr=True)
    settings = load_study(study, overrides)
    jobs = expand_study(settings)
    check_memory(jobs)
    console.print(f"Study [bold]{settings.name}[/bold]: {len(jobs)} runs on {cores} core(s). {settings.description}")
    command = [*snakemake_command(study, overrides, cores), "--keep-going", *extra]
    with fork_servers() as address:
        code = follow_jobs(console, command, {rule_name(job): job for job in jobs}, snakemake_environment() | address)
    report_end(console, settings, jobs, failed=code != 0)
    return code


def follow_jobs(console: Console, command: list[str], jobs: dict[str, Job], environment: dict[str, str]) -> int:
    """Run Snakemake and show each run as it ends or fails, with what is done and left; returns the exit code.

    A terminal shows a bar with the runs under way as well. Snakemake's own, longer, log stays in `.snakemake/log`.
    """
    running: dict[str, float] = {}
    done = failed = total = 0
    plain = False
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with (
        Progress(*columns, console=console, transient=True) as bar,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        task = bar.add_task("", total=None)
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.match(r"total\s+(\d+)", line):
                total = int(match[1]) - 1  # without the rule that asks for all
            elif (match := re.match(r"(?:local)?rule (\w+):", line)) and match[1] in jobs:
                running[match[1]] = time.monotonic()
            elif (match := re.match(r"Finished jobid: \d+ \(Rule: (\w+)\)", line)) and match[1] in jobs:
                done += 1
                seconds = time.monotonic() - running.pop(match[1])
                left = f"{total - done - failed} left" + (f", {failed} failed" if failed else "")
                name = jobs[match[1]].name
                console.print(f"  {name}  {seconds:.0f} s  [dim]{done} done, {left}[/dim]", highlight=False)
            elif (match := re.match(r"Error in rule (\w+):", line)) and match[1] in jobs and match[1] in running:
                failed += 1
                running.pop(match[1])
                console.print(f"  [red]{jobs[match[1]].name} failed[/red]")
            elif line.startswith("plain start: ") and not plain:
                plain = True  # said once: the reason is mostly the same for all
                console.print(f"  [dim]{escape(line.strip())}[/dim]", highlight=False, soft_wrap=True)
            elif line.startswith(("error: ", "WorkflowError", "LockException", "IncompleteFilesException")):
                console.print(f"  [red]{escape(line.strip())}[/red]", soft_wrap=True)
            bar.update(task, completed=done, total=total or None, description=", ".join(jobs[r].name for r in running))
    return process.returncode


def snakemake_command(study: str, overrides: str, cores: int) -> list[str]:
    """Snakemake's command line for a study; memory is shared among jobs, devices too where there are any."""
    memory = max(free_memory_mb() - RESERVED_MB, 500)
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--cores",
        str(cores),
        "--resources",
        f"mem_mb={memory}",
        f"gpus={count_gpus()}",
        "--rerun-incomplete",
        "--rerun-triggers",
        "mtime",
        "params",
        "input",
        "--config",
        f"study={study}",
    ]
    if "BLINDSPOT_EXECUTED" in os.environ:  # a results folder of its own has its own bookkeeping
        command[3:3] = ["--directory", str(executed_folder())]
    return [*command, f"overrides={quote(overrides, safe='')}"] if overrides else command


def snakemake_environment() -> dict[str, str]:
    """The environment of Snakemake and its jobs, which work in other folders: a results folder has its whole path."""
    named = "BLINDSPOT_EXECUTED" in os.environ
    return {**os.environ, **({"BLINDSPOT_EXECUTED": str(executed_folder())} if named else {})}


def count_gpus() -> int:
    """GPUs that jobs may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        devices = [device.strip() for device in visible.split(",")]
        return len(list(takewhile(lambda device: device and not device.startswith("-"), devices)))
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def check_memory(jobs: list[Job]) -> None:
    """Raise MemoryError where the largest job asks for more than the machine has free."""
    free, largest = free_memory_mb() - RESERVED_MB, max(jobs, key=lambda job: job.memory_mb)
    if largest.memory_mb > free:
        raise MemoryError(
            f"{largest.name} is planned with {largest.memory_mb:,} MB, {free:,} MB are free here: lower "
            "resources.model_memory_mb or data_memory_mb in the study, or close other programs"
        )


def report_end(console: Console, settings: Study, jobs: list[Job], *, failed: bool) -> None:
    """Say where to look: at the results, or at the notebooks of the runs that did not finish."""
    unfinished = [job for job in jobs if not (job.folder / "summary.json").is_file()]
    if failed or unfinished:
        console.print(f"[red]{len(unfinished)} run(s) did not finish.[/red] A failed run's notebook shows the error:")
        for job in [job for job in unfinished if (job.folder / "notebook.ipynb").is_file()][:10]:
            console.print(f"  {relative_path(job.folder / 'notebook.ipynb')}", soft_wrap=True)
        return
    folder = jobs[-1].folder
    seconds = sum(float(read_summary(job.folder)["seconds"]) for job in jobs)
    console.print(f"[green]Done.[/green] {len(jobs)} runs, {seconds / 60:.1f} minutes of work in all. Look at")
    for name in ("notebook.ipynb", "figure1.png", "dose_response.png", "results.csv", "table1.csv", "claims.csv"):
        if (folder / name).is_file():
            console.print(f"  {relative_path(folder / name)}", soft_wrap=True)
    console.print("`make lab` opens the notebooks in JupyterLab.")


def plan_study(study: str, *, overrides: str, cores: int) -> int:
    """Print what would run, why and at what cost, by stage; starts nothing. Returns Snakemake's exit code."""
    settings = load_study(study, overrides)
    jobs = {rule_name(job): job for job in expand_study(settings)}
    done = subprocess.run(
        [*snakemake_command(study, overrides, cores), "--dry-run"],
        cwd=ROOT,
        env=snakemake_environment(),
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        return done.returncode
    reasons = read_reasons(done.stdout + done.stderr)
    table = Table(title=f"Study {settings.name}: {len(reasons)} of {len(jobs)} runs would start", title_justify="left")
    for column in ("stage", "runs", "to run", "why"):
        table.add_column(column, justify="right" if column in ("runs", "to run") else "left")
    for stage in STAGES:
        names = [name for name, job in jobs.items() if job.stage == stage]
        why = Counter(reasons[name] for name in names if name in reasons)
        if names:
            text = "; ".join(f"{reason} ({n})" if len(why) > 1 else reason for reason, n in why.most_common())
            table.add_row(stage, str(len(names)), str(sum(why.values())), text or "done")
    console = Console(width=None if sys.stdout.isatty() else PLAN_WIDTH)
    console.print(table)
    if len(settings.seeds) == 1:
        console.print(ONE_SEED)
    to_run = {jobs[rule].name for rule in reasons}
    console.print(build_cost_table(estimate_costs(settings, list(jobs.values()), to_run=to_run)))
    return 0


def rule_name(job: Job) -> str:
    """The job's name as a Snakemake rule may be called."""
    return re.sub(r"[^A-Za-z0-9]", "_", job.name)


def read_reasons(text: str) -> dict[str, str]:
    """Rule name to the first reason for its run, from the text of a dry run."""
    reasons: dict[str, str] = {}
    for rule, reason in re.findall(r"^rule (\w+):\n(?:    .*\n)*?    reason: (.*)$", text, flags=re.M):
        if rule != "all":
            reasons[rule] = shorten_reason(reason)
    return reasons


def shorten_reason(reason: str) -> str:
    """Snakemake's reason without its list of files."""
    first = reason.split(";")[0]
    kind = first.split(":")[0].strip()
    words = {
        "Missing output files": "no result yet",
        "Input files updated by another job": "what it reads is made anew",
        "Updated input files": "what it reads has changed",
        "Params have changed since last execution": "the study has changed",
    }
    return words.get(kind, kind.lower())
