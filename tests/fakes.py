"""The smallest things that satisfy the seams: for tests only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explorer.contracts import Preview, TablePreview


class ListExamples:
    """Examples kept as a list of input tensors, one per row."""

    def __init__(self, inputs: Sequence[Tensor], labels: NDArray[Any], prefix: str = "row") -> None:
        self.inputs = list(inputs)
        self.labels = labels
        self.ids = np.array([f"{prefix}{row}" for row in range(len(self.inputs))])

    @property
    def key(self) -> str:
        content = b"".join(x.contiguous().numpy().tobytes() for x in self.inputs) + self.labels.tobytes()
        return hashlib.sha256(content).hexdigest()

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, rows: NDArray[np.int64]) -> Tensor:
        return (
            torch.stack([self.inputs[row] for row in rows])
            if len(rows)
            else self.inputs[0].new_empty(0, *self.inputs[0].shape)
        )

    def preview(self, row: int) -> Preview:
        values = self.inputs[row].flatten().numpy()
        return TablePreview(tuple(f"x{i}" for i in range(values.size)), values, np.zeros_like(values))


def blobs(n: int, shape: tuple[int, ...] = (6,), classes: int = 3, seed: int = 0, prefix: str = "row") -> ListExamples:
    """Classes as overlapping Gaussian clouds around centers that do not depend on `seed`."""
    centers = np.random.default_rng(99).normal(size=(classes, *shape))
    draw = np.random.default_rng(seed)
    labels = draw.integers(classes, size=n)
    inputs = centers[labels] + draw.normal(size=(n, *shape))
    return ListExamples(torch.tensor(inputs, dtype=torch.float32).unbind(), labels.astype(np.int64), prefix)


def line(n: int, width: int = 4, seed: int = 0, prefix: str = "row") -> ListExamples:
    """Regression: a fixed linear function of the inputs plus noise of deviation 0.1."""
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(n, width)).astype(np.float32)
    targets = inputs @ np.linspace(-1, 1, width) + 0.1 * draw.normal(size=n)
    return ListExamples(torch.tensor(inputs).unbind(), targets.astype(np.float32), prefix)
