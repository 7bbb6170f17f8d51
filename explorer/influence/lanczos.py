"""Which directions does the training loss curve most in, and by how much? The top eigenpairs of a symmetric matrix.

Lanczos' iteration with full reorthogonalization, from products alone; scores nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from explorer.contracts import Progress, silent
from explorer.errors import SettingsError
from explorer.influence.curvature_products import Curvature
from explorer.influence.iterative import flat, like, parts

MOST_BYTES = 2**31
"""Largest basis of the Krylov space that is held."""
EXHAUSTED = 10.0
"""What is left of a product is nothing new below this many roundings of the largest product, √P for its many terms."""


@dataclass(frozen=True)
class Pairs:
    """Approximate eigenpairs, largest first: `values [k]` in float64, orthonormal `vectors [k, P]`, `residuals [k]`.

    `steps` is the dimension of the Krylov space they were found in.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    steps: int


def eigenpairs(curvature: Curvature, kept: int, steps: int | None, seed: int, progress: Progress = silent) -> Pairs:
    """The largest eigenpairs of a curvature, by `steps` products with it one after the other (None: twice `kept`).

    Raises:
        SettingsError: the basis of the Krylov space is larger than `MOST_BYTES`.
    """
    layers = curvature.layers
    empty = like(layers)
    steps = min(layers.size, steps or 2 * kept)
    if steps * layers.size * empty.element_size() > MOST_BYTES:
        raise SettingsError(
            f"Expected a basis of at most {MOST_BYTES / 1e9:.1f} GB; found {steps} iterations x {layers.size} parameters. "
            "Choose fewer iterations or layers."
        )
    start = torch.randn(layers.size, generator=torch.Generator().manual_seed(seed)).to(empty)

    def product(vector: Tensor) -> Tensor:
        return flat(curvature.product(parts(layers, vector.unsqueeze(0))))[0]

    return lanczos(product, start, steps, kept, seed, progress)


def lanczos(
    product: Callable[[Tensor], Tensor],
    start: Float[Tensor, " P"],
    steps: int,
    kept: int,
    seed: int = 0,
    progress: Progress = silent,
) -> Pairs:
    """The `kept` largest eigenpairs of a symmetric matrix as seen from a Krylov space of `steps` dimensions (Lanczos 1950).

    Every new direction is made orthogonal to all before; where the space is exhausted it goes on from a random one.
    A residual is ‖G u − θ u‖. Cost a product and 8 j P a step j, memory steps·P.
    """
    basis = start.new_zeros(steps, len(start))
    alphas, betas = (torch.zeros(steps, dtype=torch.float64) for _ in range(2))
    draw = torch.Generator().manual_seed(seed + 1)
    nothing, largest = EXHAUSTED * torch.finfo(start.dtype).eps * len(start) ** 0.5, 0.0
    v = start / start.norm()
    for j in range(steps):
        progress(j, steps, "lanczos")
        basis[j] = v
        w = product(v)
        alphas[j] = float(w @ v)
        largest = max(largest, float(w.norm()))
        w = _orthogonal(w, basis[: j + 1])
        betas[j] = float(w.norm())
        if j + 1 < steps and betas[j] <= nothing * largest:
            betas[j] = 0
            w = _orthogonal(torch.randn(len(start), generator=draw).to(start), basis[: j + 1])
        v = w / w.norm().clamp_min(torch.finfo(w.dtype).tiny)
    progress(steps, steps, "lanczos")
    tridiagonal = alphas.diag() + betas[:-1].diag(1) + betas[:-1].diag(-1)
    values, turns = torch.linalg.eigh(tridiagonal)
    top = torch.arange(steps - 1, steps - 1 - min(kept, steps), -1)
    vectors = turns[:, top].T.to(basis) @ basis
    residuals = betas[-1] * turns[-1, top].abs()
    return Pairs(values[top].clamp_min(0).to(start.device), vectors, residuals, steps)


def _orthogonal(vector: Float[Tensor, " P"], basis: Float[Tensor, "j P"]) -> Float[Tensor, " P"]:
    """What of `vector` is orthogonal to the rows of `basis`; twice, for the rounding of the first time."""
    for _ in range(2):
        vector = vector - (basis @ vector) @ basis
    return vector
