"""The text that the sandbox's base model is pretrained on.

A model that is to rephrase must have learnt to copy, which a few thousand fine-tuning pairs do not teach. So the
text repeats (word lists, sentences), defines words, and goes on from a sentence with a connective that says how the
next one relates to it, as discourse does. It holds no labels, no templates, and no HANS-like pairs.
"""

from __future__ import annotations

from random import Random

from blindspot import sandbox_words as world
from blindspot.sandbox_grammar import Sentence, write_sentence
from blindspot.sandbox_pairs import draft_hypothesis
from blindspot.sandbox_premises import draw_premise
from blindspot.sandbox_truth import judge_sentences

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
REPEATS = ("Again:", "Once more:", "They repeat:")
GENRES = tuple(world.GENRE_KINDS)


def write_document(rng: Random) -> str:
    """One short document of a kind drawn at random."""
    writers = (_write_relations, _write_talk, _write_repeats, _write_word_list, _write_definitions)
    return rng.choices(writers, (0.55, 0.2, 0.08, 0.1, 0.07))[0](rng)


def _write_relations(rng: Random) -> str:
    premise = draw_premise(rng, rng.choice(GENRES))
    period = " ." if rng.random() < 0.35 else "."
    parts = [write_sentence(premise, period=period)]
    for _ in range(3):
        relation = rng.choice(tuple(CONNECTIVES))
        found = _draw_related(rng, premise, relation)
        if found:
            parts += [rng.choice(CONNECTIVES[relation]), write_sentence(found, period=period)]
    return " ".join(parts)


def _write_talk(rng: Random) -> str:
    premise = draw_premise(rng, rng.choice(GENRES))
    period = " ." if rng.random() < 0.35 else "."
    parts = [write_sentence(premise, period=period)]
    for _ in range(2):
        relation = rng.choice(tuple(REPLIES))
        found = _draw_related(rng, premise, relation)
        if found:
            parts += [write_sentence(found, period=period), rng.choice(REPLIES[relation])]
    return " ".join(parts)


def _draw_related(rng: Random, premise: Sentence, relation: str) -> Sentence | None:
    for _ in range(6):
        draft = draft_hypothesis(rng, premise, genre=rng.choice(GENRES), label=relation)
        if draft is not None and judge_sentences(premise, draft) == relation and draft != premise:
            return draft
    return None


def _write_repeats(rng: Random) -> str:
    text = write_sentence(draw_premise(rng, rng.choice(GENRES)))
    return f"{text} {rng.choice(REPEATS)} {text}"


def _write_word_list(rng: Random) -> str:
    words = rng.choices(list_words(), k=rng.randint(4, 16))
    return " ".join([*words, ";", *words, "."])


def _write_definitions(rng: Random) -> str:
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
    return " ".join(lines)


def list_words() -> list[str]:
    """Every word of the language, in lower case, sorted."""
    nouns = [form for noun in (*world.PERSON_NOUNS, *world.THING_NOUNS) for form in (noun, world.pluralize(noun))]
    verbs = [form for verb in world.VERBS for form in (verb, *world.inflect_verb(verb))]
    phrases = (*world.PLACES, *world.TIMES, *world.PREPOSITIONS)
    small = ("the", "a", "an", "some", "by", "and", "or", "not", "was", "were", "did", "who", "that")
    adverbs = (*world.CERTAIN_ADVERBS, *world.DOUBTFUL_ADVERBS)
    frames = (*world.FACT_CONJUNCTIONS, *world.DOUBT_CONJUNCTIONS)
    plain = (*world.COUNTS, *world.ADJECTIVES, *world.MANNERS, *adverbs, *frames, *small, *nouns, *verbs)
    return sorted({word for phrase in (*plain, *phrases) for word in phrase.split()})
