"""K adapters over one frozen base, trained side by side.

The rows of K runs are laid one run after the other in one batch. The base computes them together; each run's LoRA
is a slice of a batched product, A[K, in, r] and B[K, r, out]; each run has its own head. Nothing mixes runs: a run's
gradients are those that it has alone (a test holds them together).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from blindspot.counter_dropout import CounterDropout
from blindspot.models import HEAD, PREFIX, SAVED_MODULES, Adapter, Base, list_targets
from blindspot.study import Lora
from blindspot.unpadded import Layout, run_decoder


class DropoutStream:
    """The dropout masks of one run: a function of its seed and of its own batches alone."""

    def __init__(self, seed: int, rate: float) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.rate = rate
        self.threshold = round(rate * 65536) - 32768

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """A mask of 0 and 1/(1 - rate), float32; the rate is met to 1/65,536."""
        size = torch.Size(shape).numel()
        bits = torch.empty((size + 3) // 4, dtype=torch.int64).random_(-(2**63), None, generator=self.generator)
        kept = bits.view(torch.int16)[:size].view(shape) >= self.threshold
        return kept.to(torch.float32) / (1 - self.rate)


class StackedLora(nn.Module):
    """A frozen linear layer with K adapters. Input [K*rows, length, in], output [K*rows, length, out]."""

    def __init__(self, layer: nn.Linear, adapters: Sequence[Adapter], name: str, lora: Lora) -> None:
        super().__init__()
        self.layer = layer
        self.scaling = lora.lora_alpha / lora.r
        device = layer.weight.device
        stack = {part: torch.stack([a[f"{PREFIX}{name}.lora_{part}.weight"].T for a in adapters]) for part in "AB"}
        self.low = nn.Parameter(stack["A"].to(device, torch.float32).contiguous())
        self.high = nn.Parameter(stack["B"].to(device, torch.float32).contiguous())
        self.streams: list[DropoutStream] = []
        self.shapes: list[tuple[int, int]] = []
        self.counter: tuple[CounterDropout, int] | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        runs = self.low.shape[0]
        rows = hidden.view(runs, -1, *hidden.shape[1:])
        if self.counter:
            dropout, place = self.counter
            rows = rows * dropout.draw(place, rows.shape, rows.dtype)
        elif self.streams:
            rows = rows * self.draw_mask(rows.shape).to(rows)
        rows = rows.flatten(1, 2).to(self.low.dtype)
        out = self.layer(hidden)
        plain = out.view(runs, -1, out.shape[-1]).to(self.low.dtype)
        both = torch.baddbmm(plain, torch.bmm(rows, self.low), self.high, alpha=self.scaling)
        return both.view(out.shape).to(out.dtype)

    def draw_mask(self, shape: torch.Size) -> Tensor:
        """Dropout masks [K, rows, length, in]; a run draws for its own rows and length, not for the stack's padding."""
        mask = torch.zeros(shape)
        for run, (stream, (rows, length)) in enumerate(zip(self.streams, self.shapes, strict=True)):
            mask[run, :rows, :length] = stream.draw((rows, length, shape[3]))
        return mask


class Stack(nn.Module):
    """K adapters (LoRA, head, saved modules) on one base. Leave with `close`, which puts the base back."""

    def __init__(self, base: Base, adapters: Sequence[Adapter], lora: Lora) -> None:
        super().__init__()
        self.base, self.size = base, len(adapters)
        self.targets = list_targets(base, lora)
        self.layers = nn.ModuleDict()
        for name in self.targets:
            wrapped = StackedLora(base.model.get_submodule(name), adapters, name, lora)
            self.layers[name.replace(".", "/")] = wrapped
            replace_module(base.model, name, wrapped)
        self.saved = nn.ParameterDict()
        for name, key in {"score": HEAD, **SAVED_MODULES}.items():
            if key in adapters[0]:
                self.saved[name] = nn.Parameter(torch.stack([a[key] for a in adapters]).to(base.device, torch.float32))

    def parameters_to_train(self) -> Iterator[nn.Parameter]:
        """Every stacked tensor, always in the same order; the first dimension is the run."""
        for layer in self.layers.values():
            yield layer.low  # type: ignore[misc]
            yield layer.high  # type: ignore[misc]
        yield from self.saved.values()

    def set_dropout(self, streams: list[DropoutStream], shapes: list[tuple[int, int]]) -> None:
        """Use these runs' dropout streams, with their batches' (rows, length), for the next forward pass."""
        for layer in self.layers.values():
            layer.streams, layer.shapes = streams, shapes  # type: ignore[assignment]

    def set_counter_dropout(self, dropout: CounterDropout) -> None:
        """Draw the dropout masks of all runs on the device, from now on."""
        for place, layer in enumerate(self.layers.values()):
            layer.counter = (dropout, place)  # type: ignore[assignment]

    def hidden_states(self, input_ids: Tensor, *, attention_mask: Tensor | None = None) -> Tensor:
        """Last hidden states [K*rows, length, hidden] of token ids [K*rows, length]."""
        runs = torch.arange(self.size, device=input_ids.device).repeat_interleave(len(input_ids) // self.size)
        inputs = self.embed(input_ids, runs[:, None])
        return self.base.model.model(inputs_embeds=inputs, attention_mask=attention_mask, use_cache=False)[0]

    def unpadded_states(self, layout: Layout, *, is_last: bool) -> Tensor:
        """Last hidden states [tokens, hidden] of a layout; with is_last, of its rows' last tokens [rows, hidden]."""
        runs = torch.arange(self.size).repeat_interleave(torch.tensor(layout.every.sizes))
        return run_decoder(self.base.model.model, self.embed(layout.ids, runs), layout, is_last=is_last)

    def embed(self, input_ids: Tensor, runs: Tensor) -> Tensor:
        """Input embeddings [..., hidden] of token ids [...] of these runs, from the run's own table if it has one."""
        if "embed_tokens" not in self.saved:
            inputs = self.base.model.model.embed_tokens(input_ids)
        else:
            table = self.saved["embed_tokens"]
            inputs = nn.functional.embedding(input_ids + runs * table.shape[1], table.flatten(0, 1))
        return inputs.to(self.base.model.dtype)

    def label_logits(self, pooled: Tensor) -> Tensor:
        """Logits [K, rows, 3] in fp32 of pooled hidden states [K*rows, hidden]."""
        return torch.bmm(pooled.view(self.size, -1, pooled.shape[-1]).float(), self.saved["score"].transpose(1, 2))

    def token_logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [K, rows, length, vocabulary] of hidden states [K*rows, length, hidden]."""
        if "lm_head" not in self.saved:
            logits = self.base.model.lm_head(hidden)
            return logits.view(self.size, -1, *logits.shape[1:])
        flat = hidden.view(self.size, -1, hidden.shape[-1])
        logits = torch.bmm(flat.to(self.saved["lm_head"].dtype), self.saved["lm_head"].transpose(1, 2))
        return logits.view(self.size, -1, hidden.shape[1], logits.shape[-1])

    def lm_heads(self) -> Sequence[Tensor]:
        """Each run's output embeddings [vocabulary, hidden]: its own, or the base's."""
        own = self.saved["lm_head"].unbind() if "lm_head" in self.saved else None
        return own or [self.base.model.lm_head.weight] * self.size

    def read(self) -> list[Adapter]:
        """The K adapters as they stand, fp32 on the CPU, under PEFT's names."""
        adapters: list[Adapter] = [{} for _ in range(self.size)]
        for name in self.targets:
            layer = self.layers[name.replace(".", "/")]
            for run, adapter in enumerate(adapters):
                adapter[f"{PREFIX}{name}.lora_A.weight"] = layer.low[run].detach().T.cpu().contiguous()  # type: ignore[index]
                adapter[f"{PREFIX}{name}.lora_B.weight"] = layer.high[run].detach().T.cpu().contiguous()  # type: ignore[index]
        for name, parameter in self.saved.items():
            for run, adapter in enumerate(adapters):
                adapter[HEAD if name == "score" else SAVED_MODULES[name]] = parameter[run].detach().cpu().clone()
        return adapters

    def close(self) -> None:
        """Put the base's own layers back."""
        for name in self.targets:
            replace_module(self.base.model, name, self.layers[name.replace(".", "/")].layer)  # type: ignore[arg-type]


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place that a dotted name gives."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


@contextmanager
def stacked(base: Base, adapters: Sequence[Adapter], lora: Lora) -> Iterator[Stack]:
    """The base with K adapters on it; the base is as before at the end, also after an error."""
    stack = Stack(base, adapters, lora)
    try:
        yield stack
    finally:
        stack.close()
