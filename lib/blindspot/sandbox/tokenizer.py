"""The sandbox's tokenizer: an ordinary `tokenizers` BPE, whose vocabulary is the words of the sandbox.

Words of the grammar, of the pretraining text and of the two templates are one token each, so that prompts are short;
anything else falls back to characters and then to bytes, and decodes to what went in. There are no merges to learn:
`ignore_merges` looks a word up whole, as Llama-3's tokenizer does.
"""

from __future__ import annotations

import re
import string
from typing import Any

from blindspot.prompts import GENERATOR_PREFIX, SENTINEL, TASK_PREFIX, TASK_SUFFIX
from blindspot.sandbox.text import CONNECTIVES, REPEATS, REPLIES, list_words
from blindspot.sandbox.words import COUNTS

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>")
SPACE = "\u2581"
_CAPITALIZED = (
    "the a an some if unless while although after because suddenly clearly certainly probably maybe perhaps "
    "yesterday today on at"
)
_OTHER = "is are same as kind of opposite more than one to"


def list_vocabulary() -> list[str]:
    """The tokens in the order of their ids: special, bytes, characters, words."""
    text = " ".join(
        [TASK_PREFIX, TASK_SUFFIX, GENERATOR_PREFIX, SENTINEL, "Premise: Hypothesis:", *REPEATS]
        + [phrase for phrases in (*CONNECTIVES.values(), *REPLIES.values()) for phrase in phrases]
    )
    words = [*list_words(), *_OTHER.split(), "entailment", "neutral", "contradiction"]
    words += [word.capitalize() for word in (*_CAPITALIZED.split(), *COUNTS)]
    words += re.findall(r"\w+|--", text)
    characters = [SPACE, *string.ascii_letters, *string.digits, *string.punctuation]
    spaced = [SPACE + mark for mark in ".,;?"]
    everything = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), *characters, *spaced]
    return list(dict.fromkeys([*everything, *(SPACE + word for word in sorted(set(words)))]))


def build_tokenizer() -> Any:
    """A PreTrainedTokenizerFast that starts each text with `<s>` and has a pad token of its own."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate(list_vocabulary())}
    backend = Tokenizer(
        models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=False, ignore_merges=True)
    )
    marks = Regex(rf"(?<=[^{SPACE}])[.,:;!?]")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="never"), pre_tokenizers.Split(marks, "isolated")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
