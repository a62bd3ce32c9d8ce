"""Draws premises: sentences of the sandbox's language in the proportions of its made-up corpus.

The constructions that HANS tests (relative clauses, prepositional phrases on subjects, passives, conjunctions, frames
that leave a clause open) stand in some tenth of the sentences each. Without them no fine-tuned model has seen what
HANS asks, and every one is constant on it.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from blindspot.sandbox import words as world
from blindspot.sandbox.grammar import Clause, Phrase, Relative, Sentence

PERSON_EVENT_VERBS = tuple(verb for verb in world.PERSON_VERBS if verb not in ("touch", "contact"))
PLAIN_SHARE = 0.76


def draw_people(rng: Random, genre: str, count: int) -> list[str]:
    """Distinct nouns for people, none a kind of another; some 7 in 10 are of the genre, 1 in 10 is a kind."""
    found: list[str] = []
    while len(found) < count:
        own = rng.random() < 0.7
        kind = rng.choice(world.GENRE_KINDS[genre]) if own else rng.choice(list(world.PERSON_KINDS))
        noun = kind if rng.random() < 0.12 else rng.choice(world.PERSON_KINDS[kind])
        kin = {noun, world.NOUN_PARENT[noun], *world.PERSON_KINDS.get(noun, ())} - {"person"}
        if not any(other in kin or world.NOUN_PARENT[other] == noun for other in found):
            found.append(noun)
    return found


def draw_place(rng: Random, genre: str) -> str:
    """A place, mostly one of the genre's."""
    if rng.random() < 0.6:
        return f"in the {rng.choice(world.GENRE_PLACES[genre])}"
    return rng.choice(world.PLACES[:-2])


def draw_phrase(rng: Random, noun: str, *, adjective_rate: float = 0.0) -> Phrase:
    """A noun phrase without clauses on it."""
    number = rng.choices(("one", "many", rng.choice(world.COUNTS)), (0.62, 0.22, 0.16))[0]
    adjectives = world.THING_ADJECTIVES if noun in world.THING_NOUNS else world.PERSON_ADJECTIVES
    adjective = rng.choice(adjectives) if rng.random() < adjective_rate else ""
    indefinite = number in ("one", "many") and rng.random() < 0.06
    return Phrase(noun, number, adjective, indefinite)


def draw_premise(rng: Random, genre: str) -> Sentence:
    """One premise of a genre."""
    if rng.random() < PLAIN_SHARE:
        clause = draw_clause(rng, draw_people(rng, genre, 4), genre, is_rich=True)
        return Sentence(clause, "time" if clause.time and rng.random() < 0.3 else "plain", link=False)
    return draw_framed(rng, genre)


def draw_framed(rng: Random, genre: str) -> Sentence:
    """A premise whose clause stands in a frame: an adverb, a conjunction, a second clause or a belief."""
    people = draw_people(rng, genre, 4)
    kind = rng.choices(("adverb", "conjunction", "pair", "attitude"), (2, 3, 3, 3))[0]
    first = draw_clause(rng, people[:2], genre, is_rich=False)
    second = draw_clause(rng, people[2:], genre, is_rich=False)
    if kind == "adverb":
        word = rng.choice(world.CERTAIN_ADVERBS if rng.random() < 0.5 else world.DOUBTFUL_ADVERBS)
        return Sentence(first, kind, word, link=False)
    if kind == "conjunction":
        word = rng.choice(world.FACT_CONJUNCTIONS if rng.random() < 0.5 else world.DOUBT_CONJUNCTIONS)
        return Sentence(first, kind, word, second=second, link=rng.random() < 0.7)
    if kind == "pair":
        return Sentence(first, kind, rng.choice(("and", "or")), second=second, link=True)
    holder, bare = draw_phrase(rng, people[2]), rng.random() < 0.2
    doubting = world.BARE_BELIEF_VERBS if bare else world.BELIEF_VERBS
    word = rng.choice(doubting if bare or rng.random() < 0.5 else world.KNOWLEDGE_VERBS)
    return Sentence(first, kind, word, holder=holder, link=not bare)


def draw_clause(rng: Random, people: list[str], genre: str, *, is_rich: bool) -> Clause:
    """A clause about the first of `people`; with `is_rich` it has more said of its people, place and time."""
    rate = 0.32 if is_rich else 0.08
    subjects = _draw_subjects(rng, people, genre, rate, is_rich)
    kind = rng.choices(("alone", "person", "thing"), (0.36, 0.44, 0.2))[0]
    clause = Clause(subjects, rng.choice(world.INTRANSITIVE_VERBS))
    if kind == "person":
        clause = replace(
            clause,
            verb=rng.choice(PERSON_EVENT_VERBS),
            objects=_draw_objects(rng, people, genre, rate / 2, is_rich and len(subjects) == 1),
        )
    elif kind == "thing":
        thing = rng.choice(world.THINGS)
        clause = replace(
            clause, verb=rng.choice(world.THING_VERBS), objects=(draw_phrase(rng, thing, adjective_rate=rate),)
        )
    return _add_circumstances(rng, clause, genre, is_rich)


def _draw_subjects(
    rng: Random, people: list[str], genre: str, rate: float, is_rich: bool
) -> tuple[Phrase, ...]:
    subject = draw_phrase(rng, people[0], adjective_rate=rate)
    choice = rng.random()
    if not is_rich or choice > 0.36:
        return (subject,)
    if choice < 0.1:
        return (subject, draw_phrase(rng, people[2]))
    plain = replace(subject, adjective="")
    if choice < 0.22:
        return (replace(plain, near=(rng.choice(world.PREPOSITIONS), draw_phrase(rng, people[2]))),)
    return (replace(plain, relative=draw_relative(rng, people[2], genre)),)


def _draw_objects(rng: Random, people: list[str], genre: str, rate: float, is_rich: bool) -> tuple[Phrase, ...]:
    thing = draw_phrase(rng, people[1], adjective_rate=rate)
    choice = rng.random()
    if not is_rich or choice > 0.16:
        return (thing,)
    if choice < 0.06:
        return (thing, draw_phrase(rng, people[3]))
    plain = replace(thing, adjective="")
    if choice < 0.11:
        return (replace(plain, near=(rng.choice(world.PREPOSITIONS), draw_phrase(rng, people[3]))),)
    return (replace(plain, relative=draw_relative(rng, people[3], genre)),)


def draw_relative(rng: Random, other: str, genre: str) -> Relative:
    """A relative clause: subject, object, without object, or reduced to a participle."""
    verb, pronoun = rng.choice(PERSON_EVENT_VERBS), rng.choice(("who", "who", "that"))
    form = rng.choices(("subject", "object", "alone", "reduced"), (3, 3, 2, 2))[0]
    if form == "alone":
        return Relative("subject", rng.choice(world.INTRANSITIVE_VERBS), pronoun=pronoun)
    if form == "reduced":
        if rng.random() < 0.6:
            return Relative("reduced", rng.choice(world.OBJECT_OPTIONAL[:5]), place=draw_place(rng, genre))
        return Relative("reduced", verb, draw_phrase(rng, other))
    return Relative(form, verb, draw_phrase(rng, other), pronoun=pronoun)


def _add_circumstances(rng: Random, clause: Clause, genre: str, is_rich: bool) -> Clause:
    has_clause = any(phrase.near or phrase.relative for phrase in (*clause.subjects, *clause.objects))
    busy = has_clause or len(clause.subjects) + len(clause.objects) > 2 or not is_rich
    place_rate, time_rate, manner_rate = (0.12, 0.06, 0.0) if busy else (0.45, 0.25, 0.12)
    if clause.verb in world.PERSON_VERBS:
        manner_rate /= 3
    place = draw_place(rng, genre) if rng.random() < place_rate else ""
    time = rng.choice(world.TIMES) if rng.random() < time_rate else ""
    manner = rng.choice(world.MANNERS) if rng.random() < manner_rate else ""
    clause = replace(clause, place=place, time=time, manner=manner)
    if clause.objects and len(clause.subjects) == 1 and rng.random() < 0.13:
        agents = () if rng.random() < 0.15 else clause.subjects
        clause = replace(clause, voice="passive", subjects=clause.objects, objects=agents)
    return replace(clause, negated=not has_clause and rng.random() < 0.06)
