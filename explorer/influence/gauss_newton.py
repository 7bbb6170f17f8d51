"""Which training examples moved this prediction, through every handled layer at once, with no block taken apart?

The Gauss-Newton inverse itself, by its loudest columns: a network that has learned is unsure of few examples, and only
these carry curvature. What the rest would add is left away and its share is said.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from explorer.contracts import MEASURE_UNIT, Fitted, Progress, Queries, Scores, Subject, silent
from explorer.errors import SettingsError
from explorer.influence import factors, kernels, kronecker
from explorer.influence.backward import block_size, need_of, traces
from explorer.influence.blocks import Need, in_blocks, says_what_fits, whole
from explorer.influence.damping import Damping
from explorer.influence.directional import Rows, check_gradients, contract, query_rows, train_rows
from explorer.influence.layers import Layers
from explorer.objectives import measure_unit

RELATIVE_DAMPING = 10.0
"""Damping as a multiple of the mean eigenvalue. Most of the curvature lies in few directions, so that this is far below the
largest and above most: on the problems of `tests/bench/fidelity.py` the best lies between 5 and 20."""
COLUMNS, SHARE = 2048, 0.99
"""Columns kept at most, and the share of the curvature that is enough."""
QUERIES = 256
"""Queries whose products with the training set exist at once."""
NEED = Need("one query's products with the training set and the columns", remedy="Choose fewer columns or layers.")
KEEP_BYTES = 2**30
"""Factors of the training set and their products with the columns are kept between calls up to this size."""


@dataclass(frozen=True)
class GaussNewton:
    """s(q, i) = −(1/n) ∇m_qᵀ (G + (wd + λ)I)⁻¹ g_i with G = (1/n) Σ_i Σ_c j_ic j_icᵀ over all handled layers together.

    j_ic is the gradient of example i along column c of the root of its loss curvature (√p_c ∇loss(c) for cross-entropy).
    The Woodbury identity turns the inverse of as many rows as there are parameters into one of as many as there are
    columns, (G + sI)⁻¹ = (1/s)(I − J(JᵀJ + n s I)⁻¹Jᵀ), and columns enter only through inner products of gradients,
    which cost two small products a layer. Of the n·k columns the largest are kept, at most `columns`, or as few as hold
    `share` of the trace of G; with all of them it is exact. `damping` is λ >= 0, None for `relative_damping` times the
    mean eigenvalue. `layers` names those to use (all that can be handled by default).
    """

    damping: float | None = None
    relative_damping: float = RELATIVE_DAMPING
    layers: Sequence[str] | None = None
    columns: int = COLUMNS
    share: float = SHARE
    name: ClassVar[str] = "gauss-newton"

    def __post_init__(self) -> None:
        Damping(self.damping, self.relative_damping)
        if self.layers is not None:
            object.__setattr__(self, "layers", kronecker.names(self.layers))
        if self.columns < 1:
            raise SettingsError(f"Expected columns >= 1; found {self.columns}. Leave it out for {COLUMNS}.")
        if not 0 < self.share <= 1:
            raise SettingsError(f"Expected share > 0 and at most 1; found {self.share}. Leave it out for {SHARE}.")

    @says_what_fits
    def fit(self, subject: Subject, progress: Progress = silent) -> Fitted:
        """One forward pass and as many backward passes as outputs; r columns cost r² inner products and r³/3.

        Raises:
            ModelError: no layer can be handled, or the model gives NaN.
            SettingsError: a layer asked for does not exist, or the curvature is singular at this damping.
        """
        began = time.perf_counter()
        found = kronecker.find(subject, self.layers)
        loudest, rule = whole(
            block_size(found), partial(_measure, subject, found, self.columns, progress), need_of(found)
        )
        kept, held = loudest.enough(self.share)
        n = len(subject.train)
        mean = loudest.total / n / found.size
        damping = Damping(self.damping, self.relative_damping)
        gram = kernels.products(kept, kept).double()
        factor = _factor(gram, n, subject.weight_decay, damping.of(mean))
        stats = {
            "damping": damping.of(mean),
            "damping_rule": damping.rule,
            "weight_decay": subject.weight_decay,
            "mean_eigenvalue": mean,
            "fisher": rule,
            "columns": len(kept),
            "of_columns": loudest.seen,
            "curvature_kept": held,
            "parameters": found.size,
            "layers": list(found.names),
            "left_out": dict(found.left_out),
            "seconds": time.perf_counter() - began,
        }
        return FittedGaussNewton(subject, found, kept, factor, stats)

    def restore(self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]) -> Fitted:
        """The fitted method from `tensors()` and `stats`; cost a few examples through the model."""
        found = kronecker.find(subject, self.layers)
        device = next(subject.model.parameters()).device
        # copied: what lies in memory as a file has it may be aligned otherwise, and takes other routines then
        own = {name: tensor.to(device, copy=True) for name, tensor in tensors.items()}
        layers = range(len(found.layers))
        kept = Rows([own[f"{i}/inputs"] for i in layers], [own[f"{i}/pulls"] for i in layers])
        return FittedGaussNewton(subject, found, kept, own["factor"].mT, dict(stats))


@dataclass(eq=False)
class FittedGaussNewton:
    """Columns of the curvature as factors of gradients, and the lower Cholesky factor `[r, r]` of JᵀJ + n s I, float64."""

    subject: Subject
    layers: Layers
    columns: Rows
    factor: Tensor
    stats: Mapping[str, Any]
    unit: str = MEASURE_UNIT
    _kept: list[tuple[int, Rows, Tensor]] | None = field(default=None, repr=False)
    _filling: list[tuple[int, Rows, Tensor]] = field(default_factory=list, repr=False)
    _keeps: bool = field(default=True, repr=False)

    def redamped(self, damping: float) -> FittedGaussNewton:
        """The same columns at another λ; cost r² inner products and r³/3.

        Raises:
            SettingsError: the curvature is singular at this damping.
        """
        decay = self.subject.weight_decay
        gram = kernels.products(self.columns, self.columns).double()
        factor = _factor(gram, len(self.subject.train), decay, damping)
        stats = {**self.stats, "damping": damping, "damping_rule": "given"}
        other = FittedGaussNewton(self.subject, self.layers, self.columns, factor, stats)
        other._kept = self._kept
        return other

    def score(self, queries: Queries, progress: Progress = silent, out: Tensor | None = None) -> Scores:
        """Influence float32 `[query, train]`; a pair costs Σ (width_out + width_in) and r multiply-adds, a column as much
        with every training example, once."""
        n = len(self.subject.train)
        values = torch.empty(len(queries.rows), n) if out is None else out
        for start, asked in self._queries(queries):

            def work(part: slice, asked: Rows = asked, start: int = start) -> None:
                some = asked[part]
                block = values[start + part.start : start + part.stop]
                shares = self._solved(kernels.products(self.columns, some))
                told = _part(progress, start + part.start, len(some), len(values))
                for first, rows, seen in self._training(told, "scores"):
                    found = kernels.products(some, rows).sub_(shares.T @ seen)
                    block[:, first : first + len(rows)].copy_(found.div_(-n * self._shift))

            for _ in in_blocks(len(asked), len(asked), work, NEED, self._forget):
                pass
        return Scores(
            values,
            queries.examples.ids[queries.rows],
            self.subject.train.ids,
            GaussNewton.name,
            queries.target,
            measure_unit(self.subject.objective.task, queries.target),
            self.stats,
        )

    def weighted(self, queries: Queries, weights: Tensor, progress: Progress = silent) -> Tensor:
        """Weighted sums over queries, float32 `[k, train]`: the gradients are summed first; cost k·n·parameters."""
        totals: list[Tensor] = []
        for start, asked in self._queries(queries):
            gradients = asked.gradients()
            part = weights[:, start : start + len(asked)].to(gradients[0])
            sums = [torch.tensordot(part, g, 1).double() for g in gradients]
            totals = [t.add_(s) for t, s in zip(totals, sums, strict=True)] if totals else sums
        directions = [total.to(self.columns.inputs[0]) for total in totals]
        shares = self._solved(contract(directions, self.columns).T)
        values = torch.empty(len(weights), len(self.subject.train))
        for first, rows, seen in self._training(progress, "scores"):
            found = contract(directions, rows).sub_(shares.T @ seen)
            values[:, first : first + len(rows)].copy_(found.div_(-values.shape[1] * self._shift))
        return values

    def self_influence(self, progress: Progress = silent) -> Tensor:
        """(1/n) g_iᵀ (G + sI)⁻¹ g_i, float32 `[n]`."""
        n = len(self.subject.train)
        values = torch.empty(n)
        for first, rows, seen in self._training(progress, "self-influence"):
            along = torch.linalg.solve_triangular(self.factor, seen.double(), upper=False).square().sum(0)
            own = (kernels.squares(rows).double() - along) / (n * self._shift)
            values[first : first + len(rows)] = own.clamp_min(0)  # positive but for rounding
        return values

    def tensors(self) -> dict[str, Tensor]:
        """For layer l the columns' "l/inputs" and "l/pulls", and `factor` transposed: files want rows."""
        found = {f"{i}/inputs": rows for i, rows in enumerate(self.columns.inputs)}
        found |= {f"{i}/pulls": rows for i, rows in enumerate(self.columns.pulls)}
        return {name: t.cpu().contiguous() for name, t in found.items()} | {"factor": self.factor.mT.cpu().contiguous()}

    def _forget(self) -> None:
        """Memory is short: let go of the training set's factors, and keep none from now on."""
        self._kept, self._keeps = None, False
        self._filling.clear()

    @property
    def _shift(self) -> float:
        return float(self.stats["weight_decay"] + self.stats["damping"])

    def _solved(self, seen: Float[Tensor, "r q"]) -> Float[Tensor, "r q"]:
        return torch.cholesky_solve(seen.double(), self.factor).to(seen)

    def _queries(self, queries: Queries) -> Iterator[tuple[int, Rows]]:
        for start, rows in query_rows(self.subject, self.layers, queries):
            for first in range(0, len(rows), QUERIES):
                yield start + first, rows[first : first + QUERIES]

    def _training(self, progress: Progress, note: str) -> Iterator[tuple[int, Rows, Tensor]]:
        """Blocks of the training set with their products `[r, b]` with the columns, from memory where they fit."""
        n = len(self.subject.train)
        progress(0, n, note)
        if self._kept is not None:
            for start, rows, seen in self._kept:
                yield start, rows, seen
                progress(start + len(rows), n, note)
            return
        blocks = self._filling = []
        held = 0
        for start, rows in train_rows(self.subject, self.layers, relieve=self._forget):
            seen = kernels.products(self.columns, rows)
            held += rows.bytes + seen.numel() * seen.element_size()
            if held <= KEEP_BYTES and self._keeps:
                blocks.append((start, rows, seen))
            else:
                blocks.clear()
            yield start, rows, seen
            progress(start + len(rows), n, note)
        self._filling = []
        if held <= KEEP_BYTES and self._keeps:
            self._kept = blocks


class _Loudest:
    """The largest columns so far, at most `most`, and the sum of the squares of all."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.total = 0.0
        self.seen = 0
        self._rows: Rows | None = None
        self._squares = torch.zeros(0)

    def add(self, rows: Rows) -> None:
        """Look at more columns."""
        found = kernels.squares(rows)
        self.total += float(found.double().sum())
        self.seen += len(rows)
        # what cannot be among the largest is not copied
        floor = self._squares.min() if len(self._squares) == self.most else 0
        which = (found > floor).nonzero()[:, 0]
        fresh, found = kernels.chosen(rows, which), found[which]
        both = fresh if self._rows is None else kernels.joined([self._rows, fresh])
        sizes = torch.cat([self._squares.to(found), found])
        order = sizes.argsort(descending=True, stable=True)[: self.most]
        self._rows, self._squares = kernels.chosen(both, order), sizes[order]

    def enough(self, share: float) -> tuple[Rows, float]:
        """The fewest columns that hold this share of all squares, or all there are; with the share they hold."""
        assert self._rows is not None
        held = self._squares.double().cumsum(0) / max(self.total, torch.finfo(torch.float64).tiny)
        count = max(1, min(len(held), int((held < share).sum()) + 1))
        return self._rows[:count], min(1.0, float(held[count - 1])) if len(held) else 1.0


def _measure(subject: Subject, found: Layers, most: int, progress: Progress, step: int) -> tuple[_Loudest, str]:
    """The loudest columns of the training set, seen `step` examples at a time; and how the model's own answers were covered."""
    loudest = _Loudest(most)
    rows = np.arange(len(subject.train), dtype=np.int64)
    rule = ""
    for start, trace in traces(subject.model, found, subject.train, rows, progress, "curvature", step):
        outputs = trace.outputs.detach()
        rule = factors.fisher_rule(subject.objective, outputs.shape[1])
        for column in factors.fisher_columns(subject.objective, outputs.double(), start):
            loudest.add(Rows(trace.inputs, trace.pulls(column.to(outputs.dtype))))
    if not isfinite(loudest.total):
        check_gradients(subject, found)
    return loudest, rule


def _factor(gram: Tensor, n: int, decay: float, damping: float) -> Tensor:
    """Cholesky of `gram + n (decay + damping) I`."""
    shift = n * (decay + damping)
    factor, failed = torch.linalg.cholesky_ex(gram + shift * torch.eye(len(gram)).to(gram))
    if shift <= 0 or failed or not bool(torch.isfinite(factor).all()):
        raise SettingsError(
            f"Expected an invertible curvature; found a singular one at damping {damping:g} and weight decay {decay:g}: "
            "there are directions in which no example curves the loss. "
            f"{Damping.remedy(float(gram.diagonal().sum()))}"
        )
    lower: Tensor = factor.mT.contiguous().mT  # columns first in memory, as after a file
    return lower


def _part(progress: Progress, start: int, size: int, total: int) -> Progress:
    """Progress of a block of queries as a share of all: done and total are counted in pairs."""

    def told(done: int, of: int, note: str) -> None:
        progress(start * of + size * done, total * of, note)

    return told
