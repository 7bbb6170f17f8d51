"""Which training examples moved this prediction more than they move everything? Influence per unit of change.

Wraps another method and divides by what leaving an example out changes anywhere: in the parameters (theta) or in the
example's own loss (loss). It estimates no influence of its own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from explorer.contracts import Fitted, Method, Progress, Queries, Scores, Subject, silent
from explorer.errors import ModelError, SettingsError
from explorer.influence import directional, linear, projection
from explorer.influence.arnoldi import FittedArnoldi
from explorer.influence.blocks import in_blocks, says_what_fits
from explorer.influence.directional import FittedInverse, Rows, train_rows
from explorer.influence.iterative import FittedIterative, check_sample
from explorer.influence.last_layer import FittedLastLayer
from explorer.influence.logra import FittedLoGra

FORMS = ("theta", "loss")
PROBES = 200
"""Random directions by default: a relative standard error of 1/√400 = .05 of each ‖H⁻¹g_i‖."""
FLOOR = 1e-3
"""Default smallest denominator, as a share of the mean: an example that moves nothing must not win by a division."""


@dataclass(frozen=True)
class Relative:
    """θ-RelatIF s/‖H⁻¹g_i‖ or l-RelatIF s/√(g_iᵀH⁻¹g_i) (Barshan et al. 2020, eqs. 8 and 11) of the method named `of`.

    `form` is "theta" or "loss". A denominator below `floor` times the mean of all is raised to that; the stats count how
    many were. `settings` are those of the method `of`. `probes` is for "theta" of a method that solves a system for every
    query: how many random directions ‖H⁻¹g_i‖ is measured with, at a relative standard error of 1/√(2 probes), which the
    stats state; 0 solves a system for each training example instead. `seed` draws them. The sign is that of `of`: positive =
    helpful. Both forms compare examples for one query: scores are in the measure's unit per unit of change.
    """

    of: str = "last-layer"
    settings: Mapping[str, Any] = field(default_factory=dict)
    form: str = "theta"
    floor: float = FLOOR
    probes: int = PROBES
    seed: int = 0
    name: ClassVar[str] = "relative"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise SettingsError(f"Expected form to be one of {', '.join(FORMS)}; found {self.form!r}. Choose one.")
        if not 0 < self.floor < float("inf"):
            raise SettingsError(
                f"Expected floor > 0 and finite; found {self.floor!r}. Choose a small share such as {FLOOR}."
            )
        if self.probes < 0:
            raise SettingsError(
                f"Expected probes >= 0; found {self.probes}. Choose some, such as {PROBES}, or 0 for none."
            )
        check_sample(None, self.seed)
        if self.of == self.name:
            raise SettingsError(
                "Expected a method that is not relative itself; found 'relative'. Name the method below."
            )
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))
        self._inner()

    def __hash__(self) -> int:
        return hash((self.of, repr(sorted(self.settings.items())), self.form, self.floor, self.probes, self.seed))

    @says_what_fits
    def fit(self, subject: Subject, progress: Progress = silent) -> Fitted:
        """Fits the method `of`, then asks it once for every training example; cost its self-influence or, for "theta",
        its inverse once an example, or `probes` systems in all.

        Raises:
            SettingsError: for "theta", the method has no inverse that could be applied to a gradient.
            ModelError: no training example pulls on the model at all. What the method `of` raises.
        """
        began = time.perf_counter()
        inner = self._inner().fit(subject, progress)
        told: dict[str, Any] = {}
        if self.form == "loss":
            found = loss_changes(inner, progress)
        elif isinstance(inner, FittedIterative):
            found, told = inner.changes(self.probes, self.seed, progress)
        else:
            found = parameter_changes(self.of, inner, progress)
        found, clamped = floored(found, self.floor)
        stats = {
            "of": self.of,
            "form": self.form,
            "floor": self.floor,
            "clamped": clamped,
            "inner": dict(inner.stats),
            "changes": told,
            "seconds": time.perf_counter() - began,
        }
        return FittedRelative(subject, inner, found, stats)

    def restore(self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]) -> Fitted:
        """The fitted method from `tensors()` and `stats`."""
        own = {name.removeprefix("inner/"): t for name, t in tensors.items() if name.startswith("inner/")}
        inner = self._inner().restore(subject, own, stats["inner"])
        return FittedRelative(subject, inner, tensors["changes"], dict(stats))

    def _inner(self) -> Method:
        from explorer.influence import method_from  # the table of methods holds this one too

        return method_from(self.of, self.settings)


@dataclass(frozen=True)
class FittedRelative:
    """A fitted method and the change `[train]` that each example is divided by, float64 and above zero."""

    subject: Subject
    inner: Fitted
    changes: Tensor
    stats: Mapping[str, Any]

    @property
    def unit(self) -> str:
        """The method's own unit per unit of change."""
        return f"{self.inner.unit} {self._per}"

    def score(self, queries: Queries, progress: Progress = silent, out: Tensor | None = None) -> Scores:
        """The method's scores `[query, train]`, divided in place."""
        found = self.inner.score(queries, progress, out)
        found.values.div_(self.changes.to(found.values.device))
        return Scores(
            found.values,
            found.query_ids,
            found.train_ids,
            Relative.name,
            found.target,
            f"{found.unit} {self._per}",
            self.stats,
        )

    def weighted(self, queries: Queries, weights: Tensor, progress: Progress = silent) -> Tensor:
        """The method's weighted sums `[k, train]`, divided."""
        return (self.inner.weighted(queries, weights, progress) / self.changes).float()

    def self_influence(self, progress: Progress = silent) -> Tensor:
        """The method's self-influence, divided, float32 `[train]`."""
        return (self.inner.self_influence(progress) / self.changes).float()

    def tensors(self) -> dict[str, Tensor]:
        """`changes`, and the method's own as "inner/name"."""
        return {"changes": self.changes} | {f"inner/{name}": t for name, t in self.inner.tensors().items()}

    @property
    def _per(self) -> str:
        return "per change of the parameters" if self.stats["form"] == "theta" else "per root of self-influence"


def share(values: Float[Tensor, "q n"]) -> Float[Tensor, "q n"]:
    """Each example's signed share of a query's whole influence, s(q, i) / Σ_j |s(q, j)|; a row of zeros stays zeros."""
    total = values.abs().sum(1, keepdim=True)
    return values / torch.where(total > 0, total, 1.0)


def floored(changes: Float[Tensor, " n"], floor: float) -> tuple[Float[Tensor, " n"], int]:
    """Changes of at least `floor` times their mean, and how many had been below.

    Raises:
        ModelError: all are zero, or one is not finite.
    """
    mean = float(changes.mean())
    if not 0 < mean < float("inf"):
        raise ModelError(
            f"Expected training examples that move the model; found a mean change of {mean:g} over {len(changes)} "
            "examples. Check that the model is not certain of every answer, and its weights."
        )
    return changes.clamp_min(floor * mean), int((changes < floor * mean).sum())


def loss_changes(fitted: Fitted, progress: Progress = silent) -> Float[Tensor, " n"]:
    """√(g_iᵀ H⁻¹ g_i) of every training example, float64: the root of n times its self-influence."""
    own = fitted.self_influence(progress).double()
    return (own * len(own)).sqrt()


def parameter_changes(name: str, fitted: Fitted, progress: Progress = silent) -> Float[Tensor, " n"]:
    """‖H⁻¹ g_i‖ of every training example, float64: n times how far leaving it out moves the parameters.

    Raises:
        SettingsError: the method called `name` has no inverse to apply.
    """
    if isinstance(fitted, FittedInverse):
        return _through_layers(fitted, progress)
    if isinstance(fitted, FittedLastLayer):
        return _through_head(fitted, progress)
    if isinstance(fitted, FittedIterative):
        return fitted.changes(0, 0, progress)[0]
    if isinstance(fitted, FittedLoGra | FittedArnoldi):
        return fitted.changes(progress)
    raise SettingsError(
        f"Expected a method with an inverse for the form 'theta', such as last-layer, ekfac, kfac, logra, arnoldi or "
        f"conjugate-gradient; found {name!r}. Choose one of these, or the form 'loss'."
    )


def _through_layers(fitted: FittedInverse, progress: Progress) -> Tensor:
    """A basis is orthogonal, so lengths are the same along its axes."""
    values = torch.empty(len(fitted.subject.train), dtype=torch.float64)
    step = max(1, directional.QUERY_ELEMENTS // fitted.layers.size)
    for start, block in train_rows(fitted.subject, fitted.layers, progress):

        def work(part: slice, block: Rows = block) -> Tensor:
            rows = block[part] if fitted.basis is None else fitted.basis.turned(block[part])
            squares = [g.double().flatten(1).square().sum(1) for g in fitted.inverse.apply(rows.gradients())]
            return torch.stack(squares).sum(0).sqrt()

        for part, found in in_blocks(len(block), step, work, fitted.need):
            values[start + part.start : start + part.stop] = found
    return values


def _through_head(fitted: FittedLastLayer, progress: Progress) -> Tensor:
    n = len(fitted.errors)
    values = torch.empty(n, dtype=torch.float64)
    step = max(1, linear.SOLVE_ELEMENTS // len(fitted.factor))
    for start in range(0, n, step):
        progress(start, n, "changes of the parameters")
        part = slice(start, start + step)
        rows = linear.outer(fitted.errors[part].double(), fitted.features[part].double())
        values[part] = projection.solve([fitted.factor], rows).norm(dim=1)
    progress(n, n, "changes of the parameters")
    return values
