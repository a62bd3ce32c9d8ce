"""HANS's three heuristics as detectors over many pairs.

They stand apart because the study turns on them: Table 1 counts lexical overlap, the biased training sets
filter by it, and on real MultiNLI the two ways to split words differ several-fold. Both are computed once and
stored, and every column says in its name which one it is.

- `published`: the finder scripts released with HANS (McCoy et al. 2019). Words are lower-cased and split on
  white space; only a free-standing `.`, `?` or `!` is dropped, so `danced.` is another word than `danced`.
- `token_aligned`: punctuation is stripped from both ends of each word, and what is left empty is dropped.

A hypothesis without any word has every heuristic, as in the finder scripts. Lexical overlap by `published`
implies lexical overlap by `token_aligned`.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import numpy as np
import pyarrow as pa

HEURISTICS = ("lexical_overlap", "subsequence", "constituent")
DETECTORS = ("published", "token_aligned")
SENTENCE_STOPS = (".", "?", "!")
PUNCTUATION = string.punctuation + "\u201c\u201d\u2018\u2019\u00ab\u00bb\u2013\u2014\u2026\u00a1\u00bf"
BRACKET_TOKENS = frozenset({"-lrb-", "-rrb-", "-lsb-", "-rsb-", "-lcb-", "-rcb-"})
BATCH_ROWS = 65_536

Words = Callable[[str], list[str]]


def heuristic_column(heuristic: str, detector: str) -> str:
    """Name of the stored column, such as `lexical_overlap_published`.

    Raises ValueError for an unknown name.
    """
    if heuristic not in HEURISTICS:
        raise ValueError(f"heuristic is {heuristic!r}; expected one of {', '.join(HEURISTICS)}")
    check_detector(detector)
    return f"{heuristic}_{detector}"


def check_detector(detector: str) -> None:
    """Raise ValueError unless `detector` is one of DETECTORS."""
    if detector not in DETECTORS:
        raise ValueError(f"overlap detector is {detector!r}; expected one of {', '.join(DETECTORS)}")


def split_words(text: str, *, detector: str) -> list[str]:
    """Lower-cased words of one sentence, as `detector` sees them, in order."""
    check_detector(detector)
    return _published_words(text) if detector == "published" else _aligned_words(text)


def _published_words(text: str) -> list[str]:
    return [word for word in text.lower().split() if word not in SENTENCE_STOPS]


def _aligned_words(text: str) -> list[str]:
    return [bare for word in text.lower().split() if (bare := word.strip(PUNCTUATION))]


def _word_splitter(detector: str) -> Words:
    check_detector(detector)
    return _published_words if detector == "published" else _aligned_words


def lexical_overlap(premises: Iterable[str], hypotheses: Iterable[str], *, detector: str) -> np.ndarray:
    """Which hypotheses use only words of their premise.

    Returns a bool array with one value per pair. Most pairs are settled by a substring search, which every
    word of an overlapping hypothesis passes; sets are built only for those that are left. Source:
    `lex_finder.py` of the HANS release for the published detector.
    """
    split = _word_splitter(detector)
    pairs = zip(premises, hypotheses, strict=True)
    return np.fromiter(
        (_has_overlap(premise, hypothesis, split) for premise, hypothesis in pairs), dtype=bool
    )


def _has_overlap(premise: str, hypothesis: str, split: Words) -> bool:
    words = split(hypothesis)
    lowered = premise.lower()
    for word in words:
        if word not in lowered:
            return False
    return set(split(premise)).issuperset(words)


def lexical_overlap_by_detector(premises: Iterable[str], hypotheses: Iterable[str]) -> dict[str, np.ndarray]:
    """`lexical_overlap` by both detectors in one pass, at half the cost of one after the other.

    What `published` finds `token_aligned` finds too, so that a pair which fails the latter is settled for both.
    """
    pairs = zip(premises, hypotheses, strict=True)
    grades = np.fromiter((_grade_overlap(premise, hypothesis) for premise, hypothesis in pairs), dtype=np.int8)
    return {"published": grades == 2, "token_aligned": grades >= 1}


def _grade_overlap(premise: str, hypothesis: str) -> int:
    """2: overlap by both detectors, 1: by token_aligned alone, 0: by none."""
    lowered, words = premise.lower(), hypothesis.lower().split()
    for word in words:
        if word not in lowered and word.strip(PUNCTUATION) not in lowered:
            return 0
    if set(_published_words(premise)).issuperset(word for word in words if word not in SENTENCE_STOPS):
        return 2
    return int(set(_aligned_words(premise)).issuperset(_aligned_words(hypothesis)))


def subsequence(premises: Iterable[str], hypotheses: Iterable[str], *, detector: str) -> np.ndarray:
    """Which hypotheses are a contiguous stretch of their premise; a bool array with one value per pair.

    The published finder searches the joined words as text, so that `at the door` is found in `bat the door`;
    `token_aligned` matches whole words. Source: `subseq_finder.py` of the HANS release for the published
    detector.
    """
    split = _word_splitter(detector)
    edge = "" if detector == "published" else " "
    pairs = zip(premises, hypotheses, strict=True)
    found = (_has_stretch(split(premise), split(hypothesis), edge) for premise, hypothesis in pairs)
    return np.fromiter(found, dtype=bool)


def _has_stretch(premise_words: list[str], hypothesis_words: list[str], edge: str) -> bool:
    stretch = edge + " ".join(hypothesis_words) + edge
    return not hypothesis_words or stretch in edge + " ".join(premise_words) + edge


def constituent(
    premise_parses: Iterable[str | None], hypotheses: Iterable[str], *, detector: str
) -> list[bool | None]:
    """Which hypotheses are a phrase of their premise's binary parse; None where there is no parse.

    `premise_parses` holds the release's `sentence1_binary_parse` strings: `( ( The lawyer ) ( left . ) )`.
    `published` compares words as the finder does; `token_aligned` compares the text without punctuation and
    spaces, because the parser's tokens (`do n't`) are not the sentence's words (`don't`). Source:
    `const_finder.py` of the HANS release for the published detector.
    """
    check_detector(detector)
    pairs = zip(premise_parses, hypotheses, strict=True)
    return [_is_phrase(parse, hypothesis, detector) if parse else None for parse, hypothesis in pairs]


def _is_phrase(parse: str, hypothesis: str, detector: str) -> bool:
    phrases = list_phrases(parse)
    if detector == "published":
        bare = (word.translate(_NO_STOPS) for word in _published_words(hypothesis))
        return " ".join(bare) in {" ".join(phrase) for phrase in phrases}
    wanted = "".join(_aligned_words(hypothesis))
    return not wanted or wanted in {_join_aligned(phrase) for phrase in phrases}


_NO_STOPS = str.maketrans("", "", "".join(SENTENCE_STOPS))


def _join_aligned(phrase: list[str]) -> str:
    return "".join(_aligned_words(" ".join(token for token in phrase if token not in BRACKET_TOKENS)))


def list_phrases(binary_parse: str) -> list[list[str]]:
    """Lower-cased words of each bracketed phrase, innermost first, without free-standing `.`, `?`, `!`."""
    open_phrases: list[list[str]] = []
    phrases: list[list[str]] = []
    for token in _published_words(binary_parse):
        if token == "(":
            open_phrases.append([])
        elif open_phrases and token != ")":
            open_phrases[-1].append(token)
        elif open_phrases:
            phrases.append(open_phrases.pop())
            if open_phrases:
                open_phrases[-1].extend(phrases[-1])
    return phrases


def add_heuristic_columns(
    table: pa.Table, *, heuristics: Sequence[str] = ("lexical_overlap",), detectors: Sequence[str] = DETECTORS
) -> pa.Table:
    """Append one bool column per heuristic and detector, in one pass of bounded memory.

    The table needs `premise` and `hypothesis`, and for the constituent heuristic `premise_parse`, without
    which that column is null. Existing columns of these names are replaced.
    """
    for heuristic in heuristics:
        has_both = heuristic == "lexical_overlap" and set(detectors) == set(DETECTORS)
        overlaps = _overlap_columns(table) if has_both else {}
        for detector in detectors:
            name = heuristic_column(heuristic, detector)
            found = overlaps[detector] if has_both else _column_values(table, heuristic, detector)
            values = pa.array(found, pa.bool_())
            kept = table.drop_columns([name]) if name in table.column_names else table
            table = kept.append_column(name, values)
    return table


def add_missing_heuristics(
    table: pa.Table,
    *,
    heuristics: Sequence[str] = HEURISTICS,
    detectors: Sequence[str] = DETECTORS,
    parse: Callable[[str], str | None] | None = None,
) -> pa.Table:
    """Append those heuristic columns that the table lacks; null for a row that was not accepted.

    The table needs `premise` and `hypothesis`; where it has `accepted`, other rows may lack both. `parse` gives a
    premise's binary parse, or None; without it, and without the column `premise_parse`, the constituent heuristic is
    null.
    """
    lacking = [(h, d) for h in heuristics for d in detectors if heuristic_column(h, d) not in table.column_names]
    rows = np.arange(table.num_rows)
    if "accepted" in table.column_names:
        rows = np.flatnonzero(table["accepted"].to_numpy(zero_copy_only=False))
    names = [name for name in ("premise", "hypothesis", "premise_parse") if name in table.column_names]
    pairs = table.select(names).take(pa.array(rows)) if lacking else table
    if parse and "premise_parse" not in names and any(heuristic == "constituent" for heuristic, _ in lacking):
        parses = pa.array([parse(premise) for premise in pairs["premise"].to_pylist()], pa.string())
        pairs = pairs.append_column("premise_parse", parses)
    places = np.full(table.num_rows, -1)
    places[rows] = np.arange(len(rows))
    for heuristic, detector in lacking:
        values = pa.array(_column_values(pairs, heuristic, detector), pa.bool_())
        taken = values.take(pa.array(places, mask=places < 0))
        table = table.append_column(heuristic_column(heuristic, detector), taken)
    return table


def _overlap_columns(table: pa.Table) -> dict[str, np.ndarray]:
    batches = table.select(["premise", "hypothesis"]).to_batches(max_chunksize=BATCH_ROWS)
    parts = [lexical_overlap_by_detector(b.column(0).to_pylist(), b.column(1).to_pylist()) for b in batches]
    return {name: np.concatenate([part[name] for part in parts] or [np.zeros(0, dtype=bool)]) for name in DETECTORS}


def _column_values(table: pa.Table, heuristic: str, detector: str) -> Iterable[bool | None]:
    first = "premise_parse" if heuristic == "constituent" else "premise"
    if first not in table.column_names and first == "premise_parse":
        return [None] * table.num_rows
    detectors: dict[str, Callable[..., Iterable[bool | None]]] = {
        "lexical_overlap": lexical_overlap,
        "subsequence": subsequence,
        "constituent": constituent,
    }
    detect = detectors[heuristic]
    batches = table.select([first, "hypothesis"]).to_batches(max_chunksize=BATCH_ROWS)
    parts = (detect(b.column(0).to_pylist(), b.column(1).to_pylist(), detector=detector) for b in batches)
    return chain.from_iterable(parts)
