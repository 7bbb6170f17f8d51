"""What can be said of an invented thing, and what follows from it? One sentence as data: read, written, denied, turned round.

Knows a small grammar of English, its negation, converse and contrapositive; no world, no model and no tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from explorer.errors import DataError

Verb = Literal["is", "has"]
Amount = Literal["one", "all", "what"]
NOUN = r"[a-z]+(?:-[a-z]+)*"
FORMS = (
    "a wug is a blicket; a wug is not a blicket; a wug has a tove; a wug has no tove; all wugs are blickets; all wugs are no "
    "blickets; all wugs have a tove; all wugs have no tove; what is (not) a wug ...; what has a (or: no) tove ..."
)
_ONE = rf"an? (?P<one>{NOUN})"
_ALL = rf"all (?P<all>{NOUN})"
_WHAT = rf"what (?:is (?P<what_not>not )?an? (?P<what_is>{NOUN})|has (?:an? (?P<what_has>{NOUN})|no (?P<what_lacks>{NOUN})))"
_IS = rf"is (?P<is_not>not )?an? (?P<is>{NOUN})"
_HAS = rf"has (?:an? (?P<has>{NOUN})|no (?P<lacks>{NOUN}))"
_ARE = rf"are (?P<are_no>no )?(?P<are>{NOUN})"
_HAVE = rf"have (?:an? (?P<have>{NOUN})|no (?P<have_no>{NOUN}))"
_SENTENCE = re.compile(rf"(?:(?:{_ONE}|{_WHAT}) (?:{_IS}|{_HAS})|{_ALL} (?:{_ARE}|{_HAVE}))")


@dataclass(frozen=True)
class Probe:
    """What is asked of a model: how probable is the continuation after the prompt? Both plain text, joined by a space."""

    prompt: str
    continuation: str

    def __post_init__(self) -> None:
        for name, text in (("prompt", self.prompt), ("continuation", self.continuation)):
            if not text.strip() or text != " ".join(text.split()):
                raise DataError(
                    f"Expected a {name} of words with single spaces between them; found {text!r}. Write both sides of the bar."
                )

    @property
    def text(self) -> str:
        """The whole sentence."""
        return f"{self.prompt} {self.continuation}"


@dataclass(frozen=True)
class Clause:
    """ "is a blicket", "is not a blicket", "has a tove" or "has no tove"."""

    verb: Verb
    noun: str
    negated: bool = False

    @property
    def denied(self) -> Clause:
        """The opposite."""
        return replace(self, negated=not self.negated)

    @property
    def rest(self) -> str:
        """What comes after the verb, such as "not a blicket"."""
        if self.verb == "has" and self.negated:
            return f"no {self.noun}"
        return ("not " if self.negated else "") + article(self.noun)

    @property
    def many(self) -> str:
        """The same after "are" and "have"."""
        if self.verb == "has":
            return self.rest
        return ("no " if self.negated else "") + f"{self.noun}s"


@dataclass(frozen=True)
class Statement:
    """One sentence: `amount` "one" (a wug ...), "all" (all wugs ...) or "what" (what is a wug ...), and what is said of it."""

    amount: Amount
    about: Clause
    said: Clause

    def __post_init__(self) -> None:
        for clause in (self.about, self.said):
            if not re.fullmatch(NOUN, clause.noun) or clause.noun.endswith("s"):
                raise DataError(
                    f"Expected a noun of small letters that does not end in s (its plural does); found {clause.noun!r}. "
                    "Choose another name."
                )

    @property
    def probe(self) -> Probe:
        """The sentence cut after its verb: "a wug is | a blicket"."""
        if self.amount == "all":
            return Probe(f"all {self.about.noun}s {'are' if self.said.verb == 'is' else 'have'}", self.said.many)
        subject = article(self.about.noun) if self.amount == "one" else f"what {self.about.verb} {self.about.rest}"
        return Probe(f"{subject} {self.said.verb}", self.said.rest)

    @property
    def text(self) -> str:
        """The sentence in words."""
        return self.probe.text

    @property
    def nouns(self) -> tuple[str, str]:
        """The two things it is about."""
        return self.about.noun, self.said.noun

    @property
    def negation(self) -> Statement:
        """The opposite said of the same; of "all wugs are blickets" the contrary, "all wugs are no blickets"."""
        return replace(self, said=self.said.denied)

    @property
    def converse(self) -> Statement:
        """Turned round, which does not follow: "all blickets are wugs", "what has a tove is a wug"."""
        if self.amount != "what" and self.said == Clause("is", self.said.noun):
            return Statement(self.amount, self.said, Clause("is", self.about.noun))
        return Statement("what", self.said, self.about)

    @property
    def contrapositive(self) -> Statement:
        """Turned round and denied, which follows: "what is not a blicket is not a wug"."""
        return Statement("what", self.said.denied, self.about.denied)


def article(noun: str) -> str:
    """The noun with "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def one(about: str, verb: Verb, noun: str, *, negated: bool = False) -> Statement:
    """A fact such as "a wug is a blicket"."""
    return Statement("one", Clause("is", about), Clause(verb, noun, negated))


def every(about: str, verb: Verb, noun: str, *, negated: bool = False) -> Statement:
    """A rule such as "all blickets have a tove"."""
    return Statement("all", Clause("is", about), Clause(verb, noun, negated))


def parsed(sentence: str) -> Statement:
    """The statement in a sentence; case, "an" for "a", and a full stop do not matter.

    Raises:
        DataError: the sentence has another form.
    """
    words = " ".join(sentence.lower().split()).removesuffix(".")
    found = _SENTENCE.fullmatch(words)
    if found is None:
        raise DataError(
            f"Expected a sentence such as {FORMS}; found {sentence.strip()!r}. Write it in one of these forms."
        )
    part = found.groupdict()
    if part["all"]:
        about, amount = Clause("is", _single(part["all"])), "all"
        if part["are"]:
            return Statement("all", about, Clause("is", _single(part["are"]), bool(part["are_no"])))
        return Statement("all", about, Clause("has", part["have"] or part["have_no"], bool(part["have_no"])))
    if part["one"]:
        about, amount = Clause("is", part["one"]), "one"
    elif part["what_is"]:
        about, amount = Clause("is", part["what_is"], bool(part["what_not"])), "what"
    else:
        about, amount = Clause("has", part["what_has"] or part["what_lacks"], bool(part["what_lacks"])), "what"
    if part["is"]:
        said = Clause("is", part["is"], bool(part["is_not"]))
    else:
        said = Clause("has", part["has"] or part["lacks"], bool(part["lacks"]))
    return Statement("one" if amount == "one" else "what", about, said)


def _single(plural: str) -> str:
    if not plural.endswith("s") or len(plural) < 2:
        raise DataError(
            f"Expected a plural that ends in s after 'all' and 'are'; found {plural!r}. Write {plural + 's'!r}."
        )
    return plural[:-1]
