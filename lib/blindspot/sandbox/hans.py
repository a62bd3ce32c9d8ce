"""HANS-like pairs in the sandbox's language: three heuristics, thirty subcases.

Each hypothesis uses only words of its premise (lexical_overlap), is a stretch of it (subsequence) or one of its
phrases (constituent), and five subcases each say entailment and five non-entailment. A subcase has the name of the
published one (McCoy et al. 2019) where the construction is the same; `se_place_at_end` stands in for
`se_adjective`, which needs plurals without an article.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from blindspot.sandbox import words as world
from blindspot.sandbox.grammar import Clause, Phrase, Relative, Sentence, write_sentence
from blindspot.sandbox.premises import PERSON_EVENT_VERBS
from blindspot.sandbox.trees import binary_parse, labelled_parse
from blindspot.sandbox.truth import judge_pair

HEURISTIC_OF_LETTER = {"l": "lexical_overlap", "s": "subsequence", "c": "constituent"}
HANS_VERBS = tuple(
    verb
    for verb in PERSON_EVENT_VERBS
    if verb not in world.BELIEF_VERBS and len(set(world.inflect_verb(verb))) == 1
)
MIDDLE_VERBS = world.OBJECT_OPTIONAL[:5]
Draft = tuple[Sentence, Sentence, int]


@dataclass(frozen=True)
class Cast:
    """Four people and a few words for one pair."""

    first: Phrase
    second: Phrase
    third: Phrase
    fourth: Phrase
    verb: str
    other_verb: str
    alone: str
    other_alone: str
    preposition: str
    pronoun: str
    place: str
    coin: bool
    other_coin: bool


def draw_hans_rows(*, seed: int, per_subcase: int) -> list[dict[str, str]]:
    """`per_subcase` distinct rows of each subcase, with the columns of the published file, in order of subcase."""
    rows: list[dict[str, str]] = []
    template_numbers = {name: number for number, name in enumerate(_template_names(), start=1)}
    for subcase in SUBCASES:
        rng = Random(f"hans {seed} {subcase}")
        seen: set[tuple[str, str]] = set()
        while len(seen) < per_subcase:
            premise, hypothesis, variant = SUBCASES[subcase](draw_cast(rng))
            row = _make_row(premise, hypothesis, subcase, template_numbers[f"{subcase} {variant}"])
            pair = row["sentence1"], row["sentence2"]
            is_entailed = judge_pair(*pair) == "entailment"
            if pair not in seen and is_entailed == (row["gold_label"] == "entailment"):
                seen.add(pair)
                rows.append({**row, "pairID": f"ex{len(rows)}"})
    return rows


def _template_names() -> list[str]:
    return [f"{subcase} {variant}" for subcase in SUBCASES for variant in range(4)]


def _make_row(premise: Sentence, hypothesis: Sentence, subcase: str, template: int) -> dict[str, str]:
    return {
        "gold_label": "entailment" if subcase[1] == "e" else "non-entailment",
        "sentence1_binary_parse": binary_parse(premise),
        "sentence2_binary_parse": binary_parse(hypothesis),
        "sentence1_parse": labelled_parse(premise),
        "sentence2_parse": labelled_parse(hypothesis),
        "sentence1": write_sentence(premise, period=" ."),
        "sentence2": write_sentence(hypothesis, period=" ."),
        "pairID": "",
        "heuristic": HEURISTIC_OF_LETTER[subcase[0]],
        "subcase": subcase,
        "template": f"temp{template}",
    }


def draw_cast(rng: Random) -> Cast:
    """People of four different kinds, one or many each, and words for them to act with."""
    kinds = rng.sample(list(world.PERSON_KINDS), 4)
    nouns = [rng.choice(world.PERSON_KINDS[kind]) for kind in kinds]
    first, second, third, fourth = (Phrase(noun, rng.choice(("one", "many"))) for noun in nouns)
    verb, other_verb = rng.sample(HANS_VERBS, 2)
    alone, other_alone = rng.sample(world.INTRANSITIVE_VERBS, 2)
    preposition, pronoun = rng.choice(world.PREPOSITIONS), rng.choice(("who", "that"))
    place = rng.choice(world.PLACES[:-2])
    coins = rng.random() < 0.5, rng.random() < 0.5
    return Cast(
        first, second, third, fourth, verb, other_verb, alone, other_alone, preposition, pronoun, place, *coins
    )


def _plain(clause: Clause) -> Sentence:
    return Sentence(clause, link=False)


def _acts(subject: Phrase, verb: str, target: Phrase | None = None, *, place: str = "") -> Clause:
    return Clause((subject,), verb, (target,) if target else (), place)


def _put(phrase: Phrase, cast: Cast, other: Phrase) -> Phrase:
    return Phrase(phrase.noun, phrase.number, near=(cast.preposition, other))


def _relate(phrase: Phrase, cast: Cast, other: Phrase, *, form: str) -> Phrase:
    relative = Relative(form, cast.other_verb, other, pronoun=cast.pronoun)
    return Phrase(phrase.noun, phrase.number, relative=relative)


def _event(cast: Cast) -> Clause:
    """An event of the first person: alone, or towards the second."""
    return _acts(cast.first, cast.alone) if cast.coin else _acts(cast.first, cast.verb, cast.second)


def _next_event(cast: Cast) -> Clause:
    """An event of the third person: alone, or towards the fourth."""
    if cast.other_coin:
        return _acts(cast.third, cast.other_alone)
    return _acts(cast.third, cast.other_verb, cast.fourth)


# Lexical overlap, entailment.


def _le_around_phrase(cast: Cast) -> Draft:
    premise = _acts(_put(cast.first, cast, cast.third), cast.verb, cast.second)
    return _plain(premise), _plain(_acts(cast.first, cast.verb, cast.second)), 0


def _le_around_relative(cast: Cast) -> Draft:
    form = "subject" if cast.coin else "object"
    premise = _acts(_relate(cast.first, cast, cast.third, form=form), cast.verb, cast.second)
    return _plain(premise), _plain(_acts(cast.first, cast.verb, cast.second)), int(cast.coin)


def _le_conjunction(cast: Cast) -> Draft:
    if cast.coin:
        premise = Clause((cast.first, cast.third), cast.verb, (cast.second,))
        return _plain(premise), _plain(_acts(cast.first, cast.verb, cast.second)), 0
    premise = Clause((cast.first,), cast.verb, (cast.third, cast.second))
    return _plain(premise), _plain(_acts(cast.first, cast.verb, cast.second)), 1


def _le_passive(cast: Cast) -> Draft:
    premise = Clause((cast.second,), cast.verb, (cast.first,), voice="passive")
    return _plain(premise), _plain(_acts(cast.first, cast.verb, cast.second)), 0


def _le_relative(cast: Cast) -> Draft:
    form = "subject" if cast.coin else "object"
    agent, patient = (cast.first, cast.third) if cast.coin else (cast.third, cast.first)
    described = _relate(cast.first, cast, cast.third, form=form)
    hypothesis = _plain(_acts(agent, cast.other_verb, patient))
    if cast.other_coin:
        return _plain(_acts(described, cast.verb, cast.second)), hypothesis, int(cast.coin)
    return _plain(_acts(cast.second, cast.verb, described)), hypothesis, 2 + int(cast.coin)


# Lexical overlap, non-entailment.


def _ln_swap(cast: Cast) -> Draft:
    premise = _plain(_acts(cast.first, cast.verb, cast.second))
    return premise, _plain(_acts(cast.second, cast.verb, cast.first)), 0


def _ln_preposition(cast: Cast) -> Draft:
    if cast.coin:
        premise = _acts(_put(cast.first, cast, cast.third), cast.verb, cast.second)
        agent = cast.second
    else:
        premise = _acts(cast.second, cast.verb, _put(cast.first, cast, cast.third))
        agent = cast.first
    patient = cast.third if cast.other_coin else (cast.first if cast.coin else cast.second)
    return _plain(premise), _plain(_acts(agent, cast.verb, patient)), 2 * int(cast.coin) + int(cast.other_coin)


def _ln_relative(cast: Cast) -> Draft:
    form = "subject" if cast.coin else "object"
    premise = _acts(_relate(cast.first, cast, cast.third, form=form), cast.verb, cast.second)
    target = cast.first if cast.other_coin else cast.third
    variant = 2 * int(cast.coin) + int(cast.other_coin)
    return _plain(premise), _plain(_acts(cast.second, cast.verb, target)), variant


def _ln_passive(cast: Cast) -> Draft:
    premise = Clause((cast.first,), cast.verb, (cast.second,), voice="passive")
    return _plain(premise), _plain(_acts(cast.first, cast.verb, cast.second)), 0


def _ln_conjunction(cast: Cast) -> Draft:
    if cast.coin:
        premise = Clause((cast.first, cast.second), cast.verb, (cast.third,))
        return _plain(premise), _plain(_acts(cast.first, cast.verb, cast.second)), 0
    premise = Clause((cast.first,), cast.verb, (cast.second, cast.third))
    return _plain(premise), _plain(_acts(cast.second, cast.verb, cast.third)), 1


# Subsequence, entailment.


def _se_conjunction(cast: Cast) -> Draft:
    if cast.coin:
        premise = Clause((cast.first, cast.second), cast.verb, (cast.third,))
        return _plain(premise), _plain(_acts(cast.second, cast.verb, cast.third)), 0
    premise = Clause((cast.first,), cast.verb, (cast.second, cast.third))
    return _plain(premise), _plain(_acts(cast.first, cast.verb, cast.second)), 1


def _se_place(cast: Cast) -> Draft:
    verb = cast.alone if cast.coin else cast.verb
    target = None if cast.coin else cast.second
    premise = _acts(cast.first, verb, target, place=cast.place)
    return _plain(premise), _plain(_acts(cast.first, verb, target)), int(cast.coin)


def _se_understood(cast: Cast) -> Draft:
    verb = MIDDLE_VERBS[HANS_VERBS.index(cast.verb) % len(MIDDLE_VERBS)]
    return _plain(_acts(cast.first, verb, cast.second)), _plain(_acts(cast.first, verb)), 0


def _se_relative(cast: Cast) -> Draft:
    form = "subject" if cast.coin else "object"
    premise = _acts(cast.first, cast.verb, _relate(cast.second, cast, cast.third, form=form))
    return _plain(premise), _plain(_acts(cast.first, cast.verb, cast.second)), int(cast.coin)


def _se_phrase(cast: Cast) -> Draft:
    premise = _acts(cast.first, cast.verb, _put(cast.second, cast, cast.third))
    return _plain(premise), _plain(_acts(cast.first, cast.verb, cast.second)), 0


# Subsequence, non-entailment.


def _sn_belief(cast: Cast) -> Draft:
    verb = world.BARE_BELIEF_VERBS[HANS_VERBS.index(cast.verb) % len(world.BARE_BELIEF_VERBS)]
    clause = _acts(cast.second, cast.alone) if cast.coin else _acts(cast.second, cast.verb, cast.third)
    premise = Sentence(clause, "attitude", verb, holder=cast.first, link=False)
    return premise, _plain(_acts(cast.first, verb, cast.second)), int(cast.coin)


def _sn_phrase(cast: Cast) -> Draft:
    verb, target = (cast.alone, None) if cast.coin else (cast.verb, cast.third)
    premise = _acts(_put(cast.first, cast, cast.second), verb, target)
    return _plain(premise), _plain(_acts(cast.second, verb, target)), int(cast.coin)


def _sn_relative(cast: Cast) -> Draft:
    verb, target = (cast.alone, None) if cast.coin else (cast.verb, cast.third)
    premise = _acts(_relate(cast.first, cast, cast.second, form="subject"), verb, target)
    return _plain(premise), _plain(_acts(cast.second, verb, target)), int(cast.coin)


def _sn_participle(cast: Cast) -> Draft:
    verb = MIDDLE_VERBS[HANS_VERBS.index(cast.verb) % len(MIDDLE_VERBS)]
    reduced = Phrase(cast.first.noun, cast.first.number, relative=Relative("reduced", verb, place=cast.place))
    hypothesis = _plain(_acts(cast.first, verb, place=cast.place))
    if cast.coin:
        return _plain(_acts(cast.second, cast.other_verb, reduced)), hypothesis, 0
    return _plain(_acts(reduced, cast.other_verb, cast.second)), hypothesis, 1


def _sn_attachment(cast: Cast) -> Draft:
    verb = MIDDLE_VERBS[HANS_VERBS.index(cast.verb) % len(MIDDLE_VERBS)]
    word = _pick(world.FACT_CONJUNCTIONS, cast)
    premise = Sentence(_next_event(cast), "conjunction", word, second=_acts(cast.first, verb), link=False)
    return premise, _plain(_acts(cast.first, verb, cast.third)), int(cast.other_coin)


def _pick(words: tuple[str, ...], cast: Cast) -> str:
    return words[world.INTRANSITIVE_VERBS.index(cast.alone) % len(words)]


# Constituent, both labels.


def _frame(words: tuple[str, ...], *, keeps_second: bool) -> Callable[[Cast], Draft]:
    def draft(cast: Cast) -> Draft:
        first, second = _event(cast), _next_event(cast)
        premise = Sentence(second, "conjunction", _pick(words, cast), second=first)
        return premise, _plain(first if keeps_second else second), int(cast.coin)

    return draft


def _embed(words: tuple[str, ...]) -> Callable[[Cast], Draft]:
    def draft(cast: Cast) -> Draft:
        premise = Sentence(_event(cast), "attitude", _pick(words, cast), holder=cast.third)
        return premise, _plain(_event(cast)), int(cast.coin)

    return draft


def _join(word: str) -> Callable[[Cast], Draft]:
    def draft(cast: Cast) -> Draft:
        first, second = _event(cast), _next_event(cast)
        premise = Sentence(first, "pair", word, second=second)
        shown = cast.place < "in the market"
        return premise, _plain(first if shown else second), int(shown)

    return draft


def _adverb(words: tuple[str, ...]) -> Callable[[Cast], Draft]:
    def draft(cast: Cast) -> Draft:
        premise = Sentence(_event(cast), "adverb", _pick(words, cast), link=False)
        return premise, _plain(_event(cast)), int(cast.coin)

    return draft


SUBCASES: dict[str, Callable[[Cast], Draft]] = {
    "le_around_prepositional_phrase": _le_around_phrase,
    "le_around_relative_clause": _le_around_relative,
    "le_conjunction": _le_conjunction,
    "le_passive": _le_passive,
    "le_relative_clause": _le_relative,
    "ln_subject/object_swap": _ln_swap,
    "ln_preposition": _ln_preposition,
    "ln_relative_clause": _ln_relative,
    "ln_passive": _ln_passive,
    "ln_conjunction": _ln_conjunction,
    "se_conjunction": _se_conjunction,
    "se_place_at_end": _se_place,
    "se_understood_object": _se_understood,
    "se_relative_clause_on_obj": _se_relative,
    "se_PP_on_obj": _se_phrase,
    "sn_NP/S": _sn_belief,
    "sn_PP_on_subject": _sn_phrase,
    "sn_relative_clause_on_subject": _sn_relative,
    "sn_past_participle": _sn_participle,
    "sn_NP/Z": _sn_attachment,
    "ce_embedded_under_since": _frame(world.FACT_CONJUNCTIONS, keeps_second=True),
    "ce_after_since_clause": _frame(world.FACT_CONJUNCTIONS, keeps_second=False),
    "ce_embedded_under_verb": _embed(world.KNOWLEDGE_VERBS),
    "ce_conjunction": _join("and"),
    "ce_adverb": _adverb(world.CERTAIN_ADVERBS),
    "cn_embedded_under_if": _frame(world.DOUBT_CONJUNCTIONS, keeps_second=True),
    "cn_after_if_clause": _frame(world.DOUBT_CONJUNCTIONS, keeps_second=False),
    "cn_embedded_under_verb": _embed(world.BELIEF_VERBS),
    "cn_disjunction": _join("or"),
    "cn_adverb": _adverb(world.DOUBTFUL_ADVERBS),
}
