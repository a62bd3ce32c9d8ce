"""Training without padding: losses and gradients against transformers' own layers, part by part."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PAIRS
from tiny import load_tiny, make_task_run, make_vivid_adapter
from torch import nn

from blindspot import merged_lora
from blindspot.memory import MB
from blindspot.models import Base, new_adapter
from blindspot.prompts import generator_text
from blindspot.quantized import PackedLinear
from blindspot.shared_attention import Shape, attend, attend_back, hide_later
from blindspot.stacking import stacked
from blindspot.study import Lora
from blindspot.training import TrainingRun, choose_prefix, compute_losses, shared_prefix, tokenize
from blindspot.unpadded import suits

EVERY: Any = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA = Lora(r=4, lora_alpha=8.0, lora_dropout=0.0, target_modules=EVERY)
COUNTS = (5, 2, 4)  # rows of each run's batch


@pytest.fixture
def base(tiny_model: Path) -> Base:
    return shake_norms(load_tiny(tiny_model))


def shake_norms(base: Base) -> Base:
    torch.manual_seed(1)
    for name, parameter in base.model.named_parameters():
        if "norm" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return base


def rebuild(base: Base, **changes: Any) -> Base:
    """A base of another shape, with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**{**base.model.config.to_dict(), **changes})
    torch.manual_seed(2)
    base.model = LlamaForCausalLM(config).eval().requires_grad_(False)
    return shake_norms(base)


def compare(base: Base, runs: list[TrainingRun], lora: Lora, task: Any, prefix: int) -> None:
    """Losses and every gradient, without padding and through transformers' layers."""
    batches = [(run, list(range(count))) for run, count in zip(runs, COUNTS, strict=True)]
    found: list[dict[str, torch.Tensor]] = []
    for way in (prefix, None):
        with stacked(base, [run.adapter for run in runs], lora) as stack:
            losses = compute_losses(stack, batches, [], task=task, pooling="last_token", prefix=way)
            losses.sum().backward()
            gradients = {n: p.grad for n, p in stack.named_parameters() if p.requires_grad and p.grad is not None}
            found.append({"losses": losses.detach(), **gradients})
    assert found[0].keys() == found[1].keys() and len(found[0]) > 4
    for name, expected in found[1].items():
        assert float(expected.abs().max()) > 0, name
        torch.testing.assert_close(found[0][name], expected, atol=1e-5, rtol=1e-4)


def make_runs(base: Base, lora: Lora) -> list[TrainingRun]:
    runs = [make_task_run(base, lora=lora, seed=seed, pairs=PAIRS[seed : seed + 5]) for seed in range(3)]
    for seed, run in enumerate(runs):
        run.adapter = make_vivid_adapter(base, lora, seed=seed)
    return runs


@pytest.mark.parametrize("targets", [EVERY, ["q_proj", "v_proj", "up_proj"], ["down_proj"]])
@pytest.mark.parametrize("shared", ["all", "some", "none"])
def test_task_gradients_are_the_models(base: Base, targets: Any, shared: str) -> None:
    lora = LORA.model_copy(update={"target_modules": targets})
    runs = make_runs(base, lora)
    most = shared_prefix([ids for run in runs for ids in run.token_ids])
    assert most > 3
    compare(base, runs, lora, "classification", {"all": most, "some": 2, "none": 0}[shared])


def test_heads_that_share_keys(base: Base) -> None:
    base = rebuild(base, num_key_value_heads=2, num_attention_heads=4)
    runs = make_runs(base, LORA)
    compare(base, runs, LORA, "classification", 3)
    compare(base, [as_texts(run, base) for run in runs], LORA, "causal_lm", 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"head_dim": 8},
        {"num_hidden_layers": 1},
        {"num_key_value_heads": 1},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0}},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0}, "max_position_embeddings": 8},
    ],
    ids=["head_dim", "one_layer", "one_key", "yarn", "dynamic"],
)
def test_other_shapes_and_rotary_embeddings(base: Base, changes: dict[str, Any]) -> None:
    """yarn scales cos and sin, dynamic looks at the length; heads need not make up the hidden size."""
    base = rebuild(base, **changes)
    compare(base, make_runs(base, LORA), LORA, "classification", 3)


def as_texts(run: TrainingRun, base: Base, saved: tuple[str, ...] = ()) -> TrainingRun:
    """G's run on the same pairs."""
    adapter = new_adapter(base, LORA, seed=run.seed, saved_modules=saved)
    adapter = {name: part + 0.02 * torch.randn(part.shape) for name, part in adapter.items()}
    ids = tokenize(base, [generator_text(label, p, h) for p, h, label in PAIRS[run.seed : run.seed + 5]])
    return TrainingRun(run.name, adapter, ids, labels=None, seed=run.seed)


@pytest.mark.parametrize("saved", [(), ("embed_tokens", "lm_head")])
def test_generator_gradients_are_the_models(base: Base, saved: tuple[str, ...]) -> None:
    compare(base, [as_texts(run, base, saved) for run in make_runs(base, LORA)], LORA, "causal_lm", 0)


def test_weights_that_are_merged_twice(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too large to wait for the backward pass, they are made anew, a run at a time: the same numbers."""
    monkeypatch.setattr(merged_lora, "KEPT_BYTES", 0)
    compare(base, make_runs(base, LORA), LORA, "classification", 3)


def test_weights_that_stay_in_4_bits(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blindspot.quantized.free_memory", lambda device: MB // 100)
    base = shake_norms(load_tiny(tiny_model, "nf4"))
    assert isinstance(base.model.model.layers[0].self_attn.q_proj, PackedLinear) and suits(base.model)
    compare(base, make_runs(base, LORA), LORA, "classification", 3)


def test_what_must_be_padded(base: Base) -> None:
    runs = make_runs(base, LORA)
    dropout = LORA.model_copy(update={"lora_dropout": 0.1})
    most = shared_prefix([ids for run in runs for ids in run.token_ids])
    assert choose_prefix(base, runs, lora=LORA, task="classification", pooling="last_token") == most
    assert choose_prefix(base, runs, lora=LORA, task="causal_lm", pooling="last_token") == 0
    assert choose_prefix(base, runs, lora=dropout, task="classification", pooling="last_token") is None
    assert choose_prefix(base, runs, lora=LORA, task="classification", pooling="as_published") is None
    others = {"model_type": "mistral", "hidden_act": "gelu", "mlp_bias": True, "attention_bias": True}
    for name, value in others.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(base.model.config, name, value)
            assert not suits(base.model), name
    hook = base.model.model.layers[0].mlp.up_proj.register_forward_hook(lambda module, inputs, out: out)
    assert not suits(base.model)
    hook.remove()
    assert suits(base.model) and not suits(base.model.to(torch.bfloat16))


@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize("shared", [0, 3])
def test_attention_is_torchs(is_last: bool, shared: int) -> None:
    """Rows of 2 groups, each behind its group's shared places; without is_last the shared places ask too."""
    shape = Shape(groups=2, rows=3, shared=shared, own=4, size=8, is_last=is_last)
    generator = torch.Generator().manual_seed(1)
    asking = 6 if is_last else 2 * shared + 24
    counts = (asking, 2 * shared + 24, 2 * shared + 24)
    queries, keys, values = (torch.randn(n, 8, generator=generator, dtype=torch.float64) for n in counts)
    ends = torch.tensor([3, 0, 2, 1, 3, 2])
    hidden = torch.zeros(6, 1, 4).masked_fill(torch.arange(4) > ends[:, None, None], -torch.inf)
    hidden = hidden.double() if is_last else hide_later(4)[None].double()
    found, kept = attend(queries, keys, values, hidden, shape)
    given = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    gradients = attend_back(given, kept, shape)
    leaves = [part.clone().requires_grad_(True) for part in (queries, keys, values)]
    befores = [slice(group * shared, (group + 1) * shared) for group in range(2)]
    expected: list[torch.Tensor] = []
    if shared and not is_last:
        expected = [attend_plainly(*(leaf[before] for leaf in leaves), mask=hide_later(shared)) for before in befores]
    for row in range(6):
        before, own = befores[row // 3], slice(2 * shared + 4 * row, 2 * shared + 4 * row + 4)
        query = leaves[0][row : row + 1] if is_last else leaves[0][own]
        seen = [torch.cat([leaf[before], leaf[own]]) for leaf in leaves[1:]]
        mask = torch.cat([torch.zeros(len(query), shared), (hidden[row] if is_last else hidden[0]).float()], dim=1)
        expected.append(attend_plainly(query, *seen, mask=mask))
    whole = torch.cat(expected)
    torch.testing.assert_close(found, whole.detach())
    whole.backward(given)
    for ours, leaf in zip(gradients, leaves, strict=True):
        torch.testing.assert_close(ours, leaf.grad)


def attend_plainly(*heads: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """torch's own, of queries that are scaled already, keys and values."""
    q, k, v = (part[None, None] for part in heads)
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype), scale=1.0)[0, 0]


def test_rows_that_are_one_token(base: Base) -> None:
    """The shortest rows there are: nothing but what follows the shared start."""
    run = make_runs(base, LORA)[0]
    start = run.token_ids[0][:6]
    run.token_ids = [np.append(start, 10 + place) for place in range(5)]
    compare(base, [run, *make_shifted(run)], LORA, "classification", 6)


def make_shifted(run: TrainingRun) -> list[TrainingRun]:
    """Two runs beside it, with the same start and longer rows."""
    rows = [np.append(ids, [5, 6, 7, 8][: place + 1]) for place, ids in enumerate(run.token_ids[:4])]
    return [TrainingRun(f"{run.name}-{n}", run.adapter, rows, run.labels, seed=n) for n in (1, 2)]
