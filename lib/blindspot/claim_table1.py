"""The parts of the two claims about the data themselves (9 and 10): Table 1's counts, no models and no seeds.

Counts are taken as draws from what the one generator writes; another generator would write something else,
and that is not in these intervals.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from blindspot.claim_parts import NAN, Part, double
from blindspot.readers import LABELS
from blindspot.statistics import ALPHA, SMALLEST_EFFECT, Estimate

SMALLEST_RATIO = 1.25
DATASETS = ("synthetic", "original")


def find_overlap_ratios(
    table1: pd.DataFrame, *, detector: str = "published", smallest_ratio: float = SMALLEST_RATIO
) -> list[Part]:
    """Claim 9: for each label, the share with overlap in synthetic over that in original data, above 1.

    The interval is the log ratio's (Katz), with half a pair added where a count is 0. Against the claim: the
    ratio is shown to be under `smallest_ratio`.
    """
    counts = read_overlap_counts(table1, detector=detector)
    parts = []
    for label in LABELS:
        title = f"{label}: synthetic over original share of lexical overlap ({detector}) above 1"
        if counts is None:
            parts.append(Part(title, None, NAN, NAN, (f"table1/{label}",), f"lacks Table 1 by the detector {detector}"))
            continue
        (hits, total), (other_hits, other_total) = (counts[dataset, label] for dataset in DATASETS)
        add = 0.5 if min(hits, other_hits) == 0 else 0.0
        log_ratio = np.log((hits + add) / (total + add) / ((other_hits + add) / (other_total + add)))
        se = np.sqrt(1 / (hits + add) - 1 / (total + add) + 1 / (other_hits + add) - 1 / (other_total + add))
        half_width = ndtri(1 - ALPHA / 2) * se
        estimate = Estimate(
            value=float(np.exp(log_ratio)),
            se=float(se),
            df=np.inf,
            low=float(np.exp(log_ratio - half_width)),
            high=float(np.exp(log_ratio + half_width)),
            seeds=0,
            sees_seeds=True,
        )
        p_for = double(float(ndtr(-log_ratio / se)))
        p_against = float(ndtr((log_ratio - np.log(smallest_ratio)) / se))
        parts.append(Part(title, estimate, p_for, p_against, (f"table1/{label}",)))
    return parts


def find_overlap_correlation(
    table1: pd.DataFrame,
    *,
    detector: str = "published",
    smallest_effect: float = SMALLEST_EFFECT,
    draws: int = 20_000,
    seed: int = 1,
) -> list[Part]:
    """Claim 10: of pairs with overlap, the share labelled entailment: in synthetic minus in original data.

    Labels are weighted equally, as in every training set. Two parts: the difference is above 0 (against: it is
    below), and it is under `smallest_effect` (against: it is above). Standard error from `draws` of the six
    shares with overlap (beta, Jeffreys prior).
    """
    counts = read_overlap_counts(table1, detector=detector)
    cells = tuple(f"table1/{label}" for label in LABELS)
    title = f"share of entailment among pairs with overlap ({detector}), synthetic minus original: "
    titles = [title + "above 0", title + f"under {smallest_effect}"]
    if counts is None:
        return [Part(name, None, NAN, NAN, cells, f"lacks Table 1 by the detector {detector}") for name in titles]
    generator = np.random.default_rng(seed)
    shares, values = [], []
    for dataset in DATASETS:
        hits, totals = np.array([counts[dataset, label] for label in LABELS], dtype=float).T
        rates = generator.beta(hits + 0.5, totals - hits + 0.5, size=(draws, len(LABELS)))
        entailment = LABELS.index("entailment")
        shares.append(rates[:, entailment] / rates.sum(axis=1))
        exact = (hits + (hits.sum() == 0)) / totals
        values.append(exact[entailment] / exact.sum())
    value, se = float(values[0] - values[1]), float((shares[0] - shares[1]).std())
    low, high = np.quantile(shares[0] - shares[1], [ALPHA / 2, 1 - ALPHA / 2])
    estimate = Estimate(value, se, np.inf, float(low), float(high), 0, True)
    above, below = float(ndtr(-value / se)), float(ndtr(value / se))
    beyond, within = float(ndtr((smallest_effect - value) / se)), float(ndtr((value - smallest_effect) / se))
    return [
        Part(titles[0], estimate, double(above), double(below), cells),
        Part(titles[1], estimate, within, beyond, cells),
    ]


def read_overlap_counts(table1: pd.DataFrame, *, detector: str) -> dict[tuple[str, str], tuple[int, int]] | None:
    """(pairs with overlap, pairs) by dataset and label, or None where a row is lacking or has no pairs.

    Takes Table 1 as the audit builds it (label, n_overlap) and as figures show it (gold_label,
    lexical_overlap).
    """
    frame = table1.rename(columns={"gold_label": "label", "lexical_overlap": "n_overlap"})
    lacking = {"dataset", "label", "detector", "count", "n_overlap"} - set(frame)
    if lacking:
        raise ValueError(f"Table 1 lacks the columns {sorted(lacking)}; expected what build_table1 returns")
    rows = frame[frame["detector"].eq(detector)]
    keys = zip(rows["dataset"], rows["label"], strict=True)
    counts = dict(zip(keys, zip(rows["n_overlap"].astype(int), rows["count"].astype(int), strict=True), strict=True))
    complete = all(counts.get((dataset, label), (0, 0))[1] > 0 for dataset in DATASETS for label in LABELS)
    return counts if complete else None
