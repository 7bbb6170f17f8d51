"""What do the routes send? Points, influence rows, the list of queries and pictures as bytes, from an open run.

Pure functions of a run: no web framework, no widgets. Layouts are little endian and documented where they are made.
"""

from __future__ import annotations

import io
import json
import math
import mmap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from explorer.contracts import ImagePreview
from explorer.jobs.lesson import Lesson
from explorer.shown import NO_CLASS, named, retrained
from explorer.store import Meta, Row, Run, TopList
from explorer.store.run import Split, texts_name
from explorer.ui import load

NO_CODE = 255
NAMED = 5
"""Test predictions of each sign that a lesson numbers on the map."""
SUSPECT, WRONG, PLANTED, RETRAINED = 1, 2, 4, 8
"""Bits of a point's marks; the last where models trained without an example showed it to be memorized."""
READ, LISTED = 2**16, 2**11
"""Rows of a table that are in memory at once: as numbers, as objects of Python."""
LISTED_TEXT = 2000
"""Characters of a text that the list is sent: of a prompt the last ones, for what stands right before the answer says most."""
THUMBNAIL = 64
"""Shortest side, in pixels, to which small pictures are enlarged (whole-number steps, no smoothing)."""


def points(run: Run, layout: str) -> memoryview:
    """What the map knows of its n = train + test points, little endian, training rows first: 11 bytes a point, 12 with codes.

    uint32 train, test, q, 0; q float32 (5, or 0 where self-influence is not computed): its quantiles at 0, 1/4, 1/2, 3/4, 1;
    float32 x, y `[n]`; uint8 class `[n]`; uint8 marks `[n]`; uint8 predicted class `[n]` (255: none); and where q > 0
    uint8 code of self-influence `[train]`: how many of the quantiles at 1/255 .. 254/255 it reaches, 255 where it is not a
    number. Tables are read a block at a time, and nothing of it is kept.
    """
    meta = run.meta()
    total, (quantiles, codes) = meta.train + meta.test, _self_influence(run, meta)
    header = np.array([meta.train, meta.test, len(quantiles), 0], dtype="<u4").tobytes() + quantiles.tobytes()
    size = len(header) + 11 * total + len(codes)
    body = np.frombuffer(
        mmap.mmap(-1, size), dtype=np.uint8
    )  # goes back to the system when sent, unlike a part of the heap
    parts = np.split(body, len(header) + np.cumsum([0, 8 * total, total, total, total]))
    parts[0][:] = np.frombuffer(header, dtype=np.uint8)
    parts[1].view("<f4").reshape(total, 2)[:] = run.array(f"coordinates-{layout}")
    _put_classes(run, meta, parts[2])
    _put_marks(run, meta, parts[3])
    _put_predictions(run, meta, parts[4])
    parts[5][:] = codes
    pa.default_memory_pool().release_unused()
    return body.data


def influence(top: TopList, row: Row) -> bytes:
    """uint32 train, towards, away; float32 scale; int32 strongest rows of both signs; int8 per training row."""
    towards, away = top.towards[top.towards >= 0], top.away[top.away >= 0]
    return b"".join(
        (
            np.array([len(row.values), len(towards), len(away)], dtype="<u4").tobytes(),
            np.array([row.scale], dtype="<f4").tobytes(),
            towards.astype("<i4").tobytes(),
            away.astype("<i4").tobytes(),
            row.values.tobytes(),
        )
    )


def lesson(found: Lesson) -> bytes:
    """As `influence`, but over train + test points: the strongest are the test predictions that improved and got worse most."""
    train = len(found.train.values)
    improved, worsened = (train + part.rows[:NAMED] for part in (found.improved, found.worsened))
    return b"".join(
        (
            np.array([train + len(found.test.values), len(improved), len(worsened)], dtype="<u4").tobytes(),
            np.array([found.train.scale], dtype="<f4").tobytes(),
            improved.astype("<i4").tobytes(),
            worsened.astype("<i4").tobytes(),
            found.train.values.tobytes(),
            found.test.values.tobytes(),
        )
    )


def queries(run: Run) -> bytes:
    """The list of test predictions as JSON columns, in the order people want them; `prompts` of texts by test row."""
    meta, computed = run.meta(), run.ready()
    columns: dict[str, tuple[str, Callable[[list[Any]], list[Any]]]] = {
        "rows": ("row", list),
        "ids": ("id", lambda values: [str(value) for value in values]),
        "labels": ("label", lambda values: _begins(names(values, meta))),
        "predictions": ("prediction", lambda values: _begins(names(values, meta))),
        "confidence": ("confidence", lambda values: [_number(value) for value in values]),
        "loss": ("loss", lambda values: [_number(value) for value in values]),
        "wrong": ("wrong", lambda values: [int(value) for value in values]),
        "ready": ("row", lambda values: np.isin(values, computed).astype(int).tolist()),
    }
    parts = [f'"{name}":[{_listed(run, "queries", column, made)}]' for name, (column, made) in columns.items()]
    if meta.preview == "text":
        parts.append(f'"prompts":[{_listed(run, texts_name("test"), "prompt", _ends)}]')
    return f'{{{",".join(parts)},"kind":{json.dumps(meta.preview)},"task":{json.dumps(meta.task)}}}'.encode()


def _begins(texts: list[str]) -> list[str]:
    """Texts with at most their first `LISTED_TEXT` characters."""
    return [text if len(text) <= LISTED_TEXT else f"{text[:LISTED_TEXT]} …" for text in texts]


def _ends(texts: list[Any]) -> list[str]:
    """Texts with at most the `LISTED_TEXT` characters before what is asked."""
    return [text if len(text) <= LISTED_TEXT else f"… {text[-LISTED_TEXT:]}" for text in texts]


def _listed(run: Run, name: str, column: str, made: Callable[[list[Any]], list[Any]]) -> str:
    """A column of a table as JSON, a block at a time: objects of all of it would take a hundred times its bytes."""
    table = pq.ParquetFile(run.path / f"{name}.parquet")
    blocks = (batch[column].to_pylist() for batch in table.iter_batches(LISTED, columns=[column], use_threads=False))
    return ",".join(json.dumps(made(block), separators=(",", ":"))[1:-1] for block in blocks if block)


def names(values: Iterable[Any], meta: Meta) -> list[str]:
    """Labels or answers in words (see `explorer.shown.named`)."""
    return named(values, meta)


def thumbnail(run: Run, split: Split, row: int) -> bytes | None:
    """One picture as PNG, small ones enlarged without smoothing; None for tables, texts or rows that are not there."""
    if run.meta().preview != "image" or not 0 <= row < len(run.array(f"preview-{split}")):
        return None
    preview = run.preview(split, row)
    return png(preview) if isinstance(preview, ImagePreview) else None


def png(preview: ImagePreview, enlarged: bool = True) -> bytes:
    """The picture as PNG bytes."""
    image = Image.fromarray(preview.pixels)
    factor = max(1, THUMBNAIL // max(1, min(image.size)))
    if enlarged and factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def text(run: Run, split: str, row: int) -> dict[str, str] | None:
    """The prompt and the continuation of an example; None where the run holds no texts, or not this row."""
    meta = load.meta(run)
    sizes = {"train": meta.train, "test": meta.test}
    if meta.preview != "text" or not 0 <= row < sizes.get(split, 0):
        return None
    found = load.texts(str(run.path), "train" if split == "train" else "test")
    return {"prompt": found.prompts[row], "continuation": found.continuations[row]}


def _has_classes(meta: Meta) -> bool:
    return meta.has_classes and len(meta.classes) < NO_CLASS


def _put_classes(run: Run, meta: Meta, into: NDArray[np.uint8]) -> None:
    into[:] = NO_CLASS
    if not _has_classes(meta):
        return
    for split, start in (("train", 0), ("test", meta.train)):
        for rows, block in _blocks(run, split, ("label",)):
            into[start:][rows] = block["label"]


def _put_marks(run: Run, meta: Meta, into: NDArray[np.uint8]) -> None:
    """Expects zeros."""
    if run.has("memorization.parquet"):
        for rows, block in _blocks(run, "memorization", ("memorized",)):
            into[rows] |= block["memorized"].astype(np.uint8) * SUSPECT
    if (flagged := retrained(run)) is not None:
        into[: meta.train] |= flagged.astype(np.uint8) * RETRAINED
    if "true_label" in pq.read_schema(run.path / "train.parquet").names:
        for rows, block in _blocks(run, "train", ("label", "true_label", "copy_of")):
            planted = (block["true_label"] != block["label"]) | (block["copy_of"] >= 0)
            into[rows] |= planted.astype(np.uint8) * PLANTED
    if run.has("outcomes-train.parquet"):
        for rows, block in _blocks(run, "outcomes-train", ("wrong",)):
            into[rows] |= block["wrong"].astype(np.uint8) * WRONG
    for _, block in _blocks(run, "queries", ("row", "wrong")):
        into[meta.train + block["row"]] |= block["wrong"].astype(np.uint8) * WRONG


def _put_predictions(run: Run, meta: Meta, into: NDArray[np.uint8]) -> None:
    into[:] = NO_CLASS
    if not _has_classes(meta):
        return
    if run.has("outcomes-train.parquet"):
        for rows, block in _blocks(run, "outcomes-train", ("prediction",)):
            into[rows] = block["prediction"]
    for _, block in _blocks(run, "queries", ("row", "prediction")):
        into[meta.train + block["row"]] = block["prediction"]


def _self_influence(run: Run, meta: Meta) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Five quantiles and a code per training row (see `points`); both empty where it is not computed."""
    none = np.zeros(0, dtype="<f4"), np.zeros(0, dtype=np.uint8)
    if not run.has("memorization.parquet"):
        return none
    ordered = np.empty(meta.train, dtype=np.float32)
    for rows, block in _blocks(run, "memorization", ("self_influence",)):
        ordered[rows] = block["self_influence"]
    ordered.sort()  # what is not a number comes last
    ordered = ordered[: int(np.searchsorted(ordered, np.inf, side="right"))]
    if not len(ordered):
        return none
    codes = np.full(meta.train, NO_CODE, dtype=np.uint8)
    steps = _quantiles(ordered, np.arange(1, NO_CODE) / NO_CODE)
    for rows, block in _blocks(run, "memorization", ("self_influence",)):
        values = block["self_influence"].astype(np.float32)
        ranks = np.searchsorted(steps, values, side="right")
        codes[rows] = np.where(np.isnan(values), NO_CODE, ranks)
    return _quantiles(ordered, np.linspace(0, 1, 5)), codes


def _quantiles(ordered: NDArray[np.float32], at: NDArray[np.float64]) -> NDArray[np.float32]:
    """Of numbers in order, by linear interpolation: `np.quantile` would copy them all."""
    place = at * (len(ordered) - 1)
    below: NDArray[np.int64] = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, len(ordered) - 1)
    found: NDArray[np.float32] = (ordered[below] + (place - below) * (ordered[above] - ordered[below])).astype("<f4")
    return found


def _blocks(run: Run, table: str, names: tuple[str, ...]) -> Iterator[tuple[slice, dict[str, NDArray[Any]]]]:
    """Columns of a table, `READ` rows at a time: the others, ids above all, would take ten times the memory."""
    start = 0
    for batch in pq.ParquetFile(run.path / f"{table}.parquet").iter_batches(
        READ, columns=list(names), use_threads=False
    ):
        yield slice(start, start + len(batch)), {name: batch[name].to_numpy(zero_copy_only=False) for name in names}
        start += len(batch)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 5)
