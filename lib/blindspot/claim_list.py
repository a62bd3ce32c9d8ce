"""The paper's eleven claims as data: its words, the quantity that decides each, and how much of it must hold.

The statements follow Zhang & Pavlick 2025, sections 3 and Limitations and Table 1; `paper_words` are quotes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from blindspot.claim_cells import (
    ORIGINAL,
    SYNTHETIC,
    compare_biased,
    compare_kinds_hans,
    compare_kinds_matched,
    compare_with_start,
    find_collapse,
    find_hans_cost,
    find_trends_by_start,
)
from blindspot.claim_parts import UNDER_TRAINED, WELL_TRAINED, Grid, Part


@dataclass(frozen=True)
class Claim:
    """One claim. `needed` is the share of parts that must hold; `quantity` names the margins of `decide_claims`."""

    number: int
    statement: str
    paper_words: str
    quantity: str
    find_parts: Callable[[Grid], list[Part]]
    needed: str = "all"
    lack: str = "the study has no starting size of this role"

    def count_needed(self, parts: int) -> int:
        """How many of `parts` must hold: all, most (more than half) or almost all (nine tenths)."""
        return {"all": parts, "most": parts // 2 + 1, "almost all": int(np.ceil(0.9 * parts))}[self.needed]


CLAIMS = (
    Claim(
        1,
        "For under-trained starts, Synthetic raises matched accuracy.",
        "When starting with undertrained task models, further fine-tuning with synthetic data will improve the "
        "performance on the MultiNLI Matched test set.",
        "matched accuracy after the largest Synthetic set minus before, each of the starts ranked 0, 5K, 10K",
        partial(compare_with_start, test="rises", test_set="matched", roles=UNDER_TRAINED, kinds=(SYNTHETIC,)),
    ),
    Claim(
        2,
        "With the largest set, Synthetic raises it about as much as Original.",
        "The amount of improvement is on par with the model fine-tuned with original MultiNLI training data if "
        "the training set size is large enough.",
        "matched accuracy with the largest Synthetic minus the largest Original set: equivalent within "
        "{smallest_effect}, same starts",
        compare_kinds_matched,
    ),
    Claim(
        3,
        "For the 100K and 392K starts, neither Original nor Synthetic helps on matched.",
        "For relatively well-established starting models, neither fine-tuning with original nor synthetic data "
        "would significantly improve the performance of MultiNLI.",
        "matched accuracy after the largest set of each minus before: no rise of {smallest_effect}, starts 100K, 392K",
        partial(
            compare_with_start,
            test="not_rises",
            test_set="matched",
            roles=WELL_TRAINED,
            kinds=(ORIGINAL, SYNTHETIC),
        ),
    ),
    Claim(
        4,
        "HANS falls while matched rises only at the 20K start.",
        "The hypothesized trend, in which the performance of HANS goes down while the performance of MultiNLI "
        "goes up, only happens in for the 20K starting point.",
        "HANS and matched accuracy after the largest Synthetic set minus before: both signs at 20K, not both elsewhere",
        find_trends_by_start,
    ),
    Claim(
        5,
        "At the 392K start Synthetic costs HANS accuracy, not monotonically.",
        "We also see a fairly sizable drop in HANS performance for the 392K starting point, but the curve is not "
        "monotonic and thus it is inconclusive.",
        "HANS accuracy along the Synthetic sizes at the largest start: a size under the start, and a step upwards",
        find_hans_cost,
    ),
    Claim(
        6,
        "Original helps HANS more, or harms it less, than Synthetic in most settings.",
        "Overall, under most settings, further fine-tuning with original MultiNLI data would always benefit more "
        "or harm less on HANS performance than synthetic data.",
        "HANS accuracy with Original minus with Synthetic, each start and size: above 0 in more than half",
        compare_kinds_hans,
        "most",
    ),
    Claim(
        7,
        "Biased Synthetic is worst in almost all tests.",
        "As expected, such models perform worst in almost all tests",
        "accuracy with Biased Synthetic under both other kinds, each start, size and test: in nine tenths",
        compare_biased,
        "almost all",
    ),
    Claim(
        8,
        "With Biased Synthetic the blind-spot accuracy goes towards 0.",
        "with the accuracy on the HANS subset of lexical overlap heuristic and non-entailment label dropping "
        "significantly towards zero over training",
        "blind-spot accuracy after the largest Biased Synthetic set: under {near_zero} in most starts, and on average "
        "over the starts below the start itself (without the random head, which has nothing learnt to lose) and below "
        "Synthetic of that size",
        find_collapse,
    ),
    Claim(
        9,
        "Lexical overlap is more frequent in synthetic than in original data for every label.",
        "lexical overlap is more common in the synthetic dataset than in MultiNLI for all labels",
        "share of pairs with lexical overlap, synthetic over original, each label, by the published detector: above 1 "
        "(paper 2.352, 2.320, 1.827)",
        lambda grid: [],
        lack="no Table 1 was given",
    ),
    Claim(
        10,
        "The correlation of lexical overlap with entailment is only slightly stronger in synthetic data.",
        "However, the correlation between lexical overlap and entailment label is just slightly stronger.",
        "share of entailment among pairs with overlap by the published detector, labels balanced, synthetic minus "
        "original: above 0, but under {smallest_effect}",
        lambda grid: [],
        lack="no Table 1 was given",
    ),
    Claim(
        11,
        "Synthetic data does not reinforce the blind spot.",
        "while fine-tuning with synthetic data doesn't necessarily reduce the use of the heuristic, it also does "
        "not make it worse as we hypothesized",
        "blind-spot accuracy after the largest Synthetic set minus before: no fall of {smallest_effect}, each start "
        "but the random head (which has learnt no heuristic)",
        partial(
            compare_with_start, test="not_falls", test_set="hans_blind_spot", roles=(1, 2, 3, 4, 5), kinds=(SYNTHETIC,)
        ),
    ),
)
