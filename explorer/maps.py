"""Where do examples lie next to each other: features become 2-D coordinates (PCA, UMAP) and lists of neighbors.

It computes no features and writes no file. A seeded UMAP repeats on one machine only: store coordinates to share them.
"""

from __future__ import annotations

import io
import sys
import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explorer.contracts import Progress, silent
from explorer.errors import DataError, SettingsError

FITTED_ROWS = 20_000
"""UMAP fits at most this many rows; the others are placed between their fitted neighbors."""
NEIGHBORS = 15
"""UMAP's n_neighbors (a row counts as its own first neighbor)."""
SMALLEST_UMAP = 6
"""With fewer rows there is no neighborhood to preserve, and UMAP gives way to PCA."""
COMPILED = ("umap", "pynndescent")
"""Packages whose functions are compiled when they are first called."""

BLOCK_VALUES = 2**25
"""Floats in the largest temporary array of the neighbor search: 128 MiB."""
SPARE = 8
"""Candidates beyond k that are compared exactly: float32 products can misplace near ties, not by this many ranks."""
EXACT_POINTS = 100_000
"""Neighbors in the training set are exact for up to this many points, and found by pynndescent for more."""
NEAR_DUPLICATE = 0.1
"""Share of the median nearest distance below which two training examples are near-duplicates.

In d dimensions chance brings a neighbor that near to 1 − 2^(−0.1^d) of the examples: 1 in 1,400 for d = 3, 1 in 145,000 for
d = 5. So what is nearer is nearly the same example, not a crowded place. Exact copies have distance 0."""
PCA_RANK = 12
"""Dimensions of the random subspace that PCA iterates on; more than 2 makes it converge."""


def pca(features: Tensor | NDArray[Any]) -> NDArray[np.float32]:
    """The first two principal components of `features` `[n, d]`, as `[n, 2]` in the units of the features.

    Each axis points so that its largest loading is positive. Axes beyond the rank of the features are 0. A seeded
    subspace iteration finds them, exact where they stand out from the others; the same input gives the same output,
    and torch's generator is left as it was. Cost: a few products with a `[d, 12]` matrix.
    Raises DataError for features that are not finite.
    """
    x, scale = _centered(features)
    coordinates = np.zeros((len(x), 2), dtype=np.float32)
    if not x.any():
        return coordinates
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        _, _, directions = torch.pca_lowrank(x, q=min(PCA_RANK, *x.shape), center=False, niter=4)
    axes = directions[:, :2]
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    found = (x @ (axes * largest.sign())) * scale
    coordinates[:, : found.shape[1]] = found.numpy()
    return coordinates


def neighbors(
    features: Tensor | NDArray[Any], k: int, progress: Progress = silent
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `k` nearest other rows of each row of `features` `[n, d]`: indices and distances, both `[n, k]`.

    Exact, Euclidean, nearest first, ties by row number; a row is never its own neighbor, its copies are. Costs n² d
    multiplications in blocks of at most 128 MiB; `progress` is called after each.
    Raises SettingsError unless 1 <= k < n, DataError for features that are not finite.
    """
    x, scale = _centered(features)
    if not 1 <= k < len(x):
        raise SettingsError(f"Expected k in 1..{len(x) - 1} for {len(x)} rows; found {k}. Choose another k.")
    indices, distances = _nearest(x, x, k, progress, "neighbors", own=True)
    return indices, distances * np.float32(scale)


def training_neighbors(
    features: Tensor | NDArray[Any], train: int, k: int, seed: int = 0, progress: Progress = silent
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `k` nearest training rows, the first `train` of `features` `[n, d]`, of every row: indices, distances `[n, k]`.

    Euclidean, nearest first, ties by row number; a row is never its own neighbor, its copies are. Exact up to
    `EXACT_POINTS` rows, at the cost of `neighbors`; beyond, pynndescent finds nearly all of them, and takes 10 to 20 s to
    compile. Where there are fewer than `k` the row ends in −1 at an infinite distance.
    Raises DataError for features that are not finite.
    """
    x, scale = _centered(features)
    base, rest, most = x[:train], x[train:], min(k, train - 1)
    indices = np.full((len(x), k), -1, dtype=np.int64)
    distances = np.full((len(x), k), np.inf, dtype=np.float32)
    if len(x) > EXACT_POINTS:
        indices[:], distances[:] = _approximate(base, rest, k, seed, progress)
    elif most:
        indices[:train, :most], distances[:train, :most] = _nearest(base, base, most, progress, "training", own=True)
    if len(rest) and len(x) <= EXACT_POINTS:
        some = min(k, train)
        indices[train:, :some], distances[train:, :some] = _nearest(rest, base, some, progress, "test", own=False)
    return indices, distances * np.float32(scale)


def near_duplicate_distance(nearest: NDArray[np.float32]) -> float:
    """From each training example's distance to the nearest other one `[n]`: up to where two are near-duplicates."""
    found = nearest[np.isfinite(nearest)]
    return NEAR_DUPLICATE * float(np.median(found)) if len(found) else 0.0


def umap(features: Tensor | NDArray[Any], seed: int = 0, progress: Progress = silent) -> NDArray[np.float32]:
    """A UMAP layout of `features` `[n, d]`, as `[n, 2]`: near rows stay near, far distances mean little.

    Fitted on exact neighbors of at most 20,000 seeded rows and started from PCA; every other row lies at the
    inverse-distance mean of its fitted neighbors, a copy of a fitted row exactly on it. Up to 5 rows: PCA.
    `progress` hears of neighbors, layout epochs and placing, and may raise Cancelled. The first call on a machine
    compiles for 10 to 20 s, which cannot be cancelled; later processes find it done.
    Raises SettingsError for a seed outside 0..2³²-1, DataError for features that are not finite.
    """
    if not 0 <= seed < 2**32:
        raise SettingsError(f"Expected seed in 0..2^32-1; found {seed!r}. Choose another seed.")
    x, _ = _centered(features)
    if len(x) < SMALLEST_UMAP:
        return pca(features)
    if len(x) <= FITTED_ROWS:
        return _layout(x, seed, progress)
    chosen = np.random.default_rng(seed).choice(len(x), FITTED_ROWS, replace=False)
    fitted = np.zeros(len(x), dtype=np.bool_)
    fitted[chosen] = True
    coordinates = np.empty((len(x), 2), dtype=np.float32)
    coordinates[fitted] = _layout(x[fitted], seed, progress)
    coordinates[~fitted] = _placed(x[~fitted], x[fitted], coordinates[fitted], progress)
    return coordinates


def _centered(features: Tensor | NDArray[Any]) -> tuple[Tensor, float]:
    """Float32 `[n, d]` on the CPU with zero column means and values within ±1, and the factor back to the units given.

    Centering keeps the products of the neighbor search precise; scaling keeps squares from overflowing. A constant
    column becomes exactly 0.
    """
    x = features.detach().cpu() if isinstance(features, Tensor) else torch.from_numpy(np.array(features))
    if x.ndim != 2 or 0 in x.shape:
        raise DataError(f"Expected features of shape [n, d] with n, d >= 1; found {list(x.shape)}. Flatten each row.")
    bad = ~torch.isfinite(x.float()).all(dim=1)
    if bad.any():
        raise DataError(
            f"Expected finite features; found NaN or infinity in {int(bad.sum())} of {len(x)} rows, the first in row "
            f"{int(bad.int().argmax())}. Check the model's weights and inputs."
        )
    centered = x.to(torch.float64, copy=True)
    centered -= centered[0].clone()
    centered -= centered.mean(dim=0)
    scale = float(centered.abs().max()) or 1.0
    return centered.div_(scale).float(), scale


def _nearest(
    x: Tensor, base: Tensor, k: int, progress: Progress, note: str, *, own: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `k` rows of `base` nearest to each row of `x`; `own` says that both are the same rows, and skips itself.

    Candidates come from |b|² - 2 x·b, and k + SPARE of them are compared by their differences.
    """
    candidates = min(k + SPARE, len(base) - own)
    block = max(1, min(1024, BLOCK_VALUES // (len(base) + candidates * x.shape[1])))
    norms = base.square().sum(dim=1)
    held = base.new_empty(
        min(block, len(x)), len(base)
    )  # fresh memory for each block would take as long as the product
    indices, distances = [], []
    for start in range(0, len(x), block):
        part = x[start : start + block]
        rough = torch.addmm(norms, part, base.T, alpha=-2, out=held[: len(part)])
        if own:
            rough[torch.arange(len(part)), torch.arange(start, start + len(part))] = torch.inf
        found = rough.topk(candidates, dim=1, largest=False, sorted=False).indices.sort(dim=1).values
        exact = (base[found] - part[:, None]).square().sum(dim=2).sqrt()
        order = exact.argsort(dim=1, stable=True)[:, :k]
        indices.append(found.gather(1, order))
        distances.append(exact.gather(1, order))
        progress(min(start + block, len(x)), len(x), note)
    return torch.cat(indices).numpy(), torch.cat(distances).numpy()


def _approximate(
    base: Tensor, rest: Tensor, k: int, seed: int, progress: Progress
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """As `training_neighbors` for more rows than can be compared pair by pair; found neighbors are sorted exactly."""
    progress(0, 2, "index of neighbors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba speaks of its threading layers
        from pynndescent import NNDescent

        _keep_compiled()
        index = NNDescent(base.numpy(), n_neighbors=k + 1, random_state=seed)
        found = [np.asarray(index.neighbor_graph[0], dtype=np.int64)]
        progress(1, 2, "index of neighbors")
        if len(rest):
            found.append(np.asarray(index.query(rest.numpy(), k=k + 1)[0], dtype=np.int64))
    x, indices = torch.cat([base, rest]), torch.from_numpy(np.concatenate(found))
    indices[: len(base)][indices[: len(base)] == torch.arange(len(base)).unsqueeze(1)] = -1  # itself
    indices = indices.sort(dim=1).values
    distances = torch.full(indices.shape, torch.inf)
    for start in range(0, len(x), 1024):
        part = slice(start, start + 1024)
        exact = (base[indices[part].clamp(min=0)] - x[part, None]).square().sum(dim=2).sqrt()
        distances[part] = torch.where(indices[part] >= 0, exact, torch.inf)
    order = distances.argsort(dim=1, stable=True)[:, :k]
    progress(2, 2, "index of neighbors")
    return indices.gather(1, order).numpy(), distances.gather(1, order).numpy()


def _layout(x: Tensor, seed: int, progress: Progress) -> NDArray[np.float32]:
    """UMAP's coordinates `[n, 2]` of all rows of `x`; n >= 6."""
    n_neighbors = min(NEIGHBORS, len(x) - 1)
    indices, distances = _nearest(x, x, n_neighbors - 1, progress, "neighbors", own=True)
    itself = np.arange(len(x), dtype=np.int64)[:, None]
    knn = np.hstack([itself, indices]), np.hstack([np.zeros_like(itself, dtype=np.float32), distances])
    progress(0, 1, "layout")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow is absent, there is no search index: both are meant
        import numba
        from umap import UMAP

        _keep_compiled()
        threads = numba.get_num_threads()
        reducer = UMAP(
            n_neighbors=n_neighbors,
            init=_start(x, seed),
            precomputed_knn=knn,
            force_approximation_algorithm=True,  # else it ignores the neighbors given for fewer than 4,096 rows
            random_state=seed,
            n_jobs=1,
            tqdm_kwds=_epoch_bar(progress),
        )
        try:
            coordinates = reducer.fit_transform(x.numpy())
        finally:
            numba.set_num_threads(threads)
    return np.ascontiguousarray(coordinates, dtype=np.float32)


def _keep_compiled() -> None:
    """Have numba keep on disk what it compiles for UMAP: seconds in the first process, none in the next ones.

    Kept beside the packages' own files, or where numba puts it if that folder cannot be written; compiled anew when numba or a
    file changes. Where nothing can be kept, every process compiles.
    """
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in COMPILED:
            for part in list(vars(module).values()):
                if hasattr(part, "enable_caching") and hasattr(part, "py_func"):
                    with suppress(RuntimeError):  # numba found no folder that it may write
                        part.enable_caching()


def is_compiled() -> bool:
    """Whether an earlier process kept what UMAP compiles, where it usually is; loads nothing."""
    found = find_spec("umap")
    kept = () if found is None or found.origin is None else Path(found.origin).parent.glob("__pycache__/layouts.*.nbi")
    return any(True for _ in kept)


def _start(x: Tensor, seed: int) -> NDArray[np.float32]:
    """Where the layout starts: PCA scaled to ±10, with a little seeded noise so that copies can part."""
    coordinates = pca(x)
    largest = float(np.abs(coordinates).max()) or 1.0
    noise = np.random.default_rng(seed).normal(scale=1e-4, size=coordinates.shape)
    return np.asarray(coordinates * (10 / largest) + noise, dtype=np.float32)


def _placed(x: Tensor, fitted: Tensor, coordinates: NDArray[np.float32], progress: Progress) -> NDArray[np.float32]:
    """Coordinates for `x` as the mean of those of its nearest fitted rows, weighted by 1 / distance."""
    indices, distances = _nearest(x, fitted, NEIGHBORS, progress, "placing", own=False)
    same = distances == 0
    weights = np.where(same.any(axis=1, keepdims=True), same, 1 / np.maximum(distances, 1e-12))
    weights /= weights.sum(axis=1, keepdims=True)
    mean = np.einsum("nk,nkc->nc", weights, coordinates[indices])
    return np.asarray(mean, dtype=np.float32)


def _epoch_bar(progress: Progress) -> dict[str, Any]:
    """Settings for UMAP's tqdm bar that turn it into calls of `progress`, at most five a second."""
    return {
        "file": _EpochReport(progress),
        "bar_format": "{n} {total}",
        "disable": False,
        "miniters": 1,
        "mininterval": 0.2,
    }


class _EpochReport(io.TextIOBase):
    """The file that tqdm writes its bar to: each "done total" becomes one call of `progress`.

    What `progress` raises goes through UMAP to the caller. After that nothing is reported any more, since tqdm writes
    once more when its bar is thrown away.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress: Progress = progress

    def write(self, text: str) -> int:
        words = text.split()
        if len(words) == 2 and all(word.isdigit() for word in words):
            progress, self._progress = self._progress, silent
            progress(int(words[0]), int(words[1]), "layout")
            self._progress = progress
        return len(text)
