"""The sentences of the sandbox: what they are made of, and how they are written.

A sentence is a small tree of frozen dataclasses. `write_sentence` turns it into words; `sandbox_parser` turns words
back into the tree, and `sandbox_truth` reads the facts off it. Nothing here is random.
"""

from __future__ import annotations

from dataclasses import dataclass

from blindspot.sandbox.words import PREPOSITIONS, inflect_verb, pluralize


@dataclass(frozen=True)
class Relative:
    """A clause on a noun: `who helped X` (subject), `who X helped` (object), `helped in the park` (reduced)."""

    form: str
    verb: str
    other: Phrase | None = None
    place: str = ""
    pronoun: str = "who"


@dataclass(frozen=True)
class Phrase:
    """A noun phrase; `number` is one, many, two, three, four or five, and `near` a (preposition, phrase)."""

    noun: str
    number: str = "one"
    adjective: str = ""
    indefinite: bool = False
    near: tuple[str, Phrase] | None = None
    relative: Relative | None = None


@dataclass(frozen=True)
class Clause:
    """One event or state.

    `voice` is active, passive (subjects undergo, objects act, or nobody is named), state (`verb` is an adjective or
    a preposition) or place (`verb` is be). `joiner` joins subjects and objects: and, or.
    """

    subjects: tuple[Phrase, ...]
    verb: str
    objects: tuple[Phrase, ...] = ()
    place: str = ""
    time: str = ""
    manner: str = ""
    negated: bool = False
    voice: str = "active"
    joiner: str = "and"


@dataclass(frozen=True)
class Sentence:
    """A clause in its frame.

    `kind` is plain, time (the time comes first), adverb, conjunction (`word` + `second`, then `clause`), pair
    (`clause` and/or `second`) or attitude (`holder` + `word` + that + `clause`). `link` is the comma or the that.
    """

    clause: Clause
    kind: str = "plain"
    word: str = ""
    second: Clause | None = None
    holder: Phrase | None = None
    link: bool = True


def write_sentence(sentence: Sentence, *, period: str = ".") -> str:
    """The sentence as text, with a capital and `period` at its end (`.` or ` .`)."""
    words = " ".join(_sentence_words(sentence)).replace(" ,", "," if period == "." else " ,")
    return words[0].upper() + words[1:] + period


def _sentence_words(sentence: Sentence) -> list[str]:
    main = write_clause(sentence.clause, without_time=sentence.kind == "time")
    comma = [","] if sentence.link else []
    if sentence.kind == "time":
        return [sentence.clause.time, *main]
    if sentence.kind == "adverb":
        return [sentence.word, *main]
    if sentence.kind == "conjunction" and sentence.second:
        return [sentence.word, *write_clause(sentence.second), *comma, *main]
    if sentence.kind == "pair" and sentence.second:
        return [*main, *comma, sentence.word, *write_clause(sentence.second)]
    if sentence.kind == "attitude" and sentence.holder:
        that = ["that"] if sentence.link else []
        return [*write_phrase(sentence.holder), inflect_verb(sentence.word)[0], *that, *main]
    return main


def write_clause(clause: Clause, *, without_time: bool = False) -> list[str]:
    """Words of a clause."""
    words = _join_phrases(clause.subjects, clause.joiner) + _verb_words(clause)
    if clause.voice == "passive" and clause.objects:
        words.append("by")
    words += _join_phrases(clause.objects, clause.joiner)
    tail = (clause.manner, clause.place, "" if without_time else clause.time)
    return words + [part for part in tail if part]


def _verb_words(clause: Clause) -> list[str]:
    denial = ["not"] if clause.negated else []
    if clause.voice == "active":
        return ["did", "not", clause.verb] if clause.negated else [inflect_verb(clause.verb)[0]]
    be = "was" if len(clause.subjects) == 1 and clause.subjects[0].number == "one" else "were"
    last = {"passive": inflect_verb(clause.verb)[1], "state": clause.verb, "place": ""}[clause.voice]
    return [be, *denial, *([last] if last else [])]


def _join_phrases(phrases: tuple[Phrase, ...], joiner: str) -> list[str]:
    words: list[str] = []
    for place, phrase in enumerate(phrases):
        words += ([joiner] if place else []) + write_phrase(phrase)
    return words


def write_phrase(phrase: Phrase) -> list[str]:
    """Words of a noun phrase."""
    noun = phrase.noun if phrase.number == "one" else pluralize(phrase.noun)
    words = [_determiner(phrase)] + ([phrase.adjective] if phrase.adjective else []) + [noun]
    if phrase.near:
        words += [phrase.near[0], *write_phrase(phrase.near[1])]
    if phrase.relative:
        words += _relative_words(phrase.relative)
    return words


def _determiner(phrase: Phrase) -> str:
    if phrase.number not in ("one", "many"):
        return phrase.number
    if not phrase.indefinite:
        return "the"
    if phrase.number == "many":
        return "some"
    return "an" if (phrase.adjective or phrase.noun)[0] in "aeio" else "a"


def _relative_words(relative: Relative) -> list[str]:
    other = write_phrase(relative.other) if relative.other else []
    past, participle = inflect_verb(relative.verb)
    place = [relative.place] if relative.place else []
    if relative.form == "subject":
        return [relative.pronoun, past, *other, *place]
    if relative.form == "object":
        return [relative.pronoun, *other, past, *place]
    return [participle, *(["by", *other] if other else []), *place]


def is_preposition(word: str) -> bool:
    """Whether a state's `verb` is a preposition, and so takes a person beside it."""
    return word in PREPOSITIONS
