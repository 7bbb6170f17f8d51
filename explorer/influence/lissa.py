"""Which training examples moved this prediction, by the Gauss-Newton inverse as a sum of many small steps? LiSSA.

The method of the first influence papers, kept for comparison: it needs some times the work of conjugate gradient for
the same residual, which the stats state.
"""

from __future__ import annotations

import math
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
    damped,
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
MOST_STEPS = 2000
"""Steps a query at most where their number is not given: under a minute for forty queries of a digits network."""
ROUND = 2.0
"""Time constants of the recursion in one round: the residual of a digits network is at .1 after as many steps with 2 as with
3 or 4, and noise that a round has let grow costs less of them."""

FLATTEST = 0.99
"""Largest share of the scale that the smallest eigenvalue counts as: all of it would leave nothing to do."""
PATIENCE = 4
"""Times the steps that theory asks for, of batches without noise, that a query may take."""


@dataclass(frozen=True)
class Lissa:
    """s(q, i) = −(1/n) ∇m_qᵀ (G + (wd + λ)I)⁻¹ g_i by the recursion of Agarwal et al. 2017 (Koh & Liang 2017).

    v ← v + (∇m_q − (G_B + wd + λ) v) / scale over batches B of training examples. In the usual writing v ← g + (1 − damp) v
    − G_B v / scale: damp · scale is the effective damping, and here it is what is set (wd + λ). Three departures, for speed
    and against the noise of the batches: steps have Nesterov's momentum; a round of them is answered by the mean of v over
    its second half; and each further round solves for the true residual that the rounds before have left. `damping` is
    λ >= 0, None for `relative_damping` times G's mean eigenvalue. `depth` is the number of steps, taken whatever comes
    of them; None goes on until a query's residual is within `tolerance`, for at most 2,000 steps or four times what theory asks
    for; a round that makes things worse is then taken back and the scale doubled. `repeats` is over how many orders of the batches
    it is averaged. `batch` is the training examples in one. `scale` is above the largest eigenvalue of any batch, so that
    every step contracts; None chooses it so. `momentum` in [0, 1) is the share of the last change that a step repeats: 0 is
    the plain recursion, with some scale / (wd + λ) steps to go; None takes (1 − √κ)/(1 + √κ) for κ = (wd + λ) / scale,
    with the root of as many. `tolerance` is the true relative residual that is asked for. `seed` draws the
    batches. `layers` names those to use (all that can be handled by default).
    """

    damping: float | None = None
    relative_damping: float = RELATIVE_DAMPING
    depth: int | None = None
    repeats: int = 1
    batch: int = 128
    scale: float | None = None
    momentum: float | None = None
    tolerance: float = 0.1
    seed: int = 0
    layers: Sequence[str] | None = None
    name: ClassVar[str] = "lissa"

    def __post_init__(self) -> None:
        Damping(self.damping, self.relative_damping)
        check_solver(self.tolerance, 1)
        check_sample(None, self.seed)
        for name, value in (("depth", self.depth), ("repeats", self.repeats), ("batch", self.batch)):
            if value is not None and value < 1:
                raise SettingsError(f"Expected {name} >= 1; found {value}. Choose another {name}.")
        if self.scale is not None and not 0 < self.scale < float("inf"):
            raise SettingsError(f"Expected scale > 0 and finite; found {self.scale}. Leave it out to have it chosen.")
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise SettingsError(
                f"Expected momentum in [0, 1); found {self.momentum}. Leave it out to have it chosen, or take 0."
            )
        if self.layers is not None:
            object.__setattr__(self, "layers", kronecker.names(self.layers))

    @says_what_fits
    def fit(self, subject: Subject, progress: Progress = silent) -> Fitted:
        """The trace of the curvature, and the largest eigenvalue of every batch; cost as many passes as outputs,
        `POWER_STEPS` products with the curvature, and a few systems solved as evidence.

        Raises:
            ModelError: no layer can be handled, or the model gives NaN.
            SettingsError: a layer asked for does not exist, or weight decay + damping is zero.
        """
        began = time.perf_counter()
        curvature = self._curvature(subject)
        stats = at_damping(subject, curvature, Damping(self.damping, self.relative_damping), progress)
        largest = largest_eigenvalue(curvature, self.seed, progress) if self.scale is None else None
        stats |= {"largest_eigenvalue": largest, "batch": curvature.size_of(0), "repeats": self.repeats}
        fitted = proved(self._fitted(subject, curvature, stats | self._paced(stats, curvature.blocks)), progress)
        fitted.stats = {**fitted.stats, "seconds": time.perf_counter() - began}
        return fitted

    def restore(self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]) -> Fitted:  # noqa: ARG002
        """The fitted method from its `stats`: it keeps no tensors."""
        return self._fitted(subject, self._curvature(subject), stats)

    def _curvature(self, subject: Subject) -> Curvature:
        """Blocks are the batches, all of about one size: the curvature of a small one at the end would be the largest."""
        n = len(subject.train)
        rows = np.random.default_rng(self.seed).permutation(n).astype(np.int64)
        even = -(-n // -(-n // self.batch))
        return Curvature(subject, kronecker.find(subject, self.layers), rows, block=even)

    def _paced(self, stats: Mapping[str, Any], blocks: int) -> dict[str, Any]:
        """The stats that follow from the damping."""
        shift, scale, rule = shift_of(stats), self.scale, "chosen by the user"
        if scale is None:
            scale = MARGIN * float(stats["largest_eigenvalue"]) + shift
            rule = f"{MARGIN:g} x largest eigenvalue of a batch + damping"
        kappa = min(shift / scale, FLATTEST)
        momentum = fastest(kappa) if self.momentum is None else self.momentum
        steps = max(math.ceil(ROUND * time_constant(kappa, momentum)), min(blocks, MOST_STEPS))
        wanted = steps * rounds(kappa, momentum, steps, self.tolerance)
        depth, words = self.depth, "given"
        if depth is None:
            depth, words = min(PATIENCE * wanted, MOST_STEPS), f"at most; theory asks for {wanted:,}"
        return {
            "scale": scale,
            "scale_rule": rule,
            "recursion_damp": shift / scale,
            "momentum": momentum,
            "round": min(steps, depth),
            "depth": depth,
            "depth_rule": words,
            "depth_wanted": wanted,
            "tolerance": self.tolerance,
        }

    def _fitted(self, subject: Subject, curvature: Curvature, stats: Mapping[str, Any]) -> FittedIterative:
        speed, depth = float(stats["scale"]), int(stats["depth"])
        momentum, steps = stats.get("momentum", 0.0), stats.get("round", depth)  # runs of before have neither
        pace = Pace(shift_of(stats), speed, momentum, depth, steps, self.momentum is None)
        tolerance = self.tolerance if self.depth is None else None

        def solver(right: Tensor, progress: Progress) -> Solution:
            total, steps = torch.zeros_like(right), torch.zeros(len(right), dtype=torch.int64)
            for repeat in range(self.repeats):
                told = share(progress, repeat, 1, self.repeats)
                found = solve(curvature, right, pace, [self.seed, repeat], tolerance, told)
                total += found.values
                steps += found.iterations
            return Solution(total / self.repeats, steps)

        def anew(other: Mapping[str, Any]) -> FittedIterative:
            return self._fitted(subject, curvature, {**other, **self._paced(other, curvature.blocks)})

        return FittedIterative(subject, curvature, solver, self.tolerance, self.name, dict(stats), anew)


@dataclass(frozen=True)
class Pace:
    """`depth` steps of a recursion for G + `shift`, in rounds of at most `round`; `follows`: momentum goes with the scale."""

    shift: float
    scale: float
    momentum: float
    depth: int
    round: int
    follows: bool = True

    @property
    def lengths(self) -> list[int]:
        """Steps of each round; what is left over goes to the last."""
        whole = max(1, self.depth // self.round)
        return [self.round] * (whole - 1) + [self.depth - (whole - 1) * self.round]

    def at(self, scale: Tensor) -> Tensor:
        """The momentum `[q, 1]` at each of the scales `[q, 1]`."""
        if not self.follows:
            return torch.full_like(scale, self.momentum)
        root = (self.shift / scale).clamp_max(FLATTEST).sqrt()
        return (1 - root) / (1 + root)


def fastest(kappa: float) -> float:
    """The momentum of the fastest decay for eigenvalues in [κ, 1] (Nesterov 2004, constant step scheme III)."""
    return (1 - math.sqrt(kappa)) / (1 + math.sqrt(kappa))


def time_constant(kappa: float, momentum: float) -> float:
    """Steps in which the error along the flattest direction, of eigenvalue κ, falls by e: 1/κ without momentum, 1/√κ with
    the fastest; from the larger root of z² = (1 + β)(1 − κ) z − β (1 − κ)."""
    middle = (1 + momentum) * (1 - kappa) / 2
    apart = middle**2 - momentum * (1 - kappa)
    root = middle + math.sqrt(apart) if apart > 0 else math.sqrt(momentum * (1 - kappa))
    return -1 / math.log(root)


def rounds(kappa: float, momentum: float, steps: int, tolerance: float) -> int:
    """Rounds of so many steps after which less than `tolerance` is left of the flattest direction, noise apart.

    From the mean of the error e^(-t), or (1 + t) e^(-t) from the fastest momentum on, over the second half of each round.
    """
    length = steps / time_constant(kappa, momentum)
    half = length / 2
    decay = math.exp(-half) - math.exp(-length)
    if momentum >= fastest(kappa):
        decay = (2 + half) * math.exp(-half) - (2 + length) * math.exp(-length)
    return max(1, math.ceil(math.log(tolerance) / math.log(max(decay / half, 1e-300))))


def solve(
    curvature: Curvature,
    right: Tensor,
    pace: Pace,
    seed: list[int],
    tolerance: float | None,
    progress: Progress = silent,
) -> Solution:
    """The sum of rounds for right-hand sides `[q, P]`, each for what those before have left.

    Without a `tolerance` every side takes every step. With one, a side is left alone once ‖residual‖ <= tolerance ‖right‖;
    a round that leaves more than it found is taken back, and the next is made with twice the scale.

    Raises:
        SettingsError: without a tolerance, the recursion diverges.
    """
    product, size = damped(curvature, pace.shift), right.norm(dim=1)
    values, left = torch.zeros_like(right), right
    steps = torch.zeros(len(right), dtype=torch.int64)
    scale = right.new_full((len(right), 1), pace.scale)
    open_ = torch.arange(len(right), device=right.device) if tolerance is None else torch.nonzero(size > 0).flatten()
    done = 0
    for number, length in enumerate(pace.lengths):
        if not len(open_):
            break
        order = batch_order(curvature.blocks, length, [*seed, number])
        told = share(progress, done, length, pace.depth)
        own = scale[open_]
        moved, sound = recursion(curvature, left[open_], pace.shift, own, pace.at(own), order, told)
        done += length
        steps[open_.to(steps.device)] += length
        if tolerance is None:
            _check_sound(sound, pace, order)
            values += moved
            left = right - product(values, silent) if done < pace.depth else left
            continue
        after = left[open_] - product(moved, silent)
        better = sound & (after.norm(dim=1) < left[open_].norm(dim=1))
        kept = open_[better]
        values[kept] += moved[better]
        left = left.index_copy(0, kept, after[better])
        scale[open_[~better]] *= 2
        open_ = open_[left[open_].norm(dim=1) > tolerance * size[open_]]
    progress(pace.depth, pace.depth, "lissa")
    return Solution(values, steps)


def recursion(
    curvature: Curvature,
    right: Tensor,
    shift: float,
    scale: Tensor,
    momentum: Tensor,
    order: list[int],
    progress: Progress = silent,
) -> tuple[Tensor, Tensor]:
    """The mean of v over the second half of the steps, from v = 0, for right-hand sides `[q, P]`; a batch a step.

    `scale` and `momentum` are `[q, 1]`. Also says of each side whether it stayed sound: where v grows beyond twice
    ‖right‖ / shift, which no contraction reaches, the mean is zero.
    """
    v, ahead, total = torch.zeros_like(right), torch.zeros_like(right), torch.zeros_like(right)
    bound = 2 * right.norm(dim=1) / shift
    sound = torch.ones(len(right), dtype=torch.bool, device=right.device)
    half = len(order) // 2
    for step, batch in enumerate(order):
        progress(step, len(order), "lissa")
        curved = flat(curvature.of_block(batch, parts(curvature.layers, ahead)))
        moved = ahead + (right - curved - shift * ahead) / scale
        ahead, v = moved + momentum * (moved - v), moved
        if step >= half:
            total += v
        if step % CHECK_EVERY == 0 or step == len(order) - 1:
            sound &= v.norm(dim=1) <= bound
            if not bool(sound.all()):
                v, ahead, total = (torch.where(sound.unsqueeze(1), part, 0.0) for part in (v, ahead, total))
    return total / (len(order) - half), sound


def _check_sound(sound: Tensor, pace: Pace, order: list[int]) -> None:
    if not bool(sound.all()):
        raise SettingsError(
            f"Expected a recursion that contracts; found it diverging within {len(order)} steps with scale {pace.scale:.3g} "
            f"and momentum {pace.momentum:.3g}. Choose a scale above the largest eigenvalue of a batch's curvature, or leave "
            "it out to have it chosen."
        )


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
