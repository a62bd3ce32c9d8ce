"""What is true in the sandbox: the label of any pair of its sentences.

A sentence states facts (who did what to whom, where, when, how). The hypothesis is an

- entailment, when each of its facts follows from a fact of the premise;
- contradiction, when one of its facts excludes a fact of the premise: the same event denied, its opposite, or the
  same event with another place, time or number, or with swapped roles, since a pair is read as being about one
  event, as MultiNLI's annotators were told to;
- neutral otherwise.

What stands under `if`, `or`, `probably` or a belief is not stated, so nothing follows from it and nothing excludes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from blindspot.sandbox.grammar import Clause, Phrase, Relative, Sentence, write_clause
from blindspot.sandbox.parser import parse_sentence
from blindspot.sandbox.words import (
    CERTAIN_ADVERBS,
    DOUBTFUL_ADVERBS,
    FACT_CONJUNCTIONS,
    KNOWLEDGE_VERBS,
    NOUN_PARENT,
    OPPOSITE,
    PLACE_PARENT,
    PREDICATE_PARENT,
    SYNONYMS,
    widen,
)

Entity = tuple[str, str]


@dataclass(frozen=True)
class Fact:
    """One statement; `agent` and `patient` are (noun, number), or None where nobody is named."""

    predicate: str
    agent: Entity | None
    patient: Entity | None = None
    place: str = ""
    time: str = ""
    manner: str = ""
    negated: bool = False


def judge_pair(premise: str, hypothesis: str) -> str | None:
    """Label of any pair: entailment, neutral or contradiction; None when a sentence is not in the language.

    Capitals, the final period and the spaces around punctuation do not matter.
    """
    first, second = parse_sentence(premise), parse_sentence(hypothesis)
    if first is None or second is None:
        return None
    return judge_sentences(first, second)


def judge_sentences(premise: Sentence, hypothesis: Sentence) -> str:
    """Label of a pair of parsed sentences."""
    known, stated = list_facts(premise), list_facts(hypothesis)
    if all(any(follows(fact, old) for old in known) for fact in stated):
        return "entailment"
    if any(excludes(fact, old) for fact in stated for old in known):
        return "contradiction"
    return "neutral"


@lru_cache(maxsize=100_000)
def list_facts(sentence: Sentence) -> tuple[Fact, ...]:
    """The facts that a sentence states. What it leaves open is one fact of its own, equal only to itself."""
    kind, word, second = sentence.kind, sentence.word, sentence.second
    main = _clause_facts(sentence.clause)
    if kind == "pair" and second:
        return (*main, *_clause_facts(second)) if word == "and" else (_open_fact(sentence),)
    if kind == "conjunction" and second:
        if word in FACT_CONJUNCTIONS:
            return (*main, *_clause_facts(second))
        return (_open_fact(sentence),)
    if kind == "adverb" and word in DOUBTFUL_ADVERBS:
        return (_open_fact(sentence),)
    if kind == "attitude" and sentence.holder:
        held = _phrase_facts(sentence.holder)
        return (*held, _open_fact(sentence), *(main if word in KNOWLEDGE_VERBS else ()))
    assert kind in ("plain", "time") or word in CERTAIN_ADVERBS
    return main


def _open_fact(sentence: Sentence) -> Fact:
    second = " ".join(write_clause(sentence.second)) if sentence.second else ""
    holder = entity(sentence.holder) if sentence.holder else None
    return Fact(f"{sentence.word}: {' '.join(write_clause(sentence.clause))}: {second}", holder)


def _clause_facts(clause: Clause) -> tuple[Fact, ...]:
    beside = tuple(fact for phrase in (*clause.subjects, *clause.objects) for fact in _phrase_facts(phrase))
    if clause.joiner == "or" and len(clause.subjects) + len(clause.objects) > 2 - (not clause.objects):
        return (Fact(f"or: {' '.join(write_clause(clause))}", None), *beside)
    events = tuple(
        _event(clause, first, second) for first in clause.subjects for second in clause.objects or (None,)
    )
    return (*events, *beside)


def _event(clause: Clause, subject: Phrase, other: Phrase | None) -> Fact:
    agent, patient = entity(subject), entity(other) if other else None
    if clause.voice == "passive":
        return _order_roles(
            Fact(clause.verb, patient, agent, clause.place, clause.time, clause.manner, clause.negated)
        )
    return _order_roles(
        Fact(clause.verb, agent, patient, clause.place, clause.time, clause.manner, clause.negated)
    )


def _order_roles(fact: Fact) -> Fact:
    predicate = SYNONYMS.get(fact.predicate, fact.predicate)
    turned = predicate == "in front of"
    if predicate == "near" and fact.agent and fact.patient and fact.patient < fact.agent:
        turned = True
    if turned:
        name = "behind" if predicate == "in front of" else predicate
        return replace(fact, predicate=name, agent=fact.patient, patient=fact.agent)
    return replace(fact, predicate=predicate)


def _phrase_facts(phrase: Phrase) -> tuple[Fact, ...]:
    facts: list[Fact] = []
    if phrase.adjective:
        facts.append(_order_roles(Fact(phrase.adjective, entity(phrase))))
    if phrase.near:
        preposition, other = phrase.near
        facts += [_order_roles(Fact(preposition, entity(phrase), entity(other))), *_phrase_facts(other)]
    if phrase.relative:
        facts += _relative_facts(phrase, phrase.relative)
    return tuple(facts)


def _relative_facts(phrase: Phrase, relative: Relative) -> list[Fact]:
    own, other = entity(phrase), entity(relative.other) if relative.other else None
    agent, patient = (own, other) if relative.form == "subject" else (other, own)
    beside = _phrase_facts(relative.other) if relative.other else ()
    return [_order_roles(Fact(relative.verb, agent, patient, relative.place)), *beside]


def entity(phrase: Phrase) -> Entity:
    """A phrase without all that is said of it."""
    return phrase.noun, phrase.number


def follows(fact: Fact, old: Fact) -> bool:
    """Whether `fact` follows from `old`."""
    if fact.negated and old.negated:
        return _is_case_of(replace(fact, negated=False), replace(old, negated=False))
    if fact.negated:
        return not old.negated and _is_opposite(replace(fact, negated=False), old, is_strict=True)
    return not old.negated and _is_case_of(old, fact)


def excludes(fact: Fact, old: Fact) -> bool:
    """Whether `fact` and `old` cannot both be."""
    if fact.negated and old.negated:
        return False
    if fact.negated:
        return _is_case_of(old, replace(fact, negated=False))
    if old.negated:
        return _is_case_of(fact, replace(old, negated=False))
    return _is_opposite(fact, old) or _is_otherwise(fact, old) or _is_swapped(fact, old)


def _is_case_of(narrow: Fact, wide: Fact) -> bool:
    if wide.predicate == "be":
        return any(_is_kind_of(one, wide.agent) for one in (narrow.agent, narrow.patient) if one) and (
            bool(narrow.place) and _fits(narrow, wide)
        )
    roles = wide.agent is None or _is_kind_of(narrow.agent, wide.agent)
    others = wide.patient is None or _is_kind_of(narrow.patient, wide.patient)
    return roles and others and _is_below(narrow.predicate, wide.predicate) and _fits(narrow, wide)


def _fits(narrow: Fact, wide: Fact) -> bool:
    place = not wide.place or wide.place in (narrow.place, PLACE_PARENT.get(narrow.place))
    return place and wide.time in ("", narrow.time) and wide.manner in ("", narrow.manner)


def _is_below(narrow: str, wide: str) -> bool:
    return wide in widen(narrow, parents=PREDICATE_PARENT)


def _is_kind_of(narrow: Entity | None, wide: Entity | None) -> bool:
    if narrow is None or wide is None:
        return narrow is wide
    number = wide[1] == narrow[1] or (wide[1] == "many" and narrow[1] != "one")
    return number and wide[0] in widen(narrow[0], parents=NOUN_PARENT)


def _are_related(one: Entity | None, other: Entity | None) -> bool:
    if one is None or other is None:
        return True
    return one[0] in widen(other[0], parents=NOUN_PARENT) or other[0] in widen(one[0], parents=NOUN_PARENT)


def _are_apart(one: Entity | None, other: Entity | None) -> bool:
    if one is None or other is None or one[1] == other[1]:
        return False
    return "one" in (one[1], other[1]) or "many" not in (one[1], other[1])


def _is_opposite(fact: Fact, old: Fact, *, is_strict: bool = False) -> bool:
    if not any(OPPOSITE.get(name) == fact.predicate for name in widen(old.predicate, parents=PREDICATE_PARENT)):
        return False
    if is_strict:
        return _is_case_of(replace(old, predicate=fact.predicate), fact)
    same_frame = all(a in ("", b) or b == "" for a, b in ((fact.time, old.time), (fact.place, old.place)))
    return same_frame and _are_related(fact.agent, old.agent) and _are_related(fact.patient, old.patient)


def _is_otherwise(fact: Fact, old: Fact) -> bool:
    if fact.predicate == "be":
        there = any(one and _are_related(one, fact.agent) for one in (old.agent, old.patient))
        return there and _places_differ(fact.place, old.place)
    same = _is_below(fact.predicate, old.predicate) or _is_below(old.predicate, fact.predicate)
    if not (same and _are_related(fact.agent, old.agent) and _are_related(fact.patient, old.patient)):
        return False
    apart = _are_apart(fact.agent, old.agent) or _are_apart(fact.patient, old.patient)
    other_time = bool(fact.time and old.time and fact.time != old.time)
    other_way = bool(fact.manner) and OPPOSITE.get(fact.manner) == old.manner
    return apart or other_time or other_way or _places_differ(fact.place, old.place)


def _places_differ(one: str, other: str) -> bool:
    nested = PLACE_PARENT.get(one) == other or PLACE_PARENT.get(other) == one
    return bool(one and other) and one != other and not nested


def _is_swapped(fact: Fact, old: Fact) -> bool:
    if not (fact.agent and fact.patient and old.agent and old.patient) or fact.predicate == "near":
        return False
    same = _is_below(fact.predicate, old.predicate) or _is_below(old.predicate, fact.predicate)
    return same and _are_related(fact.agent, old.patient) and _are_related(fact.patient, old.agent)
