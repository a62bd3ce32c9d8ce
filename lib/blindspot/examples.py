"""Finding and showing generated examples without a widget: filters, pages and HTML.

The browser is a thin layer over these functions, so that they can be tested and used headless. Generated text
is hostile: it may hold markup, scripts or `$...$` that a notebook would typeset. All of it passes
`escape_text`.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from IPython.display import HTML

from blindspot.data import LABELS
from blindspot.heuristics import DETECTORS, HEURISTICS, heuristic_column, split_words

ACCEPTED, REJECTED = "accepted", "rejected"
SEARCHED_COLUMNS = ("premise", "hypothesis")
# Both class names tell the notebook's formula typesetting to leave the text alone.
PLAIN_TEXT = 'class="tex2jax_ignore mathjax_ignore"'
CELL = 'style="text-align:left;vertical-align:top;white-space:pre-wrap;padding:2px 8px"'


def filter_examples(
    table: pa.Table,
    *,
    label: str | None = None,
    detector: str = "token_aligned",
    heuristic: str = "lexical_overlap",
    overlap: bool | None = None,
    outcome: str | None = None,
    duplicate: bool | None = None,
    near_duplicate: bool | None = None,
    novelty: str | None = None,
    agreement: bool | None = None,
    text: str = "",
) -> np.ndarray:
    """Row numbers (int64, ascending) of the examples that pass every given filter; None or "" does not
    filter.

    `outcome` is `accepted`, `rejected` or a reject reason; `overlap` is whether the pair has `heuristic` by
    `detector`; duplicate, near_duplicate, novelty and agreement are the audit's columns; `text` is found in premise
    and hypothesis, and in raw_text where the row was rejected, whatever its case. An example without a value (a
    rejected one has no overlap) passes neither True nor False. Raises ValueError for a filter on a column that the
    table lacks.
    """
    checks = []
    wanted = {
        "gold_label": label,
        heuristic_column(heuristic, detector): overlap,
        "duplicate": duplicate,
        "near_duplicate": near_duplicate,
        "novelty": novelty,
        "agreement": agreement,
    }
    for column, value in wanted.items():
        if value is not None and column not in table.column_names:
            raise ValueError(f"the examples have no column {column}, by which to filter; run 50_audit_synthetic_data")
        if value is not None:
            checks.append(pc.equal(table[column], value))
    if outcome in (ACCEPTED, REJECTED):
        checks.append(pc.equal(table["accepted"], outcome == ACCEPTED))
    elif outcome is not None:
        checks.append(pc.equal(table["reject_reason"], outcome))
    rows = np.arange(table.num_rows, dtype=np.int64)
    for check in checks:
        rows = rows[pc.fill_null(check, False).to_numpy()[rows]]
    return rows[_has_text(table, rows, text)] if text else rows


def _has_text(table: pa.Table, rows: np.ndarray, text: str) -> np.ndarray:
    """Which of `rows` hold `text`. The few rows that other filters left are copied out first."""
    part = table.select([*SEARCHED_COLUMNS, "raw_text", "accepted"])
    part = part.take(rows) if len(rows) < table.num_rows // 4 else part
    found = np.zeros(part.num_rows, dtype=bool)
    for column in SEARCHED_COLUMNS:
        found |= _match(part[column], text)
    rejects = np.flatnonzero(~pc.fill_null(part["accepted"], False).to_numpy())
    if len(rejects):
        found[rejects] |= _match(part["raw_text"].take(rejects), text)
    return found if part.num_rows == len(rows) else found[rows]


def _match(column: pa.ChunkedArray, text: str) -> np.ndarray:
    return pc.fill_null(pc.match_substring(column, text, ignore_case=True), False).to_numpy()


def sort_examples(table: pa.Table, rows: np.ndarray, *, by: str, descending: bool = False) -> np.ndarray:
    """`rows` in the order of one column; rows with equal values keep their order, nulls come last."""
    order = "descending" if descending else "ascending"
    keys = pa.table({"key": table[by].take(rows), "row": rows})
    turned = pc.sort_indices(keys, sort_keys=[("key", order, "at_end"), ("row", "ascending", "at_end")])
    return rows[turned.to_numpy()]


def page_of(rows: np.ndarray, *, page: int, page_size: int) -> tuple[np.ndarray, int, int]:
    """The rows of one page, the page's number and how many pages there are, counted from 1.

    A number outside of the pages gives the nearest page; no rows make one empty page.
    """
    if page_size < 1:
        raise ValueError(f"page_size is {page_size}; expected 1 or more")
    pages = max(1, -(-len(rows) // page_size))
    page = min(max(page, 1), pages)
    return rows[(page - 1) * page_size : page * page_size], page, pages


def escape_text(text: str) -> str:
    """Text as HTML that shows as it is: no markup, and no formula between dollars or backslashes."""
    return re.sub(r"[$\\]", r"<span>\g<0></span>", escape(text))


def mark_shared_words(text: str, other: str, *, detector: str) -> str:
    """`text` as escaped HTML with `<mark>` around each word that `other` has too, as `detector` splits
    words."""
    shared = set(split_words(other, detector=detector))
    parts = []
    for part in re.split(r"(\s+)", text):
        words = split_words(part, detector=detector)
        is_shared = bool(words) and set(words) <= shared
        parts.append(f"<mark>{escape_text(part)}</mark>" if is_shared else escape_text(part))
    return "".join(parts)


def render_examples(
    examples: pd.DataFrame | pa.Table, *, detector: str = "token_aligned", heuristic: str = "lexical_overlap"
) -> str:
    """The examples as one HTML table: row, label, premise, hypothesis with shared words marked, whether the pair has
    the heuristic, and outcome with what the audit found.

    Rejected rows show their raw text in place of the pair. Needs no style sheet, so GitHub shows it too.
    """
    frame = examples.to_pandas() if isinstance(examples, pa.Table) else examples
    shown = "overlap" if heuristic == "lexical_overlap" else heuristic
    names = ("pair", "label", "premise", "hypothesis", shown, "outcome")
    column = heuristic_column(heuristic, detector)
    head = "".join(f"<th {CELL}>{name}</th>" for name in names)
    body = "".join(f"<tr>{_render_row(row, detector, column)}</tr>" for row in frame.to_dict("records"))
    return f"<table {PLAIN_TEXT}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _render_row(row: dict[Any, Any], detector: str, column: str) -> str:
    cells = [escape_text(str(row["pair_id"])), escape_text(str(row["gold_label"]))]
    if not row["accepted"]:
        raw = f'<td {CELL} colspan="3"><i>{escape_text(_text(row["raw_text"]))}</i></td>'
        return _render_cells(cells) + raw + _render_cells([_name_outcome(row)])
    premise, hypothesis = _text(row["premise"]), _text(row["hypothesis"])
    cells += [
        mark_shared_words(premise, hypothesis, detector=detector),
        mark_shared_words(hypothesis, premise, detector=detector),
        _yes_or_no(row.get(column)),
        _name_outcome(row),
    ]
    return _render_cells(cells)


def _render_cells(cells: list[str]) -> str:
    return "".join(f"<td {CELL}>{cell}</td>" for cell in cells)


def _text(value: Any) -> str:
    return "" if pd.isna(value) else str(value)


def _yes_or_no(value: Any) -> str:
    return "-" if pd.isna(value) else ("yes" if value else "no")


def _name_outcome(row: dict[Any, Any]) -> str:
    if row["accepted"]:
        return escape_text(", ".join([ACCEPTED, *_list_findings(row)]))
    return escape_text(f"{REJECTED}: {_text(row['reject_reason']) or 'no reason given'}")


def _list_findings(row: dict[Any, Any]) -> list[str]:
    """What the audit found about an accepted row, in words; nothing for columns that are lacking."""
    repeats = [name for name, column in (("repeat", "duplicate"), ("near repeat", "near_duplicate")) if row.get(column)]
    copies = {"exact": "copy of a training pair", "near": "near a training pair"}
    found = [*repeats[:1], *(text for name, text in copies.items() if row.get("novelty") == name)]
    if row.get("agreement") is False:
        true, predicted = _text(row.get("true_label")), _text(row.get("predicted_label"))
        found.append(f"label is {true}" if true else f"T says {predicted}")
    return found


def render_detail(table: pa.Table, row: int, *, detector: str = "token_aligned") -> str:
    """Every column of one row as an HTML table, premise and hypothesis with the words that they share
    marked."""
    values = table.slice(row, 1).to_pylist()[0]
    pair = [_text(values[column]) for column in SEARCHED_COLUMNS]
    marked = {
        column: mark_shared_words(text, other, detector=detector)
        for column, text, other in zip(SEARCHED_COLUMNS, pair, reversed(pair), strict=True)
    }
    cells = "".join(
        f"<tr><th {CELL}>{escape(name)}</th>"
        f"<td {CELL}>{marked.get(name) or escape_text('-' if value is None else str(value))}</td></tr>"
        for name, value in values.items()
    )
    return f"<table {PLAIN_TEXT}>{cells}</table>"


def example_table(table: pa.Table, *, n_per_label: int = 5, seed: int = 1, detector: str = "token_aligned") -> HTML:
    """The browser's static twin, which shows without a kernel: the rows of `draw_examples` as HTML."""
    drawn = draw_examples(table, n_per_label=n_per_label, seed=seed)
    return HTML(render_examples(drawn, detector=detector))


def draw_examples(table: pa.Table, *, n_per_label: int = 5, seed: int = 1) -> pd.DataFrame:
    """At random `n_per_label` accepted examples of each label and as many rejects, with all their columns.

    Labels come in order and rejects last; where there are fewer rows, all of them.
    """
    generator = np.random.default_rng(seed)
    picks = [filter_examples(table, label=label, outcome=ACCEPTED) for label in LABELS]
    picks.append(filter_examples(table, outcome=REJECTED))
    chosen = [np.sort(generator.choice(rows, size=min(n_per_label, len(rows)), replace=False)) for rows in picks]
    return table.take(np.concatenate(chosen)).to_pandas()


def list_outcomes(table: pa.Table) -> list[str]:
    """`accepted`, `rejected` and each reject reason that occurs, by name."""
    reasons = pc.drop_null(pc.unique(table["reject_reason"])).to_pylist()
    return [ACCEPTED, REJECTED, *sorted(reasons)]


def list_heuristics(table: pa.Table) -> list[str]:
    """Lexical overlap, and the heuristics that the table has by every detector it knows, with a value in some row."""
    detectors = list_detectors(table)
    columns = {name: [heuristic_column(name, detector) for detector in detectors] for name in HEURISTICS[1:]}
    return [HEURISTICS[0], *(name for name, needed in columns.items() if all(_has_values(table, c) for c in needed))]


def _has_values(table: pa.Table, column: str) -> bool:
    return column in table.column_names and table[column].null_count < table.num_rows


def list_detectors(table: pa.Table) -> list[str]:
    """The overlap detectors whose column `table` has."""
    return [name for name in DETECTORS if heuristic_column("lexical_overlap", name) in table.column_names]
