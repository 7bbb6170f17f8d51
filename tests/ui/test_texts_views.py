"""How texts are read: what is told from what is asked, which words are marked, and that the browser marks the same ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from explorer.ui import frame
from explorer.ui.scatter import assets
from explorer.ui.views import card, differs, examples, gallery, text, tiles
from explorer.ui.views.card import Face
from explorer.ui.views.differs import NOTHING
from explorer.ui.views.text import Passage
from explorer.ui.views.words import beginning, ending
from tests.ui.test_map import browser as browser
from tests.ui.test_views import HOSTILE, Tags

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WORDS = ("the", "fox", "sleeps", "in", "a", "den", ",", ".", "Ärger", "x2")
LONG = "Nothing new was seen. " * 400
PASSAGE = Passage(f"{LONG}The fox {HOSTILE}", f"sleeps {HOSTILE} soundly")


def plain(html: str) -> str:
    """The text that HTML shows."""
    return unescape(re.sub(r"<[^>]*>", "", html))


def written(words: list[str]) -> str:
    """Words with a space between, but none before punctuation."""
    return re.sub(r" ([,.])", r"\1", " ".join(words))


def drawn(count: int = 200) -> list[tuple[str, str]]:
    """Pairs of a continuation and an answer of up to eight words each, some of one length and some alike."""
    draw = np.random.default_rng(3)
    pairs = []
    for _ in range(count):
        given = [WORDS[k] for k in draw.integers(len(WORDS), size=draw.integers(0, 9))]
        said = [
            WORDS[k] if draw.random() < 0.3 else word for word, k in zip(given, draw.integers(10, size=9), strict=False)
        ]
        if draw.random() < 0.5:
            said = said[: draw.integers(0, 9)]
        pairs.append((written(given), written(said)))
    return pairs


class TestPieces:
    def test_together_they_are_the_answer(self) -> None:
        for given, said in drawn():
            shown = "".join(piece for piece, _ in differs.pieces(given, said))
            assert re.sub(f"^{NOTHING}$|{NOTHING} | {NOTHING}$", "", shown) == said

    def test_of_one_length_exactly_the_other_words_are_marked(self) -> None:
        told = 0
        for given, said in drawn():
            asked, mine = (re.findall(r"\w+|[,.]", words) for words in (given, said))
            if len(asked) == len(mine):
                expected = [one for one, other in zip(mine, asked, strict=True) if one != other]
                assert [piece for piece, differs in differs.pieces(given, said) if differs] == expected
                told += bool(expected)
        assert told > 20

    @pytest.mark.parametrize(
        ("given", "said", "marks"),
        [
            ("a b c d", "a x y c d", ["x y"]),
            ("a b c d", "a d", [NOTHING]),
            ("a b", "", [NOTHING]),
            ("", "a b", ["a b"]),
            ("a a", "a", [NOTHING]),
            ("a b.", "a b.", []),
        ],
    )
    def test_of_another_length_what_lies_between_the_same_ends_is_marked(
        self, given: str, said: str, marks: list[str]
    ) -> None:
        assert [piece for piece, differs in differs.pieces(given, said) if differs] == marks

    def test_of_a_long_answer_what_lies_around_the_first_other_word_is_shown(self) -> None:
        given = " ".join(f"w{k}" for k in range(400))
        for at in (0, 1, 200, 398, 399):
            said = given.replace(f"w{at} ", "other ") if at < 399 else given.removesuffix("w399") + "other"
            shown = plain(text.marked(given, said))
            assert len(shown) <= text.CLIPPED + 1
            assert "other" in shown
            assert shown.removeprefix("…").removesuffix("…") in said
            assert '<em class="ix-other">other</em>' in text.marked(given, said)
        other = text.marked(given, given.replace("w", "v"))
        assert len(plain(other)) <= text.CLIPPED + 1
        assert differs.shortened([("a b", False), ("c", True)], 4) == [("a b", False), ("c", True)]

    def test_marks_are_not_told_by_color(self) -> None:
        assert text.marked("a b", "a c") == 'a <em class="ix-other">c</em>'
        style = (Path(frame.__file__).parent / "style.css").read_text(encoding="utf-8")
        assert re.search(r"\.ix-other \{[^}]*text-decoration: underline", style)


class TestPassage:
    def test_a_tile_has_the_end_of_the_prompt_and_the_title_all_of_it(self) -> None:
        html = text.clipped(PASSAGE)
        tags = Tags(html)
        assert not tags.named("img")
        assert plain(html).endswith(f"{HOSTILE} {PASSAGE.continuation}")
        assert len(plain(html)) <= 2 * text.CLIPPED + 1
        short = Passage("The fox", "sleeps")
        assert Tags(text.clipped(short)).named("div")[0]["title"] == "The fox sleeps"

    def test_a_card_has_all_of_it_and_can_be_scrolled_by_key_where_it_is_long(self) -> None:
        html = text.whole(PASSAGE)
        assert PASSAGE.prompt in plain(html)
        assert PASSAGE.continuation in plain(html)
        assert [tag.get("tabindex") for tag in Tags(html).named("dd")] == ["0", None]
        assert [tag.get("tabindex") for tag in Tags(text.whole(Passage("The fox", LONG))).named("dd")] == [None, "0"]
        assert "nothing" in plain(text.whole(Passage("", "sleeps")))

    @pytest.mark.parametrize("most", [1, 2, 5, 30])
    def test_what_is_cut_says_so_and_keeps_to_its_length(self, most: int) -> None:
        for words in ("", "a", "a b c d e", LONG):
            first, last = beginning(words, most), ending(words, most)
            assert max(len(first), len(last)) <= max(most, len(words) if len(words) <= most else 0)
            if len(words) > most:
                assert first.endswith("…")
                assert last.startswith("…")
                assert words.startswith(first[:-1])
                assert words.endswith(last[1:])
            else:
                assert first == last == words


class TestEverywhere:
    """Each view that shows an example says what was given and what the model says, once, and never as markup."""

    FACE = Face(passage=PASSAGE)
    SAID = f"sleeps {HOSTILE} lightly"

    @pytest.mark.parametrize("right", [True, False])
    def test_what_the_model_says(self, right: bool) -> None:
        said = PASSAGE.continuation if right else self.SAID
        item = tiles.Item("train", 1, 1, "id", self.FACE, PASSAGE.continuation, said, right)
        one = gallery.Tile(1, "id", self.FACE, 0.5, 0.1, PASSAGE.continuation, said, right, False)
        query = card.Query("id", self.FACE, PASSAGE.continuation, said, not right, True, 0.5, 1.0, "log p", 1, 2)
        example = examples.Example(
            "id", self.FACE, PASSAGE.continuation, said, right, 99.0, 1.0, 0.1, 0.1, False, False, "neutral"
        )
        views = (
            tiles.tile(item), gallery.galleries([one], [], "nats", 9), card.query_card(query), examples.card(example),
            examples.tiles([example], "neutral"),
        )  # fmt: skip
        for html in views:
            assert not Tags(html).named("img")
            assert PASSAGE.continuation in plain(html)
            assert ("✓ the model says so" in plain(html)) == right
            assert (f"✗ the model says {self.SAID}" in plain(html)) != right
            assert ('<em class="ix-other">lightly</em>' in html) != right
            names = [tag["aria-label"] or "" for _, tag in Tags(html).seen if tag.get("role") == "button"]
            assert all(PASSAGE.continuation in name and len(name) < 4 * text.SPOKEN for name in names)


@pytest.fixture(scope="module")
def bare(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    script = assets.list_assets().js.replace("export default function", "function")
    page.add_script_tag(content=f"{script}\nObject.assign(window, {{ marked, sideBySide, prepare, search, sorted }});")
    yield page
    page.close()


@pytest.mark.browser
def test_the_browser_marks_the_same_words(bare: Page) -> None:
    pairs = drawn()
    found: list[Any] = bare.evaluate("(pairs) => pairs.map(([given, said]) => marked(given, said))", pairs)
    assert [[tuple(piece) for piece in one] for one in found] == [differs.pieces(*pair) for pair in pairs]


@pytest.mark.browser
def test_two_short_lines_begin_alike_and_keep_every_other_word(bare: Page) -> None:
    given, said = "it sleeps under the old oak until evening", "it sleeps under the old elm until evening"
    found = bare.evaluate("([given, said]) => sideBySide(given, said)", [given, said])
    assert "".join(piece for piece, _ in found["pieces"]) == "…r the old elm until evening"
    assert found["given"] == "…r the old oak until evening"
    for one, other in [*drawn(50), ("", "")]:
        pieces = bare.evaluate("([given, said]) => sideBySide(given, said).pieces", [one, other])
        marks = [piece for piece, differs in differs.pieces(one, other) if differs]
        assert [piece for piece, differs in pieces if differs] == marks


@pytest.mark.browser
def test_a_search_looks_through_prompts_of_the_right_row(bare: Page) -> None:
    queries = {
        "rows": [2, 0, 1], "ids": ["c", "a", "b"], "labels": ["x", "y", "z"], "predictions": ["x", "y", "q"], "confidence": [1, 1, 1],
        "loss": [0, 0, 0], "prompts": ["The Fox", "an owl", "an otter"],
    }  # fmt: skip
    find = "([queries, asked]) => search(prepare(queries), [0, 1, 2], asked, () => true)"
    assert bare.evaluate(find, [queries, "fox"]) == [1]
    assert bare.evaluate(find, [queries, "an o"]) == [0, 2]
    assert bare.evaluate(find, [queries, "owl q"]) == [2]
    assert bare.evaluate(find, [queries, "badger"]) == []
