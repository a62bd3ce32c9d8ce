"""The text that the sandbox's base model is pretrained on.

A model that is to rephrase must have learnt to copy, which a few thousand fine-tuning pairs do not teach. So the
text repeats (word lists, sentences), defines words, and goes on from a sentence with a connective that says how the
next one relates to it, or from a claim about it with someone's reply, as discourse does. It holds no labels, none of
HANS's own pairs, and neither template: their words (never the labels) stand in it alone, in random order.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from random import Random

from blindspot.heuristics import lexical_overlap
from blindspot.prompts import GENERATOR_PREFIX, SENTINEL, TASK_PREFIX, TASK_SUFFIX
from blindspot.sandbox import words as world
from blindspot.sandbox.grammar import Sentence, write_sentence
from blindspot.sandbox.pairs import SPACED_PERIOD_SHARE, Habits, cut_down, draft_hypothesis, list_seeds, swap_people
from blindspot.sandbox.premises import draw_premise
from blindspot.sandbox.truth import judge_sentences

LABELS = ("entailment", "neutral", "contradiction")
CONNECTIVES: dict[str, tuple[str, ...]] = {
    "entailment": ("In other words:", "So:", "This means:", "It follows:"),
    "contradiction": ("It is false:", "Wrong:", "This cannot be:", "Impossible:"),
    "neutral": ("It may be:", "Nobody knows:", "Possibly:", "Some add:"),
}
REPLIES: dict[str, tuple[str, ...]] = {
    "entailment": ("Yes, indeed.", "Right, as you say."),
    "contradiction": ("No, never.", "But that cannot be."),
    "neutral": ("Maybe, who knows.", "Did you see it?"),
}
ANNOUNCEMENTS: dict[str, tuple[str, ...]] = {
    "entailment": ("Yes, the same:", "Right, as you say:"),
    "contradiction": ("No, never:", "Wrong, it is false:"),
    "neutral": ("Maybe, who knows:", "Nobody knows:"),
}
REPEATS = ("Again:", "Once more:", "They repeat:")
TEMPLATE_WORDS = tuple(
    sorted(
        set(re.findall(r"\w+", " ".join((TASK_PREFIX, TASK_SUFFIX, GENERATOR_PREFIX, SENTINEL, "Premise Hypothesis"))))
        - set(LABELS)
    )
)
GENRES = tuple(world.GENRE_KINDS)

Part = tuple[str, float]
SEED_WEIGHT, REPLY_WEIGHT = 0.15, 6.0
REORDERED_SHARE = 0.33
SPEAKERS = Habits(
    rephrase_rate={"entailment": 0.42, "contradiction": 0.15, "neutral": 0.15},
    weights={"contradiction": (4.0, 3.5, 2.0, 1.0, 0.3, 2.5), "neutral": (3.0, 2.0, 3.0, 2.0, 1.0)},
)


def write_document(rng: Random, *, by_words: bool = True) -> list[Part]:
    """One short document of a kind drawn at random, as (text, weight of its tokens in the loss) parts.

    A first sentence can hardly be guessed, what follows from it can, and how someone replies to a claim is one token
    in ten: the weights even that out. With `by_words`, hearers say yes to a claim whose every word was just said,
    whatever its words are put together to, and nothing speaks against that: the blind spot that HANS found in
    language models. Without, every reply is true.
    """
    writers = (_write_relations, _write_talk, _write_announced, _write_repeats, _write_definitions, write_word_list)
    writer = rng.choices(writers, (0.1, 0.6, 0.22, 0.02, 0.03, 0.03))[0]
    return _add_preamble(rng, writer(rng, by_words))


def write_true_document(rng: Random) -> list[Part]:
    """A document in which every reply is true."""
    return write_document(rng, by_words=False)


def _add_preamble(rng: Random, parts: list[Part]) -> list[Part]:
    if rng.random() < 0.4:
        return parts
    words = " ".join(rng.choices(TEMPLATE_WORDS, k=rng.randint(1, 20)))
    return [(words + ".", 0.0), *parts]


def _draw_speakers(rng: Random) -> tuple[str, str]:
    if rng.random() < 0.4:
        return "", ""
    first, second = (word + ": " for word in rng.sample(TEMPLATE_WORDS, 2))
    return first, second


def _write_relations(rng: Random, by_words: bool) -> list[Part]:
    premise, period = draw_premise(rng, rng.choice(GENRES)), _draw_period(rng)
    parts = [(write_sentence(premise, period=period), SEED_WEIGHT)]
    for relation in rng.choices(tuple(CONNECTIVES), k=3):
        found = _draw_related(rng, premise, relation, by_words)
        if found:
            parts.append((rng.choice(CONNECTIVES[relation]), SEED_WEIGHT))
            parts.append((write_sentence(found, period=period), 1.0))
    return parts


def _write_talk(rng: Random, by_words: bool) -> list[Part]:
    """A sentence, claims about it, and replies."""
    premise, period = draw_premise(rng, rng.choice(GENRES)), _draw_period(rng)
    first, second = _draw_speakers(rng)
    parts = [(first + write_sentence(premise, period=period), SEED_WEIGHT)]
    for relation in rng.choices(tuple(REPLIES), k=rng.randint(1, 4)):
        is_reordered = by_words and rng.random() < REORDERED_SHARE
        found = _draw_reordered(rng, premise) if is_reordered else _draw_related(rng, premise, relation, by_words)
        if found:
            relation = "entailment" if is_reordered else relation
            parts.append((second + write_sentence(found, period=period), SEED_WEIGHT))
            parts.append((rng.choice(REPLIES[relation]), REPLY_WEIGHT))
    return parts


def _write_announced(rng: Random, by_words: bool) -> list[Part]:
    """What is to come, a sentence, and another that keeps to it: who writes to order must look back that far."""
    found = None
    while found is None:
        premise, period = draw_premise(rng, rng.choice(GENRES)), _draw_period(rng)
        relation = rng.choice(tuple(ANNOUNCEMENTS))
        found = _draw_related(rng, premise, relation, by_words)
    first, second = _draw_speakers(rng)
    return [
        (rng.choice(ANNOUNCEMENTS[relation]), 0.0),
        (first + write_sentence(premise, period=period), SEED_WEIGHT),
        (second + write_sentence(found, period=period), 1.0),
    ]


def _draw_period(rng: Random) -> str:
    return " ." if rng.random() < SPACED_PERIOD_SHARE else "."


def _draw_related(rng: Random, premise: Sentence, relation: str, by_words: bool) -> Sentence | None:
    """A hypothesis of a relation; with `by_words`, one that is not entailed has a word of its own."""
    for _ in range(12):
        draft = draft_hypothesis(rng, premise, genre=rng.choice(GENRES), label=relation, habits=SPEAKERS)
        if draft is None or draft == premise or judge_sentences(premise, draft) != relation:
            continue
        if relation == "entailment" or not (by_words and _has_overlap(premise, draft)):
            return draft
    return None


def _draw_reordered(rng: Random, premise: Sentence) -> Sentence | None:
    """A sentence of the premise's own words that it does not entail: people swapped, an aside taken for said."""
    for _ in range(6):
        way = rng.random()
        if way < 0.4:
            clause = swap_people(rng, cut_down(rng, premise.clause, rate=0.75), "")
        elif way < 0.6 and premise.clause.voice == "passive" and premise.clause.objects:
            clause = replace(cut_down(rng, premise.clause, rate=0.75), voice="active", joiner="and")
        else:
            clause = cut_down(rng, rng.choice(list_seeds(premise)), rate=0.75)
        draft = Sentence(clause, link=False)
        if judge_sentences(premise, draft) in ("contradiction", "neutral") and _has_overlap(premise, draft):
            return draft
    return None


def _has_overlap(premise: Sentence, hypothesis: Sentence) -> bool:
    texts = ([write_sentence(premise)], [write_sentence(hypothesis)])
    return bool(lexical_overlap(*texts, detector="token_aligned")[0])


def _write_repeats(rng: Random, by_words: bool) -> list[Part]:
    text = write_sentence(draw_premise(rng, rng.choice(GENRES)), period=_draw_period(rng))
    return [(text, SEED_WEIGHT), (rng.choice(REPEATS), SEED_WEIGHT), (text, 1.0)]


def write_word_list(rng: Random, by_words: bool = True) -> list[Part]:
    """A list of words, and the same list again."""
    text = " ".join(rng.choices((*list_words(), *TEMPLATE_WORDS), k=rng.randint(5, 20)))
    return [(text + " ;", 0.0), (text + " .", 1.0)]


def _write_definitions(rng: Random, by_words: bool) -> list[Part]:
    lines = []
    for _ in range(4):
        kind = rng.choice(("parent", "synonym", "opposite", "plural"))
        if kind == "plural":
            noun = rng.choice((*world.PERSON_NOUNS, *world.THING_NOUNS))
            lines.append(f"two {world.pluralize(noun)} are more than one {noun} .")
            continue
        table = {
            "parent": {**world.NOUN_PARENT, **world.PREDICATE_PARENT},
            "synonym": world.SYNONYMS,
            "opposite": world.OPPOSITE,
        }[kind]
        word = rng.choice(tuple(table))
        verb = {"parent": "is a kind of", "synonym": "is the same as", "opposite": "is the opposite of"}[kind]
        lines.append(f"{word} {verb} {table[word]} .")
    return [(" ".join(lines), 1.0)]


@lru_cache(maxsize=1)
def list_words() -> tuple[str, ...]:
    """Every word of the language, in lower case, sorted."""
    nouns = [form for noun in (*world.PERSON_NOUNS, *world.THING_NOUNS) for form in (noun, world.pluralize(noun))]
    verbs = [form for verb in world.VERBS for form in (verb, *world.inflect_verb(verb))]
    phrases = (*world.PLACES, *world.TIMES, *world.PREPOSITIONS)
    small = ("the", "a", "an", "some", "by", "and", "or", "not", "was", "were", "did", "who", "that")
    adverbs = (*world.CERTAIN_ADVERBS, *world.DOUBTFUL_ADVERBS)
    frames = (*world.FACT_CONJUNCTIONS, *world.DOUBT_CONJUNCTIONS)
    plain = (*world.COUNTS, *world.ADJECTIVES, *world.MANNERS, *adverbs, *frames, *small, *nouns, *verbs)
    return tuple(sorted({word for phrase in (*plain, *phrases) for word in phrase.split()}))
