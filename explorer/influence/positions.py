"""When do an example's inputs and pulls at many positions take more room than the gradient that they make?

Pure tensor functions on rows `[b, t, width]` of b examples at t positions; knows no model and no inverse. A convolution's
kernel is small and its positions are many: its gradients are summed over positions once, and turned afterwards.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from explorer.influence import factors


def are_many(inputs: Float[Tensor, "b t i"], pulls: Float[Tensor, "b t o"]) -> bool:
    """Whether an example's gradient has fewer numbers than its inputs and pulls."""
    (_, t, ins), outs = inputs.shape, pulls.shape[2]
    return t > min(outs, ins) and outs * ins <= t * (outs + ins)


def summed(
    inputs: Float[Tensor, "b t i"],
    pulls: Float[Tensor, "b t o"],
    axes_in: Float[Tensor, "i i"],
    axes_out: Float[Tensor, "o o"],
) -> tuple[Float[Tensor, "b s i"], Float[Tensor, "b s o"]]:
    """The gradients along these axes, as inputs and pulls at s = min(o, i) positions.

    Their rows become the inputs and unit vectors, which take no memory, the pulls; or the other way round. Cost t·o·i and
    o·i·(o + i) an example, where turning every position costs t·(o² + i²).
    """
    b, outs, ins = len(inputs), pulls.shape[2], inputs.shape[2]
    half = axes_out.T @ torch.bmm(pulls.transpose(1, 2), inputs)
    gradients = (half.flatten(0, 1) @ axes_in).view(b, outs, ins)
    if outs <= ins:
        return gradients, torch.eye(outs, dtype=pulls.dtype, device=pulls.device).expand(b, outs, outs)
    unit = torch.eye(ins, dtype=inputs.dtype, device=inputs.device).expand(b, ins, ins)
    return unit, gradients.transpose(1, 2).contiguous()


def add_covariance(total: Float[Tensor, "w w"], rows: Float[Tensor, "b t w"]) -> None:
    """As `factors.add_covariance`; a convolution's pulls, whose positions come last in memory, are not copied for it."""
    if rows.shape[1] > rows.shape[2] and not rows.is_contiguous():
        total += torch.bmm(rows.transpose(1, 2), rows).sum(0)
    else:
        factors.add_covariance(total, rows)


def add_squares(
    total: Float[Tensor, "o i"],
    pulls: Float[Tensor, "b t o"],
    turned: Float[Tensor, "b t i"],
    axes_out: Float[Tensor, "o o"],
) -> None:
    """Adds Σ_b (Σ_t pull ⊗ input)² along the axes, as `factors.add_squares` does, to `total`, float64.

    `turned` are inputs along their axes already; pulls are turned before or after they are summed, as is cheaper.
    """
    if not are_many(turned, pulls):
        factors.add_squares(total, pulls @ axes_out, turned)
        return
    step = max(1, factors.ELEMENTS // total.numel())
    for start in range(0, len(turned), step):
        part = slice(start, start + step)
        gradients = torch.bmm(pulls[part].transpose(1, 2), turned[part])  # in this order: fourfold as fast
        total += (axes_out.T @ gradients).square_().sum(0)
