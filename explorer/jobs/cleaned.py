"""What does the training set look like after a change? An `.npz` file that `--data` takes, and the list of what was changed.

Writes data as the source gave it, in raw units; it trains nothing and judges no change.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from explorer.contracts import Dataset, Examples
from explorer.errors import DataError
from explorer.remedies import Change
from explorer.sources.arrays import ArrayExamples, TableLook
from explorer.sources.planted import Rearranged
from explorer.store import write_bytes
from explorer.store.export import encode

DATA, CHANGES = "cleaned.npz", "changes.csv"
LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""Time of every member of the archive: the same content gives the same bytes."""


def write_cleaned(folder: Path, dataset: Dataset, change: Change) -> None:
    """`cleaned.npz` (x_train, y_train, x_test, y_test, ids, classes, features) and `changes.csv`; nothing where they are there.

    Downweighted data has an array more, `weights` `[n]`, that `--data` does not read.

    Raises:
        DataError: the examples are not arrays.
    """
    if not (folder / DATA).exists():
        write_bytes(folder / DATA, archive(cleaned(dataset, change)))
    if not (folder / CHANGES).exists():
        write_bytes(folder / CHANGES, encode(changes(dataset, change), "csv"))


def cleaned(dataset: Dataset, change: Change) -> dict[str, NDArray[Any]]:
    """The arrays of the data after the change, in the order of the training rows that stay."""
    train, test = dataset.train, dataset.test
    n = len(train)
    labels, weights = np.array(train.labels), np.ones(n, dtype=np.float32)
    if change.labels is not None:
        labels[change.rows] = change.labels
    if change.action != "relabel":
        weights[change.rows] = 0 if change.action == "drop" else change.weight
    stays = np.flatnonzero(weights > 0)
    look = _look(train)
    arrays: dict[str, NDArray[Any]] = {
        "x_train": inputs_of(train)[stays],
        "y_train": labels[stays],
        "x_test": inputs_of(test),
        "y_test": np.asarray(test.labels),
        "ids": np.concatenate([train.ids[stays], test.ids]).astype(np.str_),
    }
    if dataset.classes:
        arrays["classes"] = np.array(dataset.classes)
    if isinstance(look, TableLook):
        arrays["features"] = np.array(look.names)
    return arrays | ({"weights": weights} if change.action == "downweight" else {})


def changes(dataset: Dataset, change: Change) -> pd.DataFrame:
    """One row for each changed example: id, action, old label, new label (none for what is dropped), weight."""
    old = np.asarray(dataset.train.labels)[change.rows]
    new = old if change.labels is None else np.asarray(change.labels)
    weight = {"relabel": 1.0, "drop": 0.0, "downweight": change.weight}[change.action]
    return pd.DataFrame(
        {
            "id": dataset.train.ids[change.rows].astype(str),
            "action": change.action,
            "old label": _named(dataset, old),
            "new label": "" if change.action == "drop" else _named(dataset, new),
            "weight": weight,
        }
    )


def inputs_of(examples: Examples) -> NDArray[Any]:
    """The inputs as the source gave them, `[n, ...]`: pixels, or columns in their units."""
    if isinstance(examples, Rearranged):
        return inputs_of(examples.inner)[examples.rows]
    if isinstance(examples, ArrayExamples):
        return examples.inputs
    raise DataError(
        f"Expected examples made of arrays, to write them to a file; found {type(examples).__name__}. Use the list of "
        "changes instead."
    )


def archive(arrays: dict[str, NDArray[Any]]) -> bytes:
    """The arrays as the bytes of an `.npz` file, the same for the same arrays."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, values in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(values), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", LONG_AGO)
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, member.getvalue())
    return buffer.getvalue()


def _look(examples: Examples) -> object:
    inner = examples.inner if isinstance(examples, Rearranged) else examples
    return getattr(inner, "look", None)


def _named(dataset: Dataset, labels: NDArray[Any]) -> list[Any]:
    return [dataset.classes[int(label)] if dataset.classes else float(label) for label in labels]
