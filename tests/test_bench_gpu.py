"""The GPU benchmark's program at toy sizes on the CPU, and its floors on numbers counted by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import gpu
from bench.gpu_work import Floor, Shape, count_decoding, count_evaluation, count_training

CONFIG = {"vocab_size": 10, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}


def test_tiny_runs_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--tiny", "--output", str(tmp_path / "gpu.json")]) == 0
    results = json.loads((tmp_path / "gpu.json").read_text())
    titles = [line["title"] for line in results["lines"]]
    starts = ("reference step", "our step: K = 1,", "our step: K = 2,", "our step: K = 3,", "generation", "evaluation")
    assert len(titles) == 6 and all(map(str.startswith, titles, starts))
    for line in results["lines"]:
        assert line["value"] > 0 and line["floor"] > 0
        slower = line["value"] > line["floor"] if line["unit"] == "ms a step" else line["value"] < line["floor"]
        assert (line["times_floor"] > 1) == slower
    table = (tmp_path / "gpu.md").read_text()
    assert table.strip() in capsys.readouterr().out and table.count("\n| ") == 7


def test_without_a_device_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_missing_memory_loses_one_line_only() -> None:
    def fail() -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory\nmore")

    line = gpu.add_floor(gpu.attempt(fail, "our step: K = 99"), {})
    assert (line["value"], line["floor"], line["problem"]) == (None, None, "CUDA out of memory")


def test_floors_by_hand() -> None:
    shape = Shape.of(CONFIG | HEADS, r=1, bytes_each=2)
    assert shape.linear == 2 * (16 + 8 + 8 + 16 + 3 * 24) and shape.lm_head == 40
    assert shape.adapter == 2 * (8 + 6 + 6 + 8 + 30) and shape.cached == 2 * 2 * 2
    step = count_training(shape, runs=3, rows=2, tokens=5)
    assert step == Floor(4 * 240 * 30 + 6 * 116 * 30 + 6 * 30 * 5 * 8, 2 * 240 * 2 + 40 * 3 * 116)
    assert count_decoding(shape, slots=2, positions=5) == Floor(2 * 2 * 280 + 4 * 2 * 5 * 8, 2 * (280 + 2 * 5 * 8))
    assert count_evaluation(shape, rows=3, tokens=5) == Floor(2 * 240 * 15, 480)
    assert Floor(10, 6).seconds({"flop_per_second": 5.0, "bytes_per_second": 2.0}) == 3.0


def test_seven_billion_weights() -> None:
    shape = Shape.of(gpu.FULL.config, r=64, bytes_each=2)
    assert shape.linear + 2 * shape.lm_head == 6_738_149_376  # Llama-2-7B without its 266,240 norm weights
    assert shape.adapter == 159_907_840
