"""What if the model wants its inputs exactly as the user has them? Arrays that reach it unchanged.

Checks and previews are those of `dataset_from_arrays`; only what the model is given differs. Reads no file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from explorer.contracts import Dataset, Examples, Preview
from explorer.sources.arrays import dataset_from_arrays

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class AsGiven:
    """Examples whose model inputs are `inputs` of any shape `[n, ...]`, and whose looks are those of `shown`."""

    shown: Examples
    inputs: NDArray[Any]

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def key(self) -> str:
        """The key of the shown examples and the shape that the model gets."""
        return f"{self.shown.key}-given-{self.inputs.dtype.str}{self.inputs.shape}"

    @property
    def ids(self) -> NDArray[np.str_]:
        """Unique ids `[n]`."""
        return self.shown.ids

    @property
    def labels(self) -> NDArray[Any]:
        """Targets `[n]`."""
        return self.shown.labels

    def batch(self, rows: NDArray[np.int64]) -> Tensor:
        """The inputs as they are: floats as float32, whole numbers (token ids) as int64, uint8 pixels as 0..255."""
        import torch

        chosen = torch.from_numpy(np.ascontiguousarray(self.inputs[np.asarray(rows, dtype=np.int64)]))
        return chosen.float() if chosen.is_floating_point() or chosen.dtype == torch.uint8 else chosen.long()

    def preview(self, row: int) -> Preview:
        """What a person sees."""
        return self.shown.preview(row)


def dataset_as_given(
    x_train: NDArray[Any],
    y_train: NDArray[Any],
    x_test: NDArray[Any],
    y_test: NDArray[Any],
    *,
    n_classes: int | None,
    keep_seen: bool,
) -> Dataset:
    """A checked dataset whose inputs reach the model unchanged; inputs of unusual shape are shown as tables.

    Raises:
        DataError: as `dataset_from_arrays`.
    """
    data = dataset_from_arrays(
        "your data",
        _showable(x_train),
        y_train,
        _showable(x_test),
        y_test,
        n_classes=n_classes,
        keep_seen=keep_seen,
    )
    kept = np.isin([f"test-{row}" for row in range(len(x_test))], data.test.ids)
    return replace(data, train=AsGiven(data.train, x_train), test=AsGiven(data.test, x_test[kept]))


def _showable(inputs: NDArray[Any]) -> NDArray[Any]:
    """Images and tables as they are, anything else as one row of values an example."""
    image = inputs.ndim == 3 or (inputs.ndim == 4 and (inputs.shape[1] in (1, 3) or inputs.shape[3] in (1, 3)))
    return inputs if image or inputs.ndim < 2 else inputs.reshape(len(inputs), -1)
