"""The results as Markdown, put between the README's markers by `python -m bench --table`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

START, END = "<!-- bench -->", "<!-- /bench -->"
SIGNS = {True: "yes", False: "**no**", None: "-"}


def render(results: dict[str, Any]) -> str:
    """The whole table with what it was measured on."""
    stages = results["stages"]
    races = {name: entry for name, entry in stages.items() if "ratio" in entry}
    checks = {name: entry for name, entry in stages.items() if "ratio" not in entry}
    lines = ["| stage | times the reference | at least | aim | gate |", "| --- | --- | --- | --- | --- |"]
    lines += [render_race(entry) for entry in races.values()]
    if checks:
        lines += ["", "| also | holds | figures |", "| --- | --- | --- |"]
        lines += [f"| {c['title']} | {SIGNS[c['passed']]} | {render_figures(c['figures'])} |" for c in checks.values()]
    return "\n".join([*lines, "", describe_machine(stages)])


def render_race(entry: dict[str, Any]) -> str:
    """One stage: median ratio (lowest to highest), its bounds, and the gate's verdict."""
    gate = entry["gate"]
    verdict = {True: f"holds: {gate['what']}", False: f"**failed**: {gate['problem']}"}.get(
        gate["passed"], gate["problem"] or gate["what"]
    )
    cells = [entry["title"], render_ratio(entry), render_bound(entry["at_least"]), render_bound(entry["aim"]), verdict]
    return "| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |"


def render_ratio(entry: dict[str, Any]) -> str:
    """`12.3 (11.0 to 13.1)`, marked where it does not reach what it has to."""
    ratio = entry["ratio"]
    if ratio is None:
        return "null"
    text = f"{ratio['median']:.1f} ({ratio['lowest']:.1f} to {ratio['highest']:.1f})"
    return f"{text}, below" if entry["meets_at_least"] is False else text


def render_bound(bound: float | None) -> str:
    """`10x`, or a dash."""
    return "-" if bound is None else f"{bound:g}x"


def render_figures(figures: Any) -> str:
    """Numbers of a check on one line."""
    if isinstance(figures, dict):
        return "; ".join(f"{str(name).replace('_', ' ')} {render_figures(value)}" for name, value in figures.items())
    return f"{figures:.3g}" if isinstance(figures, float) else f"{figures:,}" if isinstance(figures, int) else figures


def describe_machine(stages: dict[str, Any]) -> str:
    """What it was measured on and with: of each thing every value that some stage has."""

    def values(key: str) -> str:
        return ", ".join(sorted({str(entry[key]) for entry in stages.values() if key in entry}))

    commits = ", ".join(sorted({str(entry.get("git_commit"))[:9] for entry in stages.values()}))
    torch = ", ".join(sorted({entry["versions"]["torch"] for entry in stages.values() if "versions" in entry}))
    return (
        f"Medians (lowest to highest) of paired rounds on {values('cores')} cores, {values('threads')} thread(s) a "
        f"job, {values('processor')}; torch {torch}; commit {commits}. `make bench` measures all of it again; "
        "`bench/results.json` has every round."
    )


def write_readme(readme: Path, table: str) -> None:
    """Put the table between the markers. Raises ValueError where they are not there."""
    text = readme.read_text(encoding="utf-8")
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ValueError(f"{readme.name} needs the markers {START} and {END}, once each and in this order")
    before, rest = text.split(START)
    readme.write_text(f"{before}{START}\n{table}\n{END}{rest.split(END)[1]}", encoding="utf-8")
