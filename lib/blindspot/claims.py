"""The claims ledger: what the paper says, the quantity that decides it, and what this study's data say of it.

Each of the eleven claims (CLAIMS) is data: the paper's own words, its quantity, the parts that it is made of,
and how many of them must hold ('all', 'most', 'almost all'). The verdict is a partial conjunction test on the parts'
evidence (statistics.combine_at_least), so one claim's error is at alpha however many cells it looks at; beside
it, each part gets its own verdict from Holm's p-values within the claim. Claims are not adjusted for one
another. With one seed per cell, as in the paper, a claim about models is undecided: the data cannot tell an
effect from a seed. All intervals hold for one generator: one G is trained per study, so how much another G's
synthetic data would change is not in them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from blindspot.cells import Cells
from blindspot.claim_list import CLAIMS, Claim
from blindspot.claim_parts import Part, build_grid, find_trend, judge
from blindspot.claim_table1 import find_overlap_correlation, find_overlap_ratios
from blindspot.statistics import ALPHA, SMALLEST_EFFECT, adjust_holm, combine_at_least

VERDICTS = ("supported", "contradicted", "undecided", "not testable here")
LEDGER_COLUMNS = (
    *("claim", "statement", "paper_words", "quantity", "verdict", "estimate", "low", "high"),
    *("p_for", "p_against", "parts", "needed", "supported_parts", "contradicted_parts", "seeds", "reason", "cells"),
)
PART_COLUMNS = (
    *("claim", "part", "verdict", "estimate", "low", "high", "seeds"),
    *("p_for", "p_against", "p_for_holm", "p_against_holm", "problem", "cells"),
)


def decide_claims(
    cells: Cells,
    *,
    table1: pd.DataFrame | None = None,
    smallest_effect: float = SMALLEST_EFFECT,
    near_zero: float = 0.10,
    alpha: float = ALPHA,
) -> pd.DataFrame:
    """The ledger: one row per claim (LEDGER_COLUMNS); written as `claims.csv`.

    `cells` from `collect_cells` (or `collect_cells_from_results`); `table1` as the audit builds it. The
    estimate with its interval (95 %) is that of the part on which the verdict turns: of `needed` parts that
    must hold, the weakest. p_for and p_against are the claim's; `seeds` the fewest of any part. The margins are
    accuracies: a difference under `smallest_effect` does not matter, an accuracy under `near_zero` is near zero.
    """
    found = find_all_parts(cells, table1=table1, smallest_effect=smallest_effect, near_zero=near_zero)
    rows = [decide_claim(claim, found[claim.number], alpha=alpha) for claim in CLAIMS]
    table = pd.DataFrame(rows)[list(LEDGER_COLUMNS)]
    margins = {"smallest_effect": f"{smallest_effect:.2g}", "near_zero": f"{near_zero:.2g}"}
    table["quantity"] = [quantity.format(**margins) for quantity in table["quantity"]]
    return table


def list_claim_parts(
    cells: Cells,
    *,
    table1: pd.DataFrame | None = None,
    smallest_effect: float = SMALLEST_EFFECT,
    near_zero: float = 0.10,
    alpha: float = ALPHA,
) -> pd.DataFrame:
    """Every comparison behind the ledger (PART_COLUMNS), each with its verdict by Holm within its claim."""
    found = find_all_parts(cells, table1=table1, smallest_effect=smallest_effect, near_zero=near_zero)
    return pd.concat([list_parts(number, parts, alpha=alpha) for number, parts in found.items()], ignore_index=True)


def find_trends(cells: Cells, *, alpha: float = ALPHA, smallest_effect: float = SMALLEST_EFFECT) -> pd.DataFrame:
    """The paper's hypothesis, 'HANS falls while matched rises', at every start, Holm-adjusted over the starts.

    One row per start, with starting_size and PART_COLUMNS: `estimate` is HANS's difference with the largest
    Synthetic set; verdict is supported (it happens), contradicted (shown not to) or undecided.
    """
    grid = build_grid(cells, smallest_effect=smallest_effect)
    starts = grid.starts()
    table = list_parts(4, [find_trend(grid, start) for start in starts], alpha=alpha)
    table.insert(0, "starting_size", starts)
    return table


def find_all_parts(
    cells: Cells, *, table1: pd.DataFrame | None, smallest_effect: float, near_zero: float
) -> dict[int, list[Part]]:
    """The parts of every claim by its number. An empty list: the study lacks what the claim is about."""
    grid = build_grid(cells, smallest_effect=smallest_effect, near_zero=near_zero)
    parts = {claim.number: claim.find_parts(grid) for claim in CLAIMS}
    if table1 is not None:
        parts[9] = find_overlap_ratios(table1)
        parts[10] = find_overlap_correlation(table1, smallest_effect=smallest_effect)
    return parts


def list_parts(number: int, parts: list[Part], *, alpha: float) -> pd.DataFrame:
    """One claim's parts as rows (PART_COLUMNS)."""
    holm = [adjust_holm([getattr(part, name) for part in parts]) for name in ("p_for", "p_against")]
    rows = [
        {
            "claim": number,
            "part": part.name,
            "verdict": "not testable here" if part.problem else judge(p_for, p_against, alpha=alpha),
            **describe_estimate(part),
            "seeds": part.estimate.seeds if part.estimate else 0,
            "p_for": part.p_for,
            "p_against": part.p_against,
            "p_for_holm": p_for,
            "p_against_holm": p_against,
            "problem": part.problem,
            "cells": "; ".join(part.cells),
        }
        for part, p_for, p_against in zip(parts, *holm, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(PART_COLUMNS))


def describe_estimate(part: Part | None) -> dict[str, float | None]:
    """Estimate and interval of a part, None where there is none."""
    estimate = part.estimate if part else None
    return {
        "estimate": estimate.value if estimate else None,
        "low": estimate.low if estimate else None,
        "high": estimate.high if estimate else None,
    }


def decide_claim(claim: Claim, parts: list[Part], *, alpha: float = ALPHA) -> dict[str, object]:
    """One row of the ledger from a claim's parts."""
    table = list_parts(claim.number, parts, alpha=alpha)
    row: dict[str, object] = {
        "claim": claim.number,
        "statement": claim.statement,
        "paper_words": claim.paper_words,
        "quantity": claim.quantity,
        "parts": len(parts),
        "needed": claim.count_needed(len(parts)),
        "supported_parts": int(table["verdict"].eq("supported").sum()),
        "contradicted_parts": int(table["verdict"].eq("contradicted").sum()),
        "seeds": min((part.estimate.seeds for part in parts if part.estimate), default=0),
        "cells": "; ".join(dict.fromkeys(cell for part in parts for cell in part.cells)),
    }
    if not any(part.estimate for part in parts):
        lack = next((part.problem for part in parts), claim.lack)
        nothing = {"p_for": None, "p_against": None, "verdict": "not testable here", "reason": lack}
        return row | describe_estimate(None) | nothing
    needed = claim.count_needed(len(parts))
    p_for = combine_at_least([part.p_for for part in parts], at_least=needed)
    p_against = combine_at_least([part.p_against for part in parts], at_least=len(parts) - needed + 1)
    verdict = judge(p_for, p_against, alpha=alpha)
    if verdict == "undecided" and any(part.problem for part in parts):
        verdict = "not testable here"
    turning = find_turning_part(parts, needed=needed, against=verdict == "contradicted")
    reason = explain_verdict(verdict, parts, table, needed=needed)
    values = {"p_for": p_for, "p_against": p_against, "verdict": verdict, "reason": reason}
    return row | describe_estimate(turning) | values


def find_turning_part(parts: list[Part], *, needed: int, against: bool) -> Part:
    """The part on which the verdict turns: the weakest of those that must hold, or that must fail."""
    p_values = np.array([part.p_against if against else part.p_for for part in parts])
    missing = np.array([part.estimate is None for part in parts])
    order = np.lexsort((np.nan_to_num(p_values, nan=1.0), missing))
    position = len(parts) - needed if against else needed - 1
    return parts[order[min(position, int((~missing).sum()) - 1)]]


def explain_verdict(verdict: str, parts: list[Part], table: pd.DataFrame, *, needed: int) -> str:
    """Why the verdict is what it is, in a sentence or two."""
    problems = [part.problem for part in parts if part.problem]
    estimates = [part.estimate for part in parts if part.estimate]
    counts = table["verdict"].value_counts()
    shown = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if name in counts)
    reason = f"{needed} of {len(parts)} part(s) must hold; each by itself: {shown}"
    if problems:
        reason += f". {len(problems)} part(s) cannot be formed here: the first {problems[0]}"
    if not all(estimate.sees_seeds for estimate in estimates):
        reason += ". One seed cannot see the variance between seeds: intervals are over examples alone, no test is made"
    elif verdict == "undecided":
        reason += ". The data show neither that it holds nor that it fails: more seeds would tell"
    return reason
