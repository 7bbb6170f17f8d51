"""Which training examples pull on the last layer like this query does? The second opinion: no curvature at all.

The cheapest influence there is, and a weak one (an inverse discounts directions that every example shares); its
use is to say whether the exact method's ranking depends on the inverse. Only ranks compare with other methods.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from explorer.contracts import Fitted, Progress, Queries, Scores, Subject, silent
from explorer.influence import gradients, linear, sequence_head
from explorer.influence.blocks import says_what_fits

UNIT = "gradient product (only ranks compare)"
"""What its scores are in."""


@dataclass(frozen=True)
class GradientDot:
    """s(q, i) = −(1/n) ∇m_q · g_i over the last layer: TracIn's inner product at the final checkpoint (Pruthi 2020)."""

    name: ClassVar[str] = "gradient-dot"

    @says_what_fits
    def fit(self, subject: Subject, progress: Progress = silent) -> Fitted:
        """One forward pass over the training set."""
        if subject.objective.task == "sequence":
            progress(1, 1, "features")
            return sequence_head.dot(subject, self.name, UNIT)
        began = time.perf_counter()
        seen = gradients.train_pass(subject, progress)
        stats = seen.head.stats | {"seconds": time.perf_counter() - began}
        return FittedGradientDot(subject, seen.features, seen.errors, stats)

    def restore(self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]) -> Fitted:
        """The fitted method from `tensors()` and `stats`."""
        if subject.objective.task == "sequence":
            return sequence_head.dot(subject, self.name, UNIT, stats)
        return FittedGradientDot(subject, tensors["features"], tensors["errors"], dict(stats))


@dataclass(frozen=True)
class FittedGradientDot:
    """Training features `[n, p]` and errors `[n, k]`; g_i is their outer product and is never built."""

    subject: Subject
    features: Tensor
    errors: Tensor
    stats: Mapping[str, Any]
    unit: str = UNIT

    def score(self, queries: Queries, progress: Progress = silent, out: Tensor | None = None) -> Scores:
        """Influence `[query, train]` as (r_q · e_i)(h_q · h_i): two small products; cost n·(k + p) a query."""
        features, pulls = gradients.query_pass(self.subject, queries)
        values = linear.contract_pairs(pulls, features, self.features, self.errors, progress, out)
        return Scores(
            values.float(),
            queries.examples.ids[queries.rows],
            self.subject.train.ids,
            GradientDot.name,
            queries.target,
            self.unit,
            self.stats,
        )

    def weighted(self, queries: Queries, weights: Tensor, progress: Progress = silent) -> Tensor:
        """Weighted sums over queries `[k, train]`, the gradients summed first."""
        directions = gradients.weighted_gradients(self.subject, queries, weights)
        return linear.contract(directions, self.features, self.errors, progress).float()

    def self_influence(self, progress: Progress = silent) -> Tensor:
        """(1/n) ‖e_i‖² ‖h_i‖², float32 `[n]`."""
        progress(1, 1, "self-influence")
        norms = self.errors.double().square().sum(1) * self.features.double().square().sum(1)
        return (norms / len(norms)).float()

    def tensors(self) -> dict[str, Tensor]:
        """`features`, `errors`."""
        return {"features": self.features, "errors": self.errors}
