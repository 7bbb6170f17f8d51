"""How sequences look to a person: prompt and continuation, joined as their pieces want to be."""

from __future__ import annotations

import numpy as np
import pytest

from explorer.contracts import TextPreview
from explorer.tokens import IGNORED, TokenExamples, Words

JOINED = {
    "words and marks": (("The", "cat", ",", "alone", ".", "42"), "The cat, alone. 42"),
    "single characters": (("h", "i", "!", " ", "o"), "hi! o"),
    "pieces with spaces": ((" The", " c", "at", "s", "."), "The cats."),
    "sentencepiece": (("▁The", "▁c", "at", "s", "."), "The cats."),
    "byte pairs": (("ĠThe", "Ġc", "at", "s", "."), "The cats."),
    "an unknown word": (("a", "<unknown>", "cat"), "a <unknown> cat"),
}


@pytest.mark.parametrize("case", JOINED)
def test_pieces_are_joined_as_they_want_to_be(case: str) -> None:
    pieces, text = JOINED[case]
    assert Words(pieces).text(list(range(len(pieces)))) == text


def test_tokens_without_a_piece_are_numbers() -> None:
    assert Words().text([3, 1, 40]) == "3 1 40"
    assert Words(("The", "cat")).text([0, 7]) == "The <7>"
    assert Words(("<begin>", "The", "cat"), frozenset((0,))).text([0, 1, 2]) == "The cat"


def test_a_preview_has_what_comes_before_the_first_asked_token_and_what_is_asked() -> None:
    words = Words(("_", "the", "cat", "sat", "down", "here"))
    tokens = np.array([[1, 2, 3, 4, 0], [1, 2, 3, 4, 5]])
    labels = np.array([[IGNORED, 3, 4, IGNORED, IGNORED], [2, IGNORED, IGNORED, 5, 1]])
    examples = TokenExamples(tokens, labels, "train", np.array(["a", "b"]), words)
    assert examples.preview(0) == TextPreview("the cat", "sat down")
    assert examples.preview(1) == TextPreview("the", "cat … here the"), "what is not asked in between is a gap"
    assert examples.ids.tolist() == ["a", "b"]
    assert examples.key != TokenExamples(tokens, labels, "train").key


def test_what_a_model_says_is_read_at_the_asked_positions() -> None:
    examples = TokenExamples(np.array([[1, 2, 3]]), np.array([[IGNORED, 3, 4]]), "test", words=Words(tuple("abcde")))
    assert examples.said(np.array([IGNORED, 4, 0])) == "ea"
