"""Influence as one inverse applied to the query's gradient: s(q, i) = −(1/n) (H⁻¹ ∇m_q) · g_i over chosen layers.

Holds the passes and products that all such methods share and knows no particular inverse; gradients of all training
examples never exist at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from explorer.contracts import MEASURE_UNIT, Examples, Progress, Queries, Scores, Subject, silent
from explorer.errors import DataError
from explorer.influence import positions
from explorer.influence.backward import Trace, check_finite, each_block
from explorer.influence.blocks import Need, in_blocks
from explorer.influence.gradients import asked_of, targets_of
from explorer.influence.layers import Layers
from explorer.influence.separable import Separable
from explorer.objectives import measure_unit

QUERY_ELEMENTS = 2**25
"""Numbers in the gradients of a block of queries (128 MB in float32); their directions take as much again."""
ELEMENTS = 2**21
"""Numbers in a block of training gradients, built in memory that is used again (8 MB in float32: it stays in cache)."""
FEWEST_ROWS = 128
"""Training examples per product at least; a wider layer is cut by its outputs instead."""
FEWEST = 16
"""Queries per product at least, where that costs little: fewer take other routines of the matrix library, whose last
bits differ."""
KEEP_BYTES = 2**30
"""Inputs and pulls of the training set are kept between calls of `score` up to this size, else computed again."""

Pull = Callable[[Tensor, Tensor], Tensor]
"""The gradient `[b, k]`, with respect to outputs `[b, k]` and given targets `[b, ...]`, of what is asked of each example."""


@runtime_checkable
class Inverse(Protocol):
    """H⁻¹ as a linear, symmetric map on gradients: one `[q, width_out, width_in]` per layer."""

    def apply(self, gradients: list[Tensor]) -> list[Tensor]:
        """H⁻¹ times each of q gradients, in the same shapes and dtype; leaves what it is given unchanged."""

    def tensors(self) -> dict[str, Tensor]:
        """What is needed to build it again beyond the subject and the stats."""


@dataclass(frozen=True)
class Basis:
    """Orthogonal axes for each layer: columns of `inputs[l] [width_in, width_in]` and `pulls[l] [width_out, width_out]`.

    An inverse given with a basis is applied to gradients whose rows and columns are counted along these axes.
    """

    inputs: list[Tensor]
    pulls: list[Tensor]

    def turned(self, rows: Rows) -> Rows:
        """The same gradients counted along the axes; those of layers with many positions are summed over them."""
        inputs, pulls = [], []
        for a, d, Q_A, Q_S in zip(rows.inputs, rows.pulls, self.inputs, self.pulls, strict=True):
            axes = Q_A.to(a), Q_S.to(d)
            a, d = positions.summed(a, d, *axes) if positions.are_many(a, d) else (a @ axes[0], d @ axes[1])
            inputs.append(a)
            pulls.append(d)
        return Rows(inputs, pulls)


@dataclass(frozen=True)
class Rows:
    """The gradients of b examples as factors: of layer l and example i it is `pulls[l][i].T @ inputs[l][i]`.

    `inputs[l]` is `[b, t, width_in]`, `pulls[l]` is `[b, t, width_out]`.
    """

    inputs: list[Tensor]
    pulls: list[Tensor]

    def __len__(self) -> int:
        return len(self.inputs[0])

    def __getitem__(self, part: slice) -> Rows:
        return Rows([a[part] for a in self.inputs], [d[part] for d in self.pulls])

    def of(self, layers: list[int]) -> Rows:
        """Of some of the layers."""
        return Rows([self.inputs[i] for i in layers], [self.pulls[i] for i in layers])

    def gradients(self) -> list[Tensor]:
        """`[b, width_out, width_in]` for each layer."""
        return [outer(d, a) for a, d in zip(self.inputs, self.pulls, strict=True)]

    @property
    def bytes(self) -> int:
        """Memory of the factors."""
        return sum(t.numel() * t.element_size() for t in (*self.inputs, *self.pulls))


def outer(
    pulls: Float[Tensor, "b t o"], inputs: Float[Tensor, "b t i"], out: Float[Tensor, "b o i"] | None = None
) -> Float[Tensor, "b o i"]:
    """Σ_t pull ⊗ input, example by example; `out` takes the values."""
    product = torch.mul if pulls.shape[1] == 1 else torch.bmm
    found: Tensor = product(pulls.transpose(1, 2), inputs, out=out)
    return found


def contract(directions: list[Tensor], rows: Rows) -> Float[Tensor, "q b"]:
    """Σ over layers of directions `[q, width_out, width_in]` · gradients of b examples; cost q·b·parameters.

    The gradients exist in blocks of at most about `ELEMENTS` numbers, or those of `FEWEST_ROWS` examples and one output.
    """
    queries = len(directions[0])
    values = directions[0].new_zeros(queries, len(rows))
    for direction, a, d in zip(directions, rows.inputs, rows.pulls, strict=True):
        _, outs, ins = direction.shape
        step = min(len(rows), max(FEWEST_ROWS, ELEMENTS // (outs * ins)))
        width = max(1, min(outs, ELEMENTS // (step * ins)))
        held = a.new_empty(step, width, ins)
        for start in range(0, len(rows), step):
            block = values[:, start : start + step]
            for first in range(0, outs, width):
                pulls = d[start : start + step, :, first : first + width]
                gradients = outer(pulls, a[start : start + step], held[: len(pulls), : pulls.shape[2]])
                block.addmm_(direction[:, first : first + width].flatten(1), gradients.flatten(1).T)
    return values


def query_rows(
    subject: Subject, layers: Layers, queries: Queries, progress: Progress = silent
) -> Iterator[tuple[int, Rows]]:
    """Factors of ∇m_q for blocks of queries, with the place where each starts.

    Raises:
        DataError: there is no query.
    """
    if not len(queries.rows):
        raise DataError("Expected at least one query; found none. Name the test rows to explain.")

    pull = partial(subject.objective.measure_gradient, target=queries.target)

    def work(part: slice, trace: Trace) -> Rows:
        return _factors(trace, pull, asked_of(queries.block(part), trace.outputs.shape[1]), queries, part)

    yield from each_block(subject.model, layers, queries.examples, queries.rows, work, progress, "queries")


def train_rows(
    subject: Subject, layers: Layers, progress: Progress = silent, relieve: Callable[[], None] | None = None
) -> Iterator[tuple[int, Rows]]:
    """Factors of g_i for blocks of the training set, with the place where each starts; `relieve` as in `each_block`."""
    rows = np.arange(len(subject.train), dtype=np.int64)
    yield from example_rows(subject, layers, subject.train, subject.objective.loss_gradient, rows, progress, relieve)


def example_rows(
    subject: Subject,
    layers: Layers,
    examples: Examples,
    pull: Pull,
    rows: NDArray[np.int64],
    progress: Progress = silent,
    relieve: Callable[[], None] | None = None,
) -> Iterator[tuple[int, Rows]]:
    """Factors of the gradient of what `pull` asks, for blocks of `rows`; one forward and one backward pass."""

    def work(part: slice, trace: Trace) -> Rows:
        return rows_of(trace, examples, pull, rows, part)

    yield from each_block(subject.model, layers, examples, rows, work, progress, relieve=relieve)


def rows_of(trace: Trace, examples: Examples, pull: Pull, rows: NDArray[np.int64], part: slice) -> Rows:
    """As `example_rows` for the trace of these places among `rows`; one backward pass."""
    targets = targets_of(examples, rows[part], trace.outputs.shape[1])
    return _factors(trace, pull, targets, Queries(examples, rows), part)


def check_gradients(subject: Subject, layers: Layers) -> None:
    """Raises `ModelError` with the first training example whose gradient is not finite; cost a pass over the training set."""
    for _ in train_rows(subject, layers):
        pass


def _factors(trace: Trace, pull: Pull, targets: Tensor, asked: Queries, part: slice) -> Rows:
    outputs = trace.outputs.detach()
    found = Rows(trace.inputs, trace.pulls(pull(outputs.double(), targets.to(outputs.device)).to(outputs.dtype)))
    for values in (*found.inputs, *found.pulls):
        check_finite(values, asked.rows[part], len(asked.rows), "gradients", asked.examples)
    return found


class Kept:
    """What a pass yields, kept after the first whole pass where it fits in memory, else computed again each time."""

    def __init__(self, blocks: list[tuple[int, Rows]] | None = None) -> None:
        self._blocks = blocks
        self._filling: list[tuple[int, Rows]] = []
        self._keeps = True

    @property
    def whole(self) -> list[tuple[int, Rows]] | None:
        """All blocks, where they are in memory."""
        return self._blocks

    def forget(self) -> None:
        """Let go of what is kept, and keep nothing from now on: memory is short."""
        self._blocks, self._keeps = None, False
        self._filling.clear()

    def again(self, run: Callable[[], Iterator[tuple[int, Rows]]], limit: int) -> Iterator[tuple[int, Rows]]:
        """The blocks of `run()`, from memory if an earlier pass stayed within `limit` bytes."""
        if self._blocks is not None:
            yield from self._blocks
            return
        blocks = self._filling = []
        held = 0
        for start, rows in run():
            held += rows.bytes
            if held <= limit and self._keeps:
                blocks.append((start, rows))
            else:
                blocks.clear()
            yield start, rows
        self._filling = []
        if held <= limit and self._keeps:
            self._blocks = blocks


@dataclass(eq=False)
class FittedInverse:
    """A method after `fit`, as an inverse over `layers`; with a `basis`, `inverse` counts along its axes.

    With `separable`, pairs of a layer with one position are scored by its products in place of the inverse; sums over
    queries and self-influence are not. `quadratic` gives gᵀH⁻¹g of a block where that is cheaper than the inverse. The training set's factors are kept after the first call where they fit
    `KEEP_BYTES`.
    """

    subject: Subject
    layers: Layers
    inverse: Inverse
    method: str
    stats: Mapping[str, Any]
    unit: str = MEASURE_UNIT
    basis: Basis | None = None
    separable: Separable | None = None
    quadratic: Callable[[Rows], Tensor] | None = None
    _kept: Kept = field(default_factory=Kept, repr=False)

    def score(self, queries: Queries, progress: Progress = silent, out: Tensor | None = None) -> Scores:
        """Influence float32 `[query, train]`; cost one pass over the queries, one over the training set unless it is
        kept, the inverse once a query, and parameters multiply-adds a pair (or those of `separable`).
        """
        values = torch.empty(len(queries.rows), len(self.subject.train)) if out is None else out
        for start, asked in self._queries(queries):
            block = values[start : start + len(asked)]

            def work(part: slice, asked: Rows = asked, block: Tensor = block, start: int = start) -> None:
                told = _part(progress, start + part.start, part.stop - part.start, len(values))
                self._pairs(asked[part], block[part], told)

            for _ in in_blocks(len(asked), len(asked), work, self.need, self._kept.forget):
                pass
        return Scores(
            values,
            queries.examples.ids[queries.rows],
            self.subject.train.ids,
            self.method,
            queries.target,
            measure_unit(self.subject.objective.task, queries.target) if self.unit == MEASURE_UNIT else self.unit,
            self.stats,
        )

    def weighted(self, queries: Queries, weights: Tensor, progress: Progress = silent) -> Tensor:
        """Weighted sums over queries, float32 `[k, train]`: the gradients are summed first, the inverse applied once."""
        totals: list[Tensor] = []
        dtype = torch.float32
        for start, asked in self._queries(queries):
            dtype = asked.inputs[0].dtype

            def work(part: slice, asked: Rows = asked, start: int = start) -> list[Tensor]:
                gradients = asked[part].gradients()
                some = weights[:, start + part.start : start + part.stop].to(gradients[0])
                return [torch.tensordot(some, g, 1).double() for g in gradients]

            for _, sums in in_blocks(len(asked), len(asked), work, self.need, self._kept.forget):
                totals = [t.add_(s) for t, s in zip(totals, sums, strict=True)] if totals else sums
        values = torch.empty(len(weights), len(self.subject.train))
        directions = self.inverse.apply([total.to(dtype) for total in totals])
        for start, block in self.training(progress, "scores"):
            values[:, start : start + len(block)].copy_(contract(directions, block).div_(-values.shape[1]))
        return values

    def self_influence(self, progress: Progress = silent) -> Tensor:
        """(1/n) g_iᵀ H⁻¹ g_i, float32 `[n]`; cost the inverse once an example."""
        n = len(self.subject.train)
        values = torch.empty(n)
        step = max(1, QUERY_ELEMENTS // self.layers.size)
        for start, block in self.training(progress, "self-influence"):

            def work(part: slice, block: Rows = block, start: int = start) -> Tensor:
                progress(start + part.start, n, "self-influence")
                return self._applied(block[part]) if self.quadratic is None else self.quadratic(block[part])

            for part, own in in_blocks(len(block), step, work, self.need, self._kept.forget):
                # H⁻¹ is positive; an example without a gradient may still come out a rounding below zero
                values[start + part.start : start + part.stop] = own.clamp_min(0) / n
        return values

    def tensors(self) -> dict[str, Tensor]:
        """The inverse's own."""
        return self.inverse.tensors()

    @property
    def need(self) -> Need:
        """What one gradient takes, layer by layer."""
        pairs = zip(self.layers.names, self.layers.layers, strict=True)
        return Need(f"one gradient of {self.layers.size:,} parameters", {name: 4 * layer.size for name, layer in pairs})

    def _queries(self, queries: Queries) -> Iterator[tuple[int, Rows]]:
        """Factors of the queries' gradients along the basis' axes, as many at once as their gradients may take."""
        step = max(1, QUERY_ELEMENTS // self.layers.size)
        for start, rows in query_rows(self.subject, self.layers, queries):
            for first in range(0, len(rows), step):
                yield start + first, self._turned(rows[first : first + step])

    def _pairs(self, asked: Rows, values: Tensor, progress: Progress) -> None:
        """Fills `values [q, n]` for one block of queries."""
        n = len(self.subject.train)
        exact = [i for i in range(len(asked.inputs)) if self.separable is None or not self.separable.covers(i)]
        planes: list[Tensor] = []
        if exact:
            planes = _enough(self._directions(asked, exact))
        for start, block in self.training(progress, "scores"):
            found = values.new_zeros(len(asked), len(block), device=asked.inputs[0].device, dtype=asked.inputs[0].dtype)
            if self.separable is not None:
                self.separable.add(found, asked.inputs, asked.pulls, block.inputs, block.pulls)
            if exact:
                found += contract(planes, block.of(exact))[: len(asked)]
            values[:, start : start + len(block)].copy_(found.div_(-n))

    def _directions(self, asked: Rows, some: list[int]) -> list[Tensor]:
        """The inverse times the queries' gradients, for some of the layers."""
        directions = self.inverse.apply(asked.gradients())
        return [directions[i] for i in some]

    def training(self, progress: Progress, note: str) -> Iterator[tuple[int, Rows]]:
        """The training set's factors along the basis' axes; `progress` is asked before each block and at the end."""
        n = len(self.subject.train)

        def run() -> Iterator[tuple[int, Rows]]:
            for start, rows in train_rows(self.subject, self.layers, relieve=self._kept.forget):
                yield start, self._turned(rows)

        progress(0, n, note)
        for start, rows in self._kept.again(run, KEEP_BYTES):
            yield start, rows
            progress(start + len(rows), n, note)

    def _applied(self, rows: Rows) -> Tensor:
        """gᵀ H⁻¹ g, `[b]`."""
        gradients = rows.gradients()
        pairs = zip(gradients, self.inverse.apply(gradients), strict=True)
        return torch.stack([(g * h).flatten(1).sum(1) for g, h in pairs]).sum(0)

    def _turned(self, rows: Rows) -> Rows:
        return rows if self.basis is None else self.basis.turned(rows)


def _enough(directions: list[Tensor]) -> list[Tensor]:
    """`directions` with zeros below up to `FEWEST`, where these are few numbers."""
    missing = FEWEST - len(directions[0])
    if missing <= 0 or FEWEST * sum(direction[0].numel() for direction in directions) > ELEMENTS:
        return directions
    return [torch.nn.functional.pad(direction, (0, 0, 0, 0, 0, missing)) for direction in directions]


def _part(progress: Progress, start: int, size: int, total: int) -> Progress:
    """Progress of a block of queries as a share of all: done and total are counted in pairs."""

    def told(done: int, of: int, note: str) -> None:
        progress(start * of + size * done, total * of, note)

    return told
