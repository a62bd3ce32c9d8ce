"""How much a heuristic says about the label, in original and in synthetic data: information, correlation, intervals.

Table 1 counts overlap by label. What a model could learn from it is how far overlap and label depend on one another,
and claim 10 is about that. Labels are weighted equally throughout, as in every training set, so that original and
synthetic data compare although they hold other numbers of each label.

Mutual information of the heuristic (yes or no) and the label (three), in bits, is H(mean rate) - mean H(rate by label).
The plug-in estimate is too high on average, also where there is no dependence at all; the estimate here takes off its
bias to second order: Miller and Madow's 1 / 2n for each label's entropy, and the share's variance / 2 p (1 - p) for
that of the mean. Intervals are percentile intervals of a parametric bootstrap: each label's count is drawn anew from a
binomial, and the draws are moved by the bias that they carry a second time. Information is never under 0, so its
interval is cut there. The intervals are over pairs of the one generator; another generator is not in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import xlogy

from blindspot.audit import keep_accepted
from blindspot.data import LABELS
from blindspot.heuristics import DETECTORS, HEURISTICS, heuristic_column

QUANTITIES = ("mutual_information_bits", "phi", "entailment_share")
DIFFERENCE = "synthetic minus original"
ENTAILMENT = LABELS.index("entailment")

Figures = Mapping[str, tuple[np.ndarray, np.ndarray]]


def measure_information(hits: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Mutual information of heuristic and label in bits, labels weighted equally, less its bias; can be under 0.

    hits, totals: pairs with the heuristic and pairs, [..., labels], every total above 0. Without the correction it is
    `plug_in_information(hits / totals)`.
    """
    rates = hits / totals
    mean = rates.mean(axis=-1)
    varies = (rates > 0) & (rates < 1)
    by_label = (varies / (2 * totals)).mean(axis=-1)
    variance = (rates * (1 - rates) / totals).sum(axis=-1) / rates.shape[-1] ** 2
    spread = mean * (1 - mean)
    of_mean = np.divide(variance, 2 * spread, out=np.zeros_like(mean), where=spread > 0)
    return plug_in_information(rates) - (by_label - of_mean) / np.log(2)


def plug_in_information(rates: np.ndarray) -> np.ndarray:
    """Mutual information in bits of given rates of the heuristic, [..., labels], labels weighted equally."""
    return _entropy(rates.mean(axis=-1)) - _entropy(rates).mean(axis=-1)


def _entropy(rates: np.ndarray) -> np.ndarray:
    return -(xlogy(rates, rates) + xlogy(1 - rates, 1 - rates)) / np.log(2)


def measure_phi(rates: np.ndarray) -> np.ndarray:
    """Correlation (phi, the point-biserial of two yes-or-no variables) of heuristic and entailment; NaN without any.

    rates: of the heuristic by label, [..., labels], labels weighted equally.
    """
    share, mean = 1 / rates.shape[-1], rates.mean(axis=-1)
    covariance = share * (rates[..., ENTAILMENT] - mean)
    spread = np.sqrt(mean * (1 - mean) * share * (1 - share))
    return np.divide(covariance, spread, out=np.full_like(mean, np.nan), where=spread > 0)


def measure_entailment_share(rates: np.ndarray) -> np.ndarray:
    """Of pairs with the heuristic, the share that is entailment, labels weighted equally; NaN without any.

    Claim 10 is decided by it. rates: [..., labels].
    """
    total = rates.sum(axis=-1)
    return np.divide(rates[..., ENTAILMENT], total, out=np.full_like(total, np.nan), where=total > 0)


def tabulate_information(
    *,
    original: pa.Table,
    synthetic: pa.Table,
    heuristics: Sequence[str] = HEURISTICS,
    detectors: Sequence[str] = DETECTORS,
    draws: int = 4_000,
    seed: int = 1,
    level: float = 0.95,
) -> pd.DataFrame:
    """Information, correlation and share of entailment by heuristic and detector: original, synthetic, difference.

    The tables need gold_label and the heuristics' columns; of synthetic, accepted rows count. Columns: heuristic,
    detector, dataset, quantity (QUANTITIES), estimate, low, high, uncorrected (the plug-in estimate, for information),
    pairs. Missing where a column is lacking, a label has no pair with a known value, or the quantity is undefined.
    """
    tables = {"original": original, "synthetic": keep_accepted(synthetic)}
    rows = []
    for number, (heuristic, detector) in enumerate((h, d) for h in heuristics for d in detectors):
        column = heuristic_column(heuristic, detector)
        found: dict[str, Figures] = {}
        pairs: dict[str, int] = {}
        for place, (dataset, table) in enumerate(tables.items()):
            hits, totals = count_by_label(table, column)
            rng = np.random.default_rng([seed, number, place])
            found[dataset] = _measure_all(hits, totals, draws=draws, rng=rng)
            pairs[dataset] = int(totals.sum())
        found[DIFFERENCE] = {
            name: (found["synthetic"][name][0] - values, found["synthetic"][name][1] - drawn)
            for name, (values, drawn) in found["original"].items()
        }
        for dataset, figures in found.items():
            for name in QUANTITIES:
                key = {"heuristic": heuristic, "detector": detector, "dataset": dataset, "quantity": name}
                is_information = name == QUANTITIES[0]
                row = _summarise(*figures[name], level=level, cut=is_information and dataset != DIFFERENCE)
                row["uncorrected"] = float(figures["uncorrected"][0]) if is_information else None
                rows.append(key | row | {"pairs": pairs.get(dataset, sum(pairs.values()))})
    return pd.DataFrame(rows)


def count_by_label(table: pa.Table, column: str) -> tuple[np.ndarray, np.ndarray]:
    """(pairs with True, pairs that are not null) in a bool column by label, in the order of LABELS; 0 without it."""
    if column not in table.column_names:
        return np.zeros(len(LABELS)), np.zeros(len(LABELS))
    parts = [table[column].filter(pc.equal(table["gold_label"], label)) for label in LABELS]
    hits = [pc.sum(part).as_py() or 0 for part in parts]
    return np.array(hits, dtype=float), np.array([len(part) - part.null_count for part in parts], dtype=float)


def _measure_all(hits: np.ndarray, totals: np.ndarray, *, draws: int, rng: np.random.Generator) -> Figures:
    """Each quantity's estimate and its bootstrap draws."""
    if not totals.all():
        missing = np.full((), np.nan), np.full(draws, np.nan)
        return dict.fromkeys([*QUANTITIES, "uncorrected"], missing)
    rates = hits / totals
    drawn_hits = rng.binomial(totals.astype(np.int64), rates, size=(draws, len(rates))).astype(float)
    drawn = drawn_hits / totals
    information, plug_in = measure_information(hits, totals), plug_in_information(rates)
    moved = measure_information(drawn_hits, totals) - (plug_in - information)
    return {
        "mutual_information_bits": (information, moved),
        "phi": (measure_phi(rates), measure_phi(drawn)),
        "entailment_share": (measure_entailment_share(rates), measure_entailment_share(drawn)),
        "uncorrected": (plug_in, moved),
    }


def _summarise(value: np.ndarray, draws: np.ndarray, *, level: float, cut: bool) -> dict[str, Any]:
    known = draws[np.isfinite(draws)]
    if not np.isfinite(value) or not len(known):
        return dict.fromkeys(("estimate", "low", "high"))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    figures = {"estimate": float(value), "low": float(low), "high": float(high)}
    return {name: max(figure, 0.0) for name, figure in figures.items()} if cut else figures


def pivot_information(table: pd.DataFrame) -> pd.DataFrame:
    """The table for reading: a row per heuristic, detector and quantity, `estimate [low, high]` by dataset."""
    shown = table.assign(
        figure=[
            "" if pd.isna(estimate) else f"{estimate:.4f} [{low:.4f}, {high:.4f}]"
            for estimate, low, high in zip(table["estimate"], table["low"], table["high"], strict=True)
        ]
    )
    wide = shown.pivot(index=["quantity", "heuristic", "detector"], columns="dataset", values="figure")
    order = list(dict.fromkeys(zip(table["quantity"], table["heuristic"], table["detector"], strict=True)))
    order = sorted(order, key=lambda key: QUANTITIES.index(key[0]))
    return wide.loc[order, ["original", "synthetic", DIFFERENCE]]
