"""LiSSA against the dense Gauss-Newton inverse, its own scale, and what it says when it cannot converge."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from explorer.errors import SettingsError
from explorer.influence import layers, lissa
from explorer.influence.curvature_products import Curvature
from explorer.influence.lissa import Lissa
from tests.influence.iterative_twin import FLOAT64, assert_close, twin
from tests.influence.networks import network


def test_it_converges_to_the_dense_inverse() -> None:
    """With the whole training set as its batch, to any residual; with small batches, closer the longer it goes on."""
    made, dense = network("mlp", torch.float64), twin("mlp")
    expected = dense.scores(0.5)
    found = Lissa(damping=0.5, depth=150, batch=len(made.train)).fit(made.subject())
    scores = found.score(made.queries())
    assert_close(scores.values, expected, FLOAT64)
    assert found.stats["batch"] == len(made.train)
    assert (scores.stats["converged"], scores.stats["iterations"]) == (1, 150)
    errors = []
    for depth in (4, 20, 60):
        short = Lissa(damping=0.5, depth=depth, batch=2).fit(made.subject()).score(made.queries()).values
        errors.append(float((short - expected).norm() / expected.norm()))
    assert errors == sorted(errors, reverse=True)
    noise = 0.05  # of batches of two in a recursion whose steps do not shrink
    assert errors[2] < noise


def test_stats_say_when_it_did_not_converge() -> None:
    made = network("mlp")
    found = Lissa(damping=1e-3, depth=5, tolerance=1e-3).fit(made.subject())
    assert (found.stats["converged"], found.stats["iterations"], found.stats["depth"]) == (0, 5, 5)
    assert found.score(made.queries()).stats["residual_median"] > found.stats["tolerance"]


def test_it_says_when_it_diverges_and_never_does_with_its_own_scale() -> None:
    made = network("mlp")
    found = Lissa(damping=1e-3, depth=60, batch=2).fit(made.subject())
    curvature = Curvature(made.subject(), layers.of(made.model, made.train.inputs), np.arange(14), block=2)
    assert found.stats["scale"] > lissa.largest_eigenvalue(curvature, 0) / 2
    assert torch.isfinite(found.score(made.queries()).values).all()
    assert found.stats["recursion_damp"] == pytest.approx((0.01 + 1e-3) / found.stats["scale"])
    broken = Lissa(damping=1e-3, depth=200, batch=2, scale=found.stats["scale"] / 10)
    with pytest.raises(SettingsError, match=r"diverging at step \d+ of 200 with scale.*[Cc]hoose a scale above"):
        broken.fit(made.subject())


def test_the_largest_eigenvalue_of_a_batch_is_found() -> None:
    dense, made = twin("mlp"), network("mlp", torch.float64)
    curvature = Curvature(made.subject(), layers.of(made.model, made.train.inputs), block=2)
    tops = [float(torch.linalg.eigvalsh(c.flatten(0, 1).T @ c.flatten(0, 1) / 2)[-1]) for c in dense.columns.split(2)]
    estimate = lissa.largest_eigenvalue(curvature, 0)
    near = 0.9  # ten steps of a power iteration from two directions
    rounding = 1e-12
    assert near * max(tops) <= estimate <= max(tops) * (1 + rounding)


def test_a_seed_is_all_the_chance_there_is() -> None:
    made = network("mlp")

    def scores(seed: int) -> torch.Tensor:
        torch.manual_seed(seed + 7)  # of the world around
        return Lissa(seed=seed, depth=6, batch=5).fit(made.subject()).score(made.queries()).values

    with torch.random.fork_rng(devices=[]):
        assert torch.equal(scores(1), scores(1))
        assert not torch.equal(scores(1), scores(2))
