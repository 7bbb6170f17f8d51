"""What do the routes send? Points, influence rows, the list of queries and pictures as bytes, from an open run.

Pure functions of a run: no web framework, no widgets. Layouts are little endian and documented where they are made.
"""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from explorer.contracts import ImagePreview, Target
from explorer.store import Meta, Run
from explorer.store.run import Split

NO_CLASS = 255
MEMORIZED, WRONG, PLANTED = 1, 2, 4
"""Bits of a point's marks."""
THUMBNAIL = 64
"""Shortest side, in pixels, to which small pictures are enlarged (whole-number steps, no smoothing)."""


def points(run: Run, layout: str) -> bytes:
    """uint32 train, test, 0, 0; float32 x, y per point (train first); uint8 class per point; uint8 marks per point."""
    meta = run.meta()
    xy = np.asarray(run.array(f"coordinates-{layout}"), dtype="<f4")
    header = np.array([meta.train, meta.test, 0, 0], dtype="<u4")
    return b"".join((header.tobytes(), xy.tobytes(), _classes(run, meta).tobytes(), _marks(run, meta).tobytes()))


def influence(run: Run, target: Target, query: int) -> bytes | None:
    """uint32 train, towards, away; float32 scale; int32 strongest rows of both signs; int8 per training row.

    None while it is not computed.
    """
    row, top = run.row(query, target), run.top(query, target)
    if row is None or top is None:
        return None
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


def queries(run: Run) -> bytes:
    """The list of test predictions as JSON columns, in the order people want them."""
    meta, table = run.meta(), run.table("queries")
    ready = np.isin(table["row"].to_numpy(), run.ready())
    columns = {
        "rows": table["row"].tolist(),
        "ids": table["id"].astype(str).tolist(),
        "labels": names(table["label"], meta),
        "predictions": names(table["prediction"], meta),
        "confidence": [_number(value) for value in table["confidence"]],
        "loss": [_number(value) for value in table["loss"]],
        "wrong": table["wrong"].astype(int).tolist(),
        "ready": ready.astype(int).tolist(),
        "kind": meta.preview,
        "task": meta.task,
    }
    return json.dumps(columns, separators=(",", ":")).encode()


def names(values: pd.Series[Any] | NDArray[Any], meta: Meta) -> list[str]:
    """Class names, or values of a regression in short form."""
    if meta.task == "classification":
        return [meta.classes[int(value)] for value in values]
    return [f"{float(value):.4g}" for value in values]


def thumbnail(run: Run, split: Split, row: int) -> bytes | None:
    """One picture as PNG, small ones enlarged without smoothing; None for tables or rows that are not there."""
    if run.has(f"unusual-{split}.npy") or not 0 <= row < len(run.array(f"preview-{split}")):
        return None
    preview = run.preview(split, row)
    return png(preview) if isinstance(preview, ImagePreview) else None


def png(preview: ImagePreview) -> bytes:
    """The picture as PNG bytes."""
    image = Image.fromarray(preview.pixels)
    factor = max(1, THUMBNAIL // max(1, min(image.size)))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _classes(run: Run, meta: Meta) -> NDArray[np.uint8]:
    total = meta.train + meta.test
    if meta.task != "classification" or len(meta.classes) >= NO_CLASS:
        return np.full(total, NO_CLASS, dtype=np.uint8)
    labels = [run.table(split)["label"].to_numpy() for split in ("train", "test")]
    return np.concatenate(labels).astype(np.uint8)


def _marks(run: Run, meta: Meta) -> NDArray[np.uint8]:
    marks = np.zeros(meta.train + meta.test, dtype=np.uint8)
    if run.has("memorization.parquet"):
        marks[: meta.train] |= run.table("memorization")["memorized"].to_numpy().astype(np.uint8) * MEMORIZED
    train = run.table("train")
    if "true_label" in train:
        planted = (train["true_label"] != train["label"]) | (train["copy_of"] >= 0)
        marks[: meta.train] |= planted.to_numpy().astype(np.uint8) * PLANTED
    table = run.table("queries")
    marks[meta.train + table["row"].to_numpy()[table["wrong"].to_numpy()]] |= WRONG
    return marks


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 5)
