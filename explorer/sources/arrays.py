"""What do examples look like when they are arrays in memory: to a model, and to a person?

The one implementation of `contracts.Examples`, and the way from arrays to a `Dataset`; it reads no file and knows no
model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from explorer.contracts import Dataset, ImagePreview, Preview, TablePreview, Task
from explorer.errors import DataError, SettingsError
from explorer.sources import validation as check

if TYPE_CHECKING:
    from torch import Tensor

TASKS: tuple[Task, ...] = ("classification", "regression")
"""Tasks with one target an example; sequences are made by `token_arrays`."""


@dataclass(frozen=True, eq=False)
class ImageLook:
    """How float images are shown: `low`..`high`, the range of all training pixels, becomes 0..255."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class TableLook:
    """How a table is standardized and shown: names, training mean and standard deviation per column, `[d]`.

    `std` is 0 for a column that is constant in training.
    """

    names: tuple[str, ...]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def standardize(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """(value - mean) / std, in training standard deviations, `[..., d]`; 0 for a column constant in training."""
        centered = rows.astype(np.float64) - self.mean
        scaled = np.divide(centered, self.std, out=np.zeros_like(centered), where=self.std > 0)
        return scaled.astype(np.float32)


@dataclass(frozen=True, eq=False)
class ArrayExamples:
    """Examples held in memory: images `[n, channels, h, w]` (uint8 or float32) or tables `[n, d]` (float32, raw units).

    Build through `dataset_from_arrays`, which checks what is taken for granted here: finite values, matching
    lengths, unique ids. The arrays are kept as read-only views, not copied.
    """

    inputs: NDArray[Any]
    labels: NDArray[Any]
    ids: NDArray[np.str_]
    look: ImageLook | TableLook

    def __post_init__(self) -> None:
        for name in ("inputs", "labels", "ids"):
            view = getattr(self, name).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    def __len__(self) -> int:
        return len(self.inputs)

    @cached_property
    def key(self) -> str:
        """SHA-256 over inputs, targets, ids and, for tables, the mean and deviation that `batch` uses."""
        digest = hashlib.sha256(json.dumps(self.ids.tolist()).encode())
        scaling = (self.look.mean, self.look.std) if isinstance(self.look, TableLook) else ()
        for array in (self.inputs, self.labels, *scaling):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def batch(self, rows: NDArray[np.int64]) -> Tensor:
        """Model inputs, float32: uint8 pixels / 255, float pixels as they are, table columns standardized."""
        import torch

        chosen = self.inputs[np.asarray(rows, dtype=np.int64)]
        if isinstance(self.look, TableLook):
            chosen = self.look.standardize(chosen)
        values = torch.from_numpy(chosen)
        return values.float().div_(255) if values.dtype == torch.uint8 else values

    def preview(self, row: int) -> Preview:
        """The picture, or the row in raw units with each value's distance from the training mean."""
        values = self.inputs[row]
        if isinstance(self.look, TableLook):
            return TablePreview(self.look.names, values, self.look.standardize(values))
        if values.dtype != np.uint8:
            span = self.look.high - self.look.low
            share = (values.astype(np.float64) - self.look.low) / (span or 1.0)
            values = np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
        return ImagePreview(values[0] if len(values) == 1 else values.transpose(1, 2, 0))


def dataset_from_arrays(
    name: str,
    x_train: ArrayLike | Tensor,
    y_train: ArrayLike | Tensor,
    x_test: ArrayLike | Tensor,
    y_test: ArrayLike | Tensor,
    *,
    ids: Sequence[object] | NDArray[Any] | None = None,
    classes: Sequence[str] | None = None,
    feature_names: Sequence[str] | None = None,
    task: Task | None = None,
    n_classes: int | None = None,
    keep_seen: bool = False,
) -> Dataset:
    """A checked `Dataset` from arrays or tensors; anything that does not fit is a DataError naming array and row.

    Inputs are `[n, d]` (table), `[n, h, w]`, `[n, h, w, 1|3]` or `[n, 1|3, h, w]` (images). Integer targets are class
    numbers 0..C-1 and float targets are regression, unless `task` says otherwise. `ids` names the training rows, or
    training rows and then test rows. `n_classes` is C where there are no names, and means nothing for regression.
    Test rows whose input is also a training input are left out, or kept in their places with `keep_seen`; `notes` says
    so either way.
    """
    if task is not None and task not in TASKS:
        raise SettingsError(f"Expected task to be one of {', '.join(TASKS)}; found {task!r}.")
    raw = check.as_numbers("x_train", x_train), check.as_numbers("x_test", x_test)
    targets = check.as_targets("y_train", y_train), check.as_targets("y_test", y_test)
    check.check_pair(*raw)
    check.check_lengths(raw[0], targets[0], "train")
    check.check_lengths(raw[1], targets[1], "test")
    train, test, look = _inputs(*raw, feature_names)
    task = check.resolve_task(*targets, task, classes)
    (y_train, y_test), names = _targets(*targets, task, classes, n_classes)
    every_id = check.as_ids(ids, len(train), len(test))
    keep, notes = _held_out(train, test, keep_seen)
    return Dataset(
        name,
        task,
        train=ArrayExamples(train, y_train, every_id[: len(train)], look),
        test=ArrayExamples(test[keep], y_test[keep], every_id[len(train) :][keep], look),
        classes=names,
        notes=(*notes, *_class_notes(y_train, y_test[keep], names)),
    )


def _inputs(
    raw_train: NDArray[Any], raw_test: NDArray[Any], feature_names: Sequence[str] | None
) -> tuple[NDArray[Any], NDArray[Any], ImageLook | TableLook]:
    """Training and test inputs in the form that `ArrayExamples` holds, and how both are shown."""
    layout, train = check.as_inputs("x_train", raw_train)
    _, test = check.as_inputs("x_test", raw_test)
    columns = check.as_feature_names(feature_names, layout, train.shape[1])
    return train, test, _table_look(train, columns) if layout == "table" else _image_look(train)


def _targets(
    y_train: NDArray[Any], y_test: NDArray[Any], task: Task, classes: Sequence[str] | None, n_classes: int | None
) -> tuple[tuple[NDArray[Any], NDArray[Any]], tuple[str, ...]]:
    """(Training, test) targets as int64 or float32 `[n]`, and class names (none for regression)."""
    if task == "regression":
        return (check.as_float32("y_train", y_train), check.as_float32("y_test", y_test)), ()
    count = check.known_count(classes, n_classes)
    labels = check.as_labels("y_train", y_train, count), check.as_labels("y_test", y_test, count)
    return labels, check.class_names(*labels, classes, count)


def _image_look(train: NDArray[Any]) -> ImageLook:
    return ImageLook(float(train.min()), float(train.max()))


def _table_look(train: NDArray[np.float32], names: tuple[str, ...]) -> TableLook:
    varies = train.max(axis=0) > train.min(axis=0)
    mean, std = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    return TableLook(names, mean, std * varies)


def _held_out(train: NDArray[Any], test: NDArray[Any], keep_seen: bool) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Which test rows stay, `[n_test]`, and a note on those that are training inputs; DataError if none stays."""
    repeated = check.repeats_of(train, test)
    count = int(repeated.sum())
    if count == len(test) and not keep_seen:
        raise DataError(
            f"Expected test examples that the model was not trained on; found that all {count} rows of x_test have the "
            f"same input as a training row. Give held-out examples."
        )
    verb, left = ("has", "is") if count == 1 else ("have", "are")
    note = f"{count} of {len(test)} test rows {verb} the same input as a training row"
    if keep_seen:
        return np.ones(len(test), dtype=np.bool_), (note,) if count else ()
    return ~repeated, (f"{note} and {left} left out of the queries",) if count else ()


def _class_notes(train: NDArray[Any], test: NDArray[Any], classes: tuple[str, ...]) -> tuple[str, ...]:
    """One note for each class that the test rows ask about in vain, and one for each class they never ask about."""
    if not classes:
        return ()
    trained, asked = (np.bincount(labels, minlength=len(classes)) for labels in (train, test))
    unknown = [f"class {classes[c]} has no training row" for c in np.flatnonzero((trained == 0) & (asked > 0))]
    unasked = [f"class {classes[c]} has no test row" for c in np.flatnonzero(asked == 0)]
    return (*unknown, *unasked)
