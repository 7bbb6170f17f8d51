"""Which training examples moved this prediction, through nothing but a constant added to the outputs?

The cheapest influence with a curvature: as many numbers an example as there are outputs, no features and no backward
pass, for any model. It sees which mistakes are alike, not which inputs are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explorer.contracts import MEASURE_UNIT, Examples, Fitted, Objective, Progress, Queries, Scores, Subject, silent
from explorer.errors import DataError
from explorer.influence import projection
from explorer.influence.backward import check_finite
from explorer.influence.blocks import in_blocks, says_what_fits
from explorer.influence.damping import Damping
from explorer.influence.gradients import BATCH, ONE_FORWARD, asked_of, targets_of
from explorer.influence.layers import PROBED, check_outputs, check_steady, evaluation
from explorer.loading import as_model_input
from explorer.objectives import measure_unit
from explorer.sequences import SequenceLogProbability

RELATIVE_DAMPING = 0.1
"""Default damping without weight decay, as a share of the mean eigenvalue."""
SINGULAR = 1e-14
"""Share of the largest pivot below which float64 cannot tell one from zero."""


@dataclass(frozen=True)
class BiasOnly:
    """s(q, i) = −(1/n) r_qᵀ (H_b + (wd + λ)I)⁻¹ e_i, e_i and r_q the gradients of loss and measure in the outputs.

    Estimates what leaving i out does to q when only a constant b, added to the outputs, is fitted again with its share
    (wd/2)‖b‖² of the objective: the last layer's bias, or one that it could have had. H_b = (1/n) Σ ∇²_f l_i, k x k, is
    exact. `damping` is λ >= 0; None chooses 0 where weight decay makes the problem strongly convex, else a tenth of H_b's
    mean eigenvalue. Of sequences it is one constant for all positions.
    """

    damping: float | None = None
    name: ClassVar[str] = "bias-only"

    def __post_init__(self) -> None:
        Damping(self.damping, RELATIVE_DAMPING)

    @says_what_fits
    def fit(self, subject: Subject, progress: Progress = silent) -> Fitted:
        """One forward pass over the training set and a k x k Cholesky.

        Raises:
            ModelError: the model's output is not `[batch, outputs]`, or not finite.
            SettingsError: the curvature is singular at this damping.
        """
        began = time.perf_counter()
        rows = np.arange(len(subject.train), dtype=np.int64)
        check_steady(subject.model, subject.train.batch(rows[:PROBED]))
        total: Tensor | None = None
        errors = []
        for start, outputs in _outputs(subject, subject.train, rows, progress):
            targets = targets_of(subject.train, rows[start : start + len(outputs)], outputs.shape[1])
            errors.append(_shared(subject.objective, subject.objective.loss_gradient(outputs, targets)))
            part = _curvature(subject.objective, outputs)
            total = part if total is None else total + part
        if total is None:
            raise DataError("Expected at least one training example; found none. Give the examples it was trained on.")
        curvature = total / len(rows)
        mean = float(curvature.diagonal().mean())
        convex = self.damping is None and subject.weight_decay > 0
        damping = Damping(0.0 if convex else self.damping, RELATIVE_DAMPING)
        curvature.diagonal().add_(subject.weight_decay + damping.of(mean))
        remedy = damping.remedy(mean)
        factor = projection.lower_factor(curvature, SINGULAR, "the outputs' curvature", remedy)
        stats = {
            "damping": damping.of(mean),
            "damping_rule": "0: strongly convex" if convex else damping.rule,
            "weight_decay": subject.weight_decay,
            "mean_eigenvalue": mean,
            "parameters": len(curvature),
            "seconds": time.perf_counter() - began,
        }
        return FittedBiasOnly(subject, torch.cat(errors), factor, stats)

    def restore(self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]) -> Fitted:
        """The fitted method from `tensors()` and `stats`."""
        return FittedBiasOnly(subject, tensors["errors"], tensors["factor"].mT, dict(stats))


@dataclass(frozen=True)
class FittedBiasOnly:
    """Loss gradients in the outputs, `errors [n, k]`, and the lower Cholesky factor of the damped curvature, float64."""

    subject: Subject
    errors: Tensor
    factor: Tensor
    stats: Mapping[str, Any]
    unit: str = MEASURE_UNIT

    def score(self, queries: Queries, progress: Progress = silent, out: Tensor | None = None) -> Scores:
        """Influence `[query, train]`; cost a forward pass over the queries and k multiply-adds a pair."""
        pulls = self._asked(queries)
        values = torch.zeros(len(pulls), len(self.errors)) if out is None else out.zero_()
        projection.add_product(values, self._solved(pulls), self.errors, progress)
        return Scores(
            values,
            queries.examples.ids[queries.rows],
            self.subject.train.ids,
            BiasOnly.name,
            queries.target,
            measure_unit(self.subject.objective.task, queries.target),
            self.stats,
        )

    def weighted(self, queries: Queries, weights: Tensor, progress: Progress = silent) -> Tensor:
        """Weighted sums over queries `[k, train]`: the gradients are summed first."""
        values = torch.zeros(len(weights), len(self.errors))
        projection.add_product(values, self._solved(weights.double() @ self._asked(queries)), self.errors, progress)
        return values

    def self_influence(self, progress: Progress = silent) -> Tensor:
        """(1/n) e_iᵀ (H_b + (wd + λ)I)⁻¹ e_i, float32 `[n]`."""
        return (projection.self_products([self.factor], self.errors, progress) / len(self.errors)).float()

    def tensors(self) -> dict[str, Tensor]:
        """`errors`, and `factor` transposed: columns come first in memory, and files want rows."""
        return {"errors": self.errors, "factor": self.factor.mT.contiguous()}

    def _asked(self, queries: Queries) -> Tensor:
        if not len(queries.rows):
            raise DataError("Expected at least one query; found none. Name the test rows to explain.")
        outputs = torch.cat([part for _, part in _outputs(self.subject, queries.examples, queries.rows, silent)])
        targets = asked_of(queries, outputs.shape[1])
        objective = self.subject.objective
        return _shared(objective, objective.measure_gradient(outputs, targets, queries.target)).double()

    def _solved(self, pulls: Tensor) -> Tensor:
        return projection.solve([self.factor], pulls) / -len(self.errors)


def _shared(objective: Objective, pulls: Tensor) -> Tensor:
    """Pulls on the outputs as pulls on the constant, `[b, k]`."""
    return objective.shared(pulls) if isinstance(objective, SequenceLogProbability) else pulls


def _curvature(objective: Objective, outputs: Tensor) -> Tensor:
    """The Hessian of the summed loss in the constant, `[k, k]`."""
    if isinstance(objective, SequenceLogProbability):
        return objective.shared_curvature(outputs)
    return objective.loss_curvature(outputs).sum(0)


def _outputs(
    subject: Subject, examples: Examples, rows: NDArray[np.int64], progress: Progress
) -> Iterator[tuple[int, Tensor]]:
    """The model's outputs for blocks of `rows`, float64 on the CPU, in evaluation mode."""

    def run(part: slice) -> Tensor:
        progress(part.start, len(rows), "outputs")
        block = rows[part]
        with evaluation(subject.model), torch.no_grad():
            outputs = subject.model(as_model_input(subject.model, examples.batch(block)))
        return check_outputs(outputs, len(block)).double().cpu()

    for part, outputs in in_blocks(len(rows), BATCH, run, ONE_FORWARD):
        check_finite(outputs, rows[part], len(rows), "outputs", examples)
        yield part.start, outputs
    progress(len(rows), len(rows), "outputs")
