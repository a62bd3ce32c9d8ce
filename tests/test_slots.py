"""Slots, run eagerly on the CPU: the rows are those of the CPU's own algorithm, whatever the number of slots."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PAIRS
from tiny import learn_by_heart, load_tiny

from blindspot import generation, slots
from blindspot.data import LABELS
from blindspot.generation import draw_uniforms, generate_shard, sample_batch
from blindspot.models import Base
from blindspot.prompts import generator_prompt, generator_text
from blindspot.slots import SlotDecoder, sample_in_slots
from blindspot.study import Generation


def make_settings(**changes: Any) -> Generation:
    values = {
        **{"seed": 1, "examples_per_label": dict.fromkeys(LABELS, 20), "shard_size": 12, "batch_size": 12},
        **{"max_new_tokens": 120, "temperature": 1.0, "top_p": 1.0, "top_k": 0},
    }
    return Generation.model_validate(values | changes)


@pytest.fixture(scope="module")
def writer(tiny_model: Path) -> Base:
    """The tiny model after it has learnt the texts of PAIRS half by heart: it writes sentinels, at various lengths."""
    base = load_tiny(tiny_model)
    rows = [base.tokenizer(generator_text(label, p, h))["input_ids"] for p, h, label in PAIRS]
    learn_by_heart(base, rows, steps=60)
    return base


@pytest.mark.parametrize("number", [1, 3, 12, 40])
@pytest.mark.parametrize("sampling", [{"temperature": 1.4}, {"top_k": 20, "top_p": 0.9}, {"top_k": 1}])
def test_rows_are_those_of_the_other_algorithm(writer: Base, number: int, sampling: dict[str, Any]) -> None:
    settings = make_settings(batch_size=number, **sampling)
    uniforms = draw_uniforms(settings, label="neutral", shard=0, rows=12)
    expected = sample_batch(writer, generator_prompt("neutral"), uniforms, settings)
    seen: list[tuple[int, int]] = []
    found = sample_in_slots(writer, generator_prompt("neutral"), uniforms, settings, on_rows=lambda *s: seen.append(s))
    assert [row.tolist() for row in found] == [row.tolist() for row in expected]
    assert seen[-1] == (12, sum(map(len, expected)))
    if "temperature" in sampling:
        assert len({len(row) for row in expected}) >= 3, "slots are refilled at various steps"


def test_rows_that_never_stop(writer: Base) -> None:
    settings = make_settings(batch_size=5, max_new_tokens=4)
    prompt = generator_prompt("contradiction")
    uniforms = draw_uniforms(settings, label="contradiction", shard=0, rows=12)
    found = sample_in_slots(writer, prompt, uniforms, settings)
    assert {len(row) for row in found} == {len(writer.tokenizer(prompt)["input_ids"]) + 4}


def test_gpu_is_sent_to_the_slots(writer: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings(batch_size=5, temperature=1.4)
    expected = generate_shard(writer, label="neutral", shard=0, settings=settings).to_pylist()
    calls: list[int] = []

    def count(*arguments: Any, **options: Any) -> Any:
        calls.append(len(arguments[2]))
        return sample_in_slots(*arguments, **options)

    monkeypatch.setattr(generation, "is_gpu", lambda device: True)
    monkeypatch.setattr(slots, "sample_in_slots", count)
    assert generate_shard(writer, label="neutral", shard=0, settings=settings).to_pylist() == expected
    assert calls == [12]


@torch.inference_mode()
def test_attention_looks_no_further_than_it_must(writer: Base) -> None:
    """One step at a position in the first bucket and one in the second, against a plain forward pass."""
    settings = make_settings(max_new_tokens=100)
    prompt = writer.tokenizer(generator_prompt("neutral"))["input_ids"]
    decoder = SlotDecoder(writer, prompt, slots=2, settings=settings)
    tail = list(range(10, 90))
    for place, token in enumerate(tail):
        decoder.tokens.copy_(torch.tensor([token, 5]))
        decoder.advance(np.array([len(prompt) + place, len(prompt)]), np.array([], dtype=np.int64))
    expected = writer.model(input_ids=torch.tensor([prompt + tail])).logits[0, -1]
    torch.testing.assert_close(decoder.logits[0], expected, atol=1e-4, rtol=1e-4)
    assert sorted(decoder.forwards) == [64, len(prompt) + 100]
