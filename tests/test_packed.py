"""NF4 weights that stay packed since memory is short: everywhere the numbers of the dequantised base."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PAIRS
from tiny import TRAINING, largest_difference, load_tiny, make_task_run, make_vivid_adapter, tiny_settings

from blindspot import quantized
from blindspot.data import LABELS
from blindspot.generation import draw_uniforms, sample_batch
from blindspot.models import Base, list_targets, load_base, merged, new_adapter, save_adapter
from blindspot.prediction import check_round_trip, predict_logits
from blindspot.prompts import generator_prompt, generator_text
from blindspot.quantized import PackedLinear
from blindspot.slots import sample_in_slots
from blindspot.static_training import train_static
from blindspot.study import Generation, Lora
from blindspot.training import TrainingRun, order_batches, tokenize, train_adapters

EVERY: Any = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA = Lora(r=4, lora_alpha=8.0, lora_dropout=0.1, target_modules=EVERY)
make_run = partial(make_task_run, lora=LORA)
BYTES = 2 * 4 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96)  # of the tiny model's linear layers in float32


def load_with(free: int, folder: Path, *, compute_dtype: str = "float32", arithmetic: str | None = None) -> Base:
    """The NF4 base on a machine with so many bytes free."""
    settings = tiny_settings(folder, "nf4").model_copy(update={"compute_dtype": compute_dtype})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantized, "free_memory", lambda device: free)
        return load_base(settings, arithmetic=arithmetic)


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> Base:
    return load_tiny(tiny_model, "nf4")


@pytest.fixture(scope="module")
def packed(tiny_model: Path) -> Base:
    return load_with(1000, tiny_model)


def test_memory_decides(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    enough = int(BYTES / quantized.MOST_DEQUANTIZED) + 1
    assert not load_with(enough, tiny_model).packed
    assert "are dequantised once" in capsys.readouterr().out
    assert load_with(enough - 2, tiny_model).packed
    said = capsys.readouterr().out
    assert "stay in 4 bits" in said and "0 MB are free" in said and "70%" in said
    assert load_with(2 * BYTES, tiny_model, compute_dtype="bfloat16", arithmetic="float32").packed is False
    assert load_with(BYTES, tiny_model, compute_dtype="bfloat16").packed is False
    assert load_with(BYTES, tiny_model, compute_dtype="bfloat16", arithmetic="float32").packed


def test_a_base_without_quantisation_says_nothing(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not load_tiny(tiny_model).packed
    assert "NF4" not in capsys.readouterr().out


def test_weights_stay_packed(plain: Base, packed: Base) -> None:
    targets = list_targets(packed, LORA)
    assert packed.packed and targets == list_targets(plain, LORA) and len(targets) == 14
    for name in targets:
        layer, same = packed.model.get_submodule(name), plain.model.get_submodule(name)
        assert isinstance(layer, PackedLinear) and layer.weight.dtype == torch.uint8
        assert 2 * layer.weight.numel() == layer.in_features * layer.out_features
        assert torch.equal(layer.dequantize(), same.weight)


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_logits_are_the_same_bits(tiny_model: Path, compute_dtype: str, arithmetic: str) -> None:
    options: Any = {"compute_dtype": compute_dtype, "arithmetic": arithmetic}
    one, other = (load_with(free, tiny_model, **options) for free in (1000, 10**9))
    assert (one.packed, other.packed) == (True, False)
    assert one.model.dtype == other.model.dtype == getattr(torch, arithmetic)
    ids = torch.arange(5, 65).view(3, 20)
    with torch.no_grad():
        found, expected = one.model(ids).logits, other.model(ids).logits
    assert torch.equal(found, expected) and found.dtype == getattr(torch, arithmetic)


def train_both_ways(base: Base, runs: list[TrainingRun], **options: Any) -> list[list[dict[str, torch.Tensor]]]:
    """The adapters from the CPU's loop and from the GPU's."""
    plans = [order_batches([len(ids) for ids in run.token_ids], TRAINING, seed=run.seed) for run in runs]
    copies = [replace(run, losses=[]) for run in runs]
    static = train_static(base, copies, plans, settings=TRAINING, lora=LORA, pooling="last_token", **options)
    return [train_adapters(base, runs, settings=TRAINING, lora=LORA, **options), static]


def test_stacked_training_equals_the_dequantised_bases(plain: Base, packed: Base) -> None:
    choices = [PAIRS, PAIRS[:5], PAIRS[3:10]]
    trained = [
        train_both_ways(base, [make_run(base, seed=s, pairs=p) for s, p in enumerate(choices)], task="classification")
        for base in (plain, packed)
    ]
    starts = [make_run(plain, seed=s).adapter for s in range(3)]
    for expected, found in zip(*trained, strict=True):
        for start, one, other in zip(starts, expected, found, strict=True):
            assert largest_difference(one, start) > 1e-3
            assert largest_difference(one, other) < 1e-5


def test_generator_training_equals_the_dequantised_bases(plain: Base, packed: Base) -> None:
    ids = tokenize(plain, [generator_text(label, p, h) for p, h, label in PAIRS])
    trained = []
    for base in (plain, packed):
        adapter = new_adapter(base, LORA, seed=1, saved_modules=("embed_tokens", "lm_head"))
        run = TrainingRun(name="g", adapter=adapter, token_ids=ids, labels=None, seed=5)
        trained.append([adapters[0] for adapters in train_both_ways(base, [run], task="causal_lm")])
        assert largest_difference(trained[-1][0], adapter) > 1e-3
    for expected, found in zip(*trained, strict=True):
        assert largest_difference(expected, found) < 1e-5


@pytest.mark.parametrize("pooling", ["last_token", "as_published"])
def test_predictions_equal_the_dequantised_bases(plain: Base, packed: Base, pooling: str, tmp_path: Path) -> None:
    adapter = make_vivid_adapter(plain, LORA, seed=3)
    ids = make_run(plain, seed=1).token_ids
    expected, found, without = (
        predict_logits(base, chosen, LORA, ids, batch_size=4, pooling=pooling)
        for base, chosen in ((plain, adapter), (packed, adapter), (packed, make_run(plain, seed=1).adapter))
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - without).max() > 1e-2 and np.ptp(found, axis=0).min() > 1e-3
    save_adapter(tmp_path, adapter, lora=LORA, base=packed)
    assert check_round_trip(packed, adapter, tmp_path, LORA, ids) == 0.0


def test_greedy_generation_equals_the_dequantised_bases(plain: Base, packed: Base) -> None:
    values = {"seed": 1, "examples_per_label": dict.fromkeys(LABELS, 20), "shard_size": 12, "batch_size": 5}
    settings = Generation.model_validate(values | {"max_new_tokens": 40, "temperature": 1.0, "top_p": 1.0, "top_k": 1})
    uniforms, prompt = draw_uniforms(settings, label="neutral", shard=0, rows=6), generator_prompt("neutral")
    adapter = make_vivid_adapter(plain, LORA, seed=3)
    saved = new_adapter(plain, LORA, seed=1, saved_modules=("lm_head",))["base_model.model.lm_head.weight"]
    adapter["base_model.model.lm_head.weight"] = saved.flip(0)
    written = []
    for base in (plain, packed):
        before = base.model.lm_head.weight.clone()
        for sample in (sample_batch, sample_in_slots):
            with merged(base, adapter, LORA):
                written.append([row.tolist() for row in sample(base, prompt, uniforms, settings)])
        assert torch.equal(base.model.lm_head.weight, before)
    assert written[0] == written[1] == written[2] == written[3]
    assert len({token for row in written[0] for token in row}) > 20


def test_the_adapter_leaves_packed_layers_at_the_end(packed: Base) -> None:
    ids = torch.arange(5, 25)[None]
    before = packed.model(ids).logits
    adapter = make_vivid_adapter(packed, LORA, seed=3)
    with merged(packed, adapter, LORA):
        assert not torch.allclose(packed.model(ids).logits, before, atol=1e-2)
    with pytest.raises(RuntimeError, match="half way"), merged(packed, adapter, LORA):
        raise RuntimeError("half way")
    assert torch.equal(packed.model(ids).logits, before)


def test_no_plain_weights_wait_for_the_backward_pass(packed: Base) -> None:
    layer = packed.model.get_submodule("model.layers.0.mlp.up_proj")
    kept: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    rows = torch.randn(3, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = layer(rows)
    out.square().sum().backward()
    assert kept == []
    torch.testing.assert_close(rows.grad, 2 * out.detach() @ layer.dequantize())
