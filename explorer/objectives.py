"""What was the model trained for, and what does a query ask about, in terms of the model's raw outputs?

Closed forms for cross-entropy and squared error with their first and second derivatives with respect to the
outputs. Knows no model, no parameters and no influence method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from explorer.contracts import TARGETS, Objective, ObjectiveTask, Target, Task
from explorer.errors import SettingsError


@dataclass(frozen=True)
class CrossEntropy:
    """Softmax classification: outputs are logits `[b, classes]`, targets int64 `[b]`.

    The targets `label` and `prediction` of a query are log-probabilities in nats: of the given label, or of the model's
    own answer. `margin` and `contrast` compare logits: nats of log-odds, of a class against all others (targets: that
    class, `[b]`) or of P against Q whatever the others (targets: P and Q, `[b, 2]`).
    """

    task: ClassVar[ObjectiveTask] = "classification"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """−log p(target), `[b]`."""
        return functional.cross_entropy(outputs, targets, reduction="none")

    def loss_gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Softmax minus one-hot, `[b, classes]`."""
        return outputs.softmax(1) - functional.one_hot(targets, outputs.shape[1])

    def loss_curvature(self, outputs: Tensor) -> Tensor:
        """diag(p) − p pᵀ, `[b, classes, classes]`; the same for every target.

        The diagonal p(1 − p) is summed from the other classes' probabilities: it stays exact, and the matrix positive
        semi-definite, for answers so sure that 1 − p rounds to zero.
        """
        p = outputs.softmax(1)
        pairs = p.unsqueeze(2) * p.unsqueeze(1)
        pairs.diagonal(dim1=1, dim2=2).zero_()
        return torch.diag_embed(pairs.sum(2)) - pairs

    def measure(self, outputs: Tensor, targets: Tensor, target: Target) -> Tensor:
        """log p of the label or the model's own answer, f_c − log Σ_{k≠c} exp f_k, or f_P − f_Q, `[b]`."""
        if target == "contrast":
            return outputs.gather(1, targets[:, :1])[:, 0] - outputs.gather(1, targets[:, 1:])[:, 0]
        if target == "margin":
            own = targets.unsqueeze(1)
            return outputs.gather(1, own)[:, 0] - outputs.scatter(1, own, -torch.inf).logsumexp(1)
        return -self.loss(outputs, self._asked(outputs, targets, target))

    def measure_gradient(self, outputs: Tensor, targets: Tensor, target: Target) -> Tensor:
        """One-hot of what is asked minus softmax, `[b, classes]` (the answer itself is held fixed).

        For a margin the softmax is over the other classes alone, so that it does not fade for a certain answer; for a
        contrast one-hot of P minus one-hot of Q.
        """
        if target == "contrast":
            signs = outputs.new_tensor([[1.0, -1.0]]).expand(len(outputs), 2)
            return torch.zeros_like(outputs).scatter(1, targets, signs)
        if target == "margin":
            own = targets.unsqueeze(1)
            return -outputs.scatter(1, own, -torch.inf).softmax(1).scatter(1, own, -1.0)
        return -self.loss_gradient(outputs, self._asked(outputs, targets, target))

    def predict(self, outputs: Tensor) -> Tensor:
        """The most probable class, int64 `[b]`."""
        return outputs.argmax(1)

    def _asked(self, outputs: Tensor, targets: Tensor, target: Target) -> Tensor:
        return targets if target == "label" else self.predict(outputs)


@dataclass(frozen=True)
class SquaredError:
    """Least squares on one output: outputs `[b, 1]`, targets float `[b]`, loss ½(output − target)².

    `label` asks about −½ squared error, `prediction` about the output itself (more is "towards").
    """

    task: ClassVar[ObjectiveTask] = "regression"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """½(output − target)², `[b]`."""
        return 0.5 * (outputs[:, 0] - targets).square()

    def loss_gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Output − target, `[b, 1]`."""
        return outputs - targets.unsqueeze(1)

    def loss_curvature(self, outputs: Tensor) -> Tensor:
        """One, `[b, 1, 1]`."""
        return torch.ones(len(outputs), 1, 1, dtype=outputs.dtype, device=outputs.device)

    def measure(self, outputs: Tensor, targets: Tensor, target: Target) -> Tensor:
        """−½(output − target)², or the output, `[b]`."""
        _no_classes(target)
        return -self.loss(outputs, targets) if target == "label" else outputs[:, 0]

    def measure_gradient(self, outputs: Tensor, targets: Tensor, target: Target) -> Tensor:
        """Target − output, or one, `[b, 1]`."""
        _no_classes(target)
        return -self.loss_gradient(outputs, targets) if target == "label" else torch.ones_like(outputs)

    def predict(self, outputs: Tensor) -> Tensor:
        """The output, `[b]`."""
        return outputs[:, 0]


def for_task(task: Task) -> Objective:
    """The objective the project trains and explains for a task with one target an example (see `token_models` for sequences).

    Raises:
        SettingsError: the task is of sequences.
    """
    if task == "sequence":
        raise SettingsError(
            "Expected a task with one target an example; found sequences, whose objective depends on their tokens. Bind them "
            "by `token_models.sequence_subject`."
        )
    return CrossEntropy() if task == "classification" else SquaredError()


def measure_unit(task: ObjectiveTask, target: Target) -> str:
    """The unit of a query's measure, as shown beside every influence."""
    if task != "regression":
        return "nats of log-probability" if target in TARGETS else "nats of log-odds"
    return "½ squared error" if target == "label" else "units of the output"


def _no_classes(target: Target) -> None:
    if target not in TARGETS:
        raise SettingsError(
            f"Expected a target out of {', '.join(TARGETS)} for a regression; found {target}, which compares classes. "
            "Ask about the prediction: the output itself."
        )
