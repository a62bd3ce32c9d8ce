"""Information of heuristic and label: values by hand and by definition, bias and coverage by simulation."""

from __future__ import annotations

from math import log2, sqrt

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from blindspot.data import LABELS
from blindspot.information import (
    measure_entailment_share,
    measure_information,
    measure_phi,
    pivot_information,
    plug_in_information,
    tabulate_information,
)


def make_table(hits: list[int], totals: list[int]) -> pa.Table:
    labels = [label for label, total in zip(LABELS, totals, strict=True) for _ in range(total)]
    flags = [place < hit for hit, total in zip(hits, totals, strict=True) for place in range(total)]
    columns = {"gold_label": labels, "lexical_overlap_published": flags, "accepted": [True] * len(labels)}
    return pa.table(columns)


def test_information_of_known_rates() -> None:
    """A heuristic that only entailment pairs have, and all of them: H(1/3) bits. None where rates are equal."""
    third = -(log2(1 / 3) / 3 + 2 * log2(2 / 3) / 3)
    rates = np.array([[1.0, 0.0, 0.0], [0.3, 0.3, 0.3], [0.0, 0.0, 0.0]])
    assert plug_in_information(rates) == pytest.approx([third, 0, 0], abs=1e-12)


def test_information_is_that_of_the_joint_table() -> None:
    """Sum of p log2(p / (row x column)) over the six cells, labels weighted equally."""
    rates = np.array([0.22, 0.05, 0.06])
    joint = np.stack([rates, 1 - rates]) / 3
    expected = (joint * np.log2(joint / (joint.sum(axis=0) * joint.sum(axis=1, keepdims=True)))).sum()
    assert plug_in_information(rates) == pytest.approx(expected)


def test_phi_is_the_correlation_of_the_pairs() -> None:
    flags = np.array([1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    is_entailment = np.array([1] * 4 + [0] * 8)
    assert measure_phi(np.array([0.5, 0.25, 0.0])) == pytest.approx(np.corrcoef(flags, is_entailment)[0, 1])
    assert measure_phi(np.array([1.0, 0.0, 0.0])) == pytest.approx(1)
    assert measure_phi(np.array([0.0, 1.0, 1.0])) == pytest.approx(-1)
    assert np.isnan(measure_phi(np.zeros(3)))
    assert measure_entailment_share(np.array([0.5, 0.25, 0.0])) == pytest.approx(2 / 3)
    assert np.isnan(measure_entailment_share(np.zeros(3)))


def test_the_correction_by_hand() -> None:
    """Rates 1/2, 1/4, 0 of 4 pairs: mean 1/4, its variance (1/4 + 3/16) / 4 / 9, spread 3/16; two entropies vary."""
    value = measure_information(np.array([2.0, 1.0, 0.0]), np.array([4.0, 4.0, 4.0]))
    variance = (1 / 4 + 3 / 16) / 4 / 9
    expected = plug_in_information(np.array([0.5, 0.25, 0.0])) - ((1 / 8 + 1 / 8) / 3 - variance / (3 / 8)) / np.log(2)
    assert value == pytest.approx(expected)


@pytest.mark.parametrize("rates", [(0.05, 0.05, 0.05), (0.3, 0.2, 0.1)])
def test_the_correction_takes_the_bias_off(rates: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(1)
    totals = np.full(3, 300.0)
    hits = rng.binomial(300, rates, size=(20_000, 3)).astype(float)
    truth = plug_in_information(np.array(rates))
    bias_before = plug_in_information(hits / totals).mean() - truth
    bias_after = measure_information(hits, totals).mean() - truth
    assert bias_before > 0.001
    assert abs(bias_after) < 0.15 * bias_before


def test_intervals_cover() -> None:
    """200 simulated audits: information and correlation of the synthetic data are in their 95 % intervals in most."""
    rng = np.random.default_rng(2)
    rates = np.array([0.2, 0.05, 0.08])
    truths = {"mutual_information_bits": plug_in_information(rates), "phi": measure_phi(rates)}
    held = dict.fromkeys(truths, 0)
    for seed in range(200):
        table = make_table(rng.binomial(400, rates).tolist(), [400] * 3)
        found = tabulate_information(
            original=table.slice(0, 0),
            synthetic=table,
            heuristics=["lexical_overlap"],
            detectors=["published"],
            draws=400,
            seed=seed,
        )
        rows = found[found["dataset"] == "synthetic"].set_index("quantity")
        for name, truth in truths.items():
            held[name] += rows.loc[name, "low"] <= truth <= rows.loc[name, "high"]
    assert all(180 <= count <= 199 for count in held.values()), held


def test_table_by_hand() -> None:
    original, synthetic = make_table([20, 20, 20], [100, 100, 100]), make_table([50, 10, 0], [100, 50, 20])
    rejected = pa.table({"gold_label": ["neutral"], "lexical_overlap_published": [True], "accepted": [False]})
    synthetic = pa.concat_tables([synthetic, rejected])
    table = tabulate_information(
        original=original, synthetic=synthetic, heuristics=["lexical_overlap", "constituent"], detectors=["published"]
    )
    assert len(table) == 2 * 3 * 3
    row = table.set_index(["heuristic", "dataset", "quantity"]).loc["lexical_overlap"]
    assert row.loc[("original", "mutual_information_bits"), ["estimate", "low"]].tolist() == [0, 0]
    assert row.loc[("synthetic", "mutual_information_bits"), "uncorrected"] == pytest.approx(
        plug_in_information(np.array([0.5, 0.2, 0.0]))
    )
    mean = 0.7 / 3
    phi = (0.5 - mean) / 3 / sqrt(mean * (1 - mean) * 2 / 9)
    assert row.loc[("synthetic", "phi"), "estimate"] == pytest.approx(phi)
    assert row.loc[("original", "phi"), "estimate"] == pytest.approx(0)
    assert row.loc[("synthetic minus original", "phi"), "estimate"] == pytest.approx(phi)
    low, high = row.loc[("synthetic minus original", "phi"), ["low", "high"]]
    assert 0 < low < phi < high
    assert row.loc[("synthetic", "entailment_share"), "estimate"] == pytest.approx(0.5 / 0.7)
    assert row["pairs"].tolist() == [300] * 3 + [170] * 3 + [470] * 3
    without = table[table["heuristic"] == "constituent"]
    assert without[["estimate", "low", "high", "uncorrected"]].isna().all(axis=None) and (without["pairs"] == 0).all()
    again = tabulate_information(original=original, synthetic=synthetic, heuristics=["lexical_overlap"])
    pd.testing.assert_frame_equal(
        again[again["detector"] == "published"], table.iloc[:9], check_dtype=False
    )


def test_the_table_for_reading() -> None:
    table = tabulate_information(
        original=make_table([20, 20, 20], [100] * 3), synthetic=make_table([50, 10, 10], [100] * 3)
    )
    wide = pivot_information(table)
    assert list(wide.columns) == ["original", "synthetic", "synthetic minus original"]
    assert len(wide) == 3 * 3 * 2
    assert wide.iloc[0].name == ("mutual_information_bits", "lexical_overlap", "published")
    assert wide.iloc[0, 0].startswith("0.0000 [0.0000, 0.")
    assert wide.loc[("phi", "constituent", "published"), "original"] == ""
