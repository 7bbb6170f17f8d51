"""Projections keep inner products as well as they say, give the same bits in any block, and products are products."""

import pytest
import torch
from torch import Tensor

from explorer.errors import Cancelled, SettingsError
from explorer.influence import projection
from explorer.influence.projection import KINDS, Projection, Sides, orthonormal

SEEDS = 400
"""Projections per pair: the mean of 400 estimates has a twentieth of one's deviation."""
SURE = 4.5
"""Standard errors: six comparisons that each fail one time in 150,000, with seeds fixed anyway."""
FLOAT64 = 1e-12

each_kind = pytest.mark.parametrize("kind", KINDS)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@each_kind
def test_inner_products_are_kept_on_average_within_the_stated_bound(kind: str) -> None:
    widths, dimension = (30, 45), 16
    x = [_random(2, 5, 6), _random(2, 45, seed=1)]
    x[0][1] += 0.5 * x[0][0]  # not orthogonal
    flat = torch.cat([part.flatten(1) for part in x], 1)
    norms, product = flat.square().sum(1), float(flat[0] @ flat[1])
    found = torch.stack([Projection(widths, dimension, seed, kind)(x) for seed in range(SEEDS)])
    estimates = (found[:, 0] * found[:, 1]).sum(1)
    bound = float((norms[0] * norms[1] + product**2) / dimension) ** 0.5
    assert abs(float(estimates.mean()) - product) <= SURE * bound / SEEDS**0.5
    # a deviation estimated from 400 draws is itself uncertain by 1/√800 = 3.5 %
    assert float(estimates.std()) <= bound * (1 + SURE * 0.035)
    assert bound <= (2 / dimension) ** 0.5 * float((norms[0] * norms[1]) ** 0.5) * (1 + FLOAT64)


@each_kind
def test_a_projection_is_one_matrix_whatever_the_block_and_the_scale(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its columns are what it makes of the unit vectors; every row of any block is that matrix times the gradient."""
    widths, dimension = (12, 7), 5
    project = Projection(widths, dimension, 3, kind)
    unit = torch.eye(19, dtype=torch.float64)
    matrix = project(list(unit.split(list(widths), 1)))
    assert matrix.shape == (19, dimension)
    per_row = {"sparse": 1, "dense": dimension}[kind]
    assert ((matrix != 0).sum(1) == per_row).all()
    torch.testing.assert_close(matrix.square().sum(1), torch.ones(19, dtype=torch.float64), atol=FLOAT64, rtol=0)
    rows = _random(9, 19)
    whole = project([rows[:, :12].reshape(9, 3, 4), rows[:, 12:]])
    assert (whole - rows @ matrix).abs().max() < FLOAT64
    for start in range(9):
        one = project([rows[start : start + 1, :12].reshape(1, 3, 4), rows[start : start + 1, 12:]])
        assert (one - whole[start]).abs().max() < FLOAT64
    again = Projection(widths, dimension, 3, kind)([rows[:, :12], rows[:, 12:]])
    assert torch.equal(again, whole)
    other = Projection(widths, dimension, 4, kind)([rows[:, :12], rows[:, 12:]])
    assert not torch.equal(other, whole)
    state = torch.random.get_rng_state()
    project([rows[:, :12], rows[:, 12:]])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_pieces_of_a_dense_projection_are_drawn_from_seeds_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first piece does not depend on how many follow it, so it can be drawn again alone."""
    monkeypatch.setattr(projection, "PIECE", 8)
    long, short = (Projection((width, 30), 4, 0, "dense") for width in (10, 2))
    unit = torch.eye(40)
    found = long([unit[:, :10], unit[:, 10:]])
    head = short([torch.eye(32)[:, :2], torch.eye(32)[:, 2:]])
    assert torch.equal(found[:2], head[:2])
    assert len({tuple(found[i : i + 2].flatten().tolist()) for i in range(0, 40, 2)}) > 15  # twenty pieces of 2^8 kinds
    assert found.abs().eq(0.5).all()


@each_kind
def test_nothing_is_projected_where_there_is_room(kind: str) -> None:
    rows = _random(4, 10)
    project = Projection((6, 4), 10, 0, kind)
    assert project.length == 10
    assert torch.equal(project([rows[:, :6].reshape(4, 2, 3), rows[:, 6:]]), rows)


@pytest.mark.parametrize("positions", [1, 3])
def test_sides_project_a_gradient_without_building_it(positions: int) -> None:
    a, d = _random(6, positions, 5), _random(6, positions, 4, seed=1)
    R, L = _random(5, 3, seed=2), _random(4, 2, seed=3)
    sides = Sides([R, R], [L, L])
    assert sides.widths == [6, 6]
    found = sides([a, a], [d, d])
    for i in range(6):
        G = sum(torch.outer(d[i, t], a[i, t]) for t in range(positions))
        for part in found:
            assert (part[i] - (L.T @ G @ R).flatten()).abs().max() < FLOAT64


def test_random_sides_are_orthonormal_and_keep_inner_products_on_average() -> None:
    width, rank = 12, 4
    draws = torch.stack([orthonormal(width, rank, 0, stream) for stream in range(SEEDS)])
    assert (draws.mT @ draws - torch.eye(rank, dtype=torch.float64)).abs().max() < FLOAT64
    mean = (draws @ draws.mT).mean(0)
    # an entry of Q Qᵀ has a deviation below rank/width; 144 of them are compared
    assert (mean - rank / width * torch.eye(width, dtype=torch.float64)).abs().max() < SURE * rank / width / SEEDS**0.5
    assert torch.equal(orthonormal(width, rank, 0, 7), draws[7])
    assert torch.equal(orthonormal(3, 5, 0, 0), torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("elements", [1, 40, 2**22])
def test_products_and_solves_are_those_of_dense_matrices(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "ELEMENTS", elements)
    kept, directions = _random(11, 6), _random(3, 6, seed=1)
    values = torch.ones(3, 11, dtype=torch.float64)
    projection.add_product(values, directions, kept)
    assert (values - 1 - directions @ kept.T).abs().max() < FLOAT64
    blocks = [m @ m.T + torch.eye(len(m)) for m in (_random(4, 4), _random(2, 2))]
    lower = [projection.lower_factor(m, 1e-12, "it", "Mend it.") for m in blocks]
    inverse = torch.linalg.inv(torch.block_diag(*blocks))
    assert (projection.solve(lower, directions) - directions @ inverse).abs().max() < FLOAT64
    own = projection.self_products(lower, kept)
    assert (own - ((kept @ inverse) * kept).sum(1)).abs().max() < FLOAT64


def test_products_can_be_stopped_between_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "ELEMENTS", 40)
    said: list[tuple[int, int]] = []

    def progress(done: int, total: int, note: str) -> None:
        said.append((done, total))
        assert note
        if len(said) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        projection.add_product(torch.zeros(1, 9), torch.ones(1, 2), torch.ones(9, 2), progress)
    assert said == [(0, 9), (2, 9), (4, 9)]


@pytest.mark.parametrize(
    "matrix",
    [torch.zeros(2, 2), torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, float("nan")]])],
)
def test_a_matrix_that_cannot_be_inverted_is_a_message(matrix: Tensor) -> None:
    with pytest.raises(SettingsError, match=r"Expected the curvature to be invertible; found .* Choose more\."):
        projection.lower_factor(matrix.double(), 1e-12, "the curvature", "Choose more.")


@pytest.mark.parametrize("wrong", [{"dimension": 0}, {"seed": -1}, {"kind": "none"}])
def test_settings_out_of_range_are_messages(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"Expected .* found"):
        Projection(**({"widths": (3,), "dimension": 2, "seed": 0, "kind": "sparse"} | wrong))
