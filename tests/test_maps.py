"""Coordinates and neighbors against independent answers, and the properties a map must have."""

import subprocess
import sys

import numba
import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from explorer import maps
from explorer.contracts import silent
from explorer.errors import Cancelled, DataError, SettingsError

ROUNDING = 1e-4
"""Relative error allowed to float32 features of size about 1 against a float64 answer."""


def blobs(per_blob=60, width=8, seed=0):
    """Three well separated groups and their numbers."""
    draw = np.random.default_rng(seed)
    group = np.repeat(np.arange(3), per_blob)
    centers = np.zeros((3, width))
    centers[[0, 1, 2], [0, 1, 2]] = 20
    return (centers[group] + draw.normal(size=(len(group), width))).astype(np.float32), group


def same_group(coordinates, group):
    """Share of rows whose nearest row on the map is of their own group."""
    nearest = NearestNeighbors(n_neighbors=1).fit(coordinates).kneighbors(return_distance=False)[:, 0]
    return (group[nearest] == group).mean()


def test_pca_is_the_singular_value_decomposition():
    x = np.random.default_rng(0).normal(size=(300, 20)) * np.linspace(3, 1, 20) + 50
    x[:, 4] *= 4
    x[:, 9] *= 3
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    coordinates = maps.pca(x)
    assert (coordinates.dtype, coordinates.shape) == (np.float32, (300, 2))
    assert np.allclose(np.abs(coordinates), np.abs(u[:, :2] * s[:2]), rtol=ROUNDING, atol=1e-3)


def test_pca_axes_point_where_their_largest_loading_is_positive():
    x = np.random.default_rng(1).normal(size=(100, 6)) * [9, 7, 1, 1, 1, 1]
    for features in (x, -x):
        loadings = features.T @ maps.pca(features)
        assert np.all(loadings[np.abs(loadings).argmax(axis=0), [0, 1]] > 0)


def test_pca_of_one_column_is_that_column_centered():
    column = np.array([[1.0], [2], [6]])
    assert np.allclose(maps.pca(column), [[-2, 0], [-1, 0], [3, 0]], rtol=ROUNDING)


def test_pca_of_two_columns_keeps_all_distances():
    x = np.random.default_rng(2).normal(size=(40, 2))
    y = maps.pca(x)
    assert np.allclose(
        np.linalg.norm(x[:, None] - x, axis=2), np.linalg.norm(y[:, None] - y, axis=2), rtol=ROUNDING, atol=1e-5
    )


@pytest.mark.parametrize("shape", [(1, 3), (4, 1), (50, 7)])
def test_pca_of_constant_features_is_the_origin(shape):
    assert not maps.pca(np.full(shape, 0.1)).any()


def test_pca_repeats_and_leaves_the_random_state_alone():
    x, _ = blobs()
    before = torch.get_rng_state()
    one, two = maps.pca(x), maps.pca(torch.tensor(x, requires_grad=True))
    assert np.array_equal(one, two)
    assert torch.equal(before, torch.get_rng_state())


def test_pca_is_in_the_units_of_the_features_however_large():
    x, _ = blobs()
    assert np.allclose(maps.pca(x * np.float32(2.0**80)) / 2.0**80, maps.pca(x), rtol=ROUNDING)


@pytest.mark.parametrize("call", [maps.pca, lambda x: maps.neighbors(x, 2), maps.umap])
def test_features_that_make_no_map(call):
    x, _ = blobs()
    x[7, 1], x[9, 0] = np.nan, np.inf
    with pytest.raises(DataError, match="finite features; found NaN or infinity in 2 of 180 rows, the first in row 7"):
        call(x)
    with pytest.raises(DataError, match=r"shape \[n, d\] with n, d >= 1; found \[180, 2, 4\]"):
        call(x.reshape(180, 2, 4))
    with pytest.raises(DataError, match=r"found \[0, 8\]"):
        call(x[:0])


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_neighbors_are_those_of_scikit_learn_in_blocks_too(monkeypatch, offset):
    x = (np.random.default_rng(3).normal(size=(500, 12)) + offset).astype(np.float32)
    brute = NearestNeighbors(n_neighbors=9, algorithm="brute").fit(x.astype(np.float64))
    distances, indices = brute.kneighbors()
    monkeypatch.setattr(maps, "BLOCK_VALUES", 30_000)
    blocks = []
    found, lengths = maps.neighbors(x, 9, lambda done, total, note: blocks.append((done, total, note)))
    assert np.array_equal(found, indices)
    assert np.allclose(lengths, distances, rtol=ROUNDING)
    assert (found.dtype, lengths.dtype) == (np.int64, np.float32)
    assert len(blocks) > 5
    assert blocks[-1] == (500, 500, "neighbors")


def test_a_copy_is_a_neighbor_at_distance_zero_and_a_row_never_its_own():
    x, _ = blobs()
    x[100] = x[3]
    indices, distances = maps.neighbors(x, 4)
    assert (indices[100, 0], indices[3, 0]) == (3, 100)
    assert distances[100, 0] == distances[3, 0] == 0
    assert not (indices == np.arange(180)[:, None]).any()


def test_all_other_rows_are_neighbors_when_asked_for():
    indices, _ = maps.neighbors(np.zeros((4, 2)), 3)
    assert indices.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


@pytest.mark.parametrize("k", [0, 180])
def test_more_neighbors_than_rows(k):
    with pytest.raises(SettingsError, match=rf"k in 1..179 for 180 rows; found {k}"):
        maps.neighbors(blobs()[0], k)


@pytest.mark.parametrize("exact", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_training_neighbors_are_training_rows_only(monkeypatch, exact):
    x = np.random.default_rng(4).normal(size=(700, 6)).astype(np.float32)
    x[600], x[20] = x[5], x[5]
    if not exact:
        monkeypatch.setattr(maps, "EXACT_POINTS", 100)
    found, lengths = maps.training_neighbors(x, 600, 10)
    assert (found.shape, lengths.shape, lengths.dtype) == ((700, 10), (700, 10), np.float32)
    distances, _ = NearestNeighbors(n_neighbors=11, algorithm="brute").fit(x[:600].astype(float)).kneighbors(x)
    distances = np.vstack([distances[:600, 1:], distances[600:, :10]])  # a training row is its own first neighbor
    missed = np.mean(lengths > distances * (1 + ROUNDING) + 1e-6)
    assert missed <= (0 if exact else 0.02)
    assert not (found[:600] == np.arange(600)[:, None]).any()
    real = np.linalg.norm(x[found].astype(np.float64) - x[:, None], axis=2)
    assert np.allclose(lengths, real, rtol=ROUNDING, atol=1e-6)
    assert (np.diff(lengths, axis=1) >= 0).all()
    assert (found[5, 0], found[20, 0], found[600, :2].tolist()) == (20, 5, [5, 20])
    assert lengths[5, 0] == lengths[20, 0] == lengths[600, 0] == lengths[600, 1] == 0


def test_training_neighbors_of_few_rows_end_in_nobody():
    x = np.array([[0.0], [1], [3], [10]])
    found, lengths = maps.training_neighbors(x, 3, 4)
    assert found.tolist() == [[1, 2, -1, -1], [0, 2, -1, -1], [1, 0, -1, -1], [2, 1, 0, -1]]
    assert np.allclose(lengths[:, :2], [[1, 3], [1, 2], [2, 3], [7, 9]], rtol=ROUNDING)
    assert np.isinf(lengths[found < 0]).all()
    alone, _ = maps.training_neighbors(x[:2], 1, 2)
    assert alone.tolist() == [[-1, -1], [0, -1]]


def test_chance_brings_few_near_duplicates_and_copies_always_are():
    x = np.random.default_rng(6).normal(size=(3000, 5)).astype(np.float32)
    x[7], x[8] = x[2000], x[2001] + 1e-5
    nearest = maps.neighbors(x, 1)[1][:, 0]
    found = np.flatnonzero(nearest <= maps.near_duplicate_distance(nearest))
    assert {7, 8, 2000, 2001} <= set(found)
    assert len(found) <= 6  # one more pair by chance at most, see NEAR_DUPLICATE
    copies = np.zeros(10, dtype=np.float32)
    assert (copies <= maps.near_duplicate_distance(copies)).all()
    assert maps.near_duplicate_distance(np.full(3, np.inf, dtype=np.float32)) == 0


def stop_at(note, after=0):
    """A progress callback that cancels at the first call with `note` and more than `after` done."""

    def progress(done, total, found):
        if found == note and done > after:
            raise Cancelled

    return progress


def test_neighbors_can_be_cancelled():
    with pytest.raises(Cancelled):
        maps.neighbors(blobs()[0], 3, stop_at("neighbors"))


@pytest.mark.slow
def test_umap_keeps_groups_together_and_repeats():
    x, group = blobs()
    heard = []
    one = maps.umap(x, 3, lambda done, total, note: heard.append(note))
    assert (one.dtype, one.shape) == (np.float32, (180, 2))
    assert same_group(one, group) == 1
    assert np.array_equal(one, maps.umap(torch.tensor(x), 3))
    assert not np.array_equal(one, maps.umap(x, 4))
    assert set(heard) == {"neighbors", "layout"}


@pytest.mark.slow
def test_umap_preserves_neighbors_better_than_chance_inside_a_ring():
    angle = np.linspace(0, 2 * np.pi, 300, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    indices, _ = maps.neighbors(maps.umap(ring), 2)
    apart = np.abs(indices - np.arange(300)[:, None])
    assert np.mean(np.minimum(apart, 300 - apart) <= 10) > 0.95  # by chance 20 / 299


@pytest.mark.slow
def test_rows_beyond_the_fitted_ones_lie_among_their_neighbors(monkeypatch):
    x, group = blobs()
    monkeypatch.setattr(maps, "FITTED_ROWS", 90)
    heard = set()
    coordinates = maps.umap(x, 0, lambda done, total, note: heard.add(note))
    assert same_group(coordinates, group) == 1
    assert heard == {"neighbors", "layout", "placing"}
    assert np.array_equal(coordinates, maps.umap(x, 0))


def test_placed_rows_are_inverse_distance_means_and_copies_lie_on_their_original():
    draw = np.random.default_rng(5)
    fitted, coordinates = torch.tensor(draw.normal(size=(40, 3))).float(), draw.normal(size=(40, 2)).astype(np.float32)
    x = torch.cat([fitted[[7]], torch.tensor(draw.normal(size=(5, 3))).float()])
    placed = maps._placed(x, fitted, coordinates, silent)
    assert np.array_equal(placed[0], coordinates[7])
    for row, place in zip(x[1:].double().numpy(), placed[1:], strict=True):
        distance = np.linalg.norm(fitted.double().numpy() - row, axis=1)
        near = np.argsort(distance)[: maps.NEIGHBORS]
        assert np.allclose(place, np.average(coordinates[near], axis=0, weights=1 / distance[near]), rtol=ROUNDING)


@pytest.mark.slow
def test_umap_of_copies_is_finite():
    x = np.repeat(blobs(per_blob=4)[0], 20, axis=0)
    assert np.isfinite(maps.umap(x)).all()
    assert np.isfinite(maps.umap(np.ones((30, 3)))).all()


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_few_rows_are_laid_out_by_pca(rows):
    x = blobs()[0][:rows]
    assert np.array_equal(maps.umap(x), maps.pca(x))


@pytest.mark.parametrize("rows", [6, 7, 15, 16])
@pytest.mark.slow
def test_umap_of_few_rows_tells_them_apart(rows):
    coordinates = maps.umap(blobs()[0][:rows])
    assert np.isfinite(coordinates).all()
    assert len(np.unique(coordinates, axis=0)) == rows


@pytest.mark.parametrize(("note", "after"), [("neighbors", 0), ("layout", 0), ("layout", 10), ("placing", 0)])
@pytest.mark.slow
def test_umap_can_be_cancelled_at_every_stage_and_leaves_threads_as_they_were(monkeypatch, note, after):
    monkeypatch.setattr(maps, "FITTED_ROWS", 90)
    threads = numba.get_num_threads()
    with pytest.raises(Cancelled):
        maps.umap(blobs()[0], 0, stop_at(note, after))
    assert numba.get_num_threads() == threads


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range(seed):
    with pytest.raises(SettingsError, match=r"seed in 0..2\^32-1; found"):
        maps.umap(blobs()[0], seed)


def test_umap_is_loaded_by_who_asks_for_it():
    script = "import sys, explorer.maps; print('umap' in sys.modules or 'numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
