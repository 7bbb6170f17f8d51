"""What does the curvature of the training loss do to a direction? Gauss-Newton and Hessian products with many vectors.

Never builds a matrix over parameters and inverts nothing; over the handled layers the examples' own square root of the
curvature is kept where it fits in memory, so that a product does not run the model again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from explorer.contracts import Progress, Subject, silent
from explorer.errors import ModelError
from explorer.influence import factors
from explorer.influence.backward import Trace, block_size, check_finite, each_block
from explorer.influence.directional import Basis
from explorer.influence.gradients import targets_of
from explorer.influence.layers import Layers, as_leaves, check_outputs, evaluation
from explorer.loading import as_model_input

KEEP_BYTES = 2**29
"""Roots of the curvature are kept between products up to this size, else computed again for each."""
ELEMENTS = 2**20
"""Numbers that one step of a product holds at once (4 MB in float32: it stays in cache)."""
VECTORS = 16
"""Vectors in one step of a product at most."""
PASS_ROWS = 64
"""Examples at once where the model is run again for every product."""
PASS_VECTORS = 16
"""Vectors at once where the model is run again for every product."""

BY_PASSES = "exact, by passes of the model; its trace from drawn labels"

Kind = Literal["gauss-newton", "hessian"]


@dataclass(frozen=True)
class Columns:
    """J_iᵀ L_i J_i = Σ_c j_ic j_icᵀ of b examples, j as factors: on layer l `pulls[l][i, :, c].T @ inputs[l][i]`.

    `inputs[l]` is `[b, t, width_in]`, `pulls[l]` is `[b, t, k, width_out]` for k columns c.
    """

    inputs: list[Tensor]
    pulls: list[Tensor]

    @classmethod
    def of(cls, subject: Subject, trace: Trace, block: NDArray[np.int64], basis: Basis | None) -> Columns:
        """The columns of a trace of the rows `block`, along the axes of `basis`; cost k backward passes.

        Above `factors.MOST_CLASSES` outputs they are drawn, seeded by the block's first row: right on average only.
        """
        outputs = trace.outputs.detach()
        found = factors.fisher_columns(subject.objective, outputs.double(), int(block[0]))
        columns = [trace.pulls(column.to(outputs.dtype)) for column in found]
        inputs, pulls = trace.inputs, [torch.stack(layer, 2) for layer in zip(*columns, strict=True)]
        if basis is not None:
            inputs = [a @ Q.to(a) for a, Q in zip(inputs, basis.inputs, strict=True)]
            pulls = [d @ Q.to(d) for d, Q in zip(pulls, basis.pulls, strict=True)]
        for values in (*inputs, *pulls):
            check_finite(values, block, len(subject.train), "gradients", subject.train)
        return cls(inputs, pulls)

    @property
    def bytes(self) -> int:
        """Memory of the factors."""
        return sum(t.numel() * t.element_size() for t in (*self.inputs, *self.pulls))

    def add_product(self, total: list[Tensor], vectors: list[Tensor]) -> None:
        """Adds Σ_i J_iᵀ L_i J_i v for each of q vectors to `total`, both one `[q, width_out, width_in]` per layer.

        Cost per example and vector 4 t·size of each layer, or 4 k·size where that is less work.
        """
        q = len(vectors[0])
        width = min(q, VECTORS)
        built = [_is_built(a, d, q) for a, d in zip(self.inputs, self.pulls, strict=True)]
        step = max(1, ELEMENTS // self._widest(built, width))
        for start in range(0, len(self.inputs[0]), step):
            rows = slice(start, start + step)
            pairs = [(a[rows], d[rows]) for a, d in zip(self.inputs, self.pulls, strict=True)]
            layers = [_Built.of(a, d) if b else _Apart(a, d) for (a, d), b in zip(pairs, built, strict=True)]
            for first in range(0, q, width):
                some = slice(first, first + width)
                moved = torch.stack([layer.forward(v[some]) for layer, v in zip(layers, vectors, strict=True)]).sum(0)
                for layer, sums in zip(layers, total, strict=True):
                    layer.add_back(sums[some], moved)

    def squares(self) -> float:
        """Σ_i Σ_c ‖j_ic‖², in float64: the trace of the block's curvature."""
        total = 0.0
        for a, d in zip(self.inputs, self.pulls, strict=True):
            if a.shape[1] == 1:
                total += float(a.double().square().sum((1, 2)) @ d.double().square().sum((1, 2, 3)))
                continue
            step = max(1, ELEMENTS // (d.shape[2] * d.shape[3] * a.shape[2]))
            for start in range(0, len(a), step):
                built = _Built.of(a[start : start + step], d[start : start + step])
                total += float(built.rows.double().square().sum())
        return total

    def _widest(self, built: list[bool], width: int) -> int:
        """Numbers that one example needs at once in a product with `width` vectors."""
        needs = [0]
        whole = 0
        for a, d, own in zip(self.inputs, self.pulls, built, strict=True):
            if own:
                whole += d.shape[2] * d.shape[3] * a.shape[2]
            else:
                needs.append(a.shape[1] * width * (d.shape[3] + d.shape[2]))
        return max(*needs, whole)


@dataclass(frozen=True)
class _Apart:
    """One layer of a step, its columns left as factors."""

    inputs: Float[Tensor, "b t i"]
    pulls: Float[Tensor, "b t k o"]

    def forward(self, vectors: Float[Tensor, "q o i"]) -> Float[Tensor, "b q k"]:
        """Σ_t pull · (v input) of every column."""
        b, t, k, o = self.pulls.shape
        moved = self.inputs.flatten(0, 1) @ vectors.flatten(0, 1).T
        found = torch.bmm(moved.view(b * t, len(vectors), o), self.pulls.flatten(0, 1).mT)
        return found if t == 1 else found.view(b, t, len(vectors), k).sum(1)

    def add_back(self, total: Float[Tensor, "q o i"], weights: Float[Tensor, "b q k"]) -> None:
        """Adds Σ_i Σ_c weight · column."""
        b, t, k, _ = self.pulls.shape
        spread = weights if t == 1 else weights.unsqueeze(1).expand(-1, t, -1, -1).reshape(b * t, -1, k)
        pulled = torch.bmm(spread, self.pulls.flatten(0, 1)).flatten(1)
        total.view(-1, total.shape[2]).addmm_(pulled.T, self.inputs.flatten(0, 1))


@dataclass(frozen=True)
class _Built:
    """One layer of a step with its columns as whole gradients `[b k, width_out width_in]`."""

    rows: Tensor
    examples: int

    @classmethod
    def of(cls, inputs: Float[Tensor, "b t i"], pulls: Float[Tensor, "b t k o"]) -> _Built:
        """Each column summed over positions; cost b·t·k·size."""
        b, _, k, _ = pulls.shape
        return cls(torch.bmm(pulls.flatten(2).mT, inputs).view(b * k, -1), b)

    def forward(self, vectors: Float[Tensor, "q o i"]) -> Float[Tensor, "b q k"]:
        """As `_Apart`."""
        return (self.rows @ vectors.flatten(1).T).view(self.examples, -1, len(vectors)).mT

    def add_back(self, total: Float[Tensor, "q o i"], weights: Float[Tensor, "b q k"]) -> None:
        """As `_Apart`."""
        total.view(len(total), -1).addmm_(weights.mT.flatten(0, 1).T, self.rows)


def _is_built(inputs: Tensor, pulls: Tensor, vectors: int) -> bool:
    """Whether whole gradients, built once for all vectors, are less work than going through every position."""
    t, k = pulls.shape[1:3]
    return t > 1 and (2 * vectors + t) * k < 2 * vectors * t * (1 + k / inputs.shape[2])


@dataclass(frozen=True)
class Passes:
    """The curvature of a block of examples whose columns are too many: the model is run again for every product."""

    subject: Subject
    layers: Layers
    rows: NDArray[np.int64]
    basis: Basis | None

    def add_product(self, total: list[Tensor], vectors: list[Tensor]) -> None:
        """As `Columns.add_product`; cost about three passes an example and vector."""
        found = products(self.subject, as_named(self.layers, self._turned(vectors, back=True)), rows=self.rows)
        scaled = [part.mul_(len(self.rows)) for part in as_layers(self.layers, found)]
        for sums, part in zip(total, self._turned(scaled, back=False), strict=True):
            sums += part

    def _turned(self, vectors: list[Tensor], *, back: bool) -> list[Tensor]:
        """Counted along the axes of the basis, or back along the model's own."""
        if self.basis is None:
            return vectors
        axes = zip(vectors, self.basis.pulls, self.basis.inputs, strict=True)
        if back:
            return [S.to(v) @ v @ A.to(v).mT for v, S, A in axes]
        return [S.to(v).mT @ v @ A.to(v) for v, S, A in axes]


class Curvature:
    """G = (1/m) Σ_i J_iᵀ L_i J_i over m of the training examples and the handled layers, as products (Schraudolph 2002).

    L is the Hessian of the loss in the outputs, so G is the Fisher for cross-entropy and positive semi-definite. With a
    `basis` vectors are counted along its axes. `rows` are cut, in their order, into blocks of at most `block` examples.
    Weight decay and damping are not in it.
    """

    def __init__(
        self,
        subject: Subject,
        layers: Layers,
        rows: NDArray[np.int64] | None = None,
        basis: Basis | None = None,
        block: int | None = None,
    ) -> None:
        self.layers = layers
        self.rows = np.arange(len(subject.train), dtype=np.int64) if rows is None else rows
        self._subject, self._basis = subject, basis
        self._step = min(block or len(self.rows), block_size(layers))
        self._kept: dict[int, list[Columns]] = {}
        self._held = 0
        self._exact = True
        self.rule = ""
        """How the model's own answers are covered, in words; known after a pass."""

    @property
    def blocks(self) -> int:
        """How many blocks the rows are cut into."""
        return -(-len(self.rows) // self._step)

    def size_of(self, index: int) -> int:
        """Examples in one block."""
        return len(self.rows[index * self._step : (index + 1) * self._step])

    def product(self, vectors: list[Tensor], progress: Progress = silent, note: str = "curvature") -> list[Tensor]:
        """G v for q vectors, one `[q, width_out, width_in]` per layer; `progress` is asked before each block."""
        return self._mean(range(self.blocks), vectors, progress, note)

    def of_block(self, index: int, vectors: list[Tensor]) -> list[Tensor]:
        """The same with the mean over one block's examples only."""
        return self._mean([index], vectors, silent, "curvature")

    def trace(self, progress: Progress = silent) -> float:
        """The trace of G: exact up to `factors.MOST_CLASSES` outputs, from drawn labels beyond."""
        total = 0.0
        for index in range(self.blocks):
            progress(index, self.blocks, "trace of the curvature")
            total += sum(columns.squares() for columns in self._columns(index))
        progress(self.blocks, self.blocks, "trace of the curvature")
        return total / len(self.rows)

    def _mean(self, indices: range | list[int], vectors: list[Tensor], progress: Progress, note: str) -> list[Tensor]:
        total = [v.new_zeros(v.shape) for v in vectors]
        vectors = [v.contiguous() for v in vectors]
        for place, index in enumerate(indices):
            progress(place, len(indices), note)
            for part in self._parts(index):
                part.add_product(total, vectors)
        count = sum(self.size_of(index) for index in indices)
        return [sums.div_(count) for sums in total]

    def _parts(self, index: int) -> list[Columns] | list[Passes]:
        if self._exact:
            columns = self._columns(index)
        return columns if self._exact else [Passes(self._subject, self.layers, self._rows(index), self._basis)]

    def _columns(self, index: int) -> list[Columns]:
        """A block's columns, in several parts where memory asks for that; kept where they are exact and fit."""
        if index in self._kept:
            return self._kept[index]
        rows, subject = self._rows(index), self._subject

        def work(part: slice, trace: Trace) -> Columns:
            outputs = trace.outputs.shape[1]
            # what is drawn for sequences is the same each time: products are those of one matrix
            self._exact = subject.objective.task != "classification" or outputs <= factors.MOST_CLASSES
            self.rule = factors.fisher_rule(subject.objective, outputs) if self._exact else BY_PASSES
            return Columns.of(subject, trace, rows[part], self._basis)

        found = [columns for _, columns in each_block(subject.model, self.layers, subject.train, rows, work)]
        size = sum(columns.bytes for columns in found)
        if self._exact and self._held + size <= KEEP_BYTES:
            self._kept[index] = found
            self._held += size
        return found

    def _rows(self, index: int) -> NDArray[np.int64]:
        return self.rows[index * self._step : (index + 1) * self._step]


def products(
    subject: Subject,
    vectors: Mapping[str, Tensor],
    kind: Kind = "gauss-newton",
    rows: NDArray[np.int64] | None = None,
    progress: Progress = silent,
) -> dict[str, Tensor]:
    """G v or H v of the mean training loss over any named parameters, without weight decay, by passes of the model.

    `vectors` has for each name `[q, *its shape]`, and so has the answer. Cost per example and vector about three passes
    for G and two for H (reverse over reverse, so whatever autograd can go through twice), memory a block's passes for
    `PASS_VECTORS` vectors. Attention runs unfused, in evaluation mode; the model is left as it was.

    Raises:
        ModelError: a name is not a parameter of the model.
    """
    leaves = as_leaves(subject.model)
    unknown = sorted(set(vectors) - set(leaves))
    if unknown or not vectors:
        raise ModelError(
            f"Expected names out of the model's {len(leaves)} parameters; found {unknown or 'none'}. Name them as "
            "named_parameters does."
        )
    chosen = {name: leaves[name] for name in vectors}
    everything = np.arange(len(subject.train), dtype=np.int64) if rows is None else rows
    total = [v.new_zeros(v.shape) for v in vectors.values()]
    one = _gauss_newton if kind == "gauss-newton" else _hessian
    for start in range(0, len(everything), PASS_ROWS):
        progress(start, len(everything), "curvature")
        block = everything[start : start + PASS_ROWS]
        with evaluation(subject.model), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            inputs = as_model_input(subject.model, subject.train.batch(block))
            outputs = check_outputs(functional_call(subject.model, leaves, (inputs,)), len(block))
            check_finite(outputs.detach(), block, len(everything), "outputs", subject.train)
            back = one(subject, outputs, list(chosen.values()), block)
            for first in range(0, len(total[0]), PASS_VECTORS):
                some = slice(first, first + PASS_VECTORS)
                own = [v[some].to(leaf.dtype) for v, leaf in zip(vectors.values(), chosen.values(), strict=True)]
                for sums, part in zip(total, back(own), strict=True):
                    sums[some] += part
    progress(len(everything), len(everything), "curvature")
    return {name: sums.div_(len(everything)) for name, sums in zip(vectors, total, strict=True)}


Back = Callable[[list[Tensor]], tuple[Tensor, ...]]


def _gauss_newton(subject: Subject, outputs: Tensor, leaves: list[Tensor], block: NDArray[np.int64]) -> Back:  # noqa: ARG001
    """v ↦ Jᵀ L J v of a block; J v is the derivative in u of (Jᵀ u) · v, which is linear in u."""
    curve = factors.curvature_product(subject.objective, outputs.detach())
    u = torch.zeros_like(outputs, requires_grad=True)
    pulled = torch.autograd.grad(outputs, leaves, u, create_graph=True, materialize_grads=True)
    touched = [i for i, p in enumerate(pulled) if p.requires_grad]

    def back(vectors: list[Tensor]) -> tuple[Tensor, ...]:
        moved = torch.autograd.grad(
            [pulled[i] for i in touched], u, [vectors[i] for i in touched], retain_graph=True, is_grads_batched=True
        )[0]
        return torch.autograd.grad(
            outputs, leaves, curve(moved), retain_graph=True, is_grads_batched=True, materialize_grads=True
        )

    return back


def _hessian(subject: Subject, outputs: Tensor, leaves: list[Tensor], block: NDArray[np.int64]) -> Back:
    """v ↦ Σ_i ∇²l_i v of a block."""
    targets = targets_of(subject.train, block, outputs.shape[1]).to(outputs.device)
    losses = subject.objective.loss(
        outputs, targets if subject.objective.task == "classification" else targets.to(outputs)
    )
    gradient = torch.autograd.grad(losses.sum(), leaves, create_graph=True, materialize_grads=True)
    touched = [i for i, g in enumerate(gradient) if g.requires_grad]

    def back(vectors: list[Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            [gradient[i] for i in touched],
            leaves,
            [vectors[i] for i in touched],
            retain_graph=True,
            is_grads_batched=True,
            materialize_grads=True,
        )

    return back


def as_named(layers: Layers, vectors: list[Tensor]) -> dict[str, Tensor]:
    """Vectors `[q, width_out, width_in]` of each layer as `[q, *shape]` of its weight and, the last column, its bias."""
    found = {}
    for layer, vector in zip(layers.layers, vectors, strict=True):
        prefix = f"{layer.name}." if layer.name else ""
        columns = layer.module.weight[0].numel()
        found[f"{prefix}weight"] = vector[:, :, :columns].reshape(len(vector), *layer.module.weight.shape)
        if layer.module.bias is not None:
            found[f"{prefix}bias"] = vector[:, :, columns]
    return found


def as_layers(layers: Layers, named: Mapping[str, Tensor]) -> list[Tensor]:
    """What `as_named` took apart."""
    found = []
    for layer in layers.layers:
        prefix = f"{layer.name}." if layer.name else ""
        parts = [named[f"{prefix}{key}"] for key in ("weight", "bias") if f"{prefix}{key}" in named]
        found.append(torch.cat([part.reshape(len(part), layer.width_out, -1) for part in parts], 2))
    return found
