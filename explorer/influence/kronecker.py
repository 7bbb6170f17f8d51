"""What do all methods share whose inverse is diagonal along the eigenvectors of a layer's Kronecker factors?

The diagonal inverse, and how it is fitted and saved; the passes that measure it are `fisher`'s, and which eigenvalues are taken
is each method's own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.contracts import Subject
from explorer.errors import SettingsError
from explorer.influence import factors, kernels, layers
from explorer.influence.damping import Damping
from explorer.influence.directional import (
    Basis,
    FittedInverse,
    Kept,
    Rows,
    contract,
    example_rows,
)
from explorer.influence.fisher import Fisher, saved
from explorer.influence.layers import Layers
from explorer.influence.separable import Products, Separable, agreement, of_rank, within

TOLERANCE = 1e-3
"""What products may leave out of the inverse by default, as a share: scores keep their ranks (Spearman .9998 and more over
five problems)."""
MEASURED = (32, 256)
"""Training examples asked about, and training examples answering, when the error of separable products is measured."""
MEASURED_ELEMENTS = 2**23
"""Numbers in the gradients of those asked about (32 MB in float32; their directions as much again): of a model too large
for this fewer are, but `FEWEST` at least."""
FEWEST = 4
SINGULAR = 1e-10
"""Share of the largest eigenvalue below which a damped one cannot be told from zero: float32 products leave (1e-7)²
in a square of nothing, over some hundred columns."""


@dataclass(frozen=True)
class Precision:
    """How pairs are scored: by `rank` products a layer, else by as many as leave out `tolerance`, or exactly (0)."""

    rank: int | None
    tolerance: float

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise SettingsError(
                f"Expected rank >= 1; found {self.rank}. Leave it out to have it chosen by the tolerance."
            )
        if not 0 <= self.tolerance < 1:
            raise SettingsError(
                f"Expected tolerance >= 0 and below 1; found {self.tolerance}. Choose 0 for exact scores, or leave it out."
            )

    def products(self, inverse: Tensor, energy: Tensor) -> Products | None:
        """Those for a layer of one position, or None where the inverse itself is used."""
        return within(inverse, energy, self.tolerance) if self.rank is None else of_rank(inverse, energy, self.rank)

    @property
    def stats(self) -> dict[str, Any]:
        """What was asked for, as stats."""
        return {"tolerance": self.tolerance} if self.rank is None else {"rank": self.rank}

    @classmethod
    def told(cls, stats: Mapping[str, Any]) -> Precision:
        """What stats say was asked for; those from before there was a tolerance say nothing where scores are exact."""
        return cls(stats.get("rank"), stats.get("tolerance", 0.0))


@dataclass(frozen=True)
class Diagonal:
    """(Λ + shift)⁻¹ entry by entry along a layer's axes: `eigenvalues[l] [width_out, width_in]`, float64."""

    basis: Basis
    eigenvalues: list[Tensor]
    shift: float
    separable: Separable | None

    def apply(self, gradients: list[Tensor]) -> list[Tensor]:
        """The inverse times gradients that are counted along the axes; cost one product a number."""
        return [g * R.to(g) for g, R in zip(gradients, self.inverses(), strict=True)]

    def of(self, some: list[int]) -> Diagonal:
        """The inverse of some of the layers."""
        basis = Basis([self.basis.inputs[i] for i in some], [self.basis.pulls[i] for i in some])
        return Diagonal(basis, [self.eigenvalues[i] for i in some], self.shift, None)

    def inverses(self) -> list[Tensor]:
        """1/(Λ + shift) of each layer, float64."""
        return [1 / (values + self.shift) for values in self.eigenvalues]

    def quadratic(self, rows: Rows) -> Tensor:
        """gᵀ H⁻¹ g of b examples, `[b]`, as a sum of squares; with one position the gradients are never built."""
        total = rows.inputs[0].new_zeros(len(rows))
        for a, d, R in zip(rows.inputs, rows.pulls, self.inverses(), strict=True):
            if a.shape[1] == 1:
                total += ((d[:, 0].square() @ R.to(d)) * a[:, 0].square()).sum(1)
            else:
                total += factors.weighted_squares(R.to(d), d, a)
        return total

    def tensors(self) -> dict[str, Tensor]:
        """For layer l "l/inputs", "l/pulls", "l/eigenvalues", and "l/left", "l/right" where it is separable."""
        found: dict[str, Tensor] = {}
        for i, eigenvalues in enumerate(self.eigenvalues):
            found |= {f"{i}/inputs": self.basis.inputs[i], f"{i}/pulls": self.basis.pulls[i]}
            found[f"{i}/eigenvalues"] = eigenvalues
            pair = None if self.separable is None else self.separable.factors[i]
            if pair is not None:
                found |= {f"{i}/left": pair[0], f"{i}/right": pair[1]}
        return {name: tensor.cpu().contiguous() for name, tensor in found.items()}


def fitted(
    method: str,
    subject: Subject,
    found: Layers,
    fisher: Fisher,
    basis: Basis,
    eigenvalues: list[Tensor],
    damping: Damping,
    precision: Precision,
    seconds: dict[str, float],
) -> FittedKronecker:
    """The method at its damping, with products in place of the inverse as `precision` has it.

    Raises:
        SettingsError: an eigenvalue is zero and neither weight decay nor damping lifts it.
    """
    mean = float(sum(values.sum() for values in eigenvalues)) / found.size
    shift = subject.weight_decay + damping.of(mean)
    _check_invertible(eigenvalues, damping.of(mean), subject.weight_decay)
    inverse = Diagonal(basis, eigenvalues, shift, None)
    stats: dict[str, Any] = {
        "damping": damping.of(mean),
        "damping_rule": damping.rule,
        "weight_decay": subject.weight_decay,
        "mean_eigenvalue": mean,
        "fisher": fisher.rule,
        "fisher_left_out": fisher.left_out,
        "parameters": found.size,
        "layers": list(found.names),
        "left_out": dict(found.left_out),
    }
    began = time.perf_counter()
    inverse, evidence = _separated(subject, found, inverse, precision, fisher.training)
    stats |= evidence
    seconds["products"] = time.perf_counter() - began
    stats |= {"seconds": sum(seconds.values()), "seconds_each": seconds}
    made = _assembled(method, subject, found, inverse, stats)
    made._kept = fisher.training
    return made


@dataclass(eq=False)
class FittedKronecker(FittedInverse):
    """An inverse that is diagonal along Kronecker factors' eigenvectors: another damping costs next to nothing."""

    def redamped(self, damping: float) -> FittedKronecker:
        """The same eigenvectors and eigenvalues at another λ; products are fitted again.

        Raises:
            SettingsError: the damping is negative or not finite, or the curvature is singular at it.
        """
        inverse = self.inverse
        assert isinstance(inverse, Diagonal)
        shift = self.subject.weight_decay + Damping(damping, 0.0).of(0.0)
        _check_invertible(inverse.eigenvalues, damping, self.subject.weight_decay)
        moved = Diagonal(inverse.basis, inverse.eigenvalues, shift, None)
        stats = {**self.stats, "damping": damping, "damping_rule": "given"}
        moved, evidence = _separated(self.subject, self.layers, moved, Precision.told(stats), self._kept)
        stats |= evidence
        other = _assembled(self.method, self.subject, self.layers, moved, stats)
        other._kept = self._kept
        return other

    def _directions(self, asked: Rows, some: list[int]) -> list[Tensor]:
        """Of these layers alone: the gradients of others, scored by products, are never built."""
        assert isinstance(self.inverse, Diagonal)
        return self.inverse.of(some).apply(asked.of(some).gradients())


def restored(
    method: str, subject: Subject, chosen: Sequence[str] | None, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]
) -> FittedKronecker:
    """What `fitted` returned, from its tensors and stats; cost a few examples through the model."""
    found = find(subject, chosen)
    device = next(subject.model.parameters()).device
    own = {name: tensor.to(device) for name, tensor in tensors.items()}
    count = len(found.layers)
    basis = Basis([own[f"{i}/inputs"] for i in range(count)], [own[f"{i}/pulls"] for i in range(count)])
    pairs = ((own.get(f"{i}/left"), own.get(f"{i}/right")) for i in range(count))
    separable = _separable([(a, b) if a is not None and b is not None else None for a, b in pairs])
    shift = stats["weight_decay"] + stats["damping"]
    inverse = Diagonal(basis, [own[f"{i}/eigenvalues"] for i in range(count)], shift, separable)
    return _assembled(method, subject, found, inverse, dict(stats))


def names(chosen: Sequence[str]) -> tuple[str, ...]:
    """Names of layers as a setting that can be compared and hashed; a single name is a list of one."""
    return (chosen,) if isinstance(chosen, str) else tuple(chosen)


def find(subject: Subject, chosen: Sequence[str] | None) -> Layers:
    """The subject's layers, looked at with its first training examples."""
    probe = np.arange(min(layers.PROBED, len(subject.train)), dtype=np.int64)
    return layers.of(subject.model, subject.train.batch(probe), chosen)


def _check_invertible(eigenvalues: list[Tensor], damping: float, decay: float) -> None:
    smallest = min(float(values.min()) for values in eigenvalues)
    largest = max(float(values.max()) for values in eigenvalues)
    if smallest + decay + damping <= SINGULAR * largest:
        raise SettingsError(
            f"Expected an invertible curvature; found eigenvalues from {smallest:.1e} to {largest:.1e} at damping "
            f"{damping:g} and weight decay {decay:g}. {Damping.remedy(largest)}"
        )


def _assembled(
    method: str, subject: Subject, found: Layers, inverse: Diagonal, stats: Mapping[str, Any]
) -> FittedKronecker:
    return FittedKronecker(
        subject,
        found,
        inverse,
        method,
        stats,
        basis=inverse.basis,
        separable=inverse.separable,
        quadratic=inverse.quadratic,
    )


def _separated(
    subject: Subject, found: Layers, inverse: Diagonal, precision: Precision, training: Kept
) -> tuple[Diagonal, dict[str, Any]]:
    """The inverse with products for the layers of one position, and how far they are from it on training examples."""
    dtype = inverse.basis.inputs[0].dtype
    chosen = [
        precision.products(R, values) if layer.positions == 1 else None
        for layer, R, values in zip(found.layers, inverse.inverses(), inverse.eigenvalues, strict=True)
    ]
    evidence = precision.stats | {
        "ranks": [0 if each is None else len(each.left) for each in chosen],
        "tails": [0.0 if each is None else each.tail for each in chosen],
    }
    pairs = [None if each is None else (saved(each.left, dtype), saved(each.right, dtype)) for each in chosen]
    made = Diagonal(inverse.basis, inverse.eigenvalues, inverse.shift, _separable(pairs))
    error, ranks = _measured(subject, found, made, training)
    return made, evidence | {"rank_error": error, "rank_agreement": ranks}


def _separable(pairs: list[tuple[Tensor, Tensor] | None]) -> Separable | None:
    return Separable(tuple(pairs)) if any(pair is not None for pair in pairs) else None


def _measured(subject: Subject, found: Layers, inverse: Diagonal, training: Kept) -> tuple[float, float]:
    """Error and rank agreement of an inverse's products with itself, on training examples asked about training examples."""
    separable = inverse.separable
    if separable is None:
        return 0.0, 1.0
    counts = max(FEWEST, min(MEASURED[0], MEASURED_ELEMENTS // found.size)), MEASURED[1]
    asked, answering = (_spread(subject, found, inverse.basis, count, training) for count in counts)
    others = [i for i in range(len(found.layers)) if not separable.covers(i)]
    directions = inverse.apply(asked.gradients())
    exact = contract(directions, answering)
    products = torch.zeros_like(exact)
    if others:
        products += contract([directions[i] for i in others], answering.of(others))
    separable.add(products, asked.inputs, asked.pulls, answering.inputs, answering.pulls)
    return agreement(products, exact)


def _spread(subject: Subject, found: Layers, basis: Basis, count: int, training: Kept) -> Rows:
    """Gradients of at most `count` training examples, evenly spread, along the axes; out of `training` where they are."""
    n = len(subject.train)
    rows = np.unique(np.linspace(0, n - 1, min(count, n)).astype(np.int64))
    if training.whole is None:
        blocks = example_rows(subject, found, subject.train, subject.objective.loss_gradient, rows)
        return kernels.joined([basis.turned(block) for _, block in blocks])
    parts = []
    for start, block in training.whole:
        inside = rows[(rows >= start) & (rows < start + len(block))] - start
        parts.append(kernels.chosen(block, torch.from_numpy(inside).to(block.inputs[0].device)))
    return kernels.joined(parts)
