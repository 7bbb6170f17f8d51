"""A person's words about classes: names before numbers, and every mistake as a sentence."""

import numpy as np
import pytest

from explorer.errors import SettingsError
from explorer.questions import Question, question
from tests.fakes import blobs

NAMES = ("cat", "dog", "2", "1")


@pytest.mark.parametrize(
    ("target", "said", "numbers"),
    [
        ("label", None, ()),
        ("prediction", (), ()),
        ("margin", None, ()),
        ("margin", "dog", (1,)),
        ("margin", 1, (1,)),
        ("margin", ["cat"], (0,)),
        ("margin", "1", (3,)),  # a name comes before a number
        ("margin", "0", (0,)),  # no name: a number
        ("contrast", ("dog", "2"), (1, 2)),
        ("contrast", (np.int64(3), 0), (3, 0)),
    ],
)
def test_words_become_numbers(target: str, said: object, numbers: tuple[int, ...]) -> None:
    found = question(NAMES, target, said)  # type: ignore[arg-type]
    assert found == Question(target, numbers)  # type: ignore[arg-type]
    assert found.named(NAMES) == tuple(NAMES[number] for number in numbers)
    assert found.stored == (target in ("label", "prediction"))


@pytest.mark.parametrize(
    ("target", "said", "words"),
    [
        ("why", None, "Expected target to be one of label, prediction, margin, contrast; found 'why'"),
        ("label", "cat", r"no classes for the target label; found \['cat'\]"),
        ("margin", ("cat", "dog"), "at most one class for the target margin"),
        ("contrast", "cat", "two classes, P and Q, for the target contrast"),
        ("contrast", None, "two classes, P and Q, for the target contrast; found none"),
        ("contrast", ("dog", 1), "two different classes for a contrast; found dog twice"),
        ("margin", "bird", "a class out of cat, dog, 2, 1; found 'bird'"),
        ("margin", 4, r"its number in 0\.\.3; found 4"),
        ("margin", -1, r"its number in 0\.\.3; found -1"),
        ("margin", "-1", "found '-1'"),
    ],
)
def test_mistakes_are_sentences(target: str, said: object, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        question(NAMES, target, said)  # type: ignore[arg-type]


def test_a_regression_has_no_classes_to_ask_about() -> None:
    assert question((), "prediction") == Question("prediction")
    for target in ("margin", "contrast"):
        with pytest.raises(SettingsError, match=f"where there are no classes.*found {target}"):
            question((), target)


def test_of_many_classes_a_message_lists_a_few() -> None:
    with pytest.raises(SettingsError, match=r"c0, .*, c11 and 988 more; found 'x'"):
        question([f"c{k}" for k in range(1000)], "margin", "x")


def test_the_same_is_asked_of_every_row() -> None:
    examples, rows = blobs(5), np.array([3, 1])
    contrast = Question("contrast", (2, 0)).about(examples, rows)
    assert contrast.classes is not None
    assert contrast.classes.tolist() == [[2, 0], [2, 0]]
    margin = Question("margin", (2,)).about(examples, rows)
    assert margin.classes is not None
    assert margin.classes.tolist() == [2, 2]
    for plain in ("label", "margin"):
        found = Question(plain).about(examples, rows)  # type: ignore[arg-type]
        assert (found.target, found.classes, found.rows.tolist()) == (plain, None, [3, 1])
