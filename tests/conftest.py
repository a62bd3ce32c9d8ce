"""Fixtures: a tiny Llama with a tokenizer of its own, and where the real text is."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data" / "mnli-resplit"

PAIRS = [
    ("The lawyer saw the old doctor near the river.", "The lawyer saw the doctor.", "entailment"),
    ("The students ran.", "The students did not run at all that day.", "contradiction"),
    ("A happy dog sleeps in the big garden today.", "A dog sleeps because it is tired.", "neutral"),
    ("The actor praised the judge and the bakers who live in the town.", "The judge praised the actor.", "neutral"),
    ("Some people walk.", "People walk.", "entailment"),
    ("No bird sings in the morning.", "A bird sings in the morning.", "contradiction"),
    ("The manager called the three waiters.", "The manager called some waiters.", "entailment"),
    ("The child who won the race smiled at the tall teacher.", "The teacher won the race.", "contradiction"),
    ("The red car stopped.", "The car stopped at the station.", "neutral"),
    ("The king and the queen left the hall.", "The queen left the hall.", "entailment"),
    ("All of the cats were asleep.", "The cats were awake.", "contradiction"),
]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real MultiNLI and HANS text in the public form."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data/mnli-resplit beside the project")
    return SHARED


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a 2-layer Llama of width 32, random but with weights large enough to tell rows apart."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from blindspot.prompts import generator_text, task_prompt

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    texts = [task_prompt(p, h) for p, h, _ in PAIRS] + [generator_text(label, p, h) for p, h, label in PAIRS]
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>", "<pad>"])
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
        tie_word_embeddings=False,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
