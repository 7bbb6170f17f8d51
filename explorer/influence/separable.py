"""How well does a sum of few products stand for a diagonal inverse, and what does a pair of examples cost then?

Pure tensor functions for layers with one position: with 1/(Λ + λ) ≈ Σ_r u_r v_rᵀ a pair costs r (width_out + width_in)
multiply-adds instead of width_out · width_in. Knows no model and no curvature. Axes go from the faintest to the loudest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

FAINTEST = 1e-4
"""Directions with less than this share of the largest amplitude count as this much: they cannot be told from nothing."""
ENOUGH = 1e-7
"""Products whose share of the weighted whole falls below float32's rounding are left away, whatever the rank."""
FEWEST = 2**10
"""Parameters of a layer that is scored exactly whatever the tolerance: nothing is saved there."""
WORTH = 0.7
"""Products that would cost more than this share of the exact diagonal are not worth their error."""
PASS = 16
"""What writing and reading a product once more costs, in multiply-adds of a pair."""
TRIED = 64
"""Products looked for at first, and `SPARE` more that keep the last of them true; twice as many where they do not do."""
SPARE = 16
TURNS = 2
"""Times that the strongest directions are turned toward themselves: after two, faint ones have no part in them."""
ELEMENTS = 2**18
"""Numbers in a block of products, written and read once for each rank (1 MB in float32: it stays in cache)."""


@dataclass(frozen=True)
class Separable:
    """For each layer its `left [r, width_out]` and `right [r, width_in]`, or None where only the inverse itself will do."""

    factors: tuple[tuple[Tensor, Tensor] | None, ...]

    def covers(self, layer: int) -> bool:
        """Whether pairs of this layer are scored by products."""
        return self.factors[layer] is not None

    def add(
        self,
        values: Float[Tensor, "q n"],
        query_inputs: list[Tensor],
        query_pulls: list[Tensor],
        inputs: list[Tensor],
        pulls: list[Tensor],
    ) -> None:
        """Adds the covered layers' products to `values`; rows are `[b, 1, width]`."""
        for i, factors in enumerate(self.factors):
            if factors is not None:
                query, train = (query_pulls[i][:, 0], query_inputs[i][:, 0]), (pulls[i][:, 0], inputs[i][:, 0])
                add_products(values, factors[0].to(values), factors[1].to(values), query, train)


@dataclass(frozen=True)
class Products:
    """`left [r, o]` and `right [r, i]`, float64, with Σ_r left_r right_rᵀ ≈ an inverse; rows may begin with zeros.

    `tail` is what they leave out, as a share of the inverse's norm where each entry counts by the energy of gradients.
    """

    left: Tensor
    right: Tensor
    tail: float


def of_rank(inverse: Float[Tensor, "o i"], energy: Float[Tensor, "o i"], rank: int) -> Products:
    """At most `rank` products, closest to `inverse` where gradients have their `energy`.

    The error of a score is Σ_kl ΔR_kl g_q,kl g_i,kl, of variance Σ ΔR²_kl E[g_q²] E[g_i²]; so ΔR is weighed by the
    energy, here by the product of its sums over rows and over columns: an SVD with those weights, scaled back. float64.
    Cost about `rank`·o·i, or the eigenvectors of the narrower side.
    """
    weighted = _Weighted.of(inverse, energy)
    left, right = _leading(weighted.whole, rank)
    sizes = left.norm(dim=1) * right.norm(dim=1)
    kept = max(1, min(rank, int((sizes > ENOUGH * sizes[0]).sum())))
    return weighted.back(left[:kept], right[:kept])


def within(inverse: Float[Tensor, "o i"], energy: Float[Tensor, "o i"], tolerance: float) -> Products | None:
    """The fewest products whose tail is at most `tolerance`, or None where the exact diagonal costs hardly more.

    Half of the squared tolerance goes to products left out; the other half to the faint ends of those that stay, which
    are set to zero and cost nothing. Closest as in `of_rank`.
    """
    (outs, ins), size = inverse.shape, inverse.numel()
    if size < FEWEST or tolerance <= 0:
        return None
    weighted = _Weighted.of(inverse, energy)
    total = weighted.whole.square().sum()
    allowed = tolerance**2 * total
    tried, most = TRIED, size // (outs + ins)
    while True:
        left, right = _leading(weighted.whole, tried)
        left_out = (total - (left.square().sum(1) * right.square().sum(1)).cumsum(0)).clamp_min(0)
        rank = int((left_out > allowed / 2).sum()) + 1
        if rank <= min(tried, len(left)):
            break
        if tried >= most:
            return None
        tried *= 2
    left, right, spare = left[:rank], right[:rank], (allowed - left_out[rank - 1]) / (2 * rank)
    sizes = left.square().sum(1), right.square().sum(1)
    left, right = _cut(left, spare / sizes[1]), _cut(right, spare / sizes[0])
    if int((left != 0).sum() + (right != 0).sum()) + PASS * rank > WORTH * size:
        return None
    return weighted.back(left, right)


def add_products(
    values: Float[Tensor, "q n"],
    left: Float[Tensor, "r o"],
    right: Float[Tensor, "r i"],
    query: tuple[Float[Tensor, "q o"], Float[Tensor, "q i"]],
    train: tuple[Float[Tensor, "n o"], Float[Tensor, "n i"]],
) -> None:
    """Adds Σ_r (Σ_o left_ro d_q d_i)(Σ_i right_ri a_q a_i) to `values`; cost q·n·r (o + i), less zeros that rows begin with."""
    (d_query, a_query), (d_train, a_train) = query, train
    rows = max(1, min(len(d_train), ELEMENTS // len(values)))
    one, two = (values.new_empty(len(values), rows) for _ in range(2))
    begins = list(zip(_first(left), _first(right), strict=True))
    sides = [(d_query[:, k:] * u[k:], a_query[:, m:] * v[m:]) for u, v, (k, m) in zip(left, right, begins, strict=True)]
    for start in range(0, len(d_train), rows):
        d, a = d_train[start : start + rows].T, a_train[start : start + rows].T
        block = values[:, start : start + rows]
        first, second = one[:, : d.shape[1]], two[:, : d.shape[1]]
        for (pulled, seen), (k, m) in zip(sides, begins, strict=True):
            torch.mm(pulled, d[k:], out=first)
            torch.mm(seen, a[m:], out=second)
            block.addcmul_(first, second)


def agreement(found: Float[Tensor, "q n"], exact: Float[Tensor, "q n"]) -> tuple[float, float]:
    """Median over rows of ‖found − exact‖/‖exact‖, and mean rank correlation (Spearman) of the rows."""
    scale = exact.norm(dim=1).clamp_min(torch.finfo(exact.dtype).tiny)
    error = ((found - exact).norm(dim=1) / scale).median()
    ranks = [rows.argsort(1).argsort(1).double() for rows in (found, exact)]
    centered = [r - r.mean(1, keepdim=True) for r in ranks]
    sizes = centered[0].norm(dim=1) * centered[1].norm(dim=1)
    correlation = (centered[0] * centered[1]).sum(1) / sizes.clamp_min(1e-30)
    return float(error), float(correlation.mean())


@dataclass(frozen=True)
class _Weighted:
    """`whole` = an inverse with its rows and columns counted by the energy of gradients, float64, and those weights."""

    whole: Tensor
    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, inverse: Float[Tensor, "o i"], energy: Float[Tensor, "o i"]) -> _Weighted:
        rows, columns = _weights(energy.double().sum(1)), _weights(energy.double().sum(0))
        return cls(rows.unsqueeze(1) * inverse.double() * columns, rows, columns)

    def back(self, left: Float[Tensor, "r o"], right: Float[Tensor, "r i"]) -> Products:
        """The products without the weights; cost r·o·i for their tail."""
        tail = torch.addmm(self.whole, left.T, right, alpha=-1).norm() / self.whole.norm()
        return Products(left / self.rows, right / self.columns, float(tail))


def _leading(whole: Float[Tensor, "o i"], count: int) -> tuple[Float[Tensor, "r o"], Float[Tensor, "r i"]]:
    """The `count` strongest products of `whole` in falling order (and some more): all of them where it is as narrow.

    By turning random directions, always the same, toward the strongest; what they hold is projected, not estimated.
    """
    if whole.shape[0] > whole.shape[1]:
        right, left = _leading(whole.T, count)
        return left, right
    axes, part = None, whole
    if count + SPARE < len(whole):
        draw = torch.Generator().manual_seed(0)
        start = torch.randn(whole.shape[1], count + SPARE, generator=draw, dtype=whole.dtype).to(whole.device)
        axes = torch.linalg.qr(whole @ start).Q
        for _ in range(TURNS):
            axes = torch.linalg.qr(whole @ (whole.T @ axes)).Q
        part = axes.T @ whole
    turn = torch.linalg.eigh(part @ part.T).eigenvectors.flip(1)
    return (turn if axes is None else axes @ turn).T, turn.T @ part


def _cut(rows: Float[Tensor, "r w"], allowed: Float[Tensor, " r"]) -> Float[Tensor, "r w"]:
    """Each row with zeros from its beginning on, as long as their squares sum to less than is `allowed`."""
    faint = rows.square().cumsum(1) < allowed.unsqueeze(1)
    faint[:, -1] = False
    return rows.masked_fill(faint, 0)


def _first(rows: Float[Tensor, "r w"]) -> list[int]:
    """Where each row's zeros end."""
    found: list[int] = (rows != 0).int().argmax(1).tolist()
    return found


def _weights(sums: Float[Tensor, " w"]) -> Float[Tensor, " w"]:
    largest = sums.max()
    return sums.clamp_min(FAINTEST**2 * largest) if largest > 0 else torch.ones_like(sums)
