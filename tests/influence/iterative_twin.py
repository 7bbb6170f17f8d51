"""The Gauss-Newton over all handled layers at once as one dense matrix in float64, and the iterative methods by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from explorer.contracts import TARGETS, Fitted, Method, Queries, Subject, Target
from explorer.influence import layers
from explorer.influence.arnoldi import Arnoldi
from explorer.influence.conjugate_gradient import ConjugateGradient
from explorer.influence.iterative import FittedIterative
from explorer.influence.lissa import Lissa
from explorer.influence.refine import Refine
from explorer.objectives import CrossEntropy
from tests.influence.dense_twin import twin_of_network
from tests.influence.networks import NAMES, Network
from tests.problems import TensorExamples

FLOAT64 = 2e-6
"""Share of a row's largest |score|: float64 on both sides, solved to 1e-9, rounded to float32 (6e-8) at the end."""
FLOAT32 = 1e-4
"""The same in float32: a product's rounding (1e-7 over some hundred terms) divided by the smallest share that the damping
leaves of the largest eigenvalue (some hundredths here)."""
CANCELLED = 1e-5
"""As FLOAT64 where a score is the difference of two float32 numbers some ten times as large."""
DAMPING = 0.05
EXACT = {"tolerance": 1e-9, "iterations": 500}

METHODS: dict[str, Callable[..., Method]] = {
    "conjugate-gradient": partial(ConjugateGradient, deflation=0),
    "deflated": partial(ConjugateGradient, deflation=6),
    "refine": Refine,
    "lissa": Lissa,
    "arnoldi": Arnoldi,
}
SOLVERS = ("conjugate-gradient", "deflated", "refine")
SHORT: dict[str, dict[str, Any]] = {
    "conjugate-gradient": {},
    "deflated": {},
    "refine": {},
    "lissa": {"depth": 30, "batch": 5},
    "arnoldi": {"projections": 8},
}
FEW = ("mlp", "conv", "regression")
"""Networks of one position, of shared weights, of a regression; the others are left to `make slow`."""
each_network = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FEW else pytest.mark.slow) for name in NAMES]
)
each_method = pytest.mark.parametrize("method", METHODS)
mostly_one = pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[] if name == "deflated" else pytest.mark.slow) for name in METHODS]
)
"""What takes seconds and is asked of every method in the battery too: here of all by `make slow`."""
each_solver = pytest.mark.parametrize("method", SOLVERS)


def assert_close(found: Tensor, expected: Tensor, share: float) -> None:
    """Row by row, as a share of the row's largest."""
    assert found.shape == expected.shape
    error = (found.double() - expected.double()).abs().amax(-1) / expected.double().abs().amax(-1)
    assert error.max() <= share, f"{error.max():.1e} of the row's largest, over {share:g}"


@dataclass(frozen=True)
class Twin:
    """A network in float64 as matrices over all handled parameters, layer after layer, row by row."""

    train: Tensor  # g_i, [n, P]
    columns: Tensor  # √p_c ∇log p_c, [n, c, P]
    asked: dict[str, Tensor]
    weight_decay: float

    @property
    def G(self) -> Tensor:  # noqa: N802
        columns = self.columns.flatten(0, 1)
        return columns.T @ columns / len(self.columns)

    def inverse(self, damping: float) -> Tensor:
        shift = (self.weight_decay + damping) * torch.eye(self.train.shape[1], dtype=torch.float64)
        return torch.linalg.inv(self.G + shift)

    def scores(self, damping: float, target: Target = "label") -> Tensor:
        return -self.asked[target] @ self.inverse(damping) @ self.train.T / len(self.train)

    def own(self, damping: float) -> Tensor:
        return ((self.train @ self.inverse(damping)) * self.train).sum(1) / len(self.train)


@cache
def twin(name: str) -> Twin:
    """Of a network of `networks.py`."""
    layered = twin_of_network(name)
    return Twin(
        joined(layered.train),
        torch.cat([columns.flatten(2) for columns in layered.columns], 2),
        {target: joined(layered.asked[target]) for target in TARGETS},
        layered.weight_decay,
    )


def joined(vectors: list[Tensor]) -> Tensor:
    return torch.cat([v.flatten(1) for v in vectors], 1)


def random_vectors(found: layers.Layers, count: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [
        torch.randn(count, layer.width_out, layer.width_in, generator=draw, dtype=torch.float64).to(dtype)
        for layer in found.layers
    ]


def fitted(method: str, subject: Subject, **settings: Any) -> FittedIterative:
    """A method whose inverse can be applied to any vector."""
    made: Fitted = METHODS[method](**settings).fit(subject)
    assert isinstance(made, FittedIterative)
    return made


def ill_conditioned(n: int = 60) -> Network:
    """Inputs of very unequal size: a curvature of bad condition, as trained networks have."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 16), nn.GELU(), nn.Linear(16, 5))
        x = torch.randn(n + 30, 12) * torch.logspace(0.5, -1.5, 12)
        y = torch.randint(5, (n + 30,))
    return Network(
        "ill-conditioned", model, TensorExamples(x[:n], y[:n]), TensorExamples(x[n:], y[n:]), CrossEntropy(), 1e-4
    )


def everything(examples: TensorExamples) -> Queries:
    return Queries(examples, np.arange(len(examples), dtype=np.int64))
