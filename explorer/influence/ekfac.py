"""Which training examples moved this prediction, through every linear and convolution layer? EK-FAC's inverse.

Layers are taken apart from each other, and so are directions within a layer; what a model computes in other layers is
left out and named in the stats.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from explorer.contracts import Fitted, Progress, Subject, silent
from explorer.errors import SettingsError
from explorer.influence import kronecker
from explorer.influence.blocks import says_what_fits
from explorer.influence.damping import Damping
from explorer.influence.fisher import Fisher

RELATIVE_DAMPING = 0.1
"""Damping as a share of the mean eigenvalue: won or tied among fixed rules on every problem measured so far."""


@dataclass(frozen=True)
class EKFAC:
    """s(q, i) = −(1/n) ∇m_qᵀ (G + (wd + λ)I)⁻¹ g_i with G's EK-FAC approximation (George et al. 2018, Grosse et al. 2023).

    For each layer G ≈ (Q_S ⊗ Q_A) diag(Λ) (Q_S ⊗ Q_A)ᵀ, the eigenvectors those of its Kronecker factors and Λ the exact
    second moments along them. Departs from Grosse et al.: the Fisher is summed over all classes (up to 64) instead of
    sampled, so the same model gives the same scores; and λ is a share of the mean eigenvalue of the whole model, not of
    each layer. `damping` is λ >= 0, None for `relative_damping` times that mean. `layers` names those to use (all that
    can be handled by default). `rank` scores pairs of layers with one position by that many separable products instead
    of the exact diagonal: faster, with the error it makes measured in the stats (see `separable`).
    """

    damping: float | None = None
    relative_damping: float = RELATIVE_DAMPING
    layers: Sequence[str] | None = None
    rank: int | None = None
    name: ClassVar[str] = "ekfac"

    def __post_init__(self) -> None:
        Damping(self.damping, self.relative_damping)
        if self.layers is not None:
            object.__setattr__(self, "layers", kronecker.names(self.layers))
        if self.rank is not None and self.rank < 1:
            raise SettingsError(f"Expected rank >= 1; found {self.rank}. Leave it out for the exact diagonal.")

    @says_what_fits
    def fit(self, subject: Subject, progress: Progress = silent) -> Fitted:
        """Factors, eigenvectors and corrected eigenvalues; cost a forward pass and as many backward passes as outputs
        (twice where they do not fit in memory), and two float64 eigendecompositions a layer.

        Raises:
            ModelError: no layer can be handled, or the model gives NaN.
            SettingsError: a layer asked for does not exist, or the curvature is singular at this damping.
        """
        began = time.perf_counter()
        found = kronecker.find(subject, self.layers)
        fisher = Fisher(subject, found)
        axes = fisher.axes(progress)
        halfway = time.perf_counter()
        eigenvalues = fisher.corrected(axes.basis, progress)
        seconds = {"factors": halfway - began, "eigenvalues": time.perf_counter() - halfway}
        damping = Damping(self.damping, self.relative_damping)
        return kronecker.fitted(self.name, subject, found, fisher, axes.basis, eigenvalues, damping, self.rank, seconds)

    def restore(self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]) -> Fitted:
        """The fitted method from `tensors()` and `stats`."""
        return kronecker.restored(self.name, subject, self.layers, tensors, stats)
