"""Margins and contrasts through every method: each row keeps its own classes, and they add up as log-probabilities do."""

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from explorer.contracts import Fitted, Queries, Recipe, Subject, Target, Training
from explorer.errors import SettingsError
from explorer.influence import METHODS, OF_TWO_STAGES, backward, bias_only, gradients, tracin, value_embedding
from explorer.objectives import CrossEntropy, SquaredError
from explorer.retraining import Retraining, measures
from explorer.training import train_epochs
from tests import problems
from tests.fakes import ListExamples, blobs, line

ROUNDING = 1e-4
"""Share of the largest score: float32 features and sums (6e-8), the inverse of a small curvature magnifies their error."""
ITERATIVE = {"conjugate-gradient": 3e-2, "refine": 3e-2}
"""Share for methods that stop at a tolerance: at a residual of 1e-2 of each query's own gradient."""
CHEAPER: dict[str, dict[str, Any]] = {
    "lissa": {"depth": 40},
    "arnoldi": {"projections": 20},
    "two-stage": {"proximal": 0.3},
}
"""A sum that is cut short is as linear in the query as a long one."""
RECIPE = Recipe(epochs=2, rate=0.1, momentum=0.5, weight_decay=0.02, batch_size=8, seed=1)
N, CLASSES = 24, 3
ROWS = [0, 3, 1, 0, 2, 3, 1]
PAIRS = np.array([[0, 1], [2, 0], [1, 2], [2, 1], [0, 2], [1, 0], [2, 1]])
"""What is asked of each of `ROWS`: the same row is asked about other classes when it comes again."""
ALIKE = ("kfac", "refine", "arnoldi", "lissa")
"""Methods that ask about their queries as another one here does: left to `make slow`."""
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else []) for name in METHODS]
ROADS = ("last-layer", "bias-only", "ekfac", "trak", "relative", "metagradient", "data-value-embedding")
"""Methods by each of the roads from a query to its gradient, which is taken at the final weights."""


@pytest.fixture(autouse=True)
def one_thread():
    with problems.one_thread():
        yield


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two or three queries: classes must be cut as the rows are."""
    for module, name, size in (
        (gradients, "BATCH", 3),
        (bias_only, "BATCH", 3),
        (backward, "BATCH", 3),
        (value_embedding, "ROWS", 3),
        (value_embedding, "ELEMENTS", 2 * 53),
        (tracin, "ELEMENTS", 3 * N),
    ):
        monkeypatch.setattr(module, name, size)


@cache
def subject() -> Subject:
    """A small network after its own training, which it can tell of."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, CLASSES))
    states, train = [copy.deepcopy(model.state_dict())], blobs(N)
    for _ in train_epochs(model, CrossEntropy(), train, asked(), RECIPE):
        states.append(copy.deepcopy(model.state_dict()))
    told = Training(RECIPE, RECIPE.epochs, lambda epoch: states[epoch])
    return Subject(model, train, CrossEntropy(), RECIPE.weight_decay, "k", told)


def asked(labels: np.ndarray | None = None) -> ListExamples:
    """The examples asked about; with other labels they are asked about those."""
    found = blobs(4, seed=1, prefix="t")
    return found if labels is None else ListExamples([found.inputs[row] for row in ROWS], labels, "t")


@cache
def fitted(name: str) -> Fitted:
    of = replace(subject(), pretrained=subject()) if name in OF_TWO_STAGES else subject()
    return METHODS[name](**CHEAPER.get(name, {})).fit(of)


def of_label(name: str, labels: np.ndarray) -> Tensor:
    """Scores of log p(label) for each of `ROWS`, as if these were the labels given."""
    return fitted(name).score(Queries(asked(labels), np.arange(len(ROWS)))).values


def queries(target: Target, classes: Any = None) -> Queries:
    return Queries(asked(), np.array(ROWS), target, None if classes is None else np.asarray(classes))


def close(actual: Tensor, expected: Tensor, name: str) -> None:
    assert actual.shape == expected.shape
    error = (actual.double() - expected.double()).abs().max() / expected.double().abs().max()
    assert error <= ITERATIVE.get(name, ROUNDING), f"{error:.1e} of the largest score"


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", NAMES)
def test_a_contrast_is_the_difference_of_two_log_probabilities(name: str) -> None:
    scores = fitted(name).score(queries("contrast", PAIRS))
    close(scores.values, of_label(name, PAIRS[:, 0]) - of_label(name, PAIRS[:, 1]), name)
    assert scores.target == "contrast"
    assert scores.unit == fitted(name).unit.replace("unit of the measure", "nats of log-odds")
    assert list(scores.query_ids) == [f"t{row}" for row in ROWS]
    turned = fitted(name).score(queries("contrast", PAIRS[:, ::-1])).values
    close(turned, -scores.values, name)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", ROADS)
def test_a_margin_is_the_log_probability_s_score_over_the_doubt(name: str) -> None:
    """∇ log p_c = (1 − p_c) ∇ margin c."""
    chosen = PAIRS[:, 0]
    with torch.no_grad():
        p = subject().model(asked().batch(np.array(ROWS))).double().softmax(1)[torch.arange(len(ROWS)), chosen]
    close(fitted(name).score(queries("margin", chosen)).values, of_label(name, chosen) / (1 - p)[:, None], name)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", NAMES)
def test_sums_over_queries_keep_each_row_s_classes(name: str) -> None:
    weights = torch.randn(2, len(ROWS), generator=torch.Generator().manual_seed(0))
    scores = fitted(name).score(queries("contrast", PAIRS)).values
    close(fitted(name).weighted(queries("contrast", PAIRS), weights), weights @ scores, name)


@pytest.mark.parametrize("name", NAMES)
def test_a_margin_without_a_class_is_that_of_the_label(name: str) -> None:
    labels = asked().labels[ROWS]
    named, left_out = (fitted(name).score(queries("margin", classes)).values for classes in (labels, None))
    assert torch.equal(named, left_out)


@pytest.mark.parametrize("name", NAMES)
def test_a_class_that_the_model_does_not_know_is_a_message(name: str) -> None:
    for wrong in (CLASSES, -1):
        classes = np.array([[0, 1]] * 6 + [[wrong, 1]])
        with pytest.raises(SettingsError, match=rf"classes in 0..2 for the contrast .* found {wrong}\. Choose"):
            fitted(name).score(queries("contrast", classes))


@pytest.mark.parametrize("name", ["last-layer", "ekfac", "bias-only"])
def test_a_regression_has_no_classes(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    found = METHODS[name]().fit(Subject(model, line(N), SquaredError(), 0.02, "k"))
    test, rows = line(2, seed=1), np.arange(2)
    for asked_about in (Queries(test, rows, "margin"), Queries(test, rows, "contrast", np.array([[0, 1]] * 2))):
        with pytest.raises(SettingsError, match=r"two or more classes .* found 1 output"):
            found.score(asked_about)


@pytest.mark.parametrize(
    ("target", "classes", "words"),
    [
        ("odds", None, "one of label, prediction, margin, contrast; found 'odds'"),
        ("contrast", None, "two classes P, Q for a contrast; found none"),
        ("contrast", PAIRS[:, 0], r"\[7, 2\] for the contrast of 7 queries; found int64 \[7\]. Give two classes"),
        ("contrast", PAIRS[:3], r"\[7, 2\] for the contrast of 7 queries; found int64 \[3, 2\]"),
        ("contrast", np.tile([2, 2], (7, 1)), "two different classes for a contrast; found 2 twice"),
        ("margin", PAIRS, r"\[7\] for the margin of 7 queries; found int64 \[7, 2\]. Give a class"),
        ("margin", PAIRS[:, 0] / 2, r"whole numbers \[7\] .* found float64"),
        ("label", PAIRS[:, 0], "no classes for the target label; found"),
    ],
)
def test_questions_that_do_not_fit_are_messages(target: Target, classes: Any, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        queries(target, classes)


def test_blocks_keep_the_question() -> None:
    whole = queries("contrast", PAIRS)
    part = whole.block(slice(2, 5))
    assert part.rows.tolist() == ROWS[2:5]
    assert part.classes is not None
    assert part.classes.tolist() == PAIRS[2:5].tolist()
    assert (part.target, part.examples) == ("contrast", whole.examples)
    assert queries("label").block(slice(0, 1)).classes is None


def test_retrained_models_are_asked_about_the_same_classes() -> None:
    def fresh(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Linear(6, CLASSES)

    plan = Retraining(fresh, blobs(N), CrossEntropy(), RECIPE)
    masks = np.random.default_rng(0).random((3, N)) < 0.6
    with torch.random.fork_rng(devices=[]):
        contrast = measures(plan, masks, [0, 1, 2], queries("contrast", PAIRS))
        p, q = (measures(plan, masks, [0, 1, 2], Queries(asked(PAIRS[:, k]), np.arange(len(ROWS)))) for k in (0, 1))
        margin = measures(plan, masks, [0, 1, 2], queries("margin", PAIRS[:, 0]))
        with pytest.raises(SettingsError, match=r"classes in 0..2 .* found 7"):
            measures(plan, masks[:1], [0], queries("margin", np.full(7, 7)))
    torch.testing.assert_close(contrast, p - q, rtol=0, atol=1e-5)
    torch.testing.assert_close(margin, p - torch.log1p(-p.exp()), rtol=0, atol=1e-4)
