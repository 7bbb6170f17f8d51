"""Products in place of an inverse: as good as an SVD with the same weights, no worse than they say, and cheap where they are zero."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from explorer.influence import separable
from explorer.influence.separable import FAINTEST, Products, add_products, of_rank, within
from tests.problems import one_thread


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    with one_thread():
        yield


SHAPES = [(40, 60), (60, 40), (130, 150), (220, 110)]
"""Narrower than the products that are tried at once, and wider."""
FLOAT64 = 1e-7
"""Of a share near 1e-3: squares of singular values are kept to 1e-16 of the largest square."""


def _problem(outs: int, ins: int) -> tuple[Tensor, Tensor]:
    """The inverse of a damped spectrum that falls over many decades, and the spectrum; both from faint to loud."""
    rows, columns = (torch.linspace(-5, 0, n, dtype=torch.float64) for n in (outs, ins))
    energy = sum(torch.outer(10 ** (a * rows), 10 ** (b * columns)) for a, b in ((1, 1), (0.7, 1.5), (1.5, 0.7)))
    assert isinstance(energy, Tensor)
    return 1 / (energy + 0.1 * energy.mean()), energy


def _weighted(inverse: Tensor, energy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = (energy.sum(dim).clamp_min(FAINTEST**2 * energy.sum(dim).max()) for dim in (1, 0))
    return rows[:, None] * inverse * columns, rows, columns


def _left_out(found: Products, inverse: Tensor, energy: Tensor) -> float:
    whole, rows, columns = _weighted(inverse, energy)
    return float((whole - rows[:, None] * (found.left.T @ found.right) * columns).norm() / whole.norm())


@pytest.mark.parametrize("shape", SHAPES)
def test_as_close_as_a_singular_value_decomposition(shape: tuple[int, int]) -> None:
    inverse, energy = _problem(*shape)
    values = torch.linalg.svdvals(_weighted(inverse, energy)[0])
    for rank in (1, 3, 10):
        best = float(values[rank:].norm() / values.norm())
        found = of_rank(inverse, energy, rank)
        assert (len(found.left), len(found.right)) == (rank, rank)
        assert found.tail == pytest.approx(_left_out(found, inverse, energy), abs=FLOAT64)
        assert best - FLOAT64 <= found.tail <= 1.01 * best + FLOAT64  # directions turned twice are within a hundredth


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tolerance", [0.1, 1e-2, 1e-3])
def test_the_tolerance_is_kept_by_few_products(shape: tuple[int, int], tolerance: float) -> None:
    inverse, energy = _problem(*shape)
    found = within(inverse, energy, tolerance)
    assert found is not None
    assert found.tail <= tolerance
    assert found.tail == pytest.approx(_left_out(found, inverse, energy), abs=FLOAT64)
    values = torch.linalg.svdvals(_weighted(inverse, energy)[0])
    tails = values.square().flip(0).cumsum(0).flip(0).sqrt() / values.norm()
    needed = int((tails > tolerance).sum())  # no other products could do with fewer
    halved = int((tails > tolerance / 2**0.5).sum())
    assert needed <= len(found.left) <= halved + 1
    assert (found.left == 0).any() or (found.right == 0).any()
    cost = int((found.left != 0).sum() + (found.right != 0).sum())
    assert cost < separable.WORTH * inverse.numel()
    again = within(inverse, energy, tolerance)
    assert again is not None
    assert torch.equal(again.left, found.left)


def test_more_products_are_looked_for_where_the_first_do_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    inverse, energy = _problem(130, 150)
    expected = within(inverse, energy, 1e-3)
    monkeypatch.setattr(separable, "TRIED", 1)
    monkeypatch.setattr(separable, "SPARE", 2)
    found = within(inverse, energy, 1e-3)
    assert expected is not None
    assert found is not None
    assert len(expected.left) <= len(found.left) <= len(expected.left) + 2
    assert found.tail <= 1e-3


def test_exact_where_nothing_is_gained() -> None:
    assert within(*_problem(8, 20), 1e-2) is None  # small
    assert within(*_problem(40, 60), 0.0) is None  # asked for
    draw = torch.Generator().manual_seed(0)
    noise = torch.rand(64, 80, generator=draw, dtype=torch.float64) + 1e-3
    flat = torch.ones_like(noise)
    assert within(noise, flat, 1e-3) is None  # of full rank


def test_pairs_are_sums_of_products_whatever_zeros_they_begin_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separable, "ELEMENTS", 50)
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.randn(3, n, generator=draw, dtype=torch.float64) for n in (6, 9))
    left[0, :4], left[1], right[2, :8] = 0, 0, 0
    query, train = (
        tuple(torch.randn(count, n, generator=draw, dtype=torch.float64) for n in (6, 9)) for count in (5, 23)
    )
    values = torch.ones(5, 23, dtype=torch.float64)
    add_products(values, left, right, (query[0], query[1]), (train[0], train[1]))
    expected = torch.einsum("oi,qo,qi,no,ni->qn", left.T @ right, *query, *train)
    assert (values - 1 - expected).abs().max() < 1e-12
