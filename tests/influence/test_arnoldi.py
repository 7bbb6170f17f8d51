"""Arnoldi against the dense inverse with all directions and with few, and Lanczos against matrices of known spectrum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from explorer.contracts import TARGETS
from explorer.errors import SettingsError
from explorer.influence import lanczos
from explorer.influence.arnoldi import Arnoldi, Rest
from tests.influence.iterative_twin import CANCELLED, DAMPING, assert_close, each_network, twin
from tests.influence.networks import network

ROUNDING = 1e-12
"""Absolute, of float64 numbers around one."""


@pytest.mark.parametrize("rest", ["damped", "ignored"])
@each_network
def test_with_every_direction_it_equals_the_dense_inverse(name: str, rest: Rest) -> None:
    made, dense = network(name, torch.float64), twin(name)
    found = Arnoldi(dense.train.shape[1], damping=DAMPING, rest=rest).fit(made.subject())
    for target in TARGETS:
        expected = dense.scores(DAMPING, target)
        assert_close(found.score(made.queries(target)).values, expected, CANCELLED)
    assert_close(found.self_influence(), dense.own(DAMPING), CANCELLED)
    weights = torch.randn(2, len(made.test), generator=torch.Generator().manual_seed(0))
    limit = CANCELLED * (weights.double().abs() @ expected.abs()).max()
    assert (found.weighted(made.queries(target), weights) - weights.double() @ expected).abs().max() <= limit
    assert found.stats["trace_covered"] == pytest.approx(1, rel=1e-9)  # float64


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_with_fewer_directions_it_is_the_dense_answer_on_these(name: str) -> None:
    """Eigenpairs by a dense routine; so many steps that the pairs kept are exact."""
    made, dense = network(name, torch.float64), twin(name)
    values, axes = torch.linalg.eigh(dense.G)
    values, axes = values.flip(0), axes.flip(1)
    gaps = values[2:9] - values[3:10]
    k = 3 + int(gaps.argmax())  # where eigenvalues are apart, so that the space is well defined
    shift = dense.weight_decay + DAMPING
    U = axes[:, :k]
    for rest in ("damped", "ignored"):
        inverse = (U / (values[:k] + shift)) @ U.T
        if rest == "damped":
            inverse = inverse + (torch.eye(len(U), dtype=torch.float64) - U @ U.T) / shift
        expected = -dense.asked["label"] @ inverse @ dense.train.T / len(dense.train)
        found = Arnoldi(k, iterations=len(U), rest=rest, damping=DAMPING).fit(made.subject())
        assert_close(found.score(made.queries()).values, expected, CANCELLED)
        assert found.stats["trace_covered"] == pytest.approx(float(values[:k].sum() / values.sum()), rel=1e-6)


def test_a_sample_is_the_curvature_of_these_rows_alone() -> None:
    made, dense = network("mlp", torch.float64), twin("mlp")
    found = Arnoldi(80, damping=DAMPING, sample=5, seed=3).fit(made.subject())
    part = replace(dense, columns=dense.columns[np.random.default_rng(3).choice(14, 5, replace=False)])
    assert found.stats["curvature_rows"] == 5
    assert_close(found.score(made.queries()).values, part.scores(DAMPING), CANCELLED)


def test_a_basis_that_would_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanczos, "MOST_BYTES", 1000)
    with pytest.raises(SettingsError, match=r"basis of at most.*found 8 iterations x 68 parameters"):
        Arnoldi(4).fit(network("mlp").subject())


def test_lanczos_finds_the_top_of_a_spectrum_and_says_how_well() -> None:
    draw = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(60, 60, generator=draw, dtype=torch.float64))[0]
    values = torch.logspace(0, -6, 60, dtype=torch.float64)
    A = (Q * values) @ Q.T
    start = torch.randn(60, generator=draw, dtype=torch.float64)
    pairs = lanczos.lanczos(lambda v: A @ v, start, 30, 5)
    assert torch.allclose(pairs.values, values[:5], rtol=1e-6)  # thirty steps reach the top five to this
    assert (pairs.vectors @ pairs.vectors.T - torch.eye(5, dtype=torch.float64)).abs().max() < ROUNDING
    true = (pairs.vectors @ A - pairs.values.unsqueeze(1) * pairs.vectors).norm(dim=1)
    assert (true - pairs.residuals).abs().max() < ROUNDING


def test_lanczos_goes_on_where_its_space_is_exhausted() -> None:
    """A matrix of rank 3 with a double eigenvalue: from one start only two of its directions are ever seen."""
    A = torch.zeros(10, 10, dtype=torch.float64)
    A[0, 0], A[1, 1], A[2, 2] = 2.0, 2.0, 1.0
    pairs = lanczos.lanczos(lambda v: A @ v, torch.ones(10, dtype=torch.float64), 10, 4)
    assert (pairs.values - torch.tensor([2.0, 2.0, 1.0, 0.0], dtype=torch.float64)).abs().max() < ROUNDING
