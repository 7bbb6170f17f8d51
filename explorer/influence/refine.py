"""Which training examples moved this prediction, by the whole Gauss-Newton inverse, reached from EK-FAC's in few steps?

Conjugate gradient as in `conjugate_gradient`, along EK-FAC's axes preconditioned by its inverse; what EK-FAC
leaves out (other layers, directions within a layer) is what the steps put right.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from explorer.contracts import Fitted, Progress, Subject, silent
from explorer.influence import kronecker
from explorer.influence.blocks import says_what_fits
from explorer.influence.conjugate_gradient import conjugate_gradient
from explorer.influence.curvature_products import Curvature
from explorer.influence.damping import Damping
from explorer.influence.directional import Basis
from explorer.influence.fisher import Fisher
from explorer.influence.gauss_newton import RELATIVE_DAMPING
from explorer.influence.iterative import (
    FittedIterative,
    Solution,
    at_damping,
    check_sample,
    check_solver,
    damped,
    flat,
    proved,
    sampled,
    shift_of,
)
from explorer.influence.kronecker import Diagonal

POWER = 0.5
"""Of EK-FAC's inverse as a preconditioner. Whole, it helps the first steps and hinders the later ones, where layers that it
takes apart act together: on a digits network plain / whole / root need 15 / 10 / 10 steps to a residual of .1, 24 / 31 /
21 to .01 and 34 / 55 / 35 to .001."""
TOLERANCE = 0.1
"""EK-FAC's axes point the first steps the right way: at this residual the digits network's scores are as near to real
retrainings as at .001, which takes plain conjugate gradient a residual of .01 and twice the steps."""


@dataclass(frozen=True)
class Refine:
    """s(q, i) = −(1/n) ∇m_qᵀ (G + (wd + λ)I)⁻¹ g_i as `ConjugateGradient` gives it, preconditioned by EK-FAC.

    Vectors are counted along the eigenvectors of the Kronecker factors (George et al. 2018), where EK-FAC's inverse is a
    division by Λ + wd + λ; its root preconditions (see `POWER`). `damping` is λ >= 0, None for `relative_damping` times
    the mean eigenvalue. `tolerance` is the relative residual at which a query counts as solved. `iterations` is how many
    it may take; the stats say what share converged and what residual is left. `sample` takes G over that many training
    examples instead of all; EK-FAC itself is fitted on all. `seed` draws the sample. `layers` names those to use (all that
    can be handled by default).
    """

    damping: float | None = None
    relative_damping: float = RELATIVE_DAMPING
    tolerance: float = TOLERANCE
    iterations: int = 100
    sample: int | None = None
    seed: int = 0
    layers: Sequence[str] | None = None
    name: ClassVar[str] = "refine"

    def __post_init__(self) -> None:
        Damping(self.damping, self.relative_damping)
        check_solver(self.tolerance, self.iterations)
        check_sample(self.sample, self.seed)
        if self.layers is not None:
            object.__setattr__(self, "layers", kronecker.names(self.layers))

    @says_what_fits
    def fit(self, subject: Subject, progress: Progress = silent) -> Fitted:
        """EK-FAC's factors, eigenvectors and eigenvalues, cost as `EKFAC.fit`, and a few systems solved as evidence.

        Raises:
            ModelError: no layer can be handled, or the model gives NaN.
            SettingsError: a layer asked for does not exist, or weight decay + damping is zero.
        """
        began = time.perf_counter()
        found = kronecker.find(subject, self.layers)
        fisher = Fisher(subject, found)
        basis = fisher.axes(progress).basis
        eigenvalues = fisher.corrected(basis, progress)
        mean = float(sum(values.sum() for values in eigenvalues)) / found.size
        curvature = Curvature(subject, found, sampled(len(subject.train), self.sample, self.seed), basis)
        stats = at_damping(subject, curvature, Damping(self.damping, self.relative_damping), progress, mean)
        stats |= {"fisher": fisher.rule, "tolerance": self.tolerance, "iterations_limit": self.iterations}
        fitted = proved(self._fitted(subject, curvature, basis, eigenvalues, stats), progress)
        fitted.stats = {**fitted.stats, "seconds": time.perf_counter() - began}
        return fitted

    def restore(self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]) -> Fitted:
        """The fitted method from `tensors()` and `stats`."""
        found = kronecker.find(subject, self.layers)
        device = next(subject.model.parameters()).device
        # copied: what lies in memory as a file has it may be aligned otherwise, and takes other routines then
        inputs, pulls, eigenvalues = (
            [tensors[f"{i}/{key}"].to(device, copy=True) for i in range(len(found.layers))]
            for key in ("inputs", "pulls", "eigenvalues")
        )
        basis = Basis(inputs, pulls)
        curvature = Curvature(subject, found, sampled(len(subject.train), self.sample, self.seed), basis)
        return self._fitted(subject, curvature, basis, eigenvalues, stats)

    def _fitted(
        self,
        subject: Subject,
        curvature: Curvature,
        basis: Basis,
        eigenvalues: list[Tensor],
        stats: Mapping[str, Any],
    ) -> FittedIterative:
        ekfac = Diagonal(basis, eigenvalues, shift_of(stats), None)
        product, weights = damped(curvature, shift_of(stats)), flat([R.unsqueeze(0) ** POWER for R in ekfac.inverses()])

        def solver(right: Tensor, progress: Progress) -> Solution:
            scale = weights.to(right)

            def precondition(vectors: Tensor) -> Tensor:
                return torch.mul(vectors, scale)

            return conjugate_gradient(
                product, right, self.tolerance, self.iterations, precondition, progress, "refinement"
            )

        def anew(other: Mapping[str, Any]) -> FittedIterative:
            return self._fitted(subject, curvature, basis, eigenvalues, other)

        return FittedIterative(
            subject, curvature, solver, self.tolerance, self.name, dict(stats), anew, ekfac.tensors(), basis
        )
