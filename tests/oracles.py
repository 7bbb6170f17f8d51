"""Slow and obvious twins of what the product computes: dense autograd Hessians, loops, closed forms, real refits.

Shares no code with `explorer/`: losses and measures are written out again, everything is float64, and the last
layer's parameters are one flat vector θ = (weight, bias).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tests.problems import Problem, one_thread


@dataclass(frozen=True)
class Head:
    """The last layer as mathematics: features `[n, d]` of each split, targets, and θ at the trained weights."""

    theta: Tensor
    outputs: int
    bias: bool
    train: Tensor
    train_targets: Tensor
    test: Tensor
    test_targets: Tensor
    weight_decay: float

    def logits(self, theta: Tensor, features: Tensor) -> Tensor:
        d = features.shape[1]
        weight = theta[: self.outputs * d].reshape(self.outputs, d)
        return functional.linear(features, weight, theta[self.outputs * d :] if self.bias else None)


def head_of(problem: Problem) -> Head:
    body = copy.deepcopy(problem.body).double().eval()
    parts = [problem.head.weight.detach().flatten()]
    if problem.head.bias is not None:
        parts.append(problem.head.bias.detach())
    with torch.no_grad():
        train, test = body(problem.train.inputs.double()), body(problem.test.inputs.double())
    return Head(
        theta=torch.cat(parts).double(),
        outputs=problem.head.out_features,
        bias=problem.head.bias is not None,
        train=train,
        train_targets=problem.train.targets,
        test=test,
        test_targets=problem.test.targets,
        weight_decay=problem.weight_decay,
    )


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Per-example loss `[b]`: softmax cross-entropy, or half the squared error of a single output."""
    if outputs.shape[1] == 1:
        return 0.5 * (outputs[:, 0] - targets.double()) ** 2
    return torch.logsumexp(outputs, 1) - outputs[torch.arange(len(outputs)), targets]


def measures(outputs: Tensor, targets: Tensor, target: str) -> Tensor:
    """What a query asks, higher is better: −loss of the label, or the model's own answer."""
    if target == "label":
        return -losses(outputs, targets)
    if outputs.shape[1] == 1:
        return outputs[:, 0]
    answer = outputs.detach().argmax(1)
    return outputs[torch.arange(len(outputs)), answer] - torch.logsumexp(outputs, 1)


@one_thread()
def hessian(head: Head) -> Tensor:
    """Dense Hessian of the mean training loss over the last layer, by autograd, without weight decay or damping."""

    def mean_loss(theta: Tensor) -> Tensor:
        return losses(head.logits(theta, head.train), head.train_targets).mean()

    return torch.autograd.functional.hessian(mean_loss, head.theta, vectorize=True)


@one_thread()
def loss_gradients(head: Head) -> Tensor:
    """g_i of every training example, one backward pass each, `[n, parameters]`."""
    theta = head.theta.clone().requires_grad_(True)
    rows = []
    for i in range(len(head.train)):
        loss = losses(head.logits(theta, head.train[i : i + 1]), head.train_targets[i : i + 1])[0]
        rows.append(torch.autograd.grad(loss, theta)[0])
    return torch.stack(rows)


def measure_gradients(head: Head, target: str) -> Tensor:
    """∇m_q of every test example, one backward pass each, `[q, parameters]`."""
    theta = head.theta.clone().requires_grad_(True)
    rows = []
    for q in range(len(head.test)):
        measure = measures(head.logits(theta, head.test[q : q + 1]), head.test_targets[q : q + 1], target)[0]
        rows.append(torch.autograd.grad(measure, theta)[0])
    return torch.stack(rows)


def last_layer_scores(problem: Problem, target: str, damping: float) -> Tensor:
    """s(q, i) = −(1/n) ∇m_qᵀ (H + (wd + λ) I)⁻¹ g_i, `[q, n]`."""
    head = head_of(problem)
    inverse = torch.linalg.inv(_damped(head, damping))
    return -measure_gradients(head, target) @ inverse @ loss_gradients(head).T / len(head.train)


def last_layer_self(problem: Problem, damping: float) -> Tensor:
    """(1/n) g_iᵀ (H + (wd + λ) I)⁻¹ g_i, `[n]`."""
    head = head_of(problem)
    inverse, gradients = torch.linalg.inv(_damped(head, damping)), loss_gradients(head)
    return torch.stack([g @ inverse @ g for g in gradients]) / len(head.train)


def dot_scores(problem: Problem, target: str) -> Tensor:
    """−(1/n) ∇m_q · g_i, `[q, n]`."""
    head = head_of(problem)
    return -measure_gradients(head, target) @ loss_gradients(head).T / len(head.train)


def dot_self(problem: Problem) -> Tensor:
    """(1/n) ‖g_i‖², `[n]`."""
    head = head_of(problem)
    return loss_gradients(head).square().sum(1) / len(head.train)


def default_damping(problem: Problem) -> float:
    """0 where the head is the whole model and decays; a tenth of the Hessian's mean eigenvalue elsewhere."""
    if problem.whole and problem.weight_decay > 0:
        return 0.0
    return float(0.1 * torch.linalg.eigvalsh(hessian(head_of(problem))).mean())


@one_thread()
def refit(head: Head, without: list[int]) -> Tensor:
    """θ trained again with the weight of some examples at zero and the 1/n kept, by Newton to rounding."""
    weights = torch.ones(len(head.train), dtype=torch.float64)
    weights[without] = 0

    def objective(theta: Tensor) -> Tensor:
        fit = (weights * losses(head.logits(theta, head.train), head.train_targets)).sum() / len(weights)
        return fit + 0.5 * head.weight_decay * theta.square().sum()

    theta = head.theta
    for _ in range(50):
        point = theta.clone().requires_grad_(True)
        gradient = torch.autograd.grad(objective(point), point)[0]
        if gradient.abs().max() < 1e-12:
            return theta
        curvature = torch.autograd.functional.hessian(objective, theta, vectorize=True)
        step = torch.linalg.solve(curvature, gradient)
        size = 1.0
        while objective(theta - size * step) > objective(theta) + 1e-15 and size > 1e-6:
            size /= 2
        theta = theta - size * step
    raise AssertionError("Newton did not converge: the problem is not convex enough to be an oracle")


def test_measures(head: Head, theta: Tensor, target: str) -> Tensor:
    """m_q(θ) of every test example; the answer asked about stays that of the trained model."""
    outputs, trained = head.logits(theta, head.test), head.logits(head.theta, head.test)
    if target == "prediction" and outputs.shape[1] > 1:
        return -losses(outputs, trained.argmax(1))
    return measures(outputs, head.test_targets, target)


test_measures.__test__ = False  # a name pytest would take for a test


def refits(problem: Problem) -> Tensor:
    """θ really retrained without each training example in turn, `[n, parameters]`."""
    head = head_of(problem)
    return torch.stack([refit(head, [i]) for i in range(len(head.train))])


def leave_one_out(problem: Problem, without: Tensor, target: str) -> Tensor:
    """m_q(θ) − m_q(θ without i), `[q, n]`, from the `refits` of the problem."""
    head = head_of(problem)
    full = test_measures(head, refit(head, []), target)
    return torch.stack([full - test_measures(head, theta, target) for theta in without], dim=1)


def ridge_solution(x: Tensor, y: Tensor, weights: Tensor, weight_decay: float) -> Tensor:
    """argmin (1/2n) Σ w_i (x̃_iᵀθ − y_i)² + (wd/2)‖θ‖², bias last and decayed too."""
    ones = np.hstack([x.double().numpy(), np.ones((len(x), 1))])
    w, n = weights.double().numpy(), len(x)
    left = (ones * w[:, None]).T @ ones / n + weight_decay * np.eye(ones.shape[1])
    return torch.from_numpy(np.linalg.solve(left, (ones * w[:, None]).T @ y.double().numpy() / n))


def ridge_derivative(problem: Problem, target: str) -> Tensor:
    """d m_q / d w_i at w = 1 for ridge, in closed form: A⁻¹ x̃_i (y_i − f_i)/n is dθ/dw_i, `[q, n]`."""
    x, y, queries, asked, theta = _ridge_parts(problem)
    n = len(x)
    A = x.T @ x / n + problem.weight_decay * np.eye(x.shape[1])
    d_theta = np.linalg.solve(A, x.T * (y - x @ theta)) / n
    d_output = queries @ d_theta
    return torch.from_numpy(d_output if target == "prediction" else (asked - queries @ theta)[:, None] * d_output)


def ridge_leave_one_out(problem: Problem, target: str) -> Tensor:
    """m_q(θ) − m_q(θ without i) for ridge by Sherman-Morrison, `[q, n]`."""
    x, y, queries, asked, theta = _ridge_parts(problem)
    n = len(x)
    A = x.T @ x / n + problem.weight_decay * np.eye(x.shape[1])
    solved = np.linalg.solve(A, x.T)
    leverage = (x.T * solved).sum(0) / n
    before = queries @ theta
    after = before[:, None] - queries @ (solved * (y - x @ theta)) / n / (1 - leverage)
    if target == "prediction":
        return torch.from_numpy(before[:, None] - after)
    return torch.from_numpy(-0.5 * ((before - asked) ** 2)[:, None] + 0.5 * (after - asked[:, None]) ** 2)


def _ridge_parts(problem: Problem) -> tuple[np.ndarray, ...]:
    def with_one(x: Tensor) -> np.ndarray:
        return np.hstack([x.double().numpy(), np.ones((len(x), 1))])

    x, y = problem.train.inputs, problem.train.targets
    theta = ridge_solution(x, y, torch.ones(len(x)), problem.weight_decay).numpy()
    asked = problem.test.targets.double().numpy()
    return with_one(x), y.double().numpy(), with_one(problem.test.inputs), asked, theta


def _damped(head: Head, damping: float) -> Tensor:
    H = hessian(head)
    return H + (head.weight_decay + damping) * torch.eye(len(H), dtype=H.dtype)
