"""The training loop against transformers' Trainer and peft, and stacked against alone."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PAIRS
from tiny import TRAINING, largest_difference, load_tiny, make_task_run

from blindspot.models import HEAD, Base, load_adapter, merged, new_adapter, save_adapter
from blindspot.prediction import predict_logits, tokenize_pairs
from blindspot.prompts import generator_text, task_prompt
from blindspot.stacking import DropoutStream
from blindspot.study import Lora
from blindspot.training import TrainingRun, learning_rate_at, tokenize, train_adapters

LORA = Lora(
    r=4,
    lora_alpha=8.0,
    lora_dropout=0.0,
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
)
make_run = partial(make_task_run, lora=LORA)


@pytest.fixture
def base(tiny_model: Path) -> Base:
    return load_tiny(tiny_model)


def train_with_trainer(
    base: Base, folder: Path, tmp_path: Path, run: TrainingRun, *, task: str
) -> dict[str, torch.Tensor]:
    """The same run by transformers' Trainer on peft's own model."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, Trainer, TrainingArguments

    save_adapter(tmp_path / "start", run.adapter, lora=LORA, base=base)
    if task == "classification":
        plain: Any = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, dtype=torch.float32)
    else:
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, str(tmp_path / "start"), is_trainable=True)
    rows = [{"input_ids": ids.tolist()} for ids in run.token_ids]

    def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(item["input_ids"]) for item in items)
        padded = [item["input_ids"] + [base.pad_token_id] * (longest - len(item["input_ids"])) for item in items]
        batch = {
            "input_ids": torch.tensor(padded),
            "attention_mask": (torch.tensor(padded) != base.pad_token_id).long(),
        }
        if task == "classification":
            batch["labels"] = torch.tensor([item["labels"] for item in items])
        else:
            batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return batch

    if run.labels is not None:
        rows = [row | {"labels": int(label)} for row, label in zip(rows, run.labels, strict=True)]
    size = TRAINING.per_device_train_batch_size
    epochs = [run.order[: len(PAIRS)], run.order[len(PAIRS) :]]
    order = [epoch[i : i + size] for epoch in epochs for i in range(0, len(PAIRS), size)]

    class SameOrder(Trainer):
        def get_train_dataloader(self) -> Any:  # the order itself is transformers' own in both: see order_batches
            return torch.utils.data.DataLoader(rows * 2, batch_sampler=order, collate_fn=collate)  # type: ignore[arg-type]

    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=len(order),
        per_device_train_batch_size=size,
        learning_rate=TRAINING.learning_rate,
        weight_decay=TRAINING.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=TRAINING.warmup_steps,
        max_grad_norm=TRAINING.max_grad_norm,
        optim="adamw_torch",
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
        use_cpu=True,
        remove_unused_columns=False,
    )
    SameOrder(model=model, args=arguments, train_dataset=rows, data_collator=collate).train()
    model.save_pretrained(str(tmp_path / "end"))
    from safetensors.torch import load_file

    return load_file(tmp_path / "end" / "adapter_model.safetensors")


def test_training_equals_trainer(base: Base, tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(base, seed=3)
    [ours] = train_adapters(base, [run], settings=TRAINING, lora=LORA, task="classification")
    theirs = train_with_trainer(base, tiny_model, tmp_path, run, task="classification")
    assert largest_difference(ours, run.adapter) > 1e-3
    assert largest_difference(ours, theirs) < 1e-5


def test_generator_training_equals_trainer(base: Base, tiny_model: Path, tmp_path: Path) -> None:
    ids = tokenize(base, [generator_text(label, p, h) for p, h, label in PAIRS])
    run = TrainingRun(
        name="g",
        adapter=new_adapter(base, LORA, seed=1, saved_modules=("embed_tokens", "lm_head")),
        token_ids=ids,
        labels=None,
        seed=5,
    )
    [ours] = train_adapters(base, [run], settings=TRAINING, lora=LORA, task="causal_lm")
    theirs = train_with_trainer(base, tiny_model, tmp_path, run, task="causal_lm")
    assert largest_difference(ours, run.adapter) > 1e-3
    assert largest_difference(ours, theirs) < 2e-5


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("pooling", ["last_token", "as_published"])
def test_stacked_equals_alone(base: Base, dropout: float, pooling: Any) -> None:
    lora = LORA.model_copy(update={"lora_dropout": dropout})
    choices = [PAIRS, PAIRS[:5], PAIRS[3:10]]
    options: Any = {"settings": TRAINING, "lora": lora, "task": "classification", "pooling": pooling}
    together = train_adapters(base, [make_run(base, seed=s, pairs=p) for s, p in enumerate(choices)], **options)
    for seed, pairs in enumerate(choices):
        [alone] = train_adapters(base, [make_run(base, seed=seed, pairs=pairs)], **options)
        # AdamW turns the rounding of a gradient near 0 into part of a step, which is 5e-3 here
        assert largest_difference(alone, together[seed]) < 1e-4
    assert largest_difference(together[0], make_run(base, seed=0).adapter) > 1e-3


def test_base_is_as_before(base: Base) -> None:
    before = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    train_adapters(base, [make_run(base, seed=1)], settings=TRAINING, lora=LORA, task="classification")
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_round_trip_and_peft_agree(base: Base, tiny_model: Path, tmp_path: Path) -> None:
    """What is saved is read back with equal logits, by us and by peft on transformers' own classifier."""
    import pyarrow as pa
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    [adapter] = train_adapters(base, [make_run(base, seed=2)], settings=TRAINING, lora=LORA, task="classification")
    pairs = pa.table({"premise": [p for p, _, _ in PAIRS], "hypothesis": [h for _, h, _ in PAIRS]})
    ids = tokenize_pairs(base, pairs)
    logits = predict_logits(base, adapter, LORA, ids, batch_size=3)
    save_adapter(tmp_path, adapter, lora=LORA, base=base)
    np.testing.assert_array_equal(predict_logits(base, load_adapter(tmp_path), LORA, ids, batch_size=3), logits)
    theirs = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3, dtype=torch.float32), str(tmp_path)
    ).eval()
    with torch.no_grad():
        reference = torch.cat([theirs(input_ids=torch.from_numpy(row)[None]).logits for row in ids]).numpy()
    np.testing.assert_allclose(logits, reference, atol=1e-5)
    assert np.ptp(logits, axis=0).min() > 0.05


def test_batches_do_not_matter_with_last_token_and_do_as_published(base: Base) -> None:
    adapter = new_adapter(base, LORA, seed=2, head=True)
    ids = tokenize(base, [task_prompt(p, h) for p, h, _ in PAIRS])
    alone = predict_logits(base, adapter, LORA, ids, batch_size=1)
    np.testing.assert_allclose(predict_logits(base, adapter, LORA, ids, batch_size=11), alone, atol=1e-5)
    published = predict_logits(base, adapter, LORA, ids, batch_size=11, pooling="as_published")
    assert np.abs(published - alone).max() > 1e-3
    longest = max(range(len(ids)), key=lambda row: len(ids[row]))
    np.testing.assert_allclose(published[longest], alone[longest], atol=1e-5)


def test_nf4_trains_and_its_weights_are_the_dequantised_ones(tiny_model: Path) -> None:
    import bitsandbytes.functional as quantization

    plain, quantized = load_tiny(tiny_model), load_tiny(tiny_model, "nf4")
    name = "model.layers.0.mlp.up_proj.weight"
    weight = plain.model.get_parameter(name)
    expected = quantization.dequantize_4bit(*quantization.quantize_4bit(weight.data, quant_type="nf4", blocksize=64))
    torch.testing.assert_close(quantized.model.get_parameter(name).data, expected)
    assert not torch.equal(expected, weight.data)
    run = make_run(quantized, seed=3)
    [adapter] = train_adapters(quantized, [run], settings=TRAINING, lora=LORA, task="classification")
    assert run.losses[-1] < run.losses[0]
    with merged(quantized, adapter, LORA):
        assert not torch.equal(quantized.model.get_parameter(name).data, expected)
    assert torch.equal(quantized.model.get_parameter(name).data, expected)


def test_learning_rate_follows_transformers_schedule() -> None:
    from transformers import get_cosine_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=TRAINING.learning_rate)
    schedule = get_cosine_schedule_with_warmup(optimizer, 6, 20)
    for step in range(20):
        assert learning_rate_at(step, 20, TRAINING) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_dropout_keeps_its_share_and_its_mean() -> None:
    mask = DropoutStream(1, 0.1).draw((1000, 100))
    assert float((mask == 0).float().mean()) == pytest.approx(0.1, abs=0.005)
    assert float(mask.mean()) == pytest.approx(1.0, abs=0.01)
    assert torch.equal(mask, DropoutStream(1, 0.1).draw((1000, 100)))


def test_bad_runs_are_refused(base: Base) -> None:
    empty = replace(make_run(base, seed=1), token_ids=[])
    with pytest.raises(ValueError, match="no pairs"):
        train_adapters(base, [empty], settings=TRAINING, lora=LORA, task="classification")
    broken = make_run(base, seed=1)
    broken.adapter[HEAD] = torch.full_like(broken.adapter[HEAD], torch.nan)
    with pytest.raises(FloatingPointError, match="run-1"):
        train_adapters(base, [broken], settings=TRAINING, lora=LORA, task="classification")
    with pytest.raises(ValueError, match="max_length"):
        tokenize(base, ["The " * 600])
