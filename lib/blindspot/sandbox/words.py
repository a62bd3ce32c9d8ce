"""The words of the sandbox's made-up world, and what they mean to each other.

They are plain tables, because everything that is true in the sandbox follows from them: which noun is a kind of
which, which predicates mean the same, which exclude each other. Words are named by their base form.
"""

from __future__ import annotations

PERSON_KINDS: dict[str, tuple[str, ...]] = {
    "artist": ("singer", "actor"),
    "official": ("judge", "senator"),
    "scholar": ("student", "teacher"),
    "worker": ("baker", "farmer"),
    "traveler": ("tourist", "sailor"),
    "medic": ("doctor", "nurse"),
}
THING_KINDS: dict[str, tuple[str, ...]] = {
    "fruit": ("apple", "pear"),
    "vehicle": ("car", "boat"),
    "document": ("letter", "report"),
}
PEOPLE = tuple(name for names in PERSON_KINDS.values() for name in names)
THINGS = tuple(name for names in THING_KINDS.values() for name in names)
NOUN_PARENT: dict[str, str] = {
    **{name: kind for kinds in (PERSON_KINDS, THING_KINDS) for kind, names in kinds.items() for name in names},
    **dict.fromkeys(PERSON_KINDS, "person"),
}
PERSON_NOUNS = (*PEOPLE, *PERSON_KINDS, "person")
THING_NOUNS = (*THINGS, *THING_KINDS)
IRREGULAR_PLURALS = {"person": "people", "fruit": "fruits"}
COUNTS = ("two", "three", "four")

# base form -> (past, participle); the others are regular
_IRREGULAR = {
    "sell": ("sold", "sold"),
    "buy": ("bought", "bought"),
    "find": ("found", "found"),
    "lose": ("lost", "lost"),
    "know": ("knew", "known"),
    "sleep": ("slept", "slept"),
    "leave": ("left", "left"),
    "run": ("ran", "run"),
    "speak": ("spoke", "spoken"),
    "cry": ("cried", "cried"),
}
PERSON_VERBS = (
    "help", "assist", "thank", "call", "phone", "email", "contact", "follow", "visit", "praise", "criticize", "trust",
    "doubt", "hire", "fire", "love", "hate", "push", "pull", "touch", "watch", "admire", "believe", "fear",
)  # fmt: skip
THING_VERBS = ("buy", "sell", "find", "lose", "clean", "paint", "repair", "fix")
INTRANSITIVE_VERBS = (
    "sleep", "arrive", "leave", "laugh", "cry", "shout", "yell", "whisper", "speak", "dance", "walk", "run", "move",
    "work", "rest", "wait",
)  # fmt: skip
OBJECT_OPTIONAL = ("help", "watch", "call", "follow", "visit", "paint", "clean")
BELIEF_VERBS = ("believe", "fear", "claim", "hope")
BARE_BELIEF_VERBS = ("believe", "fear")
KNOWLEDGE_VERBS = ("know", "notice", "remember")
PERSON_ADJECTIVES = (
    "happy", "glad", "sad", "tall", "short", "young", "old", "rich", "wealthy", "poor", "calm", "angry",
)  # fmt: skip
THING_ADJECTIVES = ("heavy", "light", "big", "large", "small", "cheap", "expensive")
ADJECTIVES = (*PERSON_ADJECTIVES, *THING_ADJECTIVES)
MANNERS = ("slowly", "quickly", "quietly", "loudly")
PREPOSITIONS = ("near", "beside", "behind", "in front of")
INDOOR_PLACES = ("kitchen", "library", "museum", "office", "hotel", "hospital")
OUTDOOR_PLACES = ("park", "garden", "street", "market", "field", "harbor")
PLACES = (*(f"in the {name}" for name in (*INDOOR_PLACES, *OUTDOOR_PLACES)), "indoors", "outdoors")
PLACE_PARENT = {
    **{f"in the {name}": "indoors" for name in INDOOR_PLACES},
    **{f"in the {name}": "outdoors" for name in OUTDOOR_PLACES},
}
TIMES = ("yesterday", "today", "at noon", "at night")
CERTAIN_ADVERBS = ("suddenly", "clearly", "certainly")
DOUBTFUL_ADVERBS = ("probably", "maybe", "perhaps")
FACT_CONJUNCTIONS = ("while", "although", "after", "because")
DOUBT_CONJUNCTIONS = ("if", "unless")

# Predicates: verbs, adjectives and prepositions. A synonym is read as the word that it stands for.
SYNONYMS = {
    "assist": "help", "phone": "call", "fix": "repair", "yell": "shout", "glad": "happy", "wealthy": "rich",
    "large": "big", "beside": "near",
}  # fmt: skip
PREDICATE_PARENT = {
    "call": "contact", "email": "contact", "push": "touch", "pull": "touch", "shout": "speak", "whisper": "speak",
    "walk": "move", "run": "move",
}  # fmt: skip
_OPPOSITES = (
    ("praise", "criticize"), ("trust", "doubt"), ("hire", "fire"), ("love", "hate"), ("push", "pull"),
    ("buy", "sell"), ("find", "lose"), ("arrive", "leave"), ("laugh", "cry"), ("shout", "whisper"),
    ("work", "rest"), ("walk", "run"), ("happy", "sad"), ("tall", "short"), ("young", "old"), ("rich", "poor"),
    ("calm", "angry"), ("heavy", "light"), ("big", "small"), ("cheap", "expensive"), ("slowly", "quickly"),
    ("quietly", "loudly"), ("indoors", "outdoors"),
)  # fmt: skip
OPPOSITE = {**dict(_OPPOSITES), **{second: first for first, second in _OPPOSITES}}

GENRE_KINDS: dict[str, tuple[str, ...]] = {
    "town": ("official", "worker"),
    "school": ("scholar", "artist"),
    "stage": ("artist", "worker"),
    "coast": ("traveler", "worker"),
    "clinic": ("medic", "official"),
}
GENRE_PLACES: dict[str, tuple[str, ...]] = {
    "town": ("market", "street", "office", "kitchen"),
    "school": ("library", "museum", "garden", "field"),
    "stage": ("hotel", "park", "street", "museum"),
    "coast": ("harbor", "hotel", "field", "market"),
    "clinic": ("hospital", "garden", "office", "park"),
}
TRAIN_GENRES = ("town", "school", "stage")
MISMATCHED_GENRES = ("coast", "clinic")


def inflect_verb(base: str) -> tuple[str, str]:
    """Past tense and past participle of a verb of the sandbox."""
    if base in _IRREGULAR:
        return _IRREGULAR[base]
    if base.endswith("y") and base[-2] not in "aeiou":
        past = base[:-1] + "ied"
    else:
        past = base + ("d" if base.endswith("e") else "ed")
    return past, past


def pluralize(noun: str) -> str:
    """Plural of a noun of the sandbox."""
    return IRREGULAR_PLURALS.get(noun, noun + "s")


VERBS = tuple(
    dict.fromkeys((*PERSON_VERBS, *THING_VERBS, *INTRANSITIVE_VERBS, *BELIEF_VERBS, *KNOWLEDGE_VERBS))
)
TRANSITIVE_VERBS = (*PERSON_VERBS, *THING_VERBS)
PAST = {inflect_verb(base)[0]: base for base in VERBS}
PARTICIPLE = {inflect_verb(base)[1]: base for base in TRANSITIVE_VERBS}
SINGULAR = {noun: noun for noun in (*PERSON_NOUNS, *THING_NOUNS)}
PLURAL = {pluralize(noun): noun for noun in (*PERSON_NOUNS, *THING_NOUNS)}


def widen(word: str, *, parents: dict[str, str]) -> tuple[str, ...]:
    """The word (as its synonym's head) and everything above it in `parents`, nearest first."""
    chain = [SYNONYMS.get(word, word)]
    while chain[-1] in parents:
        chain.append(parents[chain[-1]])
    return tuple(chain)
