"""The last layer for the last token alone: states and gradients are those of transformers' own model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PAIRS
from tiny import load_tiny, make_vivid_adapter
from transformers import LlamaConfig, LlamaModel, MistralConfig, MistralModel

from blindspot.last_token import RmsNorm, Rotation, read_last_tokens
from blindspot.models import Base
from blindspot.stacking import stacked
from blindspot.study import Lora

LORA = Lora(r=4, lora_alpha=8.0, lora_dropout=0.0, target_modules=["q_proj", "v_proj", "o_proj", "gate_proj"])
SHAPE: dict[str, Any] = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}


def make_decoder(kind: str) -> Any:
    torch.manual_seed(1)
    config, model = {"llama": (LlamaConfig, LlamaModel), "mistral": (MistralConfig, MistralModel)}[kind]
    decoder = model._from_config(config(**SHAPE), attn_implementation="sdpa").eval()
    for name, parameter in decoder.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return decoder.requires_grad_(False)


@pytest.mark.parametrize("kind", ["llama", "mistral"])
@pytest.mark.parametrize("groups", [0, 1, 3])
def test_states_and_gradients_are_the_models(kind: str, groups: int) -> None:
    """With no prefix, one for all rows, and one for each of three groups of rows; queries share keys (GQA)."""
    decoder = make_decoder(kind)
    inputs, starts = torch.randn(6, 9, 32), torch.randn(max(groups, 1), 5, 32)
    ends = torch.tensor([8, 0, 3, 5, 7, 2])
    found: list[torch.Tensor] = []
    expected: list[torch.Tensor] = []
    for results, is_ours in ((found, True), (expected, False)):
        rows, before = inputs.clone().requires_grad_(True), starts.clone().requires_grad_(True)
        if is_ours:
            cache = decoder(inputs_embeds=before, use_cache=True).past_key_values.layers if groups else []
            states = [(layer.keys, layer.values) for layer in cache]
            last = read_last_tokens(decoder, rows, ends, prefix=states or None)
        else:
            repeated = before.repeat_interleave(6 // len(before), dim=0)
            whole = torch.cat([repeated, rows], dim=1) if groups else rows
            last = decoder(inputs_embeds=whole)[0][torch.arange(6), ends + (5 if groups else 0)]
        (last * torch.linspace(-1, 1, last.numel()).view_as(last)).sum().backward()
        assert rows.grad is not None and (before.grad is not None) == bool(groups)
        results += [last.detach(), rows.grad] + ([before.grad] if before.grad is not None else [])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert float(found[1][1, 1:].abs().max()) == 0, "what comes after a row's last token changes nothing"


def test_a_stack_reads_each_runs_own_states(tiny_model: Path) -> None:
    base: Base = load_tiny(tiny_model)
    adapters = [make_vivid_adapter(base, LORA, seed=seed) for seed in (1, 2)]
    ids = torch.tensor([(base.tokenizer(premise)["input_ids"] * 12)[:12] for premise, _, _ in PAIRS[:6]])
    ends, start = torch.tensor([11, 3, 5, 11, 0, 7]), torch.tensor([5, 6, 7])
    with stacked(base, adapters, LORA) as stack, torch.no_grad():
        found = stack.last_states(ids, ends, prefix=start)
        whole = stack.hidden_states(torch.cat([start.expand(6, -1), ids], dim=1))
        without = stack.last_states(ids, ends, prefix=start[:0])
        plain = stack.hidden_states(ids)
    torch.testing.assert_close(found, whole[torch.arange(6), ends + 3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(without, plain[torch.arange(6), ends], atol=1e-5, rtol=1e-5)
    assert float((found[:3] - found[3:]).abs().min()) > 0


def test_gradients_of_the_parts() -> None:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    angles = torch.rand(5, 3, generator=generator, dtype=torch.float64).repeat(1, 2)
    assert torch.autograd.gradcheck(lambda x: Rotation.apply(x, angles.cos(), angles.sin()), (draw(2, 3, 5, 6),))
    weight, states = torch.rand(6, generator=generator) + 0.5, draw(4, 6).detach().float()
    ours, plain = (states.clone().requires_grad_(True) for _ in range(2))
    RmsNorm.apply(ours, weight, 1e-2).square().sum().backward()
    (plain * torch.rsqrt(plain.square().mean(-1, keepdim=True) + 1e-2) * weight).square().sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad)
