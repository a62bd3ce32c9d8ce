"""What a GPU gives, beside what it could: steps, tokens and rows a second, each with its floor.

    python -m bench.gpu                     # on a GPU; writes bench/gpu_results.json and prints the table
    python -m bench.gpu --tiny              # the same program at toy sizes on the CPU: does it run? figures say nothing

The model has Llama-2-7B's shape and random weights; nothing is downloaded. A floor is the larger of the arithmetic over
the rate of a large matrix product and of the bytes that must move over the rate of a large copy, both measured here.
Exits with 2 where there is no CUDA device.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.gpu_work import Floor, Shape, count_decoding, count_evaluation, count_training, measure_rates, quantize
from bench.measure import Figures, say, stamp
from blindspot.data import LABELS
from blindspot.models import Base, new_adapter
from blindspot.prediction import predict_sorted
from blindspot.runs import write_json
from blindspot.slots import sample_in_slots
from blindspot.static_training import LOOK_EVERY, train_static
from blindspot.study import ROOT, BaseModelSettings, Generation, Lora, Training
from blindspot.training import TrainingRun

RESULTS = ROOT / "bench" / "gpu_results.json"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PREFIX_TOKENS = 24  # that all prompts of a task start with


@dataclass(frozen=True)
class Sizes:
    """How large the model is and how much each measurement does; tokens are those of a row, padding included."""

    config: dict[str, int]
    r: int
    stacks: tuple[int, ...]
    tokens: int
    slots: int
    generated: int
    max_new_tokens: int
    evaluated: int
    evaluation_batch: int
    matrix: int
    copied: int  # bytes


FULL = Sizes(
    config={"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    | {"num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096},
    r=64, stacks=(1, 9, 18), tokens=64, slots=64, generated=512, max_new_tokens=64,
    evaluated=8192, evaluation_batch=256, matrix=8192, copied=2**32,
)  # fmt: skip
TINY = Sizes(
    config={"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    | {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128},
    r=2, stacks=(1, 2, 3), tokens=32, slots=3, generated=9, max_new_tokens=5,
    evaluated=20, evaluation_batch=8, matrix=64, copied=2**16,
)  # fmt: skip


class PlainTokenizer:
    """Stands where a tokenizer is asked for: a prompt of fixed ids, texts without a sentinel, no end of text."""

    eos_token_id = None

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": list(range(1, 9))}

    def batch_decode(self, rows: Sequence[Any], **_: Any) -> list[str]:
        """Nothing: no row stops before max_new_tokens."""
        return [""] * len(rows)


class Bench:
    """The measurements on one device; each returns the lines of the table that it gives."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        self.sizes, self.device = sizes, device
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.lora = Lora(r=sizes.r, lora_alpha=16.0, lora_dropout=0.1, target_modules=list(TARGETS))  # type: ignore[arg-type]
        self.training = Training(
            learning_rate=2.0e-5, per_device_train_batch_size=2, warmup_steps=0.03, max_grad_norm=0.3
        )
        self.shape = Shape.of(sizes.config, r=sizes.r, bytes_each=torch.finfo(self.dtype).bits // 8)
        self.numbers = np.random.default_rng(1)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def draw_rows(self, rows: int, *, tokens: int) -> list[np.ndarray]:
        """Random token ids that share their first PREFIX_TOKENS (fewer in short rows)."""
        ids = self.numbers.integers(1, self.sizes.config["vocab_size"], (rows, tokens), dtype=np.int64)
        ids[:, : min(PREFIX_TOKENS, tokens // 2)] = 1
        return list(ids)

    def build(self, name: str, **options: Any) -> Any:
        """A transformers model of the shape with random weights, made on the device."""
        import transformers

        config = transformers.LlamaConfig(**self.sizes.config, pad_token_id=0, tie_word_embeddings=False, **options)
        with torch.device(self.device):
            return getattr(transformers, name)._from_config(config, dtype=self.dtype, attn_implementation="sdpa")

    def build_base(self) -> Base:
        """Our base; its weights are in the compute dtype, as after dequantising."""
        settings = BaseModelSettings.model_validate(
            {"name": "random", "quantization": "none", "compute_dtype": str(self.dtype).removeprefix("torch.")}
            | {"max_length": self.sizes.config["max_position_embeddings"]}
        )
        model = self.build("LlamaForCausalLM").eval().requires_grad_(False)
        return Base(model=model, tokenizer=PlainTokenizer(), settings=settings, pad_token_id=0)

    def measure_reference(self) -> Figures:
        """Seconds a step of transformers + peft on NF4 weights, batch 2, without gradient checkpointing."""
        from peft import LoraConfig, get_peft_model

        plain = quantize(self.build("LlamaForSequenceClassification", num_labels=len(LABELS)), self.dtype)
        options = {"r": self.sizes.r, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": list(TARGETS)}
        model = get_peft_model(plain, LoraConfig(task_type="SEQ_CLS", **options)).train()
        parameters = [p for p in model.parameters() if p.requires_grad]
        for parameter in parameters:
            parameter.data = parameter.data.float()
        optimizer = torch.optim.AdamW(parameters, lr=2.0e-5)
        ids = torch.from_numpy(np.stack(self.draw_rows(2, tokens=self.sizes.tokens))).to(self.device)
        labels = torch.tensor([0, 1], device=self.device)

        def step() -> None:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 0.3)
            optimizer.step()
            optimizer.zero_grad()

        seconds = self.time_calls(step, calls=20, warm_up=5)
        return self.describe_step("reference step: transformers + peft, NF4, batch 2", 1, seconds)

    def time_calls(self, function: Callable[[], None], *, calls: int, warm_up: int) -> float:
        """Seconds a call."""
        for _ in range(warm_up):
            function()
        self.wait()
        started = time.perf_counter()
        for _ in range(calls):
            function()
        self.wait()
        return (time.perf_counter() - started) / calls

    def measure_stack(self, base: Base, runs: int) -> Figures:
        """Seconds a step of `runs` stacked runs with batch 2 each, after the first LOOK_EVERY, which capture."""
        steps = 4 * LOOK_EVERY
        adapter = new_adapter(base, self.lora, seed=1, head=True)
        ids = self.draw_rows(2 * steps, tokens=self.sizes.tokens)
        labels = self.numbers.integers(0, len(LABELS), len(ids))
        stack = [TrainingRun(str(k), adapter, ids, labels, seed=k) for k in range(runs)]
        plan = [[2 * step, 2 * step + 1] for step in range(steps)]
        times: dict[int, float] = {}
        options: Any = {"settings": self.training, "lora": self.lora, "task": "classification"}
        train_static(
            base,
            stack,
            [plan] * runs,
            **options,
            pooling="last_token",
            on_step=lambda step, *_: times.__setitem__(step, time.perf_counter()),
        )
        seconds = (times[steps] - times[LOOK_EVERY]) / (steps - LOOK_EVERY)
        return self.describe_step(f"our step: K = {runs}, batch 2 each", runs, seconds)

    def describe_step(self, title: str, runs: int, seconds: float) -> Figures:
        """A line for a training step: milliseconds; lower is better."""
        work = count_training(self.shape, runs=runs, rows=2, tokens=self.sizes.tokens)
        return {"title": title, "unit": "ms a step", "value": 1e3 * seconds, "per": 1e3, "work": asdict(work)}

    def measure_generation(self, base: Base) -> Figures:
        """Tokens a second in slots, after the first rows have ended (until then graphs are captured)."""
        sizes = self.sizes
        settings = Generation.model_validate(
            {"seed": 1, "examples_per_label": dict.fromkeys(LABELS, sizes.generated), "shard_size": sizes.generated}
            | {"batch_size": sizes.slots, "max_new_tokens": sizes.max_new_tokens}
            | {"temperature": 0.6, "top_p": 0.9, "top_k": 50}
        )
        seen: list[tuple[float, int]] = []
        uniforms = self.numbers.random((sizes.generated, sizes.max_new_tokens))
        note: Callable[[int, int], None] = lambda rows, _: seen.append((time.perf_counter(), rows))  # noqa: E731
        sample_in_slots(base, "", uniforms, settings, on_rows=note)
        (first, rows_before), (last, rows_after) = seen[0], seen[-1]
        rate = (rows_after - rows_before) * sizes.max_new_tokens / (last - first)
        work = count_decoding(self.shape, slots=sizes.slots, positions=8 + sizes.max_new_tokens / 2)
        return {"title": f"generation: {sizes.slots} slots", "unit": "tokens a second", "value": rate} | {
            "per": sizes.slots,
            "work": asdict(work),
        }

    def measure_evaluation(self, base: Base) -> Figures:
        """Rows a second, the shared prefix cached."""
        sizes = self.sizes
        head = torch.randn(len(LABELS), sizes.config["hidden_size"], device=self.device)
        ids = self.draw_rows(sizes.evaluated, tokens=sizes.tokens)

        def predict() -> None:
            predict_sorted(base, head, ids, batch_size=sizes.evaluation_batch)

        seconds = self.time_calls(predict, calls=1, warm_up=1)
        own = sizes.tokens - min(PREFIX_TOKENS, sizes.tokens // 2)
        work = count_evaluation(self.shape, rows=sizes.evaluation_batch, tokens=own)
        return {"title": f"evaluation: batches of {sizes.evaluation_batch}", "unit": "rows a second"} | {
            "value": sizes.evaluated / seconds,
            "per": sizes.evaluation_batch,
            "work": asdict(work),
        }


def attempt(measure: Callable[[], Figures], title: str) -> Figures:
    """A measurement, or why there is none: memory that is not there is no reason to lose the others."""
    say(title)
    try:
        return measure()
    except torch.OutOfMemoryError as error:
        return {"title": title, "value": None, "problem": str(error).splitlines()[0]}


def run_all(sizes: Sizes, device: torch.device) -> Figures:
    """Every measurement with its floor."""
    bench = Bench(sizes, device)
    rates = measure_rates(device, bench.dtype, matrix=sizes.matrix, copied=sizes.copied, wait=bench.wait)
    lines = [attempt(bench.measure_reference, "reference step")]
    gc.collect()  # peft's model refers to itself
    base = bench.build_base()
    for runs in sizes.stacks:
        lines.append(attempt(partial(bench.measure_stack, base, runs), f"our step: K = {runs}"))
    lines.append(attempt(partial(bench.measure_generation, base), "generation"))
    lines.append(attempt(partial(bench.measure_evaluation, base), "evaluation"))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU (toy sizes: no figure means anything)"
    return {
        "device": name,
        "rates": rates,
        "sizes": asdict(sizes),
        "lines": [add_floor(line, rates) for line in lines],
    } | stamp()


def add_floor(line: Figures, rates: Figures) -> Figures:
    """A line with its floor in the line's own unit, and how many times the floor's time it takes."""
    if line["value"] is None:
        return line | {"floor": None, "times_floor": None}
    seconds = Floor(**line["work"]).seconds(rates)
    is_time = line["unit"].startswith("ms")
    floor = line["per"] * seconds if is_time else line["per"] / seconds
    return line | {"floor": floor, "times_floor": line["value"] / floor if is_time else floor / line["value"]}


def render(results: Figures) -> str:
    """The Markdown table."""
    rates = results["rates"]
    rows = ["| measured | value | floor | times the floor's time |", "| --- | --- | --- | --- |"]
    for line in results["lines"]:
        if line["value"] is None:
            rows.append(f"| {line['title']} | null: {line['problem']} | | |")
        else:
            unit, times = line["unit"], f"{line['times_floor']:.1f}"
            rows.append(f"| {line['title']} | {line['value']:,.1f} {unit} | {line['floor']:,.1f} {unit} | {times} |")
    measured = f"{rates['flop_per_second'] / 1e12:.3g} TFLOP/s and {rates['bytes_per_second'] / 1e12:.3g} TB/s"
    return "\n".join([*rows, "", f"{results['device']}, measured at {measured}; torch {results['versions']['torch']}."])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="toy sizes on the CPU, to see that the program runs")
    parser.add_argument("--output", type=Path, help="results file (default: bench/gpu_results.json; none with --tiny)")
    options = parser.parse_args(arguments)
    if not options.tiny and not torch.cuda.is_available():
        print("bench.gpu: no CUDA device; run it on a machine with one, or with --tiny on the CPU", file=sys.stderr)
        return 2
    torch.manual_seed(1)
    results = run_all(TINY, torch.device("cpu")) if options.tiny else run_all(FULL, torch.device("cuda"))
    output = options.output or (None if options.tiny else RESULTS)
    if output:
        write_json(output, json.loads(json.dumps(results)))
        output.with_suffix(".md").write_text(render(results) + "\n", encoding="utf-8")
    print(render(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
