"""Draws pairs of the sandbox: a premise, and a hypothesis that a worker could have written for a wanted label.

A hypothesis starts from one thing that the premise says, is cut down, changed towards the label and rephrased. What
label the pair really has is decided by the truth function alone: a pair whose label is not the wanted one is drawn
again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from blindspot.sandbox import words as world
from blindspot.sandbox.grammar import Clause, Phrase, Relative, Sentence, is_preposition, write_sentence
from blindspot.sandbox.premises import PERSON_EVENT_VERBS, draw_place, draw_premise
from blindspot.sandbox.truth import judge_pair, judge_sentences

Edit = Callable[[Random, Clause, str], Clause]


@dataclass(frozen=True)
class Habits:
    """How a group writes hypotheses: the share of rewordings by label, the weight of each of a label's EDITS."""

    rephrase_rate: dict[str, float]
    weights: dict[str, tuple[float, ...]]


SPACED_PERIOD_SHARE = 0.35
ASIDE_RATE = {"entailment": 0.35, "contradiction": 0.2, "neutral": 0.45}  # about something other than the main clause
MAX_WORDS = (16, 11)


def draw_pair(rng: Random, *, genre: str, label: str) -> tuple[str, str]:
    """Premise and hypothesis with the label `label` by the truth function; the two differ."""
    period = " ." if rng.random() < SPACED_PERIOD_SHARE else "."
    while True:
        sentence = draw_premise(rng, genre)
        for _ in range(4):
            draft = draft_hypothesis(rng, sentence, genre=genre, label=label)
            if draft is None or judge_sentences(sentence, draft) != label:
                continue
            pair = write_sentence(sentence, period=period), write_sentence(draft, period=period)
            short = all(len(text.split()) <= most for text, most in zip(pair, MAX_WORDS, strict=True))
            if short and pair[0] != pair[1] and judge_pair(*pair) == label:
                return pair


def draft_hypothesis(
    rng: Random, premise: Sentence, *, genre: str, label: str, habits: Habits | None = None
) -> Sentence | None:
    """A hypothesis that may have the label, written with the habits (WORKERS); None when the edit does not apply."""
    habits = habits or WORKERS
    seeds = list_seeds(premise) if rng.random() < ASIDE_RATE[label] else [premise.clause]
    clause = cut_down(rng, rng.choice(seeds), rate=0.75 if label == "entailment" else 0.6)
    if label != "entailment":
        edits = EDITS[label]
        clause = rng.choices(edits, habits.weights[label])[0](rng, clause, genre)
    clause = rephrase(rng, clause, rate=habits.rephrase_rate[label])
    if clause.time and rng.random() < 0.2:
        return Sentence(clause, "time", link=False)
    return Sentence(clause, link=False)


def list_seeds(premise: Sentence) -> list[Clause]:
    """What the premise says or mentions, as clauses: its clauses, what is said of its people, wrong agents too."""
    clauses = [premise.clause, *([premise.second] if premise.second else [])]
    seeds = [clause for clause in clauses for _ in range(2)]
    for clause in clauses:
        for phrase in (*clause.subjects, *clause.objects):
            seeds += _phrase_seeds(phrase)
        for neighbour in _neighbours(clause.subjects):
            seeds.append(replace(clause, subjects=(neighbour,), joiner="and"))
        for neighbour in _neighbours(clause.objects):
            seeds.append(replace(clause, objects=(neighbour,), joiner="and"))
        if clause.place and not clause.negated:
            seeds.append(Clause(clause.subjects[:1], "be", place=clause.place, voice="place"))
    if premise.holder and premise.word in world.TRANSITIVE_VERBS:
        seeds.append(Clause((premise.holder,), premise.word, premise.clause.subjects[:1]))
    return seeds


def _neighbours(phrases: tuple[Phrase, ...]) -> list[Phrase]:
    beside = [phrase.near[1] for phrase in phrases if phrase.near]
    return beside + [phrase.relative.other for phrase in phrases if phrase.relative and phrase.relative.other]


def _phrase_seeds(phrase: Phrase) -> list[Clause]:
    bare = replace(phrase, adjective="", near=None, relative=None)
    seeds = [Clause((bare,), phrase.adjective, voice="state")] if phrase.adjective else []
    if phrase.near:
        seeds.append(Clause((bare,), phrase.near[0], (phrase.near[1],), voice="state"))
    if phrase.relative:
        seeds += [_relative_seed(bare, phrase.relative)] * 2
    return seeds


def _relative_seed(bare: Phrase, relative: Relative) -> Clause:
    other = (relative.other,) if relative.other else ()
    if relative.form == "subject":
        return Clause((bare,), relative.verb, other, relative.place)
    if relative.form == "object":
        return Clause(other, relative.verb, (bare,), relative.place)
    return Clause((bare,), relative.verb, other, relative.place, voice="passive")


def cut_down(rng: Random, clause: Clause, *, rate: float) -> Clause:
    """The clause with each of its modifiers dropped at the rate given, and one of two joined people kept."""
    time = "" if rng.random() < rate * 0.8 else clause.time
    manner = "" if rng.random() < rate * 0.8 else clause.manner
    place = "" if clause.voice != "place" and rng.random() < rate * 0.7 else clause.place
    subjects, objects = (_cut_phrases(rng, phrases, rate) for phrases in (clause.subjects, clause.objects))
    return replace(clause, time=time, manner=manner, place=place, subjects=subjects, objects=objects)


def _cut_phrases(rng: Random, phrases: tuple[Phrase, ...], rate: float) -> tuple[Phrase, ...]:
    if len(phrases) > 1 and rng.random() < 0.85:
        phrases = (rng.choice(phrases),)
    return tuple(_cut_phrase(rng, phrase, rate) for phrase in phrases)


def _cut_phrase(rng: Random, phrase: Phrase, rate: float) -> Phrase:
    adjective = "" if rng.random() < rate else phrase.adjective
    keeps = rng.random() < 0.08
    return replace(
        phrase, adjective=adjective, near=phrase.near if keeps else None, relative=phrase.relative if keeps else None
    )


def rephrase(rng: Random, clause: Clause, *, rate: float) -> Clause:
    """The same or less in other words: each of synonyms, wider words and the other voice at the rate given."""
    if clause.voice == "active" and len(clause.objects) == 1 and rng.random() < rate * 0.4:
        clause = replace(clause, voice="passive", subjects=clause.objects, objects=clause.subjects, joiner="and")
    elif clause.voice == "passive" and clause.objects and rng.random() < rate * 0.8:
        clause = replace(clause, voice="active", subjects=clause.objects, objects=clause.subjects, joiner="and")
    if rng.random() < rate * 0.3:
        clause = _drop_object(clause)
    wider = [name for name in _similar(clause.verb) if _has_form(name, clause)]
    if wider and not clause.negated and rng.random() < rate:
        clause = replace(clause, verb=rng.choice(wider))
    if clause.place and rng.random() < rate * 0.4:
        clause = replace(clause, place=world.PLACE_PARENT.get(clause.place, clause.place))
    subjects = tuple(_widen_phrase(rng, phrase, rate) for phrase in clause.subjects)
    return replace(clause, subjects=subjects, objects=tuple(_widen_phrase(rng, one, rate) for one in clause.objects))


def _drop_object(clause: Clause) -> Clause:
    if clause.voice == "passive" and clause.objects:
        return replace(clause, objects=())
    if clause.voice == "active" and clause.verb in world.OBJECT_OPTIONAL:
        return replace(clause, objects=())
    return clause


def _similar(verb: str) -> list[str]:
    same = [name for name, head in world.SYNONYMS.items() if head == verb or world.SYNONYMS.get(verb) in (name, head)]
    head = [world.SYNONYMS[verb]] if verb in world.SYNONYMS else []
    above = world.PREDICATE_PARENT.get(verb)
    return [name for name in (*same, *head, *([above] * 2 if above else [])) if name != verb]


def _has_form(verb: str, clause: Clause) -> bool:
    if clause.voice == "state":
        return is_preposition(verb) == is_preposition(clause.verb)
    known = world.TRANSITIVE_VERBS if clause.objects or clause.voice == "passive" else world.INTRANSITIVE_VERBS
    return verb in known or (not clause.objects and verb in world.OBJECT_OPTIONAL)


def _widen_phrase(rng: Random, phrase: Phrase, rate: float) -> Phrase:
    if rng.random() < rate * 0.75 and phrase.noun in world.NOUN_PARENT:
        noun = world.NOUN_PARENT[phrase.noun]
        if noun in world.NOUN_PARENT and rng.random() < 0.3:
            noun = world.NOUN_PARENT[noun]
        phrase = replace(phrase, noun=noun)
    if phrase.number in world.COUNTS and rng.random() < 0.4:
        phrase = replace(phrase, number="many")
    if phrase.adjective and _similar(phrase.adjective) and rng.random() < rate:
        phrase = replace(phrase, adjective=rng.choice(_similar(phrase.adjective)))
    return replace(phrase, indefinite=phrase.number in ("one", "many") and rng.random() < 0.06)


# Edits towards contradiction.


def _deny(rng: Random, clause: Clause, genre: str) -> Clause:
    return replace(clause, negated=not clause.negated)


def _oppose(rng: Random, clause: Clause, genre: str) -> Clause:
    if clause.verb in world.OPPOSITE:
        return replace(clause, verb=world.OPPOSITE[clause.verb])
    if clause.manner:
        return replace(clause, manner=world.OPPOSITE[clause.manner])
    return _change_first(clause, lambda one: replace(one, adjective=world.OPPOSITE.get(one.adjective, one.adjective)))


def _move(rng: Random, clause: Clause, genre: str) -> Clause:
    return replace(clause, place=draw_place(rng, genre))


def _retime(rng: Random, clause: Clause, genre: str) -> Clause:
    return replace(clause, time=rng.choice(world.TIMES))


def _recount(rng: Random, clause: Clause, genre: str) -> Clause:
    number = rng.choice((*world.COUNTS, "many", "one"))
    return _change_first(clause, lambda one: replace(one, number=number, indefinite=False))


def swap_people(rng: Random, clause: Clause, genre: str) -> Clause:
    if not clause.objects or clause.objects[0].noun in world.THING_NOUNS:
        return clause
    if clause.subjects[0].noun in world.THING_NOUNS:
        return clause
    return replace(clause, subjects=clause.objects, objects=clause.subjects)


# Edits towards neutral.


def _leave(rng: Random, clause: Clause, genre: str) -> Clause:
    return clause


def _describe(rng: Random, clause: Clause, genre: str) -> Clause:
    def add(one: Phrase) -> Phrase:
        thing = one.noun in world.THING_NOUNS
        return replace(one, adjective=rng.choice(world.THING_ADJECTIVES if thing else world.PERSON_ADJECTIVES))

    return _change_first(clause, add)


def _place_or_time(rng: Random, clause: Clause, genre: str) -> Clause:
    if clause.voice == "place" or rng.random() < 0.5:
        return replace(clause, time=rng.choice(world.TIMES))
    return replace(clause, place=draw_place(rng, genre))


def _act_otherwise(rng: Random, clause: Clause, genre: str) -> Clause:
    if clause.subjects[0].noun in world.THING_NOUNS and clause.voice != "passive":
        return clause
    if clause.voice in ("state", "place"):
        return replace(clause, voice="active", verb=rng.choice(world.INTRANSITIVE_VERBS), objects=())
    if not clause.objects and clause.voice == "active":
        return replace(clause, verb=rng.choice(world.INTRANSITIVE_VERBS))
    things = any(one.noun in world.THING_NOUNS for one in (*clause.objects, *clause.subjects))
    return replace(clause, verb=rng.choice(world.THING_VERBS if things else PERSON_EVENT_VERBS))


def _other_person(rng: Random, clause: Clause, genre: str) -> Clause:
    def put(one: Phrase) -> Phrase:
        thing = one.noun in world.THING_NOUNS
        names = world.THINGS if thing else tuple(n for k in world.GENRE_KINDS[genre] for n in world.PERSON_KINDS[k])
        return replace(one, noun=rng.choice(names), adjective="")

    if clause.objects and rng.random() < 0.5:
        return replace(clause, objects=(put(clause.objects[0]),))
    return _change_first(clause, put)


def _change_first(clause: Clause, change: Callable[[Phrase], Phrase]) -> Clause:
    return replace(clause, subjects=(change(clause.subjects[0]), *clause.subjects[1:]))


EDITS: dict[str, tuple[Edit, ...]] = {
    "contradiction": (_deny, _oppose, _move, _retime, _recount, swap_people),
    "neutral": (_leave, _describe, _place_or_time, _act_otherwise, _other_person),
}
# Workers swap people often and reword little but for entailment: so some of their pairs speak against going by words.
WORKERS = Habits(
    rephrase_rate={"entailment": 0.42, "contradiction": 0.06, "neutral": 0.06},
    weights={"contradiction": (4.0, 3.5, 2.0, 1.0, 0.3, 15.0), "neutral": (5.0, 2.0, 3.0, 2.0, 1.0)},
)
