"""A randomly initialised Llama with a tokenizer for real English: a stand-in for Llama-2 that needs no hub.

With it a study of real text runs end to end on a laptop, to see that it does. Its results mean nothing: what it knows,
it has learnt from the study's own pairs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from blindspot.data import LABELS, MULTINLI_FILES
from blindspot.prompts import generator_text, task_prompt
from blindspot.readers import read_multinli

VOCABULARY, MAX_LENGTH, TEXTS = 2000, 2048, 2000
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")


def write_random_llama(
    folder: Path, *, data: Path, seed: int, layers: int = 2, width: int = 128, vocabulary: int = VOCABULARY
) -> Path:
    """Write a model folder: random weights, and a byte-level BPE learnt on the training pairs of a data folder.

    data: a folder with the public files. As with Llama-2 there is no token for padding. Raises FileNotFoundError
    where the training file is missing, ValueError for a width that four heads cannot share, FileExistsError where
    the folder holds something already; nothing is left half-written.
    """
    if width % 8:
        raise ValueError(f"width is {width}; expected a multiple of 8, which 4 heads can share")
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; delete it, or name another folder")
    pairs, _ = read_multinli(data / MULTINLI_FILES["train"], split="train")
    pairs = pairs.slice(0, TEXTS)  # more of them make the tokenizer no better
    both = list(zip(pairs["premise"].to_pylist(), pairs["hypothesis"].to_pylist(), strict=True))
    texts = [task_prompt(*pair) for pair in both] + [
        generator_text(LABELS[row % len(LABELS)], *pair) for row, pair in enumerate(both)
    ]
    tokenizer = train_tokenizer(texts, vocabulary=vocabulary)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        new_llama(len(tokenizer), layers=layers, width=width, seed=seed).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def train_tokenizer(texts: Iterable[str], *, vocabulary: int) -> Any:
    """A byte-level BPE: any text goes in and comes out as it was; each text begins with `<s>`, as for Llama."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", SPECIAL_TOKENS.index("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_LENGTH,
    )


def new_llama(vocabulary: int, *, layers: int, width: int, seed: int) -> Any:
    """A LlamaForCausalLM in fp32 with four heads and Llama-2's proportions; the two embeddings are untied."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=-(-8 * width // 3 // 64) * 64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=False,
        bos_token_id=SPECIAL_TOKENS.index("<s>"),
        eos_token_id=SPECIAL_TOKENS.index("</s>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
