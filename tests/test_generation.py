"""Generation: sampling as transformers filters, stops that change nothing, rows that do not know their neighbours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PAIRS
from tiny import learn_by_heart, load_tiny

from blindspot import generation
from blindspot.data import LABELS
from blindspot.generation import (
    build_rows,
    draw_uniforms,
    find_finished,
    generate_shard,
    mark_stops,
    sample_batch,
    sample_tokens,
)
from blindspot.models import Base
from blindspot.prompts import SENTINEL, extract_pair, find_stop, generator_prompt, generator_text
from blindspot.study import Generation

COLUMNS = [
    *("pair_id", "split", "genre", "premise", "hypothesis", "gold_label", "accepted", "reject_reason", "raw_text"),
    *("generation", "shard", "n_tokens", "lexical_overlap_published", "lexical_overlap_token_aligned"),
]


def make_settings(**changes: Any) -> Generation:
    values = {
        **{"seed": 1, "examples_per_label": dict.fromkeys(LABELS, 20), "shard_size": 12, "batch_size": 12},
        **{"max_new_tokens": 120, "temperature": 1.0, "top_p": 1.0, "top_k": 0},
    }
    return Generation.model_validate(values | changes)


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> Base:
    return load_tiny(tiny_model)


def tokenize_behind_prompt(base: Base, label: str, premise: str, hypothesis: str) -> list[int]:
    """Token ids of a text whose prompt is tokenized alone: the tiny tokenizer would join `entailment.` into one."""
    prompt = generator_prompt(label)
    rest = generator_text(label, premise, hypothesis).removeprefix(prompt)
    filler = base.tokenizer("q")["input_ids"]
    behind = base.tokenizer("q" + rest)["input_ids"]
    assert behind[: len(filler)] == filler
    return base.tokenizer(prompt)["input_ids"] + behind[len(filler) :]


@pytest.fixture(scope="module")
def writer(tiny_model: Path) -> Base:
    """The tiny model after it has learnt the texts of PAIRS half by heart: it writes sentinels, at various lengths."""
    base = load_tiny(tiny_model)
    rows = [tokenize_behind_prompt(base, label, premise, hypothesis) for premise, hypothesis, label in PAIRS]
    learn_by_heart(base, rows, steps=100)
    return base


PROBABILITIES = [0.1, 0.5, 0.15, 0.25]  # by falling probability: tokens 1, 3, 2, 0


@pytest.mark.parametrize(
    ("changes", "uniforms", "tokens"),
    [
        ({}, [0.0, 0.49, 0.51, 0.74, 0.76, 0.89, 0.91, 0.9999], [1, 1, 3, 3, 2, 2, 0, 0]),
        # squared and scaled to 1: 0.725, 0.181, 0.065, 0.029
        ({"temperature": 0.5}, [0.72, 0.73, 0.90, 0.91, 0.97, 0.98], [1, 3, 3, 2, 2, 0]),
        ({"top_k": 1}, [0.0, 0.5, 0.9999], [1, 1, 1]),
        ({"top_k": 2}, [0.0, 0.66, 0.67, 0.9999], [1, 1, 3, 3]),  # 2/3, 1/3
        ({"top_k": 9}, [0.76, 0.9999], [2, 0]),
        ({"top_p": 0.4}, [0.0, 0.9999], [1, 1]),
        ({"top_p": 0.6}, [0.66, 0.67, 0.9999], [1, 3, 3]),  # the first is not enough, so the second stays
        ({"top_p": 0.8, "top_k": 2}, [0.66, 0.67, 0.9999], [1, 3, 3]),
        ({"temperature": 0.5, "top_p": 0.7}, [0.0, 0.9999], [1, 1]),  # temperature first: 0.725 is enough
    ],
)
def test_sampled_tokens_on_literals(changes: dict[str, Any], uniforms: list[float], tokens: list[int]) -> None:
    logits = torch.tensor(PROBABILITIES).log().repeat(len(uniforms), 1)
    found = sample_tokens(logits, torch.tensor(uniforms, dtype=torch.float64), make_settings(**changes))
    assert found.tolist() == tokens


def filter_as_transformers(logits: torch.Tensor, settings: Generation) -> torch.Tensor:
    """Probabilities [rows, vocabulary] after transformers' own warpers, in the order of generate()."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    warpers: list[Any] = [TemperatureLogitsWarper(settings.temperature)]
    warpers += [TopKLogitsWarper(settings.top_k)] if settings.top_k else []
    warpers += [TopPLogitsWarper(settings.top_p)] if settings.top_p < 1 else []
    scores = logits.double()
    for warper in warpers:
        scores = warper(None, scores)
    return scores.softmax(-1)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 5])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
def test_sampling_equals_transformers_filters_and_inversion(temperature: float, top_k: int, top_p: float) -> None:
    settings = make_settings(temperature=temperature, top_k=top_k, top_p=top_p)
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn((200, 31), generator=generator) * 2
    uniforms = torch.rand(200, generator=generator, dtype=torch.float64)
    expected = []
    for row, uniform in zip(filter_as_transformers(logits, settings).numpy(), uniforms.numpy(), strict=True):
        order = np.argsort(-row, kind="stable")
        expected.append(order[np.flatnonzero(np.cumsum(row[order]) > uniform)[0]])
    found = sample_tokens(logits, uniforms, settings)
    assert found.tolist() == [int(token) for token in expected]
    assert len(set(found.tolist())) > (1 if top_k == 1 else 3)


def test_shares_of_tokens_are_their_probabilities() -> None:
    settings = make_settings(temperature=0.7, top_p=0.95)
    logits = torch.randn((1, 12), generator=torch.Generator().manual_seed(4))
    uniforms = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    found = sample_tokens(logits.expand(20000, -1), uniforms, settings)
    shares = np.bincount(found.numpy(), minlength=12) / 20000
    np.testing.assert_allclose(shares, filter_as_transformers(logits, settings)[0].numpy(), atol=1e-4)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("model", ["base", "writer"])
def test_greedy_equals_generate(model: str, label: str, request: pytest.FixtureRequest) -> None:
    tiny: Base = request.getfixturevalue(model)
    limit = 60
    prompt = tiny.tokenizer(generator_prompt(label))["input_ids"]
    theirs = tiny.model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones((1, len(prompt)), dtype=torch.int64),
        do_sample=False,
        max_new_tokens=limit,
        pad_token_id=tiny.pad_token_id,
    )[0].tolist()
    uniforms = np.random.default_rng(0).random((3, limit))
    ours = sample_batch(tiny, generator_prompt(label), uniforms, make_settings(top_k=1))
    for row in ours:
        assert row.tolist() == theirs[: len(row)]
        stopped = SENTINEL in tiny.tokenizer.decode(row.tolist()) or row[-1] == tiny.tokenizer.eos_token_id
        assert len(row) == len(theirs) or (stopped and len(row) > len(prompt) + 5)


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_rows_do_not_depend_on_the_batch_size(writer: Base, batch_size: int) -> None:
    whole = generate_shard(writer, label="neutral", shard=0, settings=make_settings(temperature=1.4))
    parts = generate_shard(
        writer, label="neutral", shard=0, settings=make_settings(temperature=1.4, batch_size=batch_size)
    )
    assert parts.to_pylist() == whole.to_pylist()
    assert len(set(whole["n_tokens"].to_pylist())) >= 3, "rows leave the batch at various steps"
    assert len(set(whole["raw_text"].to_pylist())) > 3


def test_stopping_changes_nothing_in_what_is_extracted(writer: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings(temperature=0.8)
    stopped = generate_shard(writer, label="entailment", shard=0, settings=settings).to_pylist()
    monkeypatch.setattr(generation, "find_stop", lambda text: None)
    endless = generate_shard(writer, label="entailment", shard=0, settings=settings).to_pylist()
    assert sum(row["accepted"] for row in stopped) >= 6
    longer = 0
    for short, long in zip(stopped, endless, strict=True):
        kept = ("pair_id", "premise", "hypothesis", "accepted", "reject_reason", "lexical_overlap_published")
        assert [short[name] for name in kept] == [long[name] for name in kept]
        assert long["raw_text"].startswith(short["raw_text"])
        longer += long["n_tokens"] > short["n_tokens"]
        if short["accepted"]:
            assert short["raw_text"].endswith(SENTINEL)
            assert find_stop(short["raw_text"]) == len(short["raw_text"])
    assert longer >= 6, "the other run did go on"


def test_rows_without_a_sentinel_are_kept_with_the_reason(writer: Base) -> None:
    settings = make_settings(max_new_tokens=4)
    seen: list[tuple[int, int]] = []
    rows = generate_shard(
        writer,
        label="contradiction",
        shard=0,
        settings=settings.model_copy(update={"batch_size": 5}),
        on_batch=lambda done, total, _: seen.append((done, total)),
    )
    prompt = writer.tokenizer(generator_prompt("contradiction"))["input_ids"]
    assert len(rows) == 12 and not any(rows["accepted"].to_pylist())
    assert set(rows["reject_reason"].to_pylist()) <= {"no_premise", "no_hypothesis", "no_sentinel"}
    assert set(rows["n_tokens"].to_pylist()) == {len(prompt) + 4}
    assert all(text.startswith(generator_prompt("contradiction")) for text in rows["raw_text"].to_pylist())
    for name in ("premise", "hypothesis", "lexical_overlap_published", "lexical_overlap_token_aligned"):
        assert rows[name].null_count == 12
    assert seen == [(5, 12), (10, 12), (12, 12)]


def test_end_of_text_ends_a_row(base: Base) -> None:
    end = base.tokenizer.eos_token_id
    written = torch.tensor([[9, end], [9, 9], [9, 9]])
    done = find_finished(
        base, [5], written, torch.tensor([0, 2]), torch.tensor([end, 9]), torch.zeros(len(base.tokenizer)).bool(), 1
    )
    assert done.tolist() == [True, False]


def test_every_token_that_can_end_a_text_is_marked(base: Base) -> None:
    marked = mark_stops(base)
    ends = 0
    for premise, hypothesis, label in PAIRS:
        ids = base.tokenizer(generator_text(label, premise, hypothesis))["input_ids"]
        texts = base.tokenizer.batch_decode([ids[:place] for place in range(1, len(ids) + 1)], skip_special_tokens=True)
        for token, text in zip(ids, texts, strict=True):
            if find_stop(text) is not None:
                ends += 1
                assert marked[token]
    assert ends == len(PAIRS)
    assert 0 < int(marked.sum()) < len(base.tokenizer) // 4, "few tokens cost a look at the text"


def test_a_sentinel_before_the_hypothesis_does_not_stop(base: Base) -> None:
    early = f"{generator_prompt('neutral')}. Premise: A. {SENTINEL} Hypothesis: B."
    prompt = base.tokenizer(generator_prompt("neutral"))["input_ids"]
    for text, expected in ((early, False), (f"{early} {SENTINEL}", True)):
        ids = base.tokenizer(text)["input_ids"][len(prompt) :]
        written, every = torch.tensor([ids]), torch.ones(len(base.tokenizer)).bool()
        done = find_finished(base, prompt, written, torch.tensor([0]), written[:, -1], every, len(ids) - 1)
        assert done.tolist() == [expected]


def test_shards_differ_and_come_out_again(writer: Base) -> None:
    def read(shard: int, **changes: Any) -> list[str]:
        return generate_shard(writer, label="neutral", shard=shard, settings=make_settings(**changes))[
            "raw_text"
        ].to_pylist()

    first, second = read(0), read(1)
    assert (len(first), len(second)) == (12, 8), "20 examples are a shard of 12 and one of 8"
    assert first == read(0) and second == read(1)
    assert first[:8] != second
    assert first != read(0, seed=2)
    with pytest.raises(ValueError, match=r"shard 2 of neutral.*2 shards"):
        read(2)


def test_random_numbers_belong_to_their_row() -> None:
    settings = make_settings(max_new_tokens=7)
    whole = draw_uniforms(settings, label="neutral", shard=0, rows=10)
    assert whole.shape == (10, 7) and whole.dtype == np.float64
    assert whole.min() >= 0 and whole.max() < 1 and len(np.unique(whole)) == 70
    np.testing.assert_array_equal(draw_uniforms(settings, label="neutral", shard=0, rows=4), whole[:4])
    others: list[Callable[[], np.ndarray]] = [
        lambda: draw_uniforms(settings, label="neutral", shard=1, rows=10),
        lambda: draw_uniforms(settings, label="entailment", shard=0, rows=10),
        lambda: draw_uniforms(make_settings(max_new_tokens=7, seed=2), label="neutral", shard=0, rows=10),
    ]
    for other in others:
        assert not np.isin(other(), whole).any()


def test_generations_have_numbers_and_ids_of_their_own() -> None:
    settings = make_settings()
    first, again, second, third = (
        draw_uniforms(settings, label="neutral", shard=1, rows=3, generation=place) for place in (0, 0, 1, 2)
    )
    assert (first == again).all() and (first == draw_uniforms(settings, label="neutral", shard=1, rows=3)).all()
    assert (first != second).any() and (second != third).any() and (first != third).any()
    table = build_rows([generator_text("neutral", "A", "B")], [9], label="neutral", shard=1, generation=2)
    assert (table["pair_id"].to_pylist(), table["generation"].to_pylist()) == (["syn-g2-neutral-1-0"], [2])


def test_rows_of_a_shard() -> None:
    texts = [
        generator_text("entailment", "The cat sat. On mats", "the Cat sat."),
        generator_text("entailment", "A dog ran", "A cat ran") + " And more after it.",
        generator_text("neutral", "A dog ran", "A cat ran"),
        f"{generator_prompt('entailment')}. Premise: A Hypothesis: B",
        f"{generator_prompt('entailment')}. Premise:  Hypothesis: B {SENTINEL}",
    ]
    table = build_rows(texts, [9, 8, 7, 6, 5], label="entailment", shard=3)
    assert table.column_names == COLUMNS
    rows = table.to_pylist()
    assert [row["pair_id"] for row in rows] == [f"syn-entailment-3-{row}" for row in range(5)]
    assert [row["accepted"] for row in rows] == [True, True, False, False, False]
    reasons = [None, None, "label_mismatch", "no_sentinel", "empty_premise"]
    assert [row["reject_reason"] for row in rows] == reasons
    assert [row["premise"] for row in rows] == ["The cat sat. On mats", "A dog ran", None, None, None]
    assert [row["hypothesis"] for row in rows] == ["the Cat sat.", "A cat ran", None, None, None]
    assert [row["lexical_overlap_published"] for row in rows] == [True, False, None, None, None]
    assert [row["n_tokens"] for row in rows] == [9, 8, 7, 6, 5]
    assert [row["raw_text"] for row in rows] == texts
    for row in rows:
        assert (row["split"], row["genre"], row["gold_label"], row["shard"]) == (
            "synthetic",
            "synthetic",
            "entailment",
            3,
        )
        found = extract_pair(row["raw_text"], label="entailment")
        assert (row["premise"], row["hypothesis"]) == (found.premise, found.hypothesis)
