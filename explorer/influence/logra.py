"""Which training examples moved this prediction, within a few directions of each layer? One small row kept an example.

LoGra: gradients are projected on both sides of every layer and kept, so that a new query costs one product with what
is there already. Influence outside of the kept directions is not seen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from explorer.contracts import MEASURE_UNIT, Fitted, Progress, Queries, Scores, Subject, silent
from explorer.errors import SettingsError
from explorer.influence import directional, factors, kronecker, projection
from explorer.influence.backward import Trace, block_size, check_finite, need_of, traces
from explorer.influence.blocks import says_what_fits, whole
from explorer.influence.damping import Damping
from explorer.influence.directional import Rows
from explorer.influence.fisher import Fisher
from explorer.influence.gradients import targets_of
from explorer.influence.layers import Layers
from explorer.influence.projection import Sides
from explorer.influence.tracin import square_norms
from explorer.objectives import measure_unit

CHOICES = ("pca", "random")

STORES: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}
RELATIVE_DAMPING = 0.1
"""Damping as a share of the mean eigenvalue over all parameters of the handled layers, as in EK-FAC."""
MAX_WIDTH = 8192
"""Most coordinates of one layer: their dense float64 curvature takes 0.5 GB."""
SINGULAR = 1e-10
"""Share of the largest pivot below which one cannot be told from zero: coordinates are sums of float32 products."""


@dataclass(frozen=True)
class LoGra:
    """s(q, i) = −(1/n) Σ_l P_lᵀ∇m_q · (P_lᵀ G_l P_l + (wd + λ)I)⁻¹ P_lᵀ g_i with P_l = L ⊗ R (Choe et al. 2024).

    L and R hold `rank` orthonormal columns each: the leading eigenvectors of the layer's K-FAC factors ("pca"), or a random
    subspace from `seed` ("random"). The score is that of a model that can move in these directions alone; with a rank of
    every width it is exact but for taking layers apart. Departs from the paper: G is the Fisher over the model's own
    answers, summed over classes, where the paper takes the training gradients' second moments, which vanish as training
    ends; random sides are orthonormal, so weight decay and damping mean the same in every subspace; and λ is
    `relative_damping` times the mean eigenvalue of the whole model. `damping` sets λ >= 0 itself. `layers` names those to use.
    `store` is the type that projected gradients are kept in: "bfloat16" halves them, with three digits left.
    """

    rank: int = 16
    basis: str = "pca"
    damping: float | None = None
    relative_damping: float = RELATIVE_DAMPING
    layers: Sequence[str] | None = None
    store: str = "float32"
    seed: int = 0
    name: ClassVar[str] = "logra"

    def __post_init__(self) -> None:
        Damping(self.damping, self.relative_damping)
        checks = (
            (self.rank >= 1, "rank", ">= 1"),
            (self.basis in CHOICES, "basis", f"to be one of {', '.join(CHOICES)}"),
            (self.store in STORES, "store", f"to be one of {', '.join(STORES)}"),
            (self.seed >= 0, "seed", ">= 0"),
        )
        for ok, name, rule in checks:
            if not ok:
                raise SettingsError(f"Expected {name} {rule}; found {getattr(self, name)!r}. Choose another {name}.")
        if self.layers is not None:
            object.__setattr__(self, "layers", kronecker.names(self.layers))

    @says_what_fits
    def fit(self, subject: Subject, progress: Progress = silent) -> Fitted:
        """A forward pass and as many backward passes as outputs (twice that for "pca"), and one float64 Cholesky of
        rank² coordinates a layer. Memory: n · layers · rank² numbers, and rank⁴ a layer.

        Raises:
            ModelError: no layer can be handled, or the model gives NaN.
            SettingsError: a layer asked for does not exist, the rank is too large, or the curvature singular.
        """
        began = time.perf_counter()
        found = kronecker.find(subject, self.layers)
        sides = self._sides(subject, found, progress)
        measure = partial(_measure, subject, found, sides, STORES[self.store], progress)
        seen = whole(block_size(found), measure, need_of(found))
        mean = seen.trace / found.size
        damping = Damping(self.damping, self.relative_damping)
        remedy = damping.remedy(mean)
        lower = []
        for name, moments in zip(found.names, seen.moments, strict=True):
            moments.diagonal().add_(subject.weight_decay + damping.of(mean))
            lower.append(projection.lower_factor(moments, SINGULAR, f"the projected curvature of {name}", remedy))
        stats = {
            "damping": damping.of(mean),
            "damping_rule": damping.rule,
            "weight_decay": subject.weight_decay,
            "mean_eigenvalue": mean,
            "fisher": seen.rule,
            "covered": seen.kept_trace / seen.trace if seen.trace else 0.0,
            "basis": self.basis,
            "coordinates": sides.widths,
            "store": self.store,
            "parameters": found.size,
            "layers": list(found.names),
            "left_out": dict(found.left_out),
            "seconds": time.perf_counter() - began,
        }
        return FittedLoGra(subject, found, sides, seen.gradients, lower, stats)

    def restore(self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]) -> Fitted:
        """The fitted method from `tensors()` and `stats`; cost a few examples through the model."""
        found = kronecker.find(subject, self.layers)
        device = next(subject.model.parameters()).device
        own = {name: tensor.to(device) for name, tensor in tensors.items()}
        count = range(len(found.layers))
        sides = Sides([own[f"{i}/inputs"] for i in count], [own[f"{i}/pulls"] for i in count])
        lower = [own[f"{i}/factor"].mT for i in count]
        return FittedLoGra(subject, found, sides, own["gradients"], lower, dict(stats))

    def _sides(self, subject: Subject, found: Layers, progress: Progress) -> Sides:
        like = next(subject.model.parameters())
        if self.basis == "pca":
            axes = Fisher(subject, found).axes(progress).basis
            inputs = [Q[:, -self.rank :] for Q in axes.inputs]  # eigenvalues ascend
            pulls = [Q[:, -self.rank :] for Q in axes.pulls]
        else:
            widths = [(layer.width_in, layer.width_out) for layer in found.layers]
            pairs = [
                [projection.orthonormal(width, self.rank, self.seed, 2 * i + side) for side, width in enumerate(pair)]
                for i, pair in enumerate(widths)
            ]
            inputs, pulls = [R for R, _ in pairs], [L for _, L in pairs]
        sides = Sides([R.to(like).contiguous() for R in inputs], [L.to(like).contiguous() for L in pulls])
        if max(sides.widths) > MAX_WIDTH:
            raise SettingsError(
                f"Expected at most {MAX_WIDTH} coordinates a layer; found {max(sides.widths)} at rank {self.rank}. "
                "Choose a smaller rank."
            )
        return sides


@dataclass(frozen=True)
class Measured:
    """Projected loss gradients `[n, d]` with the projected Fisher of each layer, float64, and the traces of the Fisher
    itself and of its projection."""

    gradients: Tensor
    moments: list[Tensor]
    trace: float
    kept_trace: float
    rule: str


def _measure(
    subject: Subject, found: Layers, sides: Sides, store: torch.dtype | None, progress: Progress, step: int
) -> Measured:
    """One pass over the training set, `step` examples at a time: what a query will meet, and the curvature kept."""
    n, like = len(subject.train), next(subject.model.parameters())
    moments = [torch.zeros(w, w, dtype=torch.float64, device=like.device) for w in sides.widths]
    kept = torch.empty(n, sum(sides.widths), dtype=store or like.dtype, device=like.device)
    trace, rule = 0.0, ""
    rows = np.arange(n, dtype=np.int64)
    for start, seen in traces(subject.model, found, subject.train, rows, progress, step=step):
        block = rows[start : start + len(seen.outputs)]
        kept[start : start + len(block)] = torch.cat(sides(seen.inputs, _loss_pulls(subject, seen, block)), 1)
        outputs = seen.outputs.detach().double()
        rule = factors.fisher_rule(subject.objective, outputs.shape[1])
        for column in factors.fisher_columns(subject.objective, outputs, start):
            pulls = seen.pulls(column.to(like.dtype))
            trace += float(square_norms(Rows(seen.inputs, pulls)).double().sum())
            for total, part in zip(moments, sides(seen.inputs, pulls), strict=True):
                total += part.T @ part
    for total in moments:
        total /= n
    kept_trace = sum(float(total.trace()) for total in moments)
    return Measured(kept, moments, trace / n, kept_trace, rule)


def _loss_pulls(subject: Subject, seen: Trace, block: Any) -> list[Tensor]:
    outputs = seen.outputs.detach()
    targets = targets_of(subject.train, block, outputs.shape[1]).to(outputs.device)
    pulls = seen.pulls(subject.objective.loss_gradient(outputs.double(), targets).to(outputs.dtype))
    for values in (*seen.inputs, *pulls):
        check_finite(values, block, len(subject.train), "gradients", subject.train)
    return pulls


@dataclass(frozen=True)
class FittedLoGra:
    """Projected training gradients `[n, d]` and the lower Cholesky factor of each layer's damped curvature, float64."""

    subject: Subject
    layers: Layers
    sides: Sides
    gradients: Tensor
    factors: list[Tensor]
    stats: Mapping[str, Any]
    unit: str = MEASURE_UNIT

    def score(self, queries: Queries, progress: Progress = silent, out: Tensor | None = None) -> Scores:
        """Influence `[query, train]`; cost a backward pass over the queries, a solve each and d multiply-adds a pair."""
        values = torch.zeros(len(queries.rows), len(self.gradients)) if out is None else out.zero_()
        for start, rows in self._asked(queries):
            block = values[start : start + len(rows)]

            def told(done: int, of: int, note: str, start: int = start, size: int = len(rows)) -> None:
                progress(start * of + size * done, len(values) * of, note)

            self._add(block, rows, told)
        return Scores(
            values,
            queries.examples.ids[queries.rows],
            self.subject.train.ids,
            LoGra.name,
            queries.target,
            measure_unit(self.subject.objective.task, queries.target),
            self.stats,
        )

    def weighted(self, queries: Queries, weights: Tensor, progress: Progress = silent) -> Tensor:
        """Weighted sums over queries `[k, train]`: the gradients are summed first, then solved once."""
        values = torch.zeros(len(weights), len(self.gradients))
        total = torch.zeros(len(weights), self.gradients.shape[1], dtype=torch.float64, device=self.gradients.device)
        for start, rows in self._asked(queries):
            total += weights[:, start : start + len(rows)].to(total) @ rows.double()
        self._add(values, total, progress)
        return values

    def self_influence(self, progress: Progress = silent) -> Tensor:
        """(1/n) of each projected gradient's product with itself through the inverse, float32 `[n]`."""
        found = projection.self_products(self.factors, self.gradients, progress)
        return (found / len(self.gradients)).float().cpu()

    def tensors(self) -> dict[str, Tensor]:
        """`gradients`, and for layer l "l/inputs", "l/pulls" (R and L) and "l/factor", transposed: files want rows."""
        found = {"gradients": self.gradients}
        for i, factor in enumerate(self.factors):
            found |= {f"{i}/inputs": self.sides.inputs[i], f"{i}/pulls": self.sides.pulls[i]}
            found[f"{i}/factor"] = factor.mT.contiguous()
        return {name: tensor.cpu() for name, tensor in found.items()}

    def changes(self, progress: Progress = silent) -> Float[Tensor, " n"]:
        """‖H⁻¹ g_i‖ of every training example within the kept directions, float64."""
        n = len(self.gradients)
        values = torch.empty(n, dtype=torch.float64)
        step = max(1, projection.ELEMENTS // self.gradients.shape[1])
        for start in range(0, n, step):
            progress(start, n, "changes of the parameters")
            values[start : start + step] = projection.solve(self.factors, self.gradients[start : start + step]).norm(
                dim=1
            )
        progress(n, n, "changes of the parameters")
        return values

    def _asked(self, queries: Queries) -> Iterator[tuple[int, Float[Tensor, "b d"]]]:
        for start, rows in directional.query_rows(self.subject, self.layers, queries):
            yield start, torch.cat(self.sides(rows.inputs, rows.pulls), 1)

    def _add(self, values: Tensor, rows: Tensor, progress: Progress) -> None:
        directions = projection.solve(self.factors, rows) / -len(self.gradients)
        wide = torch.float32 if self.gradients.dtype == torch.bfloat16 else self.gradients.dtype
        projection.add_product(values, directions.to(wide), self.gradients, progress)
