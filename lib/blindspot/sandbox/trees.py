"""Parse trees of the sandbox's sentences, in the two notations of the public releases.

The releases give each sentence's parse as the Stanford parser's labelled tree and as its binary bracketing. HANS's
constituent heuristic is defined on the latter: a hypothesis is a constituent when it is one of its brackets.
"""

from __future__ import annotations

from blindspot.sandbox.grammar import Clause, Phrase, Relative, Sentence, is_preposition, write_phrase
from blindspot.sandbox.parser import parse_sentence
from blindspot.sandbox.words import inflect_verb

Tree = tuple[str, "str | list[Tree]"]


def labelled_parse(sentence: Sentence) -> str:
    """The sentence as a labelled tree, `(ROOT (S (NP (DT The) ...) ...))`."""
    return f"(ROOT {_label(_capitalize(_sentence_tree(sentence)))})"


def binary_parse(sentence: Sentence) -> str:
    """The sentence as binary brackets, `( ( The lawyer ) ( left . ) )`, with a bracket per phrase of the tree."""
    return _bracket(_capitalize(_sentence_tree(sentence)))


def bracket_text(text: str) -> str | None:
    """The binary brackets of a written sentence; None where it is not in the sandbox's language.

    The parse is read back from the words: None too where its words would not be the sentence's own.
    """
    sentence = parse_sentence(text)
    if sentence is None:
        return None
    brackets = binary_parse(sentence)
    words = [word for word in brackets.lower().split() if word not in ("(", ")", ".", ",")]
    return brackets if words == text.lower().replace(".", " ").replace(",", " ").split() else None


def _label(tree: Tree) -> str:
    name, below = tree
    return f"({name} {below})" if isinstance(below, str) else f"({name} {' '.join(map(_label, below))})"


def _bracket(tree: Tree) -> str:
    below = tree[1]
    if isinstance(below, str):
        return below
    parts = [_bracket(part) for part in below]
    joined = parts.pop()
    while parts:
        joined = f"( {parts.pop()} {joined} )"
    return joined


def _capitalize(tree: Tree) -> Tree:
    name, below = tree
    if isinstance(below, str):
        return name, below[0].upper() + below[1:]
    return name, [_capitalize(below[0]), *below[1:]]


def _sentence_tree(sentence: Sentence) -> Tree:
    clause, comma = sentence.clause, [_leaf(",", ",")] if sentence.link else []
    main = _clause_parts(clause, without_time=sentence.kind == "time")
    stop = _leaf(".", ".")
    if sentence.kind == "time":
        return "S", [_words("PP", clause.time.split()), *main, stop]
    if sentence.kind == "adverb":
        return "S", [("ADVP", [_leaf("RB", sentence.word)]), *main, stop]
    if sentence.kind == "conjunction" and sentence.second:
        under: Tree = ("SBAR", [_leaf("IN", sentence.word), ("S", _clause_parts(sentence.second))])
        return "S", [under, *comma, *main, stop]
    if sentence.kind == "pair" and sentence.second:
        second = _clause_parts(sentence.second)
        return "S", [("S", main), *comma, _leaf("CC", sentence.word), *second, stop]
    if sentence.kind == "attitude" and sentence.holder:
        that = [_leaf("IN", "that")] if sentence.link else []
        inner: Tree = ("VP", [_leaf("VBD", inflect_verb(sentence.word)[0]), ("SBAR", [*that, ("S", main)])])
        return "S", [_phrase_tree(sentence.holder), inner, stop]
    return "S", [*main, stop]


def _clause_parts(clause: Clause, *, without_time: bool = False) -> list[Tree]:
    time = "" if without_time else clause.time
    tail = [_words("PP", part.split()) for part in (clause.manner, clause.place, time) if part]
    return [_phrases_tree(clause.subjects, clause.joiner), ("VP", [*_verb_parts(clause), *tail])]


def _verb_parts(clause: Clause) -> list[Tree]:
    objects = [_phrases_tree(clause.objects, clause.joiner)] if clause.objects else []
    if clause.voice == "active":
        past, _ = inflect_verb(clause.verb)
        denied = [_leaf("VBD", "did"), _leaf("RB", "not"), _leaf("VB", clause.verb)]
        return [*(denied if clause.negated else [_leaf("VBD", past)]), *objects]
    single = len(clause.subjects) == 1 and clause.subjects[0].number == "one"
    be = [_leaf("VBD", "was" if single else "were"), *([_leaf("RB", "not")] if clause.negated else [])]
    if clause.voice == "passive":
        agent: list[Tree] = [("PP", [_leaf("IN", "by"), *objects])] if objects else []
        return [*be, ("VP", [_leaf("VBN", inflect_verb(clause.verb)[1]), *agent])]
    if clause.voice == "state" and is_preposition(clause.verb):
        return [*be, ("PP", [_words("IN", clause.verb.split()), *objects])]
    return [*be, ("ADJP", [_leaf("JJ", clause.verb)])] if clause.voice == "state" else be


def _phrases_tree(phrases: tuple[Phrase, ...], joiner: str) -> Tree:
    trees = [_phrase_tree(phrase) for phrase in phrases]
    return trees[0] if len(trees) == 1 else ("NP", [trees[0], _leaf("CC", joiner), trees[1]])


def _phrase_tree(phrase: Phrase) -> Tree:
    bare = write_phrase(Phrase(phrase.noun, phrase.number, phrase.adjective, phrase.indefinite))
    tags = ["DT", *(["JJ"] if phrase.adjective else []), "NN" if phrase.number == "one" else "NNS"]
    tree: Tree = ("NP", [_leaf(tag, word) for tag, word in zip(tags, bare, strict=True)])
    if phrase.near:
        where = _words("IN", phrase.near[0].split())
        tree = ("NP", [tree, ("PP", [where, _phrase_tree(phrase.near[1])])])
    return ("NP", [tree, _relative_tree(phrase.relative)]) if phrase.relative else tree


def _relative_tree(relative: Relative) -> Tree:
    past, participle = inflect_verb(relative.verb)
    other = [_phrase_tree(relative.other)] if relative.other else []
    place = [_words("PP", relative.place.split())] if relative.place else []
    if relative.form == "reduced":
        agent: list[Tree] = [("PP", [_leaf("IN", "by"), *other])] if other else []
        return "VP", [_leaf("VBN", participle), *agent, *place]
    verb = _leaf("VBD", past)
    said: Tree = ("VP", [verb, *other, *place]) if relative.form == "subject" else ("S", [*other, ("VP", [verb])])
    return "SBAR", [_leaf("WP", relative.pronoun), said]


def _words(name: str, words: list[str]) -> Tree:
    return name, [_leaf("IN" if place == 0 else "NN", word) for place, word in enumerate(words)]


def _leaf(name: str, word: str) -> Tree:
    return name, word
