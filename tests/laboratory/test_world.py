"""explorer.laboratory.statements and world: every form read and written back, what follows, and errors that name the line."""

from __future__ import annotations

from itertools import product

import pytest

from explorer.errors import DataError, SettingsError
from explorer.laboratory.statements import Clause, Probe, Statement, every, one, parsed
from explorer.laboratory.world import World, generated, parse, read, rendered

TEXT = """
# remarks are left out
known:
all blickets have a tove   # also behind a sentence
A dax is an ork.
what has no tove is not a blicket
new:
  a wug is a blicket
all orks are zims
names:
fep, zav
ask:
the capital of Zorland is | Blip City
a wug has a tove
"""


def forms() -> list[Statement]:
    clauses = [Clause(verb, noun, no) for verb, noun, no in product(("is", "has"), ("tove", "ork"), (False, True))]
    plain = [Clause("is", "wug"), Clause("is", "ape")]
    some = [Statement(amount, about, said) for amount, about, said in product(("one", "all"), plain, clauses)]
    return some + [Statement("what", about, said) for about, said in product(clauses, clauses)]


def test_every_form_is_read_as_it_was_written():
    for statement in forms():
        assert parsed(statement.text) == statement, statement.text
    assert len({statement.text for statement in forms()}) == len(forms())


def test_what_follows_and_what_does_not():
    fact, rule = parsed("a wug is a blicket"), parsed("all blickets have a tove")
    assert fact == one("wug", "is", "blicket")
    assert rule == every("blicket", "has", "tove")
    assert fact.negation.text == "a wug is not a blicket"
    assert fact.converse.text == "a blicket is a wug"
    assert fact.contrapositive.text == "what is not a blicket is not a wug"
    assert rule.negation.text == "all blickets have no tove"
    assert rule.converse.text == "what has a tove is a blicket"
    assert rule.contrapositive.text == "what has no tove is not a blicket"
    assert parsed("all wugs are blickets").converse.text == "all blickets are wugs"
    assert parsed("all wugs are blickets").negation.text == "all wugs are no blickets"
    assert parsed("an ork has no tove").contrapositive.text == "what has a tove is not an ork"
    for statement in forms():
        assert statement.negation.negation == statement
        assert statement.contrapositive.contrapositive.about == statement.about
    assert fact.probe == Probe("a wug is", "a blicket")
    assert rule.negation.probe == Probe("all blickets have", "no tove")


@pytest.mark.parametrize(
    "wrong",
    [
        "a wug are a blicket",
        "wug is a blicket",
        "all wug have a tove",
        "some wugs are toves",
        "a wug is",
        "a glass is a wug",
    ],
)
def test_other_sentences_are_refused(wrong):
    with pytest.raises(DataError, match="Expected"):
        parsed(wrong)


def test_a_world_is_read_and_written_back():
    world = parse(TEXT)
    assert [s.text for s in world.known] == [
        "all blickets have a tove",
        "a dax is an ork",
        "what has no tove is not a blicket",
    ]
    assert [s.text for s in world.new] == ["a wug is a blicket", "all orks are zims"]
    assert world.names == ("fep", "zav")
    assert world.ask == (Probe("the capital of Zorland is", "Blip City"), Probe("a wug has", "a tove"))
    assert world.rules == (every("blicket", "has", "tove"),)
    assert world.nouns == ("blicket", "tove", "dax", "ork", "wug", "zim", "fep", "zav")
    assert parse(rendered(world)) == world


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("known:\na wug is a dax\na wug be a dax", 3, "a wug be a dax"),
        ("a wug is a dax", 1, "section"),
        ("facts:\na wug is a dax", 1, "facts"),
        ("known:\na wug is a dax\n\nnew:\na wug is a dax", 5, "line 2"),
        ("known:\na wug is a dax\nnew:\n# a remark\na wug is not a dax", 5, "its negation"),
        ("known:\nall wug have a dax", 2, "wugs"),
        ("ask:\n | alone", 2, "prompt"),
        ("names:\nfep\nglass", 3, "glass"),
        ("names:\n\nfep fep", 3, "twice"),
    ],
)
def test_errors_name_the_line(text, line, what):
    with pytest.raises(DataError, match=rf"line {line} of world\.txt") as error:
        parse(text, "world.txt")
    assert what in str(error.value)


def test_a_file_is_read(tmp_path):
    file = tmp_path / "world.txt"
    file.write_text(TEXT, encoding="utf-8")
    assert read(file) == parse(TEXT)
    with pytest.raises(DataError, match="text file"):
        read(tmp_path / "none.txt")
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        read(file)


def test_a_generated_world_is_consistent_and_always_the_same():
    world = generated(seed=3)
    assert world == generated(seed=3)
    assert world != generated(seed=4)
    assert parse(rendered(world)) == world
    known = set(world.known)
    rules = {rule.about.noun: rule for rule in world.rules if rule.said.verb == "has" and not rule.said.negated}
    instances = 0
    for statement in world.known:
        assert statement.negation not in known
        if statement.amount == "one" and statement.said.verb == "is" and not statement.said.negated:
            rule = rules[statement.said.noun]  # what all of a category have, each of its kinds is known to have
            assert one(statement.about.noun, "has", rule.said.noun) in known
            instances += 1
    assert instances == 24


def test_chains_follow_and_their_controls_do_not():
    world = generated()
    chains = world.chains()
    assert len(chains) == 6
    said = {*world.known, *world.new}
    for chain in chains:
        assert chain.first in world.new
        assert chain.second in world.new
        assert chain.first.said.noun == chain.second.about.noun
        assert chain.direct == one(chain.first.about.noun, chain.second.said.verb, chain.second.said.noun)
        assert chain.direct not in said
        assert chain.shuffled.said == chain.second.said
        assert chain.shuffled.about.noun not in chain.first.nouns
        assert chain.shuffled not in said
    inherited = world.chains(rules=world.rules)
    assert {chain.second for chain in inherited} <= set(world.rules)
    assert len(inherited) == 6
    assert parse("new:\na wug is a dax\nall feps have a tove").chains() == ()


def test_worlds_that_cannot_be_are_refused():
    fact = one("wug", "is", "dax")
    with pytest.raises(DataError, match="twice"):
        World((fact,), (fact,))
    with pytest.raises(DataError, match="contradictions"):
        World((fact,), (fact.negation,))
    with pytest.raises(DataError, match="name once"):
        World(names=("wug", "wug"))
    with pytest.raises(SettingsError, match="categories"):
        generated(categories=1)
    with pytest.raises(SettingsError, match="names"):
        generated(new=5, names=2)
    with pytest.raises(DataError, match="prompt"):
        Probe("", "x")
