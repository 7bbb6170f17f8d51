"""Conjugate gradient, deflated or refining EK-FAC, against the dense Gauss-Newton inverse made of loops in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from explorer.contracts import TARGETS
from explorer.influence import layers
from explorer.influence.last_layer import LastLayer
from tests import problems
from tests.influence.iterative_twin import (
    CANCELLED,
    DAMPING,
    EXACT,
    FLOAT32,
    FLOAT64,
    METHODS,
    SOLVERS,
    assert_close,
    each_network,
    each_solver,
    everything,
    fitted,
    ill_conditioned,
    joined,
    random_vectors,
    twin,
)
from tests.influence.networks import network


@each_network
@each_solver
def test_scores_equal_the_dense_inverse(method: str, name: str) -> None:
    dense = twin(name)
    own = dense.own(DAMPING)
    for dtype, share, settings in (
        (torch.float64, FLOAT64, EXACT),
        (torch.float32, FLOAT32, {"tolerance": 1e-5, "iterations": 60}),
    ):
        made = network(name, dtype)
        found = METHODS[method](damping=DAMPING, **settings).fit(made.subject())
        for target in TARGETS:
            expected = dense.scores(DAMPING, target)
            scores = found.score(made.queries(target))
            assert_close(scores.values, expected, share)
            assert (scores.stats["solved"], scores.stats["converged"]) == (len(made.test), 1)
            assert scores.stats["residual_median"] <= scores.stats["residual_max"] <= 2 * settings["tolerance"]
        assert_close(found.self_influence(), own, share)
        weights = torch.ones(1, len(made.test))
        size = expected.abs().sum(0).max()
        assert (found.weighted(made.queries(target), weights) - expected.sum(0)).abs().max() <= share * size


@pytest.mark.parametrize("damping", [None, 0.3])
@pytest.mark.parametrize("name", ["mlp-regression", pytest.param("softmax", marks=pytest.mark.slow)])
@each_solver
def test_the_head_alone_is_the_exact_last_layer(method: str, name: str, damping: float | None) -> None:
    made = problems.problem(name)
    exact = LastLayer(damping).fit(made.subject())
    queries = everything(made.test)
    head = next(key for key, module in made.model.named_modules() if module is made.head)
    chosen = METHODS[method](
        damping=exact.stats["damping"], layers=[head] if head else None, tolerance=1e-5, iterations=60
    ).fit(made.subject())
    assert_close(chosen.score(queries).values, exact.score(queries).values, FLOAT32)
    assert_close(chosen.self_influence(), exact.self_influence(), FLOAT32)


@each_solver
def test_a_sample_is_the_curvature_of_these_rows_alone(method: str) -> None:
    made, dense = network("mlp", torch.float64), twin("mlp")
    found = METHODS[method](damping=DAMPING, sample=5, seed=3, **EXACT).fit(made.subject())
    rows = np.random.default_rng(3).choice(14, 5, replace=False)
    part = replace(dense, columns=dense.columns[rows])
    assert found.stats["curvature_rows"] == 5
    assert_close(found.score(made.queries()).values, part.scores(DAMPING), CANCELLED)
    other = METHODS[method](damping=DAMPING, sample=5, seed=4, **EXACT).fit(made.subject())
    assert not torch.equal(other.score(made.queries()).values, found.score(made.queries()).values)


@pytest.mark.parametrize("tolerance", [1e-2, *(pytest.param(t, marks=pytest.mark.slow) for t in (0.1, 1e-3))])
def test_preconditioned_it_needs_fewer_iterations_than_plain(tolerance: float) -> None:
    made = ill_conditioned()
    needed = {}
    for method in SOLVERS:
        found = METHODS[method](damping=1e-4, tolerance=tolerance, iterations=500).fit(made.subject())
        stats = found.score(made.queries()).stats
        assert stats["converged"] == 1
        needed[method] = stats["iterations_mean"]
    assert needed["refine"] < needed["conjugate-gradient"]
    assert needed["deflated"] < needed["conjugate-gradient"]


@each_solver
def test_stats_say_when_it_did_not_converge(method: str) -> None:
    """At fit of a few training examples, with scores of their queries; what is saved does not change by asking."""
    made = ill_conditioned()
    found = fitted(method, made.subject(), damping=1e-6, tolerance=1e-4, iterations=2)
    before = dict(found.stats)
    assert (before["converged"], before["solved"], before["iterations"]) == (0, 8, 2)
    stats = found.score(made.queries()).stats
    assert (stats["converged"], stats["solved"], stats["iterations"]) == (0, 30, 2)
    assert stats["residual_max"] >= stats["residual_median"] > 1e-3
    assert found.stats == before


@each_solver
def test_what_it_is_given_stays_as_it_was(method: str) -> None:
    """An `Inverse`; a row of zeros is solved at once and leaves the others alone."""
    made = network("mlp")
    rows = random_vectors(layers.of(made.model, made.train.inputs), 2, torch.float32)
    for row in rows:
        row[1] = 0
    before = [row.clone() for row in rows]
    solving = fitted(method, made.subject(), damping=DAMPING, tolerance=1e-3).solving()
    solved = solving.apply(rows)
    assert all(torch.equal(a, b) for a, b in zip(rows, before, strict=True))
    assert [part.shape for part in solved] == [row.shape for row in rows]
    assert all(bool((part[1] == 0).all()) for part in solved)
    assert solving.evidence()["residual_max"] < 2e-3
    assert torch.isfinite(joined(solved)).all()


def test_the_residual_that_is_said_is_the_true_one() -> None:
    made, dense = network("mlp", torch.float64), twin("mlp")
    solving = fitted("conjugate-gradient", made.subject(), damping=1e-4, iterations=4).solving()
    assert solving.evidence() == {}
    rows = random_vectors(layers.of(made.model, made.train.inputs), 3)
    solved = joined(solving.apply(rows))
    left = joined(rows) - solved @ (dense.G + (dense.weight_decay + 1e-4) * torch.eye(len(dense.G)).double())
    residuals = left.norm(dim=1) / joined(rows).norm(dim=1)
    rounding = 1e-9  # relative, float64
    assert solving.evidence()["residual_max"] == pytest.approx(float(residuals.max()), rel=rounding)
    assert solving.evidence()["residual_median"] == pytest.approx(float(residuals.median()), rel=rounding)
