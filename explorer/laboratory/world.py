"""Which facts and rules does a model know, and which new ones is it taught? A world of invented things as a text file.

Reads, writes and makes up worlds, and finds the chains in them. Knows no model; what follows from what is in `statements`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypeVar

import numpy as np

from explorer.errors import DataError, SettingsError
from explorer.laboratory.statements import Probe, Statement, every, one, parsed

T = TypeVar("T")
SECTIONS = ("known", "new", "names", "ask")
HEADER = """\
# A world of invented things, one sentence a line. Sections:
#   known:  what the model is trained on
#   new:    what it is taught afterwards, one fact or rule at a time
#   names:  words that mean nothing yet, in stories that are true for one story only
#   ask:    any further question, as "prompt | continuation"
"""
ONSETS, VOWELS, CODAS = "bdfgklmnprtvz", "aeiou", "bdfgklmnprtv"


@dataclass(frozen=True)
class World:
    """`known` statements, `new` ones, `names` that stories use, and further probes to `ask`; all distinct."""

    known: tuple[Statement, ...] = ()
    new: tuple[Statement, ...] = ()
    names: tuple[str, ...] = ()
    ask: tuple[Probe, ...] = ()

    def __post_init__(self) -> None:
        seen: set[Statement] = set()
        for statement in (*self.known, *self.new):
            if statement in seen:
                raise DataError(f"Expected every sentence once; found {statement.text!r} twice. Leave one out.")
            if statement.negation in seen:
                raise DataError(
                    f"Expected a world without contradictions; found {statement.text!r} and {statement.negation.text!r}. "
                    "Leave one out."
                )
            seen.add(statement)
        if len(set(self.names)) < len(self.names):
            raise DataError("Expected every name once; found one twice. Leave one out.")

    @property
    def nouns(self) -> tuple[str, ...]:
        """All words for things, in the order in which they appear."""
        said = [noun for statement in (*self.known, *self.new) for noun in statement.nouns]
        return tuple(dict.fromkeys([*said, *self.names]))

    @property
    def rules(self) -> tuple[Statement, ...]:
        """What is known of all of a kind."""
        return tuple(statement for statement in self.known if statement.amount == "all")

    def chains(self, *, rules: Sequence[Statement] | None = None) -> tuple[Chain, ...]:
        """New facts A → B with rules B → C (new ones, or those given), where A → C is nowhere said; each with a control."""
        said = {*self.known, *self.new}
        chosen = [s for s in (self.new if rules is None else rules) if s.amount == "all" and not s.said.negated]
        facts = [s for s in self.new if s.amount == "one" and s.said.verb == "is" and not s.said.negated]
        kinds = list(dict.fromkeys([*(s.said.noun for s in facts), *(s.about.noun for s in chosen)]))
        found = []
        for number, (fact, rule) in enumerate((f, r) for f, r in product(facts, chosen) if f.said.noun == r.about.noun):
            direct = Statement("one", fact.about, rule.said)
            others = [
                k
                for k in kinds
                if k not in (*fact.nouns, *rule.nouns) and every(k, rule.said.verb, rule.said.noun) not in said
            ]
            if direct in said or not others or fact.about.noun == rule.said.noun:
                continue
            other = every(others[number % len(others)], rule.said.verb, rule.said.noun)
            found.append(Chain(fact, rule, direct, other))
        return tuple(found)


@dataclass(frozen=True)
class Chain:
    """`first` A → B and `second` B → C, from which `direct` A → C follows; from `first` and `shuffled` B′ → C it does not."""

    first: Statement
    second: Statement
    direct: Statement
    shuffled: Statement


def parse(text: str, name: str = "the world") -> World:
    """The world in a text: sections "known:", "new:", "names:" and "ask:", one sentence a line, "#" for remarks.

    Raises:
        DataError: with the number of the line that is not as expected.
    """
    found: dict[str, list[tuple[int, str]]] = {section: [] for section in SECTIONS}
    section: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        if content.endswith(":"):
            section = content.removesuffix(":").strip().lower()
            if section not in SECTIONS:
                raise DataError(
                    f"Expected a section out of {', '.join(SECTIONS)} in line {number} of {name}; found {content!r}. Choose one."
                )
        elif section is None:
            raise DataError(
                f"Expected a section such as 'known:' before line {number} of {name}; found {content!r}. Write 'known:' above it."
            )
        else:
            found[section].append((number, content))
    known, new = (tuple(_each(found[part], name, parsed)) for part in ("known", "new"))
    lines = list(zip(found["names"], _each(found["names"], name, _names), strict=True))
    names = tuple(word for _, words in lines for word in words)
    for number, word in ((number, word) for (number, _), words in lines for word in words):
        if names.count(word) > 1:
            raise DataError(
                f"Expected every name once; found {word!r} twice, in line {number} of {name}. Leave one out."
            )
    _check_once([*zip(found["known"], known, strict=True), *zip(found["new"], new, strict=True)], name)
    return World(known, new, names, tuple(_each(found["ask"], name, _asked)))


def rendered(world: World) -> str:
    """The text that `parse` reads as this world."""
    parts = {
        "known": [s.text for s in world.known],
        "new": [s.text for s in world.new],
        "names": list(world.names),
        "ask": [f"{probe.prompt} | {probe.continuation}" for probe in world.ask],
    }
    return HEADER + "".join(
        f"\n{name}:\n" + "".join(f"{line}\n" for line in lines) for name, lines in parts.items() if lines
    )


def read(path: str | Path) -> World:
    """The world in a file of UTF-8 text.

    Raises:
        DataError: no such file, not text, or a line that is not as expected.
    """
    file = Path(path)
    try:
        return parse(file.read_text(encoding="utf-8"), file.name)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Expected a world as a text file (UTF-8) at {file}; found {error}. Check the path.") from error


def generated(kinds: int = 24, categories: int = 6, new: int = 6, names: int = 12, seed: int = 0) -> World:
    """A world of `kinds` things in `categories` that hand down their properties, with `new` chains that are not known.

    Known: of each category which property all of its kind have, one that they lack, and what has not; of each kind what it
    is and is not, has and has not. New: that a name is of a category, and that all of a category have a further property, one
    that only loners are known to have. The same for the same arguments.

    Raises:
        SettingsError: fewer than two categories, kinds than categories, names than new chains, or nothing at all.
    """
    if not (categories >= 2 and kinds >= categories and 1 <= new <= names):
        raise SettingsError(
            f"Expected two categories or more, as many kinds at least, and a name for each of one or more new facts; found "
            f"{categories} categories, {kinds} kinds, {new} new facts and {names} names."
        )
    random = np.random.default_rng([seed, kinds, categories, new])
    words = _words(random)
    owned, loners, things = ([next(words) for _ in range(n)] for n in (categories, categories, kinds))
    groups, further, spare = (
        [first, *(next(words) for _ in range(n - 1))]
        for first, n in (("blicket", categories), ("tove", categories), ("wug", names))
    )
    known: list[Statement] = []
    for number, (group, has, extra, loner) in enumerate(zip(groups, owned, further, loners, strict=True)):
        lacks = owned[(number + 1) % categories]
        rules = (every(group, "has", has), every(group, "has", lacks, negated=True))
        known += [*rules, rules[0].contrapositive, one(loner, "has", extra)]
    for number, thing in enumerate(things):
        own = number % categories
        other = (own + 1 + int(random.integers(categories - 1))) % categories
        known += [one(thing, "is", groups[own]), one(thing, "is", groups[other], negated=True)]
        known += [one(thing, "has", owned[own]), one(thing, "has", owned[(own + 1) % categories], negated=True)]
        known += [every(thing, "is", groups[own])]
    facts = [one(spare[number], "is", groups[number % categories]) for number in range(new)]
    later = tuple(every(groups[number], "has", further[number]) for number in range(min(new, categories)))
    return World(tuple(known), (*facts, *later), tuple(spare))


def _words(random: np.random.Generator) -> Iterator[str]:
    """Invented nouns, each once."""
    seen: set[str] = set()
    while True:
        word = "".join(str(random.choice(list(letters))) for letters in (ONSETS, VOWELS, CODAS, VOWELS, CODAS))
        if word not in seen:
            seen.add(word)
            yield word


def _each(lines: Sequence[tuple[int, str]], name: str, read_one: Callable[[str], T]) -> Iterator[T]:
    for number, content in lines:
        try:
            yield read_one(content)
        except DataError as error:
            raise DataError(f"In line {number} of {name}: {error}") from error


def _asked(line: str) -> Probe:
    if "|" not in line:
        return parsed(line).probe
    prompt, _, continuation = line.partition("|")
    return Probe(" ".join(prompt.split()), " ".join(continuation.split()))


def _names(line: str) -> tuple[str, ...]:
    words = line.replace(",", " ").split()
    for word in words:
        one(word, "is", "thing")
    return tuple(words)


def _check_once(lines: Sequence[tuple[tuple[int, str], Statement]], name: str) -> None:
    seen: dict[Statement, int] = {}
    for (number, _), statement in lines:
        for other, what in ((statement, "the same sentence"), (statement.negation, "its negation")):
            if other in seen:
                raise DataError(
                    f"Expected every sentence once and none denied; found {statement.text!r} in line {number} of {name} and "
                    f"{what} in line {seen[other]}. Leave one out."
                )
        seen[statement] = number
