"""What do the last-layer methods become for a model of sequences? The same head, with a row for every asked position.

Finds the head, its exact curvature and the inverse of that; the gradient of a sequence is the sum over its positions, so that
pairs are scored by the products that all layers share. Chooses no damping.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from explorer.contracts import Progress, Subject, silent
from explorer.errors import ModelError
from explorer.influence import linear
from explorer.influence.backward import traces
from explorer.influence.directional import FittedInverse, Rows
from explorer.influence.layers import Layer, Layers, evaluation, on_call
from explorer.influence.tracin import Scaled
from explorer.loading import as_model_input
from explorer.objectives import CrossEntropy
from explorer.sequences import SequenceLogProbability
from explorer.token_models import TokenModel

PROBED = 2
"""Sequences that are run to see which layer's output the model returns."""


@dataclass(frozen=True)
class Dense:
    """A head's inverse by the lower Cholesky factor `[k p, k p]` of its curvature, float64."""

    factor: Tensor

    def apply(self, gradients: list[Tensor]) -> list[Tensor]:
        """H⁻¹ times each gradient of the head, `[q, k, p]`; cost (k p)² each."""
        (gradient,) = gradients
        solved = torch.cholesky_solve(gradient.flatten(1).T.double(), self.factor).T
        return [solved.reshape(gradient.shape).to(gradient)]

    def quadratic(self, rows: Rows) -> Tensor:
        """gᵀ H⁻¹ g of b examples, `[b]`, as a sum of squares."""
        (gradient,) = rows.gradients()
        half: Tensor = torch.linalg.solve_triangular(self.factor, gradient.flatten(1).T.double(), upper=False)
        return half.square().sum(0)

    def tensors(self) -> dict[str, Tensor]:
        """`factor`, transposed: columns come first in memory, and files want rows."""
        return {"factor": self.factor.mT.contiguous()}


@dataclass(frozen=True)
class SequenceHead:
    """The final `nn.Linear` of a model of sequences, alone, and the modules that it shares weights with.

    What is said of a tied head holds for one with a copy of its own.
    """

    layers: Layers
    tied: tuple[str, ...]
    is_whole_model: bool

    @classmethod
    def of(cls, subject: Subject) -> SequenceHead:
        """Find it by running a few training sequences.

        Raises:
            ModelError: the model's logits are not what an `nn.Linear` of it returned, called once.
        """
        model = subject.model
        assert isinstance(model, TokenModel)
        names = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        outs: dict[str, list[Tensor]] = {name: [] for name in names}
        few = np.arange(min(PROBED, len(subject.train)), dtype=np.int64)

        hooks = [on_call(module, partial(_returned, outs[name])) for name, module in names.items()]
        try:
            with evaluation(model), torch.no_grad():
                tokens = as_model_input(model, subject.train.batch(few)).unbind(1)[0]
                logits = model.network(tokens)
        finally:
            for hook in hooks:
                hook.remove()
        heads = [name for name, found in outs.items() if len(found) == 1 and _same(found[0], logits)]
        if len(heads) != 1:
            last = type(list(model.modules())[-1]).__name__
            raise ModelError(
                "Expected the model's logits to be what its final nn.Linear returns, called once, with nothing after it; "
                f"found {len(heads)} such layers (the last module is {last}). Choose the method ekfac, which takes every "
                "layer that can be handled."
            )
        module = names[heads[0]]
        width_in = module.in_features + (module.bias is not None)
        layer = Layer(heads[0], module, width_in, module.out_features, tokens.shape[1])
        ids = {id(p) for p in module.parameters()}
        others = [(name, other) for name, other in model.named_modules() if other is not module]
        tied = tuple(name for name, other in others if any(id(p) in ids for p in other.parameters(recurse=False)))
        everything = sum(p.numel() for p in model.parameters())
        return cls(Layers((layer,), {}), tied, not tied and layer.size == everything)

    @property
    def layer(self) -> Layer:
        """The layer itself."""
        return self.layers.layers[0]

    @property
    def stats(self) -> dict[str, Any]:
        """Which layer it is, for people, and what it shares its weights with where it does."""
        return {"layer": self.layers.names[0]} | ({"tied": list(self.tied)} if self.tied else {})


def dot(subject: Subject, method: str, unit: str, stats: Mapping[str, Any] | None = None) -> FittedInverse:
    """Products of gradients of the head, with no curvature; `stats` are those of a fit that is restored."""
    began = time.perf_counter()
    head = SequenceHead.of(subject)
    told = head.stats | {"seconds": time.perf_counter() - began} if stats is None else dict(stats)
    same = Scaled(1.0)
    return FittedInverse(subject, head.layers, same, method, told, unit, quadratic=same.quadratic)


def solved(
    subject: Subject, head: SequenceHead, factor: Tensor, method: str, stats: Mapping[str, Any]
) -> FittedInverse:
    """The head's exact inverse as a fitted method."""
    inverse = Dense(factor)
    return FittedInverse(subject, head.layers, inverse, method, dict(stats), quadratic=inverse.quadratic)


def curvature(subject: Subject, head: SequenceHead, progress: Progress = silent) -> Float[Tensor, "kp kp"]:
    """(1/n) Σ_i Σ_t (diag p − p pᵀ) ⊗ h hᵀ over asked positions, as training weighed them, float64, without decay or damping.

    One forward pass over the training set; cost k² p² / 2 multiply-adds an asked position.
    """
    objective = subject.objective
    assert isinstance(objective, SequenceLogProbability)
    total = torch.zeros(head.layer.size, head.layer.size, dtype=torch.float64)
    everything = np.arange(len(subject.train), dtype=np.int64)
    for _, trace in traces(subject.model, head.layers, subject.train, everything, progress, "curvature"):
        logits, asked = objective.parts(trace.outputs.detach().double())
        weights = asked * objective.scale(asked).unsqueeze(1)
        rows = (trace.inputs[0].double() * weights.sqrt().unsqueeze(2))[asked > 0]
        total += linear.curvature(rows.cpu(), logits[asked > 0].cpu(), CrossEntropy()) * len(rows)
    return total / len(everything)


def _returned(outs: list[Tensor], _: Tensor, out: Tensor) -> None:
    outs.append(out)


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and bool(torch.equal(a, b)))
