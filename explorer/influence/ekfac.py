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
    sampled, so the same model gives the same scores (its quietest columns, up to a share `tolerance` of it, are left out);
    and λ is a share of the mean eigenvalue of the whole model, not of each layer. `damping` is λ >= 0, None for `relative_damping` times that mean. `layers` names those to use (all that
    can be handled by default). Pairs of larger layers with one position are scored by separable products in place of the
    diagonal: the fewest that leave out no more than a share `tolerance` of it, where gradients are (see `separable`); 0
    scores exactly. `rank` is how many products in every such layer instead. The stats tell `ranks` by layer (0 is exact),
    `tails` (the share left out), and error and rank agreement as measured on training examples.
    """

    damping: float | None = None
    relative_damping: float = RELATIVE_DAMPING
    layers: Sequence[str] | None = None
    rank: int | None = None
    tolerance: float = kronecker.TOLERANCE
    name: ClassVar[str] = "ekfac"

    def __post_init__(self) -> None:
        Damping(self.damping, self.relative_damping)
        if self.layers is not None:
            object.__setattr__(self, "layers", kronecker.names(self.layers))
        kronecker.Precision(self.rank, self.tolerance)

    @says_what_fits
    def fit(self, subject: Subject, progress: Progress = silent) -> Fitted:
        """Factors, eigenvectors and corrected eigenvalues; cost two forward passes and at most as many backward passes as
        outputs (3.7 of 9 on digits; twice where they do not fit in memory), and two float64 eigendecompositions a layer.

        Raises:
            ModelError: no layer can be handled, or the model gives NaN.
            SettingsError: a layer asked for does not exist, or the curvature is singular at this damping.
        """
        began = time.perf_counter()
        found = kronecker.find(subject, self.layers)
        fisher = Fisher(subject, found, self.tolerance)
        axes = fisher.axes(progress)
        halfway = time.perf_counter()
        eigenvalues = fisher.corrected(axes.basis, progress)
        seconds = {"factors": halfway - began, "eigenvalues": time.perf_counter() - halfway}
        damping = Damping(self.damping, self.relative_damping)
        precision = kronecker.Precision(self.rank, self.tolerance)
        return kronecker.fitted(self.name, subject, found, fisher, axes.basis, eigenvalues, damping, precision, seconds)

    def restore(self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]) -> Fitted:
        """The fitted method from `tensors()` and `stats`."""
        return kronecker.restored(self.name, subject, self.layers, tensors, stats)
