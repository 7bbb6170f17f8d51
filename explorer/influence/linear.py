"""The algebra of a linear head: curvature, its factor, and influence as products of small matrices.

Pure tensor functions: no model, no hooks, no files. A parameter vector of the head is W flattened row by row,
`[k * p]` for k outputs and p features (bias folded in as a feature of ones).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from explorer.contracts import Objective, Progress, silent

ROWS = 8192
"""Training rows per block of the curvature."""
ELEMENTS = 2**22
"""Numbers in the block of memory that a contraction uses again and again (16 MB in float32): half of it costs more calls,
twice as much leaves the cache."""
FEWEST_ROWS = 256
"""Training rows per block of a contraction at least, however wide the head."""
FEWEST = 16
"""Queries per product at least: fewer take other routines of the matrix library, whose last bits differ."""
SOLVE_ELEMENTS = 1_000_000
"""Elements of the largest block of per-example products held at once (8 MB in float64)."""


def curvature(
    features: Float[Tensor, "n p"], outputs: Float[Tensor, "n k"], objective: Objective, progress: Progress = silent
) -> Float[Tensor, "kp kp"]:
    """Mean Hessian of the loss over the head, (1/n) Σ ∇²_f l_i ⊗ h_i h_iᵀ, float64, without decay or damping.

    Exact for cross-entropy and squared error, because the head is linear. Cost n·k²·p²/2 multiply-adds.
    """
    n, p = features.shape
    k = outputs.shape[1]
    hessian = torch.zeros(k, p, k, p, dtype=torch.float64)
    rows = min(ROWS, max(1, SOLVE_ELEMENTS // k**2))
    width = max(1, SOLVE_ELEMENTS // (rows * p))
    for start in range(0, n, rows):
        progress(start, n, "curvature")
        h = features[start : start + rows].double()
        w = objective.loss_curvature(outputs[start : start + rows].double())
        for c in range(k):
            for d in range(c, k, width):
                weighted = (w[:, c, d : d + width].unsqueeze(2) * h.unsqueeze(1)).flatten(1)
                hessian[c, :, d : d + width, :] += (h.T @ weighted).reshape(p, -1, p)
    for c in range(k):
        for d in range(c):
            hessian[c, :, d, :] = hessian[d, :, c, :].T
    progress(n, n, "curvature")
    return hessian.reshape(k * p, k * p).div_(n)


def outer(pulls: Float[Tensor, "q k"], features: Float[Tensor, "q p"]) -> Float[Tensor, "q kp"]:
    """Flattened gradients r_q ⊗ h_q of a small set of rows."""
    return (pulls.unsqueeze(2) * features.unsqueeze(1)).flatten(1)


def contract(
    directions: Float[Tensor, "q kp"],
    features: Float[Tensor, "n p"],
    errors: Float[Tensor, "n k"],
    progress: Progress = silent,
    out: Float[Tensor, "q n"] | None = None,
) -> Float[Tensor, "q n"]:
    """−(1/n) directions · g_i for every training row, g_i = e_i ⊗ h_i, in the features' dtype or that of `out`.

    One matrix product per block of rows, whose gradients are built in memory that is used again; all n of them
    never exist. Cost q·n·k·p.
    """
    n, p = features.shape
    k = errors.shape[1]
    planes = _enough((directions / -n).to(features.dtype))
    values = features.new_empty(len(directions), n) if out is None else out
    rows = min(n, max(FEWEST_ROWS, ELEMENTS // (k * p)))
    held = features.new_empty(rows, k, p)
    for start in range(0, n, rows):
        progress(start, n, "scores")
        h, e = features[start : start + rows], errors[start : start + rows]
        gradients = torch.mul(e.unsqueeze(2), h.unsqueeze(1), out=held[: len(h)]).flatten(1)
        _product(planes, gradients, values[:, start : start + rows])
    progress(n, n, "scores")
    return values


def contract_pairs(
    pulls: Float[Tensor, "q k"],
    seen: Float[Tensor, "q p"],
    features: Float[Tensor, "n p"],
    errors: Float[Tensor, "n k"],
    progress: Progress = silent,
    out: Float[Tensor, "q n"] | None = None,
) -> Float[Tensor, "q n"]:
    """−(1/n) (r_q · e_i)(h_q · h_i) for every training row: `contract` of r_q ⊗ h_q by two smaller products.

    The second product stays in the cache until it is multiplied. Cost q·n·(k + p).
    """
    n = len(features)
    left, right = _enough((pulls / -n).to(errors.dtype)), _enough(seen.to(features.dtype))
    values = features.new_empty(len(pulls), n) if out is None else out
    rows = min(n, max(FEWEST_ROWS, ELEMENTS // len(left)))
    held = values.new_empty(len(pulls), rows)
    for start in range(0, n, rows):
        progress(start, n, "scores")
        h, e = features[start : start + rows], errors[start : start + rows]
        block = values[:, start : start + rows]
        _product(left, e, block)
        _product(right, h, held[:, : len(h)])
        block.mul_(held[:, : len(h)])
    progress(n, n, "scores")
    return values


def _enough(rows: Tensor) -> Tensor:
    """`rows` with zeros below up to `FEWEST`."""
    return torch.nn.functional.pad(rows, (0, 0, 0, max(0, FEWEST - len(rows))))


def _product(left: Tensor, right: Tensor, block: Tensor) -> None:
    """`left @ right.T` into `block`, without a copy where the types and the number of rows allow it."""
    if len(left) == len(block) and left.dtype == block.dtype:
        torch.mm(left, right.T, out=block)
    else:
        block.copy_((left @ right.T)[: len(block)])


def self_products(
    factor: Float[Tensor, "kp kp"],
    features: Float[Tensor, "n p"],
    errors: Float[Tensor, "n k"],
    progress: Progress = silent,
) -> Float[Tensor, " n"]:
    """(1/n) g_iᵀ H⁻¹ g_i from the lower Cholesky factor of H: squared norms, so never negative. Cost n·(k·p)²/2."""
    n = len(features)
    values = torch.zeros(n, dtype=torch.float64)
    step = max(1, SOLVE_ELEMENTS // len(factor))
    for start in range(0, n, step):
        progress(start, n, "self-influence")
        gradients = outer(errors[start : start + step].double(), features[start : start + step].double())
        whitened = torch.linalg.solve_triangular(factor, gradients.T, upper=False)
        values[start : start + step] = whitened.square().sum(0)
    progress(n, n, "self-influence")
    return values / n
