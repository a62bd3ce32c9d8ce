"""Stages with a model: generation, nine augmentation runs of one start, evaluation of one model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from bench import reference, reference_models
from bench.measure import Figures, Race, agree_by_ks, largest_gap, require
from bench.world import World
from blindspot.data import LABELS, read_table
from blindspot.evaluation import score_predictions
from blindspot.generation import generate_shard, sample_batch
from blindspot.heuristics import lexical_overlap
from blindspot.models import load_adapter, merged
from blindspot.prediction import predict_logits, tabulate_predictions, tokenize_pairs
from blindspot.prompts import extract_pair, find_stop, generator_prompt

TEST_SPLITS = ("matched", "mismatched", "hans")


@dataclass(frozen=True)
class Written:
    """What one side generated: texts up to their stop, and how long each is."""

    label: str
    texts: list[str]
    accepted: list[bool]
    lengths: list[int]
    streams: np.ndarray | None = None


class GenerationRace:
    """Examples accepted per second; what both sides wrote is pooled over the rounds, so the test gains power."""

    def __init__(self, world: World, *, rows: int, reference_rows: int, steps: int) -> None:
        self.world, self.rows, self.reference_rows, self.steps = world, rows, reference_rows, steps
        self.model = reference_models.load_generator(world.model, world.generator)
        self.tokenizer = reference_models.load_tokenizer(world.model)
        self.adapter = load_adapter(world.generator)
        self.pools: dict[str, list[Written]] = {"reference": [], "ours": []}
        self.has_checked_greedy = False

    def race(self) -> Race[Any]:
        """The line of the table."""
        return Race(
            stage="generation",
            title="generation, examples accepted per second",
            at_least=15.0,
            aim=28.0,
            gate="same extraction on fixed token streams; greedy output identical; lengths and overlap rate agree "
            "(KS, p > 0.01)",
            reference=self.run_reference,
            ours=self.run_ours,
            check=self.check,
            notes={
                "decoding_steps": self.steps,
                "rows": {"reference": self.reference_rows, "ours": self.rows},
                "labels": "one label a round, in turn",
            },
        )

    def run_reference(self, number: int) -> tuple[float, Written]:
        """One batch of the published size, all steps, then the expression over whole texts."""
        label = LABELS[number % len(LABELS)]
        settings = self.world.study.generation
        torch.manual_seed(settings.seed + number)
        streams = reference_models.generate(
            self.model,
            self.tokenizer,
            reference.generator_prompt(label),
            rows=self.reference_rows,
            steps=self.steps,
            sampling={"temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k},
        )
        texts = [self.tokenizer.decode(row, skip_special_tokens=True) for row in streams]
        accepted = [reference.extract(text, label=label) is not None for text in texts]
        sizes = [self.measure_length(text) for text in texts]
        return sum(accepted), Written(label, texts, accepted, sizes, streams)

    def measure_length(self, text: str) -> int:
        """Length in characters up to the stop: the same measure for both sides, whatever the tokens."""
        return find_stop(text) or len(text)

    def run_ours(self, number: int) -> tuple[float, Written]:
        """One shard's worth, by the library."""
        label = LABELS[number % len(LABELS)]
        study = self.world.study
        changes = {"examples_per_label": dict.fromkeys(LABELS, 10**6), "shard_size": self.rows}
        settings = study.generation.model_copy(update=changes)
        with merged(self.world.base, self.adapter, study.lora):
            table = generate_shard(self.world.base, label=label, shard=number // len(LABELS), settings=settings)
        accepted, texts = table["accepted"].to_pylist(), table["raw_text"].to_pylist()
        return sum(accepted), Written(label, texts, accepted, [self.measure_length(text) for text in texts])

    def check(self, theirs: Written, ours: Written) -> Figures:
        """The gate, on all that was written so far."""
        self.pools["reference"].append(theirs)
        self.pools["ours"].append(ours)
        figures = {"streams": self.check_extraction(theirs)}
        if not self.has_checked_greedy:
            figures["greedy_prompts"] = self.check_greedy()
            self.has_checked_greedy = True
        lengths = {side: self.gather(side, "length") for side in self.pools}
        overlap = {side: self.gather(side, "overlap") for side in self.pools}
        return figures | {
            "lengths_ks_p": agree_by_ks(lengths["reference"], lengths["ours"], what="lengths"),
            "overlap_ks_p": agree_by_ks(overlap["reference"], overlap["ours"], what="overlap rates"),
            "accepted_share": {side: float(self.gather(side, "accepted").mean()) for side in self.pools},
            "overlap_rate": {side: float(values.mean()) for side, values in overlap.items()},
        }

    def check_extraction(self, theirs: Written) -> int:
        """On the reference's whole token streams: our stop and extraction give the expression's pairs."""
        for text in theirs.texts:
            found = extract_pair(text[: find_stop(text)], label=theirs.label)
            pair = (found.premise, found.hypothesis) if found.accepted else None
            require(pair == reference.extract(text, label=theirs.label), f"another extraction from {text[:200]!r}")
        return len(theirs.texts)

    def check_greedy(self, *, prompts: int = 12) -> int:
        """The most likely continuation of some prompts, token by token, up to where ours stops."""
        study, base = self.world.study, self.world.base
        pairs = self.world.tables["held_out"].slice(0, prompts).to_pylist()
        texts = [generator_prompt(label) for label in LABELS]
        texts += [f"{generator_prompt(row['gold_label'])}. Premise: {row['premise']} Hypothesis:" for row in pairs]
        limit = study.generation.max_new_tokens
        with merged(base, self.adapter, study.lora):
            ours = [sample_batch(base, text, np.zeros((1, limit)), study.generation)[0] for text in texts]
        for text, tokens in zip(texts, ours, strict=True):
            whole = reference_models.generate(self.model, self.tokenizer, text, rows=1, steps=limit, sampling=None)[0]
            require(bool((whole[: len(tokens)] == tokens).all()), f"greedy output differs after {text[-80:]!r}")
        return len(texts)

    def gather(self, side: str, what: str) -> np.ndarray:
        """One measure of every accepted example of one side (of every row, for `accepted`)."""
        parts: list[np.ndarray] = []
        for written in self.pools[side]:
            kept = np.array(written.accepted, dtype=bool)
            if what == "accepted":
                parts.append(kept)
            elif what == "length":
                parts.append(np.array(written.lengths)[kept])
            else:
                parts.append(find_overlap(written, kept))
        return np.concatenate(parts)


def find_overlap(written: Written, kept: np.ndarray) -> np.ndarray:
    """Which accepted examples have lexical overlap, by the published detector."""
    rows = [written.texts[index] for index in np.flatnonzero(kept)]
    pairs = [reference.extract(text, label=written.label) for text in rows]
    found = [pair for pair in pairs if pair is not None]
    return lexical_overlap([p for p, _ in found], [h for _, h in found], detector="published")


def race_evaluation(world: World) -> Race[Any]:
    """Every accuracy of one model: seven passes, or one over the union. Models are loaded before on both sides."""
    model = reference_models.load_task_model(world.model, world.start)
    tokenizer = reference_models.load_tokenizer(world.model)
    return Race(
        stage="evaluation",
        title="evaluation of one model",
        at_least=3.0,
        aim=5.0,
        gate="logits within 1e-5, accuracies identical",
        reference=lambda _: (1, reference_models.evaluate(model, tokenizer, world.data)),
        ours=lambda _: (1, evaluate_once(world)),
        check=check_evaluation,
        notes={"rows": {name: len(world.tables[name]) for name in TEST_SPLITS}, "reference": "seven passes"},
    )


def evaluate_once(world: World) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """What 80_evaluate does for one model, the tests' tokenisation included although its models share it."""
    study = world.study
    pairs = pa.concat_tables([read_table(world.folder / "store" / f"{split}.parquet") for split in TEST_SPLITS])
    tokens = tokenize_pairs(world.base, pairs)
    options: dict[str, Any] = {"batch_size": study.evaluation.batch_size, "pooling": study.task_model.pooling}
    logits = predict_logits(world.base, load_adapter(world.start), study.lora, tokens, **options)
    table = tabulate_predictions(logits, pairs, starting_size=0, training_set="none", seed=1)
    scores = score_predictions(table, label_collapse=study.evaluation.label_collapse)
    split = pairs["split"].to_numpy(zero_copy_only=False)
    by_split = {name: logits[split == name] for name in TEST_SPLITS}
    return dict(zip(scores["test_set"], scores["accuracy"], strict=True)), by_split


def check_evaluation(theirs: Any, ours: Any) -> Figures:
    """The same accuracies, and logits within 1e-5 (absolute, or relative to a logit over 1)."""
    gaps = [largest_gap(theirs[1][name], ours[1][name], what=f"logits on {name}") for name in TEST_SPLITS]
    for name, accuracy in theirs[0].items():
        require(ours[0][name] == accuracy, f"accuracy on {name}: {accuracy} and {ours[0][name]}")
    return {"largest_difference": max(gaps), "accuracies": theirs[0]}
