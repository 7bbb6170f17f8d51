"""Which training examples moved this prediction, along the few directions in which the training loss curves most?

The top eigenpairs of the Gauss-Newton by Lanczos; what is orthogonal to them sees the damping alone, or is ignored.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from explorer.contracts import MEASURE_UNIT, Fitted, Progress, Queries, Scores, Subject, silent
from explorer.errors import SettingsError
from explorer.influence import kronecker
from explorer.influence.blocks import says_what_fits
from explorer.influence.curvature_products import Curvature
from explorer.influence.damping import Damping
from explorer.influence.directional import FittedInverse, Rows, contract, query_rows, train_rows
from explorer.influence.factors import weighted_squares
from explorer.influence.gauss_newton import RELATIVE_DAMPING
from explorer.influence.iterative import at_another, at_damping, check_sample, parts, sampled, shift_of
from explorer.influence.lanczos import eigenpairs
from explorer.influence.layers import Layers
from explorer.influence.separable import Separable
from explorer.objectives import measure_unit

Rest = Literal["damped", "ignored"]
RESTS: tuple[Rest, ...] = ("damped", "ignored")


@dataclass(frozen=True)
class Arnoldi:
    """s(q, i) = −(1/n) Σ_k (u_k·∇m_q)(u_k·g_i) / (θ_k + wd + λ) + rest, over the top eigenpairs (Schioppa et al. 2022).

    For the symmetric Gauss-Newton Arnoldi's iteration is Lanczos'; here with full reorthogonalization. `projections` is how
    many eigenpairs are kept. `iterations` is the dimension of the Krylov space they are looked for in (None: twice as
    many). `rest` says what becomes of what is orthogonal to them: "damped" counts it as without curvature, so
    −(1/n) ∇m_q·g_i / (wd + λ) over it; "ignored" leaves it away, as in the paper. `damping` is λ >= 0, None for
    `relative_damping` times G's mean eigenvalue. `sample` takes G over that many training examples instead of all.
    `seed` draws the sample and the start. `layers` names those to use (all that can be handled by default).
    """

    projections: int = 100
    iterations: int | None = None
    rest: Rest = "damped"
    damping: float | None = None
    relative_damping: float = RELATIVE_DAMPING
    sample: int | None = None
    seed: int = 0
    layers: Sequence[str] | None = None
    name: ClassVar[str] = "arnoldi"

    def __post_init__(self) -> None:
        Damping(self.damping, self.relative_damping)
        check_sample(self.sample, self.seed)
        if self.projections < 1:
            raise SettingsError(f"Expected projections >= 1; found {self.projections}. Choose some, such as 100.")
        if self.iterations is not None and self.iterations < self.projections:
            raise SettingsError(
                f"Expected iterations >= {self.projections}, the number of projections; found {self.iterations}. Leave it "
                "out for twice as many."
            )
        if self.rest not in RESTS:
            raise SettingsError(f"Expected rest to be one of {', '.join(RESTS)}; found {self.rest!r}.")
        if self.layers is not None:
            object.__setattr__(self, "layers", kronecker.names(self.layers))

    @says_what_fits
    def fit(self, subject: Subject, progress: Progress = silent) -> Fitted:
        """`iterations` products with the curvature one after the other, and the projections of the training set.

        Raises:
            ModelError: no layer can be handled, or the model gives NaN.
            SettingsError: a layer asked for does not exist, weight decay + damping is zero, or the basis is too large.
        """
        began = time.perf_counter()
        found = kronecker.find(subject, self.layers)
        curvature = Curvature(subject, found, sampled(len(subject.train), self.sample, self.seed))
        stats = at_damping(subject, curvature, Damping(self.damping, self.relative_damping), progress)
        pairs = eigenpairs(curvature, self.projections, self.iterations, self.seed, progress)
        training = torch.cat(
            [projected(pairs.vectors, found, rows) for _, rows in train_rows(subject, found, progress)]
        )
        stats |= {
            "projections": len(pairs.values),
            "iterations": pairs.steps,
            "rest": self.rest,
            "trace_covered": float(pairs.values.sum()) / max(stats["mean_eigenvalue"] * found.size, 1e-300),
            "largest_eigenvalue": float(pairs.values[0]),
            "smallest_eigenvalue": float(pairs.values[-1]),
            "residual_max": float(pairs.residuals.max()) / max(float(pairs.values[0]), 1e-300),
            "seconds": time.perf_counter() - began,
        }
        return _fitted(subject, found, (pairs.vectors, pairs.values, training), stats)

    def restore(self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]) -> Fitted:
        """The fitted method from `tensors()` and `stats`."""
        device = next(subject.model.parameters()).device
        vectors, values, training = (tensors[name].to(device, copy=True) for name in ("vectors", "values", "training"))
        return _fitted(subject, kronecker.find(subject, self.layers), (vectors, values, training), dict(stats))


@dataclass(frozen=True, eq=False)
class FittedArnoldi:
    """Top eigenpairs, `vectors [k, P]` and `values [k]`, and the training gradients along them, `training [n, k]`.

    `rest` is the damping's inverse over all directions, or None where what is orthogonal to the pairs is ignored.
    """

    subject: Subject
    layers: Layers
    vectors: Tensor
    values: Tensor
    training: Tensor
    rest: FittedInverse | None
    stats: Mapping[str, Any]
    unit: str = MEASURE_UNIT

    def redamped(self, damping: float) -> FittedArnoldi:
        """The same eigenpairs at another λ.

        Raises:
            SettingsError: the damping is negative or not finite, or the curvature is singular at it.
        """
        held = self.vectors, self.values, self.training
        other = _fitted(self.subject, self.layers, held, at_another(self.stats, damping))
        if self.rest is not None and other.rest is not None:
            other.rest._kept = self.rest._kept
        return other

    def score(self, queries: Queries, progress: Progress = silent, out: Tensor | None = None) -> Scores:
        """Influence float32 `[query, train]`; cost k·P a query and k a pair; with the rest also a pass over the training
        set (kept after the first) and the width of each layer a pair."""
        values = torch.empty(len(queries.rows), len(self.subject.train)) if out is None else out
        if self.rest is None:
            values.zero_()
        else:
            self.rest.score(queries, progress, values)
        for start, part in self._projected(queries, progress):
            values[start : start + len(part)] += self._answers(part).to(values)
        return Scores(
            values,
            queries.examples.ids[queries.rows],
            self.subject.train.ids,
            Arnoldi.name,
            queries.target,
            measure_unit(self.subject.objective.task, queries.target),
            self.stats,
        )

    def weighted(self, queries: Queries, weights: Tensor, progress: Progress = silent) -> Tensor:
        """Weighted sums over queries, float32 `[k, train]`: projections are summed first."""
        total = self.training.new_zeros(len(weights), len(self.values))
        for start, part in self._projected(queries, silent):
            total += weights[:, start : start + len(part)].to(part) @ part
        found = self._answers(total).float().cpu()
        progress(len(weights), len(weights), "scores")
        return found if self.rest is None else found + self.rest.weighted(queries, weights, progress)

    def self_influence(self, progress: Progress = silent) -> Tensor:
        """s(i, i), float32 `[n]`, from the kept projections; with the rest also the norm of every gradient."""
        n = len(self.training)
        progress(0, n, "self-influence")
        own = (self.training.double().square() @ self._weights() / n).cpu()
        if self.rest is not None:
            # all of a gradient may lie along the eigenvectors: what is then left of it is a rounding of either sign
            own = (own + self.rest.self_influence(progress)).clamp_min(0)
        progress(n, n, "self-influence")
        return own.float()

    def changes(self, progress: Progress = silent) -> Float[Tensor, " n"]:
        """‖H⁻¹ g_i‖ of every training example, float64, from the kept projections and, with the rest, all of the gradients."""
        along, shift = 1 / (self.values.double() + shift_of(self.stats)).square(), shift_of(self.stats)
        rest = torch.zeros(len(self.training), dtype=torch.float64)
        if self.rest is not None:
            along = along - 1 / shift**2
            rest = self.rest.self_influence(progress).double() * len(rest) / shift  # ‖g‖² over the damping, twice
        progress(len(rest), len(rest), "changes of the parameters")
        return (rest + (self.training.double().square() @ along).cpu()).clamp_min(0).sqrt()

    def tensors(self) -> dict[str, Tensor]:
        """The fields of these names: "vectors", "values", "training"."""
        held = {"vectors": self.vectors, "values": self.values, "training": self.training}
        return {name: tensor.cpu().contiguous() for name, tensor in held.items()}

    def _weights(self) -> Float[Tensor, " k"]:
        """What the inverse is along each eigenvector, beyond the rest; float64."""
        shift = shift_of(self.stats)
        along = 1 / (self.values.double() + shift)
        return along if self.rest is None else along - 1 / shift

    def _answers(self, projections: Float[Tensor, "q k"]) -> Float[Tensor, "q n"]:
        """−(1/n) Σ_k along the eigenvectors."""
        scaled = projections.double() * self._weights() / -len(self.training)
        return scaled.to(self.training) @ self.training.T

    def _projected(self, queries: Queries, progress: Progress) -> Iterator[tuple[int, Tensor]]:
        """∇m_q along the eigenvectors, `[q, k]` for blocks of queries."""
        for start, rows in query_rows(self.subject, self.layers, queries, progress):
            yield start, projected(self.vectors, self.layers, rows)


def projected(vectors: Float[Tensor, "k P"], layers: Layers, rows: Rows) -> Float[Tensor, "b k"]:
    """Gradients of b examples along k directions; cost k·P an example."""
    return contract(parts(layers, vectors), rows).T.contiguous()


@dataclass(frozen=True)
class Scaled:
    """The inverse of a multiple of the identity."""

    factor: float

    def apply(self, gradients: list[Tensor], progress: Progress = silent) -> list[Tensor]:
        """`factor` times each."""
        progress(1, 1, "scaling")
        return [g * self.factor for g in gradients]

    def quadratic(self, rows: Rows) -> Tensor:
        """`factor` ‖g‖² of b examples, `[b]`; with one position the gradients are never built."""
        total = rows.inputs[0].new_zeros(len(rows))
        for a, d in zip(rows.inputs, rows.pulls, strict=True):
            if a.shape[1] == 1:
                total += a[:, 0].square().sum(1) * d[:, 0].square().sum(1)
            else:
                total += weighted_squares(a.new_ones(d.shape[2], a.shape[2]), d, a)
        return total * self.factor

    def tensors(self) -> dict[str, Tensor]:
        """None: it is in the stats."""
        return {}


def _fitted(
    subject: Subject, layers: Layers, held: tuple[Tensor, Tensor, Tensor], stats: dict[str, Any]
) -> FittedArnoldi:
    """With the rest as gradient products, by two factors for layers with one position."""
    rest = None
    if stats["rest"] == "damped":
        inverse = Scaled(1 / shift_of(stats))
        factors = tuple(
            (held[0].new_full((1, layer.width_out), inverse.factor), held[0].new_ones(1, layer.width_in))
            if layer.positions == 1
            else None
            for layer in layers.layers
        )
        rest = FittedInverse(
            subject, layers, inverse, Arnoldi.name, stats, separable=Separable(factors), quadratic=inverse.quadratic
        )
    return FittedArnoldi(subject, layers, *held, rest, stats)
