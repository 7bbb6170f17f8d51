"""How loud is each direction of a layer in the model's own answers? The two passes behind every Kronecker-factored method.

Measures factors, their eigenvectors and the squares of gradients along these; what is inverted is each method's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from explorer.contracts import Progress, Subject
from explorer.errors import ModelError
from explorer.influence import factors, kernels, positions
from explorer.influence.backward import Trace, block_size, need_of, traces
from explorer.influence.blocks import whole
from explorer.influence.columns import Columns, planned
from explorer.influence.directional import KEEP_BYTES, Basis, Kept, Rows, check_gradients, rows_of
from explorer.influence.layers import Layers

FISHER_BYTES = 2**28
"""Inputs and pulls of all classes are kept from the first pass for the second up to this size, else computed again."""

Pulls = Iterable[list[Tensor]]
"""For each column of the Fisher, the pulls of every layer."""


@dataclass(frozen=True)
class _Block:
    """Examples from place `start` on: what every layer got, the pulls of every column, and how to have their own gradients."""

    start: int
    inputs: list[Tensor]
    columns: Pulls
    own: Callable[[], Rows]

    def held(self) -> _Block:
        """The same, found now: it outlives its trace."""
        columns, rows = list(self.columns), self.own()
        return _Block(self.start, self.inputs, columns, lambda: rows)


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
    """The training set's inputs with the pulls of its Fisher columns; a second pass is free where the first was kept.

    With `share` > 0 the quietest columns of classes are left out, as many as make up no more than that share (`columns`).
    """

    def __init__(self, subject: Subject, found: Layers, share: float = 0.0) -> None:
        self._subject = subject
        self._share = share
        self._plan: Columns | None = None
        self._layers = found
        self._kept: list[_Block] | None = None
        self._keeps = True
        self._step = block_size(found)
        self.rule = ""
        """How the model's own answers were covered, in words; known after a pass."""
        self.training = Kept()
        """The training set's gradients along the axes: `corrected` finds them on its way where they fit in memory."""

    @property
    def left_out(self) -> float:
        """The share of the Fisher in columns that were not taken; known after a pass."""
        return 0.0 if self._plan is None else self._plan.left_out

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
        basis = Basis([saved(a, dtype) for (_, a), _ in apart], [saved(d, dtype) for _, (_, d) in apart])
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
        self.training = Kept(self._in_order(training, step))
        return totals

    def _in_order(self, blocks: list[tuple[int, Rows]] | None, step: int) -> list[tuple[int, Rows]] | None:
        """The gradients of the training set in its own order, in blocks of `step` examples."""
        assert self._plan is not None
        if not blocks or not self._plan.cuts:
            return blocks
        every = kernels.joined([rows for _, rows in blocks])
        blocks.clear()  # twice the memory is enough
        places = torch.from_numpy(np.argsort(self._plan.rows)).to(every.inputs[0].device)
        return [(start, kernels.chosen(every, places[start : start + step])) for start in range(0, len(places), step)]

    def _blocks(self, progress: Progress, note: str) -> Iterator[_Block]:
        if self._kept is not None:
            for i, held in enumerate(self._kept):
                progress(i, len(self._kept), note)
                yield held
            progress(len(self._kept), len(self._kept), note)
            return
        kept: list[_Block] = []
        model, examples = self._subject.model, self._subject.train
        if self._plan is None:
            self._plan = planned(self._subject, self._share, self._step, need_of(self._layers), progress)
        plan = self._plan
        for start, trace in traces(model, self._layers, examples, plan.rows, progress, note, self._step, plan.cuts):
            part = slice(start, start + len(trace.outputs))
            own = partial(rows_of, trace, examples, self._subject.objective.loss_gradient, plan.rows, part)
            block = _Block(start, trace.inputs, self._columns(plan, trace, start), own)
            if self._keeps and self._bytes(plan, trace.outputs) <= FISHER_BYTES:
                block = block.held()
                kept.append(block)
            yield block
        self._kept = kept or None

    def _columns(self, plan: Columns, trace: Trace, start: int) -> Iterator[list[Tensor]]:
        outputs = trace.outputs.detach()
        left_out = f", {plan.left_out:.1g} of it left out" if plan.left_out else ""
        self.rule = factors.fisher_rule(self._subject.objective, outputs.shape[1]) + left_out
        for column in plan.yielded(self._subject.objective, outputs.double(), start):
            yield trace.pulls(column.to(outputs.dtype))

    def _bytes(self, plan: Columns, outputs: Tensor) -> float:
        columns = plan.mean(self._subject.objective, outputs.shape[1])
        each = sum(layer.positions * (layer.width_in + columns * layer.width_out) for layer in self._layers.layers)
        return len(self._subject.train) * each * outputs.element_size()


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


def saved(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """In `dtype`, rows first in memory as files have them: another order takes other routines, whose last bits differ."""
    return tensor.to(dtype).contiguous()


def _zeros(rows: int, columns: int, device: torch.device) -> Tensor:
    return torch.zeros(rows, columns, dtype=torch.float64, device=device)
