"""The algebra of a linear head: curvature, its factor, and influence as products of small matrices.

Pure tensor functions: no model, no hooks, no files. A parameter vector of the head is W flattened row by row,
`[k * p]` for k outputs and p features (bias folded in as a feature of ones).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from explorer.contracts import Objective, Progress, silent

ROWS = 8192
"""Training rows per block of a contraction."""
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
) -> Float[Tensor, "q n"]:
    """−(1/n) directions · g_i for every training row, g_i = e_i ⊗ h_i, in the features' dtype.

    One matrix product per output over blocks of rows; the n x (k·p) gradients never exist. Cost q·n·k·p.
    """
    n, p = features.shape
    k = errors.shape[1]
    planes = directions.to(features.dtype).reshape(-1, k, p) / -n
    values = features.new_zeros(len(planes), n)
    for start in range(0, n, ROWS):
        progress(start, n, "scores")
        h, e = features[start : start + ROWS], errors[start : start + ROWS]
        block = values[:, start : start + ROWS]
        for c in range(k):
            block.addmm_(planes[:, c], (h * e[:, c : c + 1]).T)
    progress(n, n, "scores")
    return values


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
