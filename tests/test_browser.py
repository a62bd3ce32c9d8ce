"""The example browser: pure filters by literals, then the widgets driven headless, then hostile text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from blindspot.browser import ExampleBrowser
from blindspot.examples import (
    draw_examples,
    escape_text,
    example_table,
    filter_examples,
    mark_shared_words,
    page_of,
    render_detail,
    render_examples,
    sort_examples,
)

HOSTILE = '<script>alert("x")</script> & <img src=x onerror=alert(1)> costs $5 or $6 \\(x\\)'
ROWS: tuple[tuple[Any, ...], ...] = (
    # premise, hypothesis, label, reject reason, raw text, published, aligned, repeat, tokens
    ("The doctor danced .", "The doctor danced.", "entailment", None, "p0", False, True, False, 9),
    ("The Lawyer ran .", "A man ran .", "neutral", None, "p1", False, False, False, 8),
    ("The doctor danced .", "The doctor danced .", "entailment", None, "p2", True, True, True, 9),
    (None, None, "neutral", "no_sentinel", "Premise: the DOCTOR and so on", None, None, None, 40),
    (None, None, "contradiction", "empty_hypothesis", "Premise: x Hypothesis:", None, None, None, 5),
    (HOSTILE, "Nothing costs $5 .", "contradiction", None, "p5", False, False, False, 30),
)
COLUMNS = {
    **{"premise": pa.string(), "hypothesis": pa.string(), "gold_label": pa.string()},
    **{"reject_reason": pa.string(), "raw_text": pa.string(), "lexical_overlap_published": pa.bool_()},
    **{"lexical_overlap_token_aligned": pa.bool_(), "duplicate": pa.bool_(), "n_tokens": pa.int64()},
}


def make_examples(*, copies: int = 1) -> pa.Table:
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS * copies]
    for number, row in enumerate(rows):
        row |= {"pair_id": f"syn-{number}", "accepted": row["reject_reason"] is None}
    schema = pa.schema([*COLUMNS.items(), ("pair_id", pa.string()), ("accepted", pa.bool_())])
    return pa.Table.from_pylist(rows, schema=schema)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"label": "neutral"}, [1, 3]),
        ({"outcome": "accepted"}, [0, 1, 2, 5]),
        ({"outcome": "rejected"}, [3, 4]),
        ({"outcome": "no_sentinel"}, [3]),
        ({"overlap": True, "detector": "published"}, [2]),
        ({"overlap": True, "detector": "token_aligned"}, [0, 2]),
        ({"overlap": False, "detector": "published"}, [0, 1, 5]),
        ({"duplicate": True}, [2]),
        ({"duplicate": False}, [0, 1, 5]),
        ({"text": "doctor"}, [0, 2, 3]),
        ({"text": "p0"}, []),
        ({"text": "a man"}, [1]),
        ({"text": "danced ."}, [0, 2]),
        ({"text": ".*"}, []),
        ({"text": "<SCRIPT>"}, [5]),
        ({"label": "neutral", "text": "doctor"}, [3]),
        ({"label": "entailment", "outcome": "accepted", "duplicate": False, "text": "DANCED"}, [0]),
        ({"label": "neutral", "outcome": "accepted", "overlap": True}, []),
    ],
)
@pytest.mark.parametrize("copies", [1, 5])
def test_filters(filters: dict[str, Any], expected: list[int], copies: int) -> None:
    rows = filter_examples(make_examples(copies=copies), **filters)
    assert rows.tolist() == [row + 6 * copy for copy in range(copies) for row in expected]


def test_rare_rows_are_searched_like_all_rows() -> None:
    examples = make_examples(copies=10)
    narrowed = filter_examples(examples, outcome="no_sentinel", text="doctor")
    assert narrowed.tolist() == list(range(3, 60, 6))
    chunked = pa.concat_tables([make_examples(), make_examples()])
    assert filter_examples(chunked, text="doctor").tolist() == [0, 2, 3, 6, 8, 9]


def test_unknown_detector_is_named() -> None:
    with pytest.raises(ValueError, match="overlap detector is 'exact'"):
        filter_examples(make_examples(), overlap=True, detector="exact")


def test_sorting_keeps_equal_rows_in_order_and_nulls_last() -> None:
    examples, rows = make_examples(), np.arange(6)
    assert sort_examples(examples, rows, by="n_tokens").tolist() == [4, 1, 0, 2, 5, 3]
    assert sort_examples(examples, rows, by="n_tokens", descending=True).tolist() == [3, 5, 0, 2, 1, 4]
    assert sort_examples(examples, np.array([4, 0, 1]), by="premise").tolist() == [1, 0, 4]
    assert sort_examples(examples, np.array([4, 0, 1]), by="premise", descending=True).tolist() == [0, 1, 4]


@pytest.mark.parametrize(
    ("page", "expected"),
    [(1, ([0, 1, 2], 1, 3)), (3, ([6], 3, 3)), (9, ([6], 3, 3)), (0, ([0, 1, 2], 1, 3))],
)
def test_pages(page: int, expected: tuple[list[int], int, int]) -> None:
    rows, number, pages = page_of(np.arange(7), page=page, page_size=3)
    assert (rows.tolist(), number, pages) == expected


def test_no_rows_make_one_empty_page() -> None:
    rows, page, pages = page_of(np.arange(0), page=4, page_size=10)
    assert (len(rows), page, pages) == (0, 1, 1)
    with pytest.raises(ValueError, match="page_size is 0; expected 1 or more"):
        page_of(rows, page=1, page_size=0)


class Reader(HTMLParser):
    """What a browser sees: the tags, and the text with and without the marks."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_escaped_text_reads_as_it_was_and_holds_no_formula() -> None:
    html = escape_text(HOSTILE)
    assert Reader(html).text == HOSTILE
    assert set(Reader(html).tags) == {"span"}
    assert not re.search(r"\$[^<]", html)
    assert "\\(" not in html


def test_shared_words_are_marked_as_the_detector_sees_them() -> None:
    assert (
        mark_shared_words("The doctor danced.", "the  Doctor danced .", detector="published")
        == "<mark>The</mark> <mark>doctor</mark> danced."
    )
    assert (
        mark_shared_words("The doctor danced.", "the  Doctor danced .", detector="token_aligned")
        == "<mark>The</mark> <mark>doctor</mark> <mark>danced.</mark>"
    )
    assert mark_shared_words("<b> .", "<b>", detector="published") == "<mark>&lt;b&gt;</mark> ."


@pytest.mark.parametrize("detector", ["published", "token_aligned"])
@pytest.mark.parametrize("accepted", [True, False])
def test_hostile_text_stays_text_wherever_it_is_shown(detector: str, accepted: bool) -> None:
    row = make_examples().slice(5, 1).to_pylist()[0]
    texts = ("pair_id", "gold_label", "premise", "hypothesis", "raw_text", "reject_reason")
    hostile = pa.Table.from_pylist([row | dict.fromkeys(texts, HOSTILE) | {"accepted": accepted}])
    listing, detail = (
        Reader(render_examples(hostile, detector=detector)),
        Reader(render_detail(hostile, 0, detector=detector)),
    )
    assert set(listing.tags + detail.tags) <= {*["table", "thead", "tbody", "tr", "th", "td", "span", "mark", "i"]}
    # Listed: pair_id, label and either premise and hypothesis or raw text and reason.
    assert listing.text.count(HOSTILE) == 4
    assert detail.text.count(HOSTILE) == 6


def test_static_twin_draws_each_label_and_rejects() -> None:
    examples = make_examples(copies=5)
    frame = draw_examples(examples, n_per_label=2, seed=1)
    labels = ["entailment", "entailment", "neutral", "neutral", "contradiction", "contradiction"]
    assert frame["gold_label"].tolist()[:6] == labels
    assert frame["accepted"].tolist() == [True] * 6 + [False] * 2
    again = draw_examples(examples, n_per_label=2, seed=1)
    assert again["pair_id"].tolist() == frame["pair_id"].tolist()
    others = {tuple(draw_examples(examples, n_per_label=2, seed=seed)["pair_id"]) for seed in range(8)}
    assert len(others) > 1
    html = example_table(examples, n_per_label=2, seed=1).data
    assert html == render_examples(frame)
    assert html.count("<tr>") == 9
    assert "rejected: " in html


def test_static_twin_of_few_rows_shows_them_all() -> None:
    frame = draw_examples(make_examples(), n_per_label=9)
    assert frame["pair_id"].tolist() == ["syn-0", "syn-2", "syn-1", "syn-5", "syn-3", "syn-4"]
    assert "accepted, repeat" in render_examples(frame)


def shown_ids(browser: ExampleBrowser) -> list[str]:
    return re.findall(r"syn-\d+", browser.listing.value)


def test_browser_filters_on_each_control() -> None:
    browser = ExampleBrowser(make_examples(copies=3), page_size=10)
    assert browser.status.value == "page 1 of 2; 18 of 18 examples match"
    browser.label.value = "neutral"
    assert shown_ids(browser) == ["syn-1", "syn-3", "syn-7", "syn-9", "syn-13", "syn-15"]
    browser.outcome.value = "no_sentinel"
    assert shown_ids(browser) == ["syn-3", "syn-9", "syn-15"]
    assert "the DOCTOR and so on" in browser.listing.value
    browser.outcome.value = browser.label.value = "any"
    browser.overlap.value = True
    assert shown_ids(browser) == ["syn-0", "syn-2", "syn-6", "syn-8", "syn-12", "syn-14"]
    browser.detector.value = "published"
    assert shown_ids(browser) == ["syn-2", "syn-8", "syn-14"]
    browser.duplicate.value = False
    assert shown_ids(browser) == []
    assert browser.status.value == "page 1 of 1; 0 of 18 examples match"
    browser.overlap.value = "any"
    browser.text.value = " lawyer "
    assert shown_ids(browser) == ["syn-1", "syn-7", "syn-13"]


def test_every_control_shows_its_choice() -> None:
    browser = ExampleBrowser(make_examples())
    controls = (browser.label, browser.outcome, browser.overlap, *browser.audit.values(), browser.sort)
    assert [control.label for control in controls] == ["any"] * 7 + ["file order"]
    assert browser.example.label == "choose one"
    assert (browser.detector.label, browser.page_size.label) == ("token_aligned", "10")


def test_browser_pages_and_sorts() -> None:
    browser = ExampleBrowser(make_examples(copies=5), page_size=4)
    assert browser.previous.disabled
    browser.next.click()
    browser.next.click()
    assert browser.page.value == 3
    assert browser.status.value == "page 3 of 8; 30 of 30 examples match"
    assert shown_ids(browser) == ["syn-8", "syn-9", "syn-10", "syn-11"]
    browser.previous.click()
    assert shown_ids(browser) == ["syn-4", "syn-5", "syn-6", "syn-7"]
    browser.page.value = 99
    assert shown_ids(browser) == ["syn-28", "syn-29"]
    assert browser.next.disabled
    browser.sort.value = "n_tokens"
    assert browser.page.value == 1
    assert shown_ids(browser) == ["syn-4", "syn-10", "syn-16", "syn-22"]
    browser.descending.value = True
    assert shown_ids(browser) == ["syn-3", "syn-9", "syn-15", "syn-21"]
    browser.page_size.value = 50
    assert browser.status.value == "page 1 of 1; 30 of 30 examples match"


def test_browser_goes_to_the_first_page_of_a_new_search() -> None:
    browser = ExampleBrowser(make_examples(copies=5), page_size=4)
    browser.page.value = 8
    browser.label.value = "contradiction"
    assert browser.status.value == "page 1 of 3; 10 of 30 examples match"
    assert shown_ids(browser) == ["syn-4", "syn-5", "syn-10", "syn-11"]


def test_browser_shows_one_example_in_detail() -> None:
    browser = ExampleBrowser(make_examples())
    assert browser.detail.value == ""
    browser.example.value = 0
    assert "<mark>danced.</mark>" in browser.detail.value
    assert ">p0<" in browser.detail.value
    browser.example.value = 5
    assert HOSTILE in Reader(browser.detail.value).text
    assert "script" not in Reader(browser.detail.value).tags
    browser.text.value = "lawyer"
    assert browser.detail.value == ""
    assert [row for _, row in browser.example.options] == [-1, 1]


def test_browser_works_without_audit_columns() -> None:
    plain = make_examples().drop_columns(["duplicate", "lexical_overlap_published"])
    browser = ExampleBrowser(plain, detector="published")
    assert browser.duplicate.options == (("any", "any"),)
    browser.overlap.value = True
    assert shown_ids(browser) == ["syn-0", "syn-2"]


def add_audit(examples: pa.Table) -> pa.Table:
    """The audit's columns for the six rows of ROWS."""
    columns = {
        "subsequence_published": pa.array([False, False, True, None, None, False]),
        "subsequence_token_aligned": pa.array([True, False, True, None, None, False]),
        "constituent_published": pa.array([None] * 6, pa.bool_()),
        "constituent_token_aligned": pa.array([None] * 6, pa.bool_()),
        "near_duplicate": pa.array([False, True, True, None, None, False]),
        "novelty": pa.array(["exact", "near", "new", None, None, "new"]),
        "nearest_training_similarity": pa.array([1.0, 0.8, None, None, None, 0.55], pa.float32()),
        "true_label": pa.array(["neutral", "neutral", None, None, None, HOSTILE]),
        "predicted_label": pa.array(["neutral", "neutral", "neutral", None, None, None], pa.string()),
        "agreement": pa.array([False, True, False, None, None, False]),
    }
    for name, values in columns.items():
        examples = examples.append_column(name, values)
    return examples


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"novelty": "exact"}, [0]),
        ({"novelty": "new"}, [2, 5]),
        ({"near_duplicate": True}, [1, 2]),
        ({"near_duplicate": True, "duplicate": False}, [1]),
        ({"agreement": True}, [1]),
        ({"agreement": False}, [0, 2, 5]),
        ({"heuristic": "subsequence", "overlap": True, "detector": "published"}, [2]),
        ({"heuristic": "subsequence", "overlap": True, "detector": "token_aligned"}, [0, 2]),
        ({"heuristic": "constituent", "overlap": False}, []),
        ({"agreement": False, "novelty": "new", "label": "entailment"}, [2]),
    ],
)
def test_filters_by_the_audit(filters: dict[str, Any], expected: list[int]) -> None:
    assert filter_examples(add_audit(make_examples()), **filters).tolist() == expected


def test_a_filter_without_its_column_is_named() -> None:
    with pytest.raises(ValueError, match=r"no column novelty, by which to filter; run 50_audit"):
        filter_examples(make_examples(), novelty="new")
    assert filter_examples(make_examples(), agreement=None).tolist() == [0, 1, 2, 3, 4, 5]


def test_browser_filters_by_the_audit() -> None:
    browser = ExampleBrowser(add_audit(make_examples()))
    assert [name for name, _ in browser.heuristic.options] == ["lexical_overlap", "subsequence"]
    browser.novelty.value = "near"
    assert shown_ids(browser) == ["syn-1"]
    browser.novelty.value = "any"
    browser.agreement.value = False
    assert shown_ids(browser) == ["syn-0", "syn-2", "syn-5"]
    browser.near_duplicate.value = True
    assert shown_ids(browser) == ["syn-2"]
    browser.near_duplicate.value = browser.agreement.value = "any"
    browser.detector.value = "published"
    browser.overlap.value = False
    assert shown_ids(browser) == ["syn-0", "syn-1", "syn-5"]
    browser.heuristic.value = "subsequence"
    browser.overlap.value = True
    assert shown_ids(browser) == ["syn-2"]
    assert ">subsequence</th>" in browser.listing.value and ">overlap</th>" not in browser.listing.value
    browser.overlap.value = "any"
    browser.sort.value = "nearest_training_similarity"
    assert shown_ids(browser) == ["syn-5", "syn-1", "syn-0", "syn-2", "syn-3", "syn-4"]


def test_outcomes_tell_what_the_audit_found() -> None:
    html = render_examples(add_audit(make_examples()))
    outcomes = re.findall(r"<td [^>]*>([^<]*(?:accepted|rejected)(?:(?!</td>).)*)</td>", html)
    assert outcomes[:5] == [
        "accepted, copy of a training pair, label is neutral",
        "accepted, near repeat, near a training pair",
        "accepted, repeat, T says neutral",
        "rejected: no_sentinel",
        "rejected: empty_hypothesis",
    ]
    assert "script" not in Reader(html).tags and f"label is {HOSTILE}" in Reader(html).text


def test_browser_offers_no_filter_by_a_lacking_column() -> None:
    browser = ExampleBrowser(make_examples())
    for control in (browser.near_duplicate, browser.novelty, browser.agreement):
        assert control.options == (("any", "any"),)
    assert browser.heuristic.options == (("lexical_overlap", "lexical_overlap"),)
    assert "nearest_training_similarity" not in [name for name, _ in browser.sort.options]


def test_browser_names_what_the_table_lacks() -> None:
    with pytest.raises(ValueError, match=r"examples lack the columns \['raw_text'\]; expected the table of"):
        ExampleBrowser(make_examples().drop_columns(["raw_text"]))
