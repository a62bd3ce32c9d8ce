"""Paired races: the reference and ours in turn, round by round, and a gate that voids the ratio where it fails.

A ratio is ours over the reference's in work per second, of one round, so that what else the machine does hits both
sides of it alike. Who goes first changes from round to round.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from blindspot.runs import git_commit, list_versions

Output = TypeVar("Output")
Figures = dict[str, Any]


class GateError(AssertionError):
    """Ours and the reference do not agree; the message says in what."""


@dataclass(frozen=True)
class Race(Generic[Output]):
    """One line of the acceptance table. A side takes the round's number, and returns (work done, output).

    check: holds the reference's output against ours after every round; returns figures, raises GateError. None where
    the tests hold the two together and no bound hangs on the ratio.
    """

    stage: str
    title: str
    at_least: float | None
    aim: float | None
    gate: str
    reference: Callable[[int], tuple[float, Output]]
    ours: Callable[[int], tuple[float, Output]]
    check: Callable[[Output, Output], Figures] | None
    notes: Figures = field(default_factory=dict)


def require(holds: bool, message: str) -> None:
    """Raise GateError unless something holds."""
    if not holds:
        raise GateError(message)


def say(text: str) -> None:
    """A line of progress, at once."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def run_race(race: Race[Any], *, rounds: int) -> Figures:
    """Run all rounds; the result as it stands in results.json. A failed gate gives `ratio` null."""
    sides = {"reference": race.reference, "ours": race.ours}
    measured: list[Figures] = []
    figures: Figures = {}
    problem = ""
    for number in range(rounds):
        row: Figures = {}
        outputs: Figures = {}
        for side in ("reference", "ours") if number % 2 == 0 else ("ours", "reference"):
            started = time.perf_counter()
            work, outputs[side] = sides[side](number)
            row[f"{side}_seconds"] = time.perf_counter() - started
            row[f"{side}_work"] = work
        row["ratio"] = find_ratio(row)
        measured.append(row)
        try:
            figures |= race.check(outputs["reference"], outputs["ours"]) if race.check else {}
        except GateError as error:
            problem = problem or str(error)
        say(
            f"{race.stage} round {number + 1}: reference {row['reference_seconds']:.2f} s, "
            f"ours {row['ours_seconds']:.2f} s, ratio {row['ratio']:.1f}{' GATE FAILED' if problem else ''}"
        )
    return describe_race(race, measured, figures, problem)


def find_ratio(row: Figures) -> float:
    """Work per second of ours over that of the reference."""
    reference = row["reference_work"] / row["reference_seconds"]
    return row["ours_work"] / row["ours_seconds"] / reference if reference else float("nan")


def describe_race(race: Race[Any], measured: list[Figures], figures: Figures, problem: str) -> Figures:
    """A stage's entry in results.json."""
    passed = not problem if race.check else None
    ratio = None if problem else spread([row["ratio"] for row in measured])
    return {
        "title": race.title,
        "at_least": race.at_least,
        "aim": race.aim,
        "gate": {"what": race.gate, "passed": passed, "problem": problem or None, "figures": figures},
        "ratio": ratio,
        "meets_at_least": meets(ratio, race.at_least),
        "meets_aim": meets(ratio, race.aim),
        "rounds": measured,
        "notes": race.notes,
        **stamp(),
    }


def spread(values: list[float]) -> Figures:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def meets(ratio: Figures | None, bound: float | None) -> bool | None:
    """Whether a median ratio reaches a bound; None without one of them."""
    return None if ratio is None or bound is None else ratio["median"] >= bound


def stamp() -> Figures:
    """When, on what and with which code something was measured."""
    import torch

    return {
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "git_commit": git_commit(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "processor": find_processor(),
        "python": platform.python_version(),
        "versions": list_versions(),
    }


def find_processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def agree_by_ks(reference: np.ndarray, ours: np.ndarray, *, what: str, least: float = 0.01) -> float:
    """p of the two-sample Kolmogorov-Smirnov test. Raises GateError for p of at most `least`."""
    from scipy.stats import ks_2samp

    require(len(reference) > 0 and len(ours) > 0, f"{what}: {len(reference)} and {len(ours)} examples, none to compare")
    found = float(ks_2samp(np.asarray(reference, dtype=float), np.asarray(ours, dtype=float)).pvalue)
    require(found > least, f"{what} differ: KS p = {found:.2g} over {len(reference)} and {len(ours)} examples")
    return found


def largest_gap(one: np.ndarray, other: np.ndarray, *, what: str, most: float = 1e-5) -> float:
    """The largest difference of two arrays, absolute or relative to the value. Raises GateError over `most`."""
    require(one.shape == other.shape, f"{what}: shapes {one.shape} and {other.shape}")
    gap = float((np.abs(one - other) / np.maximum(1.0, np.abs(one))).max()) if one.size else 0.0
    require(gap <= most, f"{what} differ by {gap:.1e}; {most:.0e} is allowed")
    return gap


def write_results(path: Path, stages: Figures, *, order: Sequence[str]) -> Figures:
    """Put these stages' figures into the results file, beside those of other stages that stand there."""
    from blindspot.runs import write_json

    known = json.loads(path.read_text(encoding="utf-8"))["stages"] if path.is_file() else {}
    merged = known | stages
    results = {"stages": {name: merged[name] for name in order if name in merged}}
    write_json(path, results)
    return results
