"""Which training examples moved this prediction, exactly, through the last layer? One inverse, two small products.

Influence through the layers below the head is not seen: for a deep model this is the effect of retraining the head
on frozen features. For a linear model it is the whole first-order effect.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from explorer.contracts import MEASURE_UNIT, Fitted, Progress, Queries, Scores, Subject, silent
from explorer.errors import SettingsError
from explorer.influence import gradients, linear, sequence_head
from explorer.influence.blocks import says_what_fits
from explorer.objectives import measure_unit

MAX_PARAMETERS = 10_000
"""Largest head whose dense float64 inverse is taken: 0.8 GB for the matrix, as much again for its factor."""
RELATIVE_DAMPING = 0.1
"""Default damping of a deep model's head, as a share of the curvature's mean eigenvalue."""


@dataclass(frozen=True)
class LastLayer:
    """Exact influence through the last layer, s(q, i) = −(1/n) ∇m_qᵀ (H + (wd + λ)I)⁻¹ g_i (Koh & Liang 2017).

    `damping` is λ >= 0. None chooses: 0 where the head is the whole model and weight decay makes the problem
    strongly convex (first order is then the true answer), else a tenth of H's mean eigenvalue. Where the head shares its
    weights with another layer (the stats name it as `tied`), scores are those of a head with a copy of its own.
    """

    damping: float | None = None
    name: ClassVar[str] = "last-layer"

    def __post_init__(self) -> None:
        if self.damping is not None and not (0 <= self.damping < float("inf")):
            raise SettingsError(
                f"Expected damping >= 0 and finite; found {self.damping}. Leave it out to have it chosen."
            )

    @says_what_fits
    def fit(self, subject: Subject, progress: Progress = silent) -> Fitted:
        """One forward pass over the training set, the curvature, one float64 Cholesky.

        Raises:
            SettingsError: the head is too large, or its curvature is singular at this damping.
            ModelError: the model does not end in an `nn.Linear`, or produces NaN.
        """
        began = time.perf_counter()
        if subject.objective.task == "sequence":
            return self._of_sequences(subject, progress, began)
        seen = gradients.train_pass(subject, progress)
        size = seen.features.shape[1] * seen.outputs.shape[1]
        if size > MAX_PARAMETERS:
            raise SettingsError(
                f"Expected a last layer of at most {MAX_PARAMETERS} parameters for the exact inverse; found {size} "
                f"({seen.features.shape[1]} features x {seen.outputs.shape[1]} outputs). Use the method gradient-dot."
            )
        hessian = linear.curvature(seen.features, seen.outputs, subject.objective, progress)
        mean_eigenvalue = float(hessian.diagonal().mean())
        damping = self._damping(seen.head.is_whole_model, subject.weight_decay, mean_eigenvalue)
        hessian.diagonal().add_(subject.weight_decay + damping)
        factor = _factor(hessian, subject.weight_decay, damping)
        stats = {
            "damping": damping,
            "damping_rule": self._rule(seen.head.is_whole_model, subject.weight_decay),
            "weight_decay": subject.weight_decay,
            "mean_eigenvalue": mean_eigenvalue,
            "residual": _residual(hessian, factor),
            "parameters": size,
            "whole_model": seen.head.is_whole_model,
            "seconds": time.perf_counter() - began,
        } | seen.head.stats
        return FittedLastLayer(subject, seen.features, seen.errors, factor, stats)

    def restore(self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]) -> Fitted:
        """The fitted method from `tensors()` and `stats`."""
        if subject.objective.task == "sequence":
            head = sequence_head.SequenceHead.of(subject)
            return sequence_head.solved(subject, head, tensors["factor"].mT, self.name, stats)
        return FittedLastLayer(subject, tensors["features"], tensors["errors"], tensors["factor"].mT, dict(stats))

    def _of_sequences(self, subject: Subject, progress: Progress, began: float) -> Fitted:
        """The same with a row for every asked position, whose gradients are summed."""
        head = sequence_head.SequenceHead.of(subject)
        if head.layer.size > MAX_PARAMETERS:
            raise SettingsError(
                f"Expected a last layer of at most {MAX_PARAMETERS} parameters for the exact inverse; found "
                f"{head.layer.size} ({head.layer.width_in} features x {head.layer.width_out} tokens). Use the method gradient-dot, or ekfac."
            )
        hessian = sequence_head.curvature(subject, head, progress)
        mean_eigenvalue = float(hessian.diagonal().mean())
        whole = head.is_whole_model
        damping = self._damping(whole, subject.weight_decay, mean_eigenvalue)
        hessian.diagonal().add_(subject.weight_decay + damping)
        factor = _factor(hessian, subject.weight_decay, damping)
        stats = {
            "damping": damping,
            "damping_rule": self._rule(whole, subject.weight_decay),
            "weight_decay": subject.weight_decay,
            "mean_eigenvalue": mean_eigenvalue,
            "residual": _residual(hessian, factor),
            "parameters": head.layer.size,
            "whole_model": whole,
            "seconds": time.perf_counter() - began,
        } | head.stats
        return sequence_head.solved(subject, head, factor, self.name, stats)

    def _rule(self, whole: bool, decay: float) -> str:
        if self.damping is not None:
            return "chosen by the user"
        return "0: strongly convex" if whole and decay > 0 else f"{RELATIVE_DAMPING} x mean eigenvalue"

    def _damping(self, whole: bool, decay: float, mean_eigenvalue: float) -> float:
        if self.damping is not None:
            return self.damping
        return 0.0 if whole and decay > 0 else RELATIVE_DAMPING * mean_eigenvalue


@dataclass(frozen=True)
class FittedLastLayer:
    """Training features `[n, p]`, errors `[n, k]`, lower Cholesky factor `[k·p, k·p]` of the damped curvature."""

    subject: Subject
    features: Tensor
    errors: Tensor
    factor: Tensor
    stats: Mapping[str, Any]
    unit: str = MEASURE_UNIT

    def redamped(self, damping: float) -> "FittedLastLayer":
        """The same curvature, taken from its factor, at another λ; cost (k·p)³.

        Raises:
            SettingsError: the damping is negative or not finite, or the curvature is singular at it.
        """
        given = LastLayer(damping)
        hessian = self.factor @ self.factor.mT
        hessian.diagonal().add_(damping - self.stats["damping"])
        factor = _factor(hessian, self.stats["weight_decay"], damping)
        stats = {
            **self.stats,
            "damping": given.damping,
            "damping_rule": "given",
            "residual": _residual(hessian, factor),
        }
        return FittedLastLayer(self.subject, self.features, self.errors, factor, stats)

    def score(self, queries: Queries, progress: Progress = silent, out: Tensor | None = None) -> Scores:
        """Influence `[query, train]`; cost (k·p)² + n·k·p a query."""
        features, pulls = gradients.query_pass(self.subject, queries)
        directions = self._solve(linear.outer(pulls, features))
        values = linear.contract(directions, self.features, self.errors, progress, out)
        return Scores(
            values.float(),
            queries.examples.ids[queries.rows],
            self.subject.train.ids,
            LastLayer.name,
            queries.target,
            measure_unit(self.subject.objective.task, queries.target),
            self.stats,
        )

    def weighted(self, queries: Queries, weights: Tensor, progress: Progress = silent) -> Tensor:
        """Weighted sums over queries `[k, train]`: the gradients are summed first, then solved once."""
        directions = gradients.weighted_gradients(self.subject, queries, weights)
        return linear.contract(self._solve(directions), self.features, self.errors, progress).float()

    def self_influence(self, progress: Progress = silent) -> Tensor:
        """(1/n) g_iᵀ H⁻¹ g_i, float32 `[n]`."""
        return linear.self_products(self.factor, self.features, self.errors, progress).float()

    def tensors(self) -> dict[str, Tensor]:
        """`features`, `errors`, and `factor` transposed: columns come first in memory, and files want rows."""
        return {"features": self.features, "errors": self.errors, "factor": self.factor.mT.contiguous()}

    def _solve(self, gradients_: Tensor) -> Tensor:
        solved: Tensor = torch.cholesky_solve(gradients_.T.contiguous(), self.factor)
        return solved.transpose(0, 1)


def _factor(hessian: Tensor, decay: float, damping: float) -> Tensor:
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(hessian)
    smallest = factor.diagonal().min() / factor.diagonal().max() if not failed else torch.tensor(0.0)
    if failed or not torch.isfinite(smallest) or smallest < 1e-7:
        raise SettingsError(
            f"Expected an invertible curvature; found a singular one at damping {damping:g} and weight decay "
            f"{decay:g}. Choose a larger damping, or leave it out to have it chosen."
        )
    return factor


def _residual(hessian: Tensor, factor: Tensor) -> float:
    """‖Hx − b‖ / ‖b‖ for one fixed right-hand side: what the float64 solve leaves over."""
    right = torch.randn(len(hessian), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return float((hessian @ torch.cholesky_solve(right, factor) - right).norm() / right.norm())
