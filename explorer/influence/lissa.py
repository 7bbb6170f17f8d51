"""Which training examples moved this prediction, by the Gauss-Newton inverse as a sum of many small steps? LiSSA.

The method of the first influence papers, kept for comparison: it needs many times the work of conjugate gradient for
the same residual, which the stats state.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
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
    Solution,
    at_damping,
    check_sample,
    check_solver,
    flat,
    like,
    parts,
    proved,
    share,
    shift_of,
)

POWER_STEPS = 10
"""Steps of the power iteration on each batch: its answer is then within a half of the largest eigenvalue, which is all
that is needed, since the recursion contracts for any scale above half of it."""
POWER_VECTORS = 2
"""Random directions that a power iteration starts from."""
PROBED_BATCHES = 256
"""Batches whose largest eigenvalue is looked for; with more batches than that, the others are taken to be like them."""
MARGIN = 1.1
"""What the largest eigenvalue found is multiplied by."""
CHECK_EVERY = 25
"""Steps between two looks at whether the recursion diverges."""


@dataclass(frozen=True)
class Lissa:
    """s(q, i) = −(1/n) ∇m_qᵀ (G + (wd + λ)I)⁻¹ g_i by the recursion of Agarwal et al. 2017 (Koh & Liang 2017).

    v ← v + (∇m_q − (G_B + wd + λ) v) / scale over batches B of training examples. In the usual writing v ← g + (1 − damp) v
    − G_B v / scale: damp · scale is the effective damping, and here it is what is set (wd + λ). A departure: the answer is
    the mean of v over the second half of the steps, not the last v, for the noise of the batches. `damping` is λ >= 0,
    None for `relative_damping` times G's mean eigenvalue. `depth` is the number of steps; the answer is as good as that
    lets it be (some multiple of scale / (wd + λ) steps). `repeats` is over how many orders of the batches it is averaged.
    `batch` is the training examples in one. `scale` is above the largest eigenvalue of any batch, so that every step
    contracts; None chooses it so. `tolerance` is the true residual that counts as converged in the stats. `seed` draws
    the batches. `layers` names those to use (all that can be handled by default).
    """

    damping: float | None = None
    relative_damping: float = RELATIVE_DAMPING
    depth: int = 200
    repeats: int = 1
    batch: int = 64
    scale: float | None = None
    tolerance: float = 0.1
    seed: int = 0
    layers: Sequence[str] | None = None
    name: ClassVar[str] = "lissa"

    def __post_init__(self) -> None:
        Damping(self.damping, self.relative_damping)
        check_solver(self.tolerance, 1)
        check_sample(None, self.seed)
        for name, value in (("depth", self.depth), ("repeats", self.repeats), ("batch", self.batch)):
            if value < 1:
                raise SettingsError(f"Expected {name} >= 1; found {value}. Choose another {name}.")
        if self.scale is not None and not 0 < self.scale < float("inf"):
            raise SettingsError(f"Expected scale > 0 and finite; found {self.scale}. Leave it out to have it chosen.")
        if self.layers is not None:
            object.__setattr__(self, "layers", kronecker.names(self.layers))

    @says_what_fits
    def fit(self, subject: Subject, progress: Progress = silent) -> Fitted:
        """The trace of the curvature, and the largest eigenvalue of every batch; cost as many passes as outputs, and
        `POWER_STEPS` products with the curvature.

        Raises:
            ModelError: no layer can be handled, or the model gives NaN.
            SettingsError: a layer asked for does not exist, or weight decay + damping is zero.
        """
        began = time.perf_counter()
        curvature = self._curvature(subject)
        stats = at_damping(subject, curvature, Damping(self.damping, self.relative_damping), progress)
        scale, rule = self.scale, "chosen by the user"
        if scale is None:
            scale = MARGIN * largest_eigenvalue(curvature, self.seed, progress) + shift_of(stats)
            rule = f"{MARGIN:g} x largest eigenvalue of a batch + damping"
        stats |= {"scale": scale, "scale_rule": rule, "recursion_damp": shift_of(stats) / scale}
        stats |= {"depth": self.depth, "repeats": self.repeats, "batch": curvature.size_of(0)}
        stats |= {"tolerance": self.tolerance}
        fitted = proved(self._fitted(subject, curvature, stats), progress)
        fitted.stats = {**fitted.stats, "seconds": time.perf_counter() - began}
        return fitted

    def restore(self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]) -> Fitted:  # noqa: ARG002
        """The fitted method from its `stats`: it keeps no tensors."""
        return self._fitted(subject, self._curvature(subject), stats)

    def _curvature(self, subject: Subject) -> Curvature:
        """Blocks are the batches: a seeded partition of the training set."""
        rows = np.random.default_rng(self.seed).permutation(len(subject.train)).astype(np.int64)
        return Curvature(subject, kronecker.find(subject, self.layers), rows, block=self.batch)

    def _fitted(self, subject: Subject, curvature: Curvature, stats: Mapping[str, Any]) -> FittedIterative:
        def solver(right: Tensor, progress: Progress) -> Solution:
            total = torch.zeros_like(right)
            for repeat in range(self.repeats):
                told = share(progress, repeat, 1, self.repeats)
                order = batch_order(curvature.blocks, self.depth, [self.seed, repeat])
                total += recursion(curvature, right, shift_of(stats), float(stats["scale"]), order, told)
            return Solution(total / self.repeats, torch.full((len(right),), self.depth * self.repeats))

        return FittedIterative(subject, curvature, solver, self.tolerance, self.name, dict(stats), {})


def recursion(
    curvature: Curvature, right: Tensor, shift: float, scale: float, order: list[int], progress: Progress = silent
) -> Tensor:
    """The mean of v over the second half of the steps, from v = 0, for right-hand sides `[q, P]`; a batch a step.

    Raises:
        SettingsError: it diverges: v grows beyond twice ‖right‖ / shift, which no contraction reaches.
    """
    v, total = torch.zeros_like(right), torch.zeros_like(right)
    bound = 2 * right.norm(dim=1) / shift
    half = len(order) // 2
    for step, batch in enumerate(order):
        progress(step, len(order), "lissa")
        curved = flat(curvature.of_block(batch, parts(curvature.layers, v)))
        v = v + (right - curved - shift * v) / scale
        if step >= half:
            total += v
        if (step % CHECK_EVERY == 0 or step == len(order) - 1) and not bool((v.norm(dim=1) <= bound).all()):
            raise SettingsError(
                f"Expected a recursion that contracts; found it diverging at step {step} of {len(order)} with scale "
                f"{scale:.3g}. Choose a scale above the largest eigenvalue of a batch's curvature, or leave it out to have "
                "it chosen."
            )
    progress(len(order), len(order), "lissa")
    return total / (len(order) - half)


def batch_order(blocks: int, depth: int, seed: list[int]) -> list[int]:
    """`depth` batches: all in a random order, then all in another, and so on."""
    draw = np.random.default_rng(seed)
    rounds = [draw.permutation(blocks) for _ in range(-(-depth // blocks))]
    return [int(batch) for batch in np.concatenate(rounds)[:depth]]


def largest_eigenvalue(curvature: Curvature, seed: int, progress: Progress = silent) -> float:
    """The largest eigenvalue of any batch's curvature, by power iteration: never above it, seldom far below."""
    probed = min(curvature.blocks, PROBED_BATCHES)
    empty = like(curvature.layers)
    draw = torch.Generator().manual_seed(seed)
    found = 0.0
    for batch in range(probed):
        progress(batch, probed, "largest eigenvalue")
        v = torch.randn(POWER_VECTORS, curvature.layers.size, generator=draw).to(empty)
        for _ in range(POWER_STEPS):
            v = v / v.norm(dim=1, keepdim=True).clamp_min(1e-30)
            v = flat(curvature.of_block(batch, parts(curvature.layers, v)))
        found = max(found, float(v.norm(dim=1).max()))
    progress(probed, probed, "largest eigenvalue")
    return found
