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
from explorer.influence.separable import Separable, agreement, separate

MEASURED = (64, 512)
"""Training examples asked about, and training examples answering, when the error of separable products is measured."""
SINGULAR = 1e-10
"""Share of the largest eigenvalue below which a damped one cannot be told from zero: float32 products leave (1e-7)²
in a square of nothing, over some hundred columns."""


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
    rank: int | None,
    seconds: dict[str, float],
) -> FittedKronecker:
    """The method at its damping, with products of `rank` in place of the inverse where that is asked for.

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
        "parameters": found.size,
        "layers": list(found.names),
        "left_out": dict(found.left_out),
    }
    if rank is not None:
        began = time.perf_counter()
        inverse, evidence = _separated(subject, found, inverse, rank, fisher.training)
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
        """The same eigenvectors and eigenvalues at another λ; products of a rank are fitted again.

        Raises:
            SettingsError: the damping is negative or not finite, or the curvature is singular at it.
        """
        inverse = self.inverse
        assert isinstance(inverse, Diagonal)
        shift = self.subject.weight_decay + Damping(damping, 0.0).of(0.0)
        _check_invertible(inverse.eigenvalues, damping, self.subject.weight_decay)
        moved = Diagonal(inverse.basis, inverse.eigenvalues, shift, None)
        stats = {**self.stats, "damping": damping, "damping_rule": "given"}
        if "rank" in stats:
            moved, evidence = _separated(self.subject, self.layers, moved, stats["rank"], self._kept)
            stats |= evidence
        other = _assembled(self.method, self.subject, self.layers, moved, stats)
        other._kept = self._kept
        return other


def restored(
    method: str, subject: Subject, chosen: Sequence[str] | None, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]
) -> FittedKronecker:
    """What `fitted` returned, from its tensors and stats; cost a few examples through the model."""
    found = find(subject, chosen)
    device = next(subject.model.parameters()).device
    own = {name: tensor.to(device) for name, tensor in tensors.items()}
    count = len(found.layers)
    basis = Basis([own[f"{i}/inputs"] for i in range(count)], [own[f"{i}/pulls"] for i in range(count)])
    separable = None
    if "rank" in stats:
        pairs = ((own.get(f"{i}/left"), own.get(f"{i}/right")) for i in range(count))
        separable = Separable(tuple((a, b) if a is not None and b is not None else None for a, b in pairs))
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
    subject: Subject, found: Layers, inverse: Diagonal, rank: int, training: Kept
) -> tuple[Diagonal, dict[str, Any]]:
    """The inverse with products for every layer of one position, and how far they are from it on training examples."""
    dtype = inverse.basis.inputs[0].dtype
    pairs = [
        separate(R, values, rank) if layer.positions == 1 else None
        for layer, R, values in zip(found.layers, inverse.inverses(), inverse.eigenvalues, strict=True)
    ]
    separable = Separable(tuple(pair and (saved(pair[0], dtype), saved(pair[1], dtype)) for pair in pairs))
    asked, answering = (_spread(subject, found, inverse.basis, count, training) for count in MEASURED)
    directions = inverse.apply(asked.gradients())
    exact = contract(directions, answering)
    others = [i for i in range(len(pairs)) if pairs[i] is None]
    products = torch.zeros_like(exact)
    if others:
        rest = Rows([answering.inputs[i] for i in others], [answering.pulls[i] for i in others])
        products += contract([directions[i] for i in others], rest)
    separable.add(products, asked.inputs, asked.pulls, answering.inputs, answering.pulls)
    error, ranks = agreement(products, exact)
    evidence = {
        "rank": rank,
        "ranks": [0 if pair is None else len(pair[0]) for pair in pairs],
        "rank_error": error,
        "rank_agreement": ranks,
    }
    return Diagonal(inverse.basis, inverse.eigenvalues, inverse.shift, separable), evidence


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
