"""What do all methods share whose inverse is diagonal along the eigenvectors of a layer's Kronecker factors?

The passes that measure factors and eigenvalues, the diagonal inverse, and how it is fitted and saved; which eigenvalues
are taken is each method's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.contracts import Progress, Subject
from explorer.errors import ModelError, SettingsError
from explorer.influence import factors, kernels, layers, positions
from explorer.influence.backward import Trace, block_size, need_of, traces
from explorer.influence.blocks import whole
from explorer.influence.directional import (
    KEEP_BYTES,
    Basis,
    FittedInverse,
    Kept,
    Rows,
    check_gradients,
    contract,
    example_rows,
    rows_of,
)
from explorer.influence.layers import Layers
from explorer.influence.separable import Separable, agreement, separate

FISHER_BYTES = 2**28
"""Inputs and pulls of all classes are kept from the first pass for the second up to this size, else computed again."""
MEASURED = (64, 512)
"""Training examples asked about, and training examples answering, when the error of separable products is measured."""
SINGULAR = 1e-10
"""Share of the largest eigenvalue below which a damped one cannot be told from zero: float32 products leave (1e-7)²
in a square of nothing, over some hundred columns."""

Columns = Iterable[list[Tensor]]
"""For each column of the Fisher, the pulls of every layer."""


@dataclass(frozen=True)
class _Block:
    """Examples from `start` on: what every layer got, the pulls of every column, and how to have their own gradients."""

    start: int
    inputs: list[Tensor]
    columns: Columns
    own: Callable[[], Rows]

    def held(self) -> _Block:
        """The same, found now: it outlives its trace."""
        columns, rows = list(self.columns), self.own()
        return _Block(self.start, self.inputs, columns, lambda: rows)


@dataclass(frozen=True)
class Damping:
    """λ >= 0, or None for `relative` times the mean eigenvalue over all handled parameters."""

    fixed: float | None
    relative: float

    def __post_init__(self) -> None:
        for name, value in (("damping", self.fixed), ("relative_damping", self.relative)):
            if value is not None and not 0 <= value < float("inf"):
                raise SettingsError(f"Expected {name} >= 0 and finite; found {value}. Leave it out to have it chosen.")

    def of(self, mean_eigenvalue: float) -> float:
        """λ for a model with this mean eigenvalue."""
        return self.relative * mean_eigenvalue if self.fixed is None else self.fixed

    @staticmethod
    def remedy(mean_eigenvalue: float) -> str:
        """What to do where the curvature is singular at this damping."""
        if mean_eigenvalue > 0:
            return "Choose a larger damping, or leave it out to have it chosen."
        return (
            "Every answer of this model is certain, so that no example curves the loss: choose a damping above 0, or weights "
            "from earlier in the training."
        )

    @property
    def rule(self) -> str:
        """Where λ comes from, in words."""
        return f"{self.relative:g} x mean eigenvalue" if self.fixed is None else "chosen by the user"


@dataclass(frozen=True)
class Axes:
    """Eigenvectors of each layer's two factors as a basis, in the model's dtype, with their eigenvalues in float64.

    The factors are those of the "expand" convention (Eschenhagen et al. 2023) for positions t that share a layer:
    A = (1/(n t)) Σ_i Σ_t a aᵀ over inputs and S = (1/n) Σ_i Σ_c Σ_t d dᵀ over the pulls of the Fisher's columns c.
    """

    basis: Basis
    inputs: list[Tensor]
    pulls: list[Tensor]


class Fisher:
    """The training set's inputs with the pulls of every Fisher column; a second pass is free where the first was kept."""

    def __init__(self, subject: Subject, found: Layers) -> None:
        self._subject = subject
        self._layers = found
        self._kept: list[_Block] | None = None
        self._keeps = True
        self._step = block_size(found)
        self.rule = ""
        """How the model's own answers were covered, in words; known after a pass."""
        self.training = Kept()
        """The training set's gradients along the axes: `corrected` finds them on its way where they fit in memory."""

    def axes(self, progress: Progress) -> Axes:
        """Measures both factors of every layer and takes them apart; cost a backward pass a column, and n·t·width²."""
        found = self._layers.layers
        A, S, places = whole(self._step, partial(self._covariances, progress), need_of(self._layers), self._forget)
        self._check_finite([*A, *S])
        n = len(self._subject.train)
        dtype = torch.promote_types(next(self._subject.model.parameters()).dtype, torch.float32)
        apart = []
        for i in range(len(found)):
            progress(i, len(found), "eigenvectors")
            apart.append((factors.eigenbasis(A[i] / places[i]), factors.eigenbasis(S[i] / n)))
        progress(len(found), len(found), "eigenvectors")
        basis = Basis([_saved(a, dtype) for (_, a), _ in apart], [_saved(d, dtype) for _, (_, d) in apart])
        return Axes(basis, [values for (values, _), _ in apart], [values for _, (values, _) in apart])

    def _covariances(self, progress: Progress, step: int) -> tuple[list[Tensor], list[Tensor], list[int]]:
        """n t A and n S of every layer, float64, in blocks of `step` examples, and how many positions n t are in A.

        All of them, but for sequences those alone that move an asked position: padding is no input.
        """
        self._step = step
        found = self._layers.layers
        device = next(self._subject.model.parameters()).device
        A = [_zeros(layer.width_in, layer.width_in, device) for layer in found]
        S = [_zeros(layer.width_out, layer.width_out, device) for layer in found]
        places = [len(self._subject.train) * layer.positions for layer in found]
        padded = self._subject.objective.task == "sequence"
        reached = [0 for _ in found]
        for block in self._blocks(progress, "factors"):
            moving = [rows.new_full(rows.shape[:2], not padded, dtype=torch.bool) for rows in block.inputs]
            for pulls in block.columns:
                for total, rows in zip(S, pulls, strict=True):
                    positions.add_covariance(total, rows)
                if padded:
                    moving = [found | rows.any(2) for found, rows in zip(moving, pulls, strict=True)]
            for i, (rows, which) in enumerate(zip(block.inputs, moving, strict=True)):
                factors.add_covariance(A[i], rows * which.unsqueeze(2) if padded else rows)
                reached[i] += int(which.sum())
        return A, S, [max(1, count) for count in reached] if padded else places

    def _forget(self) -> None:
        """Memory is short: let go of the first pass, and keep nothing of the next."""
        self._kept, self._keeps = None, False

    def _check_finite(self, totals: list[Tensor]) -> None:
        bad = [name for name, total in zip(2 * self._layers.names, totals, strict=True) if not total.isfinite().all()]
        if bad:
            check_gradients(self._subject, self._layers)
            raise ModelError(
                f"Expected finite inputs and gradients in every layer; found NaN or infinity in {', '.join(bad)}. "
                "Check the weights and the scale of the inputs."
            )

    def corrected(self, basis: Basis, progress: Progress) -> list[Tensor]:
        """(1/n) Σ_i Σ_c (Q_Sᵀ G Q_A)² for each layer, float64 `[width_out, width_in]`, G example i's gradient of column c.

        Cost a pass as in `axes` where that was not kept, a backward pass for the training set's own gradients, rotations
        n·t·width² and t·width_out·width_in an example (and column, where t > 1).
        """
        totals = whole(self._step, partial(self._squares, basis, progress), need_of(self._layers), self._forget)
        return [total / len(self._subject.train) for total in totals]

    def _squares(self, basis: Basis, progress: Progress, step: int) -> list[Tensor]:
        """n times what `corrected` returns, in blocks of `step` examples."""
        self._step = step
        found = self._layers.layers
        device = basis.inputs[0].device
        totals = [_zeros(layer.width_out, layer.width_in, device) for layer in found]
        training: list[tuple[int, Rows]] | None = [] if self._keeps else None
        for block in self._blocks(progress, "eigenvalues"):
            known: list[Tensor | None] = [None for _ in found]
            if training is not None:
                training.append((block.start, basis.turned(block.own())))
                known = list(training[-1][1].inputs)
                training = training if sum(rows.bytes for _, rows in training) <= KEEP_BYTES else None
            _add_squares(totals, block, basis, known)
        self.training = Kept(training)
        return totals

    def _blocks(self, progress: Progress, note: str) -> Iterator[_Block]:
        if self._kept is not None:
            for i, held in enumerate(self._kept):
                progress(i, len(self._kept), note)
                yield held
            progress(len(self._kept), len(self._kept), note)
            return
        kept: list[_Block] = []
        model, examples = self._subject.model, self._subject.train
        everything = np.arange(len(examples), dtype=np.int64)
        for start, trace in traces(model, self._layers, examples, everything, progress, note, self._step):
            part = slice(start, start + len(trace.outputs))
            own = partial(rows_of, trace, examples, self._subject.objective.loss_gradient, everything, part)
            block = _Block(start, trace.inputs, self._columns(trace, start), own)
            if self._keeps and self._bytes(trace.outputs) <= FISHER_BYTES:
                block = block.held()
                kept.append(block)
            yield block
        self._kept = kept or None

    def _columns(self, trace: Trace, start: int) -> Iterator[list[Tensor]]:
        outputs = trace.outputs.detach()
        self.rule = factors.fisher_rule(self._subject.objective, outputs.shape[1])
        for column in factors.fisher_columns(self._subject.objective, outputs.double(), start):
            yield trace.pulls(column.to(outputs.dtype))

    def _bytes(self, outputs: Tensor) -> int:
        columns = factors.fisher_count(self._subject.objective, outputs.shape[1])
        each = sum(layer.positions * (layer.width_in + columns * layer.width_out) for layer in self._layers.layers)
        return len(self._subject.train) * each * outputs.element_size()


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
    separable = Separable(tuple(pair and (_saved(pair[0], dtype), _saved(pair[1], dtype)) for pair in pairs))
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


def _add_squares(totals: list[Tensor], block: _Block, basis: Basis, known: list[Tensor | None]) -> None:
    """Adds a block's squared gradients along the axes; `known` may have its inputs along them, for layers of one position."""
    alone = [rows.shape[1] == 1 for rows in block.inputs]
    turned = [
        found if found is not None and single else rows @ Q
        for rows, Q, found, single in zip(block.inputs, basis.inputs, known, alone, strict=True)
    ]
    squares = [a.new_zeros(len(a), len(total)) for a, total in zip(turned, totals, strict=True)]
    for pulls in block.columns:
        for i, (rows, Q) in enumerate(zip(pulls, basis.pulls, strict=True)):
            if alone[i]:  # the input is the same for every column: squares are summed first
                along = rows[:, 0] @ Q
                squares[i].addcmul_(along, along)
            else:
                positions.add_squares(totals[i], rows, turned[i], Q)
    for total, a, squared, single in zip(totals, turned, squares, alone, strict=True):
        if single:
            total += squared.T @ a[:, 0].square()


def _saved(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """In `dtype`, rows first in memory as files have them: another order takes other routines, whose last bits differ."""
    return tensor.to(dtype).contiguous()


def _zeros(rows: int, columns: int, device: torch.device) -> Tensor:
    return torch.zeros(rows, columns, dtype=torch.float64, device=device)
