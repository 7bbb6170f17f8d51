"""Gradients and curvature against autograd in float64, and what each measure is in words."""

import numpy as np
import pytest
import torch
from torch import Tensor

from explorer.contracts import ASKABLE, TARGETS, Target
from explorer.errors import SettingsError
from explorer.objectives import CrossEntropy, SquaredError, for_task, measure_unit

AUTOGRAD = 1e-14
"""Both sides are float64 closed forms of numbers of order one."""
STEP, DIFFERENCES = 1e-5, 1e-9
"""A central difference in float64: its error is a third derivative (at most 1) times step²/6, and 1e-16 over the step."""

OUTPUTS = 3 * torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0, 1, 2, 3, 3, 0, 1])
PAIRS = torch.tensor([[0, 1], [3, 0], [2, 1], [1, 2], [0, 3], [2, 0], [3, 2]])
VALUES = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
CASES = {
    "cross-entropy": (CrossEntropy(), OUTPUTS, CLASSES),
    "squared error": (SquaredError(), OUTPUTS[:, :1], VALUES),
}

each_case = pytest.mark.parametrize("case", CASES)
each_target = pytest.mark.parametrize("target", TARGETS)


def _gradient(values: Tensor, outputs: Tensor) -> Tensor:
    return torch.autograd.grad(values.sum(), outputs)[0]


@each_case
def test_loss_gradient_and_curvature_equal_autograd(case: str) -> None:
    objective, outputs, targets = CASES[case]
    point = outputs.clone().requires_grad_(True)
    expected = _gradient(objective.loss(point, targets), point)
    assert (objective.loss_gradient(outputs, targets) - expected).abs().max() < AUTOGRAD
    for row, found in enumerate(objective.loss_curvature(outputs)):
        one = targets[row : row + 1]
        hessian = torch.autograd.functional.hessian(lambda o, one=one: objective.loss(o[None], one)[0], outputs[row])
        assert (found - hessian).abs().max() < AUTOGRAD


@each_target
@each_case
def test_measure_gradient_equals_autograd(case: str, target: Target) -> None:
    objective, outputs, targets = CASES[case]
    point = outputs.clone().requires_grad_(True)
    expected = _gradient(objective.measure(point, targets, target), point)
    found = objective.measure_gradient(outputs, targets, target)
    assert found.shape == outputs.shape
    assert (found - expected).abs().max() < AUTOGRAD


COMPARED = [pytest.param("margin", CLASSES, id="margin"), pytest.param("contrast", PAIRS, id="contrast")]


@pytest.mark.parametrize(("target", "classes"), COMPARED)
def test_gradients_of_margin_and_contrast_equal_autograd_and_finite_differences(
    target: Target, classes: Tensor
) -> None:
    objective, point = CrossEntropy(), OUTPUTS.clone().requires_grad_(True)
    found = objective.measure_gradient(OUTPUTS, classes, target)
    assert found.shape == OUTPUTS.shape
    assert (found - _gradient(objective.measure(point, classes, target), point)).abs().max() < AUTOGRAD
    for k in range(OUTPUTS.shape[1]):
        step = torch.zeros_like(OUTPUTS)
        step[:, k] = STEP
        up, down = (objective.measure(OUTPUTS + sign * step, classes, target) for sign in (1, -1))
        assert ((up - down) / (2 * STEP) - found[:, k]).abs().max() < DIFFERENCES
    assert found.sum(1).abs().max() < AUTOGRAD  # a constant added to all logits changes no answer


def test_a_margin_is_the_log_odds_of_a_class_and_a_contrast_those_of_two() -> None:
    p = np.exp(OUTPUTS.numpy()) / np.exp(OUTPUTS.numpy()).sum(1, keepdims=True)
    own, rows = p[np.arange(7), CLASSES.numpy()], np.arange(7)
    objective = CrossEntropy()
    np.testing.assert_allclose(objective.measure(OUTPUTS, CLASSES, "margin"), np.log(own / (1 - own)), rtol=1e-12)
    odds = np.log(p[rows, PAIRS[:, 0].numpy()] / p[rows, PAIRS[:, 1].numpy()])
    np.testing.assert_allclose(objective.measure(OUTPUTS, PAIRS, "contrast"), odds, rtol=1e-12)
    assert torch.equal(
        objective.measure(OUTPUTS, PAIRS.flip(1), "contrast"), -objective.measure(OUTPUTS, PAIRS, "contrast")
    )


def test_of_two_classes_the_margin_is_the_contrast_with_the_other() -> None:
    objective, outputs = CrossEntropy(), OUTPUTS[:, :2]
    own = CLASSES % 2
    pairs = torch.stack([own, 1 - own], 1)
    for measured in (objective.measure, objective.measure_gradient):
        assert torch.equal(measured(outputs, own, "margin"), measured(outputs, pairs, "contrast"))


def test_margins_keep_their_gradient_where_an_answer_is_certain() -> None:
    outputs = torch.tensor([[800.0, 1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    found = CrossEntropy().measure_gradient(outputs.detach(), torch.tensor([0]), "margin")
    expected = torch.autograd.grad(outputs[0, 0] - outputs[0, 1:].logsumexp(0), outputs)[0]
    assert (found - expected).abs().max() < AUTOGRAD
    assert found[0, 0] == 1
    assert CrossEntropy().measure_gradient(outputs.detach(), torch.tensor([0]), "label").abs().max() == 0


@pytest.mark.parametrize("target", ["margin", "contrast"])
def test_a_regression_has_no_classes_to_compare(target: Target) -> None:
    objective = SquaredError()
    for measured in (objective.measure, objective.measure_gradient):
        with pytest.raises(SettingsError, match=f"out of label, prediction for a regression; found {target}"):
            measured(OUTPUTS[:, :1], VALUES, target)


@each_case
def test_curvature_is_symmetric_and_positive_semidefinite(case: str) -> None:
    objective, outputs, _ = CASES[case]
    curvature = objective.loss_curvature(outputs)
    assert curvature.shape == (len(outputs), outputs.shape[1], outputs.shape[1])
    assert torch.equal(curvature, curvature.mT)
    assert torch.linalg.eigvalsh(curvature).min() > -AUTOGRAD


def test_cross_entropy_measures_are_log_probabilities() -> None:
    objective = CrossEntropy()
    p = np.exp(OUTPUTS.numpy()) / np.exp(OUTPUTS.numpy()).sum(1, keepdims=True)
    label = np.log(p[np.arange(7), CLASSES.numpy()])
    np.testing.assert_allclose(objective.measure(OUTPUTS, CLASSES, "label"), label, rtol=AUTOGRAD * 10)
    np.testing.assert_allclose(objective.measure(OUTPUTS, CLASSES, "prediction"), np.log(p.max(1)), rtol=AUTOGRAD * 10)
    np.testing.assert_array_equal(objective.predict(OUTPUTS), p.argmax(1))


def test_squared_error_measures_are_half_the_squared_error_and_the_output() -> None:
    objective, outputs = SquaredError(), OUTPUTS[:, :1]
    np.testing.assert_array_equal(
        objective.measure(outputs, VALUES, "label"), -0.5 * (outputs[:, 0].numpy() - VALUES.numpy()) ** 2
    )
    np.testing.assert_array_equal(objective.measure(outputs, VALUES, "prediction"), outputs[:, 0])
    np.testing.assert_array_equal(objective.predict(outputs), outputs[:, 0])


@each_case
def test_the_label_measure_is_minus_the_loss(case: str) -> None:
    objective, outputs, targets = CASES[case]
    assert torch.equal(objective.measure(outputs, targets, "label"), -objective.loss(outputs, targets))


def test_prediction_asks_the_same_whatever_the_label() -> None:
    other = (CLASSES + 1) % 4
    first, second = (CrossEntropy().measure(OUTPUTS, labels, "prediction") for labels in (CLASSES, other))
    assert torch.equal(first, second)


def test_large_logits_stay_finite() -> None:
    outputs = torch.tensor([[1000.0, -1000.0, 0.0]])
    targets = torch.tensor([1])
    objective = CrossEntropy()
    assert objective.loss(outputs, targets).item() == 2000
    assert objective.loss_gradient(outputs, targets).tolist() == [[1.0, -1.0, 0.0]]
    assert torch.isfinite(objective.loss_curvature(outputs)).all()


def test_each_task_has_its_objective_and_its_unit() -> None:
    assert for_task("classification") == CrossEntropy()
    assert for_task("regression") == SquaredError()
    units = {measure_unit(task, target) for task in ("classification", "regression") for target in TARGETS}
    assert "nats" in measure_unit("classification", "label")
    assert len(units) == 3  # both targets of classification are log-probabilities
    assert {measure_unit("classification", target) for target in ASKABLE} == {
        "nats of log-probability",
        "nats of log-odds",
    }
