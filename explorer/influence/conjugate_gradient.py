"""Which training examples moved this prediction, by the whole Gauss-Newton inverse? Conjugate gradient, query by query.

Nothing is approximated but where the iteration stops, which the stats state: the exact answer to hold cheaper inverses
against. Knows no factored inverse; every query and every self-influence costs a solve of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from explorer.contracts import Fitted, Progress, Subject, silent
from explorer.errors import SettingsError
from explorer.influence import kronecker
from explorer.influence.blocks import says_what_fits
from explorer.influence.curvature_products import Curvature
from explorer.influence.damping import Damping
from explorer.influence.gauss_newton import RELATIVE_DAMPING
from explorer.influence.iterative import (
    FittedIterative,
    Product,
    Solution,
    at_damping,
    check_sample,
    check_solver,
    damped,
    like,
    proved,
    sampled,
    share,
    shift_of,
)
from explorer.influence.lanczos import MOST_BYTES, eigenpairs
from explorer.influence.layers import Layers

DEFLATION = 100
"""Eigenpairs taken out of the way by default."""


@dataclass(frozen=True)
class ConjugateGradient:
    """s(q, i) = −(1/n) ∇m_qᵀ (G + (wd + λ)I)⁻¹ g_i with the whole Gauss-Newton G over all handled layers (Martens 2010).

    `damping` is λ >= 0, None for `relative_damping` times G's mean eigenvalue, whose trace is exact up to 64 outputs and
    from drawn labels beyond. `tolerance` is the relative residual at which a query counts as solved. `iterations` is how
    many it may take; the stats say what share converged and what residual is left. `deflation` is how many of G's top
    eigenpairs are found once (Lanczos, twice as many products with one vector) and taken out of every query's way: the
    same answer in fewer iterations; None takes up to 100, as memory allows. `sample` takes G over that many training
    examples instead of all. `seed` draws the sample and the start of Lanczos. `layers` names those to use (all that can be
    handled by default).
    """

    damping: float | None = None
    relative_damping: float = RELATIVE_DAMPING
    tolerance: float = 1e-2
    iterations: int = 100
    deflation: int | None = None
    sample: int | None = None
    seed: int = 0
    layers: Sequence[str] | None = None
    name: ClassVar[str] = "conjugate-gradient"

    def __post_init__(self) -> None:
        if self.deflation is not None and self.deflation < 0:
            raise SettingsError(f"Expected deflation >= 0; found {self.deflation}. Leave it out to have it chosen.")
        Damping(self.damping, self.relative_damping)
        check_solver(self.tolerance, self.iterations)
        check_sample(self.sample, self.seed)
        if self.layers is not None:
            object.__setattr__(self, "layers", kronecker.names(self.layers))

    @says_what_fits
    def fit(self, subject: Subject, progress: Progress = silent) -> Fitted:
        """The trace of the curvature and its top eigenpairs; cost a forward pass and as many backward passes as outputs,
        two products with the curvature for each eigenpair, and a few systems solved as evidence.

        Raises:
            ModelError: no layer can be handled, or the model gives NaN.
            SettingsError: a layer asked for does not exist, or weight decay + damping is zero.
        """
        began = time.perf_counter()
        curvature = self._curvature(subject)
        stats = at_damping(subject, curvature, Damping(self.damping, self.relative_damping), progress)
        kept = self._deflation(curvature.layers)
        saved: dict[str, Tensor] = {}
        if kept:
            pairs = eigenpairs(curvature, kept, None, self.seed, progress)
            saved = {"vectors": pairs.vectors, "values": pairs.values}
        stats |= {"tolerance": self.tolerance, "iterations_limit": self.iterations, "deflation": kept}
        found = proved(self._fitted(subject, curvature, saved, stats), progress)
        found.stats = {**found.stats, "seconds": time.perf_counter() - began}
        return found

    def restore(self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]) -> Fitted:
        """The fitted method from `tensors()` and `stats`."""
        curvature = self._curvature(subject)
        device = like(curvature.layers).device
        # copied: what lies in memory as a file has it may be aligned otherwise, and takes other routines then
        saved = {name: tensor.to(device, copy=True) for name, tensor in tensors.items()}
        return self._fitted(subject, curvature, saved, stats)

    def _curvature(self, subject: Subject) -> Curvature:
        rows = sampled(len(subject.train), self.sample, self.seed)
        return Curvature(subject, kronecker.find(subject, self.layers), rows)

    def _deflation(self, found: Layers) -> int:
        """How many eigenpairs to look for: as many as are asked for, or as the model has parameters and memory allows."""
        fits = MOST_BYTES // (2 * found.size * like(found).element_size())
        return min(DEFLATION, found.size // 4, fits) if self.deflation is None else min(self.deflation, found.size)

    def _fitted(
        self, subject: Subject, curvature: Curvature, saved: Mapping[str, Tensor], stats: Mapping[str, Any]
    ) -> FittedIterative:
        shift = shift_of(stats)
        product = damped(curvature, shift)
        precondition = deflated(saved["vectors"], saved["values"], shift) if saved else None

        def solver(right: Tensor, progress: Progress) -> Solution:
            return conjugate_gradient(product, right, self.tolerance, self.iterations, precondition, progress)

        def anew(other: Mapping[str, Any]) -> FittedIterative:
            return self._fitted(subject, curvature, saved, other)

        return FittedIterative(subject, curvature, solver, self.tolerance, self.name, dict(stats), anew, saved)


def conjugate_gradient(
    product: Product,
    right: Float[Tensor, "q P"],
    tolerance: float,
    iterations: int,
    precondition: Callable[[Tensor], Tensor] | None = None,
    progress: Progress = silent,
    note: str = "conjugate gradient",
) -> Solution:
    """Solves a positive definite system for q right-hand sides at once, each with its own steps (Hestenes & Stiefel 1952).

    A side is left alone once ‖residual‖ <= tolerance ‖right‖. `precondition` applies a positive definite approximation of
    the inverse. Cost one product an iteration, of the sides still open, and memory of five right-hand sides.
    """
    values, steps = torch.zeros_like(right), torch.zeros(len(right), dtype=torch.int64)
    goal = tolerance * right.norm(dim=1)
    open_ = torch.nonzero(right.norm(dim=1) > goal).flatten()
    x, r, goal = values[open_], right[open_], goal[open_]
    z = r if precondition is None else precondition(r)
    p, rz = z.clone(), torch.linalg.vecdot(r, z)
    for iteration in range(iterations):
        progress(iteration, iterations, note)
        if not len(open_):
            break
        Ap = product(p, share(progress, iteration, 1, iterations, note))
        step = (rz / torch.linalg.vecdot(p, Ap)).unsqueeze(1)
        x, r = x.addcmul_(step, p), r - step * Ap
        steps[open_.to(steps.device)] += 1
        going = r.norm(dim=1) > goal
        if not bool(going.all()):
            values[open_] = x
            x, r, p, rz, goal, open_ = (part[going] for part in (x, r, p, rz, goal, open_))
        z = r if precondition is None else precondition(r)
        before, rz = rz, torch.linalg.vecdot(r, z)
        p = torch.addcmul(z, (rz / before).unsqueeze(1), p)
    values[open_] = x
    progress(iterations, iterations, note)
    return Solution(values, steps)


def deflated(vectors: Float[Tensor, "k P"], values: Float[Tensor, " k"], shift: float) -> Callable[[Tensor], Tensor]:
    """v ↦ v, its part along each eigenvector divided by (θ_k + shift)/(θ_last + shift): none then stands out."""
    damped_ = values.double() + shift
    weights = damped_[-1] / damped_ - 1

    def precondition(right: Tensor) -> Tensor:
        along = (right @ vectors.T).mul_(weights.to(right))
        return torch.addmm(right, along, vectors)

    return precondition
