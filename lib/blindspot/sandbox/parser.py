"""From text back to the sandbox's sentences, so that the truth of any pair can be decided, a generated one too.

A backtracking parser: each `_read_*` yields every (thing, next position) that it can find at a position, in the
order in which readings are preferred. A belief without `that` comes before a participle on its object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from blindspot.sandbox import words as world
from blindspot.sandbox.grammar import Clause, Phrase, Relative, Sentence

Words = tuple[str, ...]
_ADJUNCTS = tuple(
    (field, tuple(part.lower().split()), part)
    for field, parts in (("manner", world.MANNERS), ("place", world.PLACES), ("time", world.TIMES))
    for part in parts
)
_PREPOSITIONS = tuple((tuple(part.split()), part) for part in world.PREPOSITIONS)


@lru_cache(maxsize=100_000)
def parse_sentence(text: str) -> Sentence | None:
    """The preferred reading of a sentence, or None when it is not in the sandbox's language.

    Capitals, the final period and the spaces around punctuation do not matter.
    """
    words = tuple(re.sub(r"\s*\.\s*$", "", text.lower()).replace(",", " , ").split())
    for sentence, at in _read_sentence(words):
        if at == len(words):
            return sentence
    return None


def _read_sentence(words: Words) -> Iterator[tuple[Sentence, int]]:
    first = words[0] if words else ""
    if first in (*world.CERTAIN_ADVERBS, *world.DOUBTFUL_ADVERBS):
        yield from ((Sentence(clause, "adverb", first), at) for clause, at in _read_clause(words, 1))
    elif first in (*world.FACT_CONJUNCTIONS, *world.DOUBT_CONJUNCTIONS):
        yield from _read_conjunction(words)
    elif fronted := _match_adjunct(words, 0, "time"):
        start = _skip_comma(words, fronted[1])
        for clause, at in _read_clause(words, start):
            if not clause.time:
                timed = Clause(**{**vars(clause), "time": fronted[0]})
                yield Sentence(timed, "time", link=False), at
    else:
        yield from _read_plain(words)


def _read_plain(words: Words) -> Iterator[tuple[Sentence, int]]:
    yield from _read_attitude(words)
    for clause, at in _read_clause(words, 0):
        if at == len(words):
            yield Sentence(clause, link=False), at
            continue
        after = _skip_comma(words, at)
        if after < len(words) and words[after] in ("and", "or"):
            for second, end in _read_clause(words, after + 1):
                yield Sentence(clause, "pair", words[after], second=second, link=after > at), end


def _read_attitude(words: Words) -> Iterator[tuple[Sentence, int]]:
    for holder, at in _read_phrase(words, 0):
        verb = world.PAST.get(words[at], "") if at < len(words) else ""
        has_that = words[at + 1 : at + 2] == ("that",)
        allowed = (*world.BELIEF_VERBS, *world.KNOWLEDGE_VERBS) if has_that else world.BARE_BELIEF_VERBS
        if verb in allowed:
            for clause, end in _read_clause(words, at + 1 + has_that):
                yield Sentence(clause, "attitude", verb, holder=holder, link=has_that), end


def _read_conjunction(words: Words) -> Iterator[tuple[Sentence, int]]:
    for second, at in _read_clause(words, 1):
        after = _skip_comma(words, at)
        for clause, end in _read_clause(words, after):
            yield Sentence(clause, "conjunction", words[0], second=second, link=after > at), end


def _skip_comma(words: Words, at: int) -> int:
    return at + 1 if words[at : at + 1] == (",",) else at


def _read_clause(words: Words, at: int) -> Iterator[tuple[Clause, int]]:
    for subjects, joiner, after in _read_phrases(words, at, can_reduce=True):
        if after >= len(words):
            continue
        if words[after] in ("was", "were"):
            yield from _read_be(words, after + 1, subjects, joiner)
        elif words[after : after + 2] == ("did", "not"):
            verb = words[after + 2] if after + 2 < len(words) else ""
            if verb in world.VERBS:
                yield from _read_active(words, after + 3, subjects, joiner, verb, True)
        elif words[after] in world.PAST:
            yield from _read_active(words, after + 1, subjects, joiner, world.PAST[words[after]], False)


def _read_active(
    words: Words, at: int, subjects: tuple[Phrase, ...], joiner: str, verb: str, negated: bool
) -> Iterator[tuple[Clause, int]]:
    base = Clause(subjects, verb, negated=negated, joiner=joiner)
    if verb in world.TRANSITIVE_VERBS:
        for objects, object_joiner, after in _read_phrases(words, at, can_reduce=True):
            joined = object_joiner if len(objects) > 1 else joiner
            filled = Clause(**{**vars(base), "objects": objects, "joiner": joined})
            yield from _read_adjuncts(words, after, filled)
    if verb in world.INTRANSITIVE_VERBS or verb in world.OBJECT_OPTIONAL:
        yield from _read_adjuncts(words, at, base)


def _read_be(
    words: Words, at: int, subjects: tuple[Phrase, ...], joiner: str
) -> Iterator[tuple[Clause, int]]:
    negated = words[at : at + 1] == ("not",)
    at += negated
    word = words[at] if at < len(words) else ""
    if word in world.ADJECTIVES:
        yield from _read_adjuncts(
            words, at + 1, Clause(subjects, word, negated=negated, voice="state", joiner=joiner)
        )
    if word in world.PARTICIPLE:
        base = Clause(subjects, world.PARTICIPLE[word], negated=negated, voice="passive", joiner=joiner)
        if words[at + 1 : at + 2] == ("by",):
            for agents, by_joiner, after in _read_phrases(words, at + 2, can_reduce=True):
                joined = by_joiner if len(agents) > 1 else joiner
                yield from _read_adjuncts(
                    words, after, Clause(**{**vars(base), "objects": agents, "joiner": joined})
                )
        yield from _read_adjuncts(words, at + 1, base)
    if found := _match_preposition(words, at):
        for other, after in _read_phrase(words, found[1]):
            state = Clause(subjects, found[0], (other,), negated=negated, voice="state", joiner=joiner)
            yield from _read_adjuncts(words, after, state)
    if placed := _match_adjunct(words, at, "place"):
        found_place = Clause(subjects, "be", place=placed[0], negated=negated, voice="place", joiner=joiner)
        yield from _read_adjuncts(words, placed[1], found_place)


def _read_adjuncts(words: Words, at: int, clause: Clause) -> Iterator[tuple[Clause, int]]:
    for field, parts, text in _ADJUNCTS:
        if not getattr(clause, field) and words[at : at + len(parts)] == parts:
            yield from _read_adjuncts(words, at + len(parts), Clause(**{**vars(clause), field: text}))
    yield clause, at


def _match_adjunct(words: Words, at: int, wanted: str) -> tuple[str, int] | None:
    for field, parts, text in _ADJUNCTS:
        if field == wanted and words[at : at + len(parts)] == parts:
            return text, at + len(parts)
    return None


def _match_preposition(words: Words, at: int) -> tuple[str, int] | None:
    for parts, text in _PREPOSITIONS:
        if words[at : at + len(parts)] == parts:
            return text, at + len(parts)
    return None


def _read_phrases(
    words: Words, at: int, *, can_reduce: bool = False
) -> Iterator[tuple[tuple[Phrase, ...], str, int]]:
    for first, after in _read_phrase(words, at, can_reduce=can_reduce):
        if after < len(words) and words[after] in ("and", "or"):
            for second, end in _read_phrase(words, after + 1):
                yield (first, second), words[after], end
        yield (first,), "and", after


def _read_phrase(words: Words, at: int, *, can_reduce: bool = False) -> Iterator[tuple[Phrase, int]]:
    bare = _read_noun(words, at)
    if bare is None:
        return
    phrase, after = bare
    if found := _match_preposition(words, after):
        for other, end in _read_phrase(words, found[1]):
            if other.near is None and other.relative is None:
                yield Phrase(**{**vars(phrase), "near": (found[0], other)}), end
    for relative, end in _read_relative(words, after, can_reduce):
        yield Phrase(**{**vars(phrase), "relative": relative}), end
    yield phrase, after


def _read_noun(words: Words, at: int) -> tuple[Phrase, int] | None:
    determiner = words[at] if at < len(words) else ""
    adjective = words[at + 1] if at + 1 < len(words) and words[at + 1] in world.ADJECTIVES else ""
    place = at + 1 + bool(adjective)
    noun = words[place] if place < len(words) else ""
    if noun in world.SINGULAR and determiner in ("the", "a", "an"):
        return Phrase(noun, "one", adjective, determiner != "the"), place + 1
    if noun in world.PLURAL and determiner in ("the", "some", *world.COUNTS):
        number = determiner if determiner in world.COUNTS else "many"
        return Phrase(world.PLURAL[noun], number, adjective, determiner == "some"), place + 1
    return None


def _read_relative(words: Words, at: int, can_reduce: bool) -> Iterator[tuple[Relative, int]]:
    word = words[at] if at < len(words) else ""
    if word in ("who", "that"):
        verb = world.PAST.get(words[at + 1], "") if at + 1 < len(words) else ""
        if verb in world.TRANSITIVE_VERBS:
            yield from (
                (Relative("subject", verb, other, pronoun=word), end) for other, end in _read_bare(words, at + 2)
            )
        if verb in world.INTRANSITIVE_VERBS:
            yield Relative("subject", verb, pronoun=word), at + 2
        for other, end in _read_bare(words, at + 1):
            past = world.PAST.get(words[end], "") if end < len(words) else ""
            if past in world.TRANSITIVE_VERBS:
                yield Relative("object", past, other, pronoun=word), end + 1
    elif can_reduce and word in world.PARTICIPLE:
        yield from _read_reduced(words, at + 1, world.PARTICIPLE[word])


def _read_reduced(words: Words, at: int, verb: str) -> Iterator[tuple[Relative, int]]:
    if words[at : at + 1] == ("by",):
        yield from ((Relative("reduced", verb, other), end) for other, end in _read_bare(words, at + 1))
    elif placed := _match_adjunct(words, at, "place"):
        yield Relative("reduced", verb, place=placed[0]), placed[1]


def _read_bare(words: Words, at: int) -> Iterator[tuple[Phrase, int]]:
    bare = _read_noun(words, at)
    if bare:
        yield bare
