"""The command line: `python -m blindspot score-hans | plan-seeds | plan-trend | run | study | random-model`.

What a reader or a script asks outside a notebook. Input that cannot be used ends with its message on stderr
and exit code 2, never with a traceback. Imports are local, so that no command pays for another's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        return options.command(options)
    except (ValueError, OSError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def build_parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    parser = argparse.ArgumentParser(prog="python -m blindspot", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    score = commands.add_parser("score-hans", help="score a file of predictions on HANS as its authors do")
    score.add_argument("predictions", type=Path, help="text file: the header pairID,gold_label, one line a pair")
    score.add_argument("hans_file", type=Path, help="heuristics_evaluation_set.txt or .jsonl")
    score.add_argument("--json", action="store_true", help="print JSON")
    score.set_defaults(command=run_score_hans)
    add_plan_arguments(commands.add_parser("plan-seeds", help="how many seeds a difference needs to be seen"))
    add_trend_arguments(commands.add_parser("plan-trend", help="how many seeds 'HANS falls while matched rises' needs"))
    run = commands.add_parser("run", help="execute one notebook at one point of a study's grid")
    run.add_argument("stage", help="the notebook's name, such as 20_train_task_model")
    run.add_argument("--parameters", default="{}", help="the notebook's parameters as a JSON object")
    run.add_argument("--overrides", default="", help="changes to the study, as YAML")
    run.add_argument("--here", action="store_true", help="in this process also where a study's fork server runs")
    run.set_defaults(command=run_stage)
    study = commands.add_parser("study", help="run what is missing of a study, or say what would run and why")
    study.add_argument("--study", default="sandbox", help="a file of parameters/, or a path to one")
    study.add_argument("--overrides", default="", help="changes to the study: YAML, or a .yaml file of it")
    study.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    study.add_argument("--plan", action="store_true", help="say what would run and why; start nothing")
    study.add_argument("snakemake", nargs="*", help="further arguments for Snakemake, after --")
    study.set_defaults(command=start_study)
    model = commands.add_parser("random-model", help="write a small random Llama with a tokenizer for a folder's text")
    model.add_argument("folder", type=Path, help="the model's folder, which must not exist")
    model.add_argument("--data", type=Path, required=True, help="folder with multinli_1.0/, for the tokenizer")
    model.add_argument("--seed", type=int, default=1)
    model.set_defaults(command=write_model)
    return parser


def add_plan_arguments(plan: argparse.ArgumentParser) -> None:
    """The arguments of plan-seeds."""
    plan.add_argument("--effect", type=float, required=True, help="difference in accuracy to find, such as 0.05")
    plan.add_argument("--power", type=float, default=0.8, help="chance to find it (default 0.8)")
    variance = plan.add_mutually_exclusive_group()
    variance.add_argument("--results", type=Path, help="a study's results.csv: take its own variance")
    variance.add_argument("--sd", type=float, help="SD between seeds (default 0.124, published)")
    plan.add_argument("--test-set", default="hans_blind_spot", help="test set of --results to take")
    plan.add_argument(
        "--paired",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="compare models that share a starting model, seed by seed; the SD is then that of differences "
        "(default with --results); --no-paired: two groups of runs (default otherwise)",
    )
    plan.add_argument("--alpha", type=float, default=0.05, help="two-sided level (default 0.05)")
    plan.add_argument("--comparisons", type=int, default=1, help="size of the family of tests (Holm)")
    plan.add_argument(
        "--test-set-se", type=float, default=0.0, help="standard error that more seeds do not reduce (default 0)"
    )
    plan.add_argument("--json", action="store_true", help="print JSON")
    plan.set_defaults(command=run_plan_seeds)


def add_trend_arguments(plan: argparse.ArgumentParser) -> None:
    """The arguments of plan-trend."""
    plan.add_argument("--fall", type=float, required=True, help="fall of HANS accuracy to find, such as 0.15")
    plan.add_argument("--rise", type=float, default=0.05, help="rise of matched accuracy with it (default 0.05)")
    plan.add_argument("--power", type=float, default=0.8, help="chance to find both at one start (default 0.8)")
    plan.add_argument(
        "--pilot", type=Path, help="folder of an executed study, such as executed/sandbox: take its own variance"
    )
    plan.add_argument("--json", action="store_true", help="print JSON")
    plan.set_defaults(command=run_plan_trend)


def run_score_hans(options: argparse.Namespace) -> int:
    """Print the scores of a file of predictions."""
    from blindspot.hans import format_scores, list_score_tables, score_hans_files

    scores = score_hans_files(options.predictions, options.hans_file)
    if options.json:
        print(format_scores(scores))
        return 0
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 110)
    whole = scores.iloc[0]
    console.print(f"HANS: {whole['correct']:,} of {whole['n']:,} pairs right, accuracy {whole['accuracy']:.4f}")
    for title, rows in list_score_tables(scores):
        table = Table(title=title, title_justify="left")
        for column in rows:
            table.add_column(str(column), justify="right" if column in ("n", "correct", "accuracy") else "left")
        for row in rows.itertuples(index=False):
            *cells, accuracy = row
            table.add_row(*(str(cell) for cell in cells), f"{accuracy:.4f}")
        console.print(table)
    return 0


def run_plan_seeds(options: argparse.Namespace) -> int:
    """Print the number of seeds that a difference needs."""
    from blindspot.planning import PUBLISHED_SD, PUBLISHED_SOURCE, describe_plan, find_seed_variance, plan_seeds

    sd, source = PUBLISHED_SD, PUBLISHED_SOURCE
    paired = options.results is not None if options.paired is None else options.paired
    if options.results is not None:
        import pandas as pd

        variance = find_seed_variance(pd.read_csv(options.results), test_set=options.test_set, paired=paired)
        sd, source = variance.sd, variance.source
    elif options.sd is not None:
        sd, source = options.sd, "given by --sd"
    plan = plan_seeds(
        options.effect,
        options.power,
        sd=sd,
        sd_source=source,
        paired=paired,
        alpha=options.alpha,
        comparisons=options.comparisons,
        test_set_se=options.test_set_se,
    )
    print(json.dumps(plan.to_dict(), indent=1) if options.json else describe_plan(plan))
    return 0


def run_plan_trend(options: argparse.Namespace) -> int:
    """Print the number of seeds that 'HANS falls while matched rises' needs."""
    from blindspot.trend_planning import (
        PUBLISHED_STARTS,
        describe_trend_plan,
        plan_trend,
        plan_trend_from_pilot,
        publish_spreads,
        read_pilot,
    )

    aims = (options.fall, options.rise, options.power)
    if options.pilot is not None:
        plan = plan_trend_from_pilot(read_pilot(options.pilot), *aims)
    else:
        plan = plan_trend(*aims, spreads=publish_spreads(), starts=PUBLISHED_STARTS)
    print(json.dumps(plan.to_dict(), indent=1) if options.json else describe_trend_plan(plan))
    return 0


def run_stage(options: argparse.Namespace) -> int:
    """Execute one notebook, in a process that the study's fork server starts where there is one."""
    from blindspot.forking import ADDRESS, Refused, run_forked_job

    if os.environ.get(ADDRESS) and not options.here:
        try:
            arguments = ["--parameters", options.parameters, "--overrides", options.overrides]
            return run_forked_job(["run", options.stage, *arguments, "--here"])
        except Refused as reason:
            print(f"plain start: {reason}", file=sys.stderr)
    from blindspot.runs import STAGES
    from blindspot.study import StudyError

    try:
        parameters = json.loads(options.parameters)
    except json.JSONDecodeError as error:
        raise StudyError(f"--parameters is not JSON ({error}); expected an object of names and values") from None
    if not isinstance(parameters, dict):
        raise StudyError(f"--parameters is {options.parameters}; expected a JSON object of names and values")
    if options.overrides:
        parameters["overrides"] = options.overrides
    if options.stage not in STAGES:
        raise StudyError(f"no stage {options.stage!r}; expected one of {', '.join(STAGES)}")
    from papermill.exceptions import PapermillExecutionError

    from blindspot.execute import execute_notebook
    from blindspot.runs import show_path

    try:
        print(show_path(execute_notebook(options.stage, parameters)))
    except PapermillExecutionError as error:
        print(f"error: {options.stage}: {error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    return 0


def start_study(options: argparse.Namespace) -> int:
    """Run or plan a whole study."""
    from blindspot.launch import plan_study, run_study
    from blindspot.study import read_overrides

    overrides = read_overrides(options.overrides)
    if options.plan:
        return plan_study(options.study, overrides=overrides, cores=options.cores)
    return run_study(options.study, overrides=overrides, cores=options.cores, extra=options.snakemake)


def write_model(options: argparse.Namespace) -> int:
    """Write a random model."""
    from blindspot.random_model import write_random_llama

    print(write_random_llama(options.folder, data=options.data, seed=options.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
