"""Which training examples pulled the way this query does, summed over the checkpoints of the training? No curvature.

Adds up gradient products at every checkpoint (TracIn); what later steps undid is not taken off again, so only ranks
compare with other methods. With the final weights alone it is the gradient product over all handled layers.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from explorer.contracts import Fitted, Progress, Queries, Recipe, Scores, Subject, silent
from explorer.errors import SettingsError
from explorer.influence import directional, factors, kronecker
from explorer.influence.backward import need_of
from explorer.influence.blocks import says_what_fits, whole
from explorer.influence.directional import FittedInverse, Rows
from explorer.influence.layers import Layers
from explorer.influence.separable import Separable
from explorer.loading import apply_weights
from explorer.training import epoch_batches, rate_at, resolve_epochs

FEW = 6
"""Checkpoints of a training of the project's own."""
ELEMENTS = 2**26
"""Numbers in the scores of one checkpoint before they are added to the sum (256 MB in float32)."""


@dataclass(frozen=True, eq=False)
class Checkpoints:
    """State dicts of one training in order, each with the learning rate summed over the steps that it stands for.

    `by_recipe` knows these rates for the project's own training. Divide by 1 − momentum where training had momentum: every
    gradient then moves the weights by that much more.
    """

    weights: tuple[Mapping[str, Tensor], ...]
    rates: tuple[float, ...]

    def __post_init__(self) -> None:
        bad = [rate for rate in self.rates if not 0 <= rate < float("inf")]
        if not self.weights or len(self.weights) != len(self.rates) or bad or not sum(self.rates) > 0:
            raise SettingsError(
                "Expected at least one checkpoint, each with a finite rate >= 0, and a sum > 0; found "
                f"{len(self.weights)} checkpoints and rates {list(self.rates)}. Give the summed rate of each."
            )

    @classmethod
    def by_recipe(cls, weights: Mapping[int, Mapping[str, Tensor]], recipe: Recipe, n: int) -> Checkpoints:
        """Checkpoints by the epoch after which they were taken (0 = before training), of `train_epochs` over n examples.

        Each stands for the steps since the one before, the first for all before it and the last for all after it.
        """
        taken, epochs = sorted(weights), resolve_epochs(recipe, n)
        batches = len(epoch_batches(n, recipe, 1))
        bounds = [0, *(min(epoch, epochs) * batches for epoch in taken[:-1]), epochs * batches]
        rates = [
            sum(rate_at(recipe, step, epochs * batches) for step in range(low, high)) / (1 - recipe.momentum)
            for low, high in pairwise(bounds)
        ]
        return cls(tuple(weights[epoch] for epoch in taken), tuple(rates))


def at_weights(subject: Subject, weights: Mapping[str, Tensor]) -> Subject:
    """The subject with a copy of its model at other weights; its own model stays as it was.

    Raises:
        ModelError: the weights do not fit the model.
    """
    model = copy.deepcopy(subject.model)
    apply_weights(model, weights)
    return replace(subject, model=model)


@dataclass(frozen=True)
class TracIn:
    """s(q, i) = −(1/n) Σ_c η_c ∇m_q(θ_c) · g_i(θ_c) over checkpoints c (Pruthi et al. 2020, TracInCP; positive = helpful).

    η_c is the rate summed over the steps that a checkpoint stands for, and 1/n the share that an example has in the gradient
    of a step, on average over batches; where the training is not known it is the final weights with η = 1. `layers` names those to use
    (all that can be handled by default).
    """

    layers: Sequence[str] | None = None
    name: ClassVar[str] = "tracin"

    def __post_init__(self) -> None:
        if self.layers is not None:
            object.__setattr__(self, "layers", kronecker.names(self.layers))

    def fit(self, subject: Subject, progress: Progress = silent) -> Fitted:
        """Looks at the layers; the gradients are taken when a query asks.

        Over `FEW` checkpoints evenly spread where the subject knows its training, else at the final weights alone.
        """
        known = subject.training
        if known is None:
            return self._fitted(subject, None, progress)
        epochs = sorted({round(known.epochs * part / FEW) for part in range(1, FEW + 1)} - {0})
        weights = {epoch: known.weights(epoch) for epoch in epochs}
        return self.over(subject, Checkpoints.by_recipe(weights, known.recipe, len(subject.train)), progress)

    def over(self, subject: Subject, checkpoints: Checkpoints, progress: Progress = silent) -> Fitted:
        """The same over checkpoints of the subject's training; cost a copy of the model's weights each.

        Raises:
            ModelError: a checkpoint does not fit the model.
        """
        return self._fitted(subject, checkpoints, progress)

    def restore(self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]) -> Fitted:
        """The fitted method from `tensors()` and `stats`."""
        checkpoints = None
        if stats["checkpoints"]:
            weights = [_part(tensors, f"{c}/") for c in range(stats["checkpoints"])]
            checkpoints = Checkpoints(tuple(weights), tuple(tensors["rates"].tolist()))
        return FittedTracIn(subject, checkpoints, kronecker.find(subject, self.layers), dict(stats))

    @says_what_fits
    def _fitted(self, subject: Subject, checkpoints: Checkpoints | None, progress: Progress) -> Fitted:
        began = time.perf_counter()
        found = kronecker.find(subject, self.layers)
        count = len(checkpoints.weights) if checkpoints else 0
        for c in range(count):
            progress(c, count, "checkpoints")
            assert checkpoints is not None
            at_weights(subject, checkpoints.weights[c])
        progress(1, 1, "checkpoints")
        stats = {
            "checkpoints": count,
            "rates": list(checkpoints.rates) if checkpoints else [1.0],
            "parameters": found.size,
            "layers": list(found.names),
            "left_out": dict(found.left_out),
            "seconds": time.perf_counter() - began,
        }
        return FittedTracIn(subject, checkpoints, found, stats)


@dataclass(frozen=True)
class Scaled:
    """A multiple of the identity in place of an inverse: `apply` and `quadratic` as `FittedInverse` wants them."""

    rate: float

    def apply(self, gradients: list[Tensor]) -> list[Tensor]:
        """Every gradient times the rate."""
        return [g * self.rate for g in gradients]

    def quadratic(self, rows: Rows) -> Tensor:
        """rate ‖g‖² of b examples, `[b]`; with one position the gradients are never built."""
        return self.rate * square_norms(rows)

    def tensors(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


def square_norms(rows: Rows) -> Tensor:
    """‖g‖² of b examples over all layers, `[b]`; cost t·parameters an example, or the sum of widths with one position."""
    total = rows.inputs[0].new_zeros(len(rows))
    for a, d in zip(rows.inputs, rows.pulls, strict=True):
        if a.shape[1] == 1:
            total += a[:, 0].square().sum(1) * d[:, 0].square().sum(1)
        else:
            total += factors.weighted_squares(a.new_ones(d.shape[2], a.shape[2]), d, a)
    return total


@dataclass(eq=False)
class FittedTracIn:
    """A training's checkpoints (None: the final weights alone) and the layers whose gradients are multiplied.

    The training set's factors are kept between calls where those of all checkpoints together fit into
    `directional.KEEP_BYTES`; else every call runs the training set again at each checkpoint.
    """

    subject: Subject
    checkpoints: Checkpoints | None
    layers: Layers
    stats: Mapping[str, Any]
    _held: dict[int, FittedInverse] = field(default_factory=dict, repr=False)

    @property
    def unit(self) -> str:
        """That only ranks compare."""
        if self.checkpoints is None:
            return "gradient product (only ranks compare)"
        return "first-order change summed over checkpoints (only ranks compare)"

    def score(self, queries: Queries, progress: Progress = silent, out: Tensor | None = None) -> Scores:
        """Influence `[query, train]`; per checkpoint a pass over queries and training set, and two small products a layer."""
        n = len(self.subject.train)
        total = torch.zeros(len(queries.rows), n) if out is None else out.zero_()
        step = max(1, ELEMENTS // n)
        starts = range(0, max(len(total), 1), step)
        for fitted, told in self._each(progress, len(starts)):
            for number, start in enumerate(starts):
                block = slice(start, start + step)
                total[block] += fitted.score(queries.block(block), told(number)).values
        return Scores(
            total,
            queries.examples.ids[queries.rows],
            self.subject.train.ids,
            TracIn.name,
            queries.target,
            self.unit,
            self.stats,
        )

    def weighted(self, queries: Queries, weights: Tensor, progress: Progress = silent) -> Tensor:
        """Weighted sums over queries `[k, train]`: at each checkpoint the gradients are summed first."""
        parts = [fitted.weighted(queries, weights, told(0)) for fitted, told in self._each(progress, 1)]
        return torch.stack(parts).sum(0)

    def self_influence(self, progress: Progress = silent) -> Tensor:
        """(1/n) Σ_c η_c ‖g_i(θ_c)‖², float32 `[train]`."""
        return torch.stack([fitted.self_influence(told(0)) for fitted, told in self._each(progress, 1)]).sum(0)

    def tensors(self) -> dict[str, Tensor]:
        """`rates`, and the weights of checkpoint c as "c/name"."""
        if self.checkpoints is None:
            return {"rates": torch.ones(1, dtype=torch.float64)}
        found = {"rates": torch.tensor(self.checkpoints.rates, dtype=torch.float64)}
        for c, weights in enumerate(self.checkpoints.weights):
            found |= {f"{c}/{name}": tensor.detach().cpu().clone() for name, tensor in weights.items()}
        return found

    def _each(self, progress: Progress, parts: int) -> Iterator[tuple[FittedInverse, _Told]]:
        """Every checkpoint as a fitted method, with the progress of its `parts`."""
        count = len(self.stats["rates"])
        for c in range(count):
            yield self._at(c), _Told(progress, c * parts, count * parts)

    def _at(self, c: int) -> FittedInverse:
        if c in self._held:
            return self._held[c]
        subject = self.subject if self.checkpoints is None else at_weights(self.subject, self.checkpoints.weights[c])
        found = whole(1, lambda _: kronecker.find(subject, None), need_of(self.layers))
        names = {layer.name for layer in self.layers.layers}
        found = Layers(tuple(layer for layer in found.layers if layer.name in names), found.left_out)
        like = next(subject.model.parameters())
        inverse = Scaled(self.stats["rates"][c])
        pairs = Separable(
            tuple(
                (like.new_full((1, layer.width_out), inverse.rate), like.new_ones(1, layer.width_in))
                if layer.positions == 1
                else None
                for layer in found.layers
            )
        )
        fitted = FittedInverse(
            subject, found, inverse, TracIn.name, {}, self.unit, separable=pairs, quadratic=inverse.quadratic
        )
        held = len(self.stats["rates"]) * len(subject.train) * found.elements * like.element_size()
        if held <= directional.KEEP_BYTES:
            self._held[c] = fitted
        return fitted


@dataclass(frozen=True)
class _Told:
    """The progress of one of several equal parts."""

    progress: Progress
    first: int
    count: int

    def __call__(self, part: int) -> Progress:
        def told(done: int, total: int, note: str) -> None:
            self.progress((self.first + part) * total + done, self.count * total, note)

        return told


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
