"""What is known of a few training examples, where there may be a million? Columns in their smallest form, kept by run.

A table of a million rows takes hundreds of megabytes; these take some bytes a row: classes as small numbers, yes and
no as bits of one byte, ids compressed in blocks. Reads only the columns it keeps, and only one at a time.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from explorer.store import Run
from explorer.ui import memory

WRONG, SUSPECT, COPY, TWIN = 1, 2, 4, 8
"""Bits of an example's flags: answered wrongly, flagged as suspect, planted copy, near-duplicate of another one."""
BLOCK = 256
"""Ids compressed together: one of them costs some twenty microseconds."""


class PackedText:
    """Many short texts in little memory; a few at a time are read back."""

    def __init__(self, texts: pa.Array) -> None:
        texts = pc.cast(texts, pa.large_binary())
        ends = np.frombuffer(texts.buffers()[1], dtype=np.int64)[texts.offset :][: len(texts) + 1]
        letters = np.frombuffer(texts.buffers()[2] or b"", dtype=np.uint8)
        self._blocks = []
        for first in range(0, len(texts), BLOCK):
            inside = ends[first : first + BLOCK + 1]
            sizes = np.diff(inside).astype("<u4").tobytes()
            self._blocks.append(zlib.compress(sizes + letters[inside[0] : inside[-1]].tobytes(), 1))
        self._size = len(texts)

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, rows: int | np.integer[Any]) -> str: ...

    @overload
    def __getitem__(self, rows: Sequence[int] | NDArray[Any]) -> NDArray[np.object_]: ...

    def __getitem__(self, rows: Any) -> Any:
        """One text, or those of some rows as an array `[k]`: what an array of numbers does with the same rows."""
        return (
            self._one(int(rows))
            if np.ndim(rows) == 0
            else np.array([self._one(int(row)) for row in rows], dtype=object)
        )

    def at(self, rows: Sequence[int]) -> list[str]:
        """The texts of some rows, in the order asked for."""
        return [self._one(int(row)) for row in rows]

    def _one(self, row: int) -> str:
        raw = zlib.decompress(self._blocks[row // BLOCK])
        sizes = np.frombuffer(raw, dtype="<u4", count=min(BLOCK, self._size - row // BLOCK * BLOCK))
        start = sizes.nbytes + int(sizes[: row % BLOCK].sum())
        return raw[start : start + int(sizes[row % BLOCK])].decode()


Labels = NDArray[Any] | PackedText


@dataclass(frozen=True)
class Columns:
    """What tiles say of training examples, one entry a row; `true_labels` is None unless faults were planted.

    Labels and predictions are class numbers, values of a regression, or texts of sequences.
    """

    ids: PackedText
    labels: Labels
    predictions: Labels
    flags: NDArray[np.uint8]
    true_labels: Labels | None


def columns(run: Run, stamp: str) -> Columns:
    """The columns of a run; `stamp` says which of its files are there (`load.stamp`)."""
    return _columns(str(run.path), stamp)


@lru_cache(maxsize=4)
def _columns(path: str, stamp: str) -> Columns:  # noqa: ARG001 - part of the cache's key
    run = Run.at(Path(path))
    known, outcomes = run.path / "train.parquet", run.path / "outcomes-train.parquet"
    flags = numbers(outcomes, "wrong").astype(np.uint8) * WRONG
    if run.has("memorization.parquet"):
        flags |= numbers(run.path / "memorization.parquet", "memorized").astype(np.uint8) * SUSPECT
    planted = "true_label" in pq.read_schema(known).names
    if planted:
        flags |= (numbers(known, "copy_of") >= 0).astype(np.uint8) * COPY
    twins = run.near_duplicates()
    if twins is not None:
        flags |= twins.astype(np.uint8) * TWIN
    made = Columns(
        ids=texts(known, "id"),
        labels=_labels(known, "label"),
        predictions=_labels(outcomes, "prediction"),
        flags=flags,
        true_labels=_labels(known, "true_label") if planted else None,
    )
    memory.trim()
    return made


def numbers(file: Path, name: str) -> NDArray[Any]:
    """One column of a table of a run, and nothing else of it."""
    values: NDArray[Any] = pq.read_table(file, columns=[name], use_threads=False)[name].to_numpy()
    return values


def texts(file: Path, name: str) -> PackedText:
    """One column of texts of a table of a run, and nothing else of it."""
    return PackedText(
        pq.read_table(file, columns=[name], use_threads=False)[name].cast(pa.large_string()).combine_chunks()
    )


def _labels(file: Path, name: str) -> Labels:
    kind = pq.read_schema(file).field(name).type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return texts(file, name) if is_text else _small(numbers(file, name))


def _small(values: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers in the smallest type that holds them all; real ones as float32."""
    if not np.issubdtype(values.dtype, np.integer):
        return values.astype(np.float32)
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    return values.astype(np.promote_types(np.min_scalar_type(low), np.min_scalar_type(high)))
