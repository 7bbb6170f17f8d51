"""Which class helps or hurts which? Mean influence of the training examples of a class on the predictions of a class.

Asks the method for one weighted sum a test class, so the query x train matrix never exists. Regression has no classes
and writes nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from explorer.contracts import Dataset, Fitted, Progress, Queries, silent
from explorer.store import Run, write_array
from explorer.store.run import CLASS_INFLUENCE, CLASS_MATRIX

ELEMENTS = 20_000_000
"""Mean influences on single test classes (classes x training examples) that are held at once, and kept on disk (80 MB)."""


def write_classes(run: Run, fitted: Fitted, data: Dataset, progress: Progress = silent) -> None:
    """`class-influence.npy` where it is small enough, then `class-matrix.npy`, whose presence says that all is done."""
    if data.task != "classification" or run.has(CLASS_MATRIX):
        return
    matrix, examples = class_influence(fitted, data, progress)
    if examples is not None:
        write_array(run.path / CLASS_INFLUENCE, examples)
    write_array(run.path / CLASS_MATRIX, matrix)


def class_influence(
    fitted: Fitted, data: Dataset, progress: Progress = silent
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Mean influence for the target `label` as `[training class, test class]` and as `[test class, train]`.

    Each is a mean over *all* test examples of the class, whichever queries the run explains, and the first also over all
    training examples of a class; NaN where a class has no example. The second is None beyond `ELEMENTS`.
    Cost: one pass of the network over the test set, and one contraction a class.
    """
    classes, train = len(data.classes), len(data.train)
    given, asked = np.asarray(data.train.labels), np.asarray(data.test.labels)
    sizes = np.bincount(given, minlength=classes)
    matrix = np.full((classes, classes), np.nan, dtype=np.float32)
    kept = np.full((classes, train), np.nan, dtype=np.float32) if classes * train <= ELEMENTS else None
    step = max(1, ELEMENTS // train)
    for start in range(0, classes, step):
        wanted = np.unique(asked[(asked >= start) & (asked < start + step)])
        if not len(wanted):
            continue
        means = _means(fitted, data, wanted, progress)
        for test_class, row in zip(wanted, means, strict=True):
            sums = np.bincount(given, weights=row, minlength=classes)
            np.divide(sums, sizes, out=matrix[:, test_class], where=sizes > 0, casting="same_kind")
        if kept is not None:
            kept[wanted] = means
    return matrix, kept


def _means(fitted: Fitted, data: Dataset, wanted: NDArray[np.int64], progress: Progress) -> NDArray[np.float32]:
    """Mean influence of every training example on the test examples of each wanted class, `[wanted, train]`."""
    labels = np.asarray(data.test.labels)
    rows = np.flatnonzero(np.isin(labels, wanted)).astype(np.int64)
    belongs = labels[rows] == wanted[:, None]
    weights = torch.from_numpy((belongs / belongs.sum(1, keepdims=True)).astype(np.float32))
    means: NDArray[np.float32] = fitted.weighted(Queries(data.test, rows, "label"), weights, progress).numpy()
    return means
