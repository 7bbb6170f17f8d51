"""Teach the model this once: the worker's answer against a copy that is fine-tuned here, and the model stays as it is."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from explorer.contracts import TablePreview
from explorer.errors import DataError, RunError, SettingsError
from explorer.jobs import asking, laboratory
from explorer.jobs.lesson import Changed, Lesson
from explorer.jobs.planning import ingredients_of
from explorer.jobs.subject import make_subject, subject_of
from explorer.jobs.teaching import Both, Teacher
from explorer.laboratory.lessons import Lessons
from explorer.laboratory.settings import Teaching
from explorer.laboratory.teaching import find_rate
from explorer.models import build
from explorer.sources.digits import Digits
from explorer.store import Row, Run
from tests.jobs.asking import copied
from tests.jobs.test_pipeline import contents

SAME64 = 1e-11
"""Of measures about 1 in float64, summed in another order."""
LEVEL = 0.51 / 127
"""Half a step of an int8 row, and float32's rounding, as a share of its scale."""
SECONDS = 2.0
"""For a lesson at all 1,797 digits in a worker that is loaded, the search for the rate included; measured 0.2 to 0.5."""


@pytest.fixture(scope="module", autouse=True)
def _no_worker_stays() -> Iterator[None]:
    yield
    asking.stop()


def by_hand(run: Run, split: str, row: int, label: int | None, steps: int, rate: float) -> tuple[np.ndarray, ...]:
    """Changes of log p(label) `[train]` and `[test]` by SGD on one example."""
    data, subject = subject_of(run, ingredients_of(run))
    model = subject.model.double().eval()
    own = copy.deepcopy(model)
    optimizer = torch.optim.SGD(own.parameters(), lr=rate)
    examples = getattr(data, split)
    taught = torch.tensor([examples.labels[row] if label is None else label])
    for _ in range(steps):
        optimizer.zero_grad()
        outputs = own(examples.batch(np.array([row])).double())
        torch.nn.functional.cross_entropy(outputs, taught).backward()
        optimizer.step()
    found = []
    for part in (data.train, data.test):
        x, y = part.batch(np.arange(len(part))).double(), torch.tensor(part.labels)
        with torch.no_grad():
            after, before = (m(x).log_softmax(1)[torch.arange(len(y)), y] for m in (own, model))
        found.append((after - before).numpy())
    return tuple(found)


def check(lesson: Lesson, train: np.ndarray, test: np.ndarray, itself: tuple[str, int]) -> None:
    for row, change in ((lesson.train, train), (lesson.test, test)):
        shown = np.clip(change, -row.scale, row.scale)
        np.testing.assert_allclose(row.values / 127 * row.scale, shown, atol=LEVEL * row.scale)
    assert lesson.train.scale == lesson.test.scale
    assert lesson.train.scale == pytest.approx(np.quantile(np.abs(np.concatenate([train, test])), 0.995), rel=1e-6)
    kept: tuple[tuple[str, np.ndarray, Changed, Changed], ...] = (
        ("train", train, lesson.train_improved, lesson.train_worsened),
        ("test", test, lesson.improved, lesson.worsened),
    )
    for split, change, improved, worsened in kept:
        for found, sign in ((improved, 1), (worsened, -1)):
            order = [row for row in np.argsort(-sign * change) if (split, row) != itself and sign * change[row] > 0]
            np.testing.assert_allclose(found.change, change[found.rows], atol=SAME64)
            np.testing.assert_allclose(found.change, change[order[:10]], atol=SAME64)
            assert (split, int(found.rows[0])) != itself


@pytest.mark.parametrize(
    ("split", "row", "label", "steps", "rate"), [("train", 4, None, 1, None), ("test", 2, 1, 3, 0.01)]
)
def test_the_change_is_that_of_a_copy_fine_tuned_by_hand(
    wine: Run, split: str, row: int, label: int | None, steps: int, rate: float | None
) -> None:
    before = contents(wine.path)
    lesson = asking.teach(wine, **{f"{split}_row": row}, label=label, steps=steps, rate=rate)  # type: ignore[arg-type]
    train, test = by_hand(wine, split, row, label, steps, lesson.rate)
    check(lesson, train, test, (split, row))
    own = lesson.own_loss
    if label is None:
        assert own[0] - own[1] == pytest.approx((train if split == "train" else test)[row], abs=SAME64)
    assert own[1] < own[0]
    assert lesson.words.startswith(f"{steps} step")
    assert contents(wine.path) == before
    again = asking.teach(wine, **{f"{split}_row": row}, label=label, steps=steps, rate=rate)  # type: ignore[arg-type]
    assert again is lesson  # remembered
    with pytest.raises(ValueError, match="read-only"):
        lesson.train.values[0] = 1


def test_the_rate_is_that_of_an_experiment_with_the_defaults(wine: Run) -> None:
    data, subject = subject_of(wine, ingredients_of(wine))
    rows = np.array(laboratory.evenly(wine))
    found = find_rate(subject, Lessons(data.train, rows), Teaching(first_order=False))
    assert asking.teach(wine, train_row=0).rate == pytest.approx(found.rate, rel=1e-9)


def test_a_question_between_lessons_is_answered_as_before(wine: Run) -> None:
    query = int(wine.plan("label")[0])
    asking._answers.clear()
    first = asking.ask(wine, query, "label")
    asking.teach(wine, train_row=1, optimizer="adam", steps=2)
    asking._answers.clear()
    again = asking.ask(wine, query, "label")
    assert isinstance(first.row, Row)
    np.testing.assert_array_equal(first.row.values, again.row.values)
    assert first.loss == again.loss


def test_what_cannot_be_taught_is_said(wine: Run, tmp_path) -> None:
    for wrong, words in (
        ({}, "found neither"),
        ({"train_row": 1, "test_row": 1}, "found both"),
        ({"train_row": 10_000}, r"Expected train_row in 0\.\.148; found 10000"),
        ({"train_row": 1, "steps": 0}, "Expected steps in"),
        ({"train_row": 1, "rate": 1e6}, "Try a rate of 1e"),
    ):
        with pytest.raises(SettingsError, match=words):
            asking.teach(wine, **wrong)
    with pytest.raises(DataError, match=r"Expected labels 0\.\.2 to teach"):
        asking.teach(wine, train_row=1, label=7)
    run = copied(wine, tmp_path)
    (run.path / "fitted.json").unlink()
    with pytest.raises(RunError, match="unfinished"):
        asking.teach(run, train_row=1)


def test_both_splits_are_one_set_of_examples(wine: Run) -> None:
    data, _ = subject_of(wine, ingredients_of(wine))
    both, train = Both(data.train, data.test), len(data.train)
    rows = np.array([train, 3, train + 2, 0])
    expected = torch.cat(
        [
            part.batch(np.array([row]))
            for part, row in ((data.test, 0), (data.train, 3), (data.test, 2), (data.train, 0))
        ]
    )
    assert torch.equal(both.batch(rows), expected)
    assert both.labels[rows].tolist() == [
        data.test.labels[0],
        data.train.labels[3],
        data.test.labels[2],
        data.train.labels[0],
    ]
    assert len(both) == train + len(data.test) == len(both.ids)
    for row, (part, own) in ((2, (data.train, 2)), (train + 1, (data.test, 1))):
        shown, expected_ = both.preview(row), part.preview(own)
        assert isinstance(shown, TablePreview)
        assert isinstance(expected_, TablePreview)
        assert shown.values.tolist() == expected_.values.tolist()


def test_a_lesson_on_digits_takes_less_than_two_seconds() -> None:
    data = Digits().load()
    subject = make_subject(build("mlp", (1, 8, 8), 10, 0), data, 5e-4)
    teacher = Teacher(subject, data)
    question = {"train_row": 5, "test_row": None, "label": None, "optimizer": "sgd", "steps": 1, "rate": None}
    for _ in range(2):  # the first with the search for a rate
        began = time.perf_counter()
        frame = teacher.answer(question)
        assert time.perf_counter() - began < SECONDS
    assert len(frame[1]["train"]) + len(frame[1]["test"]) == 1797
