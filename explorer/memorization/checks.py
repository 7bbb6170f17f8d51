"""Are these numbers what a score can be made of? The checks that all parts of this room share.

Raises in words; computes nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from explorer.errors import DataError


def vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """One finite number for each example, as float64 `[n]`.

    Raises:
        DataError: another shape, or a value is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise DataError(f"Expected {name} as one number for each example; found shape {array.shape}.")
    check_finite(array, name)
    return array


def table(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """One finite number for each epoch and example, as float64 `[epochs, n]` of an epoch or more.

    Raises:
        DataError: another shape, no epoch, or a value is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not array.shape[0]:
        raise DataError(f"Expected {name} as [epochs, examples] with an epoch or more; found shape {array.shape}.")
    check_finite(array, name)
    return array


def check_finite(array: NDArray[np.float64], name: str) -> None:
    """Raises `DataError` with the number of values that are not finite."""
    wrong = int((~np.isfinite(array)).sum())
    if wrong:
        raise DataError(
            f"Expected finite {name}; found {wrong} of {array.size} not finite. "
            "Training may have diverged: lower the rate and train again."
        )
