"""Which training examples moved this prediction, in a linear model on randomly projected gradients? Averaged over models.

TRAK: the curvature is that of a linear model whose features are the gradients of the margin. It needs no per-layer
structure and gains from several trained models; its scale is its own, so only ranks compare.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from explorer.contracts import Fitted, Progress, Queries, Scores, Subject, Target, silent
from explorer.errors import SettingsError
from explorer.influence import directional, kronecker, projection
from explorer.influence.blocks import says_what_fits
from explorer.influence.directional import Rows
from explorer.influence.layers import Layers
from explorer.influence.projection import Projection
from explorer.influence.tracin import at_weights

MAX_DIMENSION = 8192
"""Most coordinates: their dense float64 curvature takes 0.5 GB, and as much again for its factor."""
RELATIVE_RIDGE = 1.0
"""Default ridge as a share of the mean of those min(n, dimension) eigenvalues that n examples can fill: near the best of .1 to
3 for 128 to 4,096 coordinates on three problems of 300 to 1,300 examples. Without a ridge TRAK ranks like chance as
soon as there are more coordinates than examples."""
SINGULAR = 1e-10
"""Share of the largest pivot below which one cannot be told from zero: coordinates are sums of float32 products."""
ELEMENTS = 2**22
"""Numbers in a block of gradients before they are projected (16 MB in float32)."""


@dataclass(frozen=True)
class TRAK:
    """s(q, i) = −(1/n) ∇m_qᵀ P (K + ρI)⁻¹ Pᵀ g_i with K = (1/n) Σ φ_i φ_iᵀ, the mean over models (Park et al. 2023, eq. 17).

    φ_i = Pᵀ∇f_i, f the margin log(p/(1 − p)) of the given label, or a regression's output; P a seeded random projection to
    `dimension` coordinates, another one for each model (None: all parameters of the handled layers, for small models).
    The weight (1 − p_i) of the paper is in g_i = −(1 − p_i)∇f_i. Departs from the paper: a query's gradient is that of the
    measure asked about: the paper's for `margin`, and for `label` (1 − p_q)∇f_q, of the same ranking; scores instead of their factors
    are averaged over models; and `ridge` ρ >= 0 is by default `relative_ridge` times the mean of K's min(n, dimension)
    largest eigenvalues instead of 0. `layers` names those to use (all that can be handled by default).
    """

    dimension: int | None = 2048
    ridge: float | None = None
    relative_ridge: float = RELATIVE_RIDGE
    projection: str = "sparse"
    layers: Sequence[str] | None = None
    seed: int = 0
    name: ClassVar[str] = "trak"

    def __post_init__(self) -> None:
        if self.dimension is not None and not 1 <= self.dimension <= MAX_DIMENSION:
            raise SettingsError(f"Expected dimension in 1..{MAX_DIMENSION} or None; found {self.dimension}.")
        Projection((1,), self.dimension or 1, self.seed, self.projection)
        for name, value in (("ridge", self.ridge), ("relative_ridge", self.relative_ridge)):
            if value is not None and not 0 <= value < float("inf"):
                raise SettingsError(f"Expected {name} >= 0 and finite; found {value}. Leave it out to have it chosen.")
        if self.layers is not None:
            object.__setattr__(self, "layers", kronecker.names(self.layers))

    def fit(self, subject: Subject, progress: Progress = silent) -> Fitted:
        """One forward and one backward pass over the training set, n·dimension² products, one float64 Cholesky.

        Raises:
            SettingsError: the layers are too large to go without a projection, or the curvature is singular.
            ModelError: no layer can be handled, or the model gives NaN.
        """
        return self.over([subject], progress)

    @says_what_fits
    def over(self, subjects: Sequence[Subject], progress: Progress = silent) -> Fitted:
        """The mean over models trained alike on the same examples; the first is the one explained. Cost: as `fit`, each."""
        began = time.perf_counter()
        first = self._checked(subjects)
        parts, mean = [], []
        for number, subject in enumerate(subjects):

            def told(done: int, total: int, note: str, number: int = number) -> None:
                progress(number * total + done, len(subjects) * total, note)

            part, eigenvalue = self._part(subject, number, told)
            parts.append(part)
            mean.append(eigenvalue)
        found = parts[0].layers
        stats = {
            "models": len(subjects),
            "dimension": parts[0].project.length,
            "projection": self.projection if parts[0].project.length < found.size else "none",
            "ridge": [self._ridge(value) for value in mean],
            "ridge_rule": "chosen by the user"
            if self.ridge is not None
            else f"{self.relative_ridge:g} x mean eigenvalue",
            "mean_eigenvalue": mean,
            "parameters": found.size,
            "layers": list(found.names),
            "left_out": dict(found.left_out),
            "seconds": time.perf_counter() - began,
        }
        return FittedTRAK(first, tuple(parts), stats)

    def restore(self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]) -> Fitted:
        """The fitted method from `tensors()` and `stats`; further models are copies of the subject's at other weights."""
        parts = []
        for number in range(stats["models"]):
            prefix = f"{number}/weights/"
            weights = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            own = at_weights(subject, weights) if number else subject
            found = kronecker.find(own, self.layers)
            device = next(own.model.parameters()).device
            kept, factor = (tensors[f"{number}/{name}"].to(device) for name in ("kept", "factor"))
            parts.append(Part(own, found, self._projection(found, number), kept, factor.mT))
        return FittedTRAK(subject, tuple(parts), dict(stats))

    def _checked(self, subjects: Sequence[Subject]) -> Subject:
        if not subjects:
            raise SettingsError("Expected at least one subject; found none. Give the model that is explained.")
        first = subjects[0]
        if first.objective.task == "sequence":
            raise SettingsError(
                "Expected a model of one answer an example for trak, whose features are gradients of that answer's margin; "
                "found one of sequences, with a margin at every position. Choose the method logra or ekfac."
            )
        for number, other in enumerate(subjects[1:], start=1):
            same = other.train.key == first.train.key and _shapes(other) == _shapes(first)
            if not same or other.objective.task != first.objective.task:
                raise SettingsError(
                    "Expected models of one architecture trained for one objective on the same examples; found another "
                    f"in subject {number}. Vary the seed of the training and nothing else."
                )
        return first

    def _projection(self, found: Layers, number: int) -> Projection:
        widths = tuple(layer.size for layer in found.layers)
        if self.dimension is None and sum(widths) > MAX_DIMENSION:
            raise SettingsError(
                f"Expected at most {MAX_DIMENSION} parameters to go without a projection; found {sum(widths)}. Choose a "
                "dimension, such as 2048."
            )
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        return Projection(widths, self.dimension or sum(widths), seed, self.projection)

    def _ridge(self, mean_eigenvalue: float) -> float:
        return self.relative_ridge * mean_eigenvalue if self.ridge is None else self.ridge

    def _part(self, subject: Subject, number: int, progress: Progress) -> tuple[Part, float]:
        found = kronecker.find(subject, self.layers)
        project = self._projection(found, number)
        rows = np.arange(len(subject.train), dtype=np.int64)
        latest: list[Tensor] = []
        measured: Target = "margin" if subject.objective.task == "classification" else "prediction"

        def pull(outputs: Tensor, targets: Tensor) -> Tensor:
            margins = subject.objective.measure_gradient(outputs, targets, measured)
            losses = subject.objective.loss_gradient(outputs, targets)
            latest[:] = [(losses * margins).sum(1) / margins.square().sum(1)]
            return margins

        like, weights = next(subject.model.parameters()), []
        kept = like.new_empty(len(rows), project.length)
        moments = torch.zeros(project.length, project.length, dtype=torch.float64, device=like.device)
        examples = directional.example_rows(subject, found, subject.train, pull, rows, progress)
        for start, coordinates in _coordinates(found, project, examples):
            moments += coordinates.T @ coordinates
            kept[start : start + len(coordinates)] = coordinates
            weights.append(latest[0])
        moments /= len(rows)
        mean = float(moments.trace()) / min(moments.shape[0], len(rows))
        moments.diagonal().add_(self._ridge(mean))
        remedy = "Choose a larger ridge, or leave it out to have it chosen."
        factor = projection.lower_factor(moments, SINGULAR, "the projected curvature", remedy)
        kept *= torch.cat(weights).to(kept).unsqueeze(1)
        return Part(subject, found, project, kept, factor), mean


@dataclass(frozen=True)
class Part:
    """One model: projected loss gradients `kept [n, length]`, and the lower Cholesky factor of K + ρI, float64."""

    subject: Subject
    layers: Layers
    project: Projection
    kept: Tensor
    factor: Tensor

    def asked(self, queries: Queries) -> Iterator[tuple[int, Float[Tensor, "b length"]]]:
        """Projected ∇m_q of blocks of queries, with the place where each starts."""
        rows = directional.query_rows(self.subject, self.layers, queries)
        yield from _coordinates(self.layers, self.project, rows)


@dataclass(frozen=True)
class FittedTRAK:
    """The models' parts; `subject` is the first model's."""

    subject: Subject
    parts: tuple[Part, ...]
    stats: Mapping[str, Any]
    unit: str = "linear model on projected gradients (only ranks compare)"

    def score(self, queries: Queries, progress: Progress = silent, out: Tensor | None = None) -> Scores:
        """Influence `[query, train]`; per model a backward pass over the queries and `dimension` multiply-adds a pair."""
        values = torch.zeros(len(queries.rows), len(self.subject.train)) if out is None else out.zero_()
        for number, part in enumerate(self.parts):
            for start, rows in part.asked(queries):
                block = values[start : start + len(rows)]
                done = number * len(values) + start
                told = _share(progress, done, len(block), len(self.parts) * len(values))
                self._add(block, part, rows, told)
        return Scores(
            values,
            queries.examples.ids[queries.rows],
            self.subject.train.ids,
            TRAK.name,
            queries.target,
            self.unit,
            self.stats,
        )

    def weighted(self, queries: Queries, weights: Tensor, progress: Progress = silent) -> Tensor:
        """Weighted sums over queries `[k, train]`: gradients are summed first, then solved once a model."""
        values = torch.zeros(len(weights), len(self.subject.train))
        for number, part in enumerate(self.parts):
            total = torch.zeros(len(weights), part.project.length, dtype=torch.float64, device=part.kept.device)
            for start, rows in part.asked(queries):
                total += weights[:, start : start + len(rows)].to(total) @ rows.double()
            self._add(values, part, total, _share(progress, number, 1, len(self.parts)))
        return values

    def self_influence(self, progress: Progress = silent) -> Tensor:
        """(1/n) g_iᵀ P (K + ρI)⁻¹ Pᵀ g_i, the mean over models, float32 `[n]`."""
        found = [
            projection.self_products([part.factor], part.kept, _share(progress, number, 1, len(self.parts)))
            for number, part in enumerate(self.parts)
        ]
        return (torch.stack(found).mean(0) / len(self.subject.train)).float().cpu()

    def tensors(self) -> dict[str, Tensor]:
        """For model m "m/kept" and "m/factor" transposed (files want rows), and from the second on "m/weights/name"."""
        found: dict[str, Tensor] = {}
        for number, part in enumerate(self.parts):
            found |= {f"{number}/kept": part.kept.cpu(), f"{number}/factor": part.factor.mT.contiguous().cpu()}
            if number:
                state = part.subject.model.state_dict()
                found |= {f"{number}/weights/{name}": t.detach().cpu().clone() for name, t in state.items()}
        return found

    def _add(self, values: Tensor, part: Part, rows: Tensor, progress: Progress) -> None:
        scale = -len(self.subject.train) * len(self.parts)
        directions = projection.solve([part.factor], rows) / scale
        projection.add_product(values, directions.to(part.kept), part.kept, progress)


def _coordinates(
    found: Layers, project: Projection, blocks: Iterable[tuple[int, Rows]]
) -> Iterator[tuple[int, Float[Tensor, "b length"]]]:
    """Projected gradients of each block; whole gradients exist for `ELEMENTS` numbers at a time."""
    step = max(1, ELEMENTS // found.size)
    for start, block in blocks:
        parts = [project(block[first : first + step].gradients()) for first in range(0, len(block), step)]
        yield start, torch.cat(parts)


def _shapes(subject: Subject) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in subject.model.state_dict().items()}


def _share(progress: Progress, first: int, size: int, total: int) -> Progress:
    """Progress of units `first` to `first + size` out of `total`."""

    def told(done: int, of: int, note: str) -> None:
        progress(first * of + size * done, total * of, note)

    return told
