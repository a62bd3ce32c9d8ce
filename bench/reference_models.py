"""The published procedure, model part: transformers' and peft's own classes, one adapter and one row at a time.

Rows go through the tokenizer singly; generation makes all its decoding steps, whatever has ended; evaluation goes
over each test set by itself, in file order; training is `Trainer` with validation (once, at the end of the epoch: the
least that one can validate). Adapters stay beside the base, as peft runs them. All of it in the study's own precision
and on the study's own settings, so that the results can be held against ours.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import reference
from blindspot.data import HANS_FILES, MULTINLI_FILES

LABELS = reference.LABELS
DECODING_STEPS = 512
GENERATION_BATCH = 64
EVALUATION_BATCH = 32


def load_tokenizer(folder: Path) -> Any:
    """The base's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def load_task_model(base: Path, adapter: Path, *, is_trainable: bool = False) -> Any:
    """T: base, peft's adapter beside it, and the classification head."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(LABELS), dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, str(adapter), is_trainable=is_trainable)
    return model if is_trainable else model.eval()


def load_generator(base: Path, adapter: Path, *, is_trainable: bool = False) -> Any:
    """G: base, peft's adapter beside it, its own embeddings and head."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, str(adapter), is_trainable=is_trainable)
    return model if is_trainable else model.eval()


@torch.no_grad()
def generate(
    model: Any, tokenizer: Any, prompt: str, *, rows: int, steps: int, sampling: dict[str, Any] | None
) -> np.ndarray:
    """Token ids [rows, prompt + steps] of one batch: every row makes every step. sampling None is greedy."""
    inputs = tokenizer([prompt] * rows, return_tensors="pt")
    from transformers import GenerationConfig

    chosen = {"do_sample": True, **sampling} if sampling else {"do_sample": False}
    settings = GenerationConfig(
        max_new_tokens=steps, eos_token_id=None, pad_token_id=tokenizer.pad_token_id, use_cache=True, **chosen
    )
    return model.generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], generation_config=settings
    ).numpy()


def read_tests(data: Path) -> dict[str, list[dict[str, Any]]]:
    """The files that the test sets come from, as read by one pass: rows with premise, hypothesis, label, cell."""
    found = {}
    for name in ("matched", "mismatched"):
        rows = reference.drop_repeated(reference.read_rows(data / MULTINLI_FILES[name]))
        found[name] = [
            {"premise": row["sentence1"], "hypothesis": row["sentence2"], "label": row["gold_label"]} for row in rows
        ]
    with (data / HANS_FILES[0]).open(encoding="utf-8") as lines:
        header = next(lines).rstrip("\n").split("\t")
        rows = [dict(zip(header, line.rstrip("\n").split("\t"), strict=True)) for line in lines]
    found["hans"] = [
        {
            "premise": row["sentence1"],
            "hypothesis": row["sentence2"],
            "label": row["gold_label"],
            "heuristic": row["heuristic"],
        }
        for row in rows
    ]
    return found


# The seven passes of the published evaluation: name, the file it reads, which of its rows, and whether two labels.
PASSES: tuple[tuple[str, str, Callable[[dict[str, Any]], bool], bool], ...] = (
    ("matched", "matched", lambda row: True, False),
    ("mismatched", "mismatched", lambda row: True, False),
    ("matched_two_label", "matched", lambda row: True, True),
    ("mismatched_two_label", "mismatched", lambda row: True, True),
    ("hans", "hans", lambda row: True, True),
    ("hans_lexical_overlap", "hans", lambda row: row["heuristic"] == "lexical_overlap", True),
    (
        "hans_blind_spot",
        "hans",
        lambda row: row["heuristic"] == "lexical_overlap" and row["label"] == "non-entailment",
        True,
    ),
)


def evaluate(model: Any, tokenizer: Any, data: Path) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Accuracy of each pass, and the logits of each: the files read, and the rows predicted, anew for each."""
    accuracies, logits = {}, {}
    for name, file, belongs, two_labels in PASSES:
        rows = [row for row in read_tests(data)[file] if belongs(row)]
        logits[name] = predict(model, tokenizer, [reference.task_prompt(r["premise"], r["hypothesis"]) for r in rows])
        predicted = [LABELS[column] for column in logits[name].argmax(axis=1)]
        right = 0
        for label, row in zip(predicted, rows, strict=True):
            right += collapse(label, two_labels) == collapse(row["label"], two_labels)
        accuracies[name] = right / len(rows)
    return accuracies, logits


def collapse(label: str, two_labels: bool) -> str:
    """Neutral and contradiction are both non-entailment where there are two labels."""
    return label if not two_labels or label == "entailment" else "non-entailment"


@torch.no_grad()
def predict(model: Any, tokenizer: Any, prompts: Sequence[str]) -> np.ndarray:
    """Logits [rows, 3], in file order, in batches padded to their longest."""
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    parts = []
    for start in range(0, len(ids), EVALUATION_BATCH):
        batch = tokenizer.pad({"input_ids": ids[start : start + EVALUATION_BATCH]}, return_tensors="pt")
        parts.append(model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.numpy())
    return np.concatenate(parts)


def encode(tokenizer: Any, examples: Sequence[reference.Example]) -> list[dict[str, Any]]:
    """T's training rows, tokenised one at a time."""
    return [
        {"input_ids": tokenizer(reference.task_prompt(p, h))["input_ids"], "labels": LABELS.index(label)}
        for p, h, label in examples
    ]


def encode_texts(tokenizer: Any, examples: Sequence[reference.Example]) -> list[dict[str, Any]]:
    """G's training rows, tokenised one at a time."""
    return [{"input_ids": tokenizer(reference.generator_text(label, p, h))["input_ids"]} for p, h, label in examples]


def train(
    model: Any,
    tokenizer: Any,
    rows: list[dict[str, Any]],
    *,
    validation: list[dict[str, Any]],
    settings: Any,
    seed: int,
    folder: Path,
    is_causal: bool = False,
) -> None:
    """One run of transformers' Trainer with validation at the end, saved by peft into `folder`."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    with tempfile.TemporaryDirectory(prefix="blindspot-bench-") as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            seed=seed,
            per_device_eval_batch_size=EVALUATION_BATCH,
            eval_strategy="epoch",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            optim="adamw_torch",
            use_cpu=True,
            remove_unused_columns=False,
            **json.loads(settings.model_dump_json()),
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            eval_dataset=validation,
            data_collator=lambda items: pad_items(tokenizer, items, is_causal=is_causal),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.save_pretrained(str(folder))


def pad_items(tokenizer: Any, items: list[dict[str, Any]], *, is_causal: bool) -> dict[str, torch.Tensor]:
    """A batch padded to its longest row."""
    padded = tokenizer.pad({"input_ids": [item["input_ids"] for item in items]}, return_tensors="pt")
    batch = {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]}
    if is_causal:
        return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}
    return batch | {"labels": torch.tensor([item["labels"] for item in items])}
