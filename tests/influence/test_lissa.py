"""LiSSA against the dense Gauss-Newton inverse, its own scale, and what it says when it cannot converge."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from explorer.contracts import silent
from explorer.errors import SettingsError
from explorer.influence import layers, lissa
from explorer.influence.curvature_products import Curvature
from explorer.influence.iterative import FittedIterative
from explorer.influence.lissa import Lissa
from tests.influence.iterative_twin import DAMPING, FLOAT64, assert_close, twin
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
    assert (found.stats["depth_rule"], found.stats["depth_wanted"] > 5) == ("given", True)
    assert found.score(made.queries()).stats["residual_median"] > found.stats["tolerance"]


def test_it_says_when_it_diverges_and_never_does_with_its_own_scale() -> None:
    made = network("mlp")
    found = Lissa(damping=1e-3, depth=60, batch=2).fit(made.subject())
    curvature = Curvature(made.subject(), layers.of(made.model, made.train.inputs), np.arange(14), block=2)
    assert found.stats["scale"] > lissa.largest_eigenvalue(curvature, 0) / 2
    assert torch.isfinite(found.score(made.queries()).values).all()
    assert found.stats["recursion_damp"] == pytest.approx((0.01 + 1e-3) / found.stats["scale"])
    broken = Lissa(damping=1e-3, depth=200, batch=2, scale=found.stats["scale"] / 10)
    with pytest.raises(SettingsError, match=r"diverging within \d+ steps with scale.*[Cc]hoose a scale above"):
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


# ---- how many steps, and what becomes of them ----


def _applied(found: FittedIterative, right: torch.Tensor) -> torch.Tensor:
    return found.solver(right, silent).values


@pytest.mark.parametrize("momentum", [None, 0.0])
@pytest.mark.parametrize("name", ["mlp", "conv", "regression"])
def test_by_default_it_goes_on_until_the_residual_is_there(name: str, momentum: float | None) -> None:
    """Residuals by the dense matrix; momentum is worth a root: many times fewer steps."""
    made, dense = network(name, torch.float64), twin(name)
    tolerance = 0.03
    found = Lissa(damping=DAMPING, batch=5, tolerance=tolerance, momentum=momentum).fit(made.subject())
    matrix = dense.G + (dense.weight_decay + DAMPING) * torch.eye(len(dense.G), dtype=torch.float64)
    right = -dense.asked["label"]
    solution = found.solver(right, silent)  # type: ignore[attr-defined]
    left = (right - solution.values @ matrix).norm(dim=1) / right.norm(dim=1)
    assert (left <= tolerance * (1 + FLOAT64)).all()
    assert found.stats["converged"] == 1
    assert int(solution.iterations.max()) <= found.stats["depth"] <= lissa.MOST_STEPS
    zero = torch.zeros_like(right[:1])
    nothing = found.solver(zero, silent)  # type: ignore[attr-defined]
    assert (torch.equal(nothing.values, zero), int(nothing.iterations)) == (True, 0)


@pytest.mark.parametrize("kappa", [0.3, 1e-2, 1e-3])
@pytest.mark.parametrize("momentum", [None, 0.0, 0.5])
def test_theory_says_how_many_steps_the_flattest_direction_takes(kappa: float, momentum: float | None) -> None:
    """The recursion of one number, written out: eigenvalue κ of a scale of one, and no noise."""
    beta = lissa.fastest(kappa) if momentum is None else min(momentum, lissa.fastest(kappa))
    constant = lissa.time_constant(kappa, beta)
    steps = math.ceil(lissa.ROUND * constant)

    def left_after(count: int) -> float:
        left = 1.0
        for _ in range(count):
            v = ahead = total = 0.0
            for step in range(steps):
                moved = ahead + left - kappa * ahead
                ahead, v = moved + beta * (moved - v), moved
                total += v if step >= steps // 2 else 0.0
            left -= kappa * total / (steps - steps // 2)
        return abs(left)

    tolerance = 0.01
    asked = lissa.rounds(kappa, beta, steps, tolerance)
    assert left_after(asked) <= tolerance * 1.5  # a sum over steps for an integral
    if kappa < 0.1:  # rounds of a few steps are no exponentials, and do better
        assert left_after(int(0.8 * asked)) > tolerance


def test_a_given_depth_is_taken_whole_by_a_linear_map() -> None:
    made = network("mlp", torch.float64)
    found = Lissa(damping=0.5, depth=37, batch=3).fit(made.subject())
    assert isinstance(found, FittedIterative)
    assert found.stats["round"] < 37  # several rounds
    right = -twin("mlp").asked["label"]
    solution = found.solver(right, silent)
    assert solution.iterations.tolist() == [37] * len(right)
    both = _applied(found, right.sum(0, keepdim=True))
    assert_close(both, solution.values.sum(0, keepdim=True), FLOAT64)


def test_without_momentum_it_is_the_recursion_of_the_papers() -> None:
    """v ← g + (1 − damp) v − G_B v / scale, from v = 0 in units of the scale, over batches in the order of the seed."""
    made = network("mlp", torch.float64)
    depth, batch = 12, 5
    found = Lissa(damping=0.01, depth=depth, batch=batch, momentum=0.0, seed=3).fit(made.subject())
    assert isinstance(found, FittedIterative)
    assert found.stats["round"] == depth
    scale, damp = found.stats["scale"], found.stats["recursion_damp"]
    columns, g = twin("mlp").columns, -twin("mlp").asked["label"][0]
    rows = np.random.default_rng(3).permutation(len(made.train))
    blocks = [columns[rows[at : at + batch]].flatten(0, 1) for at in range(0, len(rows), batch)]
    v, seen = torch.zeros_like(g), []
    for place in lissa.batch_order(len(blocks), depth, [3, 0, 0]):
        size = len(blocks[place]) // columns.shape[1]
        v = g + (1 - damp) * v - blocks[place].T @ (blocks[place] @ v) / size / scale
        seen.append(v / scale)
    expected = torch.stack(seen[depth // 2 :]).mean(0)
    assert_close(_applied(found, g.unsqueeze(0)), expected.unsqueeze(0), FLOAT64)


def test_a_round_that_makes_things_worse_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the batches seen at first are no measure of the others, the scale grows until steps contract."""
    made = network("mlp")
    monkeypatch.setattr(lissa, "MARGIN", 0.2)
    found = Lissa(damping=0.02, batch=2).fit(made.subject())
    assert found.stats["converged"] == 1
    assert found.stats["residual_max"] <= found.stats["tolerance"] * 1.01  # float32
    with pytest.raises(SettingsError, match="diverging"):
        Lissa(damping=0.02, batch=2, depth=300).fit(made.subject())


def test_where_the_steps_there_are_do_not_suffice_the_stats_say_how_many_would(monkeypatch: pytest.MonkeyPatch) -> None:
    made = network("mlp")
    monkeypatch.setattr(lissa, "MOST_STEPS", 6)
    stats = Lissa(damping=1e-4, batch=5, tolerance=1e-4).fit(made.subject()).stats
    assert (stats["depth"], stats["iterations"], stats["converged"]) == (6, 6, 0)
    assert stats["depth_wanted"] > 20
    assert stats["depth_rule"] == f"at most; theory asks for {stats['depth_wanted']:,}"


def test_batches_are_of_about_one_size() -> None:
    made = network("mlp")
    assert len(made.train) == 14
    assert Lissa(batch=13).fit(made.subject()).stats["batch"] == 7
