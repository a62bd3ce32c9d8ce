"""A browser over generated examples in ipywidgets, to see why a model changed.

All finding and drawing is done in `blindspot.examples`; this module holds the widgets only. Nothing
downstream reads them: a notebook shows `example_table` beside the browser, for readers without a kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets
import numpy as np
import pyarrow as pa
from IPython.display import display

from blindspot.data import LABELS
from blindspot.examples import (
    example_table,
    filter_examples,
    list_detectors,
    list_heuristics,
    list_outcomes,
    page_of,
    render_detail,
    render_examples,
    sort_examples,
)

__all__ = ["ExampleBrowser", "example_table", "filter_examples", "page_of", "render_examples"]

NEEDED_COLUMNS = (
    *("pair_id", "premise", "hypothesis", "gold_label"),
    *("accepted", "reject_reason", "raw_text"),
)
PAGE_SIZES = (10, 25, 50, 100)
# A Dropdown shows nothing for the value None, so the choice of no filter has a value of its own.
ANY = "any"
FILE_ORDER = "file order"
NO_EXAMPLE, NO_ROW = "choose one", -1
SORT_COLUMNS = (
    *("n_tokens", "premise", "hypothesis", "gold_label", "reject_reason"),
    "nearest_training_similarity",
)
# Filters by the audit's columns: column (and attribute), description, choices.
EITHER = (("yes", True), ("no", False))
AUDIT_FILTERS: tuple[tuple[str, str, tuple[tuple[str, Any], ...]], ...] = (
    ("duplicate", "repeats", EITHER),
    ("near_duplicate", "near rep.", EITHER),
    ("novelty", "novelty", (("exact copy", "exact"), ("near copy", "near"), ("new", "new"))),
    ("agreement", "label is", (("right", True), ("wrong", False))),
)


class ExampleBrowser:
    """Filters, a page of examples and one example in detail; `view` is the widget to display.

    Every control is an attribute, and setting its `value` redraws: `browser.label.value = "neutral"`. `rows`
    are the row numbers that pass the filters, in the chosen order.
    """

    def __init__(self, examples: pa.Table, *, page_size: int = 10, detector: str = "token_aligned") -> None:
        lacking = [column for column in NEEDED_COLUMNS if column not in examples.column_names]
        detectors = list_detectors(examples)
        if lacking or not detectors:
            raise ValueError(
                f"examples lack the columns {lacking or ['lexical_overlap_<detector>']}; expected the table "
                "of generated examples: pass synthetic.parquet"
            )
        self.examples = examples
        self.rows = np.arange(examples.num_rows)
        self._quiet = False
        self._make_filters(detectors, detector)
        self._make_pager(page_size)
        self._watch()
        self.view = self._arrange()
        self._find()

    def show(self) -> None:
        """Display the browser in a notebook."""
        display(self.view)

    def _make_filters(self, detectors: Sequence[str], detector: str) -> None:
        self.label = _choose("label", [(ANY, ANY), *((label, label) for label in LABELS)])
        chosen = detector if detector in detectors else detectors[0]
        self.heuristic = _choose("heuristic", [(name, name) for name in list_heuristics(self.examples)])
        self.overlap = _choose("has it", [(ANY, ANY), *EITHER])
        self.detector = _choose("by", [(name, name) for name in detectors], value=chosen)
        outcomes = list_outcomes(self.examples)
        self.outcome = _choose("outcome", [(ANY, ANY), *((name, name) for name in outcomes)])
        self.audit = {
            column: _choose(name, [(ANY, ANY), *(choices if column in self.examples.column_names else ())])
            for column, name, choices in AUDIT_FILTERS
        }
        self.duplicate, self.near_duplicate = self.audit["duplicate"], self.audit["near_duplicate"]
        self.novelty, self.agreement = self.audit["novelty"], self.audit["agreement"]
        self.text = ipywidgets.Text(
            description="text", placeholder="words in premise or hypothesis", continuous_update=False
        )

    def _make_pager(self, page_size: int) -> None:
        columns = [name for name in SORT_COLUMNS if name in self.examples.column_names]
        self.sort = _choose("sort", [(FILE_ORDER, FILE_ORDER), *((name, name) for name in columns)])
        self.descending = ipywidgets.Checkbox(description="descending", indent=False, value=False)
        sizes = sorted({*PAGE_SIZES, page_size})
        self.page_size = _choose("a page", [(str(size), size) for size in sizes], value=page_size)
        self.previous = ipywidgets.Button(description="previous", layout={"width": "90px"})
        self.next = ipywidgets.Button(description="next", layout={"width": "90px"})
        self.page = ipywidgets.BoundedIntText(description="page", value=1, min=1, max=1, layout={"width": "170px"})
        self.status = ipywidgets.HTML()
        self.listing = ipywidgets.HTML()
        self.example = _choose("example", [(NO_EXAMPLE, NO_ROW)], width="420px")
        self.detail = ipywidgets.HTML()

    def _watch(self) -> None:
        filters = (
            self.label,
            self.overlap,
            self.outcome,
            *self.audit.values(),
            self.text,
            self.sort,
            self.descending,
        )
        for control in filters:
            control.observe(self._find, names="value")
        for control in (self.heuristic, self.detector):
            control.observe(self._change_heuristic, names="value")
        self.page_size.observe(self._find, names="value")
        self.page.observe(self._draw, names="value")
        self.example.observe(self._draw_detail, names="value")
        self.previous.on_click(lambda _: self._turn(-1))
        self.next.on_click(lambda _: self._turn(1))

    def _arrange(self) -> ipywidgets.VBox:
        rows = (
            (self.label, self.outcome, self.agreement, self.novelty),
            (self.heuristic, self.overlap, self.detector),
            (self.duplicate, self.near_duplicate, self.text),
            (self.sort, self.descending),
            (self.previous, self.next, self.page, self.page_size, self.status),
        )
        wrap = {"flex_flow": "row wrap"}
        boxes = [ipywidgets.HBox(list(row), layout=wrap) for row in rows]
        return ipywidgets.VBox([*boxes, self.listing, self.example, self.detail])

    def _find(self, _: Any = None) -> None:
        """Apply filters and order, and go to the first page."""
        rows = filter_examples(
            self.examples,
            label=_read(self.label),
            detector=self.detector.value,
            heuristic=self.heuristic.value,
            overlap=_read(self.overlap),
            outcome=_read(self.outcome),
            **{column: _read(control) for column, control in self.audit.items()},
            text=self.text.value.strip(),
        )
        if self.sort.value != FILE_ORDER:
            rows = sort_examples(self.examples, rows, by=self.sort.value, descending=self.descending.value)
        self.rows = rows
        _, _, pages = page_of(rows, page=1, page_size=self.page_size.value)
        self._quiet = True
        self.page.value, self.page.max = 1, pages
        self._quiet = False
        self._draw()

    def _change_heuristic(self, _: Any) -> None:
        self._find() if self.overlap.value != ANY else self._draw()

    def _turn(self, pages: int) -> None:
        self.page.value = min(max(self.page.value + pages, 1), self.page.max)

    def _draw(self, _: Any = None) -> None:
        """Redraw the page, its status line and the choice of examples."""
        if self._quiet:
            return
        rows, page, pages = page_of(self.rows, page=self.page.value, page_size=self.page_size.value)
        part = self.examples.take(rows)
        self.listing.value = render_examples(part, detector=self.detector.value, heuristic=self.heuristic.value)
        self.status.value = (
            f"page {page:,} of {pages:,}; {len(self.rows):,} of {self.examples.num_rows:,} examples match"
        )
        self.previous.disabled, self.next.disabled = page == 1, page == pages
        names = zip(part["pair_id"].to_pylist(), rows.tolist(), strict=True)
        self.example.options = [(NO_EXAMPLE, NO_ROW), *names]
        self.example.value = NO_ROW

    def _draw_detail(self, _: Any) -> None:
        row = self.example.value
        if row == NO_ROW:
            self.detail.value = ""
        else:
            self.detail.value = render_detail(self.examples, row, detector=self.detector.value)


def _read(control: ipywidgets.Dropdown) -> Any:
    """A filter's value, None for no filter."""
    return None if control.value == ANY else control.value


def _choose(
    description: str, options: Sequence[tuple[str, Any]], *, value: Any = None, width: str = "220px"
) -> ipywidgets.Dropdown:
    look = {"layout": {"width": width}, "style": {"description_width": "64px"}}
    first = options[0][1] if value is None else value
    return ipywidgets.Dropdown(description=description, options=list(options), value=first, **look)
