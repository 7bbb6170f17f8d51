"""How well does a sum of few products stand for a diagonal inverse, and what does a pair of examples cost then?

Pure tensor functions for layers with one position: with 1/(Λ + λ) ≈ Σ_r u_r v_rᵀ a pair costs r (width_out + width_in)
multiply-adds instead of width_out · width_in. Knows no model and no curvature.
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


def separate(
    inverse: Float[Tensor, "o i"], energy: Float[Tensor, "o i"], rank: int
) -> tuple[Float[Tensor, "r o"], Float[Tensor, "r i"]]:
    """At most `rank` pairs u_r, v_r with Σ_r u_r v_rᵀ ≈ `inverse`, closest where gradients have their `energy`.

    The error of a score is Σ_kl ΔR_kl g_q,kl g_i,kl, of variance Σ ΔR²_kl E[g_q²] E[g_i²]; so ΔR is weighed by the
    energy, here by the product of its sums over rows and over columns: an SVD with those weights, scaled back. float64.
    """
    rows, columns = _weights(energy.double().sum(1)), _weights(energy.double().sum(0))
    u, s, vt = torch.linalg.svd(rows.unsqueeze(1) * inverse.double() * columns, full_matrices=False)
    kept = max(1, min(rank, int((s > ENOUGH * s[0]).sum())))
    return (u[:, :kept] * s[:kept]).T / rows, vt[:kept] / columns


def add_products(
    values: Float[Tensor, "q n"],
    left: Float[Tensor, "r o"],
    right: Float[Tensor, "r i"],
    query: tuple[Float[Tensor, "q o"], Float[Tensor, "q i"]],
    train: tuple[Float[Tensor, "n o"], Float[Tensor, "n i"]],
) -> None:
    """Adds Σ_r (Σ_o left_ro d_q d_i)(Σ_i right_ri a_q a_i) to `values`; cost q·n·r (o + i)."""
    (d_query, a_query), (d_train, a_train) = query, train
    rows = max(1, min(len(d_train), ELEMENTS // len(values)))
    one, two = (values.new_empty(len(values), rows) for _ in range(2))
    sides = [((d_query * u), (a_query * v)) for u, v in zip(left, right, strict=True)]
    for start in range(0, len(d_train), rows):
        d, a = d_train[start : start + rows].T, a_train[start : start + rows].T
        block = values[:, start : start + rows]
        first, second = one[:, : d.shape[1]], two[:, : d.shape[1]]
        for pulled, seen in sides:
            torch.mm(pulled, d, out=first)
            torch.mm(seen, a, out=second)
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


def _weights(sums: Float[Tensor, " w"]) -> Float[Tensor, " w"]:
    largest = sums.max()
    return sums.clamp_min(FAINTEST**2 * largest) if largest > 0 else torch.ones_like(sums)
