"""Which training examples moved this prediction, through every linear and convolution layer? K-FAC's inverse.

As EK-FAC without its corrected eigenvalues: one pass less, and less true where inputs and pulls are not independent.
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
from explorer.influence.damping import Damping
from explorer.influence.ekfac import RELATIVE_DAMPING
from explorer.influence.fisher import Fisher


@dataclass(frozen=True)
class KFAC:
    """s(q, i) = −(1/n) ∇m_qᵀ (S ⊗ A + (wd + λ)I)⁻¹ g_i, layer by layer (Martens & Grosse 2015; Grosse & Martens 2016).

    The damping is added exactly, along the eigenvectors, not split over the factors. The Fisher is summed over all
    classes (up to 64). Positions that share a layer count as examples of their own ("expand", Eschenhagen et al. 2023).
    Settings as for `EKFAC`.
    """

    damping: float | None = None
    relative_damping: float = RELATIVE_DAMPING
    layers: Sequence[str] | None = None
    rank: int | None = None
    tolerance: float = kronecker.TOLERANCE
    name: ClassVar[str] = "kfac"

    def __post_init__(self) -> None:
        Damping(self.damping, self.relative_damping)
        if self.layers is not None:
            object.__setattr__(self, "layers", kronecker.names(self.layers))
        kronecker.Precision(self.rank, self.tolerance)

    @says_what_fits
    def fit(self, subject: Subject, progress: Progress = silent) -> Fitted:
        """Factors and eigenvectors; cost two forward passes, at most as many backward passes as outputs, and two float64
        eigendecompositions a layer.

        Raises:
            ModelError: no layer can be handled, or the model gives NaN.
            SettingsError: a layer asked for does not exist, or the curvature is singular at this damping.
        """
        began = time.perf_counter()
        found = kronecker.find(subject, self.layers)
        fisher = Fisher(subject, found, self.tolerance)
        axes = fisher.axes(progress)
        eigenvalues = [torch.outer(d, a) for d, a in zip(axes.pulls, axes.inputs, strict=True)]
        seconds = {"factors": time.perf_counter() - began}
        damping = Damping(self.damping, self.relative_damping)
        precision = kronecker.Precision(self.rank, self.tolerance)
        return kronecker.fitted(self.name, subject, found, fisher, axes.basis, eigenvalues, damping, precision, seconds)

    def restore(self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]) -> Fitted:
        """The fitted method from `tensors()` and `stats`."""
        return kronecker.restored(self.name, subject, self.layers, tensors, stats)
