"""Gradients and curvature against autograd in float64, and what each measure is in words."""

import numpy as np
import pytest
import torch
from torch import Tensor

from explorer.contracts import TARGETS, Target
from explorer.objectives import CrossEntropy, SquaredError, for_task, measure_unit

AUTOGRAD = 1e-14
"""Both sides are float64 closed forms of numbers of order one."""

OUTPUTS = 3 * torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0, 1, 2, 3, 3, 0, 1])
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
