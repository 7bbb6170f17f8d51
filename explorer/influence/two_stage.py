"""Which examples of the pretraining moved this prediction of a fine-tuned model? Two inverses, one behind the other.

For fine-tuning that is held near the pretrained weights. Examples of the fine-tuning itself are what every other method
explains; a pretraining stage that was not trained to an optimum of its own is approximated as if it had been.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from explorer.contracts import MEASURE_UNIT, Fitted, Method, Progress, Queries, Scores, Subject, silent
from explorer.errors import ModelError, SettingsError
from explorer.influence import directional, kronecker, projection
from explorer.influence.blocks import says_what_fits
from explorer.influence.directional import FittedInverse, Rows, contract, query_rows, train_rows
from explorer.influence.gradients import Head
from explorer.influence.last_layer import FittedLastLayer
from explorer.influence.layers import Layers
from explorer.objectives import measure_unit

ONES = ("last-layer", "ekfac", "kfac")
"""Methods whose inverses can be put one behind the other."""


@dataclass(frozen=True)
class TwoStage:
    """s(q, i) = −(α/n) ∇m_q(φ)ᵀ (H₂ + (wd₂ + α + λ₂)I)⁻¹ (H₁ + (wd₁ + λ₁)I)⁻¹ g_i(θ) for pretraining examples i.

    The two objectives, the second held to the optimum θ of the first by `proximal` α > 0 (Chen et al. 2020, multi-stage
    influence, eq. 9, in our sign and size: positive = helpful, per example left out of n):
        θ = argmin (1/n) Σ l(z_i; θ) + (wd₁/2)‖θ‖²,
        φ = argmin (1/n₂) Σ l(z_j; φ) + (wd₂/2)‖φ‖² + (α/2)‖φ − φ₀‖²,
    φ₀ what fine-tuning began with: θ in the layers that both models share by name and shape, anything else in others.
    `proximal` is that α, which the training decided: without it nothing can be fitted. Leaving i out moves θ by (1/n) H₁⁻¹ g_i, and ∂φ/∂φ₀ = α H₂⁻¹. H₁ and H₂ are those of the method `of` ("last-layer",
    "ekfac" or "kfac") with its `settings`, each damped by its own rule; layers that it leaves out count as fixed.
    """

    proximal: float | None = None
    of: str = "ekfac"
    settings: Mapping[str, Any] = field(default_factory=dict)
    name: ClassVar[str] = "two-stage"

    def __post_init__(self) -> None:
        if self.proximal is not None:
            self._pull()
        if self.of not in ONES:
            raise SettingsError(f"Expected of to be one of {', '.join(ONES)}; found {self.of!r}. Choose one of these.")
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))
        self._inner()

    def __hash__(self) -> int:
        return hash((self.proximal, self.of, repr(sorted(self.settings.items()))))

    @says_what_fits
    def fit(self, subject: Subject, progress: Progress = silent) -> Fitted:
        """As `over` the `subject.pretrained` and the subject, which is the fine-tuned stage.

        Raises:
            SettingsError: there is no `proximal`, or no pretrained stage. What `over` raises.
        """
        return self.over(_pretrained(subject), subject, progress)

    def over(self, pretrained: Subject, finetuned: Subject, progress: Progress = silent) -> FittedTwoStage:
        """Fits the method to both stages; `finetuned.weight_decay` is wd₂ without α. Cost: both fits.

        Raises:
            ModelError: the models share no layer. What the method `of` raises.
            SettingsError: there is no `proximal`.
        """
        began = time.perf_counter()
        stages = []
        for number, subject in enumerate((pretrained, self._held(finetuned))):

            def told(done: int, total: int, note: str, number: int = number) -> None:
                progress(number * total + done, 2 * total, f"{note}, stage {number + 1}")

            stages.append(Stage.of(self._inner().fit(subject, told)))
        return self._fitted(pretrained, finetuned, stages, began)

    def restore(self, subject: Subject, tensors: Mapping[str, Tensor], stats: Mapping[str, Any]) -> Fitted:
        """The fitted method from `tensors()` and `stats`, for a fine-tuned subject with its `pretrained`."""
        pretrained, stages = _pretrained(subject), []
        for number, stage in enumerate((pretrained, self._held(subject)), start=1):
            own = {name.removeprefix(f"{number}/"): t for name, t in tensors.items() if name.startswith(f"{number}/")}
            stages.append(Stage.of(self._inner().restore(stage, own, stats[f"stage{number}"])))
        return FittedTwoStage(pretrained, subject, stages[0], stages[1], _shared(*stages), dict(stats))

    def _held(self, finetuned: Subject) -> Subject:
        return replace(finetuned, weight_decay=finetuned.weight_decay + self._pull())

    def _pull(self) -> float:
        """α."""
        if self.proximal is None or not 0 < self.proximal < float("inf"):
            raise SettingsError(
                f"Expected proximal > 0 and finite; found {self.proximal!r}. Give the weight that fine-tuning put on "
                "staying near the pretrained weights: without one, nothing of the pretraining is left."
            )
        return self.proximal

    def _inner(self) -> Method:
        from explorer.influence import method_from  # the table of methods

        return method_from(self.of, self.settings)

    def _fitted(self, pretrained: Subject, finetuned: Subject, stages: Sequence[Stage], began: float) -> FittedTwoStage:
        shared = _shared(*stages)
        stats = {
            "of": self.of,
            "proximal": self._pull(),
            "shared": [name for name, at in zip(stages[0].layers.names, shared, strict=True) if at is not None],
            "stage1": dict(stages[0].fitted.stats),
            "stage2": dict(stages[1].fitted.stats),
            "seconds": time.perf_counter() - began,
        }
        return FittedTwoStage(pretrained, finetuned, stages[0], stages[1], shared, stats)


@dataclass(frozen=True)
class Stage:
    """A fitted method as `inverse` over `layers`, applied to gradients as they are (along no basis)."""

    fitted: Fitted
    layers: Layers
    inverse: directional.Inverse

    @classmethod
    def of(cls, fitted: Fitted) -> Stage:
        """The stage of a method in `ONES`."""
        if isinstance(fitted, FittedInverse):
            return cls(fitted, fitted.layers, fitted.inverse if fitted.basis is None else Turned(fitted))
        assert isinstance(fitted, FittedLastLayer)
        subject = fitted.subject
        few = np.arange(min(4, len(subject.train)), dtype=np.int64)
        head = Head.of(subject.model, subject.train.batch(few))
        return cls(fitted, kronecker.find(subject, [head.name]), Exact(fitted.factor))


@dataclass(frozen=True)
class Turned:
    """An inverse that counts along a basis, for gradients that do not: Q_S (H⁻¹ (Q_Sᵀ G Q_A)) Q_Aᵀ."""

    fitted: FittedInverse

    def apply(self, gradients: list[Tensor]) -> list[Tensor]:
        """The inverse times each gradient; cost four products of a layer's widths a gradient."""
        basis = self.fitted.basis
        assert basis is not None
        pairs = [(S.to(g), A.to(g)) for S, A, g in zip(basis.pulls, basis.inputs, gradients, strict=True)]
        turned = [S.T @ g @ A for g, (S, A) in zip(gradients, pairs, strict=True)]
        return [S @ g @ A.T for g, (S, A) in zip(self.fitted.inverse.apply(turned), pairs, strict=True)]

    def tensors(self) -> dict[str, Tensor]:
        """Those of the inverse."""
        return self.fitted.tensors()


@dataclass(frozen=True)
class Exact:
    """The inverse of one layer from the lower Cholesky factor of its whole curvature."""

    factor: Tensor

    def apply(self, gradients: list[Tensor]) -> list[Tensor]:
        """One float64 solve for all gradients."""
        (g,) = gradients
        return [projection.solve([self.factor], g.flatten(1)).reshape(g.shape).to(g)]

    def tensors(self) -> dict[str, Tensor]:
        """`factor`."""
        return {"factor": self.factor}


@dataclass(eq=False)
class FittedTwoStage:
    """Both stages; `shared[l]` is the place in the second stage of the first one's layer l, or None.

    `subject` is the pretrained one: its examples are what scores are about. Queries go through the fine-tuned model.
    """

    subject: Subject
    finetuned: Subject
    first: Stage
    second: Stage
    shared: list[int | None]
    stats: Mapping[str, Any]
    unit: str = MEASURE_UNIT
    _kept: directional.Kept = field(default_factory=directional.Kept, repr=False)

    def score(self, queries: Queries, progress: Progress = silent, out: Tensor | None = None) -> Scores:
        """Influence of pretraining examples `[query, train]`; cost a pass over queries and pretraining set (unless it is
        kept), both inverses once a query, and parameters multiply-adds a pair.
        """
        n = len(self.subject.train)
        values = torch.empty(len(queries.rows), n) if out is None else out
        for start, rows in self._asked(queries):
            directions = self._through([g.double() for g in rows.gradients()])
            planes = [d.to(rows.inputs[0].dtype) for d in directions]
            block = values[start : start + len(rows)]

            def told(done: int, of: int, note: str, start: int = start, size: int = len(rows)) -> None:
                progress(start * of + size * done, len(values) * of, note)

            for first, training in self._training(told):
                block[:, first : first + len(training)].copy_(contract(planes, training))
        return Scores(
            values,
            queries.examples.ids[queries.rows],
            self.subject.train.ids,
            TwoStage.name,
            queries.target,
            measure_unit(self.finetuned.objective.task, queries.target),
            self.stats,
        )

    def weighted(self, queries: Queries, weights: Tensor, progress: Progress = silent) -> Tensor:
        """Weighted sums over queries `[k, train]`: the gradients are summed first."""
        totals: list[Tensor] = []
        dtype = torch.float32
        for start, rows in self._asked(queries):
            gradients = rows.gradients()
            dtype = gradients[0].dtype
            part = weights[:, start : start + len(rows)].to(gradients[0])
            sums = [torch.tensordot(part, g, 1).double() for g in gradients]
            totals = [t.add_(s) for t, s in zip(totals, sums, strict=True)] if totals else sums
        planes = [d.to(dtype) for d in self._through(totals)]
        values = torch.empty(len(weights), len(self.subject.train))
        for first, training in self._training(progress):
            values[:, first : first + len(training)].copy_(contract(planes, training))
        return values

    def self_influence(self, progress: Progress = silent) -> Tensor:
        """What a pretraining example does to its own loss at the fine-tuned weights, float32 `[train]`.

        Two different inverses make no square: what is negative is given as 0. Cost both inverses once an example.
        """
        values = torch.empty(len(self.subject.train))
        for start, training in self._training(progress):
            rows = np.arange(start, start + len(training), dtype=np.int64)
            for first, asked in self._asked(Queries(self.subject.train, rows)):
                directions = self._through([g.double() for g in asked.gradients()])
                own = training[first : first + len(asked)].gradients()
                found = [(d * g).flatten(1).sum(1) for d, g in zip(directions, own, strict=True)]
                values[start + first : start + first + len(asked)] = torch.stack(found).sum(0).clamp_min(0)
        return values

    def tensors(self) -> dict[str, Tensor]:
        """Those of both stages' methods as "1/name" and "2/name"."""
        found = {f"1/{name}": tensor for name, tensor in self.first.fitted.tensors().items()}
        return found | {f"2/{name}": tensor for name, tensor in self.second.fitted.tensors().items()}

    def _through(self, gradients: list[Tensor]) -> list[Tensor]:
        """−(α/n) H₁⁻¹ H₂⁻¹ times gradients of the second stage's layers, for the first stage's layers."""
        inherited = self.second.inverse.apply(gradients)
        scale = -float(self.stats["proximal"]) / len(self.subject.train)
        q = len(gradients[0])
        passed = [
            inherited[at] * scale if at is not None else gradients[0].new_zeros(q, layer.width_out, layer.width_in)
            for layer, at in zip(self.first.layers.layers, self.shared, strict=True)
        ]
        return self.first.inverse.apply(passed)

    def _asked(self, queries: Queries) -> Iterator[tuple[int, Rows]]:
        step = max(1, directional.QUERY_ELEMENTS // (2 * self.second.layers.size))  # float64
        for start, rows in query_rows(self.finetuned, self.second.layers, queries):
            for first in range(0, len(rows), step):
                yield start + first, rows[first : first + step]

    def _training(self, progress: Progress) -> Iterator[tuple[int, Rows]]:
        n = len(self.subject.train)
        progress(0, n, "scores")
        found = self._kept.again(lambda: train_rows(self.subject, self.first.layers), directional.KEEP_BYTES)
        for start, rows in found:
            yield start, rows
            progress(start + len(rows), n, "scores")


def _pretrained(subject: Subject) -> Subject:
    if subject.pretrained is None:
        raise SettingsError(
            "Expected a fine-tuned subject with the pretrained stage that it began from; found one without. Give it from "
            'Python, explorer.explain(..., method="two-stage", pretrained=(model, (inputs, targets))), or choose a method of '
            "one training."
        )
    return subject.pretrained


def _shared(first: Stage, second: Stage) -> list[int | None]:
    """For each layer of the first stage the place of the second stage's layer of that name and shape."""
    places = {(layer.name, layer.width_out, layer.width_in): i for i, layer in enumerate(second.layers.layers)}
    found = [places.get((layer.name, layer.width_out, layer.width_in)) for layer in first.layers.layers]
    if all(at is None for at in found):
        raise ModelError(
            f"Expected a layer that both models have by name and shape; found {', '.join(first.layers.names)} in the "
            f"pretrained and {', '.join(second.layers.names)} in the fine-tuned one. Fine-tune the model that was pretrained."
        )
    return found
