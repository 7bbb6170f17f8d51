"""Means between classes are those of the full matrix of scores, whatever the blocks, and cost no such matrix."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from explorer.contracts import Dataset, Progress, Queries, Recipe, silent
from explorer.jobs import classes
from explorer.jobs.planning import Request
from explorer.sources.arrays import dataset_from_arrays
from explorer.store import Run
from explorer.store.run import CLASS_INFLUENCE, CLASS_MATRIX
from tests.conftest import SMALL, compute
from tests.jobs.test_pipeline import full_scores
from tests.ui.conftest import line

TOLERANCE = 1e-5
"""Of the largest mean: float32 scores, summed in another order."""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Pictures with planted flips; only ten predictions are explained, the means are over all of them."""
    return compute(
        tmp_path_factory.mktemp("classes"), Request("digits", flip=0.08, recipe=Recipe(epochs=2), queries=10)
    )


@dataclass(frozen=True)
class Known:
    """A method whose scores `[query, train]` are given."""

    values: NDArray[np.float32]

    def weighted(self, queries: Queries, weights: Tensor, progress: Progress = silent) -> Tensor:
        return weights @ torch.from_numpy(self.values[queries.rows])


def dense(
    scores: NDArray[np.float32], given: NDArray[np.int64], asked: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """The plain mean over every pair of a training example of class a and a test example of class b, `[a, b]`."""
    means = np.full((count, count), np.nan)
    for a in range(count):
        for b in range(count):
            pairs = scores[np.ix_(asked == b, given == a)]
            if pairs.size:
                means[a, b] = np.mean(pairs.astype(np.float64))
    return means


def test_the_matrix_of_digits_is_the_plain_mean_over_the_full_scores(digits: Run) -> None:
    scores, _ = full_scores(digits, "label", np.arange(digits.meta().test))
    given, asked = (digits.table(split)["label"].to_numpy() for split in ("train", "test"))
    expected = dense(scores.numpy(), given, asked, 10)
    found = digits.class_influence()
    assert found is not None
    assert found.examples is not None
    np.testing.assert_allclose(found.matrix, expected, atol=TOLERANCE * np.abs(expected).max())
    by_class = np.stack([scores.numpy()[asked == b].mean(0) for b in range(10)])
    np.testing.assert_allclose(found.examples, by_class, atol=TOLERANCE * np.abs(by_class).max())
    assert np.diag(found.matrix).mean() > found.matrix[~np.eye(10, dtype=bool)].mean()  # a class helps its own


def test_blocks_of_classes_change_nothing_and_large_runs_keep_only_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    data, fitted = scored(np.array([0, 1, 2, 1, 0, 2]), np.array([2, 0, 0, 1]))
    whole, kept = classes.class_influence(fitted, data)
    assert kept is not None
    monkeypatch.setattr(classes, "ELEMENTS", len(data.train) * 2)
    blocks, nothing = classes.class_influence(fitted, data)
    assert nothing is None
    np.testing.assert_array_equal(blocks, whole)


def test_classes_without_examples_have_no_mean() -> None:
    given, asked = np.array([0, 0, 2, 2, 2]), np.array([0, 1, 1])
    data, fitted = scored(given, asked)
    matrix, examples = classes.class_influence(fitted, data)
    assert examples is not None
    np.testing.assert_array_equal(np.isnan(matrix), [[False, False, True], [True, True, True], [False, False, True]])
    assert np.isnan(examples[2]).all()
    np.testing.assert_allclose(matrix[:, :2], dense(fitted.values, given, asked, 3)[:, :2], rtol=1e-6)


def scored(given: NDArray[np.int64], asked: NDArray[np.int64]) -> tuple[Dataset, Any]:
    """Three classes, and a method whose scores are known."""
    draw = np.random.default_rng(0)
    data = dataset_from_arrays(
        "known",
        draw.normal(size=(len(given), 2)),
        given,
        draw.normal(size=(len(asked), 2)),
        asked,
        n_classes=3,
    )
    return data, Known(draw.normal(size=(len(asked), len(given))).astype(np.float32))


def test_a_lost_matrix_comes_back_byte_for_byte(wine: Run, tmp_path: Path) -> None:
    copy = tmp_path / wine.key
    shutil.copytree(wine.path, copy)
    for name in (CLASS_MATRIX, CLASS_INFLUENCE, "state.json"):
        (copy / name).unlink()
    again = compute(tmp_path, SMALL)
    for name in (CLASS_MATRIX, CLASS_INFLUENCE):
        assert (again.path / name).read_bytes() == (wine.path / name).read_bytes()


def test_regression_has_no_classes(tmp_path: Path) -> None:
    run = compute(tmp_path, Request(str(line(tmp_path / "line.npz")), recipe=Recipe(epochs=2)))
    assert run.class_influence() is None
    assert not run.has(CLASS_MATRIX)
    assert not run.has(CLASS_INFLUENCE)
