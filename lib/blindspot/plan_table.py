"""The plan's second table: hours and disk by stage, with the source of each estimate under it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.table import Table

from blindspot.costs import Cost
from blindspot.runs import STAGES

UNKNOWN = "-"


def build_cost_table(costs: Sequence[Cost]) -> Table:
    """Runs, hours in all and still to come, and disk by stage; `-` is unknown, `+` after a sum that lacks a part.

    Hours are GPU hours where the study has GPUs (stages without one count none), else CPU hours.
    """
    unit = "GPU hours" if any(cost.gpus for cost in costs) else "CPU hours"
    table = Table(title=f"Cost: {unit} and disk; finished runs as measured, others estimated", title_justify="left")
    for name in ("stage", unit, "to come", "disk", "from"):
        table.add_column(name, justify="right" if name in (unit, "to come", "disk") else "left")
    for stage in STAGES:
        part = [cost for cost in costs if cost.stage == stage]
        if part:
            needs_none = unit == "GPU hours" and not any(cost.gpus for cost in part)
            sources = "; ".join(dict.fromkeys(cost.source for cost in part))
            table.add_row(stage, *sum_costs(part, unit=unit), "needs no GPU" if needs_none else sources)
    table.add_section()
    table.add_row("all", *sum_costs(costs, unit=unit), "")
    return table


def sum_costs(costs: Sequence[Cost], *, unit: str) -> tuple[str, str, str]:
    """Hours in all, hours to come, disk, as text."""
    hours = [count_hours(cost, unit=unit) for cost in costs]
    coming = [value for value, cost in zip(hours, costs, strict=True) if cost.to_run]
    return (
        format_sum(hours, format_hours),
        format_sum(coming, format_hours),
        format_sum([cost.bytes for cost in costs], format_bytes),
    )


def count_hours(cost: Cost, *, unit: str) -> float | None:
    """GPU hours (0 for a job without a GPU) or CPU hours of one job."""
    devices = cost.gpus if unit == "GPU hours" else cost.threads
    if not devices:
        return 0.0
    return None if cost.seconds is None else cost.seconds * devices / 3600


def format_sum(values: Sequence[float | None], write: Callable[[float], str]) -> str:
    """The sum of what is known, `+` behind it where a part is unknown, `-` where all of it is."""
    known = [value for value in values if value is not None]
    if values and not known:
        return UNKNOWN
    return write(sum(known)) + ("+" if len(known) < len(values) else "")


def format_hours(hours: float) -> str:
    """Such as `12.3`, `0.042`, `0`."""
    return "0" if not hours else f"{hours:,.1f}" if hours >= 1 else f"{hours:.2g}"


def format_bytes(size: float) -> str:
    """Such as `38.4 GB`."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"
