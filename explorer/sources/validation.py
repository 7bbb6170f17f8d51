"""Are these arrays something the explorer can explain, and what is wrong with them if not?

Checks and brings arrays into the one form the rest relies on; it repairs nothing, guesses no meaning and reads no file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from explorer.contracts import Task
from explorer.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Layout = Literal["table", "image"]

UNDERSTOOD = (
    "[n, columns] for a table, [n, height, width] for gray images, [n, height, width, 3] or [n, 3, height, width] "
    "for color images (1 in place of 3 for gray)"
)


def as_numbers(name: str, values: ArrayLike | Tensor) -> NDArray[Any]:
    """`values` as a NumPy array of booleans, integers or floats; tensors come to the CPU without their gradient.

    Raises DataError for ragged lists, objects (None, mixed types), text, dates and complex numbers.
    """
    import torch

    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DataError(f"Expected {name} to be a regular array of numbers; found {error}.") from error
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"Expected {name} to hold numbers; found an array of dtype {array.dtype}. Convert it to integers or floats "
            f"(for class labels: numbers 0..C-1, with the names in `classes`)."
        )
    return array


def as_float32(name: str, array: NDArray[Any]) -> NDArray[np.float32]:
    """`array` as finite float32; -0.0 becomes 0.0, so that equal rows have equal bytes.

    Raises DataError with the count and the first row of NaN, infinite or too large values.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        floats = array.astype(np.float32) + np.float32(0)
    bad = ~np.isfinite(floats)
    if bad.any():
        raise DataError(
            f"Expected finite numbers in {name}; found {int(bad.sum())} of {bad.size} values that are NaN, infinite or "
            f"too large for float32, the first in row {int(np.argwhere(bad)[0, 0])}. Remove those rows or fill them."
        )
    return np.asarray(floats, dtype=np.float32)


def check_pair(x_train: NDArray[Any], x_test: NDArray[Any]) -> None:
    """Raises DataError unless both have rows of one and the same non-empty shape and, for images, one scale."""
    for name, array in (("x_train", x_train), ("x_test", x_test)):
        if array.size == 0 or array.ndim == 0:
            raise DataError(f"Expected at least one example in {name}; found an array of shape {list(array.shape)}.")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DataError(
            f"Expected training and test examples of one shape; found x_train {list(x_train.shape)} and "
            f"x_test {list(x_test.shape)}. Prepare both in the same way."
        )
    if x_train.ndim > 2 and (x_train.dtype == np.uint8) != (x_test.dtype == np.uint8):
        raise DataError(
            f"Expected x_train and x_test to hold pixels on one scale; found {x_train.dtype} and {x_test.dtype} "
            f"(uint8 is 0..255, anything else is used as it is). Convert one of them."
        )


def check_lengths(x: NDArray[Any], y: NDArray[Any], part: str) -> None:
    """Raises DataError unless there is one target per example; `part` is "train" or "test"."""
    if len(x) != len(y):
        raise DataError(
            f"Expected one target for each example; found {len(x)} rows in x_{part} and {len(y)} in y_{part}."
        )


def as_inputs(name: str, array: NDArray[Any]) -> tuple[Layout, NDArray[Any]]:
    """The layout, and tables as float32 `[n, d]` or images as `[n, channels, h, w]` (uint8 stays, else float32).

    Axis 1 counts as channels only when it is 1 or 3 and the last axis is neither. Raises DataError for other shapes.
    """
    shape = array.shape
    if array.ndim == 2:
        return "table", as_float32(name, array)
    if array.ndim == 3:
        images = array[:, None]
    elif array.ndim == 4 and shape[3] in (1, 3):
        images = array.transpose(0, 3, 1, 2)
    elif array.ndim == 4 and shape[1] in (1, 3):
        images = array
    else:
        raise DataError(f"Expected {name} of shape {UNDERSTOOD}; found {list(shape)}. Reshape it.")
    return "image", np.ascontiguousarray(images if images.dtype == np.uint8 else as_float32(name, images))


def as_targets(name: str, values: ArrayLike | Tensor) -> NDArray[Any]:
    """Targets `[n]` from `[n]` or `[n, 1]`, as they are; raises DataError for any other shape and for non-numbers."""
    array = as_numbers(name, values)
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim != 1:
        raise DataError(
            f"Expected one target per example in {name}, shape [n]; found {list(array.shape)}. "
            f"Turn one-hot rows into class numbers with argmax. Sequences of tokens are whole numbers "
            f"[n, length], with as many targets."
        )
    return array


def resolve_task(y_train: NDArray[Any], y_test: NDArray[Any], task: Task | None, classes: Sequence[str] | None) -> Task:
    """`task` if given, else regression for float targets and classification for integer ones.

    Raises DataError when the two targets disagree, or class names come with regression.
    """
    floats = [array.dtype.kind == "f" for array in (y_train, y_test)]
    if task is None and floats[0] != floats[1]:
        raise DataError(
            f"Expected y_train and y_test to be both integers (classes) or both floats (regression); found "
            f"{y_train.dtype} and {y_test.dtype}. Convert one of them, or give `task`."
        )
    found: Task = task or ("regression" if floats[0] else "classification")
    if found == "regression" and classes is not None:
        raise DataError(
            f"Expected no class names for regression; found {len(classes)} names and targets of {y_train.dtype}. "
            f"Leave out `classes`, or give integer labels."
        )
    return found


def as_labels(name: str, array: NDArray[Any], count: int | None) -> NDArray[np.int64]:
    """Class numbers as int64; raises DataError for fractions, negative numbers and numbers from `count` up."""
    if array.dtype.kind == "f":
        fractions = np.flatnonzero(~np.isfinite(array) | (array != np.round(array)))
        if len(fractions):
            row = int(fractions[0])
            raise DataError(f"Expected whole class numbers in {name}; found {array[row]} in row {row}.")
    outside = (array < 0) if count is None else (array < 0) | (array >= count)
    if outside.any():
        row = int(np.argmax(outside))
        wanted = "0 or more" if count is None else f"0..{count - 1} ({count} classes)"
        raise DataError(f"Expected class numbers {wanted} in {name}; found {array[row]} in row {row}. Renumber them.")
    return np.asarray(array, dtype=np.int64)


def known_count(classes: Sequence[str] | None, n_classes: int | None) -> int | None:
    """How many classes there are, by their names or by `n_classes`; None if neither is given.

    Raises DataError when the two disagree and for fewer than two classes.
    """
    if classes is not None and n_classes is not None and len(classes) != n_classes:
        raise DataError(f"Expected a name for each of {n_classes} classes; found {len(classes)} names.")
    count = n_classes if classes is None else len(classes)
    return None if count is None else _at_least_two(count)


def class_names(
    y_train: NDArray[np.int64], y_test: NDArray[np.int64], classes: Sequence[str] | None, count: int | None
) -> tuple[str, ...]:
    """The given names, or "0".."C-1" for C = `count`, or the largest label + 1 where that is not known.

    Raises DataError for fewer than two classes, for repeated names, and, with neither names nor count, for more
    classes than training rows.
    """
    if classes is not None:
        names = tuple(map(str, classes))
        if len(set(names)) != len(names):
            raise DataError(f"Expected each class name once; found {_repeated(names)!r} more than once.")
        return names
    largest = int(max(y_train.max(), y_test.max()))
    if count is None and largest >= len(y_train):
        raise DataError(
            f"Expected class numbers 0..C-1 with no more classes than training rows; found the label {largest} and "
            f"{len(y_train)} rows. Renumber the classes, or give task='regression' for numeric targets."
        )
    return tuple(map(str, range(_at_least_two(largest + 1) if count is None else count)))


def _at_least_two(count: int) -> int:
    if count < 2:
        raise DataError(
            f"Expected at least two classes; found {count}. With one answer there is nothing to explain; give float "
            f"targets or task='regression' for numeric ones."
        )
    return count


def as_ids(ids: Sequence[object] | NDArray[Any] | None, n_train: int, n_test: int) -> NDArray[np.str_]:
    """Unique ids of all training and then all test rows, `[n_train + n_test]`; default "train-17", "test-5".

    `ids` may name the training rows only. Raises DataError for any other count, for objects and for repeated ids.
    """
    test = [f"test-{row}" for row in range(n_test)]
    if ids is None:
        return np.array([f"train-{row}" for row in range(n_train)] + test)
    given = np.asarray(ids)
    if given.dtype.kind not in "Uiu" or given.ndim != 1:
        raise DataError(f"Expected ids to be a list of text or integers; found dtype {given.dtype}, {given.ndim}-D.")
    if len(given) not in (n_train, n_train + n_test):
        raise DataError(
            f"Expected {n_train} ids (training rows) or {n_train + n_test} (training rows, then test rows); "
            f"found {len(given)}."
        )
    every = given.astype(np.str_).tolist() + (test if len(given) == n_train else [])
    if len(set(every)) != len(every):
        raise DataError(f"Expected ids that are unique over training and test rows; found {_repeated(every)!r} twice.")
    return np.array(every)


def as_feature_names(names: Sequence[str] | None, layout: Layout, width: int) -> tuple[str, ...]:
    """One name per column of a table, default "feature 0".. ; raises DataError for another count or for images."""
    if layout == "image":
        if names is not None:
            raise DataError(f"Expected no feature names for images; found {len(names)}. Leave them out.")
        return ()
    if names is None:
        return tuple(f"feature {column}" for column in range(width))
    if len(names) != width:
        raise DataError(f"Expected {width} feature names, one per column; found {len(names)}.")
    return tuple(map(str, names))


def repeats_of(known: NDArray[Any], rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of `rows` are byte for byte among `known`, `[len(rows)]`. One hash per row: 70,000 images in .2 s."""
    seen = {_digest(row) for row in known}
    return np.array([_digest(row) in seen for row in rows], dtype=np.bool_)


def _digest(row: NDArray[Any]) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _repeated(values: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(value for value in values if value in seen or seen.add(value))  # type: ignore[func-returns-value]
