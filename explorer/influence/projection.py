"""How do long gradients fit into few coordinates so that their inner products survive?

Pure tensor functions: seeded projections of gradients, whole or as the factors of a layer, that give the same bits in
any block of examples; and scores as products of coordinates. Knows no model, no curvature and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from explorer.contracts import Progress, silent
from explorer.errors import SettingsError

KINDS = ("sparse", "dense")
PIECE = 2**22
"""Random signs drawn from one seed (4 MB): a dense projection is drawn again piece by piece and never whole."""
ELEMENTS = 2**22
"""Numbers in a block of products (16 MB in float32)."""
FEWEST = 16
"""Queries per product at least: fewer take other routines of the matrix library, whose last bits differ."""


@dataclass(frozen=True)
class Projection:
    """Gradients of layers with these `widths` (parameters each) in `dimension` coordinates, fixed by `seed`.

    Keeps inner products on average, E[Px · Py] = x · y, with a variance of at most (‖x‖²‖y‖² + (x · y)²) / dimension, so a
    standard error of √(2/dimension) ‖x‖‖y‖. Both kinds have that bound. "sparse" (count sketch, Charikar et al. 2002):
    each parameter joins one sum with a random sign, evenly spread; cost one addition a parameter. "dense"
    (Rademacher, as in TRAK's paper): each joins every sum; cost `dimension` multiply-adds a parameter, drawn anew for
    every block of examples. As long as the gradient or longer, nothing is projected.
    """

    widths: tuple[int, ...]
    dimension: int
    seed: int
    kind: str = "sparse"

    def __post_init__(self) -> None:
        if self.dimension < 1 or self.seed < 0 or self.kind not in KINDS:
            raise SettingsError(
                f"Expected a dimension >= 1, a seed >= 0 and a kind out of {', '.join(KINDS)}; found dimension "
                f"{self.dimension}, seed {self.seed} and kind {self.kind!r}. Choose these."
            )

    @property
    def length(self) -> int:
        """Coordinates of a projected gradient."""
        return min(self.dimension, sum(self.widths))

    def __call__(self, gradients: Sequence[Tensor]) -> Float[Tensor, "b length"]:
        """Coordinates of b examples from their gradients `[b, ...]` of each layer, in the gradients' dtype."""
        flat = [g.flatten(1) for g in gradients]
        if self.length == sum(self.widths):
            return torch.cat(flat, 1)
        project = self._sparse if self.kind == "sparse" else self._dense
        total = flat[0].new_zeros(len(flat[0]), self.dimension)
        for layer, rows in enumerate(flat):
            project(total, layer, rows)
        return total

    def _sparse(self, total: Tensor, layer: int, rows: Tensor) -> None:
        signs, order = self._spread[layer]
        padded = torch.nn.functional.pad(rows * signs.to(rows), (0, len(order) - rows.shape[1]))
        total += padded[:, order.to(rows.device)].reshape(len(rows), -1, self.dimension).sum(1)

    def _dense(self, total: Tensor, layer: int, rows: Tensor) -> None:
        step = max(1, PIECE // self.dimension)
        for piece, start in enumerate(range(0, rows.shape[1], step)):
            part = rows[:, start : start + step]
            signs = _signs(_generator(self.seed, layer, piece), part.shape[1], self.dimension).to(rows)
            total.addmm_(part, signs, alpha=self.dimension**-0.5)

    @cached_property
    def _spread(self) -> list[tuple[Tensor, Tensor]]:
        """For each layer its signs, and the order in which its parameters, with zeros behind, are cut into the sums."""
        found = []
        for layer, width in enumerate(self.widths):
            draw = _generator(self.seed, layer)
            found.append((_signs(draw, width), torch.randperm(width + -width % self.dimension, generator=draw)))
        return found


@dataclass(frozen=True)
class Sides:
    """A layer's gradient G `[width_out, width_in]` as Lᵀ G R: `pulls[l]` is L `[width_out, r_out]`, `inputs[l]` is R
    `[width_in, r_in]`.

    Projecting both sides of Σ_t pull ⊗ input means projecting the rows, so G is never built (LoGra, Choe et al. 2024).
    """

    inputs: list[Tensor]
    pulls: list[Tensor]

    @property
    def widths(self) -> list[int]:
        """Coordinates of each layer."""
        return [L.shape[1] * R.shape[1] for L, R in zip(self.pulls, self.inputs, strict=True)]

    def __call__(self, inputs: Sequence[Tensor], pulls: Sequence[Tensor]) -> list[Tensor]:
        """Coordinates `[b, r_out · r_in]` of each layer from its rows `[b, t, width]`; cost t (width_in r_in + width_out r_out)."""
        found = []
        for a, d, R, L in zip(inputs, pulls, self.inputs, self.pulls, strict=True):
            found.append(torch.bmm((d @ L.to(d)).transpose(1, 2), a @ R.to(a)).flatten(1))
        return found


def orthonormal(width: int, rank: int, seed: int, stream: int) -> Float[Tensor, "width rank"]:
    """Orthonormal columns that span a random subspace, float64; the identity where `rank` is `width` or more.

    On average Q Qᵀ = (rank/width) I, so √(width/rank) Qᵀ keeps inner products as `Projection` does.
    """
    if rank >= width:
        return torch.eye(width, dtype=torch.float64)
    normal = torch.randn(width, rank, dtype=torch.float64, generator=_generator(seed, stream))
    Q, R = torch.linalg.qr(normal)
    spanned: Tensor = Q * R.diagonal().sign()
    return spanned


def add_product(
    values: Float[Tensor, "q n"],
    directions: Float[Tensor, "q d"],
    kept: Float[Tensor, "n d"],
    progress: Progress = silent,
) -> None:
    """Adds `directions @ kept.T` to `values`, in blocks of rows of `kept`, whose dtype may be shorter. Cost q·n·d."""
    n = len(kept)
    missing = max(0, FEWEST - len(directions))
    left = torch.nn.functional.pad(directions, (0, 0, 0, missing))
    step = max(1, ELEMENTS // max(len(left), kept.shape[1], 1))
    for start in range(0, n, step):
        progress(start, n, "scores")
        block = left @ kept[start : start + step].to(left).T
        values[:, start : start + step] += block[: len(directions)].to(values)
    progress(n, n, "scores")


def self_products(
    factors: Sequence[Tensor], kept: Float[Tensor, "n d"], progress: Progress = silent
) -> Float[Tensor, " n"]:
    """kept_iᵀ H⁻¹ kept_i for H block by block with lower Cholesky factors `factors`, float64; sums of squares."""
    n = len(kept)
    values = torch.zeros(n, dtype=torch.float64, device=kept.device)
    step = max(1, ELEMENTS // max(kept.shape[1], 1))
    for start in range(0, n, step):
        progress(start, n, "self-influence")
        parts = torch.split(kept[start : start + step].double(), [len(f) for f in factors], 1)
        for factor, rows in zip(factors, parts, strict=True):
            values[start : start + step] += torch.linalg.solve_triangular(factor, rows.T, upper=False).square().sum(0)
    progress(n, n, "self-influence")
    return values


def solve(factors: Sequence[Tensor], rows: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """H⁻¹ times each row, for H block by block with lower Cholesky factors `factors`, in float64."""
    parts = torch.split(rows.double(), [len(f) for f in factors], 1)
    pairs = zip(parts, factors, strict=True)
    return torch.cat([torch.cholesky_solve(part.T.contiguous(), factor).T for part, factor in pairs], 1)


def lower_factor(matrix: Float[Tensor, "d d"], smallest_share: float, what: str, remedy: str) -> Float[Tensor, "d d"]:
    """The lower Cholesky factor of a positive matrix.

    Raises:
        SettingsError: a pivot is zero, not finite, or below `smallest_share` of the largest; `what` the matrix is and
            the `remedy` end up in the message.
    """
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    pivots = factor.diagonal().square()
    share = float(pivots.min() / pivots.max()) if not int(failed) else 0.0
    if not share > smallest_share:
        raise SettingsError(
            f"Expected {what} to be invertible; found its smallest pivot at {share:.1e} of the largest, at a mean "
            f"eigenvalue of {float(matrix.diagonal().mean()):.1e}. {remedy}"
        )
    return factor


def _generator(*key: int) -> torch.Generator:
    state = np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def _signs(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(0, 2, shape, generator=draw, dtype=torch.int8) * 2 - 1
