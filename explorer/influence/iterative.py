"""What do all methods share that solve (G + damping) x = g step by step, for each gradient they are asked about?

Right-hand sides in blocks, the true residual of every solution, damping, and how such a method is asked; knows no
particular iteration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from explorer.contracts import MEASURE_UNIT, Progress, Queries, Scores, Subject, silent
from explorer.errors import SettingsError
from explorer.influence.curvature_products import Curvature
from explorer.influence.damping import Damping
from explorer.influence.directional import Basis, FittedInverse, Kept, contract, example_rows
from explorer.influence.layers import Layers

VECTOR_ELEMENTS = 2**24
"""Numbers in the right-hand sides that are solved together (64 MB in float32); the iteration holds five times as many."""
SLACK = 2.0
"""Rounding parts the residual that steers from the true one: this many times the tolerance still counts as converged."""
SINGULAR = 1e-10
"""Share of the curvature's trace below which weight decay + damping cannot be told from zero."""
PROVED = 8
"""Training examples, evenly spread, whose gradients `fit` solves for to say whether the iteration converges."""
ROUGH = 0.02
"""Tolerance above which a random direction is solved for twice: what is left of it, small for a vector that is equally long
in every direction, may be as large as all of it in the few that gradients lie in."""
CHANGES = "changes of the parameters"

EVIDENCE = ("solved", "converged", "residual_median", "residual_max", "iterations", "iterations_mean")
"""Stats that say how systems were solved."""

Product = Callable[[Tensor, Progress], Tensor]
"""(G + shift) v for flat vectors `[q, P]`."""


@dataclass(frozen=True)
class Solution:
    """Vectors `[q, P]` and how many iterations each took, int64 `[q]`."""

    values: Tensor
    iterations: Tensor


Solver = Callable[[Tensor, Progress], Solution]
"""(G + shift)⁻¹ v for flat vectors `[q, P]`, as far as it gets."""


@dataclass(eq=False)
class Solving:
    """The inverse while one question is answered: solves for what it is applied to, tells `progress`, and keeps evidence."""

    curvature: Curvature
    shift: float
    solver: Solver
    tolerance: float
    progress: Progress = silent
    _residuals: list[float] = field(default_factory=list, repr=False)
    _iterations: list[int] = field(default_factory=list, repr=False)

    def apply(self, gradients: list[Tensor]) -> list[Tensor]:
        """(G + shift)⁻¹ times each gradient, in blocks of `VECTOR_ELEMENTS` numbers; cost the solver's and a product."""
        step = max(1, VECTOR_ELEMENTS // self.curvature.layers.size)
        count = len(gradients[0])
        found, residuals = [], []
        for start in range(0, count, step):
            right = flat([g[start : start + step] for g in gradients])
            solution = self.solver(right, share(self.progress, start, len(right), count))
            residuals.append(self._residual(right, solution.values))
            found.append(solution)
        solved = parts(self.curvature.layers, torch.cat([solution.values for solution in found]))
        self._residuals += torch.cat(residuals).tolist()
        self._iterations += torch.cat([solution.iterations for solution in found]).tolist()
        return solved

    def closely(self, vectors: list[Tensor]) -> list[Tensor]:
        """As `apply`; at a tolerance above `ROUGH` once more for what is left, for a residual of the tolerance squared."""
        solved = self.apply(vectors)
        if self.tolerance <= ROUGH:
            return solved
        left = damped(self.curvature, self.shift)(flat(solved), silent).neg_().add_(flat(vectors))
        return [x.add_(more) for x, more in zip(solved, self.apply(parts(self.curvature.layers, left)), strict=True)]

    def tensors(self) -> dict[str, Tensor]:
        """None of its own: the solver's are with who fitted it."""
        return {}

    def evidence(self) -> dict[str, Any]:
        """What became of all right-hand sides so far; nothing before the first.

        The keys of `EVIDENCE`: how many, the share whose true relative residual is within the tolerance, the residuals, and
        the most iterations and their mean.
        """
        if not self._residuals:
            return {}
        return {
            "solved": len(self._residuals),
            "converged": float(np.mean(np.array(self._residuals) <= SLACK * self.tolerance)),
            "residual_median": float(np.median(self._residuals)),
            "residual_max": float(np.max(self._residuals)),
            "iterations": max(self._iterations),
            "iterations_mean": float(np.mean(self._iterations)),
        }

    def _residual(self, right: Float[Tensor, "q P"], solved: Float[Tensor, "q P"]) -> Float[Tensor, " q"]:
        """‖right − (G + shift) solved‖ / ‖right‖; a right-hand side of zeros is solved."""
        left = damped(self.curvature, self.shift)(solved, silent)
        size = right.norm(dim=1)
        return torch.where(size > 0, (right - left).norm(dim=1) / size.clamp_min(1e-30), 0.0)


@dataclass(eq=False)
class FittedIterative:
    """A method after `fit` whose inverse is solved for anew for every query; with a `basis`, along its axes.

    `anew` makes the same from other stats: its own, at another damping. `stats` say how the gradients of `PROVED` training examples fared at `fit`; those of scores, how the queries' own did.
    """

    subject: Subject
    curvature: Curvature
    solver: Solver
    tolerance: float
    method: str
    stats: Mapping[str, Any]
    anew: Callable[[Mapping[str, Any]], FittedIterative]
    saved: Mapping[str, Tensor] = field(default_factory=dict)
    basis: Basis | None = None
    unit: str = MEASURE_UNIT
    _kept: Kept = field(default_factory=Kept, repr=False)

    def score(self, queries: Queries, progress: Progress = silent, out: Tensor | None = None) -> Scores:
        """Influence float32 `[query, train]`; cost a system solved for each query, then P multiply-adds a pair."""
        solving = self.solving(progress)
        scores = self._asked(solving).score(queries, progress, out)
        return dataclasses.replace(scores, stats={**self.stats, **solving.evidence()})

    def weighted(self, queries: Queries, weights: Tensor, progress: Progress = silent) -> Tensor:
        """Weighted sums over queries, float32 `[k, train]`; cost k systems: the gradients are summed first."""
        return self._asked(self.solving(progress)).weighted(queries, weights, progress)

    def self_influence(self, progress: Progress = silent) -> Tensor:
        """(1/n) g_iᵀ (G + (wd + λ)I)⁻¹ g_i, float32 `[n]`; cost a system solved for each training example."""
        return self._asked(self.solving(progress)).self_influence(progress)

    def redamped(self, damping: float) -> FittedIterative:
        """The same curvature at another λ; cost `PROVED` systems solved, as evidence.

        Raises:
            SettingsError: the damping is negative or not finite, or the curvature is singular at it.
        """
        other = at_another(self.stats, damping)
        found = proved(self.anew({name: value for name, value in other.items() if name not in EVIDENCE}))
        found._kept = self._kept
        return found

    def changes(
        self, probes: int, seed: int, progress: Progress = silent
    ) -> tuple[Float[Tensor, " n"], dict[str, Any]]:
        """‖(G + (wd + λ)I)⁻¹ g_i‖ of every training example, float64, and the evidence of how it was found.

        ‖H⁻¹g‖² is the mean of (g · H⁻¹z)² over random signs z, so `probes` systems do for all examples, with a relative
        standard error of at most 1/√(2 probes) of the length. Without probes, or where there are as few examples as these,
        a system is solved for each example. Cost that, and P multiply-adds for each pair of a probe and an example.
        """
        solving, n = self.solving(), len(self.subject.train)
        exact = not 0 < probes < n
        found = self._each_change(solving, progress) if exact else self._probed(solving, probes, seed, progress)
        told = {"probes": 0 if exact else probes, "standard_error": 0.0 if exact else (2 * probes) ** -0.5}
        return found.sqrt(), told | solving.evidence()

    def tensors(self) -> dict[str, Tensor]:
        """What the solver needs that the subject does not give again."""
        return {name: tensor.cpu().contiguous() for name, tensor in self.saved.items()}

    def solving(self, progress: Progress = silent) -> Solving:
        """The inverse for one question."""
        return Solving(self.curvature, shift_of(self.stats), self.solver, self.tolerance, progress)

    def _each_change(self, solving: Solving, progress: Progress) -> Float[Tensor, " n"]:
        """Squared lengths, a system solved for each training example."""
        squares, n = torch.empty(len(self.subject.train), dtype=torch.float64), len(self.subject.train)
        step = max(1, VECTOR_ELEMENTS // self.curvature.layers.size)
        for start, block in self._asked(solving).training(silent, CHANGES):
            for first in range(0, len(block), step):
                part = block[first : first + step]
                solving.progress = share(progress, start + first, len(part), n, CHANGES)
                moved = flat(solving.apply(part.gradients())).double()
                squares[start + first : start + first + len(part)] = moved.square().sum(1)
        progress(n, n, CHANGES)
        return squares

    def _probed(self, solving: Solving, probes: int, seed: int, progress: Progress) -> Float[Tensor, " n"]:
        """Squared lengths from random signs, in blocks of `VECTOR_ELEMENTS` numbers."""
        asked, size, empty = self._asked(solving), self.curvature.layers.size, like(self.curvature.layers)
        squares = torch.zeros(len(self.subject.train), dtype=torch.float64)
        draw, step = torch.Generator().manual_seed(seed), max(1, VECTOR_ELEMENTS // size)
        for start in range(0, probes, step):
            count = min(step, probes - start)
            signs = torch.stack([torch.randint(0, 2, (size,), generator=draw) for _ in range(count)]) * 2 - 1
            solving.progress = share(progress, start, count, probes, CHANGES)
            directions = solving.closely(parts(self.curvature.layers, signs.to(empty)))
            for first, rows in asked.training(silent, CHANGES):
                seen = contract(directions, rows).double().square().sum(0)
                squares[first : first + len(rows)] += seen.to(squares)
        progress(probes, probes, CHANGES)
        return squares / probes

    def _asked(self, solving: Solving) -> FittedInverse:
        return FittedInverse(
            self.subject,
            self.curvature.layers,
            solving,
            self.method,
            self.stats,
            self.unit,
            self.basis,
            _kept=self._kept,
        )


def proved(fitted: FittedIterative, progress: Progress = silent) -> FittedIterative:
    """The same with how the gradients of a few training examples fare in its stats; cost `PROVED` systems solved."""
    n = len(fitted.subject.train)
    rows = np.unique(np.linspace(0, n - 1, min(PROVED, n)).astype(np.int64))
    solving = fitted.solving(progress)
    objective = fitted.subject.objective
    for _, block in example_rows(
        fitted.subject, fitted.curvature.layers, fitted.subject.train, objective.loss_gradient, rows
    ):
        turned = block if fitted.basis is None else fitted.basis.turned(block)
        solving.apply(turned.gradients())
    return dataclasses.replace(fitted, stats={**fitted.stats, **solving.evidence()}, _kept=Kept())


def damped(curvature: Curvature, shift: float) -> Product:
    """v ↦ (G + shift) v on flat vectors."""

    def product(vectors: Tensor, progress: Progress) -> Tensor:
        return flat(curvature.product(parts(curvature.layers, vectors), progress)).add_(vectors, alpha=shift)

    return product


def at_damping(
    subject: Subject, curvature: Curvature, damping: Damping, progress: Progress, mean: float | None = None
) -> dict[str, Any]:
    """The stats that all iterative inverses share; `mean` is G's mean eigenvalue where it is known.

    Raises:
        SettingsError: weight decay + damping is zero, so that the inverse may not exist.
    """
    if mean is None:
        mean = curvature.trace(progress) / curvature.layers.size
    chosen = damping.of(mean)
    _check_regular(subject.weight_decay, chosen, mean, curvature.layers.size)
    return {
        "damping": chosen,
        "damping_rule": damping.rule,
        "weight_decay": subject.weight_decay,
        "mean_eigenvalue": mean,
        "fisher": curvature.rule,
        "curvature_rows": len(curvature.rows),
        "parameters": curvature.layers.size,
        "layers": list(curvature.layers.names),
        "left_out": dict(curvature.layers.left_out),
    }


def at_another(stats: Mapping[str, Any], damping: float) -> dict[str, Any]:
    """The stats of `at_damping` and what else there is, at another λ.

    Raises:
        SettingsError: it is negative or not finite, or weight decay + damping is zero.
    """
    chosen = Damping(damping, 0.0).of(0.0)
    _check_regular(stats["weight_decay"], chosen, stats["mean_eigenvalue"], stats["parameters"])
    return {**stats, "damping": chosen, "damping_rule": "given"}


def _check_regular(weight_decay: float, damping: float, mean: float, size: int) -> None:
    if weight_decay + damping <= SINGULAR * mean * size:
        raise SettingsError(
            f"Expected weight decay + damping above zero for an invertible curvature; found damping {damping:g} and weight "
            f"decay {weight_decay:g} at a mean eigenvalue of {mean:.1e}. {Damping.remedy(mean)}"
        )


def shift_of(stats: Mapping[str, Any]) -> float:
    """Weight decay + damping."""
    return float(stats["weight_decay"] + stats["damping"])


def sampled(n: int, sample: int | None, seed: int) -> NDArray[np.int64]:
    """Training rows for the curvature, in ascending order: all, or `sample` of them drawn by `seed`."""
    if sample is None or sample >= n:
        return np.arange(n, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(n, sample, replace=False)).astype(np.int64)


def check_solver(tolerance: float, iterations: int) -> None:
    """Raises `SettingsError` for settings of an iteration that are out of range."""
    if not 0 < tolerance < 1:
        raise SettingsError(f"Expected tolerance in (0, 1); found {tolerance}. Choose a share such as 0.001.")
    if iterations < 1:
        raise SettingsError(f"Expected iterations >= 1; found {iterations}. Choose some, such as 100.")


def check_sample(sample: int | None, seed: int) -> None:
    """Raises `SettingsError` for a sample of nothing or a seed that no generator takes."""
    if sample is not None and sample < 1:
        raise SettingsError(f"Expected sample >= 1; found {sample}. Leave it out to take every training example.")
    if not 0 <= seed < 2**32:
        raise SettingsError(f"Expected seed in 0..2^32 - 1; found {seed}. Choose another seed.")


def like(layers: Layers) -> Tensor:
    """An empty tensor of the device and dtype that gradients have: the weights' own, float32 at least."""
    weight = layers.layers[0].module.weight.detach()
    return weight.new_empty(0, dtype=torch.promote_types(weight.dtype, torch.float32))


def flat(vectors: list[Tensor]) -> Float[Tensor, "q P"]:
    """One row per vector: its layers one after the other, each row by row."""
    return torch.cat([v.flatten(1) for v in vectors], 1)


def parts(layers: Layers, vectors: Float[Tensor, "q P"]) -> list[Tensor]:
    """What `flat` joined: `[q, width_out, width_in]` for each layer."""
    pieces = torch.split(vectors, [layer.size for layer in layers.layers], 1)
    return [
        piece.reshape(len(vectors), layer.width_out, layer.width_in)
        for piece, layer in zip(pieces, layers.layers, strict=True)
    ]


def share(progress: Progress, start: int, size: int, total: int, name: str | None = None) -> Progress:
    """Progress of a part of `size` out of `total`, as a share of all, under `name` where one is given."""

    def told(done: int, of: int, note: str) -> None:
        progress(start * of + size * done, total * of, note if name is None else name)

    return told
